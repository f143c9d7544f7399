"""The identity between posterior precision and likelihood curvature, and the beta that it gives away.

At the optimum of `E_q[log p(x|z)] - beta KL(q || N(0, I))` over diagonal Gaussians,

    1/Sigma_ii - 1 = h_i / beta,    h_i = -E_q[d_i^2 log p(x|z)]        (Allen 2024, Eqs. 5-9)

for each data row.  An amortised encoder meets it only on average.  Which average follows from the network:
the derivative of the objective with respect to the bias of a log-variance head is

    sum_x [Sigma_ii h_i - beta (1 - Sigma_ii)] / 2 = 0,

so that `beta = sum_x Sigma_ii h_i / sum_x (1 - Sigma_ii)` is exact at the optimum of an amortised encoder
too, however badly it serves single rows, where the ratio of mean precisions is not.  Its weights also lie in
[0, 1]: no row and no sharp latent dominates, and collapsed latents carry next to no weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vaeprobe.inference.moments import PosteriorMoments
from vaeprobe.intervals import LEVEL, RESAMPLES, stream

__all__ = [
    "Agreement",
    "Estimate",
    "absolute_share",
    "agreement",
    "pooled_ratio",
    "ratio_per_latent",
    "shares",
]


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval."""

    value: float
    ci: tuple[float, float]


def shares(moments: PosteriorMoments, curvature: Tensor) -> tuple[Tensor, Tensor]:
    """Return Sigma_ii h_i and 1 - Sigma_ii, each (n, k): their sums over rows are in the ratio beta.

    Args:
        curvature: h_i, shape (n, k): `moments.curvature` (exact) or `moments.gauss_newton`.
    """
    return moments.variance * curvature, 1 - moments.variance


@lru_cache(maxsize=4)
def _row_counts(n: int, resamples: int, seed: int) -> Tensor:
    """Return how often each row occurs in each resample, shape (resamples, n)."""
    rng = stream(seed, "bootstrap rows")
    return torch.from_numpy(rng.multinomial(n, np.full(n, 1 / n), size=resamples)).double()


def _interval(values: Tensor, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high


def pooled_ratio(
    top: Tensor, bottom: Tensor, *, seed: int = 0, level: float = LEVEL, resamples: int = RESAMPLES
) -> Estimate:
    """Return sum(top) / sum(bottom) with a bootstrap interval that resamples data rows and latents.

    Latents are resampled too: what one encoder's training left unfinished differs from latent to latent and
    does not shrink with more rows.

    Args:
        top, bottom: shape (n, k), k active latents.
    """
    counts = _row_counts(len(top), resamples, seed)
    k = top.shape[1]
    picks = torch.from_numpy(
        stream(seed, "bootstrap latents").multinomial(k, np.full(k, 1 / k), size=resamples)
    ).double()
    values = (picks * (counts @ top)).sum(1) / (picks * (counts @ bottom)).sum(1)
    return Estimate(float(top.sum() / bottom.sum()), _interval(values, level))


def ratio_per_latent(
    top: Tensor, bottom: Tensor, *, seed: int = 0, level: float = LEVEL, resamples: int = RESAMPLES
) -> list[Estimate]:
    """Return sum_x top / sum_x bottom of each latent, with intervals from resampled rows."""
    counts = _row_counts(len(top), resamples, seed)
    values = (counts @ top) / (counts @ bottom)
    whole = top.sum(0) / bottom.sum(0)
    return [Estimate(float(v), _interval(column, level)) for v, column in zip(whole, values.T, strict=True)]


@dataclass(frozen=True)
class Agreement:
    """How well one beta serves all active latents.

    Attributes:
        spread: standard deviation over latents of beta_i / beta - 1, the part that sampling noise explains
            taken off.
        ci: its bootstrap interval.
    """

    spread: float
    ci: tuple[float, float]


def agreement(
    top: Tensor, bottom: Tensor, *, seed: int = 0, level: float = LEVEL, resamples: int = RESAMPLES
) -> Agreement:
    """Return how far the latents' own ratios lie apart beyond noise; shapes (n, k) with k >= 2.

    A random-effects estimate: the weighted variance of the k ratios, weights 1 / (noise + 0.05^2), less the
    noise (variance over resampled rows); a resample carries the noise twice.
    """
    counts = _row_counts(len(top), resamples, seed)
    tops, bottoms = counts @ top, counts @ bottom
    drawn = (tops / bottoms) / (tops.sum(1) / bottoms.sum(1))[:, None]
    noise = drawn.var(0)
    weight = 1 / (noise + 0.05**2)
    weight = weight / weight.sum()
    correction = 1 / (1 - weight.square().sum())

    def spread(ratios: Tensor, copies: int) -> Tensor:
        centred = ratios - (ratios * weight).sum(-1, keepdim=True)
        variance = correction * (weight * centred.square()).sum(-1) - copies * (weight * noise).sum()
        return variance.clamp_min(0).sqrt()

    whole = (top.sum(0) / bottom.sum(0)) / (top.sum() / bottom.sum())
    return Agreement(float(spread(whole, 1)), _interval(spread(drawn, 2), level))


def absolute_share(
    top: Tensor, bottom: Tensor, *, seed: int = 0, level: float = LEVEL, resamples: int = RESAMPLES
) -> Estimate:
    """Return sum_i |sum_x top| / sum bottom with an interval from resampled rows, shapes (n, k)."""
    counts = _row_counts(len(top), resamples, seed)
    values = (counts @ top).abs().sum(1) / (counts @ bottom).sum(1)
    return Estimate(float(top.sum(0).abs().sum() / bottom.sum()), _interval(values, level))
