"""What is done with the numbers of tangents: layers on all of them, Gram matrices, and weights made ready for both."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from vaeprobe.autograd import unwatched
from vaeprobe.scoped import scoped

__all__ = [
    "bands_of",
    "by_onednn",
    "by_root",
    "dense_gram",
    "kept",
    "linear",
    "on_every_point",
    "one_pass",
    "root_bands",
]

GRAM_BYTES = 3 << 20
"""Float64 tangents held at a time while Gram matrices are formed: what fits in a core's share of the cache."""

WORD = 8
"""Bytes that are compared at a time: one by one, float32 numbers took three and a half times as long (measured)."""
BANDED = 256
"""Columns of a weight from which four bands of its triangular root cost two thirds of the whole (measured; at 128 as much)."""
ROWS = 256
"""Rows from which oneDNN's products of matrices are as fast as MKL's or faster, whatever their sides (measured)."""


@torch.no_grad()
def on_every_point(operation: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Apply a linear per-sample operation to tangents, shape (d, n, ...), once only where all points agree."""
    d, n = t.shape[:2]
    if n > 1 and t.stride()[1] == 0:
        one = operation(t[:, 0])
        return one.unsqueeze(1).expand(d, n, *one.shape[1:])
    if n > 1 and t.stride()[0] != n * t.stride()[1]:
        t = t.clone()  # points of more: as they lie in memory, where `flatten` would put channels first
    out = operation(t.flatten(0, 1))
    return out.reshape(d, n, *out.shape[1:])


def by_onednn() -> bool:
    """Whether torch has oneDNN and its user has not switched it off (`torch.backends.mkldnn.flags(enabled=False)`)."""
    return bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)  # type: ignore[no-untyped-call]


def linear(t: Tensor, weight: Tensor) -> Tensor:
    """Return t W^T of tangents, shape (rows, ..., in), and a weight, shape (out, in).

    By oneDNN, where torch has it: `F.linear` asks MKL, which leaves a tenth to a sixth of AMD's processors unused.
    """
    many = t.dtype == weight.dtype == torch.float32 and t.is_cpu and t.is_contiguous() and len(t) >= ROWS
    plain = (
        weight.ndim == 2
        and weight.numel()
        and type(weight) in (Tensor, nn.Parameter)
        and weight.is_contiguous()
    )
    if not (many and plain and by_onednn()):
        return F.linear(t, weight)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(t, weight, None, "none", [], "")
    return out


Made = TypeVar("Made")


@dataclass
class _Made(Generic[Made]):
    """What was made of a weight, the numbers that it had then, and in which pass and state they were last looked at."""

    of: Tensor
    result: Made
    seen: object = None


_kept: MutableMapping[Tensor, dict[str, _Made[Any]]] = WeakTensorKeyDictionary()
_making = threading.Lock()
_pass: ContextVar[object] = ContextVar("pass", default=None)


@contextmanager
def one_pass() -> Iterator[None]:
    """Within it, look at the numbers of a weight once, and again where torch knows of a change: nobody trains meanwhile."""
    with scoped(_pass, object()):
        yield


@torch.no_grad()
def kept(weight: Tensor, name: str, make: Callable[[Tensor], Made]) -> Made:
    """Return what `make` makes of a weight; made once, and again when the weight has other numbers.

    They are compared: fused optimizers, `weight.data`, and what shares its memory change a weight without torch's version
    of it.
    """
    now = _state(weight)
    with _making:
        made = _kept.setdefault(weight, {})
        found = made.get(name)
        if found is None or not ((now is not None and found.seen == now) or _same(found.of, weight)):
            with unwatched():
                found = made[name] = _Made(weight.detach().clone(), make(weight.detach()))
        found.seen = now
        result: Made = found.result
        return result


def _state(weight: Tensor) -> object:
    """Return what stays the same in a pass as long as torch knows of no change; None outside, and where it does not count."""
    now = _pass.get()
    return None if now is None or weight.is_inference() else (now, weight._version, weight.data_ptr())


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits (or the same numbers, where these cannot be read in words)."""
    if a.dtype != b.dtype or a.device != b.device or a.shape != b.shape:
        return False
    return torch.equal(*map(_in_words, (a, b))) if _is_words(a) and _is_words(b) else torch.equal(a, b)


def _is_words(t: Tensor) -> bool:
    whole = t.numel() * t.itemsize % WORD == 0 and t.storage_offset() * t.itemsize % WORD == 0
    return whole and t.is_contiguous() and type(t) in (Tensor, nn.Parameter)


def _in_words(t: Tensor) -> Tensor:
    return t.detach().flatten().view(torch.int64)


def bands_of(R: Tensor) -> list[Tensor]:
    """Return a quarter of the rows of upper triangular matrices, shape (..., k, k), at a time, without the columns where they are zero."""
    size = -(-R.shape[-1] // 4)
    return [R[..., row : row + size, row:].contiguous() for row in range(0, R.shape[-1], size)]


def root_bands(weight: Tensor) -> list[Tensor]:
    """Return the upper triangular R with R^T R = W^T W, in the type of W, as bands of rows without the columns where
    they are zero; kept until W changes.

    By QR, which keeps the accuracy of W (a Cholesky factor of W^T W has half the digits) and takes any rank.
    """

    def bands(W: Tensor) -> list[Tensor]:
        R = torch.linalg.qr(W.double(), mode="r").R.to(W.dtype)
        return bands_of(R) if len(R) >= BANDED else [R.contiguous()]

    return kept(weight, "root", bands)


def by_root(t: Tensor, bands: list[Tensor]) -> Tensor:
    """Return t R^T of tangents, shape (rows, ..., in), and a triangular root (see `root_bands`)."""
    if len(bands) == 1:
        return linear(t, bands[0])
    rows = t.flatten(0, -2)
    out = rows.new_empty(len(rows), rows.shape[1])
    first = 0
    # straight to its place, from where its inputs lie: copies cost as much as half the products
    for band in bands:
        torch.mm(rows[:, first:], band.mT, out=out[:, first : first + len(band)])
        first += len(band)
    return out.reshape(t.shape)


@torch.no_grad()
def dense_gram(t: Tensor, factor: Tensor | None) -> Tensor:
    """Return T^T diag(factor^2) T at every point, shape (n, d, d), float64.

    Args:
        t: tangents, shape (d, n, ...).
        factor: shape (n or 1, ...), or None for 1.
    """
    d, n = t.shape[:2]
    if t.ndim == 2:  # of one number each
        t, factor = t[..., None], None if factor is None else factor[..., None]
    if n > 1 and t.stride()[1] == 0 and (factor is None or len(factor) == 1):
        return dense_gram(t[:, :1], factor).expand(n, d, d)
    # the order of the outputs does not matter: take them as they lie in memory
    axes = sorted(range(2, t.ndim), key=lambda axis: t.stride()[axis], reverse=True)
    t = t.permute(1, 0, *axes)
    if factor is not None:
        factor = factor.permute(0, *[axis - 1 for axis in axes])[:, None]
    out = torch.empty(n, d, d, dtype=torch.float64, device=t.device)
    step = max(1, GRAM_BYTES // max(1, 8 * math.prod(t.shape[1:])))
    # one buffer for all, which stays in the cache
    room = t.new_empty(min(step, n), *t.shape[1:], dtype=torch.float64)
    rows = room.flatten(2)
    if factor is None:
        factors: Iterable[Tensor | None] = repeat(None)
    else:
        # in the type of the buffer: products of two types take three times as long
        factors = (
            repeat(factor.double()) if len(factor) == 1 else (f.double() for f in torch.split(factor, step))
        )
    for some, by, found in zip(torch.split(t, step), factors, torch.split(out, step), strict=False):
        part, flat = (room, rows) if len(some) == len(room) else (room[: len(some)], rows[: len(some)])
        part.copy_(some)
        if by is not None:
            part.mul_(by)
        torch.bmm(flat, flat.mT, out=found)
    return out
