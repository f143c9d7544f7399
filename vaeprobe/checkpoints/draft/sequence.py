"""One layer after the other: a chain of blocks, with the activations and reshapes between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vaeprobe.checkpoints.blueprint import Layer
from vaeprobe.checkpoints.draft.blocks import STEPPED, Block, Recorded, Shape, takes
from vaeprobe.checkpoints.draft.chain import STAND_IN, STEPS, Broken, Chain, Unsaid, hidden_of
from vaeprobe.checkpoints.draft.names import ENCODER
from vaeprobe.files.source import quoted

__all__ = ["ACTIVATIONS", "MOST", "chained", "chains", "likeliest_chain"]

MOST = 32  # layers among which orders and numbers of steps are tried out

ACTIVATIONS = frozenset(
    [
        "relu",
        "leaky_relu",
        "elu",
        "celu",
        "selu",
        "gelu",
        "silu",
        "mish",
        "tanh",
        "sigmoid",
        "softplus",
        "hardtanh",
        "sine",
    ]
)
HIDDEN = ACTIVATIONS - {"sigmoid", "softplus", "hardtanh"}  # a module that holds a sigmoid ends in it


def likeliest_chain(
    blocks: Sequence[Block],
    recorded: Mapping[str, Recorded],
    doubled: frozenset[str] = frozenset(),
    size: Shape | None = None,
) -> Chain:
    """Return the chain of layers, a recurrent one's steps told by the layer beside it, or by a later one that takes them all.

    Raises:
        Broken: they do not chain, or nothing tells how many steps there are.
    """
    try:
        return chained(blocks, recorded, doubled, size)
    except Unsaid as unsaid:
        steps = [n for n in _steps_among(blocks) if _chains(blocks, n) and not _chains(blocks, n + 1)]
        if not unsaid.steps or len(steps) != 1:
            raise
        return chained(blocks, recorded, doubled, size, steps[0])


def chains(blocks: Sequence[Block]) -> bool:
    """Return whether layers chain, for some number of steps where nothing tells it."""
    return any(_chains(blocks, n) for n in (STAND_IN, *_steps_among(blocks)))


def _steps_among(blocks: Sequence[Block]) -> list[int]:
    """Return the numbers of steps at which some linear layer would take all that are given to it."""
    if len(blocks) > MOST:
        return []
    widths = {b.weight[1] for b in blocks if b.kind == "linear"}
    each = {
        width for b in blocks if b.kind in ("gru", "lstm", "linear") for width in (hidden_of(b), b.weight[0])
    }
    return sorted({w // n for w in widths for n in each if n and w % n == 0 and w > n})[:MOST]


def _chains(blocks: Sequence[Block], steps: int) -> bool:
    try:
        chained(blocks, stand_in=steps)
    except Broken:
        return False
    return True


def chained(
    blocks: Sequence[Block],
    recorded: Mapping[str, Recorded] | None = None,
    doubled: frozenset[str] = frozenset(),
    size: Shape | None = None,
    stand_in: int | None = None,
) -> Chain:
    """Return the layers and their assumptions; what a pickled module records is taken from it.

    The map that a convolution takes is doubled before each of those that `doubled` names; latents are a map of `size`,
    where that is given and the first layer is a convolution; `stand_in` is the number of steps where nothing tells it.

    Raises:
        Broken: a layer does not take what the one before it returns.
    """
    while blocks and blocks[0].kind not in ("linear", "conv", *STEPPED):
        blocks = blocks[1:]
    if not blocks:
        raise Broken("none has weights")
    chain = Chain(
        takes(blocks[0]), (takes(blocks[0]),), recorded or {}, doubled=doubled, size=size, stand_in=stand_in
    )
    weighted = [i for i, b in enumerate(blocks) if b.kind in ("linear", "conv")]
    convolutions = [b for b in blocks if b.kind == "conv"]
    for i, block in enumerate(blocks):
        following = blocks[i + 1] if i + 1 < len(blocks) else None
        STEPS[block.kind](chain, block, following)
        if chain.recorded.get(block.name) is not None and chain.recorded[block.name].ordered:
            _take_recorded(chain, block.name, following)
            continue
        hidden = i < max(weighted, default=0)
        if (
            hidden
            and block.kind not in ("prelu", *STEPPED)
            and (following is None or following.kind in ("linear", "conv"))
        ):
            _activation(chain, block, following)
    if len(convolutions) > 1 and not any(layer.kind == "upsample" for layer in chain.layers):
        chain.assume("no upsampling or pooling stands between the convolutions")
    return chain


def _take_recorded(chain: Chain, name: str, following: Block | None) -> None:
    """Append the layers without tensors that follow one in its Sequential."""
    names = list(chain.recorded)
    for other in names[names.index(name) + 1 :]:
        part = chain.recorded[other]
        if following is not None and (other == following.name or other.startswith(f"{following.name}.")):
            return
        if not part.ordered or other.rpartition(".")[0] != name.rpartition(".")[0]:
            return
        if part.layer is None:
            chain.assume(f"{quoted(other)}, of class {part.cls}, is left out: a blueprint has no such layer")
        elif part.layer.key is not None:
            return
        else:
            if part.layer.kind == "reshape" and math.prod(part.layer["shape"]) == math.prod(chain.shape):
                chain.shape = tuple(part.layer["shape"])
            if part.layer.kind == "flatten":
                chain.shape = (math.prod(chain.shape),)
            if part.layer.kind == "upsample":
                chain.shape = _upsampled(chain.shape, part.layer["factor"])
            chain.layers.append(part.layer)


def _upsampled(shape: Shape, factor: int | list[int]) -> Shape:
    factors = factor if isinstance(factor, list) else [factor] * (len(shape) - 1)
    return (shape[0], *(n * f for n, f in zip(shape[1:], factors, strict=True)))


def _activation(chain: Chain, block: Block, following: Block | None) -> None:
    """Append the activation after a hidden layer: the one that the module holds, else a relu, none where none fits."""
    step = _step(block, following)
    if step == 1:
        chain.assume(
            f"nothing follows {quoted(block.name)}: its Sequential has no room for an activation there"
        )
        return
    if step is not None and step > 2:
        chain.assume(
            f"of the {step - 1} layers without tensors after {quoted(block.name)} one is an activation"
        )
    held: list[Layer] = []
    for part in chain.recorded.values():
        own = part.layer
        if own is not None and own.kind in HIDDEN and own not in held and not ENCODER.search(part.name):
            held.append(own)
    layer = held[0] if len(held) == 1 else Layer("relu")
    first = not any(done.kind == layer.kind for done in chain.layers)
    why = (
        f"{layer} follows every hidden layer" if layer.options else f"{layer.kind} follows every hidden layer"
    )
    if held:
        why += ", the activation that the module holds" if len(held) == 1 else ""
    chain.layers.append(replace(layer, comment=chain.assume(why) if first else ""))


def _step(block: Block, following: Block | None) -> int | None:
    """Return how far apart two layers of one Sequential are numbered, None where they are in none."""
    if following is None:
        return None
    (stem, _, number), (other, _, next_number) = block.name.rpartition("."), following.name.rpartition(".")
    if stem != other or not stem or not number.isdecimal() or not next_number.isdecimal():
        return None
    return int(next_number) - int(number)
