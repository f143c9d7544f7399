"""A result as GitHub-flavoured Markdown, for job summaries and pull requests."""

from __future__ import annotations

from collections.abc import Sequence

from vaeprobe.render.text import clean, inert, interval, measured, number, verdict_words
from vaeprobe.report import Bars, Heatmap, Histogram, Page, Table, Value

STATUS_MARK = {
    "pass": "✅ pass",
    "fail": "❌ fail",
    "inconclusive": "⚠️ inconclusive",
    "undefined": "⚠️ undefined",
}


def escape(text: object) -> str:
    """Return text that Markdown and the HTML inside it leave alone."""
    out = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]|#":
        out = out.replace(mark, f"\\{mark}")
    return out


def grid(columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """Return a table."""
    head = "| " + " | ".join(escape(c) for c in columns) + " |"
    rule = "|" + " --- |" * len(columns)
    body = ["| " + " | ".join(escape(number(cell)) for cell in row) + " |" for row in rows]
    return "\n".join([head, rule, *body])


def render(page: Page) -> str:
    """Return the document of one page."""
    parts = [f"# vaeprobe {page.command}" + (f": {escape(page.artifact.path)}" if page.artifact else "")]
    if page.artifact and page.artifact.maps:
        parts.append(escape(page.artifact.maps))
    if page.verdict:
        parts.append(f"**{escape(verdict_words(page))}**")
    if page.summary:
        parts.append(escape(page.summary))
    if page.checks:
        checks: list[list[Value]] = [
            [STATUS_MARK[c.status], c.metric.id, measured(c.metric), f"{c.side} {number(c.limit)}"]
            for c in page.checks
        ]
        parts.append("## Checks\n\n" + grid(["", "metric", "value", "limit"], checks))
    parts += [
        f"- **{f.level}** {escape(f.message)}" + (f" ({escape(f.hint)})" if f.hint else "")
        for f in page.findings
    ]
    rows: list[list[Value]] = [
        [
            m.id,
            measured(m) if m.value is not None else f"undefined: {m.reason}",
            interval(m.ci),
            m.unit or m.remark,
        ]
        for m in page.metrics.values()
    ]
    parts.append(grid(["metric", "value", "95 % interval", "unit"], rows))
    for section in page.sections:
        match section:
            case Table():
                parts.append(f"## {escape(section.title)}\n\n" + grid(section.columns, section.rows))
            case Heatmap():
                section = section.shown()
                cells: list[list[Value]] = [
                    [label, *row] for label, row in zip(section.row_labels, section.matrix, strict=True)
                ]
                parts.append(f"## {escape(section.title)}\n\n" + grid(["", *section.column_labels], cells))
            case Bars():
                bars: list[list[Value]] = [
                    list(pair) for pair in zip(section.labels, section.values, strict=True)
                ]
                parts.append(f"## {escape(section.title)}\n\n" + grid(["", "value"], bars))
            case Histogram():
                marks: list[list[Value]] = [[name, value] for name, value in section.marks.items()]
                parts.append(
                    f"## {escape(section.title)}\n\n"
                    + grid(["", section.x_label], [*marks, *section.spread()])
                )
            case _:
                continue
        if section.note:
            parts.append(escape(section.note))
    return inert("\n\n".join(parts) + "\n")
