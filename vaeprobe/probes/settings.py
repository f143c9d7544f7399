"""What values a probe's settings take: one check for the command line's, a policy's and Python's callers."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Sequence
from dataclasses import Field, dataclass
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args, get_origin

from vaeprobe.errors import UsageError, did_you_mean
from vaeprobe.writing import check_suffix

# of settings that take more than one type can say: the probe looks at what it is given
OPEN = (object, Any)
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a setting is on the command line; see `vaeprobe.probes.base.option`."""

    help: str = ""
    min: float | None = None
    max: float | None = None
    names: tuple[str, ...] = ()
    metavar: str | None = None
    panel: str = "Settings"
    writes: tuple[str, ...] = ()


def option_of(field: Field[object]) -> Option:
    """Return what a field is on the command line."""
    found = field.metadata.get("option")
    return found if isinstance(found, Option) else Option()


def field_type(cls: type, field: Field[object]) -> object:
    """Return the type of a field, whose annotation is text, in the namespace of the class that declares it."""
    if not isinstance(field.type, str):
        return field.type
    owner = next(c for c in cls.__mro__ if field.name in inspect.get_annotations(c))
    return eval(field.type, dict(vars(sys.modules[owner.__module__])))


def check(cls: type, field: Field[object], value: object, name: str) -> None:
    """Refuse a value that a setting does not take.

    Args:
        cls: the probe that the field belongs to.
        field: declared with `vaeprobe.probes.base.option`.
        name: what to call the setting in the message.

    Raises:
        UsageError: the value has another type, is no choice, or is out of bounds.
    """
    check_value(field_type(cls, field), value, name, option_of(field))


def check_value(hint: object, value: object, name: str, option: Option) -> None:
    """Refuse a value that does not fit a type and what `option` says of it (see `check`)."""
    if not _fits(value, hint):
        expected = f"one of {', '.join(choices(hint))}" if choices(hint) else _words(hint)
        raise UsageError(
            f"{name} takes {expected}, not `{value}`", hint=did_you_mean(str(value), choices(hint))
        )
    if option.writes and isinstance(value, (str, PathLike)):
        check_suffix(value, option.writes, name)
    low, high = option.min, option.max
    if is_number(value) and ((low is not None and value < low) or (high is not None and value > high)):
        bounds = f"at least {low:g}" if high is None else f"between {low or 0:g} and {high:g}"
        raise UsageError(f"{name} must be {bounds}, not {value}")


def parse(hint: object, text: str, name: str, option: Option) -> object:
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
    check_value(hint, value, name, option)
    return value


def choices(hint: object) -> list[str]:
    """Return the words that a type takes; none where it takes others too."""
    return [] if _words(hint, ()) else _literals(hint)


def is_number(value: object) -> TypeGuard[float]:
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


def _fits(value: object, hint: object) -> bool:
    if hint in OPEN:
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
    return isinstance(hint, type) and isinstance(value, hint)
