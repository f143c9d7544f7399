"""Keras convolutions, pooling, padding and upsampling, channels last or first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.checkpoints.programs.keras.table import (
    Function,
    KerasLayer,
    charge,
    layer_kind,
)
from vaeprobe.errors import InputError

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _first(x: Tensor, layer: KerasLayer) -> Tensor:
    """Return a tensor with channels first, as torch's convolutions want it."""
    return x.movedim(-1, 1) if layer.channels_last else x


def _back(x: Tensor, layer: KerasLayer) -> Tensor:
    return x.movedim(1, -1) if layer.channels_last else x


def _padding(
    layer: KerasLayer, x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the zeros before and after each axis."""
    mode = layer.config.text("padding", "valid")
    n = len(kernel)
    if mode == "valid":
        return [0] * n, [0] * n
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if mode == "causal":
        return [r - 1 for r in reach], [0] * n
    if mode != "same":
        raise layer.unsupported(f"with padding {mode}")
    total = [
        max((-(-x.shape[2 + i] // strides[i]) - 1) * strides[i] + reach[i] - x.shape[2 + i], 0)
        for i in range(n)
    ]
    return [t // 2 for t in total], [t - t // 2 for t in total]


def _padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    charge((*x.shape[:2], *(s + b + a for s, b, a in zip(x.shape[2:], before, after, strict=True))))
    pairs = [p for b, a in zip(reversed(before), reversed(after), strict=True) for p in (b, a)]
    return F.pad(x, pairs, value=value) if any(pairs) else x


def _axes_of_space(layer: KerasLayer) -> int:
    return next(int(a) for a, b in pairwise(layer.kind) if a.isdigit() and b == "D")


def _kernel_first(kernel: Tensor) -> Tensor:
    """(k..., in, out) -> (out, in, k...), and (k..., out, in) -> (in, out, k...)."""
    n = kernel.ndim
    return kernel.permute(n - 1, n - 2, *range(n - 2))


@layer_kind("Conv1D", "Conv2D", "Conv3D")
def _conv(layer: KerasLayer) -> Function:
    n = _axes_of_space(layer)
    strides, dilations = layer.sizes("strides", n), layer.sizes("dilation_rate", n)
    groups = layer.config.whole("groups", 1)

    def run(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        y = _first(x, layer)
        before, after = _padding(layer, y, kernel.shape[:n], strides, dilations)
        even = before == after
        y = y if even else _padded(y, before, after)
        charge((y.shape[0], kernel.shape[-1], *y.shape[2:]))
        out = _CONV[n](y, _kernel_first(kernel), bias, strides, before if even else 0, dilations, groups)
        return _back(out, layer)

    return run


@layer_kind("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def _conv_transpose(layer: KerasLayer) -> Function:
    n = _axes_of_space(layer)
    strides, dilations = layer.sizes("strides", n), layer.sizes("dilation_rate", n)
    mode, extra = layer.config.text("padding", "valid"), layer.config.get("output_padding")

    def run(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        y = _first(x, layer)
        k = [(s - 1) * d + 1 for s, d in zip(kernel.shape[:n], dilations, strict=True)]
        more = layer.sizes("output_padding", n, 0) if extra is not None else [0] * n
        before, lengths = [], []
        for i in range(n):
            size, s = y.shape[2 + i], strides[i]
            if extra is not None:
                length = (size - 1) * s + k[i] - 2 * (k[i] // 2 if mode == "same" else 0) + more[i]
            else:
                length = size * s if mode == "same" else size * s + max(k[i] - s, 0)
            total = max((size - 1) * s + k[i] - length, 0) if mode == "same" else 0
            before.append(total // 2)
            lengths.append(length)
        full = [(y.shape[2 + i] - 1) * strides[i] + k[i] for i in range(n)]
        charge((y.shape[0], kernel.shape[-2], *(max(f, w) for f, w in zip(full, lengths, strict=True))))
        # padding p and output padding o give places p to p + length: in one call where torch can say it
        o = [w - f + 2 * b for w, f, b in zip(lengths, full, before, strict=True)]
        if all(0 <= v < max(s, d) for v, s, d in zip(o, strides, dilations, strict=True)):
            out = _CONV_TRANSPOSE[n](y, _kernel_first(kernel), bias, strides, before, o, 1, dilations)
            return _back(out, layer)
        out = _CONV_TRANSPOSE[n](y, _kernel_first(kernel), None, strides, 0, 0, 1, dilations)
        out = _padded(
            out, [0] * n, [max(b + w - f, 0) for b, w, f in zip(before, lengths, full, strict=True)]
        )
        for i in range(n):
            out = out.narrow(2 + i, before[i], lengths[i])
        if bias is not None:
            out = out + bias.reshape(-1, *(1,) * n)
        return _back(out, layer)

    return run


@layer_kind("DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise(layer: KerasLayer) -> Function:
    n = _axes_of_space(layer)
    strides, dilations = layer.sizes("strides", n), layer.sizes("dilation_rate", n)

    def run(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        y = _first(x, layer)
        y = _padded(y, *_padding(layer, y, kernel.shape[:n], strides, dilations))
        channels, each = kernel.shape[-2:]
        weight = kernel.permute(n, n + 1, *range(n)).reshape(channels * each, 1, *kernel.shape[:n])
        return _back(_CONV[n](y, weight, bias, strides, 0, dilations, channels), layer)

    return run


@layer_kind("SeparableConv1D", "SeparableConv2D")
def _separable(layer: KerasLayer) -> Function:
    depthwise = _depthwise(layer)

    def run(x: Tensor, kernel: Tensor, points: Tensor, bias: Tensor | None = None) -> Tensor:
        y = _first(depthwise(x, kernel), layer)
        n = y.ndim - 2
        return _back(_CONV[n](y, _kernel_first(points), bias), layer)

    return run


@layer_kind("UpSampling1D", "UpSampling2D", "UpSampling3D")
def _upsampling(layer: KerasLayer) -> Function:
    n = _axes_of_space(layer)
    factors = layer.sizes("size", n, 2)
    mode = layer.config.text("interpolation", "nearest")
    if mode not in ("nearest", "bilinear"):
        raise layer.unsupported(f"with interpolation {mode}")

    def run(x: Tensor) -> Tensor:
        y = _first(x, layer)
        target = [s * f for s, f in zip(y.shape[2:], factors, strict=True)]
        charge((*y.shape[:2], *target))
        if mode == "bilinear":
            return _back(F.interpolate(y, target, mode="bilinear", align_corners=False), layer)
        return _back(F.interpolate(y, target, mode="nearest"), layer)

    return run


def _pairs(value: object, n: int) -> tuple[list[int], list[int]]:
    """Return what a padding or cropping setting says before and after each axis."""
    match value:
        case int():
            axes: list[object] = [[value, value]] * n
        case [int(), int()] if n == 1:
            axes = [value]
        case [*items]:
            axes = [[item, item] if isinstance(item, int) else item for item in items]
        case _:
            axes = []
    pairs = [_low_and_high(axis) for axis in axes]
    if len(pairs) != n:
        raise _damaged()
    return [low for low, _ in pairs], [high for _, high in pairs]


def _low_and_high(axis: object) -> tuple[int, int]:
    match axis:
        case [int(low), int(high)] if low >= 0 and high >= 0:
            return low, high
    raise _damaged()


def _damaged() -> InputError:
    return InputError("a padding or cropping of the Keras model is damaged")


@layer_kind("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def _zero_padding(layer: KerasLayer) -> Function:
    before, after = _pairs(layer.config.table.get("padding", 1), _axes_of_space(layer))
    return lambda x: _back(_padded(_first(x, layer), before, after), layer)


@layer_kind("Cropping1D", "Cropping2D", "Cropping3D")
def _cropping(layer: KerasLayer) -> Function:
    before, after = _pairs(layer.config.table.get("cropping", 1), _axes_of_space(layer))

    def run(x: Tensor) -> Tensor:
        y = _first(x, layer)
        for i, (b, a) in enumerate(zip(before, after, strict=True)):
            y = y.narrow(2 + i, b, y.shape[2 + i] - b - a)
        return _back(y, layer)

    return run


@layer_kind(
    "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D"
)
def _pooling(layer: KerasLayer) -> Function:
    n = _axes_of_space(layer)
    size = layer.sizes("pool_size", n, 2)
    strides = layer.sizes("strides", n, 0) if layer.config.get("strides") is not None else size
    largest = layer.kind.startswith("Max")
    pools: Mapping[int, Function] = (
        {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
        if largest
        else {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
    )

    def run(x: Tensor) -> Tensor:
        y = _first(x, layer)
        before, after = _padding(layer, y, size, strides, [1] * n)
        padded = _padded(y, before, after, -torch.inf if largest else 0.0)
        out = pools[n](padded, size, strides)
        if not largest and any((*before, *after)):
            out = out / pools[n](_padded(torch.ones_like(y[:1, :1]), before, after), size, strides)
        return _back(out, layer)

    return run


@layer_kind(*(f"Global{what}Pooling{n}D" for what in ("Average", "Max") for n in (1, 2, 3)))
def _global_pooling(layer: KerasLayer) -> Function:
    n = _axes_of_space(layer)
    keep = layer.config.flag("keepdims")

    def run(x: Tensor) -> Tensor:
        axes = list(range(1, 1 + n)) if layer.channels_last else list(range(2, 2 + n))
        return x.mean(axes, keepdim=keep) if "Average" in layer.kind else x.amax(axes, keepdim=keep)

    return run
