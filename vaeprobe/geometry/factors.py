"""The seam factors p(z_i) / n_i as random variables: are they dependent?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.geometry.dependence import PairTest, correlation_test, distance_correlation_test
from vaeprobe.geometry.modulation import column_lengths
from vaeprobe.geometry.sample import Sample

__all__ = ["FEWEST_ROWS", "Factors", "seam_factors"]

TEST_ROWS = 4096
FEWEST_ROWS = 8
"""Latents below which pairs are not tested."""


@dataclass(frozen=True, eq=False)
class Factors:
    """Are the seam factors, p(z_i) / n_i as a random variable each, dependent?

    Attributes:
        correlations: of log p(z_i) - log n_i.
        distances: distance correlations of the same.
        rows: latents behind the correlations.
        distance_rows: latents behind the distance correlations.
    """

    correlations: PairTest
    distances: PairTest
    rows: int
    distance_rows: int


def seam_factors(sample: Sample, usable: Tensor, R: Tensor, permutations: int) -> Factors | None:
    """Test the log seam factors log p(y_i) - log n_i, y = R^T z, for dependence."""
    lengths = column_lengths(sample.G[usable], R)
    y = sample.z[usable][:, sample.decoder.continuous] @ R
    alive = (lengths > 0).all(1)
    if int(alive.sum()) < FEWEST_ROWS:
        return None
    factors = (-y.square() / 2 - torch.where(lengths > 0, lengths, 1.0).log())[alive][:TEST_ROWS]
    a = R.shape[1]
    few = factors[: max(64, min(256, int(400 / a**0.5)))]
    return Factors(
        correlations=correlation_test(factors, permutations=permutations, seed=sample.seed),
        distances=distance_correlation_test(few, permutations=min(permutations, 199), seed=sample.seed),
        rows=len(factors),
        distance_rows=len(few),
    )
