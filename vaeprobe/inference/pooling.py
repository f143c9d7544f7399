"""One number from many rows and few latents: ratios of sums over both, with intervals that allow for both.

Rows are drawn from the data, so that their noise is known from the rows themselves, and shrinks with more of them.  Latents
are few: what one encoder's training left unfinished differs from latent to latent, and no row tells how far another
training would have ended elsewhere; only the latents' own spread does, beyond what the noise of these rows explains.  With
g_i the latents' parts of the error, w_i their shares of the denominator and Omega the covariance of g that the rows make,

    E |g - w 1'g|^2 = tr P Omega P' + tau^2 tr P diag(w^2) P',    P = I - w 1',

gives tau^2, and the variance is `1' Omega 1 + tau^2 sum w_i^2`.  It is not clipped at tau = 0, for then it would be too
large on average where latents agree: for alike and independent latents it is that of Student's t over the k of them.
Freedom is Satterthwaite's.  Latents that agree by chance do not make an interval vanish: it is never narrower than the
standard error that the rows alone leave.
Resampling rows and latents counts the noise of the rows twice, and held the truth in 99.8 % of all draws.

Source: Satterthwaite (1946), Biometrics Bulletin 2; Hartung and Knapp (2001), Statistics in Medicine 20, 3875-3889, whose
interval of a mean of few studies it is where rows are noise of each latent alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from vaeprobe import cpu
from vaeprobe.intervals import LEVEL, student_quantile

__all__ = ["PooledEstimate", "Pooled", "pooled_quotient", "pooled_ratio", "ratio"]


@dataclass(frozen=True)
class PooledEstimate:
    """A number with its interval."""

    value: float
    ci: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Pooled:
    """A smooth function of sums over rows and latents.

    Attributes:
        value: of all rows and latents.
        influence: by what each row's part of each latent moves it, shape (n, k); the sum over all is 0.
        weight: share of each latent, shape (k,), of sum 1.
        positive: whether it is a ratio, whose errors are relative ones where it is clear of 0.
    """

    value: float
    influence: Tensor
    weight: Tensor
    positive: bool = True

    @property
    def by_row(self) -> Tensor:
        """By what each row moves the value, shape (n,); the sum is 0."""
        return self.influence.sum(1)

    def of_rows(self) -> PooledEstimate:
        """Return the value with its interval for these latents, over rows alone."""
        return Pooled(self.value, self.by_row[:, None], self.weight[:1], self.positive).estimate()

    def estimate(self, level: float = LEVEL) -> PooledEstimate:
        """Return the value with its interval over rows and latents."""
        variance, freedom, by_rows = self._variance()
        if not math.isfinite(variance + by_rows):
            return PooledEstimate(self.value, (math.nan, math.nan))
        t = student_quantile((1 + level) / 2, freedom)
        half = max(t * math.sqrt(max(variance, 0.0)), 0.5 * math.sqrt(max(by_rows, 0.0)))
        if self.positive and half < self.value:
            # of few rows a low ratio comes with a low error: relative to it they are alike
            return PooledEstimate(
                self.value,
                (self.value * math.exp(-half / self.value), self.value * math.exp(half / self.value)),
            )
        return PooledEstimate(self.value, (self.value - half, self.value + half))

    def _variance(self) -> tuple[float, float, float]:
        """Return the variance, its freedom (at least 1), and the part of the rows alone."""
        n, k = self.influence.shape
        g, w = self.influence.sum(0), self.weight
        centred = self.influence - g / n
        Omega = centred.T @ centred * (n / max(n - 1, 1))
        by_rows = float(Omega.sum())
        if k == 1:
            return by_rows, max(n - 1, 1), by_rows
        P = cpu.eye(k, dtype=g.dtype) - w[:, None]
        noise, unit, size = P @ Omega @ P.T, P * w.square() @ P.T, w.square().sum()
        tau2 = (g.square().sum() - noise.trace()) / unit.trace()
        inside = noise + tau2.clamp_min(0) * unit
        expected = by_rows + float(tau2.clamp_min(0) * size)
        scatter = float((size / unit.trace()).square() * inside.square().sum()) + by_rows**2 / max(n - 1, 1)
        freedom = expected**2 / scatter if scatter > 0 else float(n + k)
        return by_rows + float(tau2 * size), max(1.0, freedom), by_rows


def ratio(top: Tensor, bottom: Tensor) -> Pooled:
    """Return sum(top) / sum(bottom), shapes (n, k)."""
    whole = bottom.sum()
    value = top.sum() / whole
    return Pooled(float(value), (top - value * bottom) / whole, bottom.sum(0) / whole)


def pooled_ratio(top: Tensor, bottom: Tensor, *, level: float = LEVEL) -> PooledEstimate:
    """Return sum(top) / sum(bottom) with its interval over rows and latents.

    Args:
        top, bottom: shape (n, k), k active latents.
    """
    return ratio(top, bottom).estimate(level)


def pooled_quotient(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> PooledEstimate:
    """Return one pooled ratio over another, (top, bottom) each as for `pooled_ratio`, of the same rows and latents."""
    a, b = ratio(*first), ratio(*second)
    value = a.value / b.value if b.value else math.nan
    moves = (a.influence - value * b.influence) / b.value if b.value else a.influence * math.nan
    return Pooled(value, moves, (a.weight + b.weight) / 2).estimate()
