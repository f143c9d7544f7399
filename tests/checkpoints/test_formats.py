"""Formats are one file each; other packages add theirs, and are asked only after everything that is refused."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

import vaeprobe
from vaeprobe.checkpoints import formats
from vaeprobe.checkpoints.formats.format import Contents
from vaeprobe.errors import InputError, UnsafeError, UsageError
from vaeprobe.files import sniff
from vaeprobe.files.source import Source

from hostile_files import saved, state, zipped

# a matrix as text behind a word; everything that a format needs
ONE_MORE = """
from vaeprobe.checkpoints import described
from vaeprobe.checkpoints.formats.format import Format


def numbers(source):
    return [[float(x) for x in line.split()] for line in source.data.decode().splitlines()[1:]]


def read(request):
    import torch

    from vaeprobe.checkpoints import matrix
    from vaeprobe.checkpoints.request import Found

    return Found(parts=matrix.parts_of({"matrix": torch.tensor(numbers(request.source))}, request.name), format="words")


def look(source, key):
    import numpy as np

    return described.of_arrays(source, "words", {"matrix": (np.array(numbers(source)), ())})


FORMAT = Format(name="words", claims=lambda contents: contents.data[:5] == b"WORDS", read=read, look=look)
"""
MATRIX = "WORDS\n1 2\n3 4\n5 6\n"
W = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def test_every_container_has_one_format() -> None:
    claimed = {
        container: [
            f.name for f in formats.every().values() if f.claims(Contents(Source(Path("x"), b""), container))
        ]
        for container in get_args(sniff.Container)
    }
    assert all(len(names) == 1 for names in claimed.values()), claimed
    folders = {"distributed"}  # no one file is of it
    assert {name for names in claimed.values() for name in names} == set(formats.every()) - folders


def test_a_format_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.py").write_text(ONE_MORE)
    (tmp_path / "w.words").write_text(MATRIX)
    with pytest.raises(InputError, match="in no format that vaeprobe knows"):
        vaeprobe.load(tmp_path / "w.words")
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    try:
        decoder = vaeprobe.load(tmp_path / "w.words")
        z = torch.randn(4, 2)
        torch.testing.assert_close(decoder(z), z @ W.T)
        assert decoder.artifact is not None
        assert decoder.artifact.format == "words"
        (tensor,) = vaeprobe.inspect(tmp_path / "w.words").tensors
        assert tensor.shape == (3, 2)
        with pytest.raises(UsageError, match="is words, and --arch needs bare weights"):
            vaeprobe.load(tmp_path / "w.words", arch=lambda: torch.nn.Linear(2, 3))
    finally:
        sys.modules.pop("vaeprobe.checkpoints.formats.words", None)


def test_a_format_of_ours_that_cannot_be_imported_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(
        "from vaeprobe.checkpoints.formats import Format\nFORMAT = Format(name='b')\n"
    )
    torch.save({"w": torch.eye(2)}, tmp_path / "w.pt")
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    try:
        with pytest.raises(TypeError, match="missing 3 required"):
            vaeprobe.load(tmp_path / "w.pt")
    finally:
        sys.modules.pop("vaeprobe.checkpoints.formats.broken", None)


def installed(folder: Path, code: str, value: str = "one_more:FORMAT") -> dict[str, str]:
    """Write another package with an entry point; return the environment in which it is installed."""
    (folder / "one_more.py").write_text(code)
    about = folder / "one_more-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: one-more\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[vaeprobe.formats]\nwords = {value}\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def run(environment: dict[str, str], *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vaeprobe", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_another_package_adds_a_format(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    environment = installed(tmp_path / "package", ONE_MORE)
    path = tmp_path / "w.words"
    path.write_text(MATRIX)
    looked = run(environment, "inspect", path)
    assert (looked.returncode, "3 x 2" in looked.stdout) == (0, True), looked.stderr
    probed = run(environment, "factorise", path, "--samples", 8, "--quiet")
    assert probed.returncode == 0, probed.stderr


@pytest.mark.parametrize(
    ("code", "value", "message"),
    [
        ("import nothing_of_that_name", "one_more:FORMAT", "`words` of another package cannot be imported"),
        ("FORMAT = 3", "one_more:FORMAT", "adds as the format `words`, is int"),
    ],
)
def test_a_broken_package_is_named(tmp_path: Path, code: str, value: str, message: str) -> None:
    environment = installed(tmp_path, code, value)
    (tmp_path / "w.words").write_text(MATRIX)
    done = run(environment, "inspect", tmp_path / "w.words")
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def greedy(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[Contents]:
    """Let formats of other packages claim every file that they are asked about; return what they were asked."""
    asked: list[Contents] = []

    def claims(contents: Contents) -> bool:
        asked.append(contents)
        return True

    def nothing(*_: Any) -> Any:
        raise AssertionError("read")

    class Entry:
        value = "package:FORMAT"

        def __init__(self, name: str) -> None:
            self.name = name

        def load(self) -> formats.Format:
            return formats.Format(name=self.name, claims=claims, read=nothing, look=nothing)

    monkeypatch.setattr(formats, "entry_points", lambda group: [Entry(name) for name in names])
    return asked


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return stream.getvalue()


def test_other_packages_never_see_what_we_know_or_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = greedy(monkeypatch, "greedy")
    assert formats.of(Source(Path("m.pt"), saved(state()))).name == "torch"
    hidden = zipped({"a/.data/extern_modules": b"", "a/data.pkl": b""})
    two = b"\x89GIF" + saved(state())
    for data in (tarred(), hidden, two):
        with pytest.raises(UnsafeError):
            formats.of(Source(Path("m.pt"), data))
    assert asked == []
    other = Source(Path("m.gz"), zipped({"a/numbers": b"1"}))
    assert formats.of(other).name == "greedy"
    assert [contents.names for contents in asked] == [("a/numbers",)]


def test_a_file_claimed_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    greedy(monkeypatch, "one", "other")
    with pytest.raises(InputError, match="claimed by two formats, `one` and `other`"):
        formats.of(Source(Path("m.x"), b"something else"))
