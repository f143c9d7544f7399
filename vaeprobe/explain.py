"""What numbers, findings and errors mean, as text: `vaeprobe explain` and the README's table of metrics."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from vaeprobe.errors import ERRORS
from vaeprobe.findings import FINDINGS
from vaeprobe.report import MetricSpec


def codes() -> dict[str, tuple[str, str]]:
    """Return the meaning and the remedy of every code of a finding or an error."""
    errors = {code: (cls.meaning, cls.remedy) for code, cls in ERRORS.items()}
    return errors | {code: (spec.meaning, spec.remedy) for code, spec in FINDINGS.items()}


def _wrap(text: str, indent: str = "  ") -> str:
    return textwrap.fill(" ".join(text.split()), width=79, initial_indent=indent, subsequent_indent=indent)


def of_metric(spec: MetricSpec) -> str:
    """Return the page of a metric."""
    better = {"lower": "lower is better", "higher": "higher is better", None: "descriptive"}[spec.better]
    unit = f", {spec.unit}" if spec.unit else ""
    parts = [f"{spec.id}: {spec.title} ({better}{unit})"]
    fields = {
        "formula": spec.formula,
        "range": spec.range,
        "source": spec.source,
        "how to read it": spec.meaning,
        "how it misleads": spec.misleads,
        "what to do": spec.remedy,
        "limit on the command line": spec.option or "",
    }
    parts += [f"{name}\n{_wrap(text)}" for name, text in fields.items() if text]
    return "\n\n".join(parts) + "\n"


def of_code(name: str) -> str:
    """Return the page of a finding or error code."""
    meaning, remedy = codes()[name]
    return f"{name}\n\n{_wrap(meaning)}\n\nwhat to do\n{_wrap(remedy)}\n"


def index(specs: Mapping[str, MetricSpec]) -> str:
    """Return the list of everything that can be explained."""
    width = max(len(name) for name in [*specs, *codes()])
    metrics = [f"  {id.ljust(width)}  {spec.title}" for id, spec in specs.items()]
    others = [
        f"  {name.ljust(width)}  {textwrap.shorten(meaning, 60, placeholder=' …')}"
        for name, (meaning, _) in sorted(codes().items())
    ]
    return "\n".join(["metrics", *metrics, "", "findings and errors", *others]) + "\n"


def markdown_table(specs: Mapping[str, MetricSpec]) -> str:
    """Return the README's table of metrics."""
    from vaeprobe.render.markdown import grid

    better = {"lower": "lower", "higher": "higher", None: ""}
    return grid(
        ["metric", "what it is", "range", "better", "source"],
        [[f"{s.id}", s.title, s.range, better[s.better], s.source] for s in specs.values()],
    )
