"""What the parser refuses, in our own words: one line, and the nearest name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import typer

from vaeprobe.cli import worker
from vaeprobe.errors import UsageError, did_you_mean

# the parser's base class, whether Typer brings its own click or uses the package
PARSER: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
FOREIGN = re.compile(r"`(?:vaeprobe|pip|python|torchrun)[^`]*`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def as_usage_error(error: object) -> UsageError | None:
    """Return the usage error that the parser raised, as one of ours, or None for another exception."""
    if not isinstance(error, PARSER):
        return None
    ours = getattr(error, "error", None)
    if isinstance(ours, UsageError):
        return ours
    context, param = getattr(error, "ctx", None), getattr(error, "param", None)
    command = getattr(context, "command_path", "vaeprobe")
    listed = f"`{command} --help` lists the options"
    wrong = getattr(error, "option_name", None)
    if wrong and type(error).__name__ == "NoSuchOption" and context is not None:
        known = [name for p in context.command.params for name in p.opts if name.startswith("--")]
        return UsageError(f"no such option: {wrong}", hint=did_you_mean(wrong, [*known, "--help"]) or listed)
    if type(error).__name__ == "MissingParameter" and param is not None:
        kind = "argument" if param.param_type_name == "argument" else "option"
        name = max(param.opts, key=len) if kind == "option" else param.metavar or param.name.upper()
        return UsageError(f"missing {kind} `{name}`: {param.help}".rstrip(".: "), hint=listed)
    message = " ".join(error.format_message().split()).replace("'", "`")
    return UsageError(message[:1].lower() + message[1:].rstrip("."), hint=listed)


def fitting(hint: str | None, known: Sequence[str]) -> str | None:
    """Return a hint without the clauses that name options which the command does not have.

    Args:
        hint: from whatever room found the error, which knows of no commands.
        known: the command's options, beside the one that may stand anywhere.
    """
    if hint is None or not known:
        return hint
    clauses = re.split(r"(; |, or )", hint)
    kept = ""
    for k in range(0, len(clauses), 2):
        if set(OPTION.findall(FOREIGN.sub("", clauses[k]))) <= {*known, worker.OPTION}:
            kept += (clauses[k - 1] if kept else "") + clauses[k]
    return kept or None
