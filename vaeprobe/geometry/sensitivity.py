"""The sensitivity law: how much dependence a small violation of C1 or C2 buys, on families in closed form.

Each family is a map of two latents with one parameter, 0 where the density factorises into independent components:

- `polar`: e^{t z_0} (cos z_1, sin z_1), of orthogonal columns n = e^{t z_0} (t, 1): C1 holds and C2 fails by
  cross = (0, t).  The log seam factors correlate by t^2 / (t^2 + 1/2): at t = 1 by 2/3.
- `sheared`: (z_0, z_1 + t z_0^2 / 2), of columns (1, t z_0) and (0, 1): each length follows its own latent and C1
  fails, by E log(1 + t^2 z_0^2) / 2.  The factors stay independent, and what they miss is the gap.
- `turned`: (sinh w_0, sinh(w_1 / 2)) with w = R(t) z, a rotation by t: both fail.

Gap, cross and correlation are integrals over two normal latents, by Gauss-Hermite quadrature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["FamilyName", "Law", "sensitivity"]

Array = NDArray[np.float64]
FamilyName = Literal["polar", "sheared", "turned"]

NODES = 64


@dataclass(frozen=True)
class Law:
    """What a violation buys, one entry per parameter.

    Attributes:
        family: name of the family.
        parameter: size of the violation.
        gap: mean ima contrast in nats (C1).
        cross: largest cross (C2).
        correlation: absolute correlation of the two log seam factors.
        dependence: -1/2 log(1 - correlation^2) in nats.
        explained: share of the variance of log p(x) that the factors explain.
    """

    family: FamilyName
    parameter: tuple[float, ...]
    gap: tuple[float, ...]
    cross: tuple[float, ...]
    correlation: tuple[float, ...]
    dependence: tuple[float, ...]
    explained: tuple[float, ...]


def _polar(t: float, z: Array) -> Array:
    n = np.exp(t * z[..., 0])
    return np.stack([np.stack([(t * n) ** 2, 0 * n], -1), np.stack([0 * n, n**2], -1)], -1)


def _sheared(t: float, z: Array) -> Array:
    s = t * z[..., 0]
    one = np.ones_like(s)
    return np.stack([np.stack([1 + s**2, s], -1), np.stack([s, one], -1)], -1)


def _turned(t: float, z: Array) -> Array:
    R = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    w = z @ R.T
    squares = np.stack([np.cosh(w[..., 0]) ** 2, (np.cosh(w[..., 1] / 2) / 2) ** 2], -1)
    metric: Array = np.einsum("ki,...k,kj->...ij", R, squares, R)
    return metric


FAMILIES: dict[FamilyName, Callable[[float, Array], Array]] = {
    "polar": _polar,
    "sheared": _sheared,
    "turned": _turned,
}


def sensitivity(family: FamilyName, parameters: Sequence[float]) -> Law:
    """Return the curve of a family: gap and cross against dependence and share explained.

    Args:
        family: which map.
        parameters: sizes of the violation, positive.

    Raises:
        ValueError: a parameter is not positive.
    """
    if not all(t > 0 for t in parameters):
        raise ValueError("a violation is positive")
    x, weight = np.polynomial.hermite_e.hermegauss(NODES)
    weight = weight / weight.sum()
    z = np.stack(np.meshgrid(x, x, indexing="ij"), -1)
    both = weight[:, None] * weight

    def mean(v: Array) -> float:
        return float((both * v).sum())

    rows = []
    for t in parameters:
        G = FAMILIES[family](t, z)
        lengths = np.sqrt(np.stack([G[..., 0, 0], G[..., 1, 1]], -1))
        # at far nodes, of weight 1e-40 and less, the difference has no digits left
        product = G[..., 0, 0] * G[..., 1, 1]
        half_log_det = np.log(np.maximum(product - G[..., 0, 1] ** 2, 1e-15 * product)) / 2
        logs = np.log(lengths)
        contrast = logs.sum(-1) - half_log_det
        factors = -(z**2) / 2 - logs
        # what is left of log n_i when its mean at the own latent's value is taken off
        crosses = [
            np.sqrt(mean((v - _over(v, weight, 1 - i)) ** 2))
            for i, v in enumerate((logs[..., 0], logs[..., 1]))
        ]
        centred = factors - np.array([mean(factors[..., i]) for i in (0, 1)])
        covariance = mean(centred[..., 0] * centred[..., 1])
        correlation = abs(covariance) / np.sqrt(mean(centred[..., 0] ** 2) * mean(centred[..., 1] ** 2))
        log_density = -(z**2).sum(-1) / 2 - half_log_det
        explained = 1 - mean((contrast - mean(contrast)) ** 2) / mean((log_density - mean(log_density)) ** 2)
        dependence = -np.log1p(-(correlation**2)) / 2
        rows.append((mean(contrast), max(crosses), correlation, dependence, explained))
    columns = [tuple(float(row[i]) for row in rows) for i in range(5)]
    return Law(family, tuple(map(float, parameters)), *columns)


def _over(values: Array, weight: Array, axis: int) -> Array:
    """Return the mean over one latent, kept as an axis."""
    shape = (-1, 1) if axis == 0 else (1, -1)
    averaged: Array = (values * weight.reshape(shape)).sum(axis, keepdims=True)
    return averaged
