"""`vaeprobe trace`: the seams of a decoder, followed through latent and data space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import index
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from vaeprobe.budget import Fit, about, budget, in_time, share_of, timely
from vaeprobe.errors import UsageError
from vaeprobe.findings import FEWER_LATENTS, LEARNED_PRIOR, TIME_LIMIT, TRACE_NO_PICTURE
from vaeprobe.probes.base import Probe, class_findings, option
from vaeprobe.probes.trace import pictures
from vaeprobe.probes.trace.metrics import METRICS, VERDICTS
from vaeprobe.report import Finding, Json, Section
from vaeprobe.result import Measured, Result
from vaeprobe.writing import write, write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.likelihoods import Likelihood
    from vaeprobe.pictures import ImageShape
    from vaeprobe.probes.parts import Part
    from vaeprobe.seams import LoopDefects, Paths, Seam
    from vaeprobe.seams.schemes import SchemeName
    from vaeprobe.seams.summary import ComponentSummary
    from vaeprobe.seams.views import Net, Walk

# Components traced where none are asked for, of those whose singular value is not negligible: each node of a
# seam costs a Jacobian, so that decoders of more than MANY latents get the leading ones only.
COMPONENTS, MANY, LEADING = 10, 16, 4
EVENTS_IN_JSON = 500
# Nodes that a start of a default run takes: two components, both ways.
NODES = 200
# Of the time that is left, what the seams may take, and what they are planned to take; the rest is for what is made of
# them: loops, the way back, pictures.
SHARE, PLANNED = 0.6, 0.8
# Of the time that is left, what looking how smooth the decoder is may take.
LOOKING = 0.25


@dataclass(frozen=True, kw_only=True)
class TraceResult(Result):
    """What `trace` returns.

    Attributes:
        paths: the seams (`vaeprobe.seams.Paths`).
        latent_names: name of each continuous latent, in the order of `paths.coordinates`.
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
    latent_names: tuple[str, ...] = ()
    components: tuple[ComponentSummary, ...] = ()
    loops: LoopDefects | None = None
    net: Net | None = None
    traversal: Walk | None = None
    image: ImageShape | None = None
    random_overlap: float = 0.0
    wanted: frozenset[str] = field(default=frozenset(), repr=False)
    undrawn: Mapping[str, str] = field(default_factory=dict, repr=False)

    def strip(self) -> NDArray[np.uint8]:
        """Return the traversal as pixels (height, width, 3): seams on the left, axes on the right.

        One row per component, arc length from left to right, the start framed in the middle; places that the
        seam does not reach are left empty.

        Raises:
            UsageError: the outputs are no images, or there is no seam to follow.
        """
        if self.traversal is None or self.image is None:
            raise UsageError("there is no traversal to draw: no seam, or outputs that are no images")
        return pictures.strip(self.traversal, self.image)

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

    def unwritten(self) -> Mapping[str, str]:
        return self.undrawn

    def sections(self) -> tuple[Section, ...]:
        return pictures.sections(
            self.paths,
            self.components,
            names=dict(zip(self.paths.coordinates.tolist(), self.latent_names, strict=True)),
            random_overlap=self.random_overlap,
            net=self.net,
            traversal=self.traversal,
            image=self.image,
            name=self._name,
        )

    def details(self) -> Json:
        events = self.paths.events
        out: Json = {
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


def _seam_row(seam: Seam) -> Json:
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


@dataclass(frozen=True, kw_only=True)
class Trace(Probe):
    """Follow the right singular vectors of the Jacobian through latent and data space.

    A seam is the path through a latent whose tangent is one right singular vector v_i of the Jacobian
    everywhere: the paper's sub-manifold M_i.  Every component is followed both ways from every start, by
    continuity through crossings and ties, and each stop and event is recorded with its place.

    With a part of the latents the others keep their place at the start: the Jacobian is that of the part.

    Examples:
        vaeprobe trace model.safetensors --images seams.png
        vaeprobe trace model.pt --data x.npy --row 7 --save paths.npz
    """

    NAME = "trace"
    METRICS = METRICS
    VERDICTS = VERDICTS
    COST = 64

    samples: int = option(
        4, help="Starting points.", min=1, names=("--starts", "--samples", "-n"), panel="Sampling"
    )
    row: int | None = option(
        None, help="Start at the encoder's mean of this row of --data.", min=0, panel="Sampling"
    )
    components: object = option(
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
    part: Literal["auto", "all", "channels", "some"] = option(
        "auto",
        help="Latents to trace among, the others given: all, the channels at a random site, some random ones; auto takes "
        "the channels where a map has hundreds of latents, at fewer starts.",
        panel="Tracing",
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
        with self.bounds():
            return self._measure(decoder)

    def _measure(self, decoder: Decoder) -> TraceResult:
        from vaeprobe.probes.parts import of_part
        from vaeprobe.probes.rounded import rounded, rounding_at
        from vaeprobe.probes.trace import numbers, words
        from vaeprobe.seams.summary import by_component, first_start, random_axis_overlap, return_errors
        from vaeprobe.seams.tracing import LARGE
        from vaeprobe.seams.views import traverse

        decoder = decoder.standardised()
        if decoder.learned is not None:  # a mixture: no units make it N(0, I)
            densities = "log_prior is that of the mixture, and log_factor the mixture's along each seam: it is no product of these"
            decoder = replace(decoder, notes=(*decoder.notes, Finding(LEARNED_PRIOR, densities)))
        settings = self.settings(decoder)
        part, starts, fewer = self._extent(decoder)
        decoder = decoder if part is None else part.decoder
        k = len(decoder.continuous)
        if self.svg is not None and k != 2:
            raise UsageError(
                f"a net of seams needs two latents, this decoder has {k}",
                hint="leave out --svg; --images shows the seams of any decoder of images",
            )
        image = self._image(decoder)
        decoder = decoder.under(self.likelihood)
        z0 = self._starts(decoder, starts)
        few = part is not None and self.part == "auto"
        one = self._foretold(decoder, len(z0), few)
        likelihood = self.metric_likelihood(decoder)
        lost = rounding_at(decoder, z0, likelihood) if k <= LARGE else None
        chosen, skipped = self._components(decoder, z0, few)
        paths, limits = self._paths(decoder, z0[:1] if lost else z0, chosen, likelihood, one)
        if lost is not None:  # directions of rounding lead nowhere
            paths = replace(paths, seams=())
        more = self._more(len(z0), len(paths.starts), starts, part)
        z0 = paths.starts
        loops = None
        if lost is None and k >= 3 and len(chosen) >= 2 and paths.method == "dense":
            loops = timely(lambda: self._loops(decoder, z0[:4], chosen[:4], paths.scheme, likelihood))
        misses = timely(lambda: return_errors(decoder, paths, likelihood=likelihood, chunk=self.chunk))
        first = first_start(paths)
        frames = self.frames + 1 - self.frames % 2
        net = timely(lambda: self._net(decoder, first, paths, likelihood)) if k == 2 and first else None
        no_net = net if isinstance(net, str) else ""
        net = None if isinstance(net, str) else net
        metrics = numbers.trace_metrics(paths, loops, misses, lost)
        if part is not None:
            metrics = {id: of_part(m, numbers.OF_ALL) for id, m in metrics.items()}
        names = dict(zip(decoder.continuous, decoder.latent_names, strict=True))
        axes = list(dict.fromkeys(names[seam.axis] for seam in first))
        source = self.source().describe() if self.row is None else ""
        verdict, summary = words.verdict(metrics, paths, source, axes, part, more)
        wanted = frozenset(name for name in ("save", "images", "svg") if getattr(self, name) is not None)
        walk = timely(lambda: traverse(decoder, first[:COMPONENTS], frames=frames)) if first else None
        undrawn: dict[str, str] = {} if first else dict.fromkeys(wanted - {"save"}, words.NO_SEAM)
        for file, what, drawn in (("svg", "net of seams", net), ("images", "traversal", walk)):
            if first and drawn is None and file in wanted:
                spec, why = (
                    (TRACE_NO_PICTURE, no_net)
                    if file == "svg" and no_net
                    else (TIME_LIMIT, "the time given was over")
                )
                undrawn[file] = f"no {what} was drawn: {why}"
                limits = (*limits, Finding(spec, undrawn[file]))
        return TraceResult(
            metrics=metrics,
            verdict=verdict,
            verdict_of_all=None if part is None else tuple(VERDICTS),
            part="" if part is None else part.among,
            summary=summary,
            findings=(
                *decoder.notes,
                *class_findings(decoder, likelihood),
                *((rounded(lost),) if lost else ()),
                *words.findings(paths, misses, skipped, wanted, first, part),
                *fewer,
                *limits,
            ),
            settings=settings | {"scheme_used": paths.scheme, "components": chosen},
            artifact=decoder.artifact,
            paths=paths,
            latent_names=decoder.latent_names,
            components=tuple(by_component(paths)),
            loops=loops,
            net=net,
            traversal=walk,
            image=image,
            random_overlap=random_axis_overlap(k),
            wanted=wanted - undrawn.keys(),
            undrawn=undrawn,
        )

    def _extent(self, decoder: Decoder) -> tuple[Part | None, int, tuple[Finding, ...]]:
        """Return the part of the latents to trace in, from how many starts, and what to say where these are fewer than asked for."""
        from vaeprobe.probes.parts import MOST_WHOLE, SOME, affordable, part_of

        starts = self.samples

        def fitting(of: Decoder) -> int:
            return min(starts, max(1, affordable(of, len(of.continuous), starts * NODES) // NODES))

        part, k = part_of(decoder, self.part, self.seed, whole=MOST_WHOLE), len(decoder.continuous)
        if self.part != "auto":
            return part, starts, ()
        if part is not None:
            return part, fitting(part.decoder), ()
        fits = fitting(decoder) if k > SOME and self.row is None else starts
        if fits == starts:
            return None, starts, ()
        message = f"seams of {k} latents were traced from {fits} of {starts} starts"
        return None, fits, (Finding(FEWER_LATENTS, message, hint="--part all traces from all of them"),)

    def _more(self, drawn: int, traced: int, starts: int, part: Part | None) -> str:
        """Return what would bring more starts than were traced of those drawn, of `starts` at most."""
        from vaeprobe.probes.parts import MORE_TIME, named_part

        if self.row is not None:
            return "another --row"
        if traced < drawn or (starts < self.samples and budget().bounded):
            return MORE_TIME
        if drawn < starts:
            return "more rows of latents"
        if starts < self.samples:
            return named_part(None if part is None else part.kind)
        return "more --starts"

    def _foretold(self, decoder: Decoder, starts: int, few: bool) -> float | None:
        """Tell what tracing from so many starts takes, and return the seconds of a direction, where they are known."""
        from vaeprobe.engine.costs import foretell_directions
        from vaeprobe.engine.rounding import bytes_of
        from vaeprobe.probes.rounded import looking_of
        from vaeprobe.seams.tracing import LARGE

        k = len(decoder.continuous)
        looked_at, looking = (looking_of(decoder, starts), bytes_of(decoder)) if k <= LARGE else (0.0, 0)
        return foretell_directions(
            decoder,
            starts * NODES * (k + 1) + looked_at,
            looking,
            f"{starts} start{'s' * (starts > 1)} among {k} latents, {NODES} steps each",
            at_once=2 * k * starts,
            # a start, once to choose components and once more, and a step of each of them both ways
            least=(2 + 2 * self._most(k, few)) * (k + 1) + looked_at,
        )

    def _net(
        self, decoder: Decoder, first: Sequence[Seam], paths: Paths, likelihood: Likelihood | None
    ) -> Net | str:
        """Return the net of the seams of two latents, or why there is none: one that does nothing has no seam."""
        from vaeprobe.seams.views import trace_net

        try:
            return trace_net(
                decoder,
                self._centre(decoder, first),
                radius=self.radius,
                tolerance=max(paths.tolerance, 1e-5),
                likelihood=likelihood,
                chunk=self.chunk,
            )
        except UsageError as error:
            return error.message

    def _paths(
        self,
        decoder: Decoder,
        z0: Tensor,
        components: list[int],
        likelihood: Likelihood | None,
        one: float | None,
    ) -> tuple[Paths, tuple[Finding, ...]]:
        """Return the seams through the starts, or through as many as there is time for, and what did not fit.

        Starts within whose seams time ends are left out, all that were begun with them, for seams that end sooner would
        be too many among those that are whole; of the first start what was traced is kept.
        """
        from vaeprobe.seams import Paths
        from vaeprobe.seams.schemes import LOOKED_AT

        given: SchemeName | None = None if self.scheme == "auto" else self.scheme
        coarse = given is None and one is not None and not budget().affords(one * LOOKED_AT / LOOKING)
        given = "rough" if coarse else given
        parts: list[Paths] = []
        went: list[float] = []  # starts of which so much was traced

        def trace(rows: slice) -> None:
            # all by one scheme, which the first starts choose
            scheme = parts[0].scheme if parts else given
            found = self._traced(decoder, z0[rows], components, likelihood, scheme)
            went.append(len(found.starts) * found.share)
            if not (parts and found.stops["time"]):
                parts.append(found)

        with share_of(SHARE):
            fit = in_time(len(z0), trace, first=1, share=PLANNED)
        fit = Fit(sum(len(part.starts) for part in parts), len(z0), fit.seconds * fit.done / sum(went))
        limits = () if fit.whole else (Finding(TIME_LIMIT, fit.words("starts")),)
        if parts[0].stops["time"]:
            limits = (Finding(TIME_LIMIT, _cut_short(parts[0], fit)),)
        if coarse:
            message = (
                "no time was left to look how smooth the decoder is: seams were followed in coarse steps"
            )
            limits = (*limits, Finding(TIME_LIMIT, message, hint="--scheme smooth, where it is known to be"))
        return Paths.joined(parts), limits

    def _traced(
        self,
        decoder: Decoder,
        z0: Tensor,
        components: list[int],
        likelihood: Likelihood | None,
        scheme: SchemeName | None,
    ) -> Paths:
        """Return the seams through some starts; of starts whose seams are remembered, these."""
        from vaeprobe.engine.remembered import recalled_each, remembering
        from vaeprobe.seams import Paths, trace_paths
        from vaeprobe.seams.schemes import texture

        def trace(rows: Tensor | slice) -> Paths:
            return trace_paths(
                decoder,
                z0[rows],
                components=components,
                length=self.length,
                radius=self.radius,
                tolerance=self.tolerance,
                scheme=scheme,
                likelihood=likelihood,
                chunk=self.chunk,
            )

        if budget().bounded or not remembering():
            return trace(slice(None))
        if scheme is None:  # that of all of them
            scheme = texture(decoder, z0, natural=decoder.natural_for(likelihood)).scheme
        key = (
            "seams",
            decoder,
            *components,
            self.length,
            self.radius,
            self.tolerance,
            scheme,
            likelihood,
        )
        return Paths.joined(recalled_each(key, z0, lambda rows: trace(rows).by_start()))

    def _loops(
        self,
        decoder: Decoder,
        z0: Tensor,
        components: list[int],
        scheme: SchemeName,
        likelihood: Likelihood | None,
    ) -> LoopDefects:
        from vaeprobe.engine.remembered import recalled_each
        from vaeprobe.seams import loop_defects

        size = 0.05 if scheme == "smooth" else 0.25
        (found,) = recalled_each(
            ("loops", decoder, *components, size, likelihood),
            z0[None],
            lambda _: [
                loop_defects(
                    decoder, z0, components=components, size=size, likelihood=likelihood, chunk=self.chunk
                )
            ],
        )
        return found

    # -- arguments -------------------------------------------------------------------------------

    def _image(self, decoder: Decoder) -> ImageShape | None:
        from vaeprobe.pictures import image_shape

        try:
            return image_shape(decoder.output_shape, self.image_shape)
        except UsageError:
            if self.images is not None or self.image_shape is not None:
                raise
            return None

    def _starts(self, decoder: Decoder, starts: int) -> Tensor:
        from vaeprobe.latents import Posterior

        if self.row is None:
            return self.source().draw(decoder, starts, seed=self.seed)
        self.check_ready()
        data = self.data_rows()
        assert data is not None
        self._check_row(len(data))
        return Posterior(data[self.row : self.row + 1], means=True).draw(decoder, 1, seed=self.seed)

    def _most(self, k: int, few: bool) -> int:
        """Return how many of k components are traced at most (see `_components`)."""
        from vaeprobe.seams.tracing import LARGE

        if self.components is not None:
            return len(parse_components(self.components))
        return min(k, LEADING // 2 if few or k > LARGE else LEADING if k > MANY else COMPONENTS)

    def _components(self, decoder: Decoder, z0: Tensor, few: bool) -> tuple[list[int], int]:
        """Return the components to trace, and how many others were left out.

        Args:
            few: each node costs much.
        """
        k = len(decoder.continuous)
        if self.components is not None:
            return parse_components(self.components), 0
        from vaeprobe.geometry.gram import ACTIVE_THRESHOLD
        from vaeprobe.seams.fields import DenseField
        from vaeprobe.seams.tracing import LARGE

        if k > LARGE:
            return list(range(self._most(k, few))), k - self._most(k, few)
        if budget().bounded:
            z0 = z0[:1]
        frame = DenseField(decoder, self.metric_likelihood(decoder), self.chunk).frame(z0)
        rms = frame.s[frame.finite].square().mean(0).sqrt() if frame.finite.any() else frame.s.new_ones(k)
        matter = int((rms > ACTIVE_THRESHOLD * rms[0]).sum())
        count = min(max(matter, 1), self._most(k, few))
        return list(range(count)), k - count

    def _centre(self, decoder: Decoder, first: Sequence[Seam]) -> Tensor:
        """Return the origin where both seams exist there, else the first start."""

        from vaeprobe import cpu
        from vaeprobe.seams.fields import DenseField

        start = first[0].at(cpu.zeros(1))[0]
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


def _cut_short(paths: Paths, fit: Fit) -> str:
    """Return how far the seams of the first start went in the time given, and what all of them would take."""
    starts = f"all {fit.wanted} starts" if fit.wanted > 1 else "all of it"
    return (
        f"{paths.stops['time']} of the {sum(paths.stops.values())} half-seams of the first start end where the time given "
        f"was over, after {100 * paths.share:.2g} % of the way; {starts} would take {about(fit.seconds)}"
    )


def parse_components(given: object) -> list[int]:
    """Return the components that "0,1,2" or "0-3" or a sequence of numbers names.

    Raises:
        UsageError: it names no numbers.
    """
    if isinstance(given, Iterable) and not isinstance(given, str):
        with suppress(TypeError):  # of what is no whole number
            return [index(c) for c in given]
    if not isinstance(given, str):
        raise UsageError(
            f"the components are `{given}`, not a list of numbers", hint="numbers from 0, as in [0, 1, 2]"
        )
    out: list[int] = []
    for part in given.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            hint = "numbers from 0, as in --components 0,1,2 or 0-4"
            raise UsageError(f"`{given}` names no components", hint=hint)
        out += range(int(low), int(high or low) + 1)
    return out
