"""GitLab code quality (the Code Climate subset that GitLab reads)."""

from __future__ import annotations

import hashlib
import json
import os

from vaeprobe.gate.formats.paths import from_root
from vaeprobe.gate.outcome import GateReport
from vaeprobe.render.text import clean


def render(report: GateReport) -> str:
    issues = []
    for model in report.models:
        if model.failure is not None:
            issues.append(_issue(model.model, model.failure.code, model.failure.message, "blocker"))
        for outcome in model.outcomes:
            if outcome.status == "pass":
                continue
            severity = (
                "info"
                if outcome.waiver
                else "major"
                if outcome.status == "fail" and outcome.rule.level == "error"
                else "minor"
            )
            issues.append(_issue(model.model, model.name_of(outcome), outcome.message, severity))
    return json.dumps(issues, indent=2) + "\n"


def _issue(model: str, check: str, message: str, severity: str) -> dict[str, object]:
    path = from_root(model)
    return {
        "description": clean(message),
        "check_name": check,
        "fingerprint": hashlib.sha256(os.fsencode(f"{check}\0{path}")).hexdigest(),
        "severity": severity,
        "location": {"path": clean(path), "lines": {"begin": 1}},
    }
