"""What the processes of a run tell each other apart from their sums: that they live, and how the first that failed ended.

A process that fails is missed in the next sum, by all others; why it failed it could say nowhere there. So it writes on
a board, torch's store, on which each process also counts up while it lives. All of them end as the first that
failed, with its exit code, and one of them says so.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from vaeprobe.errors import ERRORS, ResourceError, VaeprobeError

SILENCE = 60.0  # seconds without a sign of life after which a process counts as dead
LOOK = 0.25  # seconds between two looks at the board
GRACE = 3.0  # seconds in which a process that is missed may say why it went, or another speak, or leave
ALIKE = 5.0  # seconds in which others may fail in the same way: nobody's fault in particular
STOPPED = "stopped"
FAILED = re.compile(r"(process|a process of) .{,80} (failed: |ha(s|ve) ended)")  # says whose end it is


@dataclass(frozen=True)
class End:
    """How a process ended before its time: by an error, or by a signal.

    Attributes:
        rank: the process's number.
        exit_code: that it ends with.
        code: of the error, or `STOPPED`.
        message: what it would say.
        hint: what it would advise.
    """

    rank: int
    exit_code: int
    code: str
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: VaeprobeError, rank: int) -> End:
        return cls(rank, error.exit_code, error.code, error.message, error.hint)

    def error(self, world: int, own: str = "") -> VaeprobeError:
        """Return it as an error of the whole run; whose it is, unless it is just what this process would have said."""
        common = self.rank == 0 or self.message == own or FAILED.match(self.message)
        message = self.message if common else f"process {self.rank} of {world} failed: {self.message}"
        return ERRORS[self.code](message, hint=self.hint)


@dataclass(frozen=True)
class Board:
    """The board, as one process sees it.

    Attributes:
        store: torch's, where it is written.
        rank: this process's number.
        world: how many there are.
        elsewhere: whether it is kept by no process of the run (but by `torchrun`), and outlives them.
        over: set when this process ends, and need not be told of others.
    """

    store: Any
    rank: int
    world: int
    elsewhere: bool
    over: threading.Event = field(default_factory=threading.Event, compare=False)
    _first: list[End] = field(default_factory=list, compare=False)

    def ended(self, own: End) -> End:
        """Write how this process ends, and return how the first that failed did."""
        found = self._ask(
            lambda: _end(self.store.compare_set("end", "", json.dumps(asdict(own)))), default=own
        )
        # what was known once stands, whatever becomes of the board
        self._first[:1] = self._first[:1] or [found]
        return self._first[0]

    def failure(self) -> End | None:
        """Return how the first process that failed ended; None where none has."""
        found: End | None = self._ask(
            lambda: _end(self.store.get("end")) if self.store.check(["end"]) else None, default=None
        )
        return found

    def take_the_floor(self, patience: float = 0.0) -> bool:
        """Return whether this process says what is to be said; the first one may, for so many seconds, before others."""
        until = time.monotonic() + (patience if self.rank > 0 else 0.0)
        while time.monotonic() < until and not self._ask(
            lambda: self.store.check(["floor"]), default=self.elsewhere
        ):
            time.sleep(0.02)
        alone = self.rank <= (0 if self.elsewhere else 1)  # where the board went with its keeper
        said: bool = self._ask(lambda: self.store.add("floor", 1) == 1, default=alone)
        return said

    def first_is_here(self) -> bool:
        """Return whether the first process has joined, or nobody knows: until then it speaks for itself."""
        return self.rank == 0 or self.lives([0]).get(0, 1) > 0

    def agreed(self, exit_code: int) -> int | None:
        """Return the exit code of the first process, waited for; None where a process has failed."""
        if self.rank == 0:
            self._ask(lambda: self.store.set("code", str(exit_code)), default=None)
        while self.failure() is None:
            if self._ask(lambda: self.store.check(["code"]), default=True):
                return int(self._ask(lambda: self.store.get("code"), default=exit_code))
            time.sleep(0.02)
        return None

    def leave(self) -> None:
        """Go; who keeps the board goes last."""
        self._ask(lambda: self.store.set(f"left {self.rank}", "1"), default=None)
        all_left = [f"left {rank}" for rank in range(self.world)]
        until = time.monotonic() + ALIKE + GRACE
        while self.rank == 0 and not self.elsewhere and time.monotonic() < until:
            if self._ask(lambda: self.store.check(all_left), default=True):
                return
            time.sleep(0.02)

    def live(self) -> None:
        """Give a sign of life."""
        self._ask(lambda: self.store.add(f"life {self.rank}", 1), default=0)

    def lives(self, ranks: Sequence[int]) -> dict[int, int]:
        """Return how many signs of life processes gave; nothing where the board is gone."""
        found: dict[int, int] = self._ask(
            lambda: {rank: self.store.add(f"life {rank}", 0) for rank in ranks}, default={}
        )
        return found

    def why_missing(self, what: str) -> End:
        """Return why a process does not answer: as it says itself, or as far as others see."""
        before, until = self.lives(range(self.world)), time.monotonic() + GRACE
        still: list[int] = []
        try:
            while time.monotonic() < until:
                found = self.failure()
                if found is not None:
                    return found
                time.sleep(0.05)
            now = self.lives(range(self.world))
            still = [rank for rank in now if rank != self.rank and 0 < now[rank] == before.get(rank)]
        finally:  # a signal may end the wait: torchrun sends one to those that are left
            end = self.ended(End.of(gone(still, self.world, what), self.rank))
        return end

    def _ask(self, question: Callable[[], Any], *, default: Any) -> Any:
        try:
            return question()
        except (RuntimeError, ValueError):  # its keeper is gone
            return default


def gone(ranks: Sequence[int], world: int, what: str) -> ResourceError:
    """Return the error of processes that are missed and said nothing."""
    who = f"process {' and '.join(map(str, ranks))} of {world}" if ranks else "a process of this run"
    verb = "have" if len(ranks) > 1 else "has"
    return ResourceError(
        f"{who} {verb} ended or does not answer: {what}",
        hint="killed, perhaps for want of memory: see its log, or the system's; start the run again with torchrun",
    )


class Watch(threading.Thread):
    """Gives signs of life, and looks for how others do: tells once when a process has failed, or is silent.

    Args:
        board: that is watched, by a connection of its own.
        tell: called from this thread, with how the first process that failed ended.
        silence: seconds after which a silent process is dead.
    """

    def __init__(self, board: Board, tell: Callable[[], None], silence: float = SILENCE) -> None:
        super().__init__(daemon=True, name="watch")
        self.board, self.tell, self.silence = board, tell, silence

    def run(self) -> None:
        # the first one watches all, and they it
        others = range(1, self.board.world) if self.board.rank == 0 else range(1)
        seen: dict[int, tuple[int, float]] = {}
        self.board.live()
        while not self.board.over.wait(LOOK):
            self.board.live()
            if self.board.failure() is None:
                now, lives = time.monotonic(), self.board.lives(others)
                for rank in others:
                    count, since = seen.get(rank, (-1, now))
                    told = lives.get(rank, count)
                    seen[rank] = (told, now if told != count else since)
                dead = [rank for rank, (_, since) in seen.items() if now - since > self.silence]
                if not dead:
                    continue
                what = f"no sign of life for {self.silence:.0f} s"
                self.board.ended(End.of(gone(dead, self.board.world, what), self.board.rank))
            failure = self.board.failure()
            own_fault = failure and failure.code != STOPPED and not FAILED.match(failure.message)
            if not self.board.over.wait(ALIKE if own_fault else 0.0):
                self.tell()
            return


def board_of(store: Any, prefix: str, rank: int, world: int) -> Board:
    """Return the board of a run, by a connection of its own to torch's store; the prefix is that of its keys."""
    import torch

    distributed: Any = torch.distributed
    own = store.clone()
    own.set_timeout(timedelta(seconds=GRACE))
    return Board(distributed.PrefixStore(prefix, own), rank, world, _outlives())


def from_outside(rank: int, world: int) -> Board | None:
    """Return the board as one sees it who is no process of the run; None where it is gone."""
    import torch

    distributed: Any = torch.distributed
    try:
        store = distributed.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=GRACE),
            wait_for_workers=False,
        )
    except (RuntimeError, ValueError, KeyError):
        return None
    return Board(distributed.PrefixStore(prefix(0), store), rank, world, _outlives())


def prefix(run: int) -> str:
    """Return what the keys of a run begin with: `torchrun` starts processes anew, and they may share several runs."""
    return f"vaeprobe {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} {run}"


def _outlives() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _end(written: bytes) -> End:
    return End(**json.loads(written))
