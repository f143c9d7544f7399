"""Operators whose shapes torch does not check all: given others than it takes for granted, it reads and writes beyond its memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaeprobe.contract import FIXED_BATCH
from vaeprobe.errors import InputError

__all__ = ["with_shapes"]

RECURRENT = {"lstm": 4, "gru": 3}
"""Gates of each."""


def _of_weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Return v g / |v| and |v|, by operations that check shapes: torch's own kernel reads and writes beyond its memory."""
    norms = torch.norm_except_dim(v, 2, dim)
    return v * (g / norms), norms


def _weight_normed(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return _of_weight_norm(v, g, dim)[0]


_weight_normed._schema = torch.ops.aten._weight_norm.default._schema  # type: ignore[attr-defined]
_of_weight_norm._schema = torch.ops.aten._weight_norm_interface.default._schema  # type: ignore[attr-defined]
WEIGHT_NORMS: dict[str, Callable[..., object]] = {
    "_weight_norm": _weight_normed,
    "_weight_norm_interface": _of_weight_norm,
}


def with_shapes(name: str, function: Callable[..., object]) -> Callable[..., object]:
    """Return an operator of torch that checks the shapes of what it is given, with torch's schema; itself where torch does."""
    if name in WEIGHT_NORMS:
        return WEIGHT_NORMS[name]
    if name not in RECURRENT:
        return function
    names = ("hx", "params", "has_biases", "num_layers", "dropout", "train", "bidirectional", "batch_first")

    def run(x: Tensor, *args: object, **named: object) -> object:
        rest, sizes = list(args), named.get("batch_sizes")
        if sizes is None and rest and isinstance(rest[0], Tensor) and not rest[0].is_floating_point():
            sizes = rest.pop(0)
        given = {**dict(zip(names, rest, strict=False)), **named}
        _check_recurrence(name, x, sizes, given)
        return function(x, *args, **named)

    run._schema = getattr(function, "_schema", None)  # type: ignore[attr-defined]
    return run


def _check_recurrence(name: str, x: Tensor, sizes: object, given: dict[str, object]) -> None:
    def fail(what: str, hint: str | None = None) -> InputError:
        return InputError(f"the program gives {name} {what}", hint=hint)

    hx, weights, layers = given.get("hx"), given.get("params"), given.get("num_layers")
    states = [t for t in (hx if isinstance(hx, (list, tuple)) else [hx]) if isinstance(t, Tensor)]
    params = [t for t in weights if isinstance(t, Tensor)] if isinstance(weights, (list, tuple)) else []
    ways = 2 if given.get("bidirectional") else 1
    if (
        not isinstance(layers, int)
        or len(states) != (2 if name == "lstm" else 1)
        or any(t.ndim != 3 for t in states)
        or x.ndim != (3 if sizes is None else 2)
    ):
        raise fail("arguments that it does not take")
    if sizes is None:
        batch = x.shape[0 if given.get("batch_first") else 1]
    else:
        rows = sizes.tolist() if isinstance(sizes, Tensor) and sizes.ndim == 1 else []
        if not rows or rows[-1] < 1 or sorted(rows, reverse=True) != rows or sum(rows) != len(x):
            raise fail("sequences whose lengths do not add up")
        batch = rows[0]
    for state in states:
        if state.shape[1] != batch:
            raise fail(f"a state for {state.shape[1]} latents beside an input for {batch}", FIXED_BATCH)
        if state.shape[0] != layers * ways:
            raise fail(f"{state.shape[0]} states for {layers * ways} layers")
    out, hidden = states[0].shape[2], states[-1].shape[2]
    gates, wide = RECURRENT[name] * hidden, x.shape[-1]
    wanted: list[tuple[int, ...]] = []
    for layer in range(layers):
        for _ in range(ways):
            wanted += [(gates, out * ways if layer else wide), (gates, out)]
            wanted += [(gates,)] * (2 if given.get("has_biases") else 0) + [(out, hidden)] * (out != hidden)
    if [tuple(t.shape) for t in params] != wanted:
        raise fail("weights of other shapes than its states and its input ask for")
