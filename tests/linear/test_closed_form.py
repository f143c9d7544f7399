"""Closed forms against scikit-learn, against direct evaluation, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaeprobe.data import in_memory
from vaeprobe.errors import InputError, UsageError
from vaeprobe.linear import closed_form, spectrum
from vaeprobe.linear.closed_form import beta_elbo, log_likelihoods, solve
from vaeprobe.linear.eigenpairs import Spectrum

from linear_rows import LAMBDA, dense_loglik, rows_with


def spectrum_of(X: np.ndarray, k: int = 3, **how: str) -> Spectrum:
    return spectrum.compute(in_memory(X), k, **how)


# -- against scikit-learn ---------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "d"), [(500, 12, 4), (60, 200, 10), (1000, 3, 1), (13, 12, 11)])
def test_ppca_equals_scikit_learn(n: int, m: int, d: int) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, m)) @ rng.normal(size=(m, m)) + 7
    theirs = decomposition.PCA(d, svd_solver="full").fit(X)
    found = spectrum_of(X, d)
    ours = solve(found, d)
    larger = n / (n - 1)  # they divide by n - 1
    np.testing.assert_allclose(ours.values * larger, theirs.explained_variance_, rtol=1e-8)
    np.testing.assert_allclose(np.abs(np.sum(ours.vectors * theirs.components_.T, axis=0)), 1, atol=1e-8)
    # sklearn averages the discarded eigenvalues over min(n, m) - d of them, the likelihood over m - d
    assert ours.sigma2 * larger * (m - d) == pytest.approx(theirs.noise_variance_ * (min(n, m) - d), rel=1e-8)
    if n > m:
        scaled = solve(_rescaled(found, larger), d)
        own_score = log_likelihoods(X, scaled.mean, scaled.W, scaled.sigma2).mean()
        assert own_score == pytest.approx(theirs.score(X), rel=1e-8)
        assert ours.loglik >= theirs.score(X)  # ours is the maximum


def _rescaled(found: Spectrum, factor: float) -> Spectrum:
    return Spectrum(**{**vars(found), "values": found.values * factor, "total": found.total * factor})


@pytest.mark.parametrize("eps", [1e-3, 1e-6, 1e-8, 1e-10])
@pytest.mark.parametrize(("n", "m"), [(300, 20), (25, 60)], ids=["tall", "wide"])
def test_the_likelihood_of_rows_keeps_the_digits_of_a_small_noise(eps: float, n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 3)) @ rng.standard_normal((3, m)) + eps * rng.standard_normal((n, m))
    s = solve(spectrum_of(X, 3), 3)
    rows = log_likelihoods(X, s.mean, s.W, s.sigma2)
    # what rounding of the rows is worth in units of the noise
    assert rows.mean() == pytest.approx(s.loglik, rel=1e-9, abs=m * 1e-14 / eps)
    # in the basis of the singular vectors the covariance is diagonal
    Y = X - X.mean(0)
    singular = np.append(np.linalg.svd(Y, compute_uv=False), np.zeros(max(0, m - n)))[:m] ** 2 / n
    noise = singular[3:].mean()
    truth = -0.5 * (m * math.log(2 * math.pi) + np.log(singular[:3]).sum() + (m - 3) * math.log(noise) + m)
    assert rows.mean() == pytest.approx(truth, rel=1e-5)


# -- against direct evaluation ----------------------------------------------------------------------


@given(beta=st.floats(0.3, 6), sigma2=st.floats(0.05, 4), d=st.integers(1, 7))
def test_closed_forms_equal_what_they_stand_for(beta: float, sigma2: float, d: int) -> None:
    X = rows_with(LAMBDA, offset=3.0)
    found = spectrum_of(X)
    s = solve(found, d, beta=beta, sigma2=sigma2)
    covariance = s.W @ s.W.T + sigma2 * np.eye(7)
    assert s.loglik == pytest.approx(dense_loglik(X, s.mean, covariance), rel=1e-11)
    assert s.loglik == pytest.approx(log_likelihoods(X, s.mean, s.W, sigma2).mean(), rel=1e-11)
    assert s.elbo == pytest.approx(beta_elbo(found, s.model(), beta), rel=1e-11)
    lam = np.array(LAMBDA[:d])
    np.testing.assert_allclose(s.square_norms, np.maximum(lam - beta * sigma2, 0), atol=1e-12)
    np.testing.assert_allclose(s.variance, np.minimum(beta * sigma2 / lam, 1), rtol=1e-10)
    np.testing.assert_allclose(s.kl, 0.5 * np.log(np.maximum(lam / (beta * sigma2), 1)), atol=1e-10)
    assert int(s.active.sum()) == int((lam > beta * sigma2 * (1 + 1e-12)).sum())


@given(beta=st.floats(0.5, 3), seed=st.integers(0, 99))
def test_no_neighbour_is_better(beta: float, seed: int) -> None:
    found = spectrum_of(rows_with(LAMBDA))
    s = solve(found, 4, beta=beta)
    rng = np.random.default_rng(seed)
    m = s.model()
    for size in (1e-3, 0.3):
        near = closed_form.LinearModel(
            mean=m.mean,
            W=m.W + size * rng.normal(size=m.W.shape),
            sigma2=m.sigma2 * math.exp(size * rng.normal()),
            E=m.E + size * rng.normal(size=m.E.shape),
            variance=m.variance * np.exp(size * rng.normal(size=4)),
        )
        assert beta_elbo(found, near, beta) < s.elbo


def test_at_beta_1_the_elbo_is_the_likelihood() -> None:
    s = solve(spectrum_of(rows_with(LAMBDA)), 4)
    assert s.elbo == pytest.approx(s.loglik, abs=1e-12)
    assert s.sigma2 == pytest.approx(np.mean(LAMBDA[4:]), rel=1e-12)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.3, 2.0, 4.0])
def test_learned_sigma2_is_the_best_of_a_fine_grid(beta: float) -> None:
    found = spectrum_of(rows_with(LAMBDA))
    s = solve(found, 4, beta=beta)
    grid = [solve(found, 4, beta=beta, sigma2=float(v)).elbo for v in np.geomspace(0.01, 30, 4000)]
    assert s.elbo >= max(grid)
    assert s.elbo - max(grid) < 1e-4


def test_theorem_3_holds_for_fixed_sigma2_and_fails_for_a_learned_one() -> None:
    found = spectrum_of(rows_with(LAMBDA))
    one, other = solve(found, 4, beta=3, sigma2=0.4), solve(found, 4, beta=1, sigma2=1.2)
    np.testing.assert_allclose(one.W, other.W, atol=1e-14)
    np.testing.assert_allclose(one.variance, other.variance, atol=1e-14)
    learned, plain = solve(found, 4, beta=3), solve(found, 4)
    assert not np.isclose(learned.tau, plain.sigma2, rtol=0.2)


# -- edges ------------------------------------------------------------------------------------------


def test_collapse_is_at_the_threshold_exactly() -> None:
    on = solve(spectrum_of(rows_with(LAMBDA)), 5, beta=2, sigma2=0.75)
    assert on.active.tolist() == [True, True, True, False, False]
    s = solve(spectrum_of(rows_with(LAMBDA)), 5, beta=2, sigma2=0.75 + 1e-9)
    assert s.active.tolist() == [True, True, True, False, False]
    assert s.variance[3] == 1
    assert not s.W[:, 3:].any()


def test_a_float32_column_with_a_large_offset_keeps_its_variance() -> None:
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(20_000, 5)) * [1, 0.3, 2, 1, 1] + [1e4, 1e4, 0, -1e4, 0]).astype(np.float32)
    for solver in ("exact", "randomized"):
        found = spectrum_of(X, 5, solver=solver)
        truth = np.linalg.eigvalsh(np.cov(X.astype(np.float64).T, bias=True))[::-1]
        np.testing.assert_allclose(found.values, truth, rtol=1e-3)


@pytest.mark.parametrize("solver", ["exact", "dual"])
def test_equal_rows_constant_columns_and_one_row(solver: str) -> None:
    with pytest.raises(InputError, match="all rows are equal"):
        spectrum_of(np.full((5, 3), 0.1), solver=solver)
    with pytest.raises(InputError, match="two rows or more, and there is 1"):
        spectrum_of(np.ones((1, 3)), solver=solver)
    X = np.hstack([rows_with(LAMBDA), np.full((400, 1), 7.5)])
    found = spectrum_of(X, solver=solver)
    np.testing.assert_allclose(found.values[:7], LAMBDA, rtol=1e-10)
    assert found.rank == 7
    assert solve(found, 4).sigma2 == pytest.approx(sum(LAMBDA[4:]) / 4, rel=1e-10)  # the constant one counts


def test_duplicated_rows_change_nothing() -> None:
    X = rows_with(LAMBDA, n=50)
    once, twice = solve(spectrum_of(X), 3), solve(spectrum_of(np.vstack([X, X])), 3)
    assert twice.sigma2 == pytest.approx(once.sigma2, rel=1e-12)
    assert twice.loglik == pytest.approx(once.loglik, rel=1e-12)


def test_more_latents_than_the_data_have_dimensions() -> None:
    found = spectrum_of(np.random.default_rng(0).normal(size=(5, 20)))
    with pytest.raises(InputError, match="sigma2 has no best value above 0: with 6 latents the 5 rows"):
        solve(found, 6)
    s = solve(found, 6, sigma2=0.01)  # a fixed one has an answer
    assert s.W.shape == (20, 6)
    assert s.active.tolist() == [True] * 4 + [False] * 2
    np.testing.assert_allclose(s.vectors.T @ s.vectors, np.eye(6), atol=1e-12)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"d": 0}, "0 latents"),
        ({"d": 8}, "8 latents"),
        ({"d": 7}, "nothing is left over"),
        ({"d": 2, "beta": 0.0}, "beta must be positive"),
        ({"d": 2, "sigma2": -1.0}, "sigma2 must be positive"),
        ({"d": 2, "sigma2": 1e-320}, "too small"),
    ],
)
def test_settings_that_make_no_sense(how: dict[str, float], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        solve(spectrum_of(rows_with(LAMBDA)), **how)  # type: ignore[arg-type]
