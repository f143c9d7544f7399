"""The tutorial is true: each line it quotes is printed by its command, up to numbers and the breaking of lines."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from vaeprobe.cli import run

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "sample_models" / "TUTORIAL.md").read_text(encoding="utf-8")
QUOTES = re.findall(r"```console\n\$ vaeprobe ([^\n]*)\n(.*?)```", TEXT, re.DOTALL)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
# another processor may differ in the last digits, which a random start amplifies
TOLERANCE = 0.1


def words(text: str) -> str:
    return " ".join(NUMBER.sub("#", text).split())


@pytest.mark.parametrize(("command", "quoted"), QUOTES, ids=[q[0].split()[0] for q in QUOTES])
def test_quotes(
    command: str, quoted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    run([*shlex.split(command), "--no-progress"])
    printed = capsys.readouterr().out
    verdict, *rest = quoted.strip().splitlines()
    for part in (verdict, "\n".join(rest)) if rest and verdict.startswith("verdict") else (quoted,):
        for piece in part.split("\n") if "  " in part else [part]:
            assert words(piece) in words(printed)
    numbers = [float(n) for n in NUMBER.findall(printed)]
    for number in map(float, NUMBER.findall(quoted.partition("CI")[0])):
        assert any(abs(number - n) <= TOLERANCE * max(abs(number), 0.1) for n in numbers), number


def test_there_are_seven() -> None:
    assert len(QUOTES) == 7
