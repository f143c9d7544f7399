"""Convolutions of small maps laid side by side as one wide map.

Torch's library takes a map row by row, and needs as long to begin a row as for some eight of its pixels of 32 channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["beside", "pays"]


CHANNELS, WIDTH, WIDTH_OF_ROWS = 48, 16, 64
"""Channels (the geometric mean of those in and out) and width of maps up to which it is faster, and that width where maps
lie side by side already, so that either way copies them (measured)."""


def pays(x: Tensor, channels: int) -> bool:
    """Whether maps, shape (n, in, h, w), are convolved to so many channels faster side by side."""
    library = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not library or x.dtype != torch.float32 or not x.is_cpu or len(x) < 2:
        return False
    width = WIDTH_OF_ROWS if x.stride(2) > x.stride(0) else WIDTH
    return x.shape[-1] <= width and x.shape[1] * channels <= CHANNELS**2


def beside(operation: Callable[[Tensor], Tensor], x: Tensor, gap: int, step: int, columns: int) -> Tensor:
    """Apply a convolution to maps side by side.

    Args:
        operation: the convolution.
        x: shape (n, in, h, w).
        gap: columns of zeros after each map, which keep it from the next.
        step: columns of the result from one map to the next.
        columns: of each map's result, of which the others see its neighbour.

    Returns:
        shape (n, out, h', columns); in memory rows come first, then n, columns and channels.
    """
    n, c, h, w = x.shape
    wide = x.new_empty(h, n, w + gap, c)
    wide[:, :, w:].zero_()
    wide[:, :, :w].copy_(x.permute(2, 0, 3, 1))
    y = operation(wide.view(1, h, n * (w + gap), c).permute(0, 3, 1, 2))
    # what comes after the last map's result is of the edge alone
    own = y[0, :, :, : n * step].view(*y.shape[1:3], n, step)[..., :columns]
    return own.permute(2, 0, 1, 3)
