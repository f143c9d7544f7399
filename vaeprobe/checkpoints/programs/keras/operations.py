"""Operations of `keras.ops` in a model: `h * 2.0`, `h[:, 1:]`, `keras.ops.tanh(h)`; constants are arguments of the call.

They bear the names of layers (`Multiply`, `Concatenate`) without being these: a row takes the operation's settings and
returns a function of the call's arguments as they stand, tensors and constants.

Source: Keras 3.15, `keras/src/ops/numpy.py`, `keras/src/ops/nn.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.checkpoints.programs.keras.settings import Settings
from vaeprobe.checkpoints.programs.keras.table import ACTIVATIONS, charge
from vaeprobe.errors import InputError

__all__ = ["OPERATIONS"]

Row: TypeAlias = Callable[[Settings], Callable[..., Tensor]]


def _plain(f: Callable[..., Tensor]) -> Row:
    return lambda config: f


def _pair(f: Callable[[Tensor, Tensor], Tensor]) -> Row:
    """Return a row of two operands, one of which may be a number."""

    def run(a: object, b: object) -> Tensor:
        like = a if isinstance(a, Tensor) else b
        if not isinstance(like, Tensor):
            raise InputError("an operation of the Keras model takes no tensor")

        def tensor(v: object) -> Tensor:
            real = like.dtype if like.is_floating_point() else None
            return v if isinstance(v, Tensor) else torch.tensor(v, dtype=real, device=like.device)

        return f(tensor(a), tensor(b))

    return lambda config: run


def _reduced(f: Callable[..., Tensor]) -> Row:
    def row(config: Settings) -> Callable[[Tensor], Tensor]:
        axes, keep = config.get("axis"), config.flag("keepdims")
        chosen = None if axes is None else tuple(config.wholes("axis"))
        return lambda x: f(x, tuple(range(x.ndim)) if chosen is None else chosen, keepdim=keep)

    return row


def _item(config: Settings) -> Callable[..., Tensor]:
    return lambda x, key: x[tuple(key) if isinstance(key, list) else key]


def _reshape(config: Settings) -> Callable[[Tensor], Tensor]:
    shape = config.get("newshape")
    first, *rest = shape if isinstance(shape, list) and shape else [0]
    if first not in (None, -1) or any(type(n) is not int for n in rest):
        raise InputError("the Keras model reshapes to a batch of one size, which is not supported")
    return lambda x: x.reshape(x.shape[0], *rest)


def _tile(config: Settings) -> Callable[[Tensor], Tensor]:
    repeats = config.wholes("repeats")

    def run(x: Tensor) -> Tensor:
        full = [1] * (x.ndim - len(repeats)) + repeats
        charge(n * r for n, r in zip(x.shape, full, strict=True))
        return x.repeat(*full)

    return run


def _squeeze(config: Settings) -> Callable[[Tensor], Tensor]:
    if config.get("axis") is None:
        raise InputError("the Keras model drops all axes of one place, which may be the batch's")
    axes = tuple(config.wholes("axis"))
    return lambda x: x.squeeze(axes)


def _transpose(config: Settings) -> Callable[[Tensor], Tensor]:
    axes = None if config.get("axes") is None else config.wholes("axes")
    return lambda x: x.permute(*(axes if axes is not None else reversed(range(x.ndim))))


def _flip(config: Settings) -> Callable[[Tensor], Tensor]:
    axes = config.wholes("axis")
    return lambda x: x.flip(axes)


def _joined(f: Callable[[Sequence[Tensor], int], Tensor], default: int) -> Row:
    def row(config: Settings) -> Callable[..., Tensor]:
        if "axis" in config.table and config.get("axis") is None:
            raise InputError("the Keras model joins values along no axis, which is not supported")
        axis = config.whole("axis", default)
        return lambda xs: f(xs, axis)

    return row


OPERATIONS: dict[str, Row] = {
    "Add": _pair(torch.add), "Subtract": _pair(torch.sub), "Multiply": _pair(torch.mul), "Divide": _pair(torch.true_divide),
    "TrueDivide": _pair(torch.true_divide), "Maximum": _pair(torch.maximum), "Minimum": _pair(torch.minimum), "Power": _pair(torch.pow),
    "Negative": _plain(torch.neg), "Absolute": _plain(torch.abs), "Abs": _plain(torch.abs), "Exp": _plain(torch.exp), "Log": _plain(torch.log),
    "Log1p": _plain(torch.log1p), "Expm1": _plain(torch.expm1), "Sqrt": _plain(torch.sqrt), "Rsqrt": _plain(torch.rsqrt),
    "Square": _plain(torch.square), "Sin": _plain(torch.sin), "Cos": _plain(torch.cos), "Arctan": _plain(torch.arctan), "Erf": _plain(torch.erf),
    "Tanh": _plain(torch.tanh), "Sigmoid": _plain(torch.sigmoid), "Relu": _plain(torch.relu), "Relu6": _plain(F.relu6),
    "Selu": _plain(F.selu), "Silu": _plain(F.silu), "Softplus": _plain(F.softplus), "Softsign": _plain(F.softsign),
    "LogSigmoid": _plain(F.logsigmoid), "HardSilu": _plain(F.hardswish), "HardSigmoid": _plain(F.hardsigmoid),
    "Mish": _plain(ACTIVATIONS["mish"]), "Matmul": _plain(torch.matmul),
    "Elu": lambda c: lambda x: F.elu(x, c.number("alpha", 1.0)),
    "Celu": lambda c: lambda x: F.celu(x, c.number("alpha", 1.0)),
    "LeakyRelu": lambda c: lambda x: F.leaky_relu(x, c.number("negative_slope", 0.2)),
    "Gelu": lambda c: lambda x: F.gelu(x, approximate="tanh" if c.flag("approximate", True) else "none"),
    "Softmax": lambda c: lambda x: torch.softmax(x, c.whole("axis", -1)),
    "LogSoftmax": lambda c: lambda x: torch.log_softmax(x, c.whole("axis", -1)),
    "Clip": lambda c: lambda x: x.clamp(c.number("x_min", -torch.inf), c.number("x_max", torch.inf)),
    "Mean": _reduced(torch.mean), "Sum": _reduced(torch.sum), "Max": _reduced(torch.amax), "Min": _reduced(torch.amin),
    "GetItem": _item, "Reshape": _reshape, "Tile": _tile, "Squeeze": _squeeze, "Transpose": _transpose,
    "ExpandDims": lambda c: lambda x: x.unsqueeze(c.whole("axis")),
    "Flip": _flip,
    "Concatenate": _joined(lambda xs, axis: torch.cat(list(xs), axis), 0),
    "Stack": _joined(lambda xs, axis: torch.stack(list(xs), axis), 0),
}  # fmt: skip
