"""PPCA from rows with missing values, by EM on what is observed (Tipping and Bishop 1999, Section 4; Ilin and Raiko 2010).

Parameters are expanded (Liu, Rubin and Wu 1998, PX-EM): plain EM, at small noise, moves so little at a step that it seemed at
rest where the first eigenvalue was half of what it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vaeprobe.budget import budget
from vaeprobe.data import Data, in_memory
from vaeprobe.data.masks import with_gaps
from vaeprobe.data.shards import ArrayShard, RawShard
from vaeprobe.errors import InputError, ResourceError, UsageError
from vaeprobe.intervals import stream
from vaeprobe.kept import Trail
from vaeprobe.linear.closed_form import LOG_2PI, check_sigma2, completed
from vaeprobe.linear.eigenpairs import MEAN_ULPS, Spectrum, refuse_vanishing
from vaeprobe.linear.rows import CACHE_BYTES
from vaeprobe.linear.spectrum import EXACT_COLUMNS, NO_VARIANCE
from vaeprobe.progress import Descent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vaeprobe.linear.moments import Array

STEPS = 5000
LEAST = 1e-12  # noise variance, beside the mean variance of a column, that EM can tell from rounding
BLOCK_NUMBERS = 2**20  # numbers of a block's second moments, or of the block
MOMENT_BYTES = (
    1 << 27
)  # of the second moments of (z, 1), for some columns at a time: two such arrays are held
# rows that are stored as they are, which are read again in a small part of a step's time, are kept up to this size; others,
# that are parsed or inflated first, up to `CACHE_BYTES`
RAW_BYTES = 1 << 25
LOOK = 10  # steps between two entries of the trace
WEAK, KICK = 1e-3, 0.1
# squared length of a column of W, in noise variances, under which a latent has come to rest where it explains nothing, be that
# the optimum or not; and the one from which it is tried again
TOLERANCE = 1e-10  # gain of log-likelihood per observed number, nats, under which EM has come to rest: whatever the units

ROUNDING = 1e-6  # and the fall that is rounding


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
        timed_out: whether it ended because no time was left.
    """

    spectrum: Spectrum
    sigma2: float
    loglik: float
    missing: float
    steps: int
    trace: tuple[tuple[int, float], ...]
    converged: bool
    timed_out: bool = False


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows with gaps, block by block.

    Attributes:
        n: rows with a value in them.
        m: columns.
        count: values that are there.
        mean: of each column, over what is there, shape (m,): what blocks are counted from, for squares of what lies far from 0
            hide how they vary.
        energy: sum of squares of what is there, from the mean.
        size: rows per block.
    """

    data: Data
    n: int
    m: int
    count: int
    mean: Array
    energy: float
    size: int

    @classmethod
    def of(cls, X: Array | Data, d: int) -> _Rows:
        data = X if isinstance(X, Data) else in_memory(with_gaps(X), nonfinite="keep")
        m = data.columns
        raw = all(isinstance(shard, (ArrayShard, RawShard)) for shard in data.shards)
        if isinstance(X, Data) and data.rows * m * data.dtype.itemsize <= (RAW_BYTES if raw else CACHE_BYTES):
            data = in_memory(data.read().reshape(-1, m), nonfinite="keep")
        size = max(64, BLOCK_NUMBERS // max(m, (d + 1) ** 2))
        n, there, sums = 0, np.zeros(m, np.int64), np.zeros(m)
        for block in data.blocks(size, dtype=np.float64):
            if np.isinf(block).any():
                raise InputError(
                    "the data hold infinite values, which are not missing ones",
                    hint="put NaN where they stand",
                )
            seen = np.isfinite(block)
            n += int(seen.any(axis=1).sum())
            there += seen.sum(axis=0)
            sums += np.where(seen, block, 0.0).sum(axis=0)
        if not there.all():
            column = int(np.flatnonzero(there == 0)[0])
            raise InputError(
                f"column {column} (counted from 0) has no value at all",
                hint="leave it out of the data" if there.any() else "is it the right file or array?",
            )
        if not 1 <= d < m:
            raise UsageError(
                f"{d} latents are not possible for data of {m} columns",
                hint=f"choose --latent-dim from 1 to {m - 1}"
                if m > 1
                else "give data of two columns or more",
            )
        if n < 2:
            raise InputError(
                f"a covariance needs two rows or more with a value in them, and there is {n}",
                hint="is it the right file or array?",
            )
        rows = cls(data, n, m, int(there.sum()), sums / there, 0.0, size)
        energy = sum(float(np.square(values).sum()) for values, _ in rows.blocks())
        if not energy > rows.count * np.square(MEAN_ULPS * np.finfo(np.float64).eps * rows.mean).max():
            raise InputError(
                "the values of each column are equal: there is no variance to explain",
                hint=NO_VARIANCE,
            )
        return replace(rows, energy=energy)

    def blocks(self) -> Iterator[tuple[Array, NDArray[np.bool_]]]:
        """Yield rows with a value in them, from the mean and 0 where there is none, and where there is one, each shape (b, m)."""
        for block in self.data.blocks(self.size, dtype=np.float64):
            seen = np.isfinite(block)
            some = seen.any(axis=1)
            yield np.where(seen, block - self.mean, 0.0)[some], seen[some]

    def axes(self) -> tuple[Array, Array]:
        """Return the principal axes of the rows with each gap filled by its column's mean, and their variances."""
        if self.m > EXACT_COLUMNS:
            if self.n * self.m * 8 > CACHE_BYTES:
                raise ResourceError(
                    f"{self.n} rows of {self.m} columns with gaps do not fit into memory",
                    hint=f"choose up to {EXACT_COLUMNS} columns, or fewer rows",
                )
            filled = np.concatenate([values for values, _ in self.blocks()])
            U, s, _ = np.linalg.svd(filled.T, full_matrices=False)
            return U, s**2 / self.n
        S = np.zeros((self.m, self.m))
        for values, _ in self.blocks():
            S += values.T @ values
        found, vectors = np.linalg.eigh(S / self.n)
        return vectors[:, ::-1], np.maximum(found[::-1], 0.0)


@dataclass(frozen=True, eq=False)
class _Step:
    """One step of EM, with parameters expanded by the mean and covariance of the latents (Liu, Rubin and Wu 1998).

    The step is that of latents of any mean and covariance, written for those of mean 0 and covariance I again: as sure to
    gain, in a fraction of the steps where noise is small.

    Attributes:
        log_det, square: what the rows say at the parameters that it starts from: of log-determinants, and squares.
        W, mean: the next parameters, W with orthogonal columns: any rotation of the latents is as good.
        energy: sum of squares of what is there about the new regressions.
    """

    log_det: float
    square: float
    W: Array
    mean: Array
    energy: float


def _step(rows: _Rows, W: Array, mean: Array, noise: float) -> _Step:
    """Return the next step: each column of the data is a regression on (z, 1) over the rows where it is seen.

    A column's regression holds (d + 1)^2 second moments: as many columns at a time as `MOMENT_BYTES` hold, at a pass
    over the rows each.
    """
    m, d = W.shape
    log_det, square, energy = 0.0, 0.0, rows.energy
    new, of_latents = np.empty((m, d + 1)), np.zeros((d + 1) ** 2)
    for columns in _column_blocks(m, d):
        c = columns.stop - columns.start
        A, B = np.zeros((c, (d + 1) ** 2)), np.zeros((c, d + 1))
        for values, seen in rows.blocks():
            z, second, dets, squares = _posteriors(values, seen, W, mean, noise)
            if columns.start == 0:
                log_det, square = log_det + dets, square + squares
                of_latents += second.sum(axis=0)
            A += seen[:, columns].T.astype(np.float64) @ second
            B += values[:, columns].T @ np.hstack([z, np.ones((len(z), 1))])
        A = A.reshape(c, d + 1, d + 1)
        ridge = 1e-12 * np.trace(A, axis1=1, axis2=2) / (d + 1)
        diagonal = np.arange(d + 1)
        A[:, diagonal, diagonal] += ridge[:, None]
        solved = np.linalg.solve(A, B[:, :, None])[:, :, 0]
        A[:, diagonal, diagonal] -= ridge[:, None]
        new[columns] = solved
        energy += float(((A @ solved[:, :, None])[:, :, 0] * solved).sum() - 2 * (solved * B).sum())
    moments = of_latents.reshape(d + 1, d + 1) / rows.n
    centre = moments[:d, d]
    variances, axes = np.linalg.eigh(moments[:d, :d] - np.outer(centre, centre))
    W, mean = new[:, :d], new[:, d]
    U, lengths, _ = np.linalg.svd(W @ (axes * np.sqrt(np.maximum(variances, 0.0))), full_matrices=False)
    return _Step(log_det, square, U * lengths, mean + W @ centre, energy)


def _posteriors(
    values: Array, seen: NDArray[np.bool_], W: Array, mean: Array, noise: float
) -> tuple[Array, Array, float, float]:
    """Return posterior means of some rows, (b, d), second moments of (z, 1), (b, (d + 1)^2), log-determinants and squares."""
    (m, d), b = W.shape, len(values)
    Y = np.where(seen, values - mean, 0.0)
    M = np.zeros((b, d * d))
    for columns in _column_blocks(m, d):
        pairs = (W[columns, :, None] * W[columns, None, :]).reshape(-1, d * d)
        M += seen[:, columns].astype(np.float64) @ pairs
    M = M.reshape(b, d, d) + noise * np.eye(d)
    # each latent in its own unit: what is large in one does not round away what is small in another
    unit = np.sqrt(np.diagonal(M, axis1=1, axis2=2))
    scales = unit[:, :, None] * unit[:, None, :]
    M /= scales
    L = np.linalg.cholesky(M)
    inverse = np.linalg.inv(M) / scales
    projected = Y @ W
    z = np.einsum("nij,nj->ni", inverse, projected)
    second = np.empty((b, d + 1, d + 1))
    second[:, :d, :d] = noise * inverse + z[:, :, None] * z[:, None, :]
    second[:, :d, d] = second[:, d, :d] = z
    second[:, d, d] = 1.0
    log_det = 2 * float(np.log(np.diagonal(L, axis1=1, axis2=2) * unit).sum())
    # least at these z: what rounds in them counts twice over, where y^T y - y^T W z would take all of it
    rest = np.where(seen, Y - z @ W.T, 0.0)
    return z, second.reshape(b, -1), log_det, float(np.square(rest).sum() + noise * np.square(z).sum())


def _kicked(W: Array, noise: float, seed: int) -> Array | None:
    """Return W, of orthogonal columns, with those that explain nothing along random axes across the others, to see whether they
    grow; None where each explains something.
    """
    weak = np.square(W).sum(axis=0) < WEAK * noise
    if not weak.any():
        return None
    strong = W[:, ~weak]
    random = stream(seed, "em on missing values").standard_normal((len(W), int(weak.sum())))
    axes = np.linalg.qr(np.hstack([strong, random]))[0][:, strong.shape[1] :]
    return np.hstack([strong, axes * math.sqrt(KICK * noise)])


_Stand: TypeAlias = "tuple[float, Array, Array, float]"
"""A log-likelihood, and the W, mean and noise variance that have it."""


def _packed(stand: _Stand | None) -> Array:
    """Return it as numbers; none for None."""
    if stand is None:
        return np.zeros(0)
    loglik, W, mean, noise = stand
    return np.concatenate([[loglik, noise], mean, W.ravel()])


def _unpacked(numbers: Array, m: int) -> _Stand | None:
    if not len(numbers):
        return None
    return float(numbers[0]), numbers[2 + m :].reshape(m, -1), numbers[2 : 2 + m], float(numbers[1])


def _column_blocks(m: int, d: int) -> list[slice]:
    """Return columns by as many at a time as their second moments fit into `MOMENT_BYTES`."""
    size = max(1, MOMENT_BYTES // (8 * (d + 1) ** 2))
    return [slice(i, min(i + size, m)) for i in range(0, m, size)]


def fit(
    X: Array | Data, d: int, *, sigma2: float | None = None, steps: int = STEPS, seed: int = 0
) -> MissingFit:
    """Return the maximum-likelihood PPCA of rows whose missing values are NaN.

    The values must be missing at random.  EM starts from the mean and the principal axes of the rows with
    each gap filled by its column's mean.  Rows are read block by block at every step, from memory where they fit; columns
    whose (d + 1)^2 second moments take more than `MOMENT_BYTES` in turn, at a pass over the rows each.

    Args:
        X: shape (n, m), NaN or masked where missing; or `Data` that keeps what is not finite.
        d: number of latents, below m.
        sigma2: noise variance; None learns it.
        steps: most steps.

    Raises:
        InputError: a column or every row is missing altogether, a value is infinite, or none varies.
        UsageError: d or sigma2 is out of range.
        ResourceError: more columns than a covariance is formed of, and rows that do not fit into memory.
    """
    check_sigma2(sigma2)
    rows = _Rows.of(X, d)
    n, m, count = rows.n, rows.m, rows.count
    refuse_vanishing(rows.energy / n)
    if sigma2 is not None and sigma2 < LEAST * rows.energy / count:
        raise UsageError(
            f"sigma2 = {sigma2:.3g} is too small for EM beside a variance of {rows.energy / count:.3g}",
            hint=f"choose {2 * LEAST * rows.energy / count:.2g} or more, or learn it",
        )
    trail = Trail(lambda: ("em on missing values, and a step before", rows.data.identity(), d, sigma2, seed))
    begun = trail.last(steps)
    before: _Stand | None = None
    rested: _Stand | None = None
    if begun:
        first, (W, mean, numbers, told, *stood) = begun
        noise, least, last = numbers.tolist()
        trace = [(int(k), value) for k, value in told.tolist()]
        before, rested = (_unpacked(packed, m) for packed in stood)
    else:
        U, variance = rows.axes()
        energy, mean, first, last, trace = float(variance.sum()), np.zeros(m), 0, -math.inf, []
        least = LEAST * energy / m
        noise = sigma2 or max(float(variance[d:].sum()) / (m - d), 1e-6 * energy / m)
        W = completed(U[:, :d], d)
        W = W * np.sqrt(np.maximum(np.append(variance, np.zeros(d))[:d] - noise, 1e-3 * noise))

    loglik, converged, fell, over, step = -math.inf, False, False, False, first
    descent = Descent("EM on missing values", steps, first)
    for step in range(first, steps + 1):
        # a step takes what the steps before took, and what is made of the fit is to be left some time
        over = not budget().affords_step(descent.pace)
        # as it stands before the step
        stood = [_packed(before), _packed(rested)]
        trail.mark(step, W, mean, (noise, least, last), np.reshape(trace, (-1, 2)), *stood, end=over)
        found = _step(rows, W, mean, noise)
        square = found.square / noise
        loglik = -0.5 * (count * LOG_2PI + found.log_det + (count - n * d) * math.log(noise) + square) / n
        gain, rest = loglik - last, TOLERANCE * count / n
        descent.step(step, gain, rest)
        # EM never falls: what does, by more than the rounding of what it adds up, shows that no more can be told here
        fell = gain < -(ROUNDING * count / n + 1e-12 * abs(loglik))
        converged = gain <= rest and not fell and step > 0
        ends = converged or fell or over or step == steps
        if step % LOOK == 0 or ends:
            trace.append((step, loglik))
        again = converged and rested is None and step < steps and not over
        if again and (kicked := _kicked(W, noise, seed)) is not None:
            # where they are nothing the gradient is none, be it the top or a saddle
            rested, last = (loglik, W, mean, noise), -math.inf
            W = kicked
            continue
        if ends:
            break
        before = (loglik, W, mean, noise)
        last = loglik
        W, mean = found.W, found.mean
        if sigma2 is None:
            noise = max(found.energy / count, least)
    for better in (before if fell else None, rested):
        if better is not None and better[0] > loglik:
            loglik, W, mean, noise = better
    descent.end()
    P, lengths, _ = np.linalg.svd(W, full_matrices=False)
    top = np.take_along_axis(P, np.abs(P).argmax(axis=0)[None], axis=0)
    values = np.append(lengths**2 + noise, np.full(m - d, noise))
    spectrum = Spectrum(
        n=n,
        mean=rows.mean + mean,
        values=values,
        vectors=completed(P * np.where(top < 0, -1.0, 1.0), m) if m <= 2048 else P,
        total=float(values.sum()),
        solver="em",
        residuals=np.zeros(d),
        resolution=float(values[0]) * 1e-12,
    )
    return MissingFit(
        spectrum, noise, loglik, 1 - count / (n * m), step, tuple(trace), converged, over and not converged
    )
