"""Text that is safe to show: control characters of untrusted strings removed, numbers in few digits."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vaeprobe.report import Metric, Value

MISSING = "–"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def clean(text: object) -> str:
    """Return text on one line, without control, bidirectional or other invisible characters."""
    return "".join(
        c
        if unicodedata.category(c) not in _HIDDEN
        else (" " if c in "\n\r\t" else "\N{REPLACEMENT CHARACTER}")
        for c in str(text)
    )


# what runners of continuous integration take for commands: `::error::` at the start of a line (GitHub), and
# `##[error]` and `##vso[...]` anywhere (GitHub's older form, Azure)
_STARTS_COMMAND = re.compile(r"(?m)^((?:[^\S\n]|\x1b\[[0-9;]*m)*)::")
_COMMAND = re.compile(r"##(?=\[|vso\[)")


def inert(text: str) -> str:
    """Return lines that no runner takes for a command, whatever a file's name or content put into them.

    One sign of a command becomes a blank, so that no line grows.
    """
    return _COMMAND.sub("# ", _STARTS_COMMAND.sub(r"\1: ", text))


def number(value: object, digits: int = 4) -> str:
    """Return a cell of a table: four significant digits, a dash where there is no value."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if value == 0:
            return "0"
        size = abs(value)
        if size >= 10**digits or size < 1e-3:
            return f"{value:.{digits - 2}e}"
        text = f"{value:.{digits}g}"
        return f"{float(text):g}" if "e" in text else text
    if isinstance(value, (list, tuple)):
        return ", ".join(number(v, 3) for v in value)
    return clean(value)


# what stands before a number that the true one is no less or no more than (`Metric.of_all`)
BOUNDS = {"at least": "≥ ", "at most": "≤ "}


def measured(metric: Metric) -> Value:
    """Return a metric's value, as text after a sign where the true one may be larger, or smaller."""
    bound = BOUNDS.get(metric.of_all)
    return bound + number(metric.value) if bound else metric.value


class Judged(Protocol):
    """A page or a result: its verdict, and what that says of all latents, None where nothing."""

    @property
    def verdict(self) -> str: ...

    @property
    def verdict_of_all(self) -> object: ...


def verdict_words(of: Judged) -> str:
    """Return a verdict, and whether it is that of a part of the latents alone."""
    return of.verdict + ("" if of.verdict_of_all is None else " (of the part that was measured)")


def interval(ci: tuple[float, float] | None) -> str:
    """Return an interval as `[low, high]`, or nothing."""
    return f"[{number(ci[0])}, {number(ci[1])}]" if ci else ""
