"""Blocks that an interrupt meets while they are entered, as in a notebook, leave what they switch as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from importlib import import_module
from types import FrameType, ModuleType
from typing import Any

import pytest
import torch

from vaeprobe import autograd, budget, foreign, progress, scoped, writing
from vaeprobe.engine import columns, dense, remembered
from vaeprobe.geometry import threads
from vaeprobe.probes import parts, with_encoder

BLOCKS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "one_thread_below": lambda: threads.one_thread_below(1),
    "uncompiled": foreign.uncompiled,
    "differentiable_kernels": autograd.differentiable_kernels,
    "rules_left_out": autograd._rules_left_out,
    "without_compiler": autograd.without_compiler,
    "within": lambda: budget.within(30),
    "unhurried": budget.unhurried,
    "optional": budget.optional,
    "in_blocks": lambda: columns.in_blocks(3),
    "one_pass": dense.one_pass,
    "remembered": remembered.remembered,
    "listening": lambda: progress.listening(print),
    "as_asked": parts.as_asked,
    "shortened": lambda: parts.shortened(True),
    "rows_as_drawn": with_encoder.rows_as_drawn,
    "withheld": writing.withheld,
}
FILES = {
    module.__file__
    for module in (
        autograd, budget, columns, dense, foreign, parts, progress, remembered, scoped, threads,
        with_encoder, writing,
    )
}  # fmt: skip
PACKAGE, _, RULES = autograd.RULES.rpartition(".")


class Switches:
    """What the blocks switch; torch's compiler is one that counts who keeps it off."""

    def __init__(self) -> None:
        self.off = 0

    @contextmanager
    def stance(self, stance: str) -> Iterator[None]:
        self.off += 1
        try:
            yield
        finally:
            self.off -= 1

    def state(self) -> dict[str, object]:
        return {
            "threads": torch.get_num_threads(),
            "fast path": torch.backends.mha.get_fastpath_enabled(),
            "kernels": torch.backends.cuda.flash_sdp_enabled(),
            "compiler off": self.off,
            "compiler": sys.modules.get("torch._dynamo"),
            "rules": hasattr(import_module(PACKAGE), RULES),
            "variables": {variable.name: value for variable, value in copy_context().items()},
        }


@pytest.fixture
def switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Switches]:
    made, compiler = Switches(), ModuleType("compiler")
    vars(compiler)["set_stance"] = made.stance
    monkeypatch.setitem(sys.modules, "compiler", compiler)
    monkeypatch.setattr(foreign, "COMPILER", "compiler")
    monkeypatch.setattr(torch.compiler, "set_stance", made.stance)
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    monkeypatch.delattr(f"{PACKAGE}.{RULES}", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with budget.within(60):  # another time than without an end
        yield made
    torch.set_num_threads(before)


def interrupted(block: AbstractContextManager[object], line: int) -> bool:
    """Enter a block, interrupted at its so-many-th line; return whether it was: it has fewer until it is entered."""

    seen: set[tuple[FrameType, int]] = set()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal line
        if frame.f_code.co_filename not in FILES:
            return None
        # a line that comes again is the end of a `with`, before which Python looks for no signal
        if event == "line" and (frame, frame.f_lineno) not in seen:
            seen.add((frame, frame.f_lineno))
            line -= 1
        if not line:
            sys.settrace(before)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with block:
            sys.settrace(before)
            return False
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("name", BLOCKS)
def test_an_interrupt_on_the_way_into_a_block_leaves_all_as_it_was(name: str, switches: Switches) -> None:
    with BLOCKS[name]():
        pass
    before, line = switches.state(), 1
    with BLOCKS[name]():
        assert switches.state() != before
    while interrupted(BLOCKS[name](), line):
        assert switches.state() == before, line
        line += 1
    assert line > 2
