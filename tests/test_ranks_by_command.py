"""Commands that processes share: what one alone says is said once, with its numbers and its exit code, however it ends."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from ports import free_ports

from vaeprobe import cli, kept
from vaeprobe.board import FAILED, STOPPED, Board, End, Watch, gone
from vaeprobe.cli.sharing import Shared

Ended: TypeAlias = "tuple[int, str, str]"  # exit code, stdout, stderr
MLP, LINEAR = "sample_models/digits_mlp.safetensors", "sample_models/linear.npy"
DIGITS = "sample_models/digits.npy"
RULE = ("--rule", "orthogonality.alignment=0.5")
COMMANDS: dict[str, tuple[str, ...]] = {
    "orthogonality": ("orthogonality", MLP, "-n", "5", "--chunk", "2", "--rotations", "19", "--json"),
    "posterior": ("posterior", MLP, "--data", DIGITS, "-n", "5", "--chunk", "2", "--json"),
    "beta": ("beta", MLP, "--data", DIGITS, "-n", "5", "--chunk", "2", "--json"),
    "beta of fewer rows than ranks": ("beta", MLP, "--data", DIGITS, "-n", "2", "--json"),
    "train-linear": ("train-linear", DIGITS, "--method", "elbo", "--json"),
    "train-linear of three": ("train-linear", DIGITS, "--latent-dim", "3", "--bootstrap", "40", "--json"),
    "train-linear in memory": ("train-linear", DIGITS, "--latent-dim", "3", "--solver", "randomized", "--bootstrap", "0", "--json"),
    "trace": ("trace", MLP, "-n", "1", "--components", "0", "--length", "0.3", "--chunk", "1", "--json"),
    "traverse": ("traverse", MLP, "-n", "5", "--json"),
    "a picture": ("traverse", MLP, "-n", "5", "-o", "OUT.png"),
    "report": ("report", LINEAR, "-n", "8", "-o", "OUT.html"),
    "compare": ("compare", LINEAR, "sample_models/linear_rotated.npy", "-n", "16", "--rotations", "9", "--json"),
    "check": ("check", MLP, LINEAR, "none.npy", "sample_models/linear_rotated.npy", *RULE, "--json"),
    "check of one": ("check", MLP, *RULE, "-o", "OUT.json", "--report", "junit=OUT.xml"),
    "a first policy": ("check", LINEAR, "--init", "--config", "OUT.toml"),
    "a baseline": ("check", LINEAR, *RULE, "--update-baseline", "--baseline", "OUT.json"),
    "a wrong option": ("posterior", MLP, "--nonsense", "--json"),
    "no such file": ("beta", "none.pt", "--data", DIGITS, "--json"),
    "no such data": ("posterior", MLP, "--data", "none.npy"),
    "too few": ("orthogonality", MLP, "-n", "1"),
    "a wrong rule": ("check", MLP, "--rule", "nonsense=1"),
    "inspect": ("inspect", MLP, "--json"),
}  # fmt: skip
SCRIPT = """
import contextlib, faulthandler, io, json, os, sys
from vaeprobe import cli, kept

faulthandler.dump_traceback_later(220, exit=True)  # a run that hangs says where

commands, folder, port = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
found = {}
for k, (name, arguments) in enumerate(commands.items()):
    os.environ["MASTER_PORT"] = str(port + k)
    print(f"{name}, port {port + k}", file=sys.stderr, flush=True)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([word.replace("OUT", f"{folder}/{k}") for word in arguments])
    found[name] = code, out.getvalue(), err.getvalue()
faulthandler.cancel_dump_traceback_later()
print(json.dumps(found))
"""


def start(world: int, arguments: list[list[str]], **more: str) -> list[subprocess.Popen[str]]:
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", **more}
    return [
        subprocess.Popen(
            [sys.executable, *own],
            env={**env, "WORLD_SIZE": str(world), "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, own in enumerate(arguments)
    ]


def ends(running: list[subprocess.Popen[str]], timeout: float = 240) -> list[Ended]:
    try:
        return [(p.returncode, *texts) for p in running if (texts := p.communicate(timeout=timeout))]
    finally:
        for p in running:
            p.kill()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, list[dict[str, Ended]]]]:
    """What every process says to every command, and the files, by the number of processes."""
    found = {}
    for world in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"world{world}")
        words = ["-c", SCRIPT, json.dumps(COMMANDS), str(folder), str(free_ports(len(COMMANDS)))]
        several = ends(start(world, [words] * world))
        assert [code for code, _, _ in several] == [0] * world, "\n".join(
            err[-2000:] for _, _, err in several
        )
        found[world] = folder, [json.loads(out) for _, out, _ in several]
    return found


def same(one: Any, other: Any) -> None:
    """Hold documents against each other: all is equal, numbers to 1e-10."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"processes"}:
            same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-10, abs=1e-12)
    else:
        assert one == other


def without_forecasts(err: str) -> str:
    """Return what was said beside how long something would take, which is said where the machine is slow."""
    lines = err.splitlines(keepends=True)
    return "".join(line for line in lines if not line.endswith("; --time SECONDS bounds a run\n"))


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", COMMANDS)
def test_several_processes_say_once_what_one_says(
    name: str, world: int, swept: dict[int, tuple[Path, list[dict[str, Ended]]]]
) -> None:
    (folder, (alone,)), (other, several) = swept[1], swept[world]
    code, out, err = alone[name]
    first, *silent = (one[name] for one in several)
    if out.startswith("{"):
        same(json.loads(out), json.loads(first[1]))
    else:
        assert first[1] == out.replace(str(folder), str(other))
    assert first[0] == code
    assert without_forecasts(first[2]) == without_forecasts(err.replace(str(folder), str(other)))
    for rank, one in enumerate(silent, start=1):
        idle = f"process {rank} of {world} has nothing to do: inspect runs in the first one\n"
        assert one == ([0, "", idle] if name == "inspect" else [code, "", ""])


def test_one_process_of_several_writes_the_files(
    swept: dict[int, tuple[Path, list[dict[str, Ended]]]],
) -> None:
    written = {world: sorted(file.name for file in folder.iterdir()) for world, (folder, _) in swept.items()}
    assert len(written[1]) == 6
    assert written[1] == written[2] == written[3]


# -- where one fails alone -------------------------------------------------------------------------


def command(*words: str) -> list[str]:
    return ["-m", "vaeprobe", *words]


@pytest.mark.parametrize("failing", [0, 1])
def test_what_fails_in_one_process_is_said_once_and_ends_all_with_its_exit_code(failing: int) -> None:
    words = [command("orthogonality", MLP, "-n", "8", "--json") for _ in range(2)]
    words[failing][3] = "none.pt"
    several = ends(start(2, words, MASTER_PORT=str(free_ports())))
    assert [code for code, _, _ in several] == [5, 5]
    assert [out for _, out, _ in several][1] == ""
    body = json.loads(several[0][1])
    assert body["exit_code"] == 5
    whose = f"process {failing} of 2 failed: "
    assert body["error"]["message"].removeprefix(whose) == "there is no file `none.pt`"
    assert body["error"]["message"].startswith(whose) or failing == 0
    err = "".join(err for _, _, err in several)
    assert err.count("error: ") == 1
    assert "there is no file `none.pt`" in err


@pytest.mark.parametrize(
    "words",
    [
        ("orthogonality", LINEAR, "-n", "8"),
        ("check", LINEAR, *RULE),
        ("train-linear", "sample_models/digits.npy", "--latent-dim", "2"),
        ("posterior", "sample_models/digits_conv.safetensors", "--data", "sample_models/digits.npy"),
    ],
)
def test_processes_that_read_different_files_do_not_mix_them(words: tuple[str, ...], tmp_path: Path) -> None:
    place = words.index("--data") + 1 if "--data" in words else 1
    other = tmp_path / Path(words[place]).name
    np.save(other, 2 * np.load(words[place]))
    both = [command(*words), command(*words[:place], str(other), *words[place + 1 :])]
    several = ends(start(2, both, MASTER_PORT=str(free_ports())))
    assert [code for code, _, _ in several] == [5, 5]
    told = "".join(out + err for _, out, err in several)
    assert told.count("process 1 of 2 reads another file than process 0") == 1


def test_what_is_refused_as_unsafe_is_refused_by_all_and_said_once(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("true",)

    file = tmp_path / "model.pt"
    file.write_bytes(pickle.dumps(Harmful()))
    words = command("beta", str(file), "--data", DIGITS, "--json")
    several = ends(start(2, [words] * 2, MASTER_PORT=str(free_ports())))
    assert [code for code, _, _ in several] == [4, 4]
    assert json.loads(several[0][1])["error"]["code"] == "unsafe"
    assert several[1][1:] == ("", "")
    assert several[0][2].count("error: ") == 1


@pytest.mark.parametrize(("rank", "documents"), [("0", 1), ("1", 0), (None, 1)])
def test_why_processes_cannot_join_is_a_line_of_each_and_one_document(
    rank: str | None, documents: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    assert cli.run(["beta", MLP, "--data", DIGITS, "--json"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: WORLD_SIZE says that 2 processes share this run, and ")
    assert out.count('"exit_code": 2') == documents


# each process touches a file when it is at work, and sleeps
SLOW = """
import os, sys, time
from pathlib import Path
from vaeprobe.engine import chunks

at_work = Path(sys.argv.pop(1) + os.environ["RANK"])
one = chunks.Sweep._one

def slow(self, part, together):
    at_work.touch()
    end = time.time() + 120
    while time.time() < end:
        time.sleep(0.05)
    one(self, part, together)

chunks.Sweep._one = slow
from vaeprobe.cli import main
main()
"""


def signalled(number: int, ranks: list[int], folder: Path) -> list[Ended]:
    arguments = ["orthogonality", MLP, "-n", "32", "--chunk", "8", "-q", "--resume", str(folder / "run.kept")]
    running = start(
        2, [["-c", SLOW, str(folder / "at work "), *arguments]] * 2, MASTER_PORT=str(free_ports())
    )
    until = time.monotonic() + 200
    while time.monotonic() < until and len(list(folder.glob("at work *"))) < 2:
        time.sleep(0.05)
    for rank in ranks:
        running[rank].send_signal(number)
    return ends(running)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("ranks", [[0], [1], [0, 1]])
def test_a_signal_to_any_process_ends_all_and_is_said_once(ranks: list[int], tmp_path: Path) -> None:
    several = signalled(signal.SIGTERM, ranks, tmp_path)
    assert [code for code, _, _ in several] == [143, 143]
    assert [out for _, out, _ in several] == ["", ""]
    err = "".join(err for _, _, err in several)
    where = tmp_path / "run.kept"
    assert err == f"vaeprobe: stopped; nothing was kept in {where} yet\n"  # each sleeps in its first chunk


# every chunk takes its time, and is counted in a file
COUNTED = """
import os, sys, time
from dataclasses import replace
from pathlib import Path
from vaeprobe.engine import chunks

counter, nap = Path(sys.argv.pop(1) + os.environ.get("RANK", "0")), float(sys.argv.pop(1))
one = chunks.Sweep._one

def counted(self, part, together):
    def work(chunk):
        time.sleep(nap)
        with open(counter, "a") as file:
            file.write("x")
        return self.work(chunk)
    one(replace(self, work=work), part, together)

chunks.Sweep._one = counted
from vaeprobe.cli import main
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 3), (3, 1)])
def test_a_killed_run_goes_on_with_any_number_of_processes(before: int, after: int, tmp_path: Path) -> None:
    words = ["orthogonality", MLP, "-n", "48", "--chunk", "4", "--rotations", "19", "--json"]
    kept = [*words, "--resume", str(tmp_path / "run.kept")]

    def counts(name: str) -> list[int]:
        return [file.stat().st_size for file in sorted(tmp_path.glob(f"{name}[0-9]"))]

    def begun(world: int, name: str, nap: float, words: list[str]) -> list[subprocess.Popen[str]]:
        own = ["-c", COUNTED, str(tmp_path / name), str(nap), *words]
        return start(world, [own] * world, MASTER_PORT=str(free_ports()))

    ((code, whole, _),) = ends(begun(1, "alone", 0.0, words))
    assert code == 0
    running = begun(before, "killed", 0.2, kept)
    until = time.monotonic() + 200
    while time.monotonic() < until and (len(counts("killed")) < before or min(counts("killed")) < 2):
        time.sleep(0.05)
    for p in running:
        p.kill()
    ends(running)
    first, *others = ends(begun(after, "again", 0.0, kept))
    assert first[0] == 0
    assert first[2].startswith(f"going on from {tmp_path / 'run.kept'}, which holds ")
    assert others == [(0, "", "")] * (after - 1)
    same(json.loads(whole)["metrics"], json.loads(first[1])["metrics"])
    # a chunk that was being written at the end is done again; the last, a second look at a few latents, by each process
    assert sum(counts("alone")) <= sum(counts("again")) + sum(counts("killed"))
    assert sum(counts("again")) - after <= sum(counts("alone")) - 1 - before


# -- the board -------------------------------------------------------------------------------------


def board(world: int, rank: int = 0, store: Any = None, *, elsewhere: bool = True) -> Board:
    import torch

    hash_store: Any = torch.distributed.HashStore  # type: ignore[attr-defined]
    return Board(store if store is not None else hash_store(), rank, world, elsewhere)


USAGE = End(1, 2, "usage", "no such option: --x", "a hint")


def test_all_end_as_the_first_that_failed() -> None:
    first = board(3)
    third = board(3, 2, first.store)
    assert first.failure() is None
    assert third.ended(USAGE) == USAGE
    assert first.ended(End(0, 5, "unreadable", "no file")) == USAGE
    assert first.failure() == third.failure() == USAGE
    error = USAGE.error(3)
    assert (error.exit_code, error.code, error.hint) == (2, "usage", "a hint")
    assert error.message == "process 1 of 3 failed: no such option: --x"
    # what fails alike in all is the fault of none, and what names its process names it once
    assert USAGE.error(3, own=USAGE.message).message == USAGE.message
    assert End(2, 2, "usage", error.message).error(3).message == error.message
    assert End.of(gone([1], 3, "killed"), 0).error(3).message.startswith("process 1 of 3 has ended")
    assert FAILED.match(gone([], 3, "").message)
    assert FAILED.match(gone([1, 2], 3, "").message)


def test_one_process_has_the_floor_the_first_before_others() -> None:
    first = board(2)
    second = board(2, 1, first.store)
    assert first.take_the_floor(60.0)
    assert not second.take_the_floor(60.0)
    second = board(2, 1)
    assert second.take_the_floor(0.1)
    assert not board(2, 0, second.store).take_the_floor()


def test_who_joined_before_the_first_leaves_it_to_say_that_it_is_stopped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "place", None)  # that of a run that was interrupted before, in this process

    def ended(joined: bool) -> str:
        first = board(2)
        if joined:
            first.live()
        assert Shared(board(2, 1, first.store), lambda error: None).stopped(143) == 143
        return capsys.readouterr().err

    assert ended(joined=False) == ""
    assert ended(joined=True) == "vaeprobe: stopped; no partial output was written\n"


class Gone:
    """A store whose keeper is gone."""

    def __getattr__(self, name: str) -> Any:
        def ask(*arguments: object) -> None:
            raise RuntimeError("connection reset by peer")

        return ask


@pytest.mark.parametrize("elsewhere", [False, True])
def test_where_the_board_is_gone_one_process_speaks_and_what_was_known_stands(elsewhere: bool) -> None:
    several = [board(3, rank, Gone(), elsewhere=elsewhere) for rank in range(3)]
    # the keeper is the first process, which is gone with it, or torchrun
    assert [b.take_the_floor() for b in several[1:]] == ([False, False] if elsewhere else [True, False])
    assert several[1].failure() is None
    assert several[1].ended(USAGE) == USAGE
    assert several[1].ended(End(1, 143, STOPPED, "stopped")) == USAGE
    several[1].leave()


def test_a_silent_process_is_told_of_and_one_that_lives_is_not() -> None:
    first = board(3)
    lives, told = board(3, 1, first.store), list[bool]()
    watch, other = (
        Watch(first, lambda: told.append(True), silence=1.5),
        Watch(lives, lambda: None, silence=60),
    )
    watch.start()
    other.start()
    watch.join(30)
    assert told == [True]
    found = first.failure()
    assert found is not None
    assert (found.exit_code, found.message) == (
        6,
        "process 2 of 3 has ended or does not answer: no sign of life for 2 s",
    )
    lives.over.set()
    other.join(30)


def test_a_process_that_failed_is_told_of_and_who_ends_itself_is_not_told() -> None:
    first = board(2)
    told = list[str]()
    board(2, 1, first.store).ended(End(1, 143, STOPPED, "stopped"))
    watch = Watch(first, lambda: told.append("told"))
    watch.start()
    watch.join(30)
    assert told == ["told"]
    first.over.set()
    watch = Watch(first, lambda: told.append("again"))
    watch.start()
    watch.join(30)
    assert told == ["told"]
