"""ONNX operators that work element by element."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.checkpoints.programs.onnx.table import (
    OPERATORS,
    TYPES,
    Node,
    Operator,
    broadcast,
    operator,
    scalar,
)


def _elementwise(f: Callable[[Tensor], Tensor]) -> Operator:
    return lambda node, x: f(x)


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt,
    "Neg": torch.neg, "Abs": torch.abs, "Sign": torch.sign, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round,
    "Reciprocal": torch.reciprocal, "Erf": torch.erf, "Softsign": F.softsign, "Softplus": F.softplus, "Mish": F.mish,
    "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin, "Acos": torch.acos, "Atan": torch.atan,
    "Sinh": torch.sinh, "Cosh": torch.cosh, "Asinh": torch.asinh, "Acosh": torch.acosh, "Atanh": torch.atanh,
    "Not": torch.logical_not, "IsNaN": torch.isnan, "Identity": lambda x: x, "HardSwish": F.hardswish,
}  # fmt: skip
OPERATORS.update({name: _elementwise(f) for name, f in _UNARY.items()})


def _divide(a: Tensor, b: Tensor) -> Tensor:
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc") if whole else torch.div(a, b)


def _broadcast(f: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def run(node: Node, a: Tensor, b: Tensor) -> Tensor:
        broadcast(a.shape, b.shape)
        return f(a, b)

    return run


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": _divide, "Pow": torch.pow, "PRelu": lambda x, a: torch.where(x < 0, a * x, x),
    "Equal": torch.eq, "Less": torch.lt, "LessOrEqual": torch.le, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
}  # fmt: skip
OPERATORS.update({name: _broadcast(f) for name, f in _BINARY.items()})


@operator("Mod")
def _mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    broadcast(a.shape, b.shape)
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


def _variadic(f: Callable[[Tensor, Tensor], Tensor], mean: bool = False) -> Operator:
    def run(node: Node, *xs: Tensor) -> Tensor:
        broadcast(*(x.shape for x in xs))
        out = xs[0]
        for x in xs[1:]:
            out = f(out, x)
        return out / len(xs) if mean else out

    return run


OPERATORS.update(
    Sum=_variadic(torch.add), Mean=_variadic(torch.add, mean=True),
    Max=_variadic(torch.maximum), Min=_variadic(torch.minimum),
)  # fmt: skip


@operator("Where")
def _where(node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    broadcast(condition.shape, a.shape, b.shape)
    return torch.where(condition, a, b)


@operator("LeakyRelu")
def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.get("alpha", 0.01))


@operator("Elu")
def _elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.get("alpha", 1.0))


@operator("Celu")
def _celu(node: Node, x: Tensor) -> Tensor:
    return F.celu(x, node.get("alpha", 1.0))


@operator("Selu")
def _selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    return float(gamma) * F.elu(x, alpha)


@operator("ThresholdedRelu")
def _thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return F.threshold(x, node.get("alpha", 1.0), 0.0)


@operator("HardSigmoid")
def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0.0, 1.0)


@operator("Gelu")
def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.get("approximate", "none"))


@operator("Swish")
def _swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.0) * x)


@operator("Shrink")
def _shrink(node: Node, x: Tensor) -> Tensor:
    bias, limit = node.get("bias", 0.0), node.get("lambd", 0.5)
    zero = torch.zeros_like(x)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, zero))


@operator("Clip")
def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    least = scalar(low) if low is not None else node.number("min")
    most = scalar(high) if high is not None else node.number("max")
    if least is None and most is None:
        return x
    if not x.is_floating_point():
        least, most = (None if v is None else int(v) for v in (least, most))
    return torch.clamp(x, least, most)


@operator("Cast", like=True)
def _cast(node: Node, x: Tensor, *, like: Tensor) -> Tensor:
    target = TYPES.get(node.get("to", 0))
    if target is None:
        raise node.unsupported("to make text or numbers of a rare type")
    # the whole network runs in one precision, that of the latents
    return x.to(like.dtype if target.is_floating_point else target)


@operator("CastLike", like=True)
def _cast_like(node: Node, x: Tensor, other: Tensor, *, like: Tensor) -> Tensor:
    return x.to(like.dtype if other.is_floating_point() else other.dtype)


@operator("IsInf")
def _is_inf(node: Node, x: Tensor) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if node.get("detect_positive", 1):
        found = found | (x == math.inf)
    return found | (x == -math.inf) if node.get("detect_negative", 1) else found


@operator("Dropout")
def _dropout(node: Node, x: Tensor, *rest: Tensor) -> object:
    return x if node.outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))
