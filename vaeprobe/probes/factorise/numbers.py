"""The numbers of `factorise`, as they follow from the evidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vaeprobe.budget import NO_TIME
from vaeprobe.probes.factorise.metrics import SPECS
from vaeprobe.probes.orthogonality.metrics import dim_beside
from vaeprobe.report import Json, Metric, OfAll, Value, metric_map

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.geometry.decisions import Decision
    from vaeprobe.geometry.dependence import PairTest
    from vaeprobe.geometry.factorisation import Evidence, Extra
    from vaeprobe.geometry.factors import Factors
    from vaeprobe.geometry.spread import Spread


# What numbers along a part of the latents say of all: more columns never lower a contrast or a maximum.
OF_ALL: dict[str, OfAll] = {
    "latents.dim": "known",
    "latents.active": "at least",
    "factorise.gap": "at least",
    "factorise.modulation": "at least",
}

# What numbers say of all latents where some are left out at which the columns are linearly dependent: contrasts are larger
# there, or infinite.
OF_INDEPENDENT: dict[str, OfAll] = {
    "factorise.gap": "at least",
    "factorise.gap_null": "at least",
    "factorise.gap_rotated": "at least",
    "factorise.true_gap": "at least",
    "factorise.explained": "open",
}
# And where a column has length zero at some: it has no logarithm.
OF_LENGTHS: dict[str, OfAll] = {
    "factorise.true_gap": "open",
    "factorise.cross": "at least",
    "factorise.modulation": "at least",
    "factorise.own_share": "open",
    "factorise.modulation_rotated": "open",
    "factorise.mean_own_share": "open",
    "factorise.seam_dependence": "open",
    "factorise.distance_correlation": "open",
    "factorise.dependence": "open",
}


def verdicts_of_all(e: Evidence, verdicts: Iterable[str]) -> tuple[str, ...]:
    """Return the verdicts that all latents may have where these are some of them: what a part decides against is."""
    against: set[str] = set()
    if not e.undefined and e.gap and e.variation and e.spread:
        if e.variation.zero is False:
            against.add("linear")
        if e.gap.zero is False:
            against |= {"independent", "dependent"}
        if e.spread.largest.zero is False:
            against |= {"linear", "independent"}
    return tuple(word for word in verdicts if word not in against)


def latent_names(e: Evidence) -> list[str]:
    """Return the names of the active latents, `z0` being column 0 of the latent tensor."""
    return [f"{e.letter}{e.continuous[i]}" for i in e.active]


def metrics(decoder: Decoder, e: Evidence, part: str = "") -> dict[str, Metric]:
    """Return every metric, with what it says of latents that are left out.

    Args:
        part: which latents were measured, "" where all were.
    """
    found = _metrics(decoder, e, part)
    lost = e.drawn - e.usable
    if e.undefined or not lost:
        return found
    rank = f"the active columns are linearly dependent at {lost} of {e.drawn} latents"
    length = f"an active column has length zero at {e.zeros} of {e.drawn} latents"
    known = {id: (of_all, rank) for id, of_all in OF_INDEPENDENT.items()}
    known |= {id: (of_all, length) for id, of_all in OF_LENGTHS.items()} if e.zeros else {}
    return {
        id: replace(m, of_all=known[id][0], reason=known[id][1]) if id in known and m.defined else m
        for id, m in found.items()
    }


def _metrics(decoder: Decoder, e: Evidence, part: str) -> dict[str, Metric]:
    """Return every metric, of the latents at which it has a value."""
    from vaeprobe.geometry.factors import FEWEST_ROWS
    from vaeprobe.intervals import LEVEL, p_value_interval

    unmeasured = e.undefined or "not measured"
    constant = e.constant
    n = e.usable
    spread, factors, curved = e.spread, e.factors, e.curved

    def lacking(extra: Extra, reason: str) -> str:
        return NO_TIME if extra in e.skipped else reason

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

    def plain(id: str, value: Value, reason: str, **more: Any) -> Metric:
        return (
            Metric.undefined(SPECS[id], reason)
            if value is None
            else Metric(SPECS[id], value, n=more.pop("n", n), **more)
        )

    def tested(id: str, found: PairTest | None, rows: int | None) -> list[Metric]:
        """Return a statistic that is the largest over pairs of latents, and its p-value."""
        few = f"pairs are tested at {FEWEST_ROWS} latents or more, and {e.drawn} were measured"
        zeros = few if e.drawn < FEWEST_ROWS else "a column has length zero at most latents"
        reason = lacking("factors", zeros if spread else unmeasured)
        if found is None:
            return [Metric.undefined(SPECS[each], reason) for each in (id, f"{id}_p")]
        how = f"{found.permutations} permutations, largest over pairs; interval over permutations"
        ci = p_value_interval(found.p, found.permutations)
        return [
            plain(id, found.largest, reason, n=rows),
            plain(f"{id}_p", found.p, reason, ci=ci, level=LEVEL, n=rows, method=how),
        ]

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
    if {"curved", "derivatives"} & e.skipped:
        vacuous = NO_TIME
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
        straight = lacking("curved", f"not needed: the decoder is {e.leaning}")
    return metric_map(
        [
            dim_beside(decoder.latent_dim, len(decoder.continuous) if part else None),
            plain(
                "latents.active",
                None if e.rounding else len(e.active),
                unmeasured,
                n=e.drawn,
                method=f"of {part}" if part else "",
            ),
            Metric(SPECS["factorise.verdict"], e.verdict, n=n),
            decided("factorise.gap", e.gap, unmeasured, method="mean over latents, bootstrap"),
            *_sheet_metrics(e, lacking("sheets", unmeasured)),
            plain(
                "factorise.gap_null",
                e.gap_null,
                unmeasured,
                method=f"{0 if e.null is None else len(e.null)} random rotations",
            ),
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
            *tested(
                "factorise.seam_dependence",
                *((factors.correlations, factors.rows) if factors else (None, None)),
            ),
            *tested(
                "factorise.distance_correlation",
                *((factors.distances, factors.distance_rows) if factors else (None, None)),
            ),
            *_grade_metrics(e, lacking("grades", unmeasured)),
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
        looked = e.undefined or "sheets" in e.skipped
        why = unmeasured if looked else "other latents with the same output were not looked for"
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


def tests(e: Evidence) -> list[Json]:
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


def details(e: Evidence) -> Json:
    """Return matrices and rows per latent, JSON-able."""
    return {
        "latents": latent_names(e),
        "tests": tests(e),
        "undecided": list(e.undecided),
        "drawn": e.drawn,
        "usable": e.usable,
        "null_gaps": None if e.null is None else [float(f"{c:.6g}") for c in e.null.tolist()],
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


def _spread_json(spread: Spread | None) -> Json | None:
    if spread is None:
        return None
    return {
        "cross": list(spread.cross),
        "cross_ci": [list(ci) for ci in spread.cross_ci],
        "sd_log_length": list(spread.deviation),
        "own_share": list(spread.own_share),
        "own_share_ci": [None if ci is None else list(ci) for ci in spread.own_share_ci],
    }


def _factors_json(factors: Factors | None) -> Json | None:
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
