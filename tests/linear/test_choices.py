"""Number of latents, identifiability and missing values against references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vaeprobe.data import in_memory
from vaeprobe.errors import InputError, UsageError
from vaeprobe.linear import closed_form, dimension, identifiability, missing, spectrum

from linear_rows import dense_loglik, rows_with


def generated(n: int, m: int = 15, d: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    W = np.linalg.qr(rng.normal(size=(m, d)))[0] * [5.0, 4.0, 3.0, 2.0][:d]
    return rng.normal(size=(n, d)) @ W.T + 0.5 * rng.normal(size=(n, m)) + 3


# -- how many latents -------------------------------------------------------------------------------


def test_minka_equals_scikit_learn() -> None:
    pca = pytest.importorskip("sklearn.decomposition._pca")
    found = spectrum.compute(in_memory(generated(300)), 5)
    ours = dimension.minka_evidence(found.values, 300, 15)
    theirs = [pca._assess_dimension(found.values, k, 300) for k in range(1, 15)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_all_criteria_find_the_dimension_of_a_generator() -> None:
    data = in_memory(generated(600))
    choice = dimension.choose(spectrum.compute(data, 5), data)
    assert (choice.best("minka"), choice.best("bic"), choice.best("held-out")) == (4, 4, 4)
    assert (choice.by, choice.dimension) == ("minka", 4)


@pytest.mark.parametrize("n", [40, 12])
def test_held_out_likelihood_equals_a_loop_over_folds(n: int) -> None:
    """By moments (n > m) and by rows (n < m): the two ways agree with plain refitting."""
    X = generated(n)
    data = in_memory(X)
    found = spectrum.compute(data, 5)
    choice = dimension.choose(found, data, seed=1)
    assert choice.held_out is not None
    assert (choice.minka is None) == (n < 15)
    from vaeprobe.intervals import stream

    rng = stream(1, "folds")
    owner = rng.integers(5, size=n) if n > 15 else rng.permutation(n) % 5
    for k in (1, 3):
        scores = []
        for fold in range(5):
            s = closed_form.solve(spectrum.compute(in_memory(X[owner != fold]), k), k)
            scores.append(dense_loglik(X[owner == fold], s.mean, s.W @ s.W.T + s.sigma2 * np.eye(15)))
        assert choice.held_out[k - 1] == pytest.approx(np.mean(scores), rel=1e-9)


def test_no_noise_no_choice() -> None:
    data = in_memory(np.random.default_rng(0).normal(size=(50, 1)) @ np.ones((1, 6)))
    with pytest.raises(InputError, match="leave no noise"):
        dimension.choose(spectrum.compute(data, 2), data)


# -- what is identified -----------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_choice_among_rows_without_noise_says_so(noise: float) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 8)) + noise * rng.normal(size=(200, 8))
    data = in_memory(X)
    chosen = dimension.choose(spectrum.compute(data, 8), data)
    assert ("; 3 latents fit the rows exactly, with no noise" in chosen.reason) == (noise == 0)
    assert chosen.dimension == (2 if noise == 0 else 3)


def test_intervals_cover_and_tied_eigenvalues_are_found_tied() -> None:
    truth = np.array([9.0, 4.0, 4.0, 1.0, 0.5, 0.5])
    covered, joined, split = 0, 0, 0
    for seed in range(100):
        X = np.random.default_rng(seed).normal(size=(1000, 6)) * np.sqrt(truth)
        found = spectrum.compute(in_memory(X), 4)
        ident = identifiability.of_spectrum(found, 4, [True] * 4)
        low, high = ident.intervals[0]
        covered += bool(low <= 9 <= high)
        joined += (1, 2) in ident.blocks
        split += ident.alone(np.array([True] * 4)) == 2
    assert covered >= 89  # 95 % of 100, three standard errors below
    assert joined >= 85
    assert split >= 85


def test_blocks_reach_into_the_discarded_directions() -> None:
    found = spectrum.compute(in_memory(rows_with((9.0, 2.0, 1.99, 1.98, 0.1))), 3)
    ident = identifiability.of_spectrum(found, 3, [True, True, True])
    assert ident.blocks == ((1, 3),)
    assert ident.alone(np.array([True] * 3)) == 1
    assert identifiability.of_spectrum(found, 3, [True, False, False]).blocks == ()


def test_a_block_of_active_columns_reaches_into_collapsed_ones() -> None:
    found = spectrum.compute(in_memory(rows_with((9.0, 2.0, 1.99, 0.1))), 3)
    ident = identifiability.of_spectrum(found, 3, [True, True, False])
    assert ident.blocks == ((1, 2),)
    assert ident.alone(np.array([True, True, False])) == 1


@pytest.mark.parametrize(("n", "m", "d"), [(2, 12, 1), (4, 3, 3), (4, 12, 3), (10, 10, 9), (20, 21, 19)])
def test_columns_of_noise_are_rarely_determined(n: int, m: int, d: int) -> None:
    # the rows run out of rank: an eigenvalue of 0 is no gap
    wrong, edge = np.zeros(d), 0
    for seed in range(200):
        data = in_memory(np.random.default_rng(seed).normal(size=(n, m)))
        ident = identifiability.of_spectrum(spectrum.compute(data, d), d, [True] * d)
        inside = {i for first, last in ident.blocks for i in range(first, last + 1)}
        wrong += [i not in inside for i in range(d)]
        edge += d - 1 not in inside
    assert wrong.max() <= 20  # 10 % of 200; the test's level is 5 %
    assert edge == 0 or m == d


@pytest.mark.parametrize(("n", "blocks"), [(9, ()), (5, ()), (4, ()), (3, ((1, 2),)), (2, ((0, 1),))])
def test_few_rows_determine_the_columns_of_a_strong_signal(
    n: int, blocks: tuple[tuple[int, int], ...]
) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 40)) + rng.normal(size=(n, 2)) * (1e7, 3e3) @ np.eye(2, 40)
    d = min(2, n - 1)
    ident = identifiability.of_spectrum(spectrum.compute(in_memory(X), d), d, [True] * d)
    assert ident.blocks == blocks
    assert ident.alone(np.array([True] * d)) == (d if n > 3 else d - 1)


def test_the_test_of_equal_neighbours_is_exact_for_few_rows() -> None:
    for n, values in ((5, (4.0, 4.0)), (8, (1e6, 4.0, 4.0)), (8, (1e6, 4.0, 4.0, 1e-6))):
        first, p = len(values) > 2, []
        for seed in range(400):
            X = np.random.default_rng(seed).normal(size=(n, len(values))) * np.sqrt(values)
            found = spectrum.compute(in_memory(X), 2 + first)
            p.append(identifiability.of_spectrum(found, 2 + first, [True] * 3).p_values[int(first)])
        for level in (0.05, 0.5):
            share = np.mean(np.array(p) <= level)
            assert abs(share - level) <= 3.5 * np.sqrt(level * (1 - level) / 400), (n, values, level)


def test_noise_with_missing_values_is_not_determined_and_a_signal_is() -> None:
    X = np.random.default_rng(0).normal(size=(80, 12))
    X[np.random.default_rng(1).random(X.shape) < 0.1] = np.nan
    for scale, alone in ((1.0, 0), ([9.0, 5.0] + [1.0] * 10, 2)):
        found = missing.fit(in_memory(X * scale, nonfinite="keep"), 2).spectrum
        assert identifiability.of_spectrum(found, 2, [True] * 2).alone(np.array([True] * 2)) == alone


def test_the_last_direction_of_few_rows_has_no_angle_of_its_own() -> None:
    data = in_memory(np.random.default_rng(0).normal(size=(4, 12)) * ([100.0, 10.0] + [1.0] * 10))
    angles, _ = identifiability.bootstrap_angles(data, spectrum.compute(data, 3), 3)
    assert angles[2] == np.pi / 2
    assert angles[0] < 0.5


def test_a_column_that_resampled_rows_turn_far_is_not_determined() -> None:
    # one row far from all others makes an axis of its own, which the test of normal rows takes for certain
    X = np.random.default_rng(0).normal(size=(200, 4)) * (3.0, 1.0, 1.0, 1.0)
    X[0, 3] = 60.0
    data = in_memory(X)
    found = spectrum.compute(data, 2)
    by_test = identifiability.of_spectrum(found, 2, [True] * 2)
    assert by_test.alone(np.array([True] * 2)) == 2
    angles, _ = identifiability.bootstrap_angles(data, found, 2)
    both = replace(by_test, angles=angles)
    assert both.loose == (0, 1)
    assert both.alone(np.array([True] * 2)) == 0
    steady = replace(by_test, angles=np.full(2, identifiability.LOOSE))
    assert steady.loose == ()
    assert steady.alone(np.array([True] * 2)) == 2


def test_bootstrap_angles_match_the_asymptotic_ones() -> None:
    values = (9.0, 4.0, 1.0, 0.25)
    X = np.random.default_rng(0).normal(size=(2000, 4)) * np.sqrt(values)
    data = in_memory(X)
    found = spectrum.compute(data, 2)
    angles, directions = identifiability.bootstrap_angles(data, found, 2, resamples=400)
    assert directions == 4
    rng = np.random.default_rng(1)
    for i in range(2):
        others = [j for j in range(4) if j != i]
        sd = np.array([np.sqrt(values[i] * values[j] / 2000) / abs(values[i] - values[j]) for j in others])
        expected = np.quantile(np.linalg.norm(rng.normal(size=(20_000, 3)) * sd, axis=1), 0.95)
        assert angles[i] == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("exponent", [-124, -80, -40, 40, 63, 80, 122])
def test_bootstrap_angles_do_not_depend_on_units(exponent: int) -> None:
    # squares of float32 numbers overflow, or come to nothing: angles were 0, as if columns were certain
    X = (np.random.default_rng(0).normal(size=(300, 5)) * np.linspace(3, 1, 5)).astype(np.float32)

    def angles(X: np.ndarray) -> np.ndarray:
        data = in_memory(X)
        return identifiability.bootstrap_angles(data, spectrum.compute(data, 3), 3)[0]

    np.testing.assert_allclose(angles(np.ldexp(X, exponent)), angles(X), rtol=1e-4)


def test_some_rows_of_many_say_how_far_the_columns_of_all_stray(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(40_000, 4)) * np.sqrt((9.0, 4.0, 1.0, 0.25))
    found = spectrum.compute(in_memory(X), 2)
    of_all, _ = identifiability.bootstrap_angles(in_memory(X), found, 2, resamples=400)
    monkeypatch.setattr(identifiability, "MOST_ROWS", 4_000)
    monkeypatch.setattr(identifiability, "BLOCK", 64)
    of_some, _ = identifiability.bootstrap_angles(in_memory(X), found, 2, resamples=400)
    np.testing.assert_allclose(of_some, of_all, rtol=0.15)
    assert (of_some != of_all).all()


# -- missing values ---------------------------------------------------------------------------------


def test_without_gaps_em_finds_the_closed_form() -> None:
    X = generated(200)
    found = missing.fit(X, 4)
    s = closed_form.solve(spectrum.compute(in_memory(X), 4), 4)
    assert found.loglik == pytest.approx(s.loglik, rel=1e-10)
    assert found.sigma2 == pytest.approx(s.sigma2, rel=1e-6)
    assert found.missing == 0


def test_with_gaps_the_likelihood_is_that_of_the_observed_values_and_stationary() -> None:
    rng = np.random.default_rng(0)
    X = generated(150, m=8, d=2)
    X[rng.random(X.shape) < 0.25] = np.nan
    X[7] = np.nan  # a row without any value says nothing
    found = missing.fit(X, 2)
    spec = found.spectrum
    assert found.converged
    assert spec.n == 149

    def observed(mean: np.ndarray, covariance: np.ndarray) -> float:
        total = 0.0
        for row in X:
            seen = np.flatnonzero(np.isfinite(row))
            if len(seen):
                total += dense_loglik(row[seen][None], mean[seen], covariance[np.ix_(seen, seen)])
        return total / 149

    W = spec.vectors[:, :2] * np.sqrt(spec.values[:2] - found.sigma2)
    best = observed(spec.mean, W @ W.T + found.sigma2 * np.eye(8))
    assert best == pytest.approx(found.loglik, rel=1e-9)
    for size in (3e-3, 0.1):
        moved = W + size * rng.normal(size=W.shape)
        near = observed(spec.mean + size * rng.normal(size=8), moved @ moved.T + found.sigma2 * np.eye(8))
        assert near < best


def test_where_the_data_lie_does_not_matter_to_em() -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 8)) + 1e-2 * rng.normal(size=(200, 8))
    X[rng.random(X.shape) < 0.1] = np.nan
    here, there = missing.fit(X, 3), missing.fit(X + 1e7, 3)
    assert here.converged
    assert there.converged
    assert there.loglik == pytest.approx(here.loglik, abs=1e-5)
    assert there.sigma2 == pytest.approx(here.sigma2, rel=1e-5)
    np.testing.assert_allclose(there.spectrum.mean, here.spectrum.mean + 1e7, rtol=1e-13)


def test_em_of_columns_of_other_scales_says_the_likelihood_of_its_parameters() -> None:
    rng = np.random.default_rng(5)
    X = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(200, 6))
    X[rng.random(X.shape) < 0.2] = np.nan
    X[:, 5] *= 1e5
    fits = [missing.fit(X[rng.permutation(200)], 2) for _ in range(2)]
    assert fits[0].loglik == pytest.approx(fits[1].loglik, abs=1e-6)
    for found in fits:
        assert found.converged
        spec = found.spectrum
        W = spec.vectors[:, :2] * np.sqrt(spec.values[:2] - found.sigma2)
        total = 0.0
        for row in X:
            seen = np.flatnonzero(np.isfinite(row))
            # in units in which the covariance is 1 on its diagonal
            C = W[seen] @ W[seen].T + found.sigma2 * np.eye(len(seen))
            unit = np.sqrt(np.diagonal(C))
            scaled = ((row - spec.mean)[seen] / unit)[None]
            total += dense_loglik(scaled, np.zeros(len(seen)), C / np.outer(unit, unit)) - np.log(unit).sum()
        assert total / 200 == pytest.approx(found.loglik, abs=1e-4)


def test_latents_that_came_to_rest_at_nothing_are_tried_again() -> None:
    # of 9 latents where 3 are, the other 6 shrank to nothing, and EM was at rest .03 nats below
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 10)) + 1e-3 * rng.normal(size=(300, 10))
    best = closed_form.solve(spectrum.compute(in_memory(X), 9), 9)
    found = missing.fit(X, 9)
    assert found.loglik == pytest.approx(best.loglik, abs=2e-3)
    fixed = missing.fit(X, 4, sigma2=1.0)  # which leaves nothing to the fourth
    assert fixed.converged
    assert fixed.loglik == pytest.approx(
        closed_form.solve(spectrum.compute(in_memory(X), 4), 4, sigma2=1.0).loglik
    )


@pytest.mark.parametrize(
    "X", [[[np.nan, 5.0], [5.0, 5.0], [5.0, 5.0]], [[1.0, np.nan], [np.nan, 2.0]], [[np.nan, 0.1], [0.1, 0.1], [0.1, 0.1]]]
)  # fmt: skip
def test_gaps_among_values_that_do_not_vary_are_refused(X: list[list[float]]) -> None:
    with pytest.raises(InputError, match="no variance to explain"):
        missing.fit(np.array(X), 1)


def test_a_noise_variance_that_em_cannot_take_is_refused_with_one_that_it_can() -> None:
    X = np.random.default_rng(0).normal(size=(30, 4))
    X[0, 0] = np.nan
    for sigma2 in (-1.0, 0.0, np.inf):
        with pytest.raises(UsageError, match="must be positive"):
            missing.fit(X, 2, sigma2=sigma2)
    with pytest.raises(UsageError, match="too small for EM") as refused:
        missing.fit(X, 2, sigma2=1e-13)
    hinted = float(str(refused.value.hint).split()[1])
    assert np.isfinite(missing.fit(X, 2, sigma2=hinted, steps=5).loglik)


def test_at_small_noise_em_comes_to_rest_at_the_optimum_in_any_units() -> None:
    # plain EM called itself converged after 15 steps with a first eigenvalue of 341 where 595 is right
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(200, 3)) @ (rng.normal(size=(3, 30)) * [[4.0], [2.5], [1.0]])
    X = truth + 1e-3 * rng.normal(size=(200, 30))
    full = closed_form.solve(spectrum.compute(in_memory(X), 3), 3)
    complete = np.linalg.eigvalsh(np.cov(X.T, bias=True))[::-1][:3]
    X[rng.random(X.shape) < 0.3] = np.nan
    found = missing.fit(X, 3, steps=100)
    assert found.converged
    np.testing.assert_allclose(found.spectrum.values[:3], complete, rtol=1e-3)
    assert found.sigma2 == pytest.approx(full.sigma2, rel=0.05)
    for exponent in (-200, 80):
        scaled = missing.fit(np.ldexp(X, exponent), 3, steps=100)
        assert scaled.steps == found.steps
        np.testing.assert_allclose(
            np.ldexp(scaled.spectrum.values, -2 * exponent), found.spectrum.values, rtol=1e-9
        )


def test_gaps_recover_the_generator_better_than_dropping_rows() -> None:
    rng = np.random.default_rng(0)
    X = generated(400)
    full = spectrum.compute(in_memory(X), 4)
    X[rng.random(X.shape) < 0.1] = np.nan
    found = missing.fit(X, 4).spectrum
    kept = spectrum.compute(in_memory(X[np.isfinite(X).all(axis=1)]), 4)

    def angle(U: np.ndarray) -> float:
        return float(np.linalg.norm(U[:, :4] - full.vectors[:, :4] @ (full.vectors[:, :4].T @ U[:, :4])))

    assert angle(found.vectors) < angle(kept.vectors) / 2


def test_a_column_without_any_value_is_named() -> None:
    X = generated(20)
    X[:, 3] = np.nan
    with pytest.raises(InputError, match="column 3 "):
        missing.fit(X, 2)
    X[:, 3] = np.inf
    with pytest.raises(InputError, match="infinite"):
        missing.fit(X, 2)


def test_missing_values_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block from the file, in float32 or float64, EM takes the steps that it takes in memory."""
    from vaeprobe.data import open_data

    rng = np.random.default_rng(3)
    X = generated(700)
    X[rng.random(X.shape) < 0.2] = np.nan
    X[5] = np.nan
    np.save(tmp_path / "x.npy", X)
    monkeypatch.setattr(missing, "BLOCK_NUMBERS", 64 * 25)
    whole = missing.fit(X, 4)
    reads = []
    monkeypatch.setattr(missing, "RAW_BYTES", 0)
    data = open_data(tmp_path / "x.npy", nonfinite="keep")
    blocks = type(data).blocks
    monkeypatch.setattr(type(data), "blocks", lambda *a, **k: reads.append(a[1]) or blocks(*a, **k))
    found = missing.fit(data, 4)
    assert set(reads) == {64}
    assert len(reads) == found.steps + 4  # a look, how they vary, the start, and every step
    assert found.loglik == pytest.approx(whole.loglik, rel=1e-12)
    assert found.sigma2 == pytest.approx(whole.sigma2, rel=1e-9)
    np.testing.assert_allclose(found.spectrum.values, whole.spectrum.values, rtol=1e-9)
