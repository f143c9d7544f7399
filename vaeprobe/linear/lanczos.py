"""Leading eigenpairs of many columns and many rows by block Lanczos, with residuals.

The space grows by the residuals of what is not yet found alone, so that the last steps, which only a few of the pairs
need, are cheap.  Of rows in memory one half of the covariance's product, by X on its shorter side, is kept, from which
Rayleigh quotients follow; the other half, which residuals take, is asked for those pairs alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vaeprobe.intervals import stream
from vaeprobe.linear.eigenpairs import Spectrum, coarse, eigenpairs, from_singular, lost
from vaeprobe.linear.rows import STRIDE, Rows, orthonormal
from vaeprobe.progress import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vaeprobe.linear.moments import Array

__all__ = ["OVERSAMPLING", "randomized"]


OVERSAMPLING = 10

PASSES = 60
NOISE = 16  # units in the last place of the largest eigenvalue below which products tell nothing
BESIDE = (
    4  # pairs past those wanted whose residuals the space grows by too, for the last wanted one is near them
)
LARGEST = 6  # blocks of a basis, from which it starts anew from the leading pairs
TOLERANCE = 1e-6  # estimated relative error of an eigenvalue at which the randomized solver stops
TIGHT = 1e-14  # the same where the noise is small beside the signal


def randomized(rows: Rows, k: int, seed: int) -> Spectrum:
    """Return the k leading eigenpairs, from singular values of the rows where their covariance has lost the digits.

    Where float32 products blur them, steps in float64 go on from there.
    """
    found, space = _lanczos(rows, k, seed, TOLERANCE)
    if rows.kind == np.float32 and coarse(found, k):
        few, rows = rows.few, Rows.of(rows.data.widened(), rows.processes)
        # what fitted into memory in float32 alone is streamed, and the space on its other side
        found, space = _lanczos(rows, k, seed, TOLERANCE, space if rows.few == few else None)
    if not lost(found, k):
        return found
    found, _ = _lanczos(rows, k, seed, TIGHT, space)
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


def _lanczos(
    rows: Rows, k: int, seed: int, tolerance: float, start: Callable[[], Array] | None = None
) -> tuple[Spectrum, Callable[[], Array]]:
    """Return the k leading eigenpairs, and what gives the leading directions of their space, to go on from.

    Args:
        start: gives orthonormal columns to begin with; None looks for some.
    """
    m = len(rows.mean)
    block = min(-(-(k + OVERSAMPLING) // STRIDE) * STRIDE, m, max(rows.n - 1, 1))
    scale = rows.total or 1.0  # so that squares of eigenvalues overflow no sooner than the eigenvalues
    operator = _Streamed(rows, scale) if rows.memory is None else _InMemory(rows, scale)
    digits = float(np.finfo(rows.kind).eps) * NOISE
    begin = rows.start(block, min(k, block), seed) if start is None else start()
    found = _leading(operator, begin, k, tolerance, digits)
    values, residuals, vectors = found.values, found.residuals, found.vectors
    if len(values) < k:  # the rows lie in fewer directions than were asked for
        more = stream(seed, "complement").standard_normal((m, k - len(values)))
        more -= vectors @ (vectors.T @ more)
        vectors = np.hstack([vectors, orthonormal(more - vectors @ (vectors.T @ more))])
        values, residuals = (np.append(x, np.zeros(k - len(x))) for x in (values, residuals))
    pairs = eigenpairs(
        rows.n, rows.mean, values * scale, vectors, rows.total, "randomized", rows.kind, rows.variances, None
    )
    return replace(pairs, residuals=residuals * scale), found.space


class _Operator(Protocol):
    """The covariance on a basis that grows, over a scale.

    Attributes:
        aside: whether eigenvectors are on the other side of the rows, where the halves of products lie.
    """

    aside: bool

    def enter(self, basis: Array, new: int) -> Array:
        """Take in a basis whose last columns are new, and return basis^T S of these, shape (b, new)."""

    def applied(self, Y: Array) -> tuple[Array, NDArray[np.floating]]:
        """Return S basis Y, and the half of the product that lies aside, of no columns where it is not asked for."""

    def turn(self, Z: Array) -> None:
        """Take the basis times Z for the basis."""


class _InMemory:
    """The covariance of rows in memory, or of few rows their inner products over n, which have the same eigenvalues.

    Attributes:
        root: of the number of rows times the scale, by which either half of a product is divided.
        images: X basis, or of few rows X^T basis, over the root, some columns each, in the type of products.
    """

    images: list[NDArray[np.floating]]

    def __init__(self, rows: Rows, scale: float) -> None:
        self.rows = rows
        self.aside = rows.few
        self.root = math.sqrt(rows.n * scale)
        self.images = []

    def enter(self, basis: Array, new: int) -> Array:
        rows, Q = self.rows, basis[:, -new:] / self.root
        self.images.append((rows.across if rows.few else rows.along)(Q).astype(rows.kind, copy=False))
        return rows.processes.sum(
            np.vstack([part.T @ self.images[-1] for part in self.images]).astype(np.float64)
        )

    def applied(self, Y: Array) -> tuple[Array, NDArray[np.floating]]:
        Z, rows = self.image(Y), self.rows
        if rows.few:
            return rows.along(Z).astype(np.float64) / self.root, Z
        return rows.processes.sum(rows.across(Z).astype(np.float64)) / self.root, Z[:, :0]

    def turn(self, Z: Array) -> None:
        self.images = [self.image(Z)]

    def image(self, Y: Array) -> NDArray[np.floating]:
        """Return the image of basis Y."""
        ends, Y = np.cumsum([part.shape[1] for part in self.images]), Y.astype(self.rows.kind)
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
    aside = False

    def __init__(self, rows: Rows, scale: float) -> None:
        self.rows = rows
        self.scale = scale
        self.products = np.zeros((len(rows.mean), 0))

    def enter(self, basis: Array, new: int) -> Array:
        self.products = np.hstack([self.products, self.rows.product(basis[:, -new:]) / self.scale])
        return basis.T @ self.products[:, -new:]

    def applied(self, Y: Array) -> tuple[Array, NDArray[np.floating]]:
        return self.products @ Y, Y[:0]

    def turn(self, Z: Array) -> None:
        self.products = self.products @ Z


@dataclass(frozen=True, eq=False)
class _Leading:
    """Leading eigenpairs from a Krylov space and a half step beyond it.

    Attributes:
        values: shape (k,), descending.
        residuals: ||A v - value v|| of the Ritz vectors, shape (k,), when they were last asked for.
        vectors: unit eigenvectors, of the covariance whichever side the space is on, shape (m, k).
        basis: orthonormal columns of the space, shape (size, b).
        weights: the leading Ritz vectors in it, of a block, shape (b, block).
    """

    values: Array
    residuals: Array
    vectors: Array
    basis: Array
    weights: Array

    def space(self) -> Array:
        """Return the leading Ritz vectors of a block, orthonormal, shape (size, block)."""
        return orthonormal(self.basis @ self.weights)


def _leading(operator: _Operator, start: Array, k: int, tolerance: float, digits: float) -> _Leading:
    """Return the k leading eigenpairs of a symmetric matrix, to the relative error that is estimated.

    Args:
        start: orthonormal columns, more than k where there are more.
        digits: error of the matrix over its largest eigenvalue: no digits are asked of values below it.
    """
    basis, (size, block) = start, start.shape
    T = operator.enter(basis, block)
    k, wanted = min(k + BESIDE, block), min(k, block)
    # of each pair as it was last asked for: its value, vector, product, and the half of that which lies aside
    residuals, then = np.full(k, np.inf), np.full(k, -np.inf)
    U, SU = np.empty((size, k), order="F"), np.empty((size, k), order="F")
    half = np.empty((0, k))
    far, outside = np.ones(k, np.bool_), math.inf
    for step in range(1, PASSES + 1):
        values, Y = np.linalg.eigh((T + T.T) / 2)
        values, Y = values[::-1][:block], Y[:, ::-1][:, :block]
        # of a value that rose further than it was off, the vector is another one now
        off = far | (values[:k] - then > residuals)
        open_ = slice(k) if off.all() else np.flatnonzero(off)
        U[:, open_] = basis @ Y[:, open_]
        SU[:, open_], aside = operator.applied(Y[:, open_])
        if operator.aside:
            half = half if len(half) else np.empty((len(aside), k), order="F")
            half[:, open_] = aside
        W = SU[:, open_] - U[:, open_] * values[open_]
        residuals[open_], then[open_] = np.linalg.norm(W, axis=0), values[open_]
        errors = _estimated_errors(values, residuals[:wanted], digits, outside)
        errors = np.append(errors, np.full(k - wanted, np.inf))
        far[open_] = errors[open_] > tolerance
        if not far[:wanted].any():
            break
        tell("randomized spectrum, passes", step, PASSES)
        W = W[:, far[open_]]
        if basis.shape[1] + W.shape[1] > LARGEST * block:
            operator.turn(Y)
            basis, T, Y = basis @ Y, np.diag(values), np.eye(block)
        Q = _beyond(basis, W)
        if Q.shape[1] == 0 or step == PASSES:
            break
        basis = np.hstack([basis, Q])
        new = operator.enter(basis, Q.shape[1])
        outside = float(np.linalg.eigvalsh(new[len(T) :])[-1])
        T = np.block([[T, new[: len(T)]], [new[: len(T)].T, new[len(T) :]]])
    tell("randomized spectrum, passes", PASSES, PASSES)
    there = int((values[:k] > digits * values[0]).sum())
    if operator.aside:
        values, vectors = _half_a_step_on(half[:, :there], SU[:, :there], wanted, aside=True)
    elif there < k:
        values, vectors = values[:wanted], basis @ Y[:, :wanted]
    else:
        values, vectors = _half_a_step_on(U, SU, wanted, aside=False)
    return _Leading(values, residuals[: len(values)], vectors, basis, Y)


def _half_a_step_on(U: Array, SU: Array, wanted: int, *, aside: bool) -> tuple[Array, Array]:
    """Return the pairs of the space S^(1/2) U, whose products are at hand: what U has of smaller pairs is smaller there.

    For X^T X = S that space is X U, but for a rotation, and its products X^T X U = S U; for X X^T = S it is X^T U.

    Args:
        U: Ritz vectors of S, shape (size, k), or X^T U, shape (other, k), where eigenvectors are asked for on that side.
        SU: S times the Ritz vectors, shape (size, k).
        wanted: as many pairs as are asked for.
    """
    M = U.T @ U if aside else U.T @ SU
    D = np.sqrt(np.diag(M))
    L = np.linalg.inv(np.linalg.cholesky((M + M.T) / 2 / np.outer(D, D)))
    values, Y = np.linalg.eigh(L @ (SU.T @ SU / np.outer(D, D)) @ L.T)
    values, Y = values[::-1][:wanted], (L.T @ Y[:, ::-1][:, :wanted]) / D[:, None]
    vectors = U @ Y if aside else SU @ (Y / np.sqrt(values))
    return values, vectors


def _beyond(basis: Array, W: Array) -> Array:
    """Return orthonormal columns for what W has outside the basis, which is small or nothing where W is rounding."""
    W = W / np.maximum(np.linalg.norm(W, axis=0), float(np.finfo(np.float64).tiny))
    Q = orthonormal(W - basis @ (basis.T @ W))
    return Q[:, : len(basis) - basis.shape[1]]


def _estimated_errors(values: Array, residuals: Array, digits: float, outside: float) -> Array:
    """Return the relative errors of the first values: residuals^2 over the gap, or the residual, shape (k,).

    What the basis has not seen lies below the last Ritz value or so, and it is the gap to that which counts; values
    that the residuals cannot tell apart are one cluster, whose residuals add up.  Of what a vector has of other
    pairs half a step leaves as much less as their values are smaller.

    Args:
        values: of a whole block, shape (b,).
        residuals: of the first k <= b of them.
        outside: the largest value of the directions that residuals had a step before.
    """
    first = values[: len(residuals)]
    near = np.abs(first[:, None] - first) <= residuals[:, None] + residuals
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = near @ np.square(residuals) / (first - values[-1])
        bound *= np.minimum(1.0, max(outside, values[-1]) / first)
        bound = np.where(first > values[-1], np.minimum(residuals, bound), residuals)
        return np.where(first > digits * values[0], bound / first, 0.0)
