"""What a change costs, by making it in a copy of the package: a renderer is a file and a line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, to be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "vaeprobe", tmp_path / "vaeprobe", ignore=ignored))


def run(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vaeprobe", *arguments],
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_renderer_is_a_file_and_a_line(package: Path) -> None:
    (package / "render" / "shout.py").write_text(
        "from vaeprobe.report import Page\n\n\n"
        "def render(page: Page) -> str:\n    return page.verdict.upper() + '!\\n'\n"
    )
    table = package / "render" / "__init__.py"
    line = '    "shout": Renderer("vaeprobe.render.shout", (".shout",)),\n'
    table.write_text(table.read_text().replace("RENDERERS = {\n", "RENDERERS = {\n" + line))
    model = str(ROOT / "sample_models" / "linear.npy")
    asked = run(package, "factorise", model, "--samples", "16", "--format", "shout")
    assert (asked.returncode, asked.stdout) == (0, "LINEAR!\n"), asked.stderr
    written = run(package, "factorise", model, "--samples", "16", "-o", "out.shout")
    assert written.returncode == 0, written.stderr
    assert (package.parent / "out.shout").read_text() == "LINEAR!\n"
    assert "shout" in run(package, "factorise", "--help").stdout


def test_a_format_of_the_gate_is_a_file_and_a_line(package: Path) -> None:
    (package / "gate" / "formats" / "terse.py").write_text(
        "from vaeprobe.gate.outcome import GateReport\n\n\n"
        "def render(report: GateReport) -> str:\n    return f'exit {report.exit_code}\\n'\n"
    )
    table = package / "gate" / "formats" / "__init__.py"
    line = '    "terse": Renderer("vaeprobe.gate.formats.terse", (".terse",)),\n'
    table.write_text(table.read_text().replace("FORMATS = {\n", "FORMATS = {\n" + line))
    model = str(ROOT / "sample_models" / "linear.npy")
    rule = ("--rule", "factorise.verdict=linear")
    asked = run(package, "check", model, *rule, "--format", "terse", "--report", "terse=out.terse")
    assert (asked.returncode, asked.stdout) == (0, "exit 0\n"), asked.stderr
    assert (package.parent / "out.terse").read_text() == "exit 0\n"
