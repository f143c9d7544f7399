"""Closed-form nulls against simulation and against special cases."""

from __future__ import annotations

import math

import pytest
import torch

from vaeprobe.geometry.gram import column_cosines, ima_contrast
from vaeprobe.geometry.nulls import expected_abs_cosine, expected_contrast


def gaussian_grams(n: int, m: int, k: int) -> torch.Tensor:
    J = torch.randn(n, m, k, generator=torch.Generator().manual_seed(m * 100 + k), dtype=torch.float64)
    return J.mT @ J


@pytest.mark.parametrize("m", [2, 3, 10, 100])
def test_expected_abs_cosine_is_what_random_columns_have(m: int) -> None:
    cosines = column_cosines(gaussian_grams(20_000, m, 2))[:, 0, 1].abs()
    error = 4 * float(cosines.std()) / math.sqrt(len(cosines))
    assert float(cosines.mean()) == pytest.approx(expected_abs_cosine(m), abs=error)


@pytest.mark.parametrize(("m", "k"), [(3, 2), (5, 5), (12, 4), (200, 10)])
def test_expected_contrast_is_what_random_columns_have(m: int, k: int) -> None:
    c = ima_contrast(gaussian_grams(8_000, m, k))
    assert float(c.mean()) == pytest.approx(
        expected_contrast(k, m), abs=4 * float(c.std()) / math.sqrt(len(c))
    )


def test_special_values() -> None:
    assert expected_abs_cosine(1) == pytest.approx(1.0)
    assert expected_abs_cosine(2) == pytest.approx(2 / math.pi)
    assert expected_abs_cosine(3) == pytest.approx(0.5)
    assert expected_abs_cosine(4096) == pytest.approx(0.0125, abs=5e-5)
    assert expected_contrast(1, 7) == 0
    # k = m = 2: -E log |sin| of a uniform angle is log 2
    assert expected_contrast(2, 2) == pytest.approx(math.log(2))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="5 columns in 4 dimensions"):
        expected_contrast(5, 4)
    with pytest.raises(ValueError, match="at least one dimension"):
        expected_abs_cosine(0)
