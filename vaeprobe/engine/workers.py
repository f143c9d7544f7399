"""Pieces of work on several threads, each of which computes by itself.

Threads that share one operation wait for each other at its end, and on a machine that others use, too, for the slowest:
two of them took 10 s there for Gram matrices that threads with pieces of their own had in 2.8 s (and one alone in 2.5 s).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from typing import TypeVar

import torch

__all__ = ["on_workers"]

Piece = TypeVar("Piece")
Made = TypeVar("Made")


def on_workers(work: Callable[[Piece], Made], pieces: Sequence[Piece]) -> list[Made]:
    """Return what `work`, which needs no gradients, makes of each piece, in their order.

    As many pieces at a time as torch may use threads; what is made of a piece does not depend on how many that are.  The
    threads have ended when this returns or raises: then no piece is begun any more.

    Raises:
        Exception: what `work` raised on the first piece, in their order, on which it did.
    """
    threads = torch.get_num_threads()
    count = min(threads, len(pieces))
    if count <= 1:
        return [work(piece) for piece in pieces]

    def alone(piece: Piece) -> Made:
        with torch.no_grad():  # each thread has a mode of its own
            return work(piece)

    _end_waiting()
    pool = ThreadPoolExecutor(count, "vaeprobe", torch.set_num_threads, (threads // count,))
    try:
        found = [pool.submit(copy_context().run, alone, piece) for piece in pieces]
        return [one.result() for one in found]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # that of products of matrices is one for all threads


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
