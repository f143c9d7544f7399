"""Wide convolutions by Winograd's minimal filtering: fewer products, for sums that cost little where channels are many.

Along each side, outputs of a tile of two pixels are linear in the products of few sums of its four inputs with few sums of
the weights: four products for two outputs of three taps, which are six; six for four outputs of two taps each, which are
eight.  In the plane that is 16 for 36 and 36 for 64, each a product of matrices over all tiles.  Numbers are
summed as they are (weights by halves), so that errors stay those of a convolution: .6 times as large in the first case, with
its shorter sums, twice in the second (measured).

Source: Winograd (1980), Arithmetic Complexity of Computations; Lavin and Gray (2016), arXiv:1509.09308, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.engine.dense import linear

__all__ = ["DOUBLING", "KEEPING", "Filter", "filtered", "pays"]

WIDE, MANY_TILES = 256, 256
"""Channels in and out, and tiles, from which this is faster (measured): as fast to 1.2 times there, 1.4 to 1.7 with 512
channels and a thousand tiles; with 128 channels sums cost what products spare.  In float64, 1.4 to 3."""
TILES = 1024
"""Tiles at a time: fewer leave products of matrices slower, more take memory."""

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Filter:
    """What is done along each side.

    Attributes:
        inputs: sums of the four inputs of a tile, the first of them before it.
        used: which of these sums each product takes.
        weights: sums of the weights that each product takes.
        outputs: sums of the products that each output is.
    """

    inputs: Rows
    used: tuple[int, ...]
    weights: Rows
    outputs: Rows

    def kernels(self, weight: Tensor) -> Tensor:
        """Return the sums of a weight (a, b, k, k), shape (products, products, a, b)."""
        G = torch.tensor(self.weights, dtype=weight.dtype, device=weight.device)
        a, b = weight.shape[:2]
        return (torch.kron(G, G) @ weight.reshape(a * b, -1).mT).view(len(G), len(G), a, b)


KEEPING = Filter(
    inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    used=(0, 1, 2, 3),
    weights=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    outputs=((1, 1, 1, 0), (0, 1, -1, -1)),
)
"""A convolution of kernel 3 and padding 1, which keeps the sides."""

DOUBLING = Filter(
    inputs=((-1, 1, 0, 0), (0, 1, 0, 0), (0, -1, 1, 0), (0, 0, 1, 0), (0, 0, -1, 1)),
    used=(0, 1, 2, 2, 3, 4),
    weights=((0, 0, 0, -1), (0, 1, 0, 1), (0, 1, 0, 0), (0, 0, -1, 0), (1, 0, 1, 0), (1, 0, 0, 0)),
    outputs=((1, 1, 0, 0, 0, 0), (0, 0, 0, 1, 1, 0), (0, 1, 1, 0, 0, 0), (0, 0, 0, 0, 1, 1)),
)
"""A transposed convolution of kernel 4, stride 2 and padding 1, which doubles the sides."""


def pays(t: Tensor, weight: Tensor) -> bool:
    """Whether this is faster for maps (n, c, h, w), convolved with a weight (out, in, k, k) or (in, out, k, k), and as exact."""
    n, _, h, w = t.shape
    tiles = n * (h // 2) * (w // 2)
    exact = t.dtype in (torch.float32, torch.float64) and t.dtype == weight.dtype
    large = t.is_cpu and min(weight.shape[:2]) >= WIDE and tiles >= MANY_TILES
    # what a weight of zero hides cancels only to the rounding of the largest number in its tile
    return exact and large and int(weight.count_nonzero()) == weight.numel()


@torch.no_grad()
def filtered(t: Tensor, weight: Tensor, by: Filter) -> Tensor:
    """Return that convolution, without bias, of maps (n, c, h, w).

    Args:
        weight: shape (out, in, 3, 3) to keep the sides, (in, out, 4, 4) to double them.
    """
    n, _, h, w = t.shape
    weight = weight.detach()
    kernels = by.kernels(weight if by is KEEPING else weight.transpose(0, 1))
    each, out = len(by.outputs) // 2, kernels.shape[2]
    down, across = -(-h // 2), -(-w // 2)
    y = t.new_empty(n, 2 * each * down, 2 * each * across, out)
    samples, strip = max(1, TILES // (down * across)), max(1, TILES // across)
    pixels = t.permute(0, 2, 3, 1)
    for first in range(0, n, samples):
        for top in range(0, down, strip):
            maps, rows = slice(first, min(first + samples, n)), slice(top, min(top + strip, down))
            part = y[maps, 2 * each * rows.start : 2 * each * rows.stop]
            _tiles(pixels[maps], kernels, by, rows, part)
    return y[:, : each * h, : each * w].permute(0, 3, 1, 2)


def _tiles(pixels: Tensor, kernels: Tensor, by: Filter, rows: slice, y: Tensor) -> None:
    """Write the outputs of some rows of tiles of maps (n, h, w, c) into y, shape (n, rows, columns, out)."""
    n, h, w, c = pixels.shape
    out, each = y.shape[3], len(by.outputs)
    down, across = rows.stop - rows.start, y.shape[2] // each
    room = pixels.new_zeros(n, 2 * down + 2, 2 * across + 2, c)
    above, below = max(0, 2 * rows.start - 1), min(h, 2 * rows.stop + 1)
    start = above - (2 * rows.start - 1)
    room[:, start : start + below - above, 1 : w + 1] = pixels[:, above:below]
    first = _sums(by.inputs, [room[:, k : k + 2 * down : 2] for k in range(4)])
    sums = [_sums(by.inputs, [part[:, :, k : k + 2 * across : 2] for k in range(4)]) for part in first]
    halves = []
    for row, i in enumerate(by.used):
        products = [
            linear(sums[i][j].view(-1, c), kernels[row, column]).view(n, down, across, out)
            for column, j in enumerate(by.used)
        ]
        halves.append(_sums(by.outputs, products))
    places = y.view(n, down, each, across, each, out)
    for column in range(each):
        parts = [half[column] for half in halves]
        _sums(by.outputs, parts, [places[:, :, row, :, column] for row in range(each)])


def _sums(rows: Rows, of: Sequence[Tensor], into: Sequence[Tensor] | None = None) -> Sequence[Tensor]:
    """Return the sums of tensors that rows of 1, -1 and 0 say, the first positive term first."""
    into = into or [torch.empty(of[0].shape, dtype=of[0].dtype, device=of[0].device) for _ in rows]
    for row, y in zip(rows, into, strict=True):
        (_, first), *rest = sorted(
            ((sign, x) for sign, x in zip(row, of, strict=True) if sign), key=lambda term: -term[0]
        )
        if not rest:
            y.copy_(first)
            continue
        torch.add(first, rest[0][1], alpha=rest[0][0], out=y)
        for sign, x in rest[1:]:
            y.add_(x, alpha=sign)
    return into
