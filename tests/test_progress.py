"""Steps towards a goal: how many are foretold, against how many there are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vaeprobe.budget import within
from vaeprobe.linear import missing
from vaeprobe.probes.train_linear import TrainLinear
from vaeprobe.progress import Descent, listening

GOAL = 1e-6


def totals(heights: list[float], most: int, goal: float = GOAL) -> list[int]:
    """Return how many steps there are thought to be after each."""
    descent, found = Descent("steps", most), []
    for step, height in enumerate(heights, start=1):
        descent.step(step, height, goal)
        found.append(descent.total)
    return found


def test_steps_that_fall_at_one_rate_are_foretold_exactly_once_it_is_known() -> None:
    heights = [0.9**k for k in range(1, 101)]
    needed = math.ceil(math.log(GOAL) / math.log(0.9))
    assert totals(heights, 5000) == [5000] * 19 + [needed] * 81
    assert totals(heights, 100) == [100] * 100  # more than there may be


def test_the_last_quarter_of_the_steps_tells_the_rate() -> None:
    heights = [0.9**k for k in range(1, 101)] + [0.9**100 * 0.99**k for k in range(1, 101)]
    found = totals(heights, 5000, 1e-9)
    assert found[99] == 197  # at the first rate
    needed = 100 + (100 * math.log(0.9) - math.log(1e-9)) / math.log(1 / 0.99)
    assert found[133] == pytest.approx(
        needed, abs=1
    )  # 33 of 134 steps, and no more of them, are past the bend
    assert found[120] < 0.75 * needed


@pytest.mark.parametrize("heights", [[1.0] * 40, [1.01**k for k in range(40)], [math.inf] * 40])
def test_what_does_not_fall_takes_as_many_steps_as_there_may_be(heights: list[float]) -> None:
    assert set(totals(heights, 300)) == {300}


def test_what_has_fallen_to_nothing_or_has_no_goal_breaks_no_logarithm() -> None:
    assert totals([0.5**k for k in range(30)] + [0.0, -1.0], 300)[-1] == 33
    assert totals([0.5**k for k in range(1, 31)], 2000, 0.0)[-1] == pytest.approx(300 / math.log10(2), abs=1)


def counted(share: float, noise: float) -> tuple[list[tuple[float, float | None]], int]:
    """Return (step, steps foretold in all) of EM on rows with gaps, and how many it took."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)) * [3, 2, 0.5] @ rng.normal(size=(3, 12)) + noise * rng.normal(
        size=(200, 12)
    )
    X[rng.random(X.shape) < share] = np.nan
    seen: list[tuple[float, float | None]] = []
    with listening(lambda what, step, total: seen.append((step, total)), lambda *_: None):
        steps = missing.fit(X, 5).steps  # two more than there are: those that are slow to find
    return seen[:-1], steps


@pytest.mark.parametrize(("share", "noise"), [(0.1, 1.0), (0.3, 2.0), (0.2, 2.0)])
def test_em_is_foretold_as_it_is_counted(share: float, noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Descent, "OFTEN", 0.0)
    seen, steps = counted(share, noise)
    assert 40 < steps < 2000
    totals = {int(step): total for step, total in seen}
    assert totals[10] == missing.STEPS
    for part, near in ((0.5, 0.15), (0.75, 0.05)):
        assert totals[int(part * steps)] == pytest.approx(steps, rel=near)
    to_come = [totals[int(part * steps)] - int(part * steps) for part in (0.4, 0.6, 0.8, 0.95)]
    assert to_come == sorted(to_come, reverse=True)


@pytest.mark.parametrize(("slow", "said"), [(1.0, ["at most 300 steps", "about 34"]), (0.1, ["about 34"])])
def test_slow_steps_are_foretold_before_their_rate_is_known(
    monkeypatch: pytest.MonkeyPatch, slow: float, said: list[str]
) -> None:
    clock = iter(np.arange(0.0, 1e5, slow))
    now = [0.0]
    monkeypatch.setattr("vaeprobe.progress.time.monotonic", lambda: now[0])
    words: list[tuple[str, float]] = []
    with listening(lambda *_: None, lambda what, seconds, *_: words.append((what, seconds))):
        descent = Descent("EM", 300)
        for step in range(1, 41):
            now[0] = next(clock) + slow
            descent.step(step, 0.5**step * 1e10, 1e-6)
    assert [
        what.removeprefix("EM, ")[: len(start)] for (what, _), start in zip(words, said, strict=True)
    ] == said
    assert words[-1][1] == pytest.approx(34 * slow)  # log2(1e16) = 53.2 steps, less 20
    if len(words) == 2:
        assert words[0][1] == pytest.approx(298 * slow)


@pytest.mark.parametrize("method", ["em", "elbo"])
def test_time_ends_training_at_any_step(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(50, 6)) * [3, 2, 1, 1, 1, 1]
    monkeypatch.setattr(Descent, "pace", 1e9)  # no step more fits
    with within(1e6):
        found = TrainLinear(latent_dim=2, methods=(method,), bootstrap=0, tolerance=0.0).measure(X)
    run = found.fit.certificates[0].run
    assert (run.stopped, run.steps) == ("time", {"em": 0, "elbo": 1}[method])
    (finding,) = (f for f in found.findings if f.code == "not-converged")
    assert "no time was left" in finding.message
    assert finding.hint == "more --time, or none"
    assert (
        TrainLinear(latent_dim=2, methods=(method,), bootstrap=0, steps=3, tolerance=0.0)
        .measure(X)
        .fit.certificates[0]
        .run.stopped
        == "steps"
    )


def test_time_ends_em_on_missing_values_at_any_step_and_steps_do(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(50, 6)) * [3, 2, 1, 1, 1, 1]
    X[3, 4] = np.nan
    probe = TrainLinear(latent_dim=2, missing="em", bootstrap=0, steps=4)
    fitted = probe.measure(X).fit.missing
    assert fitted is not None
    assert (fitted.steps, fitted.converged, fitted.timed_out) == (4, False, False)
    monkeypatch.setattr(Descent, "pace", 1e9)
    with within(1e6):
        found = probe.measure(X)
    assert found.fit.missing is not None
    assert (found.fit.missing.steps, found.fit.missing.timed_out) == (0, True)
    (finding,) = (f for f in found.findings if f.hint == "more --time, or none")
    assert "did not come to rest after 0 steps, when no time was left" in finding.message
