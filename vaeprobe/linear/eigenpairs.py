"""Eigenpairs of a covariance as data, and how many of their digits rounding leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from vaeprobe.errors import InputError
from vaeprobe.kept import kept_arrays
from vaeprobe.linear.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vaeprobe.linear.moments import Array

__all__ = [
    "Solver",
    "FLOAT32_DIGITS",
    "Spectrum",
    "coarse",
    "eigenpairs",
    "eigh",
    "from_singular",
    "kept_spectrum",
    "least",
    "lost",
    "norm_bound",
    "refuse_overflow",
    "refuse_vanishing",
    "svd",
]


Solver = Literal["exact", "dual", "randomized", "em"]
FLOAT32_DIGITS = 1e-3  # relative error of a needed eigenvalue from which float32 products are formed anew
DIGITS = 1e-9  # relative error of a needed eigenvalue from which the covariance has lost its digits
VANISHING = 1e-290  # total variance whose parts have digits enough: the smallest float64 that has all its own is 2e-308
MEAN_ULPS = 8  # units in the last place of a mean: a spread of that many is its rounding


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenpairs of the covariance S (divided by n), largest first.

    Attributes:
        n: number of rows.
        mean: shape (m,).
        values: the known eigenvalues, shape (k,), descending, none negative.
        vectors: unit eigenvectors as columns, shape (m, k); the largest entry of each is positive.
        total: trace of S, the total variance.
        solver: how they were computed.
        residuals: ||S u - lambda u|| per pair, shape (k,), the same of the inner products of few rows, whose eigenvalues
            are equal, when a pair was found (later steps for others bring it nearer), or what float32 products are off by:
            a true eigenvalue lies that near; 0 where exact.
        resolution: variance below which a direction is rounding error.
        precision: type of the products, "float64" or "float32".
        left: variance outside the known directions; None takes it from `total`, to rounding of the whole.
        free: number of columns that are not constant.
        singular: whether the values are squares of singular values of the rows, for the covariance had lost them.
        left_out: rows with NaN or infinity that were read and left out.
        parts: moments of random parts of the rows, where they were asked for and the covariance was formed.
    """

    n: int
    mean: Array
    values: Array
    vectors: Array
    total: float
    solver: Solver
    residuals: Array
    resolution: float
    precision: str = "float64"
    left: float | None = None
    free: int = -1
    singular: bool = False
    left_out: int = 0
    parts: tuple[Moments, ...] = ()

    def __post_init__(self) -> None:
        if self.free < 0:
            object.__setattr__(self, "free", self.m)

    @property
    def m(self) -> int:
        """Number of columns of the data."""
        return len(self.mean)

    @property
    def complete(self) -> bool:
        """Whether every eigenvalue that is not zero is known."""
        return self.solver in ("exact", "dual")

    @property
    def rank(self) -> int:
        """Known eigenvalues above rounding error."""
        return int((self.values > self.resolution).sum())

    @property
    def error(self) -> float:
        """Largest residual over the largest eigenvalue."""
        return float(self.residuals.max() / self.values[0]) if self.values[0] > 0 else 0.0

    def rest(self, d: int) -> float:
        """Return the variance outside the first d directions, never negative."""
        if self.left is None:
            return max(0.0, self.total - float(self.values[:d].sum()))
        return self.left + float(self.values[d:].sum())

    def noise(self, top: int) -> Array:
        """Return the mean variance outside the first k directions, over the columns that vary, k = 1..top."""
        if self.left is None:
            outside = self.total - np.cumsum(self.values[:top])
        else:
            outside = self.left + np.append(np.cumsum(self.values[::-1])[::-1], 0.0)[1 : top + 1]
        return np.asarray(np.maximum(outside, 0.0) / (self.free - np.arange(1, top + 1)))

    def product(self, V: Array) -> Array:
        """Return S V for a complete spectrum, shape (m, k)."""
        return self.vectors @ (self.values[:, None] * (self.vectors.T @ V))


def eigh(S: Array) -> tuple[Array, Array]:
    """Return eigenvalues, ascending, and eigenvectors, from the file of this run where they are there."""
    values, vectors = kept_arrays(lambda: ("eigh", S), lambda: tuple(np.linalg.eigh(S)))
    return values, vectors


def svd(X: Array) -> tuple[Array, Array]:
    """Return singular values and right singular vectors as columns, from the file of this run where they are there."""
    s, Vt = kept_arrays(lambda: ("svd", X), lambda: tuple(np.linalg.svd(X, full_matrices=False)[1:]))
    return s, Vt.T


def kept_spectrum(made_of: Callable[[], Iterable[object]], work: Callable[[], Spectrum]) -> Spectrum:
    """Return a spectrum that is no sum over rows from the file of this run where all processes have it, else computed."""
    names: list[tuple[Solver, str]] = [
        (solver, kind) for solver in get_args(Solver) for kind in ("float32", "float64")
    ]

    def packed() -> tuple[Array, ...]:
        found = work()
        left = math.nan if found.left is None else found.left
        numbers = [found.n, found.total, found.resolution, left, found.free, found.singular, found.left_out]
        numbers.append(names.index((found.solver, found.precision)))
        return np.array(numbers, np.float64), found.mean, found.values, found.vectors, found.residuals

    piece = kept_arrays(made_of, packed, together=True, parts=True)
    numbers, mean, values, vectors, residuals = piece
    n, total, resolution, left, free, singular, left_out, name = numbers.tolist()
    solver, precision = names[int(name)]
    return Spectrum(
        n=int(n),
        mean=mean,
        values=values,
        vectors=vectors,
        total=total,
        solver=solver,
        residuals=residuals,
        resolution=resolution,
        precision=precision,
        left=None if math.isnan(left) else left,
        free=int(free),
        singular=bool(singular),
        left_out=int(left_out),
    )


def norm_bound(D: Array) -> float:
    """Return an upper bound of the spectral norm of a symmetric matrix, (tr D^16)^(1/16), at most m^(1/16) too large.

    The powers are float32, for whose rounding one part in 10^5 is added.
    """
    size = float(np.linalg.norm(D))
    if size == 0:
        return 0.0
    power = (D / size).astype(np.float32)
    for _ in range(3):
        power = power @ power.T
    return size * math.sqrt(math.sqrt(math.sqrt(float(np.linalg.norm(power))))) * (1 + 1e-5)


def least(found: Spectrum, k: int) -> float:
    """Return the smallest eigenvalue that matters for up to k latents: the k-th, or the mean of those after it."""
    there = min(k, found.free, max(found.n - 1, 1), len(found.values))
    smallest = float(found.values[there - 1]) if there else 0.0
    after = min(found.free, found.n - 1) - there
    return smallest if after <= 0 else min(smallest, found.rest(there) / after)


def lost(found: Spectrum, k: int) -> bool:
    """Whether a covariance's rounding is more than 1e-9 of the smallest eigenvalue that matters for k latents."""
    size = min(found.m, found.n)
    rounding = math.sqrt(size) * float(np.finfo(np.float64).eps) * float(found.values[0])
    return least(found, k) * DIGITS < rounding


def coarse(found: Spectrum, k: int) -> bool:
    """Whether float32's rounding of rows is more than 1e-3 of an eigenvalue that matters for k latents, or of the rest."""
    epsilon = float(np.finfo(np.float32).eps)
    there = min(k, found.free, max(found.n - 1, 1), len(found.values))
    few = found.values[there - 1] * FLOAT32_DIGITS < epsilon * found.values[0] if there else True
    more = min(found.free, found.n - 1) > there
    return bool(few or (more and found.rest(there) * FLOAT32_DIGITS < epsilon * found.total))


def from_singular(s: Array, vectors: Array, found: Spectrum, left: float = 0.0) -> Spectrum:
    """Return the spectrum whose eigenvalues are squares of singular values of the rows, shape (k,)."""
    values = s**2 / found.n
    epsilon = float(np.finfo(np.float64).eps)
    # a singular value is exact to some eps of the largest one
    rounding = float(values.max(initial=0.0)) * (found.m * epsilon) ** 2
    return replace(
        found,
        values=values,
        vectors=_canonical(vectors),
        total=float(values.sum()) + left,
        residuals=np.zeros(len(values)) if left == 0 else found.residuals,
        resolution=max(rounding, _rounding_of_mean(found.mean)),
        left=left,
        singular=True,
    )


def _rounding_of_mean(mean: Array) -> float:
    """Return the variance that the rounding of a large mean makes by itself."""
    return float(np.square(MEAN_ULPS * np.finfo(np.float64).eps * np.abs(mean).max(initial=0.0)))


def refuse_overflow(products: Array) -> None:
    if not np.isfinite(products).all():
        raise InputError(
            "squares of these numbers overflow", hint="scale the data: multiply every column by 1e-100, say"
        )


def refuse_vanishing(total: float) -> None:
    if total < VANISHING:
        raise InputError(
            "squares of these numbers are below the smallest ones that have all their digits",
            hint="scale the data: multiply every column by 1e100, say",
        )


def eigenpairs(
    n: int,
    mean: Array,
    values: Array,
    vectors: Array,
    total: float,
    solver: Solver,
    kind: np.dtype[np.floating],
    variances: Array,
    left: float | None = 0.0,
) -> Spectrum:
    """Return a spectrum; `variances` are those of the columns, shape (m,)."""
    values = np.maximum(values, 0.0)
    epsilon = float(np.finfo(kind).eps)
    # products lose some eps of the largest eigenvalue per column; over float32 ones of many rows, it averages out
    resolution = float(values.max(initial=0.0)) * epsilon * (16 if kind == np.float32 else len(mean))
    constant = variances <= np.square(MEAN_ULPS * np.finfo(np.float64).eps * np.abs(mean))
    return Spectrum(
        n=n,
        mean=mean,
        values=values,
        vectors=_canonical(vectors),
        total=total,
        solver=solver,
        residuals=np.zeros(len(values)),
        # a spread that is only the rounding of a large mean is no variance
        resolution=max(resolution, _rounding_of_mean(mean)),
        precision=kind.name,
        left=left,
        free=int((~constant).sum()),
    )


def _canonical(vectors: Array) -> Array:
    """Return the columns with signs that make the entry of largest size positive."""
    top = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return np.ascontiguousarray(vectors * np.where(top < 0, -1.0, 1.0))
