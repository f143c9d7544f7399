"""A seam as data: its nodes, what happened on it, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vaeprobe.prior import LearnedPrior
from vaeprobe.report import Json
from vaeprobe.seams.nodes import Nodes, hermite
from vaeprobe.seams.tracks import Stop

__all__ = ["Event", "Seam"]


EventKind: TypeAlias = Literal["crossing", "tied", "kink", "step limit"]
LOG_TAU = float(np.log(2 * np.pi))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened on a seam.

    Attributes:
        kind: "crossing", two singular values change places; "tied", a stretch on which the singular value
            coincides with another one and the direction is carried over, not determined; "kink", the
            direction jumps; "step limit", the shortest step was taken although it exceeds the tolerance.
        start, component: the seam.
        t: signed arc length from the start at which it happens.
        until: arc length at which a stretch ends; t itself for a point.
        z: latent at t, shape (latent,).
        ranks: place of the singular value among all, before and after.
        value: crossing, the smallest relative difference of the two singular values that was seen; kink and
            step limit, the angle in radians; tied, 0.
    """

    kind: EventKind
    start: int
    component: int
    t: float
    until: float
    z: Tensor
    ranks: tuple[int, int]
    value: float

    def to_dict(self) -> Json:
        return {
            "kind": self.kind,
            "start": self.start,
            "component": self.component,
            "t": self.t,
            "until": self.until,
            "z": self.z.tolist(),
            "ranks": list(self.ranks),
            "value": self.value,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam(Nodes):
    """One seam through one start, from its far end against the singular vector to that along it.

    Attributes:
        start: row of the starting point.
        component: place of its singular value at the start, 0 the largest.
        stop: why it ends, against and along; None on a side that was not traced.
        events: what happened on it, in order of t.
        coordinates: indices of the continuous latents.
        prior: theirs, where it is not N(0, I).
    """

    start: int
    component: int
    stop: tuple[Stop | None, Stop | None]
    events: tuple[Event, ...]
    coordinates: Tensor
    prior: LearnedPrior | None = None

    @property
    def length(self) -> float:
        """Latent arc length."""
        return float(self.t[-1] - self.t[0])

    @property
    def chord(self) -> float:
        """Distance between its ends."""
        return float((self.z[-1] - self.z[0]).norm())

    @property
    def straightness(self) -> float:
        """Chord over length, 1 for a straight line, 0 for a closed loop; 1 for a path of no length."""
        return min(self.chord / self.length, 1.0) if self.length > 0 else 1.0

    @property
    def turning(self) -> float:
        """Total angle that the tangent turns through, in radians."""
        return float(2 * torch.asin((self.v.diff(dim=0).norm(dim=1) / 2).clamp_max(1)).sum())

    @property
    def closed(self) -> bool:
        return self.stop[1] == "closed"

    def mean(self, values: Tensor) -> float:
        """Return the mean over arc length of values at the nodes, shape (N,)."""
        if self.length <= 0:
            return float(values[0])
        return float(torch.trapezoid(values.double(), self.t) / self.length)

    @property
    def axis(self) -> int:
        """The latent axis it is nearest to: that of largest mean overlap (an index into all latents)."""
        means = [self.mean(column) for column in self.v.abs().unbind(1)]
        return int(self.coordinates[int(np.argmax(means))])

    @property
    def axis_overlap(self) -> Tensor:
        """Overlap |v . e| with its nearest axis at the nodes, shape (N,)."""
        column = int((self.coordinates == self.axis).nonzero()[0])
        return self.v[:, column].abs()

    @property
    def log_prior(self) -> Tensor:
        """Log density of the prior over the continuous latents in nats, as a rule log N(z; 0, I), shape (N,)."""
        free = self.z[:, self.coordinates]
        if self.prior is not None:
            return self.prior.log_density(free)
        return -0.5 * (free.square().sum(1) + free.shape[1] * LOG_TAU)

    @property
    def log_factor(self) -> Tensor:
        """The seam's own density factor, log N(v . z; 0, 1) - log s in nats, shape (N,).

        Under another prior it is the density of v . z under that one: p(z) is then no product of such factors.

        Source: Allen (2024), arXiv:2410.22559v1, Section 4.1: p_i = p(z_i) / s_i in the basis of the seams.
        """
        free = self.z[:, self.coordinates]
        own = -0.5 * ((self.v * free).sum(1).square() + LOG_TAU)
        if self.prior is not None:
            own = self.prior.log_density_along(self.v, free)
        return own - self.s.clamp_min(torch.finfo(torch.float64).tiny).log()

    def at(self, t: Tensor) -> Tensor:
        """Return the latents at arc lengths t (c,), shape (c, latent): cubic between nodes, ends held."""
        if len(self.t) == 1:
            return self.z[:1].repeat(len(t), 1)
        t = t.double().clamp(float(self.t[0]), float(self.t[-1]))
        i = (torch.searchsorted(self.t, t, right=True) - 1).clamp(0, len(self.t) - 2)
        h = self.t[i + 1] - self.t[i]
        theta = ((t - self.t[i]) / h)[:, None]
        free = self.coordinates
        out = self.z[:1].repeat(len(t), 1)
        out[:, free] = hermite(
            self.z[i][:, free], self.v[i], self.z[i + 1][:, free], self.v[i + 1], h, theta
        )[:, 0]
        return out

    def tangent(self, t: Tensor) -> Tensor:
        """Return the unit tangents at the nodes nearest to arc lengths t (c,), shape (c, k)."""
        return self.v[(self.t[None, :] - t[:, None]).abs().argmin(1)]
