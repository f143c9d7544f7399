"""ONNX `Resize` and `Upsample`: every coordinate mode, by weights along one axis at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.checkpoints.programs.onnx.table import (
    Node,
    charge,
    floats,
    ints,
    operator,
)
from vaeprobe.errors import InputError


def _source_places(node: Node, size: int, out: int, scale: float, roi: tuple[float, float]) -> list[float]:
    """Return where each output place lies among the input's, by the coordinate transformation mode."""
    default = "half_pixel" if node.opset >= 11 else "asymmetric"
    mode = node.get("coordinate_transformation_mode", default)
    match mode:
        case "half_pixel":
            return [(i + 0.5) / scale - 0.5 for i in range(out)]
        case "pytorch_half_pixel":
            return [(i + 0.5) / scale - 0.5 if out > 1 else 0.0 for i in range(out)]
        case "half_pixel_symmetric":
            shift = size / 2 * (1 - out / (scale * size))
            return [shift + (i + 0.5) / scale - 0.5 for i in range(out)]
        case "asymmetric":
            return [i / scale for i in range(out)]
        case "align_corners":
            return [i * (size - 1) / (out - 1) if out > 1 else 0.0 for i in range(out)]
        case "tf_half_pixel_for_nn":
            return [(i + 0.5) / scale for i in range(out)]
    raise node.unsupported(f"in mode {mode}")


def _nearest(node: Node, places: Sequence[float], size: int) -> list[int]:
    mode = node.get("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
    rounding: Mapping[str, Callable[[float], int]] = {
        "floor": math.floor,
        "ceil": math.ceil,
        "round_prefer_floor": lambda p: math.ceil(p - 0.5),
        "round_prefer_ceil": lambda p: math.floor(p + 0.5),
    }
    if mode not in rounding:
        raise node.unsupported(f"in mode {mode}")
    return [min(max(rounding[mode](p), 0), size - 1) for p in places]


def _cubic(t: float, a: float) -> list[float]:
    """Return the weights of the four neighbours of a place at distance t after the second (Keys 1981)."""

    def near(s: float) -> float:
        return ((a + 2) * s - (a + 3)) * s * s + 1

    def far(s: float) -> float:
        return ((a * s - 5 * a) * s + 8 * a) * s - 4 * a

    return [far(1 + t), near(t), near(1 - t), far(2 - t)]


def _along(node: Node, x: Tensor, axis: int, out: int, scale: float, mode: str) -> Tensor:
    """Resize one axis."""
    size = x.shape[axis]
    places = _source_places(node, size, out, scale, (0.0, 1.0))
    if mode == "nearest":
        index = _nearest(node, places, size)
        factor = out // size
        if out == size * factor and index == [i // factor for i in range(out)]:
            return x.repeat_interleave(factor, axis)
        return x.index_select(axis, torch.tensor(index, device=x.device))
    if mode == "linear":
        places = [min(max(p, 0.0), size - 1.0) for p in places]
    offsets = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
    terms = []
    for k, offset in enumerate(offsets):
        index, weights = [], []
        for p in places:
            base = math.floor(p)
            t = p - base
            all_weights = [1 - t, t] if mode == "linear" else _cubic(t, node.get("cubic_coeff_a", -0.75))
            if node.get("exclude_outside", 0):
                inside = [0 <= base + o < size for o in offsets]
                kept = [w if ok else 0.0 for w, ok in zip(all_weights, inside, strict=True)]
                all_weights = [w / sum(kept) for w in kept]
            index.append(min(max(base + offset, 0), size - 1))
            weights.append(all_weights[k])
        w = torch.tensor(weights, dtype=x.dtype, device=x.device)
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        terms.append(x.index_select(axis, torch.tensor(index, device=x.device)) * w.reshape(shape))
    return sum(terms[1:], terms[0])


@operator("Resize", "Upsample")
def _resize(node: Node, x: Tensor, *rest: Tensor | None) -> Tensor:
    given = [*rest, None, None, None]
    if node.operator == "Upsample" or node.opset < 11:
        scales, sizes = given[0], None
    else:
        scales, sizes = given[1], given[2]
    mode = {"bilinear": "linear", "trilinear": "linear"}.get(
        node.get("mode", "nearest"), node.get("mode", "nearest")
    )
    if mode not in ("nearest", "linear", "cubic"):
        raise node.unsupported(f"in mode {mode}")
    axes = [a % x.ndim for a in node.ints("axes", range(x.ndim))]
    if sizes is not None and sizes.numel():
        out = ints(sizes)
        if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise node.unsupported("keeping the aspect ratio")
        factors = [n / x.shape[a] for n, a in zip(out, axes, strict=True)]
    else:
        factors = floats(scales) or node.floats("scales")
        out = [math.floor(x.shape[a] * f) for a, f in zip(axes, factors, strict=True)]
    if any(n < 1 for n in out) or any(f <= 0 for f in factors):
        raise InputError("the program resizes to nothing")
    if node.get("antialias", 0) and any(f < 1 for f in factors):
        raise node.unsupported("with antialias")
    full = list(x.shape)
    for a, n in zip(axes, out, strict=True):
        full[a] = n
    charge(full)
    whole = _whole_upsampling(node, x, axes, out, factors, mode)
    if whole is not None:
        return whole
    for a, n, f in zip(axes, out, factors, strict=True):
        if n != x.shape[a] or f != 1.0:
            x = _along(node, x, a, n, f, mode)
    return x


def _whole_upsampling(
    node: Node, x: Tensor, axes: Sequence[int], out: Sequence[int], factors: Sequence[float], mode: str
) -> Tensor | None:
    """Return nearest upsampling by whole factors in one call, which differentiates fastest; None for all else."""
    if mode != "nearest" or not 3 <= x.ndim <= 5:
        return None
    target, scale = list(x.shape), [1.0] * x.ndim
    for a, n, f in zip(axes, out, factors, strict=True):
        target[a], scale[a] = n, f
    if target[:2] != list(x.shape[:2]) or any(n % s for n, s in zip(target, x.shape, strict=True)):
        return None
    for a in range(2, x.ndim):
        size, n = x.shape[a], target[a]
        index = _nearest(node, _source_places(node, size, n, scale[a], (0.0, 1.0)), size)
        if index != [i // (n // size) for i in range(n)]:
            return None
    return F.interpolate(x, target[2:], mode="nearest")
