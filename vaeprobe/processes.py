"""Several processes that share one run: sums over all of them, and a clear end when one dies.

Started by `torchrun`, which sets RANK and WORLD_SIZE.  Each does its share of what is long (rows of data, chunks of
latents, models), what they find is summed, and every process goes on with the same numbers; the first one speaks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from vaeprobe.errors import ResourceError, VaeprobeError
from vaeprobe.progress import track

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Array: TypeAlias = "NDArray[np.float64]"

S = TypeVar("S")
T = TypeVar("T")
TIMEOUT = 300.0  # seconds without an answer after which a process counts as dead


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


@contextmanager
def joined(backend: Literal["gloo", "nccl"] = "gloo", *, timeout: float = TIMEOUT) -> Iterator[Processes]:
    """Join the processes that `torchrun` started; the one alone where it did not, and those joined where they are.

    Args:
        backend: gloo, or nccl for one GPU per process.
        timeout: seconds without an answer after which a process counts as dead.

    Raises:
        ResourceError: the others cannot be reached.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world <= 1 or current().world > 1:
        yield current()
        return
    import torch

    rank = int(os.environ.get("RANK", "0"))
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if backend == "nccl" else "cpu"
    if backend == "nccl":
        torch.cuda.set_device(device)  # what is gathered as objects goes there, too
    with _dead_process():
        torch.distributed.init_process_group(
            backend, rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
        )
    token = _current.set(Processes(rank, world, device))
    try:
        yield current()
    finally:
        _current.reset(token)
        torch.distributed.destroy_process_group()


@contextmanager
def _dead_process() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ResourceError(
            f"a process of this run has ended or does not answer: {first}",
            hint="see the log of the process that failed first; start the run again with torchrun",
        ) from None
