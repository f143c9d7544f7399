"""Cross-entropy: independent yes or no, or grey values taken for their probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.likelihoods.likelihood import Likelihood, Parameter, check_range, inverse_or_zero


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """x ~ Bernoulli(p), theta = logit p, A^2 = p (1 - p)."""

    name = "bernoulli"
    aliases = ("bce",)
    activation = "sigmoid"
    domain = (0.0, 1.0)
    no_edges = ""

    def at_beta(self, beta: float, outputs: int) -> str:
        return (
            f"Theorem 3, other families: the posterior is that of p(x|z)^(1/beta): the {outputs} pixels count as "
            f"{outputs / beta:.0f}; Var[x|z] stays p(1 - p)."
        )

    def check_rows(self, x: Tensor, shape: Sequence[int]) -> None:
        super().check_rows(x, shape)
        hint = "scale pixels to [0, 1], or name another likelihood: --likelihood gaussian"
        check_range(x, 0, 1, "Bernoulli", "[0, 1]", hint)

    def constant(self, rows: Tensor) -> Tensor:
        edge = 1 / (2 * len(rows))
        return rows.mean(0).clamp(edge, 1 - edge)

    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        p = torch.sigmoid(output) if parameter == "natural" else output
        variance = p * (1 - p)
        return variance if parameter == "natural" else inverse_or_zero(variance)

    def mean(self, theta: Tensor) -> Tensor:
        return torch.sigmoid(theta)

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        if parameter == "natural":
            terms = -torch.nn.functional.binary_cross_entropy_with_logits(output, x, reduction="none")
        else:
            terms = -torch.nn.functional.binary_cross_entropy(output, x, reduction="none")
        return terms.flatten(1).sum(1)
