"""What a pickled module records of its parts, as layers of a blueprint; no class is imported, and torch is not needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from vaeprobe.checkpoints.blueprint import KINDS, Layer
from vaeprobe.checkpoints.draft.blocks import Recorded
from vaeprobe.checkpoints.selection import PickledModule, submodules
from vaeprobe.files.inert import Built, Node
from vaeprobe.files.torch_pickles import text_of
from vaeprobe.files.trust import trust

__all__ = ["recorded"]

State = Mapping[str, Node]
CONVOLUTION = ("stride", "padding", "dilation", "groups", "padding_mode")
TRANSPOSED = ("stride", "padding", "output_padding", "dilation", "groups")

# class without its dimensions -> kind of layer and its options
CLASSES: Mapping[str, tuple[str, Callable[[State], Mapping[str, object]]]] = {
    "Linear": ("linear", lambda s: {}),
    "Conv": ("conv", lambda s: {k: _size(s.get(k)) for k in CONVOLUTION}),
    "ConvTranspose": ("conv_transpose", lambda s: {k: _size(s.get(k)) for k in TRANSPOSED}),
    "BatchNorm": ("batch_norm", lambda s: {"eps": s.get("eps")}),
    "InstanceNorm": ("instance_norm", lambda s: {"eps": s.get("eps")}),
    "GroupNorm": ("group_norm", lambda s: {"groups": s.get("num_groups"), "eps": s.get("eps")}),
    "LayerNorm": ("layer_norm", lambda s: {"eps": s.get("eps")}),
    "PReLU": ("prelu", lambda s: {}),
    "ReLU": ("relu", lambda s: {}),
    "ReLU6": ("relu6", lambda s: {}),
    "LeakyReLU": ("leaky_relu", lambda s: {"slope": s.get("negative_slope")}),
    "ELU": ("elu", lambda s: {"alpha": s.get("alpha")}),
    "CELU": ("celu", lambda s: {"alpha": s.get("alpha")}),
    "SELU": ("selu", lambda s: {}),
    "GELU": ("gelu", lambda s: {"approximate": s.get("approximate", "none")}),
    "SiLU": ("silu", lambda s: {}),
    "Mish": ("mish", lambda s: {}),
    "Hardswish": ("hardswish", lambda s: {}),
    "Softsign": ("softsign", lambda s: {}),
    "Tanh": ("tanh", lambda s: {}),
    "Sigmoid": ("sigmoid", lambda s: {}),
    "Softplus": ("softplus", lambda s: {"beta": s.get("beta")}),
    "Identity": ("identity", lambda s: {}),
    "Flatten": ("flatten", lambda s: {}),
    "Unflatten": ("reshape", lambda s: {"shape": _list(s.get("unflattened_size"))}),
    "PixelShuffle": ("pixel_shuffle", lambda s: {"factor": s.get("upscale_factor")}),
    "Dropout": ("dropout", lambda s: {"rate": s.get("p")}),
    "AvgPool": ("avg_pool", lambda s: {"kernel": _size(s.get("kernel_size")), "stride": _size(s.get("stride"))}),
    "MaxPool": ("max_pool", lambda s: {"kernel": _size(s.get("kernel_size")), "stride": _size(s.get("stride"))}),
    "Upsample": (
        "upsample",
        lambda s: {
            "factor": _whole(s.get("scale_factor")),
            "mode": s.get("mode", "nearest"),
            "align_corners": bool(s.get("align_corners")),
        },
    ),
    "UpsamplingNearest": ("upsample", lambda s: {"factor": _whole(s.get("scale_factor"))}),
}  # fmt: skip
WEIGHTED = frozenset(name for name, kind in KINDS.items() if kind.weighted)


def recorded(module: PickledModule) -> tuple[Recorded, ...]:
    """Return the parts of a pickled module that have no parts themselves, in its order."""
    return tuple(_leaves(module))


def _leaves(module: PickledModule) -> Iterator[Recorded]:
    parts = {"": module, **dict(submodules(module))}
    for name, part in parts.items():
        if any(submodules(part)):
            continue
        parent = parts.get(name.rpartition(".")[0], part)  # a name may hold a dot of its own
        ordered = trust(parent.maker) == "layer" and parent.maker.name == "Sequential"
        cls = part.maker.name
        yield Recorded(name, _layer(name, part) if trust(part.maker) == "layer" else None, cls, ordered)


def _layer(name: str, part: PickledModule) -> Layer | None:
    """Return a layer of torch as a blueprint says it, None where it cannot."""
    state = {text_of(k): v for k, v in part.state.items()}
    found = CLASSES.get(part.maker.name.rstrip("123d") if part.maker.name[-1] == "d" else part.maker.name)
    if found is None:
        return None
    kind, options = found
    known = KINDS[kind].options
    own = {k: v for k, v in options(state).items() if v is not None and v != known[k].default}
    wanted = [k for k, option in known.items() if option.default is None]
    if not all(known[k].check(v) for k, v in own.items()) or not set(wanted) <= set(own):
        return None
    return Layer(kind, key=name if kind in WEIGHTED else None, options=own)


def _size(value: Node) -> object:
    if isinstance(value, tuple) and value and all(isinstance(v, (int, float)) for v in value):
        return value[0] if len(set(value)) == 1 else list(value)
    return value


def _list(value: Node) -> object:
    if isinstance(value, Built) and value.by("torch.Size"):
        value = value.args[0] if value.args else None
    return list(value) if isinstance(value, (tuple, list)) else None


def _whole(value: Node) -> object:
    one = _size(value)
    if isinstance(one, list):
        numbers = [v for v in one if isinstance(v, (int, float)) and float(v).is_integer()]
        return [int(v) for v in numbers] if len(numbers) == len(one) else None
    return int(one) if isinstance(one, (int, float)) and float(one).is_integer() else None
