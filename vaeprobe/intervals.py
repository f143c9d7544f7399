"""Confidence intervals by the bootstrap, and the random streams that all draws come from."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 2000


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Return the random stream of `seed` for one purpose.

    Streams are counter based (Philox), the same on every machine, and different purposes are
    independent, so that adding a test never changes the latents that another one draws.

    Raises:
        ValueError: `seed` is negative.
    """
    key = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())])
    return np.random.Generator(np.random.Philox(key))


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], Array],
    n: int,
    *,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic of n exchangeable samples.

    Args:
        statistic: takes sample indices, shape (resamples, n), returns one value per resample.
        n: number of samples.
    """
    rng = stream(seed, "bootstrap")
    step = max(1, min(resamples, 8_000_000 // max(n, 1)))
    values = np.concatenate(
        [statistic(rng.integers(0, n, size=(min(step, resamples - k), n))) for k in range(0, resamples, step)]
    )
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def mean_interval(
    values: Array, *, seed: int = 0, level: float = LEVEL, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Return the bootstrap interval of a mean, or None for fewer than two values.

    Args:
        values: one number per independent sample, shape (n,), finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size < 2:
        return None
    return bootstrap(
        lambda index: values[index].mean(axis=1), values.size, seed=seed, level=level, resamples=resamples
    )


def resampled_means(values: Array, *, seed: int = 0, resamples: int = RESAMPLES) -> Array:
    """Return bootstrap means of several columns, resampled by rows together, shape (resamples, columns).

    Statistics that are functions of several means (ratios, variances, maxima) follow from them.

    Args:
        values: one row per independent sample, shape (n, columns), finite.
    """
    n = len(values)
    rng = stream(seed, "bootstrap")
    step = max(1, min(resamples, 8_000_000 // max(n, 1)))
    means = []
    for done in range(0, resamples, step):
        rows = min(step, resamples - done)
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means.append(counts @ np.asarray(values, dtype=np.float64) / n)
    return np.concatenate(means)


def percentile_interval(values: Array, *, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of resampled values, shape (resamples,)."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
