"""Convolutions to few channels, which leave most of a vector register empty: one product of matrices, and sums of what it gives."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["few", "given", "summed", "summed_by_pixel"]

FEW, MANY = 4, 4
"""Channels out of a 3 x 3 convolution up to which, and for each of which so many in, twice as many at least, this is faster:
1 to 1.3 times with three or four of 16, 1.3 to 2 times of 32, 2 to 3.5 times with one (measured, maps of 16 to 512 pixels)."""
CACHE = 8 << 20
"""Bytes of maps and products at a time (measured: 4 to 8 MB are as fast, all at once takes up to twice as long)."""


def given(weight: Tensor) -> Tensor:
    """Return what a pixel gives to those around it by a weight (out, in, k, k), shape (k k out, in)."""
    return weight.permute(2, 3, 0, 1).flatten(0, 2).contiguous()


def few(x: Tensor, weight: Tensor) -> bool:
    """Whether this is faster for maps (n, in, h, w) and a weight (out, in, 3, 3)."""
    out, c = weight.shape[:2]
    exact = x.dtype in (torch.float32, torch.float64) and x.dtype == weight.dtype
    return exact and x.is_cpu and out <= FEW and c >= MANY * max(out, 2)


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
    row = max(1, x.itemsize * (c + len(gives)) * (w + 1))
    most = max(1, CACHE // (row * (h + 1)))
    if n > most:
        return torch.cat([summed(maps, gives, k) for maps in torch.split(x, most)])
    rows = max(8, CACHE // row)
    if h > 2 * rows:
        return _in_strips(x, gives, k, rows)
    room = x.new_empty(n, h + 1, w + 1, c)
    room[:, h].zero_()
    room[:, :h, w].zero_()
    room[:, :h, :w].copy_(x.permute(0, 2, 3, 1))
    here = _at_their_places(torch.mm(gives, room.view(-1, c).mT), k, w + 1)
    return here.view(len(here), n, h + 1, w + 1).transpose(0, 1)


@torch.no_grad()
def summed_by_pixel(x: Tensor, gives: Tensor) -> Tensor:
    """Return the same with two taps of maps pixel by pixel (see `vaeprobe.engine.by_pixel`), shape (out, h + 1, w + 1, d, n).

    Args:
        x: shape (h, w, d, n, c).
    """
    h, w, d, n, c = x.shape
    here = torch.mm(gives, x.view(-1, c).mT).view(4, -1, h, w, d, n)
    y = x.new_zeros(here.shape[1], h + 1, w + 1, d, n)
    for tap, part in enumerate(here):
        down, across = 1 - tap // 2, 1 - tap % 2
        y[:, down : h + down, across : w + across] += part
    return y


def _at_their_places(products: Tensor, k: int, row: int) -> Tensor:
    """Return the sums of what pixels give (see `given`) at the places that it is for, shape (out, places); in place.

    Args:
        products: shape (k k out, places).
        row: places in a row.
    """
    parts = products.chunk(k**2)
    here = parts[k + 1]
    for tap, there in enumerate(parts):
        distance = (1 - tap // k) * row + 1 - tap % k
        if distance > 0:
            here[:, distance:] += there[:, :-distance]
        elif distance < 0:
            here[:, :distance] += there[:, -distance:]
    return here


def _in_strips(x: Tensor, gives: Tensor, k: int, rows: int) -> Tensor:
    """Return the same, so many rows at a time, with those above and below that they see."""
    h = x.shape[2]
    strips = []
    for first in range(0, h + 1, rows):
        last, above = min(first + rows, h + 1), min(first, 1)
        strip = summed(x[:, :, first - above : min(last + k - 2, h)], gives, k)
        strips.append(strip[:, :, above : above + last - first])
    return torch.cat(strips, 2)
