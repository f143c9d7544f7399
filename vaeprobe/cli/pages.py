"""Help pages: plain text in a few columns, readable at any width, written without loading anything heavy."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

COLUMN = 24
KEEP = "\xa0"  # a space at which no line ends
EXAMPLES = re.compile(r"\n\nExamples?:\n(.*)\Z", re.DOTALL)
REST = re.compile(r"\n\n(Attributes|Source|Raises|Args|Returns|Examples?):\n.*\Z", re.DOTALL)
LAST = ("Loading", "Output", "Other")

Row = tuple[str, str]


def command_page(path: str, callback_doc: str, params: Iterable[Any]) -> str:
    """Return the help of one command.

    Args:
        path: the command as it is called, `vaeprobe trace`.
        callback_doc: its docstring; what stands under `Examples:` comes last.
        params: the parser's parameters.
    """
    doc = inspect.cleandoc(callback_doc)
    found = EXAMPLES.search(doc)
    arguments: list[Row] = []
    panels: dict[str, list[Row]] = {}
    names = []
    for param in params:
        if param.param_type_name == "argument":
            name = (param.metavar or param.name.upper()) + ("..." if param.nargs == -1 else "")
            names.append(name if param.required else f"[{name}]")
            arguments.append((name, param.help or ""))
        elif not param.hidden:
            panel = (
                "Other" if "--help" in param.opts else getattr(param, "rich_help_panel", None) or "Options"
            )
            panels.setdefault(panel, []).append((_flags(param), _about(param)))
    order = [*(p for p in panels if p not in LAST), *(p for p in LAST if p in panels)]
    parts = [f"{bold('usage:')} {' '.join([path, '[OPTIONS]', *names])}", *paragraphs(REST.sub("", doc))]
    parts += [
        table(title, rows)
        for title, rows in [("Arguments", arguments), *((p, panels[p]) for p in order)]
        if rows
    ]
    if found:
        parts.append(bold("Examples:") + "\n" + textwrap.indent(inspect.cleandoc(found[1]), "  "))
    return "\n\n".join(parts)


def group_page(
    doc: str, sections: Iterable[tuple[str, Sequence[Row]]], params: Iterable[object], end: str
) -> str:
    """Return the help of `vaeprobe` itself: its commands by section, and its own options."""
    rows = [(_flags(p), _about(p)) for p in params]
    parts = [f"{bold('usage:')} vaeprobe COMMAND [OPTIONS] ...", *paragraphs(inspect.cleandoc(doc))]
    parts += [table(title, commands, column=17) for title, commands in sections]
    return "\n\n".join([*parts, table("Options", rows), *paragraphs(end)])


def paragraphs(text: str) -> list[str]:
    return [textwrap.fill(" ".join(p.split()), width(), break_on_hyphens=False) for p in text.split("\n\n")]


def table(title: str, rows: Sequence[Row], column: int = COLUMN) -> str:
    """Return names and what they are, two columns; a long name has a line to itself."""
    lines = [bold(f"{title}:")]
    for name, about in rows:
        room = max(width() - column - 2, 20)
        wrapped = textwrap.wrap(about, room, break_on_hyphens=False, break_long_words=False)
        wrapped = [line.replace(KEEP, " ") for line in wrapped]
        head = f"  {name}".ljust(column + 2)
        if len(name) > column - 2 or not wrapped:
            lines.append(head.rstrip())
        else:
            lines.append(head + wrapped.pop(0))
        lines += [" " * (column + 2) + line for line in wrapped]
    return "\n".join(lines)


def width() -> int:
    """Return the columns of a page: the terminal's, at most 100."""
    return max(40, min(shutil.get_terminal_size((80, 24)).columns, 100))


def bold(text: str) -> str:
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[1m{text}\x1b[0m" if colored else text


def _flags(param: Any) -> str:
    names = ", ".join(sorted(param.opts, key=lambda name: (name.startswith("--"), len(name) > 2)))
    return names if param.is_flag else f"{names} {param.metavar or 'TEXT'}"


def _about(param: Any) -> str:
    text = str(param.help or "")
    default = param.default
    plain = isinstance(default, (str, int, float)) and not isinstance(default, bool)
    if plain and param.show_default and "default" not in text:
        shown = f"{default:g}" if isinstance(default, float) else default
        text += f" [default:{KEEP}{shown}]"
    if param.required:
        text += " [required]"
    if getattr(param, "multiple", False) and "repeatable" not in text:
        text += " Repeatable."
    return text.strip()
