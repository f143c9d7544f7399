"""Pictures of pages as SVG: heat maps, bars, curves and histograms, with axes, ticks and legends."""

from __future__ import annotations

import math
from html import escape as _escape

from vaeprobe.render.axes import Axis, tick
from vaeprobe.render.text import clean, number
from vaeprobe.report import Bars, Curves, Heatmap, Histogram

# lines and marks: each at least 3 to 1 against white and against the dark page
COLORS = ("#2f81f7", "#d2569d", "#b08000", "#2da044", "#e5534b", "#8f70e0", "#808a94")
AXIS = "#808a94"
# letters have 11 pixels, and up to 19 where a phone draws a plot at half its size: all lines leave room for both
LEFT, WIDTH, HEIGHT, TOP, LINE = 74, 530, 220, 12, 22
EM, WIDE_EM = 6.6, 12  # pixels of a letter
PLOT = 'class="plot"'
FITS = 440  # pixels up to which a heat map is drawn smaller on a phone, rather than scrolled


# letters of plots as narrow screens shrink them
PLOT_STYLE = """
svg.plot path, svg.plot line, svg.plot polyline { vector-effect: non-scaling-stroke; }
@media (max-width: 600px) { figure svg.plot text { font-size: 15px; } }
@media (max-width: 440px) { figure svg.plot text { font-size: 19px; } }
"""


def escape(text: object) -> str:
    """Return text that is inert in HTML."""
    return _escape(clean(text), quote=True)


def ramp(share: float) -> tuple[int, int, int]:
    """Return the colour of a heat map's cell, from near white at 0 to red at 1."""
    return round(246 - 40 * share), round(248 - 190 * share), round(250 - 196 * share)


def luminance(color: tuple[int, int, int]) -> float:
    """Return the relative luminance of a colour (WCAG 2.2)."""
    parts = [c / 255 for c in color]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink(color: tuple[int, int, int]) -> str:
    """Return black or white, whichever reads better on a colour: at least 4.5 to 1."""
    light = luminance(color) + 0.05
    return "#000" if light / 0.05 >= 1.05 / light else "#fff"


def two_digits(value: float) -> str:
    """Return a cell's number: two decimals below 10, whole above, in four characters where it can be."""
    if 0 < abs(value) < 0.005:
        return "0.00"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}" if abs(value) < 1e4 else f"{value:.0e}"


def heatmap_svg(section: Heatmap) -> str:
    """Return a heat map; every cell carries its value as a tooltip, and as two digits where they fit."""
    rows, columns = len(section.matrix), len(section.column_labels)
    size = max(8, min(36, 640 // max(columns, 1)))
    gutter = 8 + 7 * max((len(clean(s)) for s in section.row_labels), default=0)
    span = (section.high - section.low) or 1.0
    width = gutter + size * columns
    named = 'class="fits" ' if width <= FITS else ""
    out = [f'<svg {named}viewBox="0 0 {width} {20 + size * rows}" width="{width}">']
    every = max(1, math.ceil(16 / size))
    widest = max((len(clean(s)) for s in section.column_labels), default=1)
    apart = max(every, math.ceil(EM * widest / size))
    for j, label in enumerate(section.column_labels):
        if j % apart == 0:
            x = gutter + size * (j + 0.5)
            out.append(f'<text x="{x:g}" y="12" text-anchor="middle">{escape(label)}</text>')
    for i, row in enumerate(section.matrix):
        if i % every == 0:
            out.append(
                f'<text x="{gutter - 6}" y="{20 + size * (i + 0.5) + 4:g}" text-anchor="end">'
                f"{escape(section.row_labels[i])}</text>"
            )
        for j, value in enumerate(row):
            known = value is not None and math.isfinite(value)
            share = min(max(((value or 0.0) - section.low) / span, 0.0), 1.0) if known else 0.0
            color = ramp(share)
            x, y = gutter + size * j, 20 + size * i
            fill = f"rgb({color[0]},{color[1]},{color[2]})" if known else "none"
            out.append(
                f'<rect x="{x}" y="{y}" width="{size - 1}" height="{size - 1}" fill="{fill}" '
                f'stroke="{"none" if known else AXIS}" stroke-opacity=".3"><title>{escape(number(value))}</title></rect>'
            )
            if known and value is not None and size >= 30:
                out.append(
                    f'<text x="{x + size / 2:g}" y="{y + size / 2 + 4:g}" text-anchor="middle" '
                    f'style="fill:{ink(color)};font-size:10px">{escape(two_digits(value))}</text>'
                )
    return "".join(out) + "</svg>"


def bars_svg(section: Bars) -> str:
    """Return horizontal bars, each with its number."""
    known = [abs(v) for v in section.values if v is not None]
    top = max([*known, abs(section.mark or 0.0)], default=0.0) or 1.0
    longest = max((len(clean(s)) for s in section.labels), default=0)
    gutter, width, height = 8 + round(WIDE_EM * longest), 420, LINE
    foot = LINE if section.mark is not None else 0
    total, whole = 5 + height * len(section.values) + foot, gutter + width + 96
    out = [f'<svg {PLOT} viewBox="0 0 {whole} {total}" width="{whole}">']
    mark = abs(section.mark) / top * width if section.mark is not None else 0.0
    for k, (label, value) in enumerate(zip(section.labels, section.values, strict=True)):
        y, length = 3 + height * k, (abs(value) / top * width if value is not None else 0.0)
        out.append(f'<text x="{gutter - 6}" y="{y + 15}" text-anchor="end">{escape(label)}</text>')
        out.append(
            f'<rect x="{gutter}" y="{y + 3}" width="{length:.2f}" height="{height - 6}" fill="{COLORS[0]}"/>'
        )
        # the number of a short bar stands beyond the mark, which would strike it through
        x = gutter + (mark if mark - WIDE_EM * len(number(value)) < length < mark else length) + 5
        out.append(f'<text x="{x:.1f}" y="{y + 15}">{escape(number(value))}</text>')
    if section.mark is not None:
        out.append(
            f'<line x1="{gutter + mark:.1f}" x2="{gutter + mark:.1f}" y1="0" y2="{total - LINE + 2}" stroke="{COLORS[4]}" stroke-dasharray="4 3"/>'
            f'<text x="{gutter}" y="{total - 5}">┆ {escape(section.mark_label)} '
            f"{escape(number(section.mark))}</text>"
        )
    return "".join(out) + "</svg>"


def curves_svg(section: Curves) -> str:
    """Return lines over a shared axis, with ticks and a legend."""
    points = section.heights()
    if not points or len(section.x) < 2:
        return "<p>nothing to draw</p>"
    across, up = Axis.over(section.x, log=section.log_x), Axis.over(points, log=section.log_y)
    out = _frame(across, up, section.x_label, section.y_label)
    for k, ys in enumerate(section.ys.values()):
        color = COLORS[k % len(COLORS)]
        run: list[str] = []
        for x, y in [*zip(section.x, ys, strict=True), (across.low, None)]:
            if y is not None and math.isfinite(y):
                run.append(f"{_x(across, x):.1f},{_y(up, y):.1f}")
                continue
            if len(run) == 1:
                cx, cy = run[0].split(",")
                out.append(f'<circle cx="{cx}" cy="{cy}" r="2.5" fill="{color}"/>')
            elif run:
                out.append(
                    f'<polyline points="{" ".join(run)}" fill="none" stroke="{color}" stroke-width="1.8"/>'
                )
            run = []
    names = list(section.ys) if len(section.ys) > 1 else []
    return _closed(out, names)


def histogram_svg(section: Histogram) -> str:
    """Return the spread of draws as bars, and a line with a legend for each mark."""
    low, high = section.span()
    bins = section.bins(60)
    most = max(count for *_, count in bins)
    across, up = Axis(low, high), Axis(0, most)
    out = _frame(across, up, section.x_label, "draws")
    for start, end, count in bins:
        if count:
            x, y = _x(across, start), _y(up, count)
            out.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(_x(across, end) - x - 1, 1):.1f}" '
                f'height="{TOP + HEIGHT - y:.1f}" fill="{COLORS[6]}"><title>{count} draws from '
                f"{escape(number(start, 3))} to {escape(number(end, 3))}</title></rect>"
            )
    marks = list(section.marks.items())
    for k, (_, value) in enumerate(marks):
        x, color = _x(across, value), COLORS[_MARKS[k % len(_MARKS)]]
        dash = "" if k == 0 else ' stroke-dasharray="5 3"'
        out.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + HEIGHT}" stroke="{color}" stroke-width="2.5"{dash}/>'
        )
    legend = [f"{len(section.draws)} draws", *(f"{name} {number(value, 3)}" for name, value in marks)]
    return _closed(out, legend, [6, *(_MARKS[k % len(_MARKS)] for k in range(len(marks)))])


_MARKS = (0, 4, 3, 5)  # colours of a histogram's marks


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * WIDTH


def _y(axis: Axis, value: float) -> float:
    return TOP + (1 - axis.share(value)) * HEIGHT


def _frame(across: Axis, up: Axis, x_label: str, y_label: str) -> list[str]:
    """Return axes with their ticks and names; `_closed` puts the head before them."""
    out = [f'<path d="M{LEFT} {TOP}V{TOP + HEIGHT}H{LEFT + WIDTH}" fill="none" stroke="{AXIS}"/>']
    for value in across.ticks():
        x = _x(across, value)
        out.append(
            f'<path d="M{x:.1f} {TOP + HEIGHT}v5" stroke="{AXIS}"/>'
            f'<text x="{x:.1f}" y="{TOP + HEIGHT + 19}" text-anchor="middle">{escape(tick(value))}</text>'
        )
    for value in up.ticks(5):
        y = _y(up, value)
        out.append(
            f'<path d="M{LEFT} {y:.1f}h-5" stroke="{AXIS}"/>'
            f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="{AXIS}" stroke-opacity=".2"/>'
            f'<text x="{LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{escape(tick(value))}</text>'
        )
    scale = " (log scale)" if across.log else ""
    if x_label:
        out.append(
            f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 19 + LINE}" text-anchor="middle">{escape(x_label + scale)}</text>'
        )
    if y_label:
        y_label += " (log scale)" if up.log else ""
        middle = TOP + HEIGHT / 2
        out.append(
            f'<text transform="translate(20 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
        )
    return out


def _closed(body: list[str], names: list[str], colors: list[int] | None = None) -> str:
    """Return the whole picture: the frame, what is in it, and a legend that wraps."""
    x, line, legend = float(LEFT), 0, []
    for k, name in enumerate(names):
        room = 26 + WIDE_EM * len(clean(name)) + 10
        if x + room > LEFT + WIDTH and x > LEFT:
            x, line = float(LEFT), line + 1
        color = COLORS[(colors[k] if colors else k) % len(COLORS)]
        y = TOP + HEIGHT + 21 + LINE * (line + 2)
        legend.append(
            f'<path d="M{x:.1f} {y - 4}h18" stroke="{color}" stroke-width="3"/>'
            f'<text x="{x + 24:.1f}" y="{y}">{escape(name)}</text>'
        )
        x += room
    height = TOP + HEIGHT + 27 + LINE * (1 + (line + 1 if names else 0))
    head = f'<svg {PLOT} viewBox="0 0 {LEFT + WIDTH + 20} {height}" width="{LEFT + WIDTH + 20}">'
    return "".join([head, *body, *legend]) + "</svg>"
