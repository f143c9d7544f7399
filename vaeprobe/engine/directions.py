"""Directions in which columns of the Jacobian are summed: unit vectors, or any, few of whose numbers need not be zero."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.decoder import Decoder
from vaeprobe.engine.windows import Places

__all__ = ["Directions", "Entries", "Given", "Units"]


class Entries(NamedTuple):
    """The numbers of directions that are not zero, of one latent after the other.

    Attributes:
        direction, point, latent: where they are, shape (entries,) each.
        numbers: what they are, shape (entries,); None for 1.
    """

    direction: Places
    point: Places
    latent: Places
    numbers: Tensor | None = None

    def times(self, columns: Tensor) -> Tensor:
        """Return columns, shape (entries, ...), times these numbers."""
        if self.numbers is None:
            return columns
        return columns * self.numbers[(..., *[None] * (columns.ndim - 1))]


@dataclass(frozen=True)
class Units:
    """Unit vectors, which may differ from latent to latent.

    Attributes:
        at: which of its numbers are 1, shape (d, n); stride 0 along the latents where they are the same at every one.
        x: the latents, shape (n, latent).
    """

    at: Tensor
    x: Tensor

    @classmethod
    def of_columns(cls, decoder: Decoder, x: Tensor, columns: Tensor | None) -> Units:
        """Return those of columns, shape (n, d), indices of continuous latents; None for all of them."""
        free = cpu.tensor(decoder.continuous)
        if columns is None:
            return cls(free[:, None].expand(-1, len(x)), x)
        same = columns.stride(0) == 0
        return cls(free[columns[:1] if same else columns].T.expand(-1, len(x)), x)

    def __len__(self) -> int:
        return len(self.at)

    @property
    def entries(self) -> int:
        """How many numbers are not zero, of all directions at all latents."""
        return self.at.numel()

    def at_points(self, points: slice) -> Units:
        """Return the same at some of the latents."""
        return Units(self.at[:, points], self.x[points])

    def dense(self, some: slice, points: slice) -> Tensor:
        """Return some of the directions at some of the latents, shape (s, p, latent), stride 0 where they are the same."""
        at = self.at[some, points]
        if self.at.stride(1) == 0:
            at = at[:, :1]
        unit = self.x.new_zeros(*at.shape, self.x.shape[1])
        unit.scatter_(2, at.to(self.x.device)[:, :, None], 1.0)
        return unit.expand(-1, points.stop - points.start, -1)

    def sparse(self, some: slice, points: slice) -> Entries:
        """Return the numbers of some of the directions at some of the latents that are not zero."""
        at = self.at[some, points].T
        point, direction = np.indices(at.shape).reshape(2, -1)
        return Entries(direction, point, at.flatten().numpy())


@dataclass(frozen=True)
class Given:
    """Any directions, shape (d, n, latent)."""

    v: Tensor

    def __len__(self) -> int:
        return len(self.v)

    @cached_property
    def entries(self) -> int:
        return int(self.v.count_nonzero())

    def dense(self, some: slice, points: slice) -> Tensor:
        return self.v[some, points]

    def sparse(self, some: slice, points: slice) -> Entries:
        v = self.v[some, points].transpose(0, 1)
        where = v.nonzero(as_tuple=True)
        point, direction, latent = (part.cpu().numpy() for part in where)
        return Entries(direction, point, latent, v[where])


Directions: TypeAlias = Units | Given
