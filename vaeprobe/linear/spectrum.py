"""Eigenpairs of a covariance, by the way that fits the shape of the data.

- exact: the m x m covariance from streamed moments, then all its eigenpairs;
- dual: for few rows (n < m), the n x n matrix of inner products, whose eigenvalues are the same;
- randomized: block Lanczos with full reorthogonalisation on products with the rows (Musco and Musco 2015;
  Halko, Martinsson and Tropp 2011) that goes on with the pairs not yet found alone, for many columns and many rows, from
  the leading directions of a sample; where there are fewer rows than columns, on those with their inner products,
  whose vectors are shorter; its residuals are stated.

A matrix of products holds its eigenvalues to about `sqrt(m) eps lambda_1`.  Where that is more than 1e-9 of the
smallest one that is needed (noise of 1e-5 beside a signal of 1, columns in mixed units) its digits are lost, and
the eigenvalues are taken from singular values of the centred rows, which are exact to eps of the largest
*singular* value: by one more pass that keeps a triangle R with R^T R = X^T X (Householder QR block by block,
Demmel et al. 2012), or directly where the rows are in memory.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vaeprobe.budget import budget
from vaeprobe.data import Data
from vaeprobe.errors import InputError, UsageError
from vaeprobe.kept import Trail
from vaeprobe.linear import moments
from vaeprobe.linear.eigenpairs import (
    FLOAT32_DIGITS,
    Solver,
    Spectrum,
    eigenpairs,
    eigh,
    from_singular,
    kept_spectrum,
    least,
    lost,
    norm_bound,
    refuse_overflow,
    refuse_vanishing,
    svd,
)
from vaeprobe.linear.lanczos import OVERSAMPLING, randomized
from vaeprobe.linear.moments import Moments
from vaeprobe.linear.rows import BLOCK, CACHE_BYTES, Rows, fits, restored, triangle_of
from vaeprobe.processes import ALONE, Processes
from vaeprobe.progress import tell

if TYPE_CHECKING:
    from vaeprobe.linear.moments import Array

__all__ = ["choose", "compute", "of_moments"]


EXACT_COLUMNS = 2048
NO_VARIANCE = (
    "is every column constant, or are their differences too small beside their size, or their squares "
    "below the smallest number?"
)
# multiply-adds of inner products of rows that take one to two seconds: all eigenvalues at once are worth that.  A few
# are found sooner by the randomized solver, but for the smallest data with flat spectra (measured: .04 to .6 of the
# time where eigenvalues decay, .5 to 1.2 where they are flat)
DUAL_WORK = 4e9
QR_BLOCK = 2**22  # numbers of a block of rows whose triangle is taken at once


def choose(data: Data, solver: str = "auto") -> Solver:
    """Return the solver for data of this shape; `auto` takes dual for few rows, exact up to 2048 columns; the same for a share.

    Raises:
        UsageError: no such solver.
    """
    if solver in ("exact", "dual", "randomized"):
        return solver  # type: ignore[return-value]
    if solver != "auto":
        raise UsageError(f"no solver is called `{solver}`", hint="one of auto, exact, dual, randomized")
    rows = data.whole.rows
    small = rows * data.columns * 8 <= 2 * CACHE_BYTES
    if rows < data.columns and rows**2 * data.columns <= DUAL_WORK and small:
        return "dual"
    return "exact" if data.columns <= EXACT_COLUMNS else "randomized"


def shared(data: Data, solver: str, processes: Processes) -> tuple[Data, Processes]:
    """Return this process's share of the rows, and those that it shares them with, so that numbers do not depend on how many.

    Rows in memory, whose products follow one another, are each process's own work.  Shares of others begin with blocks of
    those whose float32 products are summed.
    """
    if processes.world == 1 or whole(data, solver):
        return data, ALONE
    unit = 1
    if choose(data, solver) == "randomized" or moments.arithmetic(data) == np.float32:
        unit = max(BLOCK, moments.block_rows(data.columns))
    return data.share(processes.rank, processes.world, unit), processes


def whole(data: Data, solver: str) -> bool:
    """Whether the solver takes all rows in memory."""
    chosen = choose(data, solver)
    return chosen == "dual" or (chosen == "randomized" and fits(data))


def compute(
    data: Data, k: int, *, solver: str = "auto", seed: int = 0, folds: int = 1, processes: Processes = ALONE
) -> Spectrum:
    """Return the eigenpairs of the covariance of the rows, at least k of them where they exist.

    Args:
        data: all rows, or this process's share of them, see `shared`.
        k: pairs that must be known; the exact and dual solvers return all.
        solver: auto, exact, dual or randomized.
        folds: random parts of the rows whose moments are wanted too; the exact solver has them in the same pass.
        processes: the processes that share the rows.

    Raises:
        InputError: there are fewer than two rows, or they are all equal.
    """
    try:
        return _computed(data, k, choose(data, solver), seed, folds, processes)
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"the covariance of the rows cannot be computed: {error}",
            hint="are some numbers so large that their squares are none? look at the largest of each column",
        ) from None


def _computed(data: Data, k: int, chosen: Solver, seed: int, folds: int, processes: Processes) -> Spectrum:
    def made_of() -> tuple[object, ...]:
        return chosen, data.identity(), k, seed

    if chosen == "dual":
        found = kept_spectrum(made_of, lambda: _dual(data, k))
    elif chosen == "exact" or k + OVERSAMPLING >= data.columns:  # a randomized basis would span everything
        found = _exact(data, k, seed, folds, processes)
    else:
        found = kept_spectrum(made_of, lambda: _randomized(data, k, seed, processes))
    if not found.total > found.resolution:
        raise InputError(
            "all rows are equal: there is no variance to explain",
            hint=NO_VARIANCE,
        )
    refuse_vanishing(found.total)
    return found


def _randomized(data: Data, k: int, seed: int, processes: Processes) -> Spectrum:
    stored = int(processes.sum(np.array([data.rows], np.float64))[0])
    found = randomized(Rows.of(data, processes), min(k, data.columns), seed)
    return replace(found, left_out=stored - found.n)


def _exact(data: Data, k: int, seed: int, folds: int, processes: Processes) -> Spectrum:
    def summed(kind: np.dtype[np.floating]) -> tuple[tuple[Moments, ...], int]:
        parts = moments.accumulate(data, dtype=kind, folds=folds, seed=seed, processes=processes)
        return parts, sum(part.here for part in parts)

    kind = moments.arithmetic(data)
    parts, own = summed(kind)
    whole = moments.total(parts)
    moments.refuse_few(whole.n, data)
    overflow = kind == np.float32 and not np.isfinite(whole.scatter).all()
    found = None if overflow else of_moments(whole, kind)
    if found is None or (whole.slip is not None and _blurred(found, k, whole.slip / whole.n)):
        kind = np.dtype(np.float64)
        parts, own = summed(kind)
        whole = moments.total(parts)
        found = of_moments(whole, kind)
    if kind == np.float64 and lost(found, k):
        found = _by_triangle(data, found, own, processes)
    return found if folds == 1 else replace(found, parts=parts)


def of_moments(whole: Moments, kind: np.dtype[np.floating] | None = None) -> Spectrum:
    """Return all eigenpairs of a covariance.

    Raises:
        InputError: products of the rows overflowed.
    """
    kind = kind or np.dtype(np.float64)
    S = whole.covariance
    refuse_overflow(S)
    values, vectors = eigh(S)
    found = eigenpairs(
        whole.n, whole.mean, values[::-1], vectors[:, ::-1], float(np.trace(S)), "exact", kind, S.diagonal()
    )
    found = replace(found, left_out=whole.left_out)
    if whole.slip is None:
        return found
    off = norm_bound(whole.slip / whole.n)
    return replace(found, residuals=np.full(len(values), off), resolution=max(found.resolution, off))


def _blurred(found: Spectrum, k: int, slip: Array) -> bool:
    """Whether what float32 products are off by is more than 1e-3 of the smallest eigenvalue that matters.

    Of a small eigenvalue it counts among the small ones, and its square over the gap from the large ones
    (Mathias 1998): the error of a matrix of products lies mostly along its large eigenvectors.

    Args:
        found: its residuals are the bound of the slip.
        slip: of the covariance, shape (m, m).
    """
    needed = least(found, k)
    off = float(found.residuals[0])

    def much(near: float) -> bool:
        # values that are not small differ from the needed one by nine times as much at least
        return not near + off**2 / (9 * max(needed, 1e-300)) <= FLOAT32_DIGITS * needed

    if not much(off):  # whatever direction it lies in
        return False
    small = found.vectors[:, found.values <= 10 * needed]
    return much(norm_bound(small.T @ slip @ small))


def _by_triangle(data: Data, found: Spectrum, own: int, processes: Processes) -> Spectrum:
    """Return the spectrum from singular values of the rows, by one more pass over those that are in it.

    Args:
        own: how many of them this process has.
    """
    R = processes.together(lambda: _triangle(data, found.mean, own))
    if processes.world > 1:
        stack = np.zeros((processes.world, *R.shape))
        stack[processes.rank] = R
        R = triangle_of(processes.sum(stack).reshape(-1, R.shape[1]))
    s, V = svd(R[1:, 1:])
    return from_singular(s, V, replace(found, n=round(R[0, 0] ** 2), mean=found.mean + R[0, 1:] / R[0, 0]))


def _triangle(data: Data, mean: Array, rows: int) -> Array:
    """Return R, upper triangular with R^T R = X^T X for X the first rows less a mean, and a column of ones before them.

    What the ones leave of the others are rows whose mean is 0, however far that mean is from theirs.

    Args:
        rows: how many, of those that are not left out; fewer where no time is left for them.

    Returns:
        shape (m + 1, m + 1).
    """
    m = data.columns
    size = max(m, QR_BLOCK // m)
    trail = Trail(lambda: ("triangle", data.identity(), mean, rows, size), wanted=data.every == 1)
    start = np.zeros((m + 1, m + 1)), np.zeros(1)
    begun, (R, done) = restored(trail, data.count_blocks(size), *start)
    enough = moments.ENOUGH * budget().left
    stack = np.ones((m + 1 + min(size, rows), m + 1))
    for index, block in enumerate(data.blocks(size, dtype=np.float64, after=begun), start=begun + 1):
        if done[0] == rows:
            break
        part = block[: rows - int(done[0])]
        whole = stack[: m + 1 + len(part)]
        whole[: m + 1], whole[m + 1 :, 0] = R, 1
        np.subtract(part, mean, out=whole[m + 1 :, 1:])
        R = triangle_of(whole)
        done += len(part)
        tell("singular values", done[0], rows)
        over = budget().bounded and budget().left <= enough
        trail.mark(index, R, done, end=over)
        if over:
            break
    return R


def _dual(data: Data, k: int) -> Spectrum:
    rows = data.read(dtype=np.float64).reshape(-1, data.columns)
    n = len(rows)
    moments.refuse_few(n, data)
    mean = rows.mean(axis=0)
    rows -= mean
    more = rows.mean(axis=0)  # what rounding of the sum left
    mean, rows = mean + more, rows - more
    with np.errstate(over="ignore", invalid="ignore"):
        K = rows @ rows.T / n
        variances = np.square(rows).mean(axis=0)
    refuse_overflow(K)
    tell("dual", 1, 2)
    values, V = np.linalg.eigh(K)
    keep = min(n - 1, data.columns)
    values, V = values[::-1][:keep], V[:, ::-1][:, :keep]
    kept = values > values[0] * np.finfo(np.float64).eps * n
    vectors = rows.T @ V[:, kept]
    # one QR step: the columns of X^T V are orthogonal only up to rounding over the smallest eigenvalue
    vectors, R = np.linalg.qr(vectors)
    vectors *= np.sign(np.diag(R))
    found = eigenpairs(
        n, mean, values[kept], vectors, float(np.trace(K)), "dual", np.dtype(np.float64), variances
    )
    if not kept.all() or lost(found, k):
        _, s, Vt = np.linalg.svd(rows, full_matrices=False)
        there = s[:keep] > s[0] * np.finfo(np.float64).eps * math.sqrt(n)
        found = from_singular(s[:keep][there], Vt[:keep][there].T, found)
    tell("dual", 2, 2)
    return replace(found, left_out=data.rows - n)
