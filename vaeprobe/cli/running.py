"""Long work of a command: within its time, kept in a file, and told on the way."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from vaeprobe.budget import about, within
from vaeprobe.cli import options, streams
from vaeprobe.cli.output import Document, progress_bar
from vaeprobe.findings import TIME_LIMIT
from vaeprobe.kept import Kept, keeping
from vaeprobe.probes.base import Question
from vaeprobe.processes import current
from vaeprobe.report import Finding
from vaeprobe.result import Result

T = TypeVar("T")
R = TypeVar("R", bound=Result)
# what bounds the long work of any question, and lets it go on: options of the commands that are none, too
BUDGET = {f.name: options.setting(Question, f) for f in fields(Question)}


@dataclass
class Running:
    """A command at work.

    Attributes:
        seconds: that it may take; None for no end.
    """

    seconds: float | None
    _start: float = field(default_factory=time.monotonic)
    _loading: float = 0.0

    def loaded(self, load: Callable[[], T]) -> T:
        """Return what is loaded, in all processes or in none.

        Raises:
            InputError: processes that share the run read different files.
        """
        found = current().together(load, by=bytes_of)
        self._loading = time.monotonic() - self._start
        return found

    def told(self, result: R) -> R:
        """Return a result that says where the run took over its time."""
        return timed(result, self.seconds, time.monotonic() - self._start, self._loading)


def bytes_of(loaded: object) -> str:
    """Return the hashes of the files that decoders came from."""
    decoders = loaded if isinstance(loaded, list) else [loaded]
    artifacts = [getattr(decoder, "artifact", None) for decoder in decoders]
    return " ".join(artifact.sha256 for artifact in artifacts if artifact is not None)


def _prepare_torch() -> None:
    """Import torch and keep it out of what is searched for garbage, a tenth of its import; keep freed tensors at hand."""
    gc.disable()
    try:
        from vaeprobe.autograd import keep_large_memory
    finally:
        gc.freeze()
        gc.enable()
    keep_large_memory()  # the process is ours


@contextmanager
def running(document: Document, values: Mapping[str, Any]) -> Iterator[Running]:
    """Do the long work of a command on models inside the block.

    Args:
        document: that it writes.
        values: the command's options: `time`, loading included, and `resume`.
    """
    with within(values["time"]), keeping(values["resume"]) as kept, progress_bar(document.progress):
        going_on(kept)
        work = Running(values["time"])
        _prepare_torch()
        yield work
        current().meet()
        not_kept(kept)


def going_on(kept: Kept | None) -> None:
    """Say what a run finds in the file that it keeps what it measures in, and what it cannot read of it."""
    if kept is None:
        return
    if kept.seconds:
        streams.say(
            f"going on from {kept.path}, which holds {about(kept.seconds)} of work, of this run or others"
        )
    for file, byte in kept.broken.items():
        streams.say(
            f"{file} cannot be read from byte {byte:,} on, as where a run was killed while it wrote: what is kept nowhere "
            "else is measured again"
        )


def not_kept(kept: Kept | None) -> None:
    """Say where a run could not keep what it measured: its answer needs no file."""
    if kept is not None and kept.failed is not None:
        streams.say(f"{kept.path} does not hold all of this run: {kept.failed}")


def timed(result: R, allowed: float | None, took: float, loading: float) -> R:
    """Return a result that says where a run took over a tenth more than the time given, and how much of it was loading."""
    if allowed is None or took <= 1.1 * allowed:
        return result
    message = f"the least that can be told took {about(took)}, of which loading {about(loading)}: more than the time given"
    return replace(result, findings=(*result.findings, Finding(TIME_LIMIT, message)))
