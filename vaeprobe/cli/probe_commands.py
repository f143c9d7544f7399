"""Subcommands made from probes: the fields of a probe's settings are the options of its command."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vaeprobe.cli import options, output
from vaeprobe.probes import probe_class
from vaeprobe.probes.base import Probe, judge
from vaeprobe.probes.settings import field_type
from vaeprobe.report import specs_by_id

KEYWORD = inspect.Parameter.KEYWORD_ONLY

LOADING: dict[str, tuple[Any, Any]] = {
    "blueprint": (options.BlueprintOption, None),
    "arch": (options.Arch, None),
    "arch_args": (options.ArchArgs, None),
    "key": (options.Key, None),
    "submodule": (options.Submodule, None),
    "weights": (options.WeightsOption, None),
    "output_name": (options.OutputName, None),
    "allow_code": (options.AllowCode, False),
    "latent_dim": (options.LatentDim, None),
    "latent_size": (options.LatentSize, None),
    "condition": (options.ConditionOption, None),
    "device": (options.Device, "cpu"),
    "dtype": (options.Dtype, None),
}
DOCUMENT: dict[str, tuple[Any, Any]] = {
    "json": (options.Json, False),
    "format": (options.FormatOption, None),
    "output": (options.OutputFile, None),
    "quiet": (options.Quiet, False),
    "verbose": (options.Verbose, False),
    "no_progress": (options.NoProgress, False),
    "color": (options.ColorOption, "auto"),
}


def probe_command(name: str) -> Callable[..., int]:
    """Return the Typer callback of a probe: its signature is read off the probe's fields and metrics."""
    cls = probe_class(name)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    specs = specs_by_id(cls.METRICS)
    limits = {spec.option: spec for spec in cls.METRICS if spec.option}
    limit_names = {_python_name(flag): spec.id for flag, spec in limits.items()}

    def command(model: Path, **values: Any) -> int:
        settings = {k: v for k, v in values.items() if k in fields}
        wanted = {id: values[k] for k, id in limit_names.items() if values[k] is not None}
        probe = cls(**settings)
        format, out = (
            options.chosen_format(values["format"], values["json"], values["output"]),
            values["output"],
        )
        files = probe.outputs()
        output.ready(out, files.values(), inputs=_inputs(model, values))
        probe.check_ready()
        with output.progress_bar(not values["no_progress"]):
            decoder = load(model, **{k: values[k] for k in LOADING})
            result = judge(probe.measure(decoder), wanted, specs)
        return output.emit(
            result,
            format=format,
            output=out,
            quiet=values["quiet"],
            verbose=values["verbose"],
            color=values["color"],
            files={k: v for k, v in files.items() if k in result.files()},
        )

    parameters = [
        inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=options.ModelPath)
    ]
    parameters += [_field_parameter(cls, f) for f in fields.values() if f.name not in cls.HIDDEN]
    parameters += [
        inspect.Parameter(
            _python_name(flag),
            KEYWORD,
            default=None,
            annotation=Annotated[
                float | None,
                typer.Option(flag, help=spec.title, metavar="X", rich_help_panel=options.LIMITS),
            ],
        )
        for flag, spec in limits.items()
    ]
    for name_, (annotation, default) in {**LOADING, **DOCUMENT}.items():
        parameters.append(inspect.Parameter(name_, KEYWORD, default=default, annotation=annotation))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = inspect.getdoc(cls)
    command.__name__ = name
    return command


def _inputs(model: Path, values: Mapping[str, Any]) -> list[Path]:
    """Return what a command reads, for all that its options say."""
    from vaeprobe.checkpoints.architecture import path_beside

    named = [values.get(name) for name in ("data", "latents", "blueprint")]
    beside = path_beside(model)
    return [model, *([beside] if beside else []), *(Path(name) for name in named if isinstance(name, str))]


def load(
    path: Path,
    *,
    device: str = "cpu",
    output_name: str | None = None,
    condition: list[str] | None = None,
    **settings: Any,
) -> Any:
    """Load a decoder for a command (see `vaeprobe.load`)."""
    from vaeprobe.checkpoints import loading

    if str(Path.cwd()) not in sys.path and settings.get("arch"):
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: the user's own factory
    return loading.load(
        path,
        device=options.existing_device(device),
        output=output_name,
        condition=options.conditions(condition),
        **settings,
    )


def _python_name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _field_parameter(cls: type[Probe], f: dataclasses.Field[Any]) -> inspect.Parameter:
    meta: Mapping[str, Any] = f.metadata.get("option", {})
    annotation = field_type(cls, f)
    if annotation is Any:
        annotation = str | None  # anything richer is text on the command line
    flags = list(meta.get("names") or [f"--{f.name.replace('_', '-')}"])
    option = typer.Option(
        *flags,
        help=meta.get("help"),
        min=meta.get("min"),
        max=meta.get("max"),
        metavar=meta.get("metavar"),
        rich_help_panel=meta.get("panel"),
        show_default=f.default is not None,
    )
    default = None if f.default is dataclasses.MISSING else f.default
    return inspect.Parameter(f.name, KEYWORD, default=default, annotation=Annotated[annotation, option])
