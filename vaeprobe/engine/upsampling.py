"""Transposed convolutions that double the sides, as small convolutions by the parity of the output."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.engine.columns import OfWeight, dense_gram, kept, on_every_point

__all__ = ["Upsampling"]


class Upsampling(OfWeight):
    """Tangents of a transposed convolution that doubles the sides (see `parity_kernels`), with few output channels.

    Gram matrices need no order of the pixels, and take them as the small convolution gives them.
    """

    def __init__(self, inputs: Tensor, weight: Tensor, shape: torch.Size) -> None:
        super().__init__(inputs, weight, shape, lambda t: upsampled(_channels_last(t), weight))

    def gram(self, factor: Tensor | None = None) -> Tensor:
        if not self._pending or self._inputs is None:
            return super().gram(factor)
        weight = self._weight
        kernel = _channels_last(parity_kernels(weight).flatten(0, 2))
        t = on_every_point(lambda t: F.conv2d(_channels_last(t), kernel, padding=1), self._inputs)
        if factor is None:
            factor = torch.ones((), dtype=weight.dtype, device=weight.device).expand(1, *self.shape[1:])
        return dense_gram(t, by_parity(factor.reshape(-1, *self.shape[1:])))


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
    kernel = _channels_last(parity_kernels(weight).flatten(0, 2))
    four = F.conv2d(x, kernel, None if bias is None else bias.repeat(4), padding=1)
    four = four.reshape(n, 2, 2, out, h + 1, w + 1)
    y = torch.empty(n, h, 2, w, 2, out, dtype=four.dtype, device=four.device)
    for a in (0, 1):
        for b in (0, 1):
            # pixel 2q of an even row sits at place q, pixel 2q + 1 of an odd one at q + 1
            y[:, :, a, :, b] = four[:, a, b, :, a : a + h, b : b + w].permute(0, 2, 3, 1)
    return y.reshape(n, 2 * h, 2 * w, out).permute(0, 3, 1, 2)


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


def by_parity(image: Tensor) -> Tensor:
    """Return (n, c, 2h, 2w) in the order of `Upsampling`'s convolution, (n, 4c, h + 1, w + 1), zeros elsewhere."""
    n, c, height, width = image.shape
    h, w = height // 2, width // 2
    # pixel 2q of an even row sits at place q, pixel 2q - 1 of an odd one too
    out = image.new_zeros(n, h + 1, w + 1, 2, 2, c)
    for a in (0, 1):
        for b in (0, 1):
            out[:, a : a + h, b : b + w, a, b] = image[:, :, a::2, b::2].permute(0, 2, 3, 1)
    return out.flatten(3).permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
