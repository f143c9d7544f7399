"""The bytes of a file, read once: what is hashed is what is checked, and what is checked is what is loaded."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from vaeprobe.errors import InputError, ResourceError
from vaeprobe.files.limits import physical_memory

__all__ = ["Bytes", "Source", "Window", "open_window", "printable", "quoted", "read_source", "read_text"]


class Bytes(Protocol):
    """What the readers of containers need of a file: its length and slices, in memory or not."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> bytes: ...


class Window:
    """A file of any size, of which slices are read when they are asked for.

    Used where the numbers are streamed; a mapping of the file would count as resident, and end the process where the
    file shrinks.
    """

    def __init__(self, handle: int, name: str) -> None:
        self.handle = handle
        self.name = name
        self.size = os.fstat(handle).st_size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: slice, /) -> bytes:
        start, stop, step = index.indices(self.size)
        assert step == 1
        out = bytearray(max(stop - start, 0))
        self.fill(memoryview(out), start)
        return bytes(out)

    def fill(self, out: memoryview, start: int) -> None:
        """Read the bytes from `start` into memory.

        Raises:
            InputError: the file ends before that.
        """
        done = 0
        while done < len(out):
            got = os.preadv(self.handle, [out[done:]], start + done)
            if got == 0:
                raise InputError(
                    f"{self.name} ended while it was read",
                    hint="was the file replaced or truncated?",
                    about=self.name,
                )
            done += got

    def mapped(self) -> mmap.mmap:
        """Return the whole file as memory, for the few readers that need it.

        Raises:
            ResourceError: the process may not have as much address space.
        """
        try:
            return mmap.mmap(self.handle, 0, access=mmap.ACCESS_READ)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise ResourceError(
                f"{self.name} is larger than the address space that is left to this process",
                hint="raise the limit (`ulimit -v`), or split the file: several are read one after the other",
            ) from None

    def __del__(self) -> None:
        os.close(self.handle)


@dataclass(frozen=True)
class Source:
    """A file in memory.

    Attributes:
        path: where it is on this machine.
        data: its bytes.
        address: as the user gave it, where that is not its path.
    """

    path: Path
    data: bytes
    address: str = ""

    @property
    def shown(self) -> str:
        """The file as the user gave it."""
        return self.address or str(self.path)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the bytes that were read."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.data)

    @property
    def name(self) -> str:
        """The file as it is shown in messages, in backticks."""
        return quoted(self.shown, limit=200)


def read_source(path: str | os.PathLike[str]) -> Source:
    """Read a regular file.

    Raises:
        InputError: there is no such file, or it is a directory, FIFO, device or empty, or may not be read.
        ResourceError: the file is larger than the memory of this machine.
    """
    path = Path(path)
    name = quoted(str(path), limit=200)
    handle = _opened(path, name)
    try:
        size = os.fstat(handle).st_size
        if size > physical_memory():
            raise ResourceError(f"{name} has {size:,} bytes, more than this machine's memory", about=name)
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read()
    except OSError as error:
        raise InputError(
            f"{name} cannot be read: {(error.strerror or str(error)).lower()}", about=name
        ) from None
    finally:
        os.close(handle)
    return Source(path, data)


def open_window(path: str | os.PathLike[str]) -> Window:
    """Open a regular file of any size.

    Raises:
        InputError: as `read_source`.
    """
    path = Path(path)
    name = quoted(str(path), limit=200)
    return Window(_opened(path, name), name)


def read_text(path: str | os.PathLike[str], limit: int) -> str:
    """Read a small text file of UTF-8, such as a blueprint, a policy or a baseline.

    Raises:
        InputError: as `read_source`, or it is no text.
        ResourceError: it has more than `limit` bytes, which is known before any is read.
    """
    name = quoted(str(path), limit=200)
    window = Window(_opened(Path(path), name, empty=True), name)
    if len(window) > limit:
        raise ResourceError(
            f"{window.name} has {len(window):,} bytes, more than the {limit:,} that such a file may have",
            about=window.name,
        )
    try:
        return window[:].decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{window.name} is no text (UTF-8)", about=window.name) from None


def _opened(path: Path, name: str, *, empty: bool = False) -> int:
    """Return a handle of a regular file, which must not be empty unless that is allowed."""
    try:
        # a FIFO without a writer would block the open
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise InputError(f"there is no file {name}", hint=_neighbours(path), about=name) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{name} cannot be opened: {why.lower()}", about=name) from None
    try:
        _check_regular(os.fstat(handle), path, name, empty)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _check_regular(status: os.stat_result, path: Path, name: str, empty: bool) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name} is a directory, not a checkpoint file", hint=_contents(path), about=name)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            f"{name} is a {_kind(status.st_mode)}, not a regular file",
            hint="copy it to a file first",
            about=name,
        )
    if not status.st_size and not empty:
        raise InputError(
            f"{name} is empty (0 bytes)",
            hint="was the download or the save interrupted? fetch it again",
            about=name,
        )


def printable(text: str, *, limit: int = 120) -> str:
    """Return text of unknown origin fit for a message: control and bidirectional marks escaped, cut to `limit`."""
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def quoted(text: str, *, limit: int = 120) -> str:
    """Return `printable` text in backticks."""
    return f"`{printable(text, limit=limit)}`"


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "FIFO"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def _neighbours(path: Path) -> str | None:
    """Offer the files of the same folder with a similar name."""
    from vaeprobe.errors import did_you_mean

    try:
        return did_you_mean(path.name, (p.name for p in path.parent.iterdir() if p.is_file()))
    except OSError:
        return None


def _contents(path: Path) -> str:
    """Say which file of a model folder to give instead."""
    try:
        names = sorted(p.name for p in path.iterdir() if p.is_file())
    except OSError:
        names = []
    if "model_index.json" in names or "config.json" in names or "model_config.json" in names:
        return "this looks like the folder of a model, and here one file is read"
    weights = [
        n
        for n in names
        if n.endswith((".pt", ".pth", ".ckpt", ".safetensors", ".pt2", ".npy", ".npz", ".bin"))
    ]
    return f"give a file in it, such as {quoted(weights[0])}" if weights else "give the file itself"
