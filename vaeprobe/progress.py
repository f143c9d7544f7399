"""Progress, told to whoever listens: the command line draws a bar, a library call stays silent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

# (description, done, total): total None where the end is not known, done == total when finished
Listener = Callable[[str, float, float | None], None]
_listener: ContextVar[Listener | None] = ContextVar("vaeprobe_progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send progress to `listener` inside the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


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
    for done, item in enumerate(items, start=1):
        yield item
        tell(description, done, total)
    if total is None:
        tell(description, done, done)
