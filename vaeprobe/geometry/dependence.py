"""Are random variables dependent? Correlation and distance correlation, with exact permutation tests.

All take columns of samples, shape (n, k), and test all pairs of columns at once: the p-value compares the
largest statistic over the pairs with the largest over the pairs of permuted columns, which corrects for the
number of pairs (Westfall and Young 1993) and is exact, since independent columns may be permuted at will.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.intervals import stream

__all__ = ["PairTest", "correlation_test", "distance_correlation_test"]


@dataclass(frozen=True, eq=False)
class PairTest:
    """A statistic for every pair of columns, and the p-value of the largest.

    Attributes:
        matrix: shape (k, k), symmetric, diagonal 1.
        largest: largest absolute value off the diagonal.
        pair: where it is.
        p: permutation p-value of `largest`, corrected for the number of pairs.
        p_pairs: corrected p-value of each pair, shape (k, k); 1 on the diagonal.
        permutations: how many `p` counts.
    """

    matrix: Tensor
    largest: float
    pair: tuple[int, int]
    p: float
    p_pairs: Tensor
    permutations: int


def correlation_test(X: Tensor, *, permutations: int = 499, seed: int = 0) -> PairTest:
    """Test all pairs of columns for correlation.

    Args:
        X: shape (n, k), k >= 2, float64.
        permutations: the smallest possible p-value is 1 / (permutations + 1).
    """
    Y = _standardised(X)
    null = (
        (shuffled.mT @ shuffled).abs() for shuffled in _permuted_columns(Y, permutations, seed, "correlation")
    )
    return _pair_test((Y.mT @ Y).clamp(-1, 1), null, permutations)


def distance_correlation_test(X: Tensor, *, permutations: int = 199, seed: int = 0) -> PairTest:
    """Test all pairs of columns for dependence of any form by distance correlation.

    Takes n^2 k numbers of memory: a few hundred rows are enough.

    Args:
        X: shape (n, k), k >= 2, float64.

    Source: Szekely, Rizzo and Bakirov (2007), "Measuring and testing dependence by correlation of distances".
    """
    n, k = X.shape
    D = (X.T[:, :, None] - X.T[:, None, :]).abs()
    A = D - D.mean(1, keepdim=True) - D.mean(2, keepdim=True) + D.mean((1, 2), keepdim=True)
    norms = A.flatten(1).norm(dim=1, keepdim=True)
    # a constant column has no distances, and nothing depends on it
    flat = torch.where(norms > 0, A.flatten(1) / norms.clamp_min(1e-300), 0.0)

    def matrix(rows: Tensor) -> Tensor:
        places = n * rows.T[:, :, None] + rows.T[:, None, :]  # of row and column alike
        permuted = flat.gather(1, places.flatten(1))
        return (permuted @ permuted.T).clamp(0, 1).sqrt()

    unchanged = cpu.arange(n)[:, None].expand(n, k)
    rows = _permuted_columns(unchanged, permutations, seed, "distance correlation")
    return _pair_test(matrix(unchanged), (matrix(r) for r in rows), permutations)


def _standardised(X: Tensor) -> Tensor:
    centred = X - X.mean(-2, keepdim=True)
    norm = centred.norm(dim=-2, keepdim=True)
    # what is left of a constant column after centring is rounding
    constant = norm <= 1e-12 * X.abs().amax(-2, keepdim=True) * X.shape[-2] ** 0.5
    return torch.where(constant, 0.0, centred / torch.where(constant, 1.0, norm))


def _permuted_columns(X: Tensor, permutations: int, seed: int, purpose: str) -> Iterator[Tensor]:
    """Yield X with each column permuted by itself; the first stays, which changes nothing for pairs."""
    rng = stream(seed, purpose)
    values = X.numpy()
    for _ in range(permutations):
        shuffled = rng.permuted(values, axis=0)
        shuffled[:, 0] = values[:, 0]
        yield torch.from_numpy(shuffled)


def _pair_test(matrix: Tensor, null: Iterator[Tensor], permutations: int) -> PairTest:
    k = len(matrix)
    off = ~cpu.eye(k, dtype=torch.bool)
    size = torch.where(off, matrix.abs(), 0.0)
    exceeded = cpu.zeros(k, k, dtype=torch.float64)
    for permuted in null:
        exceeded += torch.where(off, permuted.abs(), 0.0).max() >= size
    p = torch.where(off, (1 + exceeded) / (1 + permutations), 1.0)
    at = int(size.argmax())
    pair = (at // k, at % k)
    return PairTest(
        matrix=torch.where(off, matrix, 1.0),
        largest=float(size[pair]),
        pair=pair,
        p=float(p[pair]),
        p_pairs=p,
        permutations=permutations,
    )
