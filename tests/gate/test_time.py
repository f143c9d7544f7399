"""A check within a time: what it does not decide is open or undefined, says why, and never passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vaeprobe import budget
from vaeprobe.decoder import Decoder
from vaeprobe.gate import journal
from vaeprobe.gate.outcome import ModelReport
from vaeprobe.gate.policy import Policy, Rule
from vaeprobe.gate.run import Gate

COSINE = "orthogonality.mean_abs_cosine"
W = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3)))


class Clock:
    """A clock that a decoder moves, by its latents."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(budget.time, "monotonic", lambda: self.now)
        self.decoder = Decoder(self, 3, dtype=torch.float64)

    def __call__(self, z: Tensor) -> Tensor:
        self.now += 0.01 * len(z)
        return torch.tanh(z @ W.to(z).T)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def checked(clock: Clock, rule: Rule, seconds: float | None, **given: object) -> ModelReport:
    policy = Policy(
        samples=8, max_samples=512, rules={COSINE: rule}, settings={"orthogonality": {"chunk": 4}}
    )
    with budget.within(seconds):
        return Gate(policy=policy, **given).check("model", lambda _: clock.decoder)  # type: ignore[arg-type]


def undecided(clock: Clock) -> Rule:
    """Return a limit that few samples do not tell from the truth."""
    some = checked(clock, Rule(metric=COSINE, side="max", limit=1.0), None).outcomes[0].metric.value
    assert isinstance(some, float)
    for _ in range(2):  # what the last look finds, at all of max-samples
        some = checked(clock, Rule(metric=COSINE, side="max", limit=some), None).outcomes[0].metric.value
    assert isinstance(some, float)
    return Rule(metric=COSINE, side="max", limit=some)


def test_samples_grow_while_there_is_time(clock: Clock) -> None:
    rule = undecided(clock)
    start = clock.now
    report = checked(clock, rule, 3.0)
    (outcome,), (limit,) = report.outcomes, report.findings
    assert outcome.status == "inconclusive"
    assert report.exit_code == 3
    assert outcome.metric.n is not None
    assert 8 <= outcome.metric.n < 512
    assert limit.code == "time-limit"
    assert limit.message.startswith("orthogonality: ")
    assert "take about" in limit.message
    assert clock.now - start <= 3.0


def test_what_is_decided_in_time_is_what_it_is_without(clock: Clock) -> None:
    rule = Rule(metric=COSINE, side="max", limit=0.05)
    assert checked(clock, rule, 1e6) == checked(clock, rule, None)


def test_a_model_that_no_time_is_left_for_is_not_loaded(clock: Clock) -> None:
    report = checked(clock, Rule(metric=COSINE, side="max", limit=1.0), 0.0)
    assert report.failure is not None
    assert (report.failure.message, report.exit_code) == ("no time was left for it", 6)
    assert "--time" in str(report.failure.hint)


def test_a_model_whose_loading_takes_all_the_time_is_not_checked(clock: Clock) -> None:
    def load(model: str) -> Decoder:
        clock.now += 10.0
        return clock.decoder

    with budget.within(5.0):
        report = Gate(policy=Policy(rules={COSINE: Rule(metric=COSINE, side="max", limit=1.0)})).check(
            "m", load
        )
    assert report.exit_code == 6


def test_no_time_leaves_both_a_limit_and_a_regression_undefined(clock: Clock) -> None:
    rule = Rule(metric=COSINE, side="max", limit=0.9, regression=0.03)
    gate = Gate(policy=Policy(rules={COSINE: rule}))
    with budget.within(0.0):
        found, _ = gate._decide("orthogonality", gate.policy.rules, clock.decoder, None, None)
    assert [(o.status, o.rule) for o in found] == [("undefined", part) for part in rule.parts]


def test_a_regression_is_judged_on_all_latents_or_not_at_all(clock: Clock) -> None:
    rule = Rule(metric=COSINE, side="max", regression=0.03)
    policy = Policy(
        samples=8, max_samples=512, rules={COSINE: rule}, settings={"orthogonality": {"chunk": 4}}
    )
    made = {"model": Gate(policy=policy).record("model", clock.decoder)}
    assert checked(clock, rule, None, baseline=made).outcomes[0].status == "pass"
    (outcome,) = checked(clock, rule, 3.0, baseline=made).outcomes
    assert outcome.status == "undefined"
    assert "all 512 latents of the baseline" in str(outcome.metric.reason)


def test_a_report_that_time_cut_short_is_made_anew(clock: Clock) -> None:
    rule = undecided(clock)
    for seconds, stands in [(3.0, False), (None, True)]:
        report = checked(clock, rule, seconds)
        kept = ModelReport.from_dict(report.to_dict() | {"inputs_sha256": journal.inputs("d", "model", "")})
        assert journal.stands(kept, "d") is stands
