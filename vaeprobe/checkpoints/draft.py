"""A first blueprint from the names and shapes of tensors: a guess, and marked as one.

Shapes tell which layers there are and how many channels they have; that they follow one another in the order of the
file is likely; activations, strides, paddings and reshapes leave no trace in tensors.  A pickled module records them
(`Recorded`), and where its parts stand in a Sequential their order too; numbers that a Sequential skips are layers
without tensors.  What is assumed, and every layer that has no place, is written into the TOML and listed in
`Blueprint.assumptions`, and every report that rests on a draft repeats it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vaeprobe.checkpoints.blueprint import KINDS, Blueprint, Layer
from vaeprobe.checkpoints.conditioned import conditioned
from vaeprobe.checkpoints.families import Shaped
from vaeprobe.errors import ArchitectureError
from vaeprobe.files.source import quoted

__all__ = ["draft"]

Shape = tuple[int, ...]

DECODER = re.compile(r"dec|gen|net_?g\b|^g\b|to_im|to_feat|from_latent|from_z|upsampl|p_x", re.IGNORECASE)
ENCODER = re.compile(
    r"enc|disc|critic|classif|(^|[._])(mu|mean|log_?var|log_?sigma|logstd|sigma|var|q_z|fc_mu|fc_var|fc_mean)($|[._])|_mu\b|im\w*_to_",
    re.IGNORECASE,
)
BRANCHES = re.compile(r"(^|[._])(res|skip|short|attn|attention|block)", re.IGNORECASE)
# names that cannot be the output layer of a decoder
OTHER = re.compile(r"enc|disc|critic|classif", re.IGNORECASE)
MEANS = re.compile(r"(^|[._])(fc_?)?(mu|mean|fc21|loc)([._]|$)", re.IGNORECASE)
TABLE = re.compile(r"emb[^.]*$|codebook[^.]*$", re.IGNORECASE)
LEAVES = ("weight", "bias", "running_mean", "running_var")
RECURRENT = re.compile(r"(weight|bias)_[ih]h_l\d+(_reverse)?")
GATES = {3: "gru", 4: "lstm"}
QUERIES = ("to_q", "query", "q")  # the first of the four maps of an attention, as libraries call it
# tensors of a layer that say nothing of its place: counters, and what a norm of its weight keeps
BESIDE = frozenset(
    ["num_batches_tracked", "weight_g", "weight_v", "weight_orig", "weight_u", "original0", "original1"]
)
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
ENDS = frozenset(
    [
        "sigmoid",
        "tanh",
        "softmax",
        "exp",
        "softplus",
        "identity",
        "hardtanh",
        "linear",
        "conv",
        "conv_transpose",
        "reshape",
        "flatten",
    ]
)
IMAGE_CHANNELS = (1, 3, 4)
WAY_OUT = (
    "write a blueprint by hand (examples: the docstring of vaeprobe.checkpoints.blueprint), or use --arch"
)


@dataclass(frozen=True)
class Block:
    """One layer of the file: its name and the shapes of its tensors."""

    name: str
    shapes: Mapping[str, Shape]

    @property
    def weight(self) -> Shape:
        first = self.shapes.get("weight") or self.shapes.get("running_mean")
        return first or self.shapes.get("weight_ih_l0") or self.shapes.get("in_proj_weight") or ()

    @property
    def kind(self) -> str:
        """Return linear, conv (either kind), batch_norm, norm, prelu, gru, lstm, attention, or table of an embedding."""
        if "in_proj_weight" in self.shapes or "queries" in self.shapes:
            return "attention"
        carried = self.shapes.get("weight_hh_l0")
        if carried is not None:
            return GATES.get(carried[0] // max(carried[1], 1), "recurrent")
        if "running_mean" in self.shapes:
            return "batch_norm"
        if len(self.weight) == 2 and "bias" not in self.shapes and TABLE.search(self.name):
            return "table"
        if len(self.weight) == 2:
            return "linear"
        if len(self.weight) in (3, 4, 5):
            return "conv"
        return "norm" if "bias" in self.shapes else "prelu"


@dataclass(frozen=True)
class Recorded:
    """A part of a pickled module, as the module records it.

    Attributes:
        name: dotted.
        layer: what it is in a blueprint, without its key; None where a blueprint has no such layer.
        cls: the name of its class.
        ordered: whether it stands in a Sequential, whose order is the order of computation.
    """

    name: str
    layer: Layer | None
    cls: str
    ordered: bool


class Broken(Exception):
    """The layers do not follow one another."""


@dataclass
class Chain:
    """Layers found so far, the shape that comes out of them, and what was assumed on the way."""

    latents: int
    shape: Shape
    recorded: Mapping[str, Recorded] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    assumptions: dict[str, list[str]] = field(default_factory=dict)
    steps: bool = False

    def assume(self, what: str, about: str = "") -> str:
        names = self.assumptions.setdefault(what, [])
        if about and about not in names:
            names.append(about)
        return what


def draft(tensors: Mapping[str, Shaped], parts: Sequence[Recorded] = ()) -> Blueprint:
    """Return the likeliest decoder that the tensors could belong to; `assumptions` says what was guessed or left out.

    Args:
        tensors: by name, in the order of the file; only names and shapes are looked at.
        parts: of the pickled module that they come from, in its order.

    Raises:
        ArchitectureError: their layers do not follow one another in any order tried.
    """
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    blocks, sorted_names = _blocks(shapes)
    if not any(b.kind in ("linear", "conv") for b in blocks):
        raise ArchitectureError("there are no weights of layers to draft a blueprint from", hint=WAY_OUT)
    reasons = []
    recorded = {part.name: part for part in parts}
    for candidate, why in _candidates([b for b in blocks if _may_follow(b, shapes)]):
        try:
            chain = _likeliest_chain(candidate, recorded)
        except Broken as broken:
            reasons.append(str(broken))
            continue
        if sorted_names:
            chain.assume("layers run in the order of the numbers in their names, since the file sorts them")
        if why:
            chain.assume(why)
        _account(chain, blocks, parts)
        bp = conditioned(_finished(chain, candidate), shapes)
        left = _left_out(bp, chain, shapes)
        return replace(bp, assumptions=(*bp.assumptions, *left, *_whole(bp, chain, blocks)))
    raise ArchitectureError(
        f"the tensors do not make a chain of layers: {reasons[0]}"
        if reasons
        else "the tensors do not make a chain of layers",
        hint=WAY_OUT,
    )


def _blocks(shapes: Mapping[str, Shape]) -> tuple[list[Block], bool]:
    """Return the layers in the order of the file, and whether the file sorts its names."""
    groups: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "weight_v":
            leaf = "weight"
        if leaf in LEAVES or RECURRENT.fullmatch(leaf) or leaf in ("in_proj_weight", "in_proj_bias"):
            groups.setdefault(stem, {})[leaf] = shape
    groups = dict(_with_attention(groups))
    names = list(groups)
    alphabetical = len(names) > 2 and list(shapes) == sorted(shapes)
    if alphabetical:
        names.sort(
            key=lambda name: [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name)]
        )
    return [
        Block(n, groups[n])
        for n in names
        if {"weight", "running_mean", "weight_ih_l0", "in_proj_weight", "queries"} & set(groups[n])
    ], alphabetical


def _with_attention(groups: Mapping[str, dict[str, Shape]]) -> Iterator[tuple[str, dict[str, Shape]]]:
    """Yield the groups, the four maps of an attention as one."""
    for name, shapes in groups.items():
        stem, _, last = name.rpartition(".")
        outer, _, before = stem.rpartition(".")
        if last == "out_proj" and "in_proj_weight" in groups.get(stem, {}):
            continue
        of = outer if (last, before) == ("0", "to_out") else stem
        query = next((q for q in QUERIES if f"{of}.{q}" in groups), None)
        if query is None or not of:
            yield name, shapes
        elif name == f"{of}.{query}":
            yield of, {"queries": shapes.get("weight", ())}
        elif last in ("group_norm", "norm") or last not in (
            "to_k",
            "to_v",
            "to_out",
            "0",
            "key",
            "value",
            "proj_attn",
            "k",
            "v",
            "proj_out",
        ):
            yield name, shapes


def _may_follow(block: Block, shapes: Mapping[str, Shape]) -> bool:
    """Return whether a block may be a layer of a chain: no table of rows, no recurrence that is neither GRU nor LSTM."""
    return block.kind not in ("table", "recurrent")


def _of_encoder(name: str) -> bool:
    """Return whether a name is an encoder's or a discriminator's: `decoder.logvar` is a head of the decoder."""
    return ENCODER.search(name) is not None and (
        OTHER.search(name) is not None or DECODER.search(name) is None
    )


def _candidates(blocks: Sequence[Block]) -> Iterator[tuple[list[Block], str]]:
    """Yield lists of layers that could be the decoder, the likeliest first, and why these."""
    named = [b for b in blocks if DECODER.search(b.name) and not ENCODER.search(b.name)]
    if named:
        after = list(blocks).index(named[-1]) + 1
        tail = [b for b in blocks[after:] if not ENCODER.search(b.name)]
        ends = [tail] if tail else []
        # an output layer may be called after the mean that it gives: one layer, that takes what the others return
        ends += [[b] for b in blocks[after:] if ENCODER.search(b.name) and not OTHER.search(b.name)]
        for end in ends:
            yield [*named, *end], f"{quoted(end[0].name)} and what follows it are the decoder's last layers"
        yield from _with_first_layer(named)
        yield named, ""
    rest = [b for b in blocks if not ENCODER.search(b.name)]
    if len(rest) == len(blocks):
        yield rest, ""
        yield from _with_first_layer(rest)
    # an autoencoder without telling names: the end of the file, from its narrowest input on
    tails = []
    for start in range(len(rest)):
        try:
            tails.append((_chain(rest[start:]).shape, start, rest[start:]))
        except Broken:
            continue
    widths = {start: _takes(part[0]) for _, start, part in tails}
    for _, start, part in sorted(tails, key=lambda t: (widths[t[1]], t[1])):
        if part[0].kind == "linear":
            yield (
                part,
                f"the decoder begins at {quoted(part[0].name)}, the narrowest input of the layers that chain"
                if start
                else "",
            )


def _with_first_layer(blocks: Sequence[Block]) -> Iterator[tuple[list[Block], str]]:
    """Yield the layers with a linear one that the file has later put before the convolution that it begins with."""
    if not blocks or blocks[0].kind == "linear":
        return
    for block in blocks:
        if block.kind == "linear":
            words = f"{quoted(block.name)} comes first, though the file has it after {quoted(blocks[0].name)}"
            yield [block, *(b for b in blocks if b is not block)], words


def _takes(block: Block) -> int:
    """Return how many numbers or channels a layer takes."""
    return block.weight[1] if block.kind == "linear" else block.weight[0] if block.weight else 0


# -- one after the other ----------------------------------------------------------------------------------


def _likeliest_chain(blocks: Sequence[Block], recorded: Mapping[str, Recorded]) -> Chain:
    """Return the chain of all layers, or, where the shapes do not say how those with steps or places enter, without these."""
    plain = [b for b in blocks if b.kind not in ("gru", "lstm", "attention")]
    try:
        return _chain(blocks, recorded)
    except Broken:
        if len(plain) == len(blocks):
            raise
        return _chain(plain, recorded)


def _chain(blocks: Sequence[Block], recorded: Mapping[str, Recorded] | None = None) -> Chain:
    """Return the layers and their assumptions; what a pickled module records is taken from it.

    Raises:
        Broken: a layer does not take what the one before it returns.
    """
    while blocks and blocks[0].kind not in ("linear", "conv"):
        blocks = blocks[1:]
    if not blocks:
        raise Broken("none has weights")
    chain = Chain(_takes(blocks[0]), (_takes(blocks[0]),), recorded or {})
    weighted = [i for i, b in enumerate(blocks) if b.kind in ("linear", "conv")]
    convolutions = [b for b in blocks if b.kind == "conv"]
    for i, block in enumerate(blocks):
        following = blocks[i + 1] if i + 1 < len(blocks) else None
        _STEPS[block.kind](chain, block, following)
        if chain.recorded.get(block.name) is not None and chain.recorded[block.name].ordered:
            _take_recorded(chain, block.name, following)
            continue
        hidden = i < weighted[-1]
        if (
            hidden
            and block.kind not in ("prelu", "gru", "lstm", "attention")
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


def _whole(bp: Blueprint, chain: Chain, blocks: Sequence[Block]) -> Iterator[str]:
    """Yield what the draft maps to what, and where the encoder's means say otherwise."""
    means = [
        b.weight[0] for b in blocks if MEANS.search(b.name) and _of_encoder(b.name) and b.kind == "linear"
    ]
    if means and means[0] != bp.latent_dim and not bp.conditions:
        yield f"the encoder gives {means[0]} means and the decoder takes {bp.latent_dim} numbers: one of them is wrong"
    yield f"it maps {bp.latent_dim} latents to an output of {_product(chain.shape)}"


def _left_out(bp: Blueprint, chain: Chain, shapes: Mapping[str, Shape]) -> Iterator[str]:
    """Yield every layer and every single tensor that has no place in the draft, by whose it is."""
    used = set(_keys_of(chain.layers)) | {condition.key for condition in bp.conditions}
    whole = tuple(f"{key}." for key in _keys_of(chain.layers, ("gru", "lstm", "attention")))
    encoders: list[str] = []
    others: list[str] = []
    single: list[str] = []
    for name in shapes:
        stem, _, leaf = name.rpartition(".")
        stem = stem.removesuffix(".parametrizations.weight")
        if (stem in used and (leaf in LEAVES or leaf in BESIDE)) or name.startswith(whole):
            continue
        layer = leaf in LEAVES or leaf in BESIDE
        what = stem if layer and stem else name
        group = encoders if _of_encoder(name) else others if layer else single
        if what not in group:
            group.append(what)
    for words, names in (
        ("as the encoder's or a discriminator's", encoders),
        ("since they do not follow the others", others),
        ("since a draft has no layer of theirs (recurrent, attention, a factor or a constant?)", single),
    ):
        if names:
            yield f"left out {words}: {', '.join(map(quoted, names))}"


def _keys_of(layers: Iterable[Layer], kinds: Sequence[str] = ()) -> Iterator[str]:
    """Yield the names of layers and of those inside them, of some kinds if any are given."""
    for layer in layers:
        if layer.key is not None and (not kinds or layer.kind in kinds):
            yield layer.key
        yield from _keys_of(layer.inner, kinds)


def _account(chain: Chain, blocks: Sequence[Block], parts: Sequence[Recorded]) -> None:
    """Say what a pickled module holds without a place, and what the encoder's sizes say otherwise."""
    used = set(_keys_of(chain.layers))
    encoders = [b for b in blocks if b.name not in used and _of_encoder(b.name)]
    decoders = [p for p in parts if not ENCODER.search(p.name) and not p.ordered and p.layer is not None]
    for part in decoders:
        if part.layer is not None and part.layer.kind in (
            "upsample",
            "avg_pool",
            "max_pool",
            "pixel_shuffle",
            "dropout",
        ):
            chain.assume(
                f"{quoted(part.name)}, {part.layer}, is left out: the module does not record where it is used"
            )
    kinds: list[Layer] = []
    for part in decoders:
        if part.layer is not None and part.layer.kind in ACTIVATIONS and part.layer not in kinds:
            kinds.append(part.layer)
    if len(kinds) > 1:
        held = ", ".join(map(str, kinds))
        chain.assume(f"the module holds several activations, {held}, and does not record where each is used")
    first = next((b for b in encoders if b.kind in ("linear", "conv")), None)
    if first is not None and not any(b.name == first.name for b in encoders if MEANS.search(b.name)):
        takes = first.weight[1]
        size = math.prod(chain.shape) if first.kind == "linear" else chain.shape[0]
        what = "numbers" if first.kind == "linear" else "channels"
        if takes != size and (first.kind == "linear" or len(chain.shape) > 1):
            chain.assume(
                f"the encoder takes {takes} {what} and the draft returns {_product(chain.shape)}: one of them is wrong"
            )


def _linear(chain: Chain, block: Block, following: Block | None) -> None:
    if chain.steps and len(chain.shape) == 2 and chain.shape[1] == block.weight[1]:
        chain.assume("a linear layer after a recurrent one is taken at each step", block.name)
        chain.layers.append(Layer("linear", block.name))
        chain.shape = (chain.shape[0], block.weight[0])
        return
    if math.prod(chain.shape) != block.weight[1]:
        raise Broken(
            f"{quoted(block.name)} takes {block.weight[1]} numbers, and what comes before it returns {_product(chain.shape)}"
        )
    if len(chain.shape) > 1:
        chain.layers.append(Layer("flatten"))
    chain.layers.append(Layer("linear", block.name))
    chain.shape = (block.weight[0],)


def _conv(chain: Chain, block: Block, following: Block | None) -> None:
    a, b, *kernel = block.weight
    outputs = block.shapes.get("bias", (None,))[0]  # a bias tells outputs from inputs
    kinds = [t for t, returned in ((True, b), (False, a)) if outputs in (None, returned)]
    if not chain.layers:
        if True not in kinds:
            raise Broken(
                f"{quoted(block.name)} begins with a convolution, and the size of the map that it takes is not recorded"
            )
        kinds = [True]
    fits = [t for t in kinds if _takes_shape(a if t else b, chain.shape, len(kernel))]
    if not fits:
        raise Broken(
            f"{quoted(block.name)} takes {' or '.join(str(a if t else b) for t in kinds) or 'no'} channels,"
            f" and what comes before it returns {_product(chain.shape)}"
        )
    k = kernel[0]
    known = chain.recorded.get(block.name)
    own = known.layer if known is not None and known.layer is not None else None
    if own is not None and own.kind in ("conv", "conv_transpose"):
        if (own.kind == "conv_transpose") not in fits:
            raise Broken(
                f"{quoted(block.name)} does not take what comes before it returns, {_product(chain.shape)}"
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
            else chain.assume(f"{chain.shape[0]} numbers are reshaped to {_product(shape)}")
        )
        chain.layers.append(Layer("reshape", options={"shape": shape}, comment=comment))
        chain.shape = tuple(shape)
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
    side = _side(layer, transposed, k, chain.shape[-1])
    if side < 1:
        raise Broken(
            f"{quoted(block.name)} has a kernel of {k}, larger than what comes before it returns, {_product(chain.shape)}"
        )
    chain.shape = (b if transposed else a, *([side] * len(kernel)))


def _recurrent(chain: Chain, block: Block, following: Block | None) -> None:
    """Append a GRU or LSTM, where the sizes of what comes before or after it tell the number of steps."""
    takes = block.weight[1]
    hidden = block.shapes["weight_hh_l0"][1] * (2 if "weight_ih_l0_reverse" in block.shapes else 1)
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
        else:
            raise Broken(f"the number of steps that {quoted(block.name)} takes is not recorded")
        chain.shape = (steps, takes)
    comment = chain.assume("it begins at a state of zeros", block.name)
    chain.layers.append(Layer(block.kind, block.name, comment=comment))
    chain.shape, chain.steps = (chain.shape[0], hidden), True


def _attention(chain: Chain, block: Block, following: Block | None) -> None:
    """Append a self-attention between the places of a map, added to its input."""
    channels = block.shapes.get("queries", block.weight)[1]
    if len(chain.shape) < 2 or chain.steps or chain.shape[0] != channels or math.prod(chain.shape[1:]) < 2:
        raise Broken(
            f"{quoted(block.name)} does not take what comes before it returns, {_product(chain.shape)}"
        )
    comment = chain.assume("self-attention of one head between places, added to its input", block.name)
    norm: tuple[Layer, ...] = ()
    last = chain.layers[-1]
    if last.kind == "group_norm" and (last.key or "").startswith(f"{block.name}."):
        norm = (replace(chain.layers.pop(), comment=""),)
    chain.layers.append(Layer("residual", body=(*norm, Layer("attention", block.name)), comment=comment))


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
                f"{quoted(block.name)} takes {channels} channels, and what comes before it returns {_product(chain.shape)}"
            )
        shape = [channels, *([side] * axes)]
        comment = chain.assume(f"{chain.shape[0]} numbers are reshaped to {_product(shape)}")
        chain.layers.append(Layer("reshape", options={"shape": shape}, comment=comment))
        chain.shape = tuple(shape)
    if chain.shape[0] != channels:
        raise Broken(
            f"{quoted(block.name)} takes {channels} channels, and what comes before it returns {_product(chain.shape)}"
        )
    known = chain.recorded.get(block.name)
    options = known.layer.options if known is not None and known.layer is not None else {}
    chain.layers.append(Layer("batch_norm", block.name, options if set(options) <= {"eps"} else {}))


def _norm(chain: Chain, block: Block, following: Block | None) -> None:
    if block.weight != chain.shape[:1]:
        raise Broken(
            f"{quoted(block.name)} takes {_product(block.weight)} channels, and what comes before it returns {_product(chain.shape)}"
        )
    if len(chain.shape) == 1:
        chain.layers.append(Layer("layer_norm", block.name))
        return
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if chain.shape[0] % g == 0)
    comment = chain.assume(f"group normalisation of {groups} groups", block.name)
    chain.layers.append(Layer("group_norm", block.name, {"groups": groups}, comment=comment))


def _prelu(chain: Chain, block: Block, following: Block | None) -> None:
    if len(block.weight) != 1 or block.weight[0] not in (1, chain.shape[0]):
        raise Broken(f"{quoted(block.name)} of shape {_product(block.weight)} is no layer that is known")
    chain.layers.append(Layer("prelu", block.name, comment=chain.assume("a parametric relu", block.name)))


_STEPS = {
    "linear": _linear,
    "conv": _conv,
    "batch_norm": _batch_norm,
    "norm": _norm,
    "prelu": _prelu,
    "gru": _recurrent,
    "lstm": _recurrent,
    "attention": _attention,
}


def _square(numbers: int, channels: int, axes: int) -> int | None:
    """Return the side of `channels` squares (cubes, ...) that hold so many numbers, None where there is none."""
    if channels < 1 or numbers % channels:
        return None
    side = round((numbers // channels) ** (1 / axes))
    return side if side >= 1 and side**axes == numbers // channels else None


def _product(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


# -- the end ----------------------------------------------------------------------------------------------


def _finished(chain: Chain, blocks: Sequence[Block]) -> Blueprint:
    d = chain.latents
    last = chain.layers[-1].kind
    known = last in ENDS and any(part.ordered for part in chain.recorded.values())
    image = not known and (len(chain.shape) > 1 or chain.shape[0] in (784, 1024, 3072, 4096, 12288))
    if image and (len(chain.shape) == 1 or chain.shape[0] in IMAGE_CHANNELS):
        comment = chain.assume("the output ends in a sigmoid; it could be logits, or end in tanh or nothing")
        chain.layers.append(Layer("sigmoid", comment=comment))
    elif not known:
        chain.assume("the output has no activation")
    branching = next((b.name for b in blocks if BRANCHES.search(b.name)), None)
    if branching:
        chain.assume(
            f"layers follow one another, though names such as {quoted(branching)} suggest skip connections"
        )
    chain.assume(f"all {d} latents are N(0, 1)")
    common = _common_prefix(list(_keys_of(chain.layers)))
    layers = tuple(
        replace(_below(layer, common), comment=f"assumed: {layer.comment}" if layer.comment else "")
        for layer in chain.layers
    )
    return Blueprint(
        layers=layers,
        latents=(("normal", d),),
        prefix=common,
        assumptions=tuple(
            what
            + (f" ({', '.join(map(quoted, about[:4]))}{', ...' if len(about) > 4 else ''})" if about else "")
            for what, about in chain.assumptions.items()
        ),
        origin="a draft",
    )


def _below(layer: Layer, prefix: str) -> Layer:
    """Return a layer whose names, and those inside it, stand below a prefix."""
    key = layer.key[len(prefix) :] if layer.key is not None else None
    return replace(layer, key=key, body=tuple(_below(inner, prefix) for inner in layer.body))


def _common_prefix(keys: Sequence[str]) -> str:
    """Return the dotted prefix that all names share, the last part of a name excluded."""
    stems = [k.split(".")[:-1] for k in keys]
    common = []
    for parts in zip(*stems, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "".join(f"{part}." for part in common)
