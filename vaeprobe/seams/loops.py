"""Do pairs of seams form surfaces?  The closure defect of small loops along two seam directions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.decoder import Decoder
from vaeprobe.likelihoods import Likelihood
from vaeprobe.seams.fields import DenseField, follow

__all__ = ["LoopDefects", "closure_defects", "loop_defects"]

Some: TypeAlias = tuple[Tensor, ...]
# (z (P, k), reference directions (P, k) each) -> the field's unit directions (P, k) that continue them
Aim: TypeAlias = Callable[[Tensor, Some], Some]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopDefects:
    """Out-of-surface closure defects, an estimate of the bracket [v_i, v_j] outside span(v_i, v_j).

    Attributes:
        pairs: the pairs (i, j) of components.
        bracket: norm of the out-of-span part per unit of loop area, in 1 / latent length, shape (n, pairs).
        determined: whether both directions are untied at the start, shape (n, pairs); the bracket of tied
            directions means nothing.
        size: side of the loops, latent length.
    """

    pairs: tuple[tuple[int, int], ...]
    bracket: Tensor
    determined: Tensor
    size: float


def closure_defects(aim: Aim, z: Tensor, vi: Tensor, vj: Tensor, size: float) -> Tensor:
    """Return the bracket [v_i, v_j] at P points from loops of side `size`, shape (P, k).

    A loop goes along v_i, along v_j, back along v_i and back along v_j; what is missing to close it is
    size^2 [v_i, v_j].  The mean of the loops on both sides cancels the next order, so the error is O(size^2).

    Args:
        aim: continues reference directions at a new point; unit vectors.
        z: starting points, shape (P, k).
        vi, vj: directions there, shape (P, k).
    """
    total = torch.zeros_like(z)
    for sign in (1.0, -1.0):
        point = z
        along: Some = (vi, vj)
        legs = ((0, 1.0), (1, 1.0), (0, -1.0), (1, -1.0))
        for leg, (which, way) in enumerate(legs):
            h = sign * way * size
            # a midpoint step errs in h^3, which the loop on the other side cancels
            point = point + h * aim(point + h / 2 * along[which], (along[which],))[0]
            # both directions are carried along, so that each leg continues the one before
            if leg + 1 < len(legs):
                along = aim(point, along)
        total = total + (point - z)
    return total / (2 * size**2)


def loop_defects(
    decoder: Decoder,
    z0: Tensor,
    *,
    components: Sequence[int] | None = None,
    size: float = 0.05,
    likelihood: Likelihood | None = None,
    chunk: int | None = None,
) -> LoopDefects:
    """Return how far small loops along pairs of seams fail to close outside their own plane.

    Zero for all pairs iff the seams are the coordinate lines of a (local) coordinate system, which
    independence along curved seams presupposes (Frobenius).  Always zero for two latents.

    Args:
        z0: starting points, shape (n, latent).
        components: the pairs are made of these; all by default.
        size: side of the loops, latent length.

    Raises:
        TimeIsOver: no time is left.
    """
    free = cpu.tensor(decoder.continuous)
    field = DenseField(decoder, likelihood, chunk)
    z0 = z0.double().cpu()
    chosen = list(range(field.k)) if components is None else list(components)
    pairs = tuple(itertools.combinations(chosen, 2))
    frame = field.frame(z0)
    first = cpu.tensor([i for i, _ in pairs], dtype=torch.long)
    second = cpu.tensor([j for _, j in pairs], dtype=torch.long)
    n, count = len(z0), len(pairs)
    rows = cpu.arange(n).repeat_interleave(count)
    i, j = first.repeat(n), second.repeat(n)
    vi, vj = frame.V[rows, :, i], frame.V[rows, :, j]
    base = z0[rows]

    def aim(point: Tensor, last: Some) -> Some:
        z = base.clone()
        z[:, free] = point
        # loops of the pairs (i, j) and (i, k) begin with the same leg
        z, places = torch.unique(z, dim=0, return_inverse=True)
        frame = field.frame(z, last=last[0]).at(places)
        return tuple(follow(frame, v, field.resolution, floor=field.rounding).v for v in last)

    bracket = closure_defects(aim, base[:, free], vi, vj, size)
    for v in (vi, vj):
        bracket = bracket - (bracket * v).sum(1, keepdim=True) * v
    # v_i and v_j are orthogonal, so the two projections are one
    here = frame.at(rows)
    tied = follow(here, vi, field.resolution).tied | follow(here, vj, field.resolution).tied
    determined = here.finite & ~tied & torch.isfinite(bracket).all(1)
    norm = torch.where(determined, bracket.norm(dim=1), 0.0)
    return LoopDefects(
        pairs=pairs, bracket=norm.reshape(n, count), determined=determined.reshape(n, count), size=size
    )
