"""Correlation and distance correlation with permutation p-values."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from vaeprobe.geometry.dependence import correlation_test, distance_correlation_test


def columns(n: int, k: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, k)))


def test_correlations_are_numpys() -> None:
    X = columns(200, 4) @ columns(4, 4, seed=1)
    result = correlation_test(X, permutations=19)
    assert np.allclose(result.matrix.numpy(), np.corrcoef(X.numpy().T), atol=1e-12)
    assert result.largest == float((result.matrix - torch.eye(4)).abs().max())
    i, j = result.pair
    assert abs(float(result.matrix[i, j])) == result.largest


def test_distance_correlation_is_that_of_the_definition() -> None:
    X = columns(60, 3)
    X[:, 2] = X[:, 0].square()
    result = distance_correlation_test(X, permutations=19)

    def centred(x: np.ndarray) -> np.ndarray:
        D = squareform(pdist(x[:, None]))
        return D - D.mean(0) - D.mean(1)[:, None] + D.mean()

    A, B = centred(X[:, 0].numpy()), centred(X[:, 2].numpy())
    expected = np.sqrt((A * B).mean() / np.sqrt((A * A).mean() * (B * B).mean()))
    assert np.isclose(float(result.matrix[0, 2]), expected)


def test_what_correlation_misses_distance_correlation_finds() -> None:
    X = columns(256, 2)
    X[:, 1] = X[:, 0].square() + 0.1 * X[:, 1]
    assert correlation_test(X, permutations=199).largest < 0.3
    found = distance_correlation_test(X, permutations=199)
    assert found.p == 1 / 200
    assert found.largest > 0.4


def test_p_values_are_uniform_under_independence() -> None:
    """Corrected for all ten pairs: a false alarm at 5 % in about one of twenty, not in two of five."""
    ps = np.array([correlation_test(columns(30, 5, seed=s), permutations=59, seed=s).p for s in range(120)])
    assert (ps <= 0.05).mean() < 0.12
    assert 0.4 < ps.mean() < 0.6


def test_a_constant_column_depends_on_nothing() -> None:
    X = columns(50, 3)
    X[:, 1] = 0.1
    for result in (correlation_test(X, permutations=19), distance_correlation_test(X, permutations=19)):
        assert float(result.matrix[0, 1]) == 0
        assert float(result.p_pairs[0, 1]) == 1
        assert bool(torch.isfinite(result.matrix).all())


def test_the_seed_alone_decides() -> None:
    X = columns(80, 3)
    assert correlation_test(X, seed=3).p == correlation_test(X, seed=3).p
