"""How long a run may take: one budget, which the loops that grow samples ask.

Without one nothing asks the clock, so that numbers never depend on it.  With one, what does not fit is left out and
said: samples are shorter, and their intervals wider.

    |<------------------------------ --time ------------------------------>|
    | import, load, door |       rows       | what is made of them | extras |
                         '- foretell: what one row takes, from decoding a latent, and what all of them would
                            '- in_time: a part of what is left. First as many rows as are foretold to fit, and those at
                               least that an answer needs, then pieces that double while they fit
                                               '- share_of: each stage a part of what is left when it begins, so that
                                                  what one saves the next ones have
                                                                      '- optional: begun while time is left, and given
                                                                         up at the next pause, between two chunks of
                                                                         the engine, once it is over

So a run ends within its time and one unit: loading and the door, which must be, the rows that an answer needs, or one
chunk; a comparison within as many as it asks questions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from vaeprobe.kept import saved
from vaeprobe.processes import current as processes
from vaeprobe.scoped import scoped

T = TypeVar("T")

NO_TIME = "no time was left for it"
FIRST = 8  # rows that are measured before the clock is asked, where nobody knows what they take


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

    def affords_step(self, seconds: float) -> bool:
        """Whether a further step of so many seconds leaves a fifth of all time for what is made of the steps."""
        return self.affords(0.2 * self.seconds + seconds)

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
    with scoped(_current, inner if inner.deadline < outer.deadline else outer):
        yield budget()


@contextmanager
def unhurried() -> Iterator[None]:
    """Let what happens inside take the time that it takes: without it there is no answer."""
    with scoped(_current, UNBOUNDED):
        yield


@contextmanager
def spared(seconds: float) -> Iterator[Budget]:
    """Leave so many seconds of the time given to what comes after the block."""
    with within(max(0.0, budget().left - seconds) if budget().bounded else None) as left:
        yield left


@contextmanager
def share_of(part: float) -> Iterator[Budget]:
    """Give what happens inside the block this part of the time that is left."""
    with within(part * budget().left if budget().bounded else None) as share:
        yield share


_optional: ContextVar[bool] = ContextVar("vaeprobe_optional", default=False)


@contextmanager
def optional() -> Iterator[None]:
    """Let what happens inside be given up at its next `pause` once no time is left: whoever can do without it catches that.

    Raises:
        TimeIsOver: no time is left, at the beginning or at a pause.
    """
    budget().ask()
    # processes that share the work must not stop one without the others
    with scoped(_optional, budget().bounded and processes().world == 1):
        yield


def pause() -> None:
    """Stop here, between two pieces of work, where the work is optional and no time is left.

    Raises:
        TimeIsOver: it is, and none is.
    """
    if _optional.get():
        budget().ask()


def timely(work: Callable[[], T]) -> T | None:
    """Return what optional work finds, None where time is over first."""
    try:
        with optional():
            return work()
    except TimeIsOver:
        return None


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


def in_time(
    rows: int,
    work: Callable[[slice], None],
    *,
    share: float = 0.5,
    first: int = FIRST,
    least: int = 1,
    row: float | None = None,
) -> Fit:
    """Do `work` on rows in order, all at once without a budget, else in growing pieces while there is time.

    Args:
        rows: how many there are.
        work: takes a slice of them.
        share: of the time that is left, what this may take.
        first: so many are done before the clock is asked; fewer where these are foretold not to fit, but `least`.
        least: so many make an answer: they are done however long they take.
        row: seconds that one takes, as foretold; None where nobody knows.
    """
    if not budget().bounded:
        work(slice(0, rows))
        return Fit(rows, rows, 0.0)
    start, allowed, before = time.monotonic(), share * budget().left, saved()
    done, piece = 0, first if row is None else beginning(row, first, share=share, least=least)
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


def beginning(row: float, first: int, *, share: float = 0.5, least: int = 1) -> int:
    """Return how many rows to begin with, of so many: as many as are foretold to fit, and `least` at least (see `in_time`)."""
    fits = int(processes().agreed(share * budget().left / max(row, 1e-9)))
    return min(first, max(least, fits))


def about(seconds: float) -> str:
    """Return a length of time to a figure or two: `about 3 minutes`."""
    for unit, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.2g} {unit}s"
    return f"about {max(seconds, 1.0):.2g} seconds" if seconds >= 1.5 else "about a second"
