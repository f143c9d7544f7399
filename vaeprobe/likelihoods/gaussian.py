"""Squared error: a Gaussian of one variance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.errors import UsageError
from vaeprobe.given import check_fields
from vaeprobe.likelihoods.likelihood import Likelihood, LikelihoodSettings, Parameter


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """x ~ N(output, sigma2 I); its parameter is always the mean, and A^2 = 1/sigma2.

    Attributes:
        sigma2: variance of every output.
    """

    name = "gaussian"
    aliases = ("normal", "mse")
    mean_is_natural = True
    no_edges = ""
    sigma2: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.sigma2 > 0 and math.isfinite(self.sigma2)):
            raise UsageError(f"a Gaussian likelihood needs a positive variance, not {self.sigma2}")

    @classmethod
    def of(cls, shape: Sequence[int], given: LikelihoodSettings) -> Gaussian:
        return cls(given.sigma2)

    @property
    def words(self) -> str:
        return f"Gaussian (sigma^2 = {self.sigma2:.4g})"

    @property
    def free_variance(self) -> float:
        return self.sigma2

    def at_beta(self, beta: float, outputs: int) -> str:
        product = beta * self.sigma2
        return (
            f"Theorem 3: as if Var[x|z] = beta sigma^2 = {product:.4g} per output (sd {max(product, 0) ** 0.5:.3g}), "
            "sigma^2 held fixed."
        )

    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        return torch.full_like(output, 1 / self.sigma2)

    def mean(self, theta: Tensor) -> Tensor:
        return theta

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        square = (x - output).flatten(1).square()
        return -0.5 * (square / self.sigma2 + math.log(2 * math.pi * self.sigma2)).sum(1)
