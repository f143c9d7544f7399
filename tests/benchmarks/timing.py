"""Times that survive a busy machine: pieces of work in turns, medians, and ratios of those alone."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType

import torch
from torch import Tensor, nn

Work = Callable[[], object]


def clock() -> float:
    """Return processor time on one thread, which other programs hardly add to, else wall time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(work: Work) -> float:
    """Return how long a piece of work takes."""
    start = clock()
    work()
    return clock() - start


class Apart:
    """A piece of work in a process of its own, which has loaded nothing but this package and does nothing else.

    So it finds memory as whoever runs it alone does: vaeprobe lets the C library hand on what is freed, where torch alone
    fetches large tensors anew, page by page, and that would hold for whatever runs beside it.

    Args:
        make: makes the work there, of `arguments`; importable.
    """

    def __init__(self, make: Callable[..., Work], *arguments: object) -> None:
        context = get_context("spawn")
        self._there, here = context.Pipe()
        self._process = context.Process(
            target=_in_turns, args=(here, torch.get_num_threads(), make, arguments), daemon=True
        )
        self._process.start()
        here.close()

    def __enter__(self) -> Apart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._there.close()
        self._process.join()

    def seconds(self) -> float:
        """Return how long the work takes, done once more."""
        self._there.send(None)
        found: float | Exception = self._there.recv()
        if isinstance(found, Exception):
            raise found
        return found


def _in_turns(here: Connection, threads: int, make: Callable[..., Work], arguments: Sequence[object]) -> None:
    torch.set_num_threads(threads)
    try:
        work = make(*arguments)
        while True:
            here.recv()
            here.send(seconds(work))
    except EOFError:
        return  # nobody asks any more
    except Exception as error:
        here.send(error)


def medians(works: Mapping[str, Work | Apart], rounds: int) -> dict[str, float]:
    """Return the median time of each piece of work, in seconds, all done in turns after one for warming up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            found = work.seconds() if isinstance(work, Apart) else seconds(work)
            if turn:
                times[name].append(found)
    return {name: statistics.median(values) for name, values in times.items()}


def processes(commands: dict[str, Sequence[str]], rounds: int) -> dict[str, float]:
    """Return the median processor time of whole python processes, in seconds, run in turns after one for warming up.

    Bytecode is kept as an installation keeps it, wherever the environment says that none is written.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as bytecode:
        environment["PYTHONPYCACHEPREFIX"] = bytecode
        for turn in range(rounds + 1):
            for name, arguments in commands.items():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run([sys.executable, *arguments], capture_output=True, check=True, env=environment)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                if turn:
                    times[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {name: statistics.median(values) for name, values in times.items()}


def forward(network: nn.Module, z: Tensor, rows: int) -> Work:
    """Return the plain forward pass in chunks of so many rows."""

    def work() -> None:
        with torch.no_grad():
            for part in z.split(rows):
                network(part)

    return work


def tuned(network: nn.Module, z: Tensor) -> Work:
    """Return the plain forward pass as fast as it goes: channels last, the best of three sizes of chunk."""
    last = network.to(memory_format=torch.channels_last)
    works = {str(rows): forward(last, z, rows) for rows in (64, 256, 1024) if rows <= max(64, 2 * len(z))}
    best = min(medians(works, 2).items(), key=lambda pair: pair[1])
    return works[best[0]]
