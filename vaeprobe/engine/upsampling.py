"""Transposed convolutions that double the sides, as small convolutions by the parity of the output."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.engine.columns import Columns, Deferred, OfWeight
from vaeprobe.engine.dense import dense_gram, kept, on_every_point

__all__ = ["Doubled", "Upsampling"]


class Doubled(Deferred):
    """Tangents of a map whose pixels are each repeated twice along both sides.

    Attributes:
        source: the tangents of the map before.
    """

    def __init__(self, source: Columns, shape: torch.Size, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__(source, shape, operation)
        self.source = source


class Upsampling(OfWeight):
    """Tangents of a transposed convolution that doubles the sides (see `parity_kernels`), with few output channels.

    Gram matrices need no order of the pixels, and take them as the small convolution gives them.
    """

    def __init__(self, inner: Columns, weight: Tensor, shape: torch.Size) -> None:
        super().__init__(inner, weight, shape, lambda t: upsampled(_channels_last(t), weight))

    def _gram(self, points: slice, factor: Tensor | None) -> Tensor:
        if not self._made_of:
            return super()._gram(points, factor)
        (inner,), weight = self._made_of, self._weight
        step = 2 if weight.shape[1] == 1 else 1
        kernel = kept(weight, f"parities by {step}", lambda W: patch_kernels(W, step))

        def patches(t: Tensor) -> Tensor:
            return F.conv2d(_channels_last(t), kernel, stride=step, padding=step)

        t = self._together(points, lambda block: on_every_point(patches, inner.at(block)))
        if factor is None:
            factor = torch.ones((), dtype=weight.dtype, device=weight.device).expand(1, *self.shape[1:])
        return dense_gram(t, by_patches(factor, step))


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


def patch_kernels(weight: Tensor, step: int) -> Tensor:
    """Return that convolution as one of stride `step` that gives 2 step x 2 step pixels at a time, as channels.

    Few channels leave the registers of a processor empty: of a single one 16 pixels at a time are a third faster than
    4, though more than half of the products are with zeros.
    """
    kernels = parity_kernels(weight).flatten(0, 2)
    out = kernels.new_zeros(step, step, *kernels.shape[:2], step + 1, step + 1)
    for i in range(step):
        for j in range(step):
            out[i, j, :, :, i : i + 2, j : j + 2] = kernels
    return _channels_last(out.flatten(0, 2))


def parity_kernels(weight: Tensor) -> Tensor:
    """Return a transposed convolution of kernel 4, stride 2, padding 1 as four 2 x 2 convolutions.

    Each output pixel is a sum over 2 x 2 input pixels, with one of four sets of weights by the parity of its
    row and column.

    Args:
        weight: shape (in, out, 4, 4).

    Returns:
        shape (row parity, column parity, out, in, 2, 2).
    """
    taps = torch.tensor([[3, 1], [2, 0]], device=weight.device)
    return weight.detach()[:, :, taps][..., taps].permute(2, 4, 1, 0, 3, 5)


@torch.no_grad()
def upsampled(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return that transposed convolution of x, shape (n, in, h, w): one convolution, its pixels put in order."""
    n, _, h, w = x.shape
    out = weight.shape[1]
    kernel = kept(weight, "parities by 1", lambda W: patch_kernels(W, 1))
    four = F.conv2d(x, kernel, None if bias is None else bias.repeat(4), padding=1)
    places = four.permute(0, 2, 3, 1).reshape(n, h + 1, w + 1, 2, 2, out)
    y = four.new_empty(n, out, h, 2, w, 2)
    y.copy_(in_order(places, h, w))
    return y.view(n, out, 2 * h, 2 * w)


@torch.no_grad()
def upsampled_by_quarters(x: Tensor, weight: Tensor) -> Tensor:
    """Return the same by four convolutions that compute no pixel beyond the border: faster for small maps."""
    n, _, h, w = x.shape
    x = F.pad(x, (1, 1, 1, 1))
    kernels = kept(weight, "quarters", lambda W: parity_kernels(W).permute(0, 1, 2, 4, 5, 3).contiguous())
    y = torch.empty(n, h, 2, w, 2, weight.shape[1], dtype=x.dtype, device=x.device)
    for a in (0, 1):
        for b in (0, 1):
            seen = _channels_last(x[:, :, a : a + h + 1, b : b + w + 1])
            part = F.conv2d(seen, kernels[a, b].permute(0, 3, 1, 2))
            y[:, :, a, :, b] = part.permute(0, 2, 3, 1)
    return y.reshape(n, 2 * h, 2 * w, weight.shape[1]).permute(0, 3, 1, 2)


def by_patches(image: Tensor, step: int) -> Tensor:
    """Return (n, c, 2h, 2w) as the convolution of `patch_kernels` gives pixels, zeros where it gives more than there are."""
    n, c, height, width = image.shape
    h, w = height // 2, width // 2
    high, wide = (1 + (side + step - 1) // step for side in (h, w))
    out = image.new_zeros(n, high * step, wide * step, 2, 2, c)
    in_order(out[:, step - 1 :, step - 1 :], h, w).copy_(image.reshape(n, c, h, 2, w, 2))
    out = out.view(n, high, step, wide, step, 4 * c).permute(0, 2, 4, 5, 1, 3)
    return _channels_last(out.reshape(n, step * step * 4 * c, high, wide))


def in_order(four: Tensor, h: int, w: int) -> Tensor:
    """Return places with the pixels of each parity, shape (n, u, v, 2, 2, c), as pixels (n, c, h, 2, w, 2) in the same memory.

    Pixel 2q of an even row sits at place q, pixel 2q + 1 of an odd one at q + 1.
    """
    n, _, _, _, _, c = four.shape
    sample, row, column, even_row, even_column, channel = four.stride()
    strides = (sample, channel, row, row + even_row, column, column + even_column)
    return four.as_strided((n, c, h, 2, w, 2), strides, four.storage_offset())


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
