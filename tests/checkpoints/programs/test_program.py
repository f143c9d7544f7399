"""Programs of operators, whatever wrote them: how they run."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from vaeprobe.checkpoints.programs.program import Program, Step, Value


def test_values_are_let_go_after_their_last_use() -> None:
    made: dict[str, weakref.ref[Tensor]] = {}
    alive: list[list[str]] = []

    def then(name: str) -> Callable[..., Tensor]:
        def step(*args: object, **named: object) -> Tensor:
            alive.append([k for k, ref in made.items() if ref() is not None])
            values = [a for a in (*args, *named.values()) if isinstance(a, Tensor)]
            out = (
                torch.stack([v for a in args if isinstance(a, dict) for v in a.values()] + values).sum(0) + 1
            )
            made[name] = weakref.ref(out)
            return out

        return step

    steps = [
        Step("a", then("a"), (Value("z"),), outputs=("a",)),
        Step("b", then("b"), (Value("a"),), outputs=("b",)),
        Step("c", then("c"), (Value("b"),), outputs=("c",)),
        Step("d", then("d"), ({"of": Value("a")},), {"and": Value("c")}, outputs=("d",)),
        Step("e", then("e"), (Value("d"),), outputs=("e",)),
    ]
    program = Program({}, steps, "z", [Value("e"), Value("b")], (2,))
    with torch.no_grad():
        e, b = program(torch.zeros(1, 2))
    assert alive == [[], ["a"], ["a", "b"], ["a", "b", "c"], ["b", "d"]]
    assert torch.equal(e, torch.full((1, 2), 6.0))
    assert torch.equal(b, torch.full((1, 2), 2.0))
