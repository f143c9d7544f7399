"""A table for a pull request or a job summary."""

from __future__ import annotations

from vaeprobe.gate.formats.text import WORDS
from vaeprobe.gate.outcome import GateReport
from vaeprobe.gate.policy import FORMAT
from vaeprobe.render.markdown import STATUS_MARK, escape, grid
from vaeprobe.render.text import inert, interval, measured, number
from vaeprobe.report import Value


def render(report: GateReport) -> str:
    parts = [f"# vaeprobe check: {WORDS.get(report.exit_code, str(report.exit_code))}"]
    for model in report.models:
        parts.append(f"## {escape(model.model)}")
        if model.failure is not None:
            parts.append(
                f"**{escape(model.failure.message)}**"
                + (f" ({escape(model.failure.hint)})" if model.failure.hint else "")
            )
            continue
        rows: list[list[Value]] = [
            [
                "waived" if o.waiver else STATUS_MARK[o.status],
                o.rule.metric,
                number(None if o.rule.metric == FORMAT else measured(o.metric)),
                interval(o.metric.ci),
                o.rule.describe(),
            ]
            for o in model.outcomes
        ]
        if rows:
            parts.append(grid(["", "metric", "value", "interval", "rule"], rows))
        parts += [f"- {escape(part)}" for part in dict.fromkeys(o.part for o in model.outcomes) if part]
        parts += [
            f"- {escape(o.message)}"
            for o in model.outcomes
            if o.waiver or (o.metric.reason and o.status != "pass")
        ]
        parts += [f"- **{f.level}** {escape(f.message)}" for f in model.findings]
    return inert("\n\n".join(parts) + "\n")
