"""Convolutions to few channels, which leave most of a vector register empty: one product of matrices, and sums of what it gives."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["few", "given", "summed", "summed_by_pixel"]

FEW, MANY = 4, 4
"""Channels out of a 3 x 3 convolution up to which, and for each of which so many in, twice as many at least, this is as fast or
faster: .8 to 1.4 times with three or four of 12 to 16, 1.5 to 2 times of 32 and more, 1 to 3.7 times with one (measured, maps of 8 x 8 to
128 x 128 pixels; the slower ones are the smallest)."""
CACHE = 8 << 20
"""Bytes of maps and products at a time (measured: of 1 to 16 MB the fastest or nearly so; one map in strips of rows, which fit, takes longer)."""


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

    Args:
        gives: see `given`.
        k: 2 or 3.

    Returns:
        shape (n, out, h, w) with three taps; with two there is a place more than pixels along each side.
    """
    n, c, h, w = x.shape
    most = max(1, CACHE // max(1, x.itemsize * (c + len(gives)) * h * w))
    if n > most:
        return torch.cat([summed(maps, gives, k) for maps in torch.split(x, most)])
    products = torch.mm(gives, x.permute(0, 2, 3, 1).reshape(-1, c).mT).view(
        k**2, len(gives) // k**2, n, h, w
    )
    if k == 2:
        y = x.new_zeros(products.shape[1], n, h + 1, w + 1)
        _add_taps(products.permute(0, 3, 4, 1, 2), y.permute(2, 3, 0, 1))
        return y.transpose(0, 1)
    y = products[4]
    for tap, part in enumerate(products):
        (to_row, from_row), (to_column, from_column) = _shifted(1 - tap // 3), _shifted(1 - tap % 3)
        if tap != 4:
            y[:, :, to_row, to_column].add_(part[:, :, from_row, from_column])
    # always a copy, for a view would hold all nine products
    return y.transpose(0, 1).clone(memory_format=torch.contiguous_format)


def _shifted(by: int) -> tuple[slice, slice]:
    """Return where what moves by a place goes, and where it comes from."""
    to = (slice(None, -1), slice(None), slice(1, None))
    return to[by + 1], to[1 - by]


@torch.no_grad()
def summed_by_pixel(x: Tensor, gives: Tensor) -> Tensor:
    """Return the same with two taps of maps pixel by pixel (see `vaeprobe.engine.by_pixel`), shape (out, h + 1, w + 1, d, n).

    Args:
        x: shape (h, w, d, n, c).
    """
    h, w, d, n, c = x.shape
    products = torch.mm(gives, x.view(-1, c).mT).view(4, -1, h, w, d, n)
    y = x.new_zeros(products.shape[1], h + 1, w + 1, d, n)
    _add_taps(products.movedim(1, -1), y.movedim(0, -1))
    return y


def _add_taps(products: Tensor, y: Tensor) -> None:
    """Add what pixels give by each of two by two taps, shape (4, h, w, ...), to the places around them, shape (h + 1, w + 1, ...)."""
    h, w = products.shape[1:3]
    for tap, part in enumerate(products):
        row, column = 1 - tap // 2, 1 - tap % 2
        # by name: after `y[...] += part` Python copies the sum onto itself
        y[row : row + h, column : column + w].add_(part)
