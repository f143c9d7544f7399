"""Leading eigenpairs of many columns and many rows by block Lanczos, with residuals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vaeprobe.intervals import stream
from vaeprobe.linear.eigenpairs import Spectrum, eigenpairs, from_singular, lost
from vaeprobe.linear.rows import Rows, orthonormal
from vaeprobe.progress import tell

if TYPE_CHECKING:
    from vaeprobe.linear.moments import Array

__all__ = ["OVERSAMPLING", "randomized"]


OVERSAMPLING = 10
WIDTH = 16  # columns that a kernel of matrix multiplication takes at once
PASSES = 30
TOLERANCE = 1e-6  # estimated error over lambda_1 (conservative) at which the randomized solver stops
TOLERANCE_FLOAT32 = 2e-6  # the same for float32 rows, whose products are off by a tenth of that
TIGHT = 1e-14  # the same where the noise is small beside the signal


def randomized(rows: Rows, k: int, seed: int) -> Spectrum:
    """Return the k leading eigenpairs, from singular values of the rows where their covariance has lost the digits."""
    tolerance = TOLERANCE_FLOAT32 if rows.kind == np.float32 else TOLERANCE
    found = _lanczos(rows, k, seed, tolerance)
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
    # products with 48 columns take no longer than with 42
    block = min(-(-(k + OVERSAMPLING) // WIDTH) * WIDTH, m, max(rows.n - 1, 1))
    scale = rows.total or 1.0  # so that squares of eigenvalues overflow no sooner than the eigenvalues
    start = rows.start(block, seed)
    if rows.memory is not None and rows.n < m and rows.processes.world == 1:
        found = _of_few_rows(rows, start, k, tolerance, scale)
    else:
        found = _krylov(lambda Q: rows.product(Q) / scale, orthonormal(start), k, tolerance)
    values, vectors, residuals = found.values[:k], found.vectors[:, :k], found.residuals[:k]
    if len(values) < k:  # the rows lie in fewer directions than were asked for
        more = stream(seed, "complement").standard_normal((m, k - len(values)))
        more -= vectors @ (vectors.T @ more)
        vectors = np.hstack([vectors, orthonormal(more - vectors @ (vectors.T @ more))])
        values, residuals = (np.append(x, np.zeros(k - len(x))) for x in (values, residuals))
    pairs = eigenpairs(
        rows.n, rows.mean, values * scale, vectors, rows.total, "randomized", rows.kind, rows.variances, None
    )
    return replace(pairs, residuals=residuals * scale)


@dataclass(frozen=True, eq=False)
class _Ritz:
    """Leading eigenpairs from a Krylov space.

    Attributes:
        values: Ritz values, shape (r,), descending.
        residuals: ||A v - value v||, shape (r,).
        basis: of the space, shape (size, b).
        weights: the Ritz vectors in it, shape (b, r).
    """

    values: Array
    residuals: Array
    basis: Array
    weights: Array

    @property
    def vectors(self) -> Array:
        """Ritz vectors, shape (size, r)."""
        return self.basis @ self.weights


def _krylov(product: Callable[[Array], Array], start: Array, k: int, tolerance: float) -> _Ritz:
    """Return the leading eigenpairs of a symmetric matrix by block Lanczos, to the error that is estimated.

    Args:
        product: multiplies orthonormal columns, shape (size, b), by the matrix.
        start: orthonormal columns.
    """
    Q = basis = start
    size, block = start.shape
    T = np.zeros((0, 0))
    steps = min(PASSES, -(-size // block))
    for step in range(1, steps + 1):
        W = product(Q)
        lengths = np.linalg.norm(W, axis=0)
        # full reorthogonalisation, twice; the first pass gives the new block column of T
        H = basis.T @ W
        W -= basis @ H
        W -= basis @ (basis.T @ W)
        T = np.block([[T, H[: len(T)]], [H[: len(T)].T, (H[len(T) :] + H[len(T) :].T) / 2]])
        values, Y = np.linalg.eigh(T)
        values, Y = values[::-1][:block], Y[:, ::-1][:, :block]
        residuals = np.linalg.norm(W @ Y[basis.shape[1] - Q.shape[1] :], axis=0)
        tell("randomized spectrum, passes", step, steps)
        if _estimated_error(values, residuals, k) <= tolerance or step == steps:
            break
        # what rounding left of columns that the basis spans is no direction
        Q = orthonormal(W[:, np.linalg.norm(W, axis=0) > 1e-13 * lengths.max()])
        Q = orthonormal(Q - basis @ (basis.T @ Q), times=1)[:, : size - basis.shape[1]]
        if Q.shape[1] == 0:
            break
        basis = np.hstack([basis, Q])
    tell("randomized spectrum, passes", steps, steps)
    return _Ritz(values, residuals, basis, Y)


def _of_few_rows(rows: Rows, start: Array, k: int, tolerance: float, scale: float) -> _Ritz:
    """Return the same of the covariance from that of the inner products X X^T / n, whose vectors are shorter.

    Its values are the same, and residuals bound their errors alike; a vector v is X^T v by its length.
    """
    there: list[Array] = []  # X^T Q of the columns of the basis

    def product(Q: Array) -> Array:
        there.append(rows.across(Q))
        return rows.along(there[-1]).astype(np.float64) / (rows.n * scale)

    found = _krylov(product, orthonormal(rows.along(start).astype(np.float64)), k, tolerance)
    kept = found.values > found.values[0] * float(np.finfo(rows.kind).eps)
    U = np.hstack(there) @ found.weights[:, kept]
    U /= np.linalg.norm(U, axis=0)
    # what rounding left of their inner products goes in equal shares
    squares, V = np.linalg.eigh(U.T @ U)
    U = U @ ((V / np.sqrt(squares)) @ V.T)
    return replace(
        found,
        values=found.values[kept],
        residuals=found.residuals[kept],
        basis=U,
        weights=np.eye(len(squares)),
    )


def _estimated_error(values: Array, residuals: Array, k: int) -> float:
    """Return the largest error of the first k Ritz values, residuals^2 over the gap or the residual, over the first one.

    One hundredth of the error over the value itself counts too, so that the small ones keep four digits.

    What the basis has not seen lies below the last Ritz value or so, and it is the gap to that which counts; values
    that the residuals cannot tell apart are one cluster, whose residuals add up.
    """
    k = min(k, len(values))
    near = np.abs(values[:k, None] - values) <= residuals.max()
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = near @ np.square(residuals) / (values[:k] - values[-1])
    bound = np.where(values[:k] > values[-1], np.minimum(residuals[:k], bound), residuals[:k])
    scale = np.maximum(np.minimum(values[0], 100 * values[:k]), float(np.finfo(np.float64).tiny))
    return float((bound / scale).max(initial=0.0))
