"""Seams of a decoder: the paths in latent space that follow one right singular vector of its Jacobian."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.errors import UsageError
from vaeprobe.likelihoods import Likelihood
from vaeprobe.seams.fields import (
    DenseField,
    DirectionField,
    Directions,
    Frame,
    IterativeField,
    follow,
    nearest_axes,
    rounding,
)
from vaeprobe.seams.integrate import Limits, Stop, Track, hermite, integrate, joined, prior_radius
from vaeprobe.seams.schemes import SCHEMES, SchemeName, texture
from vaeprobe.writing import write

__all__ = ["Event", "Paths", "Seam", "trace_paths"]

Array: TypeAlias = np.ndarray[Any, Any]
EventKind: TypeAlias = Literal["crossing", "tied", "kink", "step limit"]
Way: TypeAlias = Literal["both", "forward", "backward"]

# Latents beyond which leading singular vectors are found by iteration, if few are asked for.
LARGE = 64
# Latent arc length per direction by default.
LENGTH = 3.0
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

    def to_dict(self) -> dict[str, Any]:
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
class Seam:
    """One seam through one start, from its far end against the singular vector to that along it.

    Attributes:
        start: row of the starting point.
        component: place of its singular value at the start, 0 the largest.
        t: signed latent arc length, 0 at the start, ascending, shape (N,).
        z: latents, shape (N, latent).
        v: unit tangents over the continuous latents, shape (N, k).
        s: singular value: data-space speed |d f(z(t)) / dt|, shape (N,).
        rank: its place among the singular values, shape (N,).
        tied: whether it coincides with another one, shape (N,).
        stop: why it ends, against and along; None on a side that was not traced.
        events: what happened on it, in order of t.
        coordinates: indices of the continuous latents.
    """

    start: int
    component: int
    t: Tensor
    z: Tensor
    v: Tensor
    s: Tensor
    rank: Tensor
    tied: Tensor
    stop: tuple[Stop | None, Stop | None]
    events: tuple[Event, ...]
    coordinates: Tensor

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
        """log N(z; 0, I) over the continuous latents in nats, shape (N,)."""
        free = self.z[:, self.coordinates]
        return -0.5 * (free.square().sum(1) + free.shape[1] * LOG_TAU)

    @property
    def log_factor(self) -> Tensor:
        """The seam's own density factor, log N(v . z; 0, 1) - log s in nats, shape (N,).

        Source: Allen (2024), arXiv:2410.22559v1, Section 4.1: p_i = p(z_i) / s_i in the basis of the seams.
        """
        u = (self.v * self.z[:, self.coordinates]).sum(1)
        return -0.5 * (u.square() + LOG_TAU) - self.s.clamp_min(torch.finfo(torch.float64).tiny).log()

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


@dataclass(frozen=True, kw_only=True)
class Paths(Sequence[Seam]):
    """Seams through a number of starts, and how they were traced.

    Attributes:
        seams: one per start and component, starts in order.
        starts: shape (n, latent).
        components: places of the singular values at the start.
        scheme: smooth, kinks or rough (see `vaeprobe.seams.schemes`).
        statement: the scheme in words, for a report.
        tolerance: error allowed per step.
        radius, length: latent radius and arc length per direction at which a seam stops.
        method: "dense" Gram matrices, or "iterative" on products with J and its transpose.
        evaluations: latents at which a singular frame was taken.
    """

    seams: tuple[Seam, ...]
    starts: Tensor
    components: tuple[int, ...]
    scheme: SchemeName
    statement: str
    tolerance: float
    radius: float
    length: float
    method: Literal["dense", "iterative"]
    evaluations: int
    resolution: float
    coordinates: Tensor = field(repr=False)

    @overload
    def __getitem__(self, index: int) -> Seam: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Seam, ...]: ...
    def __getitem__(self, index: int | slice) -> Seam | tuple[Seam, ...]:
        return self.seams[index]

    def __len__(self) -> int:
        return len(self.seams)

    def __iter__(self) -> Iterator[Seam]:
        return iter(self.seams)

    @property
    def events(self) -> list[Event]:
        """All events, seam by seam."""
        return [event for seam in self.seams for event in seam.events]

    @property
    def stops(self) -> Counter[str]:
        """How many half-seams ended for each reason."""
        return Counter(str(stop) for seam in self.seams for stop in seam.stop if stop is not None)

    def arrays(self) -> dict[str, Array]:
        """Return everything as numpy arrays, as `save` writes them.

        - `t (N,)`, `z (N, latent)`, `v (N, k)`, `s (N,)`, `rank (N,)`, `tied (N,)`, `log_prior (N,)`,
          `log_factor (N,)`: the nodes of all seams one after another;
        - `offset (seams + 1,)`: seam i owns the nodes offset[i] to offset[i + 1];
        - `start`, `component`, `length`, `straightness`, `turning`, `axis`, `axis_overlap` (mean),
          `axis_overlap_worst`, each `(seams,)`; `stop (seams, 2)`, why it ends against and along;
        - `event_kind`, `event_start`, `event_component`, `event_t`, `event_until`, `event_value` `(E,)`,
          `event_ranks (E, 2)`, `event_z (E, latent)`;
        - `starts (n, latent)`, `coordinates (k,)` (the continuous latents), `tolerance`, `radius`, `scheme`.
        """
        seams, events = self.seams, self.events
        latent = self.starts.shape[1]

        def nodes(name: str) -> Array:
            array: Array = torch.cat([getattr(seam, name) for seam in seams]).numpy()
            return array

        out = {k: nodes(k) for k in ("t", "z", "v", "s", "rank", "tied", "log_prior", "log_factor")}
        out["offset"] = np.cumsum([0] + [len(seam.t) for seam in seams])
        for name in ("start", "component", "length", "straightness", "turning", "axis"):
            out[name] = np.array([getattr(seam, name) for seam in seams])
        out["axis_overlap"] = np.array([seam.mean(seam.axis_overlap) for seam in seams])
        out["axis_overlap_worst"] = np.array([float(seam.axis_overlap.min()) for seam in seams])
        out["stop"] = np.array([[str(stop or "") for stop in seam.stop] for seam in seams])
        for name in ("kind", "start", "component", "t", "until", "value"):
            kind = {"kind": np.str_, "start": np.int64, "component": np.int64}.get(name, np.float64)
            out[f"event_{name}"] = np.array([getattr(event, name) for event in events], dtype=kind)
        out["event_ranks"] = np.array([event.ranks for event in events], dtype=np.int64).reshape(-1, 2)
        out["event_z"] = np.array([event.z.numpy() for event in events], dtype=np.float64).reshape(-1, latent)
        out["starts"], out["coordinates"] = self.starts.numpy(), self.coordinates.numpy()
        out["tolerance"], out["radius"] = np.array(self.tolerance), np.array(self.radius)
        out["scheme"] = np.array(self.scheme)
        return out

    def save(self, path: Path | str, **more: Array) -> None:
        """Write `arrays()` to a compressed .npz file, with further arrays by name."""
        arrays = {**self.arrays(), **more}

        def writer(place: Path) -> None:
            with open(place, "wb") as stream:  # numpy adds a suffix to names, not to streams
                np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

        write(path, writer)


def trace_paths(
    decoder: Decoder,
    z0: Tensor,
    *,
    components: Sequence[int] | None = None,
    along: Tensor | None = None,
    way: Way = "both",
    length: float | Tensor | None = None,
    radius: float | None = None,
    tolerance: float | None = None,
    scheme: SchemeName | None = None,
    method: Literal["dense", "iterative"] | None = None,
    likelihood: Likelihood | None = None,
    steps: int = 4000,
    chunk: int | None = None,
) -> Paths:
    """Return the seams through some latents: dz/dt = v_i(z) at unit speed, both ways, all at once.

    v_i is followed by continuity: at each step the singular vector of largest overlap with the last
    direction, through crossings of singular values and through stretches where they coincide.

    Args:
        decoder: the map; one-hot latents are held fixed.
        z0: starting points, shape (n, latent).
        components: places of the singular values at the start, 0 the largest; all by default.
        along: instead of components, one direction per start, shape (n, k): the seam nearest to it.
        way: along the singular vector (its largest entry positive, or the side of `along`), against, or both.
        length: latent arc length per direction, one number or one per start (n,); by default `LENGTH`, three
            standard deviations of the prior as in a traversal of one latent, so that decoders of any number of
            latents compare; a full turn at the radius for two latents, whose seams may be closed.
        radius: latent radius |z| at which a seam stops; by default that of 99 % of the prior's mass, or 1
            beyond the start where that is further out.
        tolerance: error per step in latent units; the global error is proportional to it.  By default that
            of the scheme: 1e-8 in float64, 1e-5 in float32, 1e-2 across dense kinks.
        scheme: how to step; by default what the decoder's texture near the starts allows.
        method: by default dense, and iterative for few components of more than 64 latents.
        likelihood: weight the Jacobian by its metric (Eq. 7).
        steps: most trial steps per half-seam.
        chunk: latents per block of the Jacobian engine.

    Raises:
        UsageError: z0, components or along do not fit the decoder, or an option is out of range.

    Source: Allen (2024), arXiv:2410.22559v1, Section 4.1.3 and footnote 5.
    """
    z0 = _starts(decoder, z0)
    coordinates = torch.tensor(decoder.continuous)
    k = len(coordinates)
    chosen = _components(components, k, along is not None)
    _positive(radius=radius, tolerance=tolerance)
    norms = z0[:, coordinates].norm(dim=1)
    prior = prior_radius(k)
    radii = (norms + 1).clamp_min(prior) if radius is None else torch.full_like(norms, radius)
    radius = prior if radius is None else float(radius)
    natural = decoder.natural_for(likelihood)
    how = SCHEMES[scheme or texture(decoder, z0, natural=natural).scheme]
    if length is None:
        length = 2 * np.pi * radius if k == 2 else LENGTH
    lengths = torch.as_tensor(length).double().expand(len(z0))
    _positive(length=float(lengths.min()))

    field: DirectionField
    block = max(chosen) + 1
    if method is None:
        method = "iterative" if k > LARGE and 16 * (block + 2) < k and along is None else "dense"
    tolerance = how.default_tolerance(rounding(decoder)) if tolerance is None else float(tolerance)
    if method == "dense":
        field = DenseField(decoder, likelihood, chunk)
    else:
        field = IterativeField(decoder, block, likelihood, accuracy=0.1 * tolerance)

    def move(z: Tensor, step: Tensor) -> Tensor:
        moved = z.clone()
        moved[:, coordinates] += step
        return moved

    frame = field.frame(z0)
    V = nearest_axes(frame, field.resolution, field.rounding)
    headings, rows, labels = [], [], []
    for n in range(len(z0)):
        for c in chosen if along is None else [0]:
            headings.append(V[n, :, c] if along is None else _unit(along[n].double()))
            rows.append(n)
            labels.append(c)
    row = torch.tensor(rows)
    heading = torch.stack(headings)
    signs = {"both": (-1.0, 1.0), "forward": (1.0,), "backward": (-1.0,)}[way]
    aims = [_aimed(frame, sign * heading, row, field) for sign in signs]
    if along is not None:
        labels = aims[0].rank.tolist()
    tracks = integrate(
        field,
        move,
        coordinates,
        z0[row].repeat(len(signs), 1),
        Directions.cat(aims),
        how,
        Limits(length=lengths[row].repeat(len(signs)), radius=radii[row].repeat(len(signs)), steps=steps),
        tolerance,
    )
    sides = [tracks[i * len(rows) : (i + 1) * len(rows)] for i in range(len(signs))]
    seams = []
    for i, (n, c) in enumerate(zip(rows, labels, strict=True)):
        backward = sides[0][i] if way != "forward" else None
        forward = sides[-1][i] if way != "backward" else None
        seams.append(_seam(n, c, backward, forward, coordinates))
    if how.name != "rough":
        seams = _refined(seams, field)
    return Paths(
        seams=tuple(seams),
        starts=z0,
        components=tuple(chosen),
        scheme=how.name,
        statement=how.statement,
        tolerance=tolerance,
        radius=radius,
        length=float(lengths.max()),
        method=method,
        evaluations=field.evaluations,
        resolution=field.resolution,
        coordinates=coordinates,
    )


# -- arguments ----------------------------------------------------------------------------------


def _starts(decoder: Decoder, z0: Tensor) -> Tensor:
    z0 = torch.as_tensor(z0)
    if z0.ndim == 1:
        z0 = z0[None]
    if z0.ndim != 2 or z0.shape[1] != decoder.latent_dim or not len(z0):
        raise UsageError(
            f"the starting points have shape {tuple(z0.shape)}, the decoder takes (n, {decoder.latent_dim})",
            hint="one row per starting point, one column per latent",
        )
    z0 = z0.detach().double().cpu()
    if not torch.isfinite(z0).all():
        raise UsageError("a starting point holds NaN or infinity")
    return z0


def _components(components: Sequence[int] | None, k: int, directed: bool) -> list[int]:
    if directed and components is not None:
        raise UsageError("`components` and `along` exclude each other", hint="leave one of them out")
    chosen = list(range(k)) if components is None else [int(c) for c in components]
    wrong = [c for c in chosen if not 0 <= c < k]
    if wrong or not chosen:
        raise UsageError(
            f"component {wrong[0]} does not exist" if wrong else "no component was asked for",
            hint=f"components are numbered 0 to {k - 1}, by descending singular value",
        )
    if len(set(chosen)) < len(chosen):
        raise UsageError("a component is named twice", hint="name each once, e.g. 0,1,2")
    return chosen


def _positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (np.isfinite(value) and value > 0):
            raise UsageError(f"`{name}` must be a positive number, not {value}")


def _unit(v: Tensor) -> Tensor:
    unit: Tensor = v / v.norm().clamp_min(1e-300)
    return unit


def _aimed(frame: Frame, heading: Tensor, row: Tensor, field: DirectionField) -> Directions:
    return follow(frame.at(row), heading, field.resolution, floor=field.rounding)


# -- from tracks to seams -----------------------------------------------------------------------


def _seam(
    start: int, component: int, backward: Track | None, forward: Track | None, coordinates: Tensor
) -> Seam:
    track = joined(backward, forward)
    back = None if backward is None or (forward is not None and forward.stop == "closed") else backward.stop
    seam = Seam(
        start=start,
        component=component,
        t=track.t,
        z=track.z,
        v=track.v,
        s=track.s,
        rank=track.rank,
        tied=track.tied,
        stop=(back, None if forward is None else forward.stop),
        events=(),
        coordinates=coordinates,
    )
    marks = [
        Event(
            kind=mark.kind,
            start=start,
            component=component,
            t=mark.t,
            until=mark.t,
            z=seam.at(torch.tensor([mark.t]))[0],
            ranks=(_rank_at(seam, mark.t),) * 2,
            value=mark.value,
        )
        for mark in track.marks
    ]
    return _with_events(seam, [*_crossings(seam, track.spectrum), *_tied(seam), *marks])


def _with_events(seam: Seam, events: Sequence[Event]) -> Seam:
    return replace(seam, events=tuple(sorted(events, key=lambda event: event.t)))


def _rank_at(seam: Seam, t: float) -> int:
    i = int(torch.searchsorted(seam.t, torch.tensor(t, dtype=torch.float64)).clamp(0, len(seam.t) - 1))
    return int(seam.rank[i])


def _crossings(seam: Seam, spectrum: Tensor) -> list[Event]:
    """Return where the followed singular value changes its place, linear in log s between nodes.

    Nodes inside a tied stretch have no place of their own and are skipped.
    """
    out = []
    clear = (~seam.tied).nonzero().flatten().tolist()
    tiny = torch.finfo(torch.float64).tiny
    for i, j in itertools.pairwise(clear):
        before, after = int(seam.rank[i]), int(seam.rank[j])
        if before == after:
            continue
        logs = spectrum[[i, j]].clamp_min(tiny).log()
        d0 = float(logs[0, before] - logs[0, after])
        d1 = float(logs[1, after] - logs[1, before])
        share = min(max(d0 / (d0 - d1), 0.0), 1.0) if d0 != d1 else 0.5
        t = float(seam.t[i] + share * (seam.t[j] - seam.t[i]))
        out.append(
            Event(
                kind="crossing",
                start=seam.start,
                component=seam.component,
                t=t,
                until=t,
                z=seam.at(torch.tensor([t]))[0],
                ranks=(before, after),
                value=0.0 if j > i + 1 else min(abs(d0), abs(d1)),
            )
        )
    return out


def _tied(seam: Seam) -> list[Event]:
    out, i = [], 0
    flags = seam.tied.tolist()
    while i < len(flags):
        j = i
        while flags[i] and j + 1 < len(flags) and flags[j + 1]:
            j += 1
        if flags[i] and j > i:
            out.append(
                Event(
                    kind="tied",
                    start=seam.start,
                    component=seam.component,
                    t=float(seam.t[i]),
                    until=float(seam.t[j]),
                    z=seam.z[i],
                    ranks=(int(seam.rank[i]), int(seam.rank[j])),
                    value=0.0,
                )
            )
        i = j + 1
    return out


@dataclass(frozen=True, slots=True)
class _Edge:
    """A change of state between two nodes of a seam, to be located.

    Attributes:
        seam, event: whose it is.
        low, high: arc lengths of the nodes.
        last: tangent at the lower node.
        ranks: places of a crossing; None for the edge of a tied stretch.
        tied: whether the lower node is tied.
        side: which end of the event it is.
    """

    seam: int
    event: Event
    low: float
    high: float
    last: Tensor
    ranks: tuple[int, int] | None
    tied: bool
    side: Literal["t", "until"]


def _edges(index: int, seam: Seam) -> Iterator[_Edge]:
    clear = (~seam.tied).nonzero().flatten()
    for event in seam.events:
        if event.kind == "crossing":
            at = seam.t[clear]
            j = int(torch.searchsorted(at, torch.tensor(event.t, dtype=torch.float64)).clamp(1, len(at) - 1))
            low, high = float(at[j - 1]), float(at[j])
            yield _Edge(index, event, low, high, seam.v[clear[j - 1]], event.ranks, False, "t")
        if event.kind == "tied":
            i, j = (int(torch.searchsorted(seam.t, torch.tensor(t).double())) for t in (event.t, event.until))
            if i > 0:
                yield _Edge(index, event, float(seam.t[i - 1]), event.t, seam.v[i - 1], None, False, "t")
            if j + 1 < len(seam.t):
                yield _Edge(index, event, event.until, float(seam.t[j + 1]), seam.v[j], None, True, "until")


def _refined(seams: Sequence[Seam], field: DirectionField, most: int = 512, rounds: int = 34) -> list[Seam]:
    """Return the seams with crossings and the edges of tied stretches located by bisection along them."""
    edges = [edge for i, seam in enumerate(seams) for edge in _edges(i, seam)][:most]
    if not edges:
        return list(seams)
    low = torch.tensor([e.low for e in edges], dtype=torch.float64)
    high = torch.tensor([e.high for e in edges], dtype=torch.float64)
    last = torch.stack([e.last for e in edges])
    before = torch.tensor([e.ranks[0] if e.ranks else 0 for e in edges])
    after = torch.tensor([e.ranks[1] if e.ranks else 0 for e in edges])
    crossing = torch.tensor([e.ranks is not None for e in edges])
    was_tied = torch.tensor([e.tied for e in edges])
    gap = torch.full_like(low, torch.inf)
    for _ in range(rounds):
        middle = (low + high) / 2
        z = torch.cat([seams[e.seam].at(middle[n : n + 1]) for n, e in enumerate(edges)])
        frame = field.frame(z)
        here = follow(frame, last, field.resolution, floor=field.rounding)
        s0, s1 = (frame.s.gather(1, rank[:, None])[:, 0] for rank in (before, after))
        gap = torch.minimum(gap, (s0 - s1).abs() / s0.maximum(s1).clamp_min(1e-300))
        sharp = follow(frame, last, 0.0, floor=field.rounding)
        same = torch.where(crossing, (sharp.rank == before) & ~sharp.tied, here.tied == was_tied)
        meeting = crossing & sharp.tied
        low = torch.where(same | meeting, middle, low)
        high = torch.where(~same, middle, high)
        if bool(((high - low) <= 1e-10).all()):
            break
    out = list(seams)
    found: dict[int, Event] = {}
    for n, edge in enumerate(edges):
        t = float((low[n] + high[n]) / 2)
        event = found.get(id(edge.event), edge.event)
        if edge.ranks is not None:
            event = replace(event, t=t, until=t, value=float(gap[n]))
        else:
            event = replace(event, t=t) if edge.side == "t" else replace(event, until=t)
        found[id(edge.event)] = replace(event, z=seams[edge.seam].at(torch.tensor([event.t]))[0])
    for i, seam in enumerate(seams):
        if any(id(event) in found for event in seam.events):
            out[i] = _with_events(seam, [found.get(id(event), event) for event in seam.events])
    return out
