"""Which axis each column of a basis is nearest to, and how far a basis is from the axes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaeprobe import cpu

__all__ = ["assignment", "distance_to_axes", "nearest_order"]

# Singular values nearer than this, relative to the larger, count as equal.
TIE = 1e-6


def assignment(weight: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the column given to each row so that the sum of weights is largest, shape (n, k).

    Exact up to the rounding of the sum.  Rows bid for columns, then those left without one are given theirs along
    shortest augmenting paths.

    Args:
        weight: shape (n, k, m) with k <= m; -inf where a row may not have a column.

    Raises:
        ValueError: a weight is NaN or inf, or there are more rows than columns that they may have.

    Source: Jonker and Volgenant (1987), Computing 38; Bertsekas (1988), Annals of Operations Research 14.
    """
    if np.isnan(weight).any() or (weight == np.inf).any():
        raise ValueError("a weight is NaN or infinite")
    if weight.shape[1] > weight.shape[2]:
        raise ValueError(f"{weight.shape[2]} columns do not do for {weight.shape[1]} rows")
    if weight.size == 0:
        return np.zeros(weight.shape[:2], dtype=np.int64)
    out: NDArray[np.int64] = weight.argmax(2)
    # distinct row maxima reach the upper bound
    taken = np.sort(out, axis=1)
    distinct = (taken[:, 1:] > taken[:, :-1]).all(1) & (weight.max(2) > -np.inf).all(1)
    for i in np.nonzero(~distinct)[0]:
        out[i] = _cheapest(-weight[i])
    return out


def _cheapest(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the column of each row, shape (k,), at the least sum of costs, (k, m), inf where there may be none."""
    k, m = cost.shape
    column, row = np.full(k, -1), np.full(m, -1)
    # what a column is worth: 0 until a row has it, as it must be for those that no row needs
    price = np.zeros(m)
    for _ in range(k // 4):
        free = np.nonzero(column < 0)[0]
        if len(free) == 0:
            return column
        _bid(cost, price, column, row, free)
    for start in np.nonzero(column < 0)[0]:
        _augment(cost, price, column, row, int(start))
    return column


def _bid(
    cost: NDArray[np.float64],
    price: NDArray[np.float64],
    column: NDArray[np.int64],
    row: NDArray[np.int64],
    free: NDArray[np.int64],
) -> None:
    """Let rows without a column offer for their best one what it is better by than the second; the highest gets it."""
    if cost.shape[1] < 2:
        return
    left = cost[free] + price
    two = left.argpartition(1, axis=1)[:, :2]
    values = np.take_along_axis(left, two, 1)
    best = two[np.arange(len(free)), values.argmin(1)]
    least = values.min(1)
    with np.errstate(invalid="ignore"):
        offer = values.max(1) - least
    order = np.argsort(offer, kind="stable")
    order = order[np.isfinite(offer[order]) & np.isfinite(least[order])]
    winner = np.full(cost.shape[1], -1)
    winner[best[order]] = order
    sold = np.nonzero(winner >= 0)[0]
    buyer = winner[sold]
    column[row[sold][row[sold] >= 0]] = -1
    row[sold], column[free[buyer]] = free[buyer], sold
    price[sold] += offer[buyer]


def _augment(
    cost: NDArray[np.float64],
    price: NDArray[np.float64],
    column: NDArray[np.int64],
    row: NDArray[np.int64],
    start: int,
) -> None:
    """Give a row a column, along the shortest path over those of other rows, and set prices by it (Dijkstra)."""
    m = cost.shape[1]
    far, before = np.full(m, np.inf), np.full(m, -1)
    left, nearer = np.empty(m), np.empty(m, dtype=bool)
    asked, open_ = price.copy(), row < 0
    reached: list[int] = []
    lengths: list[float] = []
    here, base = start, 0.0
    while True:
        np.add(cost[here], asked, out=left)
        left += base
        np.less(left, far, out=nearer)
        np.copyto(before, here, where=nearer)
        np.minimum(far, left, out=far)
        at = int(far.argmin())
        length = float(far[at])
        if length == np.inf:
            raise ValueError("the rows cannot all have a column: too many weights are -inf")
        if row[at] >= 0:  # of columns as near, one that no row has ends the path
            ends = np.nonzero(open_ & (far <= length))[0]
            at = int(ends[0]) if len(ends) else at
        if row[at] < 0:
            break
        reached.append(at)
        lengths.append(length)
        far[at] = asked[at] = np.inf
        here = int(row[at])
        base = length - float(cost[here, at] + price[at])
    price[reached] += length - np.array(lengths)
    while at >= 0:
        here = int(before[at])
        row[at] = here
        column[here], at = at, int(column[here])


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
    block = torch.cat([cpu.zeros(len(s), 1, dtype=torch.long), (~joined).long().cumsum(1)], dim=1)[rows]
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
