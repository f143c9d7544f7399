"""Subcommands made from the list of probes: the fields of a question's settings are the options of its command."""

from __future__ import annotations

import dataclasses
import glob
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, TypeVar

import typer

from vaeprobe.cli import loading, options
from vaeprobe.cli.output import Document, progress_bar
from vaeprobe.cli.running import going_on, not_kept, running
from vaeprobe.probes import asks_decoder, question_class
from vaeprobe.probes.base import Probe, Question, judge
from vaeprobe.probes.settings import option_of
from vaeprobe.processes import current
from vaeprobe.report import MetricSpec, specs_by_id

Q = TypeVar("Q", bound=Question)


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
    document = options.document(without={name for name in options.DOCUMENT if f"--{name}" in taken})
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *subject,
            *(options.parameter(f.name, *options.setting(cls, f)) for f in own if f.name not in cls.HIDDEN),
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
        with running(document, values) as run:
            decoder = run.loaded(lambda: loading.load(model, **loading.chosen(values)))
            result = run.told(probe.measure(decoder))
            result = judge(result, _wanted(cls, values), specs_by_id(cls.METRICS))
        return document.emit(result, probe.outputs())

    return command


def _of_data(cls: type[Question]) -> Callable[..., int]:
    """Return the command of a question that is asked of rows of data, which several processes may share."""

    def command(data: options.DataPaths, **values: object) -> int:
        question = _asked(cls, values)
        document = Document.asked(values)
        inputs = [path for name in data for path in glob.glob(name) or [name]]
        document.ready(question.outputs().values(), inputs=inputs)
        with question.bounds() as kept, progress_bar(document.progress):
            going_on(kept)
            result = judge(question.measure(data), _wanted(cls, values), specs_by_id(cls.METRICS))
            current().meet()
            not_kept(kept)
        return document.emit(result, question.outputs())

    return command


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


def _python_name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _limit_parameter(name: str, spec: MetricSpec) -> inspect.Parameter:
    option = typer.Option(spec.option, help=spec.title, metavar="X", rich_help_panel=options.LIMITS)
    return options.parameter(name, Annotated[float | None, option], None)
