"""Several processes that share the rows: sums over all of them, and a clear end when one dies.

Started by `torchrun`, which sets RANK and WORLD_SIZE; every process reads its own share of the rows, the
moments are summed, and every process goes on with the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np

from vaeprobe.errors import ResourceError, VaeprobeError
from vaeprobe.linear.moments import Moments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

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

        tensor = torch.from_numpy(np.array(array, np.float64)).to(self.device)
        with _dead_process():
            torch.distributed.all_reduce(tensor)
        return np.asarray(tensor.cpu().numpy())

    def moments(self, parts: tuple[Moments, ...]) -> tuple[Moments, ...]:
        """Return the moments of the rows of all processes, part by part."""
        return parts if self.world == 1 else tuple(map(self._moments, parts))

    def _moments(self, own: Moments) -> Moments:
        n = int(self.sum(np.array([own.n], np.float64))[0])
        mean = self.sum(own.mean * own.n) / max(n, 1)
        step = own.mean - mean
        slip = None if own.slip is None else self.sum(own.slip)
        return Moments(n, mean, self.sum(own.scatter + own.n * np.outer(step, step)), slip)

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
        verdicts: list[Any] = [None] * self.world
        with _dead_process():
            torch.distributed.all_gather_object(verdicts, error and (error.message, error.hint))
        if error is not None:
            raise error
        for rank, verdict in enumerate(verdicts):
            if verdict is not None:
                raise ResourceError(f"process {rank} of {self.world} failed: {verdict[0]}", hint=verdict[1])
        return result  # type: ignore[return-value]


ALONE = Processes()


@contextmanager
def joined(backend: Literal["gloo", "nccl"] = "gloo", *, timeout: float = TIMEOUT) -> Iterator[Processes]:
    """Join the processes that `torchrun` started; the one alone where it did not.

    Args:
        backend: gloo, or nccl for one GPU per process.
        timeout: seconds without an answer after which a process counts as dead.

    Raises:
        ResourceError: the others cannot be reached.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world <= 1:
        yield ALONE
        return
    import torch

    rank = int(os.environ.get("RANK", "0"))
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if backend == "nccl" else "cpu"
    with _dead_process():
        torch.distributed.init_process_group(
            backend, rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
        )
    try:
        yield Processes(rank, world, device)
    finally:
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
