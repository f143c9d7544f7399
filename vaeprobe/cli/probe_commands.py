"""Subcommands made from the list of probes: the fields of a question's settings are the options of its command."""

from __future__ import annotations

import dataclasses
import glob
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from vaeprobe.budget import about, within
from vaeprobe.cli import loading, options, streams
from vaeprobe.cli.output import Document, going_on, progress_bar
from vaeprobe.findings import TIME_LIMIT
from vaeprobe.kept import keeping
from vaeprobe.probes import asks_decoder, question_class
from vaeprobe.probes.base import Probe, Question, judge
from vaeprobe.probes.settings import OPEN, field_type, is_list, option_of
from vaeprobe.processes import joined, place
from vaeprobe.report import Finding, MetricSpec, specs_by_id
from vaeprobe.result import Result

Q = TypeVar("Q", bound=Question)
R = TypeVar("R", bound=Result)


def probe_command(name: str) -> Callable[..., int]:
    """Return the Typer callback of a question: its signature is read off the question's fields and metrics."""
    cls = question_class(name)
    command = _of_decoder(cls) if asks_decoder(cls) else _of_data(cls)
    subject = [
        p
        for p in inspect.signature(command, eval_str=True).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    tables = [loading.LOADING] if asks_decoder(cls) else []
    own = dataclasses.fields(cls)
    taken = {flag for f in own for flag in option_of(f).names}
    document = {name: row for name, row in options.DOCUMENT.items() if f"--{name}" not in taken}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *subject,
            *(_field_parameter(cls, f) for f in own if f.name not in cls.HIDDEN),
            *(_limit_parameter(name, spec) for name, spec in _limits(cls).items()),
            *(options.parameter(name, *row) for table in (*tables, document) for name, row in table.items()),
        ]
    )
    command.__doc__ = inspect.getdoc(cls)
    command.__name__ = name
    return command


def _of_decoder(cls: type[Probe]) -> Callable[..., int]:
    """Return the command of a probe, which loads a decoder."""

    def command(model: options.ModelPath, **values: object) -> int:
        probe = _asked(cls, values)
        document = Document.asked(values)
        document.ready(probe.outputs().values(), inputs=loading.inputs(model, values))
        probe.check_ready()
        device, start = str(values["device"]), time.monotonic()
        with (
            joined("nccl" if device.startswith("cuda") else "gloo", say=streams.say) as processes,
            within(probe.time),
            keeping(probe.resume) as kept,
            progress_bar(document.progress and processes.rank == 0),
        ):
            if kept is not None and processes.rank == 0:
                going_on(kept)
            decoder = processes.together(lambda: loading.load(model, **loading.chosen(values)))
            loaded = time.monotonic() - start
            result = _timed(probe.measure(decoder), probe.time, time.monotonic() - start, loaded)
            result = judge(result, _wanted(cls, values), specs_by_id(cls.METRICS))
        # the first process speaks for all
        return document.emit(result, _files(probe, result)) if processes.rank == 0 else result.exit_code

    return command


def _of_data(cls: type[Question]) -> Callable[..., int]:
    """Return the command of a question that is asked of rows of data, which several processes may share."""

    def command(data: options.DataPaths, **values: object) -> int:
        question = _asked(cls, values)
        document = Document.asked(values)
        inputs = [path for name in data for path in glob.glob(name) or [name]]
        document.ready(question.outputs().values(), inputs=inputs)
        speaker = place()[0] == 0  # of the processes that torchrun started
        with within(question.time), progress_bar(document.progress and speaker):
            result = judge(question.measure(data), _wanted(cls, values), specs_by_id(cls.METRICS))
        return document.emit(result, _files(question, result)) if speaker else result.exit_code

    return command


def _timed(result: R, allowed: float | None, took: float, loading: float) -> R:
    """Return a result that says where a run took over a tenth more than the time given, and how much of it was loading."""
    if allowed is None or took <= 1.1 * allowed:
        return result
    message = f"the least that can be told took {about(took)}, of which loading {about(loading)}: more than the time given"
    return replace(result, findings=(*result.findings, Finding(TIME_LIMIT, message)))


def _asked(cls: type[Q], values: Mapping[str, object]) -> Q:
    """Return a question with the settings that the command line gives."""
    given = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
    return cls.asked({name: value for name, value in given.items() if value is not None})


def _limits(cls: type[Question]) -> dict[str, MetricSpec]:
    """Return the metrics that have a limit on the command line, by the name of its parameter."""
    return {_python_name(spec.option): spec for spec in cls.METRICS if spec.option}


def _wanted(cls: type[Question], values: Mapping[str, object]) -> dict[str, float]:
    """Return the limits that the command line gives, by metric id."""
    given = {spec.id: values[name] for name, spec in _limits(cls).items()}
    return {id: limit for id, limit in given.items() if isinstance(limit, float)}


def _files(question: Question, result: Result) -> dict[str, Path]:
    """Return the files that are asked for and can be written; a finding says why one cannot."""
    return {name: path for name, path in question.outputs().items() if name in result.files()}


def _python_name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _limit_parameter(name: str, spec: MetricSpec) -> inspect.Parameter:
    option = typer.Option(spec.option, help=spec.title, metavar="X", rich_help_panel=options.LIMITS)
    return options.parameter(name, Annotated[float | None, option], None)


def _field_parameter(cls: type[Question], f: dataclasses.Field[object]) -> inspect.Parameter:
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
    return options.parameter(f.name, Annotated[list[str] | None if several else annotation, option], default)
