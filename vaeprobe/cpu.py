"""Tensors on the CPU, whatever `torch.set_default_device` and `torch.set_default_dtype` say: those are the user's.

Each function is torch's of the same name; floating numbers are float32 where no type is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "arange",
    "as_tensor",
    "empty",
    "eye",
    "full",
    "linspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "tensor",
    "triu_indices",
    "zeros",
]

Size = int | torch.SymInt


def zeros(*shape: Size | Sequence[Size], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return 0 everywhere."""
    return torch.zeros(*shape, dtype=dtype, device="cpu")  # type: ignore[arg-type]


def ones(*shape: Size | Sequence[Size], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return 1 everywhere."""
    return torch.ones(*shape, dtype=dtype, device="cpu")  # type: ignore[arg-type]


def empty(*shape: Size | Sequence[Size], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers that nobody has written yet."""
    return torch.empty(*shape, dtype=dtype, device="cpu")  # type: ignore[arg-type]


def full(shape: Sequence[Size], value: float, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return one number everywhere."""
    if dtype is None and isinstance(value, float):
        dtype = torch.float32
    return torch.full(shape, value, dtype=dtype, device="cpu")


def eye(rows: int, columns: int | None = None, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the identity matrix."""
    return torch.eye(rows, rows if columns is None else columns, dtype=dtype, device="cpu")


def arange(*bounds: float, dtype: torch.dtype | None = None) -> Tensor:
    """Return evenly spaced numbers, whole ones of whole bounds."""
    if dtype is None and any(isinstance(bound, float) for bound in bounds):
        dtype = torch.float32
    return torch.arange(*bounds, dtype=dtype, device="cpu")


def linspace(start: float, end: float, steps: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return evenly spaced numbers, both ends among them."""
    return torch.linspace(start, end, steps, dtype=dtype, device="cpu")


def triu_indices(rows: int, columns: int, offset: int = 0) -> Tensor:
    """Return places above the diagonal, shape (2, n)."""
    return torch.triu_indices(rows, columns, offset, device="cpu")


def tensor(data: Any, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return a copy of numbers."""
    out = torch.tensor(data, dtype=dtype, device="cpu")
    if dtype is None and out.is_floating_point() and not hasattr(data, "dtype"):  # numbers of Python's
        return torch.tensor(data, dtype=torch.float32, device="cpu")
    return out


def as_tensor(data: Any, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return numbers as a tensor, a copy where they are not on the CPU or of another type."""
    if isinstance(data, (list, tuple, float)):
        return tensor(data, dtype=dtype)
    return torch.as_tensor(data, dtype=dtype, device="cpu")


def randn(
    *shape: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return draws of N(0, 1)."""
    return torch.randn(*shape, generator=generator, dtype=dtype, device="cpu")


def rand(*shape: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return draws between 0 and 1."""
    return torch.rand(*shape, generator=generator, dtype=dtype, device="cpu")


def randint(high: int, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
    """Return draws of whole numbers below `high`."""
    return torch.randint(high, tuple(shape), generator=generator, device="cpu")
