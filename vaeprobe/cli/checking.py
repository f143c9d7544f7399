"""Models held against a policy one after the other, several at a time, or over processes, each report kept as it is done."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaeprobe.budget import within
from vaeprobe.cli import carried, loading
from vaeprobe.cli.running import bytes_of
from vaeprobe.errors import ResourceError
from vaeprobe.files import limits
from vaeprobe.gate import journal
from vaeprobe.gate.outcome import ModelReport
from vaeprobe.gate.run import Gate, failure_of
from vaeprobe.kept import goes_on_from, own_file
from vaeprobe.processes import current
from vaeprobe.processors import consider
from vaeprobe.render.text import clean

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder

__all__ = ["Checking", "load"]


@dataclass(frozen=True)
class Checking:
    """What is to be checked, and how.

    Attributes:
        targets: files of models.
        digest: of all that the verdicts depend on beside the models.
        jobs: models at a time.
        fail_fast: whether the first model that does not pass is the last one.
        resume: where finished reports are kept and taken from.
        seconds: that the run may take.
    """

    gate: Gate
    targets: Sequence[str]
    digest: str
    jobs: int
    fail_fast: bool
    resume: Path | None
    seconds: float | None

    def reports(self, *, streaming: bool) -> tuple[ModelReport, ...]:
        """Return the reports in the order of the models; each is written to stdout as it is done, where they are streamed."""
        done: list[ModelReport] = []
        before = carried.found()
        left = None if self.seconds is None else max(0.0, self.seconds - before.seconds)
        with within(left):
            for report in self._as_they_finish(left, before):
                done.append(report)
                if report.model in before.reports:
                    continue
                if streaming:
                    from vaeprobe.gate.formats import jsonl

                    sys.stdout.write(jsonl.model_line(report))
                    sys.stdout.flush()
                carried.keep(report)
        order = {target: k for k, target in enumerate(self.targets)}
        return tuple(sorted(done, key=lambda report: order[report.model]))

    def _as_they_finish(self, left: float | None, before: carried.Carried) -> Iterator[ModelReport]:
        """Yield reports as they finish, those first that the resume file holds, or a worker process before this one did."""
        from vaeprobe.progress import track

        finished = self._finished() | before.reports
        fresh = [target for target in self.targets if target not in finished]
        if self.resume is not None and finished:
            goes_on_from(self.resume)
        several = current().world > 1
        at_once = (current().world if len(fresh) >= current().world else 1) if several else self.jobs
        turns = _Turns(fresh, at_once, None if left is None else time.time() + left)
        one = partial(_check_one, self.gate, self.digest, turns, before.deaths)

        def written(target: str) -> ModelReport:  # as soon as it is finished, by the process that did it
            return self._kept(one(target))

        stream: Iterable[ModelReport]
        if several:
            stream = current().spread(fresh, written, "checking models")
        elif self.jobs == 1 or len(fresh) < 2:
            stream = map(written, fresh)
        else:
            stream = map(self._kept, _parallel(one, fresh, self.jobs))
        reports = itertools.chain(finished.values(), stream)
        for report in track(reports, "checking models", len(self.targets)):
            yield report
            if self.fail_fast and report.exit_code != 0:
                return

    def _finished(self) -> dict[str, ModelReport]:
        """Return the reports of the resume file that still stand."""
        kept = {} if self.resume is None else journal.read(self.resume)
        return {t: kept[t] for t in self.targets if t in kept and journal.stands(kept[t], self.digest)}

    def _kept(self, report: ModelReport) -> ModelReport:
        """Return a report that is kept in the resume file, where there is one."""
        if self.resume is not None:
            journal.append(own_file(self.resume), report)
            goes_on_from(self.resume)
        return report


def load(gate: Gate, model: str) -> Decoder:
    """Return the decoder of a model, loaded as the command line says, else as the policy does."""
    options: dict[str, Any] = gate.loading_for(model)
    return loading.load(Path(model), **options)


@dataclass(frozen=True)
class _Turns:
    """Whose turn it is: what one model saves of its share of the time, the next ones have.

    Attributes:
        models: in turn.
        at_once: how many of them.
        end: of the run, on the clock of the day, which worker processes share.
    """

    models: Sequence[str]
    at_once: int
    end: float | None

    @property
    def left(self) -> float | None:
        """Seconds that are left."""
        return None if self.end is None else max(0.0, self.end - time.time())

    def share(self, model: str) -> float:
        """Return which part of the time that is left a model may take."""
        return 1 / math.ceil((len(self.models) - self.models.index(model)) / self.at_once)


def _check_one(
    gate: Gate,
    digest: str,
    turns: _Turns,
    deaths: Mapping[str, ModelReport],
    model: str,
) -> ModelReport:
    if model in deaths:
        return deaths[model]
    carried.begin(model)
    limits.note_reading(f"`{clean(model)}`")

    def loaded(path: str) -> Decoder:
        return current().together(lambda: load(gate, path), by=bytes_of)

    with within(turns.left):
        report = gate.check(model, loaded, share=turns.share(model))
    sha256 = report.artifact.sha256 if report.artifact else ""
    return replace(report, inputs_sha256=journal.inputs(digest, model, sha256))


def _parallel(one: partial[ModelReport], targets: Sequence[str], jobs: int) -> Iterator[ModelReport]:
    # who cleans up after an interrupted run would say so
    quiet = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), quiet)))
    left = list(targets)
    with contextlib.suppress(BrokenProcessPool):
        for report in _pooled(one, targets, jobs):
            left.remove(report.model)
            yield report
    for target in left:  # one of them ended its process, and all others with it
        try:
            yield from _pooled(one, [target], 1)
        except BrokenProcessPool:
            died = ResourceError(
                "the process that checked it was killed: for want of memory, or the file made native code crash",
                hint=f"`vaeprobe check {clean(target)}` with the same rules says which",
            )
            yield ModelReport(model=target, failure=failure_of(died))


def _pooled(one: partial[ModelReport], targets: Sequence[str], jobs: int) -> Iterator[ModelReport]:
    # spawned, not forked: torch's threads do not survive a fork
    pool = ProcessPoolExecutor(
        max_workers=min(jobs, len(targets)), mp_context=get_context("spawn"), initializer=consider
    )
    try:
        with _deaf_from_birth():
            futures = [pool.submit(one, target) for target in targets]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _deaf_from_birth() -> Iterator[None]:
    """Have the processes that are started inside the block hear no interrupt from the terminal: who ends the run ends them.

    Each would end with a traceback, also before it has run anything of ours.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
