"""ONNX operators on axes: reductions, shapes, picking and placing, new tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe import cpu
from vaeprobe.checkpoints.programs.onnx.table import (
    OPERATORS,
    Node,
    Operator,
    axes_of,
    broadcast,
    charge,
    ints,
    operator,
    padded,
    scalar,
)
from vaeprobe.checkpoints.programs.program import PlaceError
from vaeprobe.errors import InputError

# -- reductions -------------------------------------------------------------------------------------
_REDUCE: dict[str, Callable[..., Tensor]] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keepdim=keep),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
}


def _product(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCE["ReduceProd"] = _product


def _reduction(f: Callable[..., Tensor]) -> Operator:
    def run(node: Node, x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = axes_of(node, given)
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.ndim))
        return f(x, axes, bool(node.get("keepdims", 1))) if x.ndim else x

    return run


OPERATORS.update({name: _reduction(f) for name, f in _REDUCE.items()})


def _arg(f: Callable[..., Tensor]) -> Operator:
    def run(node: Node, x: Tensor) -> Tensor:
        if node.get("select_last_index", 0):
            raise node.unsupported("to choose the last of equals")
        return f(x, node.get("axis", 0), bool(node.get("keepdims", 1)))

    return run


OPERATORS.update(ArgMax=_arg(torch.argmax), ArgMin=_arg(torch.argmin))


@operator("CumSum")
def _cumsum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    dim, reverse = int(scalar(axis)), node.get("reverse", 0)
    x = x.flip(dim) if reverse else x
    y = x.cumsum(dim)
    y = y - x if node.get("exclusive", 0) else y
    return y.flip(dim) if reverse else y


@operator("TopK")
def _top_k(node: Node, x: Tensor, k: Tensor) -> object:
    return tuple(
        torch.topk(x, int(scalar(k)), node.get("axis", -1), bool(node.get("largest", 1)), bool(node.get("sorted", 1)))
    )  # fmt: skip


# -- shapes -----------------------------------------------------------------------------------------
@operator("Shape")
def _shape(node: Node, x: Tensor) -> Tensor:
    sizes = [int(n) for n in x.shape]
    return cpu.tensor(sizes[node.get("start", 0) : node.get("end", len(sizes))], dtype=torch.int64)


@operator("Size")
def _size(node: Node, x: Tensor) -> Tensor:
    return cpu.tensor(x.numel())


@operator("Reshape")
def _reshape(node: Node, x: Tensor, shape: Tensor | None = None) -> Tensor:
    sizes = ints(shape) if shape is not None else node.ints("shape")
    if not node.get("allowzero", 0):
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Flatten")
def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1) if axis else x.reshape(1, -1)


@operator("Transpose")
def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.ints("perm", range(x.ndim - 1, -1, -1)))


@operator("Squeeze")
def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = axes_of(node, axes) or [i for i, n in enumerate(x.shape) if n == 1]
    gone = {a % x.ndim for a in given}
    if any(x.shape[a] != 1 for a in gone):
        raise InputError("the program drops an axis that is longer than 1")
    return x.squeeze(tuple(sorted(gone)))


@operator("Unsqueeze")
def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = axes_of(node, axes)
    ndim = x.ndim + len(given)
    for axis in sorted(a % ndim for a in given):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def _concat(node: Node, *xs: Tensor) -> Tensor:
    return torch.cat(xs, node.get("axis", 1))


@operator("Split")
def _split(node: Node, x: Tensor, sizes: Tensor | None = None) -> object:
    axis = node.get("axis", 0)
    parts = ints(sizes) if sizes is not None else node.ints("split", [])
    if not parts:
        count = node.get("num_outputs", node.outputs)
        chunk = -(-x.shape[axis] // count)
        parts = [chunk] * (count - 1) + [x.shape[axis] - chunk * (count - 1)]
    out = torch.split(x, parts, axis)
    return out if len(out) > 1 else out[0]


@operator("Slice")
def _slice(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    begin, end = (ints(v) if v is not None else node.ints(k) for v, k in ((starts, "starts"), (ends, "ends")))
    where = axes_of(node, axes) or list(range(len(begin)))
    stride = ints(steps) or [1] * len(begin)
    for start, stop, axis, step in zip(begin, end, where, stride, strict=True):
        size = x.shape[axis]
        kept = range(size)[slice(start, stop if stop > -(1 << 62) else None, step)]
        if step == 1:
            x = x.narrow(axis, kept.start if len(kept) else 0, len(kept))
        else:
            x = x.index_select(axis, torch.tensor(list(kept), dtype=torch.int64, device=x.device))
    return x


@operator("Gather")
def _gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % max(x.ndim, 1)
    size = x.shape[axis]
    charge((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    index = indices.to(device=x.device, dtype=torch.int64)
    if bool(((index < -size) | (index >= size)).any()):
        raise PlaceError(f"the program takes places of an axis of length {size} that it does not have")
    picked = x.index_select(axis, torch.where(index < 0, index + size, index).reshape(-1))
    return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@operator("GatherElements")
def _gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    size = x.shape[axis]
    return torch.gather(x, axis, torch.where(indices < 0, indices + size, indices))


@operator("GatherND")
def _gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    if node.get("batch_dims", 0):
        raise node.unsupported("with batch axes")
    charge((*indices.shape[:-1], *x.shape[indices.shape[-1] :]))
    return x[tuple(indices.movedim(-1, 0))]


@operator("ScatterND")
def _scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if node.get("reduction", "none") not in ("none", "add"):
        raise node.unsupported("with a reduction")
    add = node.get("reduction", "none") == "add"
    return torch.index_put(x, tuple(indices.movedim(-1, 0)), updates, accumulate=add)


@operator("ScatterElements", "Scatter")
def _scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, reduction = node.get("axis", 0), node.get("reduction", "none")
    index = torch.where(indices < 0, indices + x.shape[axis], indices)
    if reduction == "add":
        return torch.scatter_add(x, axis, index, updates)
    if reduction != "none":
        raise node.unsupported("with a reduction")
    return torch.scatter(x, axis, index, updates)


@operator("Expand")
def _expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = broadcast(x.shape, ints(shape))
    return x.expand(sizes)


@operator("Tile")
def _tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    times = ints(repeats)
    charge([n * t for n, t in zip(x.shape, times, strict=True)])
    return x.repeat(times)


@operator("Pad")
def _pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    sizes = ints(pads) if pads is not None else node.ints("pads" if "pads" in node.attributes else "paddings")
    where = [a % x.ndim for a in ints(axes)] or list(range(x.ndim))
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(where):
        before[axis], after[axis] = sizes[i], sizes[len(where) + i]
    charge([n + max(b, 0) + max(a, 0) for n, b, a in zip(x.shape, before, after, strict=True)])
    mode = node.get("mode", "constant")
    if mode == "constant":
        fill = scalar(value) if value is not None else node.get("value", 0.0)
        return padded(x, before, after, fill)
    for axis in range(x.ndim):
        n = x.shape[axis]
        places = range(-before[axis], n + after[axis])
        if mode == "reflect":
            if max(before[axis], after[axis]) >= n and (before[axis] or after[axis]):
                raise InputError("the program reflects more than the length of an axis")
            index = [abs(p) if p < n else 2 * (n - 1) - p for p in places]
        elif mode == "edge":
            index = [min(max(p, 0), n - 1) for p in places]
        elif mode == "wrap":
            index = [p % n for p in places]
        else:
            raise node.unsupported(f"in mode {mode}")
        if list(places) != list(range(n)):
            x = x.index_select(axis, torch.tensor(index, device=x.device))
    return x


@operator("DepthToSpace")
def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    b = node.whole("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    n, c, h, w = x.shape
    y = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // (b * b), h * b, w * b)


@operator("SpaceToDepth")
def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    b = node.whole("blocksize")
    n, c, h, w = x.shape
    order = (0, 1, 3, 5, 2, 4) if node.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    y = x.reshape(n, c, h // b, b, w // b, b).permute(order)
    return y.reshape(n, c * b * b, h // b, w // b)


@operator("Trilu")
def _trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    offset = int(scalar(k)) if k is not None else 0
    return torch.triu(x, offset) if node.get("upper", 1) else torch.tril(x, offset)


# -- new tensors ------------------------------------------------------------------------------------
@operator("ConstantOfShape", like=True)
def _constant_of_shape(node: Node, shape: Tensor, *, like: Tensor) -> Tensor:
    sizes = ints(shape)
    charge(sizes)
    value = node.tensor("value")
    if value is None:
        return torch.zeros(sizes, dtype=like.dtype, device=like.device)
    dtype = like.dtype if value.is_floating_point() else value.dtype
    return torch.full(sizes, value.reshape(-1)[0].item(), dtype=dtype, device=like.device)


@operator("Range", like=True)
def _range(node: Node, start: Tensor, limit: Tensor, delta: Tensor, *, like: Tensor) -> Tensor:
    first, last, step = (v.reshape(-1)[0].item() for v in (start, limit, delta))
    if not step:
        raise InputError("the program counts in steps of 0")
    charge([max(int((last - first) / step), 0) + 1])
    dtype = like.dtype if start.is_floating_point() else start.dtype
    return torch.arange(first, last, step, dtype=dtype, device=like.device)


@operator("OneHot", like=True)
def _one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor, *, like: Tensor) -> Tensor:
    n, axis = int(scalar(depth)), node.get("axis", -1)
    charge((*indices.shape, n))
    index = indices.to(torch.int64)
    inside = ((index >= -n) & (index < n)).unsqueeze(-1)
    hot = (F.one_hot(torch.remainder(index, n), n) * inside).to(like.dtype)
    off, on = values.reshape(-1)[0], values.reshape(-1)[1]
    out = off + hot * (on - off)
    return out.movedim(-1, axis) if axis != -1 else out


@operator("EyeLike", like=True)
def _eye_like(node: Node, x: Tensor, *, like: Tensor) -> Tensor:
    eye = torch.eye(*x.shape, dtype=like.dtype, device=like.device)
    if node.get("k", 0):
        raise node.unsupported("off the diagonal")
    return eye


@operator("DequantizeLinear", like=True)
def _dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None, *, like: Tensor) -> Tensor:
    if node.get("block_size", 0):
        raise node.unsupported("in blocks")
    if scale.numel() > 1:
        shape = [1] * x.ndim
        shape[node.get("axis", 1)] = -1
        scale, zero = scale.reshape(shape), None if zero is None else zero.reshape(shape)
    y = x.to(like.dtype)
    return (y if zero is None else y - zero.to(like.dtype)) * scale
