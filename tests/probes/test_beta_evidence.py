"""What speaks for and against a beta: latents, means, rows, and how the encoder's outputs are read.

Every model is the optimum of a linear beta-VAE, or one altered in a known way, so that the right answer is exact.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vaeprobe.decoder import Decoder, Group
from vaeprobe.encoder import Encoder
from vaeprobe.errors import InputError
from vaeprobe.inference.beta import estimate_beta
from vaeprobe.inference.collapse import informative
from vaeprobe.inference.identity import row_shift
from vaeprobe.inference.moments import posterior_moments
from vaeprobe.inference.readings import ORDERS, SECONDS, LayoutReading, defect, readings
from vaeprobe.probes.beta import Beta, BetaResult
from vaeprobe.probes.posterior import Posterior

from vaes import LinearVAE, linear_vae

SHARP = (9.0, 4.0, 2.0, 0.3, 0.3, 0.3)
MILD = (1.9, 1.7, 1.5, *(1.0,) * 7)


def probed(vae: LinearVAE, **settings: object) -> BetaResult:
    return Beta(
        **{"data": vae.x, "sigma2": vae.likelihood.sigma2, "pairs": 2, "samples": len(vae.x), **settings}
    ).measure(vae.decoder)  # type: ignore[arg-type]


def codes(result: BetaResult) -> set[str]:
    return {f.code for f in result.findings}


# -- which latents count ---------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.4])
def test_mild_posteriors_count(beta: float) -> None:
    result = probed(linear_vae(MILD, beta=beta, sigma2=1.0, n=400))
    assert result.verdict == "consistent"
    assert result["beta.estimate"].value == pytest.approx(beta, abs=1e-9)
    assert result["latents.active.precision"].value == 3


@pytest.mark.parametrize(("nats", "count"), [(0.0101, 1), (0.0099, 0)])
def test_a_latent_counts_from_a_hundredth_of_a_nat(nats: float, count: int) -> None:
    # KL_i = 1/2 log(lambda_i / (beta sigma^2)) at the optimum
    result = probed(linear_vae((0.3 * math.exp(2 * nats), 0.3, 0.3), d=1, sigma2=0.3, n=400))
    assert result["latents.active.precision"].value == count
    assert result.verdict == ("untested" if count else "collapsed")


@pytest.mark.parametrize(("errors", "counts"), [(3.1, True), (2.9, False)])
def test_a_latent_counts_where_its_variance_is_clear_of_1(errors: float, counts: bool) -> None:
    n, gain = 100, 0.1
    spread = gain / errors * math.sqrt(n)  # so that the mean of 1 - Sigma is `errors` standard errors
    wave = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(n // 2) * math.sqrt((n - 1) / n)
    variance = (1 - gain + spread * wave)[:, None]
    mean = torch.ones(n, 1, dtype=torch.float64)
    assert bool(informative(mean, variance)) == counts


def test_collapse_with_noise_is_collapse() -> None:
    for noise in (0.0, 0.02, 0.5):
        result = probed(linear_vae((0.3,) * 6, sigma2=0.3, noise=noise, n=400))
        assert result.verdict == "collapsed"
        assert not result["beta.estimate"].defined
        assert not result["beta.row_shift"].defined


def test_means_that_move_without_information_do_not_count() -> None:
    mean, variance = torch.randn(50, 1, dtype=torch.float64), torch.ones(50, 1, dtype=torch.float64)
    assert not bool(informative(mean, variance))


# -- what tests the estimate -------------------------------------------------------------------------


def test_one_active_latent_tests_nothing() -> None:
    result = probed(linear_vae((9.0, 0.3, 0.3, 0.3), sigma2=0.3))
    assert result.verdict == "untested"
    assert "nothing tests" in result.summary
    assert not result["beta.consistency"].defined


def test_one_active_latent_is_held_against_its_means() -> None:
    result = probed(linear_vae((9.0, 0.3, 0.3, 0.3), sigma2=0.3, factor=2.0))
    assert result.verdict == "inconsistent"
    assert "means-disagree" in codes(result)


@pytest.mark.parametrize(("spread", "verdict"), [(0.45, "consistent"), (0.55, "untested")])
def test_few_rows_test_nothing(spread: float, verdict: str) -> None:
    from vaeprobe.inference.identity import Evenness
    from vaeprobe.probes.beta import words

    vae = linear_vae(SHARP)
    evidence = Beta(data=vae.x, sigma2=0.3, pairs=2).evidence(vae.decoder)
    assert evidence.estimate is not None
    estimate = replace(evidence.estimate, agreement=Evenness(0.1, (0.0, spread)))
    assert words.verdict(replace(evidence, estimate=estimate)) == verdict
    if verdict == "untested":
        assert "too few to test" in words.summary(replace(evidence, estimate=estimate))


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_variances_of_another_beta_than_the_means(factor: float) -> None:
    result = probed(linear_vae(SHARP, sigma2=0.3, factor=factor))
    assert result["beta.estimate"].value == pytest.approx(1 / factor)
    assert result["beta.mean_identity"].value == pytest.approx(1.0)
    assert result.verdict == "inconsistent"
    finding = next(f for f in result.findings if f.code == "means-disagree")
    assert finding.level == "warning"
    assert "the means imply beta = 1," in finding.message
    assert "the means imply 1" in result.summary


@pytest.mark.parametrize(("factor", "said"), [(1.03, True), (0.97, True), (1.005, False)])
def test_small_differences_of_the_means_are_a_note(factor: float, said: bool) -> None:
    result = probed(linear_vae(SHARP, sigma2=0.3, factor=factor))
    assert result.verdict == "consistent"
    assert [f.level for f in result.findings if f.code == "means-disagree"] == ["note"] * said


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.04, "consistent"), (1.06, "inconsistent"), (1 / 1.06, "inconsistent")]
)
def test_means_within_five_per_cent_agree(factor: float, verdict: str) -> None:
    assert probed(linear_vae(SHARP, sigma2=0.3, factor=factor)).verdict == verdict


@pytest.mark.parametrize("noise", [0.5, 0.7, 1.0])
def test_rows_that_disagree(noise: float) -> None:
    result = probed(linear_vae(SHARP, sigma2=0.3, noise=noise, n=800))
    assert result.verdict == "inconsistent"
    finding = next(f for f in result.findings if f.code == "rows-disagree")
    assert finding.level == "warning"
    # the estimate is 1 but for what the noise adds, and the shift says how much that is
    bias = result["beta.estimate"].value - 1
    assert bias > 0.08
    assert result["beta.row_shift"].value == pytest.approx(bias, rel=0.2, abs=0.02)


def test_little_noise_of_the_rows_is_a_note_and_none_is_nothing() -> None:
    little = probed(linear_vae(SHARP, sigma2=0.3, noise=0.22, n=800))
    assert little.verdict == "consistent"
    assert [f.level for f in little.findings if f.code == "rows-disagree"] == ["note"]
    assert "rows-disagree" not in codes(probed(linear_vae(SHARP, sigma2=0.3, n=800)))


def test_rows_that_differ_as_they_should_are_no_noise() -> None:
    # curvature differs from row to row, and each variance is its own optimum; then an amortised encoder that only
    # sees a blurred curvature, at its own optimum: rows are off, and the identity of the log-variance head holds
    rng = np.random.default_rng(0)
    h = torch.from_numpy(rng.lognormal(1.0, 0.8, (4000, 2)))
    own = 1 / (1 + h)
    assert row_shift(own * h, 1 - own, own.log()).value == pytest.approx(0, abs=1e-12)
    group = torch.from_numpy(rng.integers(0, 5, 4000))
    blurred = torch.stack([1 / (1 + h[group == g].mean(0)) for g in range(5)])[group]
    found = row_shift(blurred * h, 1 - blurred, blurred.log())
    assert abs(found.value) < 0.01
    assert float((blurred / own).log().square().mean().sqrt()) > 0.4


def test_latents_apart_by_more_than_their_errors() -> None:
    factor = torch.tensor([1.0, 1.05, 1.1], dtype=torch.float64)
    result = probed(linear_vae(SHARP, sigma2=0.3, factor=factor))
    assert "latents-apart" in codes(result)
    finding = next(f for f in result.findings if f.code == "latents-apart")
    assert "from 0.909 (z2) to 1 (z0)" in finding.message
    assert "within" in result.summary or result.verdict == "inconsistent"
    assert "total-correlation" in (finding.hint or "")
    assert "capacity" in (finding.hint or "")


def test_a_consistent_answer_says_what_it_rests_on() -> None:
    summary = probed(linear_vae(SHARP, sigma2=0.3)).summary
    assert "the variances imply beta = 1 " in summary
    assert "rows that the encoder was not trained on bias it" in summary
    assert "within 0.1%" in summary
    assert "the means agree" in summary
    assert "total-correlation and capacity losses can look alike" in summary


def test_wide_latents_are_trusted_less_than_sharp_ones() -> None:
    # beta_i goes with 1 / (1/Sigma - 1): an error of a variance weighs 1 / (1 - Sigma) in it
    from vaeprobe.inference.identity import agreement

    bottom = torch.tensor([0.95, 0.95, 0.95, 0.1], dtype=torch.float64).expand(100, 4)
    off = torch.tensor([1.0, 1.0, 1.0, 1.3], dtype=torch.float64)
    mild = agreement(bottom * off, bottom)
    sharp = agreement(bottom * off.flip(0), bottom)
    assert mild.spread < 0.5 * sharp.spread


# -- how the encoder's outputs are read ----------------------------------------------------------------


def misread(vae: LinearVAE, second: str, order: str = "") -> Decoder:
    """Return the decoder with an encoder whose second output is `second`, in that order, read as log-variances."""
    encoder = vae.decoder.encoder
    assert encoder is not None

    def encode(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_variance = encoder.function(x)
        s = SECONDS[second][1](log_variance)
        k = mean.shape[1]
        if order == "swapped":
            return s, mean
        if order == "interleaved":  # read as halves
            both = torch.stack([mean, s], dim=2).reshape(len(x), 2 * k)
            return both[:, :k], both[:, k:]
        if order == "chunked":  # read as pairs
            pairs = torch.cat([mean, s], dim=1).view(len(x), k, 2)
            return pairs[:, :, 0], pairs[:, :, 1]
        return mean, s

    return replace(vae.decoder, encoder=replace(encoder, function=encode))


def attempted(vae: LinearVAE) -> tuple[BetaResult | None, str]:
    """Return the result, or the words of the refusal."""
    try:
        return probed(vae), ""
    except InputError as error:
        return None, f"{error.message} {error.hint}"


NEAR = {"softplus_precision": "precision"}  # the same to 1 part in 30 where precisions are far above 1


@pytest.mark.parametrize("order", ["", "interleaved", "chunked", "swapped"])
@pytest.mark.parametrize("second", sorted(SECONDS))
@pytest.mark.parametrize("kind", ["sharp", "mild"])
def test_every_other_layout_is_named_or_harmless(kind: str, second: str, order: str) -> None:
    vae = linear_vae(SHARP, sigma2=0.3, n=200) if kind == "sharp" else linear_vae(MILD, sigma2=1.0, n=200)
    decoder = misread(vae, second, order)
    result, refusal = attempted(replace(vae, decoder=decoder))
    if result is None:
        assert re.search("laid out otherwise|not finite", refusal)
        return
    if (second, order) == ("log_variance", "") or result.verdict == "consistent":
        assert result["beta.estimate"].value == pytest.approx(1.0, abs=0.07)
        return
    assert result.verdict in ("mismatched", "inconsistent")
    if order == "" and result.verdict == "mismatched":
        finding = next(f for f in result.findings if f.code == "other-layout")
        named = {LayoutReading("", s, vae.x, vae.x).words for s in (second, NEAR.get(second, second))}
        assert any(f"read as {words} " in finding.message for words in named)
        assert "do not trust" in result.summary


@pytest.mark.parametrize("second", ["log_sd", "variance", "sd", "log_precision", "softplus_sd"])
def test_a_second_output_of_another_kind_is_named_with_its_beta(second: str) -> None:
    vae = linear_vae((9.0, 4.0, 2.0, 0.3, 0.3, 0.3), beta=2.0, sigma2=0.15, n=200)
    result, refusal = attempted(replace(vae, decoder=misread(vae, second)))
    if result is None:
        assert LayoutReading("", second, vae.x, vae.x).words in refusal
        return
    assert result.verdict == "mismatched"
    finding = next(f for f in result.findings if f.code == "other-layout")
    assert "about 2" in finding.message
    known = second not in ("log_precision",)
    assert (f'second = "{second}"' in (finding.hint or "")) == known


def test_one_latent_read_as_log_sd() -> None:
    vae = linear_vae((4.0, 0.3, 0.3), d=1, sigma2=0.3, n=200)
    result = probed(replace(vae, decoder=misread(vae, "log_sd")))
    assert result.verdict == "mismatched"


def test_posterior_says_so_too() -> None:
    vae = linear_vae(SHARP, sigma2=0.3, n=200)
    result = Posterior(data=vae.x, sigma2=0.3, pairs=2, rotations=19).measure(misread(vae, "log_sd"))
    assert result.verdict == "mismatched"
    assert "other-layout" in {f.code for f in result.findings}
    assert "do not trust" in result.summary


def test_doctored_variances_are_no_other_layout() -> None:
    for change in ({"factor": 0.5}, {"factor": 2.0}, {"noise": 0.7}):
        assert "other-layout" not in codes(probed(linear_vae(SHARP, sigma2=0.3, n=200, **change)))  # type: ignore[arg-type]


def test_readings_undo_each_other() -> None:
    log_variance = torch.linspace(-6, 2, 40, dtype=torch.float64).view(10, 4)
    for of, back in SECONDS.values():
        assert torch.allclose(of(back(log_variance)), log_variance, atol=1e-9)
    mean = torch.randn(10, 4, dtype=torch.float64)
    for reading in readings(mean, log_variance):
        assert reading.order in ORDERS
        assert reading.words


def test_defect_is_zero_at_the_optimum_only() -> None:
    vae = linear_vae(SHARP, sigma2=0.3)
    m = posterior_moments(vae.decoder, vae.decoder.encoder, vae.x, vae.likelihood, pairs=2)
    v = m.variance.log()
    assert defect(m.mean, v, m.curvature, m.score) == pytest.approx(0, abs=1e-18)
    assert defect(m.mean, v, 2 * m.curvature, m.score) == pytest.approx(math.log(2) ** 2)
    assert defect(m.mean, torch.zeros_like(v), m.curvature, m.score) == math.inf
    assert defect(m.mean, v, -m.curvature, m.score) == math.inf
    assert estimate_beta(m) is not None


# -- names ---------------------------------------------------------------------------------------------


def test_a_latent_is_called_by_its_column() -> None:
    A = torch.arange(20.0, dtype=torch.float64).reshape(5, 4).cos()
    encoder = Encoder(
        lambda x: (x[:, :3], torch.full((len(x), 3), -1.0, dtype=x.dtype)), 3, dtype=torch.float64
    )
    decoder = Decoder(lambda z: torch.tanh(z @ A), 5, dtype=torch.float64, likelihood="gaussian", encoder=encoder,
                      prior=(Group("onehot", 2), Group("normal", 3)))  # fmt: skip
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 4)))
    for probe in (Beta(data=x), Posterior(data=x, rotations=19)):
        result = probe.measure(decoder)
        assert [row["latent"] for row in result.latent_rows()] == ["z2", "z3", "z4"]
        assert "'z0'" not in str(result.sections())


def test_data_scaling_and_likelihood_are_named(tmp_path: object) -> None:

    path = Path(str(tmp_path)) / "rows.npy"
    vae = linear_vae(SHARP, sigma2=0.3, n=64)
    np.save(path, vae.x.numpy())
    for probe in (
        Beta(data=path, sigma2=0.3, samples=32),
        Posterior(data=path, sigma2=0.3, samples=32, rotations=19),
    ):
        result = probe.measure(vae.decoder)
        assert result.summary.startswith(
            "On 32 of 64 rows of `rows.npy` (as stored), Gaussian (sigma^2 = 0.3) likelihood:"
        )
        assert result.settings["rows_of"] == "32 of 64 rows of `rows.npy`"
        assert result.settings["scaling"] == "as stored"
    np.save(path, (vae.x.numpy() * 10 + 100).clip(0, 255).astype(np.uint8))
    assert Beta(data=path).measure(vae.decoder).settings["scaling"] == "divided by 255"


@pytest.mark.parametrize(
    ("likelihood", "scaling"),
    [("poisson", "as stored"), ("multinomial", "as stored"), ("bernoulli", "divided by 255")],
)
def test_small_counts_are_no_pixels(tmp_path: Path, likelihood: str, scaling: str) -> None:
    """Stored in 8 bits, which counts of cells and words often are, they stay what they are."""
    vae = linear_vae(SHARP, sigma2=0.3, n=64)
    np.save(tmp_path / "counts.npy", vae.x.numpy().clip(0, 3).round().astype(np.uint8))
    decoder = replace(vae.decoder, likelihood=None, parameter="natural")
    found = Posterior(data=tmp_path / "counts.npy", likelihood=likelihood, samples=16, rotations=19).measure(
        decoder
    )
    assert found.settings["scaling"] == scaling


# -- codes that gain little ------------------------------------------------------------------------


@pytest.mark.parametrize("n", [64, 500, 2000])
def test_posteriors_that_gain_a_tenth_of_a_nat_are_not_called_worse_than_chance(n: int) -> None:
    """The exact optimum, whose codes gain less than single draws can show."""
    result = probed(linear_vae((1.2, 1.15, 1.1, *(1.0,) * 5), beta=1.0, sigma2=1.0, n=n))
    assert "no-better-than-chance" not in codes(result)
    assert result.verdict != "mismatched"


def test_codes_of_other_rows_are_still_called_no_better_than_chance() -> None:
    vae = linear_vae(SHARP, beta=1.0, sigma2=0.3, n=400)
    assert vae.decoder.encoder is not None
    own = vae.decoder.encoder
    shifted = Encoder(
        lambda x: (own(x.roll(7, 0))[0], own(x)[1]),
        own.latent_dim,
        input_shape=own.input_shape,
        dtype=own.dtype,
    )
    result = Beta(data=vae.x, sigma2=0.3, pairs=2, samples=400).measure(replace(vae.decoder, encoder=shifted))
    assert "no-better-than-chance" in codes(result)


# -- codes that fill the prior ------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_codes_fill_the_prior_at_the_optimum_of_any_beta(beta: float) -> None:
    # e has variance 1 - beta sigma^2 / lambda, Sigma is beta sigma^2 / lambda
    result = probed(linear_vae(beta=beta), sigma2=0.3)
    assert result["posterior.mean_square"].value == pytest.approx([1.0] * 3, rel=1e-9)
    assert "codes-off-prior" not in codes(result)
    assert [row["mean_square"] for row in result.latent_rows()] == pytest.approx([1.0] * 3, rel=1e-9)


def scaled(factor: float, n: int = 2000) -> BetaResult:
    """Probe a VAE whose first latent is so many times as large, its decoder scaled back."""
    vae = linear_vae(n=n)
    encoder = vae.decoder.encoder
    assert encoder is not None
    s = torch.tensor([factor, 1.0, 1.0], dtype=torch.float64)

    def encode(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_variance = encoder(x)
        return mean * s, log_variance + 2 * s.log()

    eyes = Encoder(encode, 3, input_shape=(6,), dtype=torch.float64)
    decoder = Decoder(
        lambda z: (z / s) @ vae.W.T, 3, dtype=torch.float64, likelihood="gaussian", encoder=eyes
    )
    return Beta(data=vae.x, sigma2=0.3, samples=n).measure(decoder)


@pytest.mark.parametrize(("factor", "said"), [(1.35, False), (1.48, True), (0.75, False), (0.68, True)])
def test_codes_that_do_not_fill_the_prior_are_named(factor: float, said: bool) -> None:
    # mean squares 1.82, 2.19, .56, .46, each known to 3 %: outside of 1/2 to 2 for certain, or not
    result = scaled(factor)
    assert result["posterior.mean_square"].value == pytest.approx([factor**2, 1, 1], rel=1e-9)
    assert ("codes-off-prior" in codes(result)) is said


# -- where the likelihood is not curved as an optimum needs it -------------------------------------


def parabolas(x: float) -> Beta:
    """z to z^2 / 2, posteriors N(e, 1/2) and data near x: a curvature of h = 3/2 E z^2 - x."""
    rng = np.random.default_rng(0)
    return Beta(data=x + 0.1 * rng.standard_normal((64, 3)), samples=64, pairs=64)


def near_zero(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x - x.mean(0), torch.full_like(x, math.log(0.5))


PARABOLAS = Decoder(lambda z: z.square() / 2, 3, likelihood="gaussian", encoder=Encoder(near_zero, 3))


@pytest.mark.parametrize(("x", "clear"), [(0.5, True), (0.72, False)])
def test_a_beta_whose_interval_reaches_zero_is_open(x: float, clear: bool) -> None:
    """True are .77 - x, to .08 of which these rows tell it."""
    from vaeprobe.gate.policy import Rule
    from vaeprobe.gate.run import hold

    probe = parabolas(x)
    result = probe.measure(PARABOLAS)
    metric = result["beta.estimate"]
    assert metric.value == pytest.approx(0.765 - x, abs=0.05)
    assert (metric.ci is not None and metric.ci[0] > 0) is clear
    assert metric.to_dict().get("reason") == (None if clear else "not distinguishable from 0")
    assert ("not distinguishable from 0" in str(result)) is not clear
    assert ("imply nothing that is distinguishable from 0: beta" in result.summary) is not clear
    assert bool(result.meaning) is clear
    held = {}
    for side, limit in (("max", 2.0), ("min", 1.0)):
        rule = Rule(metric=metric.id, side=side, limit=limit)  # type: ignore[arg-type]
        outcome = hold(rule, metric)
        held[side] = outcome.status
        assert ("; not distinguishable from 0" in outcome.message) is not clear
    assert held == ({"max": "pass", "min": "fail"} if clear else dict.fromkeys(held, "inconclusive"))


@pytest.mark.parametrize(("x", "curved"), [(5.0, False), (0.0, True)])
def test_negative_curvature_implies_no_beta(x: float, curved: bool) -> None:
    probe = parabolas(x)
    result = probe.measure(PARABOLAS)
    derived = ("beta.estimate", "beta.gauss_newton", "beta.consistency", "beta.row_shift")
    assert [result[id].defined for id in derived] == [curved] * 4
    # sum of Sigma h / (1 - Sigma), the codes' mean squares being 0.01
    true = 1.5 * (0.5 + 0.01) - x
    if curved:
        assert result["beta.estimate"].value == pytest.approx(true, abs=0.1)
        assert "no-curvature" not in codes(result)
        return
    would_be = re.search(r"where beta would be (\S+)", str(result["beta.estimate"].reason))
    assert would_be is not None
    assert float(would_be[1]) == pytest.approx(true, abs=0.3)
    assert "no-curvature" in codes(result)
    assert result.meaning == ""
    assert all(row["collapses_at"] is None for row in result.latent_rows())
    posterior = Posterior(data=probe.data, samples=64, rotations=19).measure(PARABOLAS)
    assert "at beta = 1 (assumed)" in posterior.summary
    (unknown,) = [f for f in posterior.findings if f.code == "beta-unknown"]
    assert "curvature is not positive" in unknown.message
    assert str(posterior["posterior.precision_ratio"].method).endswith("assumed")


@pytest.mark.parametrize(("x", "clear"), [(0.735, False), (0.6, True)])
def test_latents_are_not_held_against_a_beta_that_is_noise(x: float, clear: bool) -> None:
    # E z^2 = 1/2 leaves next to no curvature near x = 3/4
    result = parabolas(x).measure(PARABOLAS)
    assert result["beta.estimate"].defined
    assert result["beta.consistency"].defined == clear
    assert ("is open" in " ".join(f.message for f in result.findings)) != clear


def test_means_that_ask_for_a_negative_beta_ask_for_none() -> None:
    def pushed(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return -x / 2, torch.full_like(x, math.log(0.5))

    x = np.random.default_rng(0).standard_normal((64, 3))
    decoder = Decoder(lambda z: 1.0 * z, 3, likelihood="gaussian", encoder=Encoder(pushed, 3))
    result = Beta(data=x, samples=64, pairs=2).measure(decoder)
    assert result["beta.estimate"].value == pytest.approx(1.0)
    assert not result["beta.mean_identity"].defined
    assert "-3, which is no beta" in str(result["beta.mean_identity"].reason)
