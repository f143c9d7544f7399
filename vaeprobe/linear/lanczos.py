"""Leading eigenpairs of many columns and many rows by block Lanczos, with residuals."""

from __future__ import annotations

import math
from dataclasses import replace
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
TIGHT = 1e-14  # the same where the noise is small beside the signal


def randomized(rows: Rows, k: int, seed: int) -> Spectrum:
    """Return the k leading eigenpairs, from singular values of the rows where their covariance has lost the digits."""
    found = _lanczos(rows, k, seed, TOLERANCE)
    if not lost(found, k):
        return found
    found = _lanczos(rows, k, seed, TIGHT)
    s, U, outside = rows.along(found.vectors)
    # orthogonal iteration: X^T Q has columns as long as the singular values, not as their squares
    for _ in range(PASSES):
        before = outside
        there = s > s[0] * np.finfo(np.float64).eps
        turned, _ = np.linalg.qr(rows.product(U[:, there] / s[there]))
        s, U, outside = rows.along(turned)
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
    steps = min(PASSES, -(-m // block))
    Q = rows.start(block, seed)
    basis = Q
    T = np.zeros((0, 0))
    scale = rows.total or 1.0  # so that squares of eigenvalues overflow no sooner than the eigenvalues
    for step in range(1, steps + 1):
        W = rows.product(Q) / scale
        lengths = np.linalg.norm(W, axis=0)
        # full reorthogonalisation, twice; the first pass gives the new block column of T
        H = basis.T @ W
        W -= basis @ H
        W -= basis @ (basis.T @ W)
        size = basis.shape[1]
        T = np.block([[T, H[: len(T)]], [H[: len(T)].T, (H[len(T) :] + H[len(T) :].T) / 2]])
        values, Y = np.linalg.eigh(T)
        values, Y = values[::-1][:block], Y[:, ::-1][:, :block]
        residuals = np.linalg.norm(W @ Y[size - Q.shape[1] :], axis=0)
        tell("randomized spectrum, passes", step, steps)
        if _estimated_error(values, residuals, k) <= tolerance or step == steps:
            break
        # what rounding left of columns that the basis spans is no direction
        Q = orthonormal(W[:, np.linalg.norm(W, axis=0) > 1e-13 * lengths.max()])
        Q = orthonormal(Q - basis @ (basis.T @ Q))[:, : m - size]
        if Q.shape[1] == 0:
            break
        basis = np.hstack([basis, Q])
    tell("randomized spectrum, passes", steps, steps)
    if len(values) < k:  # the rows lie in fewer directions than were asked for
        more = stream(seed, "complement").standard_normal((m, k - len(values)))
        basis = np.hstack([basis @ Y, orthonormal(more - basis @ (basis.T @ more))])
        Y = np.eye(basis.shape[1])
        values, residuals = (np.append(x, np.zeros(k - len(x))) for x in (values, residuals))
    vectors = basis @ Y[:, :k]
    values, residuals = values[:k] * scale, residuals[:k] * scale
    found = eigenpairs(
        rows.n, rows.mean, values, vectors, rows.total, "randomized", rows.kind, rows.variances, None
    )
    return replace(found, residuals=residuals)


def _estimated_error(values: Array, residuals: Array, k: int) -> float:
    """Return the largest error of the first k Ritz values, residuals^2 over the gap or the residual, over the first one.

    One hundredth of the error over the value itself counts too, so that the small ones keep four digits.

    What the basis has not seen lies below the last Ritz value or so, and it is the gap to that which counts; values
    that the residuals cannot tell apart are one cluster, whose residuals add up.
    """
    k, worst = min(k, len(values)), 0.0
    for i in range(k):
        near = np.abs(values - values[i]) <= residuals.max()
        gap = float(values[i] - values[-1])
        bound = float(np.square(residuals[near]).sum()) / gap if gap > 0 else math.inf
        scale = max(min(float(values[0]), 100 * float(values[i])), float(np.finfo(np.float64).tiny))
        worst = max(worst, min(float(residuals[i]), bound) / scale)
    return worst
