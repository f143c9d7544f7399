"""Columns of different sites of a map of latents: their angles with those of the next site, where the most is shared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from vaeprobe import cpu
from vaeprobe.budget import NO_TIME, budget, in_time
from vaeprobe.engine import gram
from vaeprobe.geometry.gram import column_cosines
from vaeprobe.intervals import LEVEL, mean_interval, stream
from vaeprobe.probes.orthogonality.metrics import SPECS
from vaeprobe.report import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.likelihoods import Likelihood
    from vaeprobe.probes.parts import ColumnBlock

# Latents at which a site is held against its neighbour: twice the columns of one site each.
AT = 8


def next_sites(site: Tensor, size: tuple[int, ...], seed: int) -> Tensor:
    """Return, for each site of a map, one that touches it along an axis, drawn at random, shape (n,).

    Args:
        site: flat places, shape (n,).
        size: of the map, without channels; more than one site.
    """
    rng = stream(seed, "neighbours")
    place = np.stack(np.unravel_index(site.numpy(), size), axis=1)
    for row in place:
        axis = rng.choice([i for i, n in enumerate(size) if n > 1])
        step = rng.choice([-1, 1])
        row[axis] += step if 0 <= row[axis] + step < size[axis] else -step
    return torch.from_numpy(np.ravel_multi_index(tuple(place.T), size))


def with_the_next_site(decoder: Decoder, block: ColumnBlock, n: int, seed: int) -> Tensor:
    """Return the columns of a site and those of a neighbour, drawn at random, at n latents, shape (n, 2 channels)."""
    size = decoder.latent_shape[1:]
    here = block.columns[:n]
    sites = math.prod(size)
    next_site = next_sites(here[:, 0] % sites, size, seed)
    return torch.cat([here, cpu.arange(here.shape[1]) * sites + next_site[:, None]], dim=1)


def cosines_of_the_halves(G: Tensor) -> Tensor:
    """Return the mean |cos| between the first and the last half of the columns, shape (n,), of their Gram matrices.

    Pairs with a column of length zero are left out; not a number where none is left.
    """
    half = G.shape[-1] // 2
    C = column_cosines(G)
    alive = C.diagonal(dim1=-2, dim2=-1) > 0
    pairs = alive[:, :half, None] & alive[:, None, half:]
    cosine = C[:, :half, half:].abs() * pairs
    return cosine.sum((1, 2)) / pairs.sum((1, 2))


@dataclass
class Pairs:
    """The columns of a site and of its neighbour at the first latents, and their Gram matrices where these are at hand.

    Attributes:
        columns: shape (n, 2 channels), see `with_the_next_site`.
        G: shape (n, 2 channels, 2 channels).
    """

    columns: Tensor
    G: Tensor | None = None


def metric(
    decoder: Decoder,
    z: Tensor,
    pairs: Pairs | None,
    *,
    likelihood: Likelihood | None,
    why: str | None = None,
) -> Metric:
    """Return the mean |cos| between columns of neighbouring sites as a metric.

    Args:
        pairs: of sites; None where it is not asked for.
        why: why the columns say nothing, None where they do.
    """
    spec = SPECS["orthogonality.neighbour_cosine"]
    if why is not None:
        return Metric.undefined(spec, why)
    if pairs is None:
        return Metric.undefined(spec, "measured with the channels at a site, where latents have space")
    if pairs.G is None and budget().over:
        return Metric.undefined(spec, NO_TIME)
    parts = [] if pairs.G is None else [pairs.G]

    def measure(rows: slice) -> None:
        parts.append(gram(decoder, z[rows], likelihood=likelihood, columns=pairs.columns[rows]))

    if not parts:
        in_time(min(len(pairs.columns), len(z)), measure, share=0.3, first=1)
    found = cosines_of_the_halves(torch.cat(parts))
    found = found[torch.isfinite(found)]
    if not len(found):
        return Metric.undefined(spec, "no column of two neighbouring sites has a length")
    ci = mean_interval(found.numpy(), low=0.0, high=1.0)
    return Metric(
        spec,
        float(found.mean()),
        ci=ci,
        level=LEVEL if ci else None,
        n=len(found),
        method="a random site and a random neighbour at each latent",
    )
