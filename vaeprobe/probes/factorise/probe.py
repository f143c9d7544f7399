"""`vaeprobe factorise`: does the generated density factorise, along which seams, and independently?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from vaeprobe.errors import ResourceError
from vaeprobe.probes.base import Probe, option
from vaeprobe.probes.factorise import numbers, pictures, words
from vaeprobe.probes.factorise.metrics import METRICS, VERDICTS
from vaeprobe.probes.factorise.numbers import latent_names
from vaeprobe.report import Json, MetricSpec, Section
from vaeprobe.result import Measured, Result

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder
    from vaeprobe.geometry.factorisation import Evidence
    from vaeprobe.latents import Latents
    from vaeprobe.likelihoods import Likelihood
    from vaeprobe.probes.parts import Part


# Latents without space up to which all are measured: C2 costs some k^2 columns a latent.
WHOLE = 128
# Latents beyond which all of them are never measured: rotations of them take minutes at the least.
MOST_WHOLE = 2048
# Copies of all Gram matrices that are held at once (measured: 6.4 of 1,000 latents).
HELD = 6.5
# Latents from which those that fewer outputs cannot tell apart are not measured before the row space is looked for.
MANY = 512
# Latents up to which each has a name worth telling: two of so few that move the output alike leave the answer undefined, and
# are named, and so do too few outputs. Else, as of generators with a narrow layer, those directions are measured that the
# output depends on.
NAMED = 16
# Latents at which it is seen which directions these are, and at which outputs are asked whether they see no other.
SEEN_AT, ASKED_AT = 8, 256
# Copies of the latents that are held at once: of both of a pair, where one is the other's, and while they are drawn.
COPIES = 10


@dataclass(frozen=True, kw_only=True)
class FactoriseResult(Result):
    """How the generated density factorises; `evidence` holds everything the verdict rests on."""

    command: ClassVar[str] = "factorise"
    CARRIED = (
        ("factorise.gap", "factorise.gap_null"),
        ("factorise.modulation",),
        ("factorise.mean_own_share",),
        ("factorise.dependence", "factorise.dependence_null"),
        ("factorise.explained", "factorise.explained_null"),
        ("latents.active", "latents.dim"),
    )

    latents_dim = Measured("latents.dim")
    latents_active = Measured("latents.active")
    gap = Measured("factorise.gap")
    sheets = Measured("factorise.sheets")
    true_gap = Measured("factorise.true_gap")
    dependence = Measured("factorise.dependence")
    dependence_null = Measured("factorise.dependence_null")
    explained = Measured("factorise.explained")
    explained_null = Measured("factorise.explained_null")
    gap_null = Measured("factorise.gap_null")
    linearity = Measured("factorise.linearity")
    cross = Measured("factorise.cross")
    modulation = Measured("factorise.modulation")
    own_share = Measured("factorise.own_share")
    mean_own_share = Measured("factorise.mean_own_share")
    derivative_cross = Measured("factorise.derivative_cross")
    seam_dependence = Measured("factorise.seam_dependence")
    seam_dependence_p = Measured("factorise.seam_dependence_p")
    distance_correlation = Measured("factorise.distance_correlation")
    distance_correlation_p = Measured("factorise.distance_correlation_p")
    gap_rotated = Measured("factorise.gap_rotated")
    modulation_rotated = Measured("factorise.modulation_rotated")
    curved_dependence = Measured("factorise.curved_dependence")
    curved_modulation = Measured("factorise.curved_modulation")
    curved_twist = Measured("factorise.curved_twist")

    evidence: Evidence = field(repr=False, compare=False)

    @property
    def latents(self) -> list[str]:
        """Names of the active latents, in the order of the per-latent lists."""
        return latent_names(self.evidence)

    def sections(self) -> tuple[Section, ...]:
        return pictures.sections(self.evidence)

    def per_sample(self) -> Mapping[str, Sequence[float]]:
        whole = self.evidence.usable == self.evidence.drawn
        return {"factorise.gap": self.evidence.contrast.tolist()} if self.evidence.gap and whole else {}

    def details(self) -> Json:
        return numbers.details(self.evidence)


@dataclass(frozen=True, kw_only=True)
class Factorise(Probe):
    """Does the generated density factorise, along which seams, and into independent components?

    Tests whether the columns of the Jacobian are orthogonal (C1), whether the length of each depends on its
    own latent alone (C2, without which orthogonal columns do not make independent components), whether one
    rotation of the latent space achieves the first, and whether curved seams are independent. Latents are
    drawn until the verdict is decided.

    Attributes:
        samples: latents to start with.
        max_samples: latents at most; fewer where the verdict is decided before.
        margin: gap in nats that counts as none. The default, 0.0001, is two columns at 89.2 degrees, or a
            column whose length varies by 1.4 % with other latents.
        permutations: of the tests whether seam factors are dependent.
        sheets: latents at which others with the same output are looked for, since statements about the density
            of outputs need a one-to-one decoder.
        active_threshold: share of the largest mean column norm above which a latent is active; so is one whose
            column is short on average, where other latents change its norm by more than that.
        part: which latents: all; the channels at one random site, where latents have space; some random latents;
            auto takes a part of more than 128 latents. The other latents are drawn as ever, and given: what is
            said is about the density along the part. No other sheets are looked for.

    Source: Allen (2024), arXiv:2410.22559v1, Section 4.1.

    Examples:
        vaeprobe factorise model.safetensors
        vaeprobe factorise model.pt --likelihood bernoulli --samples 1024 -o page.html
    """

    NAME: ClassVar[str] = "factorise"
    METRICS: ClassVar[tuple[MetricSpec, ...]] = METRICS
    VERDICTS: ClassVar[Mapping[str, str]] = VERDICTS
    PER_SAMPLE: ClassVar[frozenset[str]] = frozenset({"factorise.gap"})
    SAVINGS: ClassVar[Mapping[str, tuple[object, frozenset[str]]]] = {
        "sheets": (0, frozenset({"factorise.sheets", "factorise.true_gap"})),
    }

    max_samples: int = option(
        4096, help="Latents to draw at most, to decide the verdict.", min=2, panel="Sampling"
    )
    margin: float = option(1e-4, help="Gap in nats that counts as none.", min=1e-12)
    permutations: int = option(499, help="Permutations of the tests of dependence.", min=19)
    sheets: int = option(
        48, help="Latents at which others with the same output are looked for (0: none).", min=0
    )
    active_threshold: float = option(
        0.05, help="Share of the largest mean column norm above which a latent is active.", min=0.0, max=1.0
    )

    part: Literal["auto", "all", "channels", "some"] = option(
        "auto",
        help="Latents to measure along, the others given: all, the channels at a random site, some random ones; auto "
        "takes a part of hundreds.",
        panel="Geometry",
    )

    def measure(self, decoder: Decoder) -> FactoriseResult:
        """Return how the density that a decoder generates factorises.

        Raises:
            ResourceError: there are too many latents for a Gram matrix of all, and the output depends on too many of them.
            UsageError: the outputs do not fit the likelihood, or the source of latents does not fit the decoder.
        """
        with self.bounds():
            return self._measure(decoder)

    def _measure(self, decoder: Decoder) -> FactoriseResult:
        from vaeprobe.engine.costs import foretell_directions
        from vaeprobe.engine.rounding import bytes_of
        from vaeprobe.engine.rounding import directions_of as looking_at
        from vaeprobe.geometry.factorisation import FEWEST, directions_of, gather
        from vaeprobe.geometry.row_space import MOST_SKETCHED
        from vaeprobe.probes.parts import BY_ALL, SOME, affordable, cost_of_all, of_part, part_of

        decoder = decoder.standardised(of="factorise").under(self.likelihood)
        source = self.source()
        settings, notes = self.settings(decoder), decoder.notes
        part = part_of(decoder, self.part, self.seed, whole=WHOLE, way=BY_ALL)
        samples, most, sheets = self.samples, max(self.samples, self.max_samples), self.sheets
        frugal = part is not None
        cost = cost_of_all(decoder, samples, 3) if part is not None else ""
        if part is not None:
            decoder, sheets = part.decoder, 0
            if self.part == "auto":
                # a column at each draw, and one more with its own primal with all other latents redrawn
                most = affordable(decoder, 3 * len(decoder.continuous), most)
                samples = min(samples, most)
        elif self.part == "auto" and len(decoder.continuous) > SOME:
            fits = affordable(decoder, 3 * len(decoder.continuous), most)
            frugal = fits < samples
            samples, most = min(samples, fits), max(fits, 2) if frugal else most
        whole, likelihood = decoder, self.metric_likelihood(decoder)
        few = source.draw(decoder, min(samples, 64), seed=self.seed)
        findings = [*notes, *self.likelihood_findings(decoder, few)]

        k = len(decoder.continuous)
        looked = part is None and (k > MOST_WHOLE or k > MANY > decoder.data_dim)
        if looked:
            part = self._seen(decoder, source, likelihood)
            if part is None and k > MOST_WHOLE:
                raise ResourceError(
                    f"the decoder has {len(decoder.continuous):,} latents, {MOST_WHOLE:,} are the most that are measured "
                    f"whole, and no {MOST_SKETCHED} directions or fewer are all that its output depends on",
                    # as many columns in fewer outputs depend on each other
                    hint=f"--part some (in Python, part='some') measures along {SOME} random latents, the others given"
                    if decoder.data_dim >= SOME
                    else f"`vaeprobe orthogonality MODEL --part some` measures {SOME} random latents",
                )
            decoder = decoder if part is None else part.decoder

        k = len(decoder.continuous)
        one = foretell_directions(
            decoder,
            # the columns, and each once more with its own primal where all else is redrawn
            samples * 3 * k + looking_at(decoder),
            HELD * 8 * samples * k**2 + bytes_of(decoder) + COPIES * 8 * samples * decoder.latent_dim,
            f"{samples} latents of {k} columns at least",
            at_once=samples,
            least=FEWEST * directions_of(k) + looking_at(decoder),
        )

        def gathered(of: Decoder) -> Evidence:
            return gather(
                of,
                source,
                samples=samples,
                max_samples=most,
                seed=self.seed,
                margin=self.margin,
                threshold=self.active_threshold,
                permutations=self.permutations,
                sheets=sheets,
                likelihood=likelihood,
                chunk=self.chunk,
                frugal=frugal,
                direction=one,
            )

        evidence = gathered(decoder)
        named = k <= NAMED and (evidence.alike or decoder.data_dim < k)
        if evidence.undefined and evidence.rounding is None and part is None and not (named or looked):
            part = self._seen(decoder, source, likelihood)
            if part is not None:
                evidence = gathered(part.decoder)
        if part is not None and part.seen:
            evidence = replace(evidence, letter="u")
        metrics = numbers.metrics(whole, evidence, part.words if part else "")
        if part is not None and not part.seen:
            metrics = {id: of_part(m, numbers.OF_ALL) for id, m in metrics.items()}
        return FactoriseResult(
            metrics=metrics,
            verdict=evidence.verdict,
            verdict_of_all=None
            if part is None or part.seen
            else numbers.verdicts_of_all(evidence, self.VERDICTS),
            part="" if part is None else part.among,
            summary=words.summary(evidence, likelihood.name if likelihood else None, part),
            findings=(*findings, *words.findings(evidence, part, cost), *words.limits(evidence)),
            settings={
                **settings,
                "drawn": evidence.drawn,
                "metric": "euclidean" if likelihood is None else likelihood.name,
            },
            artifact=whole.artifact,
            evidence=evidence,
        )

    def _seen(self, decoder: Decoder, source: Latents, likelihood: Likelihood | None) -> Part | None:
        """Return the decoder of all the directions that the output depends on, None where that is no smaller space."""
        import torch

        from vaeprobe.engine import gram
        from vaeprobe.geometry.gram import ranks, singular_frame, singular_tolerance
        from vaeprobe.geometry.row_space import (
            depends_on,
            foretell_sketch,
            restricted,
            row_space,
            sketched_row_space,
        )
        from vaeprobe.latents import Prior
        from vaeprobe.probes.parts import Part

        k = len(decoder.continuous)
        if not isinstance(source, Prior) or k != decoder.latent_dim or decoder.data_dim < 2:
            return None
        z = Prior(purpose="row space").draw(decoder, ASKED_AT, seed=self.seed)
        tolerance, at = singular_tolerance(k, decoder.dtype or z.dtype), SEEN_AT
        G = z.new_zeros(0, k, k)
        while True:
            if k > MOST_WHOLE:
                foretell_sketch(decoder, at, len(z))
                B = sketched_row_space(decoder, z[:at], tolerance, self.seed)
            else:
                more = gram(decoder, z[len(G) : at], likelihood=likelihood, chunk=self.chunk)
                G = torch.cat([G, more])
                B = row_space(G, tolerance) if G.isfinite().all() and G.any() else None
            if B is None:
                return None
            if depends_on(decoder, B, z):
                break
            if at >= ASKED_AT or k > MANY:
                return None
            at *= 4  # units that are off at a few latents, as behind ReLU, hide directions
        # what only a few latents see is no direction that the others can be measured along
        halves = (row_space(G[half::2], tolerance) for half in range(2)) if at > SEEN_AT else ()
        if any(half is None or half.shape != B.shape for half in halves):
            return None
        seen = restricted(decoder, B)
        G = gram(seen, z[:at] @ B, likelihood=likelihood, chunk=self.chunk)
        rank = sorted(ranks(singular_frame(G)[0], tolerance**0.5).tolist())
        at_one = f"{rank[0]} to {rank[-1]}" if rank[0] < rank[-1] else str(rank[0])
        return Part(seen, f"{B.shape[1]} directions alone (J has rank {at_one})", k, True)
