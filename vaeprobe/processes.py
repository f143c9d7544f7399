"""Several processes that share one run: sums over all of them, and a clear end when one dies.

Started by `torchrun`, which sets RANK and WORLD_SIZE.  Each does its share of what is long (rows of data, chunks of
latents, models), what they find is summed, and every process goes on with the same numbers; the first one speaks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from vaeprobe.errors import ResourceError, UsageError, VaeprobeError
from vaeprobe.progress import track

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Array: TypeAlias = "NDArray[np.float64]"

S = TypeVar("S")
T = TypeVar("T")
TIMEOUT = 300.0  # seconds without an answer after which a process counts as dead
PATIENCE = 10.0  # seconds after which it is told that others are waited for


@dataclass(frozen=True)
class Processes:
    """The processes of a run; one alone needs no torch.

    Attributes:
        rank: this one's number.
        world: how many there are.
        device: where sums are formed: "cpu" (gloo) or "cuda:K" (NCCL).
    """

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    def sum(self, array: Array) -> Array:
        """Return the sum of an array over all processes, float64.

        Raises:
            ResourceError: a process has ended or does not answer.
        """
        if self.world == 1:
            return array
        import torch

        tensor = torch.tensor(array, dtype=torch.float64, device=self.device)
        with _dead_process():
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
        with _dead_process():
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
        with _dead_process():
            torch.distributed.all_gather_object(found, own)
        return found

    def together(self, work: Callable[[], T]) -> T:
        """Return what `work` returns here; an error in one process ends all of them with its message.

        Raises:
            VaeprobeError: `work` failed, here or elsewhere.
        """
        if self.world == 1:
            return work()
        import torch

        result: T | None = None
        error: VaeprobeError | None = None
        try:
            result = work()
        except VaeprobeError as caught:
            error = caught
        verdicts: list[tuple[str, str | None] | None] = [None] * self.world
        with _dead_process():
            torch.distributed.all_gather_object(verdicts, error and (error.message, error.hint))
        if error is not None:
            raise error
        for rank, verdict in enumerate(verdicts):
            if verdict is not None:
                raise ResourceError(f"process {rank} of {self.world} failed: {verdict[0]}", hint=verdict[1])
        return result  # type: ignore[return-value]

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


ALONE = Processes()
_current: ContextVar[Processes] = ContextVar("vaeprobe_processes", default=ALONE)


def current() -> Processes:
    """Return the processes that share the work here."""
    return _current.get()


@contextmanager
def apart() -> Iterator[None]:
    """Share nothing inside the block: each process does work of its own there."""
    token = _current.set(ALONE)
    try:
        yield
    finally:
        _current.reset(token)


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
) -> Iterator[Processes]:
    """Join the processes that `torchrun` started; the one alone where it did not, and those joined where they are.

    Args:
        backend: gloo, or nccl for one GPU per process.
        timeout: seconds without an answer after which a process counts as dead.
        say: told that the others are waited for, where they keep it waiting.

    Raises:
        ResourceError: the others cannot be reached.
        UsageError: the environment says half of what `torchrun` does.
    """
    rank, world = place()
    if world <= 1 or current().world > 1:
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

    if backend == "nccl" and not torch.cuda.is_available():
        backend = "gloo"  # whoever loads the decoder says that there is no GPU
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if backend == "nccl" else "cpu"
    if backend == "nccl":
        torch.cuda.set_device(device)  # what is gathered as objects goes there, too
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    words = f"process {rank} of {world} waits for the others at {where}, up to {timeout:.0f} s"
    clock = threading.Timer(PATIENCE, say, [f"{words} ({ONE})"])
    clock.daemon = True
    clock.start()
    try:
        with _dead_process(f"not all {world} processes of this run came together at {where}"):
            torch.distributed.init_process_group(
                backend, rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
            )
    finally:
        clock.cancel()
    token = _current.set(Processes(rank, world, device))
    try:
        yield current()
    finally:
        _current.reset(token)
        torch.distributed.destroy_process_group()


@contextmanager
def _dead_process(what: str = "a process of this run has ended or does not answer") -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ResourceError(
            f"{what}: {first}",
            hint="see the log of the process that failed first; start the run again with torchrun",
        ) from None
