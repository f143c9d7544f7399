"""The worker process of the command line: who gets one, what it may take, and how its death is told."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import vaeprobe
from vaeprobe.checkpoints import loading
from vaeprobe.cli import worker
from vaeprobe.contract import not_callable
from vaeprobe.errors import ResourceError
from vaeprobe.files import limits

from hostile_files import saved, state
from programs import before_linear

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")


def files(folder: Path) -> dict[str, str]:
    from safetensors.torch import save_file

    np.save(folder / "W.npy", np.eye(4, 2))
    save_file(state(), folder / "w.safetensors")
    (folder / "w.pt").write_bytes(saved(state()))
    (folder / "pictures").mkdir()
    return {p.name: str(p) for p in folder.iterdir()}


def test_only_files_that_something_interprets_get_a_worker(tmp_path: Path) -> None:
    f = files(tmp_path)
    assert worker.needed(["inspect", f["w.pt"]])
    assert worker.needed(["posterior", f["w.safetensors"], f"--data={f['pictures']}"])
    assert worker.needed(["check"])  # the policy names the models
    assert worker.needed(["train-linear", str(tmp_path / "*.pt")])
    assert not worker.needed(["orthogonality", f["W.npy"], "--json"])
    assert not worker.needed(["inspect", f["w.safetensors"]])
    assert not worker.needed(["inspect", f["w.pt"], "--help"])
    assert not worker.needed(["orthogonality", f["w.pt"], "--arch", "mine:net"])
    assert worker.needed(["inspect", "hf:owner/name"])
    assert worker.needed(["inspect", "file:" + f["w.pt"]])
    assert not worker.needed(["explain", "unsafe"])
    assert not worker.needed([])


def test_files_named_like_harmless_ones_get_a_worker(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.eye(4, 2))
    (tmp_path / "rows.csv").write_text("größe,x\n1,2\n")
    (tmp_path / "shards.bin.index.json").write_text('{"weight_map": {"w": "shard.bin"}}')
    for name in ("model.npz", "model.npy", "model.csv", "model.json"):
        (tmp_path / name).write_bytes(saved(state()))
    (tmp_path / "plain.txt").write_bytes(pickle.dumps(1))
    for k, made in enumerate(({"a": [1.5]}, [1, None], (True, "x"), "x", 1, 2.5, Path("x"), None)):
        (tmp_path / f"text{k}.csv").write_bytes(pickle.dumps(made, protocol=0))
    (tmp_path / "onnx.json").write_bytes(b"\x08\x09\x12\x00")
    harmless = {"rows.npz", "rows.csv"}
    for path in tmp_path.iterdir():
        assert worker.needed(["inspect", str(path)]) == (path.name not in harmless), path.name


def test_a_policy_may_name_models_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[check]\n")
    assert worker.needed(["check", "--config", str(tmp_path / "policy.toml")])


@pytest.mark.parametrize(
    ("arguments", "limited"),
    [(["--device", "cpu"], True), (["--device=cuda"], False), (["--device", "auto"], False), ([], True)],
)
def test_memory_is_limited_unless_an_accelerator_is_asked_for(arguments: list[str], limited: bool) -> None:
    code = "    return 44 if resource.getrlimit(resource.RLIMIT_DATA)[0] > 0 else 45"
    told = in_worker(code, arguments=["inspect", "x", *arguments]).stdout.strip()
    assert told == ("44" if limited else "45")


def run(*arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vaeprobe", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **how)  # type: ignore[call-overload, no-any-return]


def test_the_exit_code_and_the_document_are_those_of_the_command(tmp_path: Path) -> None:
    f = files(tmp_path)
    with_worker, without = (
        run("inspect", f["w.pt"], "--json"),
        run("inspect", f["w.pt"], "--json", "--no-sandbox"),
    )
    assert with_worker.returncode == without.returncode == 0
    assert with_worker.stdout == without.stdout
    assert json.loads(with_worker.stdout)["exit_code"] == 0


def in_worker(code: str, before: str = "", arguments: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run code in a worker, and print what became of it; `before` is run outside."""
    script = (
        "import os, resource, signal, socket, sys\nfrom vaeprobe.cli import worker\n"
        f"from vaeprobe.files import limits\n{before}\ndef command():\n{code}\n    return 0\n"
        f"ended = worker.run_in_worker(command, {list(arguments)})\n"
        "print(ended if isinstance(ended, int) else f'{ended.exit_code} {ended.message}')"
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("    return 3", "3"),
        ("    os._exit(0)", "6 .*made native code end the process (exit 0)"),
        ("    os._exit(3)", "6 .*made native code end the process (exit 3)"),
        ("    os.kill(os.getpid(), signal.SIGSEGV)", "6 .*crash.*SIGSEGV"),
        (
            "    limits.note_reading('`b.pt`')\n    os.kill(os.getpid(), signal.SIGABRT)",
            "6 .*`b.pt` made native code",
        ),
        ("    os.kill(os.getpid(), signal.SIGKILL)", "6 .*memory"),
        ("    os.kill(os.getpid(), signal.SIGXCPU)", "6 .*processor time"),
        ("    os.kill(os.getpid(), signal.SIGTERM)", "143"),
        ("    try:\n        bytearray(1 << 32)\n    except MemoryError:\n        return 42", "42"),
        (
            "    try:\n        [open(os.devnull) for _ in range(1000)]\n    except OSError:\n        return 43",
            "43",
        ),
    ],
)
def test_limits_and_deaths(code: str, told: str) -> None:
    out = in_worker(code).stdout.strip()
    assert out == told or (told.startswith("6") and out.startswith("6 ") and told.split(".*")[-1] in out)


def test_the_size_of_written_files_is_limited_and_no_core_is_dumped(tmp_path: Path) -> None:
    file = tmp_path / "large"
    code = (
        f"    file = open({str(file)!r}, 'wb', buffering=0)\n"
        "    try:\n        written = sum(file.write(bytes(1 << 20)) for _ in range(3))\n"
        "    except OSError as error:\n"
        "        return 45 if error.errno == 27 and resource.getrlimit(resource.RLIMIT_CORE)[0] == 0 else 1"
    )
    assert in_worker(code, before="limits.FILE_SIZE = 2 << 20").stdout.strip() == "45"
    assert file.stat().st_size == 2 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has namespaces")
def test_there_is_no_network_where_the_system_can_take_it_away(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = (
            "    apart = os.readlink('/proc/self/ns/net') != outside\n"
            f"    try:\n        socket.create_connection(('127.0.0.1', {port}), 5).close()\n"
            "    except OSError:\n        return 46 if apart else 1\n    return 1 if apart else 47"
        )
        told = in_worker(code, before="outside = os.readlink('/proc/self/ns/net')").stdout.strip()
        if told == "47":
            pytest.skip("the system allows no namespaces")
        assert told == "46"


def test_time_is_limited_while_a_file_is_loaded_and_not_after() -> None:
    loading = (
        "    from vaeprobe.files import limits\n    limits.LOADING_SECONDS = 1\n    os.environ['OMP_NUM_THREADS'] = '1'\n"
        "    with limits.loading(0):\n        before = resource.getrlimit(resource.RLIMIT_CPU)[0]\n"
        "    return 44 if 0 < before < 10 and resource.getrlimit(resource.RLIMIT_CPU)[0] != before else 1"
    )
    assert in_worker(loading).stdout.strip() == "44"
    assert limits.LOADING_SECONDS >= 5


def test_decodings_at_the_door_are_no_part_of_reading(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A small file may hold a network whose outputs are large: what it takes to try it out is no fault of the file."""
    inside, seen = [False], []

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        inside[0] = True
        yield
        inside[0] = False

    def watched(name: str, of: object) -> None:
        work = getattr(of, name)

        def told(*given: object) -> object:
            seen.append((name, inside[0]))
            return work(*given)

        monkeypatch.setattr(of, name, told)

    monkeypatch.setattr(limits, "loading", limited)
    watched("of", loading.formats)
    watched("_decoder", loading)
    np.save(tmp_path / "w.npy", np.eye(4, 2))
    loading.load(tmp_path / "w.npy")
    assert seen == [("of", True), ("_decoder", False)]


def test_who_limits_memory_is_said_where_it_runs_out() -> None:
    code = (
        "    from vaeprobe.cli import _as_ours\n    from vaeprobe.cli.refusals import fitting\n    try:\n        bytearray(1 << 32)\n    except MemoryError as error:\n"
        "        print(fitting(_as_ours(error).hint, ['--samples']))"
    )
    assert in_worker(code).stdout.splitlines() == [
        "what reads a stranger's file may take 1.9 GB, a limit of ours: --no-sandbox lifts it, or fewer --samples",
        "0",
    ]
    accelerated = in_worker(
        code.replace("bytearray(1 << 32)", "raise MemoryError"), arguments=["--device=cuda"]
    )
    assert accelerated.stdout.splitlines() == ["fewer --samples", "0"]


def test_memory_is_limited_while_a_file_is_loaded_and_not_after() -> None:
    """What a file may take comes on top of what the process has taken before it."""
    code = (
        "    def allowed():\n        return resource.getrlimit(resource.RLIMIT_DATA)[0]\n"
        "    import mmap\n    first = allowed()\n    with limits.loading(1 << 20):\n        one = allowed()\n"
        ""
        "    lifted, held = allowed(), mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE)\n    print(limits.more_than_there_is())\n"
        "    try:\n        with limits.loading(1 << 20):\n            two = allowed()\n            bytearray(1 << 32)\n"
        "    except MemoryError:\n        print(limits.more_than_there_is())\n"
        "    assert first == limits.MEMORY < one < first + (1 << 29) + (16 << 20), (first, one)\n"
        "    assert lifted == resource.getrlimit(resource.RLIMIT_DATA)[1] == 9 << 30, lifted\n"
        "    assert abs(two - one - (1 << 30)) < 1 << 27, (one, two)\n    return 44"
    )
    before, met, ended = in_worker(
        code, before="limits.physical_memory = lambda: 9 << 30"
    ).stdout.splitlines()
    assert before == "more memory than there is"
    assert re.fullmatch(r"more memory than the 3.\d GB that a stranger's file may take while it is read", met)
    assert ended == "44"


@pytest.mark.parametrize(
    ("confined", "numbers", "taken"), [(True, 64, True), (True, 65, False), (False, 65, True)]
)
def test_an_output_of_a_strangers_network_has_a_size(
    confined: bool, numbers: int, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_limits_memory", confined)
    monkeypatch.setattr(limits, "OUTPUT", 4 * 64)
    with contextlib.nullcontext() if taken else pytest.raises(ResourceError, match="a limit of ours"):
        vaeprobe.from_module(torch.nn.Linear(2, numbers), latent_dim=2)


def test_a_decoder_that_meets_the_limit_is_told_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    for limit in (None, 2_000_000_000):
        monkeypatch.setattr(limits, "_memory", limit)
        with pytest.raises(ResourceError) as caught:
            not_callable(None, torch.zeros(2, 3), MemoryError())
        said.append((caught.value.message, caught.value.hint))
    else_ = "free some memory, or probe a smaller decoder (--submodule, in Python submodule=)"
    assert said == [
        ("the decoder takes, for latents of shape (2, 3), more memory than there is", else_),
        (
            "the decoder takes, for latents of shape (2, 3), more memory than the 2.0 GB that a stranger's file may"
            " take while it is read",
            f"what reads a stranger's file may take 2.0 GB, a limit of ours: --no-sandbox lifts it, or {else_}",
        ),
    ]


def test_a_worker_ends_with_its_guardian(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = (
        "import os, time, pathlib\nfrom vaeprobe.cli import worker\n"
        f"def command():\n    pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n    time.sleep(60)\n    return 0\n"
        "worker.run_in_worker(command, [])"
    )
    for deadly in (signal.SIGTERM, signal.SIGKILL):
        mark.unlink(missing_ok=True)
        guardian = subprocess.Popen([sys.executable, "-c", script])
        until = time.monotonic() + 30
        while not (mark.exists() and mark.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        pid = int(mark.read_text())
        guardian.send_signal(deadly)
        guardian.wait(30)
        while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_a_program_without_end_is_exit_6(tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    path.write_bytes(
        before_linear("_x = torch.zeros([2048, 2048])", "while True:\n      _x = torch.mm(_x, _x)")
    )
    ended = run("orthogonality", str(path), "--json", env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 6
    assert json.loads(ended.stdout)["exit_code"] == 6
