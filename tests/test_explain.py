"""Everything that vaeprobe can say has a page: metrics, findings, errors."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from vaeprobe import __version__, credit, errors, explain, findings
from vaeprobe.cli import run
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


def test_bibtex_names_the_paper_its_forerunners_and_this_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "--bibtex"]) == 0
    text = capsys.readouterr().out
    for wanted in (
        "eprint = {2410.22559}",
        "Lucas, James",
        "Kumar, Abhishek",
        "Reizinger, Patrik",
        "@software{vaeprobe,",
    ):
        assert wanted in text
    assert text.count("{") == text.count("}")
    keys = re.findall(r"^@[a-z]+\{([a-z0-9]+),$", text, re.MULTILINE)
    assert len(keys) == len(set(keys)) == text.count("@")


def test_bibtex_of_a_metric_is_what_its_source_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "orthogonality.ima_contrast", "--bibtex"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^@[a-z]+\{([a-z0-9]+),$", text, re.MULTILINE) == [
        "vaeprobe",
        "allen2024unpicking",
        "gresele2021independent",
    ]
    assert run(["explain", "policy", "--bibtex"]) == 2
    assert "--bibtex takes a metric" in capsys.readouterr().err


def test_every_paper_that_sources_cite_by_arxiv_number_is_credited_or_named_in_full() -> None:
    """A name with a year in a metric's source that is among the credited works must be found by `behind`."""
    for work in credit.WORKS:
        assert credit.behind(f"{work.named} ({work.year}), a title") == (work,)


def test_the_citation_file_is_of_this_version_and_paper() -> None:
    text = (Path(__file__).parents[1] / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in text
    assert credit.PAPER.title in text
    assert credit.PAPER.arxiv in text


def test_the_page_about_several_processes_fits_a_terminal_and_its_manifest_is_yaml() -> None:
    from vaeprobe.explain import torchrun

    page = torchrun()
    assert max(map(len, page.splitlines())) <= 80
    assert "#SBATCH" in page
    assert "\\\n" in page
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(page[page.index("  apiVersion") : page.index("Under a scheduler")])
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["command"][:2] == ["torchrun", "--nnodes=2"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
