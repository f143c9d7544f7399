"""SARIF 2.1.0, for code-scanning dashboards."""

from __future__ import annotations

import os
from urllib.parse import quote

from vaeprobe._version import __version__
from vaeprobe.gate.formats.paths import from_root
from vaeprobe.gate.outcome import GateReport, ModelReport, Outcome
from vaeprobe.render import json_document
from vaeprobe.render.text import clean
from vaeprobe.report import Json, MetricSpec

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
KIND = {"fail": "fail", "inconclusive": "open", "undefined": "open", "pass": "pass"}


def render(report: GateReport) -> str:
    results = [r for model in report.models for r in _results(model)]
    specs = {o.metric.id: o.metric.spec for model in report.models for o in model.outcomes}
    ids = sorted({r["ruleId"] for r in results})
    for result in results:
        result["ruleIndex"] = ids.index(result["ruleId"])
    run: Json = {
        "tool": {
            "driver": {
                "name": "vaeprobe",
                "version": __version__,
                "rules": [_rule(id, specs.get(id)) for id in ids],
            }
        },
        "columnKind": "utf16CodeUnits",
        "results": results,
        "invocations": [
            {
                "executionSuccessful": report.exit_code in (0, 1, 3),
                "exitCode": report.exit_code,
            }
        ],
    }
    return json_document.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def _rule(id: str, spec: MetricSpec | None) -> Json:
    title = spec.title if spec else id
    help_text = " ".join(t for t in (spec.meaning, spec.remedy) if t) if spec else ""
    return {
        "id": id,
        "shortDescription": {"text": title},
        "help": {"text": help_text or title},
    }


def _results(model: ModelReport) -> list[Json]:
    if model.failure is not None:
        return [_result(f"vaeprobe.{model.failure.code}", "error", "fail", model.failure.message, model)]
    return [
        _result(o.rule.metric, _level(o), KIND[o.status], o.message, model, o)
        for o in model.outcomes
        if o.status != "pass"
    ]


def _level(outcome: Outcome) -> str:
    # SARIF allows a level other than "none" only for results of kind "fail"
    if outcome.status != "fail":
        return "none"
    return "note" if outcome.waiver else outcome.rule.level


def _result(
    rule: str, level: str, kind: str, message: str, model: ModelReport, outcome: Outcome | None = None
) -> Json:
    uri = quote(os.fsencode(from_root(model.model)))  # a path need not be valid Unicode
    out: Json = {
        "ruleId": rule,
        "level": level,
        "kind": kind,
        "message": {"text": clean(message)},
        # a model has no lines, and dashboards want one
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}],
        "partialFingerprints": {"vaeprobe/v1": f"{model.name_of(outcome) if outcome else rule}:{uri}"},
    }
    if outcome is not None and outcome.waiver is not None:
        out["suppressions"] = [{"kind": "external", "justification": clean(outcome.waiver.reason)}]
    return out
