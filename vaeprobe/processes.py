"""Several processes that share one run: sums over all of them, and one end for all (see `board`).

Started by `torchrun`, which sets RANK and WORLD_SIZE.  Each does its share of what is long (rows of data, chunks of
latents, models), what they find is summed, and every process goes on with the same numbers; the first one speaks.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from vaeprobe.board import GRACE, Board, Watch, board_of, prefix
from vaeprobe.errors import ERRORS, InputError, ResourceError, UsageError, VaeprobeError, bug, out_of_memory
from vaeprobe.foreign import in_words
from vaeprobe.progress import track
from vaeprobe.scoped import scoped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Array: TypeAlias = "NDArray[np.float64]"

S = TypeVar("S")
T = TypeVar("T")
TIMEOUT = 300.0  # seconds that processes wait for each other at the start; in Python for an answer, too
ENDLESS = timedelta(days=30)  # what a sum may wait for others at work, where a board says whether they live
PATIENCE = 10.0  # seconds after which it is told that others are waited for


@dataclass(frozen=True)
class Processes:
    """The processes of a run; one alone needs no torch.

    Attributes:
        rank: this one's number.
        world: how many there are.
        device: where sums are formed: "cpu" (gloo) or "cuda:K" (NCCL).
        board: where they say how they ended; None for one alone.
        watch: who looks at it, where the whole run is to end with any process.
    """

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    board: Board | None = None
    watch: Watch | None = None

    def sum(self, array: Array) -> Array:
        """Return the sum of an array over all processes, float64.

        Raises:
            ResourceError: a process has ended or does not answer.
        """
        if self.world == 1:
            return array
        import torch

        tensor = torch.tensor(array, dtype=torch.float64, device=self.device)
        with self._answered():
            torch.distributed.all_reduce(tensor)
        found: Array = tensor.cpu().numpy()
        return found

    def summed(self, out: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, of its own type and on its own device.

        Where each number is 0 in all processes but one, nothing is rounded.

        Raises:
            ResourceError: a process has ended or does not answer.
        """
        if self.world == 1:
            return out
        import torch

        whole = out.to(self.device).contiguous()
        with self._answered():
            torch.distributed.all_reduce(whole)
        return whole.to(out.device)

    def agreed(self, number: float) -> float:
        """Return the first process's number, where it depends on its clock: what all of them go on with."""
        return number if self.world == 1 else float(self.gathered(number)[0])

    def gathered(self, own: T) -> list[T]:
        """Return what every process found, by rank.

        Raises:
            ResourceError: a process has ended or does not answer.
        """
        if self.world == 1:
            return [own]
        import torch

        found: list[Any] = [None] * self.world
        with self._answered():
            torch.distributed.all_gather_object(found, own)
        return found

    def together(self, work: Callable[[], T], by: Callable[[T], str] | None = None) -> T:
        """Return what `work` returns here; an error in one process is one in all of them, of the same kind.

        Args:
            by: what is the same in all processes of what `work` returns: the bytes of a file, told briefly.

        Raises:
            InputError: it is not, as where a process holds another file of the same name.
            VaeprobeError: `work` failed, here or elsewhere.
        """
        if self.world == 1:
            return work()
        result: T | None = None
        own: Exception | None = None
        try:
            result = work()
        except Exception as caught:
            own = caught
        told = by(result) if by is not None and own is None else ""  # type: ignore[arg-type]
        errors, all_told = zip(*self.gathered((None if own is None else _told(own), told)), strict=True)
        if own is not None:
            raise own
        for rank, error in enumerate(errors):
            if error is not None:
                code, message, hint = error
                raise ERRORS[code](f"process {rank} of {self.world} failed: {message}", hint=hint)
        for rank, other in enumerate(all_told):
            if other != all_told[0]:
                raise InputError(
                    f"process {rank} of {self.world} reads another file than process 0, under the same name",
                    hint="give all processes the same files: is there an old copy on one machine?",
                )
        return result  # type: ignore[return-value]

    def meet(self) -> None:
        """Wait for all others: whoever speaks for them knows that none has failed."""
        self.together(lambda: None)

    def shared(self, items: Sequence[S], work: Callable[[S], T], description: str) -> list[T]:
        """Return what `work` makes of every item, in order; each process does every so-many-th, and all get all.

        Raises:
            VaeprobeError: `work` failed, here or elsewhere.
        """

        def own() -> list[T]:
            with apart():
                return [work(item) for item in track(items[self.rank :: self.world], description)]

        by_rank = self.gathered(self.together(own))
        return [by_rank[k % self.world][k // self.world] for k in range(len(items))]

    def spread(self, items: Sequence[S], work: Callable[[S], T], description: str) -> list[T]:
        """Return what `work` makes of every item: one item a process where there are enough, else all at each in turn."""
        if len(items) >= self.world:
            return self.shared(items, work, description)
        return [work(item) for item in track(items, description)]

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Say whom a sum misses: as an error, or, where the whole run is to end, to who ends it."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if self.board is None:
                raise _unanswered("a process of this run has ended or does not answer", error) from None
            closed = "onnection" in str(error)
            end = self.board.why_missing("its connection is closed" if closed else _first_line(error))
            if self.watch is not None:
                self.watch.tell()
            raise end.error(self.world) if end.code in ERRORS else _unanswered(end.message, error) from None


def _told(error: Exception) -> tuple[str, str, str | None]:
    """Return what other processes are told of an error: its code, message and hint."""
    if not isinstance(error, VaeprobeError):
        lacking = ResourceError("out of memory", hint="fewer processes") if out_of_memory(error) else None
        error = lacking or in_words(error) or bug(error)
    return error.code, error.message, error.hint


ALONE = Processes()
_runs = itertools.count()  # that processes of torchrun shared
_current: ContextVar[Processes] = ContextVar("vaeprobe_processes", default=ALONE)


def current() -> Processes:
    """Return the processes that share the work here."""
    return _current.get()


@contextmanager
def apart() -> Iterator[None]:
    """Share nothing inside the block: each process does work of its own there."""
    with scoped(_current, ALONE):
        yield


def place() -> tuple[int, int]:
    """Return this process's number, and how many share the run, as the environment says.

    Raises:
        UsageError: it says what cannot be.
    """
    world, rank = (_number(name, default) for name, default in (("WORLD_SIZE", 1), ("RANK", 0)))
    if world > 1 and rank >= world:
        raise UsageError(f"RANK is {rank}, and WORLD_SIZE {world}: ranks are counted from 0", hint=ONE)
    return (rank, world) if world > 1 else (0, 1)


ONE = "torchrun sets both; without it, unset RANK and WORLD_SIZE, which some clusters set, for a run of one process"


def _number(name: str, default: int) -> int:
    word = os.environ.get(name) or str(default)
    if not word.isdecimal():
        raise UsageError(f"the environment's {name} is `{word}`, which is no number of processes", hint=ONE)
    return int(word)


@contextmanager
def joined(
    backend: Literal["gloo", "nccl"] = "gloo",
    *,
    timeout: float = TIMEOUT,
    say: Callable[[str], None] = lambda line: None,
    end: Callable[[Board], Callable[[], None]] | None = None,
) -> Iterator[Processes]:
    """Join the processes that `torchrun` started; the one alone where it did not, and those joined where they are.

    Args:
        backend: gloo, or nccl for one GPU per process.
        timeout: seconds that processes wait for each other at the start, and for an answer; where `end` is given, in
            which processes that are joined already must give a sign of life.
        say: told that the others are waited for, where they keep it waiting.
        end: returns what ends this process where another failed, from whatever thread, at once; without it the next
            sum fails.

    Raises:
        ResourceError: the others cannot be reached.
        UsageError: the environment says half of what `torchrun` does.
    """
    rank, world = place()
    if world <= 1 or current().world > 1:
        if (watch := current().watch) is not None and timeout != TIMEOUT:
            watch.silence = timeout
        yield current()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"WORLD_SIZE says that {world} processes share this run, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set",
            hint=ONE,
        )
    import torch

    distributed: Any = torch.distributed
    # whoever loads the decoder says that there is no GPU
    nccl = backend == "nccl" and torch.cuda.is_available()
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if nccl else "cpu"
    if nccl:
        torch.cuda.set_device(device)
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    words = f"process {rank} of {world} waits for the others at {where}, up to {timeout:.0f} s"
    clock = threading.Timer(PATIENCE, say, [f"{words} ({ONE})"])
    clock.daemon = True
    clock.start()
    limit = timedelta(seconds=timeout)
    watch = None
    try:
        store, _, _ = next(distributed.rendezvous("env://", rank, world, timeout=limit))
        keys = prefix(next(_runs))
        board = board_of(store, keys, rank, world)
        if end is not None:
            watch = Watch(board, end(board))
            watch.start()  # before they meet: one may fail on the way
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            store=distributed.PrefixStore(f"{keys} sums", store),
            rank=rank,
            world_size=world,
            timeout=limit if watch is None else ENDLESS,
        )
    except (RuntimeError, ValueError) as error:
        raise _unanswered(f"not all {world} processes of this run came together at {where}", error) from None
    finally:
        clock.cancel()
    try:
        with scoped(_current, Processes(rank, world, device, board, watch)):
            yield current()
    finally:
        board.over.set()
        if watch is not None:
            watch.join(GRACE)  # the interpreter ends badly while a thread is in a call of torch
        distributed.destroy_process_group()
        board.leave()


def _unanswered(what: str, error: Exception) -> ResourceError:
    return ResourceError(
        f"{what}: {_first_line(error)}",
        hint="see the log of the process that failed first; start the run again with torchrun",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
