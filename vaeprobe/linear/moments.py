"""Mean and scatter of rows in one pass, in blocks, merged exactly.

Blocks are products `v.T @ v` (SYRK), in float32 for large float32 data, and the sums are float64.  Each block is
shifted by something near the mean of the first of all rows before its product is formed, unless that is within a deviation of
0, so that a column with a large offset keeps its variance.  The shift is a short number, a multiple of a sixteenth of the column's deviation or so:
where data are whole numbers or bits, so are then the shifted ones, and their float32 products are exact.  (Shifted by
the mean itself, all the equal products of bits are rounded the same way, which no sum over rows averages out: an error
of 2e-5 of the largest eigenvalue where other data have 1e-7.)

How far float32 is off is measured: one block in 64 is multiplied in float64 too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vaeprobe.budget import budget
from vaeprobe.errors import InputError, ResourceError
from vaeprobe.files.limits import physical_memory
from vaeprobe.intervals import stream
from vaeprobe.kept import Trail
from vaeprobe.processes import ALONE, Processes
from vaeprobe.progress import tell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vaeprobe.data import Data

    Array: TypeAlias = NDArray[np.float64]

BLOCK = (
    4096  # rows of a product: copying the triangle of one of 2048 and adding it up take a seventh of its time
)
BLOCK_NUMBERS = 2**22
FLOAT64_WORK = 1e10  # rows * columns^2 up to which products are formed in float64, whatever the data
BESIDE = 3  # matrices of the covariance's size that are held beside it at most: float32 products, eigenvectors, room for them
CHECKED = (
    64  # of as many blocks, one is multiplied in float64 too; whole, for sums of fewer rows are off by less
)
ENOUGH = 0.4  # of the time that is left: with so much, rows that are not yet read are left out
FIRST_ROWS = 256  # that the shift is taken from: their mean is within a sixteenth of a deviation


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over rows about a shift, which add up over processes that share the shift.

    Attributes:
        shift: shape (m,).
        outer, sums, counts: of (x - shift)(x - shift)^T, of x - shift and of rows in each fold.
        slip, drift: what float32 products and sums of the checked rows are off by.
        done, checked, left_out: rows that are in it, that were multiplied in float64 too, and that were left out.
    """

    shift: NDArray[np.floating]
    outer: Array
    sums: Array
    counts: NDArray[np.int64]
    slip: Array | None
    drift: Array
    done: int
    checked: int
    left_out: int

    def of_all(self, processes: Processes) -> _Sums:
        """Return the sums over the rows of all processes."""
        if processes.world == 1:
            return self
        numbers = np.array([self.done, self.checked, self.left_out, *self.counts], np.float64)
        done, checked, left_out, *counts = (int(x) for x in processes.sum(numbers))
        outer, sums, drift = (processes.sum(x) for x in (self.outer, self.sums, self.drift))
        slip = None if self.slip is None else processes.sum(self.slip)
        return _Sums(self.shift, outer, sums, np.array(counts), slip, drift, done, checked, left_out)


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and centred scatter of rows.

    Attributes:
        n: number of rows.
        mean: shape (m,).
        scatter: sum of (x - mean)(x - mean)^T, shape (m, m).
        slip: what float32 products added to the scatter, from the rows that were multiplied in float64 too, scaled
            to all rows, shape (m, m); None for float64 products.
        left_out: rows with NaN or infinity that were read and left out.
        here: rows that this process read.
    """

    n: int
    mean: Array
    scatter: Array
    slip: Array | None = None
    left_out: int = 0
    here: int = 0

    @property
    def covariance(self) -> Array:
        """The covariance S, divided by n, shape (m, m)."""
        return self.scatter / self.n

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of the rows of both (Chan, Golub and LeVeque 1983)."""
        n, left_out, here = self.n + other.n, self.left_out + other.left_out, self.here + other.here
        if 0 in (self.n, other.n):
            return replace(other if self.n == 0 else self, left_out=left_out, here=here)
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter += np.outer(step, step) * (self.n * other.n / n)
        slips = [part.slip for part in (self, other) if part.slip is not None]
        slip = np.add.reduce(slips) if slips else None
        return Moments(n, self.mean + step * (other.n / n), scatter, slip, left_out, here)


def arithmetic(data: Data) -> np.dtype[np.floating]:
    """Return the type that products are formed in: float32 for large float32 data, else float64; the same for a share."""
    small = data.whole.rows * data.columns**2 <= FLOAT64_WORK
    return np.dtype(np.float64 if small else data.dtype)


def block_rows(columns: int) -> int:
    """Return how many rows are multiplied at a time, a power of two."""
    return max(256, min(BLOCK, 1 << (BLOCK_NUMBERS // max(1, columns)).bit_length() - 1))


def accumulate(
    data: Data,
    *,
    dtype: type[np.floating] | np.dtype[np.floating] | None = None,
    folds: int = 1,
    seed: int = 0,
    processes: Processes = ALONE,
) -> tuple[Moments, ...]:
    """Return the moments of the rows, one per random fold, in one pass.

    Args:
        data: rows, m columns; of several processes, this one's share. Where shares begin with blocks, products are the same
            however many share them.
        dtype: type of the products; by default `arithmetic(data)`.
        folds: number of random parts; their sum is the moments of all rows.
        seed: seed of the assignment of rows to folds.
        processes: those that share the rows.

    Raises:
        ResourceError: the m x m matrices do not fit into memory.
    """
    kind = np.dtype(dtype or arithmetic(data))
    found = processes.together(lambda: _summed(data, kind, folds, seed))
    return _centred(found.of_all(processes), here=found.done)


def _summed(data: Data, kind: np.dtype[np.floating], folds: int, seed: int) -> _Sums:
    """Return the sums of the rows that are here."""
    m, size = data.columns, block_rows(data.columns)
    needed = 8 * m**2 * (folds + BESIDE)
    try:
        if needed > physical_memory():
            raise MemoryError
        outer = np.zeros((folds, m, m))
        work = np.empty((min(size, data.rows), m), kind)
        square = np.empty((m, m), kind)
        slip = np.zeros((m, m)) if kind == np.float32 else None
    except MemoryError:
        raise ResourceError(
            f"the covariance of {m} columns and its eigenvectors take about {needed / 1e9:.1f} GB",
            hint="--solver randomized needs no covariance matrix",
        ) from None
    sums, counts = np.zeros((folds, m)), np.zeros(folds, np.int64)
    drift = np.zeros(m)  # what the sums of the checked rows are off by
    shift = np.zeros(m, kind)
    done = checked = left_out = begun = 0
    # of thinned rows no longer run is made
    trail = Trail(lambda: (data.identity(), str(kind), folds, seed, size), wanted=data.every == 1)
    kept = trail.last(data.count_blocks(size))
    if kept:
        begun, piece = kept
        outer, sums, counts, slip, drift, shift, done, checked, left_out = _restored(piece, kind)
    else:
        shift = first_shift(data, kind)
    before = 0 if data.span is None else replace(data.whole, last=data.first).count_blocks(size)
    rng = stream(seed, "folds")
    if folds > 1:  # a row is in the same fold whichever process reads it
        behind = data.first + done + left_out
        for first in range(0, behind, size):
            rng.integers(folds, size=min(size, behind - first))
    enough = ENOUGH * budget().left  # what is left is for what is made of the moments
    ones = np.ones(len(work), kind)
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # products that overflow are refused where they are used
        whole = replace(data, nonfinite="keep")  # looked at here
        for index, read in enumerate(whole.blocks(size, dtype=kind, after=begun), start=begun):
            block = data.finite(read)
            left_out += len(read) - len(block)
            v = np.subtract(block, shift, out=work[: len(block)]) if shift.any() else block
            owner = rng.integers(folds, size=len(read)) if folds > 1 else None
            if owner is not None and len(block) < len(read):
                owner = owner[np.isfinite(read).all(axis=1)]
            check = slip is not None and (before + index) % CHECKED == 0
            checked += len(v) if check else 0
            for k in range(folds):
                part = v if owner is None else v[owner == k]
                along = ones[: len(part)] @ part
                if not np.isfinite(along).all():
                    data.refuse(block, data.in_blocks(index, size))
                product = np.matmul(part.T, part, out=square)
                outer[k] += product
                sums[k] += along
                if check:
                    exact = (block if owner is None else block[owner == k]) - shift.astype(np.float64)
                    slip += product - exact.T @ exact
                    drift += along - np.ones(len(exact)) @ exact
                counts[k] += len(part)
            done += len(block)
            tell("moments", done + left_out, data.rows)
            over = budget().bounded and budget().left <= enough
            slipped = np.zeros(0) if slip is None else slip
            numbers = (done, checked, left_out)
            trail.mark(index + 1, outer, sums, counts, slipped, drift, shift, *numbers, end=over)
            if over:
                break
    tell("moments", data.rows, data.rows)
    return _Sums(shift, outer, sums, counts, slip, drift, done, checked, left_out)


def _centred(found: _Sums, here: int) -> tuple[Moments, ...]:
    """Return the moments of sums of rows about a shift, of which so many are in this process."""
    out, outer, sums, done = [], found.outer, found.sums, found.done
    for k, count in enumerate(found.counts):
        n = int(count)
        centre = sums[k] / max(n, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            outer[k] -= np.outer(centre, sums[k])
        out.append(Moments(n, found.shift + centre, outer[k]))
    slip = found.slip
    if slip is not None:  # of all folds together: only their sum is asked for it
        slip *= done / max(found.checked, 1)
        drift, centre = found.drift / max(found.checked, 1), sums.sum(axis=0) / max(done, 1)
        slip -= done * (np.outer(centre, drift) + np.outer(drift, centre) - np.outer(drift, drift))
    out[0] = replace(out[0], slip=slip, left_out=found.left_out, here=here)
    return tuple(out)


def _restored(
    piece: tuple[Array, ...], kind: np.dtype[np.floating]
) -> tuple[Array, Array, NDArray[np.int64], Array | None, Array, NDArray[np.floating], int, int, int]:
    """Return the sums as they were kept."""
    outer, sums, counts, slip, drift, shift, *numbers = piece
    done, checked, left_out = (int(number) for number in numbers)
    slipped = slip if slip.size else None
    return outer, sums, counts.astype(np.int64), slipped, drift, shift.astype(kind), done, checked, left_out


def first_shift(data: Data, kind: np.dtype[np.floating]) -> NDArray[np.floating]:
    """Return the short mean of the first rows of all, which sums are formed about, the same in every process, shape (m,).

    Raises:
        InputError: they are not finite, and refused.
    """
    whole = data.whole
    for read in replace(whole, nonfinite="keep").blocks(FIRST_ROWS, dtype=kind):
        first = whole.finite(read)
        if len(first):
            whole.refuse(first)
            return short_mean(first).astype(kind)
    return np.zeros(whole.columns, kind)


def short_mean(block: NDArray[np.floating]) -> Array:
    """Return the means of the columns to a sixteenth of their deviations, shape (m,).

    They are 0 where they are within one, and where sums overflow.
    """
    ones, n = np.ones(len(block), block.dtype), len(block)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mean = (ones @ block).astype(np.float64) / n
        # of a mean that is large beside it, the deviation is lost, and any number that is near will do
        deviation = np.sqrt(np.einsum("ij,ij->j", block, block) / n - mean**2)
        step = np.exp2(np.floor(np.log2(deviation)) - 4)
        short = np.where(np.abs(mean) <= deviation, 0.0, np.round(mean / step) * step)
    short = np.where(np.isfinite(short) & (step > 0), short, mean)
    return np.where(np.isfinite(short), short, 0.0)


def refuse_few(rows: int, data: Data) -> None:
    """Refuse fewer than two rows, those of all processes, and say what it is that left so few.

    Raises:
        InputError: there are fewer than two rows.
    """
    if rows >= 2:
        return
    if data.nonfinite == "drop" and data.rows > rows:
        raise data.refusal()
    raise InputError(
        f"a covariance needs two rows or more, and there {'is' if rows == 1 else 'are'} {rows}",
        hint="one row per sample: was the array transposed?",
    )


def total(parts: tuple[Moments, ...]) -> Moments:
    """Return the moments of all parts together."""
    return reduce(Moments.__add__, parts)
