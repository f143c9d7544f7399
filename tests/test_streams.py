"""stdout and stderr in any state: encodings, closed, full, a reader that leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaeprobe.cli.streams import ascii_art

ROOT = Path(__file__).parents[1]
LINEAR = "sample_models/linear.npy"
PROBE = f'"{sys.executable}" -m vaeprobe orthogonality {LINEAR} --samples 16 --rotations 9'


def shell(line: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **env},
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_every_encoding_takes_a_page(encoding: str) -> None:
    done = shell(f"{PROBE} -v", PYTHONIOENCODING=encoding, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert "verdict" in text
    assert "?" not in text
    assert max(map(len, text.splitlines())) <= 80
    bars = [line for line in text.splitlines() if line.startswith("z0 ") and len(line) > 50]
    assert bars
    assert all(set(bar) & set("#█") for bar in bars)


def test_what_torch_says_to_its_own_authors_is_not_passed_on(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch, torch.nn.functional as F\n"
        "class Turned(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.turn = torch.nn.Linear(4, 6)\n"
        "    def forward(self, z):\n"
        "        return F.affine_grid(self.turn(z).view(-1, 2, 3), (len(z), 1, 2, 2), align_corners=False)\n"
    )
    shape = (
        f"import torch; torch.save(torch.nn.Linear(4, 6).state_dict(prefix='turn.'), r'{tmp_path / 'w.pt'}')"
    )
    probe = PROBE.replace(LINEAR, f'"{tmp_path / "w.pt"}" --arch "{tmp_path / "net.py"}:Turned"')
    done = shell(f'"{sys.executable}" -c "{shape}" && {probe} --quiet')
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""


def test_stand_ins_of_a_drawing_are_one_column_wide() -> None:
    for sign in "█▉▊▋▌▍▎▏▁▂▃▄▅▆▇░▒▓▀▄│┤├┼─━╭╮╰╯" + "".join(map(chr, range(0x2800, 0x2900))):
        assert len(ascii_art(sign)) == 1, sign
        assert ascii_art(sign).isascii()
    assert [ascii_art(c) for c in "β²é≤語"] == [r"\u03b2", "^2", r"\xe9", "<=", r"\u8a9e"]


@pytest.mark.parametrize(("encoding", "shown"), [
    ("ascii", r"\xe9\u03b2\u8a9e\u0301.npy"),
    ("latin-1", "é" r"\u03b2\u8a9e\u0301.npy"),
    ("utf-8", "éβ語\u0301.npy"),
])  # fmt: skip
def test_no_file_is_called_by_another_name(encoding: str, shown: str, tmp_path: Path) -> None:
    path = tmp_path / "éβ語\u0301.npy"
    path.write_bytes(Path(LINEAR).read_bytes())
    there = f'cd "{tmp_path}" && {PROBE}'
    done = shell(there.replace(LINEAR, f'"{path.name}"') + " -q", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).splitlines()[0].endswith(shown)
    done = shell(there.replace(LINEAR, f'"missing {path.name}"'), PYTHONIOENCODING=encoding)
    assert f"missing {shown}" in done.stderr.decode(encoding)


@pytest.mark.parametrize("extra", ["", "--json"])
@pytest.mark.parametrize(
    ("redirection", "words"), [(">&-", b"stdout: it is closed"), ("> /dev/full", b"stdout: no space left")]
)
def test_closed_and_full_outputs_are_errors_of_usage(redirection: str, words: bytes, extra: str) -> None:
    done = shell(f"{PROBE} {extra} {redirection}")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count(b"error:") == 1
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("command", ["--help", "--version", "explain", "schema", ""])
@pytest.mark.parametrize("redirection", [">&-", "> /dev/full"])
def test_short_commands_mind_their_output_too(command: str, redirection: str) -> None:
    done = shell(f'"{sys.executable}" -m vaeprobe {command} {redirection}')
    assert done.returncode == 2
    assert b"cannot write to stdout" in done.stderr
    assert b"Traceback" not in done.stderr


def test_closed_streams_do_not_matter_where_the_document_goes_to_a_file(tmp_path: Path) -> None:
    done = shell(f"{PROBE} -o {tmp_path}/page.json <&- >&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "page.json").read_text().startswith("{")


def test_errors_need_no_stderr() -> None:
    for redirection in ("2>&-", "2> /dev/full"):
        done = shell(f'"{sys.executable}" -m vaeprobe explain nothing {redirection}')
        assert done.returncode == 2
        assert done.stdout == b""


def test_a_reader_that_leaves_changes_no_exit_code() -> None:
    check = f"{PROBE} --max-mean-abs-cosine"
    for limit, code in (("0.5", 0), ("-0.5", 1)):
        done = shell(f"{check} {limit} | true; exit ${{PIPESTATUS[0]}}")
        assert done.returncode == code, done.stderr
        assert done.stderr == b""


@pytest.mark.parametrize("columns", ["0", "1", "-3", "many", ""])
def test_widths_that_are_none_are_passed_over(columns: str) -> None:
    done = shell(f"{PROBE}", COLUMNS=columns)
    assert done.returncode == 0
    assert b"ima contrast" in done.stdout
