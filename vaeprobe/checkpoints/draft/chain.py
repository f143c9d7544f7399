"""Layers so far, the shape that comes out of them, and a step for each kind of layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from vaeprobe.checkpoints.blueprint import KINDS, Layer
from vaeprobe.checkpoints.draft.blocks import Block, Recorded, Shape
from vaeprobe.files.source import quoted

__all__ = ["STAND_IN", "STEPS", "Broken", "Chain", "Unsaid", "hidden_of", "product"]


STAND_IN = 2  # a number of steps to go on with where nothing tells any


class Broken(Exception):
    """The layers do not follow one another."""


class NoSize(Broken):
    """The first layer takes a map, and nothing says its size."""


class Unsaid(Broken):
    """Nothing says along how many steps, or between which places, a layer works; `steps` alone would do where that is so."""

    def __init__(self, message: str, *, steps: bool = False) -> None:
        super().__init__(message)
        self.steps = steps


@dataclass
class Chain:
    """Layers found so far, the shape that comes out of them, and what was assumed on the way.

    `stand_in` is a number of steps to go on with where nothing tells any.
    """

    latents: int
    shape: Shape
    recorded: Mapping[str, Recorded] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    assumptions: dict[str, list[str]] = field(default_factory=dict)
    steps: bool = False
    doubled: frozenset[str] = frozenset()
    size: Shape | None = None
    stand_in: int | None = None

    def assume(self, what: str, about: str = "") -> str:
        names = self.assumptions.setdefault(what, [])
        if about and about not in names:
            names.append(about)
        return what


def _linear(chain: Chain, block: Block, following: Block | None) -> None:
    if chain.steps and len(chain.shape) == 2 and chain.shape[1] == block.weight[1]:
        chain.assume("a linear layer after a recurrent one is taken at each step", block.name)
        chain.layers.append(Layer("linear", block.name))
        chain.shape = (chain.shape[0], block.weight[0])
        return
    if math.prod(chain.shape) != block.weight[1]:
        raise Broken(
            f"{quoted(block.name)} takes {block.weight[1]} numbers, and what comes before it returns {product(chain.shape)}"
        )
    if len(chain.shape) > 1:
        chain.layers.append(Layer("flatten"))
    chain.layers.append(Layer("linear", block.name))
    chain.shape = (block.weight[0],)


def _conv(chain: Chain, block: Block, following: Block | None) -> None:
    a, b, *kernel = block.weight
    outputs = block.shapes.get("bias", (None,))[0]  # a bias tells outputs from inputs
    kinds = [t for t, returned in ((True, b), (False, a)) if outputs in (None, returned)]
    known = chain.recorded.get(block.name)
    own = known.layer if known is not None and known.layer is not None else None
    if not chain.layers and chain.size is not None and len(chain.size) == len(kernel):
        if own is not None and own.kind in ("conv", "conv_transpose"):
            kinds = [own.kind == "conv_transpose"]
        channels = a if (kinds[0] if len(kinds) == 1 else kernel[0] % 2 == 0) else b
        chain.shape = (channels, *chain.size)
        chain.latents = math.prod(chain.shape)
        chain.layers.append(Layer("reshape", options={"shape": list(chain.shape)}))
    elif not chain.layers:
        if True not in kinds:
            raise NoSize(
                f"{quoted(block.name)} begins with a convolution, and the size of the map that it takes is not recorded"
            )
        kinds = [True]
    fits = [t for t in kinds if _takes_shape(a if t else b, chain.shape, len(kernel))]
    if not fits:
        raise Broken(
            f"{quoted(block.name)} takes {' or '.join(str(a if t else b) for t in kinds) or 'no'} channels,"
            f" and what comes before it returns {product(chain.shape)}"
        )
    k = kernel[0]
    if own is not None and own.kind in ("conv", "conv_transpose"):
        if (own.kind == "conv_transpose") not in fits:
            raise Broken(
                f"{quoted(block.name)} does not take what comes before it returns, {product(chain.shape)}"
            )
        fits = [own.kind == "conv_transpose"]
    else:
        own = None
    transposed = fits[0] if len(fits) == 1 else k % 2 == 0
    comments = []
    if len(fits) == 2:
        kind = "a transposed convolution" if transposed else "a convolution"
        comments.append(chain.assume(f"{kind}, though its shape fits both kinds", block.name))
    if len(chain.shape) == 1:
        channels = a if transposed else b
        side = _square(chain.shape[0], channels, len(kernel)) or 1
        shape = [channels, *([side] * len(kernel))]
        comment = (
            ""
            if not chain.layers
            else chain.assume(f"{chain.shape[0]} numbers are reshaped to {product(shape)}")
        )
        chain.layers.append(Layer("reshape", options={"shape": shape}, comment=comment))
        chain.shape = tuple(shape)
    if block.name in chain.doubled:
        chain.layers.append(Layer("upsample", options={"factor": 2}, comment="what it takes is doubled"))
        chain.shape = (chain.shape[0], *(2 * side for side in chain.shape[1:]))
    layer = replace(own, key=block.name) if own else _settings(transposed, k, chain.shape[-1], block.name)
    words = (
        ", ".join(f"{name} {layer[name]}" for name in ("stride", "padding") if name in layer.options)
        or "stride 1, no padding"
    )
    if k > 1 and own is None:
        comments.append(
            chain.assume(
                f"{words} for kernels of {k}{' on 1 x 1' if chain.shape[-1] == 1 else ''}", block.name
            )
        )
    chain.layers.append(replace(layer, comment="; ".join(comments)))
    simple = all(
        isinstance(layer[o], int) for o in ("stride", "padding", "dilation") if o in KINDS[layer.kind].options
    )
    if not simple or layer["dilation"] != 1:
        raise Broken(f"{quoted(block.name)} has settings that a draft does not follow: {layer}")
    sides = [_side(layer, transposed, k, n) for n in chain.shape[1:]]
    if min(sides) < 1:
        raise Broken(
            f"{quoted(block.name)} has a kernel of {k}, larger than what comes before it returns, {product(chain.shape)}"
        )
    chain.shape = (b if transposed else a, *sides)


def hidden_of(block: Block) -> int:
    """Return how many numbers a recurrent layer returns at each step, 0 of another layer."""
    carried = block.shapes.get("weight_hh_l0", (0, 0))[1]
    return carried * (2 if "weight_ih_l0_reverse" in block.shapes else 1)


def _recurrent(chain: Chain, block: Block, following: Block | None) -> None:
    """Append a GRU or LSTM, where the sizes of what comes before or after it tell the number of steps."""
    takes = block.weight[1]
    hidden = hidden_of(block)
    numbers = math.prod(chain.shape)
    if not (chain.steps and chain.shape[-1] == takes):
        after = following.weight[1] if following is not None and following.kind == "linear" else 0
        if len(chain.shape) == 1 and numbers > takes and numbers % takes == 0:
            steps = numbers // takes
            shape = [steps, takes]
            comment = chain.assume(f"{numbers} numbers are {steps} steps of {takes}", block.name)
            chain.layers.append(Layer("reshape", options={"shape": shape}, comment=comment))
        elif numbers == takes and after > hidden and after % hidden == 0:
            steps = after // hidden
            comment = chain.assume(f"its input is the same at each of {steps} steps", block.name)
            chain.layers.append(Layer("repeat", options={"times": steps}, comment=comment))
        elif numbers == takes and chain.stand_in is not None:
            steps = chain.stand_in
            comment = chain.assume(f"its input is the same at each of {steps} steps", block.name)
            chain.layers.append(Layer("repeat", options={"times": steps}, comment=comment))
        elif numbers == takes:
            raise Unsaid(
                f"the number of steps that {quoted(block.name)} takes is not recorded, nor whether a state is given to it",
                steps=True,
            )
        else:
            raise Unsaid(
                f"{quoted(block.name)} takes steps of {takes} numbers, and what comes before it returns {product(chain.shape)}:"
                " what it is given is not recorded (is that its first state?)"
            )
        chain.shape = (steps, takes)
    comment = chain.assume("it begins at a state of zeros", block.name)
    chain.layers.append(Layer(block.kind, block.name, comment=comment))
    chain.shape, chain.steps = (chain.shape[0], hidden), True


def _attention(chain: Chain, block: Block, following: Block | None) -> None:
    """Append a self-attention between the places of a map or between steps, added to its input."""
    channels = block.shapes.get("queries", block.weight)[1]
    numbers = math.prod(chain.shape)
    attention = Layer("attention", block.name)
    if chain.layers and len(chain.shape) == 1 and numbers > channels and numbers % channels == 0:
        steps = numbers // channels
        shape = [steps, channels]
        comment = chain.assume(f"{numbers} numbers are {steps} steps of {channels}", block.name)
        chain.layers.append(Layer("reshape", options={"shape": shape}, comment=comment))
        chain.shape, chain.steps = (steps, channels), True
    if chain.steps and len(chain.shape) == 2 and chain.shape[1] == channels:
        comment = chain.assume("self-attention of one head between steps, added to its input", block.name)
        swap = Layer("permute", options={"axes": [2, 1]})
        chain.layers.append(Layer("residual", body=(swap, attention, swap), comment=comment))
        return
    if chain.steps or len(chain.shape) < 2 or chain.shape[0] != channels or math.prod(chain.shape[1:]) < 2:
        raise Unsaid(
            f"{quoted(block.name)} is an attention over {channels} channels, and what comes before it returns"
            f" {product(chain.shape)}: the places that it attends between are not recorded"
        )
    comment = chain.assume("self-attention of one head between places, added to its input", block.name)
    norm: tuple[Layer, ...] = ()
    last = chain.layers[-1]
    if last.kind == "group_norm" and (last.key or "").startswith(f"{block.name}."):
        norm = (replace(chain.layers.pop(), comment=""),)
    chain.layers.append(Layer("residual", body=(*norm, attention), comment=comment))


def _unfollowed(chain: Chain, block: Block, following: Block | None) -> None:
    raise Unsaid(f"{quoted(block.name)} {block.why}")


def _takes_shape(channels: int, shape: Shape, axes: int) -> bool:
    """Return whether a convolution takes a map, or numbers that can be reshaped to one."""
    return shape[0] == channels if len(shape) > 1 else _square(shape[0], channels, axes) is not None


def _settings(transposed: bool, k: int, side: int, name: str) -> Layer:
    """Return a convolution with the usual settings of its kernel."""
    if not transposed:
        return Layer("conv", name).with_options(padding=(k - 1) // 2)
    layer = Layer("conv_transpose", name)
    if (side == 1 and k > 2) or k == 1:
        return layer
    if k % 2 == 0:
        return layer.with_options(stride=2, padding=(k - 2) // 2)
    return layer.with_options(stride=2, padding=(k - 1) // 2, output_padding=1)


def _side(layer: Layer, transposed: bool, k: int, side: int) -> int:
    if transposed:
        return int((side - 1) * layer["stride"] - 2 * layer["padding"] + k + layer["output_padding"])
    return int((side + 2 * layer["padding"] - k) // layer["stride"] + 1)


def _batch_norm(chain: Chain, block: Block, following: Block | None) -> None:
    (channels,) = block.weight
    if len(chain.shape) == 1 and chain.shape[0] != channels:
        axes = len(following.weight) - 2 if following is not None and following.kind == "conv" else 2
        side = _square(chain.shape[0], channels, axes)
        if side is None:
            raise Broken(
                f"{quoted(block.name)} takes {channels} channels, and what comes before it returns {product(chain.shape)}"
            )
        shape = [channels, *([side] * axes)]
        comment = chain.assume(f"{chain.shape[0]} numbers are reshaped to {product(shape)}")
        chain.layers.append(Layer("reshape", options={"shape": shape}, comment=comment))
        chain.shape = tuple(shape)
    if chain.shape[0] != channels:
        raise Broken(
            f"{quoted(block.name)} takes {channels} channels, and what comes before it returns {product(chain.shape)}"
        )
    known = chain.recorded.get(block.name)
    options = known.layer.options if known is not None and known.layer is not None else {}
    chain.layers.append(Layer("batch_norm", block.name, options if set(options) <= {"eps"} else {}))


def _norm(chain: Chain, block: Block, following: Block | None) -> None:
    if block.weight != chain.shape[:1]:
        raise Broken(
            f"{quoted(block.name)} takes {product(block.weight)} channels, and what comes before it returns {product(chain.shape)}"
        )
    if len(chain.shape) == 1:
        chain.layers.append(Layer("layer_norm", block.name))
        return
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if chain.shape[0] % g == 0)
    comment = chain.assume(f"group normalisation of {groups} groups", block.name)
    chain.layers.append(Layer("group_norm", block.name, {"groups": groups}, comment=comment))


def _prelu(chain: Chain, block: Block, following: Block | None) -> None:
    if len(block.weight) != 1 or block.weight[0] not in (1, chain.shape[0]):
        raise Broken(f"{quoted(block.name)} of shape {product(block.weight)} is no layer that is known")
    chain.layers.append(Layer("prelu", block.name, comment=chain.assume("a parametric relu", block.name)))


STEPS = {
    "linear": _linear,
    "conv": _conv,
    "batch_norm": _batch_norm,
    "norm": _norm,
    "prelu": _prelu,
    "gru": _recurrent,
    "lstm": _recurrent,
    "attention": _attention,
    "unfollowed": _unfollowed,
}


def _square(numbers: int, channels: int, axes: int) -> int | None:
    """Return the side of `channels` squares (cubes, ...) that hold so many numbers, None where there is none."""
    if channels < 1 or numbers % channels:
        return None
    side = round((numbers // channels) ** (1 / axes))
    return side if side >= 1 and side**axes == numbers // channels else None


def product(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
