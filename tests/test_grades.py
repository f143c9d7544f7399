"""Graded answers against closed forms: total correlation, share explained, and what small violations buy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from vaeprobe.geometry.grades import explained_share, grades, least_dependence, normal_scores
from vaeprobe.geometry.gram import ima_contrast
from vaeprobe.geometry.nulls import expected_contrast
from vaeprobe.geometry.sensitivity import sensitivity
from vaeprobe.intervals import mean_interval

import maps


def correlated(C: np.ndarray, n: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((n, len(C))) @ np.linalg.cholesky(C).T)


C3 = np.array([[1, 0.5, 0.2], [0.5, 1, -0.3], [0.2, -0.3, 1]])


def test_normal_columns_have_their_total_correlation_without_bias() -> None:
    """-1/2 log det C, and no more in small samples, where the plain estimate of ten columns has .52 nats too many."""
    for C in (C3, np.eye(10)):
        truth = -0.5 * np.linalg.slogdet(C)[1]
        values = []
        for seed in range(60):
            X = correlated(C, 100, seed)
            Z = normal_scores(X)
            plain = -0.5 * float(torch.linalg.slogdet(Z.T @ Z / 100)[1])
            values.append((plain, least_dependence(X)[0]))
        plain, corrected = np.mean(values, axis=0)
        bias = 0.5 * sum(
            float(torch.special.digamma(torch.tensor(99 / 2.0)))
            - float(torch.special.digamma(torch.tensor((99 - i) / 2.0)))
            for i in range(len(C))
        )
        assert plain - bias == pytest.approx(truth, abs=0.03)
        # a bound of what cannot be negative is cut at 0
        assert corrected == pytest.approx(truth, abs=0.07)


def test_the_interval_covers() -> None:
    truth, hits = -0.5 * np.linalg.slogdet(C3)[1], 0
    for seed in range(60):
        low, high = least_dependence(correlated(C3, 200, seed))[1] or (0, 0)
        hits += low <= truth <= high
    assert hits >= 52


@pytest.mark.parametrize(("n", "k"), [(25, 20), (12, 6)])
def test_the_interval_holds_of_hardly_more_rows_than_columns(n: int, k: int) -> None:
    """Of 25 rows and 20 columns a bootstrap said [357, 1751] nats where 2.7 are true."""
    C = 0.5 ** np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    truth, hits = -0.5 * np.linalg.slogdet(C)[1], 0
    for seed in range(60):
        value, interval = least_dependence(correlated(C, n, seed))
        low, high = interval or (0.0, 0.0)
        assert low <= value <= high < 20
        hits += low <= truth <= high
    assert hits >= 55


def test_the_interval_is_that_of_leaving_out_one_row_after_the_other() -> None:
    X = correlated(C3, 9, 0)
    Z = normal_scores(X)
    without = []
    for i in range(9):
        C = np.corrcoef(np.delete(Z.numpy(), i, axis=0).T)
        without.append(-0.5 * np.linalg.slogdet(C)[1])
    value, interval = least_dependence(X)
    unclipped = -0.5 * np.linalg.slogdet(np.corrcoef(Z.numpy().T))[1] - expected_contrast(3, 8)
    assert value == pytest.approx(max(0.0, unclipped))
    pseudo = unclipped + 8 * (np.mean(without) - np.array(without))
    assert interval == pytest.approx(mean_interval(pseudo, low=0.0))


def test_a_column_that_is_a_function_of_another_has_no_interval() -> None:
    x = torch.randn(50, 1, dtype=torch.float64)
    assert least_dependence(torch.cat([x, x.exp()], dim=1))[1] is None


def test_any_increasing_map_of_a_column_changes_nothing() -> None:
    X = correlated(C3, 300, 0)
    Y = torch.stack([X[:, 0].exp(), X[:, 1] ** 3, -X[:, 2]], dim=1)
    assert least_dependence(X)[0] == pytest.approx(least_dependence(Y)[0], abs=1e-9)


def test_it_is_a_lower_bound() -> None:
    """y = x^2 with a little noise: no correlation to speak of, and much dependence."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(4000)
    X = torch.from_numpy(np.stack([x, x**2 + 0.1 * rng.standard_normal(4000)], axis=1))
    assert least_dependence(X)[0] < 0.02


def test_normal_scores_are_quantiles_of_ranks() -> None:
    x = np.random.default_rng(0).exponential(size=200)
    expected = stats.norm.ppf((stats.rankdata(x) - 0.5) / 200)
    assert np.allclose(normal_scores(torch.from_numpy(x)[:, None])[:, 0], expected / expected.std())
    ties = normal_scores(torch.tensor([[1.0, 5.0], [1.0, 5.0], [2.0, 5.0]], dtype=torch.float64))
    assert ties[0, 0] == ties[1, 0]
    assert bool((ties[:, 1] == 0).all())


def test_few_rows_or_one_column_say_nothing() -> None:
    assert least_dependence(torch.randn(50, 1)) == (0.0, None)
    assert least_dependence(torch.randn(4, 3, dtype=torch.float64)) == (0.0, None)
    torch.manual_seed(0)  # of five values two columns may have the same order
    assert least_dependence(torch.randn(5, 3, dtype=torch.float64))[1] is not None


def test_the_polar_map_is_graded_as_its_integrals_are() -> None:
    """Correlation 2/3 of the log factors; their normal scores bound the information in them from below."""
    map = maps.c1()
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((4000, 2)))
    G = map.gram(z)
    R = torch.stack([maps.haar(2, seed) for seed in range(6)])
    found = grades(z, G, ima_contrast(G), R)
    x, w = np.polynomial.hermite_e.hermegauss(200)

    def density(y: np.ndarray) -> np.ndarray:
        """Of l_1 = -z_1 - u, u half a chi-square of one degree of freedom, given z_1 each node."""
        u = -x[:, None] - y
        return np.where(u > 0, 2 * stats.chi2.pdf(2 * np.maximum(u, 1e-300), 1), 0)

    grid = np.linspace(-25, 6, 40_000)
    p = density(grid)
    marginal = (w[:, None] * p).sum(0) / w.sum()
    entropy = -integrate.trapezoid(
        np.where(marginal > 0, marginal * np.log(np.maximum(marginal, 1e-300)), 0), grid
    )
    # of half a chi-square: 1/2 + log 2 + log Gamma(1/2) + psi(1/2) / 2, less log 2
    noise = 0.5 + math.lgamma(0.5) + 0.5 * float(torch.special.digamma(torch.tensor(0.5)))
    most = entropy - noise  # what z_0 tells of l_1, and l_0 no more
    assert 0.1 < found.dependence.value < most
    assert found.explained is not None
    assert found.explained.value == pytest.approx(1)
    assert found.explained.ci == pytest.approx((1, 1))
    assert found.explained.null == pytest.approx(
        1
        - np.mean([float((ima_contrast(r.T @ G @ r)).var()) for r in R])
        / float((-z.square().sum(1) / 2 - 2 * z[:, 0]).var()),
        abs=0.01,
    )


def test_independent_factors_have_no_dependence() -> None:
    map = maps.b1(3)
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((2000, 3)))
    G = map.gram(z)
    found = grades(z, G, ima_contrast(G), torch.stack([maps.haar(3, seed) for seed in range(6)]))
    assert found.dependence.value < 0.003
    assert found.dependence.ci is not None
    assert found.dependence.ci[0] == 0
    assert found.dependence.null > 0.01


def test_a_share_of_two_latents_says_only_what_it_can() -> None:
    torch.manual_seed(0)
    for n in (2, 3, 4):
        found = explained_share(torch.randn(n, dtype=torch.float64), torch.randn(n, dtype=torch.float64))
        assert found is not None
        assert np.isfinite(found[1]).all()
        assert found[1][0] <= found[0] <= found[1][1] <= 1


def test_the_share_explained_is_a_ratio_of_variances() -> None:
    rng = np.random.default_rng(0)
    c, rest = rng.standard_normal(20_000), 3 * rng.standard_normal(20_000)
    value, (low, high) = explained_share(torch.from_numpy(c), torch.from_numpy(c + rest)) or (0, (0, 0))
    assert value == pytest.approx(0.9, abs=0.01)
    assert low < 0.9 < high
    assert explained_share(torch.zeros(9), torch.ones(9)) is None


# -- the sensitivity law ------------------------------------------------------------------------


def test_polar_coordinates_of_any_steepness() -> None:
    t = (0.01, 0.1, 0.5, 1.0)
    law = sensitivity("polar", t)
    assert law.gap == pytest.approx([0] * 4, abs=1e-12)
    assert law.cross == pytest.approx(t)
    rho = [s**2 / (s**2 + 0.5) for s in t]
    assert law.correlation == pytest.approx(rho)
    assert law.dependence == pytest.approx([-0.5 * math.log1p(-(r**2)) for r in rho])
    assert law.explained == pytest.approx([1] * 4)


def test_shears_cost_a_gap_and_no_dependence() -> None:
    t = (0.1, 0.8)
    law = sensitivity("sheared", t)
    for s, gap in zip(t, law.gap, strict=True):
        exact = integrate.quad(lambda z, s=s: stats.norm.pdf(z) * math.log1p((s * z) ** 2) / 2, -12, 12)[0]
        assert gap == pytest.approx(exact, rel=1e-6)
    assert law.cross == pytest.approx([0, 0], abs=1e-9)
    assert law.correlation == pytest.approx([0, 0], abs=1e-9)
    # det G = 1: log p(x) is -|z|^2 / 2, of variance 1
    assert law.explained[0] > law.explained[1]
    second = integrate.quad(lambda z: stats.norm.pdf(z) * (math.log1p((0.8 * z) ** 2) / 2) ** 2, -12, 12)[0]
    assert law.explained[1] == pytest.approx(1 - (second - law.gap[1] ** 2), rel=1e-6)


def test_turns_cost_both_as_samples_have_it() -> None:
    law = sensitivity("turned", (0.1, 0.4))
    z = np.random.default_rng(0).standard_normal((200_000, 2))
    for k, t in enumerate(law.parameter):
        from vaeprobe.geometry.sensitivity import FAMILIES

        G = torch.from_numpy(FAMILIES["turned"](t, z))
        assert float(ima_contrast(G).mean()) == pytest.approx(law.gap[k], rel=0.02)
        factors = -(z**2) / 2 - np.log(np.sqrt(np.stack([G[:, 0, 0], G[:, 1, 1]], 1)))
        assert abs(np.corrcoef(factors.T)[0, 1]) == pytest.approx(law.correlation[k], abs=0.01)
    assert law.gap[0] < law.gap[1]
    assert law.cross[0] < law.cross[1]


def test_a_violation_is_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        sensitivity("polar", (0.0,))


def test_the_law_is_finite_where_far_nodes_lose_their_digits() -> None:
    for family in ("polar", "sheared", "turned"):
        law = sensitivity(family, (0.9, 1.3))
        assert all(math.isfinite(x) for column in (law.gap, law.cross, law.explained) for x in column)


def test_too_few_latents_tell_no_dependence_at_random_axes_either() -> None:
    G = torch.eye(6, dtype=torch.float64).expand(5, 6, 6) * torch.arange(1.0, 6)[:, None, None]
    R = torch.stack([maps.haar(6, seed=i) for i in range(4)])
    found = grades(torch.randn(5, 6).double(), G, torch.zeros(5).double(), R)
    assert found.dependence.value == found.dependence.null == 0
