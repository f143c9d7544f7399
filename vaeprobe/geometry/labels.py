"""Codes against known factors: MIG and DCI.  MCC is `agreement.code_agreement` of codes and factors."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaeprobe import cpu

BINS = 20
# weight of the lasso's penalty, on standardised codes and factors
PENALTY = 0.02
SWEEPS, SETTLED = 1000, 1e-9


class Dci(NamedTuple):
    """What the importances of codes for factors say, each in [0, 1]; `informativeness` may fall below 0."""

    disentanglement: float
    completeness: float
    informativeness: float


def binned(values: Tensor, bins: int = BINS) -> Tensor:
    """Return whole numbers for each column: its values' ranks where they are few, else equally wide bins.

    Args:
        values: shape (n, k).

    Returns:
        shape (n, k), int64, from 0.
    """
    out = []
    for column in values.T:
        few = torch.unique(column)
        if len(few) <= bins:
            out.append(torch.searchsorted(few, column.contiguous()))
            continue
        low, high = column.min(), column.max()
        out.append(((column - low) / (high - low) * bins).long().clamp(0, bins - 1))
    return torch.stack(out, 1)


def mutual_information(a: Tensor, b: Tensor) -> Tensor:
    """Return the mutual information of the columns of two tables of whole numbers, in nats, shape (d, k)."""
    out = cpu.zeros(a.shape[1], b.shape[1], dtype=torch.float64)
    for i, x in enumerate(a.T):
        for j, y in enumerate(b.T):
            width = int(y.max()) + 1
            joint = torch.bincount(x * width + y, minlength=(int(x.max()) + 1) * width).double()
            p = (joint / len(x)).reshape(-1, width)
            chance = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
            out[i, j] = torch.where(p > 0, p * (p / chance).log(), 0.0).sum()
    return out


def mig(codes: Tensor, factors: Tensor) -> float:
    """Return the mutual information gap: how much more the best latent tells of a factor than the second, over its entropy.

    Args:
        codes: shape (n, d).
        factors: shape (n, k), at least one of which varies.

    Source: Chen et al. (2018), arXiv:1802.04942, Eq. 6; codes in 20 equally wide bins as Locatello et al. (2019) do.
    """
    known = binned(factors)
    known = known[:, known.amax(0) > 0]
    entropy = torch.stack([mutual_information(v[:, None], v[:, None])[0, 0] for v in known.T])
    found = mutual_information(binned(codes), known)
    ordered = found.sort(0, descending=True).values
    second = ordered[1] if len(ordered) > 1 else torch.zeros_like(entropy)
    return float(((ordered[0] - second) / entropy).mean())


def lasso(X: Tensor, Y: Tensor, penalty: float = PENALTY) -> Tensor:
    """Return the weights of the least |Y - X W|^2 / 2n + penalty |W|_1 by coordinate descent, shape (d, k).

    Args:
        X, Y: centred, shapes (n, d) and (n, k).
    """
    n = len(X)
    G, B = X.T @ X / n, X.T @ Y / n
    W = torch.zeros_like(B)
    for _ in range(SWEEPS):
        before = W.clone()
        for i in range(len(G)):
            if G[i, i] > 0:
                free = B[i] - G[i] @ W + G[i, i] * W[i]
                W[i] = torch.sign(free) * (free.abs() - penalty).clamp_min(0) / G[i, i]
        if float((W - before).abs().max()) < SETTLED:
            break
    return W


def dci(codes: Tensor, factors: Tensor) -> Dci:
    """Return disentanglement, completeness and informativeness of codes for factors.

    The importance of a code for a factor is the absolute weight that a lasso gives it, both standardised, on every
    second row; the informativeness is the share of the factors' variance that it explains on the other rows.

    Args:
        codes: shape (n, d).
        factors: shape (n, k), at least one of which varies.

    Source: Eastwood and Williams (2018), Eqs. 1 to 3, with their lasso at a penalty of 0.02.
    """
    factors = factors[:, factors.amax(0) > factors.amin(0)]
    fit, held = slice(0, None, 2), slice(1, None, 2)
    X, Y = codes - codes[fit].mean(0), factors - factors[fit].mean(0)
    X, Y = X / _spread(X[fit]), Y / _spread(Y[fit])
    W = lasso(X[fit], Y[fit])
    rest = (Y[held] - X[held] @ W).square().mean(0) / Y[held].square().mean(0).clamp_min(1e-300)
    return Dci(*scores(W.abs()), float(1 - rest.mean()))


def trees_dci(codes: Tensor, factors: Tensor) -> Dci | None:
    """Return disentanglement, completeness and informativeness by gradient boosted trees; None without scikit-learn.

    The importance of a code for a factor is what it takes off the loss in trees fitted on every second row: classifiers
    where a factor has few values, else regressors. The informativeness is the share of the other rows that are
    classified rightly, or of their variance that is explained, the mean over factors.

    Args:
        codes, factors: as for `dci`.

    Source: Locatello et al. (2019), arXiv:1811.12359, Appendix B: scikit-learn's trees with its default settings.
    """
    try:
        ensemble = import_module("sklearn.ensemble")
    except ImportError:
        return None
    factors = factors[:, factors.amax(0) > factors.amin(0)]
    fit, held = slice(0, None, 2), slice(1, None, 2)
    X, columns, right = codes.numpy(), [], []
    for v in factors.T.numpy():
        values = np.unique(v)
        if len(values) > BINS:
            trees, target = ensemble.GradientBoostingRegressor(random_state=0), v
        else:
            trees, target = ensemble.GradientBoostingClassifier(random_state=0), np.searchsorted(values, v)
        if len(np.unique(target[fit])) < 2:  # one value on the rows to fit on: nothing to learn
            columns.append(np.zeros(X.shape[1]))
            right.append(float((target[held] == target[0]).mean()))
            continue
        trees.fit(X[fit], target[fit])
        columns.append(trees.feature_importances_)
        right.append(float(trees.score(X[held], target[held])))
    return Dci(*scores(torch.from_numpy(np.stack(columns, 1))), float(np.mean(right)))


def scores(importance: Tensor) -> tuple[float, float]:
    """Return disentanglement and completeness of importances >= 0 of codes (rows) for factors (columns).

    Source: Eastwood and Williams (2018), Eqs. 1 and 2.
    """
    whole = float(importance.sum())
    if whole <= 0:
        return 0.0, 0.0
    disentangled = (importance.sum(1) / whole) @ (1 - _entropy(importance))
    return float(disentangled), float((1 - _entropy(importance.T)).mean())


def _entropy(rows: Tensor) -> Tensor:
    """Return the entropy of each row's shares in units of its largest; 1 for a row of zeros."""
    k = rows.shape[1]
    total = rows.sum(1, keepdim=True)
    if k == 1:
        return (total[:, 0] <= 0).double()
    share = torch.where(total > 0, rows / total.clamp_min(1e-300), 1.0 / k)
    return -torch.where(share > 0, share * share.log(), 0.0).sum(1) / torch.log(cpu.tensor(k).double())


def _spread(columns: Tensor) -> Tensor:
    size = columns.square().mean(0).sqrt()
    return torch.where(size > 0, size, 1.0)
