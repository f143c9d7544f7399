"""Eigenvalues that a covariance in float64 cannot hold, against singular values; sizes that no number can hold."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import vaeprobe
from vaeprobe.data import in_memory, open_data
from vaeprobe.errors import InputError, ResourceError
from vaeprobe.linear import dimension, eigenpairs, missing, moments, spectrum
from vaeprobe.probes.train_linear import TrainLinear

SOLVERS = ("exact", "dual", "randomized")


def low_noise(eps: float, n: int = 300, m: int = 20, offset: float = 0.0) -> np.ndarray:
    """Rank 3 and noise of relative size eps."""
    rng = np.random.default_rng(1)
    Y = rng.normal(size=(n, 3)) @ rng.normal(size=(3, m))
    return Y + eps * rng.normal(size=Y.shape) + offset


def mixed_units(n: int = 500, m: int = 10) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(n, m)) @ rng.normal(size=(m, m))) * np.logspace(-8, 8, m)


def by_singular_values(Y: np.ndarray, k: int) -> float:
    centred = Y - Y.mean(axis=0)
    centred -= centred.mean(axis=0)
    s = np.linalg.svd(centred, compute_uv=False) ** 2 / len(Y)
    return float(s[k:].sum() / (Y.shape[1] - k))


# -- small noise and mixed units ----------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "m"), [(300, 20), (30, 200)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-7, 1e-9, 1e-10])
def test_small_noise(eps: float, offset: float, n: int, m: int, solver: str) -> None:
    Y = low_noise(eps, n, m, offset)
    found = vaeprobe.PPCA(3, solver=solver).fit(Y)
    # a singular value is exact to some eps of the largest, beside which the noise is `eps`; the sum of the noise's
    # squares is the more so.  An offset rounds the data themselves
    tolerance = 1e-9 + 4e-16 / eps * (1 + offset)
    assert found.noise_variance_ == pytest.approx(by_singular_values(Y, 3), rel=tolerance)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("k", [1, 3, 5, 6])
def test_mixed_units(k: int, solver: str) -> None:
    Y = mixed_units()
    seen = vaeprobe.PPCA(k, solver=solver).fit(Y).noise_variance_
    assert seen == pytest.approx(by_singular_values(Y, k), rel=1e-6)


@pytest.mark.parametrize("k", [1, 10, 30])
def test_mixed_units_of_wide_data_by_products(k: int) -> None:
    Y = mixed_units(100, 300)
    seen = vaeprobe.PPCA(k, solver="randomized").fit(Y).noise_variance_
    assert seen == pytest.approx(by_singular_values(Y, k), rel=1e-6)


def test_agrees_with_scikit_learn() -> None:
    pca = pytest.importorskip("sklearn.decomposition").PCA
    for Y, k in ((low_noise(1e-6), 3), (mixed_units(), 4)):
        theirs = pca(k, svd_solver="full").fit(Y)
        ours = vaeprobe.PPCA(k).fit(Y)
        n = len(Y)
        assert ours.noise_variance_ == pytest.approx(theirs.noise_variance_ * (n - 1) / n, rel=1e-8)
        np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-8)


def test_exact_rank_is_still_an_exact_fit() -> None:
    for solver in SOLVERS:
        with pytest.raises(InputError, match="fitted exactly"):
            vaeprobe.PPCA(3, solver=solver).fit(low_noise(0.0))


def test_the_second_pass_is_taken_where_the_bound_says(tmp_path: Path) -> None:
    # sqrt(m) eps lambda_1 = 1e-9 of the smallest eigenvalue that matters
    m, n = 20, 4000
    rng = np.random.default_rng(0)
    Z = np.linalg.qr(rng.normal(size=(n, m)) - 0.0)[0]
    Z = np.linalg.qr(Z - Z.mean(axis=0))[0] * np.sqrt(n)
    edge = np.sqrt(m) * np.finfo(float).eps / eigenpairs.DIGITS
    for factor, taken in ((1.2, False), (1 / 1.2, True)):
        values = np.append(np.ones(2), np.full(m - 2, factor * edge))
        found = spectrum.compute(in_memory(Z * np.sqrt(values)), 3)
        assert found.singular == taken
        assert found.rest(2) == pytest.approx((m - 2) * factor * edge, rel=1e-8)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(3000, 40), (40, 120)])
def test_files_in_pieces_are_as_exact(tmp_path: Path, kind: type, shape: tuple[int, int]) -> None:
    Y = low_noise(1e-4 if kind == np.float32 else 1e-7, *shape).astype(kind)
    for i, part in enumerate(np.array_split(Y, 3)):
        np.save(tmp_path / f"part{i}.npy", part)
    result = TrainLinear(latent_dim=3).measure(str(tmp_path / "part*.npy"))
    right = by_singular_values(Y.astype(np.float64), 3)
    assert result["train_linear.sigma2"].value == pytest.approx(right, rel=1e-8)
    said = [f.message for f in result.findings if f.code == "singular-values"]
    assert bool(said) == (result.fit.spectrum.singular)
    assert "singular values of the rows" in (result["train_linear.eigenvalues"].method or "") or not said


def test_large_float32_data_are_multiplied_again_where_float32_loses_the_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moments, "FLOAT64_WORK", 0.0)
    for eps, precision in ((1e-1, "float32"), (1e-4, "float64")):
        Y = low_noise(eps).astype(np.float32)
        found = spectrum.compute(in_memory(Y), 4)
        assert found.precision == precision
        assert found.rest(3) / 17 == pytest.approx(by_singular_values(Y.astype(float), 3), rel=1e-4)


# -- how many latents ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [2.7, 3.0, 0.0, 1.0, -1, 0, 11, "x", float("nan"), float("inf")])
def test_what_is_no_number_of_components(value: object) -> None:
    with pytest.raises(ValueError, match="n_components"):
        vaeprobe.PPCA(value).fit(mixed_units())  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [True, False, np.True_, [3], None.__class__])
def test_what_is_no_kind_of_components(value: object) -> None:
    with pytest.raises(TypeError, match="n_components"):
        vaeprobe.PPCA(value).fit(mixed_units())  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.98])
@pytest.mark.parametrize("solver", ["exact", "dual"])
def test_a_fraction_is_a_share_of_the_variance(share: float, solver: str) -> None:
    Y = np.random.default_rng(0).normal(size=(200, 12)) * np.linspace(1, 4, 12)
    s = np.linalg.svd(Y - Y.mean(axis=0), compute_uv=False) ** 2
    found = vaeprobe.PPCA(share, solver=solver).fit(Y)
    assert found.n_components_ == int(np.searchsorted(np.cumsum(s) / s.sum(), share) + 1)
    assert found.explained_variance_ratio_.sum() >= share
    assert found.explained_variance_ratio_[:-1].sum() < share


def test_mle_is_auto() -> None:
    Y = low_noise(0.1)
    assert vaeprobe.PPCA("mle").fit(Y).n_components_ == vaeprobe.PPCA("auto").fit(Y).n_components_ == 3


@pytest.mark.parametrize("offset", [0.0, 0.1, 100.0, 1e6])
@pytest.mark.parametrize("solver", SOLVERS)
def test_constant_columns_do_not_count(solver: str, offset: float) -> None:
    Y = low_noise(0.1, offset=offset)
    wide = np.hstack([Y[:, :7], np.full((len(Y), 4), offset), Y[:, 7:]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = spectrum.compute(in_memory(wide), 5, solver=solver)
        assert (found.m, found.free) == (24, 20)
        assert dimension.choose(found, in_memory(wide)).dimension == 3
        np.testing.assert_allclose(
            dimension.bic(found, 5),
            dimension.bic(spectrum.compute(in_memory(Y), 5, solver=solver), 5),
            rtol=1e-9,
        )


def test_bic_counts_its_parameters() -> None:
    # mean, m k - k (k - 1)/2 numbers of k orthogonal columns, sigma^2: the rank of the map from them to N(mu, C)
    m, n = 5, 400
    found = spectrum.compute(in_memory(np.random.default_rng(0).normal(size=(n, m)) * [3, 2, 1, 0.5, 0.5]), 4)
    for k in range(1, 4):
        rng = np.random.default_rng(k)

        def covariance(p: np.ndarray, k: int = k) -> np.ndarray:
            W = p[: m * k].reshape(m, k)
            return (W @ W.T + p[-1] * np.eye(m))[np.triu_indices(m)]

        at = rng.normal(size=m * k + 1)
        J = np.stack(
            [(covariance(at + 1e-6 * e) - covariance(at - 1e-6 * e)) / 2e-6 for e in np.eye(len(at))]
        )
        free = np.linalg.matrix_rank(J, tol=1e-6) + m
        penalty = dimension.bic(found, 4)[k - 1] + 2 * n * dimension.profile_loglik(found, 4)[k - 1]
        assert penalty == pytest.approx(free * np.log(n))


@pytest.mark.parametrize("dropped", [(), (3, 400, 999)])
def test_folds_do_not_depend_on_who_reads_the_rows(dropped: tuple[int, ...], tmp_path: Path) -> None:
    Y = low_noise(0.1, n=1000)
    Y[list(dropped)] = np.nan
    np.save(tmp_path / "x.npy", Y)
    data = open_data(tmp_path / "x.npy", nonfinite="drop")
    whole = moments.accumulate(data, folds=5, seed=2)
    halves = [moments.accumulate(data.share(rank, 2), folds=5, seed=2) for rank in range(2)]
    for k in range(5):
        both = halves[0][k] + halves[1][k]
        assert both.n == whole[k].n
        np.testing.assert_allclose(both.scatter, whole[k].scatter, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_two_processes_choose_as_one(tmp_path: Path) -> None:
    import json

    Y = np.hstack([low_noise(1e-6, n=400), np.full((400, 2), 0.3)])
    for i, part in enumerate(np.array_split(Y, 4)):
        np.save(tmp_path / f"part{i}.npy", part)
    module = ["-m", "vaeprobe", "train-linear", str(tmp_path / "part*.npy"), "--json", "--no-progress"]
    found = []
    for start in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        done = subprocess.run([sys.executable, *start, *module], capture_output=True, text=True, check=True)
        metrics = json.loads(done.stdout)["metrics"]
        found.append([metrics[f"train_linear.{name}"]["value"] for name in ("latent_dim", "sigma2")])
    assert found[0][0] == found[1][0] == 3
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-8)


# -- sizes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", *SOLVERS])
def test_overflow_is_refused(solver: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape in ((50, 10), (10, 50)):
            with pytest.raises(InputError, match="overflow"):
                vaeprobe.PPCA(3, solver=solver).fit(1e160 * np.random.default_rng(0).normal(size=shape))


@pytest.mark.parametrize("solver", ["auto", *SOLVERS])
def test_squares_without_digits_are_refused(solver: str) -> None:
    for shape in ((50, 10), (10, 50)):
        rows = np.random.default_rng(0).normal(size=shape)
        for size in (1e-150, 1e-160):
            with pytest.raises(InputError, match=r"below the smallest|all rows are equal"):
                vaeprobe.PPCA(3, solver=solver).fit(size * rows)
        vaeprobe.PPCA(3, solver=solver).fit(1e-144 * rows)


def test_gaps_among_squares_without_digits_are_refused() -> None:
    X = np.random.default_rng(0).normal(size=(50, 10))
    X[0, 0] = np.nan
    with pytest.raises(InputError, match="below the smallest"):
        missing.fit(1e-150 * X, 3)
    assert missing.fit(1e-144 * X, 3, steps=3).sigma2 > 0


def test_a_covariance_that_memory_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(50, 100))
    monkeypatch.setattr(moments, "physical_memory", lambda: 4 * 8 * 100**2)
    spectrum.compute(in_memory(X), 3, solver="exact")
    monkeypatch.setattr(moments, "physical_memory", lambda: 4 * 8 * 100**2 - 1)
    with pytest.raises(
        ResourceError, match=r"100 columns and its eigenvectors take about 0\.0 GB"
    ) as refused:
        spectrum.compute(in_memory(X), 3, solver="exact")
    assert "--solver randomized" in str(refused.value.hint)
    spectrum.compute(in_memory(X), 3, solver="randomized")


@pytest.mark.parametrize("size", [1e-140, 1e140])
@pytest.mark.parametrize("solver", SOLVERS)
def test_large_and_small_units_are_fitted(size: float, solver: str) -> None:
    Y = low_noise(0.1)
    one, other = (vaeprobe.PPCA(3, solver=solver).fit(X).noise_variance_ for X in (Y, Y * size))
    assert other == pytest.approx(one * size**2, rel=1e-9)


def test_squares_below_the_smallest_number_are_named() -> None:
    with pytest.raises(InputError) as error:
        vaeprobe.PPCA(1).fit(1e-200 * np.random.default_rng(0).normal(size=(20, 3)))
    assert "squares" in (error.value.hint or "")
