"""Tensors as files describe them, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vaeprobe.errors import InputError
from vaeprobe.files.source import quoted
from vaeprobe.findings import NONFINITE_WEIGHTS
from vaeprobe.report import Finding

__all__ = ["DTYPES", "TensorSpec", "contiguous", "countable", "nonfinite", "nonfinite_finding"]

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
PARTS = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}
MOST_AXES = 32
LARGEST_SIZE = 1 << 48  # of an axis: torch cannot count over 2^63


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
        steps = (*self.stride, self.offset)
        if not countable(self.shape, DTYPES[self.dtype]) or not all(0 <= n < LARGEST_SIZE for n in steps):
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


def countable(shape: Sequence[int], size: int) -> bool:
    """Return whether numbers of `size` bytes in that shape can be counted in 63 bits, even where there are none."""
    if len(shape) > MOST_AXES or not all(0 <= n < LARGEST_SIZE for n in shape):
        return False
    return math.prod(max(n, 1) for n in shape) * max(size, 1) < 1 << 62


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a dense row-major tensor."""
    return tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))


def nonfinite(spec: TensorSpec) -> int:
    """Return how many numbers of a tensor are NaN or infinite, without torch.

    0 for integers, and for masks of attention, which are -inf at some places and 0 at all others.
    """
    import numpy as np

    if spec.dtype in PARTS:  # pairs of real numbers
        part = PARTS[spec.dtype]
        steps = (*(2 * n for n in spec.stride), 1)
        return nonfinite(
            replace(spec, dtype=part, shape=(*spec.shape, 2), stride=steps, offset=2 * spec.offset)
        )
    size = DTYPES[spec.dtype]
    exponent = EXPONENTS.get(spec.dtype)
    if exponent is None or spec.numel == 0 or len(spec.data) < size:
        return 0
    raw = np.frombuffer(spec.data, f"{'>' if spec.big_endian else '<'}u{size}", len(spec.data) // size)
    steps = tuple(n * size for n in spec.stride)
    numbers = np.lib.stride_tricks.as_strided(raw[spec.offset :], spec.shape, steps, writeable=False)
    count = int(np.count_nonzero((numbers & exponent) == exponent))
    lowest = 1 << (8 * size - 1) | exponent  # -inf
    is_mask = count and spec.dtype != "float8_e4m3fn" and np.isin(numbers, (0, lowest)).all()
    return 0 if is_mask and count < spec.numel else count


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
            NONFINITE_WEIGHTS,
            f"NaN or infinite weights: {', '.join(counts)}{more}",
            hint="the training diverged, or a cast to half precision overflowed: take an earlier checkpoint",
        ),
    )
