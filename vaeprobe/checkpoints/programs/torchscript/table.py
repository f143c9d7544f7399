"""Operators of TorchScript on numbers, lists and texts, where torch's on tensors do not serve."""

from __future__ import annotations

import copy
import math
import operator as python_operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.errors import InputError, ResourceError

LONGEST = 1_000_000  # of a list or a text


def _append(items: list[object], item: object) -> list[object]:
    items.append(item)
    return items


def _extend(items: list[object], more: list[object]) -> None:
    items.extend(more)


def _format(text: str, *values: object) -> str:
    pieces = text.split("{}", len(values))
    shown = [str(value)[:200] for value in values[: len(pieces) - 1]]
    return "".join(part for pair in zip(pieces, [*shown, ""], strict=True) for part in pair)


def _power(a: float, b: float) -> float:
    return math.pow(a, b)


def _joined(a: Sequence[object], b: Sequence[object]) -> object:
    return a + b  # type: ignore[operator]  # two lists, or two tuples


def _extended(items: list[object], more: Sequence[object]) -> object:
    items.extend(more)
    return items


def _get(items: dict[object, object], key: object, otherwise: object = None) -> object:
    return items.get(key, otherwise)


def _set_item(items: list[object] | dict[object, object], key: Any, item: object) -> object:
    items[key] = item
    return items


def _sort(items: list[Any], reverse: bool = False) -> None:
    if any(isinstance(item, Tensor) for item in items):
        raise InputError("the program sorts a list of tensors")
    items.sort(reverse=reverse)


def _product(a: object, b: object) -> object:
    for items, count in ((a, b), (b, a)):
        if not isinstance(items, SEQUENCES):
            continue
        if not isinstance(count, (int, torch.SymInt)):
            raise InputError("the program multiplies a list by what is no whole number")
        if len(items) * max(int(count), 0) > LONGEST:
            raise ResourceError(f"the program makes a list of {len(items) * int(count):,} items")
    return python_operator.mul(a, b)


def _rounded(x: float) -> float:
    return float(round(x))


def _sliced(
    items: Sequence[object], start: int | None = None, stop: int | None = None, step: int | None = None
) -> object:
    return items[start:stop:step]


def _size(x: Tensor, axis: int | None = None) -> object:
    return list(x.shape) if axis is None else x.shape[axis]


SCALAR: Mapping[str, Callable[..., object]] = {
    "__range_length": lambda low, high, step: len(range(low, high, step)),
    "__derive_index": lambda i, start, step: start + i * step,
    "is_autocast_enabled": lambda *device: False,
    "is_autocast_cpu_enabled": lambda: False,
    "is_grad_enabled": lambda: True,  # fused kernels, chosen where it is not, have no derivatives
    "add": python_operator.add, "sub": python_operator.sub, "mul": _product, "div": python_operator.truediv,
    "floordiv": python_operator.floordiv, "remainder": python_operator.mod, "neg": python_operator.neg, "pow": _power,
    "eq": python_operator.eq, "ne": python_operator.ne, "lt": python_operator.lt, "le": python_operator.le,
    "gt": python_operator.gt, "ge": python_operator.ge, "__is__": python_operator.is_, "__isnot__": python_operator.is_not,
    "__not__": python_operator.not_, "__and__": python_operator.and_, "__or__": python_operator.or_,
    "__contains__": python_operator.contains, "__getitem__": python_operator.getitem, "len": len, "append": _append,
    "extend": _extend, "list": list, "slice": _sliced, "format": _format, "abs": abs, "floor": math.floor, "ceil": math.ceil,
    "sqrt": math.sqrt, "exp": math.exp, "log": math.log, "round": _rounded, "Int": int, "Float": float, "Bool": bool,
    "ScalarImplicit": lambda x: x, "IntImplicit": int, "FloatImplicit": float, "str": str, "min": min, "max": max, "warn": lambda *a: None,
    "size": _size, "dim": Tensor.dim,
}  # fmt: skip
SEQUENCES = (list, tuple, str, bytes)
# of a list, a tuple or a dict, whatever is in it: torch's operators of these names take tensors
LISTS: Mapping[str, Callable[..., object]] = {
    "add": _joined,
    "add_": _extended,
    "mul": _product,
    "slice": _sliced,
    "copy": copy.copy,
    "reverse": lambda items: items.reverse(),
    "insert": lambda items, place, item: items.insert(place, item),
    "pop": lambda items, *place: items.pop(*place),
    "clear": lambda items: items.clear(),
    "sort": _sort,
    "_set_item": _set_item,
    "keys": lambda items: list(items.keys()),
    "values": lambda items: list(items.values()),
    "items": lambda items: list(items.items()),
    "get": _get,
}
# of these, those that take numbers alone: on a text "%" formats, and a list has no square root
NUMERIC = {
    "sub", "div", "floordiv", "remainder", "neg", "pow", "abs", "floor", "ceil", "sqrt", "exp", "log", "round",
    "__range_length", "__derive_index", "__and__", "__or__",
}  # fmt: skip
# of these Python's form serves tensors and lists of tensors too
ON_ANYTHING = {
    "size",
    "dim",
    "__is__",
    "__isnot__",
    "len",
    "append",
    "extend",
    "list",
    "__getitem__",
    "format",
    "warn",
}
READERS: Mapping[str, Callable[..., object]] = {
    "Int": int,
    "Float": float,
    "Bool": bool,
    "IntImplicit": int,
    "FloatImplicit": float,
    "ScalarImplicit": Tensor.item,
}
PRIM: Mapping[str, Callable[..., object] | None] = {
    "NumToTensor": lambda x: x if isinstance(x, torch.SymInt) else cpu.tensor(x),
    "dtype": lambda x: x.dtype,
    "device": lambda x: x.device,
    "layout": lambda x: x.layout,
    "data": lambda x: x,
    "type": lambda x: x.type,
    "is_cuda": lambda x: x.is_cuda,
    "is_nested": lambda x: False,
    "requires_grad": lambda x: True,  # as above
    "min": min,
    "max": max,
    "unchecked_unwrap_optional": lambda x: x,
    "RaiseException": None,
}  # fmt: skip
