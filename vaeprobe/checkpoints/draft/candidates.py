"""Which layers of a file could be the decoder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from vaeprobe.checkpoints.draft.blocks import STEPPED, Block, takes
from vaeprobe.checkpoints.draft.chain import Broken
from vaeprobe.checkpoints.draft.names import DECODER, ENCODER, OTHER
from vaeprobe.checkpoints.draft.sequence import MOST, chained, chains
from vaeprobe.files.source import quoted

__all__ = ["candidates"]

NORMS = ("batch_norm", "norm")


def candidates(blocks: Sequence[Block], *, by_name: bool = False) -> Iterator[tuple[list[Block], str]]:
    """Yield lists of layers that could be the decoder, the likeliest first, and why these.

    Args:
        blocks: the layers of a file, in its order.
        by_name: whether the file sorts its names, so that a recurrent layer may stand elsewhere than in their order.
    """
    for part, why in _in_order(blocks):
        if by_name and part and part[0].kind in NORMS:  # a chain begins behind it, without it
            yield from _with_norms_moved(part, why)
        yield part, why
        if by_name:
            yield from _with_recurrent_moved(part, why)
            yield from _with_norms_moved(part, why)
    if by_name:
        yield from _with_recurrent_moved([b for b in blocks if not ENCODER.search(b.name)], "")


def _with_recurrent_moved(blocks: Sequence[Block], why: str) -> Iterator[tuple[list[Block], str]]:
    """Yield the layers with their recurrent one in the only other place that its sizes leave it."""
    moved = [b for b in blocks if b.kind in ("gru", "lstm")]
    if len(moved) != 1 or len(blocks) > MOST:
        return
    others = [b for b in blocks if b is not moved[0]]
    orders = [[*others[:i], *moved, *others[i:]] for i in range(len(others) + 1)]
    fitting = [order for order in orders if chains(order)]
    if len(fitting) == 1 and fitting[0] != list(blocks):
        before = others[fitting[0].index(moved[0]) - 1 :][:1] if fitting[0][0] is not moved[0] else []
        place = f"follows {quoted(before[0].name)}" if before else "comes first"
        words = f"{quoted(moved[0].name)} {place}, the one place that its sizes fit"
        yield fitting[0], f"{why}; {words}" if why else words


def _with_norms_moved(blocks: Sequence[Block], why: str) -> Iterator[tuple[list[Block], str]]:
    """Yield the layers with each norm behind another, where its sizes, and its number among these, leave one place."""
    norms = [b for b in blocks if b.kind in NORMS]
    order = [b for b in blocks if b.kind not in NORMS]
    if not norms or len(blocks) > MOST:
        return
    told = []
    for norm in norms:
        orders = [[*order[:i], norm, *order[i:]] for i in range(1, len(order) + 1)]
        fitting = [tried for tried in orders if chains(tried)]
        if len(fitting) > 1:
            fitting = [o for o in fitting if _numbers(o[o.index(norm) - 1]) == _numbers(norm)]
        if len(fitting) != 1:
            return
        order = fitting[0]
        told.append(f"{quoted(norm.name)} follows {quoted(order[order.index(norm) - 1].name)}")
    if order != list(blocks):
        words = f"{' and '.join(told)}, by {'its size and number' if len(told) == 1 else 'their sizes and numbers'}"
        yield order, f"{why}; {words}" if why else words


def _numbers(block: Block) -> list[str]:
    """Return the numbers in the name of a layer."""
    return re.findall(r"\d+", block.name)


def _in_order(blocks: Sequence[Block]) -> Iterator[tuple[list[Block], str]]:
    """Yield lists of layers that could be the decoder, in the order of the file."""
    named = [b for b in blocks if DECODER.search(b.name) and not ENCODER.search(b.name)]
    if named:
        after = list(blocks).index(named[-1]) + 1
        tail = [b for b in blocks[after:] if not ENCODER.search(b.name)]
        ends = [tail] if tail else []
        # an output layer may be called after the mean that it gives: one layer, that takes what the others return
        ends += [[b] for b in blocks[after:] if ENCODER.search(b.name) and not OTHER.search(b.name)]
        for end in ends:
            words = f"{quoted(end[0].name)} and what follows it are the decoder's last layers"
            yield [*named, *end], words
            yield from ((part, f"{words}; {why}") for part, why in _with_first_layer([*named, *end]))
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
            tails.append((chained(rest[start:]).shape, start, rest[start:]))
        except Broken:
            continue
    widths = {start: takes(part[0]) for _, start, part in tails}
    for _, start, part in sorted(tails, key=lambda t: (widths[t[1]], t[1])):
        if part[0].kind in ("linear", *STEPPED):
            yield (
                part,
                f"the decoder begins at {quoted(part[0].name)}, the narrowest input of the layers that chain"
                if start
                else "",
            )


def _with_first_layer(blocks: Sequence[Block]) -> Iterator[tuple[list[Block], str]]:
    """Yield the layers with a linear one that the file has later put before the convolution that it begins with."""
    if not blocks or blocks[0].kind in ("linear", "gru", "lstm"):
        return
    for block in blocks:
        if block.kind == "linear":
            words = f"{quoted(block.name)} comes first, though the file has it after {quoted(blocks[0].name)}"
            yield [block, *(b for b in blocks if b is not block)], words
