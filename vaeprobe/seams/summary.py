"""What many seams have in common: per component and over starting points."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.budget import TimeIsOver, budget
from vaeprobe.decoder import Decoder
from vaeprobe.intervals import stream
from vaeprobe.likelihoods import Likelihood
from vaeprobe.seams.paths import Paths
from vaeprobe.seams.seam import Seam
from vaeprobe.seams.tracing import trace_paths

__all__ = [
    "ComponentSummary",
    "by_component",
    "by_start",
    "first_start",
    "random_axis_overlap",
    "return_errors",
    "usable",
]


# Arc length up to which seams are traced back.
REACH = 4.0


def usable(paths: Paths) -> list[Seam]:
    """Return the seams of positive length: those that did not stop where they start."""
    return [seam for seam in paths if seam.length > 0]


def first_start(paths: Paths) -> list[Seam]:
    """Return the seams of positive length of the first start that has any."""
    alive = [seam for seam in paths if seam.length > 0]
    return [seam for seam in alive if seam.start == alive[0].start]


def crossings(seam: Seam) -> int:
    """Return how often the seam's singular value changes its place."""
    return sum(event.kind == "crossing" for event in seam.events)


def tied_share(seam: Seam) -> float:
    """Return the share of the seam's length on which its direction is carried over, not determined."""
    return seam.mean(seam.tied.double())


def by_start(seams: list[Seam]) -> dict[str, NDArray[np.float64]]:
    """Return the mean over the seams of each start, one number per start that has any, by name.

    Names: straightness, turning (radians per unit of latent length), axis_overlap, axis_overlap_worst,
    crossings, tied, speed_spread (standard deviation of log s along the seam).
    """
    rows: dict[int, list[Seam]] = {}
    for seam in seams:
        rows.setdefault(seam.start, []).append(seam)

    def spread(seam: Seam) -> float:
        logs = seam.s.clamp_min(torch.finfo(torch.float64).tiny).log()
        middle = seam.mean(logs)
        return float(np.sqrt(max(seam.mean((logs - middle).square()), 0.0)))

    measures = {
        "straightness": lambda seam: seam.straightness,
        "turning": lambda seam: seam.turning / seam.length,
        "axis_overlap": lambda seam: seam.mean(seam.axis_overlap),
        "axis_overlap_worst": lambda seam: float(seam.axis_overlap.min()),
        "crossings": lambda seam: float(crossings(seam)),
        "tied": tied_share,
        "speed_spread": spread,
    }
    return {
        name: np.array([np.mean([measure(seam) for seam in group]) for group in rows.values()])
        for name, measure in measures.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSummary:
    """The seams of one component, over starts.

    Attributes:
        component: place of the singular value at the start.
        seams: how many have positive length.
        s: median singular value at the start.
        length, straightness, turning, crossings: means; turning in radians per unit of latent length.
        axis, axis_share: the commonest nearest axis and the share of seams that have it.
        overlap, worst: overlap with the nearest axis, mean and smallest anywhere.
        axes: mean |v . e_a| over seams and arc length, one number per continuous latent.
    """

    component: int
    seams: int
    s: float
    length: float
    straightness: float
    turning: float
    crossings: float
    axis: int
    axis_share: float
    overlap: float
    worst: float
    axes: tuple[float, ...]


def by_component(paths: Paths) -> list[ComponentSummary]:
    """Return a summary per component that has a seam of positive length."""
    out = []
    for component in sorted({seam.component for seam in paths}):
        seams = [seam for seam in usable(paths) if seam.component == component]
        if not seams:
            continue
        axis, votes = Counter(seam.axis for seam in seams).most_common(1)[0]
        starts = [seam.s[int((seam.t == 0).nonzero()[0])] for seam in seams]
        axes = np.mean([[seam.mean(c) for c in seam.v.abs().unbind(1)] for seam in seams], axis=0)
        out.append(
            ComponentSummary(
                component=component,
                seams=len(seams),
                s=float(torch.stack(starts).median()),
                length=float(np.mean([seam.length for seam in seams])),
                straightness=float(np.mean([seam.straightness for seam in seams])),
                turning=float(np.mean([seam.turning / seam.length for seam in seams])),
                crossings=float(np.mean([crossings(seam) for seam in seams])),
                axis=axis,
                axis_share=votes / len(seams),
                overlap=float(np.mean([seam.mean(seam.axis_overlap) for seam in seams])),
                worst=min(float(seam.axis_overlap.min()) for seam in seams),
                axes=tuple(float(a) for a in axes),
            )
        )
    return out


def random_axis_overlap(k: int) -> float:
    """Return E max_a |v . e_a| for v uniform on the sphere of R^k: the overlap of a random straight seam."""
    v = stream(0, "axis overlap").standard_normal((4096, k))
    return float((np.abs(v).max(1) / np.linalg.norm(v, axis=1)).mean()) if k > 1 else 1.0


def return_errors(
    decoder: Decoder,
    paths: Paths,
    *,
    likelihood: Likelihood | None = None,
    chunk: int | None = None,
    most: int = 8,
) -> Tensor:
    """Return how far some seams, traced back to their start, miss it: shape (c,), in latent units.

    Up to `most` seams, spread evenly over all, are traced back from their forward end, or from arc length 4
    where they are longer.

    Raises:
        TimeIsOver: no time is left, or none of them came back before it ended.
    """
    budget().ask()
    seams = [s for s in paths if float(s.t[-1]) > 0 and not s.closed]
    if not seams:
        return cpu.zeros(0, dtype=torch.float64)
    chosen = [seams[i] for i in np.unique(np.linspace(0, len(seams) - 1, most).round().astype(int))]
    ends = [max(1, int((seam.t <= REACH).sum()) - 1) for seam in chosen]
    ends = [max(end, int((seam.t <= 0).sum())) for seam, end in zip(chosen, ends, strict=True)]
    back = trace_paths(
        decoder,
        torch.stack([s.z[i] for s, i in zip(chosen, ends, strict=True)]),
        along=torch.stack([-s.v[i] for s, i in zip(chosen, ends, strict=True)]),
        leading=1 + max(max(paths.components), *(int(s.rank[i]) for s, i in zip(chosen, ends, strict=True))),
        way="forward",
        length=torch.stack([s.t[i] for s, i in zip(chosen, ends, strict=True)]),
        radius=float(torch.stack([s.z.norm(dim=1).max() for s in chosen]).max()) + 1.0,
        tolerance=paths.tolerance,
        scheme=paths.scheme,
        method=paths.method,
        likelihood=likelihood,
        chunk=chunk,
    )
    misses = [
        (there.z[-1] - paths.starts[seam.start]).norm()
        for there, seam in zip(back, chosen, strict=True)
        if there.stop[1] == "length"
    ]
    if not misses and back.stops["time"]:
        raise TimeIsOver
    return torch.stack(misses) if misses else cpu.zeros(0, dtype=torch.float64)
