"""Tangents of one tensor, computed when first needed, and the Gram matrices that follow from them.

The tangents of a tensor of shape (n, ...) in d directions have shape (d, n, ...).  Each operation is put off
until the next one asks for its result, which saves work in three places: element-wise factors (normalisation,
activation) collapse into one, multiplied in place into the buffer of the convolution before them; the layout
of the output never matters to a Gram matrix; and the last layer need not be computed at all where a smaller
one has the same Gram matrix.

Values are never written to once they are known, so that tensors may be shared freely (skip connections).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, MutableMapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = [
    "Changed",
    "Columns",
    "Deferred",
    "Known",
    "LinearOutput",
    "OfWeight",
    "Reshaped",
    "Scaled",
    "dense_gram",
    "kept",
    "on_every_point",
]


GRAM_BYTES = 1 << 20
"""Float64 tangents held at a time while Gram matrices are formed: what fits in a core's share of the cache."""


class Columns:
    """Tangents of a tensor of shape `shape`, in as many directions as `directions`.

    A tensor with stride 0 along the points stands for tangents that are the same at every point.
    """

    def __init__(self, directions: int, shape: torch.Size) -> None:
        self.directions = directions
        self.shape = shape
        self._value: Tensor | None = None

    @torch.no_grad()
    def value(self) -> Tensor:
        """Return the tangents, shape (directions, *shape); not to be written to."""
        if self._value is None:
            self._value, _ = self._compute()
            self._release()
        return self._value

    def gram(self, factor: Tensor | None = None) -> Tensor:
        """Return sum_x factor(x)^2 t_i(x) t_j(x) at every point, shape (n, directions, directions), float64.

        Args:
            factor: shape (n, ...) with as many numbers per point as `shape`.
        """
        return dense_gram(self.value(), factor)

    def scaled(self, factor: Tensor) -> Columns:
        """Return the tangents times an element-wise factor, shape broadcastable to `shape`."""
        return Scaled(self, factor)

    def times(self, number: float) -> Columns:
        """Return the tangents times a number."""
        value = self.value()
        return Deferred(self.directions, self.shape, lambda: value * number)

    def plus(self, others: Sequence[Columns]) -> Columns:
        """Return the sum with others of the same shape."""
        values = [self.value(), *[other.value() for other in others]]

        def total() -> Tensor:
            out = values[0] + values[1]
            for value in values[2:]:
                out += value
            return out

        return Deferred(self.directions, self.shape, total)

    def reshaped(self, shape: torch.Size) -> Columns:
        """Return the same numbers per point in another shape."""
        return Reshaped(self, shape)

    def _compute(self) -> tuple[Tensor, bool]:
        """Return the tangents and whether nobody else holds their memory."""
        raise NotImplementedError

    def _release(self) -> None:
        """Let go of what the computation needed."""

    @property
    def _pending(self) -> bool:
        return self._value is None


def _take(columns: Columns) -> tuple[Tensor, bool]:
    """Return the value of `columns` and whether the caller may write to it.

    It may where the caller holds the only reference: nobody can ask again.  (Were that count wrong, the
    value would be computed twice: slower, not different.)
    """
    if columns._pending and sys.getrefcount(columns) <= 3:
        return columns._compute()
    return columns.value(), False


class Known(Columns):
    """Tangents that are known."""

    def __init__(self, value: Tensor) -> None:
        super().__init__(value.shape[0], value.shape[1:])
        self._value = value


class Deferred(Columns):
    """Tangents that one operation gives: `compute` returns them in memory of their own."""

    def __init__(self, directions: int, shape: torch.Size, compute: Callable[[], Tensor]) -> None:
        super().__init__(directions, shape)
        self._function: Callable[[], Tensor] | None = compute

    def _compute(self) -> tuple[Tensor, bool]:
        assert self._function is not None
        value = self._function()
        return value, value.stride()[1] != 0 or value.shape[1] == 1

    def _release(self) -> None:
        self._function = None


class Changed(Columns):
    """Tangents changed by `change`, which is told whether it may write to them; the shape stays."""

    def __init__(self, inner: Columns, change: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__(inner.directions, inner.shape)
        self._inner: Columns | None = inner
        self._change: Callable[[Tensor, bool], Tensor] | None = change

    def _compute(self) -> tuple[Tensor, bool]:
        assert self._inner is not None
        assert self._change is not None
        return self._change(*_take(self._inner)), True

    def _release(self) -> None:
        self._inner = self._change = None


class Scaled(Columns):
    """Tangents times an element-wise factor, shape broadcastable to `shape`."""

    _parts: tuple[Columns, Tensor] | None

    def __init__(self, inner: Columns, factor: Tensor) -> None:
        super().__init__(inner.directions, inner.shape)
        parts = inner._parts if isinstance(inner, Scaled) else None
        self._parts = (inner, factor) if parts is None else (parts[0], parts[1] * factor)

    def _compute(self) -> tuple[Tensor, bool]:
        assert self._parts is not None
        factor = self._parts[1]
        value, mine = _take(self._parts[0])
        if mine and torch.result_type(value, factor) == value.dtype:
            return value.mul_(factor), True
        return value * factor, True

    def _release(self) -> None:
        self._parts = None

    def gram(self, factor: Tensor | None = None) -> Tensor:
        if self._parts is None:
            return super().gram(factor)
        inner, mine = self._parts
        mine = mine.expand(self.shape)
        return inner.gram(mine if factor is None else mine * factor.reshape(self.shape))


class Reshaped(Columns):
    """The same numbers per point in another shape."""

    def __init__(self, inner: Columns, shape: torch.Size) -> None:
        super().__init__(inner.directions, shape)
        self._inner: Columns | None = inner

    def _compute(self) -> tuple[Tensor, bool]:
        assert self._inner is not None
        value, mine = _take(self._inner)
        return value.reshape(self.directions, *self.shape), mine

    def _release(self) -> None:
        self._inner = None

    def gram(self, factor: Tensor | None = None) -> Tensor:
        if self._pending and self._inner is not None and self._inner.shape[0] == self.shape[0]:
            return self._inner.gram(None if factor is None else factor.reshape(self._inner.shape))
        return super().gram(factor)


class OfWeight(Deferred):
    """What a layer's weight makes of the tangents of its inputs, which are at hand until it is computed."""

    def __init__(
        self, inputs: Tensor, weight: Tensor, shape: torch.Size, layer: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(inputs.shape[0], shape, lambda: on_every_point(layer, inputs))
        self._inputs: Tensor | None = inputs
        self._weight = weight

    def _release(self) -> None:
        super()._release()
        self._inputs = None


class LinearOutput(OfWeight):
    """Tangents W t of a linear layer, whose Gram matrix a square root of W^T W gives as well."""

    def __init__(self, inputs: Tensor, weight: Tensor, shape: torch.Size) -> None:
        super().__init__(inputs, weight, shape, lambda t: F.linear(t, weight))

    def gram(self, factor: Tensor | None = None) -> Tensor:
        rows, width = self._weight.shape
        if factor is None and self._pending and self._inputs is not None and rows > width:
            root = matrix_root(self._weight)
            return dense_gram(on_every_point(lambda t: F.linear(t, root), self._inputs), None)
        return super().gram(factor)


@torch.no_grad()
def on_every_point(operation: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Apply a linear per-sample operation to tangents, shape (d, n, ...), once only where all points agree."""
    d, n = t.shape[:2]
    if n > 1 and t.stride()[1] == 0:
        one = operation(t[:, 0])
        return one.unsqueeze(1).expand(d, n, *one.shape[1:])
    out = operation(t.flatten(0, 1))
    return out.reshape(d, n, *out.shape[1:])


_kept: MutableMapping[Tensor, dict[str, tuple[tuple[int, int], Tensor]]] = WeakTensorKeyDictionary()


@torch.no_grad()
def kept(weight: Tensor, name: str, make: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what `make` makes of a weight; made once, and again when the weight changes."""
    state = (weight._version, weight.data_ptr())
    made = _kept.setdefault(weight, {})
    if name not in made or made[name][0] != state:
        made[name] = (state, make(weight.detach()))
    return made[name][1]


def matrix_root(weight: Tensor) -> Tensor:
    """Return the square R with R^T R = W^T W, in the type of W; kept until W changes.

    By QR, which keeps the accuracy of W (a Cholesky factor of W^T W has half the digits) and takes any rank.
    """
    return kept(weight, "root", lambda W: torch.linalg.qr(W.double(), mode="r").R.to(W.dtype))


@torch.no_grad()
def dense_gram(t: Tensor, factor: Tensor | None) -> Tensor:
    """Return T^T diag(factor^2) T at every point, shape (n, d, d), float64.

    Args:
        t: tangents, shape (d, n, ...).
        factor: shape (n or 1, ...), or None for 1.
    """
    d, n = t.shape[:2]
    if n > 1 and t.stride()[1] == 0 and (factor is None or len(factor) == 1):
        return dense_gram(t[:, :1], factor).expand(n, d, d)
    # the order of the outputs does not matter: take them as they lie in memory
    axes = sorted(range(2, t.ndim), key=lambda axis: t.stride()[axis], reverse=True)
    t = t.permute(1, 0, *axes).flatten(2)
    if factor is not None:
        factor = factor.permute(0, *[axis - 1 for axis in axes]).flatten(1)[:, None]
    out = torch.empty(n, d, d, dtype=torch.float64, device=t.device)
    step = max(1, GRAM_BYTES // max(1, 8 * math.prod(t.shape[1:])))
    # one buffer for all, which stays in the cache
    room = t.new_empty(min(step, n), *t.shape[1:], dtype=torch.float64)
    for start in range(0, n, step):
        points = slice(start, start + step)
        part = room[: min(step, n - start)].copy_(t[points])
        if factor is not None:
            part *= factor if len(factor) == 1 else factor[points]
        torch.bmm(part, part.mT, out=out[points])
    return out
