"""How long a run may take: one budget, which the loops that grow samples ask.

Without one nothing asks the clock, so that numbers never depend on it.  With one, what does not fit is left out and
said: samples are shorter, and their intervals wider.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from vaeprobe.kept import saved
from vaeprobe.processes import current as processes

NO_TIME = "no time was left for it"
FIRST = 8  # rows that are measured before the clock is asked


class TimeIsOver(Exception):
    """No time is left for work that can stop anywhere: whoever can keep what is done catches it."""


@dataclass(frozen=True)
class Budget:
    """A time by which a run is to end.

    Attributes:
        seconds: how long it may take, infinite where nobody said.
        deadline: when it ends, on `time.monotonic`.
    """

    seconds: float = math.inf
    deadline: float = math.inf

    @property
    def bounded(self) -> bool:
        """Whether there is an end at all: work in one piece where there is none."""
        return math.isfinite(self.deadline)

    @property
    def left(self) -> float:
        """Seconds that are left, never negative."""
        return max(0.0, self.deadline - time.monotonic())

    def affords(self, seconds: float) -> bool:
        """Whether so many seconds are left; the first process's clock decides for all."""
        return not self.bounded or processes().agreed(float(self.left >= seconds)) > 0

    @property
    def over(self) -> bool:
        """Whether no time is left; the first process's clock decides for all."""
        return self.bounded and processes().agreed(self.left) <= 0

    def ask(self) -> None:
        """Ask whether any time is left.

        Raises:
            TimeIsOver: none is.
        """
        if self.over:
            raise TimeIsOver


UNBOUNDED = Budget()
_current: ContextVar[Budget] = ContextVar("vaeprobe_budget", default=UNBOUNDED)


def budget() -> Budget:
    """Return the budget of this run."""
    return _current.get()


@contextmanager
def within(seconds: float | None) -> Iterator[Budget]:
    """Give what happens inside the block so many seconds, and no more than is left outside; None leaves it as it is."""
    outer = budget()
    inner = outer if seconds is None else Budget(seconds, time.monotonic() + seconds)
    token = _current.set(inner if inner.deadline < outer.deadline else outer)
    try:
        yield budget()
    finally:
        _current.reset(token)


@contextmanager
def share_of(part: float) -> Iterator[Budget]:
    """Give what happens inside the block this part of the time that is left."""
    with within(part * budget().left if budget().bounded else None) as share:
        yield share


@dataclass(frozen=True)
class Fit:
    """How much of some work fitted into its time.

    Attributes:
        done: rows that were measured.
        wanted: rows that were asked for.
        seconds: what all of them would take at the pace of those that were done.
    """

    done: int
    wanted: int
    seconds: float

    @property
    def whole(self) -> bool:
        return self.done == self.wanted

    def words(self, what: str) -> str:
        """Return what fitted and what the rest would cost, as one would say it."""
        return f"{self.done} of {self.wanted} {what} fitted into their part of the time given; all would take {about(self.seconds)}"


def in_time(rows: int, work: Callable[[slice], None], *, share: float = 0.5, first: int = FIRST) -> Fit:
    """Do `work` on rows in order, all at once without a budget, else in growing pieces while there is time.

    Args:
        rows: how many there are.
        work: takes a slice of them.
        share: of the time that is left, what this may take.
        first: so many are always done.
    """
    if not budget().bounded:
        work(slice(0, rows))
        return Fit(rows, rows, 0.0)
    start, allowed, before = time.monotonic(), share * budget().left, saved()
    done, piece = 0, first
    while True:
        stop = min(rows, done + piece)
        work(slice(done, stop))
        done, spent = stop, time.monotonic() - start
        pace = (spent + saved() - before) / max(done, 1)
        # what an earlier run left counts with the time that it took: the next piece takes its own
        # twice as many as before, and no more than half of what is thought to fit: the pace is an estimate
        fits = processes().agreed((allowed - spent) / max(pace, 1e-9))
        if done == rows or fits < 1:
            return Fit(done, rows, pace * rows)
        piece = min(done, max(1, int(fits / 2)))


def about(seconds: float) -> str:
    """Return a length of time to a figure or two: `about 3 minutes`."""
    for unit, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.2g} {unit}s"
    return f"about {max(seconds, 1.0):.2g} seconds" if seconds >= 1.5 else "about a second"
