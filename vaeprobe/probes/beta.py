"""`vaeprobe beta`: the beta that a checkpoint was trained at, what collapsed, and what the posteriors share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vaeprobe.findings import (
    COLLAPSED,
    COLLAPSED_LATENTS,
    NO_BETTER_THAN_CHANCE,
    NO_CURVATURE,
    NOT_AT_OPTIMUM,
    OTHER_BETA,
)
from vaeprobe.probes.base import option
from vaeprobe.probes.with_encoder import KL_PER_LATENT, EncoderProbe, Evidence
from vaeprobe.report import Curves, Finding, Metric, MetricSpec, Section, Table, metric_map, specs_by_id
from vaeprobe.result import Measured, Result

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder
    from vaeprobe.inference.beta import BetaEstimate
    from vaeprobe.inference.collapse import ActiveLatents
    from vaeprobe.inference.moments import PosteriorMoments

# below this one beta does not serve all active latents: unregularised and beta-VAEs trained to the end
# are within it by noise, total-correlation objectives and early-stopped models are not
CONSISTENT = 0.95
MOST_OUTPUTS = 2048  # of a covariance whose eigenvalues are taken
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

METRICS = (
    MetricSpec(
        id="beta.estimate",
        title="training beta",
        range="(0, inf)",
        formula="sum_x,i Sigma_ii h_i / sum_x,i (1 - Sigma_ii) over active latents, h_i = -E_q[d_i^2 log p(x|z)] by "
        "Bonnet/Stein",
        source="Allen 2024, Eqs. 5-9; stationarity of the log-variance head's bias",
        meaning="The weight of the KL term at which these posteriors are optimal for this decoder; for a Gaussian at "
        "the default sigma^2 = 1 it is beta sigma^2.",
        misleads="Under capacity annealing or a constraint it is the multiplier in force, not the nominal weight. "
        "A Gaussian shows the product beta sigma^2 only (Theorem 3). Loss terms averaged instead of summed scale it.",
        remedy="Give --sigma2, or --beta to read off sigma^2; more rows narrow the interval.",
    ),
    MetricSpec(
        id="beta.gauss_newton",
        title="beta by Gauss-Newton",
        range="(0, inf)",
        formula="sum Sigma_ii E_q[G_ii] / sum (1 - Sigma_ii)",
        source="Allen 2024, Eqs. 5-7",
        meaning="Lower in noise, biased by the residual term of Eq. 7: 3 to 14 % high on trained models.",
        misleads="It agrees with the exact estimate only where the residual is small.",
        remedy="Prefer beta.estimate.",
    ),
    MetricSpec(
        id="beta.mean_identity",
        title="beta by the means",
        range="(-inf, inf)",
        formula="sum e_i E_q[d_i log p(x|z)] / sum e_i^2 over active latents",
        source="derivative of the ELBO by e(x); E_q[d_i log p] = beta e_i at the optimum",
        meaning="A second opinion that uses no variance at all.",
        misleads="Errors of sharp posteriors' means are magnified by their precision: useless on held-out data there.",
        remedy="Use rows of the training data; read its interval.",
    ),
    MetricSpec(
        id="beta.consistency",
        title="consistency",
        better="higher",
        range="(0, 1]; 1 one beta explains every latent",
        formula="1 / (1 + s), s the spread over latents of beta_i / beta beyond sampling noise (random effects)",
        source="Allen 2024, Eqs. 5-9: at the optimum every latent obeys the identity at the same beta",
        meaning="How well one beta serves all active latents. Low: the encoder is not at the optimum of any beta-ELBO with this likelihood.",
        misleads="A wrong likelihood, or a constraint on the total KL, can still be one beta for all latents.",
        remedy="Early stopping, annealing, total-correlation terms, or a second output that is no log-variance.",
    ),
    MetricSpec(
        id="beta.sigma2",
        title="sigma^2, given beta",
        range="(0, inf)",
        formula="beta.estimate * sigma^2 / --beta",
        source="Allen 2024, Theorem 3",
        meaning="sigma^2 and beta act on the posterior through their product alone.",
        misleads="Only as right as the beta that was given.",
        remedy="Check it against beta.residual_variance if sigma^2 was learned.",
    ),
    MetricSpec(
        id="beta.residual_variance",
        title="residual variance",
        range="(0, inf)",
        formula="mean over rows of E_q |x - f(z)|^2 / m, Gaussian likelihood",
        source="Allen 2024, Theorem 3: what sigma^2 would be if it were learned",
        meaning="If sigma^2 was learned, beta is the estimate of beta sigma^2 over this number.",
        misleads="With a fixed sigma^2 the two have no reason to agree: Theorem 3 needs sigma^2 fixed.",
        remedy="Use it only where sigma^2 was learned.",
    ),
    KL_PER_LATENT,
    MetricSpec(
        id="kl.total",
        title="total KL",
        unit="nats",
        range="[0, inf)",
        formula="sum_i KL_i, mean over x",
        source="Allen 2024, Eq. 1",
        meaning="How much the codes tell about the data, at most.",
        misleads="Depends on the number of latents only through those that are active.",
        remedy="Lower beta for more, raise it for less.",
    ),
    MetricSpec(
        id="latents.active.kl",
        title="active by KL",
        range="0 .. d",
        formula="#{i: mean_x KL_i > 0.01}",
        source="common practice",
        meaning="Latents that the encoder uses.",
        misleads="A broad posterior far from 0 counts, though it says little.",
        remedy="Read it beside the other three rules.",
    ),
    MetricSpec(
        id="latents.active.means",
        title="active by means",
        range="0 .. d",
        formula="#{i: Var_x e_i(x) > 0.01}",
        source="Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519",
        meaning="Latents whose means depend on the data.",
        misleads="Blind to the decoder: an ignored latent with moving means counts.",
        remedy="Read it beside the other three rules.",
    ),
    MetricSpec(
        id="latents.active.columns",
        title="active by columns",
        range="0 .. d",
        formula="#{i: rms ||J_i|| > 5 % of the largest}, in the likelihood's metric, at posterior draws",
        source="Allen 2024, Section 3",
        meaning="Latents that the decoder uses.",
        misleads="Relative to the strongest latent: weak but useful ones fall under 5 %.",
        remedy="Read it beside the other three rules.",
    ),
    MetricSpec(
        id="latents.active.precision",
        title="active by precision",
        range="0 .. d",
        formula="#{i: mean_x (1/Sigma_ii - 1) > 1}",
        source="Allen 2024, Eqs. 5-9",
        meaning="These carry the estimate of beta.",
        misleads="The strictest of the four rules.",
        remedy="Read it beside the other three rules.",
    ),
    MetricSpec(
        id="latents.active.supported",
        title="supported directions",
        range="0 .. m",
        formula="#{eigenvalues of V^-1/2 Cov(x) V^-1/2 > beta}, V = Var[x | mean image]; Gaussian: lambda_i > beta sigma^2",
        source="Allen 2024, Corollary 3.1; linear theory",
        meaning="How many latents a linear decoder could keep alive; fewer than d: collapse is the data's doing.",
        misleads="A nonlinear decoder can keep fewer or more. Needs at least five times as many rows as outputs.",
        remedy="Where it is below the number of latents, use fewer latents or a smaller beta.",
    ),
    MetricSpec(
        id="posterior.overlap",
        title="neighbours' overlap",
        range="[0, 1]",
        formula="mean_x max_x' integral sqrt(q(z|x) q(z|x'))",
        source="Allen 2024, Section 4.2, Figure 3; Bhattacharyya 1943",
        meaning="How much of a posterior its nearest neighbour shares. 0: codes are separate islands, the VAE memorises; towards 1: neighbours are blurred together.",
        misleads="It grows with the number of rows: compare at equal --samples only.",
        remedy="Raise beta for more overlap, lower it for less.",
    ),
)
SPECS = specs_by_id(METRICS)


@dataclass(frozen=True, kw_only=True)
class BetaResult(Result):
    """What `Beta` measures.

    Attributes:
        estimate: beta by every identity; None where every latent collapsed.
        active: active latents by four rules.
        moments: moments under the posteriors.
        kl: KL per latent, shape (k,), means over the data.
        overlaps: mean overlap of nearest neighbours at each factor times beta.
        meaning: what the beta says about Var[x|z] (Theorem 3).
    """

    command: ClassVar[str] = "beta"

    gauss_newton = Measured("beta.gauss_newton")
    mean_identity = Measured("beta.mean_identity")
    consistency = Measured("beta.consistency")
    sigma2 = Measured("beta.sigma2")
    residual_variance = Measured("beta.residual_variance")
    kl_per_latent = Measured("kl.per_latent")
    kl_total = Measured("kl.total")
    latents_active_kl = Measured("latents.active.kl")
    latents_active_means = Measured("latents.active.means")
    latents_active_columns = Measured("latents.active.columns")
    latents_active_precision = Measured("latents.active.precision")
    latents_active_supported = Measured("latents.active.supported")
    posterior_overlap = Measured("posterior.overlap")

    estimate: BetaEstimate | None
    active: ActiveLatents
    moments: PosteriorMoments
    kl: list[float]
    overlaps: Mapping[float, float]
    meaning: str

    def latent_rows(self) -> list[dict[str, Any]]:
        """Return one row per continuous latent."""
        rules = (self.active.kl, self.active.means, self.active.columns, self.active.precision)
        variance = self.moments.variance.mean(0)
        rows = []
        for i in range(self.moments.latents):
            own = self.estimate.per_latent[i] if self.estimate and self.active.precision[i] else None
            rows.append(
                {
                    "latent": i,
                    "kl": self.kl[i],
                    "variance": float(variance[i]),
                    "beta": own.value if own else None,
                    "beta_ci": list(own.ci) if own else None,
                    "collapses_at": self.estimate.stein.value / float(variance[i]) if own and self.estimate else None,
                    **{name: bool(rule[i]) for name, rule in zip(("by_kl", "by_means", "by_columns", "by_precision"), rules, strict=True)},
                }
            )  # fmt: skip
        return rows

    def details(self) -> dict[str, Any]:
        return {
            "latents": self.latent_rows(),
            "overlap_at_beta_times": {f"{k:g}": v for k, v in self.overlaps.items()},
            "meaning": self.meaning,
        }

    def sections(self) -> tuple[Section, ...]:
        def interval(ci: Sequence[float] | None) -> str | None:
            return f"{ci[0]:.3g} .. {ci[1]:.3g}" if ci else None

        kinds = [
            ("Bonnet/Stein (the estimate)", "beta.estimate"),
            ("Gauss-Newton", "beta.gauss_newton"),
            ("posterior means", "beta.mean_identity"),
        ]
        ways = Table(
            title="beta by three identities of the optimum",
            columns=("from", "beta", "95% CI"),
            rows=[
                [name, value, interval(self.metrics[id].ci)]
                for name, id in kinds
                if isinstance(value := self.metrics[id].value, (float, type(None)))
            ],
            note=self.meaning,
        )
        latents = Table(
            title="Latents",
            columns=("latent", "KL", "Sigma", "beta", "95% CI", "collapses at", "active by"),
            rows=[
                [f"z{r['latent']}", r["kl"], r["variance"], r["beta"], interval(r["beta_ci"]), r["collapses_at"],
                 " ".join(n for n in ("kl", "means", "columns", "precision") if r[f"by_{n}"]) or "none"]
                for r in self.latent_rows()
            ],
            note="collapses at: the beta at which linear theory ends this latent, beta / Sigma (Corollary 3.1)",
        )  # fmt: skip
        curve = Curves(
            title="Overlap of nearest posteriors as beta changes, decoder held fixed",
            x=list(self.overlaps),
            ys={"overlap": list(self.overlaps.values())},
            x_label="times the present beta",
            y_label="Bhattacharyya",
        )
        return (ways, latents, *([curve] if self.overlaps else []))


@dataclass(frozen=True, kw_only=True)
class Beta(EncoderProbe):
    """Recover the beta that a checkpoint was trained at from its encoder, its decoder and data.

    For a Gaussian likelihood the posteriors show the product beta sigma^2 alone: the estimate is beta for the
    --sigma2 that is given, beta sigma^2 where none is, and with --beta it gives sigma^2.  Also: whether one beta
    explains all latents, which latents collapsed by four rules and at which beta they would, and the overlap of
    neighbouring posteriors.

    Attributes:
        beta: the nominal beta, to hold the estimate against; for a Gaussian it gives sigma^2.
    """

    NAME: ClassVar[str] = "beta"
    METRICS: ClassVar[tuple[MetricSpec, ...]] = METRICS

    beta: float | None = option(
        None,
        help="Nominal beta, to hold the estimate against; gives sigma^2 of a Gaussian.",
        min=1e-12,
        panel="Beta",
    )

    def measure(self, decoder: Decoder) -> BetaResult:
        """Return the beta of a checkpoint, with what speaks for and against it.

        Raises:
            UsageError: no encoder, no data or no likelihood, or they do not fit together.
            InputError: the encoder's outputs are laid out otherwise.
        """
        from vaeprobe.inference.beta import estimate_beta
        from vaeprobe.inference.collapse import active_by_all_rules
        from vaeprobe.inference.elbo import kl_per_latent
        from vaeprobe.inference.overlap import nearest_overlap, variance_at

        evidence = self.evidence(decoder)
        m = evidence.moments
        estimate = estimate_beta(m, seed=self.seed)
        active = active_by_all_rules(m)
        kl = kl_per_latent(m.mean, m.variance)
        overlap = nearest_overlap(m.mean, m.variance)
        overlaps = {f: float(nearest_overlap(m.mean, variance_at(m.variance, f)).mean()) for f in FACTORS}
        metrics = metric_map(
            [
                *self._beta_metrics(estimate, m.rows),
                *self._gaussian_metrics(evidence, estimate),
                Metric(SPECS["kl.per_latent"], kl.mean(0).tolist(), n=m.rows),
                self.mean_over_rows("kl.total", kl.sum(1)),
                Metric(SPECS["latents.active.kl"], int(active.kl.sum()), n=m.rows),
                Metric(SPECS["latents.active.means"], int(active.means.sum()), n=m.rows),
                Metric(SPECS["latents.active.columns"], int(active.columns.sum()), n=m.rows),
                Metric(SPECS["latents.active.precision"], int(active.precision.sum()), n=m.rows),
                self._supported(evidence, estimate),
                self.mean_over_rows("posterior.overlap", overlap),
            ]
        )
        findings = (*evidence.findings, *self._findings(evidence, estimate, metrics))
        meaning = self._meaning(evidence.likelihood.name, estimate, decoder.data_dim)
        summary = self._summary(evidence.likelihood.name, estimate, metrics, m.latents)
        mismatched = any(f.spec is NO_BETTER_THAN_CHANCE for f in evidence.findings)
        if mismatched:
            summary = f"The codes reconstruct these data no better than the mean image: do not trust this. {summary}"
        return BetaResult(
            metrics=metrics,
            verdict="mismatched" if mismatched else self._verdict(metrics),
            summary=summary,
            findings=findings,
            settings={**self.settings(decoder), "likelihood": evidence.likelihood.name, "rows": m.rows},
            artifact=decoder.artifact,
            estimate=estimate,
            active=active,
            moments=m,
            kl=kl.mean(0).tolist(),
            overlaps=overlaps,
            meaning=meaning,
        )

    # -- the pieces ------------------------------------------------------------------------------

    def _beta_metrics(self, estimate: BetaEstimate | None, n: int) -> list[Metric]:
        from vaeprobe.intervals import LEVEL

        ids = ("beta.estimate", "beta.gauss_newton", "beta.mean_identity")
        if estimate is None:
            why = "every latent collapsed onto the prior: any larger beta would have done the same"
            return [Metric.undefined(SPECS[id], why, n=n) for id in (*ids, "beta.consistency")]
        how = "bootstrap over rows and latents"
        out = [
            Metric(SPECS[id], e.value, ci=e.ci, level=LEVEL, n=n, method=how)
            for id, e in zip(ids, (estimate.stein, estimate.gauss_newton, estimate.means), strict=True)
        ]
        if estimate.agreement is None:
            return [
                *out,
                Metric.undefined(SPECS["beta.consistency"], "one active latent agrees with itself", n=n),
            ]
        spread, (low, high) = estimate.agreement.spread, estimate.agreement.ci
        return [
            *out,
            Metric(
                SPECS["beta.consistency"],
                1 / (1 + spread),
                ci=(1 / (1 + high), 1 / (1 + low)),
                level=LEVEL,
                n=n,
                method="random effects over latents, bootstrap over rows",
            ),
        ]

    def _gaussian_metrics(self, evidence: Evidence, estimate: BetaEstimate | None) -> list[Metric]:
        import math

        from vaeprobe.intervals import LEVEL

        if evidence.likelihood.name != "gaussian":
            return []
        n, m, sigma2 = evidence.moments.rows, evidence.x[0].numel(), self.sigma2
        residual = 2 * sigma2 / m * (-evidence.moments.log_density - 0.5 * m * math.log(2 * math.pi * sigma2))
        out = [self.mean_over_rows("beta.residual_variance", residual)]
        if estimate is None:
            return [Metric.undefined(SPECS["beta.sigma2"], "every latent collapsed", n=n), *out]
        if self.beta is None:
            return [
                Metric.undefined(
                    SPECS["beta.sigma2"], "only the product beta sigma^2 shows: give --beta", n=n
                ),
                *out,
            ]
        scale = sigma2 / self.beta
        low, high = estimate.stein.ci
        value = Metric(
            SPECS["beta.sigma2"],
            estimate.stein.value * scale,
            ci=(low * scale, high * scale),
            level=LEVEL,
            n=n,
            method=f"at beta = {self.beta:g}",
        )
        return [value, *out]

    def _supported(self, evidence: Evidence, estimate: BetaEstimate | None) -> Metric:
        from vaeprobe.inference.collapse import supported_directions

        id, n, m = "latents.active.supported", len(evidence.available), evidence.x[0].numel()
        if evidence.likelihood.name == "poisson":
            return Metric.undefined(SPECS[id], "not derived for rates with a zero mean", n=n)
        if evidence.x[0].numel() != evidence.outputs:
            return Metric.undefined(
                SPECS[id], "not computed for labels that the encoder takes as they are", n=n
            )
        if m > MOST_OUTPUTS:
            return Metric.undefined(SPECS[id], f"not computed for more than {MOST_OUTPUTS} outputs", n=n)
        if n < 5 * m:
            return Metric.undefined(SPECS[id], f"{n} rows do not tell the covariance of {m} outputs", n=n)
        if estimate is None:
            return Metric.undefined(SPECS[id], "beta is not known: every latent collapsed", n=n)
        edges = supported_directions(evidence.available, evidence.likelihood)
        return Metric(SPECS[id], int((edges > estimate.stein.value).sum()), n=n, method="linear theory")

    def _consistent(self, metrics: Mapping[str, Metric]) -> bool | None:
        consistency = metrics["beta.consistency"]
        if not isinstance(consistency.value, float) or consistency.ci is None:
            return None
        return consistency.ci[1] >= CONSISTENT

    def _verdict(self, metrics: Mapping[str, Metric]) -> str:
        if not metrics["beta.estimate"].defined:
            return "collapsed"
        return "inconsistent" if self._consistent(metrics) is False else "consistent"

    def _symbol(self, likelihood: str) -> str:
        return "beta sigma^2" if likelihood == "gaussian" and self.sigma2 == 1.0 else "beta"

    def _meaning(self, likelihood: str, estimate: BetaEstimate | None, m: int) -> str:
        if estimate is None:
            return ""
        value = estimate.stein.value
        if likelihood == "gaussian":
            product = value * self.sigma2
            return (
                f"Theorem 3: as if Var[x|z] = beta sigma^2 = {product:.4g} per output (sd {max(product, 0) ** 0.5:.3g}), "
                "sigma^2 held fixed."
            )
        if likelihood == "bernoulli":
            return (
                f"Theorem 3, other families: the posterior is that of p(x|z)^(1/beta): the {m} pixels count as "
                f"{m / value:.0f}; Var[x|z] stays p(1 - p)."
            )
        if likelihood == "categorical":
            return (
                "Theorem 3, other families: the posterior is that of p(x|z)^(1/beta), each label counted "
                f"{1 / value:.3g} times; Var[x|z] stays diag(p) - p p^T."
            )
        return (
            f"Theorem 3, other families: the posterior is that of p(x|z)^(1/beta), counts seen for {1 / value:.3g} of "
            "their exposure; Var[x|z] stays the rate."
        )

    def _summary(
        self, likelihood: str, estimate: BetaEstimate | None, metrics: Mapping[str, Metric], k: int
    ) -> str:
        if estimate is None:
            return (
                f"All {k} posteriors equal the prior: the model has collapsed, and its beta cannot be told from the "
                "encoder."
            )
        low, high = estimate.stein.ci
        symbol, count = self._symbol(likelihood), int(estimate.active.sum())
        first = (
            f"The encoder is that of {symbol} = {estimate.stein.value:.3g} (95 % CI {low:.3g} to {high:.3g}), from {count} "
            f"of {k} latents."
        )
        match self._consistent(metrics):
            case False:
                spread = estimate.agreement.spread if estimate.agreement else 0.0
                return (
                    f"{first} No single value explains it: the latents' own values lie {spread:.0%} apart beyond "
                    "noise, so this encoder is not at the optimum of a beta-ELBO with this likelihood."
                )
            case None:
                return f"{first} With one active latent nothing tests it."
        return f"{first} One value explains all of these latents."

    def _findings(
        self, evidence: Evidence, estimate: BetaEstimate | None, metrics: Mapping[str, Metric]
    ) -> list[Finding]:
        k = evidence.moments.latents
        if estimate is None:
            return [
                Finding(
                    COLLAPSED,
                    f"all {k} posteriors equal the prior: the decoder ignores its latents",
                    hint="train with a smaller beta or sigma^2, or warm the KL up",
                )
            ]
        out = []
        dead = k - int(estimate.active.sum())
        if self._consistent(metrics) is False and estimate.agreement is not None:
            own = [e.value for e, on in zip(estimate.per_latent, estimate.active.tolist(), strict=True) if on]
            out.append(
                Finding(
                    NOT_AT_OPTIMUM,
                    "this encoder is not at the ELBO's optimum: the active latents' own beta run from "
                    f"{min(own):.3g} to {max(own):.3g}",
                    hint="early stopping, annealing, a total-correlation term, or another likelihood than the one "
                    "named",
                )
            )
        low, high = estimate.stein.ci
        if estimate.stein.value <= 0 or low <= 0:
            out.append(
                Finding(
                    NO_CURVATURE,
                    "the likelihood has no positive curvature where the encoder puts its posteriors",
                    hint="is this the encoder of this decoder, and are these data like the training data?",
                )
            )
        if self.beta is not None and evidence.likelihood.name != "gaussian" and not low <= self.beta <= high:
            out.append(
                Finding(
                    OTHER_BETA,
                    f"the nominal beta {self.beta:g} lies outside the interval {low:.3g} to {high:.3g}",
                    hint="capacity annealing and early stopping leave an effective beta below the nominal one",
                )
            )
        if dead:
            out.append(
                Finding(
                    COLLAPSED_LATENTS,
                    f"{dead} of {k} latents say less about the data than the prior, and carry no weight here",
                )
            )
        return out
