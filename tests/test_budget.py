"""How long a run may take, and several processes that share one: against one alone, in the same draws."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ports import free_ports
from torch import nn

import vaeprobe
from vaeprobe import budget
from vaeprobe.budget import NO_TIME, Budget, TimeIsOver, about, in_time, spared, within
from vaeprobe.cli import run
from vaeprobe.cli.output import Forecast, progress_bar
from vaeprobe.cli.running import timed
from vaeprobe.comparison.numbers import decodings, foretell_seeing, see
from vaeprobe.comparison.run import _rows_in_time, compare
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.engine import gram
from vaeprobe.engine.costs import DIRECTION, pace
from vaeprobe.engine.methods import choose
from vaeprobe.engine.verbs import jacobian
from vaeprobe.findings import TIME_LIMIT
from vaeprobe.geometry import nearest
from vaeprobe.geometry.smoothness import smoothness
from vaeprobe.probes.factorise import Factorise, FactoriseResult
from vaeprobe.probes.orthogonality import Orthogonality
from vaeprobe.probes.trace import Trace
from vaeprobe.processes import Processes
from vaeprobe.progress import tell
from vaeprobe.report import Finding
from vaeprobe.result import Result
from vaeprobe.traversal.run import traverse


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


def test_time_is_left_for_what_comes_after(clock: Clock) -> None:
    with within(10.0), spared(4.0) as inner:
        assert inner.left == 6
    with within(10.0), spared(40.0) as inner:
        assert inner.left == 0
    with spared(4.0) as inner:
        assert not inner.bounded


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
    assert (
        f"{n} of 4096 latents fitted into their part of the time given; all would take about" in said.message
    )
    whole = Orthogonality(samples=n, chunk=4, rotations=9, restarts=0).measure(slow(0.0))
    assert found.mean_abs_cosine.value == pytest.approx(whole.mean_abs_cosine.value, abs=1e-12)
    assert found.mean_abs_cosine.ci == pytest.approx(whole.mean_abs_cosine.ci, abs=1e-12)


def test_however_little_time_there_is_lasts_for_an_answer() -> None:
    """Two latents have a spread, one has none; what they take beyond the time is told by the command (`timed`)."""
    with budget.within(0.0):
        found = Orthogonality(samples=8, rotations=9, restarts=0).measure(slow(0.0))
        factorised = Factorise(samples=64, permutations=19).measure(slow(0.0))
    assert found.mean_abs_cosine.n == 2
    assert found.mean_abs_cosine.ci is not None
    assert any(f.message.startswith("2 of 8 latents fitted") for f in found.findings)
    assert factorised.verdict != "undefined"
    assert any("lasted for 4 latents;" in f.message for f in factorised.findings)


def test_enough_time_changes_nothing() -> None:
    probe = Orthogonality(samples=64, rotations=99)
    timed = Orthogonality(samples=64, rotations=99, time=3600.0)
    a, b = probe.measure(slow(0.0)), timed.measure(slow(0.0))
    for id, metric in a.metrics.items():
        if isinstance(metric.value, float):
            assert b.metrics[id].value == pytest.approx(metric.value, abs=1e-12), id
    assert not [f for f in b.findings if f.code == "time-limit"]


def ticking(clock: Clock, seconds: float) -> Decoder:
    """The same, at so many seconds a row, by a clock that nobody waits for."""

    def f(z: torch.Tensor) -> torch.Tensor:
        clock.now += seconds * len(z)
        return still(z)

    still = slow(0.0)
    return Decoder(f, 2, dtype=torch.float64)


def test_a_report_leaves_out_what_no_time_is_left_for(clock: Clock) -> None:
    found = vaeprobe.survey(ticking(clock, 1.0), samples=4096, time=40.0)
    assert list(found.results) == ["orthogonality"]
    assert found.failed["factorise"] == found.failed["trace"] == NO_TIME
    assert found.failed["traverse"] == NO_TIME


def test_a_comparison_is_made_at_the_rows_that_fit(clock: Clock) -> None:
    """At what looking at eight rows tells of all, in half of the time that is left."""
    models = [ticking(clock, 1.0)] * 2
    rows = slow(0.0)(torch.randn(512, 2, generator=torch.Generator().manual_seed(0)).double())
    start = clock.now
    for model in models:
        see(model, rows[:8])
    eight = clock.now - start
    with within(20 * eight):
        fit = _rows_in_time(models, rows, 0)
    assert fit.done == pytest.approx(80, rel=0.05)
    assert fit.seconds == pytest.approx(64 * eight, rel=0.05)  # the first look chooses a method, too
    with within(eight / 2):
        assert _rows_in_time(models, rows, 0).done == 8
    found = vaeprobe.compare(models, samples=64, rotations=9, time=1.0)
    assert found.metrics["compare.mcc"].reason == NO_TIME


def test_a_traversal_averages_over_the_latents_that_fit(clock: Clock) -> None:
    found = vaeprobe.traverse(ticking(clock, 1.0), samples=4096, time=120.0)
    n = found.metrics["traverse.norm"].n
    assert n is not None
    assert 8 <= n < 4096
    assert f"{n} of 4096 latents fitted" in next(x for x in found.findings if x.code == "time-limit").message
    short = vaeprobe.traverse(slow(0.0), samples=4096)
    assert found.metrics["traverse.norm"].value == pytest.approx(
        short.metrics["traverse.norm"].value, rel=0.2
    )


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


def test_what_explains_a_verdict_is_left_out_where_no_time_is_left(clock: Clock) -> None:
    def measured(seconds: float) -> FactoriseResult:
        probe = Factorise(time=seconds, samples=32, max_samples=32, permutations=19, sheets=4)
        return probe.measure(Counted(clock, bent, 3).decoder)

    all_of_it, least, none = measured(1e9), measured(30.0), measured(1.0)
    extras = ("factorise.derivative_cross", "factorise.sheets", "factorise.curved_dependence")
    for id in extras:
        assert NO_TIME not in (all_of_it.metrics[id].reason or ""), id
        assert least.metrics[id].reason == NO_TIME, id
    for id in ("factorise.gap", "factorise.gap_null", "factorise.modulation"):
        assert least.metrics[id].value is not None, id
    assert all_of_it.evidence.skipped == frozenset()
    assert "Curved seams cannot be judged: no time was left for it." in least.summary
    assert any("no time was left for whether the decoder jumps, curved" in f.message for f in least.findings)
    assert not any("no time was left for" in f.message for f in all_of_it.findings)
    # the latents of a verdict are drawn all the same
    assert none.verdict == "undetermined"
    assert none.evidence.drawn == 4


def test_what_is_begun_and_cannot_end_in_time_is_left_out_too(clock: Clock) -> None:
    kinked = nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 12), nn.Tanh()).double()
    counted = Counted(clock, kinked, 3).decoder
    a, b, u = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert smoothness(counted, a, b, u).kind == "kinked"
    with within(1.0), pytest.raises(TimeIsOver):
        smoothness(counted, a, b, u)


class Counted:
    """A decoder that takes a second of the clock a call, and how often it was called."""

    def __init__(self, clock: Clock, f: Any, latent: int) -> None:
        self.clock = clock

        def counted(z: torch.Tensor) -> torch.Tensor:
            clock.now += 1.0
            return f(z)

        self.decoder = Decoder(counted, latent, dtype=torch.float64)

    def seconds(self, work: Any) -> float:
        start = self.clock.now
        work()
        return self.clock.now - start


def bent(z: torch.Tensor) -> torch.Tensor:
    """Arcs whose directions never tie: u = (a, b, c), turned about the third axis by an angle of its own."""
    a, b, c = z.unbind(1)
    x, y = torch.exp(0.5 * a) * torch.cos(0.7 * b), torch.exp(0.5 * a) * torch.sin(0.7 * b)
    return torch.stack([4 * x, 3 * y, c + 0.2 * a * b], dim=1)


def test_a_seam_ends_in_the_step_in_which_time_does(clock: Clock) -> None:
    """One frame more or less decides; what was traced is the beginning of what would have been."""
    from vaeprobe.seams import trace_paths
    from vaeprobe.seams.fields import DenseField

    counted = Counted(clock, bent, 3)
    z0 = torch.zeros(1, 3, dtype=torch.float64) + 0.1

    def trace(seconds: float | None) -> Any:
        with within(seconds):
            return trace_paths(
                counted.decoder, z0, components=[0], way="forward", scheme="smooth", length=1.0
            )

    whole = trace(None)[0]
    assert whole.stop == (None, "length")
    assert not whole.events
    total = counted.seconds(lambda: trace(None))
    frame = counted.seconds(lambda: DenseField(counted.decoder).frame(z0))
    assert total > 20 * frame
    enough, short = trace(total - frame + 0.5), trace(total - frame)
    assert enough.stops == {"length": 1}
    assert enough.share == 1.0
    assert short.stops == {"time": 1}
    n = len(short[0].t)
    assert 1 < n < len(whole.t)
    for name in ("t", "z", "v", "s"):
        torch.testing.assert_close(getattr(short[0], name), getattr(whole, name)[:n], rtol=0, atol=0)
    assert short.share == pytest.approx(float(short[0].t[-1]))
    # the first step is made however long it takes
    least = trace(frame)[0]
    assert least.stop == (None, "time")
    assert least.t.tolist() == whole.t[:2].tolist()


def test_a_tangle_of_crossings_is_located_while_there_is_time(clock: Clock) -> None:
    """Two singular values that cross: without time for bisection the crossing lies between the same nodes."""
    from vaeprobe.seams import trace_paths

    def crossing(z: torch.Tensor) -> torch.Tensor:
        return torch.stack([z[:, 0] + 0.5 * z[:, 0] ** 2, 1.3 * z[:, 1], 0.1 * z[:, 2]], dim=1)

    counted = Counted(clock, crossing, 3)

    def trace(seconds: float | None) -> Any:
        with within(seconds):
            z0 = torch.zeros(1, 3, dtype=torch.float64)
            return trace_paths(
                counted.decoder, z0, components=[1], way="forward", scheme="smooth", length=1.0
            )

    whole = trace(None)
    (sharp,) = [e for e in whole.events if e.kind == "crossing"]
    assert sharp.t == pytest.approx(0.3, abs=1e-7)  # 1 + t = 1.3
    total = counted.seconds(lambda: trace(None))
    seen = []
    for seconds in range(int(total), 0, -1):
        found = trace(float(seconds))
        if found.stops["time"]:
            break
        (event,) = [e for e in found.events if e.kind == "crossing"]
        assert event.ranks == sharp.ranks
        seen.append(abs(event.t - 0.3))
        assert math.isfinite(event.value)
    assert seen[0] < 1e-7
    assert 1e-3 < max(seen) < 0.4


def said_of_time(found: Any) -> str:
    (said,) = [f.message for f in found.findings if f.code == "time-limit"]
    return str(said)


def seconds_of(said: str) -> float:
    """What `about` says, in seconds."""
    number, unit = said.rsplit("about ", 1)[1].split()
    return float(number) * {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}[unit]


def test_trace_keeps_what_was_traced_of_its_first_start(clock: Clock) -> None:
    counted = Counted(clock, bent, 3)
    probe = Trace(samples=2, components="0,1", scheme="smooth", length=1.0)
    alone: list[Any] = []
    truth = counted.seconds(lambda: alone.append(probe.measure(counted.decoder)))
    (whole,) = alone

    cut = replace(probe, time=truth / 8).measure(counted.decoder)
    assert len(cut.paths.starts) == 1
    stopped = cut.paths.stops["time"]
    assert 0 < stopped <= 4
    assert 0 < cut.paths.share < 1
    said = said_of_time(cut)
    assert said.startswith(
        f"{stopped} of the 4 half-seams of the first start end where the time given was over, after"
    )
    # half of a run without a limit is the way back and the loops
    assert truth / 4 < seconds_of(said) < 1.5 * truth
    assert cut.straightness.n == 1
    assert cut.verdict == "undecided"
    assert "more --time would decide it" in cut.summary
    assert ["stop: time", stopped] in [row for s in cut.sections() for row in getattr(s, "rows", [])]

    least = replace(probe, time=1.0).measure(counted.decoder)
    assert least.verdict == "undecided"
    assert least.straightness.n == least.axis_overlap.n == 1
    assert 0 < least.paths.share < cut.paths.share
    assert truth / 20 < seconds_of(said_of_time(least)) < 20 * truth
    assert least.nonintegrability.reason == "the time given was over before it was measured"

    enough = replace(probe, time=4 * truth).measure(counted.decoder)
    assert not [f for f in enough.findings if f.code == "time-limit"]
    for id, metric in whole.metrics.items():
        assert enough.metrics[id].value == pytest.approx(metric.value, abs=1e-9), id


def test_starts_that_time_cuts_short_are_left_out(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that were begun together, whole ones with them: seams that end sooner would be too many."""
    slower = [1.0]

    def slowing(z: torch.Tensor) -> torch.Tensor:
        clock.now += slower[0]
        return bent(z)

    decoder = Decoder(slowing, 3, dtype=torch.float64)
    probe = Trace(samples=3, components="0", scheme="smooth", length=1.0)
    from vaeprobe.seams import tracing

    calls = []
    plain = tracing.trace_paths

    def second_is_slow(*a: Any, **k: Any) -> Any:
        calls.append(len(a[1]))
        slower[0] = 1.0 if len(calls) == 1 else 50.0
        return plain(*a, **k)

    monkeypatch.setattr("vaeprobe.seams.trace_paths", second_is_slow)
    found = replace(probe, time=2000.0).measure(decoder)
    assert len(calls) > 1
    assert len(found.paths.starts) == 1
    assert not found.paths.stops["time"]
    assert "1 of 3 starts fitted into their part of the time given" in said_of_time(found)
    assert found.return_error.reason == "the time given was over before it was measured"


def test_a_net_for_which_no_time_is_left_is_not_drawn(clock: Clock, tmp_path: Path) -> None:
    counted = Counted(clock, lambda z: bent(torch.cat([z, z[:, :1]], 1)), 2)
    probe = Trace(samples=1, scheme="smooth", svg=tmp_path / "net.svg", time=200.0)
    found = probe.measure(counted.decoder)
    assert found.net is None
    assert "svg" not in found.files()
    assert "no net of seams was drawn: the time given was over" in [f.message for f in found.findings]
    assert found.unwritten() == {"svg": "no net of seams was drawn: the time given was over"}


# -- a minute, by a clock of its own ------------------------------------------------------------------


class Costly:
    """A decoder that takes so many seconds of the clock a latent, whose forward mode takes as many again a direction."""

    def __init__(self, clock: Clock, seconds: float, f: Any, latent: int) -> None:
        self.longest = 0.0

        def costly(z: torch.Tensor) -> torch.Tensor:
            rows = len(z) * (2 if torch._C._functorch.maybe_current_level() else 1)
            clock.now += seconds * rows
            self.longest = max(self.longest, seconds * rows)
            return f(z)

        self.decoder = Decoder(costly, latent, dtype=torch.float64)


QUESTIONS = {
    "orthogonality": lambda **time: (
        Orthogonality(samples=256, rotations=19, restarts=0, chunk=1, **time).measure
    ),
    "factorise": lambda **time: (
        Factorise(samples=64, max_samples=256, permutations=19, chunk=1, sheets=8, **time).measure
    ),
    "trace": lambda **time: Trace(samples=4, chunk=1, **time).measure,
    "traverse": lambda **time: lambda decoder: traverse(decoder, samples=256, **time),
    "report": lambda **time: lambda decoder: vaeprobe.survey(decoder, samples=256, **time),
    "compare": lambda **time: lambda decoder: compare([decoder, decoder], samples=64, rotations=9, **time),
}


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("seconds", [0.03, 0.2, 1.0])
def test_a_minute_is_a_minute_and_a_unit(clock: Clock, name: str, seconds: float) -> None:
    """Never over it by more than one unit: a latent with all its columns; half of it at least is spent where work is left."""
    costly = Costly(clock, seconds, bent, 3)
    QUESTIONS[name](time=1e9)  # settings are looked at
    start, costly.longest = clock.now, 0.0
    found = QUESTIONS[name](time=60.0)(costly.decoder)
    took = clock.now - start
    # what the engine gives it at once, and derivatives of it in turn; every question of every model has its own
    unit = (4 if name == "compare" else 1) * 2 * max(costly.longest, 4 * seconds)
    assert took <= 60.0 + unit
    said = any(f.code == "time-limit" for f in found.findings) or getattr(found, "failed", None)
    if said:
        assert took >= 30.0


# -- several processes ------------------------------------------------------------------------------

SHARED = """
import json, sys
import torch
sys.path.insert(0, TESTS)
import vaes
from vaeprobe.comparison.run import compare
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
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
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports())}
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


def test_memory_of_one_process_is_not_told_as_that_of_several(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    Forecast(said.append).foretell("32 latents", 120.0, 0.0)
    monkeypatch.setattr("multiprocessing.active_children", lambda: [object()])
    Forecast(said.append).foretell("32 latents", 120.0, 0.0)
    assert [" GB of memory" in line for line in said] == [True, False]


@pytest.mark.parametrize(
    ("call", "at_once", "timed"), [(1e-4, 4096, [16, 128, 1024]), (1e-4, 24, [16, 24]), (1.0, 4096, [16])]
)
def test_a_pace_is_that_of_many_latents_where_few_take_no_time(
    clock: Clock, call: float, at_once: int, timed: list[int]
) -> None:
    """A call of so many seconds, and 1e-5 a latent."""
    calls: list[int] = []

    def f(z: torch.Tensor) -> torch.Tensor:
        calls.append(len(z))
        clock.now += call + 1e-5 * len(z)
        return z.sin()

    decoder = Decoder(f, 3)
    choose(decoder)
    calls.clear()
    found = pace(decoder, at_once) / DIRECTION
    assert calls == timed
    assert found == pytest.approx(call / calls[-1] + 1e-5)


@pytest.mark.parametrize("columns", [40, 80])
def test_what_is_counted_stays_whole_where_its_description_does_not_fit(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar():
        tell("rows of data whose description is longer than a line of a narrow terminal is", 3, 1797)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", sys.stderr.getvalue()))
    bars = [line for line in lines if "rows of" in line]
    assert bars
    assert all(re.search(r" [03]/1797 [-\d]:[-\d]{2}$", line) for line in bars), bars
    assert max(map(len, lines)) <= columns


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
        clock.now += 59.5
        forecast.foretell("256 latents", 300.0, 0.0)
        forecast.foretell("256 latents", 300.0, 0.0, least=2.0)
    assert said[2].startswith("256 latents: about 60 seconds of the about 5 minutes that it would take")
    assert said[3].startswith("256 latents: about 5 minutes, and no time is left: what fits is done")
    assert "the least of it about 2 seconds, and no time is left: no more than the least is done" in said[4]


def test_a_command_that_takes_longer_than_its_time_says_so() -> None:
    result = Result(metrics={})
    assert timed(result, 60.0, 65.9, 20.0) is result
    assert timed(result, None, 1e4, 20.0) is result
    (said,) = timed(result, 60.0, 66.1, 20.0).findings
    assert said.code == "time-limit"
    assert said.message.startswith(
        "the least that can be told took about 66 seconds, of which loading about 20 sec"
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("traverse A -o t.png", True),
        ("traverse A -o t.html", True),
        ("traverse A -q -o t.png", False),
        ("compare A A -n 8 --rotations 9 -o t.csv", True),
        ("report A -n 8 -o t.html", True),
    ],
)
def test_what_takes_longer_than_its_time_says_so_beside_a_file(
    command: str,
    said: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    over = Finding(TIME_LIMIT, "the least that can be told took long")
    monkeypatch.setattr("vaeprobe.cli.running.timed", lambda result, *_: replace(result, findings=(over,)))
    model = Path(__file__).parents[1] / "sample_models" / "digits_mlp.safetensors"
    words = command.replace("A", str(model)).replace("t.", f"{tmp_path / 't'}.").split()
    run(words)
    err = capsys.readouterr().err
    assert ("\nwarning: the least that can be told took long\n" in err) == said


@pytest.mark.parametrize("part", ["channels", "all"])
def test_what_is_foretold_is_what_is_done(monkeypatch: pytest.MonkeyPatch, part: Any) -> None:
    """Directions and primals that are pushed, those of random products included, within a half."""
    from vaeprobe.engine import costs, methods, verbs
    from vaeprobe.progress import listening

    torch.manual_seed(0)
    # a norm over all places, so that a latent reaches all outputs and columns are whole
    network = nn.Sequential(
        nn.Unflatten(1, (3, 4, 4)), nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.GroupNorm(1, 8), nn.Conv2d(8, 2, 1)
    )  # fmt: skip
    decoder = Decoder(network.double().eval(), 48, latent_shape=(3, 4, 4))
    done = {"rows": 0, "asked": 0}
    push, pull = methods.Choice.push, verbs.gradient

    def counted(self: Any, f: Any, x: Any, v: Any) -> Any:
        done["rows"] += len(x) * (1 + len(v))
        return push(self, f, x, v)

    def pulled(y: Any, leaf: Any, *more: Any, **rest: Any) -> Any:
        done["rows"] += 2 * len(leaf)
        return pull(y, leaf, *more, **rest)

    def paced(decoder: Any, at_once: int) -> float:
        done["asked"] += 1
        return 1.0

    monkeypatch.setattr(methods.Choice, "push", counted)
    monkeypatch.setattr(verbs, "gradient", pulled)
    monkeypatch.setattr(costs, "pace", paced)
    told: list[float] = []
    with listening(lambda *_: None, lambda what, seconds, bytes, least: told.append(seconds)):
        vaeprobe.orthogonality(decoder, samples=40, part=part, rotations=9)
    assert len(told) == 1
    assert done["rows"] / 1.5 < told[0] < 1.5 * done["rows"]
    vaeprobe.orthogonality(decoder, samples=8, part=part, rotations=9)
    assert done["asked"] == 1, "nobody listens"


def test_looking_for_rounding_is_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it pushes and pulls, beside what else traces and traverses do."""
    from vaeprobe.engine import costs, methods, rounding
    from vaeprobe.probes.rounded import looking_of, rounding_at
    from vaeprobe.probes.trace.probe import NODES
    from vaeprobe.progress import listening

    decoder = Decoder(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8)).double().eval(), 3)
    done, told = [0.0], list[tuple[float, float, float]]()
    push, pull = methods.Choice.push, rounding.gradient

    def counted(self: Any, f: Any, x: Any, v: Any) -> Any:
        done[0] += len(x) * (1 + len(v))
        return push(self, f, x, v)

    def pulled(y: Any, leaf: Any, *more: Any, **rest: Any) -> Any:
        done[0] += 2 * len(leaf) / DIRECTION
        return pull(y, leaf, *more, **rest)

    monkeypatch.setattr(methods.Choice, "push", counted)
    monkeypatch.setattr(rounding, "gradient", pulled)
    monkeypatch.setattr(costs, "pace", lambda decoder, at_once: 1.0)
    assert rounding_at(decoder, torch.zeros(4, 3), None) is None
    looking = done[0]
    assert looking < looking_of(decoder, 4) < 1.2 * looking
    with listening(lambda *_: None, lambda what, *costs: told.append(costs)):
        done[0] = 0
        traverse(decoder, samples=2, most=1, frames=2)
        (seconds, bytes, least) = told.pop()
        assert done[0] / 1.2 < seconds < 1.2 * done[0]
        assert least < seconds
        assert bytes > rounding.bytes_of(decoder)
        Trace(samples=4, components="0", length=0.1).measure(decoder)
        ((seconds, bytes, least),) = told
    assert seconds - 4 * NODES * (3 + 1) == pytest.approx(looking_of(decoder, 4))
    # once to choose components and once more, and a step both ways
    assert least == pytest.approx(4 * (3 + 1) + looking_of(decoder, 4))
    assert bytes == rounding.bytes_of(decoder)
    told.clear()
    with listening(lambda *_: None, lambda what, *costs: told.append(costs)):
        foretell_seeing(decoder, 16)
        rows = decodings([decoder], 16, 0)
        assert rows is not None
        done[0] = 0
        see(decoder, rows)
    ((seconds, _, _),) = told
    # an easy search, of a third of the usual steps
    assert done[0] < seconds - nearest.DRAWN / DIRECTION < 4 * done[0]
    told.clear()
    eyes = Encoder(lambda rows: (rows[:, :3].double(), torch.full((len(rows), 3), -5.0)), 3)
    coded = replace(decoder, encoder=eyes)
    with listening(lambda *_: None, lambda what, *costs: told.append(costs)):
        foretell_seeing(coded, 16)
        done[0] = 0
        see(coded, rows)
    ((seconds, _, _),) = told
    assert done[0] <= seconds < 1.2 * done[0]


def test_work_that_no_memory_holds_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    from vaeprobe.engine import costs
    from vaeprobe.errors import ResourceError
    from vaeprobe.files import limits

    decoder = Decoder(torch.sin, 2, dtype=torch.float64)
    monkeypatch.setattr(limits, "physical_memory", lambda: 10**9)

    def told(bytes: float) -> float | None:
        return costs.foretell_directions(decoder, 1, bytes, "3 latents of 4 columns", at_once=1)

    assert told(1e9) is None  # nobody asks
    with pytest.raises(ResourceError, match=r"3 latents of 4 columns would take 2\.0 GB") as refused:
        told(2e9)
    assert "--samples" in str(refused.value.hint)
    with within(60.0):  # as many as there is time for are taken
        assert told(2e9) is not None
