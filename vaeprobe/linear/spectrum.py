"""Eigenpairs of a covariance, by the way that fits the shape of the data.

- exact: the m x m covariance from streamed moments, then all its eigenpairs;
- dual: for few rows (n < m), the n x n matrix of inner products, whose eigenvalues are the same;
- randomized: block Lanczos with full reorthogonalisation on products with the rows (Musco and Musco 2015;
  Halko, Martinsson and Tropp 2011), for many columns and many rows, from the leading directions of some random rows;
  its residuals are stated.

A matrix of products holds its eigenvalues to about `sqrt(m) eps lambda_1`.  Where that is more than 1e-9 of the
smallest one that is needed (noise of 1e-5 beside a signal of 1, columns in mixed units) its digits are lost, and
the eigenvalues are taken from singular values of the centred rows, which are exact to eps of the largest
*singular* value: by one more pass that keeps a triangle R with R^T R = X^T X (Householder QR block by block,
Demmel et al. 2012), or directly where the rows are in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from vaeprobe.data import Data, in_memory
from vaeprobe.errors import InputError, ResourceError, UsageError
from vaeprobe.intervals import stream
from vaeprobe.linear import moments
from vaeprobe.linear.moments import Moments
from vaeprobe.processes import ALONE, Processes
from vaeprobe.progress import tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

Solver = Literal["exact", "dual", "randomized", "em"]

EXACT_COLUMNS = 2048
DUAL_ROWS = 2048
CACHE_BYTES = 2**30  # rows that several passes read are kept in memory up to this size
OVERSAMPLING = 10
WIDTH = 16  # columns that a kernel of matrix multiplication takes at once
PASSES = 30
START_ROWS = 8  # random rows for each direction that the randomized solver starts from
TOLERANCE = 1e-6  # estimated error over lambda_1 (conservative) at which the randomized solver stops
TIGHT = 1e-14  # the same where the noise is small beside the signal
DIGITS = 1e-9  # relative error of a needed eigenvalue from which the covariance has lost its digits
FLOAT32_DIGITS = 1e-3  # the same, from which float32 products are formed anew in float64
MEAN_ULPS = 8  # units in the last place of a mean: a spread of that many is its rounding
QR_BLOCK = 2**22  # numbers of a block of rows whose triangle is taken at once


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
        residuals: ||S u - lambda u|| per pair, shape (k,), or what float32 products are off by: a true eigenvalue
            lies that near; 0 where exact.
        resolution: variance below which a direction is rounding error.
        precision: type of the products, "float64" or "float32".
        left: variance outside the known directions; None takes it from `total`, to rounding of the whole.
        free: number of columns that are not constant.
        singular: whether the values are squares of singular values of the rows, for the covariance had lost them.
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


def choose(data: Data, solver: str = "auto") -> Solver:
    """Return the solver for data of this shape; `auto` takes exact up to 2048 columns, dual up to 2048 rows.

    Raises:
        UsageError: no such solver.
    """
    if solver in ("exact", "dual", "randomized"):
        return solver  # type: ignore[return-value]
    if solver != "auto":
        raise UsageError(f"no solver is called `{solver}`", hint="one of auto, exact, dual, randomized")
    fits = data.rows * data.columns * 8 <= 2 * CACHE_BYTES
    if data.rows < data.columns and data.rows <= DUAL_ROWS and fits:
        return "dual"
    return "exact" if data.columns <= EXACT_COLUMNS else "randomized"


def compute(
    data: Data, k: int, *, solver: str = "auto", seed: int = 0, folds: int = 1, processes: Processes = ALONE
) -> Spectrum:
    """Return the eigenpairs of the covariance of the rows, at least k of them where they exist.

    Args:
        data: all rows, or this process's share of them.
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
    if processes.world > 1 and chosen == "dual":
        chosen = "exact" if data.columns <= EXACT_COLUMNS else "randomized"
    if chosen == "exact":
        found = _exact(data, k, seed, folds, processes)
    elif chosen == "dual":
        found = _dual(data, k)
    elif k + OVERSAMPLING >= data.columns:  # its basis would span everything
        found = _exact(data, k, seed, folds, processes)
    else:
        found = _randomized(Rows.of(data, processes), min(k, data.columns), seed)
    if not found.total > found.resolution:
        raise InputError(
            "all rows are equal: there is no variance to explain",
            hint="is every column constant, or are their differences too small beside their size, or their squares "
            "below the smallest number?",
        )
    return found


def _exact(data: Data, k: int, seed: int, folds: int, processes: Processes) -> Spectrum:
    def summed(kind: np.dtype[np.floating]) -> tuple[Moments, ...]:
        own = processes.together(lambda: moments.accumulate(data, dtype=kind, folds=folds, seed=seed))
        return moments.of_all(processes, own)

    kind = moments.arithmetic(data)
    parts = summed(kind)
    whole = moments.total(parts)
    found = of_moments(whole, kind)
    if whole.slip is not None and _blurred(found, k, whole.slip / whole.n):
        kind = np.dtype(np.float64)
        parts = summed(kind)
        whole = moments.total(parts)
        found = of_moments(whole, kind)
    if kind == np.float64 and lost(found, k):
        R = processes.together(lambda: _triangle(data, whole.mean))
        if processes.world > 1:
            stack = np.zeros((processes.world, *R.shape))
            stack[processes.rank] = R
            R = _r(processes.sum(stack).reshape(-1, R.shape[1]))
        found = _of_singular(R, found)
    return found if folds == 1 else replace(found, parts=parts)


def of_moments(whole: Moments, kind: np.dtype[np.floating] | None = None) -> Spectrum:
    """Return all eigenpairs of a covariance.

    Raises:
        InputError: products of the rows overflowed.
    """
    kind = kind or np.dtype(np.float64)
    S = whole.covariance
    _refuse_overflow(S)
    values, vectors = np.linalg.eigh(S)
    found = _spectrum(
        whole.n, whole.mean, values[::-1], vectors[:, ::-1], float(np.trace(S)), "exact", kind, S.diagonal()
    )
    if whole.slip is None:
        return found
    off = norm_bound(whole.slip / whole.n)
    return replace(found, residuals=np.full(len(values), off), resolution=max(found.resolution, off))


def norm_bound(D: Array) -> float:
    """Return an upper bound of the spectral norm of a symmetric matrix, (tr D^16)^(1/16), at most m^(1/16) too large."""
    size = float(np.linalg.norm(D))
    if size == 0:
        return 0.0
    power = D / size
    for _ in range(3):
        power = power @ power.T
    return size * math.sqrt(math.sqrt(math.sqrt(float(np.linalg.norm(power)))))


def _blurred(found: Spectrum, k: int, slip: Array) -> bool:
    """Whether what float32 products are off by is more than 1e-3 of the smallest eigenvalue that matters.

    Of a small eigenvalue it counts among the small ones, and its square over the gap from the large ones
    (Mathias 1998): the error of a matrix of products lies mostly along its large eigenvectors.

    Args:
        slip: of the covariance, shape (m, m).
    """
    needed = least(found, k)
    small = found.vectors[:, found.values <= 10 * needed]
    near = norm_bound(small.T @ slip @ small)
    # values that are not small differ from the needed one by nine times as much at least
    return not near + norm_bound(slip) ** 2 / (9 * max(needed, 1e-300)) <= FLOAT32_DIGITS * needed


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


def _triangle(data: Data, mean: Array) -> Array:
    """Return R, upper triangular with R^T R = X^T X for the centred rows X, in one pass, shape (<= m, m)."""
    m = data.columns
    R = np.zeros((0, m))
    done = 0
    for block in data.blocks(max(m, QR_BLOCK // m), dtype=np.float64):
        R = _r(np.vstack([R, block - mean]))
        done += len(block)
        tell("singular values", done, data.rows)
    tell("singular values", data.rows, data.rows)
    return np.vstack([R, np.zeros((m - len(R), m))]) if len(R) < m else R


def _r(X: Array) -> Array:
    return np.asarray(np.linalg.qr(X, mode="r"))


def _of_singular(R: Array, found: Spectrum) -> Spectrum:
    """Return the spectrum from a matrix R with R^T R = X^T X, or from the centred rows X themselves."""
    _, s, Vt = np.linalg.svd(R, full_matrices=False)
    return _from_singular(s, Vt.T, found)


def _from_singular(s: Array, vectors: Array, found: Spectrum, left: float = 0.0) -> Spectrum:
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


def _refuse_overflow(products: Array) -> None:
    if not np.isfinite(products).all():
        raise InputError(
            "squares of these numbers overflow", hint="scale the data: multiply every column by 1e-100, say"
        )


def _spectrum(
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


def _dual(data: Data, k: int) -> Spectrum:
    rows = data.read(dtype=np.float64).reshape(-1, data.columns)
    n = len(rows)
    if n < 2:
        moments.total((Moments(n, np.zeros(0), np.zeros((0, 0))),))
    mean = rows.mean(axis=0)
    rows -= mean
    more = rows.mean(axis=0)  # what rounding of the sum left
    mean, rows = mean + more, rows - more
    with np.errstate(over="ignore", invalid="ignore"):
        K = rows @ rows.T / n
        variances = np.square(rows).mean(axis=0)
    _refuse_overflow(K)
    tell("dual", 1, 2)
    values, V = np.linalg.eigh(K)
    keep = min(n - 1, data.columns)
    values, V = values[::-1][:keep], V[:, ::-1][:, :keep]
    kept = values > values[0] * np.finfo(np.float64).eps * n
    vectors = rows.T @ V[:, kept]
    # one QR step: the columns of X^T V are orthogonal only up to rounding over the smallest eigenvalue
    vectors, R = np.linalg.qr(vectors)
    vectors *= np.sign(np.diag(R))
    found = _spectrum(
        n, mean, values[kept], vectors, float(np.trace(K)), "dual", np.dtype(np.float64), variances
    )
    if not kept.all() or lost(found, k):
        _, s, Vt = np.linalg.svd(rows, full_matrices=False)
        there = s[:keep] > s[0] * np.finfo(np.float64).eps * math.sqrt(n)
        found = _from_singular(s[:keep][there], Vt[:keep][there].T, found)
    tell("dual", 2, 2)
    return found


@dataclass(frozen=True, eq=False)
class Rows:
    """Centred rows for repeated products with the covariance; kept in memory where they fit.

    Attributes:
        data: this process's rows, as stored.
        n: rows of all processes.
        mean: mean of all rows.
        variances: of the columns, shape (m,).
        memory: the centred rows, shape (rows, m), where they fit; None streams them.
        processes: those that share the rows.
    """

    data: Data
    n: int
    mean: Array
    variances: Array
    memory: NDArray[np.floating] | None
    processes: Processes

    @classmethod
    def of(cls, data: Data, processes: Processes = ALONE) -> Rows:
        """Read the rows once, for their mean and total variance.

        Raises:
            InputError: there are fewer than two rows.
        """
        kind, m = data.dtype, data.columns
        fits = data.rows * m * kind.itemsize <= CACHE_BYTES
        memory = processes.together(lambda: data.read().reshape(-1, m)) if fits else None
        shift, sums, squares, count = processes.together(
            lambda: _first_pass(data if memory is None else in_memory(memory))
        )
        # exact merge of counts, means and squares over processes, as for Moments
        n = int(processes.sum(np.array([count], np.float64))[0])
        mean = processes.sum(count * shift + sums) / max(n, 1)
        step = shift - mean
        with np.errstate(over="ignore", invalid="ignore"):
            variances = processes.sum(squares + 2 * step * sums + count * step**2) / max(n, 1)
        _refuse_overflow(variances)
        moments.total((Moments(n, mean, np.zeros((0, 0))),))  # two rows or more
        if memory is not None:
            memory -= mean.astype(kind)
        return cls(data, n, mean, variances, memory, processes)

    @property
    def kind(self) -> np.dtype[Any]:
        """Type of the products."""
        return self.data.dtype

    @property
    def total(self) -> float:
        """Total variance."""
        return float(self.variances.sum())

    def centred(self) -> Iterator[NDArray[np.floating]]:
        """Yield blocks of centred rows."""
        if self.memory is not None:
            yield from (self.memory[k : k + 1024] for k in range(0, len(self.memory), 1024))
            return
        mean = self.mean.astype(self.kind)
        for block in self.data.blocks(1024):
            yield block - mean

    def product(self, V: Array) -> Array:
        """Return S V, shape (m, b), float64."""
        V = V.astype(self.kind)
        out = np.zeros(V.shape)
        for X in self.centred():
            out += X.T @ (X @ V)
        return self.processes.sum(out) / self.n

    def start(self, b: int, seed: int) -> Array:
        """Return b orthonormal directions to begin with, shape (m, b): the leading ones of some random rows.

        They are worth a pass and a half over all rows; rows that are not in memory get random directions.
        """
        m, world, rank = len(self.mean), self.processes.world, self.processes.rank
        count = min(START_ROWS * b, self.n)
        if self.memory is None or count < b:
            return _orthonormal(stream(seed, "sketch").standard_normal((m, b)))
        held = np.zeros(world)
        held[rank] = len(self.memory)
        before = int(self.processes.sum(held)[:rank].sum())
        wanted = np.sort(stream(seed, "sketch").choice(self.n, count, replace=False))
        own = np.flatnonzero((wanted >= before) & (wanted < before + len(self.memory)))
        some = np.zeros((count, m), self.kind)
        some[own] = self.memory[wanted[own] - before]
        if world > 1:
            some = self.processes.sum(some.astype(np.float64)).astype(self.kind)
        with np.errstate(over="ignore", invalid="ignore"):
            K = (some @ some.T).astype(np.float64)
        _refuse_overflow(K)
        V = np.linalg.eigh(K)[1][:, ::-1][:, :b].astype(self.kind)
        return _orthonormal((some.T @ V).astype(np.float64))

    def along(self, U: Array) -> tuple[Array, Array, float]:
        """Return the singular values of X U, the directions they belong to, and the variance outside U, by a pass.

        Args:
            U: orthonormal columns, shape (m, k).
        """
        k = U.shape[1]
        R = np.zeros((0, k))
        outside = np.zeros(1)
        for X in self.centred():
            X64 = X.astype(np.float64)
            Y = X64 @ U
            outside += np.square(X64 - Y @ U.T).sum()
            R = _r(np.vstack([R, Y]))
        if self.processes.world > 1:
            stack = np.zeros((self.processes.world, k, k))
            stack[self.processes.rank, : len(R)] = R
            R = self.processes.sum(stack).reshape(-1, k)
        _, s, Vt = np.linalg.svd(R, full_matrices=False)
        return s, U @ Vt.T, float(self.processes.sum(outside)[0]) / self.n


def _first_pass(data: Data) -> tuple[NDArray[np.floating], Array, Array, int]:
    """Return a shift, and the sums, sums of squares and number of the rows minus it."""
    kind, m = data.dtype, data.columns
    shift = np.zeros(m, kind)
    sums, squares, count = np.zeros(m), np.zeros(m), 0
    for block in data.blocks(2048):
        if count == 0:
            shift = block.mean(axis=0, dtype=np.float64).astype(kind)
        v = block - shift
        sums += np.ones(len(v), kind) @ v
        with np.errstate(over="ignore", invalid="ignore"):
            squares += np.einsum("ij,ij->j", v, v, dtype=np.float64)
        count += len(v)
    return shift, sums, squares, count


def _randomized(rows: Rows, k: int, seed: int) -> Spectrum:
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
    return _from_singular(s, U, found, outside)


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
        Q = _orthonormal(W[:, np.linalg.norm(W, axis=0) > 1e-13 * lengths.max()])
        Q = _orthonormal(Q - basis @ (basis.T @ Q))[:, : m - size]
        if Q.shape[1] == 0:
            break
        basis = np.hstack([basis, Q])
    tell("randomized spectrum, passes", steps, steps)
    if len(values) < k:  # the rows lie in fewer directions than were asked for
        more = stream(seed, "complement").standard_normal((m, k - len(values)))
        basis = np.hstack([basis @ Y, _orthonormal(more - basis @ (basis.T @ more))])
        Y = np.eye(basis.shape[1])
        values, residuals = (np.append(x, np.zeros(k - len(x))) for x in (values, residuals))
    vectors = basis @ Y[:, :k]
    values, residuals = values[:k] * scale, residuals[:k] * scale
    found = _spectrum(
        rows.n, rows.mean, values, vectors, rows.total, "randomized", rows.kind, rows.variances, None
    )
    return replace(found, residuals=residuals)


def _orthonormal(W: Array) -> Array:
    """Return an orthonormal basis of what the columns span, shape (m, <= b): by their Gram matrix, twice."""
    for _ in range(2):
        W = W / np.maximum(np.linalg.norm(W, axis=0), 1e-300)
        squares, V = np.linalg.eigh(W.T @ W)
        kept = squares > 1e-10 * squares.max(initial=0.0)
        W = W @ (V[:, kept] / np.sqrt(squares[kept]))
    return W


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


def rows_of(data: Data, processes: Processes = ALONE) -> Rows:
    """Return centred rows whose `product` multiplies by the covariance without forming it.

    Raises:
        ResourceError: the rows are too many to be read again at every step.
    """
    rows = Rows.of(data, processes)
    if rows.memory is None:
        raise ResourceError(
            f"training reads the {data.rows} rows at every step, and they do not fit into memory",
            hint="train on a part of the rows, or use --method closed",
        )
    return rows
