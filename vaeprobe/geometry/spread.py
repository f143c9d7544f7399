"""C2 at given axes: how far the length of each Jacobian column depends on its own latent alone.

`cross_i^2 = E Var(log n_i | z_i)` is the mean over pairs of latents that share z_i of half the squared difference
of log n_i.  The largest cross over the latents is what C2 asks to be zero, and a maximum of estimates is biased
upwards: its interval runs from the largest of lower bounds that hold for all latents at once (a max-t bootstrap)
to the largest of the upper bounds of each, which is an upper bound since it is one for the latent of the maximum.

Bounds of each cross^2 come from the studentised bootstrap of its logarithm, which covers for means of squares where
percentiles fall short, and from the gamma distribution where a few events make the mean (exact for events of one
size).  To every upper bound belongs what rare events that were not seen may add.

Source: Sobol' (1993) for the pick-freeze scheme; Hall (1992), "The bootstrap and Edgeworth expansion"; Fay and
Feuer (1997), "Confidence intervals for directly standardized rates".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.geometry.decisions import EVENT, Decision, unseen
from vaeprobe.geometry.modulation import log_ratio
from vaeprobe.intervals import LEVEL, percentile_interval, resampled_means, studentised_interval

__all__ = ["MeanBounds", "Spread", "bound_means", "spread_of"]

Array = NDArray[np.float64]

# Effective number of nonzero samples under which their mean is bounded as a count of events.
FEW = 10
TINY = 1e-300
LARGEST = 700.0  # whose exponential is a double


@dataclass(frozen=True, eq=False)
class Spread:
    """How far column lengths depend on their own latent alone (C2).

    Attributes:
        cross: sqrt(E Var(log n_i | z_i)) per latent, shape (a,).
        cross_ci: shape (a, 2).
        deviation: standard deviation of log n_i, shape (a,).
        own_share: 1 - cross_i^2 / Var(log n_i) per latent; None where n_i is constant.
        own_share_ci: per latent, likewise.
        mean_own_share: over the latents whose n_i is not constant; None where there is none.
        mean_own_share_ci: likewise.
        largest: the largest cross, against zero.
        lost: pairs of latents left out since a column had length zero, at the worst latent.
    """

    cross: tuple[float, ...]
    cross_ci: tuple[tuple[float, float], ...]
    deviation: tuple[float, ...]
    own_share: tuple[float | None, ...]
    own_share_ci: tuple[tuple[float, float] | None, ...]
    mean_own_share: float | None
    mean_own_share_ci: tuple[float, float] | None
    largest: Decision
    lost: int


@dataclass(frozen=True, eq=False)
class MeanBounds:
    """Confidence bounds of several means of nonnegative values.

    Attributes:
        mean: shape (a,).
        low, high: of each mean by itself, shape (a,).
        jointly_low: lower bounds that hold for all means at once, shape (a,).
    """

    mean: Array
    low: Array
    high: Array
    jointly_low: Array


def bound_means(values: Array, valid: Array, *, seed: int = 0) -> MeanBounds:
    """Return confidence bounds of the means over rows of nonnegative values.

    Args:
        values: shape (n, a), 0 where not valid.
        valid: 1 where a value counts, shape (n, a).
    """
    n, a = values.shape
    tail = (1 - LEVEL) / 2
    columns = np.concatenate([valid, values, values**2], axis=1)

    def moments(means: Array) -> tuple[Array, Array]:
        """Return the mean and the standard error of its logarithm, both (..., a)."""
        weight, first, second = (means[..., i * a : (i + 1) * a] for i in range(3))
        weight = np.maximum(weight, TINY)
        mean = first / weight
        # of a ratio of means, linearised; E value = mean * weight
        variance = np.maximum(second - mean**2 * weight, 0) / weight**2
        return mean, np.sqrt(variance / n) / np.maximum(mean, TINY)

    mean, error = moments(columns.mean(0))
    means, errors = moments(resampled_means(columns, seed=seed))
    effective = values.sum(0) ** 2 / np.maximum((values**2).sum(0), TINY)
    many = effective >= FEW
    ratio = np.log(np.maximum(means, TINY) / np.maximum(mean, TINY))
    # a resample of equal values knows no error: it borrows a part of that of the sample
    t = np.where(many, ratio / np.maximum(np.maximum(errors, error / 10), TINY), 0.0)
    low, high, jointly_low = np.zeros(a), np.zeros(a), np.zeros(a)
    if many.any():
        lowest, highest = np.quantile(t, [tail, 1 - tail], axis=0)
        joint = np.quantile(t[:, many].max(1), 1 - tail)
        low = np.where(many, mean * np.exp(-highest * error), 0)
        high = np.where(many, mean * np.exp(-lowest * error), 0)
        jointly_low = np.where(many, mean * np.exp(-joint * error), 0)
    for i in np.flatnonzero(~many & (effective > 0)):
        shape = float(effective[i])
        low[i] = mean[i] * gamma_quantile(shape, tail) / shape
        high[i] = mean[i] * gamma_quantile(shape + 1, 1 - tail) / shape
        jointly_low[i] = mean[i] * gamma_quantile(shape, tail / a) / shape
    return MeanBounds(mean, low, high, np.minimum(low, jointly_low))


def gamma_quantile(shape: float, p: float) -> float:
    """Return the p-quantile of the gamma distribution of unit scale, by bisection of the incomplete gamma."""
    low, high = 0.0, shape + 20 * math.sqrt(shape) + 40
    a = cpu.tensor(shape, dtype=torch.float64)
    for _ in range(80):
        middle = (low + high) / 2
        below = float(torch.special.gammainc(a, cpu.tensor(middle, dtype=torch.float64))) < p
        low, high = (middle, high) if below else (low, middle)
    return (low + high) / 2


def spread_of(
    lengths: Tensor, frozen: Tensor, *, margin: float, seed: int = 0, rounding: float = 2.0**-52
) -> Spread:
    """Compare column lengths at latents that share one coordinate.

    Args:
        lengths: ||J r_i||, shape (n, a).
        frozen: the same with coordinate i kept and all else redrawn, shape (n, a); not finite where unknown.
        margin: nats that count as nothing; a cross is held against sqrt(2 margin).
        rounding: of the arithmetic that computed the lengths.
    """
    lengths, frozen = lengths.double(), frozen.double()
    floor = rounding * lengths.square().mean(0).sqrt()
    ratio, alive = log_ratio(lengths, frozen, floor)
    alive &= torch.isfinite(frozen)
    one = torch.ones_like(lengths)
    logs, logs_ = (torch.where(alive, x, one).log() for x in (lengths, frozen))
    centre = (logs + logs_).sum(0) / (2 * alive.sum(0)).clamp_min(1)
    logs, logs_ = (torch.where(alive, x - centre, 0.0) for x in (logs, logs_))
    half = (torch.where(alive, ratio, 0.0).square() / 2).numpy()
    valid = alive.double().numpy()
    n, a = half.shape
    rows = np.concatenate(
        [valid, half, ((logs + logs_) / 2).numpy(), ((logs.square() + logs_.square()) / 2).numpy()], axis=1
    )

    def of(means: Array) -> tuple[Array, Array]:
        """Return cross^2 and standard deviation of log n_i, both (..., a)."""
        weight, square, first, second = (means[..., i * a : (i + 1) * a] for i in range(4))
        weight = np.maximum(weight, TINY)
        variance = np.maximum(second / weight - (first / weight) ** 2, 0)
        return square / weight, np.sqrt(variance)

    square, deviation = of(rows.mean(0))
    squares, deviations = of(resampled_means(rows, seed=seed))
    constant = deviation <= max(1e-9, 100 * rounding)
    own = 1 - square / np.where(constant, 1, deviation) ** 2
    owns = 1 - squares / np.where(constant, 1, np.maximum(deviations**2, TINY))
    varying = np.flatnonzero(~constant)

    bounds = bound_means(half, valid, seed=seed)
    # cross^2 / 2 is the cost in nats
    high = bounds.high + np.array([unseen(max(int(k), 1), 2 * EVENT) for k in valid.sum(0)])
    return Spread(
        cross=tuple(np.sqrt(square).tolist()),
        cross_ci=tuple(zip(np.sqrt(bounds.low).tolist(), np.sqrt(high).tolist(), strict=True)),
        deviation=tuple(deviation.tolist()),
        own_share=tuple(None if constant[i] else float(own[i]) for i in range(a)),
        own_share_ci=tuple(None if constant[i] else percentile_interval(owns[:, i]) for i in range(a)),
        mean_own_share=float(own[varying].mean()) if len(varying) else None,
        mean_own_share_ci=_mean_own_share_interval(rows, varying, seed) if len(varying) else None,
        largest=Decision(
            float(np.sqrt(square.max())),
            (float(np.sqrt(bounds.jointly_low.max())), float(np.sqrt(high.max()))),
            math.sqrt(2 * margin),
            n,
        ),
        lost=int((~alive).sum(0).max()),
    )


def _mean_own_share_interval(rows: Array, varying: NDArray[np.int64], seed: int) -> tuple[float, float]:
    """Return the interval of the mean own share, by that of the logarithm of what other latents explain.

    Args:
        rows: weight, half the squared change, first and second moment of each latent, shape (n, 4 a).
        varying: the latents whose column length varies.
    """
    a, k = rows.shape[1] // 4, len(varying)
    columns = np.concatenate([rows[:, i * a + varying] for i in range(4)], axis=1)

    def log_others(means: Array) -> tuple[Array, Array]:
        weight, half, first, second = (means[..., i * k : (i + 1) * k] for i in range(4))
        # resamples may hold one row alone, or none that counts: far below all that is measured, and finite when squared
        weight = np.maximum(weight, 1e-9)
        variance = np.maximum(second / weight - (first / weight) ** 2, 1e-30)
        shares = half / weight / variance
        total = np.maximum(shares.mean(-1, keepdims=True), 1e-30)
        by_variance = -shares / variance
        by_weight = -shares / weight + by_variance * (2 * first**2 / weight - second) / weight**2
        gradient = np.concatenate(
            [
                by_weight,
                1 / (weight * variance),
                by_variance * -2 * first / weight**2,
                by_variance / weight,
            ],
            axis=-1,
        )
        return np.log(total[..., 0]), gradient / (k * total)

    if log_others(columns.mean(0)[None])[0][0] < math.log(1e-18):
        return 1.0, 1.0
    low, high = studentised_interval(columns, log_others, seed=seed)
    # of a few latents it may be anything: beyond any double, too
    return 1 - math.exp(min(high, LARGEST)), 1 - math.exp(min(low, LARGEST))
