"""Arrays in .npy and .npz files, without object arrays.

Source: numpy/lib/format.py, which describes the format.
"""

from __future__ import annotations

import ast
import math
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from vaeprobe.errors import InputError, ResourceError, UnsafeError
from vaeprobe.files.source import Bytes, quoted
from vaeprobe.files.tensors import countable
from vaeprobe.files.zips import Entry, directory, unpacked
from vaeprobe.findings import TRAILING_BYTES
from vaeprobe.report import Finding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]

__all__ = ["MAX_HEADER", "Header", "layout", "members", "read_npy", "read_npz"]

LARGEST = 1 << 30  # bytes that an archive may unpack to ...
SMALLEST = 1 << 28  # ... or this many, where it packs better than numbers do
RATIO = 100
MAX_HEADER = 1 << 16
CUT = "the file is truncated or damaged: fetch it again"


@dataclass(frozen=True)
class Header:
    """What the header of a .npy says.

    Attributes:
        dtype: of the numbers as stored.
        fortran: whether the first index runs fastest.
        shape: sizes.
        start: where the numbers begin.
    """

    dtype: np.dtype[np.generic]
    fortran: bool
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes that the numbers take."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(data: bytes, name: str) -> tuple[Array, tuple[Finding, ...]]:
    """Return the numeric array of a .npy file, native byte order, and notes; `name` is for messages.

    Raises:
        UnsafeError: an array of Python objects, which are pickles.
        InputError: a damaged file, or text, dates, records, complex numbers.
    """
    import numpy as np

    found, notes = layout(data, name)
    flat = np.frombuffer(data, found.dtype, math.prod(found.shape), found.start)
    array = flat.reshape(found.shape, order="F" if found.fortran else "C")
    return array.astype(found.dtype.newbyteorder("=")), notes


def layout(data: Bytes, name: str, size: int | None = None) -> tuple[Header, tuple[Finding, ...]]:
    """Return what the header of a .npy says, held against the bytes that are there, and notes.

    Args:
        data: the file, or its beginning.
        name: for messages.
        size: of the file, where `data` is its beginning.

    Raises:
        UnsafeError, InputError: as `read_npy`.
    """
    found = _header(data, name)
    _check_kind(found.dtype, name)
    there = (len(data) if size is None else size) - found.start
    if found.nbytes > there:
        raise InputError(
            f"{name} claims an array of shape {list(found.shape)} ({found.nbytes:,} bytes) and {there:,} bytes follow",
            hint=CUT,
            about=name,
        )
    if found.nbytes < there:
        message = f"{name} has {there - found.nbytes:,} bytes after its array, which were ignored"
        return found, (Finding(TRAILING_BYTES, message),)
    return found, ()


def members(data: Bytes, name: str) -> Mapping[str, Entry]:
    """Return the arrays of a .npz file by name, not unpacked yet.

    Raises:
        UnsafeError: a zip that two readers can see differently.
        InputError: a damaged zip, or one that holds something else.
        ResourceError: it unpacks to over 1 GiB, or to over 256 MiB and 100 times its size.
    """
    entries = directory(data)
    total = sum(entry.size for entry in entries)
    packed = sum(entry.stop - entry.start for entry in entries)
    if total > LARGEST + packed or (total > SMALLEST and total > RATIO * packed):
        raise ResourceError(
            f"{name} expands {len(data):,} to {total:,} bytes",
            hint="if you trust it, load it with numpy and save the array as .npy",
            about=name,
        )
    for entry in entries:
        if not entry.name.endswith(".npy"):
            raise InputError(f"{name} holds {quoted(entry.name)}, which is no .npy array", about=name)
    return {entry.name.removesuffix(".npy"): entry for entry in entries}


def read_npz(data: bytes, name: str) -> dict[str, tuple[Array, tuple[Finding, ...]]]:
    """Return the arrays of a .npz file by name.

    Raises:
        UnsafeError, InputError: as `read_npy` and `members`.
        ResourceError: as `members`.
    """
    found = members(data, name)
    return {
        k: read_npy(unpacked(data, entry, entry.size), f"array {quoted(k)} of {name}")
        for k, entry in found.items()
    }


def _header(data: Bytes, name: str) -> Header:
    """Return what the header says."""
    import numpy as np

    broken = InputError(f"{name} has no valid .npy header", hint=CUT, about=name)
    head = bytes(data[:12])
    if len(head) < 12 or head[:6] != b"\x93NUMPY" or head[6] not in (1, 2, 3):
        raise broken
    wide = head[6] >= 2
    (length,) = struct.unpack_from("<I" if wide else "<H", head, 8)
    begin = 12 if wide else 10
    if length > min(len(data) - begin, MAX_HEADER):
        raise broken
    text = bytes(data[begin : begin + length]).decode("utf-8" if head[6] == 3 else "latin-1", "replace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes and old names of types
            header = ast.literal_eval(text)
            descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
            dtype = np.dtype(descr)
    except (ValueError, SyntaxError, TypeError, KeyError, OverflowError, RecursionError, MemoryError):
        raise broken from None
    if (
        not isinstance(shape, tuple)
        or not all(type(n) is int for n in shape)
        or not countable(shape, dtype.itemsize)
    ):
        raise broken
    return Header(dtype, bool(fortran), shape, begin + length)


def _check_kind(dtype: np.dtype[np.generic], name: str) -> None:
    if dtype.hasobject:
        raise UnsafeError(
            f"{name} holds Python objects, which are pickles and could run code",
            hint="save it as numbers: numpy.save(path, array.astype(float))",
            about=name,
        )
    if dtype.kind not in "fiub":
        kind = "complex numbers" if dtype.kind == "c" else f"{dtype}"
        mend = "numpy.save(path, array.astype(float))"
        if dtype.kind == "c":
            mend = "numpy.save(path, abs(array)), or numpy.stack([array.real, array.imag], -1) for both parts"
        elif dtype.names:
            names = [n for n, (kind, *_) in (dtype.fields or {}).items() if kind.kind in "fiub"]
            mend = f"numpy.save(path, numpy.stack([array[n] for n in {names!r:.200}], -1)) of those that are numbers"
        raise InputError(f"{name} holds {kind}, not real numbers", hint=mend, about=name)
