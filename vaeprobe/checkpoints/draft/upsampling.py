"""Where upsampling may stand between plain convolutions: it has no tensors, and what is around it betrays it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vaeprobe.checkpoints.draft.blocks import Block
from vaeprobe.checkpoints.draft.chain import Chain
from vaeprobe.checkpoints.draft.names import OTHER

__all__ = ["Doubling", "doubling"]


@dataclass(frozen=True)
class Doubling:
    """The names of the convolutions whose map is doubled before them, and what tells it."""

    names: tuple[str, ...]
    why: str


def doubling(chain: Chain, candidate: Sequence[Block], blocks: Sequence[Block]) -> Doubling | None:
    """Return where a chain of plain convolutions on a reshaped map is likely to double it, None where nothing tells.

    Two things tell. Numbers of one Sequential leave room for a layer without tensors beside the activation. Or the
    encoder ends in the very map that the decoder starts from: then the decoder doubles as often as the encoder halves,
    or its output would be no larger than its bottleneck.

    Args:
        chain: what the layers make without it.
        candidate: the layers of the chain, in order.
        blocks: all layers of the file.
    """
    kinds = [layer.kind for layer in chain.layers]
    if "reshape" not in kinds or {"conv_transpose", "upsample", "pixel_shuffle"} & set(kinds):
        return None
    used = {layer.key for layer in chain.layers if layer.kind == "conv"}
    convolutions = [b.name for b in candidate if b.name in used]
    roomy = set(_with_room(candidate))
    if not roomy.isdisjoint(convolutions):
        names = tuple(name for name in convolutions if name in roomy)
        return Doubling(names, "the numbers of their Sequential leave room for a layer there")
    first = {b.name for b in candidate}
    before = [b for b in blocks if b.name not in first and not _discriminates(b)]
    halvings = [b for b in before if b.kind == "conv" and b.weight[-1] > 2]
    numbers = math.prod(next(layer for layer in chain.layers if layer.kind == "reshape")["shape"])
    ends_alike = any(b.kind == "linear" and b.weight[1] == numbers for b in before)
    if not ends_alike or not 0 < len(halvings) <= len(convolutions):
        return None
    return Doubling(
        tuple(convolutions[-len(halvings) :]),
        f"as often as the {len(halvings)} convolutions of the encoder can halve what they take",
    )


def _with_room(candidate: Sequence[Block]) -> Iterator[str]:
    """Yield the convolutions before which a Sequential has one layer more than what an activation needs."""
    for before, block in pairwise(candidate):
        (stem, _, number), (other, _, following) = before.name.rpartition("."), block.name.rpartition(".")
        if (stem, block.kind) != (other, "conv") or not stem or not (number + following).isdecimal():
            continue
        needed = {"linear": 3, "prelu": 1}.get(
            before.kind, 2
        )  # a linear layer's numbers are reshaped as well
        if int(following) - int(number) == needed + 1:
            yield block.name


def _discriminates(block: Block) -> bool:
    return OTHER.search(block.name) is not None and "enc" not in block.name.lower()
