"""Do curved seams factorise the density (Section 4.1.3)? The derivatives of the seams, where there are any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vaeprobe.geometry.connection import seam_connection
from vaeprobe.geometry.decisions import Decision, mean_decision
from vaeprobe.geometry.sample import Sample
from vaeprobe.geometry.smoothness import Smoothness, metric_derivatives, smoothness
from vaeprobe.intervals import stream

__all__ = ["Curved", "curved_seams", "segment_smoothness"]

# M, curved C2 and twist count as zero under this share of their terms.
CURVED = 0.01
# Latents for second derivatives.
CURVED_ROWS = 64
# Third-order evaluations of the decoder at most.
THIRD_ORDER = 60_000
# Segments between latents along which smoothness is judged.
SEGMENTS, FEW_SEGMENTS = 16, 4


@dataclass(frozen=True, eq=False)
class Curved:
    """Do curved seams factorise the density (Section 4.1.3)?

    Attributes:
        state: "independent" (case 2), "dependent" (case 1, or seams that form no coordinates), or
            "undetermined".
        why: a clause for the report.
        dependence: size of M relative to its terms; None where it was not computed.
        modulation: size of the curved C2, likewise.
        twist: size of the part of brackets of seams that keeps them from forming coordinates, likewise.
        tied: share of the latents at which some singular values are equal: those seams are tested together.
        rows: latents used.
    """

    state: Literal["independent", "dependent", "undetermined"]
    why: str
    dependence: Decision | None = None
    modulation: Decision | None = None
    twist: Decision | None = None
    tied: float = 0.0
    rows: int = 0


def segment_smoothness(sample: Sample, order: Literal[1, 2]) -> Smoothness:
    """Return how J, or its derivative, changes along segments between the first latents and their partners."""
    a, b = sample.segments(FEW_SEGMENTS if sample.frugal else SEGMENTS)
    rng = stream(sample.seed, "segments")
    u = torch.from_numpy(rng.standard_normal((len(a), sample.R.shape[1]))) @ sample.R.T
    natural = sample.decoder.natural_for(sample.likelihood)
    return smoothness(sample.decoder, a, b, u, natural=natural, order=order)


def curved_seams(sample: Sample, usable: Tensor, smooth: Smoothness) -> Curved:
    """Decide between independent and dependent curved seams, where derivatives can."""
    decoder = sample.decoder
    single = (decoder.dtype or torch.float64) != torch.float64
    a = sample.R.shape[1]
    if smooth.kind in ("unknown", "piecewise linear"):
        return Curved("undetermined", smooth.why)
    if smooth.kind == "kinked" and single:
        return Curved("undetermined", f"{smooth.why}, and derivatives miss what happens there")
    rows = min(CURVED_ROWS, THIRD_ORDER // (a * a * (a + 1) // 2))
    if rows < 4:
        return Curved("undetermined", f"{a} active latents have too many third derivatives")
    chosen = usable.nonzero().flatten()[:rows]
    try:
        z = sample.z[chosen]
        G, dG, ddG = metric_derivatives(decoder, z, sample.places, likelihood=sample.likelihood)
    except (RuntimeError, NotImplementedError):
        return Curved("undetermined", "the decoder has no third derivatives")
    assert ddG is not None
    seams = seam_connection(
        z[:, sample.places], G, dG, ddG, tie=1e-4 if single else 1e-9, rounding=sample.rounding
    )
    clear = torch.isfinite(seams.mixed).flatten(1).all(1) & (seams.noise < CURVED / 10)
    if 4 * int(clear.sum()) < len(chosen) or int(clear.sum()) < 4:
        cure = "; float64 would tell more (--dtype float64)" if single else ""
        return Curved(
            "undetermined",
            f"singular values are too close for the rounding at {int((~clear).sum())} of {len(chosen)} latents{cure}",
        )
    if seams.same.all():
        return Curved("undetermined", "all singular values are equal, and no seam is identified")

    def share(part: Tensor, scale: Tensor) -> Decision:
        """Hold the size of a defect against its terms, and against the prior's own curvature, 1."""
        relative = part[clear].flatten(1).norm(dim=1) / (1 + scale[clear].flatten(1).norm(dim=1))
        return mean_decision(relative, CURVED)

    # without symmetry M is no mixed derivative: seams that form no coordinates show in the twist
    dependence = share(seams.mixed, seams.mixed_scale)
    modulation = share(seams.modulation, seams.modulation_scale)
    twist = share(seams.twist, seams.bending)
    numbers = {"dependence": dependence, "modulation": modulation, "twist": twist}
    untied = seams.same.sum((1, 2)) == a
    facts = {"tied": 1 - float(untied[clear].double().mean()), "rows": int(clear.sum())}

    def verdict(state: Literal["independent", "dependent", "undetermined"], why: str) -> Curved:
        return Curved(state, why, **numbers, **facts)  # type: ignore[arg-type]

    if twist.zero is False:
        return verdict("dependent", "the seams form no coordinates: brackets of seams leave their span")
    if dependence.zero is False:
        return verdict("dependent", "the density along the seams does not factorise: M is not 0")
    if modulation.zero is False:
        return verdict("dependent", "the density factor of a seam changes along other seams")
    still_open = [name for name, decision in numbers.items() if decision.zero is None]
    if still_open:
        return verdict(
            "undetermined", f"{facts['rows']} latents leave open: {', '.join(still_open)} of the seams"
        )
    if not smooth.smooth:
        return verdict("undetermined", f"{smooth.why}, and derivatives miss what happens there")
    twice = segment_smoothness(sample, 2)
    if not twice.smooth:
        return verdict("undetermined", f"{twice.why}, and derivatives miss what happens there")
    return verdict("independent", "M, the curved C2 and the twist of the seams are 0")
