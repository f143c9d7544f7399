"""Rotations of the latent space: the null they give, the best of them, and how far a basis is from the axes.

A rotation R of the latents takes f(z) to f(R z) and G to R^T G R, and leaves det G alone, so that every
contrast here follows from the quadratic forms r_i^T G r_i of R's columns.  "Rotation" means orthogonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaeprobe.geometry.gram import ima_contrast, singular_tolerance
from vaeprobe.geometry.threads import one_thread_below
from vaeprobe.intervals import mean_interval, stream
from vaeprobe.progress import tell

__all__ = [
    "Alignment",
    "RotationFit",
    "alignment",
    "assignment",
    "distance_to_axes",
    "haar",
    "joint_diagonalise",
    "nearest_order",
    "rotate",
    "rotated_contrast",
]

# Singular values nearer than this, relative to the larger, count as equal.
TIE = 1e-6
# Jacobi sweeps before descent: they leave poor basins, descent then is far faster.
SWEEPS = 1
# Descent rests when a step promises less than this, in nats per axis and as a share of what is left.
REST = 1e-15
REST_SHARE = 1e-6


def haar(k: int, count: int, seed: int = 0) -> Tensor:
    """Return orthogonal matrices drawn from the Haar measure on O(k), shape (count, k, k), float64."""
    draw = stream(seed, f"haar/{k}").standard_normal((count, k, k))
    for matrix in draw:  # in place: a hundred of five hundred latents are two hundred MB
        Q, T = np.linalg.qr(matrix)
        matrix[:] = Q * np.sign(np.diagonal(T))
    return torch.from_numpy(draw)


def rotate(G: Tensor, R: Tensor) -> Tensor:
    """Return R^T G R, shape (n, k, k): the pullback metrics of z -> f(R z)."""
    return R.mT @ G @ R


def rotated_contrast(
    G: Tensor, R: Tensor, *, contrast: Tensor | None = None, tolerance: float | None = None
) -> Tensor:
    """Return the ima contrast of every latent under every rotation, shape (count, n).

    Args:
        G: pullback metrics, shape (n, k, k); inf where one is singular within the tolerance.
        R: rotations, shape (count, k, k).
        contrast: `ima_contrast` of G, where it is known already.
    """
    # log det G = sum_i log G_ii - 2 c, and R leaves it alone
    n, k = G.shape[:2]
    diagonal = G.diagonal(dim1=-2, dim2=-1)
    contrast = ima_contrast(G, tolerance=tolerance) if contrast is None else contrast
    half_log_det = 0.5 * diagonal.clamp_min(_tiny(G)).log().sum(-1) - contrast
    return (_half_log_norms(G, R) - half_log_det).clamp_min(0) if n * k else G.new_zeros(len(R), n)


def _half_log_norms(G: Tensor, R: Tensor) -> Tensor:
    """Return sum_i log sqrt(r_i^T G r_i), shape (count, n), as one matrix product per block of rotations."""
    n, k = G.shape[:2]
    if n < k:  # the products of pairs of coordinates would outweigh the metrics themselves
        return torch.stack(
            [0.5 * ((G @ r) * r).sum(-2).clamp_min(_tiny(G)).log().sum(-1) for r in R.unbind()]
        )
    upper = torch.triu_indices(k, k)
    packed = G[:, upper[0], upper[1]]
    twice = torch.where(upper[0] == upper[1], 1.0, 2.0).to(G.dtype)
    out = []
    for block in torch.split(R, max(1, 2_000_000 // (k * max(n, len(twice))))):
        columns = block.mT.reshape(-1, k)
        products = columns[:, upper[0]] * columns[:, upper[1]] * twice
        squares = (products @ packed.T).clamp_min(_tiny(G))
        out.append(0.5 * squares.log().reshape(len(block), k, n).sum(1))
    return torch.cat(out)


def _tiny(G: Tensor) -> float:
    return float(torch.finfo(G.dtype).tiny)


# -- the rotation null --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Alignment:
    """How much better the given axes are than random ones.

    Attributes:
        value: A = 1 - mean c / mean null; None where the null is 0, since every basis is orthogonal then.
        p_value: (1 + #{draws <= c}) / (K + 1); None with `value`.
        contrast: c per latent at the given axes, shape (n,).
        null: c per latent, mean over the rotations, shape (n,).
        draws: mean c over the latents per rotation, shape (K,).
    """

    value: float | None
    p_value: float | None
    contrast: Tensor
    null: Tensor
    draws: Tensor

    def interval(self, moved: Tensor | float = 0.0) -> tuple[float, float] | None:
        """Return the interval of `value` over latents and rotations; None without value, or for one of either.

        Args:
            moved: by what each latent moves `value` besides, through something the metrics were scaled by that is of
                the same latents, shape (n,), of mean 0.
        """
        if self.value is None:
            return None
        by_latent, by_rotation = self._influence()
        return mean_interval(self.value + by_latent + np.asarray(moved), by_rotation, high=1.0)

    def change(self, after: Alignment) -> tuple[float, tuple[float, float]] | None:
        """Return `after.value - self.value` and its interval over the same latents; None without values.

        Rotations that are the same for both, as those of one seed and number of latents are, are paired too.
        """
        if self.value is None or after.value is None:
            return None
        (old, old_turns), (new, new_turns) = self._influence(), after._influence()
        turns = (new_turns - old_turns,) if len(new_turns) == len(old_turns) else (new_turns, -old_turns)
        more = after.value - self.value
        interval = mean_interval(more + new - old, *(t for t in turns if len(t) > 1))
        return None if interval is None else (more, interval)

    def _influence(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what one latent and one rotation move the ratio of two means by, to first order, shapes (n,) and (K,)."""
        null, draws, given = self.null.numpy(), self.draws.numpy(), self.contrast.numpy()
        expected = float(null.mean())
        rest = given.mean() / expected
        return (rest * null - given) / expected, rest * (draws - draws.mean()) / expected


def alignment(G: Tensor, *, count: int = 999, seed: int = 0, tolerance: float | None = None) -> Alignment:
    """Compare the ima contrast at the given axes with that at Haar-random ones, the same at every latent.

    An exact Monte-Carlo test of "the basis is a random rotation of any other" where the latents are
    isotropic, as N(0, I) is.

    Args:
        G: nonsingular pullback metrics, shape (n, k, k).
        count: number of rotations K.
        tolerance: squared relative rounding of G, see `singular_tolerance`.

    Raises:
        ValueError: a G is singular, whose contrast is infinite in every basis.
    """
    k = G.shape[-1]
    tolerance = singular_tolerance(k) if tolerance is None else tolerance
    contrast = ima_contrast(G, tolerance=tolerance)
    if not torch.isfinite(contrast).all():
        raise ValueError("a singular Gram matrix has an infinite contrast in every basis")
    null, draws = torch.zeros_like(contrast), []
    rotations = torch.split(haar(k, count, seed), max(1, 50_000_000 // (len(G) * k**3 + 1)))
    with one_thread_below(len(G) * k**3):
        for done, block in enumerate(rotations, start=1):
            c = rotated_contrast(G, block, contrast=contrast, tolerance=tolerance)
            null += c.sum(0) / count
            draws.append(c.mean(1))
            tell("random rotations", done, len(rotations))
    means = torch.cat(draws)
    observed, expected = float(contrast.mean()), float(means.mean())
    if expected <= k**2 * tolerance:
        return Alignment(None, None, contrast, null, means)
    p_value = (1 + int((means <= observed).sum())) / (count + 1)
    return Alignment(1 - observed / expected, p_value, contrast, null, means)


# -- the best rotation --------------------------------------------------------------------------


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

    A Jacobi sweep from every start, each pair's angle minimised globally, k/2 disjoint pairs at a time; then
    quasi-Newton descent on O(k), which spares the slow tail that more sweeps have where no rotation
    diagonalises exactly.

    Args:
        G: nonsingular pullback metrics, shape (n, k, k).
        restarts: random starts besides the identity.
        steps: most descent steps per start.
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
        return RotationFit(torch.eye(k, dtype=G.dtype), 0.0, 0.0, 1, 1, 0, True)
    # a scale per latent changes no contrast and evens out the rounding
    G = G / G.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    R = torch.cat([torch.eye(k, dtype=G.dtype)[None], haar(k, restarts, seed).to(G.dtype)])
    ends: list[tuple[Tensor, int, bool]] = []
    with one_thread_below(n * k**3):
        for block in torch.split(R, max(1, 30_000_000 // (n * k * k))):
            for swept in _jacobi(G, block):
                ends.append(_descend(G, swept, steps))
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
        starts=len(R),
        steps=taken,
        converged=converged,
    )


def nearest_order(R: Tensor) -> Tensor:
    """Return R, (k, k), with its columns permuted and signed to be nearest to the identity."""
    place = torch.from_numpy(assignment(R.abs().mT.numpy()[None])[0])
    out = torch.empty_like(R)
    out[:, place] = R
    return out * torch.where(out.diagonal() < 0, -1.0, 1.0).to(R.dtype)


def _round_robin(k: int) -> list[tuple[Tensor, Tensor]]:
    """Return k - 1 (or k) rounds of disjoint pairs that hold every pair once (circle method)."""
    players = list(range(k + k % 2))
    rounds = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = [
            (p, q) for p, q in zip(players[:half], reversed(players[half:]), strict=True) if max(p, q) < k
        ]
        rounds.append((torch.tensor([min(x) for x in pairs]), torch.tensor([max(x) for x in pairs])))
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

    Coordinates are the skew E of R expm(E) at the current R; the Hessian starts as that of diagonal
    R^T G R, which is exact where a rotation diagonalises all of G.
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
    history: list[tuple[Tensor, Tensor, float]] = []
    for step in range(steps):
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
            turned = R @ torch.matrix_exp(size * E)
            new_value, new_g, new_d = at(turned)
            if new_value <= value + 1e-4 * size * slope:
                break
            size /= 2
        else:
            return R, step, True
        moved, change = size * E, new_g - g
        bend = float((moved * change).sum())
        if bend > 1e-12 * float(moved.square().sum()):
            history = [*history[-9:], (moved, change, bend)]
        R, value, g, d = turned, new_value, new_g, new_d
    return R, steps, False


def _two_loop(g: Tensor, curvature: Tensor, history: list[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Return the L-BFGS direction for gradient g from past (move, change of g, their product)."""
    q = g
    weights = []
    for moved, change, bend in reversed(history):
        weight = float((moved * q).sum()) / bend
        weights.append(weight)
        q = q - weight * change
    direction = q / curvature
    for (moved, change, bend), weight in zip(history, reversed(weights), strict=True):
        direction = direction + moved * (weight - float((change * direction).sum()) / bend)
    return -direction


def _congruent(H: Tensor, W: Tensor) -> Tensor:
    """Return W^T H W for H of shape (starts, n, k, k) and W of shape (starts, k, k)."""
    starts, n, k, _ = H.shape
    half = (H.reshape(starts, n * k, k) @ W).reshape(starts, n, k, k)
    return (half.mT.reshape(starts, n * k, k) @ W).reshape(starts, n, k, k)


def _plane_rotations(theta: Tensor, p: Tensor, q: Tensor, k: int) -> Tensor:
    """Return the rotations by theta, (starts, pairs), in the disjoint planes (p, q), shape (starts, k, k)."""
    W = torch.eye(k, dtype=theta.dtype).repeat(len(theta), 1, 1)
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
        return 0.5 * ((1 - w) * (1 + w)).clamp_min(_tiny(x)).log().mean(1)

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
        room = ((1 - w) * (1 + w)).clamp_min(_tiny(x))
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


# -- distance to the axes -----------------------------------------------------------------------


def assignment(weight: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the column given to each row so that the sum of weights is largest, shape (n, k).

    The Hungarian algorithm (shortest augmenting paths), exact, all n problems of shape (n, k, k) in step.
    """
    out: NDArray[np.int64] = weight.argmax(2)
    # distinct row maxima reach the upper bound
    hard = np.nonzero((np.sort(out, axis=1) != np.arange(weight.shape[1])).any(1))[0]
    if len(hard):
        out[hard] = _hungarian(-weight[hard])
    return out


def _hungarian(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    n, k, _ = cost.shape
    every = np.arange(n)
    # column 0 and row 0 stand for "none"; row_of[b, j] is the row that holds column j
    u, v = np.zeros((n, k + 1)), np.zeros((n, k + 1))
    row_of = np.zeros((n, k + 1), dtype=np.int64)
    for row in range(1, k + 1):
        row_of[:, 0] = row
        column = np.zeros(n, dtype=np.int64)
        before = np.zeros((n, k + 1), dtype=np.int64)
        slack, used = np.full((n, k + 1), np.inf), np.zeros((n, k + 1), dtype=bool)
        open_ = every
        while len(open_):
            at = column[open_]
            used[open_, at] = True
            here = row_of[open_, at]
            reduced = cost[open_, here - 1] - u[open_, here][:, None] - v[open_, 1:]
            less = ~used[open_, 1:] & (reduced < slack[open_, 1:])
            slack[open_, 1:] = np.where(less, reduced, slack[open_, 1:])
            before[open_, 1:] = np.where(less, at[:, None], before[open_, 1:])
            free = np.where(used[open_], np.inf, slack[open_])
            free[:, 0] = np.inf
            column[open_] = free.argmin(1)
            delta = free.min(1)[:, None]
            u[open_[:, None], row_of[open_]] += np.where(used[open_], delta, 0.0)
            v[open_] -= np.where(used[open_], delta, 0.0)
            slack[open_] -= np.where(used[open_], 0.0, delta)
            open_ = open_[row_of[open_, column[open_]] != 0]
        open_ = every
        while len(open_):
            at = column[open_]
            last = before[open_, at]
            row_of[open_, at] = row_of[open_, last]
            column[open_] = last
            open_ = open_[last != 0]
    out = np.empty((n, k), dtype=np.int64)
    out[every[:, None], row_of[:, 1:] - 1] = np.arange(k)
    return out


def distance_to_axes(s: Tensor, V: Tensor, *, tie: float = TIE) -> Tensor:
    """Return min_P ||V - P||_F over signed permutations P, shape (n,), in [0, sqrt(2 k)).

    V is arbitrary inside a block of equal singular values: each such block is first rotated to the axes
    that it is nearest to.

    Args:
        s: singular values, shape (n, k), descending.
        V: right singular vectors as columns, shape (n, k, k).
        tie: singular values nearer than this, relative to the larger, are equal.

    Source: Rolinek et al. (2019), arXiv:1812.06775 (distance to orthogonality), which leaves ties open.
    """
    V = _untied(s, V, tie)
    axis = torch.from_numpy(assignment(V.abs().mT.numpy()))[:, None, :]
    held = V.gather(1, axis)[:, 0].square()
    # 1 - |v| and the rest of the column from the rest alone: exact near 0, where sqrt(2k - 2 sum) is not
    rest = V.scatter(1, axis, 0.0).square().sum(1)
    return (rest + (rest / (1 + held.sqrt())).square()).sum(1).sqrt()


def _untied(s: Tensor, V: Tensor, tie: float) -> Tensor:
    """Return V with each block of equal singular values rotated to its nearest axes."""
    # singular values that vanish beside the first are equal too: the null space has no basis of its own
    joined = s[:, :-1] - s[:, 1:] <= tie * s[:, :-1] + 1e-8 * s[:, :1]
    rows = joined.any(1).nonzero().flatten()
    if len(rows) == 0:
        return V
    V = V.clone()
    block = torch.cat([torch.zeros(len(s), 1, dtype=torch.long), (~joined).long().cumsum(1)], dim=1)[rows]
    # weight of an axis in a block: the length of its projection, shared by the block's columns
    same = (block[:, :, None] == block[:, None, :]).to(V.dtype)
    weight = (V[rows].square() @ same).sqrt()
    axis = torch.from_numpy(assignment(weight.mT.contiguous().numpy()))
    for at, row in enumerate(rows.tolist()):
        for label, size in zip(*torch.unique(block[at], return_counts=True), strict=True):
            if size > 1:
                columns = (block[at] == label).nonzero().flatten()
                part = V[row][:, columns]
                A, _, Bh = torch.linalg.svd(part[axis[at, columns]])
                V[row, :, columns] = part @ (Bh.mT @ A.mT)
    return V
