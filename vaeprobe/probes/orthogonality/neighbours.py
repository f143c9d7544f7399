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


def with_the_next_site(decoder: Decoder, block: ColumnBlock, n: int, seed: int) -> Tensor:
    """Return the columns of a site and those of a neighbour, drawn at random, at n latents, shape (n, 2 channels)."""
    size = decoder.latent_shape[1:]
    here = block.columns[:n]
    sites = math.prod(size)
    next_site = next_sites(here[:, 0] % sites, size, seed)
    return torch.cat([here, torch.arange(here.shape[1]) * sites + next_site[:, None]], dim=1)


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


def metric(
    decoder: Decoder,
    z: Tensor,
    block: ColumnBlock | None,
    G: Tensor | None,
    *,
    likelihood: Likelihood | None,
    seed: int,
    asked: bool,
    why: str | None = None,
) -> Metric:
    """Return the mean |cos| between columns of neighbouring sites as a metric.

    Args:
        G: Gram matrices of the columns `with_the_next_site` of the first latents, where they are at hand.
        asked: whether it is to be measured.
        why: why the columns say nothing, None where they do.
    """
    spec = SPECS["orthogonality.neighbour_cosine"]
    if why is not None:
        return Metric.undefined(spec, why)
    if block is None or block.kind != "channels" or not asked:
        return Metric.undefined(spec, "measured with the channels at a site, where latents have space")
    if G is None and budget().over:
        return Metric.undefined(spec, NO_TIME)
    parts = [] if G is None else [G]

    def measure(rows: slice) -> None:
        columns = with_the_next_site(decoder, block, len(z), seed)[rows]
        parts.append(gram(decoder, z[rows], likelihood=likelihood, columns=columns))

    if not parts:
        in_time(min(AT, len(z)), measure, share=0.3, first=1)
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
