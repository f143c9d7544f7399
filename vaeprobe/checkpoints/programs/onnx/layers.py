"""ONNX operators that are layers of networks: softmax, norms, products, convolutions, pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.checkpoints.programs.onnx.table import (
    OPERATORS,
    Node,
    Operator,
    broadcast,
    charge,
    column,
    ints,
    operator,
    padded,
)
from vaeprobe.errors import InputError


# -- softmax and norms ------------------------------------------------------------------------------
def _softmax(f: Callable[..., Tensor]) -> Operator:
    def run(node: Node, x: Tensor) -> Tensor:
        if node.opset >= 13:
            return f(x, dim=node.get("axis", -1))
        axis = node.get("axis", 1) % x.ndim  # older opsets flatten all axes from this one on
        return f(x.flatten(axis), dim=-1).reshape(x.shape)

    return run


OPERATORS.update(Softmax=_softmax(torch.softmax), LogSoftmax=_softmax(torch.log_softmax))


@operator("BatchNormalization")
def _batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> object:
    y = F.batch_norm(x, mean, var, scale, bias, False, 0.0, node.get("epsilon", 1e-5))
    return y if node.outputs == 1 else (y, mean, var, mean, var)[: node.outputs]


@operator("InstanceNormalization")
def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


@operator("GroupNormalization")
def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, eps = node.whole("num_groups"), node.get("epsilon", 1e-5)
    if node.opset < 21:  # one scale per group
        y = F.group_norm(x, groups, eps=eps)
        repeat = x.shape[1] // groups
        return y * column(scale.repeat_interleave(repeat), x) + column(bias.repeat_interleave(repeat), x)
    return F.group_norm(x, groups, scale, bias, eps)


@operator("LayerNormalization")
def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> object:
    axes = list(range(node.get("axis", -1) % x.ndim, x.ndim))
    eps = node.get("epsilon", 1e-5)
    y = F.layer_norm(x, list(x.shape[axes[0] :]), eps=eps) * scale
    y = y if bias is None else y + bias
    if node.outputs == 1:
        return y
    mean = x.mean(axes, keepdim=True)
    return y, mean, torch.rsqrt(((x - mean) ** 2).mean(axes, keepdim=True) + eps)


@operator("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    axes = list(range(node.get("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt((x * x).mean(axes, keepdim=True) + node.get("epsilon", 1e-5)) * scale


@operator("LpNormalization")
def _lp_norm(node: Node, x: Tensor) -> Tensor:
    axis, p = node.get("axis", -1), node.get("p", 2)
    size = x.abs().sum(axis, keepdim=True) if p == 1 else (x * x).sum(axis, keepdim=True).sqrt()
    return torch.where(size == 0, torch.zeros_like(x), x / size)


@operator("MeanVarianceNormalization")
def _mean_variance(node: Node, x: Tensor) -> Tensor:
    axes = node.ints("axes", [0, 2, 3])
    centred = x - x.mean(axes, keepdim=True)
    return centred / ((centred * centred).mean(axes, keepdim=True).sqrt() + 1e-9)


@operator("LRN")
def _lrn(node: Node, x: Tensor) -> Tensor:
    return F.local_response_norm(
        x, node.whole("size"), node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    )


# -- products ---------------------------------------------------------------------------------------
@operator("MatMul")
def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    if a.ndim > 1 and b.ndim > 1:
        charge((*broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]))
    return torch.matmul(a, b)


@operator("Gemm")
def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if node.get("transA", 0) else a
    weight = b if node.get("transB", 0) else b.t()
    charge((a.shape[0], weight.shape[0]))
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if c is not None and c.ndim == 1 and alpha == beta == 1.0 and c.shape[0] == weight.shape[0]:
        return F.linear(a, weight, c)
    y = F.linear(a, weight)
    y = y if alpha == 1.0 else alpha * y
    return y if c is None else y + (c if beta == 1.0 else beta * c)


@operator("Einsum")
def _einsum(node: Node, *xs: Tensor) -> Tensor:
    equation = node.get("equation", "").replace(" ", "")
    terms, _, out = equation.partition("->")
    sizes: dict[str, int] = {}
    for term, x in zip(terms.split(","), xs, strict=True):
        if "." not in term:
            sizes.update(zip(term, x.shape, strict=True))
    charge([sizes.get(letter, 1) for letter in out])
    return torch.einsum(equation, *xs)


# -- convolutions -----------------------------------------------------------------------------------
Kernel: TypeAlias = Callable[..., Tensor]  # a function of torch for one number of axes of space
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _window(
    node: Node, x: Tensor, kernel: Sequence[int]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return strides, dilations and the padding before and after each axis of a convolution or pooling."""
    n = len(kernel)
    strides, dilations = node.ints("strides", [1] * n), node.ints("dilations", [1] * n)
    pads = node.ints("pads", [0] * 2 * n)
    if not len(strides) == len(dilations) == n == x.ndim - 2 or len(pads) != 2 * n or min(strides) < 1:
        raise InputError(f"the sizes of an ONNX `{node.operator}` contradict each other")
    before, after = pads[:n], pads[n:]
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(n):
            size = x.shape[2 + i]
            total = max(
                (-(-size // strides[i]) - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - size, 0
            )
            small, large = total // 2, total - total // 2
            before[i], after[i] = (small, large) if auto == "SAME_UPPER" else (large, small)
    elif auto == "VALID":
        before, after = [0] * n, [0] * n
    charge((*x.shape[:2], *(x.shape[2 + i] + abs(before[i]) + abs(after[i]) for i in range(n))))
    return strides, dilations, before, after


def _dimensions(node: Node, table: Mapping[int, Kernel], x: Tensor) -> Kernel:
    function = table.get(x.ndim - 2)
    if function is None:
        raise node.unsupported(f"on {x.ndim - 2} axes of space")
    return function


@operator("Conv")
def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    strides, dilations, before, after = _window(node, x, weight.shape[2:])
    function = _dimensions(node, _CONV, x)
    padding = before if before == after else [0] * len(before)
    charge((x.shape[0], weight.shape[0], *x.shape[2:]))
    x = x if before == after else padded(x, before, after)
    return function(x, weight, bias, strides, padding, dilations, node.get("group", 1))


@operator("ConvTranspose")
def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(weight.shape[2:])
    n, group = len(kernel), node.get("group", 1)
    function = _dimensions(node, _CONV_TRANSPOSE, x)
    strides, dilations = node.ints("strides", [1] * n), node.ints("dilations", [1] * n)
    extra = node.ints("output_padding", [0] * n)
    pads = node.ints("pads", [0] * 2 * n)
    if not len(strides) == len(dilations) == len(extra) == x.ndim - 2 == n or len(pads) != 2 * n:
        raise InputError("the sizes of an ONNX `ConvTranspose` contradict each other")
    before, after = pads[:n], pads[n:]
    auto, shape = node.get("auto_pad", "NOTSET"), node.ints("output_shape", [])[-n:]
    if auto in ("SAME_UPPER", "SAME_LOWER") and not shape:
        shape = [x.shape[2 + i] * strides[i] for i in range(n)]
    for i, size in enumerate(shape):
        total = strides[i] * (x.shape[2 + i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - size
        if total < 0:  # more than the kernels reach: zeros, as other run-times give
            extra[i], total = extra[i] - total, 0
        small, large = total // 2, total - total // 2
        before[i], after[i] = (small, large) if auto == "SAME_UPPER" else (large, small)
    full = [
        strides[i] * (x.shape[2 + i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(n)
    ]
    charge((x.shape[0], weight.shape[1] * group, *full))
    if before == after and all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        return function(x, weight, bias, strides, before, extra, group, dilations)
    y = function(x, weight, bias, strides, 0, 0, group, dilations)
    for i in range(n):
        low, high = before[i], full[i] - after[i]
        missing = max(high - y.shape[2 + i], 0)
        if missing:  # output padding: places that no kernel reaches hold the bias alone
            tail = y.narrow(2 + i, 0, 1).expand(
                *(missing if k == 2 + i else s for k, s in enumerate(y.shape))
            )
            blank = torch.zeros_like(tail) if bias is None else torch.zeros_like(tail) + column(bias, y)
            y = torch.cat([y, blank], 2 + i)
        y = y.narrow(2 + i, low, high - low)
    return y


def _pool(node: Node, x: Tensor) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    kernel = node.ints("kernel_shape")
    strides, dilations, before, after = _window(node, x, kernel)
    if node.get("ceil_mode", 0):
        raise node.unsupported("with ceil_mode")
    return kernel, strides, dilations, before, after


@operator("MaxPool")
def _max_pool(node: Node, x: Tensor) -> Tensor:
    kernel, strides, dilations, before, after = _pool(node, x)
    if node.outputs > 1:
        raise node.unsupported("for its indices")
    function = _dimensions(node, {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}, x)
    return function(padded(x, before, after, -math.inf), kernel, strides, 0, dilations)


@operator("AveragePool")
def _average_pool(node: Node, x: Tensor) -> Tensor:
    kernel, strides, dilations, before, after = _pool(node, x)
    function = _dimensions(node, {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}, x)
    if any(d != 1 for d in dilations):
        raise node.unsupported("with dilations")
    out = function(padded(x, before, after), kernel, strides)
    if not any((*before, *after)) or node.get("count_include_pad", 0):
        return out
    share = function(padded(torch.ones_like(x[:1, :1]), before, after), kernel, strides)
    return out / share


def _global(f: Callable[..., Tensor]) -> Operator:
    return lambda node, x: f(x, list(range(2, x.ndim)))


OPERATORS.update(
    GlobalAveragePool=_global(lambda x, axes: x.mean(axes, keepdim=True)),
    GlobalMaxPool=_global(lambda x, axes: x.amax(axes, keepdim=True)),
)


# -- images put together of patches, and sampled along grids ------------------------------------------------


@operator("Col2Im")
def _col2im(node: Node, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    size, kernel = ints(image), ints(block)
    if len(size) != 2:
        raise node.unsupported(f"of {len(size)} axes")
    top, left, bottom, right = node.ints("pads", [0] * 4)
    whole = (size[0] + top + bottom, size[1] + left + right)
    charge([x.shape[0], x.shape[1], *whole])
    y = F.fold(
        x, whole, tuple(kernel), tuple(node.ints("dilations", [1, 1])), 0, tuple(node.ints("strides", [1, 1]))
    )
    return y[..., top : top + size[0], left : left + size[1]]


@operator("GridSample")
def _grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    mode = node.get("mode", "bilinear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    charge([*x.shape[:2], *grid.shape[1:-1]])
    corners = bool(node.get("align_corners", 0))
    return F.grid_sample(x, grid, mode, node.get("padding_mode", "zeros"), corners)


@operator("AffineGrid")
def _affine_grid(node: Node, theta: Tensor, size: Tensor) -> Tensor:
    shape = ints(size)
    charge([*shape, len(shape)])
    return F.affine_grid(theta, shape, bool(node.get("align_corners", 0)))
