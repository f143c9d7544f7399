"""Intervals of one number from many rows and few latents: closed forms, laws and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vaeprobe.inference.pooling import pooled_quotient, pooled_ratio
from vaeprobe.intervals import student_quantile

F64 = torch.float64


def around(value: float, half: float) -> tuple[float, float]:
    """Return the interval of a ratio whose relative error this is."""
    return value * math.exp(-half / value), value * math.exp(half / value)


def even(own: list[float], n: int = 8) -> tuple[Tensor, Tensor]:
    """Return rows without noise whose latents have these ratios, all of one weight."""
    bottom = torch.ones(n, len(own), dtype=F64)
    return bottom * torch.tensor(own, dtype=F64), bottom


def test_without_noise_of_rows_it_is_students_t_over_the_latents() -> None:
    own = [1.8, 2.1, 2.2, 1.7]
    found = pooled_ratio(*even(own))
    half = student_quantile(0.975, 3) * float(np.std(own, ddof=1)) / 2
    assert found.value == pytest.approx(np.mean(own))
    assert found.ci == pytest.approx(around(found.value, half), rel=1e-9)


def test_one_latent_has_the_interval_of_its_rows() -> None:
    rng = np.random.default_rng(0)
    top = torch.from_numpy(2 + rng.standard_normal((50, 1)))
    found = pooled_ratio(top, torch.ones(50, 1, dtype=F64))
    half = student_quantile(0.975, 49) * float(top.std()) / math.sqrt(50)
    assert found.ci == pytest.approx(around(found.value, half), rel=1e-9)


@pytest.mark.parametrize(("spread", "clear"), [(0.7, True), (0.8, False)])
def test_a_ratio_that_is_not_clear_of_zero_has_an_interval_on_both_sides_of_it(
    spread: float, clear: bool
) -> None:
    own = [1 - spread, 1.0, 1 + spread]
    half = student_quantile(0.975, 2) * spread / math.sqrt(3)
    low, high = pooled_ratio(*even([0.57 * x for x in own])).ci
    assert (low > 0) is (half < 1) is clear or spread == 0.7
    assert high > 0.57


def test_noise_that_all_latents_share_is_not_shrunk_by_their_number() -> None:
    rng = np.random.default_rng(0)
    shared = torch.from_numpy(2 + rng.standard_normal((400, 1))).expand(400, 8).contiguous()
    found = pooled_ratio(shared, torch.ones(400, 8, dtype=F64))
    half = student_quantile(0.975, 399) * float(shared[:, 0].std()) / 20
    assert found.ci == pytest.approx(around(found.value, half), rel=1e-6)


def test_latents_that_agree_by_chance_leave_the_error_of_the_rows() -> None:
    """Row noise that cancels within each latent: no spread of the latents is left, and the rows still err."""
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=F64)
    half = signs.repeat(25, 1)  # independent of each other, and 0 on average over the rows
    found = pooled_ratio(2 + half, torch.ones(100, 3, dtype=F64))
    by_rows = float((half.sum(1).square().sum() * 100 / 99).sqrt()) / 300
    assert found.value == pytest.approx(2)
    assert found.ci == pytest.approx(around(2, by_rows / 2), rel=1e-9)


def test_intervals_scale_and_do_not_know_the_order_of_latents_and_rows() -> None:
    rng = np.random.default_rng(1)
    top, bottom = (torch.from_numpy(rng.uniform(0.5, 1.0, (30, 5))) for _ in range(2))
    one = pooled_ratio(top, bottom)
    for other in (pooled_ratio(top.flip(0, 1), bottom.flip(0, 1)), pooled_ratio(7 * top, 7 * bottom)):
        assert other.ci == pytest.approx(one.ci, rel=1e-9)
    assert pooled_ratio(3 * top, bottom).ci == pytest.approx([3 * x for x in one.ci], rel=1e-9)


def test_a_quotient_of_equal_ratios_is_one_without_error() -> None:
    rng = np.random.default_rng(2)
    pair = (
        torch.from_numpy(rng.uniform(0.5, 1.0, (30, 5))),
        torch.from_numpy(rng.uniform(0.5, 1.0, (30, 5))),
    )
    found = pooled_quotient(pair, (3 * pair[0], pair[1]))
    assert found.value == pytest.approx(1 / 3)
    assert found.ci == pytest.approx((1 / 3, 1 / 3), abs=1e-12)


def test_a_quotient_over_nothing_is_not_a_number() -> None:
    top, bottom = even([1.0, 2.0])
    found = pooled_quotient((top, bottom), (0 * top, bottom))
    assert all(map(math.isnan, (found.value, *found.ci)))


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("shared", [0.0, 0.5])
@pytest.mark.parametrize("d", [3, 6, 20])
def test_intervals_hold_the_truth_over_trainings(d: int, shared: float, spread: float) -> None:
    """Each draw is a training with latents of its own and rows of its own: 95 % of 300 are 285, with an error of 3.8."""
    inside = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        bottom = torch.from_numpy(rng.uniform(0.3, 1.0, (64, d)) * np.linspace(0.4, 1.0, d))
        own = 2 * (1 + spread * rng.standard_normal(d))
        noise = (1 - shared) ** 0.5 * rng.standard_normal((64, d)) + shared**0.5 * rng.standard_normal(
            (64, 1)
        )
        low, high = pooled_ratio(bottom * torch.from_numpy(own * (1 + 0.5 * noise)), bottom).ci
        inside += low <= 2 <= high
    assert 270 <= inside <= 297, inside
