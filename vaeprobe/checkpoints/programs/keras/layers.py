"""Keras layers without space or time: activations, dense layers, shapes, norms, merging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.checkpoints.programs.keras.table import (
    LAYERS,
    Function,
    Layer,
    activation_of,
    charge,
    layer_kind,
    number,
)

# -- activations ------------------------------------------------------------------------------------


@layer_kind("Activation")
def _activation(layer: Layer) -> Function:
    return activation_of(layer.config.get("activation"), layer.version)[1]


@layer_kind("LeakyReLU")
def _leaky_relu(layer: Layer) -> Function:
    slope = layer.config.get("negative_slope", layer.config.get("alpha"))
    return partial(F.leaky_relu, negative_slope=number(slope, 0.3))


@layer_kind("ReLU")
def _relu(layer: Layer) -> Function:
    most = layer.config.get("max_value")
    slope, threshold = (
        number(layer.config.get("negative_slope"), 0.0),
        number(layer.config.get("threshold"), 0.0),
    )

    def run(x: Tensor) -> Tensor:
        y = torch.where(x >= threshold, x, slope * (x - threshold))
        return y if most is None else torch.clamp(y, max=number(most, 0.0))

    return torch.relu if most is None and not slope and not threshold else run


@layer_kind("ELU")
def _elu(layer: Layer) -> Function:
    return partial(F.elu, alpha=number(layer.config.get("alpha"), 1.0))


@layer_kind("PReLU")
def _prelu(layer: Layer) -> Function:
    return lambda x, alpha: torch.where(x >= 0, x, alpha * x)


@layer_kind("Softmax")
def _softmax(layer: Layer) -> Function:
    axis = layer.config.get("axis", -1)
    return lambda x: torch.softmax(x, axis)


# -- dense layers and shapes ------------------------------------------------------------------------


@layer_kind("Dense")
def _dense(layer: Layer) -> Function:
    return lambda x, kernel, bias=None: F.linear(x, kernel.t(), bias)


@layer_kind("Flatten")
def _flatten(layer: Layer) -> Function:
    if not layer.channels_last:
        raise layer.unsupported("channels first")
    return lambda x: x.reshape(x.shape[0], -1)


@layer_kind("Reshape")
def _reshape(layer: Layer) -> Function:
    shape = [int(n) for n in layer.config["target_shape"]]
    return lambda x: x.reshape(x.shape[0], *shape)


@layer_kind("Permute")
def _permute(layer: Layer) -> Function:
    order = [int(n) for n in layer.config["dims"]]
    return lambda x: x.permute(0, *order)


@layer_kind("RepeatVector")
def _repeat_vector(layer: Layer) -> Function:
    n = int(layer.config["n"])

    def run(x: Tensor) -> Tensor:
        charge((x.shape[0], n, x.shape[1]))
        return x.unsqueeze(1).expand(-1, n, -1)

    return run


@layer_kind("Embedding")
def _embedding(layer: Layer) -> Function:
    return lambda x, table: F.embedding(x.to(torch.int64), table)


@layer_kind("Rescaling")
def _rescaling(layer: Layer) -> Function:
    scale, offset = (
        torch.tensor(layer.config.get(k, v), dtype=torch.float64)
        for k, v in (("scale", 1.0), ("offset", 0.0))
    )
    return lambda x: x * scale.to(x.dtype) + offset.to(x.dtype)


# -- norms ------------------------------------------------------------------------------------------


def _axes(layer: Layer, ndim: int) -> list[int]:
    given = layer.config.get("axis", -1)
    return sorted(a % ndim for a in ([given] if isinstance(given, int) else given))


def _scaled(layer: Layer, weights: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None, list[Tensor]]:
    """Return gamma and beta, where the layer has them, and the other weights."""
    rest = list(weights)
    gamma = rest.pop(0) if layer.config.get("scale", True) else None
    beta = rest.pop(0) if layer.config.get("center", True) else None
    return gamma, beta, rest


@layer_kind("BatchNormalization")
def _batch_norm(layer: Layer) -> Function:
    eps = number(layer.config.get("epsilon"), 1e-3)

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        gamma, beta, (mean, variance) = _scaled(layer, weights)
        (axis,) = _axes(layer, x.ndim)
        return F.batch_norm(x.movedim(axis, 1), mean, variance, gamma, beta, False, 0.0, eps).movedim(1, axis)

    return run


@layer_kind("LayerNormalization")
def _layer_norm(layer: Layer) -> Function:
    eps = number(layer.config.get("epsilon"), 1e-3)

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        axes = _axes(layer, x.ndim)
        if axes != list(range(x.ndim - len(axes), x.ndim)) or layer.config.get("rms_scaling"):
            raise layer.unsupported("over axes that are not the last")
        gamma, beta, _ = _scaled(layer, weights)
        return F.layer_norm(x, list(x.shape[axes[0] :]), gamma, beta, eps)

    return run


@layer_kind("GroupNormalization")
def _group_norm(layer: Layer) -> Function:
    groups, eps = int(layer.config.get("groups", 32)), number(layer.config.get("epsilon"), 1e-3)

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        gamma, beta, _ = _scaled(layer, weights)
        (axis,) = _axes(layer, x.ndim)
        n = x.shape[axis] if groups == -1 else groups
        return F.group_norm(x.movedim(axis, 1), n, gamma, beta, eps).movedim(1, axis)

    return run


@layer_kind("UnitNormalization")
def _unit_norm(layer: Layer) -> Function:
    return lambda x: x * torch.rsqrt((x * x).sum(_axes(layer, x.ndim), keepdim=True).clamp_min(1e-12))


# -- merging ----------------------------------------------------------------------------------------


def _merged(f: Callable[[Tensor, Tensor], Tensor], *, mean: bool = False) -> Callable[[Layer], Function]:
    def row(layer: Layer) -> Function:
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
def _concatenate(layer: Layer) -> Function:
    axis = int(layer.config.get("axis", -1))
    return lambda *xs: torch.cat(xs, axis)
