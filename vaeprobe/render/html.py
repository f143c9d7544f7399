"""A result as self-contained HTML: a page for a file, a fragment for a notebook.  No scripts, no links."""

from __future__ import annotations

from collections.abc import Sequence

from vaeprobe.render.charts import PLOT_STYLE, bars_svg, curves_svg, escape, heatmap_svg, histogram_svg
from vaeprobe.render.text import inert, interval, measured, number, verdict_words
from vaeprobe.report import Bars, Curves, Heatmap, Histogram, Metric, Page, Section, Svg, Table, Value

STYLE = """
.vaeprobe { font: 14px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 60rem; }
.vaeprobe h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
.vaeprobe h2 { font-size: 1.05rem; margin: 1.75rem 0 .4rem; }
.vaeprobe .dim, .vaeprobe small { color: #656d76; }
.vaeprobe .verdict { font-weight: 650; font-size: 1.1rem; margin: .75rem 0 .25rem; }
.vaeprobe .summary { max-width: 46rem; margin: 0 0 1rem; }
.vaeprobe table { border-collapse: collapse; margin: .25rem 0; display: block; max-width: 100%; overflow-x: auto; }
@media (max-width: 50rem) { .vaeprobe .id { display: none; } }
.vaeprobe th { text-align: left; font-weight: 600; color: #656d76; }
.vaeprobe th, .vaeprobe td { padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #d8dee4; vertical-align: top; }
.vaeprobe td.n { text-align: right; font-variant-numeric: tabular-nums; }
.vaeprobe .pass { color: #1a7f37; } .vaeprobe .fail { color: #cf222e; font-weight: 600; }
.vaeprobe .inconclusive, .vaeprobe .undefined { color: #9a6700; }
.vaeprobe svg { max-width: 100%; height: auto; display: block; }
.vaeprobe svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
.vaeprobe figure { margin: 0; }
.vaeprobe code { font-size: .85em; }
@media (prefers-color-scheme: dark) {
  .vaeprobe { color: #e6edf3; } body { background: #0d1117; }
  .vaeprobe th, .vaeprobe td { border-color: #30363d; }
  .vaeprobe .dim, .vaeprobe small, .vaeprobe th { color: #8d96a0; }
}
@media print { .vaeprobe { color: #000; } }
"""


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
    parts = [f'<style>{STYLE}{PLOT_STYLE}</style><article class="vaeprobe">', _headline(page)]
    if page.checks:
        parts.append("<h2>Checks</h2><table>")
        for check in page.checks:
            bound = "≤" if check.side == "max" else "≥"
            parts.append(
                f'<tr><td class="{check.status}">{check.status}</td><td>{escape(check.metric.id)}</td>'
                f'<td class="n">{escape(number(measured(check.metric)))}</td><td>{bound} {number(check.limit)}</td></tr>'
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
    rows = "".join(_number(m) for m in page.metrics.values() if not isinstance(m.value, (list, dict)))
    if rows:
        parts.append(_table(["metric", "value", "95 % interval", "unit"], rows))
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
        lines.append(f'<div class="verdict">{escape(verdict_words(page))}</div>')
    if page.summary:
        lines.append(f'<p class="summary">{escape(page.summary)}</p>')
    return "\n".join(lines)


def _number(metric: Metric) -> str:
    """Return the row of a number: its name, and its id where there is room."""
    name = f'<td>{escape(metric.title)} <small class="id">{escape(metric.id)}</small></td>'
    if metric.value is None:
        return f'<tr>{name}<td class="n undefined">undefined</td><td colspan="2" class="dim">{escape(metric.reason)}</td></tr>'
    among = metric.method if (metric.method or "").startswith("of ") else ""  # what a count is a part of
    return f"<tr>{name}{_cell(measured(metric))}{_cell(interval(metric.ci))}{_cell(metric.unit or metric.remark or among)}</tr>"


def _grid(columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    return _table(columns, "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows))


def _table(columns: Sequence[str], body: str) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
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
        case Histogram():
            body, note = histogram_svg(section), section.note
        case Svg():
            body, note = section.svg, section.note
    title = f"<h2>{escape(section.title)}</h2>"
    body = f"<figure>{body}</figure>" if "<svg" in body else body
    return title + body + (f'<div class="dim">{escape(note)}</div>' if note else "")
