"""How far a density is from factorising, in numbers that rank decoders that all fail the strict test.

- *Dependence of the seam factors*, in nats: the total correlation of l_i = log p(z_i) - log n_i is not to be had
  without bias in many dimensions, but a lower bound of it is.  Total correlation does not change when each l_i is
  mapped to a standard normal, and among all variables with normal marginals and correlation matrix C the normal
  ones are the least dependent: it is at least -1/2 log det C.  The mean of the estimate is too large by an amount
  that does not depend on C (Bartlett's decomposition of a Wishart matrix), which is subtracted.
- *Share of log-density that the factors explain*: log p(x) = sum_i l_i + c with c the ima contrast at z (on the
  own sheet), and 1 - Var(c) / Var(log p(x)) is what is left of its variance without c.

Both are compared with the same at random axes of the latent space.

Source: Liu, Lafferty and Wasserman (2009), "The nonparanormal", for normal scores; Anderson (2003), "An
introduction to multivariate statistical analysis", 7.5, for log det of a Wishart matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaeprobe.geometry.gram import column_norms, log_det
from vaeprobe.geometry.nulls import expected_contrast
from vaeprobe.intervals import mean_interval, studentised_interval

__all__ = ["Grade", "Grades", "explained_share", "grades", "least_dependence", "normal_scores"]

# Eigenvalues of a correlation matrix up to this are rounding.
SINGULAR = 1e-12
# Numbers up to this have an exponential that is a double.
LARGEST = 700.0


@dataclass(frozen=True, slots=True)
class Grade:
    """One number that ranks decoders.

    Attributes:
        value: estimate.
        ci: confidence interval; None where rows do not tell.
        null: mean of the same at random axes.
    """

    value: float
    ci: tuple[float, float] | None
    null: float


@dataclass(frozen=True, slots=True)
class Grades:
    """How far from factorising.

    Attributes:
        dependence: at least so much total correlation of the log seam factors, in nats.
        explained: share of the variance of log p(x) that the sum of log seam factors explains; None where the
            log-density does not vary.
        rows: latents behind them.
    """

    dependence: Grade
    explained: Grade | None
    rows: int


def normal_scores(X: Tensor) -> Tensor:
    """Return each column mapped to quantiles of the normal distribution by its ranks, of mean 0 and variance 1.

    Args:
        X: shape (n, k); ties share their mean rank, and a constant column is 0.
    """
    n = len(X)
    columns = X.T.contiguous()
    ordered = columns.sort(dim=1).values
    less, most = (torch.searchsorted(ordered, columns, right=right).T for right in (False, True))
    scores = torch.special.ndtri((less + most).double() / (2 * n))
    scores = scores - scores.mean(0)
    size = scores.square().mean(0).sqrt()
    return torch.where(size > 1e-9, scores / size.clamp_min(1e-9), 0.0)


def _half_log_det(C: Tensor) -> Tensor:
    """Return -1/2 log det of correlation matrices, shape (...,)."""
    values: Tensor = torch.linalg.eigvalsh(C)
    return -0.5 * values.clamp_min(1e-300).log().sum(-1)


def least_dependence(X: Tensor) -> tuple[float, tuple[float, float] | None]:
    """Return a lower bound of the total correlation of columns in nats, unbiased for normal ones, and its interval.

    The interval is the jackknife's, which leaves out one row at a time; resampling would leave out a third of the rows at
    once, and fewer than there are columns have a singular correlation matrix.  For normal columns it covers .95 to 1.

    Args:
        X: shape (n, k), n > k + 1, else 0 without an interval; constant columns depend on nothing, and columns that
            are functions of others have no interval.
    """
    X = X[:, (X.amax(0) > X.amin(0))]
    n, k = X.shape
    if k < 2 or n - 1 <= k:
        return 0.0, None
    Z = normal_scores(X)
    values, vectors = torch.linalg.eigh(Z.T @ Z / n)
    value = float(-0.5 * values.clamp_min(1e-300).log().sum()) - expected_contrast(k, n - 1)
    if float(values[0]) <= SINGULAR:
        return max(value, 0.0), None
    # without a row, centred anew, z z^T n / (n - 1) less: in closed form for determinants and diagonals
    leverage = ((Z @ vectors).square() / values).sum(1) / (n - 1)
    without = 0.5 * (torch.log1p(-Z.square() / (n - 1)).sum(1) - torch.log1p(-leverage))
    return max(value, 0.0), mean_interval((value + (n - 1) * (without.mean() - without)).numpy(), low=0.0)


def explained_share(
    contrast: Tensor, log_density: Tensor, *, seed: int = 0
) -> tuple[float, tuple[float, float]] | None:
    """Return 1 - Var(c) / Var(log p) and its interval; None where log p does not vary.

    Args:
        contrast: c at each latent, shape (n,).
        log_density: log p(x) at each, shape (n,).
    """
    c, p = (w - w.mean() for w in (contrast, log_density))
    rows = torch.stack([c, c.square(), p, p.square()], dim=1).numpy()

    if float(p.square().mean()) <= 1e-18:
        return None
    unexplained = float(c.square().mean() / p.square().mean())
    if unexplained <= 1e-18:
        return 1.0, (1.0, 1.0)

    def log_unexplained(means: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        first, second, third, fourth = (means[..., i] for i in range(4))
        above, below = (np.maximum(w, 1e-100) for w in (second - first**2, fourth - third**2))
        gradient = np.stack([-2 * first / above, 1 / above, 2 * third / below, -1 / below], axis=-1)
        return np.log(above / below), gradient

    low, high = studentised_interval(rows, log_unexplained, seed=seed)
    # of a few latents it may be anything: beyond any double, too
    return 1 - unexplained, (1 - math.exp(min(high, LARGEST)), 1 - math.exp(min(low, LARGEST)))


def grades(y: Tensor, G: Tensor, contrast: Tensor, R: Tensor, *, seed: int = 0) -> Grades:
    """Grade a factorisation along the axes, and along random ones.

    Args:
        y: active coordinates of latents, shape (n, a).
        G: metric over them, shape (n, a, a), of columns that have a length.
        contrast: its ima contrast, shape (n,), inf where it is singular: there is no density to explain.
        R: random rotations for the null, shape (r, a, a).
    """
    regular = torch.isfinite(contrast)
    half_log_det = log_det(G[regular]) / 2
    log_density = -y[regular].square().sum(1) / 2 - half_log_det
    factors = -y.square() / 2 - column_norms(G).log()
    value, ci = least_dependence(factors)
    share = explained_share(contrast[regular], log_density, seed=seed)
    dependences, shares = [], []
    spread = float(log_density.var(correction=0))
    bias = expected_contrast(y.shape[1], len(y) - 1) if len(y) - 1 > y.shape[1] else 0.0
    for r in R:
        norms = ((G @ r) * r).sum(-2).clamp_min(1e-300).sqrt()
        turned = -(y @ r).square() / 2 - norms.log()
        Z = normal_scores(turned)
        if len(Z) - 1 > Z.shape[1]:  # fewer rows tell nothing, as of the axes themselves
            dependences.append(float(_half_log_det(Z.T @ Z / len(Z))) - bias)
        shares.append(
            1 - float((norms[regular].log().sum(1) - half_log_det).var(correction=0)) / max(spread, 1e-300)
        )
    null, null_share = (float(np.mean(x)) if x else 0.0 for x in (dependences, shares))
    return Grades(
        dependence=Grade(value, ci, max(null, 0.0)),
        explained=None if share is None else Grade(share[0], share[1], null_share),
        rows=len(y),
    )
