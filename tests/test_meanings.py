"""Everything that vaeprobe can say has a page: metrics, findings, errors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from vaeprobe import errors, meanings
from vaeprobe.errors import VaeprobeError

PACKAGE = Path(errors.__file__).parent


def finding_codes() -> Iterator[str]:
    """Every constant `code` that the package gives to a finding."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            values = [k.value for k in node.keywords if k.arg == "code"] if name == "Finding" else []
            if name == "note":
                values += node.args[:1]
            yield from (v.value for v in values if isinstance(v, ast.Constant))


def error_codes(cls: type[VaeprobeError] = VaeprobeError) -> Iterator[str]:
    yield cls.code
    for sub in cls.__subclasses__():
        yield from error_codes(sub)


def test_every_finding_has_a_meaning() -> None:
    import vaeprobe.checkpoints.blueprint  # noqa: F401  (defines an error)

    said = {*finding_codes(), *error_codes()}
    assert len(said) > 40
    assert said - set(meanings.CODES) == set()


def test_no_meaning_is_left_over() -> None:
    built = {f"trace-{name}" for name in ("outside", "not-finite", "steps", "collapse")}
    assert set(meanings.CODES) - {*finding_codes(), *error_codes()} - built == set()


@pytest.mark.parametrize("code", sorted(meanings.CODES))
def test_pages_fit_a_terminal(code: str) -> None:
    page = meanings.of_code(code, meanings.CODES[code])
    assert max(map(len, page.splitlines())) <= 80
    assert "what to do" in page
