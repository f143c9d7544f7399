"""The pictures of `factorise`: the evidence test by test, the latents, who modulates whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vaeprobe.probes.factorise.numbers import clean, latent_names, rows_of, short, tests
from vaeprobe.report import Heatmap, Histogram, Section, Table, Value

if TYPE_CHECKING:
    from vaeprobe.geometry.factorisation import Evidence

# Latents shown in a heat map.
SHOWN = 20


def sections(evidence: Evidence) -> tuple[Section, ...]:
    """Return the tests of the verdict, the latents, and who modulates or depends on whom."""
    names = latent_names(evidence)
    if evidence.spread is None:
        return ()
    sections: list[Section] = [_tests(evidence), *_chance(evidence), _per_latent(evidence)]
    shown = names[:SHOWN]
    rest = len(names) - len(shown)
    note = f"; the first {len(shown)} of {len(names)}, --json has them all" if rest else ""
    if evidence.pairs is not None and not evidence.spread.largest.likely_zero:
        pairs = rows_of(evidence.pairs)
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
        matrix = rows_of(evidence.factors.correlations.matrix)
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


def _tests(evidence: Evidence) -> Table:
    return Table(
        title="Evidence",
        columns=["test", "value", "95 % interval", "zero is", "holds"],
        rows=[
            [t["test"], clean(t["value"]), _interval(t["ci"]), _limit(t["limit"]), _holds(t["holds"])]
            for t in tests(evidence)
        ],
        note="holds: the interval lies under what counts as zero; fails: above; open: neither",
    )


def _chance(evidence: Evidence) -> list[Section]:
    """Return how the gap is spread under random rotations, the axes and R* marked."""
    null, gap, rotated = evidence.null, evidence.gap, evidence.gap_rotated
    if null is None or gap is None or len(null) < 2 or not bool(null.isfinite().all()):
        return []
    marks = {"these axes": gap.value} | ({"R* (held out)": rotated.value} if rotated else {})
    return [
        Histogram(
            title=f"Gap under {len(null)} random rotations of the latent space",
            draws=null.tolist(),
            marks=marks,
            x_label="gap (nats)",
        )
    ]


def _per_latent(evidence: Evidence) -> Table:
    spread, names = evidence.spread, latent_names(evidence)
    assert spread is not None
    rows: list[list[Value]] = []
    for i, name in enumerate(names):
        rows.append(
            [
                name,
                clean(spread.deviation[i]),
                clean(spread.cross[i]),
                spread.own_share[i],
                _interval(spread.own_share_ci[i]),
                _strongest(evidence, i),
            ]
        )
    return Table(
        title="Column lengths n_i of the active latents",
        columns=["latent", "sd log n", "cross", "own share", "95 % interval", "modulated most by"],
        rows=rows,
        note="cross: what other latents change of log n; own share: what is left to z_i; – constant",
    )


def _strongest(evidence: Evidence, i: int) -> str | None:
    """Return which other latent modulates column i most, where anything does."""
    pairs, names = evidence.pairs, latent_names(evidence)
    if pairs is None:
        return None
    row = pairs[i].tolist()
    row[i] = 0.0
    j = max(range(len(row)), key=row.__getitem__)
    return f"{names[j]} ({row[j]:.2g})" if row[j] > 1e-3 else None


def _interval(ci: Sequence[float] | None) -> str | None:
    return None if ci is None else f"{short(ci[0])} – {short(ci[1])}"


def _limit(value: float) -> str:
    return f"under {value:.2g}"


def _holds(zero: bool | None) -> str:
    return {True: "holds", False: "fails", None: "open"}[zero]
