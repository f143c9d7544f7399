"""JUnit XML: a suite per model, a test case per rule; waived failures and warnings are skipped cases."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from vaeprobe.gate.outcome import GateReport, ModelReport, Outcome
from vaeprobe.render.text import clean

BAD = {"fail": "failures", "inconclusive": "errors", "undefined": "errors"}


def render(report: GateReport) -> str:
    root = ET.Element("testsuites")
    for model in report.models:
        root.append(_suite(model))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(model: ModelReport) -> ET.Element:
    suite = ET.Element("testsuite", name=clean(model.model))
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for outcome in model.outcomes:
        counts["tests"] += 1
        counts[_add(suite, model, outcome)] += 1 if outcome.status != "pass" else 0
    if model.failure is not None or not model.outcomes:
        counts["tests"] += 1
        counts["errors"] += 1
        case = ET.SubElement(suite, "testcase", classname=clean(model.model), name="load")
        message = model.failure.message if model.failure else "no rule applies to this model"
        kind = model.failure.code if model.failure else "nothing-checked"
        error = ET.SubElement(case, "error", message=clean(message), type=kind)
        error.text = clean(model.failure.hint) if model.failure and model.failure.hint else None
    for key, count in counts.items():
        suite.set(key, str(count))
    return suite


def _add(suite: ET.Element, model: ModelReport, outcome: Outcome) -> str:
    """Add a case and return which count it belongs to."""
    case = ET.SubElement(suite, "testcase", classname=clean(model.model), name=model.name_of(outcome))
    message = clean(outcome.message)
    if outcome.status == "pass":
        return "tests"
    if not outcome.counts or (outcome.status != "fail" and model.inconclusive != "error"):
        ET.SubElement(case, "skipped", message=message)
        return "skipped"
    if outcome.status == "fail":
        ET.SubElement(case, "failure", message=message, type="limit")
    else:
        ET.SubElement(case, "error", message=message, type=outcome.status)
    return BAD[outcome.status]
