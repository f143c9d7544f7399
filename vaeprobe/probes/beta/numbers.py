"""The numbers of `beta`: how they follow from the estimate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vaeprobe.probes.beta.metrics import SPECS
from vaeprobe.probes.with_encoder import EncoderEvidence
from vaeprobe.report import Metric

if TYPE_CHECKING:
    from vaeprobe.inference.beta import BetaEstimate
    from vaeprobe.inference.pooling import PooledEstimate

__all__ = ["beta_metrics", "supported", "variance_metrics"]


MOST_OUTPUTS = 2048  # of a covariance whose eigenvalues are taken


def beta_metrics(estimate: BetaEstimate | None, n: int) -> list[Metric]:
    """Return beta by the identities, and what tests it, from n rows."""
    ids = ("beta.estimate", "beta.gauss_newton", "beta.mean_identity", "beta.row_shift")
    if estimate is None:
        why = "every latent collapsed onto the prior: any larger beta would have done the same"
        return [Metric.undefined(SPECS[id], why, n=n) for id in (*ids, "beta.consistency")]
    found = (estimate.stein, estimate.gauss_newton, estimate.means, estimate.row_shift)
    return [
        *(_estimated(id, e, n) for id, e in zip(ids, found, strict=True)),
        _consistency(estimate, n),
    ]


def _estimated(id: str, e: PooledEstimate, n: int) -> Metric:
    from vaeprobe.intervals import LEVEL

    if not all(map(math.isfinite, (e.value, *e.ci))):
        return Metric.undefined(SPECS[id], "the posterior means of the active latents are 0", n=n)
    if id == "beta.mean_identity" and e.value <= 0:
        return Metric.undefined(SPECS[id], f"the means ask for {e.value:.3g}, which is no beta", n=n)
    return Metric(SPECS[id], e.value, ci=e.ci, level=LEVEL, n=n, method="Student's t over rows and latents")


def _consistency(estimate: BetaEstimate, n: int) -> Metric:
    from vaeprobe.intervals import LEVEL

    if estimate.agreement is None:
        return Metric.undefined(SPECS["beta.consistency"], "one active latent agrees with itself", n=n)
    spread, (low, high) = estimate.agreement.spread, estimate.agreement.ci
    if not all(map(math.isfinite, (spread, low, high))):
        why = "the likelihood has no curvature where the encoder puts its posteriors"
        return Metric.undefined(SPECS["beta.consistency"], why, n=n)
    if not estimate.clear:
        why = "beta itself is not clear of 0, and what the latents' own are divided by is beta"
        return Metric.undefined(SPECS["beta.consistency"], why, n=n)
    return Metric(
        SPECS["beta.consistency"],
        1 / (1 + spread),
        ci=(1 / (1 + high), 1 / (1 + low)),
        level=LEVEL,
        n=n,
        method="random effects over latents, bootstrap over rows",
    )


def variance_metrics(evidence: EncoderEvidence, beta: float | None, residual: Metric) -> list[Metric]:
    """Return sigma^2 for a given beta beside the residual variance, where the likelihood has a variance.

    Args:
        residual: `beta.residual_variance`, from `residual_variances`.
    """
    from vaeprobe.intervals import LEVEL

    n, sigma2, estimate = evidence.moments.rows, evidence.likelihood.free_variance, evidence.estimate
    if sigma2 is None:
        return []
    if estimate is None:
        return [Metric.undefined(SPECS["beta.sigma2"], "every latent collapsed", n=n), residual]
    if beta is None:
        why = "only the product beta sigma^2 shows: give --beta"
        return [Metric.undefined(SPECS["beta.sigma2"], why, n=n), residual]
    scale = sigma2 / beta
    low, high = estimate.stein.ci
    value = Metric(
        SPECS["beta.sigma2"],
        estimate.stein.value * scale,
        ci=(low * scale, high * scale),
        level=LEVEL,
        n=n,
        method=f"at beta = {beta:g}",
    )
    return [value, residual]


def supported(evidence: EncoderEvidence) -> Metric:
    """Return how many of the data's own directions lie above the collapse at this beta."""
    from vaeprobe.inference.collapse import supported_directions

    id, n, m = "latents.active.supported", len(evidence.available), evidence.x[0].numel()
    if evidence.likelihood.no_edges:
        return Metric.undefined(SPECS[id], evidence.likelihood.no_edges, n=n)
    if m != evidence.outputs:
        return Metric.undefined(SPECS[id], "not computed for labels that the encoder takes as they are", n=n)
    if m > MOST_OUTPUTS:
        return Metric.undefined(SPECS[id], f"not computed for more than {MOST_OUTPUTS} outputs", n=n)
    if n < 5 * m:
        return Metric.undefined(SPECS[id], f"{n} rows do not tell the covariance of {m} outputs", n=n)
    if evidence.estimate is None:
        return Metric.undefined(SPECS[id], "beta is not known: every latent collapsed", n=n)
    if evidence.estimate.stein.ci[0] <= 0:
        return Metric.undefined(SPECS[id], "beta is not distinguishable from 0", n=n)
    edges = supported_directions(evidence.available, evidence.likelihood)
    return Metric(SPECS[id], int((edges > evidence.estimate.stein.value).sum()), n=n, method="linear theory")
