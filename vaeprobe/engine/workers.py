"""Pieces of work on several threads, each of which computes by itself.

Threads that share one operation wait for each other at its end, and on a machine that others use, too, for the slowest:
two of them took 10 s there for Gram matrices that threads with pieces of their own had in 2.8 s (and one alone in 2.5 s).

Arithmetic of two threads does not hold up each other, but each operation ends by asking for the interpreter's lock: a
thread that has to wait for it sleeps, and on a virtual machine takes 30 to 50 us to wake (measured; every operation of a
piece took so much longer, a tenth of the time of narrow decoders in all).  So the operations in a piece count, and a calling
thread that only waited for others cost as much again.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import cache
from threading import Lock, Thread
from typing import TypeVar

import torch

__all__ = ["on_workers"]

Piece = TypeVar("Piece")
Made = TypeVar("Made")


def on_workers(work: Callable[[Piece], Made], pieces: Sequence[Piece]) -> list[Made]:
    """Return what `work`, which needs no gradients, makes of each piece, in their order.

    As many pieces at a time as torch may use threads, of which this thread is one, or as many as the system has threads for;
    what is made of a piece does not depend on how many that are.  The others have ended when this returns or raises: then no
    piece is begun any more.  Under a mode that looks at torch's operations, which holds in this thread alone, it works alone.

    Raises:
        Exception: what `work` raised on the first piece, in their order, on which it did; an interrupt comes before all.
    """
    threads = torch.get_num_threads()
    count = min(threads, len(pieces))
    if count <= 1:
        return [work(piece) for piece in pieces]
    waiting = deque(enumerate(pieces))
    made: dict[int, Made] = {}
    failed: dict[int, BaseException] = {}

    def in_turn() -> None:
        if not waiting:  # all is done, and the number of threads is that from before
            return
        torch.set_num_threads(threads // count)
        with torch.no_grad():  # each thread has a mode of its own
            while waiting:
                try:
                    place, piece = waiting.popleft()
                except IndexError:  # another one was faster
                    return
                try:
                    made[place] = work(piece)
                except BaseException as error:
                    failed[place] = error
                    waiting.clear()

    _end_waiting()
    watched = torch._C._len_torch_dispatch_stack() > 0
    others = [_Other(in_turn, f"vaeprobe_{i}") for i in range(1, 1 if watched else count)]
    try:
        with suppress(RuntimeError):  # the system has no more of them
            for other in others:
                other.start()
        in_turn()
    finally:
        waiting.clear()
        try:
            _await(others)
        finally:
            torch.set_num_threads(threads)  # that of products of matrices is one for all threads
    if failed:
        error = failed[min(failed, key=lambda place: (isinstance(failed[place], Exception), place))]
        failed.clear()
        try:
            raise error
        finally:
            del error  # it holds this frame: what was made would stay in memory until garbage is collected
    return [made[place] for place in range(len(pieces))]


class _Other(Thread):
    """A thread beside the calling one, with the context variables of that.

    Attributes:
        busy: held while it works.
    """

    def __init__(self, work: Callable[[], None], name: str) -> None:
        super().__init__(target=copy_context().run, args=(work,), name=name)
        self.busy = Lock()

    def run(self) -> None:
        with self.busy:
            super().run()


def _await(others: Sequence[_Other]) -> None:
    """Wait until all have ended, and only then let an interrupt through."""
    try:
        for other in others:
            with other.busy:  # Python 3.11 takes a thread for ended whose `join` was interrupted
                pass
        for other in others:
            if other.is_alive():
                other.join()
    except BaseException:
        _await(others)
        raise


def _end_waiting() -> None:
    """End the threads that shared this thread's last operation; the next one that is shared makes new ones.

    They keep their processors busy for some milliseconds while they wait for another, and the first pieces of work waited
    for them (measured, two threads: a sixth of the time of Gram matrices of narrow decoders).
    """
    pause = _pause()
    if pause is not None:
        pause(1)  # omp_pause_soft


@cache
def _pause() -> Callable[[int], int] | None:
    """Return `omp_pause_resource_all` of the GNU OpenMP that torch has loaded; None where it has another."""
    try:
        loaded = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        found: Callable[[int], int] = loaded.omp_pause_resource_all
    except (OSError, AttributeError):
        return None
    return found
