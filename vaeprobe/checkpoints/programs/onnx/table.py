"""The table of ONNX operators: what each computes, in differentiable torch functions.

One function per operator: the node (its attributes and opset version) first, then its inputs; an input that the
node leaves out is None.  Shapes are computed as the graph does, in integer tensors.  Every operator that can
return far more numbers than it takes is charged before it runs.

Source: the operator specification of ONNX, `docs/Operators.md` and `docs/Changelog.md`, opsets 7 to 22.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.checkpoints.programs.operators import charge
from vaeprobe.errors import InputError
from vaeprobe.files.source import quoted

__all__ = [
    "LIKE",
    "OPERATORS",
    "RANDOM",
    "TYPES",
    "Node",
    "Operator",
    "axes_of",
    "broadcast",
    "charge",
    "column",
    "floats",
    "ints",
    "operator",
    "padded",
    "scalar",
]

Scalar = TypeVar("Scalar", int, float, str)
# TensorProto.DataType -> torch
TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)


@dataclass(frozen=True)
class Node:
    """One node of a graph: what an operator needs to know besides its inputs.

    Attributes:
        operator: its name.
        opset: version of the operator set that the model imports.
        attributes: numbers, lists, texts, and torch tensors.
        outputs: how many outputs are used.
    """

    operator: str
    opset: int
    attributes: Mapping[str, object]
    outputs: int = 1

    def get(self, name: str, default: Scalar) -> Scalar:
        """Return an attribute of the default's kind: a whole number, a number or a text.

        Raises:
            InputError: the file holds another kind of value; so do those that follow.
        """
        value = self.attributes.get(name, default)
        if isinstance(default, float) and isinstance(value, int):
            value = float(value)
        if isinstance(value, type(default)):
            return value
        raise self._odd(name)

    def whole(self, name: str) -> int:
        """Return an attribute that is a whole number, which the operator cannot do without."""
        value = self.attributes.get(name)
        if isinstance(value, int):
            return value
        raise self._odd(name)

    def number(self, name: str) -> float | None:
        """Return an attribute that is a number, None where it is left out."""
        return self.get(name, 0.0) if name in self.attributes else None

    def ints(self, name: str, default: Sequence[int] = ()) -> list[int]:
        """Return an attribute that is a list of whole numbers."""
        value = self.attributes.get(name, default)
        if isinstance(value, Sequence) and all(isinstance(n, int) for n in value):
            return list(value)
        raise self._odd(name)

    def floats(self, name: str) -> list[float]:
        """Return an attribute that is a list of numbers."""
        value = self.attributes.get(name, ())
        if isinstance(value, Sequence) and all(isinstance(n, (int, float)) for n in value):
            return list(value)
        raise self._odd(name)

    def texts(self, name: str) -> list[str]:
        """Return an attribute that is a list of texts."""
        value = self.attributes.get(name, ())
        if isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value):
            return list(value)
        raise self._odd(name)

    def tensor(self, name: str) -> Tensor | None:
        """Return an attribute that is a tensor, None where it is left out."""
        value = self.attributes.get(name)
        if value is None or isinstance(value, Tensor):
            return value
        raise self._odd(name)

    def _odd(self, name: str) -> InputError:
        value = self.attributes.get(name)
        what = "is missing" if value is None else f"is {quoted(str(value))}, which it cannot be"
        return InputError(
            f"the attribute {quoted(name)} of the ONNX operator `{self.operator}` {what}",
            hint="is the file damaged? export it anew",
        )

    def unsupported(self, what: str) -> InputError:
        """Return the error that a form of the operator is not supported."""
        return InputError(
            f"the ONNX operator `{self.operator}` is used {what}, which is not supported",
            hint="export the decoder to .pt2 with torch.export.save, or give its weights and a blueprint",
        )


Operator: TypeAlias = Callable[..., object]
OPERATORS: dict[str, Operator] = {}
# operators that make tensors of the latents' precision and device: they get the latents as `like`
LIKE: set[str] = set()


def operator(*names: str, like: bool = False) -> Callable[[Operator], Operator]:
    def add(function: Operator) -> Operator:
        for name in names:
            OPERATORS[name] = function
            if like:
                LIKE.add(name)
        return function

    return add


def broadcast(*shapes: Sequence[int]) -> list[int]:
    """Return the shape that tensors of these shapes have together, after charging for it."""
    rank = max((len(shape) for shape in shapes), default=0)
    out = [1] * rank
    for shape in shapes:
        for axis, n in zip(range(rank - len(shape), rank), shape, strict=True):
            if n != 1 and out[axis] not in (1, n):
                raise InputError(
                    f"the program combines tensors of shapes {', '.join(str(tuple(s)) for s in shapes)}"
                )
            out[axis] = out[axis] if n == 1 else n
    charge(out)
    return out


def ints(x: Tensor | Sequence[int] | None) -> list[int]:
    """Return the numbers of a shape, a list of axes, ..."""
    if x is None:
        return []
    if isinstance(x, Tensor):
        if x.is_floating_point() or x.numel() > 4096:
            raise InputError("the program takes a shape from something that is no list of whole numbers")
        return [int(n) for n in x.reshape(-1).tolist()]
    return [int(n) for n in x]


def floats(x: Tensor | Sequence[float] | None) -> list[float]:
    if x is None:
        return []
    if isinstance(x, Tensor):
        charge(x.shape)
        return [float(n) for n in x.detach().reshape(-1).tolist()]
    return [float(n) for n in x]


def scalar(x: Tensor | float) -> float:
    return float(x.detach().reshape(-1)[0]) if isinstance(x, Tensor) else float(x)


def axes_of(node: Node, given: Tensor | None) -> list[int]:
    """Return axes, which newer opsets give as an input and older ones as an attribute."""
    return ints(given) if given is not None else node.ints("axes")


def column(v: Tensor, x: Tensor) -> Tensor:
    """Shape numbers per channel to fit (batch, channel, ...)."""
    return v.reshape(-1, *(1,) * (x.ndim - 2))


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    if not any((*before, *after)):
        return x
    pairs = [p for b, a in zip(reversed(before), reversed(after), strict=True) for p in (b, a)]
    return F.pad(x, pairs, value=value)
