"""Tangents of one tensor, computed when first needed, and the Gram matrices that follow from them.

The tangents of a tensor of shape (n, ...) in d directions have shape (d, n, ...).  Each operation is put off
until somebody asks for numbers, and is then done for a block of points and directions at a time, through all
operations that are pending, so that what one leaves the next finds in the cache: a sixth of the time of narrow
convolutional decoders.  It saves work in three more places: element-wise factors (normalisation, activation)
collapse into one, multiplied in place into the buffer of the convolution before them; the layout of the output
never matters to a Gram matrix; and the last layer need not be computed at all where a smaller one has the same
Gram matrix.

Values are never written to once they are known, so that tensors may be shared freely (skip connections).
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vaeprobe.engine.dense import by_root, dense_gram, linear, on_every_point, root_bands
from vaeprobe.engine.workers import on_workers
from vaeprobe.scoped import scoped

__all__ = [
    "Block",
    "Changed",
    "Columns",
    "Deferred",
    "Known",
    "LinearOutput",
    "OfWeight",
    "Reshaped",
    "Scaled",
    "in_blocks",
]


BLOCK = 4 << 20
"""Bytes of the widest tangents of a block, however many threads there are, of which each takes blocks of its own
(measured: 3 to 8 MB are as fast where a core's own cache has 2).
"""
FEW_ROWS = 24
"""Directions and points in a block below which reading the weights anew for each takes what the cache gives (measured on a
DCGAN of 262 kB a row): then all are taken at once, layer by layer."""
LONGEST = 64
"""Operations put off in a row: each of them is a call inside the next one's."""
_rows: ContextVar[int | None] = ContextVar("rows", default=None)


@contextmanager
def in_blocks(rows: int) -> Iterator[None]:
    """Take so many directions and points at a time, within it, instead of as many as are fast."""
    with scoped(_rows, rows):
        yield


@dataclass(frozen=True)
class Block:
    """Some directions at some points of what is computed, and those tangents there that are needed more than once.

    Attributes:
        whole: whether these are all.
    """

    directions: slice
    points: slice
    whole: bool = False
    known: dict[Columns, Tensor] = field(default_factory=dict)

    def of(self, t: Tensor) -> Tensor:
        """Return tangents, shape (d, n, ...), of these alone."""
        return t if self.whole else t[self.directions, self.points]


class Columns:
    """Tangents of a tensor of shape `shape`, in as many directions as `directions`.

    A tensor with stride 0 along the points stands for tangents that are the same at every point.

    Attributes:
        row: bytes of the widest tangents among these and the pending ones that they are made of, per direction and point.
        length: how many are pending in a row.
        block: bytes of the widest of a block.
    """

    directions: int
    itemsize: int
    block: int
    on_cpu: bool

    def __init__(
        self,
        shape: torch.Size,
        *made_of: Columns,
        directions: int = 0,
        itemsize: int = 0,
        on_cpu: bool = True,
    ) -> None:
        self.directions = made_of[0].directions if made_of else directions
        self.shape = shape
        self.itemsize = made_of[0].itemsize if made_of else itemsize
        self.on_cpu = made_of[0].on_cpu if made_of else on_cpu
        self._made_of = made_of
        self._own = False
        self._value: Tensor | None = None
        self.row, self.length = self.itemsize * math.prod(shape[1:]), 1
        self.block = max((part.block for part in made_of), default=BLOCK)
        for part in made_of:
            if not part._pending:
                self.row = max(self.row, part.itemsize * math.prod(part.shape[1:]))
                continue
            if part.length >= LONGEST:
                part.value()
            else:
                self.row, self.length = max(self.row, part.row), max(self.length, part.length + 1)

    @torch.no_grad()
    def value(self, *, last: bool = False) -> Tensor:
        """Return the tangents, shape (directions, *shape); not to be written to.

        Args:
            last: whether nobody will ask for any that these are made of.
        """
        if self._value is None:
            gathered: dict[Columns, Tensor] = {}
            one_by_one = threading.Lock()

            def gather(block: Block) -> None:
                block.known[self] = self._compute(block)[0]
                for columns, t in block.known.items():
                    if block.whole:
                        gathered[columns] = t
                    elif columns is self or not last:
                        with one_by_one:
                            _put(gathered, columns, block, t)

            self._settle()
            on_workers(gather, [block for points in self._points() for block in self._blocks(points)])
            for columns, t in gathered.items():
                columns._value = t
                columns._release()
        assert self._value is not None
        return self._value

    def at(self, block: Block) -> Tensor:
        """Return the tangents in a block; not to be written to."""
        if self._value is not None:
            return block.of(self._value)
        if self not in block.known:
            block.known[self] = self._compute(block)[0]
        return block.known[self]

    @torch.no_grad()
    def gram(self, factor: Tensor | None = None) -> Tensor:
        """Return sum_x factor(x)^2 t_i(x) t_j(x) at every point, shape (n, directions, directions), float64.

        Args:
            factor: shape (n, ...) with as many numbers per point as `shape`.
        """
        if factor is not None:
            factor = factor.reshape(len(factor), *self.shape[1:])
        self._settle()
        parts = on_workers(lambda points: self._gram(points, _of(factor, points, self.shape)), self._points())
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _gram(self, points: slice, factor: Tensor | None) -> Tensor:
        """Return the Gram matrices at some points, with factors there."""
        return dense_gram(self._together(points, self.at), factor)

    def by_pixel(self, block: Block, factor: Tensor | None = None) -> Tensor | None:
        """Return the maps in a block times a factor, pixel by pixel (see `vaeprobe.engine.by_pixel`), which the caller may write to; None where that is not how they are made."""
        return None

    def scaled(self, factor: Tensor) -> Columns:
        """Return the tangents times an element-wise factor, shape broadcastable to `shape`."""
        return Scaled(self, factor)

    def times(self, number: float) -> Columns:
        """Return the tangents times a number."""
        return Changed(self, lambda t, mine, points: t * number)

    def plus(self, others: Sequence[Columns]) -> Columns:
        """Return the sum with others of the same shape."""
        return _Sum(self.shape, (self, *others))

    def reshaped(self, shape: torch.Size) -> Columns:
        """Return the same numbers per point in another shape."""
        if shape[:1] != self.shape[:1]:
            return Known(self.value().reshape(self.directions, *shape))
        return Reshaped(self, shape)

    def _compute(self, block: Block) -> tuple[Tensor, bool]:
        """Return the tangents in a block and whether nobody else holds their memory."""
        raise NotImplementedError

    def _release(self) -> None:
        """Let go of what the computation needed."""
        self._made_of = ()

    def _settle(self) -> None:
        """Note which of the pending ones that these are made of nobody else holds, before several threads do."""
        seen: set[int] = set()
        todo: list[Columns] = [self]
        while todo:
            for part in todo.pop()._made_of:
                if part._pending and id(part) not in seen:
                    part._own = sys.getrefcount(part) <= 3
                    seen.add(id(part))
                    todo.append(part)

    @property
    def parted(self) -> bool:
        """Whether Gram matrices are formed of tangents in blocks of some points."""
        return self._rows() < sys.maxsize

    @property
    def _pending(self) -> bool:
        return self._value is None

    def _rows(self) -> int:
        """Return how many directions and points to take at a time."""
        rows = self.block // max(1, self.row)
        return _rows.get() or (rows if rows >= FEW_ROWS and self.on_cpu else sys.maxsize)

    def _points(self) -> list[slice]:
        """Return the points to take at a time, all of which together are all."""
        n = self.shape[0] if self.shape else 1
        most = max(1, self._rows() // max(1, self.directions))
        if n > 2 * most:  # as many for each of two threads, or of four
            most = math.ceil(n / (4 * math.ceil(n / (4 * most))))
        return _evenly(n, most)

    def _blocks(self, points: slice) -> list[Block]:
        """Return blocks of all directions at some points."""
        n = self.shape[0] if self.shape else 1
        turns = _evenly(self.directions, self._rows() // max(1, points.stop - points.start))
        whole = len(turns) == 1 and points == slice(0, n)
        return [Block(some, points, whole) for some in turns]

    def _together(self, points: slice, compute: Callable[[Block], Tensor]) -> Tensor:
        """Return what `compute` gives of all directions at some points."""
        parts = [compute(block) for block in self._blocks(points)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _evenly(n: int, most: int) -> list[slice]:
    """Return slices of n things of about the same size, at least one and at most so many each."""
    size = max(1, math.ceil(n / max(1, math.ceil(n / max(1, most)))))
    return [slice(i, min(i + size, n)) for i in range(0, max(1, n), size)]


def _put(gathered: dict[Columns, Tensor], columns: Columns, block: Block, t: Tensor) -> None:
    """Write tangents in a block into those of all, which lie in memory in the same order."""
    if columns not in gathered:
        axes = sorted(range(2, t.ndim), key=lambda axis: t.stride()[axis], reverse=True)
        sides = [columns.directions, columns.shape[0], *[t.shape[axis] for axis in axes]]
        gathered[columns] = t.new_empty(sides).permute(0, 1, *[2 + axes.index(i) for i in range(2, t.ndim)])
    gathered[columns][block.directions, block.points] = t


def _of(factor: Tensor | None, points: slice, shape: torch.Size) -> Tensor | None:
    """Return a factor, shape broadcastable to `shape`, at some points."""
    if factor is None or factor.ndim < len(shape) or not shape or len(factor) == 1:
        return factor
    return factor[points]


def _take(columns: Columns, block: Block) -> tuple[Tensor, bool]:
    """Return the value of `columns` in a block and whether the caller may write to it.

    It may where the caller holds the only reference: nobody can ask again.  (Were that count wrong, the
    value would be computed twice: slower, not different.)
    """
    if columns._pending and columns._own:
        return columns._compute(block)
    return columns.at(block), False


class Known(Columns):
    """Tangents that are known."""

    def __init__(self, value: Tensor) -> None:
        super().__init__(
            value.shape[1:], directions=value.shape[0], itemsize=value.itemsize, on_cpu=value.is_cpu
        )
        self._value = value


class Deferred(Columns):
    """Tangents that a linear operation on single samples makes of others: in memory of their own."""

    def __init__(self, inner: Columns, shape: torch.Size, operation: Callable[[Tensor], Tensor]) -> None:
        if inner._rows() == sys.maxsize:
            inner.value()  # there is one block of it, and of large ones no more is held than must be
        super().__init__(shape, inner)
        self._operation: Callable[[Tensor], Tensor] | None = operation
        if not inner._pending and inner.shape[0] > 1 and inner.value().stride()[1] == 0:
            self.value()  # once for all points

    def _compute(self, block: Block) -> tuple[Tensor, bool]:
        assert self._operation is not None
        value = on_every_point(self._operation, self._made_of[0].at(block))
        return value, value.stride()[1] != 0 or value.shape[1] == 1

    def _release(self) -> None:
        super()._release()
        self._operation = None


class Changed(Columns):
    """Tangents changed by `change`, which is told whether it may write to them, and at which points; the shape stays."""

    def __init__(self, inner: Columns, change: Callable[[Tensor, bool, slice], Tensor]) -> None:
        super().__init__(inner.shape, inner)
        self._change: Callable[[Tensor, bool, slice], Tensor] | None = change

    def _compute(self, block: Block) -> tuple[Tensor, bool]:
        assert self._change is not None
        return self._change(*_take(self._made_of[0], block), block.points), True

    def _release(self) -> None:
        super()._release()
        self._change = None


class _Sum(Columns):
    """The sum of tangents of one shape."""

    def __init__(self, shape: torch.Size, terms: tuple[Columns, ...]) -> None:
        super().__init__(shape, *terms)

    def _compute(self, block: Block) -> tuple[Tensor, bool]:
        (first, mine), (second, also), *rest = [_take(term, block) for term in self._made_of]
        if first.dtype != second.dtype or not (mine or also):
            out = first + second
        else:  # where a term lies already: memory of its own takes as long again
            out = first.add_(second) if mine else second.add_(first)
        for value, _ in rest:
            out += value
        return out, True


class Scaled(Columns):
    """Tangents times an element-wise factor, shape broadcastable to `shape`."""

    _factor: Tensor | None

    def __init__(self, inner: Columns, factor: Tensor) -> None:
        if isinstance(inner, Scaled) and inner._factor is not None:
            factor = inner._factor * factor
            (inner,) = inner._made_of
        super().__init__(inner.shape, inner)
        self._factor = factor

    def _compute(self, block: Block) -> tuple[Tensor, bool]:
        factor = _of(self._factor, block.points, self.shape)
        assert factor is not None
        value, mine = _take(self._made_of[0], block)
        if mine and torch.result_type(value, factor) == value.dtype:
            return value.mul_(factor), True
        return value * factor, True

    def by_pixel(self, block: Block, factor: Tensor | None = None) -> Tensor | None:
        own = _of(self._factor, block.points, self.shape)
        if own is None or not self._own:
            return None
        return self._made_of[0].by_pixel(block, own if factor is None else own * factor)

    def _release(self) -> None:
        super()._release()
        self._factor = None

    def _gram(self, points: slice, factor: Tensor | None) -> Tensor:
        own = _of(self._factor, points, self.shape)
        if own is None:
            return super()._gram(points, factor)
        (inner,) = self._made_of
        here = (points.stop - points.start, *self.shape[1:])
        own = own.expand(here)
        return inner._gram(points, own if factor is None else own * factor)


class Reshaped(Columns):
    """The same numbers per point in another shape."""

    def __init__(self, inner: Columns, shape: torch.Size) -> None:
        super().__init__(shape, inner)

    def gram(self, factor: Tensor | None = None) -> Tensor:
        if not self._made_of:
            return super().gram(factor)
        (inner,) = self._made_of  # which knows best how many points to take at a time
        return inner.gram(None if factor is None else factor.reshape(len(factor), *inner.shape[1:]))

    def _compute(self, block: Block) -> tuple[Tensor, bool]:
        value, mine = _take(self._made_of[0], block)
        return value.reshape(*value.shape[:2], *self.shape[1:]), mine

    def _gram(self, points: slice, factor: Tensor | None) -> Tensor:
        if not self._made_of:
            return super()._gram(points, factor)
        (inner,) = self._made_of
        return inner._gram(points, None if factor is None else factor.reshape(len(factor), *inner.shape[1:]))


class OfWeight(Deferred):
    """What a layer's weight makes of the tangents of its inputs, which are at hand until it is computed."""

    def __init__(
        self, inner: Columns, weight: Tensor, shape: torch.Size, layer: Callable[[Tensor], Tensor]
    ) -> None:
        self._weight = weight
        super().__init__(inner, shape, layer)


class LinearOutput(OfWeight):
    """Tangents W t of a linear layer, whose Gram matrix a square root of W^T W gives as well."""

    def __init__(self, inner: Columns, weight: Tensor, shape: torch.Size) -> None:
        inner.value()  # products of matrices are the faster the larger
        super().__init__(inner, weight, shape, lambda t: linear(t, weight))

    def _rows(self) -> int:
        return _rows.get() or sys.maxsize

    def _gram(self, points: slice, factor: Tensor | None) -> Tensor:
        rows, width = self._weight.shape
        if factor is None and self._made_of and rows > width:
            (inner,), bands = self._made_of, root_bands(self._weight)
            t = self._together(
                points, lambda block: on_every_point(lambda t: by_root(t, bands), inner.at(block))
            )
            return dense_gram(t, None)
        return super()._gram(points, factor)
