"""Torch tensors, made of what files describe."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaeprobe.errors import ResourceError
from vaeprobe.files.tensors import DTYPES, TensorSpec, contiguous, nonfinite_finding
from vaeprobe.findings import CAST_UP
from vaeprobe.report import Finding

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Weights", "realise", "spec_of"]

SPARE = 1 << 28  # bytes that views of shared storages may need beyond twice the file's own


@dataclass(frozen=True)
class Weights:
    """What every format of bare weights is read into.

    Attributes:
        tensors: by name, dense, on the CPU, floating ones all of one dtype, at least float32, complex ones of the same precision; those that nothing needs
            are on the meta device.
        metadata: text that the file carries beside them (safetensors).
        notes: what the reader should know: casts, choices, NaN.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    notes: tuple[Finding, ...] = ()


def realise(
    specs: Mapping[str, TensorSpec],
    metadata: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
) -> Weights:
    """Make torch tensors: a copy of the file's numbers, low-precision floats cast up, all floats of one dtype.

    Args:
        only: the names of those that are needed; the others have a shape and no numbers (torch's meta device).

    Raises:
        ResourceError: views that take far more memory than the file.
    """
    import torch

    from vaeprobe.frozen import number_type

    every = specs
    specs = every if only is None else {name: every[name] for name in every if name in only}
    stored = {id(spec.data): len(spec.data) for spec in specs.values()}
    claimed = sum(spec.nbytes for spec in specs.values())
    if claimed > 2 * sum(stored.values()) + SPARE:
        raise ResourceError(
            f"the tensors take {claimed:,} bytes and the file holds {sum(stored.values()):,} of them",
            hint="no decoder needs that: ask for the weights as safetensors",
        )
    bases: dict[tuple[int, str], Tensor] = {}
    tensors = {name: _tensor(spec, bases) for name, spec in specs.items()}
    wide = torch.float64 if any(spec.dtype == "float64" for spec in specs.values()) else torch.float32
    tensors |= {
        name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta")
        for name, spec in every.items()
        if name not in specs
    }
    cast = {name: (t := tensors[name]).to(number_type(t, wide)) for name in every}
    notes = [*_cast_note(specs, str(wide).removeprefix("torch.")), *nonfinite_finding(specs)]
    return Weights({name: t.contiguous() for name, t in cast.items()}, dict(metadata or {}), tuple(notes))


def spec_of(tensor: Tensor) -> TensorSpec:
    """Return a tensor on the CPU as a file would describe it."""
    import torch

    shape = tuple(tensor.shape)
    dense = tensor.detach().contiguous()
    data = dense.reshape(-1).view(torch.uint8).numpy().data
    return TensorSpec(str(tensor.dtype).removeprefix("torch."), shape, contiguous(shape), 0, data)


def _tensor(spec: TensorSpec, bases: dict[tuple[int, str], Tensor]) -> Tensor:
    """Return a tensor on its storage, which tied tensors share."""
    import torch

    from vaeprobe import cpu

    dtype: torch.dtype = getattr(torch, spec.dtype)
    if spec.numel == 0 or len(spec.data) == 0:
        return cpu.empty(spec.shape, dtype=dtype)
    where = (id(spec.data), spec.dtype)
    if where not in bases:
        whole = len(spec.data) - len(spec.data) % DTYPES[spec.dtype]
        numbers = bytearray(spec.data[:whole])
        if spec.big_endian and DTYPES[spec.dtype] > 1:
            import numpy as np

            np.frombuffer(numbers, dtype=f"u{DTYPES[spec.dtype]}").byteswap(inplace=True)
        bases[where] = torch.frombuffer(numbers, dtype=dtype)
    return bases[where].as_strided(spec.shape, spec.stride, spec.offset)


def _cast_note(specs: Mapping[str, TensorSpec], to: str) -> Iterable[Finding]:
    low = [spec.dtype for spec in specs.values() if spec.is_float and spec.dtype != to]
    if low:
        kinds = " and ".join(sorted(set(low)))
        yield Finding(
            CAST_UP, f"{len(low)} of {len(specs)} tensors are stored as {kinds} and were cast up to {to}"
        )
