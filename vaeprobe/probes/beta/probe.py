"""`vaeprobe beta`: the beta that a checkpoint was trained at, what collapsed, and what the posteriors share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vaeprobe.probes.base import option
from vaeprobe.probes.beta import pictures, words
from vaeprobe.probes.beta.metrics import METRICS
from vaeprobe.probes.beta.numbers import beta_metrics, supported, variance_metrics
from vaeprobe.probes.rounded import without
from vaeprobe.probes.with_encoder import EncoderEvidence, EncoderProbe
from vaeprobe.report import Json, Metric, MetricSpec, Section, metric_map
from vaeprobe.result import Measured, Result

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder
    from vaeprobe.inference.beta import BetaEstimate
    from vaeprobe.inference.collapse import ActiveLatents
    from vaeprobe.inference.moments import PosteriorMoments

# what follows from derivatives of the decoder
OF_DERIVATIVES = frozenset(
    f"beta.{name}"
    for name in ("estimate", "gauss_newton", "mean_identity", "row_shift", "consistency", "sigma2")
) | {"latents.active.columns", "latents.active.supported"}
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class BetaResult(Result):
    """What `Beta` measures.

    Attributes:
        estimate: beta by every identity; None where every latent collapsed.
        active: active latents by four rules.
        moments: moments under the posteriors.
        latent_names: name of each continuous latent, `z0` being column 0 of the latent tensor.
        kl: KL per latent, shape (k,), means over the data.
        overlaps: mean overlap of nearest neighbours at each factor times beta.
        meaning: what the beta says about Var[x|z] (Theorem 3).
    """

    command: ClassVar[str] = "beta"
    CARRIED = (
        ("beta.estimate", "beta.mean_identity"),
        ("beta.consistency",),
        ("kl.total",),
        ("latents.active.kl", "latents.active.means", "latents.active.columns", "latents.active.precision"),
    )

    gauss_newton = Measured("beta.gauss_newton")
    mean_identity = Measured("beta.mean_identity")
    consistency = Measured("beta.consistency")
    row_shift = Measured("beta.row_shift")
    sigma2 = Measured("beta.sigma2")
    residual_variance = Measured("beta.residual_variance")
    kl_per_latent = Measured("kl.per_latent")
    posterior_mean_square = Measured("posterior.mean_square")
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
    latent_names: tuple[str, ...]
    kl: list[float]
    overlaps: Mapping[float, float]
    meaning: str

    def latent_rows(self) -> list[Json]:
        """Return one row per continuous latent."""
        from vaeprobe.intervals import mean_interval

        rules = (self.active.kl, self.active.means, self.active.columns, self.active.precision)
        variance, squares = self.moments.variance.mean(0), self.moments.squares
        beta = self.estimate.stein.value if self.estimate else 0.0
        rows = []
        for i, name in enumerate(self.latent_names):
            own = self.estimate.per_latent[i] if self.estimate and self.active.precision[i] else None
            rows.append(
                {
                    "latent": name,
                    "kl": self.kl[i],
                    "variance": float(variance[i]),
                    "mean_square": float(squares[:, i].mean()),
                    "mean_square_ci": mean_interval(squares[:, i].numpy(), low=0.0),
                    "beta": own.value if own else None,
                    "beta_ci": list(own.ci) if own else None,
                    "collapses_at": beta / float(variance[i]) if own and beta > 0 else None,
                    **{f"by_{name}": bool(rule[i]) for name, rule in zip(pictures.RULES, rules, strict=True)},
                }
            )  # fmt: skip
        return rows

    def details(self) -> Json:
        return {
            "latents": self.latent_rows(),
            "overlap_at_beta_times": {f"{k:g}": v for k, v in self.overlaps.items()},
            "meaning": self.meaning,
        }

    def sections(self) -> tuple[Section, ...]:
        return pictures.sections(self.metrics, self.latent_rows(), self.overlaps, self.meaning)


@dataclass(frozen=True, kw_only=True)
class Beta(EncoderProbe):
    """Recover the beta that a checkpoint was trained at from its encoder, its decoder and data.

    For a Gaussian likelihood the posteriors show the product beta sigma^2 alone: the estimate is beta for the
    --sigma2 that is given, beta sigma^2 where none is, and with --beta it gives sigma^2.  Also: whether one beta
    explains all latents, means and rows, which latents collapsed by four rules and at which beta they would, and
    the overlap of neighbouring posteriors.

    Attributes:
        beta: the nominal beta, to hold the estimate against; for a Gaussian it gives sigma^2.

    Examples:
        vaeprobe beta model.safetensors --data x.npy
        vaeprobe beta model.pt --data x.npy --beta 4 --json
    """

    NAME: ClassVar[str] = "beta"
    METRICS: ClassVar[tuple[MetricSpec, ...]] = METRICS
    # more rows may test it
    OPEN_VERDICTS: ClassVar[frozenset[str]] = frozenset({"untested"})
    VERDICTS: ClassVar[Mapping[str, str]] = {
        "consistent": "one beta explains latents, means and rows as far as they were tested",
        "inconsistent": "they contradict each other, or the estimate is below 0: at the optimum of no beta-ELBO",
        "untested": "nothing on these rows could contradict the estimate, or the curvature is not known",
        "collapsed": "all posteriors equal the prior: beta cannot be told",
        "mismatched": "the encoder's outputs are laid out otherwise, or the codes reconstruct no better than the mean",
    }

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
        from vaeprobe.inference.collapse import active_by_all_rules
        from vaeprobe.inference.elbo import kl_per_latent
        from vaeprobe.inference.overlap import nearest_overlap, variance_at

        evidence = self.evidence(decoder)
        m, estimate = evidence.moments, evidence.estimate
        active = active_by_all_rules(m)
        kl = kl_per_latent(m.mean, m.variance)
        overlap = nearest_overlap(m.mean, m.variance)
        overlaps = {f: float(nearest_overlap(m.mean, variance_at(m.variance, f)).mean()) for f in FACTORS}
        metrics = metric_map(
            [
                *beta_metrics(estimate, m.rows),
                *variance_metrics(evidence, self.beta, self._residual(evidence)),
                Metric(self.spec("kl.per_latent"), kl.mean(0).tolist(), n=m.rows),
                Metric(self.spec("posterior.mean_square"), m.squares.mean(0).tolist(), n=m.rows),
                self.mean_over_rows("kl.total", kl.sum(1)),
                Metric(self.spec("latents.active.kl"), int(active.kl.sum()), n=m.rows),
                Metric(self.spec("latents.active.means"), int(active.means.sum()), n=m.rows),
                Metric(self.spec("latents.active.columns"), int(active.columns.sum()), n=m.rows),
                Metric(self.spec("latents.active.precision"), int(active.precision.sum()), n=m.rows),
                supported(evidence),
                self.mean_over_rows("posterior.overlap", overlap),
            ]
        )
        known = OF_DERIVATIVES if evidence.rounding else OF_DERIVATIVES - {"latents.active.columns"}
        metrics = without(metrics, evidence.no_beta, known)
        return BetaResult(
            metrics=metrics,
            verdict=words.verdict(evidence),
            summary=words.summary(evidence),
            findings=(
                *evidence.findings,
                *words.findings(evidence, self.beta),
                *words.implied(evidence, decoder.recipe),
            ),
            settings={**self.settings(decoder), **evidence.settings()},
            artifact=decoder.artifact,
            estimate=estimate,
            active=active,
            moments=m,
            latent_names=evidence.names,
            kl=kl.mean(0).tolist(),
            overlaps=overlaps,
            meaning=words.meaning(evidence),
        )

    def _residual(self, evidence: EncoderEvidence) -> Metric:
        """Return the mean of E_q |x - f(z)|^2 / m over the rows, from a Gaussian's log-density."""
        import math

        sigma2, m = evidence.likelihood.free_variance, evidence.x[0].numel()
        if sigma2 is None:
            return Metric.undefined(
                self.spec("beta.residual_variance"), "the likelihood has no variance of its own"
            )
        square = -evidence.moments.log_density - 0.5 * m * math.log(2 * math.pi * sigma2)
        return self.mean_over_rows("beta.residual_variance", 2 * sigma2 / m * square)
