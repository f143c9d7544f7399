"""Codes of data without an encoder: the latents whose outputs are nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.engine import pushforward
from vaeprobe.engine.costs import DIRECTION
from vaeprobe.engine.verbs import values
from vaeprobe.latents import Prior

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder

# latents of the prior that a search may start from, the nearest of them that it does start from, and its steps
DRAWN, STARTS, STEPS = 2048, 3, 40
USUAL = 15  # steps that a search takes (measured on four decoders: 8 to 21)
HELD = 1 << 23  # numbers of J and of distances that are held at a time


def nearest_codes(decoder: Decoder, x: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return latents whose outputs are nearest to data, and how far those are.

    Damped Gauss-Newton steps (Levenberg 1944, Marquardt 1963) from the nearest outputs of many latents of the prior;
    a latent that moves no output stays where it starts.

    Args:
        decoder: all of whose latents are continuous.
        x: data, shape (n, m) as flat outputs.
        seed: of the latents.

    Returns:
        codes, shape (n, latent), float64, and distances |f(z) - x|, shape (n,).
    """
    x = x.double()
    z = Prior("nearest").draw(decoder, DRAWN, seed=seed).double().cpu()
    y = values(decoder, z).double().cpu()
    near = torch.cdist(x, y).topk(STARTS, dim=1, largest=False).indices
    ends, far = [], []
    for k in range(STARTS):
        end, distance = _descend(decoder, z[near[:, k]], x)
        ends.append(end)
        far.append(distance)
    best = torch.stack(far).argmin(0)
    rows = cpu.arange(len(x))
    return torch.stack(ends)[best, rows], torch.stack(far)[best, rows]


def directions_of(rows: int, latents: int) -> float:
    """Return how many directions at a latent take as long as a search for so many rows."""
    return DRAWN / DIRECTION + STARTS * USUAL * rows * (1 + latents)


def _descend(decoder: Decoder, start: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    n, d = start.shape
    eye = cpu.eye(d, dtype=torch.float64)
    end, trial = start.clone(), start.clone()
    distance = cpu.full((n,), torch.inf, dtype=torch.float64)
    damping = cpu.full((n,), 1e-3, dtype=torch.float64)
    G, slope = cpu.zeros(n, d, d, dtype=torch.float64), cpu.zeros(n, d, dtype=torch.float64)
    live = cpu.arange(n)
    for _ in range(STEPS):
        moved = cpu.zeros(n, dtype=torch.bool)
        for rows in torch.split(live, max(1, HELD // (x.shape[1] * (d + 1)))):
            y, J = pushforward(decoder, trial[rows], eye[:, None].expand(d, len(rows), -1))
            J, r = J.double().cpu(), x[rows] - y.double().cpu()
            size = r.norm(dim=1)
            better = size < distance[rows]
            moved[rows] = better & ~(size > distance[rows] * (1 - 1e-9))
            damping[rows] = torch.where(better, damping[rows] / 4, damping[rows] * 8).clamp_min(1e-12)
            kept = rows[better]
            end[kept], distance[kept] = trial[kept], size[better]
            G[kept] = torch.einsum("anm,bnm->nab", J[:, better], J[:, better])
            slope[kept] = torch.einsum("anm,nm->na", J[:, better], r[better])
        going = (distance > 1e-12) & (damping < 1e6) & (moved | (damping > 1e-3))
        live = live[going[live]]
        if not len(live):
            break
        scale = G[live].diagonal(dim1=-2, dim2=-1)
        scale = scale + 1e-9 * scale.amax(1, keepdim=True) + 1e-300
        bent = G[live] + torch.diag_embed(damping[live, None] * scale)
        trial[live] = end[live] + torch.linalg.solve(bent, slope[live])
    return end, distance
