"""GitHub annotations: the ten worst outcomes as workflow commands (GitHub shows no more of a step)."""

from __future__ import annotations

from vaeprobe.gate.formats.paths import from_root
from vaeprobe.gate.outcome import GateReport
from vaeprobe.render.text import clean

MOST = 10
ORDER = {"error": 0, "warning": 1, "notice": 2}


def render(report: GateReport) -> str:
    found: list[tuple[str, str, str, str]] = []
    for model in report.models:
        if model.failure is not None:
            found.append(("error", model.model, model.failure.code, model.failure.message))
        for outcome in model.outcomes:
            if outcome.status == "pass":
                continue
            level = "notice" if outcome.waiver else outcome.rule.level
            if outcome.status != "fail" and level == "error":
                level = "warning"  # an open question, whatever the policy counts it as
            found.append((level, model.model, outcome.rule.metric, outcome.message))
    found.sort(key=lambda item: ORDER[item[0]])
    lines = [_command(*item) for item in found[:MOST]]
    if len(found) > MOST:
        lines.append(f"vaeprobe: {len(found) - MOST} more outcomes are in the job summary")
    return "".join(line + "\n" for line in lines)


def _command(level: str, file: str, title: str, message: str) -> str:
    return f"::{level} file={_property(from_root(file))},title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    return clean(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
