"""How often intervals hold the truth, and whether p-values are uniform: `python tests/calibration.py` (minutes).

Each simulation draws what a command draws, on maps whose truth is known in closed form or to the third digit from
many more draws, and asks the very functions that the command asks.  The full run writes `tests/CALIBRATION.md`; a short
one is in the tests.  The gate's rules have a simulation of their own, `tests/gate_rates.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.geometry.agreement import code_agreement
from vaeprobe.geometry.decisions import mean_decision
from vaeprobe.geometry.dependence import correlation_test, distance_correlation_test
from vaeprobe.geometry.entropies import pairwise_information
from vaeprobe.geometry.factorisation import _gap_over_sheets
from vaeprobe.geometry.grades import explained_share, least_dependence
from vaeprobe.geometry.gram import column_norms, ima_contrast, log_det
from vaeprobe.geometry.rotations import alignment, haar, rotate
from vaeprobe.geometry.sensitivity import FAMILIES, sensitivity
from vaeprobe.geometry.spread import spread_of
from vaeprobe.inference.beta import estimate_beta
from vaeprobe.inference.consistency import Consistency, self_consistency
from vaeprobe.inference.moments import posterior_moments
from vaeprobe.intervals import binomial_interval, mean_interval, median_interval
from vaeprobe.likelihoods import Gaussian
from vaeprobe.probes.orthogonality.numbers import metrics_of
from vaeprobe.probes.orthogonality.reading import Reading

from maps import e
from vaes import linear_vae

N = 256
PAGE = Path(__file__).parent / "CALIBRATION.md"
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Row:
    """What a simulation found of one number.

    Attributes:
        what: the number: a metric, or a kind of them.
        n: draws behind each interval or p-value.
        kind: "interval" or "p-value".
        rate: share of intervals that hold the truth; of p-values at most 0.05, all tests being of true hypotheses.
        trials: how many.
        above: for intervals, the share that lie above the truth as a whole; for p-values their mean.
    """

    what: str
    n: int
    kind: str
    rate: float
    trials: int
    above: float


def latents(n: int, d: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)))


def covered(
    what: Mapping[str, float], trial: Callable[[int], Mapping[str, Interval]], trials: int, n: int = N
) -> list[Row]:
    """Return how often each interval of a trial holds its truth."""
    inside, above = dict.fromkeys(what, 0), dict.fromkeys(what, 0)
    for seed in range(trials):
        found = trial(seed)
        for name, truth in what.items():
            low, high = found[name] or (-np.inf, np.inf)
            inside[name] += low <= truth <= high
            above[name] += low > truth
    return [Row(name, n, "interval", inside[name] / trials, trials, above[name] / trials) for name in what]


def uniform(what: str, p: Callable[[int], float], trials: int, n: int) -> Row:
    """Return how often the p-values of a true hypothesis are at most 0.05, and their mean."""
    values = np.array([p(seed) for seed in range(trials)])
    return Row(what, n, "p-value", float((values <= 0.05 + 1e-12).mean()), trials, float(values.mean()))


# -- orthogonality ------------------------------------------------------------------------------


def reading(z: Tensor, seed: int, rotations: int) -> Reading:
    of = e(3)
    return Reading(
        of.gram(z),
        Decoder(of.f, 3, dtype=torch.float64),
        isotropic=True,
        seed=seed,
        active_threshold=0.05,
        rotations=rotations,
        restarts=0,
        beta_sigma2=1.0,
        likelihood=None,
    )


@cache
def truths(many: int, rotations: int) -> dict[str, float]:
    """Return the values of `orthogonality` over many latents and rotations."""
    z = latents(many, 3, 10**6)
    large = reading(z, 10**6, rotations)
    found = {m.id: m.value for m in metrics_of(large) if isinstance(m.value, float)}
    shared = [pairwise_information(rotate(large.usable[:2000], R)).mean() for R in haar(3, rotations, 77)]
    found["orthogonality.mutual_information_null"] = float(torch.stack(shared).mean())
    found["orthogonality.ima_contrast_held_out"] = found["orthogonality.ima_contrast"]
    return found


def orthogonality(trials: int) -> list[Row]:
    many, rotations = (20_000, 1000) if trials > 100 else (5000, 200)
    truth = truths(many, rotations)
    large = e(3).gram(latents(many, 3, 10**6))
    hits: dict[str, list[int]] = {}
    above: dict[str, list[int]] = {}
    for seed in range(trials):
        one = reading(latents(N, 3, seed), seed, 99)
        local = dict(truth)
        R = one.rotation
        assert R is not None
        # what this trial's own rotation does, over all latents
        local["orthogonality.ima_contrast_rotated"] = float(ima_contrast(rotate(large, R)).mean())
        local["orthogonality.fixable"] = (
            local["orthogonality.ima_contrast"] - local["orthogonality.ima_contrast_rotated"]
        )
        ends = [(m.id, m.ci) for m in metrics_of(one) if m.ci is not None]
        assert one.entropies is not None
        H = one.entropies[0][1]
        truth_H = float(column_norms(large)[:, 0].log().mean()) + 0.5 * np.log(2 * np.pi * np.e)
        local["orthogonality.entropy"] = truth_H
        for name, ci in [*ends, ("orthogonality.entropy", H)]:
            assert ci is not None
            hits.setdefault(name, []).append(ci[0] <= local[name] <= ci[1])
            above.setdefault(name, []).append(ci[0] > local[name])
    return [
        Row(name, N, "interval", float(np.mean(h)), trials, float(np.mean(above[name])))
        for name, h in hits.items()
    ]


def rotation_p(trials: int) -> list[Row]:
    """Latents in a basis that is a random rotation of any other: what the alignment's p-value supposes."""
    of = e(3)

    def p(seed: int) -> float:
        [Q] = haar(3, 1, 50_000 + seed)
        found = alignment(rotate(of.gram(latents(64, 3, seed)), Q), count=39, seed=seed).p_value
        assert found is not None
        return found

    def codes(seed: int) -> float:
        a, b = latents(128, 3, seed), latents(128, 3, 70_000 + seed)
        [Q] = haar(3, 1, 90_000 + seed)
        return code_agreement(a, (a + b) @ Q, count=39, seed=seed).p_value

    return [
        uniform("orthogonality.alignment_p, posterior.hessian_p_value", p, trials, 64),
        uniform("compare: p of the agreement of codes and of columns", codes, trials, 128),
    ]


# -- factorise ----------------------------------------------------------------------------------

TURN = 0.4


def turned(z: Tensor) -> Tensor:
    return torch.from_numpy(FAMILIES["turned"](TURN, z.numpy()))


def factor_logs(z: Tensor) -> Tensor:
    return -z.square() / 2 - column_norms(turned(z)).log()


def factorise(trials: int) -> list[Row]:
    law = sensitivity("turned", (TURN,))
    z = latents(200_000, 2, 10**6)
    logs, other = column_norms(turned(z)).log(), latents(200_000, 2, 10**6 + 1)
    shares = []
    for i in range(2):
        kept = other.clone()
        kept[:, i] = z[:, i]
        change = (logs[:, i] - column_norms(turned(kept))[:, i].log()).square().mean() / 2
        shares.append(float(1 - change / logs[:, i].var()))
    truth = {
        "factorise.gap": law.gap[0],
        "factorise.modulation": law.cross[0],
        "factorise.own_share": shares[0],
        "factorise.mean_own_share": float(np.mean(shares)),
        "factorise.dependence": least_dependence(factor_logs(z[:50_000]))[0],
        "factorise.explained": law.explained[0],
    }

    def trial(seed: int) -> dict[str, Interval]:
        z, other = latents(N, 2, seed), latents(N, 2, 500_000 + seed)
        G = turned(z)
        frozen = torch.stack(
            [column_norms(turned(torch.where(torch.arange(2) == i, z, other)))[:, i] for i in range(2)],
            1,
        )
        spread = spread_of(column_norms(G), frozen, margin=1e-4, seed=seed)
        contrast = ima_contrast(G)
        explained = explained_share(contrast, -z.square().sum(1) / 2 - log_det(G) / 2, seed=seed)
        assert explained is not None
        return {
            "factorise.gap": mean_decision(contrast, 1e-4, seed).ci,
            "factorise.modulation": spread.largest.ci,
            "factorise.own_share": spread.own_share_ci[0],
            "factorise.mean_own_share": spread.mean_own_share_ci,
            "factorise.dependence": least_dependence(factor_logs(z), seed=seed)[1],
            "factorise.explained": explained[1],
        }

    return covered(truth, trial, trials)


def sheets(trials: int) -> list[Row]:
    """The true gap: a contrast, and what other sheets add at a share of the latents; the share itself."""

    def trial(seed: int) -> dict[str, Interval]:
        rng = np.random.default_rng(seed)
        contrast = torch.from_numpy(rng.exponential(0.2, N))
        hit = rng.random(48) < 0.4
        others = torch.from_numpy(np.where(hit, np.log(2), 0.0))
        return {
            "factorise.true_gap": _gap_over_sheets(contrast, others, seed)[1],
            "factorise.sheets": binomial_interval(int(hit.sum()), 48),
        }

    truth = {"factorise.true_gap": 0.2 + 0.4 * float(np.log(2)), "factorise.sheets": 0.4}
    return covered(truth, trial, trials, 48)


def dependence_p(trials: int) -> list[Row]:
    return [
        uniform(
            "factorise.seam_dependence_p",
            lambda s: correlation_test(latents(64, 4, s).exp(), permutations=39, seed=s).p,
            trials,
            64,
        ),
        uniform(
            "factorise.distance_correlation_p",
            lambda s: distance_correlation_test(latents(48, 3, s).exp(), permutations=39, seed=s).p,
            trials,
            48,
        ),
    ]


# -- posterior and beta -------------------------------------------------------------------------


POOL = 10_000  # rows that are drawn from


def of_beta(n: int, seed: int) -> dict[str, tuple[float, Interval]]:
    """Return what `beta` says of a linear VAE whose log-variances have noise from row to row, on rows at random."""
    vae = linear_vae(n=POOL, noise=0.3, seed=seed, beta=2.0)
    encoder = vae.decoder.encoder
    assert encoder is not None
    x = vae.x[np.random.default_rng(seed).permutation(POOL)[:n]]
    found = estimate_beta(posterior_moments(vae.decoder, encoder, x, Gaussian(0.3), pairs=2), seed=seed)
    assert found is not None
    names = ("stein", "gauss_newton", "means", "means_over_variances", "row_shift")
    return {f"beta: {name}": (getattr(found, name).value, getattr(found, name).ci) for name in names}


def beta(trials: int) -> list[Row]:
    truth = {name: value for name, (value, _) in of_beta(POOL, 10**6).items()}
    return covered(truth, lambda seed: {k: ci for k, (_, ci) in of_beta(N, seed).items()}, trials)


def consistency(trials: int) -> list[Row]:
    vae = linear_vae(n=POOL)
    encoder = vae.decoder.encoder
    assert encoder is not None

    def trial(seed: int) -> dict[str, Interval]:
        used = torch.tensor([True] * 3)
        x = vae.x[np.random.default_rng(seed).permutation(POOL)[:N]]
        moments = posterior_moments(vae.decoder, encoder, x, vae.likelihood, pairs=2)
        found = self_consistency(vae.decoder, encoder, x, vae.likelihood, moments, used, seed=seed)
        assert isinstance(found, Consistency)
        return {"posterior.self_consistency": found.ci}

    S = vae.variance
    return covered({"posterior.self_consistency": float(S.square().sum() / S.sum())}, trial, trials)


# -- what all share -----------------------------------------------------------------------------


def means(trials: int) -> list[Row]:
    """Means and medians of few and of many: those of `trace` are over starts, of `posterior` over rows."""
    rows = []
    for n in (4, 16, N):

        def trial(seed: int, n: int = n) -> dict[str, Interval]:
            rng = np.random.default_rng(seed)
            exponential = rng.exponential(size=n)
            return {
                "mean of normal values (trace, posterior, elbo)": mean_interval(rng.standard_normal(n)),
                "mean of exponential values": mean_interval(exponential, low=0.0),
                **({"median of exponential values": median_interval(exponential)} if n > 5 else {}),
            }

        truth = {"mean of normal values (trace, posterior, elbo)": 0.0, "mean of exponential values": 1.0}
        if n > 5:
            truth["median of exponential values"] = float(np.log(2))
        rows += covered(truth, trial, trials, n)
    return rows


SIMULATIONS: tuple[Callable[[int], list[Row]], ...] = (
    orthogonality,
    rotation_p,
    factorise,
    sheets,
    dependence_p,
    beta,
    consistency,
    means,
)


def run(trials: int) -> Iterator[Row]:
    for simulation in SIMULATIONS:
        yield from simulation(trials)


def page(rows: list[Row]) -> str:
    """Return the table as a page."""
    error = 100 * (0.95 * 0.05 / rows[0].trials) ** 0.5
    lines = [
        "# Calibration",
        "",
        f"Written by `python tests/calibration.py`: {rows[0].trials} simulations each, so that a rate of 95 % has a standard",
        f"error of {error:.1f} %. Intervals are of 95 %; where they miss, `above` is the share of all that lie above the truth (2.5 %",
        "for one that misses evenly). For p-values of true hypotheses the share at most 0.05 is given, and the mean (0.5 for a",
        "uniform one; with K permutations or rotations they are multiples of 1 / (K + 1)).",
        "",
        "| number | n | | rate | above / mean |",
        "| --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        rate = f"{r.rate:.1%} hold the truth" if r.kind == "interval" else f"{r.rate:.1%} at most 0.05"
        tail = f"{r.above:.1%}" if r.kind == "interval" else f"{r.above:.2f}"
        lines.append(f"| {r.what} | {r.n} | {r.kind} | {rate} | {tail} |")
    return "\n".join([*lines, "", NOTES, ""])


NOTES = """What is off, and why it stays:

- Intervals of shares of few (`factorise.sheets`) are exact binomial ones, which hold the truth at least so often.
- `beta` resamples latents as well as rows, since what training left undone differs from latent to latent: with three latents
  that all tell the same its intervals are wider than these rows alone would need.
- `factorise.true_gap` allows for sheets that were not met among the latents that were searched (rule of three)."""


def main(trials: int = 400) -> None:
    torch.set_num_threads(1)
    rows = []
    for row in run(trials):
        rows.append(row)
        print(f"{row.what:58} {row.n:4} {row.kind:9} {row.rate:7.1%} {row.above:6.3f}", flush=True)
    PAGE.write_text(page(rows), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
