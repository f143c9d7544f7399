"""The README is true: its transcripts are what the commands print, its table of metrics is generated.

`python tests/test_readme.py` rewrites both in place.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"```console\n\$ (vaeprobe [^\n]*|python [^\n]*)\n(.*?)```", re.DOTALL)
TABLE = re.compile(r"(<!-- metrics -->\n).*?(\n<!-- /metrics -->)", re.DOTALL)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
# another processor may differ in the last digits, which a p-value or a rotation search amplifies
TOLERANCE = 0.05


def transcripts() -> list[tuple[str, str]]:
    return BLOCK.findall(README.read_text(encoding="utf-8"))


def output(command: str) -> str:
    program, *arguments = shlex.split(command)
    done = subprocess.run(
        [sys.executable, *(["-m", "vaeprobe"] if program == "vaeprobe" else []), *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    text = done.stdout + done.stderr
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def words(text: str) -> list[str]:
    """The text without numbers, bars and spacing, which may differ in the last digit."""
    return re.sub(r"[█▏▎▍▌▋▊▉│\s⠀-⣿]+", " ", NUMBER.sub("#", text)).split()


@pytest.mark.parametrize(("command", "shown"), transcripts(), ids=[c for c, _ in transcripts()])
def test_a_transcript_is_what_the_command_prints(command: str, shown: str) -> None:
    real = output(command)
    assert words(shown) == words(real)
    for a, b in zip(NUMBER.findall(shown), NUMBER.findall(real), strict=True):
        x, y = float(a), float(b)
        assert abs(x - y) <= TOLERANCE * max(abs(x), abs(y), 0.1), f"{a} in the README, {b} now"


def test_the_table_of_metrics_is_generated() -> None:
    assert table() in README.read_text(encoding="utf-8")


def test_the_set_up_commands_are_those_that_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    commands = re.findall(
        r"^(pip install .*)$", text.split("## Start", 1)[1].split("\n## ", 1)[0], re.MULTILINE
    )
    assert len(commands) == 2
    for command in commands:
        assert command in script


def test_files_and_commands_named_in_the_readme_exist() -> None:
    from vaeprobe.cli.app import COMMANDS
    from vaeprobe.probes import PROBES

    known = {*COMMANDS, *PROBES}
    text = README.read_text(encoding="utf-8")
    for command in re.findall(r"`vaeprobe ([a-z-]+)", text):
        assert command in known
    for path in re.findall(r"sample_models/[\w./-]+\w", text):
        assert (ROOT / path).exists(), path


def table() -> str:
    from vaeprobe import explain
    from vaeprobe.probes import metric_specs

    return explain.markdown_table(metric_specs())


def rewrite() -> None:
    """Put fresh transcripts and a fresh table into the README."""
    text = README.read_text(encoding="utf-8")
    text = BLOCK.sub(lambda m: f"```console\n$ {m[1]}\n{output(m[1])}```", text)
    text = TABLE.sub(lambda m: m[1] + table() + m[2], text)
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    rewrite()
