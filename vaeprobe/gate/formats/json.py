"""One JSON document."""

from __future__ import annotations

from vaeprobe.gate.outcome import GateReport
from vaeprobe.render import json_document


def render(report: GateReport) -> str:
    return json_document.dumps({**json_document.header(), **report.to_dict()})
