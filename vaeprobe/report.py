"""What a result is made of: metrics, findings, checks and pictures, as plain data.

Nothing here draws or prints: `vaeprobe.result` puts these together, `vaeprobe.render` shows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from vaeprobe.findings import FINDINGS, FindingSpec, Level

SCHEMA_VERSION = 1

# what a JSON document says by name: numbers, texts, lists and such as this
Json: TypeAlias = dict[str, Any]
Value: TypeAlias = float | int | bool | str | list[Any] | Json | None
Better: TypeAlias = Literal["lower", "higher"]
Status: TypeAlias = Literal["pass", "fail", "inconclusive", "undefined"]
OfAll: TypeAlias = Literal["known", "estimated", "at least", "at most", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """What a metric means; `vaeprobe explain`, the README's table and a policy's directions come from here.

    Attributes:
        id: dotted name, as in JSON and policies.
        title: a few words, as in tables.
        beside: a word or two, where it stands beside another number on a line; the title where empty.
        better: "lower" or "higher" where one direction is better, None where the number is descriptive.
        unit: "" for a plain number, else "nats", "bits/dim", ...
        range: the values it can take, in words or symbols.
        formula: how it is computed.
        source: paper, equation.
        meaning: how to read it.
        misleads: how it can mislead.
        remedy: what to do about a bad value.
        positive: whether it is one at 0 and below no longer: an interval that reaches 0 leaves open whether there is one.
    """

    id: str
    title: str
    better: Better | None = None
    unit: str = ""
    range: str = ""
    formula: str = ""
    source: str = ""
    meaning: str = ""
    misleads: str = ""
    remedy: str = ""
    beside: str = ""
    positive: bool = False

    @property
    def option(self) -> str | None:
        """The name of the limit option (`--max-...` or `--min-...`), or None for a descriptive metric."""
        if self.better is None:
            return None
        side = "max" if self.better == "lower" else "min"
        return f"--{side}-{self.id.split('.', 1)[1].replace('_', '-').replace('.', '-')}"


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured quantity.

    Attributes:
        spec: what is measured; id, title, unit and better direction come from it.
        value: the number (or a list, for a per-latent quantity); None when undefined.
        ci: confidence interval (low, high) of `value`, where there is one.
        level: confidence level of `ci`.
        n: number of independent samples behind it.
        method: how the value and the interval were computed, a few words.
        reason: why the value is undefined, or what it leaves out; None where there is nothing to say.
        of_all: what is known of the number of all latents. "known": it is this one. Where a random part of them was
            measured: "estimated", by an interval that holds which were drawn; this is the part's own number, and that of
            all "at least" or "at most" as large; or "open". Where points are left out at which it would be larger:
            "at least"; where smaller, "at most".
    """

    spec: MetricSpec
    value: Value
    _: KW_ONLY
    ci: tuple[float, float] | None = None
    level: float | None = None
    n: int | None = None
    method: str | None = None
    reason: str | None = None
    of_all: OfAll = "known"

    @property
    def for_all(self) -> bool:
        """Whether value and interval are those of all latents, and not of those alone that were measured."""
        return self.of_all in ("known", "estimated")

    def __post_init__(self) -> None:
        if isinstance(self.value, float) and not math.isfinite(self.value):
            raise ValueError(f"metric `{self.id}` is {self.value}: an undefined metric needs a reason")
        if self.value is None and not self.reason:
            raise ValueError(f"metric `{self.id}` has neither a value nor a reason")

    @classmethod
    def undefined(cls, spec: MetricSpec, reason: str, *, n: int | None = None) -> Metric:
        """Return a metric that has no value, and why."""
        return cls(spec, None, reason=reason, n=n)

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def title(self) -> str:
        return self.spec.title

    @property
    def unit(self) -> str:
        return self.spec.unit

    @property
    def better(self) -> Better | None:
        return self.spec.better

    @property
    def defined(self) -> bool:
        return self.value is not None

    @property
    def unclear(self) -> bool:
        """Whether there is a number at all is open: it can only be positive, and its interval reaches 0."""
        return self.spec.positive and self.ci is not None and self.ci[0] <= 0

    @property
    def remark(self) -> str:
        """What makes the number say less than it seems; "" where nothing does."""
        if not self.defined:
            return ""
        return "not distinguishable from 0" if self.unclear else self.reason or ""

    def to_dict(self) -> Json:
        """Return the JSON form; keys that do not apply are left out, `value` and `ci` never."""
        out: Json = {"value": self.value, "ci": list(self.ci) if self.ci else None, "n": self.n}
        out["unit"] = self.unit
        said = {"level": self.level, "method": self.method, "reason": self.remark or self.reason}
        out |= {key: value for key, value in said.items() if value is not None}
        if self.of_all != "known":
            out["of_all"] = self.of_all
        return out


@dataclass(frozen=True, slots=True, init=False)
class Finding:
    """A statement worth a reader's attention.

    Attributes:
        spec: the kind of finding, whose code `vaeprobe explain` takes.
        message: what was found here.
        hint: what to do about it here.
        level: how much it matters here; by default as much as its kind.
    """

    spec: FindingSpec
    message: str
    hint: str | None
    level: Level

    def __init__(
        self, spec: FindingSpec, message: str, *, hint: str | None = None, level: Level | None = None
    ) -> None:
        for name, value in (("spec", spec), ("message", message), ("hint", hint)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "level", level or spec.level)

    @property
    def code(self) -> str:
        return self.spec.code

    def to_dict(self) -> Json:
        return {"code": self.code, "level": self.level, "message": self.message, "hint": self.hint}

    @classmethod
    def from_dict(cls, body: Json) -> Finding:
        """Return the finding that `to_dict` wrote; KeyError for anything else."""
        return cls(FINDINGS[body["code"]], body["message"], hint=body["hint"], level=body["level"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A metric held against a limit.

    The whole interval must lie on one side of the limit, else the check is inconclusive. A limit is on the number of all
    latents: what a part of them leaves open about it belongs to the interval.
    """

    metric: Metric
    side: Literal["max", "min"]
    limit: float
    level: Level = "error"
    status: Status = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", self._decide())

    def _decide(self) -> Status:
        value = self.metric.value
        if value is None:
            return "undefined"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"metric `{self.metric.id}` is no single number and takes no limit")
        if self.metric.unclear:
            return "inconclusive"
        low, high = self.metric.ci or (float(value), float(value))
        if self.metric.of_all in ("at least", "open"):
            high = math.inf
        if self.metric.of_all in ("at most", "open"):
            low = -math.inf
        if self.side == "min":
            low, high = -high, -low
        limit = self.limit if self.side == "max" else -self.limit
        if high <= limit:
            return "pass"
        return "fail" if low > limit else "inconclusive"

    @property
    def left_open(self) -> bool:
        """Whether it is inconclusive by what was not measured, of which no more samples tell."""
        if self.status != "inconclusive" or self.metric.for_all:
            return False
        closed = replace(self, metric=replace(self.metric, of_all="known"))
        return self.metric.of_all == "open" or closed.status != "inconclusive"

    def to_dict(self) -> Json:
        return {
            "metric": self.metric.id,
            "side": self.side,
            "limit": self.limit,
            "status": self.status,
            "level": self.level,
            "value": self.metric.value,
            "ci": list(self.metric.ci) if self.metric.ci else None,
        }


# -- pictures as data ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells; numbers are formatted by the renderer (4 significant digits), None is shown as –."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """A matrix in colour, values in [low, high]; None cells are blank.

    Attributes:
        diagonal: False where the diagonal says nothing (the cosine of a column with itself): it is blank, and
            the colours span what is off it.
    """

    title: str
    matrix: Sequence[Sequence[float | None]]
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    low: float = 0.0
    high: float = 1.0
    note: str = ""
    diagonal: bool = True

    def shown(self) -> Heatmap:
        """Return what is drawn: with `diagonal` False, blank there and scaled to what is off it."""
        if self.diagonal:
            return self
        matrix = [[None if i == j else v for j, v in enumerate(row)] for i, row in enumerate(self.matrix)]
        known = [v for row in matrix for v in row if v is not None and math.isfinite(v)]
        high = max(known, default=0.0) or 1.0
        scale = f"colours from {self.low:g} to {high:.2g}, the largest off the diagonal"
        note = f"{self.note}; {scale}" if self.note else scale
        return replace(self, matrix=matrix, high=high, note=note, diagonal=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """One bar per label; `mark` draws a reference line (a null, a limit) at that value."""

    title: str
    labels: Sequence[str]
    values: Sequence[float | None]
    mark: float | None = None
    mark_label: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Lines over a shared x axis, name to y values.

    Attributes:
        log_x, log_y: whether an axis is logarithmic; where a value is not above 0 it is linear after all.
    """

    title: str
    x: Sequence[float]
    ys: Mapping[str, Sequence[float | None]]
    x_label: str = ""
    y_label: str = ""
    note: str = ""
    log_x: bool = False
    log_y: bool = False

    def heights(self) -> list[float]:
        """Return all finite y values."""
        return [y for ys in self.ys.values() for y in ys if y is not None and math.isfinite(y)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How values drawn by chance are spread, and where what was measured lies among them.

    Attributes:
        draws: at least two finite values.
        marks: what was measured, by name.
        x_label: what the values are, with their unit.
    """

    title: str
    draws: Sequence[float]
    marks: Mapping[str, float]
    x_label: str = ""
    note: str = ""

    def span(self) -> tuple[float, float]:
        """Return the range of all draws and marks, wider than nothing."""
        values = [*self.draws, *self.marks.values()]
        low, high = min(values), max(values)
        room = 0.04 * (high - low) or max(abs(low), 1e-3) * 0.1
        return low - room, high + room

    def spread(self) -> list[list[Value]]:
        """Return the draws' least, 5 %, middle, 95 % and largest value, as rows of a table."""
        ordered = sorted(self.draws)
        places = {"least": 0.0, "5 %": 0.05, "middle": 0.5, "95 %": 0.95, "largest": 1.0}
        return [
            [f"draws, {name}", ordered[round(share * (len(ordered) - 1))]] for name, share in places.items()
        ]

    def bins(self, most: int) -> list[tuple[float, float, int]]:
        """Return lower end, upper end and number of draws of each bin over `span`, at most so many bins.

        Bins are as wide as Freedman and Diaconis (1981) say, where there is room for as many.
        """
        low, high = self.span()
        ordered = sorted(self.draws)
        n = len(ordered)
        wanted = 2 * (ordered[(3 * (n - 1) + 2) // 4] - ordered[(n - 1) // 4]) / n ** (1 / 3)
        count = most if wanted <= 0 else max(1, min(most, math.ceil((high - low) / wanted)))
        counts = [0] * count
        for value in ordered:
            counts[min(int((value - low) / (high - low) * count), count - 1)] += 1
        step = (high - low) / count
        return [(low + k * step, low + (k + 1) * step, c) for k, c in enumerate(counts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small picture for terminals with colour: red, green, blue bytes, row by row.

    Attributes:
        fine: the same in more pixels, for terminals that show pixels.
    """

    width: int
    height: int
    rgb: bytes
    fine: Thumbnail | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Svg:
    """A picture already drawn as SVG (HTML only); `alt`, and a thumbnail where given, stand for it elsewhere.

    Attributes:
        note: what the picture shows, under the picture itself.
        alt: where to see it, where it cannot be shown.
    """

    title: str
    svg: str
    note: str = ""
    alt: str = ""
    thumbnail: Thumbnail | None = None


Section: TypeAlias = Table | Heatmap | Bars | Curves | Histogram | Svg


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The file that was probed.

    Attributes:
        path: as the user gave it.
        sha256: hex digest of the bytes that were read; "" for a decoder made in Python.
        size: bytes.
        format: the loader's name, e.g. "state_dict", "safetensors", "pt2".
        architecture: how the network was known: "preset burgess", "blueprint FILE", "self-contained", ...
        maps: what to what, in words: "10 latents -> 1 x 32 x 32, bernoulli".
        details: anything else worth keeping (notes of the loader), JSON-able.
    """

    path: str
    sha256: str = ""
    size: int = 0
    format: str = ""
    architecture: str = ""
    maps: str = ""
    details: Json = field(default_factory=dict)

    def to_dict(self) -> Json:
        return {
            "path": self.path,
            "sha256": self.sha256,
            "size": self.size,
            "format": self.format,
            "architecture": self.architecture,
            "maps": self.maps,
            "details": dict(self.details),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All that a renderer shows of a result; attributes as in `vaeprobe.result.Result`.

    Attributes:
        carried: the few numbers that the verdict rests on, each with what stands beside it (its null, a p-value);
            where there are some, a terminal shows tables and pictures on request only.
        leading: how many of the first sections a terminal shows all the same.
    """

    command: str
    metrics: Mapping[str, Metric]
    artifact: Artifact | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    verdict: str = ""
    verdict_of_all: Sequence[str] | None = None
    summary: str = ""
    checks: Sequence[Check] = ()
    findings: Sequence[Finding] = ()
    carried: Sequence[tuple[Metric, ...]] = ()
    sections: Sequence[Section] = ()
    leading: int = 0
    details: Json = field(default_factory=dict)
    exit_code: int = 0

    def to_dict(self) -> Json:
        """Return the JSON-able form."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "artifact": self.artifact.to_dict() if self.artifact else None,
            "settings": dict(self.settings),
            "verdict": self.verdict,
            **({} if self.verdict_of_all is None else {"verdict_of_all": list(self.verdict_of_all)}),
            "summary": self.summary,
            "metrics": {id: m.to_dict() for id, m in self.metrics.items()},
            "details": dict(self.details),
            "checks": [c.to_dict() for c in self.checks],
            "findings": [f.to_dict() for f in self.findings],
            "exit_code": self.exit_code,
        }


def worst_status(statuses: Iterable[Status]) -> int:
    """Return the exit code of checks: 1 if one failed, else 3 if one is undecided, else 0."""
    seen = set(statuses)
    if "fail" in seen:
        return 1
    return 3 if seen & {"inconclusive", "undefined"} else 0


def metric_map(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Return metrics by id, in order; a repeated id is a bug."""
    out: dict[str, Metric] = {}
    for metric in metrics:
        if metric.id in out:
            raise ValueError(f"metric `{metric.id}` is reported twice")
        out[metric.id] = metric
    return out


def specs_by_id(specs: Iterable[MetricSpec]) -> dict[str, MetricSpec]:
    """Return metrics' meanings by id, in order."""
    return {spec.id: spec for spec in specs}
