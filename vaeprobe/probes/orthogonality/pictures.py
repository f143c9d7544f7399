"""The pictures of `orthogonality`: angles, norms, singular values, and numbers beside what chance gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from vaeprobe.report import Bars, Heatmap, Histogram, Metric, Section, Table, Value

if TYPE_CHECKING:
    from vaeprobe.probes.orthogonality.reading import Reading

# Latents shown in a picture.
SHOWN = 24


def sections(
    *,
    names: Sequence[str],
    active: Sequence[int],
    cosines: Sequence[Sequence[float | None]] | None,
    norms: Sequence[float],
    spectrum: Sequence[float],
    threshold: float,
    tables: Sequence[Table],
    null: Sequence[float],
    metrics: Mapping[str, Metric],
) -> tuple[Section, ...]:
    """Return the page's tables and pictures; see `OrthogonalityResult` for the arguments."""
    out: list[Section] = []
    if cosines is not None:
        shown = _strongest(active, norms)
        places = [active.index(i) for i in shown]
        out.append(
            Heatmap(
                title="Mean |cos| between the columns of active latents",
                matrix=[[cosines[i][j] for j in places] for i in places],
                row_labels=[names[i] for i in shown],
                column_labels=[names[i] for i in shown],
                note=_rest(f"the {len(shown)} strongest", len(shown), len(active)),
                diagonal=False,
            )
        )
    out += _chance(null, metrics)
    out += tables
    if norms:
        shown = _strongest(range(len(norms)), norms)
        out.append(
            Bars(
                title="Mean column norm of each latent",
                labels=[names[i] for i in shown],
                values=[norms[i] for i in shown],
                mark=threshold * max(norms),
                mark_label=f"active above {threshold:g} of the largest",
                note=_rest(f"the {len(shown)} strongest", len(shown), len(norms)),
            )
        )
    if len(spectrum) > 1:
        values = spectrum[:SHOWN]
        out.append(
            Bars(
                title="Singular values of the active columns (root mean square)",
                labels=[f"s{i}" for i in range(len(values))],
                values=values,
                note=_rest(f"the first {len(values)}", len(values), len(spectrum)),
            )
        )
    return tuple(out)


def _chance(null: Sequence[float], metrics: Mapping[str, Metric]) -> list[Section]:
    """Return how the contrast is spread under random rotations, the axes and R* marked."""
    if len(null) < 2:
        return []
    named = {"these axes": "ima_contrast", "R* (held out)": "ima_contrast_rotated"}
    found = {name: metrics[f"orthogonality.{id}"].value for name, id in named.items()}
    marks = {name: value for name, value in found.items() if isinstance(value, float)}
    return [
        Histogram(
            title=f"Ima contrast under {len(null)} random rotations of the latent space",
            draws=null,
            marks=marks,
            x_label="ima contrast (nats)",
        )
    ]


def _strongest(indices: Iterable[int], norms: Sequence[float]) -> list[int]:
    """Return at most SHOWN latents, those of the largest norm, in their own order."""
    return sorted(sorted(indices, key=lambda i: -norms[i])[:SHOWN])


def _rest(what: str, shown: int, count: int) -> str:
    return f"{what} of {count}; --json has them all" if count > shown else ""


def tables(reading: Reading, metrics: Mapping[str, Metric]) -> list[Table]:
    """Return values beside what chance gives, and what a rotation repairs."""
    if reading.no_pairs or reading.singular or reading.alignment is None:
        return []

    def value(name: str) -> Value:
        return metrics[f"orthogonality.{name}"].value

    draws = reading.alignment.draws
    low, high = (float(q) for q in draws.quantile(draws.new_tensor([0.05, 0.95])))
    cosine, distance = reading.chance
    beside = Table(
        title="Beside chance",
        columns=["", "these axes", "random axes", "their 5-95 %", "Gaussian columns"],
        rows=[
            ["mean |cos|", value("mean_abs_cosine"), cosine, None, value("mean_abs_cosine_gaussian")],
            ["ima contrast", value("ima_contrast"), value("ima_contrast_null"), f"{low:.3g} - {high:.3g}",
             value("ima_contrast_gaussian")],
            ["shared by a pair (nats)", value("mutual_information"), value("mutual_information_null"), None,
             value("mutual_information_gaussian")],
            ["distance to axes", value("distance_to_axes"), distance, None, None],
            ["isometry defect", value("isometry_defect"), value("isometry_defect"), None,
             value("isometry_defect_gaussian")],
        ],
        note=f"the mean-field gap above supposes {reading.noise} (--beta-sigma2)",
    )  # fmt: skip
    importance = _importance(reading)
    if isinstance(reading.search, str):
        return [beside, importance]
    fit, held = reading.halves
    search = reading.search
    stay = search.R.diagonal()
    repair = Table(
        title="What a rotation R* repairs",
        columns=["ima contrast (nats)", "these axes", "at R*"],
        rows=[
            [f"{len(fit)} it was fitted on", search.start, search.contrast],
            [f"{len(held)} held out", value("ima_contrast_held_out"), value("ima_contrast_rotated")],
        ],
        note=f"{search.agreeing} of {search.starts} starts agree; R* keeps "
        f"{int((stay > 0.98).sum())} of {len(stay)} axes to a cosine of 0.98",
    )
    return [beside, repair, importance]


def _importance(reading: Reading) -> Table:
    """Return the active latents by their entropy, the most important first, with the pair that shares most."""
    entropies, information = reading.entropies, reading.information
    assert entropies is not None
    assert information is not None
    names = [reading.names[i] for i in reading.active.tolist()]
    order = sorted(range(len(names)), key=lambda i: -entropies[i][0])[:SHOWN]
    rows: list[list[Value]] = []
    for i in order:
        value, ci = entropies[i]
        shared = [-1.0 if x is None else x for x in information[i]]
        most = max(range(len(names)), key=lambda j: shared[j])
        interval = None if ci is None else f"{ci[0]:.3g} .. {ci[1]:.3g}"
        rows.append([names[i], value, interval, shared[most], names[most]])
    note = _rest(f"the {len(order)} most important", len(order), len(names))
    return Table(
        title="Importance of latents (nats)",
        columns=["", "entropy", "95% interval", "shares most", "with"],
        rows=rows,
        note=note or "entropy along the seam, in the unit of the output: differences between latents count",
    )
