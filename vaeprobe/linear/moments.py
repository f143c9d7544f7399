"""Mean and scatter of rows in one pass, in blocks, merged exactly.

Each block is shifted by the mean of the first one before its product is formed, so that a float32 column
with a large offset keeps its variance; blocks are products `v.T @ v` (SYRK) and the sums are float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vaeprobe.errors import InputError, ResourceError
from vaeprobe.intervals import stream
from vaeprobe.progress import tell

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from vaeprobe.data import Data

    Array: TypeAlias = NDArray[np.float64]

BLOCK = 8192
FLOAT64_WORK = 5e10  # rows * columns^2 up to which products are formed in float64, whatever the data


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and centred scatter of rows.

    Attributes:
        n: number of rows.
        mean: shape (m,).
        scatter: sum of (x - mean)(x - mean)^T, shape (m, m).
    """

    n: int
    mean: Array
    scatter: Array

    @property
    def covariance(self) -> Array:
        """The covariance S, divided by n, shape (m, m)."""
        return self.scatter / self.n

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of the rows of both (Chan, Golub and LeVeque 1983)."""
        n = self.n + other.n
        if 0 in (self.n, other.n):
            return other if self.n == 0 else self
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter += np.outer(step, step) * (self.n * other.n / n)
        return Moments(n, self.mean + step * (other.n / n), scatter)


def arithmetic(data: Data) -> np.dtype[np.floating]:
    """Return the type that products are formed in: float32 for large float32 data, else float64."""
    small = data.rows * data.columns**2 <= FLOAT64_WORK
    return np.dtype(np.float64 if small else data.dtype)


def accumulate(
    data: Data, *, dtype: DTypeLike | None = None, folds: int = 1, seed: int = 0
) -> tuple[Moments, ...]:
    """Return the moments of the rows, one per random fold, in one pass.

    Args:
        data: rows, m columns.
        dtype: type of the products; by default `arithmetic(data)`.
        folds: number of random parts; their sum is the moments of all rows.
        seed: seed of the assignment of rows to folds.

    Raises:
        ResourceError: the m x m matrices do not fit into memory.
    """
    kind = np.dtype(dtype or arithmetic(data))
    m = data.columns
    size = max(256, min(BLOCK, 2**25 // max(1, m * kind.itemsize)))
    try:
        outer = np.zeros((folds, m, m))
        work = np.empty((min(size, data.rows), m), kind)
    except MemoryError:
        raise ResourceError(
            f"the covariance of {m} columns takes {folds * m * m * 8 / 2**30:.1f} GiB",
            hint="--solver randomized needs no covariance matrix",
        ) from None
    sums, counts = np.zeros((folds, m)), np.zeros(folds, np.int64)
    shift = np.zeros(m, kind)
    rng = stream(seed, "folds")
    if folds > 1:  # a row is in the same fold whichever process reads it
        for first in range(0, data.first, BLOCK):
            rng.integers(folds, size=min(BLOCK, data.first - first))
    done = 0
    for block in data.blocks(size, dtype=kind):
        if done == 0 and len(block):
            shift = block.mean(axis=0, dtype=np.float64).astype(kind)
        v = np.subtract(block, shift, out=work[: len(block)])
        owner = rng.integers(folds, size=len(v)) if folds > 1 else None
        for k in range(folds):
            part = v if owner is None else v[owner == k]
            with np.errstate(over="ignore", invalid="ignore"):  # refused where the covariance is used
                outer[k] += part.T @ part
                sums[k] += np.ones(len(part), kind) @ part
            counts[k] += len(part)
        done += len(block)
        tell("moments", done, data.rows)
    tell("moments", data.rows, data.rows)
    out = []
    for k in range(folds):
        n = int(counts[k])
        centre = sums[k] / max(n, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            outer[k] -= np.outer(centre, sums[k])
        out.append(Moments(n, shift + centre, outer[k]))
    return tuple(out)


def total(parts: tuple[Moments, ...]) -> Moments:
    """Return the moments of all parts together.

    Raises:
        InputError: there are fewer than two rows.
    """
    whole = reduce(Moments.__add__, parts)
    if whole.n < 2:
        raise InputError(
            f"a covariance needs two rows or more, and there {'is' if whole.n == 1 else 'are'} {whole.n}",
            hint="one row per sample: was the array transposed?",
        )
    return whole
