"""Transposed convolutions that double the sides, as small convolutions by the parity of the output."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.engine.by_pixel import (
    BLOCK,
    MAPS,
    SMALL,
    doubled,
    doubled_places,
    laid_by_pixel,
    one_tap,
    small,
    times,
)
from vaeprobe.engine.columns import Block, Columns, Deferred, OfWeight
from vaeprobe.engine.dense import dense_gram, kept, on_every_point
from vaeprobe.engine.few import given, summed, summed_by_pixel

__all__ = ["FEW", "Doubled", "Upsampling", "together", "upsampled_by_pixel"]

FEW = 16
"""Channels out of a transposed convolution up to which it is faster as a convolution per parity of the output (measured)."""

NARROW = 4
"""The same down to which, but for one, they are faster as that than pixel by pixel (measured: .4 to .9 times)."""


class Doubled(Deferred):
    """Tangents of a map whose pixels are each repeated twice along both sides.

    Attributes:
        source: the tangents of the map before.
    """

    def __init__(self, source: Columns, shape: torch.Size, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__(source, shape, operation)
        self.source = source


class Upsampling(OfWeight):
    """Tangents of a transposed convolution that doubles the sides (see `parity_kernels`).

    Gram matrices need no order of the pixels, and take those of few channels as a small convolution gives them.
    """

    def __init__(
        self, inner: Columns, weight: Tensor, shape: torch.Size, layer: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(inner, weight, shape, layer)
        if weight.shape[1] <= FEW and self._small:
            self.block = BLOCK

    def by_pixel(self, block: Block, factor: Tensor | None = None) -> Tensor | None:
        if not (self._pending and self._own and self._small):
            return None
        (inner,) = self._made_of
        x = inner.by_pixel(block)
        if x is None:
            t = inner.at(block)
            if not t.numel() or (t.shape[1] > 1 and t.stride()[1] == 0):
                return None  # nothing, or once for all points
            x = laid_by_pixel(t)
        y = doubled(x, self._weight)
        return y if factor is None else times(y, factor)

    def _gram(self, points: slice, factor: Tensor | None) -> Tensor:
        if not self._made_of or self._weight.shape[1] > FEW:
            return super()._gram(points, factor)
        if factor is None:
            like = self._weight
            factor = torch.ones((), dtype=like.dtype, device=like.device).expand(1, *self.shape[1:])
        t = self._together(points, self._places)
        return dense_gram(t, by_patches(factor, like=t))

    def _places(self, block: Block) -> Tensor:
        """Return 2 x 2 pixels at each place (see `four_at_a_time`), shape (d, n, 2 x 2 x out, h + 1, w + 1)."""
        (inner,), weight = self._made_of, self._weight
        x = inner.by_pixel(block) if self._small else None
        if x is None:
            return on_every_point(lambda t: four_at_a_time(t, weight), inner.at(block))
        if weight.shape[1] == 1:
            return summed_by_pixel(x, kept(weight, "taps", taps)).permute(3, 4, 0, 1, 2)
        patches = kept(weight, "patches by pixel", lambda w: one_tap(patch_kernels(w)))
        return doubled_places(x, patches).permute(2, 3, 4, 0, 1)

    @property
    def _small(self) -> bool:
        return self.on_cpu and self._weight.itemsize == self.itemsize and small(self._weight)


def of_doubled(weight: Tensor) -> Tensor:
    """Return a 3 x 3 convolution of padding 1 of a map of doubled pixels as a transposed one of the map itself.

    Two of three taps along a side see the same pixel, so that four products do what nine did.

    Args:
        weight: shape (out, in, 3, 3).

    Returns:
        shape (in, out, 4, 4), for kernel 4, stride 2, padding 1.
    """
    first, middle, last = weight.unbind(-1)
    rows = torch.stack([last, middle + last, first + middle, first], -1)
    first, middle, last = rows.unbind(-2)
    both = torch.stack([last, middle + last, first + middle, first], -2)
    return both.transpose(0, 1).contiguous()


def patch_kernels(weight: Tensor) -> Tensor:
    """Return that convolution as one of 2 x 2 that gives 2 x 2 pixels at a time, as channels."""
    return _channels_last(parity_kernels(weight).flatten(0, 2))


def taps(weight: Tensor) -> Tensor:
    """Return the same convolution as what each input pixel gives to those around it, shape (2 x 2 x 4 out, in)."""
    return given(parity_kernels(weight).flatten(0, 2))


def parity_kernels(weight: Tensor) -> Tensor:
    """Return a transposed convolution of kernel 4, stride 2, padding 1 as four 2 x 2 convolutions.

    Each output pixel is a sum over 2 x 2 input pixels, with one of four sets of weights by the parity of its
    row and column.

    Args:
        weight: shape (in, out, 4, 4).

    Returns:
        shape (row parity, column parity, out, in, 2, 2).
    """
    seen = torch.tensor([[3, 1], [2, 0]], device=weight.device)
    return weight.detach()[:, :, seen][..., seen].permute(2, 4, 1, 0, 3, 5)


@torch.no_grad()
def upsampled(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return that transposed convolution of x, shape (n, in, h, w)."""
    n, _, h, w = x.shape
    out = weight.shape[1]
    places = four_at_a_time(x, weight).view(n, 2, 2, out, h + 1, w + 1).permute(0, 4, 5, 1, 2, 3)
    y = _pixels(places)
    return y if bias is None else y.add_(bias[:, None, None])


def together(x: Tensor, weight: Tensor, most: int = SMALL) -> bool:
    """Whether that is faster pixel by pixel (see `vaeprobe.engine.by_pixel`)."""
    out = weight.shape[1]
    many = len(x) >= MAPS and (out == 1 or out > NARROW)
    return many and x.dtype == weight.dtype and x.is_cpu and small(weight, most)


@torch.no_grad()
def upsampled_by_pixel(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return that transposed convolution of x, shape (n, in, h, w), which lies in memory pixel by pixel but where it is one channel."""
    n, _, h, w = x.shape
    maps = laid_by_pixel(x[None])
    if bias is not None:
        bias = bias.detach().to(x.dtype).contiguous()  # torch's library reads it as it lies in memory
    if weight.shape[1] > 1:
        return doubled(maps, weight, bias)[:, :, 0].permute(2, 3, 0, 1)
    four = summed_by_pixel(maps, kept(weight, "taps", taps)).view(2, 2, 1, h + 1, w + 1, n)
    y = _pixels(four.permute(5, 3, 4, 0, 1, 2))
    return y if bias is None else y.add_(bias[:, None, None])


@torch.no_grad()
def four_at_a_time(x: Tensor, weight: Tensor) -> Tensor:
    """Return a transposed convolution (see `parity_kernels`) with 2 x 2 pixels at each place, shape (n, 2 x 2 x out, h + 1, w + 1); see `in_order`."""
    if weight.shape[1] == 1:
        return summed(x, kept(weight, "taps", taps), 2)
    return F.conv2d(_channels_last(x), kept(weight, "patches", patch_kernels), padding=1)


def by_patches(image: Tensor, like: Tensor) -> Tensor:
    """Return (n, c, 2h, 2w) as (n, 4c, h + 1, w + 1), 2 x 2 pixels at a time, with zeros where there are none.

    Args:
        like: in the order of whose axes it is to lie in memory.
    """
    n, c, height, width = image.shape
    h, w = height // 2, width // 2
    out = image.new_zeros(n, h + 1, w + 1, 2, 2, c)
    in_order(out, h, w).copy_(image.reshape(n, c, h, 2, w, 2))
    planes = out.permute(0, 3, 4, 5, 1, 2).reshape(n, 4 * c, h + 1, w + 1)
    return _channels_last(planes) if like.stride(-3) == 1 else planes


def in_order(four: Tensor, h: int, w: int) -> Tensor:
    """Return places with the pixels of each parity, shape (n, u, v, 2, 2, c), as pixels (n, c, h, 2, w, 2) in the same memory.

    Pixel 2q of an even row sits at place q, pixel 2q + 1 of an odd one at q + 1.
    """
    n, _, _, _, _, c = four.shape
    sample, row, column, even_row, even_column, channel = four.stride()
    strides = (sample, channel, row, row + even_row, column, column + even_column)
    return four.as_strided((n, c, h, 2, w, 2), strides, four.storage_offset())


def _pixels(four: Tensor) -> Tensor:
    """Return places, see `in_order`, as maps (n, c, 2h, 2w)."""
    n, c, h, w = len(four), four.shape[5], four.shape[1] - 1, four.shape[2] - 1
    return four.new_empty(n, c, h, 2, w, 2).copy_(in_order(four, h, w)).view(n, c, 2 * h, 2 * w)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
