"""What a draft leaves out, and what of the file speaks against it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vaeprobe.checkpoints.blueprint import Blueprint, Layer
from vaeprobe.checkpoints.draft.blocks import LEAVES, Block, Recorded, Shape
from vaeprobe.checkpoints.draft.chain import Chain, product
from vaeprobe.checkpoints.draft.names import ENCODER, MEANS, of_encoder
from vaeprobe.checkpoints.draft.sequence import ACTIVATIONS
from vaeprobe.files.source import quoted

__all__ = ["account", "keys_of", "left_out"]

# tensors of a layer that say nothing of its place: counters, and what a norm of its weight keeps
BESIDE = frozenset(
    ["num_batches_tracked", "weight_g", "weight_v", "weight_orig", "weight_u", "original0", "original1"]
)


def left_out(bp: Blueprint, chain: Chain, shapes: Mapping[str, Shape]) -> Iterator[str]:
    """Yield every layer and every single tensor that has no place in the draft, by whose it is."""
    used = set(keys_of(chain.layers)) | {condition.key for condition in bp.conditions}
    whole = tuple(f"{key}." for key in keys_of(chain.layers, ("gru", "lstm", "attention")))
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
        group = encoders if of_encoder(name) else others if layer else single
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
    if first is not None and not any(b.name == first.name for b in encoders if MEANS.search(b.name)):
        takes = first.weight[1]
        size = math.prod(chain.shape) if first.kind == "linear" else chain.shape[0]
        what = "numbers" if first.kind == "linear" else "channels"
        if takes != size and (first.kind == "linear" or len(chain.shape) > 1):
            chain.assume(
                f"the encoder takes {takes} {what} and the draft returns {product(chain.shape)}: one of them is wrong"
            )
