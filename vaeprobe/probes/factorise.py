"""`vaeprobe factorise`: does the generated density factorise, along which seams, and independently?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from vaeprobe.findings import (
    DISCONTINUOUS,
    FACTORISE_UNDEFINED,
    INACTIVE_LATENTS,
    NOT_SMOOTH,
    RANK_DEFICIENT,
    TIED_SEAMS,
    TIED_SINGULAR_VALUES,
    UNDECIDED,
)
from vaeprobe.probes.base import Probe, option
from vaeprobe.probes.orthogonality.metrics import LATENTS
from vaeprobe.report import (
    Finding,
    Heatmap,
    Metric,
    MetricSpec,
    Section,
    Table,
    Value,
    metric_map,
    specs_by_id,
)
from vaeprobe.result import Measured, Result

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.geometry.decisions import Decision
    from vaeprobe.geometry.factorisation import Evidence
    from vaeprobe.geometry.factors import Factors
    from vaeprobe.geometry.spread import Spread

PAPER = "Allen (2024), arXiv:2410.22559v1"
# Share of the random bases' gap under which columns are called nearly orthogonal, or partly so.
NEARLY, PARTLY = 0.35, 0.75
# Own share above which column lengths are called mostly, or partly, a latent's own.
MOSTLY_OWN, PARTLY_OWN = 0.75, 0.35
# Latents shown in a heat map.
SHOWN = 20

METRICS: tuple[MetricSpec, ...] = (
    MetricSpec(
        id="factorise.verdict",
        title="verdict",
        range="linear, independent, dependent, rotated, curved, entangled, undetermined, undefined",
        formula="linear: J constant and no jumps; independent: C1 and C2; dependent: C1 without C2; rotated: C1 after one "
        "rotation of the latent space; curved: M, curved C2 and twist are 0; entangled: none of these; undetermined: the latents drawn leave a test open that decides",
        source=f"{PAPER}, Theorems 1 and 2 and Section 4.1.3; C2 is needed and missing from Theorem 2",
        meaning="What kind of factorisation the density has, exactly, within the margin. Trained decoders are "
        "rarely anything but entangled in this sense: read the effect sizes beside it.",
        misleads="It is strict: a decoder with nearly orthogonal columns and a random one are both entangled. It "
        "reads the Jacobian, so that it is about the density of outputs only where the decoder is one-to-one.",
        remedy="Compare `factorise.gap` with `factorise.gap_null`, and read the own shares; --margin says what "
        "counts as zero.",
    ),
    MetricSpec(
        id="factorise.gap",
        title="gap (C1)",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="mean_z [sum_i log n_i - 1/2 log det G] = mean_z [log p(x) - sum_i log p_i(x)]",
        source=f"{PAPER}, Eqs. 14, 15",
        meaning="How far the density is from the product of its seam factors p(z_i) / n_i; 0 iff the columns of "
        "the Jacobian are orthogonal at every latent. The equality with p(x) holds where the decoder is "
        "one-to-one (injective): other latents with the same output add to p(x).",
        misleads="0 does not make the factors independent (polar coordinates): that takes C2 as well. It grows "
        "with the number of active latents.",
        remedy="See whether a rotation repairs it (`factorise.gap_rotated`); a larger beta with a diagonal "
        "posterior lowers it.",
    ),
    MetricSpec(
        id="factorise.gap_null",
        title="gap at random axes",
        beside="random axes",
        unit="nats",
        range="[0, inf)",
        formula="mean over Haar R and latents z of the gap of f(R z)",
        source="rotation null; N(0, I) is invariant under R",
        meaning="What an arbitrary orthogonal basis of the same latent space has: the yardstick of the gap.",
        misleads="It is small where all latents stretch alike, and 0 where G is a multiple of I.",
        remedy="None needed.",
    ),
    MetricSpec(
        id="factorise.linearity",
        title="linearity",
        better="higher",
        range="(-inf, 1], below 0 by sampling error alone",
        formula="min_i [1 - E |J_i(z) - J_i(z')|^2 / (2 E |J_i|^2)], z and z' independent",
        source=f"{PAPER}, Theorem 1",
        meaning="Share of the Jacobian that is the same everywhere, for the least linear column; 1 for a linear "
        "decoder, whose density factorises along its singular vectors.",
        misleads="A map can be far from linear and still factorise.",
        remedy="None: neither end is better by itself.",
    ),
    MetricSpec(
        id="factorise.cross",
        title="cross per latent (C2)",
        range="[0, inf) each",
        formula="cross_i^2 = E Var(log n_i | z_i) = 1/2 E [log n_i(z_i, a) - log n_i(z_i, b)]^2, a, b independent "
        "draws of all else",
        source="C2, missing from Theorem 2 of the paper; pick-freeze differences, Sobol' (1993)",
        meaning="How much the length of column i (how strongly latent i acts) varies with the other latents, in "
        "log units: 0.1 is ten per cent. One number per active latent.",
        misleads="Needs latents with independent coordinates: for posteriors, grids and files, the other latents "
        "are taken from other rows.",
        remedy="The matrix of pairs says which other latent modulates it.",
    ),
    MetricSpec(
        id="factorise.modulation",
        title="largest cross (C2)",
        better="lower",
        range="[0, inf)",
        formula="max_i cross_i",
        source="C2, missing from Theorem 2 of the paper",
        meaning="The worst latent: 0 iff every column's length depends on its own latent alone.",
        misleads="One nearly inactive latent can make it. Its interval takes the maximum into account, and what a "
        "doubling of the column at latents too rare to be seen (3 in n) would add.",
        remedy="Find the latent in the table, and who modulates it in the matrix of pairs.",
    ),
    MetricSpec(
        id="factorise.own_share",
        title="own share per latent",
        range="(-inf, 1] each, below 0 by sampling error alone",
        formula="1 - cross_i^2 / Var(log n_i)",
        source="first-order Sobol' index of log n_i in z_i",
        meaning="Share of the variation of log column length that the latent itself explains: 1 is C2.",
        misleads="A ratio: a column of almost constant length can have any share. Undefined where the length is "
        "constant, which satisfies C2.",
        remedy="Read it beside the standard deviation of log n_i.",
    ),
    MetricSpec(
        id="factorise.mean_own_share",
        title="mean own share",
        better="higher",
        range="(-inf, 1]",
        formula="mean over active latents of 1 - cross_i^2 / Var(log n_i)",
        source="first-order Sobol' indices",
        meaning="How far the strength of latents is their own affair, on average; 1 is C2.",
        misleads="As for the single shares; latents whose column length is constant are left out.",
        remedy="As for the single shares.",
    ),
    MetricSpec(
        id="factorise.derivative_cross",
        title="C2 by derivatives",
        range="[0, inf) each",
        formula="sqrt(E sum_{j != i} (d log n_i / d z_j)^2)",
        source="derivative form of C2",
        meaning="How fast column i changes with the other latents, per unit latent; 0 for every i iff C2, on a "
        "smooth decoder.",
        misleads="Vacuous for ReLU and other networks with kinks, where the change of J hides in the kinks: "
        "undefined there.",
        remedy="Use `factorise.cross`, which works for every network.",
    ),
    MetricSpec(
        id="factorise.seam_dependence",
        title="correlation of seams",
        better="lower",
        range="[0, 1]",
        formula="max_{i<j} |corr(l_i, l_j)|, l_i = log p(z_i) - log n_i(z)",
        source=f"{PAPER}, Section 4.1",
        meaning="Linear dependence of the log density factors of two seams; 0 under C2. Polar coordinates: 2/3.",
        misleads="A maximum over pairs, well above 0 by chance for few samples: read its p-value. 0 does not "
        "imply C2.",
        remedy="Look up the pair in the matrix of correlations.",
    ),
    MetricSpec(
        id="factorise.seam_dependence_p",
        title="  its p-value",
        range="[1 / (K + 1), 1]",
        formula="(1 + #{permutations with a larger maximum over pairs}) / (K + 1)",
        source="Westfall and Young (1993): corrected for the number of pairs",
        meaning="Probability of a largest correlation like this if the seam factors were independent.",
        misleads="It cannot fall under 1 / (K + 1), and a tiny correlation is significant in enough samples.",
        remedy="Raise --permutations for a finer value.",
    ),
    MetricSpec(
        id="factorise.distance_correlation",
        title="distance correlation",
        better="lower",
        range="[0, 1]",
        formula="max_{i<j} dCor(l_i, l_j)",
        source="Szekely, Rizzo and Bakirov (2007)",
        meaning="Dependence of any form between the log density factors of two seams, not only linear.",
        misleads="Biased upwards in small samples (0.1 is nothing in 256): read its p-value.",
        remedy="Look up the pair in the JSON matrix.",
    ),
    MetricSpec(
        id="factorise.distance_correlation_p",
        title="  its p-value",
        range="[1 / (K + 1), 1]",
        formula="as factorise.seam_dependence_p, at most 199 permutations",
        source="Westfall and Young (1993)",
        meaning="Probability of a largest distance correlation like this if the seam factors were independent.",
        misleads="As for the correlation.",
        remedy="As for the correlation.",
    ),
    MetricSpec(
        id="factorise.gap_rotated",
        title="gap at best rotation",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="mean gap of f(R* z) over one half of the latents, R* the best rotation on the other half",
        source="joint diagonalisation, Flury and Gautschi (1986), Pham (2001)",
        meaning="What no rotation of the latent space repairs. Undefined where the gap is 0 already, or J is "
        "constant.",
        misleads="The search can end in a local optimum; with few latents R* overfits.",
        remedy="More --samples; `vaeprobe orthogonality --save-rotation` writes the rotation.",
    ),
    MetricSpec(
        id="factorise.modulation_rotated",
        title="cross at best rotation",
        better="lower",
        range="[0, inf)",
        formula="max_i cross_i of f(R* z)",
        source="C2 in the rotated basis",
        meaning="Whether the seams of a rotated decoder are independent as well. Measured where the verdict is "
        "rotated.",
        misleads="As for `factorise.modulation`.",
        remedy="As for `factorise.modulation`.",
    ),
    MetricSpec(
        id="factorise.curved_dependence",
        title="M of curved seams",
        better="lower",
        range="[0, 1]",
        formula="mean_z |M| / (1 + sum of the absolute terms of M); M_ij is the mixed derivative of the log density "
        "in the coordinates of seams i and j",
        source=f"{PAPER}, Section 4.1.3, cases (1) and (2)",
        meaning="0 iff curved seams are statistically independent (rays and circles), given that they form "
        "coordinates; parabolic seams have 0.3.",
        misleads="Needs derivatives of singular vectors: undefined on networks with kinks, where nothing can be "
        "said, and where singular values are too close for the rounding.",
        remedy="--dtype float64 where rounding is the reason.",
    ),
    MetricSpec(
        id="factorise.curved_modulation",
        title="curved C2",
        better="lower",
        range="[0, 1]",
        formula="mean_z |B| / (1 + terms), B_ij = v_j(log s_i) + v_j(log h_i), h_i the latent length per unit of "
        "seam coordinate i",
        source=f"{PAPER}, Section 4.1.3",
        meaning="0 iff the density factor of each curved seam depends on that seam's own coordinate alone.",
        misleads="As for `factorise.curved_dependence`.",
        remedy="As for `factorise.curved_dependence`.",
    ),
    MetricSpec(
        id="factorise.curved_twist",
        title="twist of curved seams",
        better="lower",
        range="[0, 1]",
        formula="mean_z |part of [v_i, v_j] outside span(v_i, v_j)| / (1 + bending)",
        source="Frobenius' theorem",
        meaning="0 iff the seams are coordinate lines of something, which is always so for two latents.",
        misleads="As for `factorise.curved_dependence`.",
        remedy="`vaeprobe trace` measures the same as the closure defect of loops.",
    ),
)
SPECS = specs_by_id((*LATENTS, *METRICS))


@dataclass(frozen=True, kw_only=True)
class FactoriseResult(Result):
    """How the generated density factorises; `evidence` holds everything the verdict rests on."""

    command: ClassVar[str] = "factorise"
    CARRIED = (
        ("factorise.gap", "factorise.gap_null"),
        ("factorise.modulation",),
        ("factorise.mean_own_share",),
        ("latents.active", "latents.dim"),
    )

    latents_dim = Measured("latents.dim")
    latents_active = Measured("latents.active")
    gap = Measured("factorise.gap")
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
        return [f"z{self.evidence.continuous[i]}" for i in self.evidence.active]

    def sections(self) -> tuple[Section, ...]:
        evidence = self.evidence
        if evidence.spread is None:
            return ()
        sections: list[Section] = [self._tests(), self._per_latent()]
        shown = self.latents[:SHOWN]
        rest = len(self.latents) - len(shown)
        note = f"; the first {len(shown)} of {len(self.latents)}, --json has them all" if rest else ""
        if evidence.pairs is not None and not evidence.spread.largest.likely_zero:
            pairs = _rows(evidence.pairs)
            sections.append(
                Heatmap(
                    title="Change of log column length (row) when one latent (column) is redrawn",
                    matrix=[row[: len(shown)] for row in pairs[: len(shown)]],
                    row_labels=shown,
                    column_labels=shown,
                    high=max(max(row) for row in pairs) or 1.0,
                    note="off the diagonal: one latent modulates another's strength" + note,
                )
            )
        if evidence.factors is not None and evidence.factors.correlations.p <= 0.05:
            matrix = _rows(evidence.factors.correlations.matrix)
            sections.append(
                Heatmap(
                    title="|correlation| of the log seam factors",
                    matrix=[
                        [None if i == j else abs(v) for j, v in enumerate(row[: len(shown)])]
                        for i, row in enumerate(matrix[: len(shown)])
                    ],
                    row_labels=shown,
                    column_labels=shown,
                    note="factors p(z_i) / n_i of independent components have none" + note,
                )
            )
        return tuple(sections)

    def _tests(self) -> Table:
        return Table(
            title="Evidence",
            columns=["test", "value", "95 % interval", "zero is", "holds"],
            rows=[
                [t["test"], _clean(t["value"]), _interval(t["ci"]), _limit(t["limit"]), _holds(t["holds"])]
                for t in self._rows_of_tests()
            ],
            note="holds: the interval lies under what counts as zero; fails: above; open: neither",
        )

    def _rows_of_tests(self) -> list[dict[str, Any]]:
        """Return each test of the verdict: what it asks, its number, and whether it holds."""
        e = self.evidence
        curved = e.curved
        tests: list[tuple[str, Decision | None]] = [
            ("linear: variance of J", e.variation),
            ("C1: gap (nats)", e.gap),
            ("C2: largest cross", e.spread.largest if e.spread else None),
            ("C1 at best rotation", e.gap_rotated),
            ("C2 at best rotation", e.spread_rotated.largest if e.spread_rotated else None),
            ("curved: M", curved.dependence if curved else None),
            ("curved: C2", curved.modulation if curved else None),
            ("curved: twist", curved.twist if curved else None),
        ]
        return [
            {
                "test": name,
                "value": decision.value,
                "ci": list(decision.ci) if decision.ci else None,
                "limit": decision.limit,
                "holds": decision.zero,
                "n": decision.n,
            }
            for name, decision in tests
            if decision is not None
        ]

    def _per_latent(self) -> Table:
        spread = self.evidence.spread
        assert spread is not None
        rows: list[list[Value]] = []
        for i, name in enumerate(self.latents):
            rows.append(
                [
                    name,
                    _clean(spread.deviation[i]),
                    _clean(spread.cross[i]),
                    spread.own_share[i],
                    _interval(spread.own_share_ci[i]),
                    self._strongest(i),
                ]
            )
        return Table(
            title="Column lengths n_i of the active latents",
            columns=["latent", "sd log n", "cross", "own share", "95 % interval", "modulated most by"],
            rows=rows,
            note="cross: what other latents change of log n; own share: what is left to z_i; – constant",
        )

    def _strongest(self, i: int) -> str | None:
        """Return which other latent modulates column i most, where anything does."""
        pairs = self.evidence.pairs
        if pairs is None:
            return None
        row = pairs[i].tolist()
        row[i] = 0.0
        j = max(range(len(row)), key=row.__getitem__)
        return f"{self.latents[j]} ({row[j]:.2g})" if row[j] > 1e-3 else None

    def per_sample(self) -> Mapping[str, Sequence[float]]:
        return {"factorise.gap": self.evidence.contrast.tolist()} if self.evidence.gap else {}

    def details(self) -> dict[str, Any]:
        e = self.evidence
        return {
            "latents": self.latents,
            "tests": self._rows_of_tests(),
            "undecided": list(e.undecided),
            "drawn": e.drawn,
            "usable": e.usable,
            "spread": _spread_json(e.spread),
            "pairs": None if e.pairs is None else {"cross": _rows(e.pairs), "n": e.pair_rows},
            "factors": _factors_json(e.factors),
            "smoothness": None if e.smooth is None else {"kind": e.smooth.kind, "why": e.smooth.why},
            "derivatives": None if e.derivatives is None else _rows(e.derivatives),
            "tied": e.tied,
            "rotation": None if e.rotation is None else _rows(e.rotation.R),
            "gap_held_out": e.gap_held_out,
            "spread_rotated": _spread_json(e.spread_rotated),
            "factors_rotated": _factors_json(e.factors_rotated),
            "curved": None
            if e.curved is None
            else {
                "state": e.curved.state,
                "why": e.curved.why,
                "tied_share": e.curved.tied,
                "n": e.curved.rows,
            },
        }


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
        active_threshold: share of the largest mean column norm above which a latent is active; so is one whose
            column is short on average, where other latents change its norm by more than that.

    Source: Allen (2024), arXiv:2410.22559v1, Section 4.1.

    Examples:
        vaeprobe factorise model.safetensors
        vaeprobe factorise model.pt --likelihood bernoulli --samples 1024 -o page.html
    """

    NAME: ClassVar[str] = "factorise"
    METRICS: ClassVar[tuple[MetricSpec, ...]] = METRICS

    max_samples: int = option(
        4096, help="Latents to draw at most, to decide the verdict.", min=2, panel="Sampling"
    )
    margin: float = option(1e-4, help="Gap in nats that counts as none.", min=1e-12)
    permutations: int = option(499, help="Permutations of the tests of dependence.", min=19)
    active_threshold: float = option(
        0.05, help="Share of the largest mean column norm above which a latent is active.", min=0.0, max=1.0
    )

    def measure(self, decoder: Decoder) -> FactoriseResult:
        """Return how the density that a decoder generates factorises.

        Raises:
            UsageError: the outputs do not fit the likelihood, or the source of latents does not fit the decoder.
        """
        from vaeprobe.geometry.factorisation import gather

        source = self.source()
        likelihood = self.metric_likelihood(decoder)
        few = source.draw(decoder, min(self.samples, 64), seed=self.seed)
        findings = [*decoder.notes, *self.likelihood_findings(decoder, few)]
        evidence = gather(
            decoder,
            source,
            samples=self.samples,
            max_samples=max(self.samples, self.max_samples),
            seed=self.seed,
            margin=self.margin,
            threshold=self.active_threshold,
            permutations=self.permutations,
            likelihood=likelihood,
            chunk=self.chunk,
        )
        return FactoriseResult(
            metrics=_metrics(decoder, evidence),
            verdict=evidence.verdict,
            summary=_summary(evidence, likelihood.name if likelihood else None),
            findings=(*findings, *_findings(evidence)),
            settings={
                **self.settings(decoder),
                "drawn": evidence.drawn,
                "metric": "euclidean" if likelihood is None else likelihood.name,
            },
            artifact=decoder.artifact,
            evidence=evidence,
        )


# -- numbers ------------------------------------------------------------------------------------


def _metrics(decoder: Decoder, e: Evidence) -> dict[str, Metric]:
    unmeasured = e.undefined or "not measured"
    constant = e.constant
    n = e.usable
    spread, factors, curved = e.spread, e.factors, e.curved

    def decided(id: str, decision: Decision | None, reason: str, *, method: str = "") -> Metric:
        if decision is None:
            return Metric.undefined(SPECS[id], reason)
        return Metric(
            SPECS[id],
            decision.value,
            ci=decision.ci,
            level=0.95,
            n=decision.n,
            method=method or None,
        )

    def plain(id: str, value: Any, reason: str, **more: Any) -> Metric:
        return (
            Metric.undefined(SPECS[id], reason)
            if value is None
            else Metric(SPECS[id], value, n=more.pop("n", n), **more)
        )

    linearity = None
    if e.variation is not None:
        low, high = e.variation.ci or (e.variation.value,) * 2
        linearity = (1 - e.variation.value, (1 - high, 1 - low))
    if e.derivatives is not None:
        off = e.derivatives.clone()
        off.fill_diagonal_(0)
        derivative: list[float] | None = off.square().sum(1).sqrt().tolist()
    else:
        derivative = None
    if e.smooth is not None and not e.smooth.smooth:
        vacuous = f"vacuous: {e.smooth.why}" if e.smooth.kind != "unknown" else e.smooth.why
    else:
        vacuous = unmeasured if e.undefined else "the decoder has no second derivatives to be had"
    not_rotated = (
        unmeasured
        if e.undefined
        else ("the Jacobian is constant" if constant else "the columns are orthogonal at the given axes")
    )
    if e.undefined:
        straight = unmeasured
    elif curved is not None:
        straight = f"undetermined: {curved.why}"
    else:
        straight = f"not needed: the decoder is {e.leaning}"
    dead_column = "a column has length zero at most latents"
    return metric_map(
        [
            Metric(SPECS["latents.dim"], decoder.latent_dim),
            Metric(SPECS["latents.active"], len(e.active), n=e.drawn),
            Metric(SPECS["factorise.verdict"], e.verdict, n=n),
            decided("factorise.gap", e.gap, unmeasured, method="mean over latents, bootstrap"),
            plain("factorise.gap_null", e.gap_null, unmeasured, method="50 random rotations"),
            Metric.undefined(SPECS["factorise.linearity"], unmeasured)
            if linearity is None or e.variation is None
            else Metric(
                SPECS["factorise.linearity"],
                linearity[0],
                ci=linearity[1],
                level=0.95,
                n=e.variation.n,
                method="differences between independent latents, bootstrap",
            ),
            plain(
                "factorise.cross",
                list(spread.cross) if spread else None,
                unmeasured,
                method="frozen coordinate",
            ),
            decided(
                "factorise.modulation",
                spread.largest if spread else None,
                unmeasured,
                method="frozen coordinate",
            ),
            plain("factorise.own_share", list(spread.own_share) if spread else None, unmeasured),
            plain(
                "factorise.mean_own_share",
                spread.mean_own_share if spread else None,
                unmeasured if spread is None else "all column lengths are constant",
                ci=spread.mean_own_share_ci if spread else None,
                level=0.95,
            ),
            plain("factorise.derivative_cross", derivative, vacuous, method="nested forward mode"),
            plain(
                "factorise.seam_dependence",
                factors.correlations.largest if factors else None,
                dead_column if spread else unmeasured,
                n=factors.rows if factors else None,
            ),
            plain(
                "factorise.seam_dependence_p",
                factors.correlations.p if factors else None,
                dead_column if spread else unmeasured,
                n=factors.rows if factors else None,
                method="permutations, largest over pairs",
            ),
            plain(
                "factorise.distance_correlation",
                factors.distances.largest if factors else None,
                dead_column if spread else unmeasured,
                n=factors.distance_rows if factors else None,
            ),
            plain(
                "factorise.distance_correlation_p",
                factors.distances.p if factors else None,
                dead_column if spread else unmeasured,
                n=factors.distance_rows if factors else None,
                method="permutations, largest over pairs",
            ),
            decided(
                "factorise.gap_rotated",
                e.gap_rotated,
                not_rotated,
                method="held-out half, bootstrap",
            ),
            decided(
                "factorise.modulation_rotated",
                e.spread_rotated.largest if e.spread_rotated else None,
                not_rotated
                if e.gap_rotated is None
                else "the columns are not orthogonal after a rotation either",
            ),
            decided("factorise.curved_dependence", curved.dependence if curved else None, straight),
            decided("factorise.curved_modulation", curved.modulation if curved else None, straight),
            decided("factorise.curved_twist", curved.twist if curved else None, straight),
        ]
    )


def _rows(matrix: Tensor) -> list[list[float]]:
    rows: list[list[float]] = matrix.tolist()
    return rows


def _spread_json(spread: Spread | None) -> dict[str, Any] | None:
    if spread is None:
        return None
    return {
        "cross": list(spread.cross),
        "cross_ci": [list(ci) for ci in spread.cross_ci],
        "sd_log_length": list(spread.deviation),
        "own_share": list(spread.own_share),
        "own_share_ci": [None if ci is None else list(ci) for ci in spread.own_share_ci],
    }


def _factors_json(factors: Factors | None) -> dict[str, Any] | None:
    if factors is None:
        return None
    return {
        "correlations": _rows(factors.correlations.matrix),
        "correlation_p": _rows(factors.correlations.p_pairs),
        "n": factors.rows,
        "distance_correlations": _rows(factors.distances.matrix),
        "distance_correlation_p": _rows(factors.distances.p_pairs),
        "distance_n": factors.distance_rows,
    }


# -- words --------------------------------------------------------------------------------------


def _clean(value: float) -> float:
    """Return 0 for what is left of 0 after rounding: tables show no 1e-16."""
    return 0.0 if abs(value) < 1e-9 else value


def _interval(ci: Sequence[float] | None) -> str | None:
    return None if ci is None else f"{_short(ci[0])} – {_short(ci[1])}"


def _short(value: float) -> str:
    return f"{_clean(value):.3g}"


def _limit(value: float) -> str:
    return f"under {value:.2g}"


def _holds(zero: bool | None) -> str:
    return {True: "holds", False: "fails", None: "open"}[zero]


def _summary(e: Evidence, likelihood: str | None) -> str:
    """Return the verdict as a researcher would write it."""
    if e.undefined or e.gap is None or e.spread is None or e.gap_null is None:
        return f"Undefined: {e.undefined}."
    active, k = len(e.active), len(e.continuous)
    count = "" if active == k else f"{active} of {k} latents are active. "
    if likelihood is not None:
        count = f"{count}Measured in the metric of a {likelihood.capitalize()} likelihood. "
    lengths = _lengths(e.spread, _worst(e))
    jumps = " It jumps between latents, and what is said holds apart from the jumps." if e.jumps else ""
    gap = _short(e.gap.value)
    match e.verdict:
        case "undetermined":
            # the parts of the sentence that are decided are left to the table of evidence
            questions = [QUESTIONS[test] for test in e.undecided]
            return (
                f"{count}Undetermined: {e.drawn} latents leave open {' and '.join(questions)}. The estimates point "
                f"to `{e.leaning}` (gap {gap} nats, largest cross {_short(e.spread.largest.value)}).{jumps}"
            )
        case "linear":
            where = (
                "the given axes are its seams"
                if e.gap.likely_zero
                else f"its singular vectors are not the given axes (gap {gap} nats there)"
            )
            return (
                f"{count}The decoder is linear: its density factorises along its singular vectors, and {where}."
                f"{_exceptions(e.variation)}"
            )
        case "independent":
            return (
                f"{count}Locally, where the decoder is one-to-one, the density factorises into independent components "
                f"along the latent axes: the columns are orthogonal (gap {gap} nats against {_short(e.gap_null)} at "
                f"random axes) and the length of each depends on its own latent alone.{_exceptions(e.gap)}{jumps}"
            )
        case "dependent":
            tied = " All singular values are equal, so no basis is special." if e.tied else ""
            return (
                f"{count}Locally, where the decoder is one-to-one, the density factorises along the latent axes, but "
                f"not into independent components: the columns are orthogonal (gap {gap} nats), and {lengths}."
                f"{tied}{jumps}"
            )
        case "rotated":
            assert e.gap_rotated is not None
            assert e.spread_rotated is not None
            also = {
                True: "there the components are independent as well",
                False: f"there the components are still dependent ({_lengths(e.spread_rotated)})",
                None: f"whether the components are independent there, {e.spread_rotated.largest.n} latents leave open",
            }[e.spread_rotated.largest.zero]
            return (
                f"{count}Locally, where the decoder is one-to-one, the density factorises after one rotation of the "
                f"latent space, which takes the gap from {gap} to {_short(e.gap_rotated.value)} nats; {also}.{jumps}"
            )
        case "curved":
            return (
                f"{count}Locally, where the decoder is one-to-one, the density factorises into independent components "
                f"along curved seams: no rotation makes the columns orthogonal (gap {gap} nats), and the seams bend "
                f"so that the mixed derivative of the log density along them is 0.{jumps}"
            )
        case _:
            return (
                f"{count}The density does not factorise along straight seams, strictly. {_oblique(e)}, and {lengths}."
                f"{_bent(e)}{jumps}"
            )


# what each test of the verdict asks, as the object of "leave open"
QUESTIONS = {
    "linear": "whether the Jacobian is constant",
    "C1": "whether the columns are orthogonal",
    "C2": "whether the length of each column depends on its own latent alone",
    "C1 after a rotation": "whether a rotation makes the columns orthogonal",
}


def _exceptions(decision: Decision | None) -> str:
    """Return what so many latents cannot exclude, as a sentence."""
    from vaeprobe.geometry.decisions import rule_of_three

    if decision is None:
        return ""
    return f" Rare exceptions, at most {rule_of_three(decision.n):.2%} of the latents, would go unseen."


def _oblique(e: Evidence) -> str:
    """Return how far the columns are from orthogonal, as a clause."""
    assert e.gap is not None
    assert e.gap_null is not None
    share = e.gap.value / e.gap_null if e.gap_null > 0 else 1.0
    degree = "nearly orthogonal" if share < NEARLY else "partly orthogonal" if share < PARTLY else "oblique"
    rotated = f"; the best rotation leaves {_short(e.gap_rotated.value)}" if e.gap_rotated else ""
    gap = f"gap {_short(e.gap.value)} nats against {_short(e.gap_null)} at random axes{rotated}"
    return f"The columns are {degree} ({gap})"


def _bent(e: Evidence) -> str:
    """Return what is known of curved seams, as a sentence."""
    if e.curved is None:
        return ""
    judged = (
        "Curved seams cannot be judged" if e.curved.state == "undetermined" else "Curved seams are dependent"
    )
    return f" {judged}: {e.curved.why}."


def _lengths(spread: Spread, worst: str = "") -> str:
    """Return how far column lengths are their latents' own, as a clause."""
    if spread.largest.zero or spread.mean_own_share is None:
        return "the length of each depends on its own latent alone"
    share = spread.mean_own_share
    degree = "mostly on their own latent" if share > MOSTLY_OWN else "on other latents as well"
    if share < PARTLY_OWN:
        degree = "mostly on other latents"
    return f"their lengths depend {degree} (mean own share {share:.2f}{worst})"


def _worst(e: Evidence) -> str:
    """Return which column other latents change most, and which of them does, as the end of a bracket."""
    if e.spread is None or e.pairs is None:
        return ""
    i = max(range(len(e.active)), key=e.spread.cross.__getitem__)
    row = e.pairs[i].clone()
    row[i] = 0
    changed, by = (f"z{e.continuous[e.active[at]]}" for at in (i, int(row.argmax())))
    factor = math.exp(e.spread.cross[i])
    return f"; others change the length of {changed} by a factor {factor:.2g} (rms), {by} most of all"


def _findings(e: Evidence) -> list[Finding]:
    findings = []
    if e.undefined:
        return [Finding(FACTORISE_UNDEFINED, f"no verdict: {e.undefined}")]
    inactive = [f"z{c}" for i, c in enumerate(e.continuous) if i not in set(e.active)]
    if inactive:
        listed = ", ".join(inactive[:8]) + (", ..." if len(inactive) > 8 else "")
        findings.append(
            Finding(
                INACTIVE_LATENTS,
                f"left out as inactive: {len(inactive)} of {len(e.continuous)} continuous latents ({listed})",
            )
        )
    if e.usable < e.drawn:
        findings.append(
            Finding(
                RANK_DEFICIENT,
                f"the active columns are linearly dependent at {e.drawn - e.usable} of {e.drawn} latents, "
                "which are left out",
            )
        )
    if e.undecided:
        findings.append(
            Finding(
                UNDECIDED,
                f"{e.drawn} latents leave open: {', '.join(e.undecided)}; the estimates point to "
                f"`{e.leaning}`",
                hint="raise --max-samples, or choose another --margin",
            )
        )
    if e.jumps:
        findings.append(
            Finding(
                DISCONTINUOUS,
                f"the decoder jumps on {e.jumps:.0%} of the segments between latents: its Jacobian knows "
                "nothing of jumps, and a constant one does not make it linear",
            )
        )
    if e.tied:
        findings.append(
            Finding(
                TIED_SINGULAR_VALUES,
                "all singular values are equal at every latent: every orthogonal basis is a set of seams, and "
                "what is said of lengths is about the given axes",
            )
        )
    if e.smooth is not None and not e.smooth.smooth:
        vacuous = (
            "derivative tests of C2 and of curved seams are vacuous"
            if e.smooth.kind != "unknown"
            else ("derivative tests of C2 and of curved seams are not to be had")
        )
        findings.append(
            Finding(
                NOT_SMOOTH,
                f"{e.smooth.why}: {vacuous}; C2 rests on differences, which work for every network",
            )
        )
    if e.curved is not None and e.curved.tied > 0:
        findings.append(
            Finding(
                TIED_SEAMS,
                f"some singular values are equal at {e.curved.tied:.0%} of the latents: those seams are not "
                "identified one by one and are tested as one block",
            )
        )
    return findings
