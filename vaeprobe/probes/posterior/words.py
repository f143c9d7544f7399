"""The words of `posterior`: verdict, summary, findings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vaeprobe.findings import BETA_UNKNOWN, LARGE_RESIDUAL, OTHER_VARIANCE
from vaeprobe.probes.with_encoder import EncoderEvidence
from vaeprobe.report import Finding, Metric

if TYPE_CHECKING:
    from vaeprobe.geometry.rotations import Alignment

LARGEST_RESIDUAL = 0.25
SIGNIFICANT = 0.05


def verdict(evidence: EncoderEvidence, found: Alignment | None) -> str:
    """Return mismatched, aligned, not aligned or undecided."""
    if evidence.rounding is not None:
        return "undecided"
    if evidence.reading is not None:
        return "mismatched"
    if found is None or found.p_value is None or found.value is None:
        return "undecided"
    return "aligned" if found.p_value <= SIGNIFICANT and found.value > 0 else "not aligned"


def summary(
    evidence: EncoderEvidence,
    metrics: Mapping[str, Metric],
    found: Alignment | None,
    beta: float,
    *,
    how: str,
    active: int,
) -> str:
    """Return the verdict in sentences.

    Args:
        how: where beta is from: given, estimated or assumed.
    """
    elbo, remainder = metrics["elbo.value"].value, metrics["elbo.remainder"].value
    if evidence.rounding is not None:
        return (
            f"{evidence.place}: {evidence.rounding.why}: the Hessian of the likelihood is not known, and nothing that follows "
            f"from it. The ELBO is {elbo:.4g} nats a row."
        )
    first = (
        f"{evidence.place}: at beta = {beta:.3g} ({how}) {active} of "
        f"{evidence.moments.latents} latents are active; the ELBO is {elbo:.4g} nats a row, of which Eq. 5 drops "
        f"{remainder:.3g}."
    )
    if evidence.reading is not None:
        first = f"The encoder's outputs are probably laid out otherwise: do not trust this. {first}"
    if found is None or found.value is None:
        return f"{first} Whether the averaged Hessian is diagonal cannot be decided."
    aligned = found.p_value is not None and found.p_value <= SIGNIFICANT and found.value > 0
    stands = "diagonal beyond chance" if aligned else "no more diagonal than in a random basis"
    return (
        f"{first} Averaged over each posterior, the likelihood's Hessian is {stands} "
        f"(alignment {found.value:.2f}, p = {found.p_value:.3g})."
    )


def beta_unknown(evidence: EncoderEvidence) -> Finding:
    """Return what to say where beta is neither given nor to be estimated."""
    why = evidence.no_beta or (
        "every latent collapsed" if evidence.estimate is None else "it is not clear of 0"
    )
    return Finding(
        BETA_UNKNOWN,
        f"beta cannot be estimated from this encoder ({why}): 1 is assumed",
        hint="give the trained value: --beta",
    )


def findings(
    evidence: EncoderEvidence, metrics: Mapping[str, Metric], beta: float, *, given: bool
) -> list[Finding]:
    """Return what deserves attention, beside what loading and layout noted."""
    out: list[Finding] = []
    if evidence.rounding is not None:
        return out
    likelihood = evidence.likelihood
    share = metrics["posterior.residual_share"]
    if share.ci is not None and share.ci[0] > LARGEST_RESIDUAL:
        out.append(
            Finding(
                LARGE_RESIDUAL,
                f"the residual term of Eq. 7 holds {share.value:.0%} of the curvature: it is not small here",
                hint=f"read the Stein columns; is the likelihood really {likelihood.name}?",
            )
        )
    sigma2 = likelihood.free_variance
    if sigma2 is not None and not given and not 0.8 < beta < 1.25:
        out.append(
            Finding(
                OTHER_VARIANCE,
                f"at sigma^2 = {sigma2:.4g} the encoder asks for beta = {beta:.4g}: by Theorem 3 it is the "
                f"optimum of the ELBO at sigma^2 = {beta * sigma2:.4g}",
                hint=f"for that ELBO: --sigma2 {beta * sigma2:.4g}",
            )
        )
    return out
