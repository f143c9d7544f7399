"""Imports point down only, and the rooms keep to what they may know."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vaeprobe"
# from the ground up; a module may import its own floor and those below
FLOORS = [
    {"_version", "errors"},
    {"report", "progress", "intervals", "likelihoods", "decoder", "latents"},
    {"files"},
    {"checkpoints", "data"},
    {"geometry", "seams", "linear", "inference", "pictures"},
    {"probes", "api"},
    {"gate"},
    {"render", "meanings"},
    {"cli", "pytest_plugin", "__main__", "__init__"},
]
# (importer, imported): where the arrow is turned round on purpose, inside a function
LATE = {
    ("report", "render"),  # a result shows itself in a notebook
    ("probes", "linear"),  # metric texts
}
HEAVY = {"torch", "numpy", "scipy", "sklearn", "safetensors"}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every vaeprobe module a file imports, and whether at run time (not under TYPE_CHECKING)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for part in block.body
        for node in ast.walk(part)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [f"{node.module}.{a.name}" for a in node.names]
                if node.module == "vaeprobe"
                else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        found += [(name, node not in typing_only) for name in names]
    return found


def floor(name: str) -> int:
    return next(k for k, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module, running in imports(path):
        if not module.startswith("vaeprobe") or not running:
            continue
        theirs = room(module)
        if theirs in ("__init__", "__version__") or (mine, theirs) in LATE:
            continue
        assert floor(theirs) <= floor(mine), f"{mine} must not import {module}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_top_rooms_know_the_terminal(path: Path) -> None:
    mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    known = {module.split(".")[0] for module, _ in imports(path)}
    assert "typer" not in known or mine == "cli"
    assert "rich" not in known or mine in ("cli", "render")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["orthogonality", "--help"], ["check", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom vaeprobe.cli import run\n"
        f"code = run({arguments!r})\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
