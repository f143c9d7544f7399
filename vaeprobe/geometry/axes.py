"""Which axis each column of a basis is nearest to, and how far a basis is from the axes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["assignment", "distance_to_axes", "nearest_order"]

# Singular values nearer than this, relative to the larger, count as equal.
TIE = 1e-6


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


def nearest_order(R: Tensor) -> Tensor:
    """Return R, (k, k), with its columns permuted and signed to be nearest to the identity."""
    place = torch.from_numpy(assignment(R.abs().mT.numpy()[None])[0])
    out = torch.empty_like(R)
    out[:, place] = R
    return out * torch.where(out.diagonal() < 0, -1.0, 1.0).to(R.dtype)


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
