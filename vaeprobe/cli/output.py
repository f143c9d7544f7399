"""Streams: one document on stdout or in a file, everything else on stderr."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, TextIO, cast

from vaeprobe import writing
from vaeprobe.budget import about, budget
from vaeprobe.cli import options, streams
from vaeprobe.cli.refusals import fitting
from vaeprobe.errors import UsageError, VaeprobeError
from vaeprobe.files.source import quoted
from vaeprobe.findings import TIME_LIMIT
from vaeprobe.progress import listening
from vaeprobe.render import RENDERERS, Renderer
from vaeprobe.report import Page
from vaeprobe.result import Result


def ready(
    document: Path | None = None,
    files: Iterable[Path | None] = (),
    inputs: Iterable[str | PathLike[str] | None] = (),
) -> None:
    """Refuse outputs that cannot be written, before the work.

    Args:
        document: where the document goes; None for stdout.
        files: what else will be written; None is passed over.
        inputs: what is read; names that are no files (of presets, say) and None are passed over.

    Raises:
        UsageError: a place cannot be written or is an input, or stdout is closed.
    """
    if document is None:
        streams.check_stdout()
    wanted = [path for path in (document, *files) if path is not None]
    writing.ready(wanted, [path for path in inputs if path is not None])


class NotWrittenError(UsageError):
    """A file of a result could not be written; its document is on stdout."""


def emit(
    result: Result,
    *,
    format: str = "text",
    output: Path | None = None,
    quiet: bool = False,
    verbose: bool = False,
    color: str = "auto",
    files: Mapping[str, Path] | None = None,
) -> int:
    """Write a result's files, then its document, and return the exit code.

    Where a file cannot be written any more (the disk is full, its folder is gone), the document goes to stdout: what was
    computed is not lost.

    Args:
        files: where to write each file that was asked for, by name; why one cannot be is said on stderr, with `quiet` too,
            for nothing else would.

    Raises:
        NotWrittenError: a file could not be written.
    """
    writers, failed = result.files(), list[UsageError]()
    for name, path in (files or {}).items():
        if name not in writers:
            if why := result.unwritten().get(name):
                streams.say(f"warning: {quoted(str(path))} was not written: {why}")
            continue
        try:
            writers[name](path)
            wrote(path, quiet)
        except UsageError as error:
            failed.append(error)
    if output is not None:
        try:
            write_text(output, document(result.page(), format, quiet, verbose), quiet)
            tell_limits(result, quiet)
        except UsageError as error:
            failed.append(error)
    if output is not None and not failed:
        return result.exit_code
    page = result.page()
    if failed:
        page = replace(page, exit_code=failed[0].exit_code)
    if format == "text":
        from vaeprobe.render import terminal

        console = terminal.console(sys.stdout, color)
        console.print(terminal.short(page) if quiet else terminal.view(page, verbose))
    else:
        sys.stdout.write(document(page, format, quiet, verbose))
        sys.stdout.flush()
    if failed:
        raise NotWrittenError(failed[0].message, hint=failed[0].hint)
    return result.exit_code


def deliver(
    text: Callable[[int | None], str], place: Path | None, quiet: bool, failed: Sequence[UsageError] = ()
) -> None:
    """Write a document to its file, or to stdout: also where that file cannot be written any more.

    Args:
        text: returns the document; takes the exit code of a run that could not write a file, None where it could.
        place: where the document goes; None for stdout.
        failed: why other files could not be written.

    Raises:
        NotWrittenError: a file could not be written.
    """
    errors = [*failed]

    def made() -> str:
        return text(errors[0].exit_code if errors else None)

    if place is not None:
        try:
            write_text(place, made(), quiet)
        except UsageError as error:
            errors.append(error)
            place = None
    if place is None:
        sys.stdout.write(made())
        sys.stdout.flush()
    if errors:
        raise NotWrittenError(errors[0].message, hint=errors[0].hint)


@dataclass(frozen=True, kw_only=True)
class Document:
    """The one document that a command writes: its format and place, and how much it says."""

    format: str
    place: Path | None
    quiet: bool
    verbose: bool
    color: str
    progress: bool

    @classmethod
    def asked(cls, values: Mapping[str, Any], known: Mapping[str, Renderer] = RENDERERS) -> Document:
        """Return what the options of `options.DOCUMENT` ask for; `-o -` is stdout.

        Args:
            values: the command's, by name; those that it does not take have their defaults.
            known: formats that the command can write.

        Raises:
            UsageError: two formats are asked for, or a suffix is of none.
        """
        place = values.get("output")
        place = None if place == writing.STDOUT else place
        return cls(
            format=options.chosen_format(values.get("format"), values.get("json", False), place, known),
            place=place,
            quiet=values.get("quiet", False),
            verbose=values.get("verbose", False),
            color=values.get("color", "auto"),
            progress=not (values.get("no_progress", False) or values.get("quiet", False)),
        )

    def ready(
        self,
        files: Iterable[Path | None] = (),
        inputs: Iterable[str | PathLike[str] | None] = (),
    ) -> None:
        """Refuse outputs that cannot be written, before the work (see `ready`)."""
        ready(self.place, files, inputs)

    def emit(self, result: Result, files: Mapping[str, Path] | None = None) -> int:
        """Write a result's files, then its document, and return the exit code (see `emit`)."""
        return emit(
            result,
            format=self.format,
            output=self.place,
            quiet=self.quiet,
            verbose=self.verbose,
            color=self.color,
            files=files,
        )


def tell_limits(result: Result, quiet: bool) -> None:
    """Say on stderr what time cut short, where the document is a file; not with --quiet."""
    for finding in result.findings:
        if finding.spec is TIME_LIMIT and not quiet:
            streams.say(f"warning: {finding.message}")


def write_text(path: Path, text: str, quiet: bool = False) -> None:
    """Write a UTF-8 file, whole or not at all, and say so."""
    writing.write_text(path, text)
    wrote(path, quiet)


def wrote(path: Path, quiet: bool = False) -> None:
    """Say on stderr that a file was written; not of devices and pipes, nor with --quiet."""
    from vaeprobe.render.text import clean

    if not quiet and path.is_file():
        streams.say(f"wrote {clean(path)}")


def document(page: Page, format: str, quiet: bool = False, verbose: bool = False) -> str:
    """Return a result's page as text in one of the formats of `--format`."""
    if format == "text":
        from vaeprobe.render import terminal

        return terminal.plain(page, quiet, verbose=verbose)
    from vaeprobe.render import renderer

    return renderer(format)(page)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a JSON document, even one that could not be parsed."""
    return (
        "--json" in arguments
        or any(a in ("--format=json", "--format=jsonl") for a in arguments)
        or any(a == "--format" and b in ("json", "jsonl") for a, b in itertools.pairwise(arguments))
    )


def error(error: VaeprobeError, arguments: Sequence[str], known: Sequence[str] = ()) -> None:
    """Say an error on stderr in one line and a hint, and as JSON on stdout where JSON was asked for.

    Args:
        known: options of the command: a hint names no others.
    """
    hint = fitting(error.hint, known)
    from vaeprobe.render.text import clean

    if wants_json(arguments):
        from vaeprobe.render import json_document

        lines = "--format=jsonl" in arguments or "jsonl" in arguments
        with suppress(UsageError):  # stdout itself may be what is wrong
            sys.stdout.write(json_document.of_error(error, indent=None if lines else 2))
            sys.stdout.flush()
    streams.say(f"error: {clean(error.message)}")
    if hint:
        streams.say(f"hint: {clean(hint)}")


class Forecast:
    """Say how long a piece of work will take, once, as soon as its pace shows that it is long.

    Args:
        say: prints a line.
    """

    # seconds of work before its pace is believed; seconds to come that are worth a line
    LOOK, LONG = 2.0, 20.0

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.begun: dict[str, tuple[float, float]] = {}
        self.said: set[str] = set()
        self.until = 0.0

    def foretell(self, what: str, seconds: float, bytes: float, least: float = 0.0) -> None:
        """Say what work will take before it begins, where that is worth a line: it is long, or the time given too short."""
        left = budget().left
        if seconds < self.LONG and least <= left:
            return
        # half as much again is still as foretold
        self.until = time.monotonic() + 1.5 * seconds
        end = about(seconds)
        if left < 1 or least > left:
            end = f"{end}, the least of it {about(least)}" if least else end
            done = "no more than the least is" if least > left else "what fits is"
            end = f"{end}, and {f'{about(left)} are' if left >= 1 else 'no time is'} left: {done} done"
        elif left < seconds:
            end = f"{about(left)} of the {end} that it would take"
        self.say(
            f"{what}: {end}{_memory(bytes)}" + ("" if budget().bounded else "; --time SECONDS bounds a run")
        )

    def __call__(self, description: str, done: float, total: float | None) -> None:
        name, now = description.partition(",")[0], time.monotonic()
        start, before = self.begun.setdefault(name, (now, done))
        if done < before or (total is not None and done >= total):
            self.begun.pop(name)  # the next of its kind begins anew
            return
        if name in self.said or total is None or now - start < self.LOOK or done <= before:
            return
        to_come = (now - start) / (done - before) * (total - done)
        if to_come < self.LONG or now + to_come <= self.until:
            return
        self.said.add(name)
        end = "until --time is over" if budget().left < to_come else f"{about(to_come)} more"
        self.say(f"{name}: {end}{_memory()}" + ("" if budget().bounded else "; --time SECONDS bounds a run"))


def _memory(more: float = 0.0) -> str:
    """Return how much memory this process took so far, and some more, as words to follow others; nothing where nobody knows.

    Nobody does where others work for it.
    """
    if sys.platform == "win32":
        return ""
    import resource
    from multiprocessing import active_children

    if active_children():
        return ""

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f", {(peak + more) / 1e9:.1f} GB of memory"


BESIDE = 28
"""Columns of a bar, a count and a time, which stay whole where the description does not fit beside them."""


@contextmanager
def progress_bar(enabled: bool = True) -> Iterator[None]:
    """Draw progress on stderr where it is a terminal, and say once how long work will take that takes long."""
    if not enabled:
        yield
        return
    if not sys.stderr.isatty():
        forecast = Forecast(streams.say)
        with listening(forecast, forecast.foretell):
            yield
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskID,
        TextColumn,
    )
    from rich.text import Text

    class Left(ProgressColumn):
        """Time that a task will take still, at the pace of all that was done: it falls while a long step is under way."""

        def render(self, task: Task) -> Text:
            spent, since = task.elapsed or 0.0, task.fields["since"]
            if task.total is None or not task.completed:
                return Text("-:--", style="progress.remaining")
            seconds = max(0.0, since / task.completed * task.total - spent)
            minutes, rest = divmod(round(seconds), 60)
            return Text(f"{minutes}:{rest:02d}", style="progress.remaining")

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        Left(),
        console=Console(file=cast(TextIO, streams.Lost(sys.stderr))),
        transient=True,
    )
    tasks: dict[str, TaskID] = {}
    forecast = Forecast(lambda line: bar.console.print(line, markup=False, highlight=False))

    def listener(description: str, done: float, total: float | None) -> None:
        forecast(description, done, total)
        name = description.partition(",")[0]  # what follows a comma may change, as in "training, gap 1e-3"
        room = max(8, bar.console.width - BESIDE)
        shown = description if len(description) <= room else f"{description[: room - 1]}…"
        if name not in tasks:
            tasks[name] = bar.add_task(shown, total=total, since=0.0)
        visible = total is None or done < total
        task = bar.tasks[bar.task_ids.index(tasks[name])]
        if done < task.completed:  # the next of its kind
            bar.reset(tasks[name])
        # how long what is done took: until now where more is done than before
        since = task.fields["since"] if done == task.completed else task.elapsed or 0.0
        bar.update(tasks[name], description=shown, completed=done, total=total, visible=visible, since=since)

    with bar, streams.drawn(bar.stop), listening(listener, forecast.foretell):
        yield
