"""Streams: one document on stdout or in a file, everything else on stderr."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vaeprobe.errors import UsageError, VaeprobeError
from vaeprobe.progress import listening
from vaeprobe.report import Page
from vaeprobe.result import Result


def emit(
    result: Result,
    *,
    format: str = "text",
    output: Path | None = None,
    quiet: bool = False,
    color: str = "auto",
    files: dict[str, Path] | None = None,
) -> int:
    """Write a result's files, then its document, and return the exit code.

    Args:
        files: where to write each file that `result.files()` offers, by name.
    """
    writers = result.files()
    for name, path in (files or {}).items():
        write_atomically(path, writers[name])
    if output is None and format == "text":
        from vaeprobe.render import terminal

        console = terminal.console(sys.stdout, color)
        page = result.page()
        console.print(terminal.headline(page) if quiet else terminal.view(page))
    else:
        text = document(result.page(), format, quiet)
        if output is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            write_text(output, text)
    return result.exit_code


def document(page: Page, format: str, quiet: bool = False) -> str:
    """Return a result's page as text in one of the formats of `--format`."""
    match format:
        case "json":
            from vaeprobe.render import json_document

            return json_document.render(page)
        case "markdown":
            from vaeprobe.render import markdown

            return markdown.render(page)
        case "html":
            from vaeprobe.render import html

            return html.render(page)
        case "text":
            from vaeprobe.render import terminal

            return terminal.plain(page, quiet)
    raise UsageError(f"no format is called `{format}`")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, whole or not at all (see `write_atomically`)."""

    def writer(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, writer)


def write_atomically(path: Path, writer: Callable[[Path], None]) -> None:
    """Write a file so that a reader sees the old one or the whole new one, never a part.

    Args:
        writer: writes to the path it is given, which has the same suffix.

    Raises:
        UsageError: the folder is missing or cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        os.chmod(name, 0o666 & ~_umask())
    except OSError as error:
        raise UsageError(
            f"cannot write `{path}`: {error.strerror}", hint="choose a folder that exists and is yours"
        ) from None
    try:
        writer(Path(name))
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UsageError(f"cannot write `{path}`: {error.strerror}") from None
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def as_usage_error(error: Exception) -> UsageError | None:
    """Return the usage error that Typer's parser raised, as one of ours, or None for another exception."""
    from typer._click.exceptions import ClickException

    if not isinstance(error, ClickException):
        return None
    command = getattr(getattr(error, "ctx", None), "command_path", "vaeprobe")
    message = " ".join(error.format_message().split())
    return UsageError(
        message[:1].lower() + message[1:].rstrip("."), hint=f"`{command} --help` lists the options"
    )


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a JSON document, even one that could not be parsed."""
    return (
        "--json" in arguments
        or any(a in ("--format=json", "--format=jsonl") for a in arguments)
        or any(a == "--format" and b in ("json", "jsonl") for a, b in itertools.pairwise(arguments))
    )


def error(error: VaeprobeError, arguments: Sequence[str]) -> None:
    """Say an error on stderr in one line and a hint, and as JSON on stdout where JSON was asked for."""
    from vaeprobe.render.text import clean

    try:
        if wants_json(arguments):
            from vaeprobe.render import json_document

            lines = "--format=jsonl" in arguments or "jsonl" in arguments
            sys.stdout.write(json_document.of_error(error, indent=None if lines else 2))
        print(f"error: {clean(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"hint: {clean(error.hint)}", file=sys.stderr)
    except BrokenPipeError:
        pass


@contextmanager
def progress_bar(enabled: bool = True) -> Iterator[None]:
    """Draw progress on stderr where it is a terminal; nothing for work that ends within a second."""
    if not enabled or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True),
        transient=True,
    )
    tasks: dict[str, Any] = {}

    def listener(description: str, done: float, total: float | None) -> None:
        name = description.partition(",")[0]  # what follows a comma may change, as in "training, gap 1e-3"
        if name not in tasks:
            tasks[name] = bar.add_task(description, total=total)
        visible = total is None or done < total
        bar.update(tasks[name], description=description, completed=done, total=total, visible=visible)

    with bar, listening(listener):
        yield
