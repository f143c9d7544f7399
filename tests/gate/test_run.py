"""The gate on real decoders: sampling grows, waivers expire, baselines pair, errors become failures."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.errors import InputError, UsageError
from vaeprobe.gate import baseline as baselines
from vaeprobe.gate import rules
from vaeprobe.gate.outcome import ModelReport, Outcome, worst_code
from vaeprobe.gate.policy import Override, Policy, Rule, Waiver, spec_of
from vaeprobe.gate.run import Gate, hold, hold_verdict, worst_of
from vaeprobe.geometry.agreement import sketched
from vaeprobe.probes import probe_class
from vaeprobe.report import Artifact, Metric
from vaeprobe.result import Result

from vaes import linear_vae

COSINE = "orthogonality.mean_abs_cosine"
CONTRAST = "orthogonality.ima_contrast"
TODAY = datetime.date(2026, 6, 1)


def decoder(strength: float = 0.3, sha256: str = "a" * 64) -> Decoder:
    """A smooth decoder whose columns are the less orthogonal the stronger the last term."""

    def f(z: torch.Tensor) -> torch.Tensor:
        a, b, c = z.unbind(-1)
        return torch.stack([a, b, c, strength * torch.sin(a + b + 0.5 * c), 0.2 * torch.tanh(c)], dim=-1)

    return Decoder(f, latent_dim=3, artifact=Artifact(path="m.pt", sha256=sha256, format="state_dict"))


def limit(metric: str, bound: float, **extra: object) -> Policy:
    rule = Rule(metric=metric, side="max", limit=bound, **extra)  # type: ignore[arg-type]
    return Policy(rules={metric: rule}, samples=16, max_samples=256)


def check(policy: Policy, probed: Decoder | None = None, **gate: object) -> ModelReport:
    return Gate(policy=policy, today=TODAY, **gate).check_decoder("m.pt", probed or decoder())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def truth() -> float:
    """The mean absolute cosine, from many samples."""
    from vaeprobe.probes.orthogonality import Orthogonality

    value = Orthogonality(samples=4000, rotations=1, restarts=0).measure(decoder())[COSINE].value
    assert isinstance(value, float)
    return value


def test_clear_limits_are_decided_at_the_first_look(truth: float) -> None:
    for bound, status, code in ((truth * 2, "pass", 0), (truth / 2, "fail", 1)):
        report = check(limit(COSINE, bound))
        (outcome,) = report.outcomes
        assert (outcome.status, report.exit_code, outcome.metric.n) == (status, code, 16)


def test_sampling_grows_until_a_close_limit_is_decided(truth: float) -> None:
    (outcome,) = check(limit(COSINE, truth * 1.15)).outcomes
    assert outcome.status == "pass"
    assert outcome.metric.n is not None
    assert outcome.metric.n > 16


def test_too_close_is_inconclusive_and_the_policy_says_what_that_means(truth: float) -> None:
    policy = limit(COSINE, truth)
    assert (check(policy).outcomes[0].status, check(policy).exit_code) == ("inconclusive", 3)
    for lenient in ("warning", "pass"):
        assert check(replace(policy, inconclusive=lenient)).exit_code == 0  # type: ignore[arg-type]


def test_a_warning_never_fails_the_run(truth: float) -> None:
    assert check(limit(COSINE, truth / 2, level="warning")).exit_code == 0


def test_an_undefined_metric_is_not_a_pass() -> None:
    one = Decoder(lambda z: torch.cat([z, 2 * z], dim=1), latent_dim=1)
    report = check(limit(COSINE, 1.0), one)
    assert report.outcomes[0].status == "undefined"
    assert report.exit_code == 3


def test_no_rule_never_passes() -> None:
    report = check(Policy())
    assert report.exit_code == 3
    assert report.findings[-1].code == "nothing-checked"


def test_waivers_hold_until_they_expire(truth: float) -> None:
    policy = limit(COSINE, truth / 2)
    waiver = Waiver(rule="orthogonality.*", reason="known", expires=TODAY)
    assert check(replace(policy, waivers=[waiver])).exit_code == 0
    expired = replace(waiver, expires=TODAY - datetime.timedelta(days=1))
    report = check(replace(policy, waivers=[expired]))
    assert report.exit_code == 1
    assert "waiver-expired" in [f.code for f in report.findings]


def test_required_formats(truth: float) -> None:
    policy = replace(limit(COSINE, 1.0), formats=["safetensors"])
    report = check(policy)
    assert [o.status for o in report.outcomes] == ["pass", "fail"]
    assert report.exit_code == 1


def test_savings_change_no_metric_that_a_rule_reads() -> None:
    from vaeprobe.probes.orthogonality import Orthogonality

    settings = {"rotations": 49, "restarts": 1}
    probed, gate = decoder(), Gate(policy=Policy(settings={"orthogonality": settings}))
    full = Orthogonality(samples=32, **settings).measure(probed)
    cheap = gate._measure("orthogonality", probed, 32, ())
    for id, metric in full.metrics.items():
        skipped = any(id in ids for _, ids in Orthogonality.SAVINGS.values())
        read = gate._measure("orthogonality", probed, 32, [id]) if skipped else cheap
        assert read[id] == metric, id
    assert cheap["orthogonality.ima_contrast_null"] != full["orthogonality.ima_contrast_null"]


@pytest.mark.parametrize("probe", ["orthogonality", "factorise"])
def test_a_rule_on_a_verdict_saves_nothing_that_decides_it(probe: str) -> None:
    W = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bent = Decoder(lambda z: torch.tanh(z @ W.to(z).T), 3, dtype=torch.float64)
    gate = Gate(policy=Policy(settings={probe: {}}))
    for probed in (bent, decoder()):
        full = probe_class(probe)(samples=64).measure(probed)
        assert full.verdict not in ("undecided", "unaligned")
        assert gate._measure(probe, probed, 64, [f"{probe}.verdict"]).verdict == full.verdict


def test_costly_samples_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path costs hundreds of Jacobians: 128 samples of the policy are two of them, and none is still one."""
    from vaeprobe.probes.trace import Trace

    seen: list[int] = []
    measure = Trace.measure
    monkeypatch.setattr(Trace, "measure", lambda self, d: (seen.append(self.samples), measure(self, d))[1])
    settings = {"trace": {"components": "0", "length": 0.1}}
    for samples in (128, 16):
        Gate(policy=Policy(settings=settings))._measure("trace", decoder(), samples, ["trace.turning"])
    assert seen == [2, 1]


def test_a_baseline_keeps_no_metric_that_was_measured_cheaply() -> None:
    null = "orthogonality.ima_contrast_null"
    values = Gate(policy=regression(0.02)).record("m.pt", decoder()).values
    assert CONTRAST in values
    assert null not in values
    rule = Rule(metric=null, side="max", regression=0.1)
    assert null in Gate(policy=replace(regression(0.02), rules={null: rule})).record("m.pt", decoder()).values


# -- baselines --------------------------------------------------------------------------------------


def regression(margin: float, relative: bool = True) -> Policy:
    rule = Rule(metric=CONTRAST, side="max", regression=margin, relative=relative)
    return Policy(rules={CONTRAST: rule}, samples=64, max_samples=512)


def test_a_small_regression_is_seen_only_by_pairing() -> None:
    policy = regression(0.02)
    record = Gate(policy=policy).record("m.pt", decoder(0.3))
    worse = check(
        policy, decoder(0.306, "b" * 64), baseline={"m.pt": record}
    )  # the contrast rises by about 4 %
    (outcome,) = worse.outcomes
    assert outcome.status == "fail"
    values = record.values[CONTRAST]
    unpaired = 1.96 * values.std() / np.sqrt(len(values))
    assert outcome.metric.value < unpaired  # type: ignore[operator]
    better = check(policy, decoder(0.29, "b" * 64), baseline={"m.pt": record})
    assert better.exit_code == 0


@pytest.mark.parametrize(
    ("bound", "margin", "limited", "compared"),
    [(0.9, 0.1, "pass", "pass"), (0.9, 0.02, "pass", "fail"), (0.001, 0.1, "fail", "pass"), (0.001, 0.02, "fail", "fail")],
)  # fmt: skip
def test_a_limit_and_a_regression_of_one_metric_are_decided_each_for_itself(
    bound: float, margin: float, limited: str, compared: str
) -> None:
    """As two policies of one of them each decide: the contrast rises by about 4 %."""
    both = Rule(metric=CONTRAST, side="max", limit=bound, regression=margin, relative=True)
    policy, cosine = replace(regression(margin), rules={CONTRAST: both}), limit(COSINE, 0.9).rules
    policy = replace(policy, rules=policy.rules | cosine)
    record = {"m.pt": Gate(policy=policy).record("m.pt", decoder(0.3))}
    report = check(policy, decoder(0.306, "b" * 64), baseline=record)
    first, second, third = report.outcomes
    assert (first.status, second.status, third.rule.metric) == (limited, compared, COSINE)
    assert report.exit_code == int("fail" in (limited, compared))
    for alone, outcome in zip(both.parts, (first, second), strict=True):
        (found,) = check(
            replace(policy, rules={CONTRAST: alone}), decoder(0.306, "b" * 64), baseline=record
        ).outcomes
        assert found == outcome
    assert [report.name_of(o) for o in report.outcomes] == [CONTRAST, f"{CONTRAST} (regression)", COSINE]
    assert ModelReport.from_dict(report.to_dict()).to_dict() == report.to_dict()


def test_the_same_artifact_is_said() -> None:
    policy = regression(0.0)
    record = Gate(policy=policy).record("m.pt", decoder())
    report = check(policy, baseline={"m.pt": record})
    assert report.exit_code == 0
    assert "same-artifact" in [f.code for f in report.findings]


def test_another_method_is_refused() -> None:
    policy = regression(0.02)
    record = Gate(policy=policy).record("m.pt", decoder())
    other = replace(policy, settings={"orthogonality": {"seed": 1}})
    with pytest.raises(UsageError, match=r"another method .*seed 0 -> 1"):
        check(other, baseline={"m.pt": record})


@pytest.mark.parametrize(
    "loading",
    [
        {"condition": ["label=3"]},
        {"output_name": "x_hat"},
        {"weights": "raw"},
        {"key": "model"},
        {"submodule": "decoder"},
        {"latent_size": "8x8"},
    ],
)
def test_a_model_loaded_otherwise_is_another_method(loading: dict[str, object]) -> None:
    policy = regression(0.02)
    ((name, value),) = loading.items()
    said = value[0] if isinstance(value, list) else value
    plain = {"m.pt": Gate(policy=policy).record("m.pt", decoder())}
    with pytest.raises(UsageError, match=rf"another method \({name} None -> {said}\)"):
        check(policy, baseline=plain, loading=loading)
    held = {"m.pt": Gate(policy=policy, loading=loading).record("m.pt", decoder())}
    with pytest.raises(UsageError, match=rf"another method \({name} {said} -> None\)"):
        check(policy, baseline=held)
    for way in ({"loading": loading}, {"policy": replace(policy, loading=loading)}):
        report = check(**{"policy": policy, "baseline": held, **way})  # type: ignore[arg-type]
        assert (report.exit_code, [f.code for f in report.findings]) == (0, ["same-artifact"])


def test_the_default_of_loading_is_the_same_said_or_left_out() -> None:
    policy, said = regression(0.02), {"weights": "ema"}
    plain = Gate(policy=policy).record("m.pt", decoder())
    older = replace(plain, loading=said)  # as earlier versions kept it
    for record in (plain, older, Gate(policy=policy, loading=said).record("m.pt", decoder())):
        for loading in (said, {}):
            report = check(policy, baseline={"m.pt": record}, loading=loading)
            assert (report.exit_code, [f.code for f in report.findings]) == (0, ["same-artifact"])


def test_conditions_are_the_same_in_any_order_and_another_network_may_be_compared() -> None:
    policy, two = regression(0.02), ["b=1", "a=2"]
    loading = {"condition": two, "device": "cpu", "arch_args": "hidden=8"}
    held = {"m.pt": Gate(policy=policy, loading=loading).record("m.pt", decoder())}
    assert held["m.pt"].loading == {"condition": "a=2, b=1", "arch_args": "hidden=8"}
    report = check(policy, baseline=held, loading={"condition": two[::-1]})
    assert (report.exit_code, report.findings) == (0, ())  # of the same bytes, and not the same model


def test_another_part_of_the_latents_is_another_method() -> None:
    policy = regression(0.02)
    held = {"m.pt": Gate(policy=policy).record("m.pt", decoder())}
    part = replace(policy, settings={"orthogonality": {"part": "some"}})
    with pytest.raises(UsageError, match=r"another method \(part None -> some\)"):
        check(part, baseline=held)


def test_what_a_baseline_cannot_answer_is_said() -> None:
    policy = regression(0.02)
    record = Gate(policy=policy).record("m.pt", decoder())
    with pytest.raises(UsageError, match="none was given"):
        check(policy)
    with pytest.raises(UsageError, match="holds nothing about"):
        check(policy, baseline={"other.pt": record})
    for metric in ("orthogonality.alignment", "latents.active", "trace.turning"):
        with pytest.raises(UsageError, match="is no mean over latents"):
            rules.rule(metric, {"regression": 0.1})


@pytest.mark.parametrize(
    ("probed", "held", "why"),
    [
        (Decoder(lambda z: 0 * z, 3), {}, "no latent moves the output"),
        (Decoder(lambda z: torch.cat([z, z.relu()], 1)[:, [0, 1, 5]], 3), {}, "rank-deficient at"),
        (Decoder(lambda z: torch.cat([z, z**2], 1), 4), {}, "has 3 latents, this one 4: there are no common"),
        (decoder(), {"values": {}}, "the baseline has no values of it"),
    ],
)
def test_a_regression_that_cannot_be_told_costs_no_other_rule(
    probed: Decoder, held: dict[str, object], why: str
) -> None:
    made = regression(0.02)
    record = Gate(policy=made).record("m.pt", decoder())
    fewest = Rule(metric="latents.active", side="min", limit=5)
    policy = replace(made, rules={**made.rules, fewest.metric: fewest})
    report = check(policy, probed, baseline={"m.pt": replace(record, **held)})
    paired, active = report.outcomes
    assert active.status == "fail"
    assert report.exit_code == 1
    assert paired.status == "undefined"
    assert why in paired.message
    assert ModelReport.from_dict(report.to_dict()).to_dict() == report.to_dict()


def test_the_metrics_that_pair_are_those_that_keep_values() -> None:
    from vaeprobe.probes import PROBES, asks_decoder, question_class

    smooth, found = decoder(), {}
    for name in ("orthogonality", "factorise", "trace"):
        found[name] = set(question_class(name)(samples=16).measure(smooth).per_sample())  # type: ignore[call-arg]
    for name in PROBES:
        cls = question_class(name)
        assert {spec.id for spec in cls.METRICS} >= cls.PER_SAMPLE
        assert found.get(name, cls.PER_SAMPLE) == cls.PER_SAMPLE
        assert asks_decoder(cls) or not cls.PER_SAMPLE


# -- reports ----------------------------------------------------------------------------------------


def test_an_error_becomes_the_failure_of_its_model() -> None:
    def load(path: str) -> Decoder:
        raise InputError("no such file", hint="look again")

    report = Gate(policy=limit(COSINE, 1.0)).check("x.pt", load)
    assert report.failure is not None
    assert (report.failure.message, report.exit_code) == ("no such file", 5)


def test_a_report_survives_json(truth: float) -> None:
    policy = replace(
        limit(COSINE, truth / 2), waivers=[Waiver(rule="*", reason="known", expires=TODAY)], formats=["pt2"]
    )
    report = check(policy)
    assert ModelReport.from_dict(report.to_dict()).to_dict() == report.to_dict()


def test_the_worst_code_wins() -> None:
    assert worst_code([0, 1, 3]) == 1
    assert worst_code([0, 3]) == 3
    assert worst_code([1, 5]) == 5
    assert worst_code([0, 1]) == 1
    assert worst_code([5, 4, 6, 1]) == 4
    assert worst_code([70, 4]) == 70
    assert worst_code([]) == 3


# -- verdicts, lists and data ------------------------------------------------------------------------


def verdict(*words: str, **extra: object) -> Policy:
    rule = Rule(metric="factorise.verdict", verdicts=words, **extra)  # type: ignore[arg-type]
    return Policy(rules={rule.metric: rule}, samples=64, max_samples=128)


def test_a_verdict_passes_where_it_is_named() -> None:
    straight = Decoder(lambda z: z * torch.tensor([1.0, 2.0], dtype=z.dtype), latent_dim=2)
    for words, status, code in (
        (("linear",), "pass", 0),
        (("independent", "linear"), "pass", 0),
        (("independent",), "fail", 1),
    ):
        report = check(verdict(*words), straight)
        assert ([o.status for o in report.outcomes], report.exit_code) == ([status], code)
    assert report.outcomes[0].message == "factorise.verdict is linear, rule: independent"
    assert ModelReport.from_dict(report.to_dict()).outcomes == report.outcomes


def test_an_open_or_undefined_verdict_decides_nothing() -> None:
    for word, open_words, status in (
        ("undecided", {"undecided"}, "inconclusive"),
        ("undecided", set(), "fail"),
        ("undefined", set(), "undefined"),
    ):
        rule = Rule(metric="factorise.verdict", verdicts=("linear",))
        assert hold_verdict(rule, Result(metrics={}, verdict=word), open_words).status == status
    rule = Rule(metric="factorise.verdict", verdicts=("undecided",))
    assert hold_verdict(rule, Result(metrics={}, verdict="undecided"), {"undecided"}).status == "pass"


@pytest.mark.parametrize(
    ("may", "passing", "status"),
    [
        (("linear", "rotated"), ("linear",), "inconclusive"),
        (("linear", "rotated"), ("linear", "rotated", "curved"), "pass"),
        (("linear", "rotated"), ("independent",), "fail"),
        (None, ("linear",), "pass"),
    ],
)
def test_a_verdict_of_a_part_is_held_by_what_it_says_of_all(
    may: tuple[str, ...] | None, passing: tuple[str, ...], status: str
) -> None:
    result = Result(metrics={}, verdict="linear", verdict_of_all=may)
    rule = Rule(metric="factorise.verdict", verdicts=passing)
    outcome = hold_verdict(rule, result, ())
    assert (outcome.status, outcome.metric.for_all) == (status, may is None)


def test_a_limit_bounds_the_worst_latent() -> None:
    spec = spec_of("kl.per_latent")
    metric = Metric(spec, [0.5, 2.0, 1.0], n=8)
    for side, limit, status in (
        ("max", 2.0, "pass"),
        ("max", 1.9, "fail"),
        ("min", 0.5, "pass"),
        ("min", 0.6, "fail"),
    ):
        outcome = hold(Rule(metric=spec.id, side=side, limit=limit), metric)  # type: ignore[arg-type]
        assert outcome.status == status
    part = worst_of(replace(metric, of_all="open"), "max")
    assert hold(Rule(metric=spec.id, side="max", limit=9.0), part).status == "inconclusive"
    assert worst_of(metric, "max").reason == "the largest of 3 latents"
    assert not worst_of(Metric(spec, []), "max").defined


@pytest.mark.parametrize(
    ("value", "ci", "of_all", "status", "bound"),
    [
        (1.0, (0.95, 1.05), "known", "pass", 1.1),
        (1.0, (0.85, 1.05), "known", "inconclusive", 0.9),
        (1.0, (0.95, 1.15), "known", "inconclusive", 1.1),
        (0.8, (0.75, 0.85), "known", "fail", 0.9),
        (1.2, (1.15, 1.25), "known", "fail", 1.1),
        (1.2, (1.15, 1.25), "at least", "fail", 1.1),
        (1.0, (0.95, 1.05), "at least", "inconclusive", 1.1),
        (None, None, "known", "undefined", 1.1),
    ],
)
def test_a_rule_that_bounds_both_sides_is_held_by_the_worse(
    value: float | None, ci: tuple[float, float] | None, of_all: str, status: str, bound: float
) -> None:
    spec = spec_of("beta.estimate")
    rule = Rule(metric=spec.id, side="max", limit=1.1, floor=0.9)
    why = None if value is not None else "collapsed"
    metric = Metric(spec, value, ci=ci, n=8, reason=why, of_all=of_all)  # type: ignore[arg-type]
    outcome = hold(rule, metric)
    assert (outcome.status, outcome.bound) == (status, bound)
    assert outcome.left_open == (status == "inconclusive" and of_all != "known")
    assert "rule: from 0.9 to 1.1" in outcome.message
    assert Outcome.from_dict(outcome.to_dict()).rule == rule


def test_both_sides_of_a_number_per_latent_bound_all_of_them() -> None:
    spec = spec_of("kl.per_latent")
    metric = Metric(spec, [0.5, 2.0, 1.0], n=8)
    for floor, limit, status in ((0.5, 2.0, "pass"), (0.6, 2.0, "fail"), (0.5, 1.9, "fail")):
        rule = Rule(metric=spec.id, side="max", limit=limit, floor=floor)
        assert hold(rule, metric).status == status
    assert "the smallest of 3" in hold(Rule(metric=spec.id, side="max", limit=3, floor=0.6), metric).message


def test_data_reach_the_probes_that_take_them(tmp_path: Path) -> None:
    vae = linear_vae()
    rows = tmp_path / "x.npy"
    np.save(rows, vae.x.numpy())
    settings = {"beta": {"likelihood": "gaussian", "sigma2": float(vae.likelihood.sigma2)}}
    rule = Rule(metric="beta.consistency", side="min", limit=0.5)
    policy = Policy(rules={rule.metric: rule}, settings=settings, data=str(rows), samples=64, max_samples=64)
    assert check(policy, vae.decoder).exit_code == 0
    general, own = replace(policy, data="none.npy"), Override(models="m.pt", data=str(rows))
    assert check(replace(general, overrides=[own]), vae.decoder).exit_code == 0
    assert check(general, vae.decoder, data=str(rows)).exit_code == 0
    with pytest.raises(InputError):
        check(general, vae.decoder)


@pytest.mark.parametrize("key", baselines.METHOD)
def test_another_method_is_another_baseline(key: str) -> None:
    mine = baselines.method_of({key: 1, "chunk": 8, "samples": 9})
    assert mine == {key: 1}
    assert baselines.method_of({key: 2}) != mine


@pytest.mark.parametrize("setting", ["chunk", "samples", "rotations", "restarts"])
def test_what_leaves_the_values_alone_is_the_same_method(setting: str) -> None:
    assert baselines.method_of({setting: 1}) == {}


# -- agreement with the baseline -----------------------------------------------------------------------


def coded(turn: np.ndarray) -> Decoder:  # type: ignore[type-arg]
    """A linear decoder of 4 latents whose encoder's codes are turned."""
    R = torch.from_numpy(turn).float()
    U = torch.linalg.qr(torch.from_numpy(np.random.default_rng(5).standard_normal((9, 4)))).Q.float()

    def encoded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = x @ U @ R.T
        return z, torch.full_like(z, -3.0)

    return Decoder(lambda z: z @ R @ U.T, 4, encoder=Encoder(encoded, 4, input_shape=(9,)))


@pytest.mark.parametrize(
    ("angle", "limit", "status"),
    [(0.0, 0.99, "pass"), (0.2, 0.9, "pass"), (0.7, 0.95, "fail")],
)
def test_the_same_latents_as_the_baseline(angle: float, limit: float, status: str, tmp_path: Path) -> None:
    rows = str(tmp_path / "x.npy")
    np.save(rows, np.random.default_rng(0).standard_normal((300, 9)).astype(np.float32))
    policy = Policy(
        rules={"compare.mcc": Rule(metric="compare.mcc", side="min", limit=limit)},
        samples=8,
        max_samples=8,
        data=rows,
    )
    old = Gate(policy=policy).record("m", coded(np.eye(4)))
    # another order, a sign, and a turn of two latents: mean |cos| is (2 cos + 2) / 4 where codes are white
    turn = np.eye(4)[[2, 0, 3, 1]] * [[1], [-1], [1], [1]]
    turn[:2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]] @ turn[:2]
    (outcome,) = Gate(policy=policy, baseline={"m": old}).check_decoder("m", coded(turn)).outcomes
    assert outcome.metric.value == pytest.approx((2 * np.cos(angle) + 2) / 4, abs=0.03)
    assert outcome.status == status
    if angle:  # a limit within the interval is left open
        low, high = outcome.metric.ci or (0.0, 0.0)
        assert hold(replace(outcome.rule, limit=(low + high) / 2), outcome.metric).status == "inconclusive"


def test_agreement_needs_the_baselines_data(tmp_path: Path) -> None:
    first, second = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
    for k, path in enumerate((first, second)):
        np.save(path, np.random.default_rng(k).standard_normal((50, 9)).astype(np.float32))
    rules = {"compare.mcc": Rule(metric="compare.mcc", side="min", limit=0.9)}
    policy = Policy(rules=rules, samples=8, max_samples=8)
    decoder = coded(np.eye(4))
    with pytest.raises(UsageError, match="needs data"):
        Gate(policy=policy).record("m", decoder)
    record = Gate(policy=policy, data=first).record("m", decoder)
    with pytest.raises(UsageError, match="on other data"):
        Gate(policy=policy, data=second, baseline={"m": record}).check_decoder("m", decoder)
    bare = replace(record, kept=None)
    with pytest.raises(UsageError, match="keeps no codes"):
        Gate(policy=policy, data=first, baseline={"m": bare}).check_decoder("m", decoder)
    with pytest.raises(UsageError, match="none was given"):
        Gate(policy=policy, data=first).check_decoder("m", decoder)
    path = tmp_path / "b.json"
    path.write_text(baselines.text({"m": record}))
    back = baselines.read(path)["m"]
    assert back.kept is not None
    assert record.kept is not None
    np.testing.assert_array_equal(back.kept.codes, record.kept.codes)
    assert back.kept.data_sha256 == record.kept.data_sha256
    assert back.kept.columns is None
    (outcome,) = Gate(policy=policy, data=first, baseline={"m": back}).check_decoder("m", decoder).outcomes
    assert (outcome.status, outcome.metric.value) == ("pass", pytest.approx(1))


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2)])
def test_a_latent_that_a_model_lost_agrees_with_none_of_the_baselines(
    lost: int, gained: int, tmp_path: Path
) -> None:
    """A lost latent counts as its code would that became a constant: as nothing, of the baseline's 4 or fewer."""
    rows = str(tmp_path / "x.npy")
    np.save(rows, np.random.default_rng(0).standard_normal((300, 9)).astype(np.float32))
    ids = ("compare.mcc", "compare.columns", "compare.mcc_p", "compare.udr")
    made = {id: rules.rule(id, {"max" if id.endswith("_p") else "min": 0.99}) for id in ids}
    policy = Policy(rules={k: r for k, r in made.items() if r}, samples=8, max_samples=8, data=rows)

    def keeping(k: int) -> Decoder:
        whole = coded(np.eye(4))
        assert whole.encoder is not None
        encoded = whole.encoder

        def of_few(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mean, log_variance = encoded(x)
            alive = torch.arange(4) < k
            return mean * alive, log_variance * alive  # N(0, 1) at every row

        return replace(whole, encoder=Encoder(of_few, 4, input_shape=(9,)))

    before, now = 4 - gained, 4 - lost
    old = Gate(policy=policy).record("m", keeping(before))
    mcc, columns, p_value, udr = (
        Gate(policy=policy, baseline={"m": old}).check_decoder("m", keeping(now)).outcomes
    )
    for outcome in (mcc, columns):
        assert outcome.metric.value == pytest.approx(min(1.0, now / before), abs=1e-6)
        assert outcome.status == ("fail" if lost else "pass")
    assert p_value.status == "pass"
    counts = f"{before} latents of the baseline are informative, and {now} of this model"
    for outcome in (mcc, columns, p_value, udr):
        assert (counts in outcome.message) == (lost != gained)
    ends = "those that are lost count 0" if lost else "those that are new do not count"
    assert (ends in mcc.message) == (lost != gained)
    codes = [np.array(r.kept.codes) for r in (old, Gate(policy=policy).record("m", keeping(now))) if r.kept]
    a, b = (np.pad(c, ((0, 0), (0, 4 - c.shape[1]))) for c in codes)  # constant codes in place of none
    with np.errstate(invalid="ignore"):
        C = np.nan_to_num(np.abs(np.corrcoef(a.T, b.T)[:4, 4:]))
    i, j = linear_sum_assignment(-C)
    assert C[i, j].sum() / before == pytest.approx(mcc.metric.value, abs=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_the_same_columns_as_the_baseline(angle: float, tmp_path: Path) -> None:
    rows = str(tmp_path / "x.npy")
    np.save(rows, np.random.default_rng(0).standard_normal((40, 9)).astype(np.float32))
    rule = Rule(metric="compare.columns", side="min", limit=0.99)
    policy = Policy(rules={"compare.columns": rule}, samples=8, max_samples=8, data=rows)
    (tmp_path / "b.json").write_text(baselines.text({"m": Gate(policy=policy).record("m", coded(np.eye(4)))}))
    baseline = baselines.read(tmp_path / "b.json")
    # columns of an orthonormal map have the cosines of the turn itself, whatever the codes' spread
    turn = np.eye(4)[[2, 0, 3, 1]]
    turn[:2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]] @ turn[:2]
    (outcome,) = Gate(policy=policy, baseline=baseline).check_decoder("m", coded(turn)).outcomes
    assert outcome.metric.value == pytest.approx((2 * np.cos(angle) + 2) / 4, abs=1e-6)
    assert outcome.status == ("fail" if angle else "pass")
    assert outcome.metric.n == 16
    kept = baseline["m"].kept
    assert kept is not None
    bare = {"m": replace(baseline["m"], kept=replace(kept, columns=None))}
    with pytest.raises(UsageError, match="keeps no columns"):
        Gate(policy=policy, baseline=bare).check_decoder("m", coded(turn))
    other = {"m": replace(baseline["m"], kept=replace(kept, outputs=10))}
    (outcome,) = Gate(policy=policy, baseline=other).check_decoder("m", coded(turn)).outcomes
    assert outcome.status == "undefined"
    assert "outputs have 10 numbers and this model's 9" in outcome.message


def test_long_columns_are_sketched() -> None:
    J = torch.from_numpy(np.random.default_rng(0).standard_normal((16, 4000, 3)))
    J[:, :, 1] = 0.6 * J[:, :, 0] + 0.8 * J[:, :, 1]
    S = sketched(J, 256)
    assert S.shape == (16, 256, 3)
    G, H = J.mT @ J, S.mT @ S
    for i, j in ((0, 0), (0, 1), (0, 2)):
        size = (G[:, i, i] * G[:, j, j]).sqrt()
        error = ((H - G)[:, i, j] / size).numpy()
        # the error at a row has mean 0 and variance (cos^2 + 1) / 256 or less: rows do not share it
        assert abs(error.mean()) < 4 * (2 / 256 / 16) ** 0.5
        assert error.std() < 2 * (2 / 256) ** 0.5
    torch.testing.assert_close(sketched(J[:, :200], 256), J[:, :200])
    torch.testing.assert_close(sketched(J, 256), S)


def test_a_regression_on_other_data_is_refused(tmp_path: Path) -> None:
    first, second = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
    for k, path in enumerate((first, second)):
        np.save(path, np.random.default_rng(k).standard_normal((50, 9)).astype(np.float32))
    rules = {"elbo.value": Rule(metric="elbo.value", side="min", regression=0.1)}
    policy = Policy(
        rules=rules, samples=16, max_samples=16, settings={"posterior": {"likelihood": "gaussian"}}
    )
    record = Gate(policy=policy, data=first).record("m", coded(np.eye(4)))
    assert len(record.methods["posterior"]["data"]) == 64
    found = Gate(policy=policy, data=first, baseline={"m": record}).check_decoder("m", coded(np.eye(4)))
    assert found.outcomes[0].status == "pass"
    with pytest.raises(UsageError, match="another method \\(data "):
        Gate(policy=policy, data=second, baseline={"m": record}).check_decoder("m", coded(np.eye(4)))


def test_a_model_without_codes_costs_no_other_rule(tmp_path: Path) -> None:
    rows = str(tmp_path / "x.npy")
    np.save(rows, np.random.default_rng(0).standard_normal((64, 9)))
    made = {id: rules.rule(id, value) for id, value in (("compare.mcc", 0.9), ("compare.columns", 0.9))}
    fewest = Rule(metric="latents.active", side="min", limit=2)
    policy = Policy(
        rules={**{id: r for id, r in made.items() if r}, fewest.metric: fewest},
        data=rows, samples=16, max_samples=32,
    )  # fmt: skip
    whole = coded(np.eye(4))
    record = Gate(policy=policy).record("m.pt", whole)
    dead = Encoder(lambda x: (0 * x[:, :4], 0 * x[:, :4]), 4, input_shape=(9,))
    report = check(policy, replace(whole, encoder=dead), baseline={"m.pt": record})
    assert [o.status for o in report.outcomes] == ["pass", "undefined", "undefined"]
    assert "tells anything about the data" in report.outcomes[1].message


def test_agreement_takes_a_limit_and_no_regression() -> None:
    assert rules.rule("compare.mcc", 0.95) == Rule(metric="compare.mcc", side="min", limit=0.95)
    with pytest.raises(UsageError, match="agreement with the baseline itself"):
        rules.rule("compare.mcc", {"regression": 0.1})
