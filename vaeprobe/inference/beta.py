"""What beta a checkpoint was trained at, with everything that speaks for and against the answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.inference.collapse import active_by_all_rules
from vaeprobe.inference.identity import (
    Agreement,
    Estimate,
    agreement,
    pooled_ratio,
    ratio_per_latent,
    shares,
)
from vaeprobe.inference.moments import PosteriorMoments

__all__ = ["BetaEstimate", "estimate_beta"]


@dataclass(frozen=True, eq=False)
class BetaEstimate:
    """Beta by every identity that the optimum of a beta-ELBO obeys, over the active latents.

    Attributes:
        active: the latents that carry weight, shape (k,), bool: mean of 1/Sigma_ii - 1 above 1.
        stein: sum Sigma_ii h_i / sum (1 - Sigma_ii) with the exact curvature: the estimate.
        gauss_newton: the same with E_q[G_ii], which drops the residual term of Eq. 7.
        means: sum e_i E_q[d_i log p] / sum e_i^2, from the stationarity of the posterior means.
        per_latent: the first of them for each latent, all k of them.
        agreement: how well one beta serves the active latents; None for fewer than two.
    """

    active: Tensor
    stein: Estimate
    gauss_newton: Estimate
    means: Estimate
    per_latent: list[Estimate]
    agreement: Agreement | None


def estimate_beta(moments: PosteriorMoments, *, seed: int = 0) -> BetaEstimate | None:
    """Return beta by the identities between posterior and likelihood, or None where every latent collapsed.

    For a Gaussian likelihood whose moments were taken at sigma^2 it is beta times the true variance over
    that sigma^2, hence beta sigma^2 at sigma^2 = 1.
    """
    active = active_by_all_rules(moments).precision
    if not bool(active.any()):
        return None
    exact, bottom = shares(moments, moments.curvature)
    approximate, _ = shares(moments, moments.gauss_newton)
    pull, size = moments.mean * moments.score, moments.mean.square()

    def pooled(top: Tensor, under: Tensor) -> Estimate:
        return pooled_ratio(top[:, active], under[:, active], seed=seed)

    return BetaEstimate(
        active=active,
        stein=pooled(exact, bottom),
        gauss_newton=pooled(approximate, bottom),
        means=pooled(pull, size),
        per_latent=ratio_per_latent(exact, torch.where(bottom.sum(0) == 0, 1e-300, bottom), seed=seed),
        agreement=agreement(exact[:, active], bottom[:, active], seed=seed)
        if int(active.sum()) > 1
        else None,
    )
