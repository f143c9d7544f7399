"""Samples that grow reuse earlier draws: nothing is measured twice at a latent, whatever is asked of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vaeprobe.budget import within
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.engine import gram, verbs
from vaeprobe.engine.remembered import recalled, remembered
from vaeprobe.gate import run
from vaeprobe.gate.outcome import Outcome
from vaeprobe.gate.policy import Policy, Rule
from vaeprobe.gate.run import Gate
from vaeprobe.prior import LearnedPrior
from vaeprobe.report import Metric

W = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3)))


def curved(z: Tensor) -> Tensor:
    return torch.tanh(z @ W.to(z).T)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many Gram matrices were computed, call by call."""
    counts: list[int] = []
    plain = verbs._gram

    def counting(decoder: Decoder, z: Tensor, *rest: object) -> Tensor:
        counts.append(len(z))
        return plain(decoder, z, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(verbs, "_gram", counting)
    return counts


def test_only_new_latents_are_computed(computed: list[int]) -> None:
    probed = Decoder(curved, 3, dtype=torch.float64)
    z = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = gram(probed, z)
    some = torch.tensor([[0, 2]]).expand(20, -1)
    part = gram(probed, z, columns=some)
    computed.clear()
    with remembered():
        gram(probed, z[:8])
        torch.testing.assert_close(gram(probed, z), truth)
        torch.testing.assert_close(gram(probed, z.flip(0)), truth.flip(0))
        assert computed == [8, 12]
        torch.testing.assert_close(gram(probed, z, columns=some), part)
        assert computed == [8, 12, 20], "other columns are another matter"
        gram(Decoder(curved, 3, dtype=torch.float64), z[:2])
        assert computed == [8, 12, 20, 2], "another decoder too"
        assert gram(probed, z[:0]).shape == (0, 3, 3)
    gram(probed, z)
    assert computed[-1] == 20, "all is forgotten at the end"


def test_what_is_kept_is_bounded(computed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaeprobe.engine.remembered.MOST", 5 * 9 * 8)
    probed = Decoder(curved, 3, dtype=torch.float64)
    z = torch.randn(20, 3, dtype=torch.float64)
    with remembered():
        first = gram(probed, z)
        torch.testing.assert_close(gram(probed, z), first)
    assert computed == [20, 15]


def test_what_is_kept_is_counted_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaeprobe.engine.remembered.MOST", 1 << 20)
    asked = list[int]()

    def made(n: int, numbers: int) -> None:
        rows = torch.arange(n, dtype=torch.float64)[:, None]

        def compute(new: torch.Tensor) -> tuple[torch.Tensor]:
            asked.append(len(new))
            return (torch.zeros(len(new), numbers, dtype=torch.float64),)

        recalled((numbers,), [rows], compute)

    with remembered():
        made(5_000, 1)  # 40 KB
        made(10, 512)  # 40 KB
        made(64, 2048)  # of 1 MB what is left
        made(5_000, 1)
        made(10, 512)
        made(64, 2048)
    room = ((1 << 20) - 40_000 - 40_960) // (2048 * 8)
    assert asked == [5_000, 10, 64, 64 - room]


def test_the_gate_measures_each_latent_once(computed: list[int]) -> None:
    probed = Decoder(curved, 3, dtype=torch.float64)
    truth = float(gram(probed, torch.randn(4096, 3, dtype=torch.float64)).diagonal(dim1=1, dim2=2).sum())
    assert truth > 0
    # a limit at the very value: every look is needed
    from vaeprobe.probes.orthogonality import Orthogonality

    value = (
        Orthogonality(samples=512, restarts=0, rotations=1)
        .measure(probed)["orthogonality.ima_contrast"]
        .value
    )
    assert isinstance(value, float)
    computed.clear()
    rule = Rule(metric="orthogonality.ima_contrast", side="max", limit=value)
    policy = Policy(rules={rule.metric: rule}, samples=64, max_samples=512)
    report = Gate(policy=policy).check("model", lambda _: probed)
    assert report.failure is None
    assert computed == [64, 64, 128, 256]


V = torch.from_numpy(np.random.default_rng(1).standard_normal((9, 150))) / 12


class Counted:
    """A decoder's function, and an encoder's, that count the rows they are given."""

    def __init__(self) -> None:
        self.rows = 0

    def few(self, z: Tensor) -> Tensor:
        self.rows += len(z)
        return torch.tanh(z @ W.to(z).T)

    def many(self, z: Tensor) -> Tensor:
        self.rows += len(z)
        return torch.tanh(z @ V.to(z).T)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.atanh(x.clamp(-0.99, 0.99)) @ torch.linalg.pinv(W).T.to(x)
        return mean, torch.full_like(mean, -4.0)

    def made(self, kind: str) -> Decoder:
        if kind == "of a map":
            return Decoder(self.many, 150, dtype=torch.float64, latent_shape=(6, 5, 5))
        learned = LearnedPrior(torch.full((1, 3), 0.3).double(), torch.full((1, 3), 0.7).double())
        eyes = Encoder(self.posterior, 3, input_shape=(6,), dtype=torch.float64)
        return Decoder(
            self.few,
            3,
            dtype=torch.float64,
            encoder=eyes,
            learned=learned if kind == "with a learned prior" else None,
        )


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("orthogonality.alignment", "plain"),
        ("orthogonality.alignment", "with a learned prior"),
        ("orthogonality.off_diagonal", "of a map"),
        ("orthogonality.neighbour_cosine", "of a map"),
        ("factorise.gap", "plain"),
        ("factorise.gap", "with a learned prior"),
        ("factorise.sheets", "plain"),
        ("posterior.mean_gap", "plain"),
        ("posterior.self_consistency", "with a learned prior"),
        ("beta.estimate", "plain"),
        ("trace.straightness", "plain"),
    ],
)
def test_looks_cost_no_more_than_the_last_alone(
    metric: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three looks that decide nothing, beside one at as many samples: as many rows decoded, and the same number."""
    probe = metric.split(".")[0]
    data = probe in ("posterior", "beta")
    if data:
        x = curved(torch.randn(80, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        np.save(tmp_path / "x.npy", x.numpy())
    open_ = run.hold

    def undecided(rule: Rule, found: Metric) -> Outcome:
        metric = open_(rule, found).metric
        assert metric.value is not None, metric.reason
        return Outcome(
            rule=rule, metric=replace(metric, ci=(0.0, 1.0), level=0.95), status="inconclusive", bound=0.0
        )

    monkeypatch.setattr(run, "hold", undecided)
    settings: dict[str, object] = {"likelihood": "gaussian", "sigma2": 0.01} if data else {}
    if probe == "orthogonality":
        settings = {"rotations": 9, "restarts": 0}
    rule = Rule(metric=metric, side="max", limit=0.0)
    counted, values = [], []
    # factorise compares the first 64 latents with others, and trace takes a start for 64
    last = {"factorise": 256, "trace": 512}.get(probe, 64)
    for first in (last // 4, last):
        function = Counted()
        probed = function.made(kind)
        policy = Policy(
            rules={metric: rule},
            samples=first,
            max_samples=last,
            data=str(tmp_path / "x.npy") if data else None,
            settings={probe: settings},
        )
        function.rows = 0
        report = Gate(policy=policy).check("model", lambda _, probed=probed: probed)
        assert report.failure is None, report.failure
        counted.append(function.rows)
        values.append(report.outcomes[0].metric.value)
    # at latents of middling size, which are others in a larger sample, columns are held against rounding; and some seams
    # out of all are traced back to their starts
    assert counted[0] <= counted[1] * (1.3 if probe == "trace" else 1.1) + 24
    assert values[0] == pytest.approx(values[1], rel=1e-6 if probe == "trace" else 1e-9)


def test_regressions_pair_rows_of_data_in_one_order_whatever_the_time(tmp_path: Path) -> None:
    x = curved(torch.randn(80, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    np.save(tmp_path / "x.npy", x.numpy())
    rule = Rule(metric="elbo.reconstruction", side="min", regression=0.1)
    policy = Policy(
        rules={rule.metric: rule},
        samples=32,
        max_samples=32,
        data=str(tmp_path / "x.npy"),
        settings={"posterior": {"likelihood": "gaussian", "sigma2": 0.01}},
    )
    probed = Counted().made("plain")
    kept = Gate(policy=policy).record("model", probed)
    assert len(set(kept.values[rule.metric].tolist())) == 32, "another order would be seen"
    for seconds in (None, 1e4):
        with within(seconds):
            report = Gate(policy=policy, baseline={"model": kept}).check("model", lambda _: probed)
        assert report.failure is None, report.failure
        assert report.outcomes[0].metric.value == 0
    # rows were in the order of the data before
    older = replace(
        kept, methods={"posterior": {k: v for k, v in kept.methods["posterior"].items() if k != "order"}}
    )
    report = Gate(policy=policy, baseline={"model": older}).check("model", lambda _: probed)
    assert report.failure is not None
    assert "another method (order None -> as drawn)" in report.failure.message
