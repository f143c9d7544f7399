"""One JSON line per model, in the order they finished, then one line for the run."""

from __future__ import annotations

from vaeprobe.gate.outcome import GateReport, ModelReport
from vaeprobe.render import json_document
from vaeprobe.report import SCHEMA_VERSION


def model_line(model: ModelReport) -> str:
    """Return the line of one model."""
    head = {"schema_version": SCHEMA_VERSION, "kind": "model"}
    return json_document.dumps({**head, **model.to_dict()}, indent=None)


def end_line(report: GateReport) -> str:
    """Return the last line."""
    head = {**json_document.header(), "schema_version": SCHEMA_VERSION, "kind": "run"}
    counts = {"models": len(report.models), "exit_code": report.exit_code}
    return json_document.dumps({**head, **counts}, indent=None)


def render(report: GateReport) -> str:
    return "".join(map(model_line, report.models)) + end_line(report)
