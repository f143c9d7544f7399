"""Progress, told to whoever listens: the command line draws a bar, a library call stays silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

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
    token, other = _listener.set(listener), _foreteller.set(foreteller)
    try:
        yield
    finally:
        _listener.reset(token)
        _foreteller.reset(other)


def foretold() -> bool:
    """Whether anybody wants to know what work will take: estimates cost a little themselves."""
    return _foreteller.get() is not None


def foretell(what: str, seconds: float, bytes: float, least: float = 0.0) -> None:
    """Say what work that is about to begin will take, and the least of it that makes an answer."""
    foreteller = _foreteller.get()
    if foreteller is not None:
        foreteller(what, seconds, bytes, least)


class Most:
    """Says once what steps will take whose end nobody knows, at the pace of the first two.

    Args:
        what: the steps, as one would say it.
        most: how many there are at most.
        done: those that an earlier run took.
    """

    def __init__(self, what: str, most: int, done: int = 0) -> None:
        self.what, self.most, self.first = what, most, done
        self.start = time.monotonic()

    def step(self, step: int) -> None:
        """Take note of a step that is done."""
        if step == self.first + 2:
            pace = (time.monotonic() - self.start) / 2
            foretell(f"{self.what}, at most {self.most} steps", pace * (self.most - step), 0.0)


def tell(description: str, done: float, total: float | None) -> None:
    """Say how far a piece of work is; what follows a comma in the description may change on the way."""
    listener = _listener.get()
    if listener is not None:
        listener(description, done, total)


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
