"""Options that several commands share, declared once as types; defaults stay in signatures."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar

import typer

from vaeprobe.errors import UsageError
from vaeprobe.probes.settings import OPEN, field_type, is_list, option_of
from vaeprobe.render import RENDERERS, Renderer

Wrapped = TypeVar("Wrapped", bound=Callable[..., int])
LOADING = "Loading"
OUTPUT = "Output"
LIMITS = "Limits (exit 1 where one fails, 3 where the samples do not decide it)"

if TYPE_CHECKING:
    Format: TypeAlias = str
else:
    Format = Literal[tuple(RENDERERS)]
Color = Literal["auto", "always", "never"]

ModelPath = Annotated[Path, typer.Argument(help="Checkpoint to probe.", show_default=False)]
DataPaths = Annotated[list[str], typer.Argument(help="Data files or globs.", show_default=False)]
Samples = Annotated[int, typer.Option("--samples", "-n", help="Latents, and data rows.", min=8)]
Seed = Annotated[int, typer.Option(help="Seed of every draw.", min=0)]
Arch = Annotated[
    str | None,
    typer.Option(
        help="Build the network with your own code (runs it): package.module:factory.",
        metavar="MODULE:FACTORY",
        rich_help_panel=LOADING,
    ),
]
ArchArgs = Annotated[
    str | None,
    typer.Option(
        "--arch-args",
        help='Arguments for --arch, "latent_dim=10, hidden=[32, 64]" (default: the file\'s hyper-parameters).',
        metavar="ARGS",
        rich_help_panel=LOADING,
    ),
]
WeightsOption = Annotated[
    Literal["ema", "raw"] | None,
    typer.Option(
        "--weights",
        help="Which of two sets of weights, averaged over training or raw (default: the average).",
        rich_help_panel=LOADING,
    ),
]
BlueprintOption = Annotated[
    str | None,
    typer.Option(
        "--blueprint",
        help="Architecture as data: a TOML file, a preset's name, or `draft` for a marked guess.",
        metavar="FILE",
        rich_help_panel=LOADING,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(help="Which entry of the file holds the weights or matrix.", rich_help_panel=LOADING),
]
Submodule = Annotated[
    str | None, typer.Option(help="Which part of a pickled module is the decoder.", rich_help_panel=LOADING)
]
OutputName = Annotated[
    str | None,
    typer.Option(
        "--output-name",
        help="Which output to probe, where the network returns several: its key, or its place from 0.",
        metavar="NAME",
        rich_help_panel=LOADING,
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Unpickle the file with torch, which runs whatever code is in it.",
        rich_help_panel=LOADING,
    ),
]
LatentDim = Annotated[
    int | None,
    typer.Option(help="Number of latents, where the file leaves it open.", min=1, rich_help_panel=LOADING),
]
LatentSize = Annotated[
    str | None,
    typer.Option(
        help="Size of the map of latents of a convolutional decoder, such as 8x8.",
        metavar="SIZE",
        rich_help_panel=LOADING,
    ),
]
ClassAxis = Annotated[
    int | None,
    typer.Option(
        help="Axis of the outputs that runs over the classes of a categorical likelihood, the batch being 0 (default: "
        "that over which they sum to 1, else 1).",
        metavar="AXIS",
        rich_help_panel=LOADING,
    ),
]
ConditionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--condition",
        help="What a conditional decoder is held at, such as label=3; may be given again.",
        metavar="NAME=VALUE",
        rich_help_panel=LOADING,
    ),
]
Device = Annotated[
    str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps, xpu, or auto.", rich_help_panel=LOADING)
]
Dtype = Annotated[
    Literal["float32", "float64"] | None,
    typer.Option(
        help="Precision of the network (default: the checkpoint's, at least float32).",
        rich_help_panel=LOADING,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Same as --format json.", rich_help_panel=OUTPUT)]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format", help="The document on stdout (default: text, or by -o's suffix).", rich_help_panel=OUTPUT
    ),
]
FormatAlone = Annotated[
    Format | None,
    typer.Option("--format", help="The document on stdout (default: text).", rich_help_panel=OUTPUT),
]
OutputFile = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Write the document to a file instead; - is stdout.", rich_help_panel=OUTPUT
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="The verdict, and limits that do not hold.", rich_help_panel=OUTPUT),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="All metrics, tables, pictures and notes.", rich_help_panel=OUTPUT),
]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="No progress bar.", rich_help_panel=OUTPUT)]
ColorOption = Annotated[Color, typer.Option("--color", help="Colour on stdout.", rich_help_panel=OUTPUT)]

# what says how the one document of a command is written: name -> (annotation, default)
DOCUMENT: dict[str, tuple[object, object]] = {
    "json": (Json, False),
    "format": (FormatOption, None),
    "output": (OutputFile, None),
    "quiet": (Quiet, False),
    "verbose": (Verbose, False),
    "no_progress": (NoProgress, False),
    "color": (ColorOption, "auto"),
}


def document(without: Collection[str] = ()) -> dict[str, tuple[object, object]]:
    """Return the options of `DOCUMENT` but some; where its -o is another file's, its suffix says nothing of the format."""
    rows = {name: row for name, row in DOCUMENT.items() if name not in without}
    return rows if "output" in rows else {**rows, "format": (FormatAlone, None)}


def parameter(name: str, annotation: object, default: object) -> inspect.Parameter:
    """Return one option as a parameter of a command."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def setting(cls: type, f: dataclasses.Field[object]) -> tuple[object, object]:
    """Return the annotation and the default of the option that a setting of a question is."""
    said = option_of(f)
    annotation = field_type(cls, f)
    if annotation in OPEN:
        annotation = str | None  # anything richer is text on the command line
    several = is_list(annotation)
    flags = said.names or (f"--{f.name.replace('_', '-')}",)
    option = typer.Option(
        *flags,
        help=said.help or None,
        min=said.min,
        max=said.max,
        metavar=said.metavar,
        rich_help_panel=said.panel,
        show_default=f.default is not None,
    )
    default = None if f.default is dataclasses.MISSING or several else f.default
    return Annotated[list[str] | None if several else annotation, option], default


def taking(
    *tables: Mapping[str, tuple[object, object]], without: Collection[str] = ()
) -> Callable[[Wrapped], Wrapped]:
    """Let a command take the options of tables in its `**values`, but for those that it declares itself.

    Args:
        tables: name -> (annotation, default).
        without: names that it does not take.
    """

    def widened(command: Wrapped) -> Wrapped:
        own = inspect.signature(command, eval_str=True).parameters
        kept = [p for p in own.values() if p.kind is not p.VAR_KEYWORD]
        more = [
            parameter(name, *row)
            for table in tables
            for name, row in table.items()
            if name not in (*own, *without)
        ]
        command.__signature__ = inspect.Signature([*kept, *more])  # type: ignore[attr-defined]
        return command

    return widened


PLAIN = (".txt", ".text", ".log", ".out")


def chosen_format(
    format: str | None, json: bool, file: Path | None = None, known: Mapping[str, Renderer] = RENDERERS
) -> str:
    """Return the format of the document: as asked for, else what the file's suffix says, else the first that there is.

    Args:
        json: whether --json was given.
        known: formats that the command can write, text before others where it can.

    Raises:
        UsageError: the suffix is of no such format, or two formats are asked for.
    """
    if json and format not in (None, "json"):
        raise UsageError(f"--json and --format {format} ask for two documents", hint="leave one of them out")
    if json:
        return "json"
    suffix = "" if file is None else file.suffix.lower()
    by_suffix = {s: name for name, row in known.items() for s in row.suffixes}
    if format is None and suffix not in ("", *(PLAIN if "text" in known else ())) and suffix not in by_suffix:
        names = ", ".join([".txt"] * ("text" in known) + list(by_suffix))
        raise UsageError(
            f"no document of this command ends in `{suffix}`", hint=f"name it {names}, or say --format"
        )
    return format or by_suffix.get(suffix, next(iter(known)))


def conditions(given: list[str] | None) -> dict[str, str]:
    """Return the values of `--condition NAME=VALUE` by name.

    Raises:
        UsageError: one is written otherwise, or a name comes twice.
    """
    out: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"`{text}` is no condition", hint="write it as --condition label=3")
        if name in out:
            raise UsageError(f"condition `{name}` is given twice", hint="a run holds it at one value")
        out[name] = value
    return out
