"""Centred rows for repeated products with their covariance, which is never formed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vaeprobe.data import Data, in_memory
from vaeprobe.errors import ResourceError
from vaeprobe.intervals import stream
from vaeprobe.linear import moments
from vaeprobe.linear.eigenpairs import refuse_overflow
from vaeprobe.linear.moments import Moments
from vaeprobe.processes import ALONE, Processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vaeprobe.linear.moments import Array

__all__ = ["CACHE_BYTES", "Rows", "orthonormal", "rows_in_memory", "triangle_of"]


CACHE_BYTES = 2**30  # rows that several passes read are kept in memory up to this size
START_ROWS = 8  # random rows for each direction that the randomized solver starts from


def triangle_of(X: Array) -> Array:
    return np.asarray(np.linalg.qr(X, mode="r"))


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
        refuse_overflow(variances)
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
            return orthonormal(stream(seed, "sketch").standard_normal((m, b)))
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
        refuse_overflow(K)
        V = np.linalg.eigh(K)[1][:, ::-1][:, :b].astype(self.kind)
        return orthonormal((some.T @ V).astype(np.float64))

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
            R = triangle_of(np.vstack([R, Y]))
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


def orthonormal(W: Array) -> Array:
    """Return an orthonormal basis of what the columns span, shape (m, <= b): by their Gram matrix, twice."""
    for _ in range(2):
        W = W / np.maximum(np.linalg.norm(W, axis=0), 1e-300)
        squares, V = np.linalg.eigh(W.T @ W)
        kept = squares > 1e-10 * squares.max(initial=0.0)
        W = W @ (V[:, kept] / np.sqrt(squares[kept]))
    return W


def rows_in_memory(data: Data, processes: Processes = ALONE) -> Rows:
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
