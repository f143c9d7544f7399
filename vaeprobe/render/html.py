"""A result as self-contained HTML: a page for a file, a fragment for a notebook.  No scripts, no links."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape as _escape

from vaeprobe.render.text import clean, inert, interval, number
from vaeprobe.report import Bars, Curves, Heatmap, Page, Section, Svg, Table, Value

STYLE = """
.vaeprobe { font: 14px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 60rem; }
.vaeprobe h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
.vaeprobe h2 { font-size: 1.05rem; margin: 1.75rem 0 .4rem; }
.vaeprobe .dim, .vaeprobe small { color: #656d76; }
.vaeprobe .verdict { font-weight: 650; font-size: 1.1rem; margin: .75rem 0 .25rem; }
.vaeprobe .summary { max-width: 46rem; margin: 0 0 1rem; }
.vaeprobe table { border-collapse: collapse; margin: .25rem 0; }
.vaeprobe th { text-align: left; font-weight: 600; color: #656d76; }
.vaeprobe th, .vaeprobe td { padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #d8dee4; vertical-align: top; }
.vaeprobe td.n { text-align: right; font-variant-numeric: tabular-nums; }
.vaeprobe .pass { color: #1a7f37; } .vaeprobe .fail { color: #cf222e; font-weight: 600; }
.vaeprobe .inconclusive, .vaeprobe .undefined { color: #9a6700; }
.vaeprobe svg { max-width: 100%; height: auto; display: block; }
.vaeprobe svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
.vaeprobe code { font-size: .85em; }
@media (prefers-color-scheme: dark) {
  .vaeprobe { color: #e6edf3; } body { background: #0d1117; }
  .vaeprobe th, .vaeprobe td { border-color: #30363d; }
  .vaeprobe .dim, .vaeprobe small, .vaeprobe th { color: #8d96a0; }
}
@media print { .vaeprobe { color: #000; } }
"""
LEGEND = 4  # names of curves in a line
COLORS = ("#0969da", "#bf3989", "#9a6700", "#1a7f37", "#cf222e", "#6639ba", "#57606a")


def escape(text: object) -> str:
    """Return text that is inert in HTML."""
    return _escape(clean(text), quote=True)


def render(page: Page) -> str:
    """Return a whole HTML document."""
    title = f"vaeprobe {page.command}" + (f": {page.artifact.path}" if page.artifact else "")
    return inert(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">\n'
        f"<title>{escape(title)}</title>\n<style>body {{ margin: 2rem auto; padding: 0 1rem; max-width: 62rem; }}"
        f"</style>\n</head>\n<body>\n{fragment(page)}\n</body>\n</html>\n"
    )


def fragment(page: Page) -> str:
    """Return what a notebook shows."""
    parts = [f'<style>{STYLE}</style><article class="vaeprobe">', _headline(page)]
    if page.checks:
        parts.append("<h2>Checks</h2><table>")
        for check in page.checks:
            bound = "≤" if check.side == "max" else "≥"
            parts.append(
                f'<tr><td class="{check.status}">{check.status}</td><td>{escape(check.metric.id)}</td>'
                f'<td class="n">{escape(number(check.metric.value))}</td><td>{bound} {number(check.limit)}</td></tr>'
            )
        parts.append("</table>")
    if page.findings:
        items = "".join(
            f"<li><strong>{f.level}</strong> {escape(f.message)}"
            + (f" <small>{escape(f.hint)}</small>" if f.hint else "")
            + "</li>"
            for f in page.findings
        )
        parts.append(f"<h2>Findings</h2><ul>{items}</ul>")
    rows = [
        [
            f"{m.id}",
            m.value if m.value is not None else f"undefined: {m.reason}",
            interval(m.ci),
            m.unit,
        ]
        for m in page.metrics.values()
        if not isinstance(m.value, (list, dict))
    ]
    if rows:
        parts.append(_grid(["metric", "value", "95 % interval", "unit"], rows))
    parts += [_section(s) for s in page.sections]
    parts.append("</article>")
    return "\n".join(parts)


def _headline(page: Page) -> str:
    lines = [f"<h1>vaeprobe {escape(page.command)}</h1>"]
    if page.artifact is not None:
        a = page.artifact
        facts = [a.path, a.maps, a.format, a.architecture, f"sha256 {a.sha256[:12]}" if a.sha256 else ""]
        lines.append(f'<div class="dim">{" · ".join(escape(f) for f in facts if f)}</div>')
    if page.verdict:
        lines.append(f'<div class="verdict">{escape(page.verdict)}</div>')
    if page.summary:
        lines.append(f'<p class="summary">{escape(page.summary)}</p>')
    return "\n".join(lines)


def _grid(columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Value) -> str:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"<td{' class=n' if numeric else ''}>{escape(number(value))}</td>"


def _section(section: Section) -> str:
    match section:
        case Table():
            body, note = _grid(section.columns, section.rows), section.note
        case Heatmap():
            section = section.shown()
            body, note = heatmap_svg(section), section.note
        case Bars():
            body, note = bars_svg(section), section.note
        case Curves():
            body, note = curves_svg(section), section.note
        case Svg():
            body, note = section.svg, section.note
    title = f"<h2>{escape(section.title)}</h2>"
    return title + body + (f'<div class="dim">{escape(note)}</div>' if note else "")


def heatmap_svg(section: Heatmap) -> str:
    """Return a heat map as SVG; every cell carries its value as a tooltip."""
    rows, columns = len(section.matrix), len(section.column_labels)
    size = max(8, min(36, 640 // max(columns, 1)))
    gutter = 8 + 7 * max((len(clean(s)) for s in section.row_labels), default=0)
    span = (section.high - section.low) or 1.0
    out = [
        f'<svg viewBox="0 0 {gutter + size * columns} {20 + size * rows}" width="{gutter + size * columns}">'
    ]
    for j, label in enumerate(section.column_labels):
        if size >= 16:
            out.append(
                f'<text x="{gutter + size * (j + 0.5):g}" y="12" text-anchor="middle">{escape(label)}</text>'
            )
    for i, row in enumerate(section.matrix):
        if size >= 12:
            out.append(
                f'<text x="{gutter - 6}" y="{20 + size * (i + 0.5) + 4:g}" text-anchor="end">'
                f"{escape(section.row_labels[i])}</text>"
            )
        for j, value in enumerate(row):
            known = value is not None and math.isfinite(value)
            share = min(max(((value or 0.0) - section.low) / span, 0.0), 1.0) if known else 0.0
            fill = f"rgb({round(246 - 40 * share)},{round(248 - 190 * share)},{round(250 - 196 * share)})"
            x, y = gutter + size * j, 20 + size * i
            out.append(
                f'<rect x="{x}" y="{y}" width="{size - 1}" height="{size - 1}" fill="{fill if known else "none"}" '
                f'stroke="{"none" if known else "#d8dee4"}"><title>{escape(number(value))}</title></rect>'
            )
            if known and size >= 30:
                ink = "#fff" if share > 0.55 else "#1f2328"
                out.append(
                    f'<text x="{x + size / 2:g}" y="{y + size / 2 + 4:g}" text-anchor="middle" '
                    f'style="fill:{ink};font-size:10px">{escape(number(value, 2))}</text>'
                )
    return "".join(out) + "</svg>"


def bars_svg(section: Bars) -> str:
    """Return horizontal bars as SVG."""
    known = [abs(v) for v in section.values if v is not None]
    top = max([*known, abs(section.mark or 0.0)], default=0.0) or 1.0
    gutter, width, height = 8 + 7 * max((len(clean(s)) for s in section.labels), default=0), 420, 18
    total = height * len(section.values) + 18
    out = [f'<svg viewBox="0 0 {gutter + width + 90} {total}" width="{gutter + width + 90}">']
    for k, (label, value) in enumerate(zip(section.labels, section.values, strict=True)):
        y, length = height * k, (abs(value) / top * width if value is not None else 0.0)
        out.append(f'<text x="{gutter - 6}" y="{y + 12}" text-anchor="end">{escape(label)}</text>')
        out.append(
            f'<rect x="{gutter}" y="{y + 2}" width="{length:.2f}" height="{height - 5}" fill="{COLORS[0]}"/>'
        )
        out.append(f'<text x="{gutter + length + 5:.1f}" y="{y + 12}">{escape(number(value))}</text>')
    if section.mark is not None:
        x = gutter + abs(section.mark) / top * width
        out.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{total - 16}" stroke="{COLORS[4]}" stroke-dasharray="4 3"/>'
            f'<text x="{gutter}" y="{total - 3}">┆ {escape(section.mark_label)} '
            f"{escape(number(section.mark))}</text>"
        )
    return "".join(out) + "</svg>"


def curves_svg(section: Curves) -> str:
    """Return lines over a shared axis as SVG."""
    points = [y for ys in section.ys.values() for y in ys if y is not None and math.isfinite(y)]
    if not points or len(section.x) < 2:
        return "<p>nothing to draw</p>"
    low, high = min(points), max(points)
    x0, x1 = float(min(section.x)), float(max(section.x))
    left, width, height = 70, 560, 220

    def place(x: float, y: float) -> str:
        across = (x - x0) / ((x1 - x0) or 1.0) * width + left
        return f"{across:.1f},{10 + (high - y) / ((high - low) or 1.0) * height:.1f}"

    legend = 18 * (1 + (len(section.ys) - 1) // LEGEND)
    out = [f'<svg viewBox="0 0 {left + width + 20} {height + 42 + legend}" width="{left + width + 20}">']
    out.append(
        f'<path d="M{left} 10V{height + 10}H{left + width}" fill="none" stroke="#8c959f"/>'
        f'<text x="{left - 6}" y="18" text-anchor="end">{escape(number(high))}</text>'
        f'<text x="{left - 6}" y="{height + 10}" text-anchor="end">{escape(number(low))}</text>'
        f'<text x="{left}" y="{height + 26}">{escape(number(x0))}</text>'
        f'<text x="{left + width}" y="{height + 26}" text-anchor="end">{escape(number(x1))}</text>'
        f'<text x="{left + width / 2}" y="{height + 26}" text-anchor="middle">{escape(section.x_label)}</text>'
    )
    for k, (name, ys) in enumerate(section.ys.items()):
        color = COLORS[k % len(COLORS)]
        run: list[str] = []
        for x, y in [*zip(section.x, ys, strict=True), (0.0, None)]:
            if y is not None and math.isfinite(y):
                run.append(place(float(x), y))
                continue
            if run:
                out.append(
                    f'<polyline points="{" ".join(run)}" fill="none" stroke="{color}" stroke-width="1.6"/>'
                )
            run = []
        out.append(
            f'<text x="{left + 8 + width // LEGEND * (k % LEGEND)}" y="{height + 44 + 18 * (k // LEGEND)}" '
            f'style="fill:{color}">{escape(name)}</text>'
        )
    return "".join(out) + "</svg>"
