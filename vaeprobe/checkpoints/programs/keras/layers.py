"""The table of Keras layers: what each computes on channels-last tensors, from its configuration and weights.

A row takes a `Layer` and returns what it computes, as a function of the layer's inputs and weights.  The activation
that a layer carries is a step of its own, so that the last one can come off.

Source: Keras 3.15, `keras/src/layers`, `keras/src/ops/nn.py`; where Keras 2 differs, the file's version decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.checkpoints.programs.operators import LARGEST
from vaeprobe.errors import InputError, ResourceError, UnsafeError
from vaeprobe.files.source import quoted

__all__ = ["ACTIVATIONS", "IDENTITIES", "LAYERS", "Layer", "activation_of", "charge"]


@dataclass(frozen=True)
class Layer:
    """A layer of a file.

    Attributes:
        kind: its class.
        config: its settings.
        version: major version of Keras that wrote it.
        count: how many weights it has.
    """

    kind: str
    config: Mapping[str, Any]
    version: int
    count: int = 0

    def unsupported(self, what: str) -> InputError:
        """Return the error that a form of the layer is not supported."""
        return InputError(
            f"the Keras layer {quoted(str(self.config.get('name', self.kind)))} ({self.kind}) is used {what}, which is not supported",
            hint="export the decoder to ONNX, or give its weights and a blueprint",
        )

    def sizes(self, name: str, n: int, default: int = 1) -> list[int]:
        """Return a setting with one number per axis."""
        value = self.config.get(name)
        value = default if value is None else value
        out = [int(value)] * n if isinstance(value, (int, float)) else [int(v) for v in value]
        if len(out) != n or any(not 0 <= v <= 1 << 20 for v in out):
            raise InputError(f"the setting {quoted(name)} of a Keras {self.kind} is {value}")
        return out

    @property
    def channels_last(self) -> bool:
        return self.config.get("data_format", "channels_last") in ("channels_last", None)


Function = Callable[..., Tensor]
LAYERS: dict[str, Callable[[Layer], Function]] = {}
# nothing happens in them outside training
IDENTITIES = {
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise", "GaussianDropout", "AlphaDropout",
    "ActivityRegularization", "Identity", "InputLayer",
}  # fmt: skip


def _layer(*kinds: str) -> Callable[[Callable[[Layer], Function]], Callable[[Layer], Function]]:
    def add(row: Callable[[Layer], Function]) -> Callable[[Layer], Function]:
        LAYERS.update(dict.fromkeys(kinds, row))
        return row

    return add


def charge(shape: Sequence[int]) -> None:
    """Check the size of a result before it is computed."""
    total = 1
    for n in shape:
        total *= max(int(n), 1)
    if total > LARGEST:
        raise ResourceError(
            f"the Keras model makes a tensor of shape {tuple(shape)}, more than {LARGEST:,} numbers"
        )


# -- activations ------------------------------------------------------------------------------------


def _hard_sigmoid_3(x: Tensor) -> Tensor:
    return F.relu6(x + 3) / 6


def _hard_sigmoid_2(x: Tensor) -> Tensor:
    return torch.clamp(0.2 * x + 0.5, 0.0, 1.0)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x, "relu": torch.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softplus": F.softplus,
    "softsign": F.softsign, "elu": F.elu, "selu": F.selu, "celu": F.celu, "gelu": F.gelu, "silu": F.silu, "swish": F.silu, "mish": F.mish,
    "exponential": torch.exp, "softmax": lambda x: torch.softmax(x, -1), "log_softmax": lambda x: torch.log_softmax(x, -1),
    "hard_silu": F.hardswish, "hard_swish": F.hardswish, "tanh_shrink": F.tanhshrink, "log_sigmoid": F.logsigmoid,
}  # fmt: skip


def activation_of(value: Any, version: int) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Return the name of an activation, as programs call it ("exp" for `exponential`), and what it computes.

    Raises:
        InputError: it is not known.
        UnsafeError: it is code.
    """
    if isinstance(value, dict):
        kind, config = value.get("class_name"), value.get("config")
        if kind == "function" and isinstance(config, str):
            value = config
        elif kind in LAYERS and isinstance(config, dict):
            return str(kind).lower(), LAYERS[kind](Layer(str(kind), config, version))
        elif kind == "__lambda__":
            raise UnsafeError("an activation of the Keras model is code")
        else:
            value = kind
    if value is None:
        value = "linear"
    if value == "leaky_relu":
        return "leaky_relu", partial(F.leaky_relu, negative_slope=0.2)
    if value == "hard_sigmoid":
        return "hard_sigmoid", _hard_sigmoid_3 if version >= 3 else _hard_sigmoid_2
    if value not in ACTIVATIONS:
        raise InputError(f"the Keras activation {quoted(str(value))} is not supported")
    return {"exponential": "exp"}.get(str(value), str(value)), ACTIVATIONS[str(value)]


@_layer("Activation")
def _activation(layer: Layer) -> Function:
    return activation_of(layer.config.get("activation"), layer.version)[1]


def _number(value: Any, default: float) -> float:
    """Return a setting that old files keep as an array in a dictionary."""
    if isinstance(value, dict):
        value = (value.get("config") or {}).get("value", value.get("value"))
    return default if value is None else float(value)


@_layer("LeakyReLU")
def _leaky_relu(layer: Layer) -> Function:
    slope = layer.config.get("negative_slope", layer.config.get("alpha"))
    return partial(F.leaky_relu, negative_slope=_number(slope, 0.3))


@_layer("ReLU")
def _relu(layer: Layer) -> Function:
    most = layer.config.get("max_value")
    slope, threshold = (
        _number(layer.config.get("negative_slope"), 0.0),
        _number(layer.config.get("threshold"), 0.0),
    )

    def run(x: Tensor) -> Tensor:
        y = torch.where(x >= threshold, x, slope * (x - threshold))
        return y if most is None else torch.clamp(y, max=_number(most, 0.0))

    return torch.relu if most is None and not slope and not threshold else run


@_layer("ELU")
def _elu(layer: Layer) -> Function:
    return partial(F.elu, alpha=_number(layer.config.get("alpha"), 1.0))


@_layer("PReLU")
def _prelu(layer: Layer) -> Function:
    return lambda x, alpha: torch.where(x >= 0, x, alpha * x)


@_layer("Softmax")
def _softmax(layer: Layer) -> Function:
    axis = layer.config.get("axis", -1)
    return lambda x: torch.softmax(x, axis)


# -- dense layers and shapes ------------------------------------------------------------------------


@_layer("Dense")
def _dense(layer: Layer) -> Function:
    return lambda x, kernel, bias=None: F.linear(x, kernel.t(), bias)


@_layer("Flatten")
def _flatten(layer: Layer) -> Function:
    if not layer.channels_last:
        raise layer.unsupported("channels first")
    return lambda x: x.reshape(x.shape[0], -1)


@_layer("Reshape")
def _reshape(layer: Layer) -> Function:
    shape = [int(n) for n in layer.config["target_shape"]]
    return lambda x: x.reshape(x.shape[0], *shape)


@_layer("Permute")
def _permute(layer: Layer) -> Function:
    order = [int(n) for n in layer.config["dims"]]
    return lambda x: x.permute(0, *order)


@_layer("RepeatVector")
def _repeat_vector(layer: Layer) -> Function:
    n = int(layer.config["n"])

    def run(x: Tensor) -> Tensor:
        charge((x.shape[0], n, x.shape[1]))
        return x.unsqueeze(1).expand(-1, n, -1)

    return run


@_layer("Embedding")
def _embedding(layer: Layer) -> Function:
    return lambda x, table: F.embedding(x.to(torch.int64), table)


@_layer("Rescaling")
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


@_layer("BatchNormalization")
def _batch_norm(layer: Layer) -> Function:
    eps = _number(layer.config.get("epsilon"), 1e-3)

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        gamma, beta, (mean, variance) = _scaled(layer, weights)
        (axis,) = _axes(layer, x.ndim)
        return F.batch_norm(x.movedim(axis, 1), mean, variance, gamma, beta, False, 0.0, eps).movedim(1, axis)

    return run


@_layer("LayerNormalization")
def _layer_norm(layer: Layer) -> Function:
    eps = _number(layer.config.get("epsilon"), 1e-3)

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        axes = _axes(layer, x.ndim)
        if axes != list(range(x.ndim - len(axes), x.ndim)) or layer.config.get("rms_scaling"):
            raise layer.unsupported("over axes that are not the last")
        gamma, beta, _ = _scaled(layer, weights)
        return F.layer_norm(x, list(x.shape[axes[0] :]), gamma, beta, eps)

    return run


@_layer("GroupNormalization")
def _group_norm(layer: Layer) -> Function:
    groups, eps = int(layer.config.get("groups", 32)), _number(layer.config.get("epsilon"), 1e-3)

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        gamma, beta, _ = _scaled(layer, weights)
        (axis,) = _axes(layer, x.ndim)
        n = x.shape[axis] if groups == -1 else groups
        return F.group_norm(x.movedim(axis, 1), n, gamma, beta, eps).movedim(1, axis)

    return run


@_layer("UnitNormalization")
def _unit_norm(layer: Layer) -> Function:
    return lambda x: x * torch.rsqrt((x * x).sum(_axes(layer, x.ndim), keepdim=True).clamp_min(1e-12))


# -- convolutions and pooling -----------------------------------------------------------------------

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _first(x: Tensor, layer: Layer) -> Tensor:
    """Return a tensor with channels first, as torch's convolutions want it."""
    return x.movedim(-1, 1) if layer.channels_last else x


def _back(x: Tensor, layer: Layer) -> Tensor:
    return x.movedim(1, -1) if layer.channels_last else x


def _padding(
    layer: Layer, x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the zeros before and after each axis."""
    mode = layer.config.get("padding", "valid")
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


def _axes_of_space(layer: Layer) -> int:
    return next(int(a) for a, b in pairwise(layer.kind) if a.isdigit() and b == "D")


def _kernel_first(kernel: Tensor) -> Tensor:
    """(k..., in, out) -> (out, in, k...), and (k..., out, in) -> (in, out, k...)."""
    n = kernel.ndim
    return kernel.permute(n - 1, n - 2, *range(n - 2))


@_layer("Conv1D", "Conv2D", "Conv3D")
def _conv(layer: Layer) -> Function:
    n = _axes_of_space(layer)
    strides, dilations = layer.sizes("strides", n), layer.sizes("dilation_rate", n)
    groups = int(layer.config.get("groups", 1))

    def run(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        y = _first(x, layer)
        before, after = _padding(layer, y, kernel.shape[:n], strides, dilations)
        even = before == after
        y = y if even else _padded(y, before, after)
        charge((y.shape[0], kernel.shape[-1], *y.shape[2:]))
        out = _CONV[n](y, _kernel_first(kernel), bias, strides, before if even else 0, dilations, groups)
        return _back(out, layer)

    return run


@_layer("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def _conv_transpose(layer: Layer) -> Function:
    n = _axes_of_space(layer)
    strides, dilations = layer.sizes("strides", n), layer.sizes("dilation_rate", n)
    mode, extra = layer.config.get("padding", "valid"), layer.config.get("output_padding")

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


@_layer("DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise(layer: Layer) -> Function:
    n = _axes_of_space(layer)
    strides, dilations = layer.sizes("strides", n), layer.sizes("dilation_rate", n)

    def run(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        y = _first(x, layer)
        y = _padded(y, *_padding(layer, y, kernel.shape[:n], strides, dilations))
        channels, each = kernel.shape[-2:]
        weight = kernel.permute(n, n + 1, *range(n)).reshape(channels * each, 1, *kernel.shape[:n])
        return _back(_CONV[n](y, weight, bias, strides, 0, dilations, channels), layer)

    return run


@_layer("SeparableConv1D", "SeparableConv2D")
def _separable(layer: Layer) -> Function:
    depthwise = _depthwise(layer)

    def run(x: Tensor, kernel: Tensor, points: Tensor, bias: Tensor | None = None) -> Tensor:
        y = _first(depthwise(x, kernel), layer)
        n = y.ndim - 2
        return _back(_CONV[n](y, _kernel_first(points), bias), layer)

    return run


@_layer("UpSampling1D", "UpSampling2D", "UpSampling3D")
def _upsampling(layer: Layer) -> Function:
    n = _axes_of_space(layer)
    factors = layer.sizes("size", n, 2)
    mode = layer.config.get("interpolation", "nearest")
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


def _pairs(value: Any, n: int) -> tuple[list[int], list[int]]:
    """Return what a padding or cropping setting says before and after each axis."""
    if isinstance(value, int):
        value = [value] * n
    both = [[int(v)] * 2 if isinstance(v, int) else [int(w) for w in v] for v in value]
    if (
        n == 1
        and isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(v, int) for v in value)
    ):
        both = [[int(v) for v in value]]
    if len(both) != n or any(len(b) != 2 or min(b) < 0 for b in both):
        raise InputError("a padding or cropping of the Keras model is damaged")
    return [b[0] for b in both], [b[1] for b in both]


@_layer("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def _zero_padding(layer: Layer) -> Function:
    before, after = _pairs(layer.config.get("padding", 1), _axes_of_space(layer))
    return lambda x: _back(_padded(_first(x, layer), before, after), layer)


@_layer("Cropping1D", "Cropping2D", "Cropping3D")
def _cropping(layer: Layer) -> Function:
    before, after = _pairs(layer.config.get("cropping", 1), _axes_of_space(layer))

    def run(x: Tensor) -> Tensor:
        y = _first(x, layer)
        for i, (b, a) in enumerate(zip(before, after, strict=True)):
            y = y.narrow(2 + i, b, y.shape[2 + i] - b - a)
        return _back(y, layer)

    return run


@_layer(
    "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D"
)
def _pooling(layer: Layer) -> Function:
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


@_layer(*(f"Global{what}Pooling{n}D" for what in ("Average", "Max") for n in (1, 2, 3)))
def _global_pooling(layer: Layer) -> Function:
    n = _axes_of_space(layer)
    keep = bool(layer.config.get("keepdims", False))

    def run(x: Tensor) -> Tensor:
        axes = list(range(1, 1 + n)) if layer.channels_last else list(range(2, 2 + n))
        return x.mean(axes, keepdim=keep) if "Average" in layer.kind else x.amax(axes, keepdim=keep)

    return run


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


@_layer("Concatenate")
def _concatenate(layer: Layer) -> Function:
    axis = int(layer.config.get("axis", -1))
    return lambda *xs: torch.cat(xs, axis)


# -- recurrence -------------------------------------------------------------------------------------


def _recurrent(layer: Layer, gates: int, step: Callable[..., tuple[Tensor, ...]], states: int) -> Function:
    if layer.config.get("return_state") or layer.config.get("stateful"):
        raise layer.unsupported("with its states returned or kept")
    units, backwards = int(layer.config["units"]), bool(layer.config.get("go_backwards"))
    sequences = bool(layer.config.get("return_sequences"))

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


def _gate_activations(layer: Layer) -> tuple[Function, Function]:
    return tuple(
        activation_of(layer.config.get(k, d), layer.version)[1]
        for k, d in (("activation", "tanh"), ("recurrent_activation", "sigmoid"))
    )  # type: ignore[return-value]


@_layer("LSTM")
def _lstm(layer: Layer) -> Function:
    act, gate = _gate_activations(layer)

    def step(
        x: Tensor, state: Any, kernel: Tensor, recurrent: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        h, c = state
        i, f, g, o = (F.linear(x, kernel.t(), bias) + F.linear(h, recurrent.t())).chunk(4, -1)
        c = gate(f) * c + gate(i) * act(g)
        return gate(o) * act(c), c

    return _recurrent(layer, 4, step, 2)


@_layer("GRU")
def _gru(layer: Layer) -> Function:
    act, gate = _gate_activations(layer)
    after = bool(layer.config.get("reset_after", layer.version >= 2))

    def step(
        x: Tensor, state: Any, kernel: Tensor, recurrent: Tensor, bias: Tensor | None
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


@_layer("SimpleRNN")
def _simple_rnn(layer: Layer) -> Function:
    act = activation_of(layer.config.get("activation", "tanh"), layer.version)[1]

    def step(
        x: Tensor, state: Any, kernel: Tensor, recurrent: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        return (act(F.linear(x, kernel.t(), bias) + F.linear(state[0], recurrent.t())),)

    return _recurrent(layer, 1, step, 1)


def _wrapped(layer: Layer) -> Layer:
    inner = layer.config.get("layer")
    if (
        not isinstance(inner, dict)
        or inner.get("class_name") not in LAYERS
        or not isinstance(inner.get("config"), dict)
    ):
        raise layer.unsupported("around a layer that is not known")
    return Layer(str(inner["class_name"]), inner["config"], layer.version, layer.count)


@_layer("Bidirectional")
def _bidirectional(layer: Layer) -> Function:
    inner = _wrapped(layer)
    merge = layer.config.get("merge_mode", "concat")
    forward = LAYERS[inner.kind](inner)
    backward = LAYERS[inner.kind](Layer(inner.kind, {**inner.config, "go_backwards": True}, inner.version))
    sequences = bool(inner.config.get("return_sequences"))
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


@_layer("TimeDistributed")
def _time_distributed(layer: Layer) -> Function:
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
