"""ONNX LSTM, GRU and RNN, unrolled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.checkpoints.programs.onnx.table import (
    Node,
    ints,
    operator,
)
from vaeprobe.errors import InputError, ResourceError

State: TypeAlias = tuple[Tensor, ...]  # what one step hands to the next, the hidden state first


class Parts(NamedTuple):
    """The parts of a recurrent node: x (time, batch, in), per direction W, R, input and state bias, and the state's size."""

    x: Tensor
    w: Tensor
    r: Tensor
    wb: Tensor
    rb: Tensor
    hidden: int


def _recurrent(node: Node, gates: int, inputs: Sequence[Tensor | None]) -> Parts:
    """Return the parts of a recurrent node, checked."""
    if node.get("layout", 0) or "clip" in node.attributes:
        raise node.unsupported("batch first or with clipping")
    x, w, r, b = (*inputs, None)[:4]
    if x is None or w is None or r is None:
        raise InputError(f"an ONNX `{node.operator}` lacks its weights")
    if len(inputs) > 4 and inputs[4] is not None and any(n != x.shape[0] for n in ints(inputs[4])):
        raise node.unsupported("with sequences of different length")
    if x.shape[0] > 10_000:
        raise ResourceError(f"the program unrolls {x.shape[0]:,} steps of a recurrent network")
    hidden = r.shape[-1]
    zero = torch.zeros(w.shape[0], 2 * gates * hidden, dtype=w.dtype, device=w.device)
    biases = b if b is not None else zero
    return Parts(x, w, r, biases[:, : gates * hidden], biases[:, gates * hidden :], hidden)


def _unrolled(
    node: Node,
    x: Tensor,
    directions: int,
    step: Callable[[int, Tensor, State], State],
    start: Callable[[int], State],
) -> tuple[Tensor, list[State]]:
    """Run the steps of each direction; returns (time, direction, batch, hidden) and the last states."""
    order = node.get("direction", "forward")
    outs, last = [], []
    for k in range(directions):
        backwards = order == "reverse" or k == 1
        times = range(x.shape[0] - 1, -1, -1) if backwards else range(x.shape[0])
        state, hidden = start(k), []
        for t in times:
            state = step(k, x[t], state)
            hidden.append(state[0])
        outs.append(torch.stack(hidden[::-1] if backwards else hidden))
        last.append(state)
    return torch.stack(outs, 1), last


def _initial(given: Tensor | None, x: Tensor, hidden: int, k: int) -> Tensor:
    if given is not None:
        return given[k]
    # taken from x, so that every state has the rows of the batch
    return x[0].sum(-1, keepdim=True).mul(0.0).expand(x.shape[1], hidden)


def _default_activations(node: Node, names: Sequence[str]) -> None:
    given = [name.lower() for name in node.texts("activations")]
    if any(g not in (n.lower(),) for g, n in zip(given, [*names] * 2, strict=False)):
        raise node.unsupported(f"with the activations {', '.join(given)}")


@operator("LSTM")
def _lstm(node: Node, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    _default_activations(node, ("Sigmoid", "Tanh", "Tanh"))
    if len(inputs) > 7 and inputs[7] is not None:
        raise node.unsupported("with peepholes")
    x, w, r, wb, rb, hidden = _recurrent(node, 4, inputs)
    h0, c0 = (*inputs, None, None, None, None)[5:7]

    def step(k: int, xt: Tensor, state: State) -> State:
        h, c = state[0], state[1]
        i, o, f, g = (F.linear(xt, w[k], wb[k]) + F.linear(h, r[k], rb[k])).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    y, last = _unrolled(
        node, x, w.shape[0], step, lambda k: (_initial(h0, x, hidden, k), _initial(c0, x, hidden, k))
    )
    return y, torch.stack([s[0] for s in last]), torch.stack([s[1] for s in last])


@operator("GRU")
def _gru(node: Node, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    _default_activations(node, ("Sigmoid", "Tanh"))
    x, w, r, wb, rb, hidden = _recurrent(node, 3, inputs)
    h0 = (*inputs, None, None, None)[5]

    def step(k: int, xt: Tensor, state: State) -> State:
        h = state[0]
        wz, wr, wh = F.linear(xt, w[k], wb[k]).chunk(3, -1)
        rz, rr, rh = F.linear(h, r[k], rb[k]).chunk(3, -1)
        z, reset = torch.sigmoid(wz + rz), torch.sigmoid(wr + rr)
        if node.get("linear_before_reset", 0):
            new = torch.tanh(wh + reset * rh)
        else:
            last, bias = r[k].chunk(3, 0)[2], rb[k].chunk(3)[2]
            new = torch.tanh(wh + F.linear(reset * h, last, bias))
        return ((1 - z) * new + z * h,)

    y, last = _unrolled(node, x, w.shape[0], step, lambda k: (_initial(h0, x, hidden, k),))
    return y, torch.stack([s[0] for s in last])


@operator("RNN")
def _rnn(node: Node, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    x, w, r, wb, rb, hidden = _recurrent(node, 1, inputs)
    h0 = (*inputs, None, None, None)[5]
    name = next(iter(node.texts("activations")), "Tanh").lower()
    known: Mapping[str, Callable[[Tensor], Tensor]] = {
        "tanh": torch.tanh,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
    }
    if name not in known:
        raise node.unsupported(f"with the activation {name}")

    def step(k: int, xt: Tensor, state: State) -> State:
        return (known[name](F.linear(xt, w[k], wb[k]) + F.linear(state[0], r[k], rb[k])),)

    y, last = _unrolled(node, x, w.shape[0], step, lambda k: (_initial(h0, x, hidden, k),))
    return y, torch.stack([s[0] for s in last])
