"""Decoders that take fewer latents than there are processes: these share the directions, and find what one finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ports import free_ports

from vaeprobe import cli, processes
from vaeprobe.errors import ResourceError

# nine directions by two at a time at one latent are five turns, which two or three processes share; a decoder of one
# turn is done by all
SCRIPT = """
import json, os, sys
import torch
from vaeprobe import kept
from vaeprobe.decoder import Decoder
from vaeprobe.engine import chunks, gram, jacobian, pullback, pushforward
from vaeprobe.engine.matrix_free import energies, singular_triplets
from vaeprobe.errors import VaeprobeError
from vaeprobe.geometry.smoothness import _Look, _nested, metric_derivatives
from vaeprobe.inference.moments import log_density_and_score
from vaeprobe.likelihoods import by_name
from vaeprobe.probes.orthogonality import Orthogonality
from vaeprobe.probes.trace import Trace
from vaeprobe.processes import joined

kept.RATE = float("inf")
generator = torch.Generator().manual_seed(0)
W, V = torch.randn(9, 40, generator=generator), torch.randn(40, 30, generator=generator)
rows = 0

def f(z):
    global rows
    rows += len(z)
    return torch.sigmoid(torch.tanh(z @ W) @ V)

def found(decoder, likelihood):
    z = torch.randn(1, 9, generator=torch.Generator().manual_seed(1))
    v, w = torch.randn(5, 1, 9), torch.randn(5, 1, 30)
    yield gram(decoder, z)
    yield gram(decoder, z, likelihood=likelihood)
    yield gram(decoder, z, columns=torch.tensor([[1, 4, 7]]))
    yield jacobian(decoder, z)
    yield from pushforward(decoder, z, v)
    yield pullback(decoder, z, w)
    yield from metric_derivatives(decoder, z, list(range(9)), likelihood=likelihood)
    yield from _Look(_nested(decoder.flat, 1), 2, ("slopes",)).at(*(z.repeat(5, 1) * s for s in (1, 2, 3)))
    yield from log_density_and_score(decoder, likelihood, torch.rand(5, 30).round(), z.repeat(5, 1))
    e = energies(decoder, z, probes=5)
    yield from (e.off, e.total, singular_triplets(decoder, z, 2).s)
    for probe in (Orthogonality(samples=2, rotations=9, restarts=0), Trace(samples=1, components="0", length=0.3)):
        metrics = probe.measure(decoder).metrics.values()
        yield torch.tensor([m.value for m in metrics if isinstance(m.value, float)]).double()

torch.manual_seed(3)
with joined() as processes, kept.keeping(sys.argv[1] if len(sys.argv) > 1 else None) as store:
    decoder = Decoder(f, 9, dtype=torch.float32)
    likelihood = by_name("bernoulli", (30,))
    gram(decoder, torch.zeros(2, 9))
    if len(sys.argv) > 2:  # a process that ends in the midst of the work
        if processes.rank == 1:
            os._exit(9)
        try:
            list(found(decoder, likelihood))
        except VaeprobeError as error:
            print(json.dumps([error.exit_code, error.message, error.hint]))
            sys.stdout.flush()
            os._exit(0)
    chunks.BUDGET = 2 * 40 * 4
    rows = 0
    out = [t.flatten().tolist() for t in found(decoder, likelihood)]
    print(json.dumps([out, rows, store.saved if store else 0]))
"""


def run(world: int, *arguments: str) -> list[Any]:
    """What each process prints."""
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports()), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            env={**env, "WORLD_SIZE": str(world), "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        return [json.loads(out) if (out := p.communicate(timeout=240)[0]) else None for p in running]
    finally:
        for p in running:
            p.kill()


@pytest.fixture(scope="module")
def alone() -> Any:
    return run(1)[0]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_directions_and_find_what_one_finds(world: int, alone: Any) -> None:
    several = run(world)
    for one in several:
        for found, right in zip(one[0], alone[0], strict=True):
            assert found == pytest.approx(right, rel=1e-10, abs=1e-12)
        assert one[1] < alone[1]


def test_processes_keep_what_each_measures_and_go_on_from_it_together(tmp_path: Path, alone: Any) -> None:
    path = tmp_path / "run.kept"
    first = run(2, str(path))
    assert (tmp_path / "run.kept.1").exists()
    again = run(2, str(path))
    single = run(1, str(path))[0]
    for one in (*first, *again, single):
        for found, right in zip(one[0], alone[0], strict=True):
            assert found == pytest.approx(right, rel=1e-10, abs=1e-12)
    for one in (*again, single):
        assert one[1] < 0.5 * first[0][1]
        assert one[2] > 0


def test_the_death_of_a_process_ends_the_others_with_a_clear_error(tmp_path: Path) -> None:
    first, second = run(2, str(tmp_path / "a.kept"), "dies")
    assert second is None
    assert first[0] == 6
    assert first[1].startswith("a process of this run has ended or does not answer")
    assert "torchrun" in first[2]


MODEL = "sample_models/linear.npy"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "two"}, "the environment's WORLD_SIZE is `two`, which is no number of processes"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "the environment's RANK is `-1`"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2, and WORLD_SIZE 2"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR and MASTER_PORT are not set"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1"}, "MASTER_PORT is not set"),
    ],
)
@pytest.mark.parametrize("command", [["orthogonality", MODEL], ["compare", MODEL, MODEL], ["check", MODEL]])
def test_half_of_what_torchrun_sets_is_told_at_once(
    environment: dict[str, str],
    says: str,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    rule = ["--rule", "orthogonality.alignment=0.5"] if command[0] == "check" else []
    assert cli.run([*command, *rule]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "unset RANK and WORLD_SIZE" in err.replace("\n", " ")


def test_a_rank_without_others_is_no_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert cli.run(["train-linear", "sample_models/digits.npy", "--latent-dim", "2", "-q"]) == 0
    assert "verdict" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["inspect", MODEL], ["convert", MODEL, "-o"], ["explain", "torchrun"]])
def test_what_processes_do_not_share_is_done_by_the_first_alone(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    page = tmp_path / "page.safetensors"
    assert cli.run([*command, *([str(page)] if command[-1] == "-o" else [])]) == 0
    out, err = capsys.readouterr()
    assert (out, page.exists()) == ("", False)
    assert f"process 1 of 2 has nothing to do: {command[0]} runs in the first one" in err


def test_who_waits_for_others_says_for_whom_and_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_ports()
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "PATIENCE", 0.1)
    told = list[str]()
    with (
        pytest.raises(
            ResourceError, match=rf"not all 2 processes of this run came together at 127\.0\.0\.1:{port}"
        ),
        processes.joined(timeout=1, say=told.append),
    ):
        pass
    assert len(told) == 1
    assert told[0].startswith(f"process 0 of 2 waits for the others at 127.0.0.1:{port}, up to 1 s")
