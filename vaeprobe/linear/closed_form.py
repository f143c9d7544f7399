"""Closed forms: PPCA's maximum likelihood and the beta-ELBO optimum of a linear VAE with a diagonal posterior.

With eigenpairs (lambda_i, u_i) of the covariance and tau = beta sigma^2 both are
`W = U (Lambda - tau I)_+^{1/2} R`: R is arbitrary for PPCA (tau = sigma^2), and a signed permutation for
the linear VAE.

Sources: Tipping and Bishop (1999); Lucas, Tucker, Grosse and Norouzi (2019); Allen (2024), Eqs. 2-4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vaeprobe.errors import InputError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vaeprobe.linear.eigenpairs import Spectrum
    from vaeprobe.linear.moments import Array

LOG_2PI = math.log(2 * math.pi)
ROUNDING = 1e-12  # relative error that an eigenvalue at the collapse threshold may have


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A linear VAE: z ~ N(0, I), x | z ~ N(W z + mean, sigma2 I), q(z | x) = N(E (x - mean), diag(variance)).

    Attributes:
        mean: shape (m,).
        W: columns of the decoder, shape (m, d).
        sigma2: noise variance.
        E: encoder, shape (d, m).
        variance: posterior variances Sigma_ii, shape (d,).
    """

    mean: Array
    W: Array
    sigma2: float
    E: Array
    variance: Array


@dataclass(frozen=True, eq=False)
class Solution:
    """The optimum in closed form, in the basis of the eigenvectors (R = I).

    Attributes:
        values: the d largest eigenvalues, shape (d,).
        vectors: their eigenvectors, shape (m, d).
        mean: shape (m,).
        sigma2: noise variance, given or at the optimum.
        beta: weight of the KL term.
        learned: whether sigma2 was maximised over.
        rest: variance outside the d directions.
    """

    values: Array
    vectors: Array
    mean: Array
    sigma2: float
    beta: float
    learned: bool
    rest: float

    @property
    def m(self) -> int:
        return len(self.mean)

    @property
    def d(self) -> int:
        return len(self.values)

    @property
    def tau(self) -> float:
        """The collapse threshold beta sigma^2."""
        return self.beta * self.sigma2

    @property
    def active(self) -> NDArray[np.bool_]:
        """Whether each latent is used, shape (d,): lambda_i > beta sigma^2, beyond rounding."""
        return np.asarray(self.values > self.tau * (1 + ROUNDING))

    @property
    def square_norms(self) -> Array:
        """Squared column norms (lambda_i - tau)_+, shape (d,)."""
        return np.where(self.active, self.values - self.tau, 0.0)

    @property
    def W(self) -> Array:
        """The decoder's columns, shape (m, d)."""
        return self.vectors * np.sqrt(self.square_norms)

    @property
    def variance(self) -> Array:
        """Posterior variances tau / lambda_i, 1 where collapsed, shape (d,)."""
        return self.tau / (self.square_norms + self.tau)

    @property
    def kl(self) -> Array:
        """KL of each posterior to the prior, mean over the rows, in nats, shape (d,)."""
        return -0.5 * np.log(self.variance)

    @property
    def loglik(self) -> float:
        """Mean log-likelihood of a row, in nats, under N(mean, W W^T + sigma2 I)."""
        c = self.square_norms + self.sigma2
        inside = float((np.log(c) + self.values / c).sum())
        outside = (self.m - self.d) * math.log(self.sigma2) + self.rest / self.sigma2
        return -0.5 * (self.m * LOG_2PI + inside + outside)

    @property
    def elbo(self) -> float:
        """The beta-ELBO of a row at the optimum, in nats; the log-likelihood where beta is 1."""
        residual = float(np.minimum(self.values, self.tau).sum()) + self.rest
        reconstruction = -0.5 * (self.m * (LOG_2PI + math.log(self.sigma2)) + residual / self.sigma2)
        return reconstruction - self.beta * float(self.kl.sum())

    def model(self) -> LinearModel:
        """Return the decoder and encoder of this solution."""
        return LinearModel(
            mean=self.mean,
            W=self.W,
            sigma2=self.sigma2,
            E=(self.vectors * (np.sqrt(self.square_norms) / (self.square_norms + self.tau))).T,
            variance=self.variance,
        )


def check_sigma2(sigma2: float | None) -> None:
    """Refuse a noise variance that is none.

    Raises:
        UsageError: it is not positive and finite.
    """
    if sigma2 is not None and not (sigma2 > 0 and math.isfinite(sigma2)):
        raise UsageError(f"sigma2 must be positive, not {sigma2}")


def solve(spectrum: Spectrum, d: int, *, beta: float = 1.0, sigma2: float | None = None) -> Solution:
    """Return the optimum of the beta-ELBO with a diagonal posterior; PPCA's maximum likelihood where beta is 1.

    Args:
        d: number of latents, 1 <= d <= m; d < m where sigma2 is to be learned.
        beta: weight of the KL term.
        sigma2: noise variance; None maximises over it as well.

    Raises:
        UsageError: d, beta or sigma2 is out of range.
        InputError: sigma2 has no optimum above 0, for the data lie in d dimensions.
    """
    m = spectrum.m
    if not 1 <= d <= m:
        raise UsageError(
            f"{d} latents are not possible for data of {m} columns", hint=f"choose --latent-dim from 1 to {m}"
        )
    if not (beta > 0 and math.isfinite(beta)):
        raise UsageError(f"beta must be positive, not {beta}")
    check_sigma2(sigma2)
    if sigma2 is not None and not math.isfinite(spectrum.total / sigma2):
        raise UsageError(
            f"sigma2 = {sigma2:.3g} is too small: a variance of {spectrum.total:.3g} over it is no number",
            hint="fix it near the noise variance of the data, or learn it",
        )
    values = np.zeros(d)
    known = min(d, len(spectrum.values))
    values[:known] = spectrum.values[:known]
    vectors = completed(spectrum.vectors[:, :known], d)
    rest = spectrum.rest(known)
    s = best_sigma2(spectrum, values, rest, beta) if sigma2 is None else sigma2
    return Solution(values, vectors, spectrum.mean, s, beta, sigma2 is None, rest)


def best_sigma2(spectrum: Spectrum, values: Array, rest: float, beta: float) -> float:
    """Return the sigma^2 that maximises the beta-ELBO together with the columns.

    With q latents active the stationary point is `(trace S - sum_{i<=q} lambda_i) / (m - beta q)`, which is
    PPCA's mean of the discarded eigenvalues for beta = 1; of the consistent ones (lambda_q > tau >= lambda_{q+1})
    the best objective wins.
    """
    m, d = spectrum.m, len(values)
    if d >= m and beta <= 1:
        raise UsageError(
            f"sigma2 cannot be learned with {d} latents for {m} columns: nothing is left over for it",
            hint=f"choose --latent-dim below {m}, or fix it with --sigma2"
            if m > 1
            else "fix it with --sigma2",
        )
    best: tuple[float, float] | None = None
    for q in range(d + 1):
        left = rest + float(values[q:].sum())
        freedom = m - beta * q
        if freedom <= 0 or left <= spectrum.resolution * (m - q):
            if freedom > 0:
                break  # the data lie in q dimensions: the objective grows without bound as sigma2 falls
            continue
        s = left / freedom
        tau = beta * s
        if (q > 0 and values[q - 1] <= tau) or (q < d and values[q] > tau * (1 + 1e-12)):
            continue
        candidate = Solution(values, spectrum.vectors[:, :0], spectrum.mean, s, beta, True, rest).elbo
        if best is None or candidate > best[0]:
            best = (candidate, s)
    else:
        if best is not None:
            return best[1]
    raise InputError(
        f"sigma2 has no best value above 0: with {d} latent{'s' * (d > 1)} the {spectrum.n} rows of {m} columns are fitted exactly",
        hint=("choose a smaller --latent-dim, or " if d > 1 else "") + "fix it with --sigma2",
    )


def completed(vectors: Array, d: int) -> Array:
    """Return d orthonormal columns that begin with the given ones, shape (m, d)."""
    m, known = vectors.shape
    if known >= d:
        return vectors[:, :d]
    # directions without variance: any that are orthogonal will do, taken from the axes least covered so far
    order = np.argsort(np.square(vectors).sum(axis=1), kind="stable")
    extra = np.eye(m)[:, order[: min(m, 2 * d)]]
    Q, _ = np.linalg.qr(np.hstack([vectors, extra]))
    return np.hstack([vectors, Q[:, known:d]])


def log_likelihoods(X: Array, mean: Array, W: Array, sigma2: float) -> Array:
    """Return log N(x; mean, W W^T + sigma2 I) of each row in nats, shape (n,)."""
    m = len(W)
    Y = X - mean
    # in the columns' own basis: |y|^2 less what the columns take would lose the digits of a small sigma2
    U, s, _ = np.linalg.svd(W, full_matrices=False)
    inside = Y @ U
    outside = np.square(Y - inside @ U.T).sum(axis=1)
    variances = s**2 + sigma2
    square = outside / sigma2 + (np.square(inside) / variances).sum(axis=1)
    log_det = (m - len(s)) * math.log(sigma2) + float(np.log(variances).sum())
    return np.asarray(-0.5 * (m * LOG_2PI + log_det + square))


def beta_elbo(spectrum: Spectrum, model: LinearModel, beta: float) -> float:
    """Return the beta-ELBO per row, in nats, of any linear VAE with a diagonal posterior.

    Args:
        spectrum: a complete one, of the rows that count.
    """
    W, E, s = model.W, model.E, model.sigma2
    Sigma = np.diag(model.variance)
    SE = spectrum.product(E.T)
    ESE = E @ SE
    residual = spectrum.total - 2 * float((W * SE).sum()) + float(((W.T @ W) * (ESE + Sigma)).sum())
    reconstruction = -0.5 * (spectrum.m * (LOG_2PI + math.log(s)) + residual / s)
    kl = 0.5 * float(np.trace(ESE) + np.trace(Sigma) - np.linalg.slogdet(Sigma)[1] - len(Sigma))
    return reconstruction - beta * kl
