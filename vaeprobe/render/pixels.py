"""Small pictures in a terminal: two pixels to a character, in colour or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.text import Text

from vaeprobe.report import Thumbnail

__all__ = ["Pixels"]


class Pixels:
    """A thumbnail in half blocks; nothing where the console has no colour or is too narrow."""

    def __init__(self, picture: Thumbnail) -> None:
        self.picture = picture

    def __rich_console__(self, target: Console, options: object) -> Iterable[RenderableType]:
        picture = self.picture
        if target.color_system is None or target.no_color or picture.width > target.width:
            return
        for y in range(0, picture.height, 2):
            line = Text(no_wrap=True)
            for x in range(picture.width):
                below = f" on {self._color(x, y + 1)}" if y + 1 < picture.height else ""
                line.append("▀", style=self._color(x, y) + below)
            yield line

    def _color(self, x: int, y: int) -> str:
        at = 3 * (y * self.picture.width + x)
        r, g, b = self.picture.rgb[at : at + 3]
        return f"#{r:02x}{g:02x}{b:02x}"
