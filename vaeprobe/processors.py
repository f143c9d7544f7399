"""As many threads as there are processors that no other program keeps busy.

Threads that share an operation wait for each other at its end, and on a busy machine for the slowest: two of them took
210 s there for what one had in 63 s (and 11 s on an idle machine).
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Reading", "Share", "adapt", "consider", "free", "read"]

# Seconds over which others are watched, at least: the system counts in hundredths.
WINDOW = 0.5
# What users and launchers say the number of threads by.
SET_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Reading:
    """What has been used up to a moment, in seconds.

    Attributes:
        wall: time gone by.
        busy: processor time of all programs, on the processors that this one may use.
        own: processor time of this program.
    """

    wall: float
    busy: float
    own: float


def read() -> Reading | None:
    """Return what has been used so far; None where the system does not tell (other than Linux)."""
    try:
        mine = os.sched_getaffinity(0)
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        tick = os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, ValueError):
        return None
    busy = 0
    for line in lines:
        name, *counts = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in mine:
            user, nice, system, _idle, _waiting, *interrupts = map(int, counts[:8])  # guests are users, too
            busy += user + nice + system + sum(interrupts)
    return Reading(time.monotonic(), busy / tick, time.process_time())


def free(before: Reading, after: Reading, count: int) -> int:
    """Return how many of `count` processors others left free between two readings, to the nearest; at least one."""
    others = (after.busy - before.busy - (after.own - before.own)) / (after.wall - before.wall)
    return max(1, math.floor(count - max(0.0, others) + 0.5))


def allowed(quota: Path = QUOTA) -> int:
    """Return how many processors this program may keep busy: those it may run on, and what its container grants."""
    most = len(os.sched_getaffinity(0))
    try:
        granted, period = quota.read_text(encoding="ascii").split()
        return max(1, min(most, round(int(granted) / int(period))))
    except (OSError, ValueError):  # no container, or "max"
        return most


class Share:
    """The threads that torch uses in this program, as others come and go.

    Args:
        before: the reading that the first look is held against.
    """

    def __init__(self, before: Reading) -> None:
        self._before = before
        self._most: int | None = None

    def adapt(self) -> None:
        """Set the number of torch's threads, once in a while."""
        if time.monotonic() - self._before.wall < WINDOW or (after := read()) is None:
            return
        import torch

        if self._most is None:
            self._most = min(torch.get_num_threads(), allowed())
        count = len(os.sched_getaffinity(0))
        torch.set_num_threads(min(self._most, free(self._before, after, count)))
        self._before = after


_share: Share | None = None


def consider() -> None:
    """Have `adapt` watch others from now on, unless the user says how many threads there are to be."""
    global _share
    before = None if any(os.environ.get(name) for name in SET_BY_USER) else read()
    _share = None if before is None else Share(before)


def adapt() -> None:
    """Use as many threads as others leave free, in programs that are ours: whoever calls the library decides for itself."""
    if _share is not None:
        _share.adapt()
