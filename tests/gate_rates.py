"""How often the gate is wrong, by simulation: `python tests/gate_rates.py` (about a minute).

Values over latents have mean 2 and standard deviation 0.5, as contrasts of real decoders do; two models share that
spread, and differ by noise of standard deviation 0.1 at each latent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaeprobe.decoder import Decoder
from vaeprobe.gate import baseline as baselines
from vaeprobe.gate.policy import Policy, Rule, spec_of
from vaeprobe.gate.run import Gate
from vaeprobe.report import Metric
from vaeprobe.result import Result

CONTRAST = "orthogonality.ima_contrast"
SPEC = spec_of(CONTRAST)
MEAN, SPREAD, NOISE = 2.0, 0.5, 0.1


def regressions(change: float, trials: int, *, margin: float, seed: int, n: int = 1024) -> dict[str, float]:
    """How often a regression rule passes, fails or stays open when the metric truly changed by a fraction."""
    rng = np.random.default_rng(seed)
    rule = Rule(metric=CONTRAST, side="max", regression=margin, relative=True)
    counts: Counter[str] = Counter()
    for _ in range(trials):
        old = MEAN + SPREAD * rng.standard_normal(n)
        new = old * (1 + change) + NOISE * rng.standard_normal(n)
        counts[baselines.compare(SPEC, rule, old, new, confidence=0.95)[1]] += 1
    return {status: counts[status] / trials for status in ("pass", "fail", "inconclusive")}


@dataclass(frozen=True, kw_only=True)
class Drawn(Result):
    values: Sequence[float] = ()

    def per_sample(self) -> Mapping[str, Sequence[float]]:
        return {CONTRAST: self.values}


@dataclass(frozen=True, kw_only=True)
class Simulated(Gate):
    """A gate whose probe draws numbers; a longer draw starts with the shorter."""

    seed: int

    def _measure(
        self, probe: str, decoder: Decoder, samples: int, wanted: object, data: str | None = None
    ) -> Result:
        values = MEAN + SPREAD * np.random.default_rng(self.seed).standard_normal(samples)
        metric = Metric(SPEC, float(values.mean()), n=samples)
        return Drawn(metrics={CONTRAST: metric}, values=values.tolist())


def limits(distance: float, trials: int, *, seed: int) -> dict[str, float]:
    """How often a limit rule passes, fails or stays open, the truth being a fraction above the limit."""
    rule = Rule(metric=CONTRAST, side="max", limit=MEAN / (1 + distance))
    policy = Policy(rules={CONTRAST: rule}, samples=64, max_samples=4096)
    decoder = Decoder(lambda z: z, latent_dim=2)
    counts: Counter[str] = Counter()
    for trial in range(trials):
        report = Simulated(policy=policy, seed=seed * 1_000_000 + trial).check_decoder("m", decoder)
        counts[report.outcomes[0].status] += 1
    return {status: counts[status] / trials for status in ("pass", "fail", "inconclusive")}


def main(trials: int = 10_000) -> None:
    rows: list[tuple[str, Any]] = [
        ("regression rule, margin 0, models alike", regressions(0.0, trials, margin=0.0, seed=0)),
        ("regression rule, margin 1 %, models alike", regressions(0.0, trials, margin=0.01, seed=1)),
        ("regression rule, margin 1 %, 3 % worse", regressions(0.03, trials, margin=0.01, seed=2)),
        ("limit rule, truth at the limit", limits(0.0, trials // 5, seed=3)),
        ("limit rule, truth 3 % above", limits(0.03, trials // 5, seed=4)),
    ]
    print(f"{'':44}{'pass':>9}{'fail':>9}{'open':>9}")
    for name, rates in rows:
        print(f"{name:44}{rates['pass']:9.2%}{rates['fail']:9.2%}{rates['inconclusive']:9.2%}")


if __name__ == "__main__":
    main()
