"""What values a probe's settings take: one check for the command line's, a policy's and Python's callers."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import Field
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from vaeprobe.errors import UsageError, did_you_mean

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


def field_type(cls: type, field: Field[Any]) -> object:
    """Return the type of a field, whose annotation is text, in the namespace of the class that declares it."""
    if not isinstance(field.type, str):
        return field.type
    owner = next(c for c in cls.__mro__ if field.name in inspect.get_annotations(c))
    return eval(field.type, dict(vars(sys.modules[owner.__module__])))


def check(cls: type, field: Field[Any], value: object, name: str) -> None:
    """Refuse a value that a setting does not take.

    Args:
        cls: the probe that the field belongs to.
        field: declared with `vaeprobe.probes.base.option`.
        name: what to call the setting in the message.

    Raises:
        UsageError: the value has another type, is no choice, or is out of bounds.
    """
    check_value(field_type(cls, field), value, name, field.metadata.get("option", {}))


def check_value(hint: object, value: Any, name: str, meta: Mapping[str, Any]) -> None:
    """Refuse a value that does not fit a type and what `option` says of it (see `check`)."""
    if not _fits(value, hint):
        expected = f"one of {', '.join(choices(hint))}" if choices(hint) else _words(hint)
        raise UsageError(
            f"{name} takes {expected}, not `{value}`", hint=did_you_mean(str(value), choices(hint))
        )
    suffixes = meta.get("writes")
    if suffixes and value is not None and Path(value).suffix.lower() not in ("", *suffixes):
        raise UsageError(
            f"{name} writes {' or '.join(suffixes)} files, not `{Path(value).suffix}`",
            hint=f"name it `{Path(value).with_suffix(suffixes[0])}`",
        )
    low, high = meta.get("min"), meta.get("max")
    if is_number(value) and ((low is not None and value < low) or (high is not None and value > high)):
        bounds = f"at least {low:g}" if high is None else f"between {low or 0:g} and {high:g}"
        raise UsageError(f"{name} must be {bounds}, not {value}")


def parse(hint: object, text: str, name: str, meta: Mapping[str, object]) -> object:
    """Return the value that a text on the command line stands for.

    Raises:
        UsageError: the text stands for no value that the setting takes.
    """
    value: object = text
    for part, read in ((int, int), (float, float), (Path, Path)):
        if part in _parts(hint):
            try:
                value = read(text)
                break
            except ValueError:
                continue
    check_value(hint, value, name, meta)
    return value


def choices(hint: object) -> list[str]:
    """Return the words that a type takes; none where it takes others too."""
    return [] if _words(hint, ()) else _literals(hint)


def is_number(value: object) -> bool:
    """Whether a value is a real number; true and false are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _parts(hint: object) -> tuple[object, ...]:
    return (hint, *get_args(hint))


def is_list(hint: object) -> bool:
    """Whether a type is of lists of texts."""
    return get_origin(hint) is Sequence


def _literals(hint: object) -> list[str]:
    return [c for part in _parts(hint) if get_origin(part) is Literal for c in get_args(part)]


def _words(hint: object, literals: Sequence[str] | None = None) -> str:
    """Return what a type takes, in words: its types, and its literals by name."""
    if is_list(hint):
        return "a list of texts"
    names = _literals(hint) if literals is None else literals
    types = [WORDS[part] for part in _parts(hint) if part in WORDS]
    return " or ".join([*types, *(f"`{name}`" for name in names)])


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if is_list(hint):
        return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
    if get_args(hint):
        return any(_fits(value, part) for part in get_args(hint))
    if hint is float:
        return is_number(value) and math.isfinite(value)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, (str, PathLike))
    return isinstance(value, hint)
