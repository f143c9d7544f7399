"""Threads give way to other programs, and come back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vaeprobe import processors
from vaeprobe.processors import Reading, Share, allowed, free

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell")


@pytest.fixture(autouse=True)
def as_many_threads_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(processors, "_share", None)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("busy", "own", "count", "expected"),
    [
        (10.0, 10.0, 4, 4),  # nobody else
        (14.9, 10.0, 4, 4),  # less than half a processor
        (15.1, 10.0, 4, 3),
        (40.0, 3.0, 4, 1),  # all of them
        (9.0, 10.0, 4, 4),  # counts of a hundredth may say less than was used
        (20.0, 10.0, 2, 1),
    ],
)
def test_processors_of_others_are_not_free(busy: float, own: float, count: int, expected: int) -> None:
    assert free(Reading(5.0, 100.0, 1.0), Reading(15.0, 100.0 + busy, 1.0 + own), count) == expected


def test_what_the_system_tells_holds_what_is_used_here() -> None:
    before = processors.read()
    start = time.process_time()
    while time.process_time() - start < 0.1:
        pass
    after = processors.read()
    assert before is not None
    assert after is not None
    assert after.own - before.own >= 0.1
    assert after.busy - before.busy >= 0.05
    assert after.wall > before.wall


@pytest.mark.parametrize(
    ("granted", "expected"), [("max 100000\n", 3), ("200000 100000\n", 2), ("50000 100000\n", 1), (None, 3)]
)
def test_containers_grant_processors(
    granted: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    quota = tmp_path / "cpu.max"
    if granted is not None:
        quota.write_text(granted)
    assert allowed(quota) == expected


def test_threads_give_way_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    now = time.monotonic()
    share = Share(Reading(now - 10, 0.0, 0.0))
    for busy, own, threads in [(30.0, 3.0, 1), (40.0, 13.0, 3), (51.0, 13.0, 2)]:
        reading = Reading(share._before.wall + 10, busy, own)
        monkeypatch.setattr(processors, "read", lambda reading=reading: reading)
        monkeypatch.setattr(time, "monotonic", lambda reading=reading: reading.wall)
        share.adapt()
        assert torch.get_num_threads() == threads


def test_a_moment_is_too_short_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(3)
    share = Share(Reading(time.monotonic(), 0.0, 0.0))
    monkeypatch.setattr(processors, "read", lambda: pytest.fail("looked"))
    share.adapt()
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", None])
def test_what_the_user_says_holds(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in processors.SET_BY_USER:
        monkeypatch.delenv(known, raising=False)
    if name is not None:
        monkeypatch.setenv(name, "2")
    processors.consider()
    assert (processors._share is None) == (name is not None)


def test_a_library_call_leaves_threads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Share, "adapt", lambda self: pytest.fail("adapted"))
    processors.adapt()
