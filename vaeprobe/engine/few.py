"""Convolutions to few channels, which leave most of a vector register empty: one product of matrices, and sums of what it gives."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["few", "given", "summed"]

FEW, MANY = 4, 8
"""Channels out of a 3 x 3 convolution up to which, and in from which, this is faster: 1.05 times there, 1.9 times with three
of 32, 3 times with one (measured)."""
CACHE = 3 << 20
"""Bytes of maps at a time (measured: 1 to 4 MB are as fast)."""


def given(weight: Tensor) -> Tensor:
    """Return what a pixel gives to those around it by a weight (out, in, k, k), shape (k k out, in)."""
    return weight.permute(2, 3, 0, 1).flatten(0, 2).contiguous()


def few(x: Tensor, weight: Tensor) -> bool:
    """Whether this is faster for maps (n, in, h, w) and a weight (out, in, 3, 3)."""
    return x.is_cpu and weight.shape[0] <= FEW and weight.shape[1] >= MANY


@torch.no_grad()
def summed(x: Tensor, gives: Tensor, k: int) -> Tensor:
    """Return maps (n, c, h, w) convolved with a kernel of k x k taps, of which tap (1, 1) sees the pixel itself.

    With a row and a column of zeros after each map, each tap sees what is at one distance in memory.

    Args:
        gives: see `given`.
        k: 2 or 3.

    Returns:
        shape (n, out, h + 1, w + 1): with two taps there is a place more than pixels; with three it holds what is to be
        left out.
    """
    n, c, h, w = x.shape
    most = max(1, CACHE // max(1, x.itemsize * c * (h + 1) * (w + 1)))
    if n > most:
        return torch.cat([summed(maps, gives, k) for maps in torch.split(x, most)])
    room = x.new_empty(n, h + 1, w + 1, c)
    room[:, h].zero_()
    room[:, :h, w].zero_()
    room[:, :h, :w].copy_(x.permute(0, 2, 3, 1))
    parts = torch.mm(gives, room.view(-1, c).mT).chunk(k**2)
    here = parts[k + 1]
    for tap, there in enumerate(parts):
        distance = (1 - tap // k) * (w + 1) + 1 - tap % k
        if distance > 0:
            here[:, distance:] += there[:, :-distance]
        elif distance < 0:
            here[:, :distance] += there[:, -distance:]
    return here.view(len(here), n, h + 1, w + 1).transpose(0, 1)
