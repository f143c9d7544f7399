"""A gate report in the formats that people and CI systems read."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from vaeprobe.gate.outcome import GateReport

# format -> module of this package with `render(report) -> str`
FORMATS = ("text", "json", "jsonl", "markdown", "junit", "sarif", "github", "gitlab")


def renderer(format: str) -> Callable[[GateReport], str]:
    """Return the function that turns a report into text of a format."""
    found: Callable[[GateReport], str] = import_module(f"vaeprobe.gate.formats.{format}").render
    return found
