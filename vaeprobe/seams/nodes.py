"""Nodes of a path through latent space, and the cubic between two of them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

__all__ = ["NODES", "Nodes", "hermite"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """The nodes of a path that follows one singular vector, in order.

    Attributes:
        t: signed latent arc length, 0 at the start, shape (N,).
        z: latents, shape (N, latent).
        v: unit tangents over the continuous latents, shape (N, k).
        s: singular value: data-space speed |d f(z(t)) / dt|, shape (N,).
        rank: its place among the singular values, shape (N,).
        tied: whether it coincides with another one, shape (N,).
    """

    t: Tensor
    z: Tensor
    v: Tensor
    s: Tensor
    rank: Tensor
    tied: Tensor


NODES = tuple(field.name for field in fields(Nodes))


def hermite(z0: Tensor, v0: Tensor, z1: Tensor, v1: Tensor, h: Tensor, theta: Tensor) -> Tensor:
    """Return the cubic through both ends with both tangents, at shares theta of the step.

    Args:
        z0, v0, z1, v1: shape (P, k).
        h: step lengths, shape (P,).
        theta: shares in [0, 1], shape (P, c).

    Returns:
        shape (P, c, k).
    """
    x = theta[:, :, None]
    a, b = z0[:, None], z1[:, None]
    p, q = (h[:, None] * v0)[:, None], (h[:, None] * v1)[:, None]
    return (1 + 2 * x) * (1 - x) ** 2 * a + x * (1 - x) ** 2 * p + x**2 * (3 - 2 * x) * b + x**2 * (x - 1) * q
