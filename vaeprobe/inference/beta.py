"""What beta a checkpoint was trained at, with everything that speaks for and against the answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.inference.collapse import active_by_all_rules
from vaeprobe.inference.identity import (
    Evenness,
    agreement,
    mean_terms,
    ratio_per_latent,
    row_shift,
    shares,
)
from vaeprobe.inference.moments import PosteriorMoments
from vaeprobe.inference.pooling import PooledEstimate, pooled_quotient, pooled_ratio, ratio

__all__ = ["TOLERANCE", "BetaEstimate", "estimate_beta"]

# deviations under this share of beta are within what encoders trained to the end show
TOLERANCE = 0.05
# a spread over latents that cannot be told from one of half of beta is no agreement
NO_POWER = 0.5


@dataclass(frozen=True, eq=False)
class BetaEstimate:
    """Beta by every identity that the optimum of a beta-ELBO obeys, over the active latents.

    Attributes:
        active: the latents that carry weight, shape (k,), bool (`ActiveLatents.precision`).
        stein: sum Sigma_ii h_i / sum (1 - Sigma_ii) with the exact curvature: the estimate.
        of_rows: the same with its interval over rows alone, for these very latents.
        gauss_newton: the same with E_q[G_ii], which drops the residual term of Eq. 7.
        means: sum w_i e_i E_q[d_i log p] / sum w_i e_i^2, from the stationarity of the posterior means.
        means_over_variances: `means` over `stein`, 1 where the two agree, with the interval of the quotient.
        row_shift: the share of `stein` that noise of the log-variances from row to row adds.
        per_latent: the first of them for each latent, all k of them.
        agreement: how well one beta serves the active latents; None for fewer than two.
        by_row: by what each row moves `stein`, shape (n,), of sum 0.
    """

    active: Tensor
    stein: PooledEstimate
    of_rows: PooledEstimate
    gauss_newton: PooledEstimate
    means: PooledEstimate
    means_over_variances: PooledEstimate
    row_shift: PooledEstimate
    per_latent: list[PooledEstimate]
    agreement: Evenness | None
    by_row: Tensor

    @property
    def clear(self) -> bool:
        """Whether these latents' estimate is positive for certain: elsewhere what is divided by it is noise."""
        return self.of_rows.ci[0] > 0

    @property
    def latents_disagree(self) -> bool:
        """Whether the latents' own betas lie apart by more than 5 % of it for certain."""
        return self.clear and self.agreement is not None and 1 / (1 + self.agreement.ci[0]) < 1 - TOLERANCE

    @property
    def means_disagree(self) -> bool:
        """Whether the means ask for another beta than the variances, by more than 5 % for certain."""
        low, high = self.means_over_variances.ci
        return self.clear and (high < 1 - TOLERANCE or low > 1 + TOLERANCE)

    @property
    def rows_disagree(self) -> bool:
        """Whether noise from row to row shifts the estimate by more than 5 % for certain."""
        return self.clear and self.row_shift.ci[0] > TOLERANCE

    @property
    def disagrees(self) -> bool:
        """Whether one of the tests says that no single beta is behind these posteriors."""
        return self.latents_disagree or self.means_disagree or self.rows_disagree

    @property
    def tested(self) -> bool:
        """Whether the latents could have disagreed: two or more, told apart to within half of a beta that is clear of 0."""
        return self.clear and self.agreement is not None and self.agreement.ci[1] < NO_POWER


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
    pull, size = mean_terms(moments)

    def pooled(top: Tensor, under: Tensor) -> PooledEstimate:
        return pooled_ratio(top[:, active], under[:, active])

    def of_active(*terms: Tensor) -> tuple[Tensor, ...]:
        return tuple(t[:, active] for t in terms)

    top, under, log_variance, by_means, of_means = of_active(
        exact, bottom, moments.variance.log(), pull, size
    )
    return BetaEstimate(
        active=active,
        stein=pooled(exact, bottom),
        of_rows=ratio(top, under).of_rows(),
        gauss_newton=pooled(approximate, bottom),
        means=pooled(pull, size),
        means_over_variances=pooled_quotient((by_means, of_means), (top, under)),
        row_shift=row_shift(top, under, log_variance),
        per_latent=ratio_per_latent(exact, torch.where(bottom.sum(0) == 0, 1e-300, bottom), seed=seed),
        agreement=agreement(top, under, seed=seed) if int(active.sum()) > 1 else None,
        by_row=ratio(top, under).by_row,
    )
