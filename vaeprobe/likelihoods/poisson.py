"""Counts whose variance is their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.likelihoods.likelihood import Likelihood, Parameter, check_range, inverse_or_zero, mean_counts


@dataclass(frozen=True)
class Poisson(Likelihood):
    """x ~ Poisson(rate), theta = log rate, A^2 = rate."""

    name = "poisson"
    activation = "exp"
    pixels = False
    domain = (0.0, math.inf)
    no_edges = "not derived for rates with a zero mean"

    def at_beta(self, beta: float, outputs: int) -> str:
        return (
            f"Theorem 3, other families: the posterior is that of p(x|z)^(1/beta), counts seen for {1 / beta:.3g} of "
            "their exposure; Var[x|z] stays the rate."
        )

    def check_rows(self, x: Tensor, shape: Sequence[int]) -> None:
        super().check_rows(x, shape)
        check_range(x, 0, math.inf, "Poisson", "counts from 0")

    def constant(self, rows: Tensor) -> Tensor:
        return mean_counts(rows)

    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        return output.exp() if parameter == "natural" else inverse_or_zero(output)

    def mean(self, theta: Tensor) -> Tensor:
        return theta.exp()

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        log_rate = (
            output if parameter == "natural" else output.clamp_min(torch.finfo(output.dtype).tiny).log()
        )
        return (x * log_rate - log_rate.exp() - torch.lgamma(x + 1)).flatten(1).sum(1)
