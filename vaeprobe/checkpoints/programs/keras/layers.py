"""Keras layers without space or time: activations, dense layers, shapes, norms, merging."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe import cpu
from vaeprobe.checkpoints.programs.keras.table import (
    LAYERS,
    Function,
    KerasLayer,
    activation_of,
    charge,
    layer_kind,
)

# -- activations ------------------------------------------------------------------------------------


@layer_kind("Activation")
def _activation(layer: KerasLayer) -> Function:
    return activation_of(layer.config.get("activation"), layer.version)[1]


@layer_kind("LeakyReLU")
def _leaky_relu(layer: KerasLayer) -> Function:
    name = "negative_slope" if "negative_slope" in layer.config.table else "alpha"
    return partial(F.leaky_relu, negative_slope=layer.config.number(name, 0.3))


@layer_kind("ReLU")
def _relu(layer: KerasLayer) -> Function:
    most = layer.config.number("max_value", math.inf)
    slope, threshold = layer.config.number("negative_slope", 0.0), layer.config.number("threshold", 0.0)

    def run(x: Tensor) -> Tensor:
        y = torch.where(x >= threshold, x, slope * (x - threshold))
        return y if most == math.inf else torch.clamp(y, max=most)

    return torch.relu if most == math.inf and not slope and not threshold else run


@layer_kind("ELU")
def _elu(layer: KerasLayer) -> Function:
    return partial(F.elu, alpha=layer.config.number("alpha", 1.0))


@layer_kind("PReLU")
def _prelu(layer: KerasLayer) -> Function:
    return lambda x, alpha: torch.where(x >= 0, x, alpha * x)


@layer_kind("Softmax")
def _softmax(layer: KerasLayer) -> Function:
    axis = layer.config.whole("axis", -1)
    return lambda x: torch.softmax(x, axis)


# -- dense layers and shapes ------------------------------------------------------------------------


@layer_kind("Dense")
def _dense(layer: KerasLayer) -> Function:
    return lambda x, kernel, bias=None: F.linear(x, kernel.t(), bias)


@layer_kind("Flatten")
def _flatten(layer: KerasLayer) -> Function:
    if not layer.channels_last:
        raise layer.unsupported("channels first")
    return lambda x: x.reshape(x.shape[0], -1)


@layer_kind("Reshape")
def _reshape(layer: KerasLayer) -> Function:
    shape = layer.config.wholes("target_shape")
    return lambda x: x.reshape(x.shape[0], *shape)


@layer_kind("Permute")
def _permute(layer: KerasLayer) -> Function:
    order = layer.config.wholes("dims")
    return lambda x: x.permute(0, *order)


@layer_kind("RepeatVector")
def _repeat_vector(layer: KerasLayer) -> Function:
    n = layer.config.whole("n")

    def run(x: Tensor) -> Tensor:
        charge((x.shape[0], n, x.shape[1]))
        return x.unsqueeze(1).expand(-1, n, -1)

    return run


@layer_kind("Embedding")
def _embedding(layer: KerasLayer) -> Function:
    return lambda x, table: F.embedding(x.to(torch.int64), table)


@layer_kind("Rescaling")
def _rescaling(layer: KerasLayer) -> Function:
    scale, offset = (
        cpu.tensor(layer.config.table.get(k, v), dtype=torch.float64)
        for k, v in (("scale", 1.0), ("offset", 0.0))
    )
    return lambda x: x * scale.to(x.dtype) + offset.to(x.dtype)


# -- norms ------------------------------------------------------------------------------------------


def _axes(layer: KerasLayer, ndim: int) -> list[int]:
    return sorted(a % ndim for a in layer.config.wholes("axis", -1))


def _scaled(
    layer: KerasLayer, weights: Sequence[Tensor]
) -> tuple[Tensor | None, Tensor | None, list[Tensor]]:
    """Return gamma and beta, where the layer has them, and the other weights."""
    rest = list(weights)
    gamma = rest.pop(0) if layer.config.flag("scale", True) else None
    beta = rest.pop(0) if layer.config.flag("center", True) else None
    return gamma, beta, rest


@layer_kind("BatchNormalization")
def _batch_norm(layer: KerasLayer) -> Function:
    eps = layer.config.number("epsilon", 1e-3)

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        gamma, beta, (mean, variance) = _scaled(layer, weights)
        (axis,) = _axes(layer, x.ndim)
        return F.batch_norm(x.movedim(axis, 1), mean, variance, gamma, beta, False, 0.0, eps).movedim(1, axis)

    return run


@layer_kind("LayerNormalization")
def _layer_norm(layer: KerasLayer) -> Function:
    eps = layer.config.number("epsilon", 1e-3)

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        axes = _axes(layer, x.ndim)
        if axes != list(range(x.ndim - len(axes), x.ndim)) or layer.config.flag("rms_scaling"):
            raise layer.unsupported("over axes that are not the last")
        gamma, beta, _ = _scaled(layer, weights)
        return F.layer_norm(x, list(x.shape[axes[0] :]), gamma, beta, eps)

    return run


@layer_kind("GroupNormalization")
def _group_norm(layer: KerasLayer) -> Function:
    groups, eps = layer.config.whole("groups", 32), layer.config.number("epsilon", 1e-3)

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        gamma, beta, _ = _scaled(layer, weights)
        (axis,) = _axes(layer, x.ndim)
        n = x.shape[axis] if groups == -1 else groups
        return F.group_norm(x.movedim(axis, 1), n, gamma, beta, eps).movedim(1, axis)

    return run


@layer_kind("UnitNormalization")
def _unit_norm(layer: KerasLayer) -> Function:
    return lambda x: x * torch.rsqrt((x * x).sum(_axes(layer, x.ndim), keepdim=True).clamp_min(1e-12))


# -- merging ----------------------------------------------------------------------------------------


def _merged(f: Callable[[Tensor, Tensor], Tensor], *, mean: bool = False) -> Callable[[KerasLayer], Function]:
    def row(layer: KerasLayer) -> Function:
        def run(*xs: Tensor) -> Tensor:
            out = xs[0]
            for x in xs[1:]:
                out = f(out, x)
            return out / len(xs) if mean else out

        return run

    return row


LAYERS.update(
    Add=_merged(torch.add), Subtract=_merged(torch.sub), Multiply=_merged(torch.mul), Average=_merged(torch.add, mean=True),
    Maximum=_merged(torch.maximum), Minimum=_merged(torch.minimum),
)  # fmt: skip


@layer_kind("Concatenate")
def _concatenate(layer: KerasLayer) -> Function:
    axis = layer.config.whole("axis", -1)
    return lambda *xs: torch.cat(xs, axis)
