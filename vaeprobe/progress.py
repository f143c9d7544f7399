"""Progress, told to whoever listens: the command line draws a bar, a library call stays silent."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from vaeprobe.scoped import scoped

S = TypeVar("S")
T = TypeVar("T")

# (description, done, total): total None where the end is not known, done == total when finished
Listener = Callable[[str, float, float | None], None]
_listener: ContextVar[Listener | None] = ContextVar("vaeprobe_progress", default=None)
# (work to come, seconds that it will take, bytes beyond those taken already, seconds of the least of it)
Foreteller = Callable[[str, float, float, float], None]
_foreteller: ContextVar[Foreteller | None] = ContextVar("vaeprobe_foreteller", default=None)


@contextmanager
def listening(listener: Listener, foreteller: Foreteller | None = None) -> Iterator[None]:
    """Send progress to `listener` inside the block, and estimates of what is to come to `foreteller`."""
    with scoped(_listener, listener), scoped(_foreteller, foreteller):
        yield


def foretold() -> bool:
    """Whether anybody wants to know what work will take: estimates cost a little themselves."""
    return _foreteller.get() is not None


def foretell(what: str, seconds: float, bytes: float, least: float = 0.0) -> None:
    """Say what work that is about to begin will take, and the least of it that makes an answer."""
    foreteller = _foreteller.get()
    if foreteller is not None:
        foreteller(what, seconds, bytes, least)


class Descent:
    """Tells steps that end where something has fallen to a goal: how many there will be, at the rate at which it falls.

    A rate is that of the last `SETTLED` steps or of the last quarter of them, whichever is more, for it changes on the
    way; until there is one, there are at most as many as there may be.

    Args:
        what: the steps, as one would say it.
        most: how many there are at most.
        done: those that an earlier run took.
    """

    SETTLED = 10  # steps that a rate is taken over
    SLOW = 5.0  # seconds that a rate takes to be known, from which something is said before
    OFTEN = 0.2  # seconds between two words to who listens

    def __init__(self, what: str, most: int, done: int = 0) -> None:
        self.what, self.most, self.first = what, most, done
        self.start = self.told = time.monotonic()
        self.logs: list[float] = []
        self.total = most

    @property
    def pace(self) -> float:
        """Seconds that a step took so far."""
        return (time.monotonic() - self.start) / max(len(self.logs), 1)

    def step(self, step: int, height: float, goal: float, note: str = "") -> None:
        """Take note of a step that is done.

        Args:
            height: what falls, at that step; infinite where it is not known yet.
            goal: where it ends.
            note: a word on how it stands.
        """
        self.logs.append(math.log(min(max(height, SMALL), 1 / SMALL)))
        self.total = self._expected(step, goal)
        taken = len(self.logs)
        if taken == 2 and self.pace * 2 * self.SETTLED > self.SLOW:
            self._foretell(step, self.most)
        elif taken == 2 * self.SETTLED:
            self._foretell(step, self.total)
        if taken == 1 or time.monotonic() - self.told >= self.OFTEN:
            self.told = time.monotonic()
            tell(self.what + (f", {note}" if note else ""), step, self.total)

    def end(self) -> None:
        """Tell that they are over."""
        tell(self.what, self.most, self.most)

    def _expected(self, step: int, goal: float) -> int:
        """Return how many steps there will be in all, `most` where the rate does not tell."""
        taken = len(self.logs)
        if taken < 2 * self.SETTLED:
            return self.most
        over = max(self.SETTLED, taken // 4)
        fallen, now = self.logs[-1 - over] - self.logs[-1], self.logs[-1]
        to_come = max(1.0, over * (now - math.log(max(goal, SMALL))) / fallen) if fallen > 0 else math.inf
        return min(self.most, math.ceil(step + to_come)) if to_come < self.most else self.most

    def _foretell(self, step: int, total: int) -> None:
        end = f"about {total - step} more steps at the rate of the last ones"
        if total == self.most:
            end = f"at most {self.most} steps, if all are needed"
        foretell(f"{self.what}, {end}", self.pace * (total - step), 0.0)


SMALL = 1e-300  # numbers below are taken for it, whose logarithm is one


def tell(description: str, done: float, total: float | None) -> None:
    """Say how far a piece of work is; what follows a comma in the description may change on the way."""
    listener = _listener.get()
    if listener is not None:
        listener(description, done, total)


def counted(f: Callable[[S], T], description: str, total: int) -> Callable[[S], T]:
    """Return a function that tells progress after each of its calls, of so many."""
    done = itertools.count(1)

    def called(x: S) -> T:
        y = f(x)
        tell(description, next(done), total)
        return y

    tell(description, 0, total)
    return called


def track(items: Iterable[T], description: str, total: float | None = None) -> Iterator[T]:
    """Yield the items, telling progress after each."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    tell(description, 0, total)
    done = 0
    try:
        for done, item in enumerate(items, start=1):
            yield item
            tell(description, done, total)
    finally:
        if done != total:  # its end was not known, or it was left early
            tell(description, done, done)
