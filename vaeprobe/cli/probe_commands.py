"""Subcommands made from the list of probes: the fields of a question's settings are the options of its command."""

from __future__ import annotations

import dataclasses
import glob
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from vaeprobe.cli import options, output
from vaeprobe.probes import asks_decoder, question_class
from vaeprobe.probes.base import Probe, Question, judge
from vaeprobe.probes.settings import field_type, is_list
from vaeprobe.report import MetricSpec, specs_by_id
from vaeprobe.result import Result

Q = TypeVar("Q", bound=Question)

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
    """Return the Typer callback of a question: its signature is read off the question's fields and metrics."""
    cls = question_class(name)
    command = _of_decoder(cls) if asks_decoder(cls) else _of_data(cls)
    subject = [
        p
        for p in inspect.signature(command, eval_str=True).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    loading = LOADING if asks_decoder(cls) else {}
    own = dataclasses.fields(cls)
    taken = {flag for f in own for flag in f.metadata["option"]["names"]}
    document = {name: row for name, row in DOCUMENT.items() if f"--{name}" not in taken}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *subject,
            *(_field_parameter(cls, f) for f in own if f.name not in cls.HIDDEN),
            *(_limit_parameter(name, spec) for name, spec in _limits(cls).items()),
            *(_parameter(name, *row) for name, row in {**loading, **document}.items()),
        ]
    )
    command.__doc__ = inspect.getdoc(cls)
    command.__name__ = name
    return command


def _of_decoder(cls: type[Probe]) -> Callable[..., int]:
    """Return the command of a probe, which loads a decoder."""

    def command(model: options.ModelPath, **values: Any) -> int:
        probe = _asked(cls, values)
        format = options.chosen_format(values["format"], values["json"], values["output"])
        output.ready(values["output"], probe.outputs().values(), inputs=_inputs(model, values))
        probe.check_ready()
        with output.progress_bar(not values["no_progress"]):
            decoder = load(model, **{k: values[k] for k in LOADING})
            result = judge(probe.measure(decoder), _wanted(cls, values), specs_by_id(cls.METRICS))
        return _emit(probe, result, format, values)

    return command


def _of_data(cls: type[Question]) -> Callable[..., int]:
    """Return the command of a question that is asked of rows of data, which several processes may share."""

    def command(data: options.DataPaths, **values: Any) -> int:
        question = _asked(cls, values)
        format = options.chosen_format(values["format"], values["json"], values.get("output"))
        inputs = [path for name in data for path in glob.glob(name) or [name]]
        output.ready(values.get("output"), question.outputs().values(), inputs=inputs)
        speaker = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
        with output.progress_bar(speaker and not values["no_progress"]):
            result = judge(question.measure(data), _wanted(cls, values), specs_by_id(cls.METRICS))
        return _emit(question, result, format, values) if speaker else result.exit_code

    return command


def _asked(cls: type[Q], values: Mapping[str, Any]) -> Q:
    """Return a question with the settings that the command line gives."""
    given = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
    return cls(**{name: value for name, value in given.items() if value is not None})


def _limits(cls: type[Question]) -> dict[str, MetricSpec]:
    """Return the metrics that have a limit on the command line, by the name of its parameter."""
    return {_python_name(spec.option): spec for spec in cls.METRICS if spec.option}


def _wanted(cls: type[Question], values: Mapping[str, Any]) -> dict[str, float]:
    """Return the limits that the command line gives, by metric id."""
    return {spec.id: values[name] for name, spec in _limits(cls).items() if values[name] is not None}


def _emit(question: Question, result: Result, format: str, values: Mapping[str, Any]) -> int:
    writers = result.files()
    return output.emit(
        result,
        format=format,
        output=values.get("output"),
        quiet=values["quiet"],
        verbose=values["verbose"],
        color=values["color"],
        files={name: path for name, path in question.outputs().items() if name in writers},
    )


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


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _limit_parameter(name: str, spec: MetricSpec) -> inspect.Parameter:
    option = typer.Option(spec.option, help=spec.title, metavar="X", rich_help_panel=options.LIMITS)
    return _parameter(name, Annotated[float | None, option], None)


def _field_parameter(cls: type[Question], f: dataclasses.Field[Any]) -> inspect.Parameter:
    meta: Mapping[str, Any] = f.metadata.get("option", {})
    annotation = field_type(cls, f)
    if annotation is Any:
        annotation = str | None  # anything richer is text on the command line
    several = is_list(annotation)
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
    default = None if f.default is dataclasses.MISSING or several else f.default
    return _parameter(f.name, Annotated[list[str] | None if several else annotation, option], default)
