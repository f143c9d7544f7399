"""Pure maths on pullback metrics G = J^T W J: cosines, contrasts, gaps and singular frames.

Every function takes G of shape (n, k, k), float64, one k x k matrix per latent, and nothing in it is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "active_latents",
    "alike_words",
    "alike_columns",
    "canonical_signs",
    "column_cosines",
    "column_norms",
    "condition_number",
    "conformality",
    "effective_rank",
    "ima_contrast",
    "least_contrast",
    "log_det",
    "mean_field_gap",
    "ranks",
    "singular_frame",
    "singular_tolerance",
    "smallest_gap",
]

# The share of the largest mean column norm under which a latent counts as inactive.
ACTIVE_THRESHOLD = 0.05


def column_norms(G: Tensor) -> Tensor:
    """Return the lengths of the Jacobian's columns, n_i = sqrt(G_ii), shape (n, k)."""
    return G.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()


def column_cosines(G: Tensor) -> Tensor:
    """Return the cosines between Jacobian columns, C_ij = G_ij / (n_i n_j), shape (n, k, k).

    The row and column of a Jacobian column of length zero are 0, its diagonal entry included, where it
    is 1 otherwise: the diagonal is the mask.

    Source: Allen (2024), arXiv:2410.22559v1, Section 3.
    """
    n = column_norms(G)
    scale = torch.where(n > 0, 1 / n.clamp_min(torch.finfo(n.dtype).tiny), torch.zeros_like(n))
    C = (scale[:, :, None] * G * scale[:, None, :]).clamp(-1, 1)
    C.diagonal(dim1=-2, dim2=-1).copy_((n > 0).to(C.dtype))
    return C


def singular_tolerance(k: int, dtype: torch.dtype = torch.float64) -> float:
    """Return the squared relative length under which a column counts as a combination of others.

    A column whose part orthogonal to the other columns is within the rounding of `dtype`, the type that
    the Jacobian was computed in, cannot be told from a dependent one.

    Args:
        k: number of columns.
        dtype: type of the Jacobian; G itself is float64.
    """
    rounding = float(torch.finfo(dtype).eps)
    return max(64 * k * float(torch.finfo(torch.float64).eps), (30 * rounding) ** 2)


def _cosine_log_det(G: Tensor, tolerance: float | None) -> Tensor:
    """Return log det C, shape (n,); -inf where C is singular within the tolerance."""
    k = G.shape[-1]
    L, info = torch.linalg.cholesky_ex(column_cosines(G))
    pivots = L.diagonal(dim1=-2, dim2=-1)
    floor = (singular_tolerance(k) if tolerance is None else tolerance) ** 0.5
    regular = (info == 0) & (pivots > floor).all(-1)
    logs = torch.where(pivots > floor, pivots, torch.ones_like(pivots)).log()
    return torch.where(regular, 2 * logs.sum(-1), -torch.inf)


def ima_contrast(G: Tensor, *, tolerance: float | None = None) -> Tensor:
    """Return c = sum_i log n_i - 1/2 log det G = -1/2 log det C in nats, shape (n,).

    It is 0 exactly where the columns are orthogonal (Hadamard's inequality), and inf where G is singular
    within the tolerance, a column of length zero included: restrict G to its active latents before.

    Args:
        G: shape (n, k, k).
        tolerance: see `singular_tolerance`, whose float64 value is the default.

    Source: Gresele et al. (2021), arXiv:2106.05200, Section 4; Allen (2024), arXiv:2410.22559v1, Eqs. 14, 15.
    """
    return (0.0 - 0.5 * _cosine_log_det(G, tolerance)).clamp_min(0)


def least_contrast(G: Tensor, tolerance: float) -> Tensor:
    """Return what the ima contrast is at least, as far as G can tell, in nats, shape (n,): finite for every G.

    A column of length zero counts as orthogonal to the others. Where these are dependent one of them lies within the root
    of the tolerance of what others span, and no eigenvalue of C is known to be less than the tolerance.

    Args:
        G: shape (n, k, k).
        tolerance: see `singular_tolerance`.
    """
    C = column_cosines(G)
    C.diagonal(dim1=-2, dim2=-1).fill_(1)
    contrast = ima_contrast(C, tolerance=tolerance)
    dependent = torch.isinf(contrast)
    if dependent.any():
        values = torch.linalg.eigvalsh(C[dependent]).clamp_min(tolerance)
        contrast[dependent] = (-0.5 * values.log().sum(-1)).clamp_min(-0.5 * math.log(tolerance))
    return contrast


def log_det(G: Tensor, *, tolerance: float | None = None) -> Tensor:
    """Return log det G, shape (n,); -inf where G is singular within the tolerance."""
    n = column_norms(G)
    logs = 2 * torch.where(n > 0, n, torch.ones_like(n)).log().sum(-1)
    return logs + _cosine_log_det(G, tolerance)


def mean_field_gap(G: Tensor, beta_sigma2: float = 1.0) -> Tensor:
    """Return the ELBO in nats that a diagonal posterior loses against a full one, shape (n,).

    With the posterior precision Lambda = I + G / (beta sigma^2) it is
    1/2 (sum_i log Lambda_ii - log det Lambda), finite for every G, singular ones included.

    Args:
        G: shape (n, k, k).
        beta_sigma2: beta of the ELBO times the variance of a Gaussian likelihood; beta alone where G
            carries the likelihood's own metric.

    Source: Allen (2024), arXiv:2410.22559v1, Eqs. 5-9.
    """
    k = G.shape[-1]
    Lambda = torch.eye(k, dtype=G.dtype, device=G.device) + G / float(beta_sigma2)
    scale = Lambda.diagonal(dim1=-2, dim2=-1).rsqrt()
    correlation = scale[:, :, None] * Lambda * scale[:, None, :]
    L, info = torch.linalg.cholesky_ex(correlation)
    logs: Tensor = L.diagonal(dim1=-2, dim2=-1).clamp_min(torch.finfo(G.dtype).tiny).log().sum(-1)
    if (info > 0).any():
        # columns so long that I is lost in the rounding of Lambda: its smallest eigenvalue is 1 exactly
        bad = info > 0
        s2 = torch.linalg.eigvalsh(G[bad]).clamp_min(0) / beta_sigma2
        logs[bad] = 0.5 * s2.log1p().sum(-1) + scale[bad].log().sum(-1)
    return (0.0 - logs).clamp_min(0)


def active_latents(G: Tensor, threshold: float = ACTIVE_THRESHOLD) -> Tensor:
    """Return which latents move the output, shape (k,), bool.

    A latent is active when its column norm, averaged over the samples, exceeds `threshold` times the
    largest one.
    """
    mean = column_norms(G).mean(0)
    return (mean > 0) & (mean > threshold * mean.max())


def alike_columns(G: Tensor, tolerance: float) -> Tensor:
    """Return which pairs of columns are one but for their lengths, shape (n, k, k), bool, as far as G can tell.

    Args:
        tolerance: see `singular_tolerance`: the squared sine of their angle up to which they are.
    """
    C = column_cosines(G).abs()
    return tolerance >= (1 - C) * (1 + C)


def alike_words(G: Tensor, names: Sequence[str], tolerance: float) -> str:
    """Return which latents move the output alike at most points, as the end of a sentence; "" where no two do.

    Args:
        tolerance: see `alike_columns`.
    """
    often = (alike_columns(G, tolerance).double().mean(0) > 0.5).triu(1).nonzero().tolist()
    if not often:
        return ""
    i, j = often[0]
    more = f", and {len(often) - 1} more pair{'s' * (len(often) > 2)}" if len(often) > 1 else ""
    return f": {names[i]} and {names[j]} move the output alike{more}"


def canonical_signs(V: Tensor) -> Tensor:
    """Return V with each column's sign such that its largest entry is positive, shape (..., k, k).

    Among entries that tie for the largest, within one part in a thousand, the first decides, so that
    rounding does not flip (1, -1) / sqrt 2.
    """
    size = V.abs()
    first = (size >= size.amax(-2, keepdim=True) * (1 - 1e-3)).to(torch.uint8).argmax(-2, keepdim=True)
    sign = torch.where(V.gather(-2, first) < 0, -1.0, 1.0).to(V.dtype)
    return V * sign


def singular_frame(G: Tensor) -> tuple[Tensor, Tensor]:
    """Return the singular values and right singular vectors of J, (n, k) descending and (n, k, k).

    V's columns are orthonormal, with canonical signs, and arbitrary where singular values coincide.  Works
    for singular G.  Both come from a factor of G with unit columns, scaled back, so that the scales of the
    columns cost no digits.
    """
    C = column_cosines(G)
    values, Q = torch.linalg.eigh(C)
    factor = column_norms(G)[:, :, None] * Q * values.clamp_min(0).sqrt()[:, None, :]
    V, s, _ = torch.linalg.svd(factor)
    return s, canonical_signs(V)


# -- what a spectrum says -----------------------------------------------------------------------


def ranks(s: Tensor, resolution: float) -> Tensor:
    """Return how many singular values, of shape (n, k) descending, exceed that share of the largest, shape (n,)."""
    return (s > resolution * s[:, :1]).sum(1)


def condition_number(s: Tensor) -> Tensor:
    """Return s_1 / s_k, shape (n,), for singular values of shape (n, k); inf where s_k = 0."""
    smallest = s[:, -1]
    ratio = s[:, 0] / torch.where(smallest > 0, smallest, torch.ones_like(smallest))
    return torch.where(smallest > 0, ratio, torch.full_like(ratio, torch.inf))


def effective_rank(s: Tensor) -> Tensor:
    """Return exp of the entropy of s / sum(s), shape (n,): k for equal singular values, 0 for J = 0.

    Source: Roy and Vetterli (2007), "The effective rank".
    """
    total = s.sum(-1, keepdim=True)
    p = s / torch.where(total > 0, total, torch.ones_like(total))
    entropy = -torch.special.xlogy(p, p).sum(-1)
    return torch.where(total[:, 0] > 0, entropy.exp(), torch.zeros_like(entropy))


def smallest_gap(s: Tensor) -> Tensor:
    """Return min_i (s_i - s_{i+1}) / s_i, shape (n,): how well the singular vectors are determined.

    0 where two singular values coincide.

    Raises:
        ValueError: fewer than two singular values have no gap.
    """
    if s.shape[-1] < 2:
        raise ValueError("one singular value has no gap")
    above = s[:, :-1]
    gaps = torch.where(above > 0, 1 - s[:, 1:] / torch.where(above > 0, above, torch.ones_like(above)), 0.0)
    return gaps.amin(-1)


def conformality(G: Tensor) -> Tensor:
    """Return the standard deviation of log n_i over the columns, shape (n,): 0 for equal column norms.

    A conformal map has orthogonal columns of equal length; the contrast sees only the first.

    Raises:
        ValueError: a column of length zero has no logarithm.
    """
    n = column_norms(G)
    if not (n > 0).all():
        raise ValueError("a column of length zero has no logarithm: restrict G to its active latents")
    return n.log().std(-1, correction=0) if n.numel() else n.new_zeros(len(n))
