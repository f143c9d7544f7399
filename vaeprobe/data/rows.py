"""Rows of real numbers, streamed, converted and scaled."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from vaeprobe.data.shards import ArrayShard, Shard
from vaeprobe.errors import InputError, ResourceError, UsageError
from vaeprobe.files.source import quoted
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.floating]
    Stored: TypeAlias = NDArray[np.generic]
    Precision: TypeAlias = type[np.floating] | np.dtype[np.floating]

__all__ = ["Data", "Nonfinite", "NonfiniteRowsError"]

Nonfinite = Literal["refuse", "drop", "keep"]
EXACT_INTEGER = 2**53
LARGEST_BLOCK = 1 << 28  # bytes
RUN = 1024  # rows that stand together where some are read for all


class NonfiniteRowsError(InputError):
    """Rows hold NaN or infinity (exit code 5).

    Attributes:
        left: rows that hold neither.
        valued: rows with a number in them.
        infinite: whether any holds infinity.
    """

    left = valued = 0
    infinite = False


LOOKS, LOOKED_AT = 64, 4 << 20
"""Places that tell files from others, and bytes at each: all of a file of 256 MB."""


@dataclass(frozen=True, eq=False)
class Data:
    """Rows of real numbers, streamed from one or several stored arrays.

    Attributes:
        shards: the stored arrays, in order.
        factor: what the stored numbers are multiplied by.
        nonfinite: what happens to rows with NaN or infinity: "refuse", "drop" or "keep".
        notes: what a reader should know (scaling, trailing bytes, flattened images).
        first, last: range of rows of the shards that belong to this data.
        every: of as many runs of `RUN` rows of each array, one is read.
        wide: whether numbers are float64 even where float32 holds them exactly.
        span: first and last row of all, of which this is the share of one process.
    """

    shards: tuple[Shard, ...]
    factor: float = 1.0
    nonfinite: Nonfinite = "refuse"
    notes: tuple[Finding, ...] = ()
    first: int = 0
    last: int = field(default=-1)
    every: int = 1
    wide: bool = False
    span: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.last < 0:
            object.__setattr__(self, "last", sum(s.rows for s in self.shards))

    @property
    def rows(self) -> int:
        """Number of stored rows, including those that `nonfinite="drop"` leaves out."""
        if self.every == 1:
            return self.last - self.first
        cycles = [divmod(stop - start, RUN * self.every) for _, start, stop in self._ranges()]
        return sum(whole * RUN + min(rest, RUN) for whole, rest in cycles)

    @property
    def fingerprint(self) -> str:
        """Sizes of the files and a hash of their bytes, of large ones of some: tells copies of different content, without reading all."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(repr((shard.rows, shard.row_shape, str(shard.stored))).encode())
            files = [path for path in shard.read_from if os.path.isfile(path)]
            for path in files:
                size, looks = os.path.getsize(path), max(1, LOOKS // len(files))
                digest.update(str(size).encode())
                with open(path, "rb") as file:
                    for start in np.linspace(max(0, size - LOOKED_AT), 0, looks).astype(int):
                        file.seek(int(start))
                        digest.update(file.read(LOOKED_AT))
        return digest.hexdigest()

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row, e.g. (28, 28)."""
        return self.shards[0].row_shape

    @property
    def columns(self) -> int:
        """Numbers per row."""
        return self.shards[0].columns

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, *self.row_shape)

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """float32 where every stored number fits it exactly and nobody wants more, else float64."""
        if self.wide:
            return np.dtype(np.float64)
        return np.dtype(np.result_type(np.float32, *(_float_type(s) for s in self.shards)))

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.path for s in self.shards))

    def identity(self) -> list[object]:
        """Return what tells these rows from others: files by name, size and time, arrays by their bytes."""
        stored: list[object] = []
        for shard in self.shards:
            if isinstance(shard, ArrayShard):
                stored.append((str(shard.stored), shard.array))
            else:
                states = [(os.path.realpath(file), os.stat(file)) for file in shard.read_from]
                stored.append((shard, [(file, state.st_size, state.st_mtime_ns) for file, state in states]))
        return [stored, self.factor, self.nonfinite, self.first, self.last, self.every, self.wide, self.span]

    def share(self, rank: int, world: int, unit: int = 1) -> Data:
        """Return the contiguous share of rows of one of `world` processes, which begins at a whole number of units in its file."""
        if not 0 <= rank < world:
            raise UsageError(f"rank {rank} is not one of {world}")
        unit = unit if self.every == 1 else RUN * self.every
        first, last = (
            self._at_unit(self.first + (self.last - self.first) * k // world, unit) for k in (rank, rank + 1)
        )
        return replace(self, first=first, last=last, span=(self.first, self.last))

    @property
    def whole(self) -> Data:
        """The rows that this is a share of."""
        return self if self.span is None else replace(self, first=self.span[0], last=self.span[1], span=None)

    def _at_unit(self, row: int, unit: int) -> int:
        """Return the beginning that is nearest to a row of a block of so many, which begin anew in every stored array."""
        first = self.first
        for _, start, stop in self._ranges():
            end = first + stop - start
            if row < end:
                return min(first + (row - first + unit // 2) // unit * unit, end)
            first = end
        return self.last

    def head(self, rows: int) -> Data:
        """Return the first rows alone."""
        return replace(self, last=min(self.last, self.first + rows))

    def widened(self) -> Data:
        """Return the rows as float64."""
        return replace(self, wide=True)

    def thinned(self, every: int) -> Data:
        """Return one of as many runs of `RUN` rows, evenly spread."""
        return replace(self, every=self.every * every)

    def blocks(
        self,
        size: int = 8192,
        *,
        dtype: Precision | None = None,
        every: int = 1,
        after: int = 0,
    ) -> Iterator[Array]:
        """Yield the rows in order, flattened and scaled, shape (b, columns), b <= size.

        A block may be overwritten by the next one: copy what you keep, and write into none.

        Args:
            size: rows per block.
            dtype: float32 or float64; by default `self.dtype`.
            every: of as many blocks of each stored array, one is yielded.
            after: so many blocks of all rows are left out at the beginning, which are not read where they need not be.

        Raises:
            InputError: a row has NaN or infinity and `nonfinite` is "refuse"; the file is damaged.
        """
        kind: np.dtype[np.floating] = np.dtype(dtype or self.dtype)
        size = self._block(size)
        row = self.in_blocks(after, size)
        rest = replace(self, first=self.first + row)
        for block in rest._converted(size, kind, every):
            if self.nonfinite == "refuse" and not _all_finite(block):
                self.refuse(block, row)
            yield self.finite(block)
            row += len(block) if every == 1 else 0

    def finite(self, block: Array) -> Array:
        """Return the rows of a block that belong to these data: where `nonfinite` is "drop", those that are finite."""
        if self.nonfinite != "drop" or _all_finite(block):
            return block
        return np.asarray(block[np.isfinite(block).all(axis=1)])

    def in_blocks(self, count: int, size: int) -> int:
        """Return how many stored rows the first blocks of that size hold, of rows that are not thinned."""
        size, rows = self._block(size), 0
        for _, start, stop in self._ranges():
            here = min(stop - start, count * size)
            rows, count = rows + here, count - -(-here // size)
        return rows

    def count_blocks(self, size: int) -> int:
        """Return how many blocks of that size all rows are yielded in, of rows that are not thinned."""
        size = self._block(size)
        return sum(-(-(stop - start) // size) for _, start, stop in self._ranges())

    def _block(self, size: int) -> int:
        """Return how many rows a block has at most where so many are asked for."""
        most = max(1, LARGEST_BLOCK // (8 * self.columns))
        return max(1, min(size, 1 << most.bit_length() - 1))  # a power of two, with which shares begin

    def refuse(self, block: Array, row: int = 0) -> None:
        """Raise NonfiniteRowsError if a number of the block is not finite and `nonfinite` is "refuse".

        Args:
            row: the block's first row; those before it are known to be finite.
        """
        if self.nonfinite == "refuse" and not np.isfinite(block).all():
            raise self.refusal(row)

    def read(self, limit: int | None = None, *, dtype: Precision | None = None) -> Array:
        """Return the rows, shape (rows, *row_shape), float32 or float64, scaled; the first `limit` of them.

        Raises:
            ResourceError: they do not fit into memory.
            InputError: as for `blocks`.
        """
        count = self.rows if limit is None else min(limit, self.rows)
        kind: np.dtype[np.floating] = np.dtype(dtype or self.dtype)
        try:
            out = np.empty((count, self.columns), kind)
        except MemoryError:
            size = count * self.columns * kind.itemsize / 2**30
            raise ResourceError(f"{count} rows of {self.columns} numbers take {size:.1f} GiB") from None
        done = 0
        for block in self.blocks(min(max(count, 1), 8192), dtype=kind):
            part = block[: count - done]
            out[done : done + len(part)] = part
            done += len(part)
            if done == count:
                break
        return out[:done].reshape(done, *self.row_shape)

    def array(self) -> tuple[Array, bool]:
        """Return the rows in memory, shape (rows, columns), and whether they are the caller's own array, as it stands.

        An array that needs neither scaling nor another type is not copied, and its numbers are not looked at: ask
        `refuse` where they are summed up.

        Raises:
            ResourceError, InputError: as for `read`.
        """
        shard = self.shards[0]
        plain = len(self.shards) == 1 and self.factor == 1.0 and self.nonfinite != "drop" and self.every == 1
        if plain and isinstance(shard, ArrayShard) and shard.array.dtype == self.dtype:
            rows = shard.array[self.first : self.last].reshape(-1, self.columns)
            return rows.astype(self.dtype, copy=False), True
        return self.read().reshape(-1, self.columns), False

    def _converted(self, size: int, kind: np.dtype[np.floating], every: int = 1) -> Iterator[Array]:
        for shard, start, stop in self._ranges():
            run = size if self.every == 1 else RUN
            for raw in shard.some_blocks(run, start, stop, self.every * every):
                for first in range(0, len(raw), size):
                    yield _convert(raw[first : first + size], shard, kind, self.factor)

    def _ranges(self) -> Iterator[tuple[Shard, int, int]]:
        """Yield the stored arrays that hold rows of this data, with the first and last of them."""
        offset = 0
        for shard in self.shards:
            start, stop = max(self.first - offset, 0), min(self.last - offset, shard.rows)
            offset += shard.rows
            if start < stop:
                yield shard, start, stop

    def refusal(self, seen: int = 0) -> InputError:
        """Return the error for data that is not finite; rows before `seen` are known to be good."""
        if self.every > 1 or self.span is not None:
            return replace(self.whole, every=1).refusal()
        bad: list[int] = []
        count = row = valued = 0
        infinite = False
        known = np.zeros(self.columns, bool)
        for block in self._converted(8192, np.dtype(np.float64)):
            finite = np.isfinite(block)
            known |= finite.any(axis=0)
            valued += int(finite.any(axis=1).sum())
            infinite |= bool(np.isinf(block).any())
            if row + len(block) > seen:
                rows = np.flatnonzero(~finite.all(axis=1)) + row + self.first
                count += len(rows)
                bad.extend(rows[: 10 - len(bad)].tolist())
            row += len(block)
        if not known.any():
            return InputError("no number of the data is finite", hint="is it the right file or array?")
        if not known.all():  # no row is left without it
            return InputError(
                _without_value(np.flatnonzero(~known)),
                hint=f"leave {'the column' if known.sum() == len(known) - 1 else 'these columns'} out of the data",
            )
        listed = ", ".join(map(str, bad)) + (", ..." if count > len(bad) else "")
        error = NonfiniteRowsError(
            f"{count} of {self.rows} rows hold NaN or infinity (counted from 0: {listed})",
            hint="leave those rows out of the data",
        )
        error.left, error.valued, error.infinite = self.rows - count, valued, infinite
        return error


def _without_value(columns: NDArray[np.int64]) -> str:
    """Return which columns have no finite value, in words."""
    if len(columns) == 1:
        return f"column {columns[0]} (counted from 0) has no finite value"
    listed = ", ".join(map(str, columns[:10])) + (", ..." if len(columns) > 10 else "")
    return f"{len(columns)} columns have no finite value (counted from 0: {listed})"


def _float_type(shard: Shard) -> np.dtype[np.floating]:
    narrow = (
        shard.bfloat16
        or shard.stored.itemsize <= 2
        or (shard.stored.kind == "f" and shard.stored.itemsize == 4)
    )
    return np.dtype(np.float32 if narrow else np.float64)


def _convert(raw: Stored, shard: Shard, kind: np.dtype[np.floating], factor: float) -> Array:
    if shard.bfloat16:
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    wide = shard.stored.kind in "iu" and shard.stored.itemsize == 8 and raw.size > 0
    if wide and max(int(raw.max()), -int(raw.min())) > EXACT_INTEGER:
        raise InputError(
            f"{quoted(shard.path)} holds integers beyond 2^53, which no float64 holds exactly",
            hint="subtract an offset, or save them as float64 yourself",
        )
    if factor == 1.0:
        return raw.astype(kind, copy=False)
    if shard.stored == np.uint8 and factor == 1 / 255:
        return np.divide(raw, 255, dtype=kind)  # the same bits as the usual x / 255
    return np.multiply(raw, factor, dtype=kind)


def _all_finite(block: Array) -> bool:
    # one pass at memory speed; a sum that overflows is looked at again, number by number
    with np.errstate(over="ignore", invalid="ignore"):
        total = block.sum()
    return bool(np.isfinite(total)) or bool(np.isfinite(block).all())
