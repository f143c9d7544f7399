"""The numbers of `factorise`: what they mean, and how they follow from the evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaeprobe.probes.orthogonality.metrics import LATENTS
from vaeprobe.report import Metric, MetricSpec, metric_map, specs_by_id

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.geometry.decisions import Decision
    from vaeprobe.geometry.factorisation import Evidence
    from vaeprobe.geometry.factors import Factors
    from vaeprobe.geometry.spread import Spread

PAPER = "Allen (2024), arXiv:2410.22559v1"

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
        id="factorise.sheets",
        title="share with other sheets",
        better="lower",
        range="[0, 1]",
        formula="share of latents z with sum over z' != z, f(z') = f(z), of p(z') / sqrt(det G(z')) above 1 % of "
        "the own term",
        source="area formula; exact binomial interval, Clopper and Pearson (1934)",
        meaning="How often another latent has the same output and adds to its density. Statements about p(x) from "
        "one Jacobian need 0: a one-to-one (injective) decoder.",
        misleads="0 found is a bound, the interval's end, on what the search finds, and no proof. Active latents "
        "alone move in it.",
        remedy="Read `factorise.true_gap`; --sheets looks at more latents.",
    ),
    MetricSpec(
        id="factorise.true_gap",
        title="gap over all sheets",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="mean_z [log sum over z' in f^-1(f(z)) of p(z') / sqrt(det G(z')) - sum_i log p_i]",
        source="area formula; equals `factorise.gap` where the decoder is one-to-one",
        meaning="How far the density of outputs is from the product of seam factors, other latents with the same "
        "output included. A fold that makes every output twice adds log 2.",
        misleads="Sheets that the search missed would raise it. Its interval leaves room for a second sheet at "
        "latents too rare to be probed.",
        remedy="--sheets looks at more latents.",
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
        id="factorise.dependence",
        title="dependence (at least)",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="-1/2 log det corr of the normal scores of l_i = log p(z_i) - log n_i(z), less its bias "
        "1/2 sum_i [psi((n-1)/2) - psi((n-i)/2)]",
        source="total correlation of a normal copula; bias by Bartlett's decomposition of a Wishart matrix",
        meaning="How dependent the log seam factors are, as a lower bound of their total correlation: a number to "
        "rank decoders by that all fail the strict test. 0 where they are independent.",
        misleads="Dependence without correlation (of ranks) is not counted, so 0 is no proof. It grows with the "
        "number of active latents.",
        remedy="Compare it with `factorise.dependence_null`, the same at random axes.",
    ),
    MetricSpec(
        id="factorise.dependence_null",
        title="dependence at random axes",
        beside="random axes",
        unit="nats",
        range="[0, inf)",
        formula="mean over 20 Haar R of `factorise.dependence` of f(R z)",
        source="rotation null; N(0, I) is invariant under R",
        meaning="How dependent the factors along an arbitrary orthogonal basis of the same latent space are.",
        misleads="As for `factorise.dependence`.",
        remedy="None needed.",
    ),
    MetricSpec(
        id="factorise.explained",
        title="log-density explained",
        better="higher",
        range="(-inf, 1]",
        formula="1 - Var(c) / Var(log p(x)), c = log p(x) - sum_i log p_i(x) at each latent",
        source=f"{PAPER}, Eqs. 14, 15",
        meaning="Share of the variation of log p(x) from output to output that the sum of log seam factors "
        "explains; 1 iff the gap is the same everywhere.",
        misleads="A gap that is large and constant is not counted: read `factorise.gap`. On one sheet.",
        remedy="Compare it with `factorise.explained_null`, the same at random axes.",
    ),
    MetricSpec(
        id="factorise.explained_null",
        title="explained at random axes",
        beside="random axes",
        range="(-inf, 1]",
        formula="mean over 20 Haar R of `factorise.explained` of f(R z)",
        source="rotation null; N(0, I) is invariant under R",
        meaning="What factors along an arbitrary orthogonal basis explain.",
        misleads="High where the prior's own part of log p(x) outweighs that of the Jacobian.",
        remedy="None needed.",
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


def latent_names(e: Evidence) -> list[str]:
    """Return the names of the active latents, `z0` being column 0 of the latent tensor."""
    return [f"z{e.continuous[i]}" for i in e.active]


def metrics(decoder: Decoder, e: Evidence, part: str = "") -> dict[str, Metric]:
    """Return every metric.

    Args:
        part: which latents were measured, "" where all were.
    """
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
            Metric(SPECS["latents.active"], len(e.active), n=e.drawn, method=f"of {part}" if part else ""),
            Metric(SPECS["factorise.verdict"], e.verdict, n=n),
            decided("factorise.gap", e.gap, unmeasured, method="mean over latents, bootstrap"),
            *_sheet_metrics(e, unmeasured),
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
            *_grade_metrics(e, unmeasured),
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


def _grade_metrics(e: Evidence, unmeasured: str) -> list[Metric]:
    found = []
    grades = e.grades
    for name, grade, how in (
        ("dependence", grades.dependence if grades else None, "normal scores, bias subtracted, bootstrap"),
        ("explained", grades.explained if grades else None, "bootstrap"),
    ):
        spec, null = SPECS[f"factorise.{name}"], SPECS[f"factorise.{name}_null"]
        if grades is None or grade is None:
            why = unmeasured if grades is None else "log p(x) does not vary"
            found += [Metric.undefined(spec, why), Metric.undefined(null, why)]
            continue
        level = 0.95 if grade.ci else None
        found += [
            Metric(spec, grade.value, ci=grade.ci, level=level, n=grades.rows, method=how),
            Metric(null, grade.null, n=grades.rows, method="20 random rotations"),
        ]
    return found


def _sheet_metrics(e: Evidence, unmeasured: str) -> list[Metric]:
    from vaeprobe.intervals import binomial_interval

    share, gap = SPECS["factorise.sheets"], SPECS["factorise.true_gap"]
    if e.sheets is None or e.gap_true is None:
        why = unmeasured if e.undefined else "other latents with the same output were not looked for"
        return [Metric.undefined(spec, why) for spec in (share, gap)]
    n, hits = len(e.sheets.shared), int(e.sheets.shared.sum())
    method = "Gauss-Newton from far latents with near outputs"
    return [
        Metric(
            share,
            hits / n,
            ci=binomial_interval(hits, n),
            level=0.95,
            n=n,
            method=f"{method}, exact binomial",
        ),
        Metric(gap, e.gap_true, ci=e.gap_true_ci, level=0.95, n=n, method=f"{method}, bootstrap"),
    ]


# -- the JSON form ------------------------------------------------------------------------------


def tests(e: Evidence) -> list[dict[str, Any]]:
    """Return each test of the verdict: what it asks, its number, and whether it holds."""
    curved = e.curved
    asked: list[tuple[str, Decision | None]] = [
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
        for name, decision in asked
        if decision is not None
    ]


def details(e: Evidence) -> dict[str, Any]:
    """Return matrices and rows per latent, JSON-able."""
    return {
        "latents": latent_names(e),
        "tests": tests(e),
        "undecided": list(e.undecided),
        "drawn": e.drawn,
        "usable": e.usable,
        "spread": _spread_json(e.spread),
        "pairs": None if e.pairs is None else {"cross": rows_of(e.pairs), "n": e.pair_rows},
        "factors": _factors_json(e.factors),
        "smoothness": None if e.smooth is None else {"kind": e.smooth.kind, "why": e.smooth.why},
        "derivatives": None if e.derivatives is None else rows_of(e.derivatives),
        "sheets": None
        if e.sheets is None
        else {
            "probed": len(e.sheets.count),
            "others_found": e.sheets.count.tolist(),
            "log_density_over_own": e.sheets.others.tolist(),
            "example": None if e.sheets.example is None else [z.tolist() for z in e.sheets.example],
        },
        "tied": e.tied,
        "rotation": None if e.rotation is None else rows_of(e.rotation.R),
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


def rows_of(matrix: Tensor) -> list[list[float]]:
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
        "correlations": rows_of(factors.correlations.matrix),
        "correlation_p": rows_of(factors.correlations.p_pairs),
        "n": factors.rows,
        "distance_correlations": rows_of(factors.distances.matrix),
        "distance_correlation_p": rows_of(factors.distances.p_pairs),
        "distance_n": factors.distance_rows,
    }


# -- numbers as text ----------------------------------------------------------------------------


def clean(value: float) -> float:
    """Return 0 for what is left of 0 after rounding: tables show no 1e-16."""
    return 0.0 if abs(value) < 1e-9 else value


def short(value: float) -> str:
    return f"{clean(value):.3g}"
