"""Stored arrays, read in blocks of rows."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypedDict

import numpy as np

from vaeprobe.errors import InputError, UnsafeError
from vaeprobe.files.npy import MAX_HEADER, Header, layout
from vaeprobe.files.source import open_window, quoted
from vaeprobe.files.tensors import TensorSpec
from vaeprobe.files.zips import Entry, inflated
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]

__all__ = ["ArrayShard", "MemberShard", "RawShard", "Shard", "member_layout", "of_spec", "rows_of"]

BLOCK = 1 << 20  # bytes unpacked at a time


@dataclass(frozen=True, kw_only=True)
class Shard(ABC):
    """One stored array, read in blocks of rows.

    Attributes:
        path: for messages.
        rows: length of the first axis.
        row_shape: the other axes.
        stored: type of the numbers as stored; for bfloat16 that of its bits, uint16.
        bfloat16: whether the bits are bfloat16.
        notes: what a reader should know.
    """

    IN_ORDER: ClassVar[bool] = False  # whether rows are found by reading those before them

    path: str
    rows: int
    row_shape: tuple[int, ...]
    stored: np.dtype[np.generic]
    bfloat16: bool = False
    notes: tuple[Finding, ...] = ()

    @property
    def columns(self) -> int:
        """Numbers per row."""
        return math.prod(self.row_shape)

    @property
    def read_from(self) -> tuple[str, ...]:
        """The files that its numbers are read from."""
        return (self.path,)

    @abstractmethod
    def blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        """Yield stored numbers, shape (b, columns), for rows start to stop; a block may be overwritten by the next."""

    def some_blocks(self, size: int, start: int, stop: int, every: int) -> Iterator[Array]:
        """Yield one of `every` blocks; where rows are found without reading those before them, only these are read."""
        if every == 1 or self.IN_ORDER:
            yield from itertools.islice(self.blocks(size, start, stop), 0, None, every)
            return
        for first in range(start, stop, size * every):
            yield from self.blocks(size, first, min(first + size, stop))


class Rows(TypedDict):
    """The fields that every `Shard` has."""

    path: str
    rows: int
    row_shape: tuple[int, ...]
    stored: np.dtype[np.generic]


def rows_of(path: str, shape: Sequence[int], dtype: np.dtype[np.generic]) -> Rows:
    """Return the common fields of a shard.

    Raises:
        UnsafeError: objects of Python.
        InputError: a type or shape that is no rows of real numbers.
    """
    if dtype.hasobject:
        raise UnsafeError(
            f"{quoted(path)} holds Python objects, which only a pickle can bring back",
            hint="convert the array to a numeric type and save it again",
        )
    if dtype.kind not in "fiub" or dtype.names is not None:
        raise InputError(
            f"{quoted(path)} holds {dtype}, not real numbers", hint="convert it to a float or integer type"
        )
    if len(shape) < 2:
        raise InputError(
            f"{quoted(path)} has shape {tuple(shape)}: rows of data need two axes or more",
            hint="one row per sample: x[:, None] for one column, x[None] for one row",
        )
    if 0 in shape:
        what = "rows" if shape[0] == 0 else "columns"
        raise InputError(f"{quoted(path)} has no {what}: its shape is {tuple(shape)}")
    return {
        "path": path,
        "rows": int(shape[0]),
        "row_shape": tuple(int(k) for k in shape[1:]),
        "stored": dtype,
    }


@dataclass(frozen=True, kw_only=True)
class RawShard(Shard):
    """Uncompressed numbers at an offset of a file; read by pread, so that they never count as resident."""

    offset: int
    fortran: bool = False

    def blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        window = open_window(self.path)
        itemsize, columns = self.stored.itemsize, self.columns
        buffer = np.empty((min(size, stop - start), columns), self.stored)
        for first in range(start, stop, size):
            b = min(size, stop - first)
            if not self.fortran:
                block = buffer[:b]
                window.fill(_bytes_of(block), self.offset + first * columns * itemsize)
                yield block
                continue
            # stored column by column, with the first of the row's axes running fastest
            stored = np.empty((columns, b), self.stored)
            for k in range(columns):
                window.fill(_bytes_of(stored[k]), self.offset + (k * self.rows + first) * itemsize)
            rows = stored.reshape(*reversed(self.row_shape), b)
            yield rows.transpose(range(rows.ndim - 1, -1, -1)).reshape(b, columns)


def _bytes_of(block: Array) -> memoryview:
    return block.reshape(-1).view(np.uint8).data


@dataclass(frozen=True, kw_only=True)
class MemberShard(Shard):
    """A .npy member of an archive, unpacked as a stream."""

    IN_ORDER: ClassVar[bool] = True

    member: Entry
    start: int
    fortran: bool

    def blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        stream = _Stream(inflated(open_window(self.path), self.member, BLOCK))
        stream.skip(self.start)
        itemsize = self.stored.itemsize
        if self.fortran:
            raw = np.frombuffer(stream.take(self.rows * self.columns * itemsize), self.stored)
            rows = raw.reshape((self.rows, *self.row_shape), order="F").reshape(self.rows, self.columns)
            for first in range(start, stop, size):
                yield rows[first : min(first + size, stop)]
            return
        stride = self.columns * itemsize
        stream.skip(start * stride)
        for first in range(start, stop, size):
            b = min(size, stop - first)
            yield np.frombuffer(stream.take(b * stride), self.stored).reshape(b, self.columns)
        stream.skip_rest()  # so that the checksum is compared


def member_layout(path: str, entry: Entry, name: str) -> tuple[Header, tuple[Finding, ...]]:
    """Return what the header of a .npy member says, unpacking no more than that."""
    head = b""
    for piece in inflated(open_window(path), entry, MAX_HEADER + 12):
        head += piece
        if len(head) >= min(MAX_HEADER + 12, entry.size):
            break
    return layout(head, name, entry.size)


class _Stream:
    """Pieces of bytes, taken by length."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.left = b""

    def take(self, count: int) -> bytes:
        parts = [self.left]
        there = len(self.left)
        while there < count:
            parts.append(next(self.pieces))  # `inflated` has checked that there is enough
            there += len(parts[-1])
        whole = b"".join(parts)
        self.left = whole[count:]
        return whole[:count]

    def skip(self, count: int) -> None:
        while count > len(self.left):
            count -= len(self.left)
            self.left = next(self.pieces)
        self.left = self.left[count:]

    def skip_rest(self) -> None:
        for _ in self.pieces:
            pass


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayShard(Shard):
    """An array in memory."""

    array: Array

    def blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        for first in range(start, stop, size):
            b = min(size, stop - first)
            yield self.array[first : first + b].reshape(b, self.columns)


# of torch's names, those that numpy has
NUMPY = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2", "int64": "i8", "int32": "i4", "int16": "i2",
    "int8": "i1", "uint64": "u8", "uint32": "u4", "uint16": "u2", "uint8": "u1", "bool": "?",
}  # fmt: skip


def numpy_type(dtype: str, path: str, *, big_endian: bool = False) -> np.dtype[np.generic]:
    """Return numpy's type for one of torch's.

    Raises:
        InputError: numpy has none.
    """
    if dtype not in NUMPY:
        raise InputError(
            f"{quoted(path)} holds numbers of type {dtype}, which is none for data",
            hint="save it as float32",
        )
    return np.dtype(f"{'>' if big_endian else '<'}{NUMPY[dtype]}")


def of_spec(path: str, spec: TensorSpec) -> ArrayShard:
    """Return the rows that a tensor in a torch file holds.

    Raises:
        InputError: it is no rows of real numbers.
    """
    kind = numpy_type(spec.dtype, path, big_endian=spec.big_endian)
    common = rows_of(path, spec.shape, kind)
    raw = np.frombuffer(spec.data, kind, len(spec.data) // kind.itemsize)
    steps = tuple(n * kind.itemsize for n in spec.stride)
    array = np.lib.stride_tricks.as_strided(raw[spec.offset :], spec.shape, steps, writeable=False)
    return ArrayShard(**common, array=array, bfloat16=spec.dtype == "bfloat16")
