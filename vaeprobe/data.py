"""Rows of data from files: .npy, .npz, safetensors, torch, CSV and folders of PNG, streamed in blocks.

Nothing in a file is executed: object arrays and bare pickles are refused, torch files are read with
`weights_only=True`.  Numbers are converted exactly or refused; uint8 is taken for pixels and divided by
255 unless told otherwise, and `Data.notes` says so.
"""

from __future__ import annotations

import csv
import glob
import itertools
import math
import os
import re
import stat
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from vaeprobe.errors import InputError, ResourceError, UnsafeError, UsageError, did_you_mean
from vaeprobe.findings import SCALED, TRAILING_BYTES
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray
    from PIL.Image import Image

    Array: TypeAlias = NDArray[Any]

__all__ = ["Data", "in_memory", "open_data"]

Nonfinite = Literal["refuse", "drop", "keep"]
Spec: TypeAlias = "str | Path | Sequence[str | Path]"

EXACT_INTEGER = 2**53
LARGEST_EXPANSION = 256 * 2**20  # bytes that an archive member may expand to at a ratio above 100
MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})


# -- shards: one stored array each -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Shard(ABC):
    """One stored array, read in blocks of rows.

    Attributes:
        path: for messages.
        rows: length of the first axis.
        row_shape: the other axes.
        stored: type of the numbers as stored; for bfloat16 that of its bits, uint16.
        bfloat16: whether the bits are bfloat16.
    """

    path: str
    rows: int
    row_shape: tuple[int, ...]
    stored: np.dtype[Any]
    bfloat16: bool = False
    notes: tuple[Finding, ...] = ()

    @property
    def columns(self) -> int:
        return math.prod(self.row_shape)

    @abstractmethod
    def blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        """Yield stored numbers, shape (b, columns), for rows start to stop; a block may be overwritten by the next."""


@dataclass(frozen=True, kw_only=True)
class _RawShard(_Shard):
    """Uncompressed numbers at an offset of a file; read by pread, so that they never count as resident."""

    offset: int
    fortran: bool = False

    def blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        if self.fortran:
            yield from self._fortran_blocks(size, start, stop)
            return
        buffer = np.empty((min(size, stop - start), self.columns), self.stored)
        stride = self.columns * self.stored.itemsize
        with open(self.path, "rb") as file:
            for first in range(start, stop, size):
                block = buffer[: min(size, stop - first)]
                self._fill(file, block, self.offset + first * stride)
                yield block

    def _fortran_blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        column_bytes = self.rows * self.stored.itemsize
        with open(self.path, "rb") as file:
            for first in range(start, stop, size):
                b = min(size, stop - first)
                # stored column by column, with the first of the row's axes running fastest
                buffer = np.empty((self.columns, b), self.stored)
                for k in range(self.columns):
                    self._fill(file, buffer[k], self.offset + k * column_bytes + first * self.stored.itemsize)
                rows = buffer.reshape(*reversed(self.row_shape), b)
                yield rows.transpose(range(rows.ndim - 1, -1, -1)).reshape(b, self.columns)

    def _fill(self, file: IO[bytes], block: Array, offset: int) -> None:
        view = memoryview(cast(Any, block.reshape(-1).view(np.uint8)))
        done = 0
        while done < len(view):
            got = os.preadv(file.fileno(), [view[done:]], offset + done)
            if got == 0:
                raise InputError(
                    f"`{self.path}` ended while it was read", hint="was the file replaced or truncated?"
                )
            done += got


@dataclass(frozen=True, kw_only=True)
class _MemberShard(_Shard):
    """A .npy member of a compressed archive, decompressed as a stream."""

    member: str
    fortran: bool

    def blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            _npy_header(file, self.path)
            if self.fortran:
                raw = np.frombuffer(
                    _read_exactly(file, self.rows * self.columns * self.stored.itemsize, self.path),
                    self.stored,
                )
                rows = raw.reshape((self.rows, *self.row_shape), order="F").reshape(self.rows, self.columns)
                for first in range(start, stop, size):
                    yield rows[first : min(first + size, stop)]
                return
            stride = self.columns * self.stored.itemsize
            for first in range(0, start, size):
                _read_exactly(file, min(size, start - first) * stride, self.path)
            for first in range(start, stop, size):
                b = min(size, stop - first)
                yield np.frombuffer(_read_exactly(file, b * stride, self.path), self.stored).reshape(
                    b, self.columns
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class _ArrayShard(_Shard):
    """An array in memory."""

    array: Array

    def blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        for first in range(start, stop, size):
            b = min(size, stop - first)
            yield self.array[first : first + b].reshape(b, self.columns)


@dataclass(frozen=True, kw_only=True)
class _ImageShard(_Shard):
    """PNG files of one size and mode, one image per row, channels first."""

    files: tuple[str, ...]

    def blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        for first in range(start, stop, size):
            yield np.stack([self._pixels(file) for file in self.files[first : min(first + size, stop)]])

    def _pixels(self, file: str) -> Array:
        with _image(file) as image:
            try:
                pixels = np.asarray(image)
            except (OSError, SyntaxError, ValueError) as error:
                raise InputError(f"`{file}` is a damaged PNG: {error}") from None
        rows = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if rows.shape != self.row_shape:
            raise InputError(f"`{file}` changed while the folder was read")
        return rows.reshape(-1)


@dataclass(frozen=True, kw_only=True)
class _TextShard(_Shard):
    """Delimited text; empty cells and NA, NaN, null are missing values."""

    delimiter: str | None
    skip: int

    def blocks(self, size: int, start: int, stop: int) -> Iterator[Array]:
        with _text(self.path) as file:
            lines = ((k, line) for k, line in enumerate(file, start=1) if k > self.skip and line.strip())
            wanted = itertools.islice(lines, start, stop)
            while block := list(itertools.islice(wanted, size)):
                yield self._parse(block)

    def _parse(self, block: list[tuple[int, str]]) -> Array:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                rows = np.loadtxt(
                    [line for _, line in block],
                    delimiter=self.delimiter,
                    ndmin=2,
                    comments=None,
                    quotechar='"',
                )
            if rows.shape == (len(block), self.columns):
                return rows
        except (ValueError, UserWarning):
            pass
        return np.array([self._parse_line(number, line) for number, line in block])

    def _parse_line(self, number: int, line: str) -> list[float]:
        cells = _cells(line, self.delimiter)
        if len(cells) != self.columns:
            raise InputError(
                f"`{self.path}` line {number} has {len(cells)} columns, the first row {self.columns}"
            )
        try:
            return [_number(cell) for cell in cells]
        except ValueError:
            k = next(k for k, cell in enumerate(cells) if not _is_number(cell))
            raise InputError(
                f"`{self.path}` line {number}, column {k + 1} holds {cells[k].strip()[:40]!r}, which is no number",
                hint="keep numeric columns only; empty cells, NA and NaN count as missing values",
            ) from None


# -- data ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Data:
    """Rows of real numbers, streamed from one or several stored arrays.

    Attributes:
        shards: the stored arrays, in order.
        factor: what the stored numbers are multiplied by.
        nonfinite: what happens to rows with NaN or infinity: "refuse", "drop" or "keep".
        notes: what a reader should know (scaling, trailing bytes, flattened images).
        first, last: range of rows of the shards that belong to this data.
    """

    shards: tuple[_Shard, ...]
    factor: float = 1.0
    nonfinite: Nonfinite = "refuse"
    notes: tuple[Finding, ...] = ()
    first: int = 0
    last: int = field(default=-1)

    def __post_init__(self) -> None:
        if self.last < 0:
            object.__setattr__(self, "last", sum(s.rows for s in self.shards))

    @property
    def rows(self) -> int:
        """Number of stored rows, including those that `nonfinite="drop"` leaves out."""
        return self.last - self.first

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
    def dtype(self) -> np.dtype[Any]:
        """float32 where every stored number fits it exactly, else float64."""
        return np.dtype(np.result_type(np.float32, *(_float_type(s) for s in self.shards)))

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.path for s in self.shards))

    @property
    def stored_float64(self) -> bool:
        """Whether a float32 would lose digits of the stored numbers."""
        return self.dtype == np.float64

    def share(self, rank: int, world: int) -> Data:
        """Return the contiguous share of rows of one of `world` processes."""
        if not 0 <= rank < world:
            raise UsageError(f"rank {rank} is not one of {world}")
        first, last = (self.first + self.rows * k // world for k in (rank, rank + 1))
        return Data(self.shards, self.factor, self.nonfinite, self.notes, first, last)

    def blocks(self, size: int = 8192, *, dtype: DTypeLike | None = None) -> Iterator[Array]:
        """Yield the rows in order, flattened and scaled, shape (b, columns), b <= size.

        A block may be overwritten by the next one: copy what you keep, and write into none.

        Args:
            size: rows per block.
            dtype: float32 or float64; by default `self.dtype`.

        Raises:
            InputError: a row has NaN or infinity and `nonfinite` is "refuse"; the file is damaged.
        """
        kind = np.dtype(dtype or self.dtype)
        row = 0
        for block in self._converted(size, kind):
            if self.nonfinite != "keep" and not _all_finite(block):
                good = np.isfinite(block).all(axis=1)
                if self.nonfinite == "refuse":
                    raise self._refusal(row)
                yield block[good]
            else:
                yield block
            row += len(block)

    def read(self, limit: int | None = None, *, dtype: DTypeLike | None = None) -> Array:
        """Return the rows, shape (rows, *row_shape), float32 or float64, scaled; the first `limit` of them.

        Raises:
            ResourceError: they do not fit into memory.
            InputError: as for `blocks`.
        """
        count = self.rows if limit is None else min(limit, self.rows)
        kind = np.dtype(dtype or self.dtype)
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

    def _converted(self, size: int, kind: np.dtype[Any]) -> Iterator[Array]:
        offset = 0
        for shard in self.shards:
            start, stop = max(self.first - offset, 0), min(self.last - offset, shard.rows)
            offset += shard.rows
            if start < stop:
                for raw in shard.blocks(size, start, stop):
                    yield _convert(raw, shard, kind, self.factor)

    def _refusal(self, seen: int) -> InputError:
        """Return the error for data that is not finite; rows before `seen` are known to be good."""
        bad: list[int] = []
        count = row = 0
        for block in self._converted(8192, np.dtype(np.float64)):
            if row + len(block) > seen:
                rows = np.flatnonzero(~np.isfinite(block).all(axis=1)) + row + self.first
                count += len(rows)
                bad.extend(rows[: 10 - len(bad)].tolist())
            row += len(block)
        listed = ", ".join(map(str, bad)) + (", ..." if count > len(bad) else "")
        return InputError(
            f"{count} of {self.rows} rows hold NaN or infinity (counted from 0: {listed})",
            hint="leave them out with --drop-nonfinite, or estimate missing values with --missing em",
        )


def open_data(
    spec: Spec, *, key: str | None = None, scale: str | float = "auto", nonfinite: Nonfinite = "refuse"
) -> Data:
    """Return the rows that a path, a glob or several of either name; nothing is read but headers.

    Args:
        spec: .npy, .npz, .safetensors, .pt/.pth (a tensor, or a dict of tensors), .csv/.tsv/.txt; a folder of
            PNG images of one size, grey or RGB, in the order of their names, rows of shape (c, h, w); a glob
            such as `shards/*.npy`; or a sequence of these, whose rows follow each other.
        key: which array of a file that holds several.
        scale: "auto" (uint8 divided by 255, everything else as stored), "none", or a factor such as 0.1 or "1/255".
        nonfinite: what to do about rows with NaN or infinity: "refuse", "drop", "keep".

    Raises:
        InputError: a file is missing, damaged, holds no real numbers, or the files' rows differ in shape.
        UnsafeError: a file would have to be unpickled.
        UsageError: `key` or `scale` is wrong, several arrays are there and no key was given, or images are
            to be read without Pillow.
        ResourceError: an archive expands to far more than its size.
    """
    shards = tuple(_open(path, key) for path in _expand(spec))
    for shard in shards:
        if shard.row_shape != shards[0].row_shape:
            raise InputError(
                f"`{shard.path}` has rows of shape {shard.row_shape}, `{shards[0].path}` of {shards[0].row_shape}"
            )
    factor, notes = _scaling(scale, shards)
    own = tuple(note for shard in shards for note in shard.notes)
    return Data(shards, factor, nonfinite, own + notes)


def in_memory(array: Array, *, nonfinite: Nonfinite = "refuse") -> Data:
    """Return an array's rows as data, unscaled."""
    return Data((_array_shard("array", array),), 1.0, nonfinite)


# -- opening ---------------------------------------------------------------------------------------


def _expand(spec: Spec) -> list[str]:
    parts = [spec] if isinstance(spec, (str, os.PathLike)) else list(spec)
    paths: list[str] = []
    for part in map(str, parts):
        if not os.path.exists(part) and glob.has_magic(part):
            found = sorted(glob.glob(part, recursive=True))
            if not found:
                raise InputError(f"no file matches `{part}`")
            paths.extend(found)
        else:
            paths.append(part)
    if not paths:
        raise UsageError("no data file was given")
    return paths


def _open(path: str, key: str | None) -> _Shard:
    if os.path.isdir(path):
        return _open_folder(path)
    head = _head(path)
    suffix = Path(path).suffix.lower()
    if head.startswith(b"\x93NUMPY"):
        return _open_npy(path)
    if head.startswith(b"PK"):
        return _open_zip(path, key)
    if suffix == ".safetensors" or head[8:9] == b"{":
        return _open_safetensors(path, key)
    if head[:1] == b"\x80" or suffix in (".pt", ".pth"):
        if suffix not in (".pt", ".pth", ".bin", ".ckpt"):
            raise UnsafeError(
                f"`{path}` is a pickle, which can run code when it is read",
                hint="save the array with numpy.save, or the tensor as safetensors",
            )
        return _open_torch(path, key)
    if suffix in (".npy", ".npz"):
        raise InputError(f"`{path}` is no {suffix} file: it starts with {head[:8]!r}")
    return _open_text(path)


def _head(path: str) -> bytes:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise InputError(
                f"`{path}` is no regular file",
                hint="pipes and devices cannot be read twice: save a file first",
            )
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise InputError(f"there is no file `{path}`") from None
    except OSError as error:
        raise InputError(f"`{path}` cannot be read: {error.strerror or error}") from None
    if not head:
        raise InputError(f"`{path}` is empty")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"`{path}` is a git-LFS pointer, not the file itself", hint="run `git lfs pull`")
    if re.match(rb"\s*<(!doctype|html)", head, re.IGNORECASE):
        raise InputError(f"`{path}` is an HTML page", hint="was it a download that needed a login, or moved?")
    return head


_Header: TypeAlias = "tuple[tuple[int, ...], bool, np.dtype[Any]]"


def _npy_header(file: IO[bytes], path: str) -> _Header:
    """Return shape, Fortran order and type from a .npy header, leaving the file at its first number."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = np.lib.format.read_magic(file)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            if version in readers:
                return readers[version](file)
    except Exception as error:  # the header is a Python literal: the parser raises all sorts
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"`{path}` has a damaged .npy header: {reason}") from None
    raise InputError(f"`{path}` is a .npy file of version {version}, which only structured arrays need")


def _open_npy(path: str) -> _Shard:
    with open(path, "rb") as file:
        shape, fortran, dtype = _npy_header(file, path)
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    common = _checked(path, shape, dtype)
    needed = math.prod(shape) * dtype.itemsize
    if offset + needed > size:
        raise InputError(
            f"`{path}` promises {needed} bytes of numbers, shape {shape}, and holds {size - offset}",
            hint="the file was cut short: copy or download it again",
        )
    notes: tuple[Finding, ...] = ()
    if offset + needed < size:
        message = f"`{path}` has {size - offset - needed} bytes after its array, which were ignored"
        notes = (Finding(TRAILING_BYTES, message),)
    return _RawShard(**common, offset=offset, fortran=fortran and len(shape) > 1, notes=notes)


def _open_zip(path: str, key: str | None) -> _Shard:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [m.filename for m in members]
            if len({n.casefold() for n in names}) < len(names):
                raise UnsafeError(f"`{path}` holds two members of one name, which readers take differently")
            if any(n.rpartition("/")[2].casefold() == "data.pkl" for n in names):
                return _open_torch(path, key)
            arrays = {
                n.removesuffix(".npy"): m for n, m in zip(names, members, strict=True) if n.endswith(".npy")
            }
            member = arrays[_choose(path, arrays, key)]
            if member.flag_bits & 1:
                raise InputError(f"`{path}` is encrypted")
            if member.file_size > LARGEST_EXPANSION and member.file_size > 100 * max(member.compress_size, 1):
                raise ResourceError(
                    f"`{path}` expands {member.compress_size} bytes to {member.file_size}",
                    hint="if you trust it, load it with numpy and save the array as .npy",
                )
            with archive.open(member) as file:
                shape, fortran, dtype = _npy_header(file, path)
                needed = file.tell() + math.prod(shape) * dtype.itemsize
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise InputError(f"`{path}` is a damaged archive: {error}") from None
    common = _checked(path, shape, dtype)
    if needed > member.file_size:
        raise InputError(
            f"`{path}` promises {needed} bytes for `{member.filename}` and holds {member.file_size}"
        )
    return _MemberShard(**common, member=member.filename, fortran=fortran and len(shape) > 1)


def _open_safetensors(path: str, key: str | None) -> _Shard:
    import json

    from safetensors import SafetensorError, safe_open

    try:
        # the library checks the header (sizes, overlaps, bounds); only then are its offsets used
        with safe_open(path, framework="numpy") as file:
            name = _choose(path, file.keys(), key)
        with open(path, "rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            entry = json.loads(raw.read(length))[name]
    except (SafetensorError, ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise InputError(f"`{path}` is no valid safetensors file: {error}") from None
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"}
    kinds |= {f"{k}{8 * size}": f"<{k.lower()}{size}" for k in "IU" for size in (1, 2, 4, 8)}
    if entry["dtype"] not in kinds:
        raise InputError(
            f"`{path}` holds `{name}` as {entry['dtype']}, which is read by no one here",
            hint="save it as float32",
        )
    common = _checked(path, tuple(entry["shape"]), np.dtype(kinds[entry["dtype"]]))
    common["bfloat16"] = entry["dtype"] == "BF16"
    return _RawShard(**common, offset=8 + length + entry["data_offsets"][0])


def _open_torch(path: str, key: str | None) -> _Shard:
    import io
    import pickle

    import torch

    from vaeprobe.files.source import read_source
    from vaeprobe.files.zips import is_zip, open_archive

    data = read_source(path).data
    if is_zip(data):
        open_archive(data)  # refuses what two zip readers could take differently
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = (str(error).splitlines() or ["?"])[0][:160]
        raise UnsafeError(
            f"`{path}` asks for more than tensors: {first}",
            hint="save the bare tensor: torch.save(tensor, path)",
        ) from None
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"`{path}` is no readable torch file: {first}") from None
    if isinstance(loaded, dict):
        tensors = {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
        loaded = tensors[_choose(path, tensors, key)]
    if not isinstance(loaded, torch.Tensor) or loaded.layout != torch.strided or loaded.is_quantized:
        raise InputError(
            f"`{path}` holds no dense tensor", hint="save the bare tensor: torch.save(tensor, path)"
        )
    tensor = loaded.detach()
    if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        tensor = tensor.float()
    return _array_shard(path, tensor.resolve_conj().resolve_neg().numpy())


def _array_shard(path: str, array: Array) -> _ArrayShard:
    return _ArrayShard(**_checked(path, array.shape, array.dtype), array=array)


def _open_text(path: str) -> _TextShard:
    with _text(path) as file:
        filled = (line for line in file if line.strip())
        lines = [line for _, line in zip(range(2), filled, strict=False)]
        if not lines:
            raise InputError(f"`{path}` is empty")
        probe = lines[0]
        delimiter = next((d for d in (",", "\t", ";") if d in probe), None)
        header = not any(_is_number(cell) and cell.strip() for cell in _cells(probe, delimiter))
        if header and len(lines) == 1:
            raise InputError(f"`{path}` is no file of numbers: it starts with {probe.strip()[:40]!r}")
        if header and not any(_is_number(cell) for cell in _cells(lines[1], delimiter)):
            raise InputError(
                f"`{path}` is no file of numbers: it starts with {probe.strip()[:40]!r}",
                hint="data comes as .npy, .npz, .safetensors, .pt or delimited text",
            )
        rows = len(lines) + sum(1 for _ in filled) - header
    with _text(path) as file:
        skip = next(k for k, line in enumerate(file, start=1) if line.strip()) if header else 0
    columns = len(_cells(lines[1 if header else 0], delimiter))
    return _TextShard(
        path=path,
        rows=rows,
        row_shape=(columns,),
        stored=np.dtype(np.float64),
        delimiter=delimiter,
        skip=skip,
    )


def _open_folder(path: str) -> _Shard:
    files = sorted(entry.path for entry in os.scandir(path) if entry.name.lower().endswith(".png"))
    if not files:
        raise InputError(
            f"`{path}` is a folder without PNG images",
            hint=f"name the files in it, for instance '{path.rstrip('/')}/*.npy'",
        )
    shapes: dict[tuple[int, int, int], str] = {}
    for file in files:
        with _image(file) as image:
            channels = {"L": 1, "RGB": 3}.get(image.mode)
            if channels is None:
                raise InputError(
                    f"`{file}` has pixels of mode {image.mode}, neither grey (L) nor RGB",
                    hint="convert it: Image.open(path).convert('RGB').save(path)",
                )
            shapes.setdefault((channels, image.height, image.width), file)
        if len(shapes) > 1:
            (first, name), (other, other_name) = shapes.items()
            raise InputError(
                f"`{name}` has shape {first} (channels, height, width), `{other_name}` {other}",
                hint="crop or resize all images to the shape the model was trained on",
            )
    (shape,) = shapes
    return _ImageShard(**_checked(path, (len(files), *shape), np.dtype(np.uint8)), files=tuple(files))


@contextmanager
def _image(path: str) -> Iterator[Image]:
    """Open a PNG, of which only the header is read yet.

    Raises:
        UsageError: Pillow is not installed.
        InputError: the file is no PNG, or cannot be read.
        ResourceError: the image is absurdly large.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise UsageError(
            "images are read by Pillow, which is not installed", hint="pip install 'vaeprobe[images]'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("PNG",))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ResourceError(f"`{path}` claims more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise InputError(f"`{path}` is no PNG image") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"`{path}` cannot be read: {error}") from None
    with image:
        yield image


class _text:
    """Open a text file; bytes that are no UTF-8 make an InputError."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> IO[str]:
        self.file = open(self.path, encoding="utf-8-sig", newline=None)
        return self.file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.file.close()
        if isinstance(error, UnicodeDecodeError):
            raise InputError(
                f"`{self.path}` is in no format known here",
                hint="data comes as .npy, .npz, .safetensors, .pt or delimited text",
            ) from None


# -- small parts -----------------------------------------------------------------------------------


def _checked(path: str, shape: Sequence[int], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the common fields of a shard, or raise for a type or shape that is no rows of real numbers."""
    if dtype.hasobject:
        raise UnsafeError(
            f"`{path}` holds Python objects, which only a pickle can bring back",
            hint="convert the array to a numeric type and save it again",
        )
    if dtype.kind not in "fiub" or dtype.names is not None:
        raise InputError(
            f"`{path}` holds {dtype}, not real numbers", hint="convert it to a float or integer type"
        )
    if any(side < 0 for side in shape):
        raise InputError(f"`{path}` claims the shape {tuple(shape)}")
    if len(shape) < 2:
        raise InputError(
            f"`{path}` has shape {tuple(shape)}: rows of data need two axes or more",
            hint="one row per sample: x[:, None] for one column, x[None] for one row",
        )
    if 0 in shape:
        what = "rows" if shape[0] == 0 else "columns"
        raise InputError(f"`{path}` has no {what}: its shape is {tuple(shape)}")
    return {
        "path": path,
        "rows": int(shape[0]),
        "row_shape": tuple(int(k) for k in shape[1:]),
        "stored": dtype,
    }


def _choose(path: str, names: Any, key: str | None) -> str:
    names = [str(n) for n in names]
    if key is not None:
        if key in names:
            return key
        raise UsageError(f"`{path}` holds no array `{key}`", hint=did_you_mean(key, names) or _listing(names))
    if len(names) == 1:
        return str(names[0])
    if not names:
        raise InputError(f"`{path}` holds no array")
    raise UsageError(f"`{path}` holds {len(names)} arrays", hint=f"choose one with --key: {_listing(names)}")


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _scaling(scale: str | float, shards: Sequence[_Shard]) -> tuple[float, tuple[Finding, ...]]:
    if scale == "auto":
        pixels = [s.stored == np.uint8 for s in shards]
        if not any(pixels):
            return 1.0, ()
        if not all(pixels):
            raise InputError(
                "some files hold uint8 and some do not", hint="say how to scale with --scale none or a factor"
            )
        message = "uint8 values were divided by 255 (--scale none keeps them)"
        return 1 / 255, (Finding(SCALED, message),)
    if scale == "none":
        return 1.0, ()
    try:
        above, _, below = str(scale).partition("/")
        factor = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        raise UsageError(
            f"`{scale}` is no scale", hint="auto, none, or a positive factor such as 0.1 or 1/255"
        )
    return factor, (Finding(SCALED, f"values were multiplied by {scale}"),)


def _float_type(shard: _Shard) -> np.dtype[Any]:
    narrow = (
        shard.bfloat16
        or shard.stored.itemsize <= 2
        or (shard.stored.kind == "f" and shard.stored.itemsize == 4)
    )
    return np.dtype(np.float32 if narrow else np.float64)


def _convert(raw: Array, shard: _Shard, kind: np.dtype[Any], factor: float) -> Array:
    if shard.bfloat16:
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    wide = shard.stored.kind in "iu" and shard.stored.itemsize == 8 and raw.size > 0
    if wide and max(int(raw.max()), -int(raw.min())) > EXACT_INTEGER:
        raise InputError(
            f"`{shard.path}` holds integers beyond 2^53, which no float64 holds exactly",
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


def _read_exactly(file: IO[bytes], count: int, path: str) -> bytes:
    try:
        data = file.read(count)
    except Exception as error:  # zlib.error and its kin share no base
        raise InputError(f"`{path}` is a damaged archive: {error}") from None
    if len(data) < count:
        raise InputError(f"`{path}` is a damaged archive: it ended early")
    return data


def _cells(line: str, delimiter: str | None) -> list[str]:
    return line.split() if delimiter is None else next(csv.reader([line], delimiter=delimiter))


def _number(cell: str) -> float:
    return math.nan if cell.strip().lower() in MISSING_WORDS else float(cell)


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True
