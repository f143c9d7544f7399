"""Files are written whole or not at all, where the user said, never onto what is read."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from vaeprobe.errors import UsageError
from vaeprobe.writing import ready, write, write_text


def mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def umask() -> object:
    old = os.umask(0o027)
    yield
    os.umask(old)


def test_new_files_have_the_umasks_mode_and_old_ones_keep_theirs(tmp_path: Path, umask: object) -> None:
    path = tmp_path / "page.html"
    write_text(path, "one")
    assert mode(path) == 0o640
    path.chmod(0o604)

    def private(place: Path) -> None:  # as safetensors does
        place.unlink()
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o600))

    write(path, private)
    assert mode(path) == 0o604


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "page.md", tmp_path / "page.md"
    for content in ("new", "newer"):  # the first makes what a dangling link names
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        ready([link])
        write_text(link, content)
        assert link.is_symlink()
        assert target.read_text() == content
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["page.md"]


def test_a_pipe_is_written_through(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    ready([pipe])
    write_text(pipe, "{}" * 100_000)
    reader.join(20)
    assert got == ["{}" * 100_000]
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode)


def test_devices_are_written_through() -> None:
    ready(["/dev/null", "/dev/null"])
    write_text("/dev/null", "x")
    with pytest.raises(UsageError, match="cannot write `/dev/full`: no space left"):
        write_text("/dev/full", "x")


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def broken(place: Path) -> None:
        place.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(path, broken)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/a.json", "missing` is missing"),
        ("file/a.json", "file` is no folder"),
        ("folder", "it is a folder"),
        ("a" * 300, "too long"),
        ("loop", "symbolic links"),
        ("a\0b", "no file name"),
    ],
)
def test_places_that_cannot_be_written_are_refused_beforehand(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    with pytest.raises(UsageError, match=words):
        ready([name])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "loop"]


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_read_only_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o444)
    (tmp_path / "folder").mkdir(0o555)
    for name in ("file", "folder/a.json"):
        with pytest.raises(UsageError, match="permission denied"):
            ready([tmp_path / name])


def test_an_input_is_never_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows").mkdir()
    for name in ("m.npy", "rows/0.png"):
        Path(name).write_text("x")
    Path("soft.npy").symlink_to("m.npy")
    os.link("m.npy", "hard.npy")
    for output in ("m.npy", "soft.npy", "hard.npy", "./rows/../m.npy", "rows/0.png"):
        with pytest.raises(UsageError, match="would be overwritten"):
            ready([output], inputs=["m.npy", "rows", "no-such-file", "prior"])
    ready(["rows/new.png", "m2.npy"], inputs=["m.npy", "rows"])


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two outputs"):
        ready([tmp_path / "a.png", tmp_path / "x" / ".." / "a.png"])
