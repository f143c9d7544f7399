"""What reading a stranger's file may take, where the command line has put it into a worker process.

The worker itself is made by `vaeprobe.cli.worker`; a library that is used from Python has no process of its own to
confine, and nothing here does anything then.  Time and memory are limited while a file is read; what it takes to decode,
with a network of ours of so many operations, ends where the machine does, but for the size of an output.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Iterator

from vaeprobe.errors import ResourceError

__all__ = [
    "LOADING_SECONDS",
    "check_memory",
    "check_output",
    "confine",
    "loading",
    "more_than_there_is",
    "physical_memory",
    "with_more_memory",
]

MEMORY = 7 << 28  # 1.75 GiB of private memory beyond what is taken already, and ...
PER_BYTE = 16  # ... so many times the size of the files
OUTPUT = 1 << 28  # bytes of what a network returns for one latent
FILE_SIZE = 1 << 30  # of what is written, and twice the size of the files
OPEN_FILES = 256
# Of processor time per thread, and for each GB, while a file is read: programs are tried out as they are.
LOADING_SECONDS, SECONDS_PER_GB = 10, 400

NEW_NETWORK, NEW_USER = 0x40000000, 0x10000000  # flags of unshare(2)

LONGEST_NAME = 1024
_confined = False
_limits_memory = False
_memory: int | None = None  # the limit that there is now
_read: mmap.mmap | None = None  # what this process reads, for the one that survives it


def watch_reading() -> None:
    """Share with the processes that are forked from now on which file was read last."""
    global _read
    _read = mmap.mmap(-1, LONGEST_NAME)


def note_reading(name: str) -> None:
    """Note the file that is read now, where another process asks what was."""
    if _read is not None:
        _read[:] = name.encode(errors="backslashreplace")[:LONGEST_NAME].ljust(LONGEST_NAME, b"\0")


def last_read() -> str:
    """Return the name of the file that a forked process read last, "" where none did."""
    return "" if _read is None else _read[:].rstrip(b"\0").decode(errors="replace")


def confine(size: int, *, memory: bool = True, remote: bool = False, network: bool = False) -> None:
    """Limit this process: size of written files, open files, core dumps, network where that is possible, for good; memory.

    Args:
        size: bytes of the files that it will read.
        memory: whether to limit memory, which the drivers of accelerators map without end.
        remote: whether files are fetched first: of a size that nobody knows yet, over the network, into a cache.
        network: whether the network is needed otherwise, as by the processes of `torchrun`.
    """
    global _confined, _limits_memory
    import resource

    if memory:
        _limits_memory = True
        _lower(resource.RLIMIT_DATA, max(MEMORY + PER_BYTE * size, physical_memory()))
        if not remote:
            _allow(MEMORY + PER_BYTE * size)
    if not remote:
        _lower(resource.RLIMIT_FSIZE, FILE_SIZE + 2 * size)
        if not network:
            _leave_network()
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    _lower(resource.RLIMIT_CORE, 0)
    _confined = True


@contextlib.contextmanager
def loading(size: int) -> Iterator[None]:
    """Limit the processor time and memory of what happens inside, in a confined process; the system ends it beyond that time.

    For what a file makes happen while it is read: what comes of it is a network of ours, of so many operations, and its
    decodings take what they take, at the door as later.

    Args:
        size: bytes of the file that is read.
    """
    if not _confined:
        yield
        return
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = (LOADING_SECONDS + SECONDS_PER_GB * size / 1e9) * _threads()
    until = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    before, most = resource.getrlimit(resource.RLIMIT_CPU)
    allowed = [n for n in (until, before, most) if n != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_CPU, (min(allowed), most))
    _allow(_taken() + MEMORY + PER_BYTE * size)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (before, most))
    _allow(None)  # not where reading failed: whoever says why names the limit that was met


def check_output(bytes: int) -> None:
    """Refuse networks whose outputs make every other number of a file small, in a confined process.

    Args:
        bytes: of one output.

    Raises:
        ResourceError: it is too large.
    """
    if _limits_memory and bytes > OUTPUT:
        raise ResourceError(
            f"one output takes {bytes / 1e9:.2g} GB: that of a stranger's network may take {OUTPUT / 1e9:.2g}, a limit of ours",
            hint="is the network what you expect? --no-sandbox lifts the limit",
        )


def with_more_memory(hint: str) -> str:
    """Return what to do where memory has run out: in a process whose memory is limited here, who limits it, and how not to."""
    if _memory is None:
        return hint
    return f"what reads a stranger's file may take {_memory / 1e9:.1f} GB, a limit of ours: --no-sandbox lifts it, or {hint}"


def more_than_there_is() -> str:
    """Return what takes too much where memory has run out, as words to follow `takes`."""
    if _memory is None:
        return "more memory than there is"
    return f"more memory than the {_memory / 1e9:.1f} GB that a stranger's file may take while it is read"


def _allow(memory: int | None) -> None:
    """Limit memory to so much, or to what the machine has, where it is limited."""
    global _memory
    if not _limits_memory:
        return
    import resource

    with contextlib.suppress(ValueError, OSError):
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        own = memory is not None and (most == resource.RLIM_INFINITY or memory < most)
        limit = memory if memory is not None and own else most
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
        _memory = limit if own else None


def _taken() -> int:
    """Return the bytes that count against a limit of memory already (Linux); 0 where nobody says."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/self/status") as file:
        return 1024 * int(next(line for line in file if line.startswith("VmData")).split()[1])
    return 0


def check_memory(what: str, bytes: float, hint: str) -> None:
    """Refuse what this machine has no memory for.

    Args:
        what: it is, as the beginning of a sentence.

    Raises:
        ResourceError: it has not.
    """
    if bytes > physical_memory():
        there_is = physical_memory() / 1e9
        raise ResourceError(
            f"{what} would take {bytes / 1e9:.1f} GB of memory, and this machine has {there_is:.1f} GB",
            hint=hint,
        )


def physical_memory() -> int:
    """Return the bytes of memory of this machine; more than any where nobody says."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def _threads() -> int:
    set_by_user = os.environ.get("OMP_NUM_THREADS", "")
    return int(set_by_user) if set_by_user.isdigit() and int(set_by_user) else os.cpu_count() or 1


def _lower(kind: int, limit: int) -> None:
    import resource

    with contextlib.suppress(ValueError, OSError):
        _, most = resource.getrlimit(kind)
        if most == resource.RLIM_INFINITY or limit < most:
            resource.setrlimit(kind, (limit, limit))


def _leave_network() -> None:
    """Move this process to a network of its own, which leads nowhere, where the system allows that (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    user, group = os.getuid(), os.getgid()
    try:
        unshare = ctypes.CDLL(None).unshare
    except (OSError, AttributeError):
        return
    # containers and hardened systems forbid it
    if unshare(NEW_NETWORK if user == 0 else NEW_NETWORK | NEW_USER) != 0 or user == 0:
        return
    with contextlib.suppress(OSError):  # so that files keep their owner's name
        for name, text in (
            ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1"),
        ):  # fmt: skip
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
