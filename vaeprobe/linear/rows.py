"""Centred rows for repeated products with their covariance, which is never formed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vaeprobe.data import Data
from vaeprobe.errors import ResourceError
from vaeprobe.intervals import stream
from vaeprobe.kept import Trail, signature
from vaeprobe.linear import moments
from vaeprobe.linear.eigenpairs import refuse_overflow
from vaeprobe.processes import ALONE, Processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vaeprobe.linear.moments import Array

__all__ = [
    "BLOCK",
    "CACHE_BYTES",
    "STRIDE",
    "Rows",
    "fits",
    "orthonormal",
    "restored",
    "rows_in_memory",
    "triangle_of",
]


CACHE_BYTES = 2**30  # rows that several passes read are kept in memory up to this size
# random rows, or columns, for each direction that the randomized solver starts from, at least and at most, and what
# their inner products take in between, of half a product with the start
SAMPLED = 4, 8
SAMPLE = 1 / 6
WORTH = (
    32  # rows, or columns, for each direction from which that start costs less than the passes that it spares
)
# columns of products that the passes spared take for each direction, where eigenvalues fall: measured on 256 to 1536 rows,
# 48 directions, where 900 to 2200 columns pay on eigenvalues i^-1; 32 directions, where 820 pay nowhere but on those that
# hardly fall; 112, where 2000 pay everywhere, by up to 3 times, and 3300 here and there; 208, where 3300 pay everywhere
ALL = 19
# as many more by the square of how much of the largest eigenvalue is left at the last of the start: measured with 48
# directions, where 1600 to 2300 columns pay on .99^i (.3 left), 1700 to 3400 on .995^i (.4), 3800 to 6000 on flat ones
# (.6); with 32, where 2000 pay on flat ones (.5) and not on .99^i (.4); and with 16, where 1600 do (.66) and hardly do (.6)
FLAT = 220
EIGH = 10.0  # multiply-adds of a product that take as long as one of all eigenvectors of a large matrix
STRIDE = 16  # columns whose products take hardly longer than with fewer
MORE = 2  # strides by which a start may be wider than was asked for
# of the eigenvalue that a stride further: there the wider start spares a later pass, measured on eigenvalues i^-1 (.70,
# where it does not), i^-2 (.47 to .65), .94^i (.34), and flat ones
FALLING = 0.68
# of the last eigenvalue that is wanted: nothing is spared by a start that reaches beyond, for one pass is needed anyway
REACHED = 0.05
NEAR = 4  # columns that are read together
BLOCK = 1024  # rows that are streamed at a time
LONG_BLOCK = 8192  # rows in memory whose products are summed in their own type
MEAN_DIGITS = 1e-12  # of a variance that an error of the mean may make
INDEPENDENT = (
    1e4  # sum of the inverse eigenvalues of a Gram matrix of unit columns up to which rounding is 1e-12
)
WITHIN = (
    1e-24,
    1e34,
)  # sums of squares about the mean whose float32 products neither vanish nor overflow, nor do those of their parts
RUN = 64  # float32 squares that are summed as such
RUN_COLUMNS = 2048  # of them, so that what was read for the sums is still near for the squares


def fits(data: Data) -> bool:
    """Whether rows that several passes read are kept in memory."""
    return data.rows * data.columns * data.dtype.itemsize <= CACHE_BYTES


def restored(trail: Trail, steps: int, *start: Array) -> tuple[int, tuple[Array, ...]]:
    """Return the last step, of so many, that sums go on from, and how they stood; 0 and how they start where there is none."""
    kept = trail.last(steps)
    return kept or (0, start)


def triangle_of(X: Array) -> Array:
    return np.asarray(np.linalg.qr(X, mode="r"))


@dataclass(frozen=True, eq=False)
class Rows:
    """Centred rows for repeated products with the covariance; kept in memory where they fit.

    Rows in memory are centred in the products, not themselves, so that an array of the caller's is neither copied nor
    changed; unless their mean is so large beside their deviation that the products would lose digits.

    Attributes:
        data: this process's rows, as stored.
        n: rows of all processes.
        mean: mean of all rows.
        variances: of the columns, shape (m,).
        memory: the rows, shape (rows, m), where they fit; None streams them.
        centre: the mean of what is in memory, shape (m,).
        processes: those that share the rows.
    """

    data: Data
    n: int
    mean: Array
    variances: Array
    memory: NDArray[np.floating] | None
    centre: Array
    processes: Processes

    @classmethod
    def of(cls, data: Data, processes: Processes = ALONE, *, hold: bool = False) -> Rows:
        """Read the rows once, for their mean and total variance.

        Args:
            data: this process's share of the rows.
            hold: whether shares that fit into memory are kept there, too: their products are not those of all rows that are
                streamed, to the last digits of their type.

        Raises:
            InputError: there are fewer than two rows.
        """
        kind = data.dtype
        kept = fits(data) and (hold or processes.world == 1)
        found = processes.together(lambda: _in_memory(data) if kept else _streamed(data))
        memory, shift, sums, squares, count = found
        # exact merge of counts, means and squares over processes, as for Moments
        n = int(processes.sum(np.array([count], np.float64))[0])
        moments.refuse_few(n, data)
        mean = processes.sum(count * shift + sums) / n
        step = shift - mean
        with np.errstate(over="ignore", invalid="ignore"):
            variances = processes.sum(squares + 2 * step * sums + count * step**2) / n
        energy = n * float(variances.sum())
        if kind == np.float32 and not WITHIN[0] < energy < WITHIN[1]:
            return cls.of(data.widened(), processes, hold=hold)
        refuse_overflow(variances)
        return cls(data, n, mean, variances, memory, mean - shift, processes)

    @cached_property
    def kind(self) -> np.dtype[np.floating]:
        """Type of the products."""
        return self.data.dtype

    @property
    def total(self) -> float:
        """Total variance."""
        return float(self.variances.sum())

    def centred(self, after: int = 0) -> Iterator[NDArray[np.floating]]:
        """Yield blocks of centred rows, those after the first so many."""
        if self.memory is None:
            blocks, mean = self.data.blocks(BLOCK, after=after), self.mean
        else:
            blocks = (self.memory[k : k + BLOCK] for k in range(after * BLOCK, len(self.memory), BLOCK))
            mean = self.centre
        centre = mean.astype(self.kind)
        left = mean - centre  # what float32 has no room for of a mean that is large beside the deviation
        more = left.astype(self.kind) if (np.square(left) > MEAN_DIGITS * self.variances).any() else None
        for block in blocks:
            X = block - centre
            yield X if more is None else np.subtract(X, more, out=X)

    def product(self, V: Array) -> Array:
        """Return S V, shape (m, b), float64."""
        V = V.astype(self.kind)
        if self.memory is not None:
            return self.processes.sum(self.across(self.along(V)).astype(np.float64)) / self.n
        trail = self._trail("product", V)
        begun, (out,) = restored(trail, self.data.count_blocks(BLOCK), np.zeros(V.shape))
        for index, X in enumerate(self.centred(begun), start=begun + 1):
            out += X.T @ (X @ V)
            trail.mark(index, out)
        return self.processes.sum(out) / self.n

    def _trail(self, what: str, V: Array) -> Trail:
        """Return the trail of a pass over rows that are read for it."""
        wanted = self.memory is None and self.data.every == 1
        return Trail(lambda: (what, self._identity, self.mean, V), wanted=wanted)

    @cached_property
    def _identity(self) -> bytes:
        return signature(self.data.identity())

    def along(self, V: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return X V for the centred rows X in memory, shape (rows, b), of their type."""
        assert self.memory is not None
        V = V.astype(self.kind)
        out = self.memory @ V
        out -= (self.centre @ V.astype(np.float64)).astype(self.kind)
        return np.asarray(out)

    def across(self, Y: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return X^T Y for the centred rows X in memory, shape (m, b), of their type or summed over blocks in float64."""
        assert self.memory is not None
        # Y^T X goes through X along its rows, which is faster than X^T Y; to centre the shorter Y centres X
        mean = self.processes.sum(Y.sum(axis=0, dtype=np.float64)) / self.n
        Yt = np.ascontiguousarray((Y - mean).T, self.kind)
        out = Yt[:, :LONG_BLOCK] @ self.memory[:LONG_BLOCK]
        for k in range(LONG_BLOCK, len(self.memory), LONG_BLOCK):
            out = np.add(out, Yt[:, k : k + LONG_BLOCK] @ self.memory[k : k + LONG_BLOCK], dtype=np.float64)
        return np.asarray(out.T)

    @property
    def few(self) -> bool:
        """Whether the inner products of the rows are the smaller matrix, and all are here."""
        return self.memory is not None and self.n < len(self.mean) and self.processes.world == 1

    def start(self, b: int, wanted: int, seed: int) -> Array:
        """Return b orthonormal columns to begin with for so many pairs, or more where those pay, as long as the shorter side.

        They are the leading ones of a sample, some random columns of few rows or some of the rows, which is worth a pass
        and a half over all; of very few rows, those of all columns, and of some more where a sample's eigenvalues hardly
        fall, for then there are many passes to spare.  Where neither pays, they are random.
        """
        rng = stream(seed, "sketch")
        size, long = (self.n, len(self.mean)) if self.few else (len(self.mean), self.n)
        most = min(b + MORE * STRIDE, size, max(self.n - 1, 1))
        found = np.zeros((size, 0))
        if self.few and self.work_of_all <= ALL * b:
            found = self.all_directions(b)
        elif self.memory is not None and long >= WORTH * most:
            each = np.clip(math.sqrt(2 * SAMPLE * long / most), *SAMPLED)
            S = self._sample(int(each * most), rng)
            with np.errstate(over="ignore", invalid="ignore"):
                K = (S.T @ S).astype(np.float64)
            refuse_overflow(K)
            K /= np.trace(K) or 1.0
            # two iterations of power, and the eigenvalues from the lengths of the products
            V = K @ orthonormal(_sums(K * rng.choice((-1.0, 1.0), len(K)), most), times=1)
            squares, turn = np.linalg.eigh(V.T @ V)
            values, width = np.sqrt(np.maximum(squares[::-1], 0)), b
            left = float(values[b - 1] / values[0]) if len(values) >= b else 0.0
            if self.work_of_all <= (ALL + FLAT * left**2) * b:
                return self.all_directions(b)
            far = REACHED * values[min(wanted, len(values)) - 1]
            while (
                width + STRIDE <= len(values)
                and values[width - 1] > far
                and values[width + STRIDE - 1] < FALLING * values[width - 1]
            ):
                width += STRIDE
            V = V @ turn[:, ::-1][:, :width]
            found = orthonormal((S @ V.astype(S.dtype)).astype(np.float64))
        if found.shape[1] < b:  # the sample lies in fewer directions than all may
            found = np.hstack([found, rng.standard_normal((size, b - found.shape[1]))])
            found = orthonormal(found)
        return found

    @property
    def work_of_all(self) -> float:
        """What all directions of few rows take, in columns of half a product with the covariance; else infinite."""
        if not self.few:
            return math.inf
        return self.n + EIGH * (self.n + 400) * self.n / len(self.mean)

    def all_directions(self, b: int) -> Array:
        """Return the b leading eigenvectors of the inner products of few rows, to the rounding of the products."""
        return np.asarray(np.linalg.eigh(self._inner_products())[1][:, ::-1][:, :b])

    def _inner_products(self) -> Array:
        """Return X X^T of the centred rows, float64, summed over blocks of columns."""
        assert self.memory is not None
        K = np.zeros((self.n, self.n))
        with np.errstate(over="ignore", invalid="ignore"):
            for k in range(0, len(self.mean), BLOCK):
                X = self.memory[:, k : k + BLOCK] - self.centre[k : k + BLOCK].astype(self.kind)
                K += X @ X.T
        refuse_overflow(K)
        return K

    def _sample(self, count: int, rng: np.random.Generator) -> NDArray[np.floating]:
        """Return about so many random columns of few rows, or rows as columns, centred, shape (size, count)."""
        assert self.memory is not None
        if self.few:
            # neighbours come at the cost of one
            whole = len(self.mean) // NEAR * NEAR
            at = np.sort(rng.choice(whole // NEAR, count // NEAR, replace=False))
            some = np.take(self.memory[:, :whole].reshape(self.n, -1, NEAR), at, axis=1)
            some -= self.centre[:whole].reshape(-1, NEAR)[at].astype(self.kind)
            return np.asarray(some.reshape(self.n, -1))
        world, rank = self.processes.world, self.processes.rank
        held = np.zeros(world)
        held[rank] = len(self.memory)
        before = int(self.processes.sum(held)[:rank].sum())
        wanted = np.sort(rng.choice(self.n, count, replace=False))
        own = np.flatnonzero((wanted >= before) & (wanted < before + len(self.memory)))
        some = np.zeros((count, len(self.mean)), self.kind)
        some[own] = self.memory[wanted[own] - before] - self.centre.astype(self.kind)
        if world > 1:
            some = self.processes.sum(some.astype(np.float64)).astype(self.kind)
        return some.T

    def singular(self, U: Array) -> tuple[Array, Array, float]:
        """Return the singular values of X U, the directions they belong to, and the variance outside U, by a pass.

        Args:
            U: orthonormal columns, shape (m, k).
        """
        k = U.shape[1]
        trail = self._trail("singular", U)
        blocks = self.data.count_blocks(BLOCK)
        begun, (R, outside) = restored(trail, blocks, np.zeros((0, k)), np.zeros(1))
        for index, X in enumerate(self.centred(begun), start=begun + 1):
            X64 = X.astype(np.float64)
            Y = X64 @ U
            outside += np.square(X64 - Y @ U.T).sum()
            R = triangle_of(np.vstack([R, Y]))
            trail.mark(index, R, outside)
        if self.processes.world > 1:
            stack = np.zeros((self.processes.world, k, k))
            stack[self.processes.rank, : len(R)] = R
            R = self.processes.sum(stack).reshape(-1, k)
        _, s, Vt = np.linalg.svd(R, full_matrices=False)
        return s, U @ Vt.T, float(self.processes.sum(outside)[0]) / self.n


Sums: TypeAlias = "tuple[NDArray[np.floating] | None, Array, Array, Array, int]"


def _in_memory(data: Data) -> Sums:
    """Return the rows in memory minus a shift, the shift, and the sums, sums of squares and number of what is left."""
    memory, foreign = data.array()
    first = memory[: moments.FIRST_ROWS]
    shift = moments.short_mean(first).astype(memory.dtype) if len(first) else np.zeros(data.columns)
    if shift.any():
        memory = np.subtract(memory, shift, out=None if foreign else memory)
    sums, squares = np.zeros(data.columns), np.zeros(data.columns)
    _add(memory, sums, squares)
    if not np.isfinite(sums).all():
        data.refuse(memory)
    return memory, shift.astype(np.float64), sums, squares, len(memory)


def _streamed(data: Data) -> Sums:
    """Return the same for rows that are not kept."""
    trail = Trail(lambda: ("sums", data.identity()), wanted=data.every == 1)
    zeros = [np.zeros(data.columns) for _ in range(3)]
    begun, (shift, sums, squares, count) = restored(trail, data.count_blocks(BLOCK), *zeros, np.zeros(1))
    if not begun:
        shift = moments.first_shift(data, data.dtype).astype(np.float64)
    for index, block in enumerate(data.blocks(BLOCK, after=begun), start=begun + 1):
        _add(block - shift.astype(data.dtype) if shift.any() else block, sums, squares)
        count += len(block)
        trail.mark(index, shift, sums, squares, count)
    return None, shift, sums, squares, int(count[0])


def _add(v: NDArray[np.floating], sums: Array, squares: Array) -> None:
    """Add the sums and the sums of squares of rows, shape (m,)."""
    ones = np.ones(RUN, v.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for j in range(0, v.shape[1], RUN_COLUMNS):
            part = slice(j, j + RUN_COLUMNS)
            for k in range(0, len(v), RUN):
                run = v[k : k + RUN, part]
                sums[part] += ones[: len(run)] @ run
                squares[part] += np.einsum("ij,ij->j", run, run)


def _sums(X: Array, groups: int) -> Array:
    """Return the sums of every so-many-th column, shape (n, groups)."""
    out = X[:, :groups].copy()
    for first in range(groups, X.shape[1], groups):
        part = X[:, first : first + groups]
        out[:, : part.shape[1]] += part
    return out


def orthonormal(W: Array, times: int = 2) -> Array:
    """Return an orthonormal basis of what the columns span, shape (m, <= b): by their Gram matrix, twice.

    Once does for columns that are far from dependent: what is left of their inner products is rounding over the
    smallest eigenvalue of that matrix.

    Args:
        times: once does for columns that need only be independent.
    """
    for _ in range(times):
        W = W / np.maximum(np.linalg.norm(W, axis=0), 1e-300)
        G = W.T @ W
        try:
            L = np.linalg.cholesky(G)
        except np.linalg.LinAlgError:
            L = np.zeros_like(G)
        if L.size and np.square(L.diagonal()).min() > 1e-10:
            inverse = np.linalg.inv(L)
            W = W @ inverse.T
            if np.square(inverse).sum() < INDEPENDENT:  # the trace of G's inverse
                break
            continue
        squares, V = np.linalg.eigh(G)
        kept = squares > 1e-10 * squares.max(initial=0.0)
        W = W @ (V[:, kept] / np.sqrt(squares[kept]))
    return W


def rows_in_memory(data: Data, processes: Processes = ALONE) -> Rows:
    """Return rows whose `product` multiplies by the covariance without forming it.

    Raises:
        ResourceError: the rows are too many to be read again at every step.
    """
    rows = Rows.of(data, processes, hold=True)
    if rows.memory is None:
        raise ResourceError(
            f"training reads the {data.rows} rows at every step, and they do not fit into memory",
            hint="train on a part of the rows, or use --method closed",
        )
    return rows
