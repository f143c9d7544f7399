"""The one way in which vaeprobe writes files: documents, pictures, models, drafts, baselines.

A regular file is written beside its place and moved there, so that a reader sees the old file or the whole
new one.  Links are followed; devices and pipes are written through; a new file has the mode that the umask
gives it, an old one keeps its own.  `ready` refuses what cannot be written before any work is done.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from os import PathLike
from pathlib import Path

from vaeprobe.errors import UsageError
from vaeprobe.scoped import scoped
from vaeprobe.stopping import heed

__all__ = ["check_suffix", "discard", "ready", "withheld", "write", "write_text"]

STDOUT = Path("-")  # what a command line calls stdout, to which a document goes and no other file
# files that are being written: whoever ends the process in the midst of it removes them
_unfinished: set[str] = set()
_withheld: ContextVar[bool] = ContextVar("vaeprobe_withheld", default=False)


@contextmanager
def withheld() -> Iterator[None]:
    """Write no file inside the block: another process of the run writes the same."""
    with scoped(_withheld, True):
        yield


def ready(outputs: Iterable[str | PathLike[str]], inputs: Iterable[str | PathLike[str]] = ()) -> None:
    """Check that files can be written, without changing them.

    Args:
        outputs: the files that will be written.
        inputs: files and folders that are read; names that do not exist are passed over.

    Raises:
        UsageError: a place cannot be written, is an input, or is meant for two files.
    """
    if _withheld.get():
        return
    read = [Path(p) for p in inputs]
    seen: set[str] = set()
    for output in outputs:
        path = Path(output)
        if path == STDOUT:
            raise UsageError("`-` names no file, and only the document goes to stdout", hint="name a file")
        try:
            through = _is_written_through(path)
            for source in read:
                _refuse_input(path, source)
            if through:
                continue
            real = os.path.realpath(path)
            _try_place(path, Path(real))
        except OSError as error:
            raise _cannot_write(path, error) from None
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            # a NUL character
            raise UsageError(f"cannot write {str(path)!r}: it is no file name") from None
        if real in seen:
            raise UsageError(f"two outputs go to `{path}`", hint="give each a name of its own")
        seen.add(real)


def check_suffix(path: str | PathLike[str], suffixes: Sequence[str], name: str) -> None:
    """Check that a file which is written has a suffix of its kind, or none.

    Args:
        suffixes: those of its kind, the first of which is proposed.
        name: of the setting that names it.

    Raises:
        UsageError: it has another.
    """
    given = Path(path)
    if given == STDOUT:
        raise UsageError(
            f"{name} writes {' or '.join(suffixes)} files, which do not go to stdout",
            hint=f"name a file, such as `out{suffixes[0]}`",
        )
    if given.suffix.lower() not in ("", *suffixes):
        raise UsageError(
            f"{name} writes {' or '.join(suffixes)} files, not `{given.suffix}`",
            hint=f"name it `{given.with_suffix(suffixes[0])}`",
        )


def write(path: str | PathLike[str], writer: Callable[[Path], object]) -> None:
    """Write a file, whole or not at all.

    Args:
        path: where to.
        writer: writes to the path it is given, which has the same suffix.

    Raises:
        UsageError: the place cannot be written, or is full.
    """
    if _withheld.get():
        return
    path = Path(path)
    try:
        real = Path(os.path.realpath(path))
        if _is_written_through(path) or (real.exists() and not os.access(real.parent, os.W_OK)):
            _write_through(path, writer)
        else:
            _write_beside(real, writer)
    except OSError as error:
        raise _cannot_write(path, error) from None
    except Exception as error:
        if type(error).__name__ == "SafetensorError" and "I/O error" in str(error):  # it is no OSError
            raise UsageError(f"cannot write `{path}`: {str(error).lower()}", hint="free some space") from None
        raise


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write a UTF-8 file, whole or not at all (see `write`)."""
    write(path, lambda place: place.write_bytes(text.encode("utf-8", "backslashreplace")))


def discard() -> None:
    """Remove what is half written: for a process that is about to end."""
    for name in list(_unfinished):
        Path(name).unlink(missing_ok=True)


def _is_written_through(path: Path) -> bool:
    """Whether a path is a pipe or device, or a name of an open stream such as /dev/stdout."""
    if _is_a_stream(path):
        return True
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _is_a_stream(path: Path) -> bool:
    return os.path.abspath(path).startswith(("/dev/", "/proc/"))


def _refuse_input(path: Path, source: Path) -> None:
    if not source.exists() or not path.exists():
        return
    if path.samefile(source):
        what = "an input"
    elif source.is_dir() and Path(os.path.realpath(source)) in Path(os.path.realpath(path)).parents:
        what = f"in the input folder `{source}`"
    else:
        return
    raise UsageError(f"`{path}` is {what} and would be overwritten", hint="name another file to write")


def _try_place(path: Path, real: Path) -> None:
    """Find out whether a regular file can be written, by trying."""
    if real.is_dir():
        raise UsageError(f"cannot write `{path}`: it is a folder", hint="name a file in it")
    if not real.parent.is_dir():
        wrong = "no folder" if real.parent.exists() else "missing"
        raise UsageError(
            f"cannot write `{path}`: `{real.parent if path.is_symlink() else path.parent}` is {wrong}",
            hint="make the folder first, or choose one that exists",
        )
    if real.exists():
        os.close(os.open(real, os.O_WRONLY))
        if not os.access(real.parent, os.W_OK):
            return
    name = _new_file(real)
    os.unlink(name)
    _unfinished.discard(name)


def _new_file(real: Path) -> str:
    """Return the name of a new empty file beside a place, of the same suffix and with the umask's mode."""
    name = str(real.parent / f".vaeprobe-{os.urandom(6).hex()}{real.suffix}")
    _unfinished.add(name)
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return name


def _write_beside(real: Path, writer: Callable[[Path], object]) -> None:
    name = _new_file(real)
    try:
        mode = stat.S_IMODE(os.stat(real if real.exists() else name).st_mode)
        writer(Path(name))
        os.chmod(name, mode)  # some writers put a private file in place of ours
        heed()
        os.replace(name, real)
    finally:
        Path(name).unlink(missing_ok=True)
        _unfinished.discard(name)


def _write_through(path: Path, writer: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory(prefix="vaeprobe-") as folder:
        place = Path(folder, f"file{path.suffix}")
        writer(place)
        heed()
        replaced = path.is_file() and not _is_a_stream(path)  # a file in a folder that takes no new ones
        flags = os.O_WRONLY | (os.O_TRUNC if replaced else os.O_APPEND)
        with open(place, "rb") as source, os.fdopen(os.open(path, flags), "wb") as target:
            shutil.copyfileobj(source, target)


def _cannot_write(path: Path, error: OSError) -> UsageError:
    reason = (error.strerror or type(error).__name__).lower()
    return UsageError(f"cannot write `{path}`: {reason}", hint="choose a place that you can write to")
