"""A command in several processes of `torchrun`: the first is heard, and all end as the first that fails.

They join before the command line is read, so that whatever goes wrong in one of them is known to all, and told once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from threading import RLock
from typing import Literal

from vaeprobe import writing
from vaeprobe.board import ALIKE, GRACE, STOPPED, Board, End, from_outside
from vaeprobe.cli import streams
from vaeprobe.errors import VaeprobeError
from vaeprobe.processes import joined, place
from vaeprobe.stopping import Terminated


class Shared:
    """A command that this process shares with others.

    Args:
        board: of the run.
        tell: says an error, where this process speaks.
    """

    def __init__(self, board: Board, tell: Callable[[VaeprobeError], None]) -> None:
        self.board, self.tell = board, tell
        self._streams = sys.stdout, sys.stderr
        self._telling = RLock()  # an interrupt finds the main thread here, or has another one wait
        self._code: int | None = None

    def finished(self, exit_code: int) -> int:
        """Return the exit code of all, when this process has done its share."""
        agreed = self.board.agreed(exit_code)
        failure = self.board.failure() if agreed is None else None
        return self._concluded(failure) if failure else agreed or 0

    def failed(self, error: VaeprobeError) -> int:
        """Return the exit code of all where this process has failed."""
        return self._concluded(self.board.ended(End.of(error, self.board.rank)), error.message)

    def stopped(self, exit_code: int) -> int:
        """Return the exit code of all where this process was interrupted, by a signal or because another failed.

        It may come from the thread that ends this process where the main one is in a long call of torch.
        """
        own = End(self.board.rank, exit_code, STOPPED, streams.stopped())
        code = self._concluded(self.board.ended(own))
        self.board.leave()
        return code

    def _concluded(self, end: End, own: str = "") -> int:
        self.board.over.set()
        with self._telling:
            if self._code is None:
                self._tell(end, own)
                self._code = end.exit_code
        return self._code

    def _tell(self, end: End, own: str) -> None:
        """Say why all end, where it is for this process to say it."""
        stopped = end.code == STOPPED
        if stopped and not self.board.first_is_here():
            return
        try:
            speaks = self.board.take_the_floor(0.0 if stopped else ALIKE + GRACE)
        except (KeyboardInterrupt, Terminated):  # it ends already: nobody need wait for it
            speaks = self.board.take_the_floor()
        if speaks:
            out, err = self._streams
            with redirect_stdout(out), redirect_stderr(err):
                if stopped:
                    streams.say(end.message)
                else:
                    self.tell(end.error(self.board.world, own))


@contextmanager
def sharing(arguments: Sequence[str], tell: Callable[[VaeprobeError], None]) -> Iterator[Shared | None]:
    """Join the processes that `torchrun` started; None where it did not.

    Args:
        arguments: the command line.
        tell: says an error.

    Raises:
        ResourceError: the others cannot be reached.
        UsageError: the environment says half of what `torchrun` does.
    """
    gpu = any(word.partition("=")[2].startswith("cuda") or word.startswith("cuda") for word in arguments)
    backend: Literal["gloo", "nccl"] = "nccl" if gpu or "nccl" in arguments else "gloo"
    # torch tells of every closed connection, in pages: what ends the run is said by us
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    shared: Shared | None = None

    def begin(board: Board) -> Callable[[], None]:
        nonlocal shared
        shared = Shared(board, tell)
        streams.end_with(shared.stopped)
        return streams.interrupt

    with ExitStack() as stack:
        stack.callback(streams.end_alone)
        processes = stack.enter_context(joined(backend, say=streams.say, end=begin))
        if processes.rank > 0:
            nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8", errors="replace"))
            stack.enter_context(redirect_stdout(nothing))
            stack.enter_context(redirect_stderr(nothing))
            stack.enter_context(writing.withheld())
        yield shared


def obituary(error: VaeprobeError) -> bool:
    """Tell the other processes why the one that this one waited for is dead; return whether it is said here."""
    rank, world = place()
    board = from_outside(rank, world) if world > 1 else None
    if board is None:
        return rank == 0
    board.ended(End.of(error, rank))
    return board.take_the_floor(ALIKE + GRACE)
