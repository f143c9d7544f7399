"""What the best rotation of latents does on those that it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaeprobe.intervals import mean_interval

if TYPE_CHECKING:
    from vaeprobe.intervals import Array

__all__ = ["Repair", "RowSpace", "repair_of"]


@dataclass(frozen=True)
class Repair:
    """What the best rotation does on held-out latents.

    Attributes:
        before: the contrast at the axes.
        left: the contrast that it leaves.
        left_ci: its interval.
        fell: whether it lowers the contrast for sure.
        share: interval of the share of the contrast that it removes; not above 0 where that is not sure.
    """

    before: float
    left: float
    left_ci: tuple[float, float]
    fell: bool
    share: tuple[float, float]


def repair_of(given: Array, turned: Array) -> Repair:
    """Return what a rotation does to the contrasts of held-out latents, each shape (n,), n at least 2."""
    before, left = float(given.mean()), float(turned.mean())
    share = (0.0, 0.0)
    if before > 0:
        # what one latent moves the ratio of two means by, to first order
        rest = left / before
        share = mean_interval(1 - rest + (rest * given - turned) / before, high=1.0) or share
    paired = mean_interval(given - turned)
    fell = paired is not None and paired[0] > 0
    if not fell:
        share = (min(share[0], 0.0), share[1])
    return Repair(before, left, mean_interval(turned, low=0.0) or (left, left), fell, share)


@dataclass(frozen=True)
class RowSpace:
    """The subspace of latents that J sees everywhere.

    Attributes:
        dim: its dimension.
        repair: what its best basis does beside random bases of it, on held-out latents.
    """

    dim: int
    repair: Repair
