"""Operations of `keras.ops` in a model: `h * 2.0`, `h[:, 1:]`, `keras.ops.tanh(h)`; constants are arguments of the call.

They bear the names of layers (`Multiply`, `Concatenate`) without being these: a row takes the operation's settings and
returns a function of the call's arguments as they stand, tensors and constants.

Source: Keras 3.15, `keras/src/ops/numpy.py`, `keras/src/ops/nn.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from vaeprobe.checkpoints.programs.keras.table import ACTIVATIONS, charge
from vaeprobe.checkpoints.programs.program import Value
from vaeprobe.errors import InputError
from vaeprobe.files.source import quoted

__all__ = ["OPERATIONS", "arguments", "is_operation"]

Config: TypeAlias = Mapping[str, Any]
Row: TypeAlias = Callable[[Config], Callable[..., Tensor]]


def is_operation(config: Config) -> bool:
    """Return whether a layer of a model's configuration is an operation; in .h5, that it is no layer with a type shows it."""
    if "module" in config:
        return str(config["module"]).startswith(("keras.src.ops", "keras.ops"))
    settings, calls = config.get("config"), config.get("inbound_nodes") or [None]
    if not all(isinstance(call, Mapping) for call in calls):
        return False  # of Keras 2, which has none
    return isinstance(settings, Mapping) and not {"trainable", "dtype", "layers", "function"} & set(settings)


def arguments(node: object, tensors: Mapping[tuple[str, int, int], Value]) -> list[object]:
    """Return the arguments of a call, with values for tensors.

    Raises:
        InputError: one is neither tensor, number, slice nor a list of these.
    """
    if not isinstance(node, Mapping):
        raise InputError("a call in the Keras model has no arguments that can be read")
    more = node.get("kwargs") or {}
    if any(v is not None for v in more.values()):
        raise InputError(
            f"a call in the Keras model has the argument {quoted(str(next(iter(more))))}, which is not supported"
        )
    return [_argument(item, tensors) for item in node.get("args", [])]


def _argument(item: object, tensors: Mapping[tuple[str, int, int], Value]) -> object:
    if item is None or isinstance(item, (bool, int, float)):
        return item
    if isinstance(item, list):
        return [_argument(part, tensors) for part in item]
    kind, inner = (item.get("class_name"), item.get("config")) if isinstance(item, Mapping) else (None, None)
    if kind == "__keras_tensor__" and isinstance(inner, Mapping):
        name, number, place = inner["keras_history"]
        return tensors[str(name), int(number), int(place)]
    if kind == "__slice__" and isinstance(inner, Mapping):
        return slice(*(inner.get(k) for k in ("start", "stop", "step")))
    if kind == "__ellipsis__":
        return ...
    if kind in ("__numpy__", "__tensor__") and isinstance(inner, Mapping):
        return torch.tensor(inner.get("value"))
    raise InputError("a call in the Keras model has a constant of a kind that is not supported")


def _plain(f: Callable[..., Tensor]) -> Row:
    return lambda config: f


def _pair(f: Callable[[Tensor, Tensor], Tensor]) -> Row:
    """Return a row of two operands, one of which may be a number."""

    def run(a: object, b: object) -> Tensor:
        like = a if isinstance(a, Tensor) else b
        assert isinstance(like, Tensor)

        def tensor(v: object) -> Tensor:
            real = like.dtype if like.is_floating_point() else None
            return v if isinstance(v, Tensor) else torch.tensor(v, dtype=real, device=like.device)

        return f(tensor(a), tensor(b))

    return lambda config: run


def _axes(config: Config) -> Any:
    axis = config.get("axis")
    return tuple(int(a) for a in axis) if isinstance(axis, (list, tuple)) else axis


def _reduced(f: Callable[..., Tensor]) -> Row:
    def row(config: Config) -> Callable[[Tensor], Tensor]:
        axis, keep = _axes(config), bool(config.get("keepdims"))
        return lambda x: f(x, tuple(range(x.ndim)) if axis is None else axis, keepdim=keep)

    return row


def _item(config: Config) -> Callable[[Tensor, Any], Tensor]:
    return lambda x, key: x[tuple(key) if isinstance(key, list) else key]


def _reshape(config: Config) -> Callable[[Tensor], Tensor]:
    first, *rest = config["newshape"]
    if first not in (None, -1) or any(n is None for n in rest):
        raise InputError("the Keras model reshapes to a batch of one size, which is not supported")
    return lambda x: x.reshape(x.shape[0], *map(int, rest))


def _tile(config: Config) -> Callable[[Tensor], Tensor]:
    repeats = config["repeats"]
    repeats = [int(n) for n in (repeats if isinstance(repeats, (list, tuple)) else [repeats])]

    def run(x: Tensor) -> Tensor:
        full = [1] * (x.ndim - len(repeats)) + repeats
        charge(n * r for n, r in zip(x.shape, full, strict=True))
        return x.repeat(*full)

    return run


def _squeeze(config: Config) -> Callable[[Tensor], Tensor]:
    axis = _axes(config)
    if axis is None:
        raise InputError("the Keras model drops all axes of one place, which may be the batch's")
    return lambda x: x.squeeze(axis)


def _transpose(config: Config) -> Callable[[Tensor], Tensor]:
    axes = config.get("axes")
    return lambda x: x.permute(*(axes if axes is not None else reversed(range(x.ndim))))


def _joined(f: Callable[[Sequence[Tensor], int], Tensor], default: int) -> Row:
    def row(config: Config) -> Callable[..., Tensor]:
        axis = config.get("axis", default)
        if not isinstance(axis, int):
            raise InputError("the Keras model joins values along no axis, which is not supported")
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
    "Elu": lambda c: lambda x: F.elu(x, float(c.get("alpha", 1.0))),
    "Celu": lambda c: lambda x: F.celu(x, float(c.get("alpha", 1.0))),
    "LeakyRelu": lambda c: lambda x: F.leaky_relu(x, float(c.get("negative_slope", 0.2))),
    "Gelu": lambda c: lambda x: F.gelu(x, approximate="tanh" if c.get("approximate", True) else "none"),
    "Softmax": lambda c: lambda x: torch.softmax(x, int(c.get("axis", -1))),
    "LogSoftmax": lambda c: lambda x: torch.log_softmax(x, int(c.get("axis", -1))),
    "Clip": lambda c: lambda x: x.clamp(float(c["x_min"]), float(c["x_max"])),
    "Mean": _reduced(torch.mean), "Sum": _reduced(torch.sum), "Max": _reduced(torch.amax), "Min": _reduced(torch.amin),
    "GetItem": _item, "Reshape": _reshape, "Tile": _tile, "Squeeze": _squeeze, "Transpose": _transpose,
    "ExpandDims": lambda c: lambda x: x.unsqueeze(int(c["axis"])),
    "Flip": lambda c: lambda x: x.flip(_axes(c)),
    "Concatenate": _joined(lambda xs, axis: torch.cat(list(xs), axis), 0),
    "Stack": _joined(lambda xs, axis: torch.stack(list(xs), axis), 0),
}  # fmt: skip
