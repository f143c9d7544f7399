"""From a decoder and starting points to the seams through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.decoder import Decoder
from vaeprobe.errors import UsageError
from vaeprobe.likelihoods import Likelihood
from vaeprobe.prior import LearnedPrior
from vaeprobe.seams.events import refined, seam_of
from vaeprobe.seams.fields import (
    DenseField,
    DirectionField,
    Directions,
    Frame,
    IterativeField,
    follow,
    nearest_axes,
    rounding,
)
from vaeprobe.seams.integration import Integration, Limits
from vaeprobe.seams.paths import Paths
from vaeprobe.seams.schemes import SCHEMES, SchemeName, texture

__all__ = ["prior_radius", "trace_paths"]


Way: TypeAlias = Literal["both", "forward", "backward"]
# Latents beyond which leading singular vectors are found by iteration, if few are asked for.
LARGE = 64
# Latent arc length per direction by default.
LENGTH = 3.0


def trace_paths(
    decoder: Decoder,
    z0: Tensor,
    *,
    components: Sequence[int] | None = None,
    along: Tensor | None = None,
    leading: int | None = None,
    way: Way = "both",
    length: float | Tensor | None = None,
    radius: float | None = None,
    tolerance: float | None = None,
    scheme: SchemeName | None = None,
    method: Literal["dense", "iterative"] | None = None,
    likelihood: Likelihood | None = None,
    steps: int = 4000,
    chunk: int | None = None,
) -> Paths:
    """Return the seams through some latents: dz/dt = v_i(z) at unit speed, both ways, all at once.

    v_i is followed by continuity: at each step the singular vector of largest overlap with the last
    direction, through crossings of singular values and through stretches where they coincide.

    Args:
        decoder: the map; one-hot latents are held fixed.
        z0: starting points, shape (n, latent).
        components: places of the singular values at the start, 0 the largest; all by default.
        along: instead of components, one direction per start, shape (n, k): the seam nearest to it.
        leading: with `along`, how many leading singular vectors hold those seams: iteration seeks no more; all by default.
        way: along the singular vector (its largest entry positive, or the side of `along`), against, or both.
        length: latent arc length per direction, one number or one per start (n,); by default `LENGTH`, three
            standard deviations of the prior as in a traversal of one latent, so that decoders of any number of
            latents compare; a full turn at the radius for two latents, whose seams may be closed.
        radius: latent radius |z| at which a seam stops; by default that of 99 % of the prior's mass, or 1
            beyond the start where that is further out.
        tolerance: error per step in latent units; the global error is proportional to it.  By default that
            of the scheme: 1e-8 in float64, 1e-5 in float32, 1e-2 across dense kinks.
        scheme: how to step; by default what the decoder's texture near the starts allows.
        method: by default dense, and iterative for few components of more than 64 latents.
        likelihood: weight the Jacobian by its metric (Eq. 7).
        steps: most trial steps per half-seam.
        chunk: latents per block of the Jacobian engine.

    Raises:
        UsageError: z0, components or along do not fit the decoder, or an option is out of range.

    Source: Allen (2024), arXiv:2410.22559v1, Section 4.1.3 and footnote 5.
    """
    z0 = _starts(decoder, z0)
    coordinates = cpu.tensor(decoder.continuous)
    k = len(coordinates)
    chosen = _components(components, k, along is not None)
    _positive(radius=radius, tolerance=tolerance)
    norms = z0[:, coordinates].norm(dim=1)
    prior = prior_radius(k)
    radii = (norms + 1).clamp_min(prior) if radius is None else torch.full_like(norms, radius)
    radius = prior if radius is None else float(radius)
    natural = decoder.natural_for(likelihood)
    how = SCHEMES[scheme or texture(decoder, z0, natural=natural).scheme]
    if length is None:
        length = 2 * np.pi * radius if k == 2 else LENGTH
    lengths = cpu.as_tensor(length).double().expand(len(z0))
    _positive(length=float(lengths.min()))

    field: DirectionField
    block = leading if leading is not None and along is not None else max(chosen) + 1
    if method is None:
        method = "iterative" if k > LARGE and 16 * (block + 2) < k and along is None else "dense"
    tolerance = how.default_tolerance(rounding(decoder)) if tolerance is None else float(tolerance)
    if method == "dense":
        field = DenseField(decoder, likelihood, chunk)
    else:
        field = IterativeField(decoder, block, likelihood, accuracy=0.1 * tolerance)

    def move(z: Tensor, step: Tensor) -> Tensor:
        moved = z.clone()
        moved[:, coordinates] += step
        return moved

    frame = field.frame(z0)
    V = nearest_axes(frame, field.resolution, field.rounding)
    headings, rows, labels = [], [], []
    for n in range(len(z0)):
        for c in chosen if along is None else [0]:
            headings.append(V[n, :, c] if along is None else _unit(along[n].double()))
            rows.append(n)
            labels.append(c)
    row = cpu.tensor(rows)
    heading = torch.stack(headings)
    signs = {"both": (-1.0, 1.0), "forward": (1.0,), "backward": (-1.0,)}[way]
    aims = [_aimed(frame, sign * heading, row, field) for sign in signs]
    if along is not None:
        labels = aims[0].rank.tolist()
    tracks = Integration(
        field,
        move,
        coordinates,
        z0[row].repeat(len(signs), 1),
        Directions.cat(aims),
        how,
        Limits(length=lengths[row].repeat(len(signs)), radius=radii[row].repeat(len(signs)), steps=steps),
        tolerance,
    ).tracks()
    sides = [tracks[i * len(rows) : (i + 1) * len(rows)] for i in range(len(signs))]
    seams = []
    for i, (n, c) in enumerate(zip(rows, labels, strict=True)):
        backward = sides[0][i] if way != "forward" else None
        forward = sides[-1][i] if way != "backward" else None
        seams.append(replace(seam_of(n, c, backward, forward, coordinates), prior=_prior_of(decoder)))
    if how.name != "rough":
        seams = refined(seams, field)
    return Paths(
        seams=tuple(seams),
        starts=z0,
        components=tuple(chosen),
        scheme=how.name,
        statement=how.statement,
        tolerance=tolerance,
        radius=radius,
        length=float(lengths.max()),
        method=method,
        evaluations=field.evaluations,
        resolution=field.resolution,
        coordinates=coordinates,
    )


def _starts(decoder: Decoder, z0: Tensor) -> Tensor:
    z0 = cpu.as_tensor(z0)
    if z0.ndim == 1:
        z0 = z0[None]
    if z0.ndim != 2 or z0.shape[1] != decoder.latent_dim or not len(z0):
        raise UsageError(
            f"the starting points have shape {tuple(z0.shape)}, the decoder takes (n, {decoder.latent_dim})",
            hint="one row per starting point, one column per latent",
        )
    z0 = z0.detach().double().cpu()
    if not torch.isfinite(z0).all():
        raise UsageError("a starting point holds NaN or infinity")
    return z0


def _components(components: Sequence[int] | None, k: int, directed: bool) -> list[int]:
    if directed and components is not None:
        raise UsageError("`components` and `along` exclude each other", hint="leave one of them out")
    chosen = list(range(k)) if components is None else [int(c) for c in components]
    wrong = [c for c in chosen if not 0 <= c < k]
    if wrong or not chosen:
        raise UsageError(
            f"component {wrong[0]} does not exist" if wrong else "no component was asked for",
            hint=f"components are numbered 0 to {k - 1}, by descending singular value",
        )
    if len(set(chosen)) < len(chosen):
        raise UsageError("a component is named twice", hint="name each once, e.g. 0,1,2")
    return chosen


def _positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (np.isfinite(value) and value > 0):
            raise UsageError(f"`{name}` must be a positive number, not {value}")


def _unit(v: Tensor) -> Tensor:
    unit: Tensor = v / v.norm().clamp_min(1e-300)
    return unit


def _aimed(frame: Frame, heading: Tensor, row: Tensor, field: DirectionField) -> Directions:
    return follow(frame.at(row), heading, field.resolution, floor=field.rounding)


def _prior_of(decoder: Decoder) -> LearnedPrior | None:
    """Return the prior of the continuous latents, None where it is N(0, I)."""
    if decoder.learned is None:
        return None
    places = {i: place for place, i in enumerate(decoder.gaussian)}
    return decoder.learned.over([places[i] for i in decoder.continuous])


def prior_radius(k: int, mass: float = 0.99) -> float:
    """Return the radius of the ball that holds a share of the mass of N(0, I_k)."""
    low, high = 0.0, float(np.sqrt(k)) + 10.0
    half = cpu.tensor(k / 2, dtype=torch.float64)
    for _ in range(80):
        middle = (low + high) / 2
        inside = float(torch.special.gammainc(half, cpu.tensor(middle**2 / 2, dtype=torch.float64)))
        low, high = (middle, high) if inside < mass else (low, middle)
    return (low + high) / 2
