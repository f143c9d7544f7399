"""What a draft leaves out, and what of the file speaks against it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vaeprobe.checkpoints.blueprint import Blueprint, Layer
from vaeprobe.checkpoints.draft.blocks import LEAVES, STEPPED, Block, Recorded, Shape, plain_layer
from vaeprobe.checkpoints.draft.chain import Chain, Unsaid, product
from vaeprobe.checkpoints.draft.names import DECODER, ENCODER, MEANS, OTHER, of_encoder
from vaeprobe.checkpoints.draft.sequence import ACTIVATIONS
from vaeprobe.files.source import quoted

__all__ = ["account", "keys_of", "left_out", "nothing_lost"]

# tensors of a layer that say nothing of its place: counters, and what a norm of its weight keeps
BESIDE = frozenset(
    ["num_batches_tracked", "weight_g", "weight_v", "weight_u", "weight_mask", "original0", "_u", "_v"]
)


def left_out(bp: Blueprint, chain: Chain, shapes: Mapping[str, Shape]) -> Iterator[str]:
    """Yield every layer and every single tensor that has no place in the draft, by whose it is."""
    used = set(keys_of(chain.layers)) | {condition.key for condition in bp.conditions}
    whole = tuple(f"{key}." for key in keys_of(chain.layers, ("gru", "lstm", "attention")))
    encoders: list[str] = []
    others: list[str] = []
    single: list[str] = []
    for name in shapes:
        stem, leaf = plain_layer(name, shapes)
        if (stem in used and (leaf in LEAVES or leaf in BESIDE)) or name.startswith(whole):
            continue
        layer = leaf in LEAVES or leaf in BESIDE
        what = stem if layer and stem else name
        group = encoders if of_encoder(what) else others if layer else single
        if what not in group:
            group.append(what)
    for words, names in (
        ("as the encoder's or a discriminator's", encoders),
        ("since they do not follow the others", others),
        ("since a draft has no layer of theirs (recurrent, attention, a factor or a constant?)", single),
    ):
        if names:
            yield f"left out {words}: {', '.join(map(quoted, names))}"


def keys_of(layers: Iterable[Layer], kinds: Sequence[str] = ()) -> Iterator[str]:
    """Yield the names of layers and of those inside them, of some kinds if any are given."""
    for layer in layers:
        if layer.key is not None and (not kinds or layer.kind in kinds):
            yield layer.key
        yield from keys_of(layer.inner, kinds)


def nothing_lost(chain: Chain, blocks: Sequence[Block], *, by_name: bool) -> None:
    """Refuse a chain that leaves out a layer of the decoder along steps or between places: without it the answer is another's.

    Args:
        blocks: all layers of the file.
        by_name: whether the file sorts its names, so that their order tells nothing.

    Raises:
        Unsaid: it does, or begins with a recurrent layer that something else in the file may feed.
    """
    used = set(keys_of(chain.layers))
    encoders = [
        i for i, b in enumerate(blocks) if b.name not in used and (of_encoder(b.name) or MEANS.search(b.name))
    ]
    start = min(i for i, b in enumerate(blocks) if b.name in used)
    # what comes before an encoder's last layer, and this before the decoder's first, is the encoder's
    ended = max((i for i in encoders if i < start), default=-1)
    others = [
        b
        for i, b in enumerate(blocks)
        if b.name not in used and (by_name or i > ended) and not _of_encoder(b.name)
    ]
    for block in others:
        if block.kind in STEPPED:
            why = block.why or "does not follow the others, and how it enters is not recorded"
            raise Unsaid(f"{quoted(block.name)} {why}")
    first = next(layer for layer in chain.layers if layer.key is not None or layer.inner)
    if first.kind not in STEPPED:
        return
    feeding = next((b for b in others if b.kind in ("linear", "table") and not MEANS.search(b.name)), None)
    means = next(
        (b for b in blocks if MEANS.search(b.name) and of_encoder(b.name) and b.kind == "linear"), None
    )
    if feeding is not None:
        raise Unsaid(
            f"what {quoted(str(first.key))} is given at each step is not recorded: {quoted(feeding.name)} may give it"
        )
    if means is not None and means.weight[0] != chain.latents:
        raise Unsaid(
            f"{quoted(str(first.key))} takes steps of {chain.latents} numbers, and the encoder gives {means.weight[0]} means:"
            " what it is given is not recorded"
        )


def _of_encoder(name: str) -> bool:
    """Return whether a name is an encoder's: not that of an encoder's layer inside a decoder (`decoder.encoder_attn`)."""
    other, own = OTHER.search(name), DECODER.search(name)
    return of_encoder(name) and not (own and other and own.start() < other.start())


def account(chain: Chain, blocks: Sequence[Block], parts: Sequence[Recorded]) -> None:
    """Say what a pickled module holds without a place, and what the encoder's sizes say otherwise."""
    used = set(keys_of(chain.layers))
    encoders = [b for b in blocks if b.name not in used and of_encoder(b.name)]
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
    if any(b.kind in STEPPED for b in encoders):
        return  # its linear layers take steps
    if first is not None and not any(b.name == first.name for b in encoders if MEANS.search(b.name)):
        takes = first.weight[1]
        size = math.prod(chain.shape) if first.kind == "linear" else chain.shape[0]
        what = "numbers" if first.kind == "linear" else "channels"
        if takes != size and (first.kind == "linear" or len(chain.shape) > 1):
            chain.assume(
                f"the encoder takes {takes} {what} and the draft returns {product(chain.shape)}: one of them is wrong"
            )
