"""What a change costs, by making it in a copy of the package: a probe and a renderer are a file and a line each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, to be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "vaeprobe", tmp_path / "vaeprobe", ignore=ignored))


def run(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(package, "-m", "vaeprobe", *arguments)


def python(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=False,
    )


PROBE = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vaeprobe.probes.base import Probe, option
from vaeprobe.report import Metric, MetricSpec, metric_map
from vaeprobe.result import Measured, Result

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder

METRICS = (
    MetricSpec(id="reach.largest", title="largest output", better="lower", range="[0, inf)", meaning="how far it reaches"),
)


@dataclass(frozen=True, kw_only=True)
class ReachResult(Result):
    command: ClassVar[str] = "reach"
    largest = Measured("reach.largest")


@dataclass(frozen=True, kw_only=True)
class Reach(Probe):
    """How far do the outputs reach?

    The largest of all outputs, in absolute value.

    Examples:
        vaeprobe reach model.pt --far 2
    """

    NAME = "reach"
    METRICS = METRICS
    VERDICTS = {"far": "it reaches far", "near": "it does not"}

    far: float = option(1.0, help="From where on it is far.", min=0)

    def measure(self, decoder: Decoder) -> ReachResult:
        y = decoder.flat(self.source().draw(decoder, self.samples, seed=self.seed)).detach()
        largest = float(y.abs().max())
        return ReachResult(
            metrics=metric_map([Metric(METRICS[0], largest, n=len(y))]),
            verdict="far" if largest >= self.far else "near",
            summary="That is all.",
            settings=self.settings(decoder),
            artifact=decoder.artifact,
        )
'''


def test_a_probe_is_a_file_and_a_line(package: Path) -> None:
    """Its command, options, limits, function, settings and rules in a policy, page and lines of `explain` follow."""
    (package / "probes" / "reach.py").write_text(PROBE)
    table = package / "probes" / "__init__.py"
    line = '    "reach": "vaeprobe.probes.reach:Reach",\n'
    table.write_text(table.read_text().replace("PROBES = {\n", "PROBES = {\n" + line))
    model = str(ROOT / "sample_models" / "linear.npy")
    W = np.load(model)
    code = (
        f"import numpy, vaeprobe\nr = vaeprobe.reach({model!r}, latents=numpy.eye({W.shape[1]}), far=1e9)\n"
        "print(r.verdict, r.largest.value)"
    )
    called = python(package, "-c", code)
    assert called.returncode == 0, called.stderr
    verdict, value = called.stdout.split()
    assert verdict == "near"
    assert float(value) == pytest.approx(np.abs(W).max(), rel=1e-6)
    asked = run(
        package, "reach", model, "--samples", "8", "--far", "0.001", "--max-largest", "1e-9", "--json"
    )
    assert asked.returncode == 1, asked.stderr
    assert json.loads(asked.stdout)["verdict"] == "far"
    policy = package.parent / "vaeprobe.toml"
    policy.write_text("[reach]\nfar = 0.001\n")
    rules = ("--rule", "reach.verdict=far", "--rule", "reach.largest<=1e9")
    gated = run(package, "check", model, *rules)
    assert gated.returncode == 0, gated.stdout + gated.stderr
    policy.write_text("[reach]\nfar = 1e9\n")
    undone = run(package, "check", model, *rules)
    assert undone.returncode == 1, undone.stdout + undone.stderr
    assert "How far do the outputs reach?" in run(package, "--help").stdout
    shutil.copytree(
        ROOT / "tests", package.parent / "tests", ignore=shutil.ignore_patterns("__pycache__", "hostile")
    )
    shutil.copy(ROOT / "pyproject.toml", package.parent)
    ours = ("tests/test_help.py", "tests/test_floors.py", "-k", "reach or first_page or nothing_heavy")
    held = python(package, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *ours)
    assert held.returncode == 0, held.stdout
    assert "examples_are_commands_that_parse[reach] PASSED" in held.stdout
    assert "how far it reaches" in run(package, "explain", "reach.largest").stdout
    assert "reach.largest" in run(package, "explain", "reach").stdout
    assert "reach.largest" in run(package, "explain").stdout
    page = run(package, "report", model, "--samples", "16", "-o", "page.html")
    assert page.returncode == 0, page.stderr
    assert "<h2>How far do the outputs reach?</h2>" in (package.parent / "page.html").read_text()


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
