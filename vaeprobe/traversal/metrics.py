"""What the numbers of `traverse` mean."""

from __future__ import annotations

from vaeprobe.report import MetricSpec, specs_by_id

METRICS = (
    MetricSpec(
        id="traverse.norm",
        title="length of each latent's Jacobian column",
        range="[0, inf) each",
        formula="sqrt(E |J e_i|^2) over latents of the prior; for a channel, all its places moved together",
        source="Allen (2024), arXiv:2410.22559v1, Section 3",
        meaning="how far the output moves per unit of the latent; 0 for a latent that the decoder ignores",
        misleads="lengths depend on the scale of the outputs; compare latents of one model, not two models",
    ),
    MetricSpec(
        id="traverse.share",
        title="share of the squared lengths",
        range="[0, 1] each",
        formula="E |J e_i|^2 / sum_j E |J e_j|^2",
        source="Allen (2024), arXiv:2410.22559v1, Section 3",
        meaning="how much of what moves in the output is this latent's doing",
        misleads="sums to 1 over the latents, also where their columns overlap",
    ),
)
SPECS = specs_by_id(METRICS)
