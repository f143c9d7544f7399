"""Eigenpairs by every solver against numpy's, and moments merged in any order."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaeprobe.data import in_memory
from vaeprobe.data.rows import NonfiniteRowsError
from vaeprobe.errors import UsageError
from vaeprobe.linear import lanczos, moments, spectrum
from vaeprobe.linear import rows as rows_module
from vaeprobe.linear.eigenpairs import norm_bound
from vaeprobe.linear.rows import Rows, orthonormal


def decaying(n: int, m: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, min(n, m))) * 0.8 ** np.arange(min(n, m))
    return scores @ np.linalg.qr(rng.normal(size=(m, min(n, m))))[0].T + 1e-3 * rng.normal(size=(n, m)) + 5


@given(cuts=st.lists(st.integers(0, 90), max_size=4), seed=st.integers(0, 20))
def test_moments_add_up_however_the_rows_are_cut(cuts: list[int], seed: int) -> None:
    X = np.random.default_rng(seed).normal(size=(90, 4)) + 100
    edges = [0, *sorted(cuts), 90]
    parts = [moments.accumulate(in_memory(X[a:b]))[0] for a, b in itertools.pairwise(edges) if b > a]
    whole = moments.total(tuple(parts))
    assert whole.n == 90
    np.testing.assert_allclose(whole.mean, X.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(whole.covariance, np.cov(X.T, bias=True), rtol=1e-10, atol=1e-12)


def test_folds_are_a_partition() -> None:
    X = decaying(200, 6)
    parts = moments.accumulate(in_memory(X), folds=5, seed=3)
    assert sum(p.n for p in parts) == 200
    np.testing.assert_allclose(moments.total(parts).covariance, np.cov(X.T, bias=True), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(200, 40), (40, 120), (50, 50)])
@pytest.mark.parametrize("solver", ["exact", "dual", "randomized"])
def test_solvers_agree_with_numpy(n: int, m: int, solver: str) -> None:
    X = decaying(n, m)
    found = spectrum.compute(in_memory(X), 6, solver=solver)
    values, vectors = np.linalg.eigh(np.cov(X.T, bias=True))
    np.testing.assert_allclose(
        found.values[:6], values[::-1][:6], rtol=1e-6 if solver == "randomized" else 1e-10
    )
    overlap = np.abs(np.sum(found.vectors[:, :6] * vectors[:, ::-1][:, :6], axis=0))
    np.testing.assert_allclose(overlap, 1, atol=1e-6)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(len(found.values)), atol=1e-10)
    assert found.total == pytest.approx(np.trace(np.cov(X.T, bias=True)), rel=1e-10)


def test_the_stated_error_of_the_randomized_solver_holds() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 250))  # a flat spectrum: the hardest case
    truth = np.linalg.eigvalsh(np.cov(X.T, bias=True))
    found = spectrum.compute(in_memory(X), 10, solver="randomized")
    nearest = np.abs(found.values[:, None] - truth[None, :]).min(axis=1)
    assert (nearest <= found.residuals + 1e-12).all()
    assert (found.values <= truth[::-1][:10] + 1e-12).all()  # Ritz values never exceed


def test_few_distinct_rows_do_not_break_the_randomized_solver() -> None:
    X = np.repeat(np.random.default_rng(0).normal(size=(4, 60)), 20, axis=0)
    found = spectrum.compute(in_memory(X), 8, solver="randomized")
    truth = np.linalg.eigvalsh(np.cov(X.T, bias=True))[::-1][:8]
    np.testing.assert_allclose(found.values, truth, atol=1e-10)


def test_the_choice_follows_the_shape() -> None:
    shapes = {(100, 50): "exact", (50, 100): "dual", (3000, 4000): "randomized", (3000, 2000): "exact"}
    # of as many eigenvalues as rows, on either side of what takes a second or two, with more columns and with fewer
    shapes |= {(700, 8000): "dual", (720, 8000): "randomized", (1400, 2000): "dual", (1500, 2000): "exact"}
    shapes |= {(1, 2**27): "dual", (1, 2**29): "randomized"}  # a gigabyte, and four
    for shape, solver in shapes.items():
        assert spectrum.choose(in_memory(np.broadcast_to(np.zeros(()), shape))) == solver
    with pytest.raises(UsageError, match="no solver is called `qr`"):
        spectrum.choose(in_memory(np.zeros((2, 2))), "qr")


def test_float32_is_used_for_large_float32_data_only() -> None:
    def kind(rows: int, columns: int, dtype: type) -> str:
        return moments.arithmetic(in_memory(np.broadcast_to(np.zeros((), dtype), (rows, columns)))).name

    assert kind(10**6, 1000, np.float32) == "float32"
    assert kind(10**6, 1000, np.float64) == "float64"
    assert kind(10**4, 784, np.float32) == "float64"


KINDS = {
    "bits": lambda rng: rng.random((9000, 40)) < 0.3,
    "counts": lambda rng: rng.poisson(3, (9000, 40)),
    "scaled bits": lambda rng: (rng.random((9000, 40)) < 0.3) * np.float32(0.3),
    "pixels": lambda rng: np.round(rng.random((9000, 40)) * 255) / 255,
    "far from 0": lambda rng: rng.normal(1e4, 1, (9000, 40)),
    "decaying": lambda rng: rng.normal(size=(9000, 40)) * 10.0 ** -np.linspace(0, 4, 40),
    "heavy tails": lambda rng: rng.lognormal(0, 2, (9000, 40)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folds", [1, 3])
def test_float32_products_are_as_near_the_float64_ones_as_is_said(kind: str, folds: int) -> None:
    X = KINDS[kind](np.random.default_rng(0)).astype(np.float32)
    low = moments.total(moments.accumulate(in_memory(X), dtype=np.float32, folds=folds))
    high = moments.total(moments.accumulate(in_memory(X), dtype=np.float64)).covariance
    off = np.linalg.norm(low.covariance - high, 2)
    assert low.slip is not None
    stated = norm_bound(low.slip / low.n)
    found, values = spectrum.of_moments(low, np.dtype(np.float32)), np.linalg.eigvalsh(high)[::-1]
    assert stated < 1e-4 * values[0]
    assert off <= 1.5 * stated + 1e-14 * values[0]  # one block in 32 is looked at
    assert np.abs(found.values - values).max() <= 1.5 * found.error * values[0] + 1e-14 * values[0]
    if kind in ("bits", "counts"):  # the shift is a number of few digits, so that every product is exact
        assert stated == 0
        assert off < 1e-14 * values[0]


def test_the_bound_of_a_norm_is_one_and_near() -> None:
    A = np.random.default_rng(0).normal(size=(200, 200))
    for D in (A + A.T, np.diag(np.arange(5.0)), np.zeros((3, 3))):
        norm = np.linalg.norm(D, 2)
        assert norm <= norm_bound(D)
        assert norm_bound(D) <= len(D) ** (1 / 16) * norm * (1 + 2e-5)


def wide_rows(n: int, m: int = 2500) -> np.ndarray:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(m, 60)))[0].T
    return (rng.normal(size=(n, 60)) * 0.9 ** np.arange(60)) @ basis + 0.01 * rng.normal(size=(n, m)) + 5


@pytest.mark.parametrize(("n", "m"), [(1600, 2500), (2500, 1600)])
def test_wide_rows_start_warm_on_either_side(n: int, m: int) -> None:
    X = wide_rows(n, m)
    Q = Rows.of(in_memory(X)).start(24, 14, 0)
    A = X - X.mean(axis=0)
    A = A.T if n < m else A
    best = np.square(np.linalg.svd(A, compute_uv=False)[: Q.shape[1]]).sum()
    assert len(Q) == min(n, m)
    assert 24 < Q.shape[1] <= 24 + rows_module.MORE * rows_module.STRIDE
    assert 0.97 * best < np.square(A @ Q).sum() < (1 - 1e-6) * best


@pytest.mark.parametrize(("n", "sampled"), [(1600, 4 * 48), (3000, 219), (40_000, 8 * 48)])
def test_more_data_start_from_a_larger_sample(monkeypatch: pytest.MonkeyPatch, n: int, sampled: int) -> None:
    counts: list[int] = []
    sample = Rows._sample
    monkeypatch.setattr(
        Rows, "_sample", lambda self, count, rng: (counts.append(count), sample(self, count, rng))[1]
    )
    Rows.of(in_memory(np.random.default_rng(0).standard_normal((n, 50), np.float32))).start(16, 6, 0)
    # sqrt(3000 / 48 / 3) = 4.56 for each of 48 directions, whose inner products take a sixth of half a product
    assert counts == [sampled]


def test_a_start_is_no_wider_than_asked_for_where_eigenvalues_hardly_fall() -> None:
    X = np.random.default_rng(0).normal(size=(1600, 2500))
    assert Rows.of(in_memory(X)).start(24, 14, 0).shape == (1600, 24)


@pytest.mark.parametrize(("wanted", "width"), [(14, 40), (2, 24)])
def test_a_start_ends_where_little_is_left_of_what_is_wanted(wanted: int, width: int) -> None:
    # of eigenvalues .81^i, .12 of the 14th are left at the 24th, and .004 at the 40th; .01 of the second at the 24th
    assert Rows.of(in_memory(wide_rows(1600))).start(24, wanted, 0).shape == (1600, width)


@pytest.mark.parametrize("room", ["enough", "for float32 alone"])
@pytest.mark.parametrize("passes", [lanczos.PASSES, 2])
def test_float64_goes_on_from_what_float32_found(
    monkeypatch: pytest.MonkeyPatch, room: str, passes: int
) -> None:
    X = falling(300, 1000, "1/i^2")
    if room != "enough":
        monkeypatch.setattr(rows_module, "CACHE_BYTES", X.nbytes)
    if passes == 2:  # the basis starts anew in the last of them
        monkeypatch.setattr(lanczos, "LARGEST", 2)
        monkeypatch.setattr(lanczos, "PASSES", 2)
    starts: list[str] = []
    start = Rows.start
    monkeypatch.setattr(Rows, "start", lambda self, *a: (starts.append(self.kind.name), start(self, *a))[1])
    monkeypatch.setattr(rows_module, "ALL", 0)
    found = spectrum.compute(in_memory(X), 110, solver="randomized")
    assert found.precision == "float64"
    assert starts == (["float32"] if room == "enough" else ["float32", "float64"])
    truth = np.linalg.svd(X - X.mean(axis=0, dtype=np.float64), compute_uv=False)[:110] ** 2 / 300
    np.testing.assert_allclose(found.values[:110], truth, rtol=1.5e-6 if passes > 2 else 0.3)


FALLS = {
    "1/i": lambda i: 1 / i,
    "1/i^2": lambda i: 1 / i**2,
    ".94^i": lambda i: 0.94**i,
    ".99^i": lambda i: 0.99**i,
    "flat": np.ones_like,
    "signal and noise": lambda i: 0.94**i * (i <= 300) + 1e-4,
}


def falling(n: int, m: int, fall: str) -> np.ndarray:
    """Rows of normal numbers, float32, whose covariance has eigenvalues that fall so, in directions at random."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((max(n, m), min(n, m)), dtype=np.float32))[0]
    scores = rng.standard_normal((min(n, m), min(n, m)), dtype=np.float32)
    scores *= np.sqrt(FALLS[fall](np.arange(1.0, min(n, m) + 1))).astype(np.float32)
    return scores @ Q.T if n < m else Q @ scores.T * np.float32(np.sqrt(n / m))


@pytest.mark.parametrize("fall", FALLS)
@pytest.mark.parametrize(("n", "m"), [(420, 1600), (1600, 420)])
def test_eigenvalues_are_found_to_the_tolerance_however_they_fall(n: int, m: int, fall: str) -> None:
    X = falling(n, m, fall)
    found = spectrum.compute(in_memory(X), 6, solver="randomized")
    truth = np.linalg.svd(X - X.mean(axis=0, dtype=np.float64), compute_uv=False)[:6] ** 2 / n
    np.testing.assert_allclose(found.values[:6], truth, rtol=1.5e-6)
    assert np.abs(found.vectors.T @ found.vectors - np.eye(len(found.values))).max() < 1e-12


@pytest.mark.parametrize("fall", FALLS)
def test_few_rows_are_taken_whole_where_their_eigenvalues_hardly_fall(
    monkeypatch: pytest.MonkeyPatch, fall: str
) -> None:
    rows = Rows.of(in_memory(falling(420, 3000, fall)))
    taken: list[int] = []
    monkeypatch.setattr(Rows, "all_directions", lambda self, b: (taken.append(b), np.eye(self.n)[:, :b])[1])
    # 1568 columns of products, of 16 times 19 and 220 by the square of what is left of the largest eigenvalue at the 16th
    assert rows.work_of_all == 420 + 10 * (420 + 400) * 420 / 3000
    rows.start(16, 6, 0)
    assert bool(taken) == (fall == "flat")


@pytest.mark.parametrize(("m", "all_columns"), [(3000, True), (1000, False)])
def test_very_few_rows_start_from_all_columns_where_that_costs_less(m: int, all_columns: bool) -> None:
    n = 200  # 200 + (10 + 4000 / 200) * 200^2 / m against 19 * 40
    X = wide_rows(n, m).astype(np.float32)
    Q = Rows.of(in_memory(X)).start(40, 30, 0)
    A = (X - X.mean(axis=0, dtype=np.float64)).T
    best = np.square(np.linalg.svd(A, compute_uv=False)[:40]).sum()
    assert (np.square(A @ Q).sum() > (1 - 1e-5) * best) == all_columns


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "m"), [(300, 700), (700, 300)])
def test_rows_that_are_read_at_every_pass_give_the_same(
    monkeypatch: pytest.MonkeyPatch, n: int, m: int, kind: type[np.floating]
) -> None:
    data = in_memory(wide_rows(n, m).astype(kind))
    kept = spectrum.compute(data, 10, solver="randomized")
    monkeypatch.setattr(rows_module, "CACHE_BYTES", 0)
    assert Rows.of(data).memory is None
    read = spectrum.compute(data, 10, solver="randomized")
    np.testing.assert_allclose(read.values, kept.values, rtol=1e-5)


@pytest.mark.parametrize("n", [120, 900])
def test_a_sample_of_constant_columns_does_not_hide_the_others(n: int) -> None:
    X = np.zeros((n, 4000))
    X[:, 1000:1012] = np.random.default_rng(0).normal(size=(n, 12)) * np.arange(1, 13)
    found = spectrum.compute(in_memory(X), 15, solver="randomized")
    truth = np.linalg.eigvalsh(np.cov(X[:, 1000:1012].T, bias=True))[::-1]
    np.testing.assert_allclose(found.values[:12], truth, rtol=1e-6)
    np.testing.assert_allclose(found.values[12:], 0, atol=1e-12)


def test_flat_spectra_are_found_in_a_basis_that_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    beyond = lanczos._beyond

    def watched(basis: np.ndarray, W: np.ndarray) -> np.ndarray:
        sizes.append(basis.shape[1])
        return beyond(basis, W)

    monkeypatch.setattr(lanczos, "_beyond", watched)
    monkeypatch.setattr(lanczos, "LARGEST", 3)
    X = np.random.default_rng(0).normal(size=(700, 900))
    found = spectrum.compute(in_memory(X), 10, solver="randomized")
    truth = np.linalg.eigvalsh(np.cov(X.T, bias=True))[::-1]
    np.testing.assert_allclose(found.values, truth[:10], rtol=1e-5)
    assert max(sizes) <= lanczos.LARGEST * 32
    assert any(after < before for before, after in itertools.pairwise(sizes))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "m"), [(700, 2500), (2500, 700)])
def test_the_randomized_solver_ends_within_the_tolerance_on_either_side(
    n: int, m: int, kind: type[np.floating]
) -> None:
    X = wide_rows(n, m).astype(kind)
    given = X.copy()
    found = spectrum.compute(in_memory(X), 10, solver="randomized")
    assert (given == X).all()  # rows of the caller's are centred in the products
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    truth = np.square(np.linalg.svd(centred, compute_uv=False)[:10]) / n
    assert np.abs(found.values / truth - 1).max() < 3e-6
    U = found.vectors
    assert np.abs(U.T @ U - np.eye(10)).max() < 1e-12
    off = np.linalg.norm(centred.T @ (centred @ U) / n - U * found.values, axis=0)
    rounding = 1e-9 if kind is np.float64 else 1e-6
    if n < m:  # the residuals are those of v in u = X^T v, of inner products of the rows
        assert (off <= found.residuals * np.sqrt(truth[0] / truth) + rounding).all()
    else:  # of those that were found before the last step, as they were then
        assert (off <= 1.01 * found.residuals + rounding).all()
    assert found.residuals.max() < 1e-2 * truth[0]


@pytest.mark.parametrize("row", [3, 290])  # among those that the shift is taken from, and after them
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_by_their_row(row: int, number: float) -> None:
    X = np.random.default_rng(0).normal(size=(300, 400)) + 9
    X[row, 7] = number
    with pytest.raises(NonfiniteRowsError, match=rf"from 0: {row}\)"):
        Rows.of(in_memory(X))


def test_the_covariance_of_rows_in_memory_is_centred_in_products() -> None:
    rng = np.random.default_rng(0)
    V = rng.normal(size=(30, 4))
    for offset in (0.0, 0.5, 1e4):
        X = rng.normal(size=(9000, 30)) + offset
        S = np.cov(X.T, bias=True)
        rows = Rows.of(in_memory(X))
        np.testing.assert_allclose(rows.product(V), S @ V, atol=1e-11)
        np.testing.assert_allclose(rows.variances, S.diagonal(), rtol=1e-11)
        np.testing.assert_allclose(np.concatenate(list(rows.centred())), X - X.mean(axis=0), atol=1e-9)
        low = Rows.of(in_memory(X.astype(np.float32)))
        np.testing.assert_allclose(low.variances, S.diagonal(), rtol=1e-5 + 1e-7 * offset)
        np.testing.assert_allclose(low.product(V), S @ V, atol=1e-5 * (1 + offset / 100))


@pytest.mark.parametrize("rank", [3, 12, 30])
def test_rows_of_low_rank_give_as_many_values_as_are_asked_for(rank: int) -> None:
    rng = np.random.default_rng(rank)
    X = rng.normal(size=(400, rank)) @ rng.normal(size=(rank, 200))
    found = spectrum.compute(in_memory(X), 20, solver="randomized")
    truth = np.square(np.linalg.svd(X - X.mean(axis=0), compute_uv=False)[:20]) / 400
    np.testing.assert_allclose(found.values, truth, atol=1e-5 * truth[0])
    assert np.abs(found.vectors.T @ found.vectors - np.eye(20)).max() < 1e-9


@pytest.mark.parametrize("smallest", [1.0, 0.1, 0.02, 1e-3, 1e-4])
def test_columns_are_made_orthonormal_on_either_side_of_where_once_does(smallest: float) -> None:
    rng = np.random.default_rng(0)
    U, V = np.linalg.qr(rng.normal(size=(300, 8)))[0], np.linalg.qr(rng.normal(size=(8, 8)))[0]
    Q = orthonormal(U * np.geomspace(1, smallest, 8) @ V)
    assert np.abs(Q.T @ Q - np.eye(8)).max() < 1e-11
    assert np.abs(Q - U @ (U.T @ Q)).max() < 1e-11 / smallest


def test_the_last_wanted_pair_is_found_where_the_next_is_near() -> None:
    rng = np.random.default_rng(3)
    U, V = np.linalg.qr(rng.normal(size=(300, 60)))[0], np.linalg.qr(rng.normal(size=(500, 60)))[0]
    values = 0.94 ** np.arange(60)
    values[8:11] = values[7] * np.array([1 - 1e-4, 1 - 2e-4, 1 - 3e-4])
    X = (U * np.sqrt(values * 300)) @ V.T
    found = spectrum.compute(in_memory(X), 8, solver="randomized")
    Y = X - X.mean(axis=0)
    truth = np.linalg.svd(Y, compute_uv=False)[:8] ** 2 / 300
    np.testing.assert_allclose(found.values[:8], truth, rtol=2e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_a_file_of_many_rows_takes_under_200_megabytes(tmp_path: Path) -> None:
    n, m = 60_000, 1000  # 240 MB, nearly all of which are zeros that take no room on the disk
    rows = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (n, m))
    rows[:2000] = np.random.default_rng(0).standard_normal((2000, m)) + 3
    rows.flush()
    del rows
    script = f"""
from vaeprobe.data import open_data
from vaeprobe.linear import spectrum
found = spectrum.compute(open_data({str(tmp_path / "x.npy")!r}), 4)
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1], found.total)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    peak, total = map(float, done.stdout.split())
    assert peak < 200e3, "kB, interpreter and libraries included"
    assert total == pytest.approx(m * (2000 / n) * (1 + 9 * (1 - 2000 / n)), rel=0.01)


@pytest.mark.parametrize("solver", ["exact", "randomized"])
def test_sums_of_float32_rows_that_overflow_are_formed_in_float64(solver: str) -> None:
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(3000, 3)) @ rng.normal(size=(3, 400)) + 2).astype(np.float32)
    values = spectrum.compute(in_memory(X), 3, solver=solver).values[:3]
    huge = spectrum.compute(in_memory(np.ldexp(X, 122)), 3, solver=solver).values[:3]
    np.testing.assert_allclose(np.ldexp(huge, -244), values, rtol=1e-6)
