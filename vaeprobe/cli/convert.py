"""`vaeprobe convert`: out of pickle, into a file that says everything by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaeprobe import writing
from vaeprobe.cli import loading, options, output
from vaeprobe.cli.output import Document
from vaeprobe.errors import UsageError


# its one file is the model, and it computes on a processor
@options.taking(
    loading.LOADING, options.document(without=("output", "verbose", "no_progress")), without=("device",)
)
def convert(
    model: Annotated[Path, typer.Argument(help="Checkpoint to convert.", show_default=False)],
    *,
    to: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File to write: *.safetensors (with a blueprint) or *.pt2.",
            show_default=False,
        ),
    ],
    sidecar: Annotated[
        bool, typer.Option("--sidecar", help="Write the blueprint beside the file (OUT.toml), not into it.")
    ] = False,
    **values: object,
) -> int:
    """Write a decoder as safetensors with its blueprint, or as .pt2, and check that it computes the same.

    The written file needs no option, no code and no pickle to be loaded again: it is the form for CI.

    Examples:
        vaeprobe convert model.pt -o model.safetensors
        vaeprobe convert model.pt --arch models:decoder -o model.pt2
    """
    from vaeprobe.checkpoints.conversion import SUFFIXES, Conversion, sidecar_of
    from vaeprobe.checkpoints.conversion import convert as write

    document = Document.asked(values)
    if to.suffix not in SUFFIXES:
        raise UsageError(f"cannot write `{to}`", hint=f"name the output *{SUFFIXES[0]} or *{SUFFIXES[1]}")
    if sidecar and to.suffix == ".pt2":
        raise UsageError(
            "a .pt2 file carries its own program and takes no sidecar", hint="leave out --sidecar"
        )
    beside = sidecar_of(to) if sidecar else None
    document.ready([to, beside], inputs=loading.inputs(model, values))
    decoder = loading.load(model, **loading.chosen(values))
    made: list[Conversion] = []

    def writer(place: Path) -> None:
        try:
            made.append(write(decoder, place, sidecar=sidecar))
        finally:
            sidecar_of(place).unlink(missing_ok=True)

    writing.write(to, writer)
    output.wrote(to, document.quiet)
    result = made[0].renamed(to)
    if beside is not None:
        output.write_text(beside, result.blueprint, document.quiet)
    return document.emit(result)
