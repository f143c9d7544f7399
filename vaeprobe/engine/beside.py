"""Maps side by side in one wide map, each followed by columns of zeros, in memory (h, maps, w + columns, channels).

torch's library takes as long to begin a row of a transposed convolution of few channels as for eight of its pixels: of one
wide map there are few rows.  Tangents that go through several such layers stay like this, for a factor (activation,
normalisation) makes the columns after a map zero while it is multiplied in, and the last layer asks for no order of pixels.
What is not finite stays in its map: of the two columns after one, the first is made of its last, the second of the next map's
first column.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["doubled", "narrow", "parted", "side_by_side"]

NARROW = 32 * 32
"""Channels in times channels out up to which this is faster (measured, maps of 4 x 4 to 32 x 32 pixels: 1.1 to 1.4 times with 32,
1.3 to 2.5 times with 16; with 64 as fast to a tenth slower)."""


def narrow(weight: Tensor) -> bool:
    """Whether this is faster for a transposed convolution by a weight (in, out, 4, 4)."""
    return weight.dtype in (torch.float32, torch.float64) and weight.shape[0] * weight.shape[1] <= NARROW


def side_by_side(t: Tensor) -> Tensor:
    """Return maps of tangents, shape (d, n, c, h, w), side by side, shape (h, d n, w + 1, c)."""
    d, n, c, h, w = t.shape
    room = t.new_zeros(h, d, n, w + 1, c)
    room[:, :, :, :w] = t.permute(3, 0, 1, 4, 2)
    return room.view(h, d * n, w + 1, c)


def doubled(x: Tensor, weight: Tensor) -> Tensor:
    """Return a transposed convolution of kernel 4, stride 2 and padding 1 of maps side by side.

    Args:
        x: shape (h, maps, w + 1, in).
        weight: shape (in, out, 4, 4).

    Returns:
        shape (2h, maps, 2w + 2, out), with anything in the two columns after each map.
    """
    h, maps, width, c = x.shape
    out = weight.shape[1]
    wide = x.view(1, h, maps * width, c).permute(0, 3, 1, 2)
    y: Tensor = F.conv_transpose2d(wide, weight.detach(), stride=2, padding=1)
    return y.permute(0, 2, 3, 1).reshape(2 * h, maps, 2 * width, out)


def parted(y: Tensor, d: int, factor: Tensor | None, *, tight: bool) -> Tensor:
    """Return maps of tangents, those of one direction after those of another, times a factor, and with zeros after each.

    Args:
        y: shape (h, d n, w + 2, c), with anything in the last two columns; written to.
        d: directions.
        factor: shape (n or 1, c, h, w), or None for 1.
        tight: whether one column of zeros will do better than two.
    """
    h, maps, width, c = y.shape
    w = width - 2
    y = y.view(h, d, maps // d, width, c)
    if factor is not None:
        factor = factor.permute(2, 0, 3, 1)[:, None]
    if tight:
        room = y.new_zeros(h, d, maps // d, w + 1, c)
        if factor is None:
            room[:, :, :, :w] = y[:, :, :, :w]
        else:
            torch.mul(y[:, :, :, :w], factor, out=room[:, :, :, :w])
        y = room
    elif factor is None:
        y[:, :, :, w:].zero_()
    else:
        y.mul_(F.pad(factor, (0, 0, 0, 2)))
    return y.flatten(1, 2)
