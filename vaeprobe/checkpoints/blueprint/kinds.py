"""What a blueprint knows of layers: one row of `KINDS` each, with its settings, how it is built and how it is recognised.

Reading blueprints needs no torch, so a row names the modules that it stands for, and a layer with weights the function
of `network.build` that makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import not_
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ALIASES", "KINDS", "Accepts", "Kind", "Option", "number", "pair", "whole"]

Accepts: TypeAlias = Callable[[object], bool]
# by the names of options, each of which accepts its value
Settings: TypeAlias = Mapping[str, Any]


# -- what a setting may be ------------------------------------------------------------------------


def whole(low: int) -> Accepts:
    """Return the check of a whole number, at least `low`."""
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v < 1 << 31


def number(v: object) -> TypeGuard[float]:
    """Return whether a value is a real number."""
    return isinstance(v, (int, float)) and not isinstance(v, bool)


def pair(v: object) -> bool:
    """Return whether a value is [low, high]."""
    return isinstance(v, list) and len(v) == 2 and all(map(number, v)) and bool(v[0] < v[1])


def _sizes(low: int) -> Accepts:
    one = whole(low)
    return lambda v: one(v) or (isinstance(v, list) and 1 <= len(v) <= 3 and all(map(one, v)))


def _either(*words: str) -> Accepts:
    return lambda v: v in words


def _flag(v: object) -> bool:
    return isinstance(v, bool)


def _there(value: object) -> bool:
    return value is not None


def _absent(value: object) -> bool:
    return value is None


def _length(value: object) -> object:
    """Return how many axes a module's attribute names."""
    return len(value) if isinstance(value, tuple) else value


def _listed(value: object) -> object:
    """Return a module's attribute as TOML writes it."""
    return list(value) if isinstance(value, tuple) else value


def _per_axis(value: object) -> object:
    """Return a convolution's attribute as TOML writes it: one number where all axes agree."""
    if value == "valid":
        return 0
    if isinstance(value, tuple):
        return value[0] if len(set(value)) == 1 else list(value)
    return value


def _factor(value: object) -> object:
    """Return the factor of an upsampling, a whole number or one per axis."""
    if isinstance(value, tuple):
        return [_factor(v) for v in value]
    return int(value) if isinstance(value, (int, float)) and value == int(value) else value


@dataclass(frozen=True)
class Option:
    """A setting of a layer.

    Attributes:
        check: whether a value will do.
        default: None where it must be given.
        wants: what it must be, in words.
        read: from a module's attribute to what TOML says.
    """

    check: Accepts
    default: object
    wants: str
    read: Callable[[object], object] = _listed


def _real(default: float | None) -> Option:
    return Option(number, default, "a number")


def _positive(default: float) -> Option:
    return Option(lambda v: number(v) and v > 0, default, "a positive number")


def _count(default: int | None) -> Option:
    return Option(whole(1), default, "a positive whole number")


_STRIDE = Option(_sizes(1), 1, "a positive whole number, or one per axis", _per_axis)
_PADDING = Option(
    lambda v: _sizes(0)(v) or v == "same", 0, 'a whole number, one per axis, or "same"', _per_axis
)
_EXTRA = Option(_sizes(0), 0, "a whole number, or one per axis", _per_axis)
_EPS = Option(lambda v: number(v) and v > 0, 1e-5, "a small positive number")
_FILL = Option(
    _either("zeros", "reflect", "replicate", "circular"), "zeros", "zeros, reflect, replicate or circular"
)
_SHAPE = Option(
    lambda v: isinstance(v, list) and 1 <= len(v) <= 5 and all(map(whole(1), v)),
    None,
    "a list of positive whole numbers",
)
_MODE = Option(
    _either("nearest", "nearest-exact", "bilinear", "linear", "bicubic", "trilinear"),
    "nearest",
    "nearest, nearest-exact, linear, bilinear, bicubic or trilinear",
)
_CORNERS = Option(_flag, False, "true or false", bool)
_AXIS = Option(
    lambda v: isinstance(v, int) and not isinstance(v, bool) and v != 0 and abs(v) < 1 << 31,
    1,
    "an axis after the batch: 1 for channels, -1 for the last",
)


def _axes_of_padding(v: object) -> bool:
    return isinstance(v, list) and len(v) in (2, 4, 6) and all(map(whole(0), v))


def _permutation(v: object) -> bool:
    return isinstance(v, list) and all(map(whole(1), v)) and sorted(v) == list(range(1, len(v) + 1))


def _first_and_stop(v: object) -> bool:
    return isinstance(v, list) and pair(v) and all(map(whole(0), v))


# -- a kind of layer ------------------------------------------------------------------------------

Build: TypeAlias = "Callable[[Settings, str, object, tuple[int, ...]], nn.Module]"


def _late(name: str) -> Build:
    """Return a function of `network.build`, which imports torch when it is first called."""

    def call(settings: Settings, key: str, weights: object, shape: tuple[int, ...]) -> nn.Module:
        from vaeprobe.checkpoints.network import build

        made: nn.Module = getattr(build, name)(settings, key, weights, shape)
        return made

    return call


@dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        main: what the value beside its name is: "key" (a tensor name), "key?" (one that may be left out), "layers",
            "condition" (a condition's name), "branches" (several lists of layers), or one of the options.
        options: further settings.
        modules: the classes that are this layer, of `torch.nn` or `network.modules`; empty where none is recognised.
        attributes: what a module calls an option, where not by its name.
        fixed: attributes that a module must have to be this layer; given to it when it is made.
        only: what else a module must be to be this layer, by attribute.
        build: makes it from settings, the stem of its tensors' names, weights and the shape it is given; by default
            the first of `modules`, given the options.
    """

    main: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)
    only: Mapping[str, Accepts] = field(default_factory=dict)
    build: Build | None = None

    @property
    def weighted(self) -> bool:
        return self.main in ("key", "key?")

    @property
    def bare(self) -> bool:
        """Whether the name alone will do."""
        return self.main not in ("key", "layers", "condition", "branches") and all(
            o.default is not None for o in self.options.values()
        )

    def make(self, settings: Settings, key: str, weights: object, shape: tuple[int, ...]) -> nn.Module:
        """Return the layer as a module; `settings` holds every option."""
        if self.build is not None:
            return self.build(settings, key, weights, shape)
        cls: Callable[..., nn.Module] = self._classes()[0]
        given = {self.attributes.get(name, name): value for name, value in settings.items()}
        return cls(**given, **self.fixed)

    def settings_of(self, module: nn.Module) -> dict[str, object] | None:
        """Return the settings with which a module is this layer, None where it is another."""
        if type(module) not in self._classes():
            return None
        if not all(check(getattr(module, name)) for name, check in self.only.items()):
            return None
        if any(getattr(module, name) != value for name, value in self.fixed.items()):
            return None
        return {
            name: option.read(getattr(module, self.attributes.get(name, name)))
            for name, option in self.options.items()
        }

    def _classes(self) -> list[type[nn.Module]]:
        from torch import nn

        from vaeprobe.checkpoints.network import modules

        return [getattr(nn, name, None) or getattr(modules, name) for name in self.modules]


def _in_dimensions(name: str) -> tuple[str, ...]:
    return tuple(f"{name}{axes}d" for axes in (1, 2, 3))


_CONV = {
    "stride": _STRIDE,
    "padding": _PADDING,
    "dilation": _STRIDE,
    "groups": _count(1),
    "padding_mode": _FILL,
}
_CONV_TRANSPOSE = {
    "stride": _STRIDE,
    "padding": _EXTRA,
    "output_padding": _EXTRA,
    "dilation": _STRIDE,
    "groups": _count(1),
}
_POOL = {
    "kernel": Option(_sizes(1), None, "a positive whole number, or one per axis"),
    "stride": Option(_sizes(0), 0, "a whole number"),
    "padding": _EXTRA,
    "ceil_mode": Option(_flag, False, "true or false"),
}
_AXES = {"axes": Option(whole(1), 1, "a positive whole number", _length), "eps": _EPS}
JOINS = ("concat", "stack", "add", "multiply")
_LAST = {"last": Option(_flag, False, "true or false")}

KINDS: Mapping[str, Kind] = {
    # with weights
    "linear": Kind("key", modules=("Linear",), build=_late("linear")),
    "conv": Kind("key", _CONV, modules=_in_dimensions("Conv"), build=_late("conv")),
    "conv_transpose": Kind("key", _CONV_TRANSPOSE, modules=_in_dimensions("ConvTranspose"), build=_late("conv_transpose")),
    "batch_norm": Kind("key", {"eps": _EPS}, modules=_in_dimensions("BatchNorm"), only={"running_mean": _there}, build=_late("batch_norm")),
    "instance_norm": Kind("key?", {"eps": _EPS}, modules=_in_dimensions("InstanceNorm"), build=_late("instance_norm")),
    "group_norm": Kind("key?", {"groups": _count(None), "eps": _EPS}, modules=("GroupNorm",), attributes={"groups": "num_groups"}, build=_late("group_norm")),
    "layer_norm": Kind("key?", _AXES, modules=("LayerNorm",), attributes={"axes": "normalized_shape"}, build=_late("layer_norm")),
    "rms_norm": Kind("key?", {"eps": _EPS}, modules=("ChannelRMSNorm",), build=_late("rms_norm")),
    "channel_norm": Kind("key?", {"eps": _EPS}, modules=("ChannelNorm",), build=_late("channel_norm")),
    "prelu": Kind("key", modules=("PReLU",), build=_late("prelu")),
    "snake": Kind("key", {"log": Option(_flag, True, "true or false")}, modules=("Snake",), build=_late("snake")),
    "attention": Kind("key", {"heads": _count(1)}, modules=("SelfAttention",), build=_late("attention")),
    "gru": Kind("key", _LAST, modules=("Recurrent",), only={"cell": _either("gru")}, build=_late("gru")),
    "lstm": Kind("key", _LAST, modules=("Recurrent",), only={"cell": _either("lstm")}, build=_late("lstm")),
    # of layers
    "residual": Kind("layers"),
    "parallel": Kind("branches", {"join": Option(_either(*JOINS), "concat", f"one of {', '.join(JOINS)}")}),
    # of what the decoder is held at
    "concat": Kind("condition"),
    "add": Kind("condition"),
    "multiply": Kind("condition"),
    # activations
    "relu": Kind(modules=("ReLU",)),
    "relu6": Kind(modules=("ReLU6",)),
    "leaky_relu": Kind("slope", {"slope": _real(0.01)}, modules=("LeakyReLU",), attributes={"slope": "negative_slope"}),
    "elu": Kind("alpha", {"alpha": _real(1.0)}, modules=("ELU",)),
    "celu": Kind("alpha", {"alpha": _real(1.0)}, modules=("CELU",)),
    "selu": Kind(modules=("SELU",)),
    "gelu": Kind("approximate", {"approximate": Option(_either("none", "tanh"), "none", '"none" or "tanh"')}, modules=("GELU",)),
    "silu": Kind(modules=("SiLU",)),
    "mish": Kind(modules=("Mish",)),
    "hardswish": Kind(modules=("Hardswish",)),
    "softsign": Kind(modules=("Softsign",)),
    "tanh": Kind(modules=("Tanh",)),
    "sigmoid": Kind(modules=("Sigmoid",)),
    "softplus": Kind("beta", {"beta": _positive(1.0), "threshold": _positive(20.0)}, modules=("Softplus",)),
    "exp": Kind(modules=("Exp",)),
    "log1p": Kind(modules=("Log1p",)),
    "sine": Kind("frequency", {"frequency": _real(1.0)}, modules=("Sine",)),
    "softmax": Kind(options={"axis": _AXIS}, modules=("Softmax",), attributes={"axis": "dim"}, build=_late("softmax")),
    "log_softmax": Kind(options={"axis": _AXIS}, modules=("LogSoftmax",), attributes={"axis": "dim"}, build=_late("log_softmax")),
    "hardtanh": Kind(options={"min": _real(-1.0), "max": _real(1.0)}, modules=("Hardtanh",), attributes={"min": "min_val", "max": "max_val"}, build=_late("hardtanh")),
    "identity": Kind(modules=("Identity",)),
    "scale": Kind("factor", {"factor": _real(None)}, modules=("Scale",)),
    "shift": Kind("amount", {"amount": _real(None)}, modules=("Shift",)),
    "clamp": Kind("range", {"range": Option(pair, None, "[low, high]")}, modules=("Clamp",)),
    "l2_normalise": Kind(modules=("L2Normalise",)),
    "dropout": Kind("rate", {"rate": Option(lambda v: number(v) and 0 <= v <= 1, 0.5, "a number in [0, 1]")}, modules=("Dropout", "Dropout1d", "Dropout2d", "Dropout3d"), attributes={"rate": "p"}),
    # shapes
    "reshape": Kind("shape", {"shape": _SHAPE}, modules=("Unflatten",), attributes={"shape": "unflattened_size"}, fixed={"dim": 1}, build=_late("reshape")),
    "flatten": Kind(modules=("Flatten",), fixed={"start_dim": 1, "end_dim": -1}),
    "permute": Kind("axes", {"axes": Option(_permutation, None, "the axes after the batch in their new order, such as [2, 1]")}, modules=("Permute",)),
    "slice": Kind("range", {"range": Option(_first_and_stop, None, "[first, one past the last]")}, modules=("Slice",), build=_late("part")),
    "repeat": Kind("times", {"times": _count(None)}, modules=("Repeat",)),
    "repeat_channels": Kind("times", {"times": _count(None)}, modules=("RepeatChannels",)),
    "pad": Kind("amount", {"amount": Option(_axes_of_padding, None, "[left, right], [left, right, top, bottom], ..."), "mode": _FILL}, modules=("Pad",)),
    "upsample": Kind("factor", {"factor": Option(_sizes(1), None, "a positive whole number, or one per axis", _factor), "mode": _MODE, "align_corners": _CORNERS}, modules=("Upsample",), attributes={"factor": "scale_factor"}, only={"size": _absent, "recompute_scale_factor": not_}, build=_late("upsample")),
    "resize": Kind("size", {"size": Option(_sizes(1), None, "a positive whole number, or one per axis"), "mode": _MODE, "align_corners": _CORNERS}, modules=("Upsample",), only={"size": _there}, build=_late("resize")),
    "pixel_shuffle": Kind("factor", {"factor": _count(None)}, modules=("PixelShuffle",), attributes={"factor": "upscale_factor"}),
    "avg_pool": Kind("kernel", {**_POOL, "count_include_pad": Option(_flag, True, "true or false")}, build=_late("avg_pool")),
    "max_pool": Kind("kernel", _POOL, build=_late("max_pool")),
}  # fmt: skip

ALIASES = {"swish": "silu", "lrelu": "leaky_relu", "leakyrelu": "leaky_relu", "view": "reshape", "unflatten": "reshape", "convT": "conv_transpose",
           "conv2d": "conv", "conv1d": "conv", "conv_transpose2d": "conv_transpose", "conv_transpose1d": "conv_transpose",
           "batchnorm": "batch_norm", "groupnorm": "group_norm", "layernorm": "layer_norm", "logits": "identity", "sin": "sine",
           "l2_normalize": "l2_normalise", "transpose": "permute"}  # fmt: skip
