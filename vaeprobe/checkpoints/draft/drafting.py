"""From the tensors of a file to a blueprint: the first likely layers that chain, their end, and what was assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from vaeprobe.checkpoints.blueprint import Blueprint, Layer
from vaeprobe.checkpoints.conditioned import conditioned
from vaeprobe.checkpoints.draft.blocks import STEPPED, Block, Recorded, Shape, blocks_of, by_name
from vaeprobe.checkpoints.draft.candidates import candidates
from vaeprobe.checkpoints.draft.chain import STAND_IN, Broken, Chain, NoSize, Unsaid, product
from vaeprobe.checkpoints.draft.names import BRANCHES, MEANS, of_encoder
from vaeprobe.checkpoints.draft.remainder import account, keys_of, left_out, nothing_lost
from vaeprobe.checkpoints.draft.sequence import chained, likeliest_chain
from vaeprobe.checkpoints.draft.upsampling import doubling
from vaeprobe.checkpoints.families import Shaped
from vaeprobe.checkpoints.naming import UNPARAMETRIZED, unknown_parametrization
from vaeprobe.errors import ArchitectureError
from vaeprobe.files.source import quoted

__all__ = ["draft"]

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
BY_CODE = "`vaeprobe orthogonality MODEL --arch FILE.py:CLASS`, as every command, builds the network with the code that you trained it with"


def draft(
    tensors: Mapping[str, Shaped], parts: Sequence[Recorded] = (), size: Shape | None = None
) -> Blueprint:
    """Return the likeliest decoder that the tensors could belong to; `assumptions` says what was guessed or left out.

    Args:
        tensors: by name, in the order of the file; only names and shapes are looked at.
        parts: of the pickled module that they come from, in its order.
        size: of the map of latents that a first convolution takes, which nothing records.

    Raises:
        ArchitectureError: their layers do not follow one another in any order tried.
    """
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    made = unknown_parametrization(name for name in shapes if not of_encoder(name))
    if made is not None:
        raise ArchitectureError(
            f"no draft can be made: a layer's tensors are computed from {quoted(made)} by a parametrization, and the file does not say how",
            hint=f"save the model after {UNPARAMETRIZED}; or {BY_CODE}",
        )
    blocks, sorted_names = blocks_of(shapes)
    if not any(b.kind in ("linear", "conv", *STEPPED) for b in blocks):
        raise ArchitectureError("there are no weights of layers to draft a blueprint from", hint=WAY_OUT)
    reasons: list[tuple[Broken, list[Block]]] = []
    is_sorted = by_name(shapes)  # of two layers, too: torch's own order has weights before biases
    recorded = {part.name: part for part in parts}
    for candidate, why in candidates([b for b in blocks if b.kind != "table"], by_name=is_sorted):
        try:
            chain = likeliest_chain(candidate, recorded, size=size)
            nothing_lost(chain, blocks, by_name=is_sorted)
        except Broken as broken:
            reasons.append((broken, candidate))
            continue
        told = doubling(chain, candidate, blocks)
        if told is not None:
            chain = likeliest_chain(candidate, recorded, frozenset(told.names), size)
            for name in told.names:
                chain.assume(f"the map is doubled before convolutions, {told.why}", name)
        if sorted_names:
            chain.assume("layers run in the order of the numbers in their names, since the file sorts them")
        if why:
            chain.assume(why)
        account(chain, blocks, parts)
        bp = conditioned(_finished(chain, candidate), shapes)
        left = left_out(bp, chain, shapes)
        return replace(bp, assumptions=(*bp.assumptions, *left, *_whole(bp, chain, blocks)))
    raise _refused(reasons, recorded)


def _refused(
    reasons: Sequence[tuple[Broken, list[Block]]], recorded: Mapping[str, Recorded]
) -> ArchitectureError:
    """Return the error for tensors of which no draft can be made: what no tensor tells comes first, and how to say it."""
    unsaid = [r for r in reasons if isinstance(r[0], Unsaid)]
    for broken, candidate in sorted(unsaid, key=lambda r: not (isinstance(r[0], Unsaid) and r[0].steps)):
        told = _with_steps(candidate, recorded) if isinstance(broken, Unsaid) and broken.steps else ""
        return ArchitectureError(f"no draft can be made: {broken}", hint=told or BY_CODE)
    if not reasons:
        return ArchitectureError("the tensors do not make a chain of layers", hint=WAY_OUT)
    first = reasons[0][0]
    return ArchitectureError(
        f"the tensors do not make a chain of layers: {first}",
        hint=f"say it, such as --latent-size 8x8; or {WAY_OUT}" if isinstance(first, NoSize) else WAY_OUT,
    )


def _with_steps(candidate: Sequence[Block], recorded: Mapping[str, Recorded]) -> str:
    """Return a blueprint's lines in which the number of steps alone is missing, "" where more is."""
    try:
        chain = chained(candidate, recorded, stand_in=STAND_IN)
    except Broken:
        return ""
    open_ = {"times": STAND_IN}
    layers = ", ".join(
        "{ repeat = STEPS }" if layer.kind == "repeat" and layer.options == open_ else str(layer)
        for layer in chain.layers
    )
    first = next(layer for layer in chain.layers if layer.kind in STEPPED)
    return (
        f"{{ repeat = STEPS }} before {{ {first.kind} = NAME }} says it: write a blueprint beside the file (model.toml for model.pt) with the number"
        f" in place of STEPS, `latents = {chain.latents}` and below `[decoder]` `layers = [{layers}]`, with `last = true` beside"
        f" its name where its last step alone is taken; or {BY_CODE}"
    )


def _whole(bp: Blueprint, chain: Chain, blocks: Sequence[Block]) -> Iterator[str]:
    """Yield what the draft maps to what, and where the encoder's means say otherwise."""
    means = [
        b.weight[0] for b in blocks if MEANS.search(b.name) and of_encoder(b.name) and b.kind == "linear"
    ]
    if means and means[0] != bp.latent_dim and not bp.conditions:
        yield f"the encoder gives {means[0]} means and the decoder takes {bp.latent_dim} numbers: one of them is wrong"
    yield f"it maps {bp.latent_dim} latents to an output of {product(chain.shape)}"


def _finished(chain: Chain, blocks: Sequence[Block]) -> Blueprint:
    d = chain.latents
    last = chain.recorded.get(list(keys_of(chain.layers))[-1])
    # what follows in the Sequential of the last layer with tensors has been taken
    known = chain.layers[-1].kind in ENDS and last is not None and last.ordered
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
    common = _common_prefix(list(keys_of(chain.layers)))
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
