"""Intervals: they cover what they say, at few values and at many, and the quantiles are those of scipy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from vaeprobe.intervals import (
    binomial_interval,
    mean_interval,
    median_interval,
    p_value_interval,
    student_interval,
    student_quantile,
    studentised_interval,
    trimmed,
)
from vaeprobe.probes.orthogonality.metrics import SPECS
from vaeprobe.report import Check, Metric

Array = NDArray[np.float64]

SIZES = (2, 4, 8, 64, 256)
REPEATS = 2000
# three standard errors of a coverage seen in so many repeats
NOISE = 3 * math.sqrt(0.95 * 0.05 / REPEATS)

DRAWS: dict[str, tuple[Callable[[np.random.Generator, int], Array], float, dict[int, float]]] = {
    # draw, mean, and the least coverage where few values cannot give .93
    "normal": (lambda rng, n: rng.standard_normal(n), 0.0, {}),
    "uniform": (lambda rng, n: rng.uniform(size=n), 0.5, {2: 0.92}),
    "lognormal": (lambda rng, n: np.exp(0.5 * rng.standard_normal(n)), math.exp(0.125), {4: 0.92, 8: 0.92}),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0, {2: 0.89, 4: 0.9}),
}


def coverage(
    interval: Callable[[Array], tuple[float, float] | None], draws: list[Array], truth: float
) -> float:
    found = [interval(draw) for draw in draws]
    return float(np.mean([ends is not None and ends[0] <= truth <= ends[1] for ends in found]))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", DRAWS)
def test_means_are_covered(name: str, n: int) -> None:
    draw, truth, least = DRAWS[name]
    rng = np.random.default_rng(n)
    seen = coverage(mean_interval, [draw(rng, n) for _ in range(REPEATS)], truth)
    assert least.get(n, 0.93) - NOISE <= seen <= 0.97 + NOISE


@pytest.mark.parametrize(("n", "columns"), [(4, 99), (512, 99), (8, 8)])
def test_sums_of_two_means_are_covered(n: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    scale = math.sqrt(columns / n)  # both errors alike

    def one() -> tuple[float, float]:
        ends = mean_interval(rng.standard_normal(n), scale * rng.exponential(size=columns))
        assert ends is not None
        return ends

    found = [one() for _ in range(REPEATS)]
    assert np.mean([low <= scale <= high for low, high in found]) == pytest.approx(0.95, abs=0.02)


def test_students_interval_of_values_without_skewness() -> None:
    x = np.array([1.0, 2.0, 4.0, 5.0])
    low, high = mean_interval(x) or (0, 0)
    wide = float(scipy.stats.t.ppf(0.975, 3)) * x.std(ddof=1) / 2
    assert (low, high) == pytest.approx((3 - wide, 3 + wide), rel=1e-9)
    assert mean_interval(x, level=0.5) == pytest.approx(
        scipy.stats.t.interval(0.5, 3, loc=3, scale=x.std(ddof=1) / 2), rel=1e-9
    )


def test_the_interval_leans_to_the_long_tail() -> None:
    x = np.array([0.0, 0.1, 0.2, 0.1, 0.0, 3.0])
    low, high = mean_interval(x) or (0, 0)
    assert high - x.mean() > 1.5 * (x.mean() - low)
    assert mean_interval(-x) == pytest.approx((-high, -low), rel=1e-12)


def test_one_value_has_no_interval_and_equal_values_have_none_to_speak_of() -> None:
    assert mean_interval(np.array([3.0])) is None
    assert mean_interval(np.array([1.0, 2.0]), np.array([0.0])) is None
    assert mean_interval(np.full(5, 0.25)) == (0.25, 0.25)


def test_bounds_are_not_passed() -> None:
    x = np.array([0.9, 1.0, 1.0, 0.7])
    assert (mean_interval(x) or (0, 0))[1] > 1
    assert (mean_interval(x, high=1.0) or (0, 0))[1] == 1
    assert (mean_interval(1 - x, low=0.0) or (0, 0))[0] == 0


@pytest.mark.parametrize("p", [0.75, 0.95, 0.975, 0.9995])
@pytest.mark.parametrize("freedom", [1, 1.3, 2, 3, 7.7, 31, 255, 1e4, 2e4])
def test_quantiles_are_those_of_scipy(p: float, freedom: float) -> None:
    assert student_quantile(p, freedom) == pytest.approx(float(scipy.stats.t.ppf(p, freedom)), rel=1e-8)


@pytest.mark.parametrize("n", [6, 7, 9, 64, 256])
def test_medians_are_covered(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = [rng.exponential(size=n) for _ in range(REPEATS)]
    seen = coverage(median_interval, draws, math.log(2))
    assert 0.93 - NOISE <= seen <= 0.97 + NOISE


def test_five_values_bound_no_median_and_six_do() -> None:
    # all five lie on one side of it in 1 of 16 draws, all six in 1 of 32
    assert median_interval(np.arange(5.0)) is None
    low, high = median_interval(np.arange(6.0)) or (9.0, 9.0)
    assert 0 < low < 1
    assert high == pytest.approx(5 - low)
    assert median_interval(np.arange(5.0), level=0.9) is not None


def test_studentised_intervals_cover_ratios_of_variances() -> None:
    """Var(x) / Var(y) of independent exponential values, truth 1: percentiles hold it in .91 of all draws."""
    hits = 0
    for seed in range(120):
        x, y = np.random.default_rng(seed).exponential(size=(2, 128))
        low, high = studentised_interval(
            np.stack([x, x**2, y, y**2], axis=1), log_ratio_of_variances, seed=seed, resamples=500
        )
        hits += low <= 0 <= high
    assert hits >= 104  # 95 % of 120 is 114; fewer than 104 once in 5,000 times


def log_ratio_of_variances(means: Array) -> tuple[Array, Array]:
    first, second, third, fourth = (means[..., i] for i in range(4))
    above, below = second - first**2, fourth - third**2
    gradient = np.stack([-2 * first / above, 1 / above, 2 * third / below, -1 / below], axis=-1)
    return np.log(above / below), gradient


def test_a_studentised_mean_of_normal_values_has_students_interval_nearly() -> None:
    x = np.random.default_rng(0).standard_normal(400)
    low, high = studentised_interval(x[:, None], lambda m: (m[..., 0], np.ones_like(m)), seed=0)
    wanted = mean_interval(x)
    assert wanted is not None
    assert (low, high) == pytest.approx(wanted, abs=0.02)


def test_the_interval_of_a_mean_by_student_is_scipys() -> None:
    x = np.random.default_rng(0).standard_normal(9)
    wanted = scipy.stats.t.interval(0.9, 8, loc=x.mean(), scale=scipy.stats.sem(x))
    assert student_interval(x, 0.9) == pytest.approx(tuple(map(float, wanted)), rel=1e-8)


@pytest.mark.parametrize(("n", "share"), [(256, 0.05), (40, 0.05), (20, 0.2), (3, 0.05), (9, 0.0)])
def test_a_trimmed_mean_is_scipys(n: int, share: float) -> None:
    x = np.random.default_rng(n).exponential(size=n)
    kept = scipy.stats.trim1(x, round(share * n) / n, tail="right")
    assert trimmed(x, share).mean() == pytest.approx(kept.mean(), rel=1e-12)
    if round(share * n) == 0:
        assert trimmed(x, share) == pytest.approx(x)


def test_its_spread_is_that_of_the_influence_of_each_value() -> None:
    n, share, copies, more = 1000, 0.05, 1000, 400
    x = np.sort(np.random.default_rng(0).exponential(size=n))
    found, many = trimmed(x, share), np.repeat(x, copies)
    for i in (0, 300, 800, 990, 999):
        # many copies of all, one of them some more times: what the trimmed mean moves by
        grown = np.append(many, [x[i]] * more)
        moved = trimmed(grown, share).mean() - trimmed(many, share).mean()
        assert moved * many.size / more == pytest.approx(found[i] - found.mean(), abs=0.02)


def test_what_lies_beyond_is_of_no_effect() -> None:
    x = np.arange(100.0)
    far = np.where(x > 96, 1e9, x)
    assert trimmed(far, 0.05) == pytest.approx(trimmed(x, 0.05))
    assert trimmed(far, 0.02).mean() > 1e6


@pytest.mark.parametrize(("hits", "n"), [(0, 64), (3, 64), (64, 64), (1, 1), (17, 40), (500, 999)])
def test_binomial_intervals_are_scipys(hits: int, n: int) -> None:
    exact = scipy.stats.binomtest(hits, n).proportion_ci(method="exact")
    assert binomial_interval(hits, n) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_p_values_by_monte_carlo_have_intervals_that_limits_below_the_least_do_not_leave_failed() -> None:
    spec = SPECS["orthogonality.alignment_p"]
    least = Metric(spec, 1 / 1000, ci=p_value_interval(1 / 1000, 999), level=0.95, n=999)
    exact = scipy.stats.binomtest(0, 999).proportion_ci(method="exact")
    assert least.ci == pytest.approx((exact.low, exact.high), abs=1e-9)
    statuses = [Check(metric=least, side="max", limit=limit).status for limit in (0.0005, 0.003, 0.004)]
    assert statuses == ["inconclusive", "inconclusive", "pass"]
    far = Metric(spec, 0.05, ci=p_value_interval(0.05, 999), level=0.95, n=999)
    assert [Check(metric=far, side="max", limit=limit).status for limit in (0.03, 0.05, 0.07)] == [
        "fail",
        "inconclusive",
        "pass",
    ]
