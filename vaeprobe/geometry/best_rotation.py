"""The rotation of the latent space that makes the columns of the Jacobian most orthogonal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.budget import budget
from vaeprobe.geometry.axes import nearest_order
from vaeprobe.geometry.gram import ima_contrast
from vaeprobe.geometry.rotations import haar, rotated_contrast
from vaeprobe.geometry.threads import one_thread_below
from vaeprobe.kept import kept, signature
from vaeprobe.progress import tell

__all__ = ["RotationFit", "joint_diagonalise"]

# Jacobi sweeps before descent: they leave poor basins, descent then is far faster.
SWEEPS = 1
# Axes up to which that is done: a sweep takes k rounds, each as long as a step of descent.
SWEPT = 128
# Descent rests when a step promises less than this, in nats per axis and as a share of what is left.
REST = 1e-15
REST_SHARE = 1e-6

Move: TypeAlias = tuple[np.ndarray, np.ndarray, float]
"""A step, the change of the gradient over it, each (k, k), and the product of the two."""


@dataclass(frozen=True, eq=False)
class RotationFit:
    """The rotation of the latent space whose axes have the least ima contrast.

    Attributes:
        R: shape (k, k); its columns are the best axes, each in the place and with the sign nearest to the
            given one. The columns of the Jacobian of z -> f(R z) are as orthogonal as they get.
        contrast: mean c(R^T G R) over the latents it was fitted on.
        start: mean c(G) over the same latents.
        agreeing: how many of the starts ended within 1e-4 (relative) of the best.
        starts: number of starts, the identity first.
        steps: descent steps of the best start, after the Jacobi sweeps.
        converged: whether it came to rest before the last step.
    """

    R: Tensor
    contrast: float
    start: float
    agreeing: int
    starts: int
    steps: int
    converged: bool


def joint_diagonalise(
    G: Tensor,
    *,
    restarts: int = 4,
    seed: int = 0,
    steps: int = 500,
    tolerance: float | None = None,
) -> RotationFit:
    """Find the rotation R that minimises mean_z c(R^T G R): orthogonal joint approximate diagonalisation.

    A Jacobi sweep from every start (of few axes), each pair's angle minimised globally, k/2 disjoint pairs at a time; then
    quasi-Newton descent on O(k), which spares the slow tail that more sweeps have where no rotation
    diagonalises exactly.

    Args:
        G: nonsingular pullback metrics, shape (n, k, k).
        restarts: random starts besides the identity, as far as there is time.
        steps: most descent steps per start; one that time ends has not converged.
        tolerance: squared relative rounding of G, see `singular_tolerance`.

    Raises:
        ValueError: a G is singular: restrict to active latents and drop such samples before.

    Source: Flury and Gautschi (1986), SIAM J. Sci. Stat. Comput. 7; Pham (2001), SIAM J. Matrix Anal. 22;
        Ablin, Cardoso and Gramfort (2018), arXiv:1811.11433 (the quasi-Newton step).
    """
    n, k = G.shape[:2]
    contrast = ima_contrast(G, tolerance=tolerance)
    if not torch.isfinite(contrast).all():
        raise ValueError("a singular Gram matrix has an infinite contrast in every basis")
    start = float(contrast.mean())
    if k < 2:
        return RotationFit(cpu.eye(k, dtype=G.dtype), 0.0, 0.0, 1, 1, 0, True)
    # a scale per latent changes no contrast and evens out the rounding
    G = G / G.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    R = torch.cat([cpu.eye(k, dtype=G.dtype)[None], haar(k, restarts, seed).to(G.dtype)])
    ends: list[tuple[Tensor, int, bool]] = []
    known_by = cache(lambda: signature((G, steps)))

    def descended(swept: Tensor) -> tuple[Tensor, int, bool]:
        if budget().bounded:  # it may end early, which is not to be kept
            return _descend(G, swept, steps)

        def work() -> tuple[Tensor, Tensor]:
            end, taken, converged = _descend(G, swept, steps)
            return end, cpu.tensor([taken, converged], dtype=torch.float64)

        end, how = kept(lambda: ("best rotation", known_by(), swept), work, together=False)
        return end, int(how[0]), bool(how[1])

    with one_thread_below(n * k**3):
        for block in torch.split(R, max(1, 30_000_000 // (n * k * k))):
            if ends and budget().over:
                break
            for swept in _jacobi(G, block) if k <= SWEPT else block:
                ends.append(descended(swept))
                tell("best rotation", len(ends), len(R))
    contrasts = rotated_contrast(G, torch.stack([end for end, _, _ in ends]), tolerance=tolerance).mean(1)
    # the identity's own descent wins ties, so that an optimal basis stays where it is
    least, scale = float(contrasts.min()), max(start, 1e-3)
    best = int((contrasts <= least + 1e-8 * scale).to(torch.uint8).argmax())
    end, taken, converged = ends[best]
    return RotationFit(
        R=nearest_order(end),
        contrast=float(contrasts[best]),
        start=start,
        agreeing=int((contrasts <= least + 1e-4 * scale).sum()),
        starts=len(ends),
        steps=taken,
        converged=converged,
    )


def _round_robin(k: int) -> list[tuple[Tensor, Tensor]]:
    """Return k - 1 (or k) rounds of disjoint pairs that hold every pair once (circle method)."""
    players = list(range(k + k % 2))
    rounds = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = [
            (p, q) for p, q in zip(players[:half], reversed(players[half:]), strict=True) if max(p, q) < k
        ]
        rounds.append((cpu.tensor([min(x) for x in pairs]), cpu.tensor([max(x) for x in pairs])))
        players.insert(1, players.pop())
    return rounds


def _jacobi(G: Tensor, R: Tensor) -> Tensor:
    """Return R after a few Jacobi sweeps from R, (starts, k, k)."""
    k = G.shape[-1]
    H = _congruent(G.expand(len(R), *G.shape), R)
    for _ in range(SWEEPS):
        gained = 0.0
        for p, q in _round_robin(k):
            a, b, e = H[:, :, p, p], H[:, :, p, q], H[:, :, q, q]
            phi, gain = _best_angle((a - e) / (a + e), 2 * b / (a + e))
            turn = _plane_rotations(phi / 2, p, q, k)
            H, R = _congruent(H, turn), R @ turn
            gained = max(gained, float(gain.max()))
        if gained < REST:
            break
    return R


def _descend(G: Tensor, R: Tensor, steps: int) -> tuple[Tensor, int, bool]:
    """Return R after L-BFGS descent of mean_z sum_i 1/2 log (R^T G R)_ii on O(k), the steps, and whether it rests.

    Coordinates are the skew E of R (1 - E/2)^-1 (1 + E/2), Cayley's form of R expm(E) to second order, at the current
    R; the Hessian starts as that of diagonal R^T G R, which is exact where a rotation diagonalises all of G.
    """
    n, k = G.shape[:2]
    flat = G.reshape(n * k, k)
    least = float(torch.linalg.cholesky(G).diagonal(dim1=-2, dim2=-1).log().sum(1).mean())

    def at(R: Tensor) -> tuple[float, Tensor, Tensor]:
        GR = (flat @ R).reshape(n, k, k)
        d = (R * GR).sum(1)
        value = 0.5 * float(d.log().sum(1).mean())
        A = R.T @ (GR / d[:, None, :]).mean(0)
        return value, A - A.T, d

    def curvature(d: Tensor) -> Tensor:
        ratio = d.T @ (1 / d) / n
        return (ratio + ratio.T - 2).clamp_min(0.02)

    value, g, d = at(R)
    history: list[Move] = []
    one = cpu.eye(k, dtype=R.dtype)
    for step in range(steps):
        if step and budget().over:
            return R, step, False
        E = _two_loop(g, curvature(d), history)
        slope = 0.5 * float((g * E).sum())
        if slope >= 0:
            history.clear()
            E = -g / curvature(d)
            slope = 0.5 * float((g * E).sum())
        if -slope <= REST * k + REST_SHARE * (value - least):
            return R, step, True
        size = min(1.0, 0.5 / float(E.abs().max()))
        for _ in range(30):
            turned = R @ torch.linalg.solve(one - size / 2 * E, one + size / 2 * E)
            new_value, new_g, new_d = at(turned)
            if new_value <= value + 1e-4 * size * slope:
                break
            size /= 2
        else:
            return R, step, True
        moved, change = size * E, new_g - g
        bend = float((moved * change).sum())
        if bend > 1e-12 * float(moved.square().sum()):
            history = [*history[-9:], (moved.numpy(), change.numpy(), bend)]
        R, value, g, d = turned, new_value, new_g, new_d
    return R, steps, False


def _two_loop(g: Tensor, curvature: Tensor, history: list[Move]) -> Tensor:
    """Return the L-BFGS direction for gradient g; numpy does such small steps in a third of torch's time."""
    q = g.numpy().copy()
    weights = []
    for moved, change, bend in reversed(history):
        weight = float(np.einsum("ij,ij", moved, q)) / bend
        weights.append(weight)
        q -= weight * change
    direction = q / curvature.numpy()
    for (moved, change, bend), weight in zip(history, reversed(weights), strict=True):
        direction += moved * (weight - float(np.einsum("ij,ij", change, direction)) / bend)
    return torch.from_numpy(-direction)


def _congruent(H: Tensor, W: Tensor) -> Tensor:
    """Return W^T H W for H of shape (starts, n, k, k) and W of shape (starts, k, k)."""
    starts, n, k, _ = H.shape
    half = (H.reshape(starts, n * k, k) @ W).reshape(starts, n, k, k)
    return (half.mT.reshape(starts, n * k, k) @ W).reshape(starts, n, k, k)


def _plane_rotations(theta: Tensor, p: Tensor, q: Tensor, k: int) -> Tensor:
    """Return the rotations by theta, (starts, pairs), in the disjoint planes (p, q), shape (starts, k, k)."""
    W = cpu.eye(k, dtype=theta.dtype).repeat(len(theta), 1, 1)
    cos, sin = torch.cos(theta), torch.sin(theta)
    W[:, p, p], W[:, q, q], W[:, q, p], W[:, p, q] = cos, cos, sin, -sin
    return W


def _best_angle(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Minimise h(phi) = mean_z 1/2 log(1 - (x cos phi + y sin phi)^2) over phi, for every start and pair.

    h is the contrast's change under a turn of two axes by phi / 2, where x = (G_pp - G_qq) / (G_pp + G_qq)
    and y = 2 G_pq / (G_pp + G_qq); it has period pi.

    Args:
        x, y: shape (starts, n, pairs).

    Returns:
        phi, and the fall h(0) - h(phi) >= 0, each (starts, pairs); phi = 0 where nothing is gained.
    """

    def h(phi: Tensor) -> Tensor:
        w = x * torch.cos(phi)[:, None] + y * torch.sin(phi)[:, None]
        return 0.5 * ((1 - w) * (1 + w)).clamp_min(torch.finfo(x.dtype).tiny).log().mean(1)

    here = h(torch.zeros_like(x[:, 0]))
    best, phi = here, torch.zeros_like(here)
    for angle in np.linspace(-np.pi / 2, np.pi / 2, 12, endpoint=False)[1:]:
        candidate = torch.full_like(here, float(angle))
        value = h(candidate)
        closer = value < best - 1e-12
        phi, best = torch.where(closer, candidate, phi), torch.where(closer, value, best)
    for _ in range(4):
        cos, sin = torch.cos(phi)[:, None], torch.sin(phi)[:, None]
        w, slope = x * cos + y * sin, y * cos - x * sin
        room = ((1 - w) * (1 + w)).clamp_min(torch.finfo(x.dtype).tiny)
        first = -(w * slope / room).mean(1)
        second = ((w.square() - slope.square()) / room - 2 * (w * slope / room).square()).mean(1)
        step = torch.where(second > 0, -first / second.clamp_min(1e-300), -torch.sign(first) * 0.05)
        candidate = phi + step.clamp(-0.2, 0.2)
        value = h(candidate)
        closer = value <= best
        phi, best = torch.where(closer, candidate, phi), torch.where(closer, value, best)
    gain = here - best
    worth = gain > 1e-16
    return torch.where(worth, phi, torch.zeros_like(phi)), torch.where(worth, gain, torch.zeros_like(gain))
