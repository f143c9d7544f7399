"""Tensors that are zero outside of small boxes, and what convolutions and their like make of them.

A column of the Jacobian of a convolutional decoder is zero but for a window of each map, and so is what becomes of it on
the way.  All boxes of some rows are of one size, and lie within the map: one at the border is moved inward, so that
whatever the border does (padding with zeros, by reflection, ...) happens where it does on the whole map.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Axis", "Places", "Spread", "Windows", "joined", "stacked", "through", "total"]

Places: TypeAlias = NDArray[np.int64]

TILE = 1 << 20
"""Products in float64 that take as long as the calls for one tile of a Gram matrix."""
FEW = 4096
"""Numbers in a box up to which all boxes are moved by one call: it takes 1 us for each of a few hundred numbers, where a
call for each takes 15, and as long where boxes hold 6,000 (measured)."""


class Spread(Exception):
    """An operation spreads a latent over the whole output, or is not known not to.

    Attributes:
        by: its name, as far as it is known.
    """

    def __init__(self, by: str = "") -> None:
        super().__init__(by)
        self.by = by


@dataclass(frozen=True)
class Windows:
    """Rows of tensors of shape `shape`, each zero outside of its box.

    Attributes:
        values: what the boxes hold, shape (rows, *size), as many axes as `shape`.
        corner: the first place of each box along each axis, shape (rows, axes).
        point: the latent that each row belongs to, shape (rows,).
        shape: of the whole tensors.
    """

    values: Tensor
    corner: Places
    point: Places
    shape: tuple[int, ...]

    @property
    def size(self) -> Places:
        """The sides of the boxes, shape (axes,)."""
        return np.array(self.values.shape[1:], dtype=np.int64)

    def groups(self) -> Iterator[tuple[slice, int, Places]]:
        """Yield runs of rows that share a box and a latent, with both."""
        same = (np.diff(self.corner, axis=0) == 0).all(1) & (np.diff(self.point) == 0)
        edges = [0, *(np.flatnonzero(~same) + 1).tolist(), len(self.point)]
        for start, stop in itertools.pairwise(edges):
            yield slice(start, stop), int(self.point[start]), self.corner[start]

    def boxed(self, corner: Places, size: Places) -> Windows:
        """Return the same tensors in other boxes, cut off at them; memory may be shared."""
        return replace(self, values=_moved(self.values, self.corner - corner, size), corner=corner)

    def scaled(self, factor: Tensor, overwrite: bool) -> Windows:
        """Return the tensors times a factor of each latent, shape (points, ...) broadcastable to `shape`."""
        factor = factor[(None,) * (len(self.shape) + 1 - factor.ndim)]
        if factor[0].numel() == 1 and len(factor) == 1:
            times = factor.to(self.values.dtype)
            return replace(self, values=self.values.mul_(times) if overwrite else self.values * times)
        if _are_small(self.values):
            wide = np.array(factor.shape[1:]) > 1
            cut = _boxes(factor, np.where(wide, self.size, 1))
            cut = cut[(self.point if len(factor) > 1 else 0 * self.point, *np.where(wide, self.corner, 0).T)]
            cut = cut.to(self.values.dtype)
            return replace(self, values=self.values.mul_(cut) if overwrite else self.values * cut)
        out = self.values if overwrite else torch.empty_like(self.values)
        for rows, point, corner in self.groups():
            cut = factor[point if len(factor) > 1 else 0][self._box(corner, factor.shape[1:])].to(out.dtype)
            torch.mul(self.values[rows], cut, out=out[rows])
        return replace(self, values=out)

    def _box(self, corner: Places, shape: Sequence[int]) -> tuple[slice, ...]:
        """Return a box of a tensor that broadcasts along axes of length 1."""
        return tuple(
            slice(None) if n == 1 else slice(int(start), int(start) + side)
            for n, start, side in zip(shape, corner, self.values.shape[1:], strict=True)
        )

    def of(self, rows: slice) -> Windows:
        """Return some of the rows."""
        return replace(self, values=self.values[rows], corner=self.corner[rows], point=self.point[rows])

    def whole(self) -> Tensor:
        """Return the tensors themselves, shape (rows, *shape)."""
        out = self.values.new_zeros(len(self.point), *self.shape)
        for rows, _, corner in self.groups():
            out[rows][(slice(None), *self._box(corner, [0] * len(self.shape)))] = self.values[rows]
        return out

    def add_to(self, out: Tensor, direction: Places) -> None:
        """Add each tensor to that of its direction and latent.

        Args:
            out: shape (directions, points, *shape).
            direction: of each of the rows.
        """
        if _are_small(self.values):
            at = tuple(map(torch.from_numpy, (direction, self.point, *self.corner.T)))
            _boxes(out, self.size).index_put_(at, self.values.to(out.dtype), accumulate=True)
            return
        for values, corner, *row in zip(self.values, self.corner, direction, self.point, strict=True):
            out[(*row, *self._box(corner, [0] * len(self.shape)))].add_(values)

    def gram(self, factor: Tensor | None) -> Tensor:
        """Return sum_x factor(x)^2 t_i(x) t_j(x), shape (rows, rows), float64, of rows of one latent.

        Tile by tile, each as large as a box, or as all of them where that takes less: rows of one box are one tile.

        Args:
            factor: of that latent, shape `shape`; None for 1.
        """
        G = torch.zeros(len(self.point), len(self.point), dtype=torch.float64, device=self.values.device)
        first, last = self.corner.min(0), self.corner.max(0) + self.size
        side = self.size
        if len(G) ** 2 * np.prod(last - first) <= TILE * np.prod(-((first - last) // side)):
            side = last - first
        for start in itertools.product(*map(range, first, last, side)):
            low = np.array(start)
            inside = np.flatnonzero(((self.corner < low + side) & (self.corner + self.size > low)).all(1))
            if not len(inside):
                continue
            at = self.corner[inside]
            low, high = (
                np.maximum(low, at.min(0)),
                np.minimum(low + side, (at + self.size).max(0)),
            )
            rows = torch.from_numpy(inside)
            values = self.values if len(inside) == len(self.point) else self.values[rows]
            t = _moved(values, at - low, high - low)
            if factor is not None:
                t = t * factor[tuple(map(slice, low, high))].to(t.dtype)
            t = t.flatten(1).double()
            G[rows[:, None], rows] += t @ t.T
        return G


class Axis(NamedTuple):
    """How an operation moves along an axis.

    Attributes:
        reach: places beyond a box at which what is in it may be read.
        down, up: places of the input that are as far apart as places of the output: `down` : `up`.
        whole: whether all places are mixed: channels are.
        wraps: whether the last place is next to the first.
    """

    reach: int = 0
    down: int = 1
    up: int = 1
    whole: bool = False
    wraps: bool = False


Operation: TypeAlias = Callable[[Tensor, tuple[int, ...]], Tensor]


def through(
    windows: Windows,
    operation: Operation,
    axes: Sequence[Axis],
    shape: tuple[int, ...],
    *,
    pads: bool = False,
) -> Windows:
    """Return what an operation that moves with its input, borders apart, makes of windows.

    Each box is widened by zeros as far as it is seen from, and to a border that it would pass; the operation is done on
    these boxes.

    Args:
        operation: of rows of boxes, and of how many zeros are to be thought of around each along each axis.
        axes: how it moves along each axis but the first.
        shape: of its whole outputs, without the first axis.
        pads: whether the operation takes such zeros; else there are none.

    Raises:
        Spread: the operation does not move as `axes` say.
    """
    wide, sides = windows.shape, windows.size
    corner, size = np.empty_like(windows.corner), np.empty_like(sides)
    for i, axis in enumerate(axes):
        side = sides[i] + 2 * axis.reach + axis.down - 1
        side += (wide[i] - side) % axis.down
        start = (windows.corner[:, i] - axis.reach) // axis.down * axis.down
        outside = (start < 0) | (start + side > wide[i])
        if axis.whole or side >= wide[i] or (axis.wraps and outside.any()):
            corner[:, i], size[i] = 0, wide[i]
        else:
            corner[:, i], size[i] = start.clip(0, wide[i] - side), side
    left = windows.corner - corner
    around = left[0] if pads and (left == left[0]).all() else np.zeros_like(sides)
    around = np.where(size - sides == 2 * around, around, 0).clip(0)
    around[[axis.whole for axis in axes]] = 0
    boxes = windows.boxed(corner + around, size - 2 * around)
    values = operation(boxes.values, tuple(around.tolist()))
    down, up = (np.array([getattr(axis, name) for axis in axes]) for name in ("down", "up"))
    out = Windows(values, corner // down * up, windows.point, shape)
    covers = (size == wide) <= (out.size == shape)
    if not covers.all() or (out.corner + out.size > shape).any():
        raise Spread("an operation that does not move with its input")
    return out


def total(terms: Sequence[Windows], overwrite: Sequence[bool]) -> Windows:
    """Return the sum of windows of the same rows; where `overwrite` says so a term's own memory may take it."""
    corner, size = _union(terms)
    widest = max(range(len(terms)), key=lambda i: terms[i].values.numel())
    base = terms[widest].boxed(corner, size)
    values = base.values
    if values.data_ptr() == terms[widest].values.data_ptr() and not overwrite[widest]:
        values = values.clone()
    for i, term in enumerate(terms):
        if i != widest:
            _add(values, term.values, term.corner - corner)
    return replace(base, values=values)


def stacked(parts: Sequence[Windows]) -> Windows:
    """Return the rows of all, of windows of one shape."""
    size = np.max([part.size for part in parts], axis=0)
    boxes = [part.boxed(np.minimum(part.corner, np.array(part.shape) - size), size) for part in parts]
    return Windows(
        torch.cat([box.values for box in boxes]),
        np.concatenate([box.corner for box in boxes]),
        np.concatenate([box.point for box in boxes]),
        parts[0].shape,
    )


def joined(parts: Sequence[Windows], axis: int, shape: tuple[int, ...]) -> Windows:
    """Return windows of the same rows side by side along an axis, all of it."""
    corner, size = _union(parts)
    boxes = []
    for part in parts:
        at, wide = corner.copy(), size.copy()
        at[:, axis], wide[axis] = 0, part.shape[axis]
        boxes.append(part.boxed(at, wide))
    values = torch.cat([box.values for box in boxes], dim=axis + 1)
    return replace(boxes[0], values=values, shape=shape)


def _union(parts: Sequence[Windows]) -> tuple[Places, Places]:
    """Return boxes around those of all, of one size and within the shape of the first."""
    corner = np.min([part.corner for part in parts], axis=0)
    size = (np.max([part.corner + part.size for part in parts], axis=0) - corner).max(0)
    return np.minimum(corner, np.array(parts[0].shape) - size), size


def _moved(values: Tensor, start: Places, size: Places) -> Tensor:
    """Return boxes of another size in which each row starts at a place of its own, zero around it."""
    old = np.array(values.shape[1:])
    if (start == start[0]).all():
        low, high = start[0].clip(0), np.minimum(start[0] + old, size)
        if (low >= high).any():
            return values.new_zeros(len(values), *size.tolist())
        part = values[(slice(None), *map(slice, low - start[0], high - start[0]))]
        if (low == 0).all() and (high == size).all():
            return part
        pads = np.stack([low, size - high], axis=1)[::-1].flatten().tolist()
        return torch.nn.functional.pad(part, pads)
    cut = np.zeros((2, *size.shape), dtype=np.int64)
    if _are_small(values):  # into more room, of which then all but `size` is cut off
        cut = np.stack([-start, start + old - size]).max(1).clip(0)
    out = _zeros(values, size + cut.sum(0))
    _add(out, values, start + cut[0])
    return out[(slice(None), *map(slice, cut[0], cut[0] + size))]


def _zeros(like: Tensor, size: Places) -> Tensor:
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(
        len(like), *size.tolist(), dtype=like.dtype, device=like.device, memory_format=layout
    ).zero_()


def _add(out: Tensor, values: Tensor, start: Places) -> None:
    """Add boxes to larger ones, each row from a place of its own on; where they hold many numbers, cut off at these."""
    old, size = np.array(values.shape[1:]), np.array(out.shape[1:])
    if _are_small(values):
        _boxes(out, old)[(np.arange(len(start)), *start.T)] += values
        return
    edges = [0, *(np.flatnonzero((np.diff(start, axis=0) != 0).any(1)) + 1).tolist(), len(start)]
    for first, last in itertools.pairwise(edges):
        at = start[first]
        low, high = at.clip(0), np.minimum(at + old, size)
        if (low < high).all():
            to = out[first:last][(slice(None), *map(slice, low, high))]
            to += values[first:last][(slice(None), *map(slice, low - at, high - at))]


def _are_small(values: Tensor) -> bool:
    return values.device.type == "cpu" and values[:1].numel() <= FEW


def _boxes(whole: Tensor, size: Places) -> Tensor:
    """Return all boxes of a size, shape (..., *places, *size), of tensors of shape (..., *sides), in their memory."""
    first = whole.ndim - len(size)
    for axis, side in enumerate(size.tolist(), start=first):
        whole = whole.unfold(axis, side, 1)
    return whole
