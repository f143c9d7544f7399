"""What chance gives: cosines, contrasts and isometry defects of Gaussian Jacobians."""

from __future__ import annotations

import math

import numpy as np
import torch

from vaeprobe import cpu
from vaeprobe.intervals import stream

__all__ = ["expected_abs_cosine", "expected_contrast", "expected_isometry_defect"]


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
    halves = (m - cpu.arange(k, dtype=torch.float64)) / 2
    psi = torch.special.digamma(halves)
    return float(0.5 * (psi[0] - psi).sum()) if k else 0.0


def expected_isometry_defect(k: int, m: int) -> float:
    """Return the isometry defect of m x k Jacobians with independent Gaussian entries, to some 1e-3.

    1 - (E sum_i s_i)^2 / (k^2 m): E sum_i s_i^2 = k m exactly, and the sum of singular values is averaged over draws of
    the triangular factor, whose diagonal is chi distributed (Bartlett's decomposition): of 200, and fewer for more than 32
    columns, whose sums hardly vary.  For k = 1 in closed form.

    Raises:
        ValueError: m < k, where J has no k independent columns.
    """
    if m < k:
        raise ValueError(f"{k} columns in {m} dimensions are linearly dependent")
    if k == 1:
        return 1 - 2 * math.exp(2 * (math.lgamma((m + 1) / 2) - math.lgamma(m / 2))) / m
    draws = max(8, min(200, 200 * 32 // k))
    rng = stream(0, "isometry of Gaussian columns")
    R = torch.from_numpy(rng.standard_normal((draws, k, k))).triu(1)
    freedom = m - np.arange(k)
    R.diagonal(dim1=-2, dim2=-1).copy_(torch.from_numpy(np.sqrt(rng.chisquare(freedom, size=(draws, k)))))
    total = float(torch.linalg.svdvals(R).sum(1).mean())
    return 1 - total**2 / (k**2 * m)
