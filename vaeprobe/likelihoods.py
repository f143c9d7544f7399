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
    """An exponential-family likelihood.

    A decoder's output is either the mean or the natural parameter theta (logits, log-rates).  With J the
    Jacobian of that output, the likelihood's metric is `J_theta^T A^2 J_theta = (C J)^T W (C J)` (Allen 2024,
    Eq. 7): `weight` is the diagonal of W, `centred` applies C, which is 1 where the outputs are independent.
    """

    name: ClassVar[str]
    domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    # why the betas at which the data's own directions collapse are not known, "" where they are
    no_edges: ClassVar[str] = "not derived for this likelihood"

    @property
    def words(self) -> str:
        """What to call it in a sentence, with its settings."""
        return self.name.capitalize()

    @property
    def free_variance(self) -> float | None:
        """The variance of which posteriors show only the product with beta (Theorem 3), None where there is none."""
        return None

    def at_beta(self, beta: float, outputs: int) -> str:
        """Return what a beta says about this likelihood, as a sentence.

        At the optimum of a beta-ELBO the posterior is that of p(x|z)^(1/beta), for every likelihood (Theorem 3);
        what that makes of Var[x|z] is the likelihood's own to say.
        """
        return (
            f"Theorem 3, other families: the posterior is that of p(x|z)^(1/beta), each output counted "
            f"{1 / beta:.3g} times; what that makes of Var[x|z] is not known for a {self.name} likelihood."
        )

    def is_diagonal(self, parameter: Parameter) -> bool:
        """Whether C = 1: `weight` alone is the metric."""
        return True

    def centred(self, tangent: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        """Return C t for tangents t of the output, shape (..., n, m); `output` has shape (n, m)."""
        return tangent

    def whitened(self, tangent: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        """Return B t, shape (..., n, m), for the root B of the metric, B^T B = C^T W C."""
        return self.centred(tangent, output, parameter) * self.weight(output, parameter).sqrt()

    def lowered(self, tangent: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        """Return C^T W C t, shape (..., n, m): the covector that the metric makes of a tangent."""
        # C^T leaves W C t alone: with p the class probabilities, 1^T W C t = p^T t - p^T t = 0
        return self.centred(tangent, output, parameter) * self.weight(output, parameter)

    def misfit(self, means: Tensor) -> str | None:
        """Return why outputs, shape (n, m), are no means of this likelihood, or None."""
        low, high = float(means.min()), float(means.max())
        if low >= self.domain[0] and high <= self.domain[1]:
            return None
        top = "inf)" if self.domain[1] == math.inf else f"{self.domain[1]:g}]"
        return (
            f"the outputs run from {low:.3g} to {high:.3g}: "
            f"the means of a {self.name.capitalize()} likelihood lie in [{self.domain[0]:g}, {top}"
        )

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
    no_edges = ""
    sigma2: float = 1.0

    def __post_init__(self) -> None:
        if not (self.sigma2 > 0 and math.isfinite(self.sigma2)):
            raise UsageError(f"a Gaussian likelihood needs a positive variance, not {self.sigma2}")

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


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """x ~ Bernoulli(p), theta = logit p, A^2 = p (1 - p)."""

    name = "bernoulli"
    domain = (0.0, 1.0)
    no_edges = ""

    def at_beta(self, beta: float, outputs: int) -> str:
        return (
            f"Theorem 3, other families: the posterior is that of p(x|z)^(1/beta): the {outputs} pixels count as "
            f"{outputs / beta:.0f}; Var[x|z] stays p(1 - p)."
        )

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
    domain = (0.0, math.inf)
    no_edges = "not derived for rates with a zero mean"

    def at_beta(self, beta: float, outputs: int) -> str:
        return (
            f"Theorem 3, other families: the posterior is that of p(x|z)^(1/beta), counts seen for {1 / beta:.3g} of "
            "their exposure; Var[x|z] stays the rate."
        )

    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        return output.exp() if parameter == "natural" else _inverse_or_zero(output)

    def mean(self, theta: Tensor) -> Tensor:
        return theta.exp()

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        log_rate = (
            output if parameter == "natural" else output.clamp_min(torch.finfo(output.dtype).tiny).log()
        )
        return (x * log_rate - log_rate.exp() - torch.lgamma(x + 1)).flatten(1).sum(1)


@dataclass(frozen=True)
class Categorical(Likelihood):
    """x is one of K classes at each position, theta = log p + const, A^2 = diag(p) - p p^T per position.

    Outputs have shape (n, K, ...), flattened to (n, m), the classes slowest.  On logits C = 1 - 1 p^T centres a
    tangent and W = p; on probabilities, whose tangents sum to zero over the classes, C = 1 and W = 1/p.

    Attributes:
        classes: K, at least 2.
    """

    name = "categorical"
    domain = (0.0, 1.0)
    no_edges = ""
    classes: int = 2

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise UsageError(
                f"a categorical likelihood needs two classes or more, not {self.classes}",
                hint="axis 1 of the decoder's output, (n, K, ...), runs over the classes",
            )

    def at_beta(self, beta: float, outputs: int) -> str:
        return (
            "Theorem 3, other families: the posterior is that of p(x|z)^(1/beta), each label counted "
            f"{1 / beta:.3g} times; Var[x|z] stays diag(p) - p p^T."
        )

    def is_diagonal(self, parameter: Parameter) -> bool:
        return parameter == "mean"

    def misfit(self, means: Tensor) -> str | None:
        wrong = super().misfit(means)
        total = self._by_class(means).sum(-2)
        if wrong is None and float((total - 1).abs().max()) > 1e-2:
            wrong = (
                f"the outputs are no class probabilities: over the {self.classes} classes of axis 1 they sum to "
                f"{float(total.min()):.3g} to {float(total.max()):.3g}"
            )
        return wrong

    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        return self.mean(output) if parameter == "natural" else _inverse_or_zero(output)

    def centred(self, tangent: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        if self.is_diagonal(parameter):
            return tangent
        t, p = self._by_class(tangent), self._by_class(self.mean(output))
        return (t - (p * t).sum(-2, keepdim=True)).flatten(-2)

    def mean(self, theta: Tensor) -> Tensor:
        return self._by_class(theta.flatten(1)).softmax(-2).reshape(theta.shape)

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        """Return log p(x | output), shape (n,); x is one-hot like the output, or labels, shape (n, ...)."""
        y, hot = self._by_class(output.flatten(1)), self._by_class(self.one_hot(x, output[0].numel()))
        if parameter == "natural":
            log_p = y.log_softmax(-2)
        else:
            log_p = y.clamp_min(torch.finfo(y.dtype).tiny).log()
        return (hot.to(y) * log_p).sum((-2, -1))

    def one_hot(self, x: Tensor, m: int) -> Tensor:
        """Return labels, m/K a row, as one-hot rows of shape (n, m); rows of m numbers as they are, flattened."""
        rows = x.flatten(1)
        if rows.shape[1] == m:
            return rows
        return torch.nn.functional.one_hot(rows.long(), self.classes).mT.flatten(1).to(x.dtype)

    def _by_class(self, rows: Tensor) -> Tensor:
        return rows.reshape(*rows.shape[:-1], self.classes, -1)


NAMES = ("gaussian", "bernoulli", "poisson", "categorical")


def by_name(name: str, *, sigma2: float = 1.0, classes: int = 2) -> Likelihood:
    """Return the likelihood called `name`.

    Args:
        sigma2: variance of a Gaussian.
        classes: classes of a categorical likelihood, the first axis of one output.

    Raises:
        UsageError: no likelihood has that name, or a setting is out of its range.
    """
    match name.lower():
        case "gaussian" | "normal" | "mse":
            return Gaussian(sigma2)
        case "bernoulli" | "bce":
            return Bernoulli()
        case "poisson":
            return Poisson()
        case "categorical":
            return Categorical(classes)
    raise UsageError(
        f"no likelihood is called `{name}`",
        hint=did_you_mean(name, NAMES) or f"one of {', '.join(NAMES)}",
    )
