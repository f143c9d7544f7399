"""Second moments of columns with gaps are held for some columns at a time: the fit is the same, the memory bounded."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

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
