"""Likelihoods p(x | theta): the metric A^2 = Var[x | theta] of Eq. 7, means and log-densities."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vaeprobe.errors import UsageError, did_you_mean

Parameter = Literal["mean", "natural"]


@dataclass(frozen=True)
class Likelihood(ABC):
    """An exponential-family likelihood, one independent term per output.

    A decoder's output is either the mean or the natural parameter theta (logits, log-rates).  With J the
    Jacobian of that output, `weight` is the diagonal W for which `J^T W J` is the likelihood's metric
    `J_theta^T A^2 J_theta` (Allen 2024, Eq. 7): A^2 for the natural parameter, 1/A^2 for the mean.
    """

    name: ClassVar[str]

    @abstractmethod
    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        """Return W, the same shape as `output`; 0 where the likelihood is saturated in float arithmetic."""

    @abstractmethod
    def mean(self, theta: Tensor) -> Tensor:
        """Return E[x | theta], the same shape as `theta`."""

    @abstractmethod
    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        """Return log p(x | output) in nats, summed over all but the first axis: shape (n,)."""


def _inverse_or_zero(value: Tensor) -> Tensor:
    return torch.where(value > 0, 1 / value.clamp_min(torch.finfo(value.dtype).tiny), torch.zeros_like(value))


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """x ~ N(output, sigma2 I); its parameter is always the mean, and A^2 = 1/sigma2."""

    name = "gaussian"
    sigma2: float = 1.0

    def __post_init__(self) -> None:
        if not (self.sigma2 > 0 and math.isfinite(self.sigma2)):
            raise UsageError(f"a Gaussian likelihood needs a positive variance, not {self.sigma2}")

    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        return torch.full_like(output, 1 / self.sigma2)

    def mean(self, theta: Tensor) -> Tensor:
        return theta

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        square = (x - output).flatten(1).square()
        return -0.5 * (square / self.sigma2 + math.log(2 * math.pi * self.sigma2)).sum(1)


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """x ~ Bernoulli(p), theta = logit p, A^2 = p (1 - p)."""

    name = "bernoulli"

    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        p = torch.sigmoid(output) if parameter == "natural" else output
        variance = p * (1 - p)
        return variance if parameter == "natural" else _inverse_or_zero(variance)

    def mean(self, theta: Tensor) -> Tensor:
        return torch.sigmoid(theta)

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        if parameter == "natural":
            terms = -torch.nn.functional.binary_cross_entropy_with_logits(output, x, reduction="none")
        else:
            terms = -torch.nn.functional.binary_cross_entropy(output, x, reduction="none")
        return terms.flatten(1).sum(1)


@dataclass(frozen=True)
class Poisson(Likelihood):
    """x ~ Poisson(rate), theta = log rate, A^2 = rate."""

    name = "poisson"

    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        return output.exp() if parameter == "natural" else _inverse_or_zero(output)

    def mean(self, theta: Tensor) -> Tensor:
        return theta.exp()

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        log_rate = (
            output if parameter == "natural" else output.clamp_min(torch.finfo(output.dtype).tiny).log()
        )
        return (x * log_rate - log_rate.exp() - torch.lgamma(x + 1)).flatten(1).sum(1)


NAMES = ("gaussian", "bernoulli", "poisson")


def by_name(name: str, *, sigma2: float = 1.0) -> Likelihood:
    """Return the likelihood called `name`; `sigma2` is the variance of a Gaussian.

    Raises:
        UsageError: no likelihood has that name.
    """
    match name.lower():
        case "gaussian" | "normal" | "mse":
            return Gaussian(sigma2)
        case "bernoulli" | "bce":
            return Bernoulli()
        case "poisson":
            return Poisson()
    raise UsageError(
        f"no likelihood is called `{name}`",
        hint=did_you_mean(name, NAMES) or f"one of {', '.join(NAMES)}",
    )
