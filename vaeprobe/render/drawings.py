"""The tables and pictures of a page, drawn in the characters of a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from vaeprobe.render.axes import Axis, tick
from vaeprobe.render.pixels import Pixels
from vaeprobe.render.text import clean, number
from vaeprobe.report import (
    Bars,
    Curves,
    Heatmap,
    Histogram,
    Section,
    Svg,
    Table,
)

__all__ = ["draw", "grid"]

SHADES = " ░▒▓█"
EIGHTHS = " ▏▎▍▌▋▊▉█"
RISING = " ▁▂▃▄▅▆▇█"
MAX_CELLS = 24


def draw(section: Section) -> RenderableType | None:
    """Return a picture, or None for one that a terminal cannot show."""
    match section:
        case Table():
            return _table(section)
        case Heatmap():
            return _HeatmapView(section)
        case Bars():
            return _BarsView(section)
        case Curves():
            return _CurvesView(section)
        case Histogram():
            return _HistogramView(section)
        case Svg():
            if section.thumbnail is not None:
                return _ThumbnailView(section.title, Pixels(section.thumbnail), section.alt)
            return Text(f"{section.title}: {section.alt}", style="dim") if section.alt else None


class _ThumbnailView:
    """A picture under its title; where the console cannot show it, one line that says where to see it."""

    def __init__(self, title: str, picture: Pixels, alt: str) -> None:
        self.title, self.picture, self.alt = title, picture, alt

    def __rich_console__(self, target: Console, options: object) -> Iterable[RenderableType | Segment]:
        lines = list(self.picture.__rich_console__(target, options))
        if lines:
            yield Text(clean(self.title), style="bold")
            yield from lines
            if self.alt:
                yield Text(clean(self.alt), style="dim")
        elif self.alt:
            yield Text(clean(f"{self.title}: {self.alt}"), style="dim")


def _table(section: Table) -> RenderableType:
    numeric = [
        k
        for k in range(len(section.columns))
        if section.rows and all(row[k] is None or isinstance(row[k], (int, float)) for row in section.rows)
    ]
    table = grid(section.columns, right=numeric)
    for row in section.rows:
        table.add_row(*(Text(number(cell)) for cell in row))
    return _titled(section.title, table, section.note)


def _color(share: float) -> str:
    """Return a colour between white-blue and deep red, dark enough to read white digits on when strong."""
    low, high = (33, 60, 99), (206, 58, 54)
    if share < 0.5:
        base, top, t = (22, 27, 34), low, share * 2
    else:
        base, top, t = low, high, share * 2 - 1
    r, g, b = (round(x + (y - x) * t) for x, y in zip(base, top, strict=True))
    return f"#{r:02x}{g:02x}{b:02x}"


class _HeatmapView:
    """A heat map that adapts to the console: digits on colour, shades where there is none."""

    def __init__(self, section: Heatmap) -> None:
        self.section = section

    def __rich_console__(self, target: Console, options: object) -> Iterable[RenderableType]:
        section = self.section.shown()
        colored = target.color_system is not None and not target.no_color
        labels = [clean(label) for label in section.row_labels]
        gutter = max((len(label) for label in labels), default=0) + 1
        columns = len(section.column_labels)
        cell = 4 if columns * 4 + gutter <= target.width and columns <= MAX_CELLS else 2
        room = max(1, (target.width - gutter) // cell)
        shown = min(columns, room)
        yield Text(clean(section.title), style="bold")
        if cell == 4:
            for heads in _heads([clean(label) for label in section.column_labels[:shown]]):
                yield Text(" " * gutter + heads, style="dim", no_wrap=True)
        for label, row in zip(labels, section.matrix, strict=True):
            line = Text(label.rjust(gutter - 1) + " ", style="dim", no_wrap=True)
            for value in row[:shown]:
                line.append_text(self._cell(section, value, cell, colored))
            yield line
        if shown < columns:
            yield Text(f"({shown} of {columns} columns fit; --json has them all)", style="dim")
        if section.note:
            yield Text(clean(section.note), style="dim")

    @staticmethod
    def _cell(section: Heatmap, value: float | None, width: int, colored: bool) -> Text:
        if value is None or not math.isfinite(value):
            return Text("·".rjust(width), style="dim")
        span = section.high - section.low
        share = min(max((value - section.low) / span if span else 0.0, 0.0), 1.0)
        digits = _short(value) if width == 4 else ""
        if colored:
            return Text(
                digits.rjust(width - 1) + " " if digits else " " * width, style=f"#f0f3f6 on {_color(share)}"
            )
        return Text(digits.rjust(width) if digits else SHADES[min(int(share * 5), 4)] * width)


def _heads(labels: list[str]) -> list[str]:
    """Return lines of heads of columns of four characters: downwards where they are longer, and never cut short.

    Where a latent is, in brackets, is left to the rows.
    """
    labels = [label.partition("[")[0] for label in labels]
    height = max(map(len, labels), default=0)
    if height <= 3:
        return ["".join(label.rjust(4) for label in labels)]
    return ["".join(label.rjust(height)[k].rjust(4) for label in labels) for k in range(height)]


def _short(value: float) -> str:
    """Return a number in at most three characters where it can be."""
    if 0 <= value < 0.995:
        return f"{value:.2f}"[1:]
    return f"{value:.2g}"[:3] if abs(value) < 100 else f"{value:.0f}"[:3]


class _BarsView:
    """One bar per label, scaled to the width of the console."""

    def __init__(self, section: Bars) -> None:
        self.section = section

    def __rich_console__(self, target: Console, options: object) -> Iterable[RenderableType]:
        section = self.section
        labels = [clean(label) for label in section.labels]
        gutter = min(max((len(label) for label in labels), default=0), 24)
        known = [abs(v) for v in section.values if v is not None]
        top = max([*known, abs(section.mark or 0.0)], default=0.0) or 1.0
        room = max(8, min(50, target.width - gutter - 14))
        yield Text(clean(section.title), style="bold")
        at = None if section.mark is None else min(int(abs(section.mark) / top * room), room - 1)
        for label, value in zip(labels, section.values, strict=True):
            line = Text(label[:gutter].rjust(gutter) + " ", style="dim", no_wrap=True)
            bar = _bar(0.0 if value is None else abs(value) / top, room)
            if at is not None and bar[at] == " ":
                bar = bar[:at] + "│" + bar[at + 1 :]
            line.append(bar, style="cyan")
            line.append(f" {number(value)}", style="default")
            yield line
        if section.mark is not None and section.mark_label:
            yield Text(f"{' ' * gutter} │ {clean(section.mark_label)}: {number(section.mark)}", style="dim")
        if section.note:
            yield Text(clean(section.note), style="dim")


def _bar(share: float, width: int) -> str:
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)


class _CurvesView:
    """Lines drawn with braille dots, one style per line."""

    STYLES = ("cyan", "magenta", "yellow", "green", "red", "blue", "white")
    SIGNS = "●■▲◆▼★✚"  # of each line at its points, where those are few: colours may be missing
    FEW = 16
    HEIGHT = 8

    def __init__(self, section: Curves) -> None:
        self.section = section

    def __rich_console__(self, target: Console, options: object) -> Iterable[RenderableType]:
        section = self.section
        yield Text(clean(section.title), style="bold")
        points = section.heights()
        if not points or len(section.x) < 2:
            yield Text("nothing to draw", style="dim")
            return
        across, up = Axis.over(section.x, log=section.log_x), Axis.over(points, log=section.log_y)
        last = self.HEIGHT * 4 - 1
        at = {round((1 - up.share(t)) * last) // 4: tick(t) for t in up.ticks(4)}
        gutter = max(map(len, at.values()), default=0)
        width = max(10, min(64, target.width - gutter - 3))
        for k, row in enumerate(self._dots(width, across, up)):
            line = Text(f"{at.get(k, '').rjust(gutter)} {'┤' if k in at else '│'}", style="dim", no_wrap=True)
            for sign, style in row:
                line.append(sign, style=style)
            yield line
        yield from _below(across, width, gutter + 2, section.x_label)
        scale = " (log scale)" if up.log else ""
        if len(section.ys) > 1 or section.y_label:
            legend = Text(" " * (gutter + 2))
            if section.y_label:
                legend.append(f"up: {clean(section.y_label)}{scale}  ", style="dim")
            for k, name in enumerate(section.ys if len(section.ys) > 1 else ()):
                sign = self.SIGNS[k % len(self.SIGNS)] if self._signed else "━"
                legend.append(f"{sign} {clean(name)}  ", style=self.STYLES[k % len(self.STYLES)])
            yield legend
        if section.note:
            yield Text(clean(section.note), style="dim")

    @property
    def _signed(self) -> bool:
        return len(self.section.ys) > 1 and len(self.section.x) <= self.FEW

    def _dots(self, width: int, across: Axis, up: Axis) -> list[list[tuple[str, str]]]:
        """Return rows of cells, each a sign and its style."""
        section, last = self.section, self.HEIGHT * 4 - 1
        dots: list[list[tuple[int, str]]] = [[(0, "")] * width for _ in range(self.HEIGHT)]
        bit = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

        def height(y: float) -> int:
            return min(max(round((1 - up.share(y)) * last), 0), last)

        for k, ys in enumerate(section.ys.values()):
            for column in range(width * 2):
                y = _interpolate(section.x, ys, across.at(column / (width * 2 - 1)))
                if y is None:
                    continue
                row, sub = divmod(height(y), 4)
                bits, _ = dots[row][column // 2]
                dots[row][column // 2] = (bits | bit[sub][column % 2], self.STYLES[k % len(self.STYLES)])
        cells = [[(chr(0x2800 + bits) if bits else " ", style) for bits, style in row] for row in dots]
        for k, ys in enumerate(section.ys.values() if self._signed else ()):
            for x, y in zip(section.x, ys, strict=True):
                if y is not None and math.isfinite(y):
                    place = round(across.share(x) * (width - 1))
                    sign = self.SIGNS[k % len(self.SIGNS)]
                    cells[height(y) // 4][place] = (sign, self.STYLES[k % len(self.STYLES)])
        return cells


class _HistogramView:
    """The spread of draws as rising blocks; below them a letter at each mark."""

    HEIGHT = 3

    def __init__(self, section: Histogram) -> None:
        self.section = section

    def __rich_console__(self, target: Console, options: object) -> Iterable[RenderableType]:
        section = self.section
        yield Text(clean(section.title), style="bold")
        width = max(10, min(64, target.width - 4))
        across = Axis(*section.span())
        heights = [0.0] * width
        bins = section.bins(width)
        for k in range(width):
            heights[k] = float(bins[k * len(bins) // width][2])
        top = max(heights)
        for row in range(self.HEIGHT - 1, -1, -1):
            eighths = [min(max(round(h / top * self.HEIGHT * 8) - 8 * row, 0), 8) for h in heights]
            yield Text("  " + "".join(RISING[e] for e in eighths).rstrip(), style="dim", no_wrap=True)
        line = ["─"] * width
        names = []
        for k, (name, value) in enumerate(section.marks.items()):
            letter = chr(ord("A") + k)
            place = min(int(across.share(value) * width), width - 1)
            while line[place] != "─" and place + 1 < width:
                place += 1
            line[place] = letter
            names.append(f"{letter} {clean(name)} {number(value, 3)}")
        yield Text("  " + "".join(line), style="cyan", no_wrap=True)
        yield from _below(across, width, 2, section.x_label)
        yield Text(f"  {'; '.join(names)}; blocks: {len(section.draws)} draws", style="dim")
        if section.note:
            yield Text(clean(section.note), style="dim")


def _below(across: Axis, width: int, gutter: int, label: str) -> Iterable[Text]:
    """Return the ticks of a horizontal axis, each under its place, and the axis's name."""
    line = [" "] * width
    for value in across.ticks(6):
        text = tick(value)
        place = round(across.share(value) * (width - 1))
        start = min(max(place - len(text) // 2, 0), width - len(text))
        around = line[max(start - 1, 0) : start + len(text) + 1]
        if start >= 0 and not "".join(around).strip():
            line[start : start + len(text)] = text
    yield Text(" " * gutter + "".join(line).rstrip(), style="dim", no_wrap=True)
    if label:
        said = clean(label) + (" (log scale)" if across.log else "")
        yield Text(" " * gutter + said.center(width).rstrip(), style="dim")


def _interpolate(xs: Iterable[float], ys: Iterable[float | None], at: float) -> float | None:
    previous: tuple[float, float] | None = None
    for x, y in zip(xs, ys, strict=True):
        if y is None or not math.isfinite(y):
            previous = None
            continue
        if previous is not None and previous[0] <= at <= x:
            gap = x - previous[0]
            return previous[1] if gap == 0 else previous[1] + (y - previous[1]) * (at - previous[0]) / gap
        previous = (float(x), float(y))
    return None


def grid(columns: Iterable[str], right: Iterable[int] = ()) -> RichTable:
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    numeric = set(right)
    for k, column in enumerate(columns):
        table.add_column(Text(clean(column)), justify="right" if k in numeric else "left", overflow="fold")
    return table


def _titled(title: str, body: RenderableType, note: str = "") -> RenderableType:
    parts: list[RenderableType] = [Text(clean(title), style="bold"), body]
    if note:
        parts.append(Text(clean(note), style="dim"))
    return Group(*parts)
