"""Posterior moments, the precision identity, the ELBO, collapse and overlap, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vaeprobe.decoder import Decoder, Group
from vaeprobe.geometry.gram import mean_field_gap
from vaeprobe.inference.beta import estimate_beta
from vaeprobe.inference.collapse import active_by_all_rules, supported_directions
from vaeprobe.inference.elbo import elbo_terms, kl_per_latent, mean_gap, optimal_variance, variance_gap
from vaeprobe.inference.identity import absolute_share, agreement, ratio_per_latent
from vaeprobe.inference.moments import PosteriorMoments, posterior_moments, with_codes
from vaeprobe.inference.overlap import bhattacharyya, nearest_overlap, variance_at
from vaeprobe.inference.pooling import pooled_ratio
from vaeprobe.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, Poisson

from maps import haar
from vaes import encoder_of, exact_data, linear_vae

EIGENVALUES = (9.0, 4.0, 2.0, 0.3, 0.3, 0.3)


def close(a: object, b: object, tolerance: float = 1e-10) -> bool:
    a, b = (torch.as_tensor(t, dtype=torch.float64) for t in (a, b))
    return bool(torch.allclose(a, b, rtol=tolerance, atol=tolerance))


# -- linear VAE: every term in closed form -------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_linear_vae_in_closed_form(beta: float) -> None:
    vae = linear_vae(EIGENVALUES, beta=beta, sigma2=0.3)
    m = posterior_moments(vae.decoder, vae.decoder.encoder, vae.x, vae.likelihood, pairs=3)
    eigenvalues = torch.tensor(EIGENVALUES[:3], dtype=torch.float64)
    tau = beta * 0.3
    G = torch.diag(eigenvalues - tau) / 0.3
    assert close(m.variance, tau / eigenvalues)
    assert close(m.gram, G)
    assert close(m.gram_at_mean, G)
    assert close(m.curvature, m.gauss_newton), (
        "Stein and Gauss-Newton agree where the log-likelihood is quadratic"
    )
    assert float(m.curvature_error.max()) < 1e-10, "the control variate leaves no noise"
    assert close(m.score, beta * m.mean), "the means are at their optimum"
    estimate = estimate_beta(m)
    assert estimate is not None
    for one in (estimate.stein, estimate.gauss_newton, estimate.means, *estimate.per_latent):
        assert close(one.value, beta)
        assert close(one.ci, (beta, beta))
    assert estimate.agreement is not None
    assert estimate.agreement.spread < 1e-6
    kl = kl_per_latent(m.mean, m.variance).mean(0)
    assert close(kl, 0.5 * (eigenvalues / tau).log())
    assert close(variance_gap(m, beta), 0)
    assert close(mean_gap(m, beta), 0)
    assert close(optimal_variance(m, beta), m.variance)


def test_elbo_of_a_linear_vae_is_the_log_likelihood_at_beta_1() -> None:
    vae = linear_vae(EIGENVALUES, sigma2=0.3)
    terms = elbo_terms(posterior_moments(vae.decoder, vae.decoder.encoder, vae.x, vae.likelihood, pairs=2))
    C = vae.W @ vae.W.T + 0.3 * torch.eye(6, dtype=torch.float64)
    truth = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=torch.float64), C).log_prob(vae.x)
    assert close(terms.value(), truth)
    assert close(terms.deterministic(), terms.value())
    assert close(terms.remainder, 0)


def test_a_full_posterior_would_gain_the_mean_field_gap_on_a_rotated_linear_vae() -> None:
    vae = linear_vae(EIGENVALUES, sigma2=0.3, R=haar(3))
    m = posterior_moments(vae.decoder, vae.decoder.encoder, vae.x, vae.likelihood, pairs=2)
    C = vae.W @ vae.W.T + 0.3 * torch.eye(6, dtype=torch.float64)
    truth = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=torch.float64), C).log_prob(vae.x)
    assert close(elbo_terms(m).value() + mean_field_gap(m.gram), truth)


def test_theorem_3_only_the_product_of_beta_and_sigma2_shows() -> None:
    vae = linear_vae(EIGENVALUES, beta=2.0, sigma2=0.25)
    for sigma2 in (0.1, 0.25, 1.0):
        m = posterior_moments(vae.decoder, vae.decoder.encoder, vae.x, Gaussian(sigma2), pairs=2)
        estimate = estimate_beta(m)
        assert estimate is not None
        assert close(estimate.stein.value * sigma2, 0.5)


def test_collapsed_directions_of_a_linear_vae() -> None:
    vae = linear_vae((9.0, 4.0, 0.5, 0.3), d=3, beta=2.0, sigma2=0.3)
    m = posterior_moments(vae.decoder, vae.decoder.encoder, vae.x, vae.likelihood, pairs=2)
    active = active_by_all_rules(m)
    for rule in (active.kl, active.means, active.columns, active.precision):
        assert rule.tolist() == [True, True, False]
    edges = supported_directions(vae.x, vae.likelihood)
    assert close(edges, torch.tensor([9.0, 4.0, 0.5, 0.3], dtype=torch.float64) / 0.3)
    assert int((edges > 2.0).sum()) == 2
    everything = linear_vae((9.0, 4.0, 0.5, 0.3), d=3, beta=40.0, sigma2=0.3)
    gone = posterior_moments(
        everything.decoder, everything.decoder.encoder, everything.x, Gaussian(0.3), pairs=2
    )
    assert estimate_beta(gone) is None


def test_one_latent() -> None:
    vae = linear_vae((4.0, 0.3), d=1, sigma2=0.3)
    m = posterior_moments(vae.decoder, vae.decoder.encoder, vae.x, vae.likelihood, pairs=2)
    estimate = estimate_beta(m)
    assert estimate is not None
    assert estimate.agreement is None
    assert close(estimate.stein.value, 1.0)


# -- averages under q that are known for curved decoders -------------------------------------------


def posteriors(n: int, k: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((n, k))), torch.from_numpy(rng.uniform(0.05, 0.25, (n, k)))


def moments_of(
    f: object, x: torch.Tensor, e: torch.Tensor, s: torch.Tensor, likelihood: Likelihood, **settings: object
) -> PosteriorMoments:
    decoder = Decoder(f, e.shape[1], dtype=torch.float64, **settings)  # type: ignore[arg-type]
    return posterior_moments(decoder, encoder_of(e, s), x, likelihood, pairs=16, gram_pairs=16)


def assert_unbiased(
    measured: torch.Tensor, truth: torch.Tensor, error: torch.Tensor, *, same_draws: bool = False
) -> None:
    """The pooled deviation is within 4 of its standard errors, and single ones are as large as theirs say."""
    deviation = measured - truth
    assert abs(float(deviation.sum() / error.square().sum().sqrt())) < 4
    if same_draws:  # errors of the two cancel in part
        return
    typical = float((deviation / error).abs().median())
    assert 0.55 < typical < 0.95, (
        "the median of |t| with 15 degrees of freedom is 0.69; skewed averages read more"
    )


def sinh_case(n: int = 400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float, float, float]:
    e, s = posteriors(n, 2)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((n, 2)))
    return e, s, x, 1.3, 0.8, 0.5


def test_sinh_decoder_with_a_residual_term() -> None:
    # f_i = a sinh(b z_i)/b: f'^2 and f f'' are hyperbolic, E cosh(c z) = exp(c^2 s/2) cosh(c e)
    e, s, x, a, b, sigma2 = sinh_case()
    m = moments_of(lambda z: a * torch.sinh(b * z) / b, x, e, s, Gaussian(sigma2))
    grown = (2 * b * b * s).exp() * (2 * b * e).cosh()
    G = a * a * (1 + grown) / 2 / sigma2
    residual = (a * a * (grown - 1) / 2 - x * a * b * (b * b * s / 2).exp() * (b * e).sinh()) / sigma2
    assert_unbiased(m.gauss_newton, G, m.gauss_newton_error)
    assert_unbiased(m.curvature, G + residual, m.curvature_error)
    assert close(m.gram[:, 0, 1], 0)


def test_expected_log_density_and_score_of_the_sinh_decoder() -> None:
    e, s, x, a, b, sigma2 = sinh_case()
    m = moments_of(lambda z: a * torch.sinh(b * z) / b, x, e, s, Gaussian(sigma2))
    mean = a / b * (b * b * s / 2).exp() * (b * e).sinh()
    square = (a / b) ** 2 * ((2 * b * b * s).exp() * (2 * b * e).cosh() - 1) / 2
    truth = -0.5 * ((square - 2 * x * mean + x * x) / sigma2 + math.log(2 * math.pi * sigma2)).sum(1)
    assert_unbiased(m.log_density, truth, m.log_density_error)
    # the score x f' - f f', with f' = a cosh(b z), f f' = a^2 sinh(2 b z)/(2 b)
    slope = a * (b * b * s / 2).exp() * (b * e).cosh()
    product = a * a / (2 * b) * (2 * b * b * s).exp() * (2 * b * e).sinh()
    assert_unbiased(m.score, (x * slope - product) / sigma2, m.score_error)


def test_relu_curvature_sits_in_the_kink() -> None:
    # f = a relu(z): E d^2/dz^2 log p = -(a^2 Phi(e/sd) - a x phi(e/sd)/sd) / sigma^2; Gauss-Newton has the first term
    e, s, x, _, _, sigma2 = sinh_case()
    a, normal = 1.7, torch.distributions.Normal(0.0, 1.0)
    m = moments_of(lambda z: a * torch.relu(z), x, e, s, Gaussian(sigma2))
    t = e / s.sqrt()
    flat = a * a * normal.cdf(t) / sigma2
    kink = a * x * normal.log_prob(t).exp() / s.sqrt() / sigma2
    # a draw sees the kink or not: the error is that of a count, so pool over the rows
    for measured, truth in ((m.gauss_newton, flat), (m.curvature, flat - kink)):
        error = (measured - truth).std() / math.sqrt(truth.numel())
        assert abs(float((measured - truth).mean())) < 4 * float(error)
    assert float((m.curvature - flat).abs().mean()) > 5 * float((m.curvature - (flat - kink)).mean().abs())


@pytest.mark.parametrize("likelihood", [Poisson(), Bernoulli()])
def test_canonical_linear_decoders_have_no_residual(likelihood: Likelihood) -> None:
    e, s = posteriors(300, 2)
    W = torch.from_numpy(np.random.default_rng(2).standard_normal((5, 2))) * 0.6
    x = torch.from_numpy(np.random.default_rng(3).integers(0, 2, (300, 5))).double()
    m = moments_of(lambda z: z @ W.T, x, e, s, likelihood, parameter="natural")
    assert_unbiased(
        m.curvature, m.gauss_newton, (m.curvature_error**2 + m.gauss_newton_error**2).sqrt(), same_draws=True
    )
    if isinstance(likelihood, Poisson):
        rate = (e @ W.T + 0.5 * s @ (W * W).T).exp()
        assert_unbiased(m.gauss_newton, rate @ (W * W), m.gauss_newton_error)
        assert_unbiased(m.score, (x - rate) @ W, m.score_error)


def categorical_rows(n: int) -> torch.Tensor:
    """Return labels of 3 classes at 2 positions as one-hot rows, shape (n, 6)."""
    labels = torch.from_numpy(np.random.default_rng(3).integers(0, 3, (n, 2)))
    return Categorical(3).one_hot(labels, 6).double()


def test_categorical_linear_logits_have_no_residual() -> None:
    e, s = posteriors(300, 2)
    W = torch.from_numpy(np.random.default_rng(2).standard_normal((6, 2)))
    m = moments_of(lambda z: z @ W.T, categorical_rows(300), e, s, Categorical(3), parameter="natural")
    error = (m.curvature_error**2 + m.gauss_newton_error**2).sqrt()
    assert_unbiased(m.curvature, m.gauss_newton, error, same_draws=True)


def test_categorical_on_probabilities_gives_the_same_numbers_as_on_logits() -> None:
    e, s = posteriors(20, 2)
    W = torch.from_numpy(np.random.default_rng(2).standard_normal((6, 2)))
    x, K = categorical_rows(20), Categorical(3)
    natural = moments_of(lambda z: z @ W.T, x, e, s, K, parameter="natural")
    mean = moments_of(lambda z: K.mean(z @ W.T), x, e, s, K)
    labels = moments_of(
        lambda z: z @ W.T, x.reshape(20, 3, 2).argmax(1).double(), e, s, K, parameter="natural"
    )
    for name in ("gram", "curvature", "score", "log_density"):
        assert close(getattr(natural, name), getattr(mean, name), 1e-8)
        assert close(getattr(natural, name), getattr(labels, name), 1e-12)


def test_categorical_stein_is_gauss_newton_plus_residual_by_quadrature() -> None:
    e, s = posteriors(400, 1)
    W = torch.tensor([0.9, -0.4, 0.3, -0.8, 0.5, 0.2], dtype=torch.float64)
    x, K = categorical_rows(400), Categorical(3)
    m = moments_of(lambda z: torch.sinh(z) @ W[None], x, e, s, K, parameter="natural")
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z = (e + s.sqrt() * torch.from_numpy(nodes)).requires_grad_(True)  # (n, nodes)
    theta = torch.sinh(z.flatten())[:, None] @ W[None]
    value = K.log_density(x.repeat_interleave(len(nodes), 0), theta, "natural").sum()
    (first,) = torch.autograd.grad(value, z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    p = torch.from_numpy(weights / weights.sum())
    assert_unbiased(m.curvature, -(second * p).sum(1, keepdim=True), m.curvature_error)
    residual = ((K.mean(theta) - x.repeat_interleave(len(nodes), 0)) @ W) * torch.sinh(z.flatten())
    residual = (residual.reshape(z.shape) * p).sum(1, keepdim=True).detach()
    assert float(residual.abs().mean()) > 0.05, "the case has a residual to see"
    assert_unbiased(m.gauss_newton + residual, -(second * p).sum(1, keepdim=True), m.gauss_newton_error)


def test_mean_outputs_give_the_same_numbers_as_natural_ones() -> None:
    e, s = posteriors(20, 2)
    W = torch.from_numpy(np.random.default_rng(2).standard_normal((5, 2)))
    x = torch.from_numpy(np.random.default_rng(3).integers(0, 2, (20, 5))).double()
    natural = moments_of(lambda z: z @ W.T, x, e, s, Bernoulli(), parameter="natural")
    mean = moments_of(lambda z: torch.sigmoid(z @ W.T), x, e, s, Bernoulli())
    both = moments_of(lambda z: torch.sigmoid(z @ W.T), x, e, s, Bernoulli(), natural=lambda z: z @ W.T)
    for name in ("gram", "curvature", "score", "log_density"):
        assert close(getattr(natural, name), getattr(mean, name), 1e-8)
        assert close(getattr(natural, name), getattr(both, name), 1e-12)


def test_draws_do_not_depend_on_blocks() -> None:
    e, s, x, a, b, sigma2 = sinh_case(60)
    whole = moments_of(lambda z: a * torch.sinh(b * z) / b, x, e, s, Gaussian(sigma2))
    fewer = moments_of(lambda z: a * torch.sinh(b * z) / b, x[:7], e[:7], s[:7], Gaussian(sigma2))
    assert close(whole.curvature[:7], fewer.curvature, 1e-12)


def test_too_few_pairs() -> None:
    vae = linear_vae()
    with pytest.raises(ValueError, match="2 <= gram_pairs <= pairs"):
        posterior_moments(vae.decoder, vae.decoder.encoder, vae.x, vae.likelihood, pairs=1, gram_pairs=1)


def test_codes_are_chosen_by_likelihood_and_have_no_curvature_of_their_own() -> None:
    W = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 5)))
    decoder = Decoder(
        lambda z: z @ W.T, 5, dtype=torch.float64, prior=(Group("normal", 2), Group("onehot", 3))
    )
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((9, 2)))
    codes = torch.arange(9) % 3
    x = torch.cat([z, torch.eye(3, dtype=torch.float64)[codes]], dim=1) @ W.T
    full = with_codes(decoder, Gaussian(1.0), x, z)
    assert full[:, 2:].argmax(1).tolist() == codes.tolist()
    m = posterior_moments(decoder, encoder_of(z, torch.full_like(z, 0.5)), x, Gaussian(1.0))
    assert m.gram.shape == (9, 2, 2)
    assert close(m.gram, (W.T @ W)[:2, :2])


# -- amortisation --------------------------------------------------------------------------------


def test_gaps_of_posteriors_that_are_off_their_optimum() -> None:
    vae = linear_vae(EIGENVALUES, sigma2=0.3)
    mean, _ = vae.decoder.encoder(vae.x)
    wide, moved = 1.5 * vae.variance, mean + 0.1
    m = posterior_moments(
        vae.decoder, encoder_of(moved, wide.expand_as(mean)), vae.x, vae.likelihood, pairs=2
    )
    assert close(variance_gap(m, 1.0), 0.5 * (1.5 - 1 - math.log(1.5)))
    Lambda = torch.eye(3, dtype=torch.float64) + vae.W.T @ vae.W / 0.3
    assert close(mean_gap(m, 1.0), 0.5 * 0.01 * Lambda.sum())
    best = posterior_moments(vae.decoder, vae.decoder.encoder, vae.x, vae.likelihood, pairs=2)
    lost = elbo_terms(best).value() - elbo_terms(m).value()
    assert close(lost, variance_gap(m, 1.0).sum(1) + mean_gap(m, 1.0)), "together they are what the ELBO lost"


# -- ratios, their intervals, and their agreement ----------------------------------------------------


def test_ratio_interval_covers() -> None:
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        latents = 2.0 * (1 + 0.05 * rng.standard_normal(8))
        bottom = torch.from_numpy(rng.uniform(0.5, 1.0, (80, 8)))
        top = bottom * torch.from_numpy(latents * (1 + 0.5 * rng.standard_normal((80, 8))))
        low, high = pooled_ratio(top, bottom).ci
        covered += low <= 2.0 <= high
    assert covered >= 53  # 95 % of 60 is 57; fewer than 53 has probability 0.02 at 95 %


def test_agreement_takes_the_noise_off() -> None:
    rng = np.random.default_rng(0)
    bottom = torch.from_numpy(rng.uniform(0.5, 1.0, (200, 12)))
    noise = torch.from_numpy(1 + 0.8 * rng.standard_normal((200, 12)))
    same = agreement(3 * bottom * noise, bottom)
    assert same.ci[0] == 0.0
    assert same.spread < 0.04
    own = torch.from_numpy(1 + 0.3 * rng.standard_normal(12))
    apart = agreement(3 * bottom * noise * own, bottom)
    assert apart.ci[0] < float(own.std() / own.mean()) < apart.ci[1] * 1.1
    assert abs(apart.spread - float(own.std() / own.mean())) < 0.06


def test_ratios_scale_and_permute() -> None:
    rng = np.random.default_rng(0)
    top, bottom = (torch.from_numpy(rng.uniform(0.5, 1.0, (30, 4))) for _ in range(2))
    one = [e.value for e in ratio_per_latent(top, bottom)]
    other = [e.value for e in ratio_per_latent(5 * top.flip(1), bottom.flip(1))]
    assert close(torch.tensor(other), 5 * torch.tensor(one[::-1]))
    assert close(absolute_share(-top, bottom).value, absolute_share(top, bottom).value)


# -- KL, overlap, collapse -----------------------------------------------------------------------------


def test_kl_against_torch() -> None:
    mean, variance = posteriors(50, 3)
    truth = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, variance.sqrt()), torch.distributions.Normal(0.0, 1.0)
    )
    assert close(kl_per_latent(mean, variance), truth)


def test_bhattacharyya_against_the_integral() -> None:
    mean, variance = torch.tensor([[0.3], [-1.1]]).double(), torch.tensor([[0.5], [2.0]]).double()
    t = torch.linspace(-30, 30, 200_001, dtype=torch.float64)
    p, q = (torch.distributions.Normal(m, v.sqrt()).log_prob(t) for m, v in zip(mean, variance, strict=True))
    overlap = bhattacharyya(mean, variance)
    assert close(overlap[0, 1], torch.trapezoid((0.5 * (p + q)).exp(), t), 1e-8)
    assert close(overlap, overlap.T)
    assert close(overlap.diagonal(), 1)
    many_mean, many_variance = posteriors(12, 4)
    rows = bhattacharyya(many_mean, many_variance)
    assert float(rows.min()) > 0
    assert float(rows.max()) <= 1
    assert close(nearest_overlap(many_mean, many_variance), (rows - torch.eye(12)).amax(1))


def test_posteriors_widen_with_beta() -> None:
    vae, twice = (linear_vae(EIGENVALUES, beta=b, sigma2=0.1) for b in (1.0, 2.0))
    excess = 1 / variance_at(vae.variance, 2.0) - 1
    assert close(excess, 0.5 * (1 / vae.variance - 1))
    assert bool((variance_at(vae.variance, 2.0) > vae.variance).all())
    assert bool((twice.variance > vae.variance).all())
    assert close(variance_at(torch.tensor([1.2]), 0.125), 1.2, 1e-6), (
        "above the prior's variance there is no curvature"
    )


def test_bernoulli_edges_are_eigenvalues_of_the_correlation_matrix() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy((rng.standard_normal((500, 1)) + rng.standard_normal((500, 6)) > 0.4).astype(float))
    x = torch.cat([x, torch.zeros(500, 1)], dim=1)  # a pixel that is always black has no variance to share
    edges = supported_directions(x, Bernoulli())
    truth = np.linalg.eigvalsh(np.corrcoef(x[:, :6].numpy().T))[::-1].copy()
    assert close(edges, torch.from_numpy(truth))


def test_exact_data_is_exact() -> None:
    values = torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64)
    x, U = exact_data(values, 20)
    assert close(x.mean(0), 0)
    assert close(x.T @ x / 20, U * values @ U.T)


def test_agreement_without_noise_is_the_sample_deviation() -> None:
    bottom = torch.full((10, 3), 0.8, dtype=torch.float64)
    own = torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64)
    assert close(agreement(bottom * own, bottom).spread, own.std())


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_a_resample_of_rows_carries_their_noise_twice(apart: float) -> None:
    """Ratios with sampling noise of variance v and a spread of `apart` times v: of many latents, each resample's
    ratios vary by v (apart + 2), and the interval lies about the truth only where both v are taken off."""
    n, k = 100, 400
    rng = np.random.default_rng(5)
    noise = 0.2 * torch.from_numpy(rng.standard_normal((n, k)))
    v = 0.2**2 / n
    own = 1 + math.sqrt(apart * v) * torch.from_numpy(rng.standard_normal(k))
    bottom = torch.ones(n, k, dtype=torch.float64)
    low, high = (end**2 / v for end in agreement(bottom * (own + noise), bottom).ci)
    assert low <= apart <= high
    assert low > apart - 0.6
    assert high < apart + 0.7
