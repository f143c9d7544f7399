"""What differentiating a decoder costs on this machine, to say before long work how long it will be."""

from __future__ import annotations

import time
from weakref import WeakKeyDictionary

import numpy as np
import torch

from vaeprobe import cpu
from vaeprobe.budget import budget
from vaeprobe.contract import FIRST
from vaeprobe.decoder import Decoder
from vaeprobe.engine.chunks import BUDGET
from vaeprobe.engine.methods import Reach, choose, windowed
from vaeprobe.files.limits import check_memory
from vaeprobe.intervals import stream
from vaeprobe.progress import foretell, foretold

__all__ = ["foretell_directions", "gram_directions", "pace"]

ROWS = (16, 128, 1024)
"""Latents whose decoding is timed: more of them where few take no time, of which calls take most."""
LONG = 0.2
"""Seconds that a decoding may take that is there to be timed, but for the first."""
DIRECTION = 1.3
"""A direction's time in decodings (measured: 1.0 to 1.5)."""
COLUMNS = 8
"""Windows that are timed at once."""

_windows: WeakKeyDictionary[Decoder, float] = WeakKeyDictionary()


def pace(decoder: Decoder, at_once: int) -> float:
    """Return the seconds that one direction at one latent takes, as decoding a few latents tells, at most so many at once."""
    most = max(1, min(at_once, BUDGET // (16 * choose(decoder).widest)))
    found: list[float] = []
    known = decoder._probe_rows(FIRST)  # at others it may fail, which nobody asked about
    for rows in sorted({min(rows, most) for rows in ROWS}):
        if found and rows * min(found) > LONG:
            break
        z = known[cpu.arange(rows) % len(known)]
        start = time.monotonic()
        with torch.no_grad():
            decoder.flat(z)
        found.append((time.monotonic() - start) / rows)
    return DIRECTION * min(found)


def gram_directions(decoder: Decoder, columns: int) -> float:
    """Return how many directions take as long as the Gram matrix of so many columns at a latent, its primal counted as one."""
    reach = choose(decoder).reach
    return 1 + columns * (1 if reach is None else _window(decoder, reach))


def _window(decoder: Decoder, reach: Reach) -> float:
    """Return how many directions take as long as a column that is a window.

    Fewer than its work is: it stays in a core's cache, where whole maps do not.  So it is timed where anybody wants to know.
    """
    choice = choose(decoder)
    if not (foretold() or budget().bounded):
        return reach.work / choice.work
    if decoder not in _windows:
        x = decoder._probe_rows(1).to(device=decoder.device, dtype=decoder.dtype)
        _, local = windowed(decoder.flat, x)
        many = max(1, min(COLUMNS, BUDGET // (2 * reach.widest * x.itemsize)))
        free = decoder.continuous
        latent = np.array(free)[stream(0, "pace of windows").integers(len(free), size=many)]
        found = []
        for _ in range(2):  # the first time is dearer
            start = time.monotonic()
            local.columns(np.zeros(many, dtype=np.int64), latent).gram(None)
            found.append((time.monotonic() - start) / many)
        _windows[decoder] = min(found) / pace(decoder, max(ROWS))
    return _windows[decoder]


def foretell_directions(
    decoder: Decoder, directions: float, bytes: float, what: str, *, at_once: int, least: float = 0.0
) -> float | None:
    """Say how long so many directions will take, and how much memory beyond what is taken already, to whoever listens.

    Args:
        directions: over all latents, each latent's primal counted as one.
        bytes: of what is made of them.
        what: the work, as one would say it.
        at_once: latents that are taken together.
        least: directions without which there is no answer at all.

    Returns:
        the seconds that one direction takes; None where nobody asks, for neither time is bounded nor does anybody listen.

    Raises:
        ResourceError: that is more memory than the machine has, and no time ends the work before.
    """
    if not budget().bounded:
        check_memory(
            what,
            bytes,
            "fewer --samples (in Python, samples=); or --part some (part=), which measures some of the columns; or --time (time=),"
            " for what fits in it",
        )
    if not (foretold() or budget().bounded):
        return None
    one = pace(decoder, at_once)
    foretell(what, directions * one, bytes, least * one)
    return one
