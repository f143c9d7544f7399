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
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Columns", "Deferred", "Known", "LinearOutput", "Reshaped", "Scaled", "Upsampling", "dense_gram"]

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


class LinearOutput(Deferred):
    """Tangents W t of a linear layer, whose Gram matrix a square root of W^T W gives as well."""

    def __init__(self, inputs: Tensor, weight: Tensor, shape: torch.Size) -> None:
        super().__init__(
            inputs.shape[0], shape, lambda: on_every_point(lambda t: F.linear(t, weight), inputs)
        )
        self._inputs: Tensor | None = inputs
        self._weight = weight

    def _release(self) -> None:
        super()._release()
        self._inputs = None

    def gram(self, factor: Tensor | None = None) -> Tensor:
        rows, width = self._weight.shape
        if factor is None and self._pending and self._inputs is not None and rows > width:
            root = matrix_root(self._weight)
            return dense_gram(on_every_point(lambda t: F.linear(t, root), self._inputs), None)
        return super().gram(factor)


class Upsampling(Deferred):
    """Tangents of a transposed convolution of kernel 4, stride 2, padding 1, in two dimensions.

    Each output pixel is a sum over 2 x 2 input pixels, with one of four sets of weights by the parity of its
    row and column: one 2 x 2 convolution with four times the channels gives all pixels, in another order,
    and zeros to be masked at the border.  That is faster for few output channels.
    """

    def __init__(
        self, inputs: Tensor, weight: Tensor, shape: torch.Size, compute: Callable[[], Tensor]
    ) -> None:
        super().__init__(inputs.shape[0], shape, compute)
        self._inputs: Tensor | None = inputs
        self._weight = weight

    def _release(self) -> None:
        super()._release()
        self._inputs = None

    def gram(self, factor: Tensor | None = None) -> Tensor:
        if not self._pending or self._inputs is None:
            return super().gram(factor)
        weight = self._weight
        taps = torch.tensor([[3, 1], [2, 0]], device=weight.device)
        kernel = weight[:, :, taps][..., taps].permute(
            1, 2, 4, 0, 3, 5
        )  # (out, row parity, column parity, in, 2, 2)
        kernel = kernel.reshape(-1, weight.shape[0], 2, 2)
        t = on_every_point(
            lambda t: F.conv2d(t, kernel.contiguous(memory_format=torch.channels_last), padding=1),
            self._inputs,
        )
        if factor is None:
            factor = torch.ones((), dtype=weight.dtype, device=weight.device).expand(1, *self.shape[1:])
        return dense_gram(t, by_parity(factor.reshape(-1, *self.shape[1:])))


def by_parity(image: Tensor) -> Tensor:
    """Return (n, c, 2h, 2w) in the order of `Upsampling`'s convolution, (n, 4c, h + 1, w + 1), zeros elsewhere."""
    n, c, height, width = image.shape
    h, w = height // 2, width // 2
    # pixel 2q of an even row sits at place q, pixel 2q - 1 of an odd one too
    out = image.new_zeros(n, c, 2, 2, h + 1, w + 1)
    for a in (0, 1):
        for b in (0, 1):
            out[:, :, a, b, a : a + h, b : b + w] = image[:, :, a::2, b::2]
    return out.reshape(n, 4 * c, h + 1, w + 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def on_every_point(operation: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Apply a linear per-sample operation to tangents, shape (d, n, ...), once only where all points agree."""
    d, n = t.shape[:2]
    if n > 1 and t.stride()[1] == 0:
        one = operation(t[:, 0])
        return one.unsqueeze(1).expand(d, n, *one.shape[1:])
    out = operation(t.flatten(0, 1))
    return out.reshape(d, n, *out.shape[1:])


_roots = WeakTensorKeyDictionary()


@torch.no_grad()
def matrix_root(weight: Tensor) -> Tensor:
    """Return the square R with R^T R = W^T W, in the type of W; kept until W changes.

    By QR, which keeps the accuracy of W (a Cholesky factor of W^T W has half the digits) and takes any rank.
    """
    state = (weight._version, weight.data_ptr())
    if weight in _roots and _roots[weight][0] == state:
        kept: Tensor = _roots[weight][1]
        return kept
    root: Tensor = torch.linalg.qr(weight.detach().double(), mode="r").R.to(weight.dtype)
    _roots[weight] = (state, root)
    return root


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
        factor = factor.permute(0, *[axis - 1 for axis in axes]).flatten(1).to(t.dtype)[:, None]
    out = torch.empty(n, d, d, dtype=torch.float64, device=t.device)
    step = max(1, GRAM_BYTES // max(1, 8 * math.prod(t.shape[1:])))
    for start in range(0, n, step):
        points = slice(start, start + step)
        part = t[points]
        if factor is not None:
            part = part * (factor if len(factor) == 1 else factor[points])
        part = part.double()
        torch.bmm(part, part.mT, out=out[points])
    return out
