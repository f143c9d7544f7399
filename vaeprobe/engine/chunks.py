"""How many latents and directions to take at a time: fast, within memory, and less when memory runs out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from vaeprobe.errors import ResourceError, out_of_memory
from vaeprobe.processes import current
from vaeprobe.progress import tell

__all__ = ["Chunk", "Size", "sweep"]

BUDGET = 28 << 20
"""Bytes of the largest tangent tensor.  Beyond 32 MB the C library maps every tensor afresh."""


@dataclass(frozen=True)
class Size:
    """So many latents, and so many directions at each, at a time."""

    points: int
    directions: int

    @classmethod
    def fitting(cls, widest: int, itemsize: int, directions: int, points: int | None = None) -> Size:
        """Return the largest size whose widest tangents stay in the budget.

        Args:
            widest: numbers per latent in the decoder's widest layer.
            itemsize: bytes per number.
            directions: how many there are in all.
            points: latents at a time, where the caller knows better.
        """
        rows = max(1, BUDGET // max(1, widest * itemsize))
        if points is not None:
            return cls(max(1, points), min(directions, max(1, rows // points)))
        # as many passes over the directions as it takes, each of as many: a short last one pays for a whole primal
        passes = math.ceil(directions / rows)
        # the primal is as wide as the tangents in one direction: with one alone it takes half the room
        return cls(max(1, rows // max(2, directions)), math.ceil(directions / max(1, passes)))

    def halved(self) -> Size | None:
        """Return half the size, latents first; None where nothing is left to halve."""
        if self.points > 1:
            return replace(self, points=(self.points + 1) // 2)
        if self.directions > 1:
            return replace(self, directions=(self.directions + 1) // 2)
        return None


@dataclass(frozen=True)
class Chunk:
    """Some latents, and the directions to take at them in turn."""

    points: slice
    directions: tuple[slice, ...]


def sweep(
    n: int, directions: int, size: Size, work: Callable[[Chunk], None], description: str = "Jacobians"
) -> bool:
    """Do `work` on every chunk of n latents; where memory runs out, halve the chunk and do it again.

    Several processes take every so-many-th chunk each, the same chunks as one alone would take; where there are fewer
    chunks than processes, each does them all.

    Returns:
        whether they did, so that what the work found is to be summed over the processes.

    Raises:
        ResourceError: one direction at one latent is too much; or another process failed.
        VaeprobeError: `work` failed, here or elsewhere.
    """
    processes = current()
    starts = range(0, n, size.points)
    if processes.world == 1 or len(starts) < processes.world:
        _sweep(slice(0, n), n, directions, size, work, description)
        return False

    def own() -> None:
        for start in starts[processes.rank :: processes.world]:
            _sweep(slice(start, min(start + size.points, n)), n, directions, size, work, description)

    processes.together(own)
    return True


def _sweep(
    rows: slice, n: int, directions: int, size: Size, work: Callable[[Chunk], None], description: str
) -> None:
    start = rows.start
    while start < rows.stop:
        points = slice(start, min(start + size.points, rows.stop))
        steps = range(0, directions, size.directions)
        chunk = Chunk(points, tuple(slice(i, min(i + size.directions, directions)) for i in steps))
        try:
            work(chunk)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            smaller = size.halved()
            if smaller is None:
                raise ResourceError(
                    "not enough memory for one direction at one latent",
                    hint="free some memory, or probe a smaller decoder (--submodule)",
                ) from error
            size = smaller
            continue
        start = points.stop
        if size.points < n:
            tell(description, start, n)
