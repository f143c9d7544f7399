"""Every solver on data that are hard on floating point, against 60 digits and against scikit-learn's full SVD in float64."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest

from vaeprobe.data import in_memory
from vaeprobe.errors import InputError
from vaeprobe.linear import closed_form, moments, rows, spectrum
from vaeprobe.linear.eigenpairs import DIGITS, FLOAT32_DIGITS
from vaeprobe.linear.lanczos import TOLERANCE

Array = np.ndarray[Any, np.dtype[np.float64]]
N, M, D = 60, 16, 3
EPS = float(np.finfo(np.float64).eps)


def spread(n: int = N, m: int = M, noise: float = 0.3) -> Array:
    rng = np.random.default_rng(n + m)
    Q = np.linalg.qr(rng.standard_normal((m, D)))[0]
    return rng.standard_normal((n, D)) * [6, 4, 3] @ Q.T + noise * rng.standard_normal((n, m))


def changed(X: Array, at: Any, value: object) -> Array:
    X[at] = value
    return X


def repeated() -> Array:
    """Eigenvalues 3, 3, 3, and 1 thirteen times."""
    X = spread(noise=1.0)
    X -= X.mean(axis=0)
    return np.asarray(np.linalg.qr(X)[0] * np.sqrt(N * np.repeat([3.0, 1.0], [D, M - D])))


SETS: dict[str, Array] = {
    "columns from 1e-8 to 1e8": spread() * np.logspace(-8, 8, M),
    "columns from 1e-2 to 1e2": spread() * np.logspace(-2, 2, M),
    "a mean of 1e6 deviations": spread() + 1e6 * np.resize([1.0, -1.0, 2.0], M),
    "columns twice": np.hstack([spread(), spread()[:, :5]]),
    "one row more than columns": spread(M + 1),
    "constant columns": changed(spread(), np.s_[:, [3, 7]], [5.0, 1e9]),
    "fewer rows than columns": spread(12, 40),
    "a row of 1e8": changed(spread(), 17, 1e8 * spread()[17]),
    "a number of 1e12": changed(spread(), (17, 3), 1e12),
    "repeated eigenvalues": repeated(),
    "small numbers": spread() * 1e-30,
    "large numbers": spread() * 1e18,
    "very small numbers": spread() * 1e-150,
    "very large numbers": spread() * 1e150,
    "a little noise": spread(noise=1e-6),
}


@cache
def truth(name: str, kind: str) -> tuple[list[Any], Array]:
    """Return the eigenvalues of the covariance to 60 digits and the D leading eigenvectors."""
    with mpmath.workdps(60):
        X = mpmath.matrix(SETS[name].astype(kind).astype(np.float64).tolist())
        n, m = X.rows, X.cols
        for j in range(m):
            mean = mpmath.fsum(X[:, j]) / n
            for i in range(n):
                X[i, j] -= mean
        values, V = mpmath.eigsy(X * X.T / n if n < m else X.T * X / n)
        order = sorted(range(len(values)), key=lambda i: -values[i])
        U = mpmath.matrix(V.rows, D)
        for k in range(D):
            U[:, k] = V[:, order[k]]
        U = X.T * U if n < m else U
        for k in range(D):
            U[:, k] /= mpmath.norm(U[:, k])
        return [values[i] for i in order], np.array(U.tolist(), dtype=np.float64)


def cases() -> list[tuple[str, str]]:
    with np.errstate(all="ignore"):
        kinds = [(name, kind) for name in SETS for kind in ("float64", "float32")]
        return [
            (name, kind) for name, kind in kinds if 1e-40 < np.abs(SETS[name].astype(kind)).max() < np.inf
        ]


@pytest.mark.parametrize(("name", "kind"), cases())
@pytest.mark.parametrize("solver", ["exact", "dual", "randomized", "streamed", "exact, float32"])
def test_eigenpairs_noise_and_likelihood(
    solver: str, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if solver == "exact, float32":
        monkeypatch.setattr(moments, "FLOAT64_WORK", 0.0)
    if solver == "streamed":
        monkeypatch.setattr(rows, "CACHE_BYTES", 0)
    way = {"exact, float32": "exact", "streamed": "randomized"}.get(solver, solver)
    X = SETS[name].astype(kind)
    found = spectrum.compute(in_memory(X), D + 1, solver=way)
    values, U = truth(name, kind)
    m = X.shape[1]
    # what backward stable singular values may be off by, or what a solver promises to notice
    promised = FLOAT32_DIGITS if found.precision == "float32" else DIGITS
    stopped = TOLERANCE if way == "randomized" else 0.0  # of an eigenvalue; its square is that of a vector
    scale = math.sqrt(values[0] / values[D - 1])
    tolerance = max(promised, 64 * EPS * scale)
    np.testing.assert_allclose(found.values[:D], [float(v) for v in values[:D]], rtol=max(tolerance, stopped))
    V = found.vectors[:, :D]
    gap = 1 - math.sqrt(values[D] / values[D - 1])
    assert np.linalg.norm(U - V @ (V.T @ U), 2) < max(tolerance, math.sqrt(stopped)) / gap
    rest = mpmath.fsum(values[D:])
    sigma2 = rest / (m - D)
    solution = closed_form.solve(found, D)
    several = max(promised, 64 * EPS * math.sqrt(values[0] / sigma2))
    if not found.singular:
        several = max(several, stopped * float(mpmath.fsum(values[:D]) / rest))
    assert solution.sigma2 == pytest.approx(float(sigma2), rel=several)
    logs = mpmath.fsum(mpmath.log(v) for v in values[:D]) + (m - D) * mpmath.log(sigma2)
    loglik = float(-(m * mpmath.log(2 * mpmath.pi) + logs + m) / 2)
    assert solution.loglik == pytest.approx(loglik, abs=m * several)


@pytest.mark.parametrize(("name", "kind"), cases())
def test_eigenvalues_are_those_of_a_full_svd(name: str, kind: str) -> None:
    """scikit-learn's, where it is installed: no digit fewer than it has."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    X = SETS[name].astype(kind).astype(np.float64)
    other = decomposition.PCA(n_components=D, svd_solver="full").fit(X)
    values = other.explained_variance_ * ((len(X) - 1) / len(X))
    right = np.array([float(v) for v in truth(name, kind)[0][:D]])
    lost = np.abs(values / right - 1).max()
    for solver in ("exact", "dual"):
        found = spectrum.compute(in_memory(X), D + 1, solver=solver).values[:D]
        assert np.abs(found / right - 1).max() < 4 * lost + DIGITS
        np.testing.assert_allclose(found, values, rtol=5 * lost + DIGITS)


def test_numbers_whose_squares_vanish_are_told() -> None:
    for solver in ("exact", "dual", "randomized"):
        with pytest.raises(InputError, match="there is no variance") as caught:
            spectrum.compute(in_memory(spread() * 1e-310), D + 1, solver=solver)
        assert "squares below the smallest number" in str(caught.value.hint)
