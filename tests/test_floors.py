"""Imports point down only, and the rooms keep to what they may know."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

import vaeprobe

PACKAGE = Path(__file__).parents[1] / "vaeprobe"
# from the ground up; a module may import its own floor and those below
FLOORS = [
    {
        "_version",
        "credit",
        "errors",
        "findings",
        "writing",
        "likelihood_names",
        "heard",
        "stopping",
        "scoped",
    },
    {
        "report",
        "progress",
        "budget",
        "kept",
        "board",
        "processes",
        "processors",
        "intervals",
        "autograd",
        "cpu",
        "foreign",
        "frozen",
        "given",
        "recipe",
        "prior",
        "published",
    },
    {"render", "likelihoods", "files", "outputs", "tokens"},
    {"result", "data", "contract", "derivatives"},
    {"decoder", "encoder", "latents"},
    {"checkpoints", "engine"},
    {"geometry", "seams", "linear", "inference", "pictures"},
    {"probes", "api"},
    {"gate", "explain", "callback", "selftest", "comparison", "traversal"},
    {"overview"},
    {"cli", "pytest_plugin", "__main__", "__init__"},
]
# files that import each other, to be taken apart; nothing may join them
CIRCLES: list[set[str]] = []
HEAVY = {"torch", "numpy", "scipy", "sklearn", "safetensors"}
WEB = {"urllib.request"}


FILES = sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """The name of a file's module, without the package's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {dotted(path) for path in FILES}


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules of the package that a file imports: at the top, late inside functions, or for types alone."""
    return imported(path.read_text(encoding="utf-8"))


def imported(code: str) -> frozenset[str]:
    """The modules of the package that code imports, by statements or by a name that it writes out."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vaeprobe":
            base = (node.module or "").removeprefix("vaeprobe").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if inner in MODULES else base or "__init__")
        elif isinstance(node, ast.Import):
            found |= {
                a.name.removeprefix("vaeprobe").lstrip(".") or "__init__"
                for a in node.names
                if a.name.split(".")[0] == "vaeprobe"
            }
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            named = [a.value for a in node.args if isinstance(a, ast.Constant)]
            found |= {str(n).removeprefix("vaeprobe.") for n in named if str(n).startswith("vaeprobe.")}
    return frozenset(found)


def libraries(path: Path) -> set[str]:
    """The first names of all that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


def floor(name: str) -> int:
    return next(k for k, rooms in enumerate(FLOORS) if name in rooms)


def circles(graph: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """Sets of files each of which reaches every other along imports."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, todo = set(), [start]
        while todo:
            for other in graph[todo.pop()]:
                if other not in seen and other in graph:
                    seen.add(other)
                    todo.append(other)
        reach[start] = seen
    found: list[set[str]] = []
    for name in graph:
        circle = {other for other in reach[name] if name in reach[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def test_no_circle_between_files() -> None:
    graph = {dotted(path): imports(path) for path in FILES}
    found = circles(graph)
    assert [c for c in found if c not in CIRCLES] == [], "files that import each other"
    assert [c for c in CIRCLES if c not in found] == [], "taken apart: strike it from the list"


def test_circles_are_found() -> None:
    graph = {"a": ["b"], "b": ["c"], "c": ["b"], "d": ["d"], "e": ["a"]}
    assert circles(graph) == [{"b", "c"}, {"d"}]


@pytest.mark.parametrize(
    "code",
    [
        "from vaeprobe.cli.app import app",
        "from vaeprobe.cli import app",
        "import vaeprobe.cli.app",
        "def f():\n    from vaeprobe.cli import app",
        "if TYPE_CHECKING:\n    from vaeprobe.cli.app import app",
        "def f():\n    return import_module('vaeprobe.cli.app').app",
        "app = importlib.import_module('vaeprobe.cli.app')",
        "def f():\n    return __import__('vaeprobe.cli.app')",
    ],
)
def test_every_way_to_import_is_counted(code: str) -> None:
    assert imported(code) == {"cli.app"}


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_imports_name_the_whole_path(path: Path) -> None:
    """A relative import would not be counted."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    assert [n.lineno for n in nodes if isinstance(n, ast.ImportFrom) and n.level] == []


def test_the_package_does_not_import_its_own_face() -> None:
    faced = [dotted(p) for p in FILES if "__init__" in imports(p)]
    assert faced == [], "import the module that defines the name"


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_imports_point_down(path: Path) -> None:
    mine = dotted(path).split(".")[0]
    for module in imports(path):
        theirs = module.split(".")[0]
        assert floor(theirs) <= floor(mine), f"{mine} must not import {module}"


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_only_the_top_rooms_know_the_terminal(path: Path) -> None:
    mine, known = dotted(path).split(".")[0], libraries(path)
    assert "typer" not in known or mine == "cli"
    assert "rich" not in known or mine in ("cli", "render") or dotted(path) == "gate.formats.text"


def test_no_module_hides_a_public_function() -> None:
    """Python puts a submodule that is imported in the place of what the package has under its name."""
    assert {dotted(path).split(".")[0] for path in FILES} & set(vaeprobe.__all__) == {"engine"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["orthogonality", "--help"], ["check", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom vaeprobe.cli import run\n"
        f"code = run({arguments!r})\n"
        f"print(sorted({HEAVY | WEB!r} & set(sys.modules)), file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
