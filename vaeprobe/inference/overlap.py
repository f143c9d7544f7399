"""How much the posteriors of neighbouring data rows overlap (Allen 2024, Section 4.2, Figure 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from vaeprobe import cpu

__all__ = ["bhattacharyya", "nearest_overlap", "variance_at"]


def bhattacharyya(mean: Tensor, variance: Tensor) -> Tensor:
    """Return the Bhattacharyya coefficients of all pairs of diagonal Gaussians, shape (n, n), in (0, 1].

    The integral of sqrt(q_a q_b): 1 for equal posteriors, near 0 for disjoint ones.

    Args:
        mean, variance: shape (n, k).

    Source: Bhattacharyya (1943), Bull. Calcutta Math. Soc. 35.
    """
    distance = cpu.zeros(len(mean), len(mean), dtype=mean.dtype)
    for m, v in zip(mean.T, variance.T, strict=True):
        between = 0.5 * (v[:, None] + v)
        distance += 0.125 * (m[:, None] - m).square() / between
        distance += 0.5 * between.log() - 0.25 * (v.log()[:, None] + v.log())
    return (-distance.clamp_min(0)).exp()


def nearest_overlap(mean: Tensor, variance: Tensor) -> Tensor:
    """Return each posterior's largest overlap with another row's, shape (n,), n >= 2."""
    return bhattacharyya(mean, variance).fill_diagonal_(-1).amax(1)


def variance_at(variance: Tensor, factor: float) -> Tensor:
    """Return the posterior variances that the same decoder would ask for at `factor` times beta, (n, k).

    1/Sigma - 1 is the curvature over beta; the decoder and the curvature are held fixed.  A variance above
    the prior's shows no curvature and stays.
    """
    excess = 1 / variance - 1
    return torch.where(excess > 0, 1 / (1 + excess / factor), variance)
