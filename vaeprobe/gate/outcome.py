"""What a gate run found: an outcome per rule, a report per model, one exit code."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from vaeprobe.gate.policy import FORMAT, Rule, Waiver, spec_of
from vaeprobe.report import SCHEMA_VERSION, Artifact, Check, Finding, Json, Metric, Status

# several models exit with the first of these that any of them has: those that could not be checked, then a failed
# check, which is news, before one that is open
EXIT_CODES = {
    70: "a bug of vaeprobe",
    4: "a file was refused as unsafe",
    6: "out of memory or time",
    5: "a file is unreadable, damaged or unsupported",
    2: "an option, the policy or the baseline is wrong",
    1: "a check failed",
    3: "a check is inconclusive or undefined, or nothing was checked",
    0: "every check passed, and there was one",
}
WORST_FIRST = tuple(EXIT_CODES)


def worst_code(codes: Iterable[int]) -> int:
    """Return the exit code that stands for several; 3 for none."""
    seen = set(codes)
    return next((code for code in WORST_FIRST if code in seen), 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A rule held against a model.

    Attributes:
        rule: what was asked.
        metric: what was measured, with the interval that decided; for a regression rule the difference from
            the baseline, positive where worse.
        status: pass, fail, inconclusive or undefined.
        bound: the number that the interval was held against; None for a verdict.
        waiver: the waiver that covers a failure, if any.
        part: which part of the model was measured, as a sentence goes on to say; "" for all of it.
    """

    rule: Rule
    metric: Metric
    status: Status
    bound: float | None
    waiver: Waiver | None = None
    part: str = ""

    @property
    def counts(self) -> bool:
        """Whether this outcome can fail the run."""
        return self.rule.level == "error" and self.waiver is None

    @property
    def left_open(self) -> bool:
        """Whether it is inconclusive by what was not measured, of which no more samples tell."""
        checks = [Check(metric=self.metric, side=side, limit=limit) for side, limit in self.rule.limits]
        return any(check.left_open for check in checks)

    @property
    def message(self) -> str:
        """Return the outcome in one sentence."""
        metric = self.metric
        if self.rule.metric == FORMAT:
            return f"the format {metric.reason}" + self._waived
        if self.rule.verdicts:
            what = f"is {metric.value or 'undefined'}"
        elif self.rule.limit is None and metric.value is not None:
            what = f"changed by {float(_number(metric)):+.4g} (positive is worse)"
        else:
            bound = f"{metric.of_all} " if metric.of_all in ("at least", "at most") else ""
            what = "is undefined" if metric.value is None else f"is {bound}{float(_number(metric)):.4g}"
        text = f"{self.rule.metric} {what}"
        if metric.ci:
            text += f" [{metric.ci[0]:.3g}, {metric.ci[1]:.3g}]"
        text += f", rule: {self.rule.describe()}"
        if metric.reason or metric.remark:
            text += f"; {metric.remark or metric.reason}"
        if self.status == "inconclusive":
            text += f"; {metric.n} samples{' of a part' if self.part else ''} do not decide it"
        if self.part:
            text += f"; {self.part}"
        return text + self._waived

    @property
    def _waived(self) -> str:
        return f"; waived until {self.waiver.expires}: {self.waiver.reason}" if self.waiver else ""

    def to_dict(self) -> Json:
        return {
            "metric": self.rule.metric,
            "status": self.status,
            "rule": {**asdict(self.rule), "verdicts": list(self.rule.verdicts)},
            "bound": self.bound,
            "value": self.metric.value,
            "ci": list(self.metric.ci) if self.metric.ci else None,
            **({} if self.metric.of_all == "known" else {"of_all": self.metric.of_all}),
            "n": self.metric.n,
            "reason": self.metric.reason,
            "part": self.part or None,
            "waived": None
            if self.waiver is None
            else {**asdict(self.waiver), "expires": self.waiver.expires.isoformat()},
            "message": self.message,
        }

    @classmethod
    def from_dict(cls, body: Json) -> Outcome:
        """Return the outcome that `to_dict` wrote; KeyError, TypeError or ValueError for anything else."""
        rule = Rule(**{**body["rule"], "verdicts": tuple(body["rule"]["verdicts"])})
        waived, ci, bound = body["waived"], body["ci"], body["bound"]
        if body["status"] not in ("pass", "fail", "inconclusive", "undefined"):
            raise ValueError(f"no status is called {body['status']!r}")
        metric = Metric(
            spec_of(rule.metric),
            body["value"],
            ci=None if ci is None else (float(ci[0]), float(ci[1])),
            n=body["n"],
            reason=body["reason"],
            of_all=body.get("of_all", "known"),
        )
        waiver = waived and Waiver(**{**waived, "expires": datetime.date.fromisoformat(waived["expires"])})
        return cls(
            rule=rule,
            metric=metric,
            status=body["status"],
            bound=None if bound is None else float(bound),
            waiver=waiver,
            part=body["part"] or "",
        )


def _number(metric: Metric) -> float:
    if not isinstance(metric.value, (int, float)):
        raise TypeError(f"metric `{metric.id}` is no single number")
    return float(metric.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a model could not be checked at all."""

    code: str
    message: str
    hint: str | None
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """All outcomes of one model.

    Attributes:
        inconclusive: how the policy counts a rule that is undecided.
        inputs_sha256: hash of all that the outcomes depend on, by which an interrupted run resumes; may be empty.
    """

    model: str
    artifact: Artifact | None = None
    outcomes: Sequence[Outcome] = ()
    findings: Sequence[Finding] = ()
    failure: Failure | None = None
    inconclusive: str = "error"
    inputs_sha256: str = ""

    @property
    def exit_code(self) -> int:
        """0 all pass, 1 a rule fails, 3 undecided or nothing checked, else the code of the failure."""
        if self.failure is not None:
            return self.failure.exit_code
        if not self.outcomes:
            return 3
        codes = {0}
        for outcome in self.outcomes:
            if not outcome.counts:
                continue
            if outcome.status == "fail":
                codes.add(1)
            elif outcome.status != "pass" and self.inconclusive == "error":
                codes.add(3)
        # within one model a failed rule is the news, not that another one is open
        return 1 if 1 in codes else max(codes)

    def name_of(self, outcome: Outcome) -> str:
        """Return what tells an outcome from the others of this model: its metric, and that it is the regression of two."""
        metric = outcome.rule.metric
        two = sum(other.rule.metric == metric for other in self.outcomes) > 1
        return f"{metric} (regression)" if two and outcome.rule.regression is not None else metric

    def to_dict(self) -> Json:
        return {
            "model": self.model,
            "artifact": self.artifact.to_dict() if self.artifact else None,
            "outcomes": [o.to_dict() for o in self.outcomes],
            "findings": [f.to_dict() for f in self.findings],
            "error": None
            if self.failure is None
            else {"code": self.failure.code, "message": self.failure.message, "hint": self.failure.hint},
            "inconclusive": self.inconclusive,
            "inputs_sha256": self.inputs_sha256,
            "exit_code": self.exit_code,
        }

    @classmethod
    def from_dict(cls, body: Json) -> ModelReport:
        """Return the report that `to_dict` wrote; KeyError, TypeError or ValueError for anything else."""
        error = body["error"]
        return cls(
            model=str(body["model"]),
            artifact=body["artifact"] and Artifact(**body["artifact"]),
            outcomes=tuple(Outcome.from_dict(o) for o in body["outcomes"]),
            findings=tuple(Finding.from_dict(f) for f in body["findings"]),
            failure=error and Failure(**error, exit_code=int(body["exit_code"])),
            inconclusive=str(body["inconclusive"]),
            inputs_sha256=str(body["inputs_sha256"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """A whole run.  A run that checked nothing never passes.

    Attributes:
        unwritten: the exit code of a run that could not write a file, whatever it found; None where it could.
    """

    models: Sequence[ModelReport]
    policy: str = ""
    policy_digest: str = ""
    baseline: str | None = None
    settings: Json = field(default_factory=dict)
    unwritten: int | None = None

    @property
    def exit_code(self) -> int:
        return self.unwritten or worst_code(m.exit_code for m in self.models)

    def to_dict(self) -> Json:
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "check",
            "policy": {"origin": self.policy, "sha256": self.policy_digest},
            "baseline": self.baseline,
            "settings": self.settings,
            "models": [m.to_dict() for m in self.models],
            "exit_code": self.exit_code,
        }
