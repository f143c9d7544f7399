"""Do two models have the same latents?  Codes and Jacobian columns of one held against the other's, up to order and sign.

Two trained decoders with the same density may differ by a rotation of the latent space; whether each latent of
one *is* a latent of the other is what the rotation null tells apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaeprobe.geometry.axes import assignment
from vaeprobe.geometry.rotations import haar
from vaeprobe.intervals import LEVEL, percentile_interval, stream

# A latent is informative where the variance of its posterior mean exceeds this (Burda et al. 2016).
INFORMATIVE = 0.01
RESAMPLES = 200


@dataclass(frozen=True, eq=False)
class Agreement:
    """How well the latents of two models match, one to one.

    Attributes:
        matrix: |similarity| of latent i of the first and j of the second, shape (d, e).
        pairs: matched latents (i, j), best first, min(d, e) of them.
        value: mean similarity of the matched pairs.
        null: the same after random rotations of the second model's latents, shape (count,).
        p_value: share of rotations that match as well, the identity counted among them.
        draws: `value` on resampled rows, the same rows for all models at one seed, shape (resamples,).
    """

    matrix: Tensor
    pairs: tuple[tuple[int, int], ...]
    value: float
    null: Tensor
    p_value: float
    draws: Tensor

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the interval of `value` over rows, within [0, 1]."""
        return interval_of(self.draws, level)


def interval_of(draws: Tensor, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of resampled similarities; a mean of ones may round above 1."""
    low, high = (min(max(end, 0.0), 1.0) for end in percentile_interval(draws.numpy(), level=level))
    return low, high


def match(matrix: Tensor) -> tuple[tuple[int, int], ...]:
    """Return the one-to-one matching of rows and columns with the largest sum, best first, shape (min(d, e), 2)."""
    if matrix.shape[0] > matrix.shape[1]:
        pairs = [(i, j) for j, i in enumerate(assignment(matrix.T.numpy()[None])[0].tolist())]
    else:
        pairs = list(enumerate(assignment(matrix.numpy()[None])[0].tolist()))
    return tuple(sorted(pairs, key=lambda ij: (-float(matrix[ij]), ij)))


def matched(matrix: Tensor) -> float:
    """Return the mean of the matched similarities."""
    return float(best_matched(matrix[None])[0])


def best_matched(matrices: Tensor) -> Tensor:
    """Return the mean of the matched similarities of each of n matrices, shape (n, d, e): shape (n,)."""
    weight = (matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT).double().numpy()
    held = np.take_along_axis(weight, assignment(weight)[:, :, None], 2)
    return torch.from_numpy(held.mean((1, 2)))


def code_agreement(a: Tensor, b: Tensor, *, count: int = 199, seed: int = 0) -> Agreement:
    """Return how well codes of the same data match: the mean correlation coefficient (MCC) and its rotation null.

    Args:
        a, b: posterior means of the same rows, shapes (n, d) and (n, e), informative latents alone.
        count: random rotations of `b`.

    Source: Hyvarinen and Morioka (2016), arXiv:1605.06336, Section 5; the null is Allen (2024), Corollary 2.1's
    alternative: an arbitrary rotation of the same latent space.
    """

    def similarity(R: Tensor | None) -> Tensor:
        return correlations(a, b if R is None else b @ R)

    drawn = torch.stack([correlations(a[rows], b[rows]) for rows in _resamples(len(a), seed)])
    return _against_rotations(similarity, best_matched(drawn), b.shape[1], count, seed)


def column_agreement(cross: Tensor, G: Tensor, H: Tensor, *, count: int = 199, seed: int = 0) -> Agreement:
    """Return how well Jacobian columns match at the same data: mean |cos|, and its rotation null.

    Args:
        cross: J_a^T J_b at each row, shape (n, d, e).
        G, H: J_a^T J_a and J_b^T J_b, shapes (n, d, d) and (n, e, e).
    """

    def cosines(R: Tensor | None) -> Tensor:
        C, K = (cross, H) if R is None else (cross @ R, R.mT @ H @ R)
        rows, columns = (torch.diagonal(M, dim1=1, dim2=2).clamp_min(0).sqrt() for M in (G, K))
        size = rows[:, :, None] * columns[:, None, :]
        return torch.where(size > 0, C.abs() / size, 0.0)

    n, each = len(cross), cosines(None)
    times = torch.stack([torch.bincount(rows, minlength=n) for rows in _resamples(n, seed)]).to(each.dtype)
    drawn = best_matched((times @ each.flatten(1) / n).reshape(-1, *each.shape[1:]))
    return _against_rotations(lambda R: cosines(R).mean(0), drawn, H.shape[1], count, seed)


def sketched(J: Tensor, size: int) -> Tensor:
    """Return columns of few numbers whose inner products are those of long ones, but for an error of |a||b| / sqrt(size).

    Each output is added, with a random sign, to one of `size` numbers; columns that are short enough stay as they are.

    Args:
        J: Jacobians, shape (n, m, k).

    Returns:
        shape (n, min(m, size), k).

    Source: Charikar, Chen and Farach-Colton (2002), Section 3.1.
    """
    n, m, k = J.shape
    if m <= size:
        return J
    rng, out = stream(0, "sketch"), J.new_zeros(n, size, k)
    for row, kept in zip(J, out, strict=True):  # anew for each row, so that errors cancel in the mean
        places = torch.from_numpy(rng.integers(0, size, m))
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], m)).to(J)
        kept.index_add_(0, places, signs[:, None] * row)
    return out


def _resamples(n: int, seed: int) -> Tensor:
    """Return rows drawn with replacement, shape (RESAMPLES, n)."""
    return torch.from_numpy(stream(seed, "agreement").integers(0, n, (RESAMPLES, n)))


def tangent_overlap(cross: Tensor, G: Tensor, H: Tensor) -> Tensor:
    """Return the mean squared cosine of the principal angles between tangent spaces, shape (n,): 1 where one holds the other.

    Arguments as for `column_agreement`.
    """
    product = torch.linalg.pinv(G, hermitian=True) @ cross @ torch.linalg.pinv(H, hermitian=True) @ cross.mT
    return torch.diagonal(product, dim1=1, dim2=2).sum(1) / min(cross.shape[1:])


def correlations(a: Tensor, b: Tensor) -> Tensor:
    """Return |Pearson correlation| of columns, shape (d, e); 0 where one is constant."""
    x, y = a - a.mean(0), b - b.mean(0)
    size = x.norm(dim=0)[:, None] * y.norm(dim=0)[None, :]
    return torch.where(size > 0, (x.mT @ y).abs() / size, 0.0)


def ranks(a: Tensor) -> Tensor:
    """Return the rank of each value in its column from 0, that of equal values their mean, float64."""
    out = torch.empty_like(a, dtype=torch.float64)
    for k, column in enumerate(a.T):
        _, group, count = column.unique(return_inverse=True, return_counts=True)
        out[:, k] = (count.cumsum(0) - (count + 1) / 2)[group]
    return out


def udr(similarity: Tensor) -> float:
    """Return the unsupervised disentanglement ranking's score of a pair of models.

    Args:
        similarity: |Spearman correlation| of the informative latents of both, shape (d, e).

    Source: Duan et al. (2020), arXiv:1905.12614, Eq. 3, over informative latents.
    """
    if not similarity.numel():
        return 0.0
    total = 0.0
    for axis in (0, 1):
        largest, whole = similarity.amax(axis), similarity.sum(axis)
        total += float(torch.where(whole > 0, largest.square() / whole, 0.0).sum())
    return total / sum(similarity.shape)


def _against_rotations(
    similarity: Callable[[Tensor | None], Tensor], draws: Tensor, k: int, count: int, seed: int
) -> Agreement:
    matrix = similarity(None)
    pairs = match(matrix)
    value = matched(matrix)
    null = best_matched(torch.stack([similarity(R) for R in haar(k, count, seed)]))
    # rounding must not count a rotation that is as good (one latent: every one) as worse
    p = (1 + int((null >= value - 1e-9).sum())) / (count + 1)
    return Agreement(matrix, pairs, value, null, p, draws)
