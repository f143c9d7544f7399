"""What probes say of columns of the Jacobian that are rounding."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from vaeprobe.findings import ROUNDING
from vaeprobe.report import Finding, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.engine.rounding import Lost
    from vaeprobe.likelihoods import Likelihood

__all__ = ["looking_of", "rounded", "rounding_at", "without"]


def rounded(lost: Lost) -> Finding:
    """Return the finding about such columns, with what to do next."""
    return Finding(ROUNDING, lost.evidence, hint=lost.hint)


def rounding_at(decoder: Decoder, z: Tensor, likelihood: Likelihood | None) -> Lost | None:
    """Return which active columns are rounding at the first latents of z, shape (n, latent); None where none is."""
    from vaeprobe.engine.rounding import LATENTS, lost_columns
    from vaeprobe.engine.verbs import gram
    from vaeprobe.geometry.gram import active_latents

    z = z[:LATENTS]
    natural = decoder.natural_for(likelihood)
    G = gram(decoder, z, likelihood=likelihood)
    if not G.isfinite().all():
        return None
    return lost_columns(decoder, z, active_latents(G).nonzero().flatten().tolist(), natural=natural)


def looking_of(decoder: Decoder, latents: int) -> float:
    """Return how many directions at a latent take as long as `rounding_at` at so many, where no column is found to be lost."""
    from vaeprobe.engine.costs import gram_directions
    from vaeprobe.engine.rounding import LATENTS, directions_of

    return min(latents, LATENTS) * gram_directions(decoder, len(decoder.continuous)) + directions_of(decoder)


def without(metrics: Mapping[str, Metric], why: str | None, ids: Collection[str]) -> dict[str, Metric]:
    """Return the metrics with those of these ids, which follow from the Jacobian, undefined where nothing is known of it."""
    return {
        id: Metric.undefined(m.spec, why, n=m.n) if why is not None and id in ids and m.defined else m
        for id, m in metrics.items()
    }
