"""The ELBO (Allen 2024, Eq. 1), its deterministic expansion (Eq. 5), and what an encoder leaves on the table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.inference.moments import PosteriorMoments

__all__ = [
    "ElboTerms",
    "elbo_terms",
    "kl_per_latent",
    "mean_gap",
    "optimal_variance",
    "variance_gap",
    "variance_gap_by_scale",
]


def kl_per_latent(mean: Tensor, variance: Tensor) -> Tensor:
    """Return KL(N(mean_i, variance_i) || N(0, 1)) of each latent in nats, the shape of `mean`."""
    return 0.5 * (mean.square() + variance - 1 - variance.log())


@dataclass(frozen=True, eq=False)
class ElboTerms:
    """The terms of one ELBO per data row, each of shape (n,), nats.

    Attributes:
        reconstruction: E_q[log p(x|z)], by Monte Carlo.
        reconstruction_at_mean: log p(x | e(x)).
        noise_cost: -1/2 tr(G Sigma) at e(x), what posterior noise costs to second order.
        kl: KL(q(z|x) || N(0, I)).
    """

    reconstruction: Tensor
    reconstruction_at_mean: Tensor
    noise_cost: Tensor
    kl: Tensor

    def value(self, beta: float = 1.0) -> Tensor:
        """Return E_q[log p(x|z)] - beta KL: the ELBO (Eq. 1) at beta = 1, a bound on log p(x)."""
        return self.reconstruction - beta * self.kl

    def deterministic(self, beta: float = 1.0) -> Tensor:
        """Return the det-ELBO: log p(x|e(x)) - 1/2 tr(G Sigma) - beta KL (Eq. 5, Gauss-Newton Hessian)."""
        return self.reconstruction_at_mean + self.noise_cost - beta * self.kl

    @property
    def remainder(self) -> Tensor:
        """What Eq. 5 drops, ELBO - det-ELBO: the residual term of Eq. 7 and all higher derivatives."""
        return self.reconstruction - self.reconstruction_at_mean - self.noise_cost


def elbo_terms(moments: PosteriorMoments) -> ElboTerms:
    """Return the terms of the ELBO and of the det-ELBO of each data row."""
    G_diagonal = moments.gram_at_mean.diagonal(dim1=1, dim2=2)
    return ElboTerms(
        reconstruction=moments.log_density,
        reconstruction_at_mean=moments.log_density_at_mean,
        noise_cost=-0.5 * (G_diagonal * moments.variance).sum(1),
        kl=kl_per_latent(moments.mean, moments.variance).sum(1),
    )


# -- amortisation --------------------------------------------------------------------------------


def optimal_variance(moments: PosteriorMoments, beta: float) -> Tensor:
    """Return each posterior variance's own optimum 1 / (1 + h_i / beta) at the encoder's mean, shape (n, k).

    h_i per row is the low-noise Gauss-Newton curvature, scaled latent by latent so that its weighted mean
    over the rows is the exact Bonnet/Stein one.
    """
    return 1 / (1 + moments.gauss_newton * _scale(moments) / beta)


def _scale(moments: PosteriorMoments) -> Tensor:
    """Return the weighted mean of the exact curvature over that of Gauss-Newton's, at least 0, shape (k,)."""
    exact = (moments.variance * moments.curvature).sum(0)
    approximate = (moments.variance * moments.gauss_newton).sum(0)
    scale = torch.where(approximate > 0, exact / approximate.clamp_min(1e-300), torch.ones_like(exact))
    return scale.clamp_min(0)


def variance_gap_by_scale(moments: PosteriorMoments, beta: float) -> Tensor:
    """Return by how much each row moves the mean `variance_gap` through the curvature's scale, times n, shape (n,).

    The scale is read off the same rows: without this its error is missing from that of the gap.  The mean is 0.
    """
    s, h = _scale(moments), moments.gauss_newton
    r = moments.variance * (1 + h * s / beta)
    slope = (0.5 * (1 - 1 / r) * moments.variance * h).mean(0)
    size = (moments.variance * h).mean(0).clamp_min(1e-300)
    moves = (slope * moments.variance * (moments.curvature - s * h) / size).sum(1)
    return moves - moves.mean()


def variance_gap(moments: PosteriorMoments, beta: float) -> Tensor:
    """Return what each encoder variance loses against its own optimum, shape (n, k), nats of the beta-ELBO.

    beta/2 (r - 1 - log r) with r = Sigma_ii / optimum: the variance part of the amortisation gap of Cremer,
    Li and Duvenaud (2018), arXiv:1801.03558, to second order of log p.
    """
    r = moments.variance / optimal_variance(moments, beta)
    return 0.5 * beta * (r - 1 - r.log())


def mean_gap(moments: PosteriorMoments, beta: float) -> Tensor:
    """Return what the encoder means lose against their own optimum, shape (n,), nats of the beta-ELBO.

    The gain of one Newton step, beta/2 u^T Lambda^-1 u with u = E_q[score]/beta - e(x) and Lambda = I +
    E_q[G]/beta, less what the Monte-Carlo error of the score adds on average.
    """
    k = moments.latents
    Lambda = cpu.eye(k, dtype=torch.float64) + moments.gram / beta
    inverse = torch.linalg.inv(Lambda)
    u = moments.score / beta - moments.mean
    noise = (inverse.diagonal(dim1=1, dim2=2) * (moments.score_error / beta).square()).sum(1)
    gain: Tensor = 0.5 * beta * (torch.einsum("ni,nij,nj->n", u, inverse, u) - noise)
    return gain
