"""`vaeprobe posterior`: the encoder's posteriors against the likelihood's Hessian, and the ELBO term by term."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vaeprobe.probes.base import option
from vaeprobe.probes.posterior import pictures, words
from vaeprobe.probes.posterior.metrics import METRICS
from vaeprobe.probes.posterior.numbers import (
    TAIL,
    alignment_over_beta,
    consistency,
    diagonality,
    hessian_alignment,
    residual_share,
    without_largest,
)
from vaeprobe.probes.rounded import without
from vaeprobe.probes.with_encoder import EncoderProbe
from vaeprobe.report import Json, Metric, MetricSpec, Section, metric_map
from vaeprobe.result import Measured, Result

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.geometry.rotations import Alignment
    from vaeprobe.inference.beta import BetaEstimate
    from vaeprobe.inference.elbo import ElboTerms
    from vaeprobe.inference.moments import PosteriorMoments


@dataclass(frozen=True, kw_only=True)
class PosteriorResult(Result):
    """What `Posterior` measures.

    Attributes:
        beta: the beta that precisions were compared at.
        beta_estimated: whether it was estimated from the same rows.
        moments: moments under the posteriors.
        latent_names: name of each continuous latent, `z0` being column 0 of the latent tensor.
        terms: the terms of the ELBO.
        active: latents that the encoder knows better than the prior does.
        alignment: the averaged Hessian's axes against random rotations, over the active latents.
        ratios: likelihood's precision over the encoder's, mean over rows, per latent.
        ratio_intervals: their bootstrap intervals.
    """

    command: ClassVar[str] = "posterior"
    CARRIED = (
        ("posterior.hessian_diagonality", "posterior.hessian_p_value"),
        ("posterior.residual_share",),
        ("posterior.mean_field_gap",),
        ("posterior.self_consistency", "posterior.self_consistency_null"),
        ("elbo.value", "elbo.det"),
    )

    precision_ratio = Measured("posterior.precision_ratio")
    residual_share = Measured("posterior.residual_share")
    hessian_diagonality = Measured("posterior.hessian_diagonality")
    hessian_p_value = Measured("posterior.hessian_p_value")
    mean_field_gap = Measured("posterior.mean_field_gap")
    variance_gap = Measured("posterior.variance_gap")
    mean_gap = Measured("posterior.mean_gap")
    self_consistency = Measured("posterior.self_consistency")
    self_consistency_null = Measured("posterior.self_consistency_null")
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
    latent_names: tuple[str, ...]
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

    def latent_rows(self) -> list[Json]:
        """Return one row per continuous latent, means over the data rows."""
        m, beta = self.moments, self.beta
        kl = self.metrics["kl.per_latent"].value
        assert isinstance(kl, list)
        encoder = (1 / m.variance).mean(0)
        newton, exact = 1 + m.gauss_newton.mean(0) / beta, 1 + m.curvature.mean(0) / beta
        return [
            {
                "latent": self.latent_names[i],
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

    def details(self) -> Json:
        from vaeprobe.inference.elbo import mean_gap

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
                "mean_gap": mean_gap(m, self.beta).tolist(),
                "log_density_error": m.log_density_error.tolist(),
            },
            "hessian": m.gram.mean(0).tolist(),
        }

    def sections(self) -> tuple[Section, ...]:
        return pictures.sections(self.latent_rows(), self.terms, self.beta, self.moments.gram, self.alignment)


# what does not follow from derivatives of the decoder
WITHOUT_DERIVATIVES = frozenset(
    (
        "elbo.value",
        "elbo.reconstruction",
        "elbo.kl",
        "kl.per_latent",
        "posterior.self_consistency",
        "posterior.self_consistency_null",
    )
)


@dataclass(frozen=True)
class _Beta:
    """The beta that posteriors are held against.

    Attributes:
        beta: its value.
        how: where it is from.
        moves: where it was estimated, how far each of n rows moves it, times n, shape (n,).
    """

    beta: float
    how: Literal["given", "estimated", "assumed"]
    moves: Tensor | None = None

    @classmethod
    def of(cls, given: float | None, estimate: BetaEstimate | None) -> _Beta:
        if given is not None:
            return cls(given, "given")
        if estimate is None or not estimate.clear:
            return cls(1.0, "assumed")
        return cls(estimate.stein.value, "estimated", len(estimate.by_row) * estimate.by_row)

    def __call__(self, values: Callable[[float], Tensor]) -> Tensor:
        """Return values at beta, shape (n, ...), their spread that of their mean at a beta read off these very rows."""
        if self.moves is None:
            return values(self.beta)
        step = 1e-4 * self.beta
        slope = (values(self.beta + step).mean(0) - values(self.beta - step).mean(0)) / (2 * step)
        return values(self.beta) + (self.moves[:, None] if slope.ndim else self.moves) * slope


@dataclass(frozen=True, kw_only=True)
class Posterior(EncoderProbe):
    """Hold the encoder's posteriors against the likelihood's Hessian, and the ELBO against its expansion.

    Needs the encoder and data.  At the optimum of a (beta-)VAE each posterior precision is 1 + h/beta, h the
    likelihood's curvature averaged over the posterior; this compares the two per latent and row, asks
    whether the averaged Hessian is diagonal, and splits the ELBO into its terms.

    Attributes:
        beta: the beta the model was trained at; estimated where it is not given.
        rotations: random rotations of the null.

    Examples:
        vaeprobe posterior model.safetensors --data x.npy
        vaeprobe posterior decoder.pt --encoder encoder.pt --data x.npy
    """

    NAME: ClassVar[str] = "posterior"
    METRICS: ClassVar[tuple[MetricSpec, ...]] = METRICS
    VERDICTS: ClassVar[Mapping[str, str]] = {
        "aligned": "averaged over each posterior, the likelihood's Hessian is diagonal beyond chance",
        "not aligned": "it is no more diagonal than in a random basis",
        "undecided": "whether it is diagonal cannot be decided",
        "mismatched": "the encoder's outputs are probably laid out otherwise: nothing here is to be trusted",
    }
    PER_SAMPLE: ClassVar[frozenset[str]] = frozenset({"elbo.value", "elbo.objective", "elbo.reconstruction"})

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

        from vaeprobe.geometry.gram import mean_field_gap
        from vaeprobe.inference.collapse import active_by_all_rules
        from vaeprobe.inference.consistency import self_consistency
        from vaeprobe.inference.elbo import (
            elbo_terms,
            kl_per_latent,
            mean_gap,
            variance_gap,
            variance_gap_by_scale,
        )
        from vaeprobe.inference.identity import ratio_per_latent

        evidence = self.evidence(decoder)
        m = evidence.moments
        findings = list(evidence.findings)
        active = active_by_all_rules(m).precision
        at_beta = _Beta.of(self.beta, evidence.estimate)
        beta, how = at_beta.beta, at_beta.how
        if how == "assumed" and not evidence.rounding:
            findings.append(words.beta_unknown(evidence))
        terms = elbo_terms(m)
        ratio = at_beta(lambda b: m.variance * (1 + m.curvature / b))
        intervals = ratio_per_latent(ratio, torch.ones_like(ratio), seed=self.seed)
        chosen = (m, active, beta, self.rotations, self.seed)
        alignment, why_not = hessian_alignment(*chosen)
        by_beta = 0.0 if at_beta.moves is None else at_beta.moves * alignment_over_beta(*chosen)
        kl, gap = kl_per_latent(m.mean, m.variance), mean_gap(m, beta)
        encoder = self.chosen_encoder(decoder)
        decoder = decoder.at_totals()
        consistent = self_consistency(
            decoder, encoder, evidence.x, evidence.likelihood, m, active, seed=self.seed
        )
        metrics = metric_map(
            [
                Metric(
                    self.spec("posterior.precision_ratio"),
                    [e.value for e in intervals],
                    n=m.rows,
                    method=f"Bonnet/Stein at beta = {beta:.4g}, {how}",
                ),
                residual_share(m, active, self.seed),
                *diagonality(alignment, why_not, m.rows, self.rotations, by_beta),
                self.mean_over_rows("posterior.mean_field_gap", at_beta(lambda b: mean_field_gap(m.gram, b))),
                self.mean_over_rows(
                    "posterior.variance_gap",
                    at_beta(lambda b: variance_gap(m, b).sum(1)) + variance_gap_by_scale(m, beta),
                ),
                self.mean_over_rows(
                    "posterior.mean_gap",
                    at_beta(lambda b: without_largest(mean_gap(m, b))),
                    method=f"mean over rows without the largest {TAIL:.0%} (of all rows {float(gap.mean()):.4g}, "
                    f"the largest {float(gap.max()):.4g})",
                ),
                *consistency(consistent, m.rows),
                self.mean_over_rows("elbo.value", terms.value()),
                self.mean_over_rows("elbo.objective", at_beta(terms.value)),
                self.mean_over_rows("elbo.reconstruction", terms.reconstruction),
                self.mean_over_rows("elbo.kl", terms.kl),
                self.mean_over_rows("elbo.det", terms.deterministic()),
                self.mean_over_rows("elbo.remainder", terms.remainder),
                Metric(self.spec("kl.per_latent"), kl.mean(0).tolist(), n=m.rows),
            ]
        )
        if evidence.rounding is not None:
            alignment, metrics = (
                None,
                without(metrics, evidence.rounding.why, metrics.keys() - WITHOUT_DERIVATIVES),
            )
        findings += words.findings(evidence, metrics, beta, given=how == "given")
        return PosteriorResult(
            metrics=metrics,
            verdict=words.verdict(evidence, alignment),
            summary=words.summary(evidence, metrics, alignment, beta, how=how, active=int(active.sum())),
            findings=tuple(findings),
            settings={**self.settings(decoder), **evidence.settings()},
            artifact=decoder.artifact,
            beta=beta,
            beta_estimated=how != "given",
            moments=m,
            latent_names=evidence.names,
            terms=terms,
            active=active.tolist(),
            alignment=alignment,
            ratios=[e.value for e in intervals],
            ratio_intervals=[e.ci for e in intervals],
        )
