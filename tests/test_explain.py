"""Everything that vaeprobe can say has a page: metrics, findings, errors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from vaeprobe import errors, explain, findings
from vaeprobe.errors import VaeprobeError
from vaeprobe.findings import FINDINGS
from vaeprobe.report import Finding

PACKAGE = Path(errors.__file__).parent
NAMES = {name for name, value in vars(findings).items() if isinstance(value, findings.FindingSpec)}


def used() -> set[str]:
    """Names of findings that the package makes."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "findings.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in NAMES}
    return found


def test_no_finding_is_left_over() -> None:
    assert NAMES - used() == set()


def test_findings_are_listed_by_their_code() -> None:
    assert len(FINDINGS) == len(NAMES) > 40
    assert all(code == spec.code and spec.meaning and spec.remedy for code, spec in FINDINGS.items())


def test_a_finding_weighs_what_its_kind_does_unless_it_says_so() -> None:
    assert Finding(findings.SATURATED, "x").level == findings.SATURATED.level == "note"
    assert Finding(findings.SATURATED, "x", level="warning").level == "warning"
    again = Finding(findings.SATURATED, "x", hint="y", level="warning")
    assert Finding.from_dict(again.to_dict()) == again


def test_every_error_says_what_it_means() -> None:
    import vaeprobe.checkpoints.loading  # noqa: F401  (would define an error of its own)

    def all_of(cls: type[VaeprobeError]) -> set[type[VaeprobeError]]:
        return {cls}.union(*(all_of(sub) for sub in cls.__subclasses__()))

    assert {cls.code for cls in all_of(VaeprobeError)} == set(errors.ERRORS)
    assert all("meaning" in vars(cls) and "remedy" in vars(cls) for cls in errors.ERRORS.values())


@pytest.mark.parametrize("code", sorted(explain.codes()))
def test_pages_fit_a_terminal(code: str) -> None:
    page = explain.of_code(code)
    assert max(map(len, page.splitlines())) <= 80
    assert "what to do" in page
