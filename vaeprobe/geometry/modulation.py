"""Does the length of a Jacobian column depend on its own latent alone? Differences that keep one latent frozen.

Condition C2 of a density that factorises along the latent axes asks that n_i = ||J_i|| is a function of z_i.
Derivatives of n_i cannot tell on piecewise linear networks, where they vanish almost everywhere; differences
between latents that share z_i can, on every network (the pick-freeze scheme of Sobol' 1993, in the difference
form, whose error is proportional to what it measures).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.engine.dense import dense_gram
from vaeprobe.engine.remembered import recalled
from vaeprobe.engine.verbs import gram, pushforward
from vaeprobe.geometry.gram import column_norms
from vaeprobe.likelihoods import Likelihood

__all__ = [
    "Variation",
    "column_lengths",
    "frozen",
    "frozen_lengths",
    "jacobian_variation",
    "log_ratio",
    "redrawn_lengths",
]

NUMBERS = 1 << 23
"""Output numbers, and numbers of latents, held at a time."""


def column_lengths(G: Tensor, R: Tensor) -> Tensor:
    """Return the lengths of the columns J r_i, shape (n, a), for directions R, shape (k, a)."""
    return column_norms(R.T @ G @ R)


def frozen(decoder: Decoder, z: Tensor, partner: Tensor, direction: Tensor) -> Tensor:
    """Return `partner` with the coordinate along a direction taken from `z`: all else is redrawn.

    Args:
        z, partner: latents, shape (n, latent); one-hot codes come from the partner.
        direction: unit vector over the continuous latents, shape (k,).
    """
    free = decoder.continuous
    out = partner.clone()
    coordinate = (z[:, free] - partner[:, free]) @ direction
    out[:, free] += coordinate[:, None] * direction
    return out


def frozen_lengths(
    decoder: Decoder,
    z: Tensor,
    partner: Tensor,
    R: Tensor,
    *,
    likelihood: Likelihood | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Return ||J r_i|| where the i-th coordinate is that of z and all else that of the partner, shape (n, a).

    One Jacobian-vector product per latent and direction.

    Args:
        R: orthonormal directions as columns, shape (k, a).
    """
    if bool((R.count_nonzero(dim=0) == 1).all()):
        return _axis_lengths(decoder, z, partner, R, likelihood, chunk)
    natural = decoder.natural_for(likelihood)
    columns = []
    for r in R.T:
        lengths = []
        x = frozen(decoder, z, partner, r)
        for rows in torch.split(x, _rows(decoder, chunk)):
            y, moved = pushforward(decoder, rows, r.expand(len(rows), -1), natural=natural)
            moved = moved.double()
            if likelihood is not None:
                moved = likelihood.whitened(moved, y.double(), decoder.parameter_of(natural))
            lengths.append(moved.norm(dim=1).cpu())
        columns.append(torch.cat(lengths))
    return torch.stack(columns, dim=1)


def _axis_lengths(
    decoder: Decoder,
    z: Tensor,
    partner: Tensor,
    R: Tensor,
    likelihood: Likelihood | None,
    chunk: int | None,
) -> Tensor:
    """Return the same for directions that are axes: one number of a Gram matrix each, which needs no output."""
    lengths = []
    for some in torch.split(R.T, max(1, NUMBERS // max(1, z.numel()))):
        x = torch.cat([frozen(decoder, z, partner, r) for r in some])
        columns = some.abs().argmax(1).repeat_interleave(len(z))[:, None]
        G = gram(decoder, x, likelihood=likelihood, columns=columns, chunk=chunk)
        lengths.append(G[:, 0, 0].clamp_min(0).sqrt().reshape(len(some), len(z)))
    return torch.cat(lengths).T


def redrawn_lengths(
    decoder: Decoder,
    z: Tensor,
    partner: Tensor,
    R: Tensor,
    *,
    likelihood: Likelihood | None = None,
    chunk: int | None = None,
) -> Iterator[Tensor]:
    """Yield, for each direction j, all ||J r_i|| at z with its j-th coordinate alone redrawn, shape (n, a)."""
    moving = R.any(1).nonzero().flatten()
    columns = moving.expand(len(z), -1) if len(moving) < len(R) else None
    for r in R.T:
        x = frozen(decoder, partner, z, r)
        yield column_lengths(gram(decoder, x, likelihood=likelihood, columns=columns, chunk=chunk), R[moving])


def log_ratio(first: Tensor, second: Tensor, floor: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Return log(first / second), 0 where a length is not above the floor, and where both are above it."""
    alive = (first > floor) & (second > floor)
    one = torch.ones_like(first)
    return torch.where(alive, first, one).log() - torch.where(alive, second, one).log(), alive


@dataclass(frozen=True, eq=False)
class Variation:
    """How much each column J r_i varies between latents and their partners.

    Attributes:
        changes: ||J r_i(z) - J r_i(z')||^2 / 2, shape (n, a), float64.
        sizes: the mean of the two squares, likewise; the ratio of their means is the share of E ||J r_i||^2 that is
            variance: 0 iff the column is constant, 1 where its mean is 0.
        G: the metric over the directions at z, shape (n, a, a), float64.
    """

    changes: Tensor
    sizes: Tensor
    G: Tensor


def jacobian_variation(
    decoder: Decoder,
    z: Tensor,
    partner: Tensor,
    R: Tensor,
    *,
    likelihood: Likelihood | None = None,
    chunk: int | None = None,
) -> Variation:
    """Return how much the Jacobian varies, and the metric that the Jacobians at z give by the way.

    Args:
        z, partner: independent latents, shape (n, latent).
        R: directions as columns, shape (k, a).
        likelihood: whose metric it is, and on whose parameter's Jacobian the columns are taken.
    """
    found = recalled(
        ("variation", decoder, likelihood, R.shape, R.numpy().tobytes()),
        [z, partner],
        lambda at: _variation(decoder, z[at], partner[at], R, likelihood, chunk),
    )
    return Variation(*found)


def _variation(
    decoder: Decoder, z: Tensor, partner: Tensor, R: Tensor, likelihood: Likelihood | None, chunk: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    natural = decoder.natural_for(likelihood)
    changes, sizes, metrics = [], [], []
    # all directions at once share the primal
    rows = max(1, _rows(decoder, chunk) // R.shape[1])
    for x, x_ in zip(torch.split(z, rows), torch.split(partner, rows), strict=True):
        v = R.T[:, None].expand(-1, len(x), -1)
        y, moved = pushforward(decoder, x, v, natural=natural)
        J, J_ = moved.double(), pushforward(decoder, x_, v, natural=natural)[1].double()
        changes.append((J - J_).square().sum(2).T.cpu() / 2)
        sizes.append((J.square().sum(2) + J_.square().sum(2)).T.cpu() / 2)
        if likelihood is not None:
            J = likelihood.whitened(J, y.double(), decoder.parameter_of(natural))
        metrics.append(dense_gram(J, None).cpu())
    return torch.cat(changes), torch.cat(sizes), torch.cat(metrics)


def _rows(decoder: Decoder, chunk: int | None) -> int:
    return chunk or max(1, min(512, NUMBERS // decoder.data_dim))
