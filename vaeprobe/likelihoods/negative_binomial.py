"""Counts whose variance exceeds their mean: mean mu, variance mu + mu^2 / theta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.errors import UsageError
from vaeprobe.given import check_fields
from vaeprobe.likelihoods.likelihood import (
    Likelihood,
    LikelihoodSettings,
    Parameter,
    check_range,
    inverse_or_zero,
    mean_counts,
)


def checked_dispersion(given: LikelihoodSettings, m: int, name: str) -> Tensor:
    """Return inverse dispersions, one number or m of them.

    Raises:
        UsageError: there are none, or another number of them, or one is not positive.
    """
    if given.dispersion is None:
        raise UsageError(
            f"a {name} likelihood needs the inverse dispersion theta, whose variance is mu + mu^2 / theta",
            hint="--dispersion 2.5, or --dispersion theta.npy with one number per output (scVI: exp of px_r)",
        )
    theta = cpu.as_tensor(given.dispersion, dtype=torch.float64).flatten()
    if len(theta) not in (1, m):
        raise UsageError(f"there are {len(theta)} inverse dispersions for {m} counts")
    if not bool((torch.isfinite(theta) & (theta > 0)).all()):
        raise UsageError(
            "inverse dispersions are positive numbers", hint="scVI stores their logarithm in px_r"
        )
    return theta


def log_density_of_counts(x: Tensor, mu: Tensor, theta: Tensor) -> Tensor:
    """Return log NB(x; mean mu, inverse dispersion theta), elementwise."""
    mu = mu.clamp_min(torch.finfo(mu.dtype).tiny)
    ways = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return ways - theta * torch.log1p(mu / theta) + x * (mu.log() - (theta + mu).log())


def counts_at_beta(beta: float, variance: str) -> str:
    """Say what training at beta makes of counts whose variance does not depend on it."""
    return (
        "Theorem 3, other families: the posterior is that of p(x|z)^(1/beta), each count seen "
        f"{1 / beta:.3g} times; Var[x|z] stays {variance}."
    )


@dataclass(frozen=True, eq=False)
class NegativeBinomial(Likelihood):
    """x ~ NB(mu, theta) with Var[x] = mu + mu^2 / theta; a natural output is log mu.

    theta is held: its own dependence on the latents, if any, is no part of the metric, which is the Fisher
    information 1 / (mu (1 + mu/theta)) in mu and mu / (1 + mu/theta) in log mu.

    Attributes:
        theta: inverse dispersion, shape (1,) or (m,).

    Source: Lopez et al. (2018), doi:10.1038/s41592-018-0229-2.
    """

    name = "negative_binomial"
    aliases = ("nb",)
    pixels = False
    domain = (0.0, math.inf)
    no_edges = "not derived for counts with a zero mean"
    theta: Tensor

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, shape: Sequence[int], given: LikelihoodSettings) -> NegativeBinomial:
        return cls(checked_dispersion(given, math.prod(shape), "negative binomial"))

    @property
    def words(self) -> str:
        return f"Negative binomial (theta = {_span(self.theta)})"

    def at_beta(self, beta: float, outputs: int) -> str:
        return counts_at_beta(beta, "mu + mu^2 / theta")

    def check_rows(self, x: Tensor, shape: Sequence[int]) -> None:
        super().check_rows(x, shape)
        check_range(x, 0, math.inf, "negative binomial", "counts from 0")

    def constant(self, rows: Tensor) -> Tensor:
        return mean_counts(rows)

    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        mu = output.exp() if parameter == "natural" else output
        theta = self.theta.to(mu)
        if parameter == "natural":
            return mu / (1 + mu / theta)
        return inverse_or_zero(mu * (1 + mu / theta))

    def mean(self, theta: Tensor) -> Tensor:
        return theta.exp()

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        mu, counts = (output.exp() if parameter == "natural" else output).flatten(1), x.flatten(1).to(output)
        return log_density_of_counts(counts, mu, self.theta.to(mu)).sum(1)


def _span(theta: Tensor) -> str:
    low, high = float(theta.min()), float(theta.max())
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
