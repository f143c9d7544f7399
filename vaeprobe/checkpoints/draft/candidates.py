"""Which layers of a file could be the decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vaeprobe.checkpoints.draft.blocks import STEPPED, Block, takes
from vaeprobe.checkpoints.draft.chain import Broken
from vaeprobe.checkpoints.draft.names import DECODER, ENCODER, OTHER
from vaeprobe.checkpoints.draft.sequence import chained
from vaeprobe.files.source import quoted

__all__ = ["candidates"]


def candidates(blocks: Sequence[Block]) -> Iterator[tuple[list[Block], str]]:
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
