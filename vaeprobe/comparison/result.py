"""What a comparison finds, as tables and pictures."""

from __future__ import annotations

import csv
import io
import posixpath as path
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from vaeprobe.comparison.metrics import SPECS
from vaeprobe.comparison.numbers import Pair, Seen
from vaeprobe.comparison.parts import ALL, comparable, letters_of
from vaeprobe.comparison.ranking import CRITERIA, RESAMPLES, Ranking
from vaeprobe.comparison.sweep import Sweep
from vaeprobe.published import FACTS
from vaeprobe.render.text import BOUNDS, measured, number, verdict_words
from vaeprobe.report import Curves, Heatmap, Histogram, Json, Metric, Section, Table, Value
from vaeprobe.result import Measured, Result

# columns of the table of models, as far as they were measured: short name -> metric
FORMULA = tuple("=+-@\t\r")
"""What a spreadsheet takes for the beginning of a formula."""
SHORT = {
    "contrast": "orthogonality.ima_contrast",
    "alignment": "orthogonality.alignment",
    "own share": "factorise.mean_own_share",
    "active": "latents.active",
    "elbo": "elbo.value",
    "MIG": "labels.mig",
    "D": "labels.trees_disentanglement",
    "C": "labels.trees_completeness",
    "I": "labels.trees_informativeness",
    "D lasso": "labels.dci_disentanglement",
    "C lasso": "labels.dci_completeness",
    "I lasso": "labels.dci_informativeness",
    "MCC": "labels.mcc",
}
UNSHARED = "not the same axes"  # the verdict where no more is shared than random rotations would share
# what a sweep is drawn by: numbers between 0 and 1
DRAWN = ("alignment", "own share", "udr", "agreement", "MIG", "MCC")


def _three_digits(value: Value) -> Value:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _part_of(result: Result) -> Json:
    """Return which latents a result is of and what it leaves open of all, where it is not of all."""
    if result.verdict_of_all is None:
        return {}
    return {"part": result.part, "verdict_of_all": list(result.verdict_of_all)}


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """Models side by side.

    Attributes:
        models: their names.
        results: per model, the result of each probe.
        seen: each model at the data; empty where agreement could not be measured.
        pairs: what each two have in common; empty likewise.
        labelled: per model, its scores against known factors; empty without factors.
        rankings: the models by each criterion, and how sure that is.
        sweep: what the models run over, None for no sweep.
        sort: the column that the table of models is sorted by.
        changes: second minus first model on the same latents, by metric: the mean and its interval; two models only.
    """

    command: ClassVar[str] = "compare"
    CARRIED = (
        ("compare.mcc", "compare.mcc_p"),
        ("compare.columns", "compare.columns_p"),
        ("compare.tangents",),
        ("compare.udr",),
    )
    LEADING = 2
    mcc = Measured("compare.mcc")
    mcc_p = Measured("compare.mcc_p")
    columns = Measured("compare.columns")
    columns_p = Measured("compare.columns_p")
    tangents = Measured("compare.tangents")
    udr = Measured("compare.udr")
    mig = Measured("labels.mig")
    dci_disentanglement = Measured("labels.dci_disentanglement")
    dci_completeness = Measured("labels.dci_completeness")
    dci_informativeness = Measured("labels.dci_informativeness")
    trees_disentanglement = Measured("labels.trees_disentanglement")
    trees_completeness = Measured("labels.trees_completeness")
    trees_informativeness = Measured("labels.trees_informativeness")
    factors_mcc = Measured("labels.mcc")
    factors_mcc_p = Measured("labels.mcc_p")

    models: tuple[str, ...]
    results: tuple[Mapping[str, Result], ...]
    seen: tuple[Seen, ...] = ()
    pairs: tuple[Pair, ...] = ()
    labelled: tuple[Mapping[str, float], ...] = ()
    rankings: tuple[Ranking, ...] = ()
    sweep: Sweep | None = None
    sort: str | None = None
    changes: Mapping[str, tuple[float, tuple[float, float]]]

    def sections(self) -> tuple[Section, ...]:
        out: list[Section] = [self._side_by_side() if len(self.models) == 2 else self._models()]
        if len(self.models) == 2 and self.pairs:
            out += [self._matching(self.pairs[0]), *self._nulls(self.pairs[0])]
        if self.rankings:
            out.append(self._ranking())
        if len(self.models) > 2 and self.pairs:
            out.append(self._matrix("Correlation of matched codes (MCC) of each two models", "codes"))
            if all(p.columns is not None for p in self.pairs):
                out.append(self._matrix("|cos| of matched columns of each two models", "columns"))
        if self.sweep is not None and len(self.models) > 2:
            out.append(self._swept(self.sweep))
        out.append(self._published())
        return tuple(out)

    def _published(self) -> Table:
        """Return the models among published ones, which are measured whole, the most aligned first."""
        found: list[tuple[float, list[Value]]] = [
            (
                f.alignment,
                [f"{f.name} ({f.source.partition('/')[0]})", f.active, f.contrast, f.null, f.alignment],
            )
            for f in FACTS
        ]
        ids = [
            "latents.active",
            *(f"orthogonality.{m}" for m in ("ima_contrast", "ima_contrast_null", "alignment")),
        ]
        left_out = []
        for k, letter in enumerate(letters_of(len(self.models))):
            values: list[Value] = [_three_digits(self._value(k, id)) for id in ids]
            if not isinstance(values[-1], float):
                continue
            if "orthogonality" in self.results[k] and self.results[k]["orthogonality"].part:
                left_out.append(letter)
                continue
            found.append((values[-1], [f"> {letter}", *(self._cell(k, id) for id in ids)]))
        rows: list[Sequence[Value]] = [row for _, row in sorted(found, key=lambda pair: -pair[0])]
        columns = ["model", "active", "contrast", "random axes", "alignment"]
        return Table(
            title="Where they stand among published models",
            columns=columns,
            rows=rows,
            note="by alignment; the others as vaeprobe measured them with its default settings, from github.com/"
            + ", ".join(dict.fromkeys(f.source for f in FACTS))
            + (f"; {', '.join(left_out)} measured in part, with no place among them" if left_out else ""),
        )

    # -- one row per model -----------------------------------------------------------------------------

    def by_column(self) -> dict[str, tuple[Value, ...]]:
        """Return what there is of each model, by short name and by metric id: numbers, None where undefined."""
        found: dict[str, tuple[Value, ...]] = {}
        for short, id in SHORT.items():
            values = tuple(self._value(k, id) for k in range(len(self.models)))
            if any(v is not None for v in values):
                found[short] = values
        found |= {r.criterion: r.values for r in self.rankings if r.criterion not in found}
        if self.sweep is not None:
            found[self.sweep.name] = self.sweep.values
        ids = {id: m for results in self.results for r in results.values() for id, m in r.metrics.items()}
        for id, metric in ids.items():
            if not isinstance(metric.value, (list, dict, str)):
                found[id] = tuple(self._value(k, id) for k in range(len(self.models)))
        for id in self.labelled[0] if self.labelled else ():
            found[id] = tuple(row[id] for row in self.labelled)
        return found

    def _value(self, k: int, id: str) -> Value:
        if self.labelled and id in self.labelled[k]:
            return self.labelled[k][id]
        metric = self._metric(k, id)
        return metric.value if metric is not None and isinstance(metric.value, (int, float)) else None

    def _cell(self, k: int, id: str) -> Value:
        """Return what a table shows of a number: three digits, after a sign where that of all may be larger, or smaller."""
        value, metric = self._value(k, id), self._metric(k, id)
        bound = "" if metric is None or metric.value != value else BOUNDS.get(metric.of_all, "")
        return bound + number(value, 3) if bound else _three_digits(value)

    def comparable(self, column: str) -> bool:
        """Whether a column says the same of every model: of all its latents, or of the same part of them."""
        id = SHORT.get(column, column)
        found = [next((r for r in model.values() if id in r.metrics), None) for model in self.results]
        return comparable([r for r in found if r is not None], id)

    def _metric(self, k: int, id: str) -> Metric | None:
        return next((r.metrics[id] for r in self.results[k].values() if id in r.metrics), None)

    def order(self) -> tuple[int, ...]:
        """Return the models as tables list them: by `sort`, the best first, else by the sweep, else as they were given."""
        if self.sort is None:
            return self.sweep.order if self.sweep is not None else tuple(range(len(self.models)))
        values = self.by_column()[self.sort]
        metric = self._metric(0, SHORT.get(self.sort, self.sort))
        rising = (
            (metric.better != "higher")
            if metric is not None
            else self.sort in (self.sweep and self.sweep.name,)
        )
        known = [(float(v), k) for k, v in enumerate(values) if isinstance(v, (int, float))]
        ordered = [k for _, k in sorted(known, key=lambda vk: vk[0] if rising else -vk[0])]
        return (*ordered, *(k for k in range(len(values)) if k not in ordered))

    def _models(self) -> Table:
        columns, letters = self.by_column(), letters_of(len(self.models))
        shown = [
            name
            for name in (self.sweep.name if self.sweep else "", *SHORT, "udr", "agreement")
            if name in columns
        ]
        rows: list[list[Value]] = [
            [
                letters[k],
                *(self._cell(k, SHORT[n]) if n in SHORT else _three_digits(columns[n][k]) for n in shown),
            ]
            for k in self.order()
        ]
        return Table(title="Models", columns=["", *shown], rows=rows, note=self._legend())

    def csv(self) -> str:
        """Return all numbers as comma-separated values: a row per model, beside each metric its interval."""
        out, columns = io.StringIO(), self.by_column()
        shown = [name for name in columns if "." in name or name not in SHORT]
        writer = csv.writer(out, lineterminator="\n")
        in_part = [p for p in self.results[0] if any(p in r and r[p].part for r in self.results)]
        head = ["model", *(f"{p}.verdict" for p in self.results[0]), *(f"{p}.part" for p in in_part)]
        for name in shown:
            head += [name, f"{name}.low", f"{name}.high"] if self._has_interval(name) else [name]
            head += [f"{name}.of_all"] if self._has_bound(name) else []
        writer.writerow(head)
        for k in self.order():
            probes = self.results[k]
            row: list[Value] = [self.models[k]]
            row += [probes[p].verdict if p in probes else "" for p in self.results[0]]
            row += [probes[p].part if p in probes else "" for p in in_part]
            for name in shown:
                row.append("" if (v := columns[name][k]) is None else v)
                metric = self._metric(k, name)
                if self._has_interval(name):
                    row += list(metric.ci) if metric is not None and metric.ci else ["", ""]
                if self._has_bound(name):
                    row.append("" if metric is None or v is None else metric.of_all)
            # a name that a spreadsheet would take for a formula is none
            writer.writerow([f"'{c}" if isinstance(c, str) and c.startswith(FORMULA) else c for c in row])
        return out.getvalue()

    def _has_interval(self, id: str) -> bool:
        return any((m := self._metric(k, id)) is not None and m.ci for k in range(len(self.models)))

    def _has_bound(self, id: str) -> bool:
        return any(
            (m := self._metric(k, id)) is not None and m.of_all != "known" for k in range(len(self.models))
        )

    def _legend(self) -> str:
        """Return which model is which; the folder that all lie in is said once."""
        folder = (
            path.commonpath([path.dirname(m) or "." for m in self.models]) if self._all_relative() else ""
        )
        names = [m.removeprefix(f"{folder}/") if folder else m for m in self.models]
        said = "; ".join(f"{a}: {name}" for a, name in zip(letters_of(len(names)), names, strict=True))
        return f"{said}; in {folder}" if folder else said

    def _all_relative(self) -> bool:
        return len({path.isabs(m) for m in self.models}) == 1 and all("/" in m for m in self.models)

    # -- two models ------------------------------------------------------------------------------------

    def _side_by_side(self) -> Table:
        rows: list[list[Value]] = []
        for probe in self.results[0]:
            found = [r.get(probe) for r in self.results]
            rows.append([f"{probe}: verdict", *(None if r is None else verdict_words(r) for r in found)])
            if any(r is not None and r.part for r in found):
                rows.append([f"{probe}: measured", *(None if r is None else r.part or ALL for r in found)])
            for metric, *_ in self.results[0][probe].carried():
                cells: list[Value] = [
                    measured(r.metrics[metric.id]) if r is not None and metric.id in r.metrics else None
                    for r in found
                ]
                rows.append([metric.title, *cells, *self._change(metric.id)])
        for id in self.labelled[0] if self.labelled else ():
            rows.append([SPECS[id].title, *(scores[id] for scores in self.labelled)])
        rows = [row for k, row in enumerate(rows) if row not in rows[:k]]
        for row in rows:
            row += [""] * (1 + len(self.models) + bool(self.changes) - len(row))
        heads = ["", *letters_of(len(self.models)), *(["B - A, 95 %"] if self.changes else [])]
        note = self._legend() + (
            "; differences are paired on the same latents and rows" if self.changes else ""
        )
        return Table(title="Side by side", columns=heads, rows=rows, note=note)

    def _change(self, id: str) -> list[Value]:
        if id not in self.changes:
            return []
        value, (low, high) = self.changes[id]
        return [f"{value:+.3g} [{low:.3g}, {high:.3g}]"]

    def _matching(self, pair: Pair) -> Table:
        """Return which latent of the first is which of the second."""
        first, second = (self.seen[k].names for k in (pair.first, pair.second))
        columns = {} if pair.columns is None else dict(pair.columns.pairs)
        return Table(
            title="Which latent is which",
            columns=["A", "B", "|corr| of codes", "|cos| of columns", "by columns"],
            rows=[
                [
                    first[i],
                    second[j],
                    float(pair.codes.matrix[i, j]),
                    None if pair.columns is None else float(pair.columns.matrix[i, j]),
                    second[columns[i]] if i in columns else None,
                ]
                for i, j in pair.codes.pairs
            ],
            note="matched by codes, up to sign; by columns: the match in data space",
        )

    def _nulls(self, pair: Pair) -> list[Section]:
        found = [("Matched codes: |corr|", pair.codes)]
        found += [("Matched columns: |cos|", pair.columns)] if pair.columns is not None else []
        return [
            Histogram(
                title=f"{title} under {len(a.null)} random rotations of B's latents",
                draws=a.null.tolist(),
                marks={"as they are": a.value},
                x_label=title.partition(": ")[2],
            )
            for title, a in found
            if len(a.null) > 1
        ]

    # -- many ------------------------------------------------------------------------------------------

    def _matrix(self, title: str, what: str) -> Heatmap:
        cells: list[list[float | None]] = [[None] * len(self.models) for _ in self.models]
        for pair in self.pairs:
            value = pair.codes.value if what == "codes" or pair.columns is None else pair.columns.value
            cells[pair.first][pair.second] = cells[pair.second][pair.first] = value
        letters = letters_of(len(self.models))
        return Heatmap(title=title, matrix=cells, row_labels=letters, column_labels=letters, diagonal=False)

    def _ranking(self) -> Table:
        """Return the best model by each criterion, how sure that is, and the others."""
        letters, rows = letters_of(len(self.models)), []
        by_chance = ""
        if self.verdict == UNSHARED and any(r.criterion in ("udr", "agreement") for r in self.rankings):
            by_chance = "; the models share no axes beyond chance, and UDR and MCC rank little then"
        for ranking in self.rankings:
            first, order = ranking.first(), ranking.order
            said = [f"{letters[k]} {number(ranking.values[k], 3)}" for k in order]
            low, high = ranking.places()[order[0]]
            of_part = " (of the part that was measured)" if ranking.part else ""
            row: list[Value] = [CRITERIA[ranking.criterion] + of_part, said[0], f"{first[order[0]]:.0%}"]
            rows.append([*row, f"{low}" if low == high else f"{low} - {high}", ", ".join(said[1:])])
        return Table(
            title="Which to keep, without labels",
            columns=["by", "first", "sure", "place, 95 %", "then"],
            rows=rows,
            note=f"sure: over {RESAMPLES} resamples of rows or latents, the same for all models; another training run "
            f"may move more{by_chance}",
        )

    def _swept(self, sweep: Sweep) -> Curves:
        columns, order = self.by_column(), sweep.order
        ys: dict[str, list[float | None]] = {}
        for name in DRAWN:
            if name in columns and self.comparable(name):
                ys[name] = [
                    float(v) if isinstance(v := columns[name][k], (int, float)) else None for k in order
                ]
        x = [sweep.values[k] for k in order]
        return Curves(title=f"Metrics over {sweep.name}", x=x, ys=ys, x_label=sweep.name, log_x=sweep.log)

    def details(self) -> Json:
        return {
            "models": list(self.models),
            "results": [
                {name: {"verdict": r.verdict, **_part_of(r), "metrics": {id: m.to_dict() for id, m in r.metrics.items()}} for name, r in model.items()}
                for model in self.results
            ],
            "changes": {id: {"value": value, "ci": list(ci)} for id, (value, ci) in self.changes.items()},
            "labels": [dict(row) for row in self.labelled],
            "sweep": None if self.sweep is None else {"name": self.sweep.name, "values": list(self.sweep.values)},
            "rankings": [
                {"criterion": r.criterion, "values": list(r.values), "order": list(r.order), "first": r.first(),
                 "places": [list(p) for p in r.places()], **({"part": r.part} if r.part else {})}
                for r in self.rankings
            ],
            "pairs": [
                {
                    "models": [p.first, p.second],
                    "codes_by": [self.seen[k].how for k in (p.first, p.second)],
                    "mcc": p.codes.value,
                    "mcc_p": p.codes.p_value,
                    "columns": None if p.columns is None else p.columns.value,
                    "columns_p": None if p.columns is None else p.columns.p_value,
                    "tangents": p.tangents,
                    "udr": p.udr,
                    "matched": [
                        [self.seen[p.first].informative[i], self.seen[p.second].informative[j]]
                        for i, j in p.codes.pairs
                    ],
                    "mcc_null": [float(f"{v:.6g}") for v in p.codes.null.tolist()],
                    "columns_null": None if p.columns is None else [float(f"{v:.6g}") for v in p.columns.null.tolist()],
                }
                for p in self.pairs
            ],
        }  # fmt: skip
