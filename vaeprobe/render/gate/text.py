"""What a person reads in a log: one line per rule, worst model first in the closing line."""

from __future__ import annotations

import io
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.text import Text

from vaeprobe.gate.outcome import GateReport, ModelReport, Outcome
from vaeprobe.render.terminal import STATUS_STYLE, finding_line
from vaeprobe.render.text import clean

WORDS = {
    0: "passed",
    1: "failed",
    2: "usage error",
    3: "inconclusive",
    4: "refused as unsafe",
    5: "unreadable",
    6: "out of resources",
    70: "bug",
}
EXIT_STYLE = {0: "bold green", 1: "bold red", 3: "bold yellow"}


def render(report: GateReport) -> str:
    stream = io.StringIO()
    show(
        report, Console(file=stream, width=100, highlight=False, markup=False, emoji=False, color_system=None)
    )
    return stream.getvalue()


def show(report: GateReport, console: Console | IO[str], quiet: bool = False) -> None:
    """Print a report on a console."""
    target = console if isinstance(console, Console) else Console(file=console)
    for model in report.models:
        target.print(model_page(model, quiet))
    counts: dict[int, int] = {}
    for model in report.models:
        counts[model.exit_code] = counts.get(model.exit_code, 0) + 1
    parts = [f"{n} {WORDS.get(code, str(code))}" for code, n in sorted(counts.items(), key=lambda kv: -kv[0])]
    code = report.exit_code
    line = ", ".join(parts) if parts else "nothing was checked"
    target.print(Text(f"{line} (exit code {code})", style=EXIT_STYLE.get(code, "bold red")))


def model_page(model: ModelReport, quiet: bool = False) -> RenderableType:
    """Return one model's lines."""
    code = model.exit_code
    lines: list[RenderableType] = [
        Text.assemble(
            (clean(model.model), "bold"), "  ", (WORDS.get(code, str(code)), EXIT_STYLE.get(code, "bold red"))
        )
    ]
    if model.failure is not None:
        lines.append(Text(f"  error: {clean(model.failure.message)}", style="red"))
        if model.failure.hint:
            lines.append(Text(f"  hint: {clean(model.failure.hint)}", style="dim"))
    for outcome in model.outcomes:
        if quiet and outcome.status == "pass":
            continue
        lines.append(outcome_line(outcome))
    if not quiet:
        lines += [Text("  ").append_text(finding_line(f)) for f in model.findings]
    return Group(*lines)


def outcome_line(outcome: Outcome) -> Text:
    """Return one rule's line."""
    word: str = "waived" if outcome.waiver else outcome.status
    if outcome.rule.level == "warning" and outcome.status == "fail":
        word = "warning"
    style = "dim" if outcome.waiver else STATUS_STYLE[outcome.status]
    return Text.assemble("  ", (word.ljust(13), style), clean(outcome.message))
