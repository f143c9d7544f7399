"""A gate report in the formats that people and CI systems read: a module with `render(report) -> str` and a line each."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from vaeprobe.gate.outcome import GateReport
from vaeprobe.render import Renderer

FORMATS = {
    "text": Renderer("vaeprobe.gate.formats.text"),
    "json": Renderer("vaeprobe.gate.formats.json", (".json",)),
    "jsonl": Renderer("vaeprobe.gate.formats.jsonl", (".jsonl",)),
    "markdown": Renderer("vaeprobe.gate.formats.markdown", (".md",)),
    "junit": Renderer("vaeprobe.gate.formats.junit", (".xml",)),
    "sarif": Renderer("vaeprobe.gate.formats.sarif", (".sarif",)),
    "github": Renderer("vaeprobe.gate.formats.github"),
    "gitlab": Renderer("vaeprobe.gate.formats.gitlab"),
}


def renderer(format: str) -> Callable[[GateReport], str]:
    """Return the function that turns a report into text of a format."""
    found: Callable[[GateReport], str] = import_module(FORMATS[format].module).render
    return found
