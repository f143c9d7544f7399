"""`PPCA` and `LinearVAE` behave as scikit-learn's estimators do, and need no scikit-learn."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

from vaeprobe.errors import InputError, UsageError
from vaeprobe.linear import missing
from vaeprobe.linear.estimators import PPCA, LinearVAE, NotFittedError

from linear_rows import LAMBDA, rows_with


@pytest.mark.parametrize("estimator", [PPCA(), LinearVAE(n_components=1, beta=2.0)], ids=["ppca", "lvae"])
def test_scikit_learn_accepts_the_estimator(estimator: PPCA) -> None:
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = checks.check_estimator(estimator, on_fail=None)
    failed = [r["check_name"] for r in results if r["status"] == "failed"]
    assert not failed
    assert sum(r["status"] == "passed" for r in results) > 30


def test_the_estimators_need_no_scikit_learn() -> None:
    script = """
import sys
sys.modules["sklearn"] = None
import numpy as np
from vaeprobe.linear import missing
from vaeprobe.linear.estimators import PPCA
X = np.random.default_rng(0).normal(size=(50, 4))
model = PPCA(2).fit(X)
print(model, model.transform(X).shape, "torch" in sys.modules)
try:
    PPCA().transform(X)
except (ValueError, AttributeError) as error:
    print(type(error).__name__)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out == "PPCA(n_components=2) (50, 2) False\nNotFittedError\n"


def test_the_score_is_that_of_scikit_learn_on_the_same_covariance() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    X = rows_with(LAMBDA, n=5000)
    theirs, ours = decomposition.PCA(3).fit(X), PPCA(3).fit(X)
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-8)
    np.testing.assert_allclose(ours.explained_variance_ratio_, theirs.explained_variance_ratio_, rtol=1e-8)
    assert ours.noise_variance_ * 5000 / 4999 == pytest.approx(theirs.noise_variance_, rel=1e-8)
    assert ours.score(X) == pytest.approx(theirs.score(X), abs=1e-6)
    assert ours.score(X) >= theirs.score(X)
    assert ours.loglik_ == pytest.approx(ours.score(X), rel=1e-12)


def test_transform_gives_posterior_means_and_sample_the_model() -> None:
    X = rows_with(LAMBDA, offset=2.0)
    model = LinearVAE(3, beta=2.0, sigma2=0.3).fit(X)
    Z = model.transform(X)
    # at the optimum the aggregate posterior has the variance 1 of the prior
    np.testing.assert_allclose(Z.var(axis=0) + model.posterior_variance_, 1, rtol=1e-10)
    shrunk = (model.inverse_transform(Z) - 2.0) @ np.linalg.pinv(model.components_)
    np.testing.assert_allclose(shrunk, Z, atol=1e-10)
    draws = model.sample(200_000, random_state=1)
    np.testing.assert_allclose(np.cov(draws.T), model.get_covariance(), atol=0.1)
    np.testing.assert_array_equal(model.sample(3, random_state=1), model.sample(3, random_state=1))


def test_auto_and_defaults() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 10)) * 3 + 0.1 * rng.normal(size=(500, 10))
    assert PPCA("auto").fit(X).n_components_ == 2
    assert PPCA().fit(X).n_components_ == 9
    assert PPCA().fit(X[:5]).n_components_ == 3
    with pytest.raises(InputError, match="fitted exactly"):
        PPCA(4).fit(X[:5])


@pytest.mark.parametrize(
    ("X", "what"),
    [
        (np.zeros(3), "Reshape your data"),
        (np.zeros((0, 3)), "0 sample"),
        (np.zeros((3, 0)), "0 feature"),
        (np.full((3, 2), np.nan), "NaN"),
        (np.zeros((3, 2), complex), "Complex data"),
        (np.array([["a", "b"]] * 3), "no number"),
    ],
)
def test_input_that_is_no_data(X: np.ndarray, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        PPCA(1).fit(X)


def test_settings_and_unfitted_use() -> None:
    model = LinearVAE(2, beta=3.0)
    assert model.set_params(beta=2.0).get_params()["beta"] == 2.0
    with pytest.raises(ValueError, match="invalid parameter 'gamma'"):
        model.set_params(gamma=1)
    with pytest.raises((NotFittedError, ValueError), match="not fitted"):
        model.sample()


def test_hints_of_refused_values_work_on_them() -> None:
    X = rows_with(LAMBDA)
    gap, infinite = X.copy(), X.copy()
    gap[0, 0], infinite[0, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"contains infinity: leave these rows out$"):
        PPCA(2).fit(infinite)
    both = infinite.copy()
    both[1, 1] = np.nan
    with pytest.raises(ValueError, match="contains infinity"):
        PPCA(2).fit(both)
    with pytest.raises(
        ValueError, match=r"contains NaN: .*`vaeprobe\.linear\.missing\.fit\(X, n_components\)`$"
    ):
        PPCA(2).fit(gap)
    assert missing.fit(gap, 2).converged
    fitted = PPCA(2).fit(X)
    with pytest.raises(ValueError, match=r"contains NaN: leave these rows out$"):
        fitted.transform(gap)  # nothing is fitted there


@pytest.mark.parametrize(("model", "what"), [
    (LinearVAE(1, beta="a"), "beta is 'a': a number above 0$"),
    (LinearVAE(1, beta=None), "beta is None"),
    (LinearVAE(1, beta=True), "beta is True"),
    (LinearVAE(1, sigma2="a"), "sigma2 is 'a': a number above 0 or 'ml'$"),
    (PPCA(1, sigma2=None), "sigma2 is None"),
    (PPCA(1, random_state="a"), "random_state is 'a'"),
])  # fmt: skip
def test_settings_that_are_no_numbers_are_refused_in_words(model: PPCA, what: str) -> None:
    with pytest.raises(TypeError, match=what):
        model.fit(rows_with(LAMBDA))


@pytest.mark.parametrize(
    "setting", [{"beta": -1.0}, {"beta": float("nan")}, {"sigma2": 0.0}, {"solver": "b"}]
)
def test_settings_out_of_range_are_refused_in_words(setting: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"must be positive|no solver is called"):
        LinearVAE(1, **setting).fit(rows_with(LAMBDA))  # type: ignore[arg-type]


def test_numbers_of_other_types_are_numbers() -> None:
    X = rows_with(LAMBDA)
    expected = LinearVAE(2, beta=2.0, sigma2=0.5).fit(X).elbo_
    other = LinearVAE(2, beta=np.array(2), sigma2=np.float32(0.5), random_state=np.int64(3))  # type: ignore[arg-type]
    assert other.fit(X).elbo_ == expected
    assert LinearVAE(2, beta=2.0, sigma2=0.5).fit(X.astype(object)).elbo_ == expected


@pytest.mark.parametrize("X", [
    np.array([["1", "2"], ["3", "4"], ["5", "7"]]),
    np.array([[b"1", b"2"], [b"3", b"4"], [b"5", b"7"]]),
    np.array([["1", 2.0], [3.0, 4.0], [5.0, 7.0]], dtype=object),
    np.array([[1, 2], [3, 4], [5, 7]], dtype="timedelta64[s]"),
])  # fmt: skip
def test_text_and_times_are_no_numbers(X: np.ndarray) -> None:
    with pytest.raises(
        ValueError, match=r"X holds .*, not numbers: convert it first, as by X\.astype\(float\)$"
    ):
        PPCA(1).fit(X)
    PPCA(1).fit(X.astype(float))
    with pytest.raises(ValueError, match=r"Z holds .*, not numbers"):
        PPCA(2, sigma2=0.1).fit(X.astype(float)).inverse_transform(X)


def test_latents_of_another_width_are_refused_in_words() -> None:
    X = rows_with(LAMBDA)
    model = PPCA(2).fit(X)
    for wrong in (np.zeros((4, 3)), np.zeros(3), np.zeros(()), np.zeros((1, 4, 2))):
        with pytest.raises(ValueError, match=r"but PPCA has 2 components: pass an array of shape \(n, 2\)"):
            model.inverse_transform(wrong)
    assert model.inverse_transform(np.zeros((4, 2))).shape == (4, X.shape[1])
    np.testing.assert_array_equal(model.inverse_transform([0, 0]), model.mean_)
