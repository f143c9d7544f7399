"""Leading eigenpairs of many columns and many rows by block Lanczos, with residuals.

The space grows by the residuals of what is not yet found alone, so that the last steps, which only a few of the pairs
need, are cheap.  Of rows in memory one half of the covariance's product, by X on its shorter side, is kept, from which
Rayleigh quotients follow; the other half, which residuals take, is asked for those pairs alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vaeprobe.intervals import stream
from vaeprobe.linear.eigenpairs import Spectrum, eigenpairs, from_singular, lost
from vaeprobe.linear.rows import Rows, orthonormal
from vaeprobe.progress import tell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vaeprobe.linear.moments import Array

__all__ = ["OVERSAMPLING", "randomized"]


OVERSAMPLING = 10
WIDTH = 32  # products with 64 columns take little longer than with 42, most of which is reading the rows
PASSES = 60
NOISE = 16  # units in the last place of the largest eigenvalue below which products tell nothing
BESIDE = (
    4  # pairs past those wanted whose residuals the space grows by too, for the last wanted one is near them
)
LARGEST = 6  # blocks of a basis, from which it starts anew from the leading pairs
TOLERANCE = 1e-6  # estimated relative error of an eigenvalue at which the randomized solver stops
TIGHT = 1e-14  # the same where the noise is small beside the signal


def randomized(rows: Rows, k: int, seed: int) -> Spectrum:
    """Return the k leading eigenpairs, from singular values of the rows where their covariance has lost the digits."""
    found = _lanczos(rows, k, seed, TOLERANCE)
    if not lost(found, k):
        return found
    found = _lanczos(rows, k, seed, TIGHT)
    s, U, outside = rows.singular(found.vectors)
    # orthogonal iteration: X^T Q has columns as long as the singular values, not as their squares
    for _ in range(PASSES):
        before = outside
        there = s > s[0] * np.finfo(np.float64).eps
        turned, _ = np.linalg.qr(rows.product(U[:, there] / s[there]))
        s, U, outside = rows.singular(turned)
        if abs(outside - before) <= TOLERANCE * outside:
            break
    known = len(found.values)
    if len(s) < known:  # the rows lie in fewer directions than were asked for
        s = np.append(s, np.zeros(known - len(s)))
        U = np.linalg.qr(np.hstack([U, found.vectors]))[0][:, :known]
    return from_singular(s, U, found, outside)


def _lanczos(rows: Rows, k: int, seed: int, tolerance: float) -> Spectrum:
    m = len(rows.mean)
    block = min(-(-(k + OVERSAMPLING) // WIDTH) * WIDTH, m, max(rows.n - 1, 1))
    scale = rows.total or 1.0  # so that squares of eigenvalues overflow no sooner than the eigenvalues
    operator = _Streamed(rows, scale) if rows.memory is None else _InMemory(rows, scale)
    digits = float(np.finfo(rows.kind).eps) * NOISE
    found = _leading(operator, rows.start(block, seed), k, tolerance, digits)
    values, residuals = found.values, found.residuals
    if isinstance(operator, _InMemory) and rows.few:
        kept = values > values[0] * digits
        values, residuals, vectors = values[kept], residuals[kept], _spread(operator, found, kept)
    else:
        vectors = found.vectors
    if len(values) < k:  # the rows lie in fewer directions than were asked for
        more = stream(seed, "complement").standard_normal((m, k - len(values)))
        more -= vectors @ (vectors.T @ more)
        vectors = np.hstack([vectors, orthonormal(more - vectors @ (vectors.T @ more))])
        values, residuals = (np.append(x, np.zeros(k - len(x))) for x in (values, residuals))
    pairs = eigenpairs(
        rows.n, rows.mean, values * scale, vectors, rows.total, "randomized", rows.kind, rows.variances, None
    )
    return replace(pairs, residuals=residuals * scale)


class _Operator(Protocol):
    """The covariance on a basis that grows, over a scale."""

    def enter(self, basis: Array, new: int) -> Array:
        """Take in a basis whose last columns are new, and return basis^T S of these, shape (b, new)."""

    def applied(self, Y: Array) -> Array:
        """Return S basis Y."""

    def turn(self, Z: Array) -> None:
        """Take the basis times Z for the basis."""


class _InMemory:
    """The covariance of rows in memory, or of few rows their inner products over n, which have the same eigenvalues.

    Attributes:
        images: X basis, or of few rows X^T basis, some columns each, in float64: sums along them are over a long axis.
    """

    images: list[Array]

    def __init__(self, rows: Rows, scale: float) -> None:
        self.rows = rows
        self.scale = rows.n * scale
        self.images = []

    def enter(self, basis: Array, new: int) -> Array:
        rows, Q = self.rows, basis[:, -new:]
        self.images.append(rows.across(Q) if rows.few else rows.along(Q).astype(np.float64))
        T = np.vstack([part.T @ self.images[-1] for part in self.images])
        return rows.processes.sum(T) / self.scale

    def applied(self, Y: Array) -> Array:
        Z, rows = self.image(Y), self.rows
        if rows.few:
            return rows.along(Z).astype(np.float64) / self.scale
        return rows.processes.sum(rows.across(Z)) / self.scale

    def turn(self, Z: Array) -> None:
        self.images = [self.image(Z)]

    def image(self, Y: Array) -> Array:
        """Return the image of basis Y."""
        ends = np.cumsum([part.shape[1] for part in self.images])
        out = self.images[0] @ Y[: ends[0]]
        for part, end in zip(self.images[1:], ends[1:], strict=True):
            out += part @ Y[end - part.shape[1] : end]
        return np.asarray(out)


class _Streamed:
    """The covariance of rows that are read at every product.

    Attributes:
        products: S basis.
    """

    products: Array

    def __init__(self, rows: Rows, scale: float) -> None:
        self.rows = rows
        self.scale = scale
        self.products = np.zeros((len(rows.mean), 0))

    def enter(self, basis: Array, new: int) -> Array:
        self.products = np.hstack([self.products, self.rows.product(basis[:, -new:]) / self.scale])
        return basis.T @ self.products[:, -new:]

    def applied(self, Y: Array) -> Array:
        return self.products @ Y

    def turn(self, Z: Array) -> None:
        self.products = self.products @ Z


@dataclass(frozen=True, eq=False)
class _Ritz:
    """Leading eigenpairs from a Krylov space.

    Attributes:
        values: Ritz values, shape (k,), descending.
        residuals: ||A v - value v||, shape (k,), when it was last asked for: the space has grown since, if anything.
        basis: of the space, shape (size, b).
        weights: the Ritz vectors in it, shape (b, k).
    """

    values: Array
    residuals: Array
    basis: Array
    weights: Array

    @property
    def vectors(self) -> Array:
        """Ritz vectors, shape (size, k)."""
        return self.basis @ self.weights


def _leading(operator: _Operator, start: Array, k: int, tolerance: float, digits: float) -> _Ritz:
    """Return the k leading eigenpairs of a symmetric matrix, to the relative error that is estimated.

    Args:
        start: orthonormal columns, more than k where there are more.
        digits: error of the matrix over its largest eigenvalue: no digits are asked of values below it.
    """
    basis, (_size, block) = start, start.shape
    T = operator.enter(basis, block)
    k, wanted = min(k + BESIDE, block), min(k, block)
    residuals, open_ = np.full(k, np.inf), np.arange(k)
    for step in range(1, PASSES + 1):
        values, Y = np.linalg.eigh((T + T.T) / 2)
        values, Y = values[::-1][:block], Y[:, ::-1][:, :block]
        W = operator.applied(Y[:, open_]) - basis @ (Y[:, open_] * values[open_])
        residuals[open_] = np.linalg.norm(W, axis=0)
        far = np.arange(k) >= wanted
        far[:wanted] = _estimated_errors(values, residuals[:wanted], digits) > tolerance
        if not far[:wanted].any():
            break
        tell("randomized spectrum, passes", step, PASSES)
        W = W[:, far[open_]]
        open_ = np.flatnonzero(far)
        if basis.shape[1] + len(open_) > LARGEST * block:
            operator.turn(Y)
            basis, T, Y = basis @ Y, np.diag(values), np.eye(block)
        Q = _beyond(basis, W)
        if Q.shape[1] == 0 or step == PASSES:
            break
        basis = np.hstack([basis, Q])
        new = operator.enter(basis, Q.shape[1])
        T = np.block([[T, new[: len(T)]], [new[: len(T)].T, new[len(T) :]]])
    tell("randomized spectrum, passes", PASSES, PASSES)
    return _Ritz(values[:wanted], residuals[:wanted], basis, Y[:, :wanted])


def _beyond(basis: Array, W: Array) -> Array:
    """Return orthonormal columns for what W has outside the basis, which is small or nothing where W is rounding."""
    W = W / np.maximum(np.linalg.norm(W, axis=0), float(np.finfo(np.float64).tiny))
    Q = orthonormal(W - basis @ (basis.T @ W))
    return Q[:, : len(basis) - basis.shape[1]]


def _spread(operator: _InMemory, found: _Ritz, kept: NDArray[np.bool_]) -> Array:
    """Return X^T v by its length for eigenvectors v of the inner products of few rows, orthonormal, shape (m, kept)."""
    U = operator.image(found.weights[:, kept])
    U /= np.linalg.norm(U, axis=0)
    # what rounding left of their inner products goes in equal shares
    squares, V = np.linalg.eigh(U.T @ U)
    return np.asarray(U @ ((V / np.sqrt(squares)) @ V.T))


def _estimated_errors(values: Array, residuals: Array, digits: float) -> Array:
    """Return the relative errors of the first Ritz values: residuals^2 over the gap, or the residual, shape (k,).

    What the basis has not seen lies below the last Ritz value or so, and it is the gap to that which counts; values
    that the residuals cannot tell apart are one cluster, whose residuals add up.

    Args:
        values: of a whole block, shape (b,).
        residuals: of the first k <= b of them.
    """
    first = values[: len(residuals)]
    near = np.abs(first[:, None] - first) <= residuals.max(initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = near @ np.square(residuals) / (first - values[-1])
        bound = np.where(first > values[-1], np.minimum(residuals, bound), residuals)
        return np.where(first > digits * values[0], bound / first, 0.0)
