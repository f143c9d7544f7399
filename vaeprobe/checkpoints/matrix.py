"""A matrix, m x d, is a linear decoder: x = W z + b."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.network.tensors import Uninitialised
from vaeprobe.errors import InputError, UsageError, did_you_mean
from vaeprobe.files.source import quoted
from vaeprobe.findings import ROUNDED, WIDE_MATRIX
from vaeprobe.report import Finding

__all__ = ["parts_of", "tensor_of"]

OFFSETS = ("mean", "bias", "offset", "mu", "b", "mean_")


def tensor_of(array: NDArray[np.generic], name: str) -> tuple[Tensor, tuple[Finding, ...]]:
    """Return an array as a float tensor: float32 and float64 stay, half becomes float32, the rest float64."""
    wide = np.float32 if array.dtype in (np.float16, np.float32) else np.float64
    with np.errstate(all="ignore"):
        out = np.ascontiguousarray(array, dtype=wide)
        back = out.astype(array.dtype)
    notes: tuple[Finding, ...] = ()
    if not np.array_equal(back, array, equal_nan=array.dtype.kind == "f"):
        message = f"{name} is stored as {array.dtype}, and was rounded to float64"
        notes = (Finding(ROUNDED, message),)
    return torch.from_numpy(out), notes


def parts_of(tensors: Mapping[str, Tensor], name: str, *, key: str | None = None) -> Parts:
    """Return the linear decoder of the one matrix among the tensors, or of the one called `key`.

    A vector of m numbers that is called mean, bias, offset, mu or b is added to the output.

    Raises:
        UsageError: there is no matrix `key`, or several and no key.
        InputError: there is no matrix, or it is empty, or holds NaN or infinity.
    """
    matrices = [k for k, t in tensors.items() if t.ndim == 2]
    if key is not None and key not in tensors:
        offered = did_you_mean(key, tensors) or f"entries: {', '.join(quoted(k) for k in list(tensors)[:8])}"
        raise UsageError(f"{name} has no array {quoted(key)}", hint=offered, about=name)
    if key is None and len(matrices) > 1:
        choices = ", ".join(f"{quoted(k)} {_shape(tensors[k])}" for k in matrices[:6])
        raise UsageError(
            f"{name} holds {len(matrices)} matrices: {choices}", hint="choose one with --key", about=name
        )
    chosen = key if key is not None else next(iter(matrices or tensors), None)
    if chosen is None:
        raise InputError(f"{name} holds no array", about=name)
    matrix = tensors[chosen]
    if matrix.ndim != 2:
        raise InputError(
            f"{name} holds an array of shape {_shape(matrix)}, and a linear decoder is a matrix, outputs x latents",
            hint=_reshape_hint(matrix),
            about=name,
        )
    if 0 in matrix.shape:
        raise InputError(f"{name} holds a matrix of shape {_shape(matrix)}, which maps nothing", about=name)
    if not torch.isfinite(matrix).all():
        rows = (~torch.isfinite(matrix)).any(1).nonzero().flatten()
        raise InputError(
            f"{name} holds NaN or infinity in {len(rows)} of {len(matrix)} rows, the first is row {int(rows[0])}",
            about=name,
        )
    m, d = matrix.shape
    notes = []
    if m < d:
        notes.append(
            Finding(
                WIDE_MATRIX,
                f"the matrix has fewer rows ({m}, outputs) than columns ({d}, latents): is it transposed?",
                hint="a decoder is stored as outputs x latents; scikit-learn's components_ are the transpose of that",
            )
        )
    offset = next((tensors[k] for k in OFFSETS if k in tensors and tensors[k].shape == (m,)), None)
    with Uninitialised():
        layer = nn.Linear(d, m, bias=offset is not None, device="meta")
    layer.weight = nn.Parameter(matrix, requires_grad=False)
    if offset is not None:
        layer.bias = nn.Parameter(offset.to(matrix.dtype), requires_grad=False)
    return Parts(
        decoder=layer.eval(),
        latent_dim=d,
        architecture=f"linear, {m} x {d} matrix" + (f" {quoted(chosen)}" if len(tensors) > 1 else ""),
        notes=tuple(notes),
    )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "() (one number)"


def _reshape_hint(array: Tensor) -> str:
    if array.ndim < 2:
        return "one latent? save it as a column: array.reshape(-1, 1)"
    return "if its last axis counts latents, save array.reshape(-1, array.shape[-1])"
