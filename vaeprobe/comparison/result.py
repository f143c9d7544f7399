"""What a comparison finds, as tables and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from vaeprobe.comparison.numbers import Pair, Seen
from vaeprobe.report import Heatmap, Section, Table, Value
from vaeprobe.result import Measured, Result


def _letters(n: int) -> list[str]:
    """Return short names of models: A, B, ..., and numbers where letters do not reach."""
    return [chr(ord("A") + k) for k in range(n)] if n <= 26 else [str(k) for k in range(n)]


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """Models side by side.

    Attributes:
        models: their names.
        results: per model, the result of each probe.
        seen: each model at the data; empty without data.
        pairs: what each two have in common; empty without data.
        changes: second minus first model on the same latents, by metric: the mean and its interval; two models only.
    """

    command: ClassVar[str] = "compare"
    mcc = Measured("compare.mcc")
    mcc_p = Measured("compare.mcc_p")
    columns = Measured("compare.columns")
    columns_p = Measured("compare.columns_p")
    tangents = Measured("compare.tangents")
    udr = Measured("compare.udr")

    models: tuple[str, ...]
    results: tuple[Mapping[str, Result], ...]
    seen: tuple[Seen, ...] = ()
    pairs: tuple[Pair, ...] = ()
    changes: Mapping[str, tuple[float, tuple[float, float]]]

    def sections(self) -> tuple[Section, ...]:
        out: list[Section] = [self._side_by_side()]
        if len(self.models) == 2 and self.pairs:
            out.append(self._matching(self.pairs[0]))
        elif self.pairs:
            out += [self._matrix("Correlation of matched codes (MCC)"), self._ranking()]
        return tuple(out)

    def _side_by_side(self) -> Table:
        rows: list[list[Value]] = []
        for probe in self.results[0]:
            rows.append([f"{probe}: verdict", *(r[probe].verdict for r in self.results)])
            for metric, *_ in self.results[0][probe].carried():
                cells: list[Value] = [
                    r[probe].metrics[metric.id].value if metric.id in r[probe].metrics else None
                    for r in self.results
                ]
                rows.append([metric.title, *cells, *self._change(metric.id)])
        for row in rows:
            row += [""] * (1 + len(self.models) + bool(self.changes) - len(row))
        letters = _letters(len(self.models))
        heads = ["", *letters, *(["B - A, 95 %"] if self.changes else [])]
        names = ", ".join(f"{letter}: {name}" for letter, name in zip(letters, self.models, strict=True))
        note = names + ("; differences are paired on the same latents" if self.changes else "")
        return Table(title="Side by side", columns=heads, rows=rows, note=note)

    def _change(self, id: str) -> list[Value]:
        if id not in self.changes:
            return []
        value, (low, high) = self.changes[id]
        return [f"{value:+.3g} [{low:.3g}, {high:.3g}]"]

    def _matching(self, pair: Pair) -> Table:
        """Return which latent of the first is which of the second."""
        first, second = (self.seen[k].informative for k in (pair.first, pair.second))
        columns = dict(pair.columns.pairs)
        return Table(
            title="Which latent is which",
            columns=["A", "B", "|corr| of codes", "|cos| of columns", "by columns"],
            rows=[
                [
                    f"z{first[i]}",
                    f"z{second[j]}",
                    float(pair.codes.matrix[i, j]),
                    float(pair.columns.matrix[i, j]),
                    f"z{second[columns[i]]}" if i in columns else None,
                ]
                for i, j in pair.codes.pairs
            ],
            note="matched by codes, up to sign; by columns: the match in data space",
        )

    def _matrix(self, title: str) -> Heatmap:
        cells: list[list[float | None]] = [[None] * len(self.models) for _ in self.models]
        for pair in self.pairs:
            cells[pair.first][pair.second] = cells[pair.second][pair.first] = pair.codes.value
        return Heatmap(
            title=title, matrix=cells, row_labels=_letters(len(self.models)), column_labels=_letters(len(self.models)),
            diagonal=False,
        )  # fmt: skip

    def _ranking(self) -> Table:
        """Return the models by the median UDR with all others (Duan et al. 2020)."""
        from statistics import median

        scores = [
            median(p.udr for p in self.pairs if k in (p.first, p.second)) for k in range(len(self.models))
        ]
        order = sorted(range(len(self.models)), key=lambda k: -scores[k])
        rows: list[list[Value]] = [[self.models[k], scores[k]] for k in order]
        return Table(title="Ranked without labels", columns=["model", "median UDR"], rows=rows)

    def details(self) -> dict[str, Any]:
        return {
            "models": list(self.models),
            "results": [
                {name: {"verdict": r.verdict, "metrics": {id: m.to_dict() for id, m in r.metrics.items()}} for name, r in model.items()}
                for model in self.results
            ],
            "changes": {id: {"value": value, "ci": list(ci)} for id, (value, ci) in self.changes.items()},
            "pairs": [
                {
                    "models": [p.first, p.second],
                    "mcc": p.codes.value,
                    "mcc_p": p.codes.p_value,
                    "columns": p.columns.value,
                    "columns_p": p.columns.p_value,
                    "tangents": p.tangents,
                    "udr": p.udr,
                    "matched": [
                        [self.seen[p.first].informative[i], self.seen[p.second].informative[j]]
                        for i, j in p.codes.pairs
                    ],
                }
                for p in self.pairs
            ],
        }  # fmt: skip
