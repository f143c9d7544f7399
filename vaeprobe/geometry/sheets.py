"""Is a decoder one-to-one? A search for other latents with the same output: other sheets of its image.

Every statement about the density of outputs that reads one Jacobian presupposes that f is one-to-one.  Where it
is not, `p(x) = sum over z' in f^-1(x) of p(z') / sqrt(det G(z'))`, and each other sheet adds its term.  A sheet is
sought from latents whose outputs lie much nearer to x than the Jacobian at z predicts, and polished by damped
Gauss-Newton steps on |f(z') - x|^2.  Where one other sheet is found, the latents that continue the row of them
are tried too, since periodic coordinates have many.

Only active latents move: the others, and one-hot codes, keep their values.  A search that finds nothing bounds the
share of latents with a sheet that it would have found; it is no proof.

Source: the area formula (Federer 1969, 3.2.3), for maps that are not injective.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.decoder import Decoder
from vaeprobe.engine.verbs import gram, pushforward, values
from vaeprobe.geometry.gram import log_det
from vaeprobe.latents import Prior
from vaeprobe.likelihoods import Likelihood
from vaeprobe.progress import track

__all__ = ["COUNTS", "Sheets", "find_sheets"]

# Another sheet counts where it adds more than this to the density.
COUNTS = 0.01
# Latents whose outputs are compared with those probed: many where they can be dense.
POOL, DENSE_POOL, DENSE = 256, 2048, 4
# Starts at each latent (likewise), Gauss-Newton steps of each, rounds of starts that continue what was found.
STARTS, DENSE_STARTS, STEPS, ROUNDS = 2, 4, 25, 3
# Steps after which a start is given up, and the share of its first residual that it may have left by then.
HOPE = ((10, 0.02), (4, 0.3), (2, 0.6), (0, 1.0))
# What may be left of the difference of outputs, as a share of what either Jacobian predicts.
CLOSE = 1e-2
# Places between two latents of one output at which the output must differ, irregular so that no period hides it.
BETWEEN = (cpu.arange(1, 17, dtype=torch.float64) * (math.sqrt(5) - 1) / 2) % 1
# Numbers held at a time.
NUMBERS = 1 << 23
# Longest step, in standard deviations of the prior; weight under which a sheet is not looked for.
LONGEST, LIGHTEST = 1.0, 1e-4

Outputs = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Sheets:
    """What a search for other sheets found.

    Attributes:
        others: log of (p(x) over all sheets found / p(x) of the latent's own sheet), in nats, shape (m,).
        count: other sheets found at each, shape (m,).
        example: a latent and the other one with the same output that adds most; None where none was found.
    """

    others: Tensor
    count: Tensor
    example: tuple[Tensor, Tensor] | None

    @property
    def shared(self) -> Tensor:
        """Where other sheets add more than `COUNTS` to the density, shape (m,), bool."""
        return self.others > math.log1p(COUNTS)


def find_sheets(
    decoder: Decoder,
    z: Tensor,
    latents: list[int],
    *,
    G: Tensor | None = None,
    likelihood: Likelihood | None = None,
    seed: int = 0,
) -> Sheets:
    """Look for other latents with the same output.

    Args:
        z: latents to probe, shape (m, latent), at which J has full column rank.
        latents: the a active latents, as indices of z's columns.
        G: the metric over them at z, shape (m, a, a), where it is known.

    Returns:
        others and counts for every row of z.
    """
    natural = decoder.natural_for(likelihood)
    a, m = len(latents), len(z)
    places = cpu.tensor([decoder.continuous.index(i) for i in latents])

    def outputs(w: Tensor) -> Tensor:
        """Return f, float64 on the CPU."""
        return values(decoder, w, natural=natural).double().cpu()

    def metric(w: Tensor) -> Tensor:
        return gram(decoder, w, likelihood=likelihood)[:, places][:, :, places]

    x = outputs(z)
    G = metric(z) if G is None else G
    pool = Prior(purpose="sheets").draw(decoder, DENSE_POOL if a <= DENSE else POOL, seed=seed)
    there = outputs(pool)
    size = (there - there.mean(0)).square().sum(1).mean().sqrt()
    rounding = float(torch.finfo(decoder.dtype or torch.float64).eps)
    tolerance = max(300 * rounding, 1e-10) * (size + x.norm(dim=1))

    euclidean = G if likelihood is None else gram(decoder, z)[:, places][:, :, places]
    start, owner = _starts(z, x, euclidean, latents, pool, there, outputs)
    found: list[list[Tensor]] = [[] for _ in range(m)]
    for _ in track(range(ROUNDS), "sheets"):
        if not len(start):
            break
        end, reached = _polish(
            decoder, start, x[owner], tolerance[owner], z[owner], euclidean[owner], latents, natural, outputs
        )
        fresh = []
        for w, p in zip(end[reached], owner[reached].tolist(), strict=True):
            known = torch.stack([z[p], *found[p]])
            if float((w - known).norm(dim=1).min()) <= 1e-3 * (1 + float(w.norm())):
                continue
            if _apart(w, known, x[p], float(tolerance[p]), outputs):
                found[p].append(w)
                fresh.append(p)
        start, owner = _continued(z, found, sorted(set(fresh)))

    others, count = cpu.zeros(m, dtype=torch.float64), cpu.tensor([len(f) for f in found])
    own_weight = -z[:, latents].square().sum(1) / 2 - log_det(G) / 2
    example = None
    if count.any():
        twins = torch.stack([w for f in found for w in f])
        owner = torch.repeat_interleave(cpu.arange(m), count)
        weight = -twins[:, latents].square().sum(1) / 2 - log_det(metric(twins)) / 2
        relative = weight - own_weight[owner]
        # where J is singular at the other latent, the sheet has a fold and no density to add
        relative = torch.where(torch.isfinite(relative), relative, -torch.inf)
        added = cpu.zeros(m, dtype=torch.float64).index_add_(0, owner, relative.exp())
        others = added.log1p()
        best = int(relative.argmax())
        example = (z[owner[best]], twins[best])
    return Sheets(others=others, count=count, example=example)


def _starts(
    z: Tensor, x: Tensor, G: Tensor, latents: list[int], pool: Tensor, there: Tensor, outputs: Outputs
) -> tuple[Tensor, Tensor]:
    """Return far latents whose outputs are near, for the linear map at z: shape (s, latent), and whose they are.

    Besides the pool, latents that differ from z in one coordinate are tried (reflected, or another's), and -z: in
    many dimensions the pool is nowhere near the other latent.
    """
    a = len(latents)
    flips = z[:, None].repeat(1, 2 * a + 1, 1)
    for k, i in enumerate(latents):
        flips[:, 2 * k, i] = -z[:, i]
        flips[:, 2 * k + 1, i] = pool[cpu.arange(len(z)) % len(pool), i]
    flips[:, -1, latents] = -z[:, latents]
    starts, owners = [], []
    together = max(1, NUMBERS // (x.shape[1] * (2 * a + 1)))
    for p in range(len(z)):
        if p % together == 0:
            flipped = outputs(flips[p : p + together].flatten(0, 1)).view(-1, 2 * a + 1, x.shape[1])
        w, y = torch.cat([pool, flips[p]]), torch.cat([there, flipped[p % together]])
        w = torch.where(_moving(z.shape[1], latents), w, z[p])
        step = (w - z[p])[:, latents]
        predicted = torch.einsum("ni,ij,nj->n", step, G[p], step).clamp_min(0).sqrt()
        ratio = (y - x[p]).norm(dim=1) / predicted.clamp_min(1e-300)
        ratio[predicted <= 0] = torch.inf
        for _ in range(DENSE_STARTS if a <= DENSE else STARTS):
            best = int(ratio.argmin())
            if not math.isfinite(float(ratio[best])):
                break
            starts.append(w[best])
            owners.append(p)
            ratio[(w - w[best]).norm(dim=1) < 0.5] = torch.inf
    if not starts:
        return z[:0], cpu.zeros(0, dtype=torch.long)
    return torch.stack(starts), cpu.tensor(owners)


def _apart(w: Tensor, known: Tensor, x: Tensor, tolerance: float, outputs: Outputs) -> bool:
    """Return whether the output differs from x somewhere between a latent and each of those known, shape (k, latent).

    On a plateau and near a stationary point of f many latents have one output to rounding: they are one sheet.
    """
    between = known[:, None] + BETWEEN[:, None] * (w - known)[:, None]
    away = (outputs(between.flatten(0, 1)) - x).norm(dim=1).view(len(known), -1).amax(1)
    ends = (outputs(torch.cat([w[None], known])) - x).norm(dim=1)
    return bool((away > 3 * torch.maximum(ends[0], ends[1:]) + tolerance / 10).all())


def _moving(width: int, latents: list[int]) -> Tensor:
    moving = cpu.zeros(width, dtype=torch.bool)
    moving[latents] = True
    return moving


def _continued(z: Tensor, found: list[list[Tensor]], owners: list[int]) -> tuple[Tensor, Tensor]:
    """Return latents that continue the rows of those found, away from z and on its other side."""
    starts, whose = [], []
    for p in owners:
        own, twins = z[p], found[p]
        ahead = [2 * w - own for w in twins] + [2 * own - w for w in twins]
        ahead += [w + v - own for k, w in enumerate(twins) for v in twins[:k]]
        heavy = float(own.square().sum()) - 2 * math.log(LIGHTEST)
        known = [own, *twins]
        for w in ahead:
            if float(w.square().sum()) < heavy and min(float((w - k).norm()) for k in known) > 0.1:
                starts.append(w)
                whose.append(p)
                known.append(w)
    if not starts:
        return z[:0], cpu.zeros(0, dtype=torch.long)
    return torch.stack(starts), cpu.tensor(whose)


def _polish(
    decoder: Decoder,
    start: Tensor,
    target: Tensor,
    tolerance: Tensor,
    own: Tensor,
    own_metric: Tensor,
    latents: list[int],
    natural: bool,
    outputs: Outputs,
) -> tuple[Tensor, Tensor]:
    """Follow damped Gauss-Newton steps to f(w) = target; return the ends and which of them arrived elsewhere."""
    n, a = len(start), len(latents)
    basis = cpu.eye(len(decoder.continuous), dtype=torch.float64)
    basis = basis[[decoder.continuous.index(i) for i in latents]]
    end, residual = start.clone(), cpu.full((n,), torch.inf, dtype=torch.float64)
    damping = cpu.full((n,), 1e-3, dtype=torch.float64)
    trial, first = start.clone(), residual.clone()
    G = cpu.zeros(n, a, a, dtype=torch.float64)
    slope = cpu.zeros(n, a, dtype=torch.float64)
    live = cpu.arange(n)
    for step in range(STEPS):
        before = residual.clone()
        rest = target[live] - outputs(trial[live])
        size = rest.norm(dim=1)
        better = size < residual[live]  # false where it is not finite
        damping[live] = torch.where(better, damping[live] / 4, damping[live] * 8).clamp_min(1e-12)
        end[live[better]], residual[live[better]] = trial[live[better]], size[better]
        if step == 0:
            first = residual.clone()
        near = (end - own).norm(dim=1) < 1e-3
        # a start that gains little in its first steps ends in a local minimum
        share = next(share for steps, share in HOPE if step >= steps)
        # one that arrived goes on while that makes it better: its weight is as good as its place
        unfinished = (residual > tolerance) | (residual < 0.5 * before)
        going = torch.isfinite(residual) & unfinished & ~near & (residual <= share * first) & (damping < 1e6)
        # the Jacobian is taken where there is another step to be made, and at the ends
        wanted = better & (going | (residual <= tolerance))[live]
        for some in torch.split(wanted.nonzero().flatten(), max(1, NUMBERS // (decoder.data_dim * (a + 1)))):
            rows = live[some]
            J = pushforward(decoder, end[rows], basis[:, None].expand(a, len(rows), -1), natural=natural)[1]
            J = J.double().cpu()
            G[rows] = torch.einsum("anm,bnm->nab", J, J)
            slope[rows] = torch.einsum("anm,nm->na", J, rest[some])
        live = live[going[live]]
        if not len(live):
            break
        scale = G[live].diagonal(dim1=-2, dim2=-1)
        scale = scale + 1e-12 * scale.amax(1, keepdim=True) + 1e-300
        move = torch.linalg.solve(
            G[live] + torch.diag_embed(damping[live, None] * scale), slope[live, :, None]
        )[..., 0]
        move = move * (LONGEST / move.norm(dim=1, keepdim=True).clamp_min(LONGEST))
        trial[live] = end[live]
        trial[live[:, None], cpu.tensor(latents)] += move
    # where a decoder saturates (blank images) outputs agree to rounding and are not the same: both linear maps must
    # say that the latents are far apart for what is left of the difference
    moved = (end - own)[:, latents]
    apart = [torch.einsum("ni,nij,nj->n", moved, M, moved).clamp_min(0).sqrt() for M in (own_metric, G)]
    same = residual <= torch.minimum(tolerance, CLOSE * torch.minimum(*apart))
    return end, same & (moved.norm(dim=1) >= 1e-3)
