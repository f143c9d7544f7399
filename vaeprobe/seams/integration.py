"""Many half-seams stepped at once, each with its own step length, from a start to its stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.budget import TimeIsOver, optional, unhurried
from vaeprobe.progress import tell
from vaeprobe.seams.fields import DirectionField, Directions
from vaeprobe.seams.nodes import hermite
from vaeprobe.seams.schemes import Move, Scheme, Trial
from vaeprobe.seams.tracks import Mark, Recorder, Stop, Track

__all__ = ["Integration", "Limits"]


# cos 26 degrees: a step that turns the direction further than that is halved
OVERLAP = 0.9
# the longest step: nodes stay close enough for the cubic between them
LONGEST = 0.4
# so many kinks in a row, each within SHORT shortest steps of the last: the directions on both sides run into the kink
SLIDING, SHORT = 12, 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a half-seam ends.

    Attributes:
        length: latent length, per half-seam, shape (P,).
        radius: latent radius |z| over the continuous latents, per half-seam, shape (P,).
        collapse: smallest singular value, as a share of the largest one at the start.
        steps: most trial steps.
    """

    length: Tensor
    radius: Tensor
    collapse: float = 1e-6
    steps: int = 4000


class Integration:
    """Half-seams from z (P, latent) along at.v (P, k), one row each, stepped until each has stopped.

    Args:
        field: gives the singular frames.
        move: (z, step over the continuous latents) -> z.
        coordinates: indices of the continuous latents, shape (k,).
        at: the directions at z.
        scheme, limits, tolerance: how far and how accurately; the tolerance bounds the error of a step.
    """

    def __init__(
        self,
        field: DirectionField,
        move: Move,
        coordinates: Tensor,
        z: Tensor,
        at: Directions,
        scheme: Scheme,
        limits: Limits,
        tolerance: float,
    ) -> None:
        self.field, self.move, self.coordinates = field, move, coordinates
        self.scheme, self.limits, self.tolerance = scheme, limits, tolerance
        P = len(z)
        self.start, self.heading = z.clone(), at.v.clone()
        self.z, self.at = z.clone(), at.at(cpu.arange(P))
        self.t = cpu.zeros(P, dtype=torch.float64)
        self.shortest = (limits.length / 4).clamp_max(scheme.shortest(tolerance))
        self.longest = (limits.length / 4).clamp_max(LONGEST)
        self.h = self.longest.clamp_max(scheme.first)
        self.grow = cpu.ones(P, dtype=torch.bool)
        # `kinks`: a kink lies before this arc length; the stride with which it was met
        self.bracket = torch.full_like(self.t, torch.inf)
        self.stride = self.h.clone()
        self.floor = limits.collapse * at.frame.s[:, 0]
        self.landing: list[Stop | None] = [None] * P
        self.stops: list[Stop | None] = [None] * P
        self.trials = cpu.zeros(P, dtype=torch.long)
        self.marks: list[Mark] = []
        # kinks met in a row, one close after the other
        self.chatter: list[list[float]] = [[] for _ in range(P)]
        self.recorder = Recorder()

    def tracks(self) -> list[Track]:
        """Return the half-seams, each up to where it stops."""
        P = len(self.z)
        self.recorder.add(cpu.arange(P), self.t.clone(), self.z.clone(), self.at.at(cpu.arange(P)))
        self._stop(~self.at.finite, "not finite")
        self._stop(self.at.finite & ~(self.at.s > self.floor), "collapse")
        self._stop(self._radius(self.z) > self.limits.radius, "outside")
        while True:
            active = cpu.tensor([p for p in range(P) if self.stops[p] is None], dtype=torch.long)
            tell("tracing seams", P - len(active) + float((self.t / self.limits.length)[active].sum()), P)
            if not len(active):
                break
            try:
                # seams without a step tell nothing: the first one is made however long it takes
                with optional() if self.t.any() else unhurried():
                    self._advance(active)
            except TimeIsOver:  # within a step, which is lost: the nodes before it stand
                self._stop(cpu.ones(P, dtype=torch.bool), "time")
        ends = [
            met[0] if stop == "sliding" else np.inf
            for met, stop in zip(self.chatter, self.stops, strict=True)
        ]
        return self.recorder.tracks([stop or "steps" for stop in self.stops], self.marks, ends)

    def _radius(self, z: Tensor) -> Tensor:
        norms: Tensor = z[:, self.coordinates].norm(dim=1)
        return norms

    def _stop(self, where: Tensor, reason: Stop) -> None:
        for p in where.nonzero().flatten().tolist():
            if self.stops[p] is None:
                self.stops[p] = reason

    def _advance(self, active: Tensor) -> None:
        h = torch.minimum(self.h[active], self.limits.length[active] - self.t[active])
        at = self.at.at(active)
        trial = self.scheme.step(self.field, self.move, self.z[active], at, h)
        self.trials[active] += 1

        lost = ~trial.at.finite | ~torch.isfinite(trial.error) | ~(trial.at.s > self.floor[active])
        shortest = h <= self.shortest[active] * (1 + 1e-9)
        good = ~lost & (trial.error <= self.tolerance) & (trial.overlap >= OVERLAP)
        forced = ~lost & ~good & shortest
        accepted = good | forced

        gone = lost & shortest
        for row in gone.nonzero().flatten().tolist():
            finite = bool(trial.at.finite[row]) and bool(torch.isfinite(trial.error[row]))
            self.stops[int(active[row])] = "collapse" if finite else "not finite"

        share, reasons = self._landings(active, trial, h, accepted)
        landed_now = cpu.tensor([r is not None for r in reasons])
        # the landing itself is a shorter step to the same place; one that is already due is taken as it is
        retry = accepted & landed_now & (share < 1 - 1e-12)
        for row in (retry | ~accepted).nonzero().flatten().tolist():
            self.landing[int(active[row])] = reasons[row] if retry[row] else None
        accepted &= ~retry

        self._mark(active, trial, at, h, accepted, forced)
        self._resize(active, trial, h, accepted, lost, retry, share)
        rows = accepted.nonzero().flatten()
        if len(rows):
            index = active[rows]
            self.z[index] = trial.z[rows]
            self.t[index] += h[rows]
            here = trial.at.at(rows)
            self.at.put(index, here)
            self.recorder.add(index, self.t[index].clone(), trial.z[rows], here)
        for row in rows.tolist():
            p = int(active[row])
            if self.stops[p] is not None:
                continue
            if self.landing[p] is not None:
                self.stops[p] = self.landing[p]
            elif float(self.t[p]) >= float(self.limits.length[p]) * (1 - 1e-12):
                self.stops[p] = "length"
        for p in active.tolist():
            if self.stops[p] is None and int(self.trials[p]) >= self.limits.steps:
                self.stops[p] = "steps"

    def _landings(
        self, active: Tensor, trial: Trial, h: Tensor, accepted: Tensor
    ) -> tuple[Tensor, list[Stop | None]]:
        """Return the share of each step at which it meets the radius or its own start, and which."""
        share = torch.ones_like(h)
        reasons: list[Stop | None] = [None] * len(h)
        fresh = accepted & cpu.tensor([self.landing[p] is None for p in active.tolist()])
        rows = (fresh & (self._radius(trial.z) > self.limits.radius[active])).nonzero().flatten()
        if len(rows):
            radius = self.limits.radius[active[rows]]
            low, high = cpu.zeros(len(rows), dtype=h.dtype), cpu.ones(len(rows), dtype=h.dtype)
            for _ in range(50):
                middle = (low + high) / 2
                out = self._along(active, trial, h, rows, middle[:, None]).norm(dim=2)[:, 0] > radius
                low, high = torch.where(out, low, middle), torch.where(out, middle, high)
            share[rows] = low.clamp_min(1e-12)
            for row in rows.tolist():
                reasons[row] = "radius"
        self._closings(active, trial, h, fresh, share, reasons)
        return share, reasons

    def _along(self, active: Tensor, trial: Trial, h: Tensor, rows: Tensor, theta: Tensor) -> Tensor:
        index, c = active[rows], self.coordinates
        return hermite(
            self.z[index][:, c], self.at.v[index], trial.z[rows][:, c], trial.at.v[rows], h[rows], theta
        )

    def _closings(
        self,
        active: Tensor,
        trial: Trial,
        h: Tensor,
        fresh: Tensor,
        share: Tensor,
        reasons: list[Stop | None],
    ) -> None:
        """Find the seams that run into their own start, in the direction in which they left it."""
        home = self.start[active][:, self.coordinates]
        near = (trial.z[:, self.coordinates] - home).norm(dim=1) <= 1.5 * h
        same = (trial.at.v * self.heading[active]).sum(1) > 0.8
        rows = (fresh & near & same & (self.t[active] > 4 * h)).nonzero().flatten()
        if not len(rows):
            return
        low, high = cpu.zeros(len(rows), dtype=h.dtype), cpu.ones(len(rows), dtype=h.dtype)
        for _ in range(12):
            theta = low[:, None] + (high - low)[:, None] * cpu.linspace(0, 1, 9, dtype=h.dtype)
            best = (self._along(active, trial, h, rows, theta) - home[rows][:, None]).norm(dim=2).argmin(1)
            step = (high - low) / 8
            centre = theta.gather(1, best[:, None])[:, 0]
            low, high = (centre - step).clamp_min(0), (centre + step).clamp_max(1)
        middle = (low + high) / 2
        miss = (self._along(active, trial, h, rows, middle[:, None])[:, 0] - home[rows]).norm(dim=1)
        for row, at_share, distance in zip(rows.tolist(), middle.tolist(), miss.tolist(), strict=True):
            inside = 1e-9 < at_share < 1 - 1e-9
            if inside and distance <= 1e-3 and reasons[row] is None:
                share[row], reasons[row] = at_share, "closed"

    def _mark(
        self, active: Tensor, trial: Trial, at: Directions, h: Tensor, accepted: Tensor, forced: Tensor
    ) -> None:
        turn = 2 * torch.asin(((trial.at.v - at.v).norm(dim=1) / 2).clamp_max(1))
        blur = 1e-6 if self.field.rounding < 1e-12 else 1e-3
        bent = accepted & (turn > blur) if self.scheme.name == "kinks" else forced
        kind: Literal["kink", "step limit"] = "kink" if self.scheme.name == "kinks" else "step limit"
        for row in bent.nonzero().flatten().tolist():
            p = int(active[row])
            place = float(self.t[p] + h[row] / 2)
            self.marks.append(Mark(kind, p, place, float(turn[row])))
            if kind == "kink":
                self._slide(p, place)

    def _slide(self, p: int, place: float) -> None:
        """Stop a half-seam that runs to and fro across one kink: no seam leaves it (Filippov's sliding)."""
        met = self.chatter[p]
        if met and place - met[-1] > SHORT * float(self.shortest[p]):
            met.clear()
        met.append(place)
        if len(met) == SLIDING:
            self.stops[p] = "sliding"

    def _resize(
        self,
        active: Tensor,
        trial: Trial,
        h: Tensor,
        accepted: Tensor,
        lost: Tensor,
        retry: Tensor,
        share: Tensor,
    ) -> None:
        """Choose the next step lengths."""
        if self.scheme.name == "kinks":
            size = self._bisect(active, trial, h, accepted, retry)
        else:
            ratio = (self.tolerance / trial.error.clamp_min(1e-300)).nan_to_num(0.0)
            factor = (0.9 * ratio ** (1 / self.scheme.order)).clamp(0.2, 5.0)
            factor = torch.where(trial.overlap < OVERLAP, factor.clamp_max(0.5), factor)
            grown = torch.where(self.grow[active] & accepted, factor, factor.clamp_max(1.0))
            size = torch.where(lost, h / 2, h * grown)
        self.grow[active] = accepted
        size = torch.where(retry, h * share, size.clamp(self.shortest[active], self.longest[active]))
        self.h[active] = size

    def _bisect(self, active: Tensor, trial: Trial, h: Tensor, accepted: Tensor, retry: Tensor) -> Tensor:
        """Halve the way to a kink until it is within the tolerance; stride on beyond it."""
        t, bracket, stride = self.t[active], self.bracket[active], self.stride[active]
        searching = torch.isfinite(bracket)
        bent = trial.error > 1e-3 * self.tolerance
        crossed = accepted & (bent | (t + h >= bracket))
        missed = ~accepted & ~retry
        stride = torch.where(missed & ~searching, h, stride)
        bracket = torch.where(missed, t + h, torch.where(crossed, torch.inf, bracket))
        self.bracket[active], self.stride[active] = bracket, stride
        after = torch.where(accepted, t + h, t)
        half = (bracket - after) / 2
        free = torch.where(crossed, stride / 2, h * 2)
        return torch.where(torch.isfinite(half), half, free)
