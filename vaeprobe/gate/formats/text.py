"""What a person reads in a log: a few lines per rule, and what the run comes to in the last."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from vaeprobe.gate.outcome import WORST_FIRST, GateReport, ModelReport, Outcome
from vaeprobe.render.terminal import LEVEL_STYLE, STATUS_STYLE
from vaeprobe.render.text import clean, inert
from vaeprobe.report import Finding

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
    plain = Console(file=stream, width=100, highlight=False, markup=False, emoji=False, color_system=None)
    show(report, plain)
    return inert(stream.getvalue())


def show(report: GateReport, console: Console, quiet: bool = False) -> None:
    """Print a report on a console; with `quiet`, only what does not pass."""
    for model in report.models:
        word = (WORDS[model.exit_code], EXIT_STYLE.get(model.exit_code, "bold red"))
        console.print(Text.assemble((clean(model.model), "bold"), "  ", word), soft_wrap=True)
        for head, body in _rows(model, quiet):
            for line in _hanging(console, head, body):
                console.print(line, soft_wrap=True)
    counts = Counter(model.exit_code for model in report.models)
    parts = [f"{counts[code]} {WORDS[code]}" for code in WORST_FIRST if code in counts]
    code = report.exit_code
    closing = f"{', '.join(parts) or 'nothing was checked'} (exit code {code})"
    for line in _wrapped(console, Text(closing, EXIT_STYLE.get(code, "bold red"))):
        console.print(line, soft_wrap=True)


def _rows(model: ModelReport, quiet: bool) -> Iterator[tuple[Text, Text]]:
    """Yield a model's lines, each as a word and what it says."""
    if model.failure is not None:
        yield Text("error:", "bold red"), Text(clean(model.failure.message))
        if model.failure.hint:
            yield Text("hint:", "dim"), Text(clean(model.failure.hint), "dim")
    outcomes = [o for o in model.outcomes if not (quiet and o.status == "pass")]
    width = max((len(_word(o)) for o in outcomes), default=0)
    for outcome in outcomes:
        style = "dim" if outcome.waiver else STATUS_STYLE[outcome.status]
        yield Text(_word(outcome).ljust(width), style), Text(clean(outcome.message))
    for finding in () if quiet else model.findings:
        yield Text(f"{finding.level}:", LEVEL_STYLE[finding.level]), _said(finding)
        if finding.hint:
            yield Text("hint:", "dim"), Text(clean(finding.hint), "dim")


def _said(finding: Finding) -> Text:
    return Text.assemble(clean(finding.message), (f" ({clean(finding.code)})", "dim"))


def _word(outcome: Outcome) -> str:
    if outcome.waiver:
        return "waived"
    return "warning" if outcome.rule.level == "warning" and outcome.status == "fail" else outcome.status


def _wrapped(console: Console, body: Text, indent: int = 0) -> Iterator[Text]:
    for line in body.wrap(console, max(console.width - indent, 16)):
        line.rstrip()
        yield line


def _hanging(console: Console, head: Text, body: Text) -> Iterator[Text]:
    """Yield lines of the console's width, those after the first indented to where the text begins."""
    indent = len(head) + 4
    for k, line in enumerate(_wrapped(console, body, indent)):
        yield Text.assemble("  ", head, "  ", line) if k == 0 else Text.assemble(" " * indent, line)
