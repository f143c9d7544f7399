"""Matrices in .npy and .npz files, without object arrays."""

from __future__ import annotations

import ast
import io
import struct
import warnings
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

from vaeprobe.errors import InputError, ResourceError, UnsafeError
from vaeprobe.files.source import quoted
from vaeprobe.files.zips import listing
from vaeprobe.findings import TRAILING_BYTES
from vaeprobe.report import Finding

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["read_npy", "read_npz"]

LARGEST = 1 << 30  # bytes that an archive may unpack to ...
RATIO = 20  # ... or this many times its own size, if that is more
MAX_HEADER = 1 << 16
CUT = "the file is truncated or damaged: fetch it again"


def read_npy(data: bytes, name: str) -> tuple[Array, tuple[Finding, ...]]:
    """Return the numeric array of a .npy file, native byte order, and notes; `name` is for messages.

    Raises:
        UnsafeError: an array of Python objects, which are pickles.
        InputError: a damaged file, or text, dates, records, complex numbers.
    """
    import numpy as np

    dtype, fortran, shape, start = _header(data, name)
    _check_kind(dtype, name)
    size = dtype.itemsize
    for n in shape:
        size *= n
    if size > len(data) - start:
        raise InputError(
            f"{name} claims an array of shape {list(shape)} ({size:,} bytes) and {len(data) - start:,} bytes follow",
            hint=CUT,
        )
    array = np.frombuffer(data, dtype, size // dtype.itemsize, start).reshape(
        shape, order="F" if fortran else "C"
    )
    notes: tuple[Finding, ...] = ()
    if size < len(data) - start:
        extra = len(data) - start - size
        notes = (Finding(TRAILING_BYTES, f"{name} has {extra:,} bytes after its array"),)
    return array.astype(dtype.newbyteorder("=")), notes


def read_npz(data: bytes, name: str) -> dict[str, tuple[Array, tuple[Finding, ...]]]:
    """Return the arrays of a .npz file by name.

    Raises:
        UnsafeError: as `read_npy`, or a zip that two readers can see differently.
        InputError: as `read_npy`.
        ResourceError: it unpacks to more than 1 GiB and 20 times its size.
    """
    infos = listing(data)
    total = sum(info.file_size for info in infos)
    if total > max(LARGEST, RATIO * len(data)):
        raise ResourceError(
            f"{name} unpacks from {len(data):,} to {total:,} bytes",
            hint="if you trust it, unpack the matrix yourself and give the .npy file",
        )
    out = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in infos:
            if not info.filename.endswith(".npy"):
                raise InputError(f"{name} holds {quoted(info.filename)}, which is no .npy array")
            try:
                content = archive.open(info).read(info.file_size + 1)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
                raise InputError(
                    f"entry {quoted(info.filename)} of {name} is damaged: {error}", hint=CUT
                ) from None
            entry = info.filename.removesuffix(".npy")
            out[entry] = read_npy(content, f"array {quoted(entry)} of {name}")
    return out


def _header(data: bytes, name: str) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """Return dtype, Fortran order, shape, and where the numbers begin."""
    import numpy as np

    broken = InputError(f"{name} has no valid .npy header", hint=CUT)
    if len(data) < 12 or data[:6] != b"\x93NUMPY" or data[6] not in (1, 2, 3):
        raise broken
    wide = data[6] >= 2
    (length,) = struct.unpack_from("<I" if wide else "<H", data, 8)
    begin = 12 if wide else 10
    if length > min(len(data) - begin, MAX_HEADER):
        raise broken
    text = data[begin : begin + length].decode("utf-8" if data[6] == 3 else "latin-1", "replace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes and old names of types
            header = ast.literal_eval(text)
            descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
            dtype = np.dtype(descr)
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        raise broken from None
    if (
        not isinstance(shape, tuple)
        or not all(type(n) is int and 0 <= n < 1 << 62 for n in shape)
        or len(shape) > 32
    ):
        raise broken
    return dtype, bool(fortran), shape, begin + length


def _check_kind(dtype: np.dtype[Any], name: str) -> None:
    if dtype.hasobject:
        raise UnsafeError(
            f"{name} holds Python objects, which are pickles and could run code",
            hint="save it as numbers: numpy.save(path, array.astype(float))",
        )
    if dtype.kind not in "fiub":
        kind = "complex numbers" if dtype.kind == "c" else f"{dtype}"
        raise InputError(
            f"{name} holds {kind}, not real numbers", hint="numpy.save(path, array.astype(float))"
        )
