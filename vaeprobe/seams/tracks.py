"""Half-seams as data: nodes in the order they are found, and two halves as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.seams.fields import Directions
from vaeprobe.seams.nodes import NODES, Nodes

__all__ = ["Mark", "Recorder", "Stop", "Track", "joined"]


Stop: TypeAlias = Literal[
    "length", "radius", "collapse", "not finite", "closed", "sliding", "steps", "outside", "time"
]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened on a half-seam."""

    kind: Literal["kink", "step limit"]
    path: int
    t: float
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Track(Nodes):
    """One half-seam: its nodes in order and why it stopped.

    Attributes:
        spectrum: leading singular values at the nodes, shape (N, b).
        stop: why it ended.
        marks: what happened on it, in order of t.
    """

    spectrum: Tensor
    stop: Stop
    marks: tuple[Mark, ...]


class Recorder:
    """Nodes of all half-seams in the order they are found, sorted out at the end."""

    def __init__(self) -> None:
        self.path: list[Tensor] = []
        self.rows: list[tuple[Tensor, ...]] = []

    def add(self, path: Tensor, t: Tensor, z: Tensor, at: Directions) -> None:
        self.path.append(path)
        self.rows.append((t, z, at.v, at.s, at.rank, at.tied, at.frame.s))

    def tracks(self, stops: Sequence[Stop], marks: list[Mark], ends: Sequence[float]) -> list[Track]:
        """Return the half-seams, each up to its end; nodes beyond it are dropped."""
        path = torch.cat(self.path)
        whole = [torch.cat(column) for column in zip(*self.rows, strict=True)]
        order = torch.argsort(path, stable=True)
        order = order[whole[0][order] <= cpu.tensor(ends, dtype=torch.float64)[path[order]]]
        sizes = torch.bincount(path[order], minlength=len(stops)).tolist()
        columns = [torch.split(column[order], sizes) for column in whole]
        by_path: list[list[Mark]] = [[] for _ in stops]
        for mark in marks:
            if mark.t <= ends[mark.path]:
                by_path[mark.path].append(mark)
        return [
            Track(**dict(zip(NODES, nodes, strict=True)), spectrum=spectrum, stop=stop, marks=tuple(met))
            for *nodes, spectrum, stop, met in zip(*columns, stops, by_path, strict=True)
        ]


def joined(backward: Track | None, forward: Track | None) -> Track:
    """Return two half-seams of the same start as one, from the far end of `backward` to that of `forward`.

    A seam that closes on itself is kept once.
    """
    if forward is not None and (backward is None or forward.stop == "closed"):
        return forward
    if backward is None:
        raise ValueError("a seam needs at least one half")
    columns = {name: getattr(backward, name).flip(0) for name in (*NODES, "spectrum")}
    columns |= {"t": -columns["t"], "v": -columns["v"]}
    marks = tuple(replace(m, t=-m.t) for m in reversed(backward.marks))
    if forward is not None:
        columns = {name: torch.cat([column, getattr(forward, name)[1:]]) for name, column in columns.items()}
        marks += forward.marks
    return replace(backward, **columns, marks=marks)
