"""What chance gives, in closed form: cosines and contrasts of Gaussian Jacobians."""

from __future__ import annotations

import math

import torch

__all__ = ["expected_abs_cosine", "expected_contrast"]


def expected_abs_cosine(m: int) -> float:
    """Return E |cos| between two independent isotropic directions in R^m.

    Gamma(m/2) / (sqrt(pi) Gamma((m+1)/2)): 1 in R^1, 0.0125 in R^4096, where random columns look
    orthogonal.
    """
    if m < 1:
        raise ValueError(f"a direction needs at least one dimension, not {m}")
    return math.exp(math.lgamma(m / 2) - math.lgamma((m + 1) / 2)) / math.sqrt(math.pi)


def expected_contrast(k: int, m: int) -> float:
    """Return E c in nats of an m x k Jacobian with independent Gaussian entries.

    1/2 sum_{i=1..k} [psi(m/2) - psi((m-i+1)/2)] (Bartlett's decomposition).

    Raises:
        ValueError: m < k, where G is singular and c infinite.
    """
    if m < k:
        raise ValueError(f"{k} columns in {m} dimensions are linearly dependent: the contrast is infinite")
    halves = (m - torch.arange(k, dtype=torch.float64)) / 2
    psi = torch.special.digamma(halves)
    return float(0.5 * (psi[0] - psi).sum()) if k else 0.0
