"""Seams made visible: traversals of decoded outputs, and the net of seams of two latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.budget import TimeIsOver
from vaeprobe.decoder import Decoder
from vaeprobe.engine.verbs import values
from vaeprobe.errors import UsageError
from vaeprobe.likelihoods import Likelihood
from vaeprobe.pictures import Panel, Polyline, net_svg
from vaeprobe.seams.seam import Seam
from vaeprobe.seams.tracing import trace_paths

__all__ = ["Net", "Walk", "decode", "trace_net", "traverse"]

SPACING = 0.5  # arc length between neighbouring seams of a net


def decode(decoder: Decoder, z: Tensor) -> NDArray[np.float64]:
    """Return the decoder's outputs as rows, shape (n, data)."""
    return values(decoder, z).double().cpu().numpy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Outputs along the seams of one start, and along the nearest axes at the same arc lengths.

    Attributes:
        components: one row each.
        axes: the axis beside each row.
        t: arc lengths of the columns, 0 in the middle, shape (frames,).
        inside: whether the seam reaches that far, shape (rows, frames).
        seam_z, axis_z: latents, shape (rows, frames, latent).
        seam_x, axis_x: outputs, shape (rows, frames, data).
    """

    components: tuple[int, ...]
    axes: tuple[int, ...]
    t: NDArray[np.float64]
    inside: NDArray[np.bool_]
    seam_z: Tensor
    axis_z: Tensor
    seam_x: NDArray[np.float64]
    axis_x: NDArray[np.float64]


def traverse(decoder: Decoder, seams: Sequence[Seam], *, frames: int = 11, reach: float = 3.0) -> Walk:
    """Return outputs at `frames` equally spaced arc lengths, up to `reach` on both sides of the start.

    Args:
        seams: seams of one start.
        frames: odd, so that the start is the middle one.
    """
    reach = min(reach, max(max(float(s.t[-1]), -float(s.t[0])) for s in seams))
    t = cpu.linspace(-reach, reach, frames, dtype=torch.float64)
    inside, along_seam, along_axis = [], [], []
    for seam in seams:
        inside.append((t >= seam.t[0] - 1e-9) & (t <= seam.t[-1] + 1e-9))
        along_seam.append(seam.at(t))
        start = seam.at(cpu.zeros(1))
        column = int((seam.coordinates == seam.axis).nonzero()[0])
        here = int((seam.t == 0).nonzero()[0])
        sign = 1.0 if float(seam.v[here, column]) >= 0 else -1.0
        line = start.repeat(frames, 1)
        line[:, seam.axis] += sign * t
        along_axis.append(line)
    seam_z, axis_z = torch.stack(along_seam), torch.stack(along_axis)
    shape = (len(seams), frames, -1)
    return Walk(
        components=tuple(s.component for s in seams),
        axes=tuple(s.axis for s in seams),
        t=t.numpy(),
        inside=torch.stack(inside).numpy(),
        seam_z=seam_z,
        axis_z=axis_z,
        seam_x=decode(decoder, seam_z.flatten(0, 1)).reshape(shape),
        axis_x=decode(decoder, axis_z.flatten(0, 1)).reshape(shape),
    )


# -- two latents: the net -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """Two families of seams that cover the prior of a decoder of two latents (Allen 2024, Figures 1, 2).

    Attributes:
        main: the two seams through the centre.
        families: seams of either component, spaced along the main seam of the other.
        outputs: decoder outputs at the nodes of each seam of each family.
        crossings: latents at which singular values change places, shape (c, 2).
        coordinates: indices of the two latents.
    """

    main: tuple[Seam, Seam]
    families: tuple[tuple[Seam, ...], tuple[Seam, ...]]
    outputs: tuple[tuple[NDArray[np.float64], ...], tuple[NDArray[np.float64], ...]]
    crossings: NDArray[np.float64]
    coordinates: tuple[int, int]

    def svg(self, title: str = "") -> str:
        """Return the net in latent space and in data space as SVG."""
        return net_svg(
            self.panels(title),
            ("larger singular value at the centre", "smaller singular value at the centre"),
        )

    def panels(self, title: str = "") -> tuple[Panel, Panel]:
        """Return the net in latent space and in data space (first two principal components)."""
        free = list(self.coordinates)
        stack = np.concatenate([x for family in self.outputs for x in family])
        mean = stack.mean(0)
        if stack.shape[1] > 2:
            _, sigma, W = np.linalg.svd(stack - mean, full_matrices=False)
            share = sigma**2 / max(float((sigma**2).sum()), 1e-300)
            axes = tuple(f"principal component {i + 1} ({100 * share[i]:.0f} %)" for i in range(2))
            flat = W[:2].T
        else:
            axes, flat = tuple(f"x{i}" for i in range(stack.shape[1])), np.eye(stack.shape[1], 2)
            mean = 0 * mean
            axes = (*axes, "")[:2]
        latent, data = [], []
        for family in (0, 1):
            for seam, x in zip(self.families[family], self.outputs[family], strict=True):
                strong = seam is self.main[family]
                latent.append(Polyline(_fine(seam)[:, free].numpy(), family, strong))
                data.append(Polyline((x - mean) @ flat, family, strong))
        return (
            Panel(
                "latent space" + (f" of {title}" if title else ""),
                latent,
                (f"z{free[0]}", f"z{free[1]}"),
                dots=self.crossings,
                circles=(1.0, 2.0, 3.0),
            ),
            Panel("data space", data, (axes[0], axes[1])),
        )


def _fine(seam: Seam) -> Tensor:
    """Return latents along a seam, close enough to look smooth; broken lines keep their corners."""
    if len(seam.t) < 2:
        return seam.z
    count = max(2, int(np.ceil(seam.length / 0.05)))
    t = torch.cat([seam.t, cpu.linspace(float(seam.t[0]), float(seam.t[-1]), count, dtype=torch.float64)])
    return seam.at(torch.unique(t))


def trace_net(
    decoder: Decoder,
    centre: Tensor,
    *,
    radius: float | None = None,
    tolerance: float | None = None,
    likelihood: Likelihood | None = None,
    chunk: int | None = None,
) -> Net:
    """Return the net of seams of a decoder of two latents.

    The main seams run through the centre; each family runs through points spaced equally along the main seam
    of the other.

    Args:
        centre: latent, shape (latent,).

    Raises:
        UsageError: the decoder has another number of continuous latents, or no seams at the centre.
        TimeIsOver: no time is left to find any.
    """
    free = decoder.continuous
    if len(free) != 2:
        raise UsageError(
            f"a net of seams needs two latents, this decoder has {len(free)}",
            hint="leave out --svg; `trace` shows more latents as traversals (--images)",
        )
    settings = {"radius": radius, "tolerance": tolerance, "likelihood": likelihood, "chunk": chunk}
    first = trace_paths(decoder, centre[None], **settings)  # type: ignore[arg-type]
    main = (first[0], first[1])
    if min(seam.length for seam in main) == 0:
        if first.stops["time"]:
            raise TimeIsOver
        short = min(main, key=lambda seam: seam.length)
        raise UsageError(
            f"a seam through {[round(float(c), 3) for c in centre]} has no length: {short.stop[1]}",
            hint="start elsewhere: --latents FILE",
        )
    starts, headings, owner, places = [], [], [], []
    for family in (0, 1):
        other = main[1 - family]
        low, high = float(other.t[0]), float(other.t[-1])
        ticks = cpu.arange(np.ceil(low / SPACING), np.floor(high / SPACING) + 1).double() * SPACING
        ticks = ticks[(ticks != 0) & (ticks > low + 1e-6) & (ticks < high - 1e-6)]
        tangent = other.tangent(ticks)
        starts.append(other.at(ticks))
        headings.append(torch.stack([-tangent[:, 1], tangent[:, 0]], dim=1))
        owner += [family] * len(ticks)
        places += ticks.tolist()
    seams: list[list[Seam]] = [[main[0]], [main[1]]]
    if owner:
        more = trace_paths(
            decoder,
            torch.cat(starts),
            along=torch.cat(headings),
            scheme=first.scheme,
            **settings,  # type: ignore[arg-type]
        )
        # the seams nearest to the centre first; one that comes back to where another runs is left out
        for n in np.argsort(np.abs(places), kind="stable").tolist():
            family, z = owner[n], more[n].at(cpu.zeros(1))
            taken = torch.cat([_fine(seam) for seam in seams[family]])
            if more[n].length > 0 and float((taken - z).norm(dim=1).min()) > 0.6 * SPACING:
                seams[family].append(more[n])
    families = (tuple(seams[0]), tuple(seams[1]))
    outputs = [tuple(decode(decoder, _fine(seam)) for seam in family) for family in families]
    crossed = [
        e.z[free] for family in families for seam in family for e in seam.events if e.kind == "crossing"
    ]
    return Net(
        main=main,
        families=families,
        outputs=(outputs[0], outputs[1]),
        crossings=torch.stack(crossed).numpy() if crossed else np.zeros((0, 2)),
        coordinates=(free[0], free[1]),
    )
