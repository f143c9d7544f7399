"""Every format of a gate report, read by something that knows nothing of how it was written.

SARIF is held against OASIS's schema (`schemas/`), our JSON against `vaeprobe schema`, JUnit against the XSD that
Jenkins reads, Markdown is read by markdown-it, GitHub's commands by the runner's rules.
"""

from __future__ import annotations

import datetime
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from xmlschema import XMLSchema

from vaeprobe.findings import INACTIVE_LATENTS
from vaeprobe.gate.formats import FORMATS, renderer, text
from vaeprobe.gate.outcome import Failure, GateReport, ModelReport, Outcome
from vaeprobe.gate.policy import Rule, Waiver, spec_of
from vaeprobe.render import schema
from vaeprobe.report import Artifact, Finding, Metric, Status

COSINE = "orthogonality.mean_abs_cosine"
HOSTILE = (
    "plain",
    "a\n::error::owned",
    "a\r\n::set-output name=x::y",
    "]]><!--",
    "<script>alert(1)</script>",
    "\x1b[31mred\x1b[0m\x07\x00",
    "\u202ereversed\u2066",
    "line\u2028para\u2029graph",
    "| pipe | `tick` [link](javascript:x) ![i](y)",
    "a,file=b::c%0A::error::d",
    "[bold red]markup[/]",
    "lone \udc80 surrogate",
)


def outcome(status: Status, *, words: str = "", waived: bool = False, level: str = "error") -> Outcome:
    waiver = Waiver(rule=COSINE, reason=words or "known", expires=datetime.date(2030, 1, 31))
    undefined = status == "undefined"
    metric = Metric(
        spec_of(COSINE),
        None if undefined else 0.25,
        ci=None if undefined else (0.2, 0.3),
        n=None if undefined else 256,
        reason=words or "there are no pairs" if undefined else None,
    )
    rule = Rule(metric=COSINE, side="max", limit=0.1, level=level)  # type: ignore[arg-type]
    return Outcome(rule=rule, metric=metric, status=status, bound=0.1, waiver=waiver if waived else None)


def model(name: str, *outcomes: Outcome, words: str = "all is well") -> ModelReport:
    artifact = Artifact(path=name, sha256="0" * 64, format="npy")
    finding = Finding(INACTIVE_LATENTS, words, hint=words)
    return ModelReport(model=name, artifact=artifact, outcomes=outcomes, findings=(finding,))


def broken(name: str, words: str = "it is damaged") -> ModelReport:
    return ModelReport(model=name, failure=Failure(code="unreadable", message=words, hint=words, exit_code=5))


def of(*models: ModelReport) -> GateReport:
    return GateReport(models=models, policy="vaeprobe.toml", policy_digest="0" * 64)


EVERYTHING = of(
    model(
        "models/a.npy",
        outcome("pass"),
        outcome("fail", level="warning"),
        outcome("fail"),
        outcome("inconclusive"),
        outcome("undefined"),
        outcome("fail", waived=True),
    ),
    broken("models/b.pt"),
    model("models/none.npy"),
)
REPORTS = {
    "everything": EVERYTHING,
    "nothing": of(),
    **{
        f"hostile {k}": of(
            model(
                words,
                outcome("undefined", words=words),
                outcome("fail", words=words, waived=True),
                words=words,
            ),
            broken(words, words),
        )
        for k, words in enumerate(HOSTILE)
    },
}
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS.keys())
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]"
)


@every_report
@pytest.mark.parametrize("format", FORMATS)
def test_nothing_invisible_is_written(format: str, report: GateReport) -> None:
    written = renderer(format)(report)
    assert not INVISIBLE.search(written)
    assert written.encode("utf-8").endswith(b"\n") or (format, report.models) == ("github", ())


def test_a_limit_and_a_regression_of_one_metric_are_told_apart() -> None:
    """By dashboards that drop what has the name or the fingerprint of another; one alone keeps its metric's name."""
    limit, regression = outcome("fail"), outcome("fail")
    regression = replace(regression, rule=Rule(metric=COSINE, side="max", regression=0.1))
    two, one = of(model("m.npy", limit, regression)), of(model("m.npy", regression))
    for report, names in ((two, [COSINE, f"{COSINE} (regression)"]), (one, [COSINE])):
        cases = ET.fromstring(renderer("junit")(report)).findall(".//testcase")
        assert [case.get("name") for case in cases] == names
        results = json.loads(renderer("sarif")(report))["runs"][0]["results"]
        assert {r["ruleId"] for r in results} == {COSINE}
        assert [r["partialFingerprints"]["vaeprobe/v1"] for r in results] == [f"{n}:m.npy" for n in names]
        assert len({issue["fingerprint"] for issue in json.loads(renderer("gitlab")(report))}) == len(names)


# -- JSON -------------------------------------------------------------------------------------------


OURS = jsonschema.Draft202012Validator(schema.document())


def valid(document: object) -> None:
    OURS.validate(document)


@every_report
def test_json_fits_our_schema(report: GateReport) -> None:
    document = json.loads(renderer("json")(report))
    valid(document)
    assert document["exit_code"] == report.exit_code
    assert [m["model"] for m in document["models"]] == [m.model for m in report.models]


@every_report
def test_every_line_of_jsonl_fits_our_schema(report: GateReport) -> None:
    lines = [json.loads(line) for line in renderer("jsonl")(report).splitlines()]
    for line in lines:
        valid(line)
    assert [line["kind"] for line in lines] == ["model"] * len(report.models) + ["run"]
    assert lines[-1]["exit_code"] == report.exit_code
    for line, one in zip(lines, report.models, strict=False):
        assert ModelReport.from_dict(line) == one or one.outcomes  # metrics come back without their method
        assert ModelReport.from_dict(line).to_dict() == one.to_dict()


def test_our_schema_refuses_what_is_no_document() -> None:
    document = json.loads(renderer("json")(EVERYTHING))
    for change in ({"exit_code": 9}, {"schema_version": 0}, {"extra": 1}, {"policy": None}):
        with pytest.raises(jsonschema.ValidationError):
            valid(document | change)


# -- SARIF ------------------------------------------------------------------------------------------

SARIF = jsonschema.Draft4Validator(
    json.loads((Path(__file__).parent / "schemas" / "sarif-2.1.0.json").read_text(encoding="utf-8"))
)


@every_report
def test_sarif_fits_the_schema_of_oasis(report: GateReport) -> None:
    document = json.loads(renderer("sarif")(report))
    SARIF.validate(document)
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        # 3.27.10: a level other than none needs kind fail
        assert (result["kind"] == "fail") == (result["level"] != "none")
    assert run["invocations"][0]["exitCode"] == report.exit_code


def test_sarif_says_what_a_dashboard_needs() -> None:
    (run,) = json.loads(renderer("sarif")(EVERYTHING))["runs"]
    kinds = [(r["kind"], r["level"]) for r in run["results"]]
    assert kinds == [
        ("fail", "warning"), ("fail", "error"), ("open", "none"), ("open", "none"), ("fail", "note"), ("fail", "error"),
    ]  # fmt: skip
    assert [r["suppressions"][0]["justification"] for r in run["results"] if "suppressions" in r] == ["known"]
    uri = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "models/a.npy"


def test_every_sarif_result_has_a_line() -> None:
    (run,) = json.loads(renderer("sarif")(EVERYTHING))["runs"]
    regions = [place["physicalLocation"]["region"] for r in run["results"] for place in r["locations"]]
    assert regions == [{"startLine": 1}] * 6


def test_paths_start_at_the_root_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep")
    report = of(broken("er/../er/m.pt"))
    (run,) = json.loads(renderer("sarif")(report))["runs"]
    place = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "deep/er/m.pt"
    assert "file=deep/er/m.pt," in renderer("github")(report)
    assert json.loads(renderer("gitlab")(report))[0]["location"]["path"] == "deep/er/m.pt"
    monkeypatch.chdir("/")
    (run,) = json.loads(renderer("sarif")(of(broken("m.pt"))))["runs"]
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "m.pt"


def test_sarif_paths_are_uris() -> None:
    (run,) = json.loads(renderer("sarif")(of(broken("a b/c:d%.pt"))))["runs"]
    uri = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert not set(uri) & set(" :<>\n")
    assert unquote(uri) == "a b/c:d%.pt"


# -- JUnit ------------------------------------------------------------------------------------------

JUNIT = XMLSchema(Path(__file__).parent / "schemas" / "junit-10.xsd")


@every_report
def test_junit_fits_its_schema(report: GateReport) -> None:
    written = renderer("junit")(report)
    JUNIT.validate(written)
    root = ET.fromstring(written.encode())
    suites = root.findall("testsuite")
    assert len(suites) == len(report.models)
    for suite in suites:
        counted = {
            "tests": "testcase",
            "failures": ".//failure",
            "errors": ".//error",
            "skipped": ".//skipped",
        }
        for key, path in counted.items():
            assert int(suite.get(key, "")) == len(suite.findall(path))


def test_the_junit_schema_refuses_what_is_no_report() -> None:
    for body in ("<testsuite/>", "<case/>", '<testsuite name="x" tests="-1" failures="0" errors="0"/>'):
        assert not JUNIT.is_valid(f"<testsuites>{body}</testsuites>")


def test_junit_counts() -> None:
    root = ET.fromstring(renderer("junit")(EVERYTHING).encode())
    counts = [[s.get(k) for k in ("tests", "failures", "errors", "skipped")] for s in root]
    assert counts == [["6", "1", "2", "2"], ["1", "0", "1", "0"], ["1", "0", "1", "0"]]


# -- GitHub -----------------------------------------------------------------------------------------

COMMAND = re.compile(r"::(error|warning|notice) file=([^,:\n]*),title=([^,:\n]*)::(.+)")


def decoded(data: str) -> str:
    """Decode as the runner does."""
    for code, mark in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        data = data.replace(code, mark)
    return data


@every_report
def test_github_commands_are_ours_alone(report: GateReport) -> None:
    for line in renderer("github")(report).splitlines():
        match = COMMAND.fullmatch(line)
        assert match, line
        assert decoded(match[3]) in (COSINE, "unreadable")


def test_github_shows_the_ten_worst() -> None:
    mixed = [outcome("fail", level="warning"), outcome("fail", waived=True), outcome("fail")]
    lines = renderer("github")(of(*(model(f"m{k}.npy", *mixed) for k in range(6)))).splitlines()
    levels = [line.split()[0] for line in lines]
    assert levels[:10] == ["::error"] * 6 + ["::warning"] * 4
    assert lines[10:] == ["vaeprobe: 8 more outcomes are in the job summary"]


@pytest.mark.parametrize("status", ["inconclusive", "undefined"])
def test_github_calls_an_open_question_no_error(status: Status) -> None:
    (line,) = renderer("github")(of(model("m.npy", outcome(status)))).splitlines()
    assert line.startswith("::warning ")


def test_github_decodes_to_the_path() -> None:
    (line,) = renderer("github")(of(broken("a,b:c%0A.pt", "50% of it, is: lost"))).splitlines()
    match = COMMAND.fullmatch(line)
    assert match
    assert decoded(match[2]) == "a,b:c%0A.pt"
    assert decoded(match[4]) == "50% of it, is: lost"


# -- GitLab -----------------------------------------------------------------------------------------

# https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format
GITLAB = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["description", "check_name", "fingerprint", "severity", "location"],
        "properties": {
            "description": {"type": "string", "minLength": 1},
            "check_name": {"type": "string", "minLength": 1},
            "fingerprint": {"type": "string", "minLength": 1},
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "required": ["path", "lines"],
                "properties": {
                    "path": {"type": "string", "pattern": "^(?!\\./)"},
                    "lines": {"type": "object", "required": ["begin"]},
                },
            },
        },
    },
}


@every_report
def test_gitlab_fits_its_format(report: GateReport) -> None:
    issues = json.loads(renderer("gitlab")(report))
    jsonschema.validate(issues, GITLAB)


def test_gitlab_fingerprints_tell_issues_apart() -> None:
    issues = json.loads(renderer("gitlab")(of(*(model(f"{k}.npy", outcome("fail")) for k in range(9)))))
    assert len({issue["fingerprint"] for issue in issues}) == 9


# -- Markdown ---------------------------------------------------------------------------------------


@every_report
def test_markdown_renders_to_inert_html(report: GateReport) -> None:
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(renderer("markdown")(report))
    tags = {tag.lower() for tag in re.findall(r"<\s*/?\s*([a-zA-Z!][a-zA-Z0-9]*)", page)}
    assert tags <= {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "strong"}
    assert page.count("<h2>") == len(report.models)
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        rows = [len(re.findall(r"<t[hd]", row)) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]
        assert set(rows) == {5}


# -- text -------------------------------------------------------------------------------------------


@every_report
@pytest.mark.parametrize("width", [40, 80])
def test_text_fits_the_terminal(width: int, report: GateReport) -> None:
    stream = io.StringIO()
    text.show(report, Console(file=stream, width=width, color_system=None, highlight=False))
    lines = stream.getvalue().splitlines()
    for line in lines:
        headline = any(line.startswith(text.clean(m.model)) for m in report.models)
        assert len(line) <= width or headline  # a path is never broken
        assert line == line.rstrip()
    assert " ".join(lines).endswith(f"(exit code {report.exit_code})")


def test_text_reads_well() -> None:
    assert text.render(EVERYTHING).splitlines()[:4] == [
        "models/a.npy  failed",
        "  pass          orthogonality.mean_abs_cosine is 0.25 [0.2, 0.3], rule: at most 0.1",
        "  warning       orthogonality.mean_abs_cosine is 0.25 [0.2, 0.3], rule: at most 0.1",
        "  fail          orthogonality.mean_abs_cosine is 0.25 [0.2, 0.3], rule: at most 0.1",
    ]
    assert text.render(EVERYTHING).splitlines()[-1] == "1 unreadable, 1 failed, 1 inconclusive (exit code 5)"
