"""How many latents and directions to take at a time: fast, within memory, and less when memory runs out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vaeprobe.autograd import full_precision
from vaeprobe.budget import pause
from vaeprobe.engine.dense import one_pass
from vaeprobe.errors import ResourceError, out_of_memory
from vaeprobe.files.limits import with_more_memory
from vaeprobe.kept import kept
from vaeprobe.processes import apart, current
from vaeprobe.processors import adapt
from vaeprobe.progress import tell

__all__ = ["Chunk", "Size", "Sweep"]

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


@dataclass(frozen=True)
class Sweep:
    """Work on all of n latents and their directions, in chunks of a size.

    Attributes:
        work: returns what a chunk gives.
        put: takes it to its place; of what the first turn alone should put, each turn is given its own.
        made_of: what work on a chunk depends on (see `vaeprobe.kept`).
        whole: whether a chunk takes all directions at its latents; otherwise it takes one turn.
        description: for progress.
    """

    work: Callable[[Chunk], tuple[Tensor, ...]]
    put: Callable[..., None]
    made_of: Callable[[Chunk], Iterable[object]]
    whole: bool = False
    description: str = "Jacobians"

    def over(self, n: int, directions: int, size: Size) -> bool:
        """Do all of the work; where memory runs out, halve the chunk and do it again.

        Several processes take every so-many-th chunk each, the same chunks as one alone would take; where there are
        fewer latents than that takes, every so-many-th turn of the directions; where these are too few as well, each
        does all.

        Returns:
            whether they shared the work, so that what was put is to be summed over the processes, 0 where nothing was.

        Raises:
            ResourceError: one direction at one latent is too much; or another process failed.
            VaeprobeError: `work` failed, here or elsewhere.
        """
        with one_pass():
            return self._over(n, directions, size)

    def _over(self, n: int, directions: int, size: Size) -> bool:
        processes = current()
        everything, turns = slice(0, directions), _slices(slice(0, directions), size.directions)
        chunks = _slices(slice(0, n), size.points)
        by_points = len(chunks) >= processes.world
        if processes.world == 1 or not (by_points or (len(turns) > 1 and not self.whole)):
            self._do(slice(0, n), everything, n, size, together=processes.world > 1)
            return False

        def own() -> None:
            with apart():
                if by_points:
                    for points in chunks[processes.rank :: processes.world]:
                        self._do(points, everything, n, size)
                    return
                for points in chunks:
                    for turn in turns[processes.rank :: processes.world]:
                        self._do(points, turn, n, size)
                    if processes.rank >= len(turns):  # it knows nothing but of what shape it would be
                        spare = Chunk(points, (turns[0],))
                        self.put(spare, *(torch.zeros_like(t) for t in self.work(spare)))

        processes.together(own)
        return True

    def _do(self, rows: slice, directions: slice, n: int, size: Size, *, together: bool = False) -> None:
        start = rows.start
        while start < rows.stop:
            points = slice(start, min(start + size.points, rows.stop))
            turns = tuple(_slices(directions, size.directions))
            parts = (turns,) if self.whole else tuple((turn,) for turn in turns)
            try:
                for done, part in enumerate(parts, start=1):
                    pause()
                    adapt()
                    self._one(Chunk(points, part), together)
                    if size.points < n or len(parts) > 1:
                        share = directions.stop if done == len(parts) else part[0].stop
                        tell(self.description, start + (points.stop - start) * share / directions.stop, n)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                smaller = size.halved()
                if smaller is None:
                    raise ResourceError(
                        "not enough memory for one direction at one latent",
                        hint=with_more_memory(
                            "free some memory, or probe a smaller decoder (--submodule, in Python submodule=)"
                        ),
                    ) from error
                size = smaller
                continue
            start = points.stop

    def _one(self, part: Chunk, together: bool) -> None:
        with full_precision():
            self.put(part, *kept(lambda: self.made_of(part), lambda: self.work(part), together=together))


def _slices(whole: slice, step: int) -> list[slice]:
    return [slice(i, min(i + step, whole.stop)) for i in range(whole.start, whole.stop, step)]
