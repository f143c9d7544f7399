"""What differentiating a decoder costs on this machine, to say before long work how long it will be."""

from __future__ import annotations

import time

import torch

from vaeprobe.budget import budget
from vaeprobe.decoder import Decoder
from vaeprobe.engine.chunks import BUDGET
from vaeprobe.engine.methods import choose
from vaeprobe.progress import foretell, foretold

__all__ = ["foretell_directions", "gram_directions", "pace"]

ROWS = (16, 128, 1024)
"""Latents whose decoding is timed: more of them where few take no time, of which calls take most."""
LONG = 0.2
"""Seconds that a decoding may take that is there to be timed, but for the first."""
DIRECTION = 1.3
"""A direction's time in decodings (measured: 1.0 to 1.5)."""


def pace(decoder: Decoder, at_once: int) -> float:
    """Return the seconds that one direction at one latent takes, as decoding a few latents tells, at most so many at once."""
    most = max(1, min(at_once, BUDGET // (16 * choose(decoder).widest)))
    found: list[float] = []
    for rows in sorted({min(rows, most) for rows in ROWS}):
        if found and rows * min(found) > LONG:
            break
        z = decoder._probe_rows(rows)
        start = time.monotonic()
        with torch.no_grad():
            decoder.flat(z)
        found.append((time.monotonic() - start) / rows)
    return DIRECTION * min(found)


def gram_directions(decoder: Decoder, columns: int) -> float:
    """Return how many directions take as long as the Gram matrix of so many columns at a latent, its primal counted as one."""
    choice = choose(decoder)
    return 1 + columns * (1 if choice.reach is None else choice.reach.work / choice.work)


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
    """
    if not (foretold() or budget().bounded):
        return None
    one = pace(decoder, at_once)
    foretell(what, directions * one, bytes, least * one)
    return one
