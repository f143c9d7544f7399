"""Claims about the density of push-forwards, on maps whose density is known (Section 4.1, Theorem 2)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.geometry.sensitivity import FAMILIES, sensitivity
from vaeprobe.probes.factorise import Factorise, FactoriseResult
from vaeprobe.report import Metric

from paper.claim import Claim, Effort, Evidence, Part

INDEPENDENT = 1e-4  # nats of dependence that count as none


def measured(f: Callable[[Tensor], Tensor], effort: Effort, *, sheets: int = 0) -> FactoriseResult:
    """Return what `factorise` says of a map of two latents."""
    decoder = Decoder(f, 2, dtype=torch.float64)
    probe = Factorise(
        samples=4 * effort.samples, max_samples=16 * effort.samples, sheets=sheets, permutations=99, seed=0
    )
    found = probe.measure(decoder)
    assert isinstance(found, FactoriseResult)
    return found


def polar(z: Tensor) -> Tensor:
    """exp(z_0) (cos k z_1, sin k z_1), k = 1.7: orthogonal columns, both of length proportional to exp(z_0)."""
    return z[:, :1].exp() * torch.stack([(1.7 * z[:, 1]).cos(), (1.7 * z[:, 1]).sin()], 1)


def sinh(z: Tensor) -> Tensor:
    """(1.5 sinh z_0, 0.6 sinh 1.5 z_1): orthogonal columns, each of a length that depends on its own latent."""
    return torch.stack([1.5 * z[:, 0].sinh(), 0.6 * (1.5 * z[:, 1]).sinh()], 1)


def rolled(amplitude: float) -> Callable[[Tensor], Tensor]:
    """Return (cos p, sin p, q), p and q the sum and difference of sinhs: a plane rolled up.

    C1 and C2 hold at every z; rolled far enough, the plane meets itself.
    """

    def f(z: Tensor) -> Tensor:
        u = amplitude * torch.stack([5 * (0.3 * z[:, 0]).sinh(), 1.4 * (0.5 * z[:, 1]).sinh()], 1)
        p, q = (u[:, 1] + u[:, 0]) / 2**0.5, (u[:, 1] - u[:, 0]) / 2**0.5
        return torch.stack([p.cos(), p.sin(), q], 1)

    return f


def part(what: str, metric: Metric, limit: float, side: str = "under") -> Part:
    """Return a metric of a probe as a part."""
    assert isinstance(metric.value, float)
    return Part(what, metric.value, metric.ci, "under" if side == "under" else "over", limit)


def theorem2(effort: Effort) -> Evidence:
    """Orthogonal columns alone: polar coordinates; with C2: sinh along the axes.

    Independent factors have dependence 0, which is inside every interval: what is held is that the length of each
    column depends on its own latent alone, to which the interval of the largest cross is an upper bound.
    """
    along, apart = measured(polar, effort), measured(sinh, effort)
    return Evidence(
        part("dependence of the factors, nats, C1 alone", along.dependence, 0.01),
        part("with C2 as well", apart.dependence, 0.01),
        beside=(
            part("gap where C1 alone holds, nats", along.gap, INDEPENDENT),
            part("largest cross there", along.modulation, 0.01, "over"),
        ),
    )


def injective(effort: Effort) -> Evidence:
    """The gap summed over all latents of one output, where C1 and C2 hold at every z."""
    sheets = effort.samples
    return Evidence(
        part(
            "log p - sum log p_i, nats, plane rolled over itself",
            measured(rolled(3.0), effort, sheets=sheets).true_gap,
            0.1,
        ),
        part("the same, one-to-one", measured(sinh, effort, sheets=sheets).true_gap, 0.1),
    )


def small_violations(effort: Effort) -> Evidence:
    """How fast the dependence of seam factors vanishes with the violation, on families in closed form."""
    worst, beside = 0.0, []
    for family in FAMILIES:
        law = sensitivity(family, (0.02, 0.1, 0.5))
        price = np.array(law.dependence) / np.maximum(law.gap, np.square(law.cross))
        worst = max(worst, float(price[0]))
        beside.append(
            Part(f"the same, violation 25 times as large, {family}", float(price[-1]), None, "under", 1.0)
        )
    what = "nats of dependence per nat of gap or cross^2, small violation, worst family"
    return Evidence(Part(what, worst, None, "under", 0.1), beside=tuple(beside))


CLAIMS = (
    Claim(
        name="theorem2",
        statement="Orthogonal columns make the seam factors independent; with C2, lengths that depend on the own latent alone.",
        equation="Theorem 2",
        measure=theorem2,
        note="v6 and v7 state C2; polar coordinates against sinh along the axes",
    ),
    Claim(
        name="injective",
        statement="The density is the product of its seam factors where C1 and C2 hold; and the map is one-to-one (A#2).",
        equation="Theorem 2, A#2",
        measure=injective,
        note="a rolled plane, on which C1 and C2 hold at every latent; 0.662 nats in closed form",
    ),
    Claim(
        name="small-violations",
        statement="Small violations of C1 and C2 cost little: dependence is at most of the order of gap and cross squared.",
        equation="Theorem 2",
        measure=small_violations,
        note="three families in closed form, see the curve of `sensitivity`",
    ),
)
