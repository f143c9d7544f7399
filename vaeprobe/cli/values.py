"""Options that read their own values: the words, bounds and suggestions of settings, whatever parser Typer uses."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, get_args, get_origin

import typer
from typer.models import ArgumentInfo, OptionInfo

from vaeprobe.errors import UsageError
from vaeprobe.probes.settings import Option, choices, parse

PLACEHOLDERS = {int: "N", float: "X", Path: "FILE"}
# words that fit into the column of an option's name
SHORT = 22


class Refused(typer.BadParameter):
    """A value that an option does not take, with our own words and hint."""

    def __init__(self, error: UsageError) -> None:
        super().__init__(error.message)
        self.error = error


class Reader:
    """Reads one option's value from its text."""

    def __init__(self, hint: object, name: str, low: float | None, high: float | None) -> None:
        self.hint = hint
        self.name = name
        self.bounds = Option(min=low, max=high)
        self.__name__ = name

    def __call__(self, text: object) -> object:
        if not isinstance(text, str):  # a default
            return text
        try:
            return parse(self.hint, text, self.name, self.bounds)
        except UsageError as error:
            raise Refused(error) from None

    def complete(self, incomplete: str) -> list[str]:
        return [word for word in choices(self.hint) if word.startswith(incomplete)]


def signature(function: Callable[..., object]) -> inspect.Signature:
    """Return a command's signature with a `Reader` for every option that is no flag and no list."""
    own = inspect.signature(function, eval_str=True)
    return own.replace(parameters=[_parameter(p) for p in own.parameters.values()])


def _parameter(p: inspect.Parameter) -> inspect.Parameter:
    if get_origin(p.annotation) is not Annotated:
        return p
    hint, info = get_args(p.annotation)[:2]
    parts = (hint, *get_args(hint))
    if not isinstance(info, (ArgumentInfo, OptionInfo)) or bool in parts or any(map(_is_list, parts)):
        return p
    # Typer takes the first name of an annotated option for its default
    names = [info.default, *(getattr(info, "param_decls", None) or ())]
    flags = [name for name in names if isinstance(name, str) and name.startswith("--")]
    argument = isinstance(info, ArgumentInfo)
    name = p.name.upper() if argument else f"`{(flags or ['--' + p.name.replace('_', '-')])[0]}`"
    reader = Reader(hint, name, info.min, info.max)
    info = copy.copy(info)
    info.min = info.max = None
    info.parser = reader
    words = choices(hint)
    if words and not info.autocompletion:
        info.autocompletion = reader.complete
    if info.metavar is None:
        info.metavar = name if argument else _placeholder(p.name, parts, words)
    if words and info.metavar != "|".join(words):
        info.help = f"{(info.help or '').rstrip('.')}: {', '.join(words[:-1])} or {words[-1]}."
    return p.replace(annotation=Annotated[object, info])


def _is_list(part: object) -> bool:
    return part is list or get_origin(part) is list


def _placeholder(name: str, parts: tuple[object, ...], words: list[str]) -> str:
    if words:
        joined = "|".join(words)
        return joined if len(joined) <= SHORT else name.upper().replace("_", "-")
    return next((PLACEHOLDERS[part] for part in parts if part in PLACEHOLDERS), "TEXT")
