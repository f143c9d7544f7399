"""Small pictures in a terminal: its own pixels (kitty, sixel), else two to a character, in colour or not at all."""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Iterable, Mapping
from typing import Literal

from rich.console import Console, RenderableType
from rich.segment import ControlType, Segment
from rich.text import Text

from vaeprobe.report import Thumbnail

__all__ = ["Pixels", "graphics", "kitty", "sixel"]

Protocol = Literal["kitty", "sixel", ""]
# terminals by what TERM or TERM_PROGRAM names; multiplexers pass pictures on only where they are told to
KITTY = ("xterm-kitty", "xterm-ghostty", "ghostty", "wezterm")
SIXEL = ("foot", "mlterm", "contour", "yaft", "mintty", "xterm-sixel")
CHUNK = 4096
LEVELS = 6  # of red, green and blue in a sixel picture: 216 colours


def graphics(environment: Mapping[str, str]) -> Protocol:
    """Return how a terminal shows pixels, by what its environment says; "" where it says nothing."""
    term, program = environment.get("TERM", "").lower(), environment.get("TERM_PROGRAM", "").lower()
    if term.startswith(("screen", "tmux")) or environment.get("TMUX"):
        return ""
    if term in KITTY or program in KITTY or environment.get("KITTY_WINDOW_ID"):
        return "kitty"
    if program in SIXEL or term.split("-")[0] in SIXEL or "sixel" in term:
        return "sixel"
    return ""


def kitty(picture: Thumbnail, columns: int) -> str:
    """Return a picture as commands of kitty's graphics protocol, so many columns wide.

    Source: https://sw.kovidgoyal.net/kitty/graphics-protocol/
    """
    data = base64.standard_b64encode(zlib.compress(picture.rgb)).decode()
    parts = [data[k : k + CHUNK] for k in range(0, len(data), CHUNK)]
    out = []
    for k, part in enumerate(parts):
        head = f"a=T,f=24,o=z,q=2,s={picture.width},v={picture.height},c={columns}," if k == 0 else ""
        out.append(f"\x1b_G{head}m={int(k + 1 < len(parts))};{part}\x1b\\")
    return "".join(out)


def sixel(picture: Thumbnail) -> str:
    """Return a picture as sixels, in 216 colours.

    Source: DEC, VT330/VT340 Programmer Reference Manual, volume 2, chapter 14.
    """
    w, h, rgb = picture.width, picture.height, picture.rgb
    step = 255 / (LEVELS - 1)
    levels = [round(v / step) for v in range(256)]
    colors = [
        36 * levels[rgb[k]] + 6 * levels[rgb[k + 1]] + levels[rgb[k + 2]] for k in range(0, 3 * w * h, 3)
    ]
    percent = [round(100 * k / (LEVELS - 1)) for k in range(LEVELS)]
    out = [f'\x1bP0;1q"1;1;{w};{h}']
    out += [f"#{c};2;{percent[c // 36]};{percent[c // 6 % 6]};{percent[c % 6]}" for c in sorted(set(colors))]
    for top in range(0, h, 6):
        rows = [colors[y * w : (y + 1) * w] for y in range(top, min(top + 6, h))]
        lines = []
        for color in sorted({c for row in rows for c in row}):
            bits = [sum((row[x] == color) << k for k, row in enumerate(rows)) for x in range(w)]
            lines.append(f"#{color}" + _runs(bits))
        out.append("$".join(lines) + "-")
    return "".join(out) + "\x1b\\"


def _runs(bits: list[int]) -> str:
    out, start = [], 0
    for k in range(1, len(bits) + 1):
        if k == len(bits) or bits[k] != bits[start]:
            letter, n = chr(63 + bits[start]), k - start
            out.append(f"!{n}{letter}" if n > 3 else letter * n)
            start = k
    return "".join(out)


class Pixels:
    """A thumbnail in the terminal's own pixels, else in half blocks; nothing without colour or where it is too narrow."""

    def __init__(self, picture: Thumbnail) -> None:
        self.picture = picture

    def __rich_console__(self, target: Console, options: object) -> Iterable[RenderableType | Segment]:
        picture = self.picture
        if target.color_system is None or target.no_color or picture.width > target.width:
            return
        protocol = graphics(os.environ) if target.file.isatty() else ""
        if protocol:
            fine = picture.fine or picture
            drawn = kitty(fine, picture.width) if protocol == "kitty" else sixel(fine)
            yield Segment(
                drawn, None, [(ControlType.BELL,)]
            )  # marks it as taking no columns; no bell is written
            yield Segment.line()
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
