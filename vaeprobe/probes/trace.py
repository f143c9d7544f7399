"""`vaeprobe trace`: the seams of a decoder, followed through latent and data space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vaeprobe.errors import UsageError
from vaeprobe.findings import (
    TRACE_COLLAPSE,
    TRACE_COMPONENTS,
    TRACE_NO_PICTURE,
    TRACE_NOT_FINITE,
    TRACE_NOT_REPRODUCIBLE,
    TRACE_OUTSIDE,
    TRACE_SCHEME,
    TRACE_SLIDING,
    TRACE_STEPS,
)
from vaeprobe.probes.base import Probe, option
from vaeprobe.report import (
    Curves,
    Finding,
    Heatmap,
    Metric,
    MetricSpec,
    Section,
    Svg,
    Table,
    Thumbnail,
    Value,
    metric_map,
    specs_by_id,
)
from vaeprobe.result import Measured, Result
from vaeprobe.writing import write, write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.pictures import ImageShape
    from vaeprobe.seams import Event, LoopDefects, Paths, Seam
    from vaeprobe.seams.summary import ComponentSummary
    from vaeprobe.seams.views import Net, Traversal

# Components traced where none are asked for, of those whose singular value is not negligible: each node of a
# seam costs a Jacobian, so that decoders of more than MANY latents get the leading ones only.
COMPONENTS, MANY, LEADING = 10, 16, 4
# From this mean chord over length on seams are called straight (an arc that turns by half a radian), and below
# this one curved (by more than a radian).  Between the two they bend by too little for either word.
STRAIGHT, CURVED = 0.99, 0.95
# From this mean overlap on, straight seams are called axis-parallel.
PARALLEL = 0.99
# The share of length with tied singular values above which paths say nothing.
TIED = 0.5
EVENTS_IN_JSON = 500
IN_UNIT_INTERVAL = frozenset(
    f"trace.{name}" for name in ("straightness", "axis_overlap", "axis_overlap_worst", "tied")
)
# Columns of the preview in a terminal.
PREVIEW = 78
SOURCE = "Allen (2024), arXiv:2410.22559v1, Section 4.1.3 and footnote 5"

METRICS = (
    MetricSpec(
        id="trace.straightness",
        title="straightness of the seams",
        better="higher",
        range="[0, 1]",
        formula="distance between a seam's ends over its latent arc length; mean over seams, then starts",
        source=SOURCE,
        meaning="1 for straight lines (linear decoders, and decoders whose seams are the axes or a rotation of them), "
        "0 for closed loops. The verdict says straight from 0.99 on (an arc that turns by half a radian), nearly "
        "straight from 0.95 on and curved below, where the whole interval lies there, and undecided where it does not",
        misleads="short seams look straight: read it beside the length; a seam that only wiggles keeps a high value, "
        "see `trace.turning`",
        remedy="a larger beta straightens the seams; curved seams may still be independent: see `factorise`",
    ),
    MetricSpec(
        id="trace.turning",
        title="turning of the seams",
        better="lower",
        unit="rad/length",
        range="[0, inf)",
        formula="sum of the angles between successive tangents over latent arc length; mean over seams, then starts",
        source=SOURCE,
        meaning="0 for straight seams; 1/r on a circle of latent radius r",
        misleads="on piecewise-linear decoders every kink contributes, back and forth, so it grows with resolution",
        remedy="see `trace.straightness`",
    ),
    MetricSpec(
        id="trace.axis_overlap",
        title="overlap with the nearest axis",
        better="higher",
        range="[0, 1]",
        formula="mean of |v . e_a| along a seam, a its nearest axis; mean over seams, then starts",
        source="Allen (2024), Section 4.1 (V = I); Rolinek et al. (2019)",
        meaning="1 where the seams run along the latent axes, so that a traversal of one latent follows one seam. The "
        "verdict says axis-parallel where seams are straight and the whole interval lies above 0.99",
        misleads="a random direction already has `trace.axis_overlap_random` (0.90 for two latents); where singular "
        "values are tied the direction is arbitrary: see `trace.tied`",
        remedy="if the seams are straight but oblique, one rotation of the latent space aligns them: "
        "`vaeprobe orthogonality` returns it",
    ),
    MetricSpec(
        id="trace.axis_overlap_random",
        title="the same for a random direction",
        beside="random direction",
        range="[0, 1]",
        formula="E max_a |v_a|, v uniform on the unit sphere; 4096 draws",
        source="definition",
        meaning="what `trace.axis_overlap` would be for straight seams in random directions",
        misleads="real seams bend, which lowers the value a little further",
        remedy="none: a reference",
    ),
    MetricSpec(
        id="trace.axis_overlap_worst",
        title="smallest overlap along a seam",
        better="higher",
        range="[0, 1]",
        formula="min of |v . e_a| along a seam; mean over seams, then starts",
        source=SOURCE,
        meaning="how far a seam leaves its axis at its worst place",
        misleads="an extreme, which grows with the length of the seams",
        remedy="look at the place: `--save` writes every node",
    ),
    MetricSpec(
        id="trace.crossings",
        title="crossings per seam",
        range="[0, inf)",
        formula="times that the followed singular value changes its place in the descending order; mean over seams, "
        "then starts",
        source=SOURCE,
        meaning="component numbers hold at the start only: beyond a crossing the seam belongs to another place",
        misleads="singular values that nearly touch and avoid each other count as well; each event carries the "
        "relative gap that was seen",
        remedy="none needed: seams are followed through crossings by continuity",
    ),
    MetricSpec(
        id="trace.tied",
        title="share of length with tied singular values",
        better="lower",
        range="[0, 1]",
        formula="share of arc length on which the singular value coincides with another within the resolution",
        source=SOURCE,
        meaning="there the direction is carried over from the last one, it is not determined by the decoder. The "
        "verdict says undetermined where it is more than half of the length",
        misleads="conformal maps are tied everywhere and have no seams of their own, whatever the other numbers say",
        remedy="weight by the decoder's likelihood (`--likelihood`), whose metric may separate them",
    ),
    MetricSpec(
        id="trace.speed_spread",
        title="spread of log s along the seams",
        better="lower",
        range="[0, inf)",
        formula="standard deviation of log s over the arc length of a seam; mean over seams, then starts",
        source="Allen (2024), Section 4.1: s_i is the data-space speed along seam i",
        meaning="0 for linear decoders; how unevenly equal latent steps move the output",
        misleads="says nothing about independence: s_i may vary along its own seam",
        remedy="none needed",
    ),
    MetricSpec(
        id="trace.nonintegrability",
        title="closure defect of small loops",
        better="lower",
        unit="1/length",
        range="[0, inf)",
        formula="part of the bracket [v_i, v_j] outside span(v_i, v_j), from loops; median over pairs, mean over starts",
        source="Frobenius' theorem; asked for by Allen (2024), Section 4.1.3 (seams as sub-manifolds)",
        meaning="0 iff each pair of seams spans surfaces, which coordinates along the seams need (three latents or more)",
        misleads="near-ties turn the frame fast and give large values; on decoders with kinks it is a finite-loop number",
        remedy="see `factorise`: independence along curved seams is undecided where the seams form no coordinates",
    ),
    MetricSpec(
        id="trace.kinks",
        title="kinks per unit of seam",
        range="[0, inf)",
        formula="places where the direction jumps over total latent arc length; scheme `kinks` only",
        source="definition",
        meaning="how often a piecewise-linear decoder changes piece along the seams",
        misleads="kinks that bend the seam by less than 1e-6 rad (1e-3 in float32) are not counted",
        remedy="none needed",
    ),
    MetricSpec(
        id="trace.step_limits",
        title="steps taken at the limit",
        better="lower",
        range="0, 1, 2, ...",
        formula="steps that were not halved further although their error exceeds the tolerance",
        source="definition",
        meaning="places where the direction turns faster than the tracer resolves: kinks, avoided crossings",
        misleads="a larger tolerance has fewer of them and is no more accurate",
        remedy="lower --tolerance, or --dtype float64",
    ),
    MetricSpec(
        id="trace.return_error",
        title="miss after tracing back",
        better="lower",
        unit="latent",
        range="[0, inf)",
        formula="distance to the start of up to eight seams traced back from their ends; median",
        source="definition",
        meaning="accuracy of the paths on this decoder, measured rather than promised",
        misleads="where neighbouring seams draw apart, the way back magnifies errors of the way out",
        remedy="lower --tolerance, or --dtype float64",
    ),
    MetricSpec(
        id="trace.collapsed",
        title="collapsed half-seams",
        better="lower",
        range="0, 1, 2, ...",
        formula="half-seams that stop because s falls under 1e-6 of the largest singular value at the start",
        source=SOURCE,
        meaning="directions along which the output does not change any more",
        misleads="components far under the largest one are not traced unless asked for",
        remedy="see `posterior` for collapsed latents",
    ),
)
SPECS = specs_by_id(METRICS)


@dataclass(frozen=True, kw_only=True)
class TraceResult(Result):
    """What `trace` returns.

    Attributes:
        paths: the seams (`vaeprobe.seams.Paths`).
        components: a summary per component.
        loops: closure defects, None for fewer than three components.
        net: the net of seams, for two latents.
        traversal: outputs along the seams and the axes through the first start that has any.
        image: how outputs are images, None where they are not.
        random_overlap: overlap of a random direction with its nearest axis.
    """

    command: ClassVar[str] = "trace"
    CARRIED = (
        ("trace.straightness",),
        ("trace.turning",),
        ("trace.axis_overlap", "trace.axis_overlap_random"),
        ("trace.return_error",),
    )

    straightness = Measured("trace.straightness")
    turning = Measured("trace.turning")
    axis_overlap = Measured("trace.axis_overlap")
    axis_overlap_random = Measured("trace.axis_overlap_random")
    axis_overlap_worst = Measured("trace.axis_overlap_worst")
    crossings = Measured("trace.crossings")
    tied = Measured("trace.tied")
    speed_spread = Measured("trace.speed_spread")
    nonintegrability = Measured("trace.nonintegrability")
    kinks = Measured("trace.kinks")
    step_limits = Measured("trace.step_limits")
    return_error = Measured("trace.return_error")
    collapsed = Measured("trace.collapsed")

    paths: Paths
    components: tuple[ComponentSummary, ...] = ()
    loops: LoopDefects | None = None
    net: Net | None = None
    traversal: Traversal | None = None
    image: ImageShape | None = None
    random_overlap: float = 0.0
    wanted: frozenset[str] = field(default=frozenset(), repr=False)

    def strip(self) -> NDArray[np.uint8]:
        """Return the traversal as pixels (height, width, 3): seams on the left, axes on the right.

        One row per component, arc length from left to right, the start framed in the middle; places that the
        seam does not reach are left empty.

        Raises:
            UsageError: the outputs are no images, or there is no seam to follow.
        """
        walk = self._walk()
        columns = list(range(len(walk.t)))
        return self._tiled(range(len(walk.inside)), columns, axes=True)

    def _walk(self) -> Traversal:
        if self.traversal is None or self.image is None:
            raise UsageError("there is no traversal to draw: no seam, or outputs that are no images")
        return self.traversal

    def _tiled(self, rows: Sequence[int], columns: Sequence[int], *, axes: bool) -> NDArray[np.uint8]:
        from vaeprobe.pictures import tile

        walk, shape = self._walk(), self.image
        assert shape is not None
        middle = len(walk.t) // 2
        grid, marks = [], []
        for row in rows:
            blocks = [walk.seam_x, walk.axis_x] if axes else [walk.seam_x]
            images = [image for x in blocks for image in shape.images(x[row][columns])]
            inside = [bool(walk.inside[row][c]) for _ in blocks for c in columns]
            grid.append([image if here else None for image, here in zip(images, inside, strict=True)])
            marks.append([c == middle for _ in blocks for c in columns])
        return tile(grid, marks=marks, gap=max(2, shape.width // 16), group=len(columns))

    def save_paths(self, path: Path | str) -> None:
        """Write the seams to an .npz file: `vaeprobe.seams.Paths.arrays`, and the traversal.

        The traversal adds `traversal_t (frames,)`, `traversal_component (rows,)`, `traversal_axis (rows,)`,
        `traversal_inside (rows, frames)`, `traversal_seam_z`, `traversal_axis_z (rows, frames, latent)`,
        `traversal_seam_x`, `traversal_axis_x (rows, frames, data)`, the decoded outputs in float32.
        """
        import numpy as np

        walk, more = self.traversal, {}
        if walk is not None:
            more = {
                "traversal_t": walk.t,
                "traversal_component": np.array(walk.components),
                "traversal_axis": np.array(walk.axes),
                "traversal_inside": walk.inside,
                "traversal_seam_z": walk.seam_z.numpy(),
                "traversal_axis_z": walk.axis_z.numpy(),
                "traversal_seam_x": walk.seam_x.astype(np.float32),
                "traversal_axis_x": walk.axis_x.astype(np.float32),
            }
        self.paths.save(path, **more)

    def save_images(self, path: Path | str) -> None:
        """Write the traversal as a PNG file (see `strip`); small pictures are enlarged by a whole factor."""
        from vaeprobe.pictures import enlarged, png

        content = png(enlarged(self.strip()))
        write(path, lambda place: place.write_bytes(content))

    def save_svg(self, path: Path | str) -> None:
        """Write the net of seams of a decoder of two latents as an SVG file.

        Raises:
            UsageError: the decoder has another number of latents.
        """
        if self.net is None:
            raise UsageError("there is no net of seams: it needs two latents and seams at the centre")
        write_text(path, self.net.svg(self._name))

    @property
    def _name(self) -> str:
        return Path(self.artifact.path).name if self.artifact else ""

    def files(self) -> Mapping[str, Callable[[Path], None]]:
        writers = {"save": self.save_paths, "images": self.save_images, "svg": self.save_svg}
        return {name: writer for name, writer in writers.items() if name in self.wanted}

    def sections(self) -> tuple[Section, ...]:
        parts: list[Section] = []
        if self.components:
            parts.append(self._component_table())
            if len(self.components[0].axes) <= 32:
                parts.append(self._axis_map())
        if self.traversal is not None and self.image is not None:
            parts.append(self._traversal_picture())
        parts += [self._event_table()]
        crossings = [e for e in self.paths.events if e.kind == "crossing"]
        if crossings:
            parts.append(_crossing_table(crossings))
        parts += self._curves()
        if self.net is not None:
            parts.append(self._net_picture(self.net))
        return tuple(parts)

    def _component_table(self) -> Table:
        columns = ["", "s", "length", "straight", "turning", "axis", "share", "overlap", "worst", "crossings"]
        rows: list[list[Value]] = [
            [
                f"{c.component}",
                c.s,
                round(c.length, 2),
                round(c.straightness, 3),
                round(c.turning, 2),
                f"z{c.axis}",
                round(c.axis_share, 3),
                round(c.overlap, 3),
                round(c.worst, 3),
                round(c.crossings, 2),
            ]
            for c in self.components
        ]
        note = (
            "components by descending singular value s at the start; turning in rad per unit length; share of "
            "seams that have this nearest axis; a random "
            f"direction overlaps its nearest axis by {self.random_overlap:.2f}"
        )
        return Table(title="Seams by component", columns=columns, rows=rows, note=note)

    def _net_picture(self, net: Net) -> Svg:
        from vaeprobe.pictures import net_pixels

        # every second seam: at this size the rest would run together
        sparse = [
            replace(panel, lines=[line for i, line in enumerate(panel.lines) if line.strong or i % 2 == 0])
            for panel in net.panels()
        ]
        small = net_pixels(sparse)
        return Svg(
            title="Net of seams, in latent space (left) and in data space",
            svg=net.svg(self._name),
            alt="--svg FILE and --format html show it in full",
            thumbnail=Thumbnail(width=small.shape[1], height=small.shape[0], rgb=small.tobytes()),
        )

    def _traversal_picture(self) -> Svg:
        from vaeprobe.pictures import framed_png, reduced

        walk = self._walk()
        columns = sorted({round(i * (len(walk.t) - 1) / 4) for i in range(5)})
        small = reduced(self._tiled(range(min(4, len(walk.inside))), columns, axes=False), PREVIEW)
        return Svg(
            title="Outputs along the seams, one row per component, the start framed",
            svg=framed_png(self.strip()),
            note="left along the seams, right along their nearest axes",
            alt="--images FILE and --format html show it in full, beside the nearest axes",
            thumbnail=Thumbnail(width=small.shape[1], height=small.shape[0], rgb=small.tobytes()),
        )

    def _axis_map(self) -> Heatmap:
        free = self.paths.coordinates.tolist()
        return Heatmap(
            title="Overlap of seams (rows) with axes (columns), mean along the way",
            matrix=[list(c.axes) for c in self.components],
            row_labels=[str(c.component) for c in self.components],
            column_labels=[f"z{a}" for a in free],
        )

    def _event_table(self) -> Table:
        kinds = Counter(event.kind for event in self.paths.events)
        rows: list[list[Any]] = [["stop: " + reason, n] for reason, n in self.paths.stops.most_common()]
        rows += [[kind, n] for kind, n in kinds.most_common()]
        return Table(
            title="Stops and events",
            columns=["", "number"],
            rows=rows,
            note="stops are per half-seam, both ways",
        )

    def _curves(self) -> list[Section]:
        import numpy as np
        import torch

        seams = _first_start(self.paths)[:7]
        if not seams:
            return []
        t = torch.linspace(
            min(float(s.t[0]) for s in seams), max(float(s.t[-1]) for s in seams), 64, dtype=torch.float64
        )
        x = [float(v) for v in t]

        def curve(seam: Seam, values: Tensor) -> list[float | None]:
            y = np.interp(t.numpy(), seam.t.numpy(), values.numpy())
            inside = (t >= seam.t[0]) & (t <= seam.t[-1])
            return [float(v) if here else None for v, here in zip(y, inside.tolist(), strict=True)]

        start = seams[0].start
        names = [f"{s.component}" for s in seams]
        return [
            Curves(
                title=f"Singular value along the seams of start {start}",
                x=x,
                ys={n: curve(s, s.s) for n, s in zip(names, seams, strict=True)},
                x_label="latent arc length",
                y_label="s",
            ),
            Curves(
                title=f"Log density factor along the seams of start {start}",
                x=x,
                ys={n: curve(s, s.log_factor) for n, s in zip(names, seams, strict=True)},
                x_label="latent arc length",
                y_label="nats",
                note="log N(v . z; 0, 1) - log s",
            ),
        ]

    def details(self) -> dict[str, Any]:
        events = self.paths.events
        out: dict[str, Any] = {
            "scheme": self.paths.scheme,
            "method": self.paths.method,
            "tolerance": self.paths.tolerance,
            "radius": self.paths.radius,
            "length": self.paths.length,
            "evaluations": self.paths.evaluations,
            "starts": self.paths.starts.tolist(),
            "stops": dict(self.paths.stops),
            "events_total": len(events),
            "events": [event.to_dict() for event in events[:EVENTS_IN_JSON]],
            "seams": [_seam_row(seam) for seam in self.paths],
        }
        if self.loops is not None:
            out["loops"] = {
                "size": self.loops.size,
                "pairs": [list(pair) for pair in self.loops.pairs],
                "bracket": [
                    [b if d else None for b, d in zip(brackets, determined, strict=True)]
                    for brackets, determined in zip(
                        self.loops.bracket.tolist(), self.loops.determined.tolist(), strict=True
                    )
                ],
            }
        return out


def _seam_row(seam: Seam) -> dict[str, Any]:
    return {
        "start": seam.start,
        "component": seam.component,
        "length": seam.length,
        "reach": [float(seam.t[0]), float(seam.t[-1])],
        "stop": list(seam.stop),
        "straightness": seam.straightness if seam.length > 0 else None,
        "turning": seam.turning,
        "axis": seam.axis,
        "axis_overlap": seam.mean(seam.axis_overlap),
        "axis_overlap_worst": float(seam.axis_overlap.min()),
        "s": [float(seam.s[0]), float(seam.s[int((seam.t == 0).nonzero()[0])]), float(seam.s[-1])],
        "events": len(seam.events),
    }


def _crossing_table(crossings: Sequence[Event], most: int = 12) -> Table:
    rows: list[list[Value]] = [
        [e.start, e.component, e.t, f"{e.ranks[0]} -> {e.ranks[1]}", e.value, float(e.z.norm())]
        for e in crossings[:most]
    ]
    more = f"; the first {most} of {len(crossings)}" if len(crossings) > most else ""
    return Table(
        title="Crossings",
        columns=["start", "component", "arc length", "place", "gap", "|z|"],
        rows=rows,
        note="gap: smallest relative difference of the two singular values that was seen" + more,
    )


def _first_start(paths: Paths) -> list[Seam]:
    """Return the seams of positive length of the first start that has any."""
    alive = [seam for seam in paths if seam.length > 0]
    return [seam for seam in alive if seam.start == alive[0].start]


@dataclass(frozen=True, kw_only=True)
class Trace(Probe):
    """Follow the right singular vectors of the Jacobian through latent and data space.

    A seam is the path through a latent whose tangent is one right singular vector v_i of the Jacobian
    everywhere: the paper's sub-manifold M_i.  Every component is followed both ways from every start, by
    continuity through crossings and ties, and each stop and event is recorded with its place.

    Examples:
        vaeprobe trace model.safetensors --images seams.png
        vaeprobe trace model.pt --data x.npy --row 7 --save paths.npz
    """

    NAME = "trace"
    METRICS = METRICS
    COST = 64

    samples: int = option(
        4, help="Starting points.", min=1, names=("--starts", "--samples", "-n"), panel="Sampling"
    )
    row: int | None = option(
        None, help="Start at the encoder's mean of this row of --data.", min=0, panel="Sampling"
    )
    components: Any = option(
        None,
        help="Which seams, 0 the largest singular value (default: up to 10 that matter, 4 beyond 16 latents, 2 beyond 64).",
        metavar="0,1,...",
        panel="Tracing",
    )
    length: float | None = option(
        None,
        help="Latent length per direction (default: 3, a full turn for two latents).",
        min=1e-6,
        panel="Tracing",
    )
    radius: float | None = option(
        None, help="Latent radius to stop at (default: 99 % of the prior).", min=1e-6, panel="Tracing"
    )
    tolerance: float | None = option(
        None, help="Error per step (default: by scheme and precision).", min=1e-14, panel="Tracing"
    )
    scheme: Literal["auto", "smooth", "kinks", "rough"] = option(
        "auto", help="How to step; auto looks at the decoder.", panel="Tracing"
    )
    frames: int = option(11, help="Pictures per seam in --images.", min=3, max=101, panel="Files")
    save: Path | None = option(
        None, help="Write the seams to an .npz file.", metavar="FILE", panel="Files", writes=(".npz",)
    )
    images: Path | None = option(
        None,
        help="Write traversals along seams and axes to a PNG file.",
        metavar="FILE",
        panel="Files",
        writes=(".png",),
    )
    image_shape: str | None = option(
        None, help="How outputs are images, e.g. 28x28 or 3x64x64.", metavar="SHAPE", panel="Files"
    )
    svg: Path | None = option(
        None,
        help="Write the net of seams (two latents) to an SVG file.",
        metavar="FILE",
        panel="Files",
        writes=(".svg",),
    )

    def check_ready(self) -> None:
        super().check_ready()
        if self.row is None:
            return
        if self.data is None:
            raise UsageError("--row needs data to take the row from", hint="add --data X.npy")
        if isinstance(self.data, (str, PathLike)):
            from vaeprobe.data import open_data

            self._check_row(open_data(Path(self.data)).rows)

    def _check_row(self, rows: int) -> None:
        if self.row is not None and self.row >= rows:
            raise UsageError(
                f"row {self.row} does not exist: the data have {rows} rows", hint=f"--row 0 to {rows - 1}"
            )

    def measure(self, decoder: Decoder) -> TraceResult:
        """Return the seams through the starting points.

        Raises:
            UsageError: an option does not fit the decoder: a component, an image shape, a net of seams
                of more than two latents, a row without data.
        """
        from vaeprobe.seams import loop_defects, trace_paths
        from vaeprobe.seams.summary import by_component, random_axis_overlap, return_errors
        from vaeprobe.seams.views import trace_net, traverse

        k = len(decoder.continuous)
        if self.svg is not None and k != 2:
            raise UsageError(
                f"a net of seams needs two latents, this decoder has {k}",
                hint="leave out --svg; --images shows the seams of any decoder of images",
            )
        image = self._image(decoder)
        z0 = self._starts(decoder)
        likelihood = self.metric_likelihood(decoder)
        chosen, skipped = self._components(decoder, z0)
        paths = trace_paths(
            decoder,
            z0,
            components=chosen,
            length=self.length,
            radius=self.radius,
            tolerance=self.tolerance,
            scheme=None if self.scheme == "auto" else self.scheme,
            likelihood=likelihood,
            chunk=self.chunk,
        )
        loops = None
        if k >= 3 and len(chosen) >= 2 and paths.method == "dense":
            loops = loop_defects(
                decoder,
                z0[:4],
                components=chosen[:4],
                size=0.05 if paths.scheme == "smooth" else 0.25,
                likelihood=likelihood,
                chunk=self.chunk,
            )
        misses = return_errors(decoder, paths, likelihood=likelihood, chunk=self.chunk)
        first = _first_start(paths)
        frames = self.frames + 1 - self.frames % 2
        net = None
        if k == 2 and first:
            net = trace_net(
                decoder,
                self._centre(decoder, first),
                radius=self.radius,
                tolerance=max(paths.tolerance, 1e-5),
                likelihood=likelihood,
                chunk=self.chunk,
            )
        metrics = _metrics(paths, loops, misses)
        verdict, summary = _verdict(metrics, paths, self.source().describe() if self.row is None else "")
        wanted = frozenset(name for name in ("save", "images", "svg") if getattr(self, name) is not None)
        return TraceResult(
            metrics=metrics,
            verdict=verdict,
            summary=summary,
            findings=(*decoder.notes, *_findings(paths, misses, skipped, wanted, first)),
            settings=self.settings(decoder) | {"scheme_used": paths.scheme, "components": chosen},
            artifact=decoder.artifact,
            paths=paths,
            components=tuple(by_component(paths)),
            loops=loops,
            net=net,
            traversal=traverse(decoder, first[:COMPONENTS], frames=frames) if first else None,
            image=image,
            random_overlap=random_axis_overlap(k),
            wanted=wanted if first else wanted - {"images", "svg"},
        )

    # -- arguments -------------------------------------------------------------------------------

    def _image(self, decoder: Decoder) -> ImageShape | None:
        from vaeprobe.pictures import image_shape

        try:
            return image_shape(decoder.output_shape, self.image_shape)
        except UsageError:
            if self.images is not None or self.image_shape is not None:
                raise
            return None

    def _starts(self, decoder: Decoder) -> Tensor:
        from vaeprobe.latents import Posterior

        if self.row is None:
            return self.source().draw(decoder, self.samples, seed=self.seed)
        self.check_ready()
        data = self.data_rows()
        assert data is not None
        self._check_row(len(data))
        return Posterior(data[self.row : self.row + 1], means=True).draw(decoder, 1, seed=self.seed)

    def _components(self, decoder: Decoder, z0: Tensor) -> tuple[list[int], int]:
        """Return the components to trace, and how many others were left out."""
        k = len(decoder.continuous)
        if self.components is not None:
            return parse_components(self.components), 0
        from vaeprobe.geometry.gram import ACTIVE_THRESHOLD
        from vaeprobe.seams.fields import DenseField
        from vaeprobe.seams.paths import LARGE

        if k > LARGE:
            return list(range(LEADING // 2)), k - LEADING // 2
        frame = DenseField(decoder, self.metric_likelihood(decoder), self.chunk).frame(z0)
        rms = frame.s[frame.finite].square().mean(0).sqrt() if frame.finite.any() else frame.s.new_ones(k)
        matter = int((rms > ACTIVE_THRESHOLD * rms[0]).sum())
        count = min(max(matter, 1), LEADING if k > MANY else COMPONENTS)
        return list(range(count)), k - count

    def _centre(self, decoder: Decoder, first: Sequence[Seam]) -> Tensor:
        """Return the origin where both seams exist there, else the first start."""
        import torch

        from vaeprobe.seams.fields import DenseField

        start = first[0].at(torch.zeros(1))[0]
        origin = start.clone()
        origin[decoder.continuous] = 0
        frame = DenseField(decoder, self.metric_likelihood(decoder)).frame(origin[None])
        s = frame.s[0]
        clear = (
            bool(frame.finite[0])
            and float(s[1]) > 1e-6 * float(s[0])
            and float(s[0] - s[1]) > 1e-3 * float(s[0])
        )
        return origin if clear else start


def parse_components(given: str | Sequence[int]) -> list[int]:
    """Return the components that "0,1,2" or "0-3" or a sequence of numbers names.

    Raises:
        UsageError: the text names no numbers.
    """
    if not isinstance(given, str):
        return [int(c) for c in given]
    out: list[int] = []
    for part in given.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            hint = "numbers from 0, as in --components 0,1,2 or 0-4"
            raise UsageError(f"`{given}` names no components", hint=hint)
        out += range(int(low), int(high or low) + 1)
    return out


# -- numbers --------------------------------------------------------------------------------------


def _metrics(paths: Paths, loops: LoopDefects | None, misses: Tensor) -> dict[str, Metric]:
    from vaeprobe.seams.summary import by_start, random_axis_overlap, usable

    seams = usable(paths)
    starts = by_start(seams) if seams else {}
    why = _no_seams(paths)
    out = []
    for name in ("straightness", "turning", "axis_overlap"):
        out.append(_mean(f"trace.{name}", starts.get(name), why))
    out.append(
        Metric(
            SPECS["trace.axis_overlap_random"],
            random_axis_overlap(len(paths.coordinates)),
            method="4096 draws",
        )
    )
    for name in ("axis_overlap_worst", "crossings", "tied", "speed_spread"):
        out.append(_mean(f"trace.{name}", starts.get(name), why))
    out.append(_loop_metric(loops, paths))
    length = sum(seam.length for seam in seams)
    kinds = Counter(event.kind for event in paths.events)
    if paths.scheme == "kinks" and length:
        out.append(Metric(SPECS["trace.kinks"], kinds["kink"] / length, n=len(seams)))
    else:
        reason = why if not length else f"scheme `{paths.scheme}` does not look for single kinks"
        out.append(Metric.undefined(SPECS["trace.kinks"], reason))
    out.append(Metric(SPECS["trace.step_limits"], kinds["step limit"], n=len(seams)))
    if len(misses):
        out.append(
            Metric(
                SPECS["trace.return_error"],
                float(misses.median()),
                n=len(misses),
                method=f"largest {float(misses.max()):.2g}",
            )
        )
    else:
        out.append(Metric.undefined(SPECS["trace.return_error"], why or "no open seam to trace back"))
    out.append(Metric(SPECS["trace.collapsed"], paths.stops["collapse"], n=sum(paths.stops.values())))
    return metric_map(out)


def _mean(id: str, values: NDArray[np.float64] | None, why: str) -> Metric:
    from vaeprobe.intervals import LEVEL, mean_interval

    if values is None:
        return Metric.undefined(SPECS[id], why)
    # shares and overlaps lie in [0, 1], whatever else is averaged here is not negative
    high = 1.0 if id in IN_UNIT_INTERVAL else float("inf")
    interval = mean_interval(values, low=0.0, high=high)
    return Metric(
        SPECS[id],
        float(values.mean()),
        ci=interval,
        level=LEVEL if interval else None,
        n=len(values),
        method="mean over starts, interval by Student's t, skewness" if interval else "one start",
    )


def _loop_metric(loops: LoopDefects | None, paths: Paths) -> Metric:
    import numpy as np

    id, k = "trace.nonintegrability", len(paths.coordinates)
    if k < 3:
        reason = "pairs of seams always span a surface with fewer than three latents"
        return Metric.undefined(SPECS[id], reason)
    if loops is None or not loops.pairs:
        reason = (
            "it needs two components"
            if paths.method == "dense"
            else "not measured by iteration (many latents)"
        )
        return Metric.undefined(SPECS[id], reason)
    rows = zip(loops.bracket, loops.determined, strict=True)
    values = np.array([float(b[d].median()) for b, d in rows if d.any()])
    if not len(values):
        return Metric.undefined(SPECS[id], "the seam directions at the starts are tied or not finite")
    metric = _mean(id, values, "")
    return Metric(
        SPECS[id],
        metric.value,
        ci=metric.ci,
        level=metric.level,
        n=metric.n,
        method=f"loops of side {loops.size:g}, {len(loops.pairs)} pairs",
    )


def _no_seams(paths: Paths) -> str:
    """Return why no seam has any length, or "" where some have."""
    if any(seam.length > 0 for seam in paths):
        return ""
    reasons = {
        "collapse": "the decoder is collapsed at every start: its output changes in no traced direction",
        "outside": f"every start lies outside the radius {paths.radius:.3g}",
        "not finite": "the decoder's Jacobian is not finite at any start",
    }
    most = paths.stops.most_common(1)[0][0] if paths.stops else "collapse"
    return reasons.get(most, f"no seam has any length: {most}")


def _verdict(metrics: Mapping[str, Metric], paths: Paths, source: str) -> tuple[str, str]:
    """Return the verdict and the sentence that carries it."""
    straight, axis = metrics["trace.straightness"], metrics["trace.axis_overlap"]
    tied = metrics["trace.tied"].value
    starts = len(paths.starts)
    where = f"through {starts} start{'s' if starts > 1 else ''}" + (f" ({source})" if source else "")
    if not isinstance(straight.value, float) or not isinstance(axis.value, float):
        return "undefined", f"No seam could be traced {where}: {straight.reason}."
    if isinstance(tied, float) and tied > TIED:
        return "undetermined", (
            f"Singular values are tied on {100 * tied:.0f} % of the length of the seams {where}: "
            "the decoder distinguishes no directions there, and the paths are mere continuations."
        )
    turning = metrics["trace.turning"].value
    random = metrics["trace.axis_overlap_random"].value
    low, high = straight.ci or (straight.value, straight.value)
    overlap = f"overlap {axis.value:.3f} with the nearest axis, {random:.2f} for a random direction"
    sentence = f"chord over length {straight.value:.3f}, turning {turning:.2g} rad per unit length; {overlap}"
    if low >= STRAIGHT:
        least, most = axis.ci or (axis.value, axis.value)
        if least >= PARALLEL:
            return (
                "axis-parallel",
                f"The seams {where} are straight and run along the latent axes ({overlap}).",
            )
        oblique = "but oblique to" if most < PARALLEL else "and it is open whether they run along"
        return "straight", f"The seams {where} are straight {oblique} the latent axes ({overlap})."
    if low >= CURVED:
        return "nearly straight", f"The seams {where} bend a little: {sentence}."
    if high < CURVED:
        return "curved", f"The seams {where} are curved: {sentence}."
    return "undecided", (
        f"It is open whether the seams are straight: those {where} have {sentence}; more --starts would decide it."
    )


def _findings(
    paths: Paths, misses: Tensor, skipped: int, wanted: frozenset[str], first: Sequence[Seam]
) -> tuple[Finding, ...]:
    found = [
        Finding(
            TRACE_SCHEME,
            f"traced by {paths.statement}, tolerance {paths.tolerance:.0e} per step, "
            f"{paths.method} frames at {paths.evaluations} latents",
        )
    ]
    if skipped:
        found.append(
            Finding(
                TRACE_COMPONENTS,
                f"{skipped} component{'s' if skipped > 1 else ''} of smaller singular value not traced",
                hint="--components 0,1,... chooses",
            )
        )
    stops = paths.stops
    for spec, reason, text, hint in (
        (
            TRACE_OUTSIDE,
            "outside",
            f"start outside the radius {paths.radius:.3g}",
            "raise --radius, or leave it out",
        ),
        (
            TRACE_NOT_FINITE,
            "not finite",
            "stop where the decoder is not finite",
            "the decoder overflows there; lower --radius",
        ),
        (
            TRACE_STEPS,
            "steps",
            "end at the step limit, short of any other stop",
            "raise --tolerance, or --scheme rough",
        ),
        (
            TRACE_SLIDING,
            "sliding",
            "stop at a kink into which the directions on both sides run: no seam leaves it",
            "--scheme rough steps along it",
        ),
        (TRACE_COLLAPSE, "collapse", "stop where the output no longer changes along them", None),
    ):
        if stops[reason]:
            found.append(
                Finding(spec, f"{stops[reason]} of {sum(stops.values())} half-seams {text}", hint=hint)
            )
    if len(misses) and float(misses.median()) > 0.05:
        found.append(
            Finding(
                TRACE_NOT_REPRODUCIBLE,
                f"seams traced back miss their start by {float(misses.median()):.2g} (median): single paths "
                "depend on the tolerance, read the means",
                hint="a smaller --tolerance or --length; the directions of a network with many kinks change by jumps",
            )
        )
    if not first and wanted & {"images", "svg"}:
        found.append(Finding(TRACE_NO_PICTURE, "no picture was written: no seam has any length"))
    return tuple(found)
