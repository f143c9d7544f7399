"""The numbers of `posterior`: how they follow from the moments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vaeprobe.probes.posterior.metrics import SPECS
from vaeprobe.report import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.geometry.rotations import Alignment
    from vaeprobe.inference.consistency import Consistency
    from vaeprobe.inference.moments import PosteriorMoments

__all__ = [
    "TAIL",
    "alignment_over_beta",
    "consistency",
    "diagonality",
    "hessian_alignment",
    "residual_share",
    "without_largest",
]

# rotations that say how the alignment goes with beta: of a slope one digit is plenty
SLOPE_ROTATIONS = 99
# share of rows, those of the largest gaps, that no interval of a mean can answer for
TAIL = 0.05


def residual_share(m: PosteriorMoments, active: Tensor, seed: int) -> Metric:
    """Return how much of the active latents' curvature Gauss-Newton leaves out."""
    from vaeprobe.inference.identity import absolute_share
    from vaeprobe.intervals import LEVEL

    if not bool(active.any()):
        return Metric.undefined(SPECS["posterior.residual_share"], "every latent collapsed", n=m.rows)
    weight = m.variance[:, active]
    share = absolute_share(
        weight * (m.gauss_newton - m.curvature)[:, active], weight * m.gauss_newton[:, active], seed=seed
    )
    if not all(map(math.isfinite, (share.value, *share.ci))):
        why = "the likelihood has no curvature at the posteriors of some rows or all"
        return Metric.undefined(SPECS["posterior.residual_share"], why, n=m.rows)
    return Metric(
        SPECS["posterior.residual_share"],
        share.value,
        ci=share.ci,
        level=LEVEL,
        n=m.rows,
        method="Gauss-Newton less Bonnet/Stein, bootstrap over rows",
    )


def without_largest(gaps: Tensor) -> Tensor:
    """Return numbers whose mean is that of one gap per row, shape (n,), without the largest 5 %."""
    import torch

    from vaeprobe.intervals import trimmed

    return torch.from_numpy(trimmed(gaps.numpy(), TAIL))


def consistency(found: Consistency | str, n: int) -> list[Metric]:
    """Return the self-consistency of encoder and decoder as metrics."""
    from vaeprobe.intervals import LEVEL

    spec, null = (SPECS[f"posterior.self_consistency{end}"] for end in ("", "_null"))
    if isinstance(found, str):
        return [Metric.undefined(spec, found, n=n), Metric.undefined(null, found, n=n)]
    level = LEVEL if found.ci else None
    how = "one posterior draw a row; ratio of means, interval by the rows' influence"
    return [
        Metric(spec, found.value, ci=found.ci, level=level, n=n, method=how),
        Metric(null, found.null, n=n, method="each row with the codes of the one before"),
    ]


def hessian_alignment(
    m: PosteriorMoments, active: Tensor, beta: float, rotations: int, seed: int
) -> tuple[Alignment | None, str]:
    """Return how the averaged Hessian's axes stand against random rotations, and why not where they do not."""
    import torch

    from vaeprobe import cpu
    from vaeprobe.geometry.rotations import alignment

    k = int(active.sum())
    if k < 2:
        return None, f"{k} active latent{'' if k == 1 else 's'}: nothing to be off the diagonal"
    Lambda = cpu.eye(k, dtype=torch.float64) + m.gram[:, active][:, :, active] / beta
    try:
        found = alignment(Lambda, count=rotations, seed=seed)
    except ValueError:
        return None, "two active latents do the same to the output, to rounding"
    return found, "" if found.value is not None else "the averaged Hessian is diagonal in every basis"


def alignment_over_beta(m: PosteriorMoments, active: Tensor, beta: float, rotations: int, seed: int) -> float:
    """Return the derivative by beta of the averaged Hessian's alignment; 0 where it has none."""
    step, count = 1e-3 * beta, min(rotations, SLOPE_ROTATIONS)
    below, above = (hessian_alignment(m, active, at, count, seed)[0] for at in (beta - step, beta + step))
    if below is None or above is None or below.value is None or above.value is None:
        return 0.0
    return (above.value - below.value) / (2 * step)


def diagonality(
    found: Alignment | None, why_not: str, n: int, rotations: int, by_beta: Tensor | float = 0.0
) -> list[Metric]:
    """Return the alignment of the averaged Hessian and its p-value as metrics.

    Args:
        by_beta: by what each row moves the alignment through a beta that is read off the same rows, times n.
    """
    from vaeprobe.intervals import LEVEL, p_value_interval

    ids = ("posterior.hessian_diagonality", "posterior.hessian_p_value")
    if found is None or found.value is None or found.p_value is None:
        return [Metric.undefined(SPECS[id], why_not, n=n) for id in ids]
    how, ci = f"{rotations} Haar rotations of the active latents", found.interval(by_beta)
    return [
        Metric(SPECS[ids[0]], found.value, ci=ci, level=LEVEL if ci else None, n=n, method=how),
        Metric(
            SPECS[ids[1]],
            found.p_value,
            ci=p_value_interval(found.p_value, rotations),
            level=LEVEL,
            n=n,
            method=how,
        ),
    ]
