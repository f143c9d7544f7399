"""Columns of different sites of a map of latents: their angles with those of the next site, where the most is shared."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

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


def cosines_with_the_next_site(
    decoder: Decoder,
    z: Tensor,
    block: ColumnBlock,
    rows: slice = slice(None),
    *,
    likelihood: Likelihood | None,
    seed: int,
) -> Tensor:
    """Return the mean |cos| between the columns of a site and those of a neighbour at some of the latents, shape (n,).

    Pairs with a column of length zero are left out; not a number where none is left.
    """
    size = decoder.latent_shape[1:]
    here = block.columns[: len(z)]
    channels, sites = here.shape[1], math.prod(size)
    there = torch.arange(channels) * sites + next_sites(here[:, 0] % sites, size, seed)[:, None]
    columns = torch.cat([here, there], dim=1)[rows]
    G = gram(decoder, z[rows], likelihood=likelihood, columns=columns)
    C = column_cosines(G)
    alive = C.diagonal(dim1=-2, dim2=-1) > 0
    pairs = alive[:, :channels, None] & alive[:, None, channels:]
    cosine = C[:, :channels, channels:].abs() * pairs
    return cosine.sum((1, 2)) / pairs.sum((1, 2))


def metric(
    decoder: Decoder,
    z: Tensor,
    block: ColumnBlock | None,
    *,
    likelihood: Likelihood | None,
    seed: int,
    asked: bool,
    why: str | None = None,
) -> Metric:
    """Return the mean |cos| between columns of neighbouring sites as a metric.

    Args:
        asked: whether it is to be measured.
        why: why the columns say nothing, None where they do.
    """
    spec = SPECS["orthogonality.neighbour_cosine"]
    if why is not None:
        return Metric.undefined(spec, why)
    if block is None or block.kind != "channels" or not asked:
        return Metric.undefined(spec, "measured with the channels at a site, where latents have space")
    if budget().over:
        return Metric.undefined(spec, NO_TIME)
    parts: list[Tensor] = []

    def measure(rows: slice) -> None:
        parts.append(cosines_with_the_next_site(decoder, z, block, rows, likelihood=likelihood, seed=seed))

    in_time(min(AT, len(z)), measure, share=0.3, first=1)
    found = torch.cat(parts)
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
