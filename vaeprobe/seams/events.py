"""What happens on a seam: crossings of singular values and tied stretches, found between nodes and then located."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.budget import budget
from vaeprobe.seams.fields import DirectionField, follow
from vaeprobe.seams.nodes import NODES
from vaeprobe.seams.seam import Event, Seam
from vaeprobe.seams.tracks import Track, joined

__all__ = ["refined", "seam_of"]


def seam_of(
    start: int, component: int, backward: Track | None, forward: Track | None, coordinates: Tensor
) -> Seam:
    track = joined(backward, forward)
    back = None if backward is None or (forward is not None and forward.stop == "closed") else backward.stop
    seam = Seam(
        start=start,
        component=component,
        **{name: getattr(track, name) for name in NODES},
        stop=(back, None if forward is None else forward.stop),
        events=(),
        coordinates=coordinates,
    )
    places = seam.at(cpu.tensor([mark.t for mark in track.marks], dtype=torch.float64))
    marks = [
        Event(
            kind=mark.kind,
            start=start,
            component=component,
            t=mark.t,
            until=mark.t,
            z=z,
            ranks=(_rank_at(seam, mark.t),) * 2,
            value=mark.value,
        )
        for mark, z in zip(track.marks, places, strict=True)
    ]
    return _with_events(seam, [*_crossings(seam, track.spectrum), *_tied(seam), *marks])


def _with_events(seam: Seam, events: Sequence[Event]) -> Seam:
    return replace(seam, events=tuple(sorted(events, key=lambda event: event.t)))


def _rank_at(seam: Seam, t: float) -> int:
    i = int(torch.searchsorted(seam.t, cpu.tensor(t, dtype=torch.float64)).clamp(0, len(seam.t) - 1))
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
                z=seam.at(cpu.tensor([t]))[0],
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
            j = int(torch.searchsorted(at, cpu.tensor(event.t, dtype=torch.float64)).clamp(1, len(at) - 1))
            low, high = float(at[j - 1]), float(at[j])
            yield _Edge(index, event, low, high, seam.v[clear[j - 1]], event.ranks, False, "t")
        if event.kind == "tied":
            i, j = (int(torch.searchsorted(seam.t, cpu.tensor(t).double())) for t in (event.t, event.until))
            if i > 0:
                yield _Edge(index, event, float(seam.t[i - 1]), event.t, seam.v[i - 1], None, False, "t")
            if j + 1 < len(seam.t):
                yield _Edge(index, event, event.until, float(seam.t[j + 1]), seam.v[j], None, True, "until")


def refined(seams: Sequence[Seam], field: DirectionField, most: int = 512, rounds: int = 34) -> list[Seam]:
    """Return the seams with crossings and the edges of tied stretches located by bisection along them.

    Where time ends on the way, they lie between the same nodes, less sharply located.
    """
    edges = [edge for i, seam in enumerate(seams) for edge in _edges(i, seam)][:most]
    if not edges:
        return list(seams)
    low = cpu.tensor([e.low for e in edges], dtype=torch.float64)
    high = cpu.tensor([e.high for e in edges], dtype=torch.float64)
    last = torch.stack([e.last for e in edges])
    before = cpu.tensor([e.ranks[0] if e.ranks else 0 for e in edges])
    after = cpu.tensor([e.ranks[1] if e.ranks else 0 for e in edges])
    crossing = cpu.tensor([e.ranks is not None for e in edges])
    was_tied = cpu.tensor([e.tied for e in edges])
    gap = torch.full_like(low, torch.inf)
    for done in range(rounds):
        if budget().over:
            if not done:
                return list(seams)
            break
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
        found[id(edge.event)] = replace(event, z=seams[edge.seam].at(cpu.tensor([event.t]))[0])
    for i, seam in enumerate(seams):
        if any(id(event) in found for event in seam.events):
            out[i] = _with_events(seam, [found.get(id(event), event) for event in seam.events])
    return out
