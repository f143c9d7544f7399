"""Second moments of columns with gaps are held for some columns at a time: the fit is the same, the memory bounded."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from vaeprobe.data import open_data
from vaeprobe.data.shards import ArrayShard
from vaeprobe.linear import missing


def rows(n: int, m: int, d: int, share: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)) @ rng.standard_normal((d, m)) + 0.3 * rng.standard_normal((n, m)) + 1.0
    X[rng.random((n, m)) < share] = np.nan
    return X


def test_columns_in_turn_give_the_fit_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    X = rows(200, 23, 3, 0.2)
    whole = missing.fit(X, 3, steps=40)
    monkeypatch.setattr(missing, "MOMENT_BYTES", 5 * 8 * 16)  # five columns at a time, and a rest of three
    assert [s.stop - s.start for s in missing._column_blocks(23, 3)] == [5, 5, 5, 5, 3]
    turns = missing.fit(X, 3, steps=40)
    assert turns.loglik == pytest.approx(whole.loglik, rel=1e-12)
    assert turns.sigma2 == pytest.approx(whole.sigma2, rel=1e-10)
    np.testing.assert_allclose(turns.spectrum.values, whole.spectrum.values, rtol=1e-10)
    np.testing.assert_allclose(turns.spectrum.vectors, whole.spectrum.vectors, atol=1e-9)


def test_a_step_holds_no_second_moments_of_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    m, d = 3000, 31
    X = rows(64, m, d, 0.1)
    held = missing._Rows.of(X, d)
    W = np.random.default_rng(1).standard_normal((m, d))
    monkeypatch.setattr(missing, "MOMENT_BYTES", 1 << 21)
    tracemalloc.start()
    missing._step(held, W, np.zeros(m), 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # two arrays of some columns, rows and their second moments; those of all columns would be 25 MB each
    assert peak < 2 * (1 << 21) + 6 * X.nbytes + 4 * 64 * 8 * (d + 1) ** 2
    assert peak < 0.75 * 8 * m * (d + 1) ** 2


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_rows_as_they_are_stored_are_read_at_each_step_and_others_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    X, path = rows(60, 6, 2, 0.1).astype(np.float32), tmp_path / f"x{suffix}"
    {".npy": np.save, ".npz": np.savez, ".csv": lambda p, X: np.savetxt(p, X, delimiter=",")}[suffix](path, X)
    whole = missing.fit(X.astype(np.float64), 2, steps=5)
    for most, kept in ((X.nbytes, True), (X.nbytes - 1, suffix != ".npy")):
        monkeypatch.setattr(missing, "RAW_BYTES", most)
        data = open_data(path, nonfinite="keep")
        assert isinstance(missing._Rows.of(data, 2).data.shards[0], ArrayShard) == kept
        assert missing.fit(data, 2, steps=5).loglik == pytest.approx(whole.loglik, rel=1e-12)


def test_no_more_than_a_block_of_a_large_file_is_held(tmp_path: Path) -> None:
    X = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (30_000, 300))  # 36 MB
    X[:300] = rows(300, 300, 2, 0.1)
    X.flush()
    tracemalloc.start()
    held = missing._Rows.of(open_data(tmp_path / "x.npy", nonfinite="keep"), 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held.n == 30_000
    assert peak < 6 * 8 * missing.BLOCK_NUMBERS
    assert peak < 1.5 * X.nbytes  # in float64 they would take twice that
