"""Maps pixel by pixel, in memory (h, w, d, n, channels): of all maps the first pixel, of all maps the second one.

A transposed convolution of few channels is then a product of matrices with a row for each map, without a pixel outside of the maps:
of maps of 4 x 4 pixels a quarter of the products of a kernel of 4 would see nothing but padding, of 8 x 8 an eighth.  To torch's
library the maps are the third side of one volume, along which the kernel has one tap.  Activations and normalisations are
multiplied in as the tangents lie, and the last layer asks for no order of pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vaeprobe.engine.dense import by_onednn, kept

__all__ = [
    "BLOCK",
    "MAPS",
    "SMALL",
    "SMALL_OF_DOUBLED",
    "doubled",
    "doubled_places",
    "is_by_pixel",
    "laid_by_pixel",
    "one_tap",
    "small",
    "times",
]

BLOCK = 16 << 20
"""Bytes of the widest tangents of a block of them: rows of a product are the maps (measured: with 32 channels .9 of the time of 4 MB
for maps of 32 x 32, .98 for 16 x 16).

What is left of a column (32 channels, 32 x 32 pixels, d = 10, one thread, in percent): the convolutions of the tangents 45, the last
layer's product 12, the primal 12, float64 sums 8, layers that are products of matrices 9.  Doubling convolutions in Winograd's form
(9 products for 16, in torch's operations) take 3 times as long: on maps this small their edges leave as many products, and their
sums cost more than these.  Along one side alone (3 for 4) the products take .88 of the time, and their sums cost the rest.
Strips of rows, from one layer to the next, cost in calls what they spare in memory.  With three channels the float64 sums are 15
percent, half of it products of 10 x 13,068.  Float32 sums of 128 at a time would take .6 of these, as exact for columns at an angle,
but they lose columns within 3e-4 of each other; parts of places of all maps, in place of maps one by one, 1 percent of the whole.
"""
SMALL = 64 * 64
"""Channels in times channels out up to which this is faster than a map at a time (measured, maps of 4 x 4, 8 x 8 and 16 x 16 pixels:
1.9, 1.6 and 1.25 times with 32, 1.4, 1.15 and 1.1 times with 64; limited to AVX2, with 64, 1.6, 1.1 and .8 times)."""

SMALL_OF_DOUBLED = 16 * 16
"""The same where the map was doubled first and convolved then: normalisations and skip connections come next, which have to lay
maps out one by one again (measured, with and without them: with 16 channels .5 to 1 times the time, with 32 1 to 1.15, with 64 1.02 to 1.1)."""

MAPS = 16
"""Maps from which this is no slower (measured, maps of 4 x 4 to 32 x 32 pixels, 16 to 64 channels: with 16 maps .5 to 1 times the
time, with 256 .2 to .9; with 7 up to 1.4)."""


def small(weight: Tensor, most: int = SMALL) -> bool:
    """Whether this is faster for a transposed convolution by a weight (in, out, 4, 4), of so many channels in times out at most."""
    few = weight.dtype == torch.float32 and weight.shape[0] * weight.shape[1] <= most
    return few and weight.is_cpu and by_onednn()


def laid_by_pixel(t: Tensor) -> Tensor:
    """Return maps of tangents, shape (d, n, c, h, w), pixel by pixel, shape (h, w, d, n, c)."""
    return t.permute(3, 4, 0, 1, 2).contiguous()


def is_by_pixel(t: Tensor) -> bool:
    """Whether maps, shape (n, c, h, w), lie in memory as (h, w, n, c)."""
    if t.ndim != 4 or t.shape[0] == 1:
        return False
    n, c, _, w = t.shape
    return t.stride() == (c, 1, w * n * c, n * c)


def doubled(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a transposed convolution of kernel 4, stride 2 and padding 1 of maps pixel by pixel.

    Args:
        x: shape (h, w, d, n, in).
        weight: shape (in, out, 4, 4).
        bias: shape (out,).

    Returns:
        shape (2h, 2w, d, n, out).
    """
    y: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
        _volume(x), kept(weight, "one tap", one_tap), bias, [1, 1, 0], [0, 0, 0], [2, 2, 1], [1, 1, 1], 1, "none", [], ""
    )  # fmt: skip
    return _pixels(y, x)


def doubled_places(x: Tensor, patches: Tensor) -> Tensor:
    """Return the same with 2 x 2 pixels at each place, shape (h + 1, w + 1, d, n, 2 x 2 x out).

    Args:
        patches: that convolution as one of 2 x 2, shape (2 x 2 x out, in, 2, 2, 1), see `one_tap`.
    """
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(
        _volume(x), patches, None, [1, 1, 0], [1, 1, 1], [1, 1, 1], 1, "none", [], ""
    )
    return _pixels(y, x)


def times(x: Tensor, factor: Tensor) -> Tensor:
    """Return maps pixel by pixel, which are written to, times a factor of shape broadcastable to (n, c, h, w)."""
    h, w, _, _, c = x.shape
    factor = factor.expand(len(factor) if factor.ndim == 4 else 1, c, h, w)
    factor = factor.permute(2, 3, 0, 1)
    # some maps of many that lie pixel by pixel are read as they lie
    return x.mul_((factor if factor.stride()[2:] == (c, 1) else factor.contiguous())[:, :, None])


def _volume(x: Tensor) -> Tensor:
    return x.flatten(2, 3)[None].permute(0, 4, 1, 2, 3)


def one_tap(weight: Tensor) -> Tensor:
    """Return a weight of maps for volumes of them, laid out as these are down to the strides of sides of one: torch goes by those for what it gives."""
    return weight[..., None].clone(memory_format=torch.channels_last_3d)


def _pixels(y: Tensor, x: Tensor) -> Tensor:
    y = y[0].permute(1, 2, 3, 0).contiguous()
    return y.view(*y.shape[:2], *x.shape[2:4], y.shape[3])
