"""`vaeprobe orthogonality`: are the columns of the decoder's Jacobian orthogonal, and is it the axes' doing?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from vaeprobe.budget import about, budget, in_time, spared
from vaeprobe.errors import UsageError
from vaeprobe.findings import TIME_LIMIT
from vaeprobe.probes.base import Probe, option
from vaeprobe.probes.orthogonality import pictures
from vaeprobe.probes.orthogonality.metrics import METRICS, VERDICTS
from vaeprobe.published import place
from vaeprobe.report import Finding, Json, Metric, MetricSpec, Section, Table, metric_map
from vaeprobe.result import Measured, Result
from vaeprobe.writing import write

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.engine.rounding import Lost
    from vaeprobe.geometry.turns import Turn
    from vaeprobe.latents import Latents
    from vaeprobe.likelihoods import Likelihood
    from vaeprobe.probes.orthogonality.neighbours import Pairs
    from vaeprobe.probes.orthogonality.reading import Reading, Wider
    from vaeprobe.probes.parts import ColumnBlock


WHOLE_ROTATION = 2048
"""Latents up to which R* is written as a matrix of all of them: beyond, as that of the part that it turns."""
FEW_POINTS = (
    16  # latents at which all columns are measured at least, before a part of them is taken for time's sake
)
# Latents at which float64 is asked for the rank.
LOOKED_AT = 4
FEWEST = 2  # latents that make an answer, with wide intervals


@dataclass(frozen=True, kw_only=True)
class OrthogonalityResult(Result):
    """How orthogonal the Jacobian's columns are.

    Attributes:
        turn: R* as what it turns, some latents or the channels at every site; None where it is undefined.
        latent_names: name of each continuous latent, in the order of the matrices.
        active: indices into `latent_names` of the active latents.
        cosines: mean |C_ij| over latents, active x active; None where undefined.
        information: mean -1/2 log(1 - C_ij^2) in nats, active x active, None on the diagonal; None where undefined.
        entropies: entropy of each active latent in nats, and its interval; None where undefined.
        norms: mean column norm of each continuous latent.
        spectrum: root-mean-square singular values of the active columns, descending.
        threshold: share of the largest norm under which a latent is inactive.
        tables: values beside their nulls, and what R* repairs.
    """

    command: ClassVar[str] = "orthogonality"
    CARRIED = (
        ("orthogonality.ima_contrast", "orthogonality.ima_contrast_null"),
        ("orthogonality.alignment", "orthogonality.alignment_p"),
        ("orthogonality.mean_abs_cosine", "orthogonality.mean_abs_cosine_gaussian"),
        ("latents.active", "latents.dim"),
    )

    latents_dim = Measured("latents.dim")
    latents_active = Measured("latents.active")
    mean_abs_cosine = Measured("orthogonality.mean_abs_cosine")
    max_abs_cosine = Measured("orthogonality.max_abs_cosine")
    mean_abs_cosine_gaussian = Measured("orthogonality.mean_abs_cosine_gaussian")
    ima_contrast = Measured("orthogonality.ima_contrast")
    ima_contrast_null = Measured("orthogonality.ima_contrast_null")
    ima_contrast_gaussian = Measured("orthogonality.ima_contrast_gaussian")
    alignment = Measured("orthogonality.alignment")
    alignment_p = Measured("orthogonality.alignment_p")
    ima_contrast_held_out = Measured("orthogonality.ima_contrast_held_out")
    ima_contrast_rotated = Measured("orthogonality.ima_contrast_rotated")
    fixable = Measured("orthogonality.fixable")
    mean_field_gap = Measured("orthogonality.mean_field_gap")
    neighbour_cosine = Measured("orthogonality.neighbour_cosine")
    off_diagonal = Measured("orthogonality.off_diagonal")
    off_diagonal_null = Measured("orthogonality.off_diagonal_null")
    participation = Measured("orthogonality.participation")
    distance_to_axes = Measured("orthogonality.distance_to_axes")
    conformality = Measured("orthogonality.conformality")
    entropy = Measured("orthogonality.entropy")
    mutual_information = Measured("orthogonality.mutual_information")
    mutual_information_null = Measured("orthogonality.mutual_information_null")
    mutual_information_gaussian = Measured("orthogonality.mutual_information_gaussian")
    isometry_defect = Measured("orthogonality.isometry_defect")
    isometry_defect_gaussian = Measured("orthogonality.isometry_defect_gaussian")
    condition_number = Measured("orthogonality.condition_number")
    effective_rank = Measured("orthogonality.effective_rank")
    smallest_gap = Measured("orthogonality.smallest_gap")

    turn: Turn | None = field(default=None, repr=False, compare=False)
    latent_names: tuple[str, ...] = ()
    active: tuple[int, ...] = ()
    cosines: tuple[tuple[float | None, ...], ...] | None = None
    information: tuple[tuple[float | None, ...], ...] | None = None
    entropies: tuple[tuple[float, tuple[float, float] | None], ...] | None = None
    norms: tuple[float, ...] = ()
    spectrum: tuple[float, ...] = ()
    threshold: float = 0.05
    tables: tuple[Table, ...] = ()
    null: tuple[float, ...] = ()
    save_rotation: bool = False
    values: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)

    @property
    def rotation(self) -> Tensor | None:
        """R*, shape (latent, latent), float64: the identity on inactive latents and one-hot codes; None where undefined.

        f(R* z) is the decoder in its best orthogonal basis.
        """
        return None if self.turn is None else self.turn.matrix

    def _known_turn(self) -> Turn:
        if self.turn is None:
            reason = self["orthogonality.ima_contrast_rotated"].reason
            raise UsageError(f"there is no best rotation: {reason}")
        return self.turn

    def rotated(self, decoder: Decoder) -> Decoder:
        """Return the decoder in its best orthogonal basis, z -> f(R* z).

        Its encoder is left behind: a posterior that is diagonal in one basis is not in another.

        Raises:
            UsageError: the rotation is undefined.
        """
        found = self._known_turn()

        def turn(f: Callable[[Tensor], object]) -> Callable[[Tensor], object]:
            return lambda z: f(found.of(z))

        return decoder.with_function(
            turn(decoder.function),
            natural=None if decoder.natural is None else turn(decoder.natural),
            name=f"{decoder.name}, rotated",
            encoder=None,
        )

    def save(self, path: Path | str) -> None:
        """Write R* as a .npy matrix, shape (latent, latent); of thousands of latents only the part that turns.

        Raises:
            UsageError: the rotation is undefined.
        """
        found = self._known_turn()

        def writer(place: Path) -> None:
            import numpy as np

            rotation = found.matrix if found.latents <= WHOLE_ROTATION else found.R
            with open(place, "wb") as stream:  # numpy adds a suffix to names, not to streams
                np.save(stream, rotation.numpy())

        write(path, writer)

    def files(self) -> Mapping[str, Callable[[Path], None]]:
        return {"save_rotation": self.save} if self.save_rotation else {}

    def per_sample(self) -> Mapping[str, Sequence[float]]:
        return self.values

    def sections(self) -> tuple[Section, ...]:
        return pictures.sections(
            names=self.latent_names,
            active=self.active,
            cosines=self.cosines,
            norms=self.norms,
            spectrum=self.spectrum,
            threshold=self.threshold,
            tables=self.tables,
            null=self.null,
            metrics=self.metrics,
        )

    def _entropy(self, i: int) -> Json:
        """Return the entropy of a latent with its interval, where it has one."""
        if self.entropies is None or i not in self.active:
            return {}
        value, ci = self.entropies[self.active.index(i)]
        return {"entropy": value, "entropy_ci": None if ci is None else list(ci)}

    def details(self) -> Json:
        return {
            "latents": [
                {"name": name, "mean_norm": norm, "active": i in set(self.active), **self._entropy(i)}
                for i, (name, norm) in enumerate(zip(self.latent_names, self.norms, strict=True))
            ],
            "mutual_information": None
            if self.information is None
            else [list(row) for row in self.information],
            "mean_abs_cosines": None if self.cosines is None else [list(row) for row in self.cosines],
            "rms_singular_values": list(self.spectrum),
            "rotation": None
            if self.turn is None or self.turn.latents > WHOLE_ROTATION
            else self.turn.matrix.tolist(),
            "rotation_of_part": None
            if self.turn is None or self.turn.latents <= WHOLE_ROTATION
            else self.turn.R.tolist(),
            "null_contrasts": [float(f"{c:.6g}") for c in self.null],
        }


@dataclass(frozen=True, kw_only=True)
class Orthogonality(Probe):
    """Are the columns of the decoder's Jacobian orthogonal, and is it the latent axes' doing?

    Measures the angles between the Jacobian's columns (cosines, ima contrast, mean-field gap), holds them
    against random rotations of the latent space (alignment, with an exact p-value), and looks for the
    rotation that makes them most orthogonal (what a rotation repairs, and what it cannot).

    Attributes:
        beta_sigma2: beta times the noise variance, for the mean-field gap.
        rotations: random rotations for the null; None takes 999, fewer where many latents are active.
        restarts: random starts of the search for the best rotation; None takes 4, fewer above 16 active.
        save_rotation: write the best rotation R* to this .npy file.
        active_threshold: share of the largest mean column norm above which a latent is active.
        part: which columns of the Jacobian: all; the channels at one random site of each latent, where latents have
            space; some 64 random latents; a limit on what these do not tell of all is undecided; auto takes all of up
            to 128 latents with space and up to 512 without, and as many samples of a part as take about a minute;
            samples of more than 180 columns are fewer as well, for their matrices are held at once.
        probes: random products with J and J^T at each of some latents, for the energy of all columns off the
            diagonal, where only a part of the columns is measured; 0 for none, 2 at least, and no columns of
            neighbouring sites.
        posterior_draws: draws per data row with latents from the posterior, over which G is averaged.

    Source: Allen (2024), arXiv:2410.22559v1, Sections 2 and 3.

    Examples:
        vaeprobe orthogonality model.safetensors
        vaeprobe orthogonality model.pt --blueprint draft -o page.html
        vaeprobe orthogonality model.pt --max-mean-abs-cosine 0.2 --min-alignment 0.5
    """

    NAME: ClassVar[str] = "orthogonality"
    METRICS: ClassVar[tuple[MetricSpec, ...]] = METRICS
    VERDICTS: ClassVar[Mapping[str, str]] = VERDICTS
    PER_SAMPLE: ClassVar[frozenset[str]] = frozenset(
        f"orthogonality.{m}"
        for m in (
            "mean_abs_cosine",
            "max_abs_cosine",
            "ima_contrast",
            "ima_contrast_null",
            "mean_field_gap",
            "effective_rank",
            "conformality",
            "distance_to_axes",
            "mutual_information",
        )
    )
    SAVINGS: ClassVar[Mapping[str, tuple[object, frozenset[str]]]] = {
        "rotations": (
            1,
            frozenset(
                f"orthogonality.{m}" for m in ("verdict", "ima_contrast_null", "alignment", "alignment_p")
            ),
        ),
        "probes": (
            0,
            frozenset(
                f"orthogonality.{m}"
                for m in ("verdict", "off_diagonal", "off_diagonal_null", "participation", "neighbour_cosine")
            ),
        ),
        "restarts": (
            0,
            frozenset(f"orthogonality.{m}" for m in ("verdict", "ima_contrast_rotated", "fixable")),
        ),
    }

    beta_sigma2: float = option(
        1.0, help="Beta times noise variance, for the mean-field gap.", min=1e-300, panel="Geometry"
    )
    rotations: int | None = option(
        None, help="Random rotations for the null (default: 999, fewer for many latents).", min=1
    )
    restarts: int | None = option(
        None, help="Random starts of the search for the best rotation (default: 4, fewer for many).", min=0
    )
    save_rotation: Path | None = option(
        None, help="Write the best rotation to this .npy file.", metavar="FILE", writes=(".npy",)
    )
    active_threshold: float = option(
        0.05, help="Share of the largest mean column norm above which a latent is active.", min=0.0, max=1.0
    )
    part: Literal["auto", "all", "channels", "some"] = option(
        "auto",
        help="Columns to measure: all, the channels at a random site, some random latents; auto takes a part of "
        "hundreds, and as many samples as take about a minute.",
        panel="Geometry",
    )
    probes: int = option(
        8,
        help="Random probes of all columns where only a part is measured (0: none).",
        min=0,
        panel="Geometry",
    )
    posterior_draws: int = option(
        8,
        help="Draws per data row with --latents posterior; G is averaged over them.",
        min=1,
        panel="Sampling",
    )

    def measure(self, decoder: Decoder) -> OrthogonalityResult:
        """Return the orthogonality of a decoder at latents drawn from the source.

        Raises:
            UsageError: the outputs do not fit the likelihood, the source of latents does not fit the decoder, or
                no latent is continuous.
        """
        if not decoder.continuous:
            raise UsageError("all latents of this decoder are one-hot codes, which have no derivative")
        with self.bounds():
            return self._measure(decoder)

    def _measure(self, decoder: Decoder) -> OrthogonalityResult:
        from vaeprobe.geometry.threads import one_thread_below
        from vaeprobe.latents import Prior
        from vaeprobe.probes.orthogonality import neighbours
        from vaeprobe.probes.orthogonality.energy import Whole, whole_of
        from vaeprobe.probes.orthogonality.reading import Reading

        decoder = decoder.standardised().under(self.likelihood)
        source = self.source()
        z, G, pairs, block, limits = self._pullback_metrics(decoder, source)
        fits = (*self.likelihood_findings(decoder, z), *limits)
        likelihood = self.metric_likelihood(decoder)
        rounding = self._rounding(decoder, z, G, block, likelihood)
        whole = (
            Whole(None, len(decoder.continuous), why=rounding.why)
            if rounding
            else whole_of(
                decoder,
                z,
                G if block is None else None,
                likelihood=likelihood,
                probes=self.probes,
                seed=self.seed,
            )
        )
        beside = neighbours.metric(
            decoder,
            z,
            pairs,
            likelihood=likelihood,
            why=rounding.why if rounding else None,
        )
        with one_thread_below(len(G) * G.shape[-1] ** 3):
            reading = Reading(
                G,
                decoder,
                isotropic=isinstance(source, Prior) and decoder.learned is None,
                seed=self.seed,
                active_threshold=self.active_threshold,
                rotations=self.rotations,
                restarts=self.restarts,
                beta_sigma2=self.beta_sigma2,
                likelihood=self.likelihood,
                whole=whole,
                block=block,
                rounding=rounding,
            )
            asked = self._available(decoder, source)
            reading.wider = self._wider(decoder, z, reading)
            reading.more = self._more(source, reading, asked)
            return self._read(decoder, reading, fits, beside, asked)

    def _rounding(
        self, decoder: Decoder, z: Tensor, G: Tensor, block: ColumnBlock | None, likelihood: Likelihood | None
    ) -> Lost | None:
        """Return which active columns are rounding, at latents where J is of middling size; None where none is."""
        from vaeprobe.engine.rounding import lost_columns, typical
        from vaeprobe.geometry.gram import active_latents

        at, finite = typical(G), G.isfinite().flatten(1).all(1)
        return lost_columns(
            decoder,
            z[at],
            active_latents(G[finite], self.active_threshold).nonzero().flatten().tolist(),
            natural=decoder.natural_for(likelihood),
            columns=None if block is None else block.columns[at],
            names=None if block is None else block.names,
        )

    def _wider(self, decoder: Decoder, z: Tensor, reading: Reading) -> Wider | None:
        """Return what float64 finds where J is rank-deficient; None where that is no question, or cannot be asked."""
        from vaeprobe.engine import gram
        from vaeprobe.engine.rounding import in_float64
        from vaeprobe.geometry.gram import ima_contrast, ranks, singular_frame, singular_tolerance
        from vaeprobe.probes.orthogonality.reading import Wider

        if not reading.singular or reading.no_pairs or reading.block is not None or len(z) != len(reading.G):
            return None
        lost = (~reading.regular).nonzero().flatten()
        at = lost[:: -(-len(lost) // LOOKED_AT) or 1]
        wide = in_float64(decoder, z[at]) if len(at) and reading.likelihood is None else None
        if wide is None:
            return None
        k = len(reading.names)
        narrow = ranks(singular_frame(reading.G[at])[0], reading.resolution)
        G, active = gram(wide, z[at]), reading.active
        found = ranks(singular_frame(G)[0], singular_tolerance(k) ** 0.5)
        apart = ima_contrast(G[:, active[:, None], active]).isfinite()
        more = bool((found > narrow).any())
        return Wider(len(at), (int(found.min()), int(found.max())), more, bool(apart.any()))

    def _read(
        self, decoder: Decoder, reading: Reading, fits: tuple[Finding, ...], beside: Metric, asked: int
    ) -> OrthogonalityResult:
        from vaeprobe.probes.orthogonality import words
        from vaeprobe.probes.orthogonality.numbers import metrics_of

        metrics = metric_map([*metrics_of(reading), beside])
        word, summary = words.verdict(metrics, reading)
        alignment = metrics["orthogonality.alignment"].value
        if (
            isinstance(alignment, float)
            and reading.isotropic
            and reading.block is None
            and not reading.singular  # of the mean-field gap, which theirs is not
            and not self.likelihood
        ):
            summary = f"{summary} {place(alignment)}"
        return OrthogonalityResult(
            metrics=metrics,
            verdict=word,
            verdict_of_all=None if reading.block is None else tuple(VERDICTS),
            part="" if reading.block is None else reading.block.among,
            summary=summary + reading.whole.sentence,
            findings=(*decoder.notes, *fits, *words.findings(reading, asked, metrics)),
            settings=self.settings(decoder)
            | {"rotations": reading.rotations, "restarts": reading.restarts, "save_rotation": None},
            artifact=decoder.artifact,
            turn=reading.turn,
            latent_names=reading.names,
            active=tuple(reading.active.tolist()),
            cosines=reading.cosine_matrix,
            information=reading.information,
            entropies=reading.entropies,
            norms=tuple(reading.mean_norms.tolist()),
            spectrum=tuple(reading.rms_singular_values.tolist()),
            threshold=self.active_threshold,
            tables=(*pictures.tables(reading, metrics), *reading.whole.tables()),
            null=()
            if reading.singular or reading.alignment is None
            else tuple(reading.alignment.draws.tolist()),
            save_rotation=self.save_rotation is not None,
            values=reading.per_sample,
        )

    def _more(self, source: Latents, reading: Reading, asked: int) -> str:
        """Return what would bring more latents than were measured of those asked for."""
        from vaeprobe.latents import Given, Posterior
        from vaeprobe.probes.parts import MORE_TIME, named_part

        if reading.samples < asked:
            kind = None if reading.block is None else reading.kind
            return MORE_TIME if budget().bounded else named_part(kind)
        if asked < self.samples and isinstance(source, (Given, Posterior)):
            return "more rows of --data" if isinstance(source, Posterior) else "more rows of latents"
        return reading.more

    def _available(self, decoder: Decoder, source: Latents) -> int:
        """Return how many different latents, or posteriors, the source has of those asked for."""
        from vaeprobe.latents import Given, Grid, Posterior

        if isinstance(source, Posterior):
            return min(self.samples, len(source.data))
        if isinstance(source, (Given, Grid)):
            return len(source.draw(decoder, self.samples))
        return self.samples

    def _pullback_metrics(
        self, decoder: Decoder, source: Latents
    ) -> tuple[Tensor, Tensor, Pairs | None, ColumnBlock | None, tuple[Finding, ...]]:
        """Return latents, G per latent, pairs of sites, which part of G it is, and what did not fit into the time.

        G is averaged over posteriors with posterior latents.  Of channels at a site, G at the first latents is measured
        together with the next site's (see `neighbours`), where there is time without end.

        Orthogonality is promised in expectation over each posterior (Eq. 8), so G is averaged before
        anything is normalised.
        """
        import torch

        from vaeprobe import cpu
        from vaeprobe.engine import gram
        from vaeprobe.engine.costs import foretell_directions, gram_directions
        from vaeprobe.engine.methods import choose
        from vaeprobe.engine.rounding import bytes_of
        from vaeprobe.engine.rounding import directions_of as looking_at
        from vaeprobe.latents import Posterior
        from vaeprobe.probes.orthogonality import neighbours
        from vaeprobe.probes.orthogonality.energy import directions_of
        from vaeprobe.probes.parts import SOME, affordable, block_of, holdable

        draws, rows = 1, self._available(decoder, source)
        if isinstance(source, Posterior):
            # a draw cycles through the rows
            source = replace(source, data=source.data[:rows])
            draws = 1 if source.means else self.posterior_draws
        block = block_of(decoder, self.part, rows, self.seed)
        limits: list[Finding] = []
        if budget().bounded and block is None:
            block = self._affordable_part(decoder, source, rows * draws, limits)
        width = len(decoder.continuous) if block is None else len(block.names)
        if self.part == "auto" and (block is not None or width > SOME):
            rows = min(affordable(decoder, width * draws, rows, grams=draws), holdable(width, rows))
            if isinstance(source, Posterior):
                source = replace(source, data=source.data[:rows])
        z = source.draw(decoder, rows * draws, seed=self.seed)
        rows = len(z) // draws  # a grid of fewer points may have fewer still
        columns = None if block is None else block.columns[:rows].repeat(draws, 1)
        likelihood = self.metric_likelihood(decoder)
        choice = choose(decoder, natural=decoder.natural_for(likelihood))
        if block is not None and (choice.reach is not None or block.kind == "channels"):
            block = replace(block, how=choice.how)
        beside = 0 if block is None else directions_of(decoder, rows, self.probes, likelihood)
        each, looking = gram_directions(decoder, width), looking_at(decoder)
        pairs: Pairs | None = None
        together = 0  # latents at which a site's columns are measured with its neighbour's
        if block is not None and block.kind == "channels" and self.probes >= 2:
            first = min(neighbours.AT, rows)
            pairs = neighbours.Pairs(neighbours.with_the_next_site(decoder, block, first, self.seed))
            together = first if draws == 1 and not budget().bounded else 0
        beside += together * width
        one = foretell_directions(
            decoder,
            len(z) * each + looking + beside,
            3 * 8 * len(z) * width**2 + bytes_of(decoder),
            f"{len(z)} latents of {width} columns" + (", and random products" if beside else ""),
            at_once=len(z),
            least=FEWEST * draws * each + looking,
        )
        found: list[Tensor] = []
        if pairs is not None and together:
            pairs.G = gram(
                decoder, z[:together], likelihood=likelihood, columns=pairs.columns, chunk=self.chunk
            )
            found.append(pairs.G[:, :width, :width])

        def measure(part: slice) -> None:
            some = cpu.arange(rows)[max(part.start, together) : part.stop]
            if not len(some):
                return
            # draw j of row i is at j rows + i
            at = (cpu.arange(draws)[:, None] * rows + some).flatten()
            at_columns = None if columns is None else columns[at]
            G = gram(decoder, z[at], likelihood=likelihood, columns=at_columns, chunk=self.chunk)
            found.append(G if draws == 1 else G.reshape(draws, len(some), *G.shape[1:]).mean(0))

        # of a decoder that takes seconds a latent two make an answer, with wide intervals
        with spared(0.0 if one is None else looking * one):  # for which columns are rounding
            fit = in_time(rows, measure, least=FEWEST, row=None if one is None else one * draws * each)
        if not fit.whole:
            limits.append(Finding(TIME_LIMIT, fit.words("latents")))
        kept = (cpu.arange(draws)[:, None] * rows + cpu.arange(fit.done)).flatten()
        return z[kept], found[0] if len(found) == 1 else torch.cat(found), pairs, block, tuple(limits)

    def affords_all(self, decoder: Decoder) -> bool:
        """Whether the time given lasts for the columns of all latents, where they are not too many anyway."""
        from vaeprobe.probes.parts import block_of

        if not decoder.continuous or not budget().bounded:
            return True
        decoder, source = decoder.standardised().under(self.likelihood), self.source()
        points = self._available(decoder, source)
        if block_of(decoder, self.part, points, self.seed) is not None:
            return True
        return self._affordable_part(decoder, source, points, []) is None

    def _affordable_part(
        self, decoder: Decoder, source: Latents, points: int, limits: list[Finding]
    ) -> ColumnBlock | None:
        """Return some random latents where the time does not last for all columns at a few points, else None."""
        from vaeprobe.engine import gram
        from vaeprobe.probes.parts import block_of, is_shortened

        block = block_of(decoder, "some", points, self.seed)
        if block is None or is_shortened() is False:
            return None
        z = source.draw(decoder, 2, seed=self.seed)
        few = block.columns[: len(z), :8]
        gram(decoder, z, columns=few, chunk=self.chunk)  # the first time is dearer
        start = time.monotonic()
        gram(decoder, z, columns=few, chunk=self.chunk)
        one = (time.monotonic() - start) * block.whole / few.numel()
        if is_shortened() is None and budget().affords(2 * FEW_POINTS * one):
            return None
        limits.append(
            Finding(
                TIME_LIMIT,
                f"all {block.whole} columns at all {points} samples would take {about(one * points)}: those of "
                f"{block.words} were measured",
            )
        )
        return block
