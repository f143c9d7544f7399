"""Layers as modules: each is made of the file's own tensors, which are not copied.

A function here is a row's `build` in `blueprint.kinds.KINDS`: it takes the settings, the stem of the layer's names
("decoder.fc1."), the tensors and the shape of one row of its input, and raises `Misfit` where they do not go together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from vaeprobe.checkpoints.network import modules
from vaeprobe.checkpoints.network.tensors import Misfit, Tensors, shown

Settings = Mapping[str, Any]  # by the names of options, each of which accepts its value
Shape = tuple[int, ...]


def _axes(value: int | list[int] | str) -> Any:
    return tuple(value) if isinstance(value, list) else value


def linear(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a linear layer over the last axis."""
    W, b = tensors.weight(key), tensors.get(f"{key}bias")
    if W.ndim != 2:
        kinds = "conv or conv_transpose" if W.ndim in (3, 4, 5) else "a normalisation"
        raise Misfit(
            f"`{key}weight` has shape {shown(W.shape)}, and a linear layer's has two axes",
            hint=f"is it {kinds}?",
        )
    if shape[-1] != W.shape[1]:
        raise Misfit(
            f"`{key}weight` of shape {shown(W.shape)} takes {W.shape[1]} numbers, and its input has shape {shown(shape)}"
        )
    module = nn.Linear(W.shape[1], W.shape[0], bias=b is not None, device="meta", dtype=W.dtype)
    return tensors.put(module, weight=W, bias=b)


def conv(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a convolution of 1, 2 or 3 dimensions, as its weight has."""
    return _convolution(settings, key, tensors, shape, transpose=False)


def conv_transpose(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a transposed convolution of 1, 2 or 3 dimensions, as its weight has."""
    return _convolution(settings, key, tensors, shape, transpose=True)


def _convolution(
    settings: Settings, key: str, tensors: Tensors, shape: Shape, *, transpose: bool
) -> nn.Module:
    W, b = tensors.weight(key, outputs=int(transpose)), tensors.get(f"{key}bias")
    axes = W.ndim - 2
    if axes not in (1, 2, 3):
        raise Misfit(
            f"`{key}weight` has shape {shown(W.shape)}, and a convolution's has three to five axes",
            hint="is it a linear layer?" if axes == 0 else None,
        )
    groups = settings["groups"]
    n_in, n_out = (W.shape[0], W.shape[1] * groups) if transpose else (W.shape[1] * groups, W.shape[0])
    if len(shape) != axes + 1 or shape[0] != n_in:
        raise Misfit(
            f"`{key}weight` of shape {shown(W.shape)} takes {n_in} channels and {axes} more "
            f"{'axis' if axes == 1 else 'axes'}, and its input has shape {shown(shape)}"
        )
    table: Mapping[tuple[int, bool], Callable[..., nn.Module]] = {
        (1, False): nn.Conv1d, (2, False): nn.Conv2d, (3, False): nn.Conv3d,
        (1, True): nn.ConvTranspose1d, (2, True): nn.ConvTranspose2d, (3, True): nn.ConvTranspose3d,
    }  # fmt: skip
    extra = (
        {"output_padding": _axes(settings["output_padding"])}
        if transpose
        else {"padding_mode": settings["padding_mode"]}
    )
    try:
        module = table[axes, transpose](
            n_in, n_out, tuple(W.shape[2:]), stride=_axes(settings["stride"]), padding=_axes(settings["padding"]),
            dilation=_axes(settings["dilation"]), groups=groups, bias=b is not None, device="meta", dtype=W.dtype, **extra,
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        raise Misfit(f"`{key}weight` of shape {shown(W.shape)}: {error}") from None
    return tensors.put(module, weight=W, bias=b)


def batch_norm(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a batch normalisation with the statistics of training."""
    return _norm("batch_norm", settings, key, tensors, shape)


def instance_norm(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return an instance normalisation."""
    return _norm("instance_norm", settings, key, tensors, shape)


def group_norm(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a group normalisation."""
    return _norm("group_norm", settings, key, tensors, shape)


_CHANNEL_NORMS: Mapping[tuple[str, int], Any] = {
    ("batch_norm", 1): nn.BatchNorm1d, ("batch_norm", 2): nn.BatchNorm2d, ("batch_norm", 3): nn.BatchNorm3d,
    ("instance_norm", 1): nn.InstanceNorm1d, ("instance_norm", 2): nn.InstanceNorm2d, ("instance_norm", 3): nn.InstanceNorm3d,
}  # fmt: skip


def _norm(kind_name: str, settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a normalisation of channels; instances and groups may go without tensors, where `key` is empty."""
    W, b = tensors.get(f"{key}weight"), tensors.get(f"{key}bias")
    tracked = kind_name == "batch_norm"
    mean = tensors.need(f"{key}running_mean") if tracked else tensors.get(f"{key}running_mean")
    variance = tensors.need(f"{key}running_var") if tracked or mean is not None else None
    known = W if W is not None else mean
    if known is None and key:
        known = tensors.need(f"{key}weight")
    if known is not None and (known.ndim != 1 or known.shape[0] != shape[0]):
        raise Misfit(
            f"`{key}weight` of shape {shown(known.shape)} takes {known.numel()} channels, and its input has shape {shown(shape)}"
        )
    kind: dict[str, Any] = {
        "eps": settings["eps"],
        "affine": W is not None,
        "device": "meta",
        "dtype": tensors.dtype if known is None else known.dtype,
    }
    if kind_name == "group_norm":
        if shape[0] % settings["groups"]:
            raise Misfit(f"{shape[0]} channels do not make {settings['groups']} groups")
        return tensors.put(nn.GroupNorm(settings["groups"], shape[0], **kind), weight=W, bias=b)
    rank = max(len(shape) - 1, int(tracked))
    if rank not in (1, 2, 3) or (mean is None and math.prod(shape[1:]) == 1):
        few = "channels, and up to three more axes" if tracked else "channels of two places or more"
        raise Misfit(f"takes {few}, and its input has shape {shown(shape)}")
    module = _CHANNEL_NORMS[kind_name, rank](shape[0], track_running_stats=mean is not None, **kind)
    if mean is not None:
        module.num_batches_tracked = (
            None  # counts training steps, says nothing in eval mode, and not every file has it
        )
    return tensors.put(module, weight=W, bias=b, running_mean=mean, running_var=variance)


def layer_norm(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a layer normalisation over the last axes: those of its weight, or `axes` of them without one."""
    if not key:
        return nn.LayerNorm(shape[-settings["axes"] :], eps=settings["eps"], elementwise_affine=False)
    W, b = tensors.need(f"{key}weight"), tensors.get(f"{key}bias")
    if tuple(W.shape) != shape[len(shape) - W.ndim :]:
        raise Misfit(f"`{key}weight` has shape {shown(W.shape)}, and its input has shape {shown(shape)}")
    module = nn.LayerNorm(
        tuple(W.shape), eps=settings["eps"], bias=b is not None, device="meta", dtype=W.dtype
    )
    return tensors.put(module, weight=W, bias=b)


def rms_norm(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a root-mean-square normalisation over channels."""
    return _over_channels(modules.ChannelRMSNorm, settings, key, tensors, shape)


def channel_norm(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a layer normalisation over the channels at each place."""
    return _over_channels(modules.ChannelNorm, settings, key, tensors, shape)


def _over_channels(
    cls: type[modules.ChannelRMSNorm], settings: Settings, key: str, tensors: Tensors, shape: Shape
) -> nn.Module:
    if not key:
        return cls(None, settings["eps"])
    W, b = _channels(key, "gamma", tensors, shape, otherwise="weight"), tensors.get(f"{key}bias")
    module = cls(len(W), settings["eps"], bias=b is not None)
    return tensors.put(module, weight=W, bias=b.flatten() if b is not None else None)


def _channels(key: str, name: str, tensors: Tensors, shape: Shape, otherwise: str | None = None) -> Tensor:
    """Return a tensor of one number a channel, its axes of length one dropped."""
    found = tensors.get(f"{key}{name}")
    found = tensors.need(f"{key}{otherwise or name}") if found is None else found
    if found.numel() != shape[0]:
        raise Misfit(
            f"`{key}{name}` of shape {shown(found.shape)} takes {found.numel()} channels, and its input has shape {shown(shape)}"
        )
    return found.flatten()


def snake(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a snake activation, with one frequency a channel and, if the file has it, one amplitude."""
    alpha = _channels(key, "alpha", tensors, shape)
    beta = _channels(key, "beta", tensors, shape) if tensors.get(f"{key}beta") is not None else None
    module = modules.Snake(len(alpha), settings["log"], beta=beta is not None)
    return tensors.put(module, alpha=alpha, beta=beta)


# what libraries call the maps of query, key, value and output
ATTENTION = (
    ("to_q", "to_k", "to_v", "to_out.0"),
    ("to_q", "to_k", "to_v", "to_out"),
    ("query", "key", "value", "proj_attn"),
    ("q", "k", "v", "proj_out"),
)


def attention(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a self-attention between places, its four maps told by the usual names; 1 x 1 convolutions will do."""
    names = next((n for n in ATTENTION if all(f"{key}{p}.weight" in tensors.tensors for p in n)), None)
    if names is None and f"{key}in_proj_weight" in tensors.tensors:
        W, b = tensors.need(f"{key}in_proj_weight"), tensors.get(f"{key}in_proj_bias")
        biases = b.chunk(3) if b is not None else (None,) * 3
        maps = [_map(*both, tensors) for both in zip(W.chunk(3), biases, strict=True)]
        maps.append(linear({}, f"{key}out_proj.", tensors, (W.shape[1],)))
    else:
        named = [f"{key}{part}." for part in names or ATTENTION[0]]
        maps = [_map(_square(tensors.need(f"{n}weight")), tensors.get(f"{n}bias"), tensors) for n in named]
    if maps[0].in_features != shape[0] or len(shape) < 2 or maps[0].out_features % settings["heads"]:
        raise Misfit(
            f"`{key}` takes {maps[0].in_features} channels in {settings['heads']} heads, and its input has shape {shown(shape)}"
        )
    q, k, v, out = maps
    return modules.SelfAttention(q, k, v, out, heads=settings["heads"])


def _square(W: Tensor) -> Tensor:
    return W.flatten(1) if W.ndim > 2 and math.prod(W.shape[2:]) == 1 else W


def _map(W: Tensor, b: Tensor | None, tensors: Tensors) -> Any:
    if W.ndim != 2:
        raise Misfit(f"a map of attention has a weight of shape {shown(W.shape)}, not of two axes")
    module = nn.Linear(W.shape[1], W.shape[0], bias=b is not None, device="meta", dtype=W.dtype)
    return tensors.put(module, weight=W, bias=b)


def gru(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a GRU over the first axis."""
    return _recurrent("gru", 3, settings, key, tensors, shape)


def lstm(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return an LSTM over the first axis."""
    return _recurrent("lstm", 4, settings, key, tensors, shape)


def _recurrent(
    cell: str, gates: int, settings: Settings, key: str, tensors: Tensors, shape: Shape
) -> nn.Module:
    W, U = tensors.need(f"{key}weight_ih_l0"), tensors.need(f"{key}weight_hh_l0")
    if (
        len(shape) != 2
        or W.ndim != 2
        or W.shape[1] != shape[1]
        or U.shape != (W.shape[0], W.shape[0] // gates)
    ):
        raise Misfit(
            f"`{key}weight_ih_l0` of shape {shown(W.shape)} takes steps of {W.shape[-1]} numbers, and its input has shape {shown(shape)}",
            hint="put { repeat = STEPS } before it" if len(shape) == 1 else None,
        )
    own = [k.removeprefix(key) for k in tensors.tensors if k.startswith((f"{key}weight_", f"{key}bias_"))]
    state = {k: tensors.need(f"{key}{k}").detach().to(tensors.dtype) for k in own}
    return modules.Recurrent(cell, state, settings["last"])


def prelu(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a parametric relu."""
    W = tensors.need(f"{key}weight")
    if W.ndim != 1 or W.shape[0] not in (1, shape[0]):
        raise Misfit(f"`{key}weight` has shape {shown(W.shape)}, and its input has shape {shown(shape)}")
    return tensors.put(nn.PReLU(W.shape[0], device="meta", dtype=W.dtype), weight=W)


def hardtanh(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return what cuts its input off at two values."""
    low, high = settings["min"], settings["max"]
    if low >= high:
        raise Misfit(f"nothing is between a `min` of {low:g} and a `max` of {high:g}")
    return nn.Hardtanh(low, high)


def softmax(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return a softmax over one axis of a row."""
    return nn.Softmax(_axis(settings, shape))


def log_softmax(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return the logarithm of a softmax over one axis of a row."""
    return nn.LogSoftmax(_axis(settings, shape))


def _axis(settings: Settings, shape: Shape) -> int:
    """Return which axis of a row a layer runs over."""
    axis, last = settings["axis"], len(shape)
    if not -last <= axis <= last:
        raise Misfit(
            f"there is no axis {axis} in an input of shape {shown(shape)}",
            hint=f"axes count from 1, the channels, to {last}, or from -1, the last, to -{last}",
        )
    return int(axis)


def reshape(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return what makes a map of rows."""
    wanted = tuple(settings["shape"])
    if math.prod(wanted) != math.prod(shape):
        raise Misfit(
            f"cannot make {shown(wanted)}, {math.prod(wanted)} numbers, of {shown(shape)}, {math.prod(shape)}"
        )
    unflatten = nn.Unflatten(1, wanted)
    return unflatten if len(shape) == 1 else nn.Sequential(nn.Flatten(1), unflatten)


def avg_pool(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return the mean over windows."""
    classes = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
    return _pool(classes, settings, shape, count_include_pad=settings["count_include_pad"])


def max_pool(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return the largest of windows."""
    return _pool((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), settings, shape)


def _pool(
    classes: tuple[Callable[..., nn.Module], ...], settings: Settings, shape: Shape, **more: object
) -> nn.Module:
    if len(shape) - 1 not in (1, 2, 3):
        raise Misfit(f"takes channels and one to three more axes, and its input has shape {shown(shape)}")
    return classes[len(shape) - 2](
        _axes(settings["kernel"]),
        stride=_axes(settings["stride"]) or None,
        padding=_axes(settings["padding"]),
        ceil_mode=settings["ceil_mode"],
        **more,
    )


def resize(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return an upsampling to a size."""
    return nn.Upsample(size=_axes(settings["size"]), mode=settings["mode"], align_corners=_corners(settings))


def upsample(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return an upsampling by a factor."""
    return nn.Upsample(
        scale_factor=tuple(map(float, settings["factor"]))
        if isinstance(settings["factor"], list)
        else float(settings["factor"]),
        mode=settings["mode"],
        align_corners=_corners(settings),
    )


def _corners(settings: Settings) -> bool | None:
    """Return whether corners are aligned, None where a mode knows none."""
    corners: bool = settings["align_corners"]
    if not settings["mode"].startswith("nearest"):
        return corners
    if corners:
        raise Misfit(
            f'mode "{settings["mode"]}" has no corners to align',
            hint='take `align_corners` out, or say another mode, such as mode = "bilinear"',
        )
    return None


def part(settings: Settings, key: str, tensors: Tensors, shape: Shape) -> nn.Module:
    """Return what takes a range of channels."""
    first, stop = settings["range"]
    if stop > shape[0]:
        raise Misfit(f"cannot take [{first}, {stop}) of an input of shape {shown(shape)}")
    return modules.Slice(settings["range"])
