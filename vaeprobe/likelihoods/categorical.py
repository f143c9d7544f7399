"""One of K classes at each position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vaeprobe.errors import UsageError
from vaeprobe.given import check_fields
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

    Outputs have shape (n, K, ...), or (n, ..., K, ...) where the classes run along another axis (--class-axis), flattened to (n, m).  On logits
    C = 1 - 1 p^T centres a tangent and W = p; on probabilities, whose tangents sum to zero over the classes, C = 1 and W = 1/p.

    Attributes:
        classes: K, at least 2.
        axis: along which they run, 1 for (n, K, ...).
        inner: numbers that follow each other before the class changes; None where the classes are slowest.
    """

    name = "categorical"
    activation = "softmax"
    pixels = False
    domain = (0.0, 1.0)
    no_edges = ""
    classes: int = 2
    axis: int = 1
    inner: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.classes < 2:
            raise UsageError(
                f"a categorical likelihood needs two classes or more, not {self.classes}",
                hint=f"axis {self.axis} of the decoder's output runs over the classes: --class-axis names another",
            )

    @classmethod
    def of(cls, shape: Sequence[int], given: LikelihoodSettings) -> Self:
        axis = 1 if given.class_axis is None else given.class_axis
        axis += (len(shape) + 1) * (axis < 0)
        if not 1 <= axis <= len(shape):
            raise UsageError(
                f"the output has no axis {given.class_axis} that could run over classes",
                hint=f"axes of one output, shape {tuple(shape)}, count from 1 to {len(shape)}",
            )
        return cls(shape[axis - 1], axis, math.prod(shape[axis:]))

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
                f"the outputs are no class probabilities: over the {self.classes} classes of axis {self.axis} they sum to "
                f"{float(total.min()):.3g} to {float(total.max()):.3g}"
            )
        return wrong

    def check_rows(self, x: Tensor, shape: Sequence[int]) -> None:
        m, K = math.prod(shape), self.classes
        labels = x[0].numel() * K == m
        if x[0].numel() != m and not labels:
            fits = [k for k, n in enumerate(shape, 1) if x[0].numel() * n == m and n > 1]
            other = f"; --class-axis {fits[-1]} where these are labels along it" if fits else ""
            raise UsageError(
                f"the data rows have shape {tuple(x.shape[1:])}, the decoder's output {tuple(shape)}",
                hint=f"one-hot rows of that shape, or labels of shape "
                f"{(*shape[: self.axis - 1], *shape[self.axis :]) or (1,)}{other}",
            )
        if labels and not bool(((x >= 0) & (x < K) & (x == x.round())).all()):
            raise UsageError(
                f"the labels run from {float(x.min()):.4g} to {float(x.max()):.4g}, "
                f"the decoder's {K} classes from 0 to {K - 1}",
                hint="labels are whole numbers from 0; uint8 is not scaled here",
            )
        off = 0.0 if labels else float((self.by_class(x.flatten(1)).sum(-2) - 1).abs().max())
        if not labels and (float(x.min()) < 0 or off > 1e-3):
            raise UsageError(
                f"the data do not sum to 1 over the {K} classes of axis {self.axis}",
                hint=f"a categorical likelihood takes one-hot rows, or labels from 0 to {K - 1}; counts of several draws "
                f"want --likelihood multinomial{_or_along(x, shape)}",
            )

    def rows(self, x: Tensor, m: int) -> Tensor:
        return self.one_hot(x, m)

    def constant(self, rows: Tensor) -> Tensor:
        by_class = self.by_class(mean_counts(rows))
        return (by_class / by_class.sum(-2, keepdim=True)).flatten()

    def weight(self, output: Tensor, parameter: Parameter) -> Tensor:
        return self.mean(output) if parameter == "natural" else inverse_or_zero(output)

    def centred(self, tangent: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        if self.is_diagonal(parameter):
            return tangent
        t, p = self.by_class(tangent), self.by_class(self.mean(output))
        return (t - (p * t).sum(-2, keepdim=True)).flatten(-3)

    def mean(self, theta: Tensor) -> Tensor:
        return self.by_class(theta.flatten(1)).softmax(-2).reshape(theta.shape)

    def log_density(self, x: Tensor, output: Tensor, parameter: Parameter) -> Tensor:
        """Return log p(x | output), shape (n,); x is one-hot like the output, or labels, shape (n, ...)."""
        y, hot = self.by_class(output.flatten(1)), self.by_class(self.one_hot(x, output[0].numel()))
        if parameter == "natural":
            log_p = y.log_softmax(-2)
        else:
            log_p = y.clamp_min(torch.finfo(y.dtype).tiny).log()
        return (hot.to(y) * log_p).sum((-3, -2, -1))

    def one_hot(self, x: Tensor, m: int) -> Tensor:
        """Return labels, m/K a row, as one-hot rows of shape (n, m); rows of m numbers as they are, flattened."""
        rows = x.flatten(1)
        if rows.shape[1] == m:
            return rows
        places = rows.reshape(len(rows), -1, self.inner or rows.shape[1]).long()
        return torch.nn.functional.one_hot(places, self.classes).mT.flatten(1).to(x.dtype)

    def by_class(self, rows: Tensor) -> Tensor:
        """Return rows of outputs, shape (..., m), as (..., places before the classes, K, places after)."""
        inner = self.inner or rows.shape[-1] // self.classes
        return rows.reshape(*rows.shape[:-1], -1, self.classes, inner)


def axis_of_classes(y: Tensor) -> int | None:
    """Return the first axis over which outputs, shape (n, ...), are probabilities of two classes or more; None where none is."""
    if not len(y) or not bool((y >= 0).all()):
        return None
    sums = ((axis, y.double().sum(axis)) for axis in range(1, y.ndim) if y.shape[axis] > 1)
    return next((axis for axis, total in sums if float((total - 1).abs().max()) < 1e-2), None)


def _or_along(x: Tensor, shape: Sequence[int]) -> str:
    """Return which axis says that the data are one-hot along it, as words to follow others; nothing where none does."""
    axis = axis_of_classes(x.reshape(len(x), *shape))
    return "" if axis is None else f"; over axis {axis} they do: --class-axis {axis}"
