"""Counts of several draws among K classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.errors import UsageError
from vaeprobe.likelihoods.categorical import Categorical
from vaeprobe.likelihoods.likelihood import Likelihood, Parameter, check_range


@dataclass(frozen=True)
class Multinomial(Categorical):
    """x counts N draws among K classes at each position; outputs as for a categorical likelihood.

    N is each data row's own total, so that the metric of a row is N times that of one draw (Mult-VAE: the clicks of
    a user).  Where no row is at hand, N = 1.
    """

    name = "multinomial"
    activation = "softmax"
    pixels = False
    no_edges = "not derived for rows of different totals"

    def at_beta(self, beta: float, outputs: int) -> str:
        return (
            "Theorem 3, other families: the posterior is that of p(x|z)^(1/beta), each draw counted "
            f"{1 / beta:.3g} times; Var[x|z] stays N (diag(p) - p p^T)."
        )

    def check_rows(self, x: Tensor, shape: Sequence[int]) -> None:
        Likelihood.check_rows(self, x, shape)
        check_range(x, 0, math.inf, "multinomial", "counts from 0")
        if math.prod(shape) > self.classes:
            raise UsageError(
                f"a multinomial likelihood takes one position, and the decoder's output has shape {tuple(shape)}",
                hint=f"axis {self.axis} runs over the classes; flatten the others away, or use --likelihood categorical",
            )

    def rows(self, x: Tensor, m: int) -> Tensor:
        return x

    def copies(self, x: Tensor) -> Tensor:
        return x.flatten(1).double().sum(1)

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        """Return log p(x | output), shape (n,), for counts x of the output's shape."""
        y, counts = self.by_class(output.flatten(1)), self.by_class(x.flatten(1)).to(output)
        if parameter == "natural":
            log_p = y.log_softmax(-2)
        else:
            log_p = y.clamp_min(torch.finfo(y.dtype).tiny).log()
        ways = torch.lgamma(counts.sum(-2) + 1) - torch.lgamma(counts + 1).sum(-2)
        return ((counts * log_p).sum(-2) + ways).flatten(1).sum(1)
