"""Rotations of large latent spaces, kept as what they turn: some coordinates, or the channels at every site alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe import cpu

__all__ = ["Turn"]


@dataclass(frozen=True, eq=False)
class Turn:
    """A rotation that leaves most of a latent space alone, or turns all of its sites alike.

    Attributes:
        R: rotation of what is turned, shape (s, s), float64.
        latents: of the whole space.
        at: which of them R turns, shape (s,); None where latents are s channels of as many sites each.
    """

    R: Tensor
    latents: int
    at: Tensor | None = None

    @property
    def matrix(self) -> Tensor:
        """The rotation of the whole space, shape (latents, latents): 8 bytes times the square of their number."""
        if self.at is None:
            return torch.kron(self.R, cpu.eye(self.latents // len(self.R), dtype=self.R.dtype))
        out = cpu.eye(self.latents, dtype=self.R.dtype)
        out[self.at[:, None], self.at] = self.R
        return out

    def of(self, z: Tensor) -> Tensor:
        """Return R z for rows of latents, shape (n, latents)."""
        R = self.R.to(device=z.device, dtype=z.dtype)
        if self.at is None:
            return (R @ z.reshape(len(z), len(R), -1)).reshape(z.shape)
        out = z.clone()
        out[:, self.at] = z[:, self.at] @ R.T
        return out
