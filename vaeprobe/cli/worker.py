"""A worker process for commands that read what a stranger wrote: limited, and its death is an exit code.

The command runs in a fork that is made before anything heavy is imported: memory, the size of written files, open files
and network are limited there (`vaeprobe.files.limits`), processor time while a file is read.  This process only waits,
passes signals on, and says what happened where the worker did not live to say it.  Files that nothing interprets
(safetensors, .npy, .npz) need no worker, nor does code that the user asked for.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vaeprobe.cli import streams
from vaeprobe.errors import ResourceError, VaeprobeError

if TYPE_CHECKING:
    from mmap import mmap

__all__ = ["OPTION", "needed", "run_in_worker"]

OPTION = "--no-sandbox"
HINT = f"is it what you expect? {OPTION} runs it without limits, in this process"
CRASHED = "without the worker it would crash this process: export the model again, or convert its weights to .safetensors"
# commands that read no file of a stranger
HARMLESS = {"explain", "schema", "demo", "selftest"}
# what runs the user's own code, which may need more
OWN_CODE = ("--arch", "--allow-code")
SAFE_SUFFIXES = {".toml", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".html", ".xml", ".sarif", ".md", ".svg"}
# as pickles begin (those of protocol 0 are text, and begin with what puts something on their stack), or what no text holds
BINARY = re.compile(rb"\A[\x80(\])}BCFGIJKLMNPSTUVXc]|[\x00-\x08\x0e-\x1f]")
MOST_FILES = 1_000_000  # of a folder that are counted
PASSED_ON = (signal.SIGINT, signal.SIGTERM) if os.name != "posix" else (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT,
)  # fmt: skip


def needed(arguments: Sequence[str]) -> bool:
    """Return whether a command line reads a file that a worker should read."""
    words = [a for a in arguments if not a.startswith("-")]
    if not hasattr(os, "fork") or not words or words[0] in HARMLESS or {"-h", "--help"} & set(arguments):
        return False
    if any(a.partition("=")[0] in OWN_CODE for a in arguments):
        return False
    if words[0] == "check":
        return True  # policies and baselines name further models and data
    paths = _paths(arguments[arguments.index(words[0]) + 1 :])
    return any(map(_remote, arguments)) or any(not _safe(path) for path in paths)


def run_in_worker(command: Callable[[], int], arguments: Sequence[str]) -> int | VaeprobeError:
    """Run a command in a worker process and return its exit code, or the error that its death is.

    A check goes on in a new worker after a model that ended the last one (see `vaeprobe.cli.carried`).
    """
    from mmap import mmap  # help waits for none of these

    from vaeprobe.cli import carried
    from vaeprobe.files import limits

    sys.stdout.flush()
    sys.stderr.flush()
    blocked = {*PASSED_ON, signal.SIGCHLD, signal.SIGTSTP, signal.SIGCONT}
    limits.watch_reading()
    if "check" in arguments[:1] and os.environ.get("WORLD_SIZE", "1") == "1":
        carried.open_file()
    stopped = streams.EXIT_CODES.values()
    finished = mmap(-1, 1)  # whether a worker did what it was to do: native code may end it with any code
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        while True:
            code = os.waitstatus_to_exitcode(_wait(_worker(command, arguments, before, finished), blocked))
            ended = code if finished[0] or code in stopped else _death(code)
            if isinstance(ended, int) or not carried.died(ended):
                break
        streams.ending()  # what waits now came too late, or behind a first one
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ended


def _worker(command: Callable[[], int], arguments: Sequence[str], signals: set[int], finished: mmap) -> int:
    """Return the process that runs a command, confined, with these signals blocked; `finished`, of one byte, is set at its end."""
    from vaeprobe.files import limits

    guardian = os.getpid()
    worker = os.fork()
    if worker == 0:
        os.setpgid(0, 0)  # the terminal's signals come once, from the guardian
        _die_with(guardian)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        accelerated = any(map(_names_accelerator, arguments, [*arguments[1:], ""]))
        size = sum(map(_size, _paths(arguments)))
        limits.confine(
            size,
            memory=not accelerated,
            remote=any(map(_remote, arguments)),
            network=os.environ.get("WORLD_SIZE", "1") != "1",
        )
        code = _finished(command)
        finished[0] = 1
        os._exit(code)
    with contextlib.suppress(OSError):
        os.setpgid(worker, worker)
    return worker


def _finished(command: Callable[[], int]) -> int:
    """Run the command as the interpreter would, and return its exit code."""
    code = 70
    try:
        code = command()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 70
    except BaseException:
        traceback.print_exc()  # VAEPROBE_DEBUG
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    return code


def _wait(worker: int, signals: set[signal.Signals]) -> int:
    """Wait for the worker's end, and pass signals on until then."""
    while True:
        received = signal.sigwait(signals)
        if received in (signal.SIGCHLD, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError):
                if received == signal.SIGCONT:
                    os.kill(worker, signal.SIGCONT)
            ended, status = os.waitpid(worker, os.WNOHANG)
            if ended:
                return status
        elif received == signal.SIGTSTP:
            os.kill(worker, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            os.kill(worker, received)


def _death(code: int) -> int | VaeprobeError:
    """Return what the end of a worker that did not finish means.

    Args:
        code: what it ended with: a signal, negative, or what native code gave to `exit`.
    """
    number = -code
    if number in PASSED_ON:
        return 128 + number
    from vaeprobe.files import limits

    name = limits.last_read() or "the file"
    if number == signal.SIGXCPU:
        why = f"took over {limits.LOADING_SECONDS} s of processor time a thread, and {limits.SECONDS_PER_GB} s a GB, to read"
    elif code >= 0:
        why = f"made native code end the process (exit {code})"
    elif number == signal.SIGKILL:
        why = "was ended by the system, most likely because it took too much memory"
    else:
        how = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        why = f"made native code crash ({how})"
        return ResourceError(f"{name} {why}: the worker process that read it is gone", hint=CRASHED)
    return ResourceError(f"{name} {why}: the worker process that read it is gone", hint=HINT)


def _die_with(guardian: int) -> None:
    """Let the system end this process when its guardian ends (Linux)."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != guardian:
        os._exit(143)


# -- which files ----------------------------------------------------------------------------------


def _paths(arguments: Iterable[str]) -> Iterable[str]:
    """Yield the files and folders that arguments and values of options name, by path, glob or address."""
    from vaeprobe.files.addresses import is_address, local

    for argument in arguments:
        for text in dict.fromkeys((argument, argument.partition("=")[2], argument.removeprefix("file:"))):
            if not text or "\0" in text:
                continue
            if os.path.exists(text):
                yield text
            elif is_address(text):
                with contextlib.suppress(VaeprobeError):  # the command says what is wrong with it
                    yield str(local(text))  # fetched here: the worker has no network
            elif glob.has_magic(text):
                yield from glob.iglob(text, recursive=True)


def _safe(path: str) -> bool:
    """Return whether a file is one that nothing interprets, told by its bytes, or text."""
    if not os.path.isfile(path):
        return not os.path.isdir(path)  # devices and FIFOs are refused later
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError:
        return True
    suffix = Path(path).suffix.lower()
    if head.startswith(b"\x93NUMPY"):
        return suffix == ".npy"
    if head.startswith(b"PK"):
        return suffix == ".npz" and _holds_arrays_alone(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < os.path.getsize(path):
        return True
    # an index of shards names files of any kind; binary files may be named like text
    return suffix in SAFE_SUFFIXES and not path.endswith(".index.json") and not BINARY.search(head)


def _holds_arrays_alone(path: str) -> bool:
    """Return whether every entry of a zip is an array by its name."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # whatever zipfile says of a damaged one
        return False


def _names_accelerator(argument: str, after: str) -> bool:
    """Return whether an argument, with the one after it, asks for a device other than the processor."""
    option, _, value = argument.partition("=")
    return option == "--device" and (value or after) != "cpu"


def _remote(argument: str) -> bool:
    """Return whether an argument is an address on the Hugging Face Hub."""
    return argument.startswith("hf:")


def _size(path: str) -> int:
    """Return the bytes of a file and of those that are named after it, or of a folder."""
    try:
        if not os.path.isdir(path):
            stem = os.path.splitext(os.path.basename(path))[0]
            beside = (e for e in os.scandir(os.path.dirname(path) or ".") if e.name.startswith(stem))
            return sum(entry.stat().st_size for entry in beside if entry.is_file())
        inside = (os.path.join(at, name) for at, _, names in os.walk(path) for name in names)
        return sum(map(os.path.getsize, itertools.islice(inside, MOST_FILES)))
    except OSError:
        return 0
