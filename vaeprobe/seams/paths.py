"""Seams through a number of starts, how they were traced, and their arrays in a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaeprobe.seams.schemes import SchemeName
from vaeprobe.seams.seam import Event, Seam
from vaeprobe.writing import write

__all__ = ["Paths"]


Array: TypeAlias = NDArray[np.generic]


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

    @classmethod
    def joined(cls, parts: Sequence[Paths]) -> Paths:
        """Return the seams of several, traced alike from starts of their own, as one."""
        if len(parts) == 1:
            return parts[0]
        before = np.cumsum([0] + [len(part.starts) for part in parts])
        return replace(
            parts[0],
            seams=tuple(
                _from(seam, seam.start + int(first))
                for first, part in zip(before[:-1], parts, strict=True)
                for seam in part.seams
            ),
            starts=torch.cat([part.starts for part in parts]),
            length=max(part.length for part in parts),
            evaluations=sum(part.evaluations for part in parts),
        )

    def by_start(self) -> list[Paths]:
        """Return those of each start alone; how many frames were taken for each is not known, but on average."""
        n = len(self.starts)
        return [
            replace(
                self,
                seams=tuple(_from(seam, 0) for seam in self.seams if seam.start == i),
                starts=self.starts[i : i + 1],
                evaluations=self.evaluations * (i + 1) // n - self.evaluations * i // n,
            )
            for i in range(n)
        ]

    @property
    def events(self) -> list[Event]:
        """All events, seam by seam."""
        return [event for seam in self.seams for event in seam.events]

    @property
    def stops(self) -> Counter[str]:
        """How many half-seams ended for each reason."""
        return Counter(str(stop) for seam in self.seams for stop in seam.stop if stop is not None)

    @property
    def share(self) -> float:
        """Share of the way that half-seams went before time ended, 1 for those that stopped for any other reason."""
        shares = [
            min(abs(end) / self.length, 1.0) if stop == "time" else 1.0
            for seam in self.seams
            for stop, end in zip(seam.stop, (float(seam.t[0]), float(seam.t[-1])), strict=True)
            if stop is not None
        ]
        return sum(shares) / len(shares)

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


def _from(seam: Seam, start: int) -> Seam:
    """Return a seam as that of the start of another number."""
    return replace(seam, start=start, events=tuple(replace(event, start=start) for event in seam.events))
