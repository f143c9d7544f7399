"""Priors of latents that are not N(0, I): learned means and scales, and mixtures of normals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vaeprobe import cpu
from vaeprobe.errors import UsageError
from vaeprobe.intervals import stream

__all__ = ["InPriorUnits", "LearnedPrior"]


@dataclass(frozen=True, eq=False)
class LearnedPrior:
    """A normal with its own mean and scale per latent, or a mixture of such.

    Args:
        mean: shape (latent,), or (components, latent) for a mixture.
        scale: standard deviations, of the same shape, or one that broadcasts to it.
        weights: of the components, shape (components,); equal by default.  They are made to sum to 1.

    Raises:
        UsageError: shapes that do not fit, a scale or weight that is not positive, numbers that are not finite.

    Example:
        >>> LearnedPrior([[-1.0, 0.0], [1.0, 0.0]], 0.5).components
        2
    """

    mean: Tensor
    scale: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        mean = _numbers(self.mean, "mean")
        mean = mean.reshape(1, -1) if mean.ndim < 2 else mean
        scale = _numbers(self.scale, "scale")
        equal = cpu.ones(len(mean)) if self.weights is None else self.weights
        weights = _numbers(equal, "weights").flatten()
        if mean.ndim != 2 or len(weights) != len(mean):
            raise UsageError(
                f"a prior has means of shape {tuple(mean.shape)} and {len(weights)} weights",
                hint="means are (latent,), or (components, latent) with a weight for each component",
            )
        try:
            scale = scale.expand(mean.shape) if scale.ndim < 2 else scale.broadcast_to(mean.shape)
        except RuntimeError:
            raise UsageError(
                f"a prior has means of shape {tuple(mean.shape)} and scales of shape {tuple(scale.shape)}",
                hint="one scale for each mean, for each latent, or for all",
            ) from None
        if not all(t.isfinite().all() for t in (mean, scale, weights)):
            raise UsageError("a prior has numbers that are not finite")
        if not (scale > 0).all() or not (weights >= 0).all() or weights.sum() <= 0:
            raise UsageError(
                "a prior has a scale or weight that is not positive",
                hint="say what the numbers are: scale, log_scale, variance or log_variance; weights or logits",
            )
        for name, value in (("mean", mean), ("scale", scale), ("weights", weights / weights.sum())):
            object.__setattr__(self, name, value)

    @property
    def latents(self) -> int:
        """Number of latents."""
        return int(self.mean.shape[1])

    @property
    def components(self) -> int:
        """Number of normals that are mixed, 1 for none."""
        return len(self.mean)

    @property
    def words(self) -> str:
        """What it is, in words."""
        if self.components > 1:
            return f"a mixture of {self.components} normals"
        return "a normal with its own mean and scale per latent"

    def draw(self, n: int, *, seed: int, purpose: str) -> Tensor:
        """Return n draws, shape (n, latent), of which the first are those of a shorter draw."""
        z = torch.from_numpy(stream(seed, purpose).standard_normal((n, self.latents)))
        u = stream(seed, f"{purpose}/component").random(n)
        weights = self.weights
        assert weights is not None
        which = np.searchsorted(weights.cumsum(0)[:-1].numpy(), u, side="right")
        return self.mean[which] + self.scale[which] * z

    def over(self, columns: Sequence[int]) -> LearnedPrior:
        """Return the prior of some of the latents, the others integrated out."""
        keep = list(columns)
        return LearnedPrior(self.mean[:, keep], self.scale[:, keep], self.weights)

    def log_density(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, shape (n,), of latents of shape (n, latent)."""
        u = (z[:, None].double() - self.mean) / self.scale
        each = -0.5 * (u.square() + math.log(2 * math.pi)).sum(2) - self.scale.log().sum(1)
        return self._mixed(each)

    def log_density_along(self, v: Tensor, z: Tensor) -> Tensor:
        """Return the log density of v . z' at v . z, for z' of the prior, in nats, shape (n,).

        Args:
            v: unit directions, shape (n, latent).
            z: latents, shape (n, latent).
        """
        v, z = v.double(), z.double()
        variance = v.square() @ self.scale.square().T
        off = (v * z).sum(1, keepdim=True) - v @ self.mean.T
        return self._mixed(-0.5 * (off.square() / variance + (2 * math.pi * variance).log()))

    def _mixed(self, each: Tensor) -> Tensor:
        weights = self.weights
        assert weights is not None
        return torch.logsumexp(each + weights.log(), dim=1)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation of each latent over all components."""
        weights = self.weights
        assert weights is not None
        mean = weights @ self.mean
        return mean, (weights @ (self.scale.square() + (self.mean - mean).square())).sqrt()


def _numbers(given: object, name: str) -> Tensor:
    """Return numbers of a prior in float64 on the CPU.

    Raises:
        UsageError: they are none.
    """
    try:
        return cpu.as_tensor(given, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(
            f"`{name}` of a prior are numbers, and a {type(given).__name__} is given that makes no tensor of them",
            hint="a tensor, an array or a list of numbers",
        ) from None


class InPriorUnits(nn.Module):
    """A map of latents counted in the prior's units: u to inner(mean + scale u).

    Args:
        inner: takes latents.
        mean, scale: shape (latent,).
    """

    def __init__(self, inner: object, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, u: Tensor) -> object:
        """Return what the map makes of the latents, shape (n, latent)."""
        mean, scale = self.get_buffer("mean").to(u), self.get_buffer("scale").to(u)
        return self.inner(mean + scale * u)  # type: ignore[operator]
