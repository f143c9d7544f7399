"""How long a run may take, and several processes that share one: against one alone, in the same draws."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vaeprobe
from vaeprobe import budget
from vaeprobe.budget import Budget, about, in_time, within
from vaeprobe.cli.output import Forecast
from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram
from vaeprobe.engine.verbs import jacobian
from vaeprobe.probes.factorise import Factorise
from vaeprobe.probes.orthogonality import Orthogonality
from vaeprobe.probes.trace import Trace
from vaeprobe.processes import Processes


class Clock:
    """A clock that moves only when something is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(budget.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_without_a_budget_everything_is_one_piece_and_the_clock_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget.time, "monotonic", lambda: pytest.fail("asked the clock"))
    pieces: list[slice] = []
    fit = in_time(1000, pieces.append)
    assert pieces == [slice(0, 1000)]
    assert fit.whole
    assert Budget().affords(1e9)


@pytest.mark.parametrize("pace", [0.01, 0.1, 1.0])
def test_rows_are_done_in_growing_pieces_while_there_is_time(clock: Clock, pace: float) -> None:
    pieces: list[slice] = []

    def work(rows: slice) -> None:
        pieces.append(rows)
        clock.now += pace * (rows.stop - rows.start)

    with within(60.0):
        fit = in_time(1000, work, share=0.5)
    assert [p.start for p in pieces] == [0, *(p.stop for p in pieces[:-1])]
    assert fit.done == pieces[-1].stop
    # half of the time, and no piece that is longer than what is left
    assert clock.now - 100 <= 30 + 1e-9
    assert fit.done == min(1000, int(30 / pace)) or fit.done > 0.9 * 30 / pace
    assert fit.seconds == pytest.approx(1000 * pace)
    assert fit.whole == (pace == 0.01)


def test_the_first_rows_are_done_however_long_they_take(clock: Clock) -> None:
    def work(rows: slice) -> None:
        clock.now += 100.0

    with within(1.0):
        assert in_time(10, work, first=3).done == 3


def test_an_inner_budget_never_outlives_the_outer_one(clock: Clock) -> None:
    with within(10.0), within(100.0) as inner:
        assert inner.left == 10
    with within(100.0), within(10.0) as inner:
        assert inner.left == 10
        with within(None) as innermost:
            assert innermost.left == 10
        clock.now += 11
        assert inner.left == 0
        assert not inner.affords(1e-3)
    assert not budget.budget().bounded


def test_lengths_of_time_in_words() -> None:
    said = {0.2: "about a second", 2: "about 2 seconds", 89: "about 89 seconds", 91: "about 1.5 minutes"}
    said |= {5400.0: "about 1.5 hours", 1e6: "about 12 days"}
    assert {seconds: about(seconds) for seconds in said} == said


# -- probes within a time -------------------------------------------------------------------------------


def slow(seconds: float) -> Decoder:
    """Polar coordinates, at so many seconds a call."""

    def f(z: torch.Tensor) -> torch.Tensor:
        time.sleep(seconds)
        r, a = 2 + 0.3 * torch.tanh(z[:, 0]), z[:, 1]
        return torch.stack([r * torch.cos(a), r * torch.sin(a), 0.5 * z[:, 0]], dim=1)

    return Decoder(f, 2, dtype=torch.float64)


def test_what_does_not_fit_is_left_out_and_said() -> None:
    found = Orthogonality(samples=4096, chunk=4, time=2.0, rotations=9, restarts=0).measure(slow(0.01))
    (said,) = [f for f in found.findings if f.code == "time-limit"]
    n = found.mean_abs_cosine.n
    assert n is not None
    assert 8 <= n < 4096
    assert f"{n} of 4096 latents fitted into the time given; all would take about" in said.message
    whole = Orthogonality(samples=n, chunk=4, rotations=9, restarts=0).measure(slow(0.0))
    assert found.mean_abs_cosine.value == pytest.approx(whole.mean_abs_cosine.value, abs=1e-12)
    assert found.mean_abs_cosine.ci == pytest.approx(whole.mean_abs_cosine.ci, abs=1e-12)


def test_enough_time_changes_nothing() -> None:
    probe = Orthogonality(samples=64, rotations=99)
    timed = Orthogonality(samples=64, rotations=99, time=3600.0)
    a, b = probe.measure(slow(0.0)), timed.measure(slow(0.0))
    for id, metric in a.metrics.items():
        if isinstance(metric.value, float):
            assert b.metrics[id].value == pytest.approx(metric.value, abs=1e-12), id
    assert not [f for f in b.findings if f.code == "time-limit"]


def test_factorise_and_trace_end_in_time() -> None:
    f = Factorise(time=2.0, samples=4096, max_samples=4096, chunk=1, sheets=0, permutations=19)
    found = f.measure(slow(0.002))
    assert [x.code for x in found.findings if x.code == "time-limit"]
    assert found.evidence.drawn < 4096
    traced = Trace(time=2.0, samples=400).measure(slow(0.002))
    assert [x.code for x in traced.findings if x.code == "time-limit"]
    assert len(traced.paths.starts) < 400
    starts = sorted({seam.start for seam in traced.paths})
    assert starts == list(range(len(traced.paths.starts)))


# -- several processes ------------------------------------------------------------------------------

SHARED = """
import json, sys
import torch
sys.path.insert(0, TESTS)
import vaes
from vaeprobe.comparison.run import compare
from vaeprobe.decoder import Decoder
from vaeprobe.gate.policy import Policy, Rule
from vaeprobe.gate.run import Gate
from vaeprobe.probes.beta import Beta
from vaeprobe.probes.factorise import Factorise
from vaeprobe.probes.orthogonality import Orthogonality
from vaeprobe.probes.posterior import Posterior
from vaeprobe.probes.trace import Trace
from vaeprobe.processes import joined

def has_pairs(value):
    return isinstance(value, tuple | list) and any(isinstance(v, tuple | list | None) for v in value)

def numbers(metrics):
    return {m.id: m.value for m in metrics if not has_pairs(m.value)}

def f(z):
    return torch.tanh(z @ W) @ V

generator = torch.Generator().manual_seed(0)
W, V = torch.randn(3, 16, generator=generator), torch.randn(16, 8, generator=generator)
with joined() as processes:
    decoder = Decoder(f, 3, dtype=torch.float32)
    vae = vaes.linear_vae(beta=2.0, noise=0.1)
    of_data = {"data": vae.x.numpy(), "samples": 41, "likelihood": "gaussian", "chunk": 6}
    probes = [
        (Orthogonality(samples=40, chunk=7, rotations=99), decoder),
        (Factorise(samples=16, max_samples=16, chunk=5, sheets=0, permutations=19), decoder),
        (Trace(samples=2, components="0", chunk=1), decoder),
        (Posterior(**of_data), vae.decoder),
        (Beta(**of_data), vae.decoder),
    ]
    found = [numbers(probe.measure(of).metrics.values()) for probe, of in probes]
    compared = compare([decoder, Decoder(lambda z: f(2 * z), 3, dtype=torch.float32)], samples=16, rotations=9)
    found.append(numbers(compared.metrics.values()))
    limits = {"orthogonality.mean_abs_cosine": 0.5, "orthogonality.mean_field_gap": 5.0}
    rules = {id: Rule(metric=id, side="max", limit=limit) for id, limit in limits.items()}
    gate = Gate(policy=Policy(rules=rules, samples=16, max_samples=64))
    found.append(numbers(outcome.metric for outcome in gate.check_decoder("model", decoder).outcomes))
    taken = processes.shared(range(5), lambda k: (k, processes.rank), "tasks")
print(json.dumps([found, taken]))
""".replace("TESTS", repr(str(Path(__file__).parent)))


def run_in_two() -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED],
            env={**env, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        return [p.communicate(timeout=240)[0] for p in running]
    finally:
        for p in running:
            p.kill()


def test_two_processes_find_what_one_finds(capsys: pytest.CaptureFixture[str]) -> None:
    exec(SHARED, {})
    alone = json.loads(capsys.readouterr().out)
    first, second = map(json.loads, run_in_two())
    assert first == second
    for one, two in zip(alone[0], first[0], strict=True):
        assert one.keys() == two.keys()
        for id, value in one.items():
            assert two[id] == (
                value if isinstance(value, str | None) else pytest.approx(value, rel=1e-10, abs=1e-12)
            ), id
    assert alone[1] == [[k, 0] for k in range(5)]
    assert first[1] == [[k, k % 2] for k in range(5)]


class Ranks(Processes):
    """The second of two processes, whose partner finds nothing."""

    def together(self, work):  # type: ignore[no-untyped-def]
        return work()

    def summed(self, out: torch.Tensor) -> torch.Tensor:
        return out


def test_each_process_takes_every_other_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(10, 2, dtype=torch.float64)
    decoder = Decoder(lambda z: torch.stack([z[:, 0] * z[:, 1], z[:, 0].square()], 1), 2, dtype=z.dtype)
    whole = [gram(decoder, z, chunk=3), jacobian(decoder, z, chunk=3)]
    halves = []
    for rank in range(2):
        for module in ("chunks", "verbs"):
            monkeypatch.setattr(f"vaeprobe.engine.{module}.current", lambda rank=rank: Ranks(rank, 2))
        halves.append([gram(decoder, z, chunk=3), jacobian(decoder, z, chunk=3)])
    for k in range(2):
        mine, other = halves[0][k], halves[1][k]
        torch.testing.assert_close(mine + other, whole[k], rtol=0, atol=0)
        assert mine.flatten(1).any(1).tolist() == [True] * 3 + [False] * 3 + [True] * 3 + [False]


# -- what is said on the way ---------------------------------------------------------------------------


def test_long_work_is_forecast_once_as_soon_as_its_pace_is_known(clock: Clock) -> None:
    said: list[str] = []
    forecast = Forecast(said.append)
    for done in range(0, 100, 10):
        forecast("Jacobians, 12 nats", done, 100)
        clock.now += 10.0
    assert len(said) == 1
    assert said[0].startswith("Jacobians: about 1.5 minutes more")
    assert said[0].endswith("; --time SECONDS bounds a run")


def test_short_work_is_not_forecast(clock: Clock) -> None:
    said: list[str] = []
    forecast = Forecast(said.append)
    for done in range(100):
        forecast("Jacobians", done, 100)
        clock.now += 0.2
    for _ in range(5):  # one after the other, each short
        for done in range(10):
            forecast("latents", done, 10)
            clock.now += 1.0
        forecast("latents", 10, 10)
    assert said == []


def test_a_forecast_within_a_budget_names_its_end(clock: Clock) -> None:
    said: list[str] = []
    forecast = Forecast(said.append)
    with within(60.0):
        forecast("Jacobians", 0, 1000)
        clock.now += 10.0
        forecast("Jacobians", 10, 1000)
    assert said[0].startswith("Jacobians: until --time is over")


def test_long_work_is_foretold_before_it_begins(clock: Clock) -> None:
    """From 20 seconds on; its progress is forecast only where it takes over half as long again."""
    said: list[str] = []
    forecast = Forecast(said.append)
    forecast.foretell("9 latents", 19.9, 0.0)
    assert said == []
    forecast.foretell("32 latents of 4 columns", 120.0, 5e12)
    assert said[0].startswith("32 latents of 4 columns: about 2 minutes, 5")
    assert said[0].endswith("GB of memory; --time SECONDS bounds a run")
    forecast("Jacobians", 0, 100)
    clock.now += 10.0
    forecast("Jacobians", 10, 100)
    assert len(said) == 1, "as foretold"
    clock.now += 40.0
    forecast("Jacobians", 11, 100)
    assert len(said) == 2
    with within(60.0):
        forecast.foretell("256 latents", 300.0, 0.0)
    assert said[2].startswith("256 latents: about 60 seconds of the about 5 minutes that it would take")


@pytest.mark.parametrize("part", ["channels", "all"])
def test_what_is_foretold_is_what_is_done(monkeypatch: pytest.MonkeyPatch, part: Any) -> None:
    """Directions and primals that are pushed, those of random products included, within a half."""
    from vaeprobe.engine import costs, methods, verbs
    from vaeprobe.progress import listening

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Unflatten(1, (3, 4, 4)), nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 2, 1)
    )
    decoder = Decoder(network.double().eval(), 48, latent_shape=(3, 4, 4))
    done = {"rows": 0, "asked": 0}
    push, pull = methods.Choice.push, verbs.gradient

    def counted(self: Any, f: Any, x: Any, v: Any) -> Any:
        done["rows"] += len(x) * (1 + len(v))
        return push(self, f, x, v)

    def pulled(y: Any, leaf: Any, *more: Any, **rest: Any) -> Any:
        done["rows"] += 2 * len(leaf)
        return pull(y, leaf, *more, **rest)

    def paced(decoder: Any) -> float:
        done["asked"] += 1
        return 1.0

    monkeypatch.setattr(methods.Choice, "push", counted)
    monkeypatch.setattr(verbs, "gradient", pulled)
    monkeypatch.setattr(costs, "pace", paced)
    told: list[float] = []
    with listening(lambda *_: None, lambda what, seconds, bytes: told.append(seconds)):
        vaeprobe.orthogonality(decoder, samples=40, part=part, rotations=9)
    assert len(told) == 1
    assert done["rows"] / 1.5 < told[0] < 1.5 * done["rows"]
    vaeprobe.orthogonality(decoder, samples=8, part=part, rotations=9)
    assert done["asked"] == 1, "nobody listens"
