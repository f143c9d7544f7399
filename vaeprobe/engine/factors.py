"""Written derivatives of the commonest element-wise functions, which spare reverse mode's copies of the primal."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from vaeprobe.autograd import unwatched
from vaeprobe.engine.functions import Arguments, Keywords

__all__ = ["FACTORS", "normalised"]


Rule: TypeAlias = Callable[[Tensor], Tensor]
"""The derivative of an element-wise function, from its value."""


def _bare(args: Arguments, kwargs: Keywords) -> bool:
    """Whether nothing but the argument, and perhaps `inplace`, was given."""
    return set(kwargs) <= {"inplace"} and all(isinstance(a, bool) for a in args)


def _one(y: Tensor) -> Tensor:
    """Return 1 in the shape of y, without memory: what torch's reverse pass makes of it is the derivative, in one pass."""
    return _one_of(y.dtype, y.device).expand_as(y)


@lru_cache(maxsize=16)
def _one_of(dtype: torch.dtype, device: torch.device) -> Tensor:
    with unwatched():
        return torch.ones((), dtype=dtype, device=device)


def _relu(x: Tensor, args: Arguments, kwargs: Keywords) -> Rule | None:
    return (lambda y: torch.ops.aten.threshold_backward(_one(y), y, 0)) if _bare(args, kwargs) else None


def _leaky_relu(x: Tensor, args: Arguments, kwargs: Keywords) -> Rule | None:
    settings = {**dict(zip(("negative_slope", "inplace"), args, strict=False)), **kwargs}
    slope = settings.get("negative_slope", 0.01)
    if not isinstance(slope, int | float) or slope <= 0 or not set(settings) <= {"negative_slope", "inplace"}:
        return None
    return lambda y: torch.ops.aten.leaky_relu_backward(_one(y), y, slope, True)


def _sigmoid(x: Tensor, args: Arguments, kwargs: Keywords) -> Rule | None:
    return (lambda y: y * (1 - y)) if _bare(args, kwargs) else None


def _tanh(x: Tensor, args: Arguments, kwargs: Keywords) -> Rule | None:
    return (lambda y: 1 - y * y) if _bare(args, kwargs) else None


def _silu(x: Tensor, args: Arguments, kwargs: Keywords) -> Rule | None:
    if not _bare(args, kwargs):
        return None
    factor: Tensor = torch.ops.aten.silu_backward(_one(x), x)  # before an operation in place writes to x
    return lambda y: factor


def _batch_norm(x: Tensor, args: Arguments, kwargs: Keywords) -> Rule | None:
    found = _rate_and_shift(x, args, kwargs)
    return None if found is None else lambda y: found[0]


def normalised(x: Tensor, args: Arguments, kwargs: Keywords) -> Tensor | None:
    """Return the batch normalisation of x in the layout of x, which torch's own puts channels first; None where it trains."""
    found = _rate_and_shift(x, args, kwargs)
    return None if found is None else torch.addcmul(found[1], x, found[0])


def _rate_and_shift(x: Tensor, args: Arguments, kwargs: Keywords) -> tuple[Tensor, Tensor] | None:
    """Return by what batch normalisation multiplies x and what it adds then, shape (1, channels, 1, ...)."""
    names: tuple[str, ...] = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    if len(args) == 8 or "cudnn_enabled" in kwargs:  # torch's own operation, as programs call it
        names = ("weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
    settings = {**dict(zip(names, args, strict=False)), **kwargs}
    mean, variance, weight, bias = (
        None if settings.get(name) is None else settings[name].detach()
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    if settings.get("training") or variance is None or mean is None:
        return None
    rate = (variance + settings.get("eps", 1e-5)).rsqrt()
    rate = rate if weight is None else rate * weight
    shift = -mean * rate if bias is None else torch.addcmul(bias, mean, rate, value=-1)
    around = [1] * (x.ndim - 2)
    return rate.to(x.dtype).reshape(1, -1, *around), shift.to(x.dtype).reshape(1, -1, *around)


FACTORS: dict[str, Callable[[Tensor, Arguments, Keywords], Rule | None]] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "silu": _silu,
    "batch_norm": _batch_norm,
}
