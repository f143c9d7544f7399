"""The identity between posterior precision and likelihood curvature, and the beta that it gives away.

At the optimum of `E_q[log p(x|z)] - beta KL(q || N(0, I))` over diagonal Gaussians,

    1/Sigma_ii - 1 = h_i / beta,    h_i = -E_q[d_i^2 log p(x|z)]        (Allen 2024, Eqs. 5-9)

for each data row.  An amortised encoder meets it only on average.  Which average follows from the network:
the derivative of the objective with respect to the bias of a log-variance head is

    sum_x [Sigma_ii h_i - beta (1 - Sigma_ii)] / 2 = 0,

so that `beta = sum_x Sigma_ii h_i / sum_x (1 - Sigma_ii)` is exact at the optimum of an amortised encoder
too, however badly it serves single rows, where the ratio of mean precisions is not.  Its weights also lie in
[0, 1]: no row and no sharp latent dominates, and collapsed latents carry next to no weight.

The other weights of the last layer give further identities at the same optimum, which test the first:

* the mean head: `sum_x e_i (E_q[d_i log p] - beta e_i) = 0`, in which no variance stands (`mean_terms`);
* the log-variance head's slope: the residual `Sigma_ii h_i - beta (1 - Sigma_ii)` is uncorrelated over the rows
  with `log Sigma_ii` itself.  Where log-variances carry noise of variance v from row to row, the residual follows
  it with slope beta, and the sums above are off by `v/2 / mean(1 - Sigma_ii)` of beta (`row_shift`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vaeprobe.inference.moments import PosteriorMoments
from vaeprobe.inference.pooling import Pooled, PooledEstimate
from vaeprobe.intervals import LEVEL, RESAMPLES, percentile_interval, stream

__all__ = [
    "Evenness",
    "absolute_share",
    "agreement",
    "mean_terms",
    "ratio_per_latent",
    "row_shift",
    "shares",
]

# relative error of a posterior variance that an encoder trained to the end still makes
ENCODER_ERROR = 0.05


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


def mean_terms(moments: PosteriorMoments) -> tuple[Tensor, Tensor]:
    """Return w_i e_i E_q[d_i log p] and w_i e_i^2, each (n, k): their sums over rows are in the ratio beta.

    w_i, the mean of Sigma_ii over the rows, only sets what each latent counts for: an error of a mean reaches the
    score multiplied by the posterior's precision, so that unweighted sums are those of the sharpest latents.
    """
    e, w = moments.mean, moments.variance.mean(0)
    return w * e * moments.score, w * e.square()


def row_shift(top: Tensor, bottom: Tensor, log_variance: Tensor) -> PooledEstimate:
    """Return by what share of beta the noise of the log-variances from row to row shifts the pooled ratio.

    0 at the optimum of an amortised encoder, however much its rows differ from their own optima.

    Args:
        top, bottom: Sigma_ii h_i and 1 - Sigma_ii, shape (n, k), of active latents (`shares`).
        log_variance: shape (n, k).
    """
    own, whole = top.sum(0) / bottom.sum(0), bottom.sum()
    scale = torch.where(own > 0, 0.5 / own.clamp_min(1e-300), torch.zeros_like(own))
    residual, centred = top - own * bottom, log_variance - log_variance.mean(0)
    term = scale * residual * centred
    value = term.sum() / whole
    # the latents' own ratios are of the same rows: d own_i = residual / sum_x bottom
    slope = -2 * scale * term.sum(0) - scale * (bottom * centred).sum(0)
    moves = (term - value * bottom + slope * residual / bottom.sum(0)) / whole
    # the shift is one of these latents: milder ones have more of it, at the same noise
    return Pooled(float(value), moves, bottom.sum(0) / whole, positive=False).of_rows()


def ratio_per_latent(top: Tensor, bottom: Tensor, *, seed: int = 0) -> list[PooledEstimate]:
    """Return sum_x top / sum_x bottom of each latent, with intervals from resampled rows."""
    counts = _row_counts(len(top), RESAMPLES, seed)
    values = (counts @ top) / (counts @ bottom)
    whole = top.sum(0) / bottom.sum(0)
    return [
        PooledEstimate(float(v), percentile_interval(column.numpy()))
        for v, column in zip(whole, values.T, strict=True)
    ]


@dataclass(frozen=True)
class Evenness:
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
) -> Evenness:
    """Return how far the latents' own ratios lie apart beyond noise; shapes (n, k) with k >= 2.

    A random-effects estimate: the weighted variance of the k ratios, weights 1 / (noise + t_i^2), less the
    noise (variance over resampled rows); a resample carries the noise twice.  t_i is what an encoder's own error
    of 5 % of a variance makes of beta_i: beta_i goes with 1 / (1/Sigma_ii - 1), so it grows as 1 / (1 - Sigma_ii),
    and a mild latent is trusted less than a sharp one.
    """
    counts = _row_counts(len(top), resamples, seed)
    tops, bottoms = counts @ top, counts @ bottom
    drawn = (tops / bottoms) / (tops.sum(1) / bottoms.sum(1))[:, None]
    noise = drawn.var(0)
    weight = 1 / (noise + (ENCODER_ERROR / bottom.mean(0)).square())
    weight = weight / weight.sum()
    correction = 1 / (1 - weight.square().sum())

    def spread(ratios: Tensor, copies: int) -> Tensor:
        centred = ratios - (ratios * weight).sum(-1, keepdim=True)
        variance = correction * (weight * centred.square()).sum(-1) - copies * (weight * noise).sum()
        return variance.clamp_min(0).sqrt()

    whole = (top.sum(0) / bottom.sum(0)) / (top.sum() / bottom.sum())
    return Evenness(float(spread(whole, 1)), percentile_interval(spread(drawn, 2).numpy(), level=level))


def absolute_share(top: Tensor, bottom: Tensor, *, seed: int = 0) -> PooledEstimate:
    """Return sum_i |sum_x top| / sum bottom with an interval from resampled rows, shapes (n, k)."""
    counts = _row_counts(len(top), RESAMPLES, seed)
    values = (counts @ top).abs().sum(1) / (counts @ bottom).sum(1)
    return PooledEstimate(float(top.sum(0).abs().sum() / bottom.sum()), percentile_interval(values.numpy()))
