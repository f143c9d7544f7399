"""Blocks of tangents on several threads: the same numbers, and nothing left behind."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vaeprobe.engine.columns import Columns, in_blocks
from vaeprobe.engine.tangents import push
from vaeprobe.engine.workers import on_workers


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    before, alive = torch.get_num_threads(), threading.active_count()
    yield
    torch.set_num_threads(before)
    assert threading.active_count() <= alive


class Skips(nn.Module):
    """Convolutions both ways, a normalisation, doubled pixels, and maps that are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8 * 6)
        self.up = nn.ConvTranspose2d(8, 8, 4, 2, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.flat = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        h = torch.relu(self.up(torch.tanh(self.first(z)).unflatten(1, (8, 2, 3))))
        h = h + torch.relu(self.flat(torch.nn.functional.silu(self.norm(h))))
        return torch.sigmoid(self.last(h)).flatten(1)


def tangents(rows: int, dtype: torch.dtype) -> tuple[Tensor, Columns]:
    torch.manual_seed(0)
    network = Skips().eval().to(dtype)
    z = torch.randn(17, 5, dtype=dtype)
    basis = torch.eye(5, dtype=dtype)[:, None].expand(5, 17, 5)
    with in_blocks(rows):
        return push(network, z, basis)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 3, 12, 40])
def test_numbers_do_not_depend_on_the_number_of_threads(rows: int, dtype: torch.dtype) -> None:
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for threads in (1, 2, 3):
        torch.set_num_threads(1)
        pairs = [tangents(rows, dtype) for _ in range(2)]
        torch.set_num_threads(threads)
        with in_blocks(rows):
            found[threads] = pairs[0][1].gram(), pairs[1][1].value()
        assert torch.get_num_threads() == threads
    for threads in (2, 3):
        for mine, alone in zip(found[threads], found[1], strict=True):
            assert torch.equal(mine, alone)
    whole = tangents(1 << 30, dtype)[1].value()
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(found[2][1], whole, rtol=tolerance, atol=tolerance)


def test_what_is_made_comes_in_order_and_each_thread_computes_alone() -> None:
    torch.set_num_threads(2)
    together = threading.Barrier(2, timeout=30)  # both threads are at work at the same time

    def work(piece: int) -> tuple[int, int, bool, str]:
        if piece < 2:
            together.wait()
        return piece, torch.get_num_threads(), torch.is_grad_enabled(), threading.current_thread().name

    found = on_workers(work, range(7))
    assert [one[0] for one in found] == list(range(7))
    assert {one[1:3] for one in found} == {(1, False)}
    assert len({one[3] for one in found}) == 2


def test_few_pieces_share_the_threads_and_one_thread_starts_none() -> None:
    torch.set_num_threads(4)
    assert on_workers(lambda _: torch.get_num_threads(), range(2)) == [2, 2]
    for threads, pieces in ((1, 5), (4, 1)):
        torch.set_num_threads(threads)
        names = on_workers(lambda _: threading.current_thread().name, range(pieces))
        assert set(names) == {threading.current_thread().name}


def test_the_first_error_is_raised_and_no_piece_is_begun_after_it() -> None:
    torch.set_num_threads(2)
    begun: list[int] = []
    over = threading.Event()

    def work(piece: int) -> None:
        begun.append(piece)
        if piece == 0:
            raise MemoryError("too much")
        over.wait(0.2)

    with pytest.raises(MemoryError, match="too much"):
        on_workers(work, range(1000))
    assert len(begun) < 20


def test_an_interrupt_ends_the_work() -> None:
    torch.set_num_threads(2)
    begun: list[int] = []
    over = threading.Event()

    def work(piece: int) -> None:
        begun.append(piece)
        if piece == 3:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        over.wait(0.1)

    gc.collect()  # an interrupt inside of what is called as garbage goes is lost
    # what shells start in the background ignores interrupts
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            on_workers(work, range(1000))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(begun) < 40


def test_an_interrupt_of_the_thread_that_waits_lets_the_others_end_first() -> None:
    torch.set_num_threads(2)
    ended, both = threading.Event(), threading.Barrier(2, timeout=30)

    def work(piece: int) -> None:
        both.wait()
        if threading.current_thread() is threading.main_thread():
            return
        time.sleep(0.1)  # the main thread has nothing left to do
        for _ in range(2):  # the second one finds it waiting again
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.1)
        ended.set()

    gc.collect()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            on_workers(work, range(2))
        assert ended.is_set()
        assert torch.get_num_threads() == 2
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("granted", [0, 1])
def test_fewer_threads_work_where_the_system_has_no_more(
    granted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(4)
    start, left = threading.Thread.start, list(range(granted))

    def limited(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    assert on_workers(lambda piece: piece**2, range(7)) == [piece**2 for piece in range(7)]
    assert torch.get_num_threads() == 4


def test_a_thread_that_begins_after_all_has_ended_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does whose start was interrupted."""
    torch.set_num_threads(2)
    late: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        late.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    begun: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        on_workers(begun.append, range(3))
    late[0].run()
    assert not begun
    assert torch.get_num_threads() == 2


def test_a_mode_sees_all_pieces_whatever_the_number_of_threads() -> None:
    columns = tangents(12, torch.float64)[1]
    counted = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        with in_blocks(12), FlopCounterMode(display=False) as counter:
            G = columns.gram()
        counted.append((counter.get_total_flops(), G.sum()))
    assert counted[0] == counted[1]
    assert counted[0][0] > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_that_was_caught_leaves_nothing_in_memory(threads: int) -> None:
    torch.set_num_threads(threads)
    made: list[weakref.ref[Tensor]] = []

    def work(piece: int) -> Tensor:
        t = torch.zeros(9)
        made.append(weakref.ref(t))
        if piece >= 3:
            raise MemoryError
        return t

    gc.collect()
    gc.disable()  # which would run too late for whoever tries again with less
    try:
        with suppress(MemoryError):
            on_workers(work, range(9))
        assert len(made) >= 4
        assert not any(t() is not None for t in made)
    finally:
        gc.enable()


def test_an_interrupt_while_others_are_waited_for_leaves_no_thread_behind_and_all_of_them_to_torch() -> None:
    torch.set_num_threads(2)
    ended = []

    def work(piece: int) -> None:
        if threading.current_thread() is threading.main_thread():
            time.sleep(0.05)  # the other has one meanwhile
            return
        for _ in range(3):
            time.sleep(0.1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        ended.append(piece)

    def until_the_other_has_one() -> None:
        while True:
            on_workers(work, range(2))

    gc.collect()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            until_the_other_has_one()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(ended) == 1
    assert torch.get_num_threads() == 2
