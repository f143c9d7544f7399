"""Tensors as files describe them, and the torch tensors made of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaeprobe.checkpoints.source import quoted
from vaeprobe.errors import InputError, ResourceError
from vaeprobe.report import Finding

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["DTYPES", "TensorSpec", "Weights", "contiguous", "nonfinite", "nonfinite_finding", "realise"]

# bytes per number -> dtypes, in the names of torch
_SIZES = {
    1: "int8 uint8 bool float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu",
    2: "float16 bfloat16 int16 uint16",
    4: "float32 int32 uint32 complex32",
    8: "float64 int64 uint64 complex64",
    16: "complex128",
}
DTYPES = {name: size for size, names in _SIZES.items() for name in names.split()}

FLOATS = ("float16", "bfloat16", "float32", "float64", *(n for n in DTYPES if n.startswith("float8")))
# the bits that are all set in NaN and infinity
EXPONENTS = {
    "float64": 0x7FF0 << 48,
    "float32": 0x7F80 << 16,
    "float16": 0x7C00,
    "bfloat16": 0x7F80,
    "float8_e5m2": 0x7C,
    "float8_e4m3fn": 0x7F,
}
LARGEST_SIZE = 1 << 48  # of an axis: torch cannot count over 2^63
SPARE = 1 << 28  # bytes that views of shared storages may need beyond twice the file's own


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor as a file describes it.

    Attributes:
        dtype: in torch's words ("float32").
        shape: sizes.
        stride: steps, in numbers.
        offset: of the first number in `data`, in numbers.
        data: the bytes of its storage; tensors with one storage share one view.
        big_endian: whether the numbers are stored in that order.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    data: memoryview
    big_endian: bool = False

    def __post_init__(self) -> None:
        if not all(0 <= n < LARGEST_SIZE for n in (*self.shape, *self.stride, self.offset)):
            raise InputError(
                f"a tensor of shape {list(self.shape)} is described in a way that no library writes",
                hint="the file is damaged: fetch it again",
            )

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor when written out densely."""
        return self.numel * DTYPES[self.dtype]

    @property
    def is_float(self) -> bool:
        """Whether it holds real numbers that a network can compute with."""
        return self.dtype in FLOATS


@dataclass(frozen=True)
class Weights:
    """What every format of bare weights is read into.

    Attributes:
        tensors: by name, dense, on the CPU, floating ones all of one dtype, at least float32.
        metadata: text that the file carries beside them (safetensors).
        notes: what the reader should know: casts, choices, NaN.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    notes: tuple[Finding, ...] = ()


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a dense row-major tensor."""
    return tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))


def realise(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None) -> Weights:
    """Make torch tensors: a copy of the file's numbers, low-precision floats cast up, all floats of one dtype.

    Raises:
        InputError: numbers that are no weights (complex).
        ResourceError: views that take far more memory than the file.
    """
    import torch

    stored = {id(spec.data): len(spec.data) for spec in specs.values()}
    claimed = sum(spec.nbytes for spec in specs.values())
    if claimed > 2 * sum(stored.values()) + SPARE:
        raise ResourceError(
            f"the tensors take {claimed:,} bytes and the file holds {sum(stored.values()):,} of them",
            hint="no decoder needs that: ask for the weights as safetensors",
        )
    odd = [name for name, spec in specs.items() if spec.dtype.startswith("complex")]
    if odd:
        raise InputError(f"tensor {quoted(odd[0])} is {specs[odd[0]].dtype}: decoders have real weights")
    bases: dict[tuple[int, str], Tensor] = {}
    tensors = {name: _tensor(spec, bases) for name, spec in specs.items()}
    wide = torch.float64 if any(spec.dtype == "float64" for spec in specs.values()) else torch.float32
    cast = {name: t.to(wide) if t.is_floating_point() else t for name, t in tensors.items()}
    notes = [*_cast_note(specs, str(wide).removeprefix("torch.")), *nonfinite_finding(specs)]
    return Weights({name: t.contiguous() for name, t in cast.items()}, dict(metadata or {}), tuple(notes))


def _tensor(spec: TensorSpec, bases: dict[tuple[int, str], Tensor]) -> Tensor:
    """Return a tensor on its storage, which tied tensors share."""
    import torch

    dtype: torch.dtype = getattr(torch, spec.dtype)
    if spec.numel == 0 or len(spec.data) == 0:
        return torch.empty(spec.shape, dtype=dtype)
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
            code="cast-up",
            level="note",
            message=f"{len(low)} of {len(specs)} tensors are stored as {kinds} and were cast up to {to}",
        )


def nonfinite(spec: TensorSpec) -> int:
    """Return how many numbers of a tensor are NaN or infinite (0 for integers), without torch."""
    import numpy as np

    size = DTYPES[spec.dtype]
    exponent = EXPONENTS.get(spec.dtype)
    if exponent is None or spec.numel == 0 or len(spec.data) < size:
        return 0
    raw = np.frombuffer(spec.data, f"{'>' if spec.big_endian else '<'}u{size}", len(spec.data) // size)
    steps = tuple(n * size for n in spec.stride)
    numbers = np.lib.stride_tricks.as_strided(raw[spec.offset :], spec.shape, steps, writeable=False)
    return int(np.count_nonzero((numbers & exponent) == exponent))


def nonfinite_finding(specs: Mapping[str, TensorSpec]) -> tuple[Finding, ...]:
    """Return the finding that counts NaN and infinite weights per tensor, if there are any."""
    bad = {name: count for name, spec in specs.items() if (count := nonfinite(spec))}
    if not bad:
        return ()
    worst = sorted(bad, key=lambda name: -bad[name])
    counts = [f"{quoted(name)} has {bad[name]:,} of {specs[name].numel:,}" for name in worst[:3]]
    more = f", and {len(worst) - 3} more tensors" if len(worst) > 3 else ""
    return (
        Finding(
            code="nonfinite-weights",
            level="error",
            message=f"NaN or infinite weights: {', '.join(counts)}{more}",
            hint="the training diverged, or a cast to half precision overflowed: take an earlier checkpoint",
        ),
    )
