"""Keras LSTM, GRU and simple RNN, unrolled, and the layers that wrap others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.checkpoints.programs.keras.settings import Settings
from vaeprobe.checkpoints.programs.keras.table import (
    ACTIVATIONS,
    LAYERS,
    Function,
    KerasLayer,
    activation_of,
    layer_kind,
)
from vaeprobe.files.source import quoted


def _recurrent(
    layer: KerasLayer, gates: int, step: Callable[..., tuple[Tensor, ...]], states: int
) -> Function:
    if layer.config.flag("return_state") or layer.config.flag("stateful"):
        raise layer.unsupported("with its states returned or kept")
    units, backwards = layer.config.whole("units"), layer.config.flag("go_backwards")
    sequences = layer.config.flag("return_sequences")

    def run(x: Tensor, kernel: Tensor, recurrent: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.shape[1] > 10_000 or kernel.shape[-1] != gates * units:
            raise layer.unsupported(f"on {x.shape[1]:,} steps")
        zero = x[:, 0].sum(-1, keepdim=True).mul(0.0).expand(-1, units)
        state: tuple[Tensor, ...] = (zero,) * states
        out = []
        for t in reversed(range(x.shape[1])) if backwards else range(x.shape[1]):
            state = step(x[:, t], state, kernel, recurrent, bias)
            out.append(state[0])
        return torch.stack(out, 1) if sequences else out[-1]

    return run


def _gate_activations(layer: KerasLayer) -> tuple[Function, Function]:
    act, gate = (
        activation_of(layer.config.table.get(name, default), layer.version)[1]
        for name, default in (("activation", "tanh"), ("recurrent_activation", "sigmoid"))
    )
    return act, gate


@layer_kind("LSTM")
def _lstm(layer: KerasLayer) -> Function:
    act, gate = _gate_activations(layer)

    def step(
        x: Tensor, state: tuple[Tensor, ...], kernel: Tensor, recurrent: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        h, c = state
        i, f, g, o = (F.linear(x, kernel.t(), bias) + F.linear(h, recurrent.t())).chunk(4, -1)
        c = gate(f) * c + gate(i) * act(g)
        return gate(o) * act(c), c

    return _recurrent(layer, 4, step, 2)


@layer_kind("GRU")
def _gru(layer: KerasLayer) -> Function:
    act, gate = _gate_activations(layer)
    after = layer.config.flag("reset_after", layer.version >= 2)

    def step(
        x: Tensor, state: tuple[Tensor, ...], kernel: Tensor, recurrent: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        (h,) = state
        mine, theirs = (
            (None, None) if bias is None else (bias[0], bias[1]) if bias.ndim == 2 else (bias, None)
        )
        xz, xr, xh = F.linear(x, kernel.t(), mine).chunk(3, -1)
        if after:
            hz, hr, hh = F.linear(h, recurrent.t(), theirs).chunk(3, -1)
            z, r = gate(xz + hz), gate(xr + hr)
            new = act(xh + r * hh)
        else:
            wz, wr, wh = recurrent.chunk(3, -1)
            z, r = gate(xz + h @ wz), gate(xr + h @ wr)
            new = act(xh + (r * h) @ wh)
        return (z * h + (1 - z) * new,)

    return _recurrent(layer, 3, step, 1)


@layer_kind("SimpleRNN")
def _simple_rnn(layer: KerasLayer) -> Function:
    act = activation_of(layer.config.table.get("activation", "tanh"), layer.version)[1]

    def step(
        x: Tensor, state: tuple[Tensor, ...], kernel: Tensor, recurrent: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        return (act(F.linear(x, kernel.t(), bias) + F.linear(state[0], recurrent.t())),)

    return _recurrent(layer, 1, step, 1)


def _wrapped(layer: KerasLayer) -> KerasLayer:
    match layer.config.get("layer"):
        case {"class_name": str(kind), "config": dict(inner)} if kind in LAYERS:
            settings = Settings(inner, f"the Keras layer {quoted(str(inner.get('name', kind)))}")
            return KerasLayer(kind, settings, layer.version, layer.count)
    raise layer.unsupported("around a layer that is not known")


@layer_kind("Bidirectional")
def _bidirectional(layer: KerasLayer) -> Function:
    inner = _wrapped(layer)
    merge = layer.config.text("merge_mode", "concat")
    forward = LAYERS[inner.kind](inner)
    back = replace(inner.config, table={**inner.config.table, "go_backwards": True})
    backward = LAYERS[inner.kind](KerasLayer(inner.kind, back, inner.version))
    sequences = inner.config.flag("return_sequences")
    merges: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
        "concat": lambda a, b: torch.cat([a, b], -1),
        "sum": torch.add,
        "mul": torch.mul,
        "ave": lambda a, b: (a + b) / 2,
    }
    if merge not in merges:
        raise layer.unsupported(f"with merge_mode {merge}")

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        half = len(weights) // 2
        a, b = forward(x, *weights[:half]), backward(x, *weights[half:])
        return merges[merge](a, b.flip(1) if sequences else b)

    return run


@layer_kind("TimeDistributed")
def _time_distributed(layer: KerasLayer) -> Function:
    inner = _wrapped(layer)
    function = LAYERS[inner.kind](inner)
    _, act = (
        activation_of(inner.config.get("activation"), layer.version)
        if inner.kind != "Activation"
        else ("", ACTIVATIONS["linear"])
    )

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        y = act(function(x.reshape(-1, *x.shape[2:]), *weights))
        return y.reshape(*x.shape[:2], *y.shape[1:])

    return run
