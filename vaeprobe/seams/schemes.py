"""How a seam is stepped: which scheme a decoder's smoothness allows, and single steps of each.

- `smooth`: Dormand-Prince 5(4); the difference of its two orders is the error estimate.
- `kinks`: for decoders with constant directions between kinks (linear, ReLU): straight to the next kink, found
  by bisection to within the tolerance; exact in between.
- `rough`: for kinks too many to find one by one (a ReLU network under a sigmoid).  There J^T J changes from point to point
  as a random walk does: on a published decoder its second differences are as large as its first ones at every scale from
  0.002 to 0.1.  So no higher order helps, a step of length h misses what the direction wanders within it, and shorter steps
  meet as many jumps: they are not halved far.  What helps is to carry the metric from one end of a step to the other, not
  the direction: where singular values are close, that turns by right angles, and the metric changes little.  Against steps
  of 0.002 to 0.02 (two published decoders: straightness .41 and .34, axis overlap .52 and .63, spread of log s .24 and .73, for
  141,000 and 23,000 frames), metrics carried over 0.1 gave .44 and .44, .52 and .63, .23 and .72 for 5,100 and 1,100, and
  mean directions over 0.05 gave .48 and .51, .51 and .67, .28 and .78 for 11,200 and 2,000.  Over 0.15 metrics carried
  tell the same for two thirds of the frames: through 8 starts of each of three published decoders (steps of 0.1, then 0.15)
  straightness .47, .41, .55 and .44, .45, .55 (half-widths of their intervals .09, .05, .10), overlap .52, .54, .65 and .54,
  .54, .63, spread .37, .61, .29 and .37, .62, .30; turning falls by a fifth, as with any coarser step.  Over 0.1 paths are off by 0.02
  at arc length 0.25 (0.01 over 0.05) and tell nothing of each other beyond 1.  Turning and crossings grow with resolution without end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.decoder import Decoder
from vaeprobe.engine.verbs import pushforward
from vaeprobe.intervals import stream
from vaeprobe.seams.fields import DirectionField, Directions, between, follow

SchemeName: TypeAlias = Literal["smooth", "kinks", "rough"]

# Kinks per unit of latent length beyond which they are stepped over, not searched one by one.
DENSE_KINKS = 8.0
SEGMENTS, NODES, SPAN = 8, 33, 0.1
LOOKED_AT = 2 * NODES
"""Directions that the texture at one start takes, primals among them."""


@dataclass(frozen=True, slots=True)
class Texture:
    """What the decoder's derivative looks like along short segments.

    Attributes:
        scheme: the scheme that fits.
        kinks: kinks per unit of latent length, where the derivative is constant between them, else None.
        roughness: second over first differences of the derivative, median over segments: far below 1 for a
            smooth map, about 1 where kinks make it change by jumps.
    """

    scheme: SchemeName
    kinks: float | None
    roughness: float


def texture(decoder: Decoder, z: Tensor, *, natural: bool = False) -> Texture:
    """Return how rough a decoder is near some latents, from J w along short segments through them.

    Args:
        z: starting points, shape (n, latent); the first eight are used.
    """
    z = z[:SEGMENTS]
    rng = stream(0, "smoothness")
    k = len(decoder.continuous)
    move, w = (torch.from_numpy(rng.standard_normal((len(z), k))) for _ in range(2))
    move = move / move.norm(dim=1, keepdim=True)
    t = cpu.linspace(-SPAN / 2, SPAN / 2, NODES, dtype=torch.float64)
    points = z[:, None, :].repeat(1, NODES, 1).double()
    points[:, :, decoder.continuous] += t[None, :, None] * move[:, None, :]
    _, Jw = pushforward(decoder, points.flatten(0, 1), w.repeat_interleave(NODES, 0), natural=natural)
    Jw = Jw.double().cpu().reshape(len(z), NODES, -1)
    whole = torch.isfinite(Jw).flatten(1).all(1)
    Jw = Jw[whole]
    scale = Jw.norm(dim=2).amax(1)
    Jw, scale = Jw[scale > 0], scale[scale > 0]
    if not len(Jw):
        return Texture("smooth", None, 0.0)
    first = Jw.diff(dim=1).norm(dim=2) / scale[:, None]
    second = Jw.diff(n=2, dim=1).norm(dim=2) / scale[:, None]
    noise = 100 * float(torch.finfo(decoder.dtype or torch.float32).eps)
    flat = first <= noise
    changes = float((~flat).sum()) / (len(first) * SPAN)
    rms_first, rms_second = first.square().mean(1).sqrt(), second.square().mean(1).sqrt()
    moving = rms_first > noise
    ratio = rms_second[moving] / rms_first[moving]
    roughness = float(ratio.median()) if moving.any() else 0.0
    if flat.double().mean() > 0.5:
        return Texture("kinks" if changes <= DENSE_KINKS else "rough", changes, roughness)
    return Texture("smooth" if roughness < 0.25 else "rough", None, roughness)


@dataclass(frozen=True, slots=True)
class Trial:
    """A step that was tried: where it leads, the directions there, its error, its smallest overlap."""

    z: Tensor
    at: Directions
    error: Tensor
    overlap: Tensor


Move: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Step: TypeAlias = Callable[[DirectionField, Move, Tensor, Directions, Tensor], Trial]


def _aim(field: DirectionField, z: Tensor, last: Directions) -> Directions:
    return follow(field.frame(z, last.frame.warm, last.v), last.v, field.resolution, floor=field.rounding)


# Dormand and Prince (1980): nodes, weights of order 5, difference to those of order 4.
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def _combine(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    return torch.stack([w * k for w, k in zip(weights, slopes, strict=True) if w], 0).sum(0)


def dormand_prince(field: DirectionField, move: Move, z: Tensor, at: Directions, h: Tensor) -> Trial:
    """Step by h (P,) with order 5; the error estimate is that of order 4."""
    slopes, here, overlap = [at.v], at, torch.ones_like(h)
    point = z
    for row in _A:
        point = move(z, h[:, None] * _combine(row, slopes))
        here = _aim(field, point, at)
        overlap = torch.minimum(overlap, torch.where(here.finite, here.overlap, 1.0))
        slopes.append(here.v)
    error = h * _combine(_E, slopes).norm(dim=1)
    return Trial(point, here, error, overlap)


# Where in a step the direction is taken, in metrics between those of both ends: a midpoint rule of three pieces.
BETWEEN = (1 / 6, 1 / 2, 5 / 6)


def interpolated(field: DirectionField, move: Move, z: Tensor, at: Directions, h: Tensor) -> Trial:
    """Step by h (P,) along singular directions of metrics between those of both ends, one evaluation a step.

    The far end is Euler's point, which lies within the error of the step that is made (predict, evaluate, correct);
    the error estimate is that of a straight step.
    """
    ahead = field.frame(move(z, h[:, None] * at.v), at.frame.warm, at.v)
    point, here, overlap = z, at, torch.ones_like(h)
    for share in BETWEEN:
        here = follow(between(at.frame, ahead, share), here.v, field.resolution, floor=field.rounding)
        point = move(point, h[:, None] / len(BETWEEN) * here.v)
        overlap = torch.minimum(overlap, here.overlap)
    here = follow(ahead, here.v, field.resolution, floor=field.rounding)
    error = h * (here.v - at.v).norm(dim=1) / 2
    return Trial(point, here, error, torch.minimum(overlap, here.overlap))


def straight(field: DirectionField, move: Move, z: Tensor, at: Directions, h: Tensor) -> Trial:
    """Step by h (P,) along the present direction; the error is what a kink on the way would cost at most."""
    point = move(z, h[:, None] * at.v)
    here = _aim(field, point, at)
    return Trial(point, here, h * (here.v - at.v).norm(dim=1), torch.ones_like(h))


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way of stepping.

    Attributes:
        step: one trial step.
        order: the error estimate shrinks as h ** order.
        tolerance: default error per step, by the rounding of the decoder's dtype (float64, float32).
        first: first step length.
        statement: how a report calls it.
    """

    name: SchemeName
    step: Step
    order: int
    tolerance: tuple[float, float]
    first: float
    statement: str

    def default_tolerance(self, rounding: float) -> float:
        return self.tolerance[0] if rounding < 1e-12 else self.tolerance[1]

    def shortest(self, tolerance: float) -> float:
        """Return the step length that is not halved any further."""
        return {"smooth": 10 * tolerance, "kinks": tolerance, "rough": 15 * tolerance}[self.name]


SCHEMES: dict[SchemeName, Scheme] = {
    "smooth": Scheme("smooth", dormand_prince, 5, (1e-8, 1e-5), 0.05, "Dormand-Prince 5(4), adaptive"),
    "kinks": Scheme("kinks", straight, 1, (1e-8, 1e-5), 0.05, "straight pieces, kinks by bisection"),
    "rough": Scheme(
        "rough", interpolated, 2, (1e-2, 1e-2), 0.15, "metrics carried over steps of 0.15, across dense kinks"
    ),
}
