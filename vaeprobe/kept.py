"""What was measured already, kept in a file piece by piece, so that a run which was stopped goes on where it was.

A piece is known by all that it was made of (the decoder, latents, directions), not by its place in a run: whatever asks
for the same again takes it from the file, bit for bit, and a file serves runs of other lengths and other questions too.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vaeprobe._version import __version__
from vaeprobe.errors import InputError, UsageError
from vaeprobe.processes import current as processes
from vaeprobe.scoped import scoped
from vaeprobe.writing import check_suffix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Array: TypeAlias = NDArray[np.float64]
    Piece: TypeAlias = tuple[Tensor, ...]

SUFFIX = ".kept"
HEAD = f"kept by vaeprobe {__version__}\n".encode()
TYPES = ("float32", "float64")
RATE = 20e6
"""Bytes a second: what is computed faster than that is computed again."""
MOST = 4 << 30
"""Bytes that a file grows to, about."""
PERIOD = 5.0
"""Seconds after which what grows is kept as it stands."""
_RECORD = struct.Struct("<32sII")  # key, bytes of the description, CRC of description and numbers


@dataclass(frozen=True)
class _Place:
    start: int
    seconds: float
    shapes: list[tuple[str, list[int]]]


class Kept:
    """The pieces in a file, and in those that other processes of the same run write beside it.

    Attributes:
        path: the file.
        saved: seconds that the pieces took which were read from it, when they were computed.
        broken: of each file that cannot be read to its end, from which byte on: a run was killed as it wrote, or it was damaged.
        failed: why nothing is kept any more; None where all went well.

    Runs that share a file each hold a lock on it that others may hold too: who holds it alone may cut or remove the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failed: str | None = None
        self.saved = 0.0
        self.broken: dict[Path, int] = {}
        self._places: dict[bytes, tuple[Path, _Place]] = {}
        self._name = own_file(path)
        before = files_of(path)
        for file in before:
            if size := file.stat().st_size:  # others may write to theirs meanwhile
                whole = self._look(file)
                if whole < size:
                    self.broken[file] = whole
        self._new = self._name not in before
        try:
            self._own = _held(self._name)
        except OSError as error:
            raise UsageError(f"cannot write `{self._name}`: {(error.strerror or '').lower()}") from None
        if self._name in self.broken and _alone(self._own):
            os.truncate(self._name, self.broken[self._name])
        _share(self._own)

    @property
    def seconds(self) -> float:
        """Seconds that the pieces in the file took."""
        return sum(place.seconds for _, place in self._places.values())

    @property
    def size(self) -> int:
        """Bytes that this process's file holds."""
        return os.fstat(self._own.fileno()).st_size

    def close(self) -> None:
        """Leave no file behind that holds nothing, unless another run may write to it."""
        if self._new and _alone(self._own) and not self.size:
            self._name.unlink(missing_ok=True)
        self._own.close()

    def has(self, key: bytes) -> bool:
        return key in self._places

    def take(self, key: bytes) -> Piece:
        """Return a piece that is there."""
        import torch

        from vaeprobe import cpu

        file, place = self._places[key]
        found = []
        with open(file, "rb") as stream:
            stream.seek(place.start)
            for name, shape in place.shapes:
                dtype = getattr(torch, name)
                count = math.prod(shape)
                content = bytearray(stream.read(count * dtype.itemsize))
                values = torch.frombuffer(content, dtype=dtype) if count else cpu.empty(0, dtype=dtype)
                found.append(values.reshape(shape))
        self.saved += place.seconds
        return tuple(found)

    def add(self, key: bytes, piece: Piece, seconds: float) -> bool:
        """Write a piece, where it took longer than writing it does; where that fails, none from there on.

        Returns:
            whether it was written.
        """
        size = sum(t.numel() * t.itemsize for t in piece)
        if self.failed is None and not os.fstat(self._own.fileno()).st_nlink:
            self.failed = "the file was removed"
        if (
            self.failed is not None
            or seconds < size / RATE
            or self.size > MOST
            or any(str(t.dtype).removeprefix("torch.") not in TYPES for t in piece)
        ):
            return False
        shapes = [[str(t.dtype).removeprefix("torch."), list(t.shape)] for t in piece]
        told = json.dumps({"seconds": seconds, "shapes": shapes}).encode()
        content = b"".join(t.detach().cpu().contiguous().numpy().tobytes() for t in piece)
        record = _RECORD.pack(key, len(told), zlib.crc32(told + content)) + told + content
        # in one call: whatever ends the run afterwards, the record is whole or is cut off
        record = record if self.size else HEAD + record
        try:
            if self._own.write(record) != len(record):
                self.failed = os.strerror(errno.ENOSPC).lower()
        except OSError as error:
            self.failed = (error.strerror or "").lower()
        return self.failed is None

    def _look(self, file: Path) -> int:
        """Note what is in a file, and return how much of it is whole."""
        end = file.stat().st_size
        with open(file, "rb") as stream:
            head = stream.read(len(HEAD))
            if head != HEAD:
                known = head.startswith(HEAD[: HEAD.rindex(b" ")])
                what = "was kept by another version of vaeprobe" if known else "holds nothing that was kept"
                raise InputError(f"`{file}` {what}", hint="name a new file for --resume")
            while True:
                whole = stream.tell()
                record = stream.read(_RECORD.size)
                if record.startswith(HEAD):  # of another run that began at the same time
                    stream.seek(whole + len(HEAD))
                    continue
                if len(record) < _RECORD.size:
                    return whole
                key, length, crc = _RECORD.unpack(record)
                if length > end - stream.tell():
                    return whole
                told = stream.read(length)
                try:
                    place = _place(told, stream.tell())
                except (ValueError, KeyError, TypeError, RecursionError):
                    return whole
                if _bytes_in(place) > end - place.start:
                    return whole
                content = stream.read(_bytes_in(place))
                if zlib.crc32(told + content) != crc:
                    return whole
                self._places[key] = (file, place)


_current: ContextVar[Kept | None] = ContextVar("vaeprobe_kept", default=None)
place: Path | None = None  # of the file of this run: signal handlers run in other contexts


def goes_on_from(path: Path) -> None:
    """Let an interrupted run say where it goes on from: a file of results that its command keeps itself."""
    global place
    place = path


def kept_in() -> tuple[Path, bool] | None:
    """Return the file of this run, and whether it holds anything to go on from; None where nothing is kept."""
    if place is None:
        return None
    return place, any(file.stat().st_size > len(HEAD) for file in files_of(place))


@contextmanager
def keeping(path: Path | str | None) -> Iterator[Kept | None]:
    """Keep what is measured inside the block in a file, and take from it what it holds; None keeps nothing.

    Raises:
        InputError: the file holds something else.
        UsageError: it cannot be written, or has the suffix of another kind of file.
    """
    global place
    path = None if path is None else Path(path)
    if path is not None:
        check_suffix(path, (SUFFIX,), "--resume")
    outer = _current.get()
    if path is None or (outer is not None and outer.path == path):
        yield outer
        return
    store = processes().together(lambda: Kept(path))
    before = place
    try:
        with scoped(_current, store):
            place = path
            yield store
            place = before  # an interrupted run says where it was kept
    finally:
        store.close()


def kept(
    made_of: Callable[[], Iterable[object]],
    work: Callable[[], Piece],
    *,
    together: bool,
    parts: bool = False,
) -> Piece:
    """Return what `work` gives: from the file of this run where it is there, else computed, and written there.

    Args:
        made_of: all that it depends on, asked for only where a run keeps.
        work: computes it.
        together: whether all processes do it, step by step, so that all of them must have it or none.
        parts: whether parts of it are kept as well, for it takes long.
    """
    store = _current.get()
    if store is None:
        return work()
    key = signature(made_of())
    there = store.has(key)
    if all(processes().gathered(there)) if together else there:
        return store.take(key)
    start = time.monotonic()
    with scoped(_current, store if parts else None):
        found = work()
    store.add(key, found, time.monotonic() - start)
    return found


def kept_arrays(
    made_of: Callable[[], Iterable[object]],
    work: Callable[[], tuple[Array, ...]],
    *,
    together: bool = False,
    parts: bool = False,
) -> tuple[Array, ...]:
    """Return what `kept` does, of arrays of float64, without torch where nothing is kept."""
    if _current.get() is None:
        return work()
    return _arrays(kept(made_of, lambda: _piece(work()), together=together, parts=parts))


class Trail:
    """Arrays of float64 that grow step by step, kept as it stands now and then, so that a run goes on from the last of it.

    Args:
        made_of: all that it depends on, asked for only where a run keeps.
        together: whether all processes take each step together, so that all go on from the same.
        wanted: whether to keep it at all.
    """

    def __init__(
        self, made_of: Callable[[], Iterable[object]], *, together: bool = False, wanted: bool = True
    ) -> None:
        self._store = _current.get() if wanted else None
        self._base = signature(made_of()) if self._store is not None else b""
        self._together = together and processes().world > 1
        self._since = time.monotonic()

    def last(self, steps: int) -> tuple[int, tuple[Array, ...]] | None:
        """Return the last step, of so many, after which it was kept, and how it stood; None where none was."""
        if self._store is None:
            return None
        step = self._before(steps)
        while self._together and len(found := set(processes().gathered(step))) > 1:
            step = self._before(min(found))
        return (step, _arrays(self._store.take(self._key(step)))) if step else None

    def _before(self, steps: int) -> int:
        """Return the last step, of so many, that this process has; 0 where there is none."""
        assert self._store is not None
        return next((step for step in range(steps, 0, -1) if self._store.has(self._key(step))), 0)

    def _key(self, step: int) -> bytes:
        return signature((self._base, step))

    def mark(self, step: int, *stand: object, end: bool = False) -> None:
        """Keep how it stands after a step, numbers and arrays of them, where keeping is worth its time, or the run ends here."""
        if self._store is None:
            return
        spent = time.monotonic() - self._since
        if self._together:
            spent = processes().agreed(spent)
        if (end or spent >= PERIOD) and self._store.add(self._key(step), _piece(stand), spent):
            self._since = time.monotonic()


def saved() -> float:
    """Return the seconds of work that this run took from its file so far."""
    store = _current.get()
    return 0.0 if store is None else store.saved


def signature(made_of: object) -> bytes:
    """Return a hash of numbers, texts, tensors, arrays, and of sequences and dataclasses of them."""
    digest = hashlib.sha256()
    _enter(digest, made_of)
    return digest.digest()


def _enter(digest: hashlib._Hash, value: object) -> None:
    import numpy as np
    import torch

    if isinstance(value, np.ndarray):
        digest.update(f"array {value.dtype.str} {value.shape};".encode())
        digest.update(np.ascontiguousarray(value).data)
    elif isinstance(value, torch.Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        # as bytes, for numpy has no bfloat16
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, bytes):
        digest.update(f"bytes {len(value)};".encode() + value)
    elif is_dataclass(value):
        digest.update(f"{type(value).__qualname__} {len(fields(value))};".encode())
        for field in fields(value):
            _enter(digest, getattr(value, field.name))
    elif isinstance(value, Iterable) and not isinstance(value, str):
        items = list(value)
        digest.update(f"of {len(items)};".encode())
        for item in items:
            _enter(digest, item)
    else:
        digest.update(f"{value!r};".encode())


def own_file(path: Path) -> Path:
    """Return the file that this process writes of what a run keeps: the first one that which was named."""
    rank = processes().rank
    return path if rank == 0 else path.with_name(f"{path.name}.{rank}")


def files_of(path: Path) -> list[Path]:
    """Return the files that all processes of a run wrote, those that are there."""
    beside = path.parent.glob(f"{glob.escape(path.name)}.[0-9]*")
    return [file for file in (path, *sorted(beside)) if file.exists()]


def _held(file: Path) -> FileIO:
    """Open a file to append to it, and share its lock."""
    while True:
        stream = open(file, "ab", buffering=0)  # noqa: SIM115
        _share(stream)
        if file.exists() and os.path.samestat(os.fstat(stream.fileno()), file.stat()):
            return stream
        stream.close()  # another run removed it in between


def _share(stream: FileIO) -> None:
    """Hold a lock on a file that others may hold too, where the system has such locks."""
    with contextlib.suppress(OSError, ImportError):
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_SH)


def _alone(stream: FileIO) -> bool:
    """Whether no other run holds a file: then this one has it to itself until it is closed or shared again.

    Where the system has no such locks no other run is seen.
    """
    with contextlib.suppress(OSError, ImportError):
        import fcntl

        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _piece(arrays: tuple[object, ...]) -> Piece:
    import numpy as np
    import torch

    return tuple(torch.from_numpy(np.asarray(array, np.float64)) for array in arrays)


def _arrays(piece: Piece) -> tuple[Array, ...]:
    return tuple(t.numpy() for t in piece)


def _place(told: bytes, start: int) -> _Place:
    body = json.loads(told)
    shapes = [(str(name), [int(n) for n in shape]) for name, shape in body["shapes"]]
    seconds = float(body["seconds"])
    wrong = any(name not in TYPES or min(shape, default=0) < 0 for name, shape in shapes)
    if wrong or not 0 <= seconds < math.inf:
        raise ValueError
    return _Place(start, seconds, shapes)


def _bytes_in(place: _Place) -> int:
    return sum(math.prod(shape) * int(name[-2:]) // 8 for name, shape in place.shapes)
