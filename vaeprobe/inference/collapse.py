"""Which latents carry anything: four rules that disagree, and what the data leave room for (Corollary 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.geometry.gram import active_latents
from vaeprobe.inference.elbo import kl_per_latent
from vaeprobe.inference.moments import PosteriorMoments
from vaeprobe.likelihoods import Likelihood

__all__ = ["ActiveLatents", "active_by_all_rules", "informative", "supported_directions"]

KL_FLOOR = 0.01
MEANS_FLOOR = 0.01
CLEAR = 3.0  # standard errors over the rows


@dataclass(frozen=True, eq=False)
class ActiveLatents:
    """Active latents by four rules, each of shape (k,), bool.

    Attributes:
        kl: mean KL over the data above 0.01 nats.
        means: variance of the posterior means over the data above 0.01 (Burda, Grosse and Salakhutdinov
            2016, arXiv:1509.00519, "active units").
        columns: rms column norm of the decoder's Jacobian above 5 % of the largest.
        precision: the encoder knows the latent better than the prior does (`informative`).
    """

    kl: Tensor
    means: Tensor
    columns: Tensor
    precision: Tensor


def informative(mean: Tensor, variance: Tensor) -> Tensor:
    """Return which latents the posteriors say something about that the prior does not, shape (k,), bool.

    The mean over the rows of 1 - Sigma_ii is above 0 by three standard errors, and the mean KL above 0.01 nats.
    The second is needed: collapsed latents of trained encoders have 1 - Sigma_ii of up to .06, far from 0 by its
    standard error, at a KL of .002, for their means stand still; a mild latent of that variance at its optimum has
    a KL of .03.

    Args:
        mean, variance: shape (n, k), n data rows.
    """
    gain = 1 - variance
    error = gain.std(0, correction=min(1, len(gain) - 1)) / math.sqrt(len(gain))
    used = kl_per_latent(mean, variance).mean(0) > KL_FLOOR
    return used & (gain.mean(0) > CLEAR * error)


def active_by_all_rules(moments: PosteriorMoments) -> ActiveLatents:
    """Return which latents are active by each of the four rules."""
    return ActiveLatents(
        kl=kl_per_latent(moments.mean, moments.variance).mean(0) > KL_FLOOR,
        means=moments.mean.var(0, correction=0) > MEANS_FLOOR,
        columns=active_latents(moments.gram),
        precision=informative(moments.mean, moments.variance),
    )


def supported_directions(x: Tensor, likelihood: Likelihood) -> Tensor:
    """Return the betas at which the data's own directions collapse, descending, shape (m,).

    They are the eigenvalues of the data's covariance relative to the likelihood's variance V at the mean
    image, V^-1/2 Cov(x) V^-1/2.  With a constant decoder a latent can start to grow along such a direction
    exactly where its eigenvalue exceeds beta: for a Gaussian, lambda_i > beta sigma^2, which is Corollary
    3.1; for other exponential families the same expansion of the ELBO to second order in the weights holds
    with V = Var[x | mean].

    Args:
        x: data, shape (n, ...).
    """
    rows = x.flatten(1).double().cpu()
    centre = rows.mean(0)
    V = 1 / likelihood.weight(centre, "mean")
    used = torch.isfinite(V) & (V > 0)
    scaled = (rows - centre)[:, used] * V[used].rsqrt()
    edges: Tensor = torch.linalg.eigvalsh(scaled.T @ scaled / len(rows)).flip(0)
    return edges
