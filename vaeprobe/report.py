"""What a probe returns: metrics, findings, checks and pictures, as plain data.

Nothing here draws or prints.  A `Result` describes itself with metrics (numbers with an interval, or the
reason why there is none) and `sections` (tables, heat maps, bars as data), and `vaeprobe.render` turns
that into a terminal page, JSON, HTML and the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

SCHEMA_VERSION = 1

Value: TypeAlias = float | int | bool | str | list[Any] | dict[str, Any] | None
Better: TypeAlias = Literal["lower", "higher"]
Level: TypeAlias = Literal["error", "warning", "note"]
Status: TypeAlias = Literal["pass", "fail", "inconclusive", "undefined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """What a metric means; `vaeprobe explain`, the README's table and a policy's directions come from here.

    Attributes:
        id: dotted name, as in JSON and policies.
        title: a few words, as in tables.
        better: "lower" or "higher" where one direction is better, None where the number is descriptive.
        unit: "" for a plain number, else "nats", "bits/dim", ...
        range: the values it can take, in words or symbols.
        formula: how it is computed.
        source: paper, equation.
        meaning: how to read it.
        misleads: how it can mislead.
        remedy: what to do about a bad value.
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

    @property
    def option(self) -> str | None:
        """The name of the limit option (`--max-...` or `--min-...`), or None for a descriptive metric."""
        if self.better is None:
            return None
        side = "max" if self.better == "lower" else "min"
        return f"--{side}-{self.id.split('.', 1)[1].replace('_', '-').replace('.', '-')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One measured quantity.

    Attributes:
        id: dotted name of a `MetricSpec`.
        value: the number (or a list, for a per-latent quantity); None when undefined.
        ci: confidence interval (low, high) of `value`, where there is one.
        level: confidence level of `ci`.
        n: number of independent samples behind it.
        unit: unit of `value`.
        method: how the value and the interval were computed, a few words.
        reason: why the value is undefined; None when it is defined.
    """

    id: str
    value: Value
    ci: tuple[float, float] | None = None
    level: float | None = None
    n: int | None = None
    unit: str = ""
    method: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.value, float) and not math.isfinite(self.value):
            raise ValueError(f"metric `{self.id}` is {self.value}: an undefined metric needs a reason")
        if self.value is None and not self.reason:
            raise ValueError(f"metric `{self.id}` has neither a value nor a reason")

    @classmethod
    def undefined(cls, id: str, reason: str, *, n: int | None = None, unit: str = "") -> Metric:
        """Return a metric that has no value, and why."""
        return cls(id=id, value=None, reason=reason, n=n, unit=unit)

    @property
    def defined(self) -> bool:
        return self.value is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; keys that do not apply are left out, `value` and `ci` never."""
        out: dict[str, Any] = {"value": self.value, "ci": list(self.ci) if self.ci else None, "n": self.n}
        out["unit"] = self.unit
        for key in ("level", "method", "reason"):
            if getattr(self, key) is not None:
                out[key] = getattr(self, key)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A statement worth a reader's attention, with the code that `vaeprobe explain` takes."""

    code: str
    level: Level
    message: str
    hint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"code": self.code, "level": self.level, "message": self.message, "hint": self.hint}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A metric held against a limit.

    The whole interval must lie on one side of the limit, else the check is inconclusive.
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
        low, high = self.metric.ci or (float(value), float(value))
        if self.side == "min":
            low, high = -high, -low
        limit = self.limit if self.side == "max" else -self.limit
        if high <= limit:
            return "pass"
        return "fail" if low > limit else "inconclusive"

    def to_dict(self) -> dict[str, Any]:
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
    """A matrix in colour, values in [low, high]; None cells are blank."""

    title: str
    matrix: Sequence[Sequence[float | None]]
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    low: float = 0.0
    high: float = 1.0
    note: str = ""


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
    """Lines over a shared x axis, name to y values."""

    title: str
    x: Sequence[float]
    ys: Mapping[str, Sequence[float | None]]
    x_label: str = ""
    y_label: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small picture for terminals with colour: red, green, blue bytes, row by row."""

    width: int
    height: int
    rgb: bytes


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


Section: TypeAlias = Table | Heatmap | Bars | Curves | Svg


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The file that was probed.

    Attributes:
        path: as the user gave it.
        sha256: hex digest of the bytes that were read; "" for a decoder made in Python.
        size: bytes.
        format: the loader's name, e.g. "state_dict", "safetensors", "pt2".
        architecture: how the network was known: "preset burgess", "blueprint FILE", "self-contained", ...
        details: anything else worth keeping (notes of the loader), JSON-able.
    """

    path: str
    sha256: str = ""
    size: int = 0
    format: str = ""
    architecture: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "sha256": self.sha256,
            "size": self.size,
            "format": self.format,
            "architecture": self.architecture,
            "details": dict(self.details),
        }


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every probe returns.

    Attributes:
        metrics: by id; read one with `result["orthogonality.mean_abs_cosine"]`.
        verdict: one word (or a few), fit for a program.
        summary: the verdict as a researcher would write it, one to three sentences.
        findings: what deserves attention.
        settings: the probe's settings, JSON-able: seed, samples, likelihood, method, dtype, ...
        artifact: the file, or None for a decoder made in Python.
        checks: limits that were asked for.
    """

    command: ClassVar[str] = ""

    metrics: Mapping[str, Metric]
    verdict: str = ""
    summary: str = ""
    findings: tuple[Finding, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    artifact: Artifact | None = None
    checks: tuple[Check, ...] = ()

    def __getitem__(self, id: str) -> Metric:
        return self.metrics[id]

    def sections(self) -> tuple[Section, ...]:
        """Return the tables and pictures that show this result, most important first."""
        return ()

    def details(self) -> dict[str, Any]:
        """Return what else belongs in the JSON form (matrices, per-latent rows), JSON-able."""
        return {}

    def per_sample(self) -> Mapping[str, Sequence[float]]:
        """Return the values behind each metric that is a mean over latents, by metric id, in drawing order.

        The gate pairs them with a baseline's on the same latents.
        """
        return {}

    def files(self) -> Mapping[str, Callable[[Path], None]]:
        """Return a writer for each file that the probe was asked to save, by the name of its option."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form: schema, metrics, verdict, findings, checks, settings, artifact."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "artifact": self.artifact.to_dict() if self.artifact else None,
            "settings": dict(self.settings),
            "verdict": self.verdict,
            "summary": self.summary,
            "metrics": {id: m.to_dict() for id, m in self.metrics.items()},
            "details": self.details(),
            "checks": [c.to_dict() for c in self.checks],
            "findings": [f.to_dict() for f in self.findings],
            "exit_code": self.exit_code,
        }

    @property
    def exit_code(self) -> int:
        """0 where all checks pass or none was asked; 1 a check failed; 3 one could not be decided."""
        return worst_status(c.status for c in self.checks if c.level == "error")

    # The two views are bound late: render sits above report (see tests/test_floors.py).
    def __rich__(self) -> Any:
        from vaeprobe.render import terminal

        return terminal.page(self)

    def _repr_html_(self) -> str:
        from vaeprobe.render import html

        return html.fragment(self)


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
