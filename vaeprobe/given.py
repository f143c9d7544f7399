"""What Python's callers give, held against the types that a signature names, before anything is done with it."""

from __future__ import annotations

import collections.abc
import inspect
import math
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin

from vaeprobe.errors import UsageError, did_you_mean

__all__ = ["check_dense", "check_fields", "check_given", "check_keywords", "check_least", "size_hint"]

LISTS = (tuple, list, collections.abc.Sequence, collections.abc.Iterable)
SINGLE: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    type(None): "None",
}
SEVERAL: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts"}
LONGEST = 60  # of what is shown as it is


def check_given(function: Callable[..., object], given: Mapping[str, object]) -> None:
    """Refuse arguments of other types than a function's signature names.

    Args:
        function: the one that they were given to.
        given: arguments by name, such as `locals()`; others than those of the signature are passed over.

    Raises:
        UsageError: one has another type.
    """
    _check(_of_function(function), given)


def check_fields(made: object) -> None:
    """Refuse a dataclass whose fields have other types than it declares.

    Raises:
        UsageError: one has another type.
    """
    kind: Any = type(made)
    hints = _of_fields(kind)
    _check(hints, {name: getattr(made, name) for name in hints})


def check_least(least: float, **numbers: float) -> None:
    """Refuse numbers below a bound.

    Raises:
        UsageError: one is.
    """
    for name, number in numbers.items():
        if number < least:
            raise UsageError(f"`{name}` must be at least {least}, not {number}")


def check_keywords(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse keywords that nothing takes.

    Raises:
        UsageError: one is not known.
    """
    for name in given:
        if name not in known:
            raise UsageError(
                f"{what} takes no argument `{name}`",
                hint=did_you_mean(name, known) or f"one of {', '.join(known)}",
            )


def _check(hints: Mapping[str, object], given: Mapping[str, object]) -> None:
    for name, hint in hints.items():
        if name in given and not _fits(given[name], hint):
            value = given[name]
            raise UsageError(f"`{name}` takes {_words(hint)}, not {_shown(value)}", hint=_mended(value, hint))


def _mended(value: object, hint: object) -> str | None:
    """Return how to give a value rightly, where that is known."""
    if isinstance(value, str):
        return did_you_mean(value, _choices(hint))
    kinds = [getattr(part, "__name__", "") for part in _alternatives(hint)]
    made = isinstance(value, (list, tuple)) or hasattr(value, "__array__")
    return "torch.as_tensor(...) makes one of an array or a list" if made and "Tensor" in kinds else None


@cache
def _of_function(function: Callable[..., object]) -> dict[str, object]:
    """Return the types of a function's arguments; those that are known to type checkers alone say nothing."""
    found = {
        name: p.annotation
        for name, p in inspect.signature(function).parameters.items()
        if p.kind is not p.VAR_KEYWORD and p.annotation is not p.empty
    }
    return {name: _evaluated(text, function.__module__) for name, text in found.items()}


@cache
def _of_fields(cls: type) -> dict[str, object]:
    assert is_dataclass(cls)
    names = {f.name: f.type for f in fields(cls) if f.init}
    owner = {n: next(c for c in cls.__mro__ if n in inspect.get_annotations(c)) for n in names}
    return {name: _evaluated(text, owner[name].__module__) for name, text in names.items()}


def _evaluated(annotation: object, module: str) -> object:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(vars(sys.modules[module])))
    except NameError:
        return Any


def _fits(value: object, hint: object) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is None:
        return value is None
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, (str, int)) and value in parts
    if hint is float:
        return _is_number(value)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint is bool:
        return type(value).__name__ in ("bool", "bool_")  # numpy's own, too
    if origin in LISTS:
        return _list_fits(value, parts, open=origin is collections.abc.Iterable)
    if origin is collections.abc.Callable:
        return callable(value)
    kind = origin or hint
    return not isinstance(kind, type) or isinstance(value, kind)


def _is_number(value: object) -> bool:
    """Whether a value is a real number, or an array or tensor that holds one alone; NaN is none."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def _list_fits(value: object, parts: tuple[object, ...], *, open: bool) -> bool:
    if isinstance(value, (str, bytes)) or not isinstance(value, collections.abc.Iterable):
        return False
    if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, collections.abc.Sequence):
        return open and not hasattr(value, "ndim")  # to look at what an iterator yields would use it up
    if len(parts) == 2 and parts[1] is not ...:
        return len(value) == len(parts) and all(map(_fits, value, parts))
    return all(_fits(item, parts[0]) for item in value)


def _choices(hint: object) -> list[str]:
    each = _alternatives(hint)
    return [c for part in each if get_origin(part) is Literal for c in get_args(part) if isinstance(c, str)]


def _alternatives(hint: object) -> tuple[object, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _words(hint: object) -> str:
    """Return what a type takes, in words."""
    choices = [f"`{choice}`" for choice in _choices(hint)]
    others = [_single(part) for part in _alternatives(hint) if get_origin(part) is not Literal]
    *most, last = [*choices, *others]
    return f"{', '.join(most)} or {last}" if most else last


def _single(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in LISTS:
        of = parts[0]
        return f"a list of {SEVERAL.get(of, f'{_name(of)}s')}"
    if origin is collections.abc.Mapping:
        return "a dict"
    if origin is collections.abc.Callable:
        return "a function"
    if hint is None:
        return "None"
    return SINGLE.get(hint) or _article(_name(hint))


def _name(hint: object) -> str:
    found = get_origin(hint) or hint
    name = getattr(found, "__name__", str(found))
    return {"PathLike": "path", "Path": "path"}.get(
        name, f"torch.{name}" if name in ("dtype", "device") else name
    )


def _shown(value: object) -> str:
    """Return a value as its caller wrote it, or of what type it is where that is long."""
    plain = value is None or isinstance(value, (str, int, float, list, tuple, dict))
    text = repr(value) if plain else ""
    return f"`{text}`" if plain and len(text) <= LONGEST else _article(type(value).__name__)


def _article(name: str) -> str:
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def check_dense(rows: object, what: str) -> None:
    """Refuse tensors that hold no numbers, or not row by row; anything else passes.

    Args:
        what: they are, as "the latents".

    Raises:
        UsageError: they are on the meta device, nested or sparse.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(rows, torch.Tensor):
        return
    if rows.device.type == "meta":
        raise UsageError(
            f"{what} are on the meta device, which holds no numbers", hint="make them on a real device"
        )
    if rows.is_nested:
        raise UsageError(
            f"{what} are a nested tensor, and a dense one is needed",
            hint="torch.stack(t.unbind()) makes one of rows that are equally long",
        )
    if rows.layout != torch.strided:
        raise UsageError(f"{what} are a sparse tensor, and a dense one is needed", hint="t.to_dense()")


def size_hint(given: Sequence[int], wanted: Sequence[int]) -> str:
    """Return what to do about data whose rows do not have the size that a model takes.

    Args:
        given: shape of the data, (n, ...).
        wanted: shape of a row.
    """
    if len(given) > 2 or len(wanted) > 1:
        return "resize or pad the images to the shape the model was trained on"
    if given[0] == math.prod(wanted):
        return f"one row per sample: transposed, x.T, the rows have {given[0]} numbers"
    return "give the columns that the model was trained on, in their order"
