"""What a policy is: rules with their exceptions, and how they are to be decided.  `policy_file` reads one."""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from vaeprobe.comparison.metrics import SPECS as COMPARED
from vaeprobe.probes import PROBES, metric_specs, question_class
from vaeprobe.report import MetricSpec

Side = Literal["max", "min"]
RuleLevel = Literal["error", "warning"]
Undecided = Literal["error", "warning", "pass"]

FORMAT = "artifact.format"  # the check that `formats` asks for; no probe measures it
FORMAT_SPEC = MetricSpec(
    id=FORMAT,
    title="the file's format is accepted",
    meaning="0 where the format is among the policy's `formats`, else 1",
    remedy="`vaeprobe convert` writes safetensors and .pt2",
)
# agreement of a model with its baseline: the same latents as before?
AGREEMENT = ("compare.mcc", "compare.mcc_p", "compare.columns", "compare.columns_p", "compare.udr")
VERDICT = "verdict"  # the last part of the name that rules give to a probe's verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is asked of one metric: a limit, a regression, or both; or the verdicts of a probe that pass.

    Attributes:
        metric: metric id, or the name of a probe with `.verdict`.
        side: the side the limit bounds; None for verdicts.
        limit: the bound, or None for a rule that only compares with the baseline.
        floor: the lower bound of a rule that bounds both sides, whose `side` is max.
        regression: how much worse than the baseline the metric may be, in its own unit.
        relative: whether `regression` is a fraction of the baseline instead.
        verdicts: the verdicts that pass.
        level: error or warning.
    """

    metric: str
    side: Side | None = None
    limit: float | None = None
    floor: float | None = None
    regression: float | None = None
    relative: bool = False
    verdicts: tuple[str, ...] = ()
    level: RuleLevel = "error"

    @property
    def needs_baseline(self) -> bool:
        """Whether it cannot be held without a baseline."""
        return self.regression is not None or self.metric in AGREEMENT

    @property
    def parts(self) -> tuple[Rule, ...]:
        """Return the rules that it is, of which each is decided for itself: a limit beside a regression makes two."""
        if self.limit is None or self.regression is None:
            return (self,)
        return replace(self, regression=None, relative=False), replace(self, limit=None, floor=None)

    @property
    def limits(self) -> tuple[tuple[Side, float], ...]:
        """Return the sides that are bounded, each with its bound."""
        if self.side is None or self.limit is None:
            return ()
        return ((self.side, self.limit), *((("min", self.floor),) if self.floor is not None else ()))

    def describe(self) -> str:
        """Return the rule in a few words."""
        if self.metric == FORMAT:
            return "an accepted format"
        if self.verdicts:
            return " or ".join(self.verdicts)
        if len(self.parts) > 1:
            return ", and ".join(part.describe() for part in self.parts)
        if self.floor is not None:
            return f"from {self.floor:g} to {self.limit:g}"
        if self.limit is not None:
            return f"{'at most' if self.side == 'max' else 'at least'} {self.limit:g}"
        size = f"{100 * (self.regression or 0):g} %" if self.relative else f"{self.regression:g}"
        return f"no more than {size} worse than the baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """A rule that is known to fail on some models, until a date, for a reason."""

    rule: str
    reason: str
    expires: datetime.date
    models: str = "*"

    def covers(self, metric: str, model: str, today: datetime.date) -> bool:
        return self.applies(metric, model) and today <= self.expires

    def applies(self, metric: str, model: str) -> bool:
        return fnmatch.fnmatch(metric, self.rule) and matches(model, self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Rules, data and loading that replace or join the general ones on some models; None switches a rule off."""

    models: str
    rules: Mapping[str, Rule | None] = field(default_factory=dict)
    data: str | None = None
    loading: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A whole policy; `policy_file.KEYS` says what each key means."""

    rules: Mapping[str, Rule] = field(default_factory=dict)
    overrides: Sequence[Override] = ()
    waivers: Sequence[Waiver] = ()
    models: Sequence[str] = ()
    data: str | None = None
    loading: Mapping[str, object] = field(default_factory=dict)
    baseline: str | None = None
    samples: int = 256
    max_samples: int = 4096
    confidence: float = 0.95
    inconclusive: Undecided = "error"
    formats: Sequence[str] = ()
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    origin: str = ""

    def rules_for(self, model: str) -> dict[str, Rule]:
        """Return the rules that apply to a model, by metric id."""
        rules: dict[str, Rule | None] = dict(self.rules)
        for override in self.overrides:
            if matches(model, override.models):
                rules.update(override.rules)
        return {id: rule for id, rule in rules.items() if rule is not None}

    def data_for(self, model: str) -> str | None:
        """Return the data of a model: of the last override that has some, else everybody's."""
        own = [o.data for o in self.overrides if o.data is not None and matches(model, o.models)]
        return own[-1] if own else self.data

    def loading_for(self, model: str) -> dict[str, object]:
        """Return how a model is loaded, by the options' names in Python: what overrides say last counts."""
        found = dict(self.loading)
        for override in self.overrides:
            if matches(model, override.models):
                found.update(override.loading)
        return found

    def digest(self) -> str:
        """Return a hash of all that can change an outcome."""
        body = json.dumps(dataclasses.asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(body.encode()).hexdigest()


def matches(model: str, pattern: str) -> bool:
    """Whether a path, or the end of one after a slash, matches a glob."""
    path = Path(model).as_posix()
    return fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, f"*/{pattern}")


def is_verdict(metric: str) -> bool:
    """Whether a rule's metric is the verdict of a probe."""
    probe, _, last = metric.rpartition(".")
    return last == VERDICT and probe in PROBES


def ruled() -> list[str]:
    """Return all that a rule can name: verdicts, the metrics of probes, agreement with the baseline."""
    verdicts = [f"{probe}.{VERDICT}" for probe in PROBES]
    return list(dict.fromkeys([*verdicts, *(id for id in metric_specs() if probe_of(id)), *AGREEMENT]))


def spec_of(metric: str) -> MetricSpec:
    """Return what the metric of a rule means.

    Raises:
        KeyError: there is no such metric.
    """
    if metric == FORMAT:
        return FORMAT_SPEC
    if metric in AGREEMENT:
        return COMPARED[metric]
    specs = metric_specs()
    if metric not in specs and is_verdict(metric):
        return MetricSpec(id=metric, title="verdict", meaning="the first line of the probe's page")
    return specs[metric]


def probe_of(metric: str) -> str | None:
    """Return the probe that measures a metric, or None for one that no probe measures."""
    for name in PROBES:
        if metric == f"{name}.{VERDICT}" or any(spec.id == metric for spec in question_class(name).METRICS):
            return name
    return None
