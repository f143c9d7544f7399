"""What each function of torch makes of windows of tangents: one rule for each that keeps a latent's reach bounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe import cpu
from vaeprobe.engine.columns import Columns
from vaeprobe.engine.convolutions import laid_out
from vaeprobe.engine.functions import CONVOLUTIONS, Arguments, Function, Keywords
from vaeprobe.engine.local import Local
from vaeprobe.engine.nested import leaves_of
from vaeprobe.engine.windows import Axis, Operation, Spread, Windows, joined, through

__all__ = ["ALONG_CHANNELS", "along_channels", "moved"]


def moved(func: Function, name: str, args: Arguments, kwargs: Keywords, y: object) -> list[Local]:
    """Return the tangents of all that a function returned, given those of its arguments in their places.

    Raises:
        Spread: it has no rule.
    """
    rule = RULES.get(name)
    if rule is None:
        raise Spread(name)
    try:
        found = rule(func, name, args, kwargs, y)
    except Spread as error:
        raise Spread(error.by or name) from None
    return found if isinstance(found, list) else [found]


def _settings(names: str, args: Arguments, kwargs: Keywords) -> Keywords:
    return {**dict(zip(names.split(), args, strict=False)), **kwargs}


def _several(value: object, n: int) -> list[int]:
    values: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    return [int(v) for v in (values * n if len(values) == 1 else values)]


def _local(x: object) -> Local:
    if not isinstance(x, Local):
        raise Spread
    return x.plain()


def _by(x: Local, y: Tensor, operation: Operation, axes: Sequence[Axis], *, pads: bool = False) -> Local:
    """Return what an operation makes of windows, see `through`."""
    shape = tuple(y.shape[1:])
    if len(shape) != len(axes) or len(x.shape) != len(y.shape):
        raise Spread
    return x.after(
        lambda windows, mine: through(windows[0], operation, axes, shape, pads=pads), y.shape, own=pads
    )


def _convolution(func: Function, name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> Local:
    transposed = "transpose" in name
    names = "input weight bias stride padding dilation groups"
    if transposed:
        names = "input weight bias stride padding output_padding groups dilation"
    if name == "convolution":
        names = "input weight bias stride padding dilation transposed output_padding groups"
    given = _settings(names, args, kwargs)
    transposed = bool(given.get("transposed", transposed))
    x, weight, groups = _local(given["input"]), given["weight"].detach(), int(given.get("groups", 1))
    n = weight.ndim - 2
    if len(x.shape) != weight.ndim:  # a single sample, without the batch axis
        raise Spread
    kernel = list(weight.shape[2:])
    stride, dilation = (_several(given.get(key, 1), n) for key in ("stride", "dilation"))
    widths = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    padding = given.get("padding", 0)
    if padding == "same" and any(width % 2 for width in widths):

        def unevenly(t: Tensor, around: tuple[int, ...]) -> Tensor:
            out: Tensor = CONVOLVE[n](t, weight, None, stride, "same", dilation, groups)
            return out

        return _by(x, y, unevenly, [Axis(whole=True), *[Axis(width) for width in widths]])
    if isinstance(padding, str):
        padding = [width // 2 if padding == "same" else 0 for width in widths]
    padding = _several(padding, n)
    if transposed:
        extra = _several(given.get("output_padding", 0), n)

        def spread_out(t: Tensor, around: tuple[int, ...]) -> Tensor:
            out: Tensor = TRANSPOSED[n](laid_out(t), weight, None, stride, padding, extra, groups, dilation)
            return out

        reach = [math.ceil(p / s) for p, s in zip(padding, stride, strict=True)]
        axes = [Axis(r, up=s) for r, s in zip(reach, stride, strict=True)]
        return _by(x, y, spread_out, [Axis(whole=True), *axes])

    def convolve(t: Tensor, around: tuple[int, ...]) -> Tensor:
        pads = [p + more for p, more in zip(padding, around[1:], strict=True)]
        out: Tensor = CONVOLVE[n](laid_out(t), weight, None, stride, pads, dilation, groups)
        return out

    reach = [max(0, width - p) for width, p in zip(widths, padding, strict=True)]
    axes = [Axis(r, down=s) for r, s in zip(reach, stride, strict=True)]
    return _by(x, y, convolve, [Axis(whole=True), *axes], pads=True)


CONVOLVE: dict[int, Function] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Function] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _resized(func: Function, name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> Local:
    """Up-sampling by whole numbers, nearest or linear: which it is, is measured on ramps."""
    x = _local(args[0] if args else kwargs["input"])
    given = {key: value for key, value in kwargs.items() if key != "input"}
    wide, tall = list(x.shape[2:]), list(y.shape[2:])
    if any(m % n for n, m in zip(wide, tall, strict=True)):
        raise Spread
    times = [m // n for n, m in zip(wide, tall, strict=True)]
    kinds = {"nearest", "linear"}
    for axis, (n, r) in enumerate(zip(wide, times, strict=True)):
        around = [-1 if i == axis else 1 for i in range(len(wide))]
        ramp = cpu.arange(n).double().reshape(around).expand(1, 1, *wide).contiguous()
        seen = func(ramp, *args[1:], **given)
        places = cpu.arange(n * r).double().reshape(around)
        expected = {
            "nearest": (places / r).floor(),
            "linear": ((places + 0.5) / r - 0.5).clamp(0, n - 1),
        }
        kinds &= {kind for kind, e in expected.items() if float((seen - e).abs().max()) <= 1e-6 * n}
    if not kinds:
        raise Spread
    mode = max(kinds)  # the nearest, where all sides are one place
    if mode == "linear":
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(wide)]
    scale = tuple(float(r) for r in times)
    reach = 0 if mode == "nearest" else 1
    axes = [Axis(), *[Axis(reach, up=r) for r in times]]

    def resize(t: Tensor, around: tuple[int, ...]) -> Tensor:
        return F.interpolate(t, scale_factor=scale, mode=mode)

    return _by(x, y, resize, axes)


def _repeated(func: Function, name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> Local:
    """Each place of an axis as often as a number says."""
    given = _settings("input repeats dim", args, kwargs)
    x, times, dim = _local(given["input"]), given["repeats"], given.get("dim")
    if not isinstance(times, int) or not isinstance(dim, int) or dim % len(x.shape) == 0:
        raise Spread
    axes = [Axis(up=times) if i == dim % len(x.shape) else Axis() for i in range(1, len(x.shape))]
    return _by(x, y, lambda t, around: t.repeat_interleave(times, dim), axes)


def _shuffled(func: Function, name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> Local:
    """Channels to pixels, pixels to channels, channels to channels."""
    x, more = _local(args[0]), args[1:]
    axes = [Axis(whole=True)]
    for n, m in zip(x.shape[2:], y.shape[2:], strict=True):
        axes.append(Axis(up=m // n) if m >= n else Axis(down=n // m))
    return _by(x, y, lambda t, around: func(t, *more, **kwargs), axes)


def _pooled(func: Function, name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> Local:
    """Means over kernels."""
    given = _settings(
        "input kernel_size stride padding ceil_mode count_include_pad divisor_override", args, kwargs
    )
    x = _local(given["input"])
    n = len(x.shape) - 2
    kernel = _several(given["kernel_size"], n)
    stride = _several(given.get("stride") or kernel, n)
    if given.get("ceil_mode"):
        raise Spread
    keep = {key: value for key, value in kwargs.items() if key != "input"}
    axes = [Axis(), *[Axis(k, down=s) for k, s in zip(kernel, stride, strict=True)]]
    return _by(x, y, lambda t, around: func(t, *args[1:], **keep), axes)


def _padded(func: Function, name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> Local:
    """What is padded with a constant has no derivative; elsewhere the border is seen twice."""
    given = _settings("input pad mode value", args, kwargs)
    x, pads, mode = _local(given["input"]), [int(p) for p in given["pad"]], given.get("mode", "constant")
    pairs = list(zip(pads[::2], pads[1::2], strict=True))[::-1]
    pairs = [(0, 0)] * (len(x.shape) - len(pairs)) + pairs
    if any(pairs[0]):
        raise Spread
    if mode == "constant":
        return _reframed(x, y, [-low for low, _ in pairs[1:]])
    if min(pads) < 0:
        raise Spread
    wraps, shape = mode == "circular", tuple(y.shape[1:])
    axes = [Axis(max(pair) + 1, wraps=wraps) if any(pair) else Axis() for pair in pairs[1:]]
    most = np.array([0 if wraps else max(pair) for pair in pairs[1:]])
    low, wide = np.array([first for first, _ in pairs[1:]]), np.array(x.shape[1:])

    def pad(windows: Sequence[Windows], mine: Sequence[bool]) -> Windows:
        (w,) = windows
        out = through(w, lambda t, around: F.pad(t, pads, mode), axes, shape)
        # what is near a border is seen as far beyond it, what is not is only moved
        size = np.where(out.size == shape, shape, np.minimum(w.size + 2 * most, shape))
        start = np.where(w.corner <= most, 0, w.corner + low - most)
        start = np.where(w.corner + w.size >= wide - most, np.array(shape) - size, start)
        return out.boxed(start.clip(0, np.array(shape) - size), size)

    return x.after(pad, y.shape, own=False)


def _reframed(x: Local, y: Tensor, start: Sequence[int]) -> Local:
    """Return windows of a part of a map, or of a larger map, that begins at a place of the old one."""
    first, shape = np.array(start, dtype=np.int64), tuple(y.shape[1:])

    def cut(windows: Sequence[Windows], mine: Sequence[bool]) -> Windows:
        (w,) = windows
        size = np.minimum(w.size, shape)
        here = Windows(w.values, w.corner - first, w.point, shape)
        return here.boxed(here.corner.clip(0, np.array(shape) - size), size)

    return x.after(cut, y.shape, own=False)


def _indexed(func: Function, name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> Local:
    """Slices, of step 1 and never of the batch."""
    x, index = _local(args[0]), args[1]
    index = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in index:
        i = index.index(Ellipsis)
        index[i : i + 1] = [slice(None)] * (len(x.shape) - len(index) + 1)
    if not all(isinstance(part, slice) and part.step in (None, 1) for part in index):
        raise Spread
    bounds = [part.indices(n)[:2] for part, n in zip(index, x.shape, strict=False)]
    if bounds and bounds[0] != (0, x.shape[0]):
        raise Spread
    start = [low for low, _ in bounds[1:]] + [0] * (len(x.shape) - max(1, len(bounds)))
    return _reframed(x, y, start)


def _narrowed(func: Function, name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> Local:
    given = _settings("input dim start length", args, kwargs)
    x, dim, first = _local(given["input"]), int(given["dim"]), int(given["start"])
    dim, first = dim % len(x.shape), first % x.shape[dim]
    if dim == 0:
        raise Spread
    return _reframed(x, y, [first if i == dim else 0 for i in range(1, len(x.shape))])


def _parted(func: Function, name: str, args: Arguments, kwargs: Keywords, y: object) -> list[Local]:
    given = _settings("input parts dim", args, kwargs)
    x = _local(given["input"])
    dim = int(given.get("dim", 0)) % len(x.shape)
    if dim == 0 or not isinstance(y, list | tuple):
        raise Spread
    out, first = [], 0
    for part in y:
        out.append(_reframed(x, part, [first if i == dim else 0 for i in range(1, len(x.shape))]))
        first += part.shape[dim]
    return out


def _joined(func: Function, name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> Local:
    given = _settings("tensors dim", args, kwargs)
    dim = int(given.get("dim") or kwargs.get("axis") or 0) % y.ndim
    parts = [leaf for leaf in leaves_of(given["tensors"]) if isinstance(leaf, Local | Tensor)]
    where = [i for i, part in enumerate(parts) if isinstance(part, Local)]
    parents = [_local(parts[i]) for i in where]
    if dim == 0:
        raise Spread

    def join(windows: Sequence[Windows], mine: Sequence[bool]) -> Windows:
        like = windows[0]
        pieces: list[Windows] = []
        for i, part in enumerate(parts):
            if i in where:
                pieces.append(windows[where.index(i)])
                continue
            size = [n if axis + 1 == dim else 1 for axis, n in enumerate(part.shape[1:])]
            zero = like.values.new_zeros(len(like.point), *size)
            corner = like.corner.copy()
            corner[:, dim - 1] = 0
            pieces.append(Windows(zero, corner, like.point, tuple(part.shape[1:])))
        return joined(pieces, dim - 1, tuple(y.shape[1:]))

    return Local(y.shape, join, parents)


def _permuted(func: Function, name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> Local:
    x, more = _local(args[0]), args[1:]
    sizes = tuple(range(2, 2 + len(x.shape)))  # each axis is known by its length
    order = [n - 2 for n in func(cpu.empty(sizes), *more, **kwargs).shape]
    if order[0] != 0 or sorted(order) != list(range(len(sizes))):
        raise Spread
    shape, axes = tuple(y.shape[1:]), [i - 1 for i in order[1:]]

    def permute(windows: Sequence[Windows], mine: Sequence[bool]) -> Windows:
        (w,) = windows
        return Windows(w.values.permute(order), w.corner[:, axes], w.point, shape)

    return x.after(permute, y.shape, single=x.single, own=False)


def _cast(func: Function, name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> Local:
    x = args[0]
    if not isinstance(x, Local) or y.shape != x.shape:
        raise Spread

    dtype = y.dtype

    def cast(windows: Sequence[Windows], mine: Sequence[bool]) -> Windows:
        return replace(windows[0], values=windows[0].values.to(dtype))

    return x.after(cast, x.shape, laid=x.laid, single=x.single, own=False)


def _mixed(func: Function, name: str, args: Arguments, kwargs: Keywords, y: Tensor) -> Local:
    """A linear layer of the last axis: channels that come last."""
    given = _settings("input weight bias", args, kwargs)
    x, weight = _local(given["input"]), given["weight"].detach()
    if len(x.shape) < 3:  # of rows: everything is mixed
        raise Spread
    axes = [Axis() for _ in x.shape[1:-1]]
    return _by(x, y, lambda t, around: F.linear(t, weight), [*axes, Axis(whole=True)])


def _means(x: Local, axis: int) -> Local:
    """Return means over one axis, in place of the numbers that they are means of."""
    axes = [Axis(whole=i == axis) for i in range(1, len(x.shape))]
    like = torch.empty(x.shape, device="meta")
    return _by(x, like, lambda t, around: t.mean(axis, keepdim=True).expand(t.shape).contiguous(), axes)


def _layer_norm(x: Tensor, t: Local, settings: Keywords) -> Columns:
    if len(settings["normalized_shape"]) != 1:
        raise Spread
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    rate = (variance + settings.get("eps", 1e-5)).rsqrt()
    hat = (x - mean) * rate
    centred = t.plus([_means(t, x.ndim - 1).times(-1)])
    return _without(centred, t, hat, x.ndim - 1).scaled(_weighted(rate, settings))


def _rms_norm(x: Tensor, t: Local, settings: Keywords) -> Columns:
    if len(settings["normalized_shape"]) != 1:
        raise Spread
    eps = settings.get("eps")
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    rate = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    return _without(t, t, x * rate, x.ndim - 1).scaled(_weighted(rate, settings))


def _unit_length(x: Tensor, t: Local, settings: Keywords) -> Columns:
    length = x.norm(dim=1, keepdim=True)
    if (
        settings.get("dim", 1) != 1
        or settings.get("p", 2.0) != 2
        or (length <= settings.get("eps", 1e-12)).any()
    ):
        raise Spread
    return _without(t, t, x / length * math.sqrt(x.shape[1]), 1).scaled(1 / length)


def _without(t: Columns, of: Local, hat: Tensor, axis: int) -> Columns:
    """Return tangents without what `of` has along hat, whose mean square is 1."""
    along = of.scaled(hat)
    assert isinstance(along, Local)
    return t.plus([_means(along, axis).scaled(-hat)])


def _weighted(rate: Tensor, settings: Keywords) -> Tensor:
    weight = settings.get("weight")
    return rate if weight is None else rate * weight.detach()


def _gated(x: Tensor, t: Local, settings: Keywords) -> Columns:
    axis = settings.get("dim", -1) % x.ndim
    half, gate = x.chunk(2, axis)
    opened = torch.sigmoid(gate)
    first, second = _parted(torch.chunk, "chunk", (t, 2, axis), {}, (half, gate))
    return first.scaled(opened).plus([second.scaled(half * opened * (1 - opened))])


ALONG_CHANNELS: dict[str, tuple[str, Callable[[Tensor, Local, Keywords], Columns]]] = {
    "layer_norm": ("input normalized_shape weight bias eps", _layer_norm),
    "rms_norm": ("input normalized_shape weight eps", _rms_norm),
    "normalize": ("input p dim eps out", _unit_length),
    "glu": ("input dim", _gated),
}
"""Functions of all channels at a place, by what their arguments are called and what they make of tangents."""


def along_channels(name: str, primal: Tensor, t: Columns, args: Arguments, kwargs: Keywords) -> Columns:
    """Return the tangents of such a function's value.

    Raises:
        Spread: it works along more than one axis, or that of the batch.
    """
    names, rule = ALONG_CHANNELS[name]
    if primal.ndim < 3:  # of rows: everything is mixed
        raise Spread
    return rule(primal, _local(t), _settings(names, args, kwargs))


RULES: dict[str, Callable[[Function, str, Arguments, Keywords, Any], Local | list[Local]]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(
        [
            "interpolate",
            "upsample",
            "upsample_nearest",
            "upsample_bilinear",
            "upsample_nearest1d",
            "upsample_nearest2d",
            "upsample_nearest3d",
            "upsample_linear1d",
            "upsample_bilinear2d",
            "upsample_trilinear3d",
        ],
        _resized,
    ),
    **dict.fromkeys(["pixel_shuffle", "pixel_unshuffle", "channel_shuffle"], _shuffled),
    **dict.fromkeys(["avg_pool1d", "avg_pool2d", "avg_pool3d"], _pooled),
    **dict.fromkeys(
        ["chunk", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "tensor_split"], _parted
    ),
    **dict.fromkeys(["cat", "concat", "concatenate"], _joined),
    **dict.fromkeys(["permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis"], _permuted),
    **dict.fromkeys(["to", "type", "type_as", "double", "float", "half", "bfloat16", "_to_copy"], _cast),
    "pad": _padded,
    "getitem": _indexed,
    "narrow": _narrowed,
    "repeat_interleave": _repeated,
    "linear": _mixed,
}
