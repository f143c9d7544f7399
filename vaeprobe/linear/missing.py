"""PPCA from rows with missing values, by EM on what is observed (Tipping and Bishop 1999, Section 4; Ilin and Raiko 2010)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vaeprobe.errors import InputError, UsageError
from vaeprobe.linear.closed_form import LOG_2PI, completed
from vaeprobe.linear.spectrum import Spectrum
from vaeprobe.progress import tell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

STEPS = 5000
TOLERANCE = 1e-10  # gain of log-likelihood per row, nats, under which EM has come to rest


@dataclass(frozen=True, eq=False)
class MissingFit:
    """PPCA fitted to incomplete rows.

    Attributes:
        spectrum: eigenpairs of the model's covariance W W^T + sigma^2 I, as if no value were missing.
        sigma2: noise variance.
        loglik: mean log-likelihood of the observed values of a row, nats.
        missing: share of values that are missing.
        steps: EM steps taken.
        trace: (step, loglik).
        converged: whether EM came to rest.
    """

    spectrum: Spectrum
    sigma2: float
    loglik: float
    missing: float
    steps: int
    trace: tuple[tuple[int, float], ...]
    converged: bool


def fit(X: Array, d: int, *, sigma2: float | None = None, steps: int = STEPS, seed: int = 0) -> MissingFit:
    """Return the maximum-likelihood PPCA of rows whose missing values are NaN.

    The values must be missing at random.  EM starts from the mean and the principal axes of the rows with
    each gap filled by its column's mean.

    Args:
        X: shape (n, m), NaN where missing.
        d: number of latents, below m.
        sigma2: noise variance; None learns it.

    Raises:
        InputError: a column or every row is missing altogether, or a value is infinite.
        UsageError: d is out of range.
    """
    seen = np.isfinite(X)
    n, m = X.shape
    if np.isinf(X).any():
        raise InputError(
            "the data hold infinite values, which are not missing ones",
            hint="--drop-nonfinite leaves their rows out",
        )
    if not seen.any(axis=0).all():
        column = int(np.flatnonzero(~seen.any(axis=0))[0])
        raise InputError(f"column {column} (counted from 0) has no value at all", hint="leave it out")
    if not 1 <= d < m:
        raise UsageError(
            f"{d} latents are not possible for data of {m} columns", hint=f"choose from 1 to {m - 1}"
        )
    kept = seen.any(axis=1)
    X, seen = X[kept], seen[kept]
    n = len(X)
    if n < 2:
        raise InputError("a covariance needs two rows or more with a value in them")
    mask = seen.astype(np.float64)
    count = mask.sum()
    mean = np.where(seen, X, 0.0).sum(axis=0) / mask.sum(axis=0)
    filled = np.where(seen, X - mean, 0.0)
    U, s, _ = np.linalg.svd(filled.T, full_matrices=False)
    variance = s**2 / n
    noise = sigma2 or max(float(variance[d:].sum()) / (m - d), 1e-6 * float(variance.sum()) / m)
    W = completed(U[:, :d], d)
    W = W * np.sqrt(np.maximum(np.append(variance, np.zeros(d))[:d] - noise, 1e-3 * noise))

    Z0 = np.where(seen, X, 0.0)
    eye = np.eye(d)
    trace: list[tuple[int, float]] = []
    last, loglik, converged, step = -math.inf, -math.inf, False, 0
    for step in range(steps + 1):
        Y = np.where(seen, X - mean, 0.0)
        pairs = (W[:, :, None] * W[:, None, :]).reshape(m, d * d)
        M = (mask @ pairs).reshape(n, d, d) + noise * eye
        L = np.linalg.cholesky(M)
        inverse = np.linalg.inv(M)
        projected = Y @ W
        z = np.einsum("nij,nj->ni", inverse, projected)
        log_det = 2 * np.log(np.diagonal(L, axis1=1, axis2=2)).sum(axis=1)
        square = (np.square(Y).sum() - (z * projected).sum()) / noise
        loglik = (
            -0.5 * float(count * LOG_2PI + log_det.sum() + (count - n * d) * math.log(noise) + square) / n
        )
        if step % 10 == 0:
            trace.append((step, loglik))
            tell("EM on missing values", step, steps)
        if loglik - last <= TOLERANCE * max(1.0, abs(loglik)) and step > 0:
            converged = True
            break
        last = loglik
        if step == steps:
            break
        # M step: each column of the data is a regression on (z, 1) over the rows where it is seen
        second = np.empty((n, d + 1, d + 1))
        second[:, :d, :d] = noise * inverse + z[:, :, None] * z[:, None, :]
        second[:, :d, d] = second[:, d, :d] = z
        second[:, d, d] = 1.0
        A = (mask.T @ second.reshape(n, -1)).reshape(m, d + 1, d + 1)
        augmented = np.hstack([z, np.ones((n, 1))])
        B = Z0.T @ augmented
        ridge = 1e-12 * np.trace(A, axis1=1, axis2=2)[:, None, None] / (d + 1) * np.eye(d + 1)
        solved = np.linalg.solve(A + ridge, B[:, :, None])[:, :, 0]
        W, mean = solved[:, :d], solved[:, d]
        if sigma2 is None:
            energy = (
                np.square(Z0).sum()
                - 2 * (solved * B).sum()
                + (solved[:, :, None] * A * solved[:, None, :]).sum()
            )
            noise = max(float(energy / count), 1e-12 * float(variance.sum()) / m)
    tell("EM on missing values", steps, steps)
    trace.append((step, loglik))
    P, lengths, _ = np.linalg.svd(W, full_matrices=False)
    top = np.take_along_axis(P, np.abs(P).argmax(axis=0)[None], axis=0)
    values = np.append(lengths**2 + noise, np.full(m - d, noise))
    spectrum = Spectrum(
        n=n,
        mean=mean,
        values=values,
        vectors=completed(P * np.where(top < 0, -1.0, 1.0), m) if m <= 2048 else P,
        total=float(values.sum()),
        solver="em",
        residuals=np.zeros(d),
        resolution=float(values[0]) * 1e-12,
    )
    return MissingFit(spectrum, noise, loglik, 1 - float(count) / (n * m), step, tuple(trace), converged)
