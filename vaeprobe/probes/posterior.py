"""`vaeprobe posterior`: the encoder's posteriors against the likelihood's Hessian, and the ELBO term by term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vaeprobe.findings import BETA_UNKNOWN, LARGE_RESIDUAL, OTHER_VARIANCE
from vaeprobe.probes.base import option
from vaeprobe.probes.with_encoder import KL_PER_LATENT, EncoderProbe
from vaeprobe.report import Finding, Heatmap, Metric, MetricSpec, Section, Table, metric_map, specs_by_id
from vaeprobe.result import Measured, Result

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.geometry.rotations import Alignment
    from vaeprobe.inference.elbo import ElboTerms
    from vaeprobe.inference.moments import PosteriorMoments

LARGEST_RESIDUAL = 0.25
SIGNIFICANT = 0.05

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
    KL_PER_LATENT,
)
SPECS = specs_by_id(METRICS)


@dataclass(frozen=True, kw_only=True)
class PosteriorResult(Result):
    """What `Posterior` measures.

    Attributes:
        beta: the beta that precisions were compared at.
        beta_estimated: whether it was estimated from the same rows.
        moments: moments under the posteriors.
        terms: the terms of the ELBO.
        active: latents with mean 1/Sigma_ii - 1 above 1.
        alignment: the averaged Hessian's axes against random rotations, over the active latents.
        ratios: likelihood's precision over the encoder's, mean over rows, per latent.
        ratio_intervals: their bootstrap intervals.
    """

    command: ClassVar[str] = "posterior"

    precision_ratio = Measured("posterior.precision_ratio")
    residual_share = Measured("posterior.residual_share")
    hessian_diagonality = Measured("posterior.hessian_diagonality")
    hessian_p_value = Measured("posterior.hessian_p_value")
    mean_field_gap = Measured("posterior.mean_field_gap")
    variance_gap = Measured("posterior.variance_gap")
    mean_gap = Measured("posterior.mean_gap")
    elbo_value = Measured("elbo.value")
    elbo_objective = Measured("elbo.objective")
    elbo_reconstruction = Measured("elbo.reconstruction")
    elbo_kl = Measured("elbo.kl")
    elbo_det = Measured("elbo.det")
    elbo_remainder = Measured("elbo.remainder")
    kl_per_latent = Measured("kl.per_latent")

    beta: float
    beta_estimated: bool
    moments: PosteriorMoments
    terms: ElboTerms
    active: list[bool]
    alignment: Alignment | None
    ratios: list[float]
    ratio_intervals: list[tuple[float, float]]

    def per_sample(self) -> Mapping[str, Sequence[float]]:
        return {
            "elbo.value": self.terms.value().tolist(),
            "elbo.objective": self.terms.value(self.beta).tolist(),
            "elbo.reconstruction": self.terms.reconstruction.tolist(),
        }

    def latent_rows(self) -> list[dict[str, Any]]:
        """Return one row per continuous latent, means over the data rows."""
        m, beta = self.moments, self.beta
        kl = self.metrics["kl.per_latent"].value
        assert isinstance(kl, list)
        encoder = (1 / m.variance).mean(0)
        newton, exact = 1 + m.gauss_newton.mean(0) / beta, 1 + m.curvature.mean(0) / beta
        return [
            {
                "latent": i,
                "active": self.active[i],
                "kl": kl[i],
                "precision": float(encoder[i]),
                "gauss_newton": float(newton[i]),
                "stein": float(exact[i]),
                "ratio": self.ratios[i],
                "ratio_ci": list(self.ratio_intervals[i]),
                "spread": float(self.log_ratios[:, i].square().mean().sqrt()),
            }
            for i in range(m.latents)
        ]

    @property
    def log_ratios(self) -> Tensor:
        """log of each encoder variance over its own optimum, shape (n, k)."""
        from vaeprobe.inference.elbo import optimal_variance

        return (self.moments.variance / optimal_variance(self.moments, self.beta)).log()

    def details(self) -> dict[str, Any]:
        m = self.moments
        return {
            "latents": self.latent_rows(),
            "samples": {
                "precision": (1 / m.variance).tolist(),
                "gauss_newton": (1 + m.gauss_newton / self.beta).tolist(),
                "gauss_newton_error": (m.gauss_newton_error / self.beta).tolist(),
                "stein": (1 + m.curvature / self.beta).tolist(),
                "stein_error": (m.curvature_error / self.beta).tolist(),
                "log_variance_over_optimum": self.log_ratios.tolist(),
                "elbo": self.terms.value().tolist(),
                "log_density_error": m.log_density_error.tolist(),
            },
            "hessian": m.gram.mean(0).tolist(),
        }

    def sections(self) -> tuple[Section, ...]:
        rows = self.latent_rows()
        latents = Table(
            title="Posterior precision per latent, means over the data",
            columns=("latent", "KL", "1/Sigma", "1+GN/b", "1+Stein/b", "ratio", "95% CI", "rows' spread"),
            rows=[
                [
                    f"z{r['latent']}{'' if r['active'] else ' (collapsed)'}",
                    r["kl"], r["precision"], r["gauss_newton"], r["stein"], r["ratio"],
                    f"{r['ratio_ci'][0]:.3f} .. {r['ratio_ci'][1]:.3f}", r["spread"],
                ]
                for r in rows
            ],
            note="ratio: mean of Sigma_ii (1 + Stein/b), 1 at the optimum; spread: rms over rows of "
            "log(Sigma_ii / its own optimum)",
        )  # fmt: skip
        t, beta = self.terms, self.beta
        terms = [
            ("log p(x | e(x))", t.reconstruction_at_mean),
            ("- 1/2 tr(G Sigma)", t.noise_cost),
            ("- KL", -t.kl),
            ("det-ELBO (Eq. 5)", t.deterministic()),
            ("remainder", t.remainder),
            ("ELBO (Eq. 1)", t.value()),
            ("beta-ELBO", t.value(beta)),
        ]
        elbo = Table(
            title="ELBO, nats per row",
            columns=("term", "mean", "sd over rows"),
            rows=[[name, float(v.mean()), float(v.std())] for name, v in terms],
        )
        return (latents, elbo, *self._heatmap())

    def _heatmap(self) -> tuple[Section, ...]:
        from vaeprobe.geometry.gram import column_cosines

        kept = [i for i, on in enumerate(self.active) if on]
        if len(kept) < 2:
            return ()
        cosines = column_cosines(self.moments.gram[:, kept][:, :, kept]).abs().mean(0)
        labels = [f"z{i}" for i in kept]
        return (
            Heatmap(
                title="Posterior-averaged Hessian: mean |H_ij| / sqrt(H_ii H_jj)",
                matrix=cosines.tolist(),
                row_labels=labels,
                column_labels=labels,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Posterior(EncoderProbe):
    """Hold the encoder's posteriors against the likelihood's Hessian, and the ELBO against its expansion.

    Needs the encoder and data.  At the optimum of a (beta-)VAE each posterior precision is 1 + h/beta, h the
    likelihood's curvature averaged over the posterior; this compares the two per latent and row, asks
    whether the averaged Hessian is diagonal, and splits the ELBO into its terms.

    Attributes:
        beta: the beta the model was trained at; estimated where it is not given.
        rotations: random rotations of the null.
    """

    NAME: ClassVar[str] = "posterior"
    METRICS: ClassVar[tuple[MetricSpec, ...]] = METRICS

    beta: float | None = option(
        None, help="Beta the model was trained at (default: estimated).", min=1e-12, panel="Posterior"
    )
    rotations: int = option(999, help="Random rotations of the null.", min=19, panel="Posterior")

    def measure(self, decoder: Decoder) -> PosteriorResult:
        """Return the posterior's precisions against the likelihood's, and the terms of the ELBO.

        Raises:
            UsageError: no encoder, no data or no likelihood, or they do not fit together.
            InputError: the encoder's outputs are laid out otherwise.
        """
        import torch

        from vaeprobe.inference.beta import estimate_beta
        from vaeprobe.inference.collapse import active_by_all_rules
        from vaeprobe.inference.elbo import elbo_terms, kl_per_latent, mean_gap, variance_gap
        from vaeprobe.inference.identity import ratio_per_latent

        evidence = self.evidence(decoder)
        m = evidence.moments
        findings = list(evidence.findings)
        active = active_by_all_rules(m).precision
        estimate = estimate_beta(m, seed=self.seed) if self.beta is None else None
        if self.beta is not None:
            beta = self.beta
        elif estimate is not None and estimate.stein.value > 0:
            beta = estimate.stein.value
        else:
            beta = 1.0
            findings.append(
                Finding(
                    BETA_UNKNOWN,
                    "beta cannot be estimated from this encoder: 1 is assumed",
                    hint="give the trained value: --beta",
                )
            )
        terms = elbo_terms(m)
        ratio = m.variance * (1 + m.curvature / beta)
        intervals = ratio_per_latent(ratio, torch.ones_like(ratio), seed=self.seed)
        alignment, why_not = self._alignment(m, active, beta)
        kl = kl_per_latent(m.mean, m.variance)
        metrics = metric_map(
            [
                Metric(
                    SPECS["posterior.precision_ratio"],
                    [e.value for e in intervals],
                    n=m.rows,
                    method=f"Bonnet/Stein at beta = {beta:.4g}" + ("" if self.beta else ", estimated"),
                ),
                self._residual_share(m, active),
                *self._diagonality(alignment, why_not, m.rows),
                self.mean_over_rows("posterior.mean_field_gap", self._gap(m, beta)),
                self.mean_over_rows("posterior.variance_gap", variance_gap(m, beta).sum(1)),
                self.mean_over_rows("posterior.mean_gap", mean_gap(m, beta)),
                self.mean_over_rows("elbo.value", terms.value()),
                self.mean_over_rows("elbo.objective", terms.value(beta)),
                self.mean_over_rows("elbo.reconstruction", terms.reconstruction),
                self.mean_over_rows("elbo.kl", terms.kl),
                self.mean_over_rows("elbo.det", terms.deterministic()),
                self.mean_over_rows("elbo.remainder", terms.remainder),
                Metric(SPECS["kl.per_latent"], kl.mean(0).tolist(), n=m.rows),
            ]
        )
        verdict = self._verdict(alignment)
        findings += self._findings(metrics, evidence.likelihood.name, beta)
        return PosteriorResult(
            metrics=metrics,
            verdict=verdict,
            summary=self._summary(metrics, alignment, beta, int(active.sum()), m.latents),
            findings=tuple(findings),
            settings={**self.settings(decoder), "likelihood": evidence.likelihood.name, "rows": m.rows},
            artifact=decoder.artifact,
            beta=beta,
            beta_estimated=self.beta is None,
            moments=m,
            terms=terms,
            active=active.tolist(),
            alignment=alignment,
            ratios=[e.value for e in intervals],
            ratio_intervals=[e.ci for e in intervals],
        )

    # -- the pieces ------------------------------------------------------------------------------

    def _gap(self, m: PosteriorMoments, beta: float) -> Tensor:
        from vaeprobe.geometry.gram import mean_field_gap

        return mean_field_gap(m.gram, beta)

    def _residual_share(self, m: PosteriorMoments, active: Tensor) -> Metric:
        from vaeprobe.inference.identity import absolute_share
        from vaeprobe.intervals import LEVEL

        if not bool(active.any()):
            return Metric.undefined(SPECS["posterior.residual_share"], "every latent collapsed", n=m.rows)
        weight = m.variance[:, active]
        share = absolute_share(
            weight * (m.gauss_newton - m.curvature)[:, active],
            weight * m.gauss_newton[:, active],
            seed=self.seed,
        )
        return Metric(
            SPECS["posterior.residual_share"],
            share.value,
            ci=share.ci,
            level=LEVEL,
            n=m.rows,
            method="Gauss-Newton less Bonnet/Stein, bootstrap over rows",
        )

    def _alignment(self, m: PosteriorMoments, active: Tensor, beta: float) -> tuple[Alignment | None, str]:
        import torch

        from vaeprobe.geometry.rotations import alignment

        k = int(active.sum())
        if k < 2:
            return None, f"{k} active latent{'' if k == 1 else 's'}: nothing to be off the diagonal"
        Lambda = torch.eye(k, dtype=torch.float64) + m.gram[:, active][:, :, active] / beta
        try:
            found = alignment(Lambda, count=self.rotations, seed=self.seed)
        except ValueError:
            return None, "two active latents do the same to the output, to rounding"
        return found, "" if found.value is not None else "the averaged Hessian is diagonal in every basis"

    def _diagonality(self, found: Alignment | None, why_not: str, n: int) -> list[Metric]:
        from vaeprobe.intervals import LEVEL, bootstrap

        ids = ("posterior.hessian_diagonality", "posterior.hessian_p_value")
        if found is None or found.value is None or found.p_value is None:
            return [Metric.undefined(SPECS[id], why_not, n=n) for id in ids]
        contrast, null = found.contrast.numpy(), found.null.numpy()
        ci = bootstrap(lambda i: 1 - contrast[i].mean(1) / null[i].mean(1), n, seed=self.seed)
        how = f"{self.rotations} Haar rotations of the active latents"
        return [
            Metric(SPECS[ids[0]], found.value, ci=ci, level=LEVEL, n=n, method=how),
            Metric(SPECS[ids[1]], found.p_value, n=n, method=how),
        ]

    def _verdict(self, found: Alignment | None) -> str:
        if found is None or found.p_value is None or found.value is None:
            return "undecided"
        return "aligned" if found.p_value <= SIGNIFICANT and found.value > 0 else "not aligned"

    def _summary(
        self, metrics: Mapping[str, Metric], found: Alignment | None, beta: float, active: int, k: int
    ) -> str:
        elbo, remainder = metrics["elbo.value"].value, metrics["elbo.remainder"].value
        origin = "given" if self.beta else "estimated"
        first = (
            f"At beta = {beta:.3g} ({origin}) {active} of {k} latents are active; the ELBO is {elbo:.4g} nats a row, "
            f"of which Eq. 5 drops {remainder:.3g}."
        )
        if found is None or found.value is None:
            return f"{first} Whether the averaged Hessian is diagonal cannot be decided."
        how = (
            "diagonal beyond chance"
            if self._verdict(found) == "aligned"
            else "no more diagonal than in a random basis"
        )
        return (
            f"{first} Averaged over each posterior, the likelihood's Hessian is {how} "
            f"(alignment {found.value:.2f}, p = {found.p_value:.3g})."
        )

    def _findings(self, metrics: Mapping[str, Metric], likelihood: str, beta: float) -> list[Finding]:
        out = []
        share = metrics["posterior.residual_share"]
        if share.ci is not None and share.ci[0] > LARGEST_RESIDUAL:
            out.append(
                Finding(
                    LARGE_RESIDUAL,
                    f"the residual term of Eq. 7 holds {share.value:.0%} of the curvature: it is not small here",
                    hint=f"read the Stein columns; is the likelihood really {likelihood}?",
                )
            )
        if likelihood == "gaussian" and self.beta is None and not 0.8 < beta < 1.25:
            out.append(
                Finding(
                    OTHER_VARIANCE,
                    f"at sigma^2 = {self.sigma2:.4g} the encoder asks for beta = {beta:.4g}: by Theorem 3 it is the "
                    f"optimum of the ELBO at sigma^2 = {beta * self.sigma2:.4g}",
                    hint=f"for that ELBO: --sigma2 {beta * self.sigma2:.4g}",
                )
            )
        return out
