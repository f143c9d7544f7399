"""The numbers of `posterior`: what they mean, and how they follow from moments under the posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaeprobe.probes.with_encoder import KL_PER_LATENT
from vaeprobe.report import Metric, MetricSpec, specs_by_id

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.geometry.rotations import Alignment
    from vaeprobe.inference.consistency import Consistency
    from vaeprobe.inference.moments import PosteriorMoments

METRICS = (
    MetricSpec(
        id="posterior.precision_ratio",
        title="precision ratio",
        range="(0, inf) each; 1 at the optimum",
        formula="mean over x of Sigma_ii (1 + h_i / beta), h_i = -E_q[d_i^2 log p(x|z)] by Bonnet/Stein",
        source="Allen 2024, Eqs. 5-9",
        meaning="The likelihood's precision over the encoder's. Above 1 the encoder claims less certainty than the likelihood gives it, below 1 more.",
        misleads="Where beta is estimated from the same rows the ratios of the active latents average to 1.",
        remedy="Give the trained beta with --beta; train the encoder longer if single latents are off.",
    ),
    MetricSpec(
        id="posterior.residual_share",
        title="residual share",
        better="lower",
        range="[0, inf)",
        formula="sum_i |sum_x Sigma_ii (E_q[G_ii] - h_i)| / sum_i sum_x Sigma_ii E_q[G_ii], active latents",
        source="Allen 2024, Eq. 7; Bonnet 1964, Stein 1981",
        meaning="What G = J^T A^2 J leaves out of the Hessian: the part that Section 2 of the paper takes for small.",
        misleads="Its sampling noise is positive: few rows or pairs make it look larger.",
        remedy="Where it is large, trust the Stein columns; a wrong likelihood also makes it large.",
    ),
    MetricSpec(
        id="posterior.hessian_diagonality",
        title="Hessian diagonality",
        better="higher",
        range="(-inf, 1]; 1 diagonal, 0 no better than a random basis",
        formula="1 - mean_x g(L) / E_R[mean_x g(R^T L R)], g = 1/2 (sum log L_ii - log det L), "
        "L = I + E_q[J^T A^2 J] / beta, R Haar on the active latents",
        source="Allen 2024, Eq. 8",
        meaning="A diagonal posterior promises that the Hessian, averaged over each posterior, is diagonal.",
        misleads="Two latents with equal curvature are diagonal in every basis: then it is undefined.",
        remedy="Near 0: the axes mean nothing to this decoder (full-covariance posterior, or not converged).",
    ),
    MetricSpec(
        id="posterior.hessian_p_value",
        title="p-value of the axes",
        beside="p",
        better="lower",
        range="(0, 1]",
        formula="(1 + #{g_R <= g}) / (K + 1)",
        source="exact Monte-Carlo test: N(0, I) is invariant under rotations",
        meaning="How often a random basis is as diagonal as the latent axes.",
        misleads="Small for any deviation from a random basis, however slight: read it with the value above.",
        remedy="Raise --rotations for smaller p-values.",
    ),
    MetricSpec(
        id="posterior.mean_field_gap",
        title="mean-field gap",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="mean_x 1/2 (sum log L_ii - log det L), L = I + E_q[J^T A^2 J] / beta",
        source="Allen 2024, Eqs. 5-9",
        meaning="What the off-diagonal part of the Hessian costs, to second order.",
        misleads="It scales with the number of latents and shrinks with beta.",
        remedy="Large: a full-covariance posterior would fit better, at the price of the axes.",
    ),
    MetricSpec(
        id="posterior.variance_gap",
        title="gap of the variances",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="mean_x sum_i beta/2 (r - 1 - log r), r = Sigma_ii (1 + h_i / beta)",
        source="Cremer, Li and Duvenaud 2018; Allen 2024, Eqs. 5-9",
        meaning="What the objective loses since each encoder variance is not its own row's optimum.",
        misleads="Second order in log p, at the encoder's own mean.",
        remedy="A larger encoder, or longer training of it alone.",
    ),
    MetricSpec(
        id="posterior.mean_gap",
        title="gap of the means",
        better="lower",
        unit="nats",
        range="(-inf, inf), 0 at the optimum; noise can make it slightly negative",
        formula="mean_x beta/2 u^T L^-1 u, u = E_q[score]/beta - e(x), less the Monte-Carlo noise",
        source="Cremer, Li and Duvenaud 2018",
        meaning="The gain of one Newton step of each posterior mean.",
        misleads="One Newton step; far from the optimum the true gap is another number.",
        remedy="A larger encoder, or data nearer to those it was trained on.",
    ),
    MetricSpec(
        id="elbo.value",
        title="ELBO (Eq. 1)",
        better="higher",
        unit="nats",
        range="(-inf, log p(x)]",
        formula="E_q[log p(x|z)] - KL, antithetic Monte Carlo",
        source="Allen 2024, Eq. 1; Kingma and Welling 2014",
        meaning="A lower bound on the log-likelihood of a row.",
        misleads="Densities of grey pixels under a Bernoulli likelihood are not normalised.",
        remedy="Compare models on the same data, likelihood and sigma^2 only.",
    ),
    MetricSpec(
        id="elbo.objective",
        title="beta-ELBO",
        better="higher",
        unit="nats",
        range="(-inf, inf)",
        formula="E_q[log p(x|z)] - beta KL",
        source="Higgins et al. 2017; Allen 2024, Section 4.2",
        meaning="What training maximised, up to a scale.",
        misleads="No bound on log p(x) unless beta >= 1.",
        remedy="Compare at equal beta only.",
    ),
    MetricSpec(
        id="elbo.reconstruction",
        title="reconstruction",
        better="higher",
        unit="nats",
        range="(-inf, inf)",
        formula="antithetic Monte Carlo with the quadratic of G at the mean as control variate",
        source="Allen 2024, Eq. 1",
        meaning="How well posterior draws reconstruct the data.",
        misleads="Depends on the scale of the data through sigma^2.",
        remedy="Compare at equal likelihood and sigma^2 only.",
    ),
    MetricSpec(
        id="elbo.kl",
        title="KL",
        unit="nats",
        range="[0, inf)",
        formula="sum_i KL_i",
        source="Allen 2024, Eq. 1",
        meaning="What the codes cost.",
        misleads="Latents that the decoder ignores can cost too.",
        remedy="See kl.per_latent for where it is spent.",
    ),
    MetricSpec(
        id="elbo.det",
        title="det-ELBO (Eq. 5)",
        beside="det-ELBO",
        unit="nats",
        range="(-inf, inf)",
        formula="log p(x|e(x)) - 1/2 tr(G Sigma) - KL, G = J^T A^2 J at e(x)",
        source="Allen 2024, Eq. 5; Kumar and Poole 2020",
        meaning="The ELBO with posterior noise expanded to second order, Gauss-Newton.",
        misleads="Not a bound on log p(x): it can lie above it.",
        remedy="Use it to see which term moves, not to rank models.",
    ),
    MetricSpec(
        id="elbo.remainder",
        title="remainder of Eq. 5",
        unit="nats",
        range="(-inf, inf)",
        formula="E_q[log p(x|z)] - log p(x|e(x)) + 1/2 tr(G Sigma)",
        source="Allen 2024, Eqs. 1, 5, 7",
        meaning="The residual term of Eq. 7 and all higher derivatives; 0 for a linear Gaussian decoder.",
        misleads="Terms of both signs cancel in it.",
        remedy="Large: arguments from Eq. 5 say little about this decoder.",
    ),
    MetricSpec(
        id="posterior.self_consistency",
        title="self-consistency",
        better="lower",
        range="[0, inf)",
        formula="E|e(f(z)) - z|^2 / E tr Sigma(f(z)), z ~ q(z|x), latents in use",
        source="Reizinger et al. (2022), arXiv:2206.02416; linear VAE: sum_i Sigma_ii^2 / sum_i Sigma_ii",
        meaning="How far encoding what was decoded ends from the latent it began with, beside the variance that the "
        "posterior claims: well under 1 where the encoder inverts the decoder, as the optimum does at small noise.",
        misleads="Small also where posteriors are wide. The encoder sees means, smoother than the data it was trained on.",
        remedy="Near or over 1: encoder and decoder do not belong together, the data range is another, or the decoder gives "
        "the same output for other latents (`factorise.sheets`).",
    ),
    MetricSpec(
        id="posterior.self_consistency_null",
        title="the same with codes of other rows",
        beside="other rows",
        range="[0, inf)",
        formula="E|e(f(z')) - z|^2 / E tr Sigma(f(z)), z' of another row",
        source="permutation of the rows",
        meaning="What an encoder that tells nothing about z would have.",
        misleads="It is large where posteriors are narrow, whatever the encoder.",
        remedy="None needed: it is what the self-consistency is held against.",
    ),
    KL_PER_LATENT,
)
SPECS = specs_by_id(METRICS)


def residual_share(m: PosteriorMoments, active: Tensor, seed: int) -> Metric:
    """Return how much of the active latents' curvature Gauss-Newton leaves out."""
    from vaeprobe.inference.identity import absolute_share
    from vaeprobe.intervals import LEVEL

    if not bool(active.any()):
        return Metric.undefined(SPECS["posterior.residual_share"], "every latent collapsed", n=m.rows)
    weight = m.variance[:, active]
    share = absolute_share(
        weight * (m.gauss_newton - m.curvature)[:, active], weight * m.gauss_newton[:, active], seed=seed
    )
    return Metric(
        SPECS["posterior.residual_share"],
        share.value,
        ci=share.ci,
        level=LEVEL,
        n=m.rows,
        method="Gauss-Newton less Bonnet/Stein, bootstrap over rows",
    )


def consistency(found: Consistency | str, n: int) -> list[Metric]:
    """Return the self-consistency of encoder and decoder as metrics."""
    from vaeprobe.intervals import LEVEL

    spec, null = (SPECS[f"posterior.self_consistency{end}"] for end in ("", "_null"))
    if isinstance(found, str):
        return [Metric.undefined(spec, found, n=n), Metric.undefined(null, found, n=n)]
    level = LEVEL if found.ci else None
    how = "one posterior draw a row; ratio of means, interval by the rows' influence"
    return [
        Metric(spec, found.value, ci=found.ci, level=level, n=n, method=how),
        Metric(null, found.null, n=n, method="each row with the codes of the one before"),
    ]


def hessian_alignment(
    m: PosteriorMoments, active: Tensor, beta: float, rotations: int, seed: int
) -> tuple[Alignment | None, str]:
    """Return how the averaged Hessian's axes stand against random rotations, and why not where they do not."""
    import torch

    from vaeprobe.geometry.rotations import alignment

    k = int(active.sum())
    if k < 2:
        return None, f"{k} active latent{'' if k == 1 else 's'}: nothing to be off the diagonal"
    Lambda = torch.eye(k, dtype=torch.float64) + m.gram[:, active][:, :, active] / beta
    try:
        found = alignment(Lambda, count=rotations, seed=seed)
    except ValueError:
        return None, "two active latents do the same to the output, to rounding"
    return found, "" if found.value is not None else "the averaged Hessian is diagonal in every basis"


def diagonality(found: Alignment | None, why_not: str, n: int, rotations: int, seed: int) -> list[Metric]:
    """Return the alignment of the averaged Hessian and its p-value as metrics."""
    from vaeprobe.intervals import LEVEL, bootstrap

    ids = ("posterior.hessian_diagonality", "posterior.hessian_p_value")
    if found is None or found.value is None or found.p_value is None:
        return [Metric.undefined(SPECS[id], why_not, n=n) for id in ids]
    contrast, null = found.contrast.numpy(), found.null.numpy()
    ci = bootstrap(lambda i: 1 - contrast[i].mean(1) / null[i].mean(1), n, seed=seed)
    how = f"{rotations} Haar rotations of the active latents"
    return [
        Metric(SPECS[ids[0]], found.value, ci=ci, level=LEVEL, n=n, method=how),
        Metric(SPECS[ids[1]], found.p_value, n=n, method=how),
    ]
