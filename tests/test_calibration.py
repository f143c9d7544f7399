"""A short run of `tests/calibration.py`: no interval misses far too often, no test of a true hypothesis alarms far too often."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

import calibration
from calibration import Row

TRIALS = 40
# of 40 intervals that hold the truth in 95 % of all cases, fewer than 32 do so once in 5,000 times (binomial)
LEAST = 32
# of 40 p-values of a true hypothesis, more than 8 are at most 0.05 once in 6,000 times
MOST = 8
# four exponential values do not tell their skewness: 0.90 is what is known of them
FEW = 4


@pytest.mark.parametrize("simulation", calibration.SIMULATIONS, ids=lambda f: f.__name__)
def test_intervals_and_p_values(simulation: Callable[[int], list[Row]]) -> None:
    rows = simulation(TRIALS)
    assert rows
    for row in rows:
        hits = round(row.rate * row.trials)
        if row.kind == "p-value":
            assert hits <= MOST, row
            assert 0.35 < row.above < 0.65, row
        else:
            assert hits >= LEAST - (4 if row.n == FEW else 0), row


def test_a_wrong_interval_is_seen() -> None:
    """Intervals a third as wide hold the truth in half of all cases: the count above tells that."""
    rows = calibration.covered({"x": 0.0}, lambda seed: {"x": shrunk(seed)}, TRIALS)
    assert round(rows[0].rate * TRIALS) < LEAST


def shrunk(seed: int) -> tuple[float, float]:
    low, high = calibration.mean_interval(calibration.np.random.default_rng(seed).standard_normal(64))  # type: ignore[misc]
    middle, half = (low + high) / 2, (high - low) / 6
    return middle - half, middle + half


def test_the_page_holds_every_number_between_the_bounds_it_promises() -> None:
    """At n = 256 every rate on the page is from 93 to 97 %, but for what the page explains."""
    text = calibration.PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| 256 \| interval \| ([0-9.]+)% hold", text, re.MULTILINE)
    assert len(rows) > 25
    for name, rate in rows:
        if not name.startswith("beta"):
            assert 92 <= float(rate) <= 98, (name, rate)
