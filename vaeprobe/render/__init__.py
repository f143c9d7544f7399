"""Pages as text.  A renderer is a module with `render(page) -> str` and a line of `RENDERERS`; it knows `report` alone."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from vaeprobe.report import Page


class Renderer(NamedTuple):
    """Where a format is written.

    Attributes:
        module: with a function `render`.
        suffixes: files that get this format without being asked.
    """

    module: str
    suffixes: tuple[str, ...] = ()


RENDERERS = {
    "text": Renderer("vaeprobe.render.terminal"),
    "json": Renderer("vaeprobe.render.json_document", (".json",)),
    "markdown": Renderer("vaeprobe.render.markdown", (".md",)),
    "html": Renderer("vaeprobe.render.html", (".html", ".htm")),
}


def renderer(format: str) -> Callable[[Page], str]:
    """Return the function that turns a page into text of a format."""
    found: Callable[[Page], str] = import_module(RENDERERS[format].module).render
    return found
