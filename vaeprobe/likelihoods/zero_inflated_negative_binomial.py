"""Negative binomial counts, some of which are zero for another reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.errors import UsageError
from vaeprobe.likelihoods.likelihood import (
    Likelihood,
    LikelihoodSettings,
    Parameter,
    check_range,
    inverse_or_zero,
    mean_counts,
)
from vaeprobe.likelihoods.negative_binomial import (
    NegativeBinomial,
    checked_dispersion,
    counts_at_beta,
    log_density_of_counts,
)


@dataclass(frozen=True, eq=False)
class ZeroInflatedNegativeBinomial(Likelihood):
    """x is 0 with probability pi, else NB(mu, theta); outputs have shape (n, 2, ...): mu, then the logit of pi.

    A natural output has log mu in its first half.  The metric is the Fisher information of (mu, logit pi), two by two
    for each count, at a held theta.

    Attributes:
        theta: inverse dispersion, shape (1,) or (m / 2,).

    Source: Lopez et al. (2018), doi:10.1038/s41592-018-0229-2.
    """

    name = "zero_inflated_negative_binomial"
    aliases = ("zinb",)
    pixels = False
    domain = (0.0, math.inf)
    outputs = ("mean", "zero_logits")
    no_edges = "not derived for inflated zeros"
    theta: Tensor

    @classmethod
    def of(cls, shape: Sequence[int], given: LikelihoodSettings) -> ZeroInflatedNegativeBinomial:
        if shape[0] != 2:
            raise UsageError(
                f"a zero-inflated likelihood takes outputs of shape (2, counts), not {tuple(shape)}",
                hint="stack the means and the logits of the zeros along axis 1; without them --likelihood "
                "negative_binomial ignores the inflation",
            )
        return cls(checked_dispersion(given, math.prod(shape) // 2, "zero-inflated negative binomial"))

    @property
    def words(self) -> str:
        return f"Zero-inflated n{NegativeBinomial(self.theta).words[1:]}"

    def at_beta(self, beta: float, outputs: int) -> str:
        return counts_at_beta(beta, "(1 - pi) (mu + mu^2 / theta + pi mu^2)")

    def is_diagonal(self, parameter: Parameter) -> bool:
        return False

    def misfit(self, means: Tensor) -> str | None:
        return super().misfit(means[:, : means.shape[1] // 2])

    def check_rows(self, x: Tensor, shape: Sequence[int]) -> None:
        if 2 * x[0].numel() != math.prod(shape):
            raise UsageError(
                f"the data rows have shape {tuple(x.shape[1:])}, the decoder's counts {tuple(shape[1:])}",
                hint="a row of counts for each output pair (mean, logit of a zero)",
            )
        check_range(x, 0, math.inf, "zero-inflated negative binomial", "counts from 0")

    def constant(self, rows: Tensor) -> Tensor:
        mu = mean_counts(rows)
        return torch.cat([mu, torch.full_like(mu, -20.0)])

    def mean(self, theta: Tensor) -> Tensor:
        rows = theta.flatten(1)
        log_mu, gate = rows.chunk(2, 1)
        return torch.cat([log_mu.exp(), gate], 1).reshape(theta.shape)

    def information(self, output: Tensor, parameter: Parameter) -> tuple[Tensor, Tensor, Tensor]:
        """Return the Fisher information of (mu or log mu, logit pi): its entries 11, 12 and 22, shape (n, m/2)."""
        first, gate = output.flatten(1).chunk(2, 1)
        mu = (first.exp() if parameter == "natural" else first).clamp_min(torch.finfo(first.dtype).tiny)
        theta, pi = self.theta.to(mu), torch.sigmoid(gate)
        none = torch.exp(-theta * torch.log1p(mu / theta))  # NB's own probability of 0
        zero = pi + (1 - pi) * none
        slope = -theta / (theta + mu)  # d log NB(0) / d mu
        by_mu = (1 - pi) * none * slope / zero  # scores of a zero
        by_gate = pi * (1 - pi) * (1 - none) / zero
        whole = theta / (mu * (theta + mu))  # NB's information
        mm = zero * by_mu.square() + (1 - pi) * (whole - none * slope.square())
        mg = zero * by_mu * by_gate + pi * (1 - pi) * none * slope
        gg = zero * by_gate.square() + (1 - zero) * pi.square()
        if parameter == "natural":
            mm, mg = mm * mu.square(), mg * mu
        return mm, mg, gg

    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        mm, _, gg = self.information(output, parameter)
        return torch.cat([mm, gg], 1).reshape(output.shape)

    def whitened(self, tangent: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        mm, mg, gg = self.information(output, parameter)
        t, g = tangent.chunk(2, -1)
        # the transpose of the Cholesky factor, row by row
        root = mm.clamp_min(0).sqrt()
        across = mg * inverse_or_zero(root)
        rest = (gg - across.square()).clamp_min(0).sqrt()
        return torch.cat([root * t + across * g, rest * g], -1)

    def lowered(self, tangent: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        mm, mg, gg = self.information(output, parameter)
        t, g = tangent.chunk(2, -1)
        return torch.cat([mm * t + mg * g, mg * t + gg * g], -1)

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        """Return log p(x | output), shape (n,), for counts x of half the output's size."""
        first, gate = output.flatten(1).chunk(2, 1)
        mu, counts = first.exp() if parameter == "natural" else first, x.flatten(1).to(output)
        own = log_density_of_counts(counts, mu, self.theta.to(mu))
        kept = torch.nn.functional.logsigmoid(-gate) + own
        return torch.where(
            counts == 0, torch.logaddexp(torch.nn.functional.logsigmoid(gate), kept), kept
        ).sum(1)
