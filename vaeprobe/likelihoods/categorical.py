"""One of K classes at each position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vaeprobe.errors import UsageError
from vaeprobe.likelihoods.likelihood import (
    Likelihood,
    LikelihoodSettings,
    Parameter,
    inverse_or_zero,
    mean_counts,
)


@dataclass(frozen=True)
class Categorical(Likelihood):
    """x is one of K classes at each position, theta = log p + const, A^2 = diag(p) - p p^T per position.

    Outputs have shape (n, K, ...), flattened to (n, m), the classes slowest.  On logits C = 1 - 1 p^T centres a
    tangent and W = p; on probabilities, whose tangents sum to zero over the classes, C = 1 and W = 1/p.

    Attributes:
        classes: K, at least 2.
    """

    name = "categorical"
    activation = "softmax"
    pixels = False
    domain = (0.0, 1.0)
    no_edges = ""
    classes: int = 2

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise UsageError(
                f"a categorical likelihood needs two classes or more, not {self.classes}",
                hint="axis 1 of the decoder's output, (n, K, ...), runs over the classes",
            )

    @classmethod
    def of(cls, shape: Sequence[int], given: LikelihoodSettings) -> Self:
        return cls(shape[0])

    def at_beta(self, beta: float, outputs: int) -> str:
        return (
            "Theorem 3, other families: the posterior is that of p(x|z)^(1/beta), each label counted "
            f"{1 / beta:.3g} times; Var[x|z] stays diag(p) - p p^T."
        )

    def is_diagonal(self, parameter: Parameter) -> bool:
        return parameter == "mean"

    def misfit(self, means: Tensor) -> str | None:
        wrong = super().misfit(means)
        total = self.by_class(means).sum(-2)
        if wrong is None and float((total - 1).abs().max()) > 1e-2:
            wrong = (
                f"the outputs are no class probabilities: over the {self.classes} classes of axis 1 they sum to "
                f"{float(total.min()):.3g} to {float(total.max()):.3g}"
            )
        return wrong

    def check_rows(self, x: Tensor, shape: Sequence[int]) -> None:
        m, K = math.prod(shape), self.classes
        labels = x[0].numel() * K == m
        if x[0].numel() != m and not labels:
            raise UsageError(
                f"the data rows have shape {tuple(x.shape[1:])}, the decoder's output {tuple(shape)}",
                hint=f"one-hot rows of that shape, or labels of shape {tuple(shape[1:]) or (1,)}",
            )
        if labels and not bool(((x >= 0) & (x < K) & (x == x.round())).all()):
            raise UsageError(
                f"the labels run from {float(x.min()):.4g} to {float(x.max()):.4g}, "
                f"the decoder's {K} classes from 0 to {K - 1}",
                hint="labels are whole numbers from 0; uint8 is not scaled here",
            )
        off = 0.0 if labels else float((x.reshape(len(x), K, -1).sum(1) - 1).abs().max())
        if not labels and (float(x.min()) < 0 or off > 1e-3):
            raise UsageError(
                f"the data do not sum to 1 over the {K} classes of axis 1",
                hint=f"a categorical likelihood takes one-hot rows, or labels from 0 to {K - 1}; counts of several draws "
                "want --likelihood multinomial",
            )

    def rows(self, x: Tensor, m: int) -> Tensor:
        return self.one_hot(x, m)

    def constant(self, rows: Tensor) -> Tensor:
        by_class = mean_counts(rows).reshape(self.classes, -1)
        return (by_class / by_class.sum(0)).flatten()

    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        return self.mean(output) if parameter == "natural" else inverse_or_zero(output)

    def centred(self, tangent: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        if self.is_diagonal(parameter):
            return tangent
        t, p = self.by_class(tangent), self.by_class(self.mean(output))
        return (t - (p * t).sum(-2, keepdim=True)).flatten(-2)

    def mean(self, theta: Tensor) -> Tensor:
        return self.by_class(theta.flatten(1)).softmax(-2).reshape(theta.shape)

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        """Return log p(x | output), shape (n,); x is one-hot like the output, or labels, shape (n, ...)."""
        y, hot = self.by_class(output.flatten(1)), self.by_class(self.one_hot(x, output[0].numel()))
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

    def by_class(self, rows: Tensor) -> Tensor:
        return rows.reshape(*rows.shape[:-1], self.classes, -1)
