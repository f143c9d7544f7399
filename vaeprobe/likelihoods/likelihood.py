"""What every likelihood answers: its metric, its means and densities, what data it takes, what beta makes of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from torch import Tensor

from vaeprobe.errors import UsageError
from vaeprobe.given import size_hint
from vaeprobe.likelihood_names import in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

Parameter = Literal["mean", "natural"]


@dataclass(frozen=True)
class LikelihoodSettings:
    """What a user can say about a likelihood beside its name.

    Attributes:
        sigma2: variance of a Gaussian.
        dispersion: inverse dispersion of a negative binomial, one number or one per output.
        class_axis: axis of the outputs, shape (n, ...), that runs over the classes of a categorical one; None for 1.
    """

    sigma2: float = 1.0
    dispersion: object = None
    class_axis: int | None = None


@dataclass(frozen=True)
class Likelihood(ABC):
    """A likelihood p(x | output) of a decoder's outputs.

    A likelihood is one file of this folder, called by its name, with one class derived from this one: the command
    line, policies and all probes then know it.  What it does not say is said to be unknown.

    A decoder's output is either the mean or the natural parameter theta (logits, log-rates).  With J the
    Jacobian of that output, the likelihood's metric is `J_theta^T A^2 J_theta = (C J)^T W (C J)` (Allen 2024,
    Eq. 7): `weight` is the diagonal of W, `centred` applies C, which is 1 where the outputs are independent.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    # whether the mean is the natural parameter, so that there is nothing to choose and nothing saturates
    mean_is_natural: ClassVar[bool] = False
    # the last layer that makes the mean of the natural parameter, as programs call it, "" where none does
    activation: ClassVar[str] = ""
    # whether means may be the intensities of pixels, so that uint8 from files is divided by 255: counts and classes are none
    pixels: ClassVar[bool] = True
    domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    # names of the outputs that are its parameters, where it has more than one and a network returns them apart
    outputs: ClassVar[tuple[str, ...]] = ()
    # why the betas at which the data's own directions collapse are not known, "" where they are
    no_edges: ClassVar[str] = "not derived for this likelihood"

    @classmethod
    def of(cls, shape: Sequence[int], given: LikelihoodSettings) -> Self:
        """Return the likelihood of outputs of this shape.

        Raises:
            UsageError: a setting is out of its range or missing.
        """
        return cls()

    @property
    def words(self) -> str:
        """What to call it in a sentence, with its settings."""
        return in_words(self.name)

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
            f"{1 / beta:.3g} times; what that makes of Var[x|z] is not known for the likelihood `{self.name}`."
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
            f"the means of a {in_words(self.name)} likelihood lie in [{self.domain[0]:g}, {top}"
        )

    # -- data --------------------------------------------------------------------------------------

    def check_rows(self, x: Tensor, shape: Sequence[int]) -> None:
        """Check that data rows, shape (n, ...), can be drawn from outputs of this shape.

        Raises:
            UsageError: they have another size, or values that have no probability.
        """
        if x[0].numel() != math.prod(shape):
            raise UsageError(
                f"the data rows have shape {tuple(x.shape[1:])}, the decoder's output {tuple(shape)}",
                hint=size_hint(x.shape, shape),
            )

    def rows(self, x: Tensor, m: int) -> Tensor:
        """Return data rows as the decoder with m outputs has them, where they come otherwise (labels)."""
        return x

    def copies(self, x: Tensor) -> Tensor | None:
        """Return how many draws each data row holds, shape (n,), by which its metric counts; None for one each."""
        return None

    def constant(self, rows: Tensor) -> Tensor:
        """Return the outputs, as means, of a decoder that ignores its latents, shape (m,), from rows, shape (n, k)."""
        return rows.mean(0)

    # -- the maths -----------------------------------------------------------------------------------

    @abstractmethod
    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        """Return W, the same shape as `output`; 0 where the likelihood is saturated in float arithmetic."""

    @abstractmethod
    def mean(self, theta: Tensor) -> Tensor:
        """Return the output as a mean where theta is the natural parameter, the same shape as `theta`."""

    @abstractmethod
    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        """Return log p(x | output) in nats, summed over all but the first axis: shape (n,)."""


def inverse_or_zero(value: Tensor) -> Tensor:
    """Return 1 / value, 0 where it is not positive."""
    return torch.where(value > 0, 1 / value.clamp_min(torch.finfo(value.dtype).tiny), torch.zeros_like(value))


def mean_counts(rows: Tensor) -> Tensor:
    """Return the mean of counts, shape (n, ...): that of none at least half a count in all rows, whose logarithm is a number."""
    return rows.mean(0).clamp_min(1 / (2 * len(rows)))


def check_range(x: Tensor, low: float, high: float, name: str, takes: str, hint: str | None = None) -> None:
    """Refuse data outside [low, high].

    Raises:
        UsageError: there are some.
    """
    least, most = float(x.min()), float(x.max())
    if not (least >= low and most <= high):
        raise UsageError(
            f"the data run from {least:.4g} to {most:.4g}, a {name} likelihood takes {takes}", hint=hint
        )
