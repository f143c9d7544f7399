"""Run a policy on models: sampling grows until every rule is decided.

A rule is looked at after each doubling of the samples.  The interval of each look is widened so that all
looks together keep the policy's confidence (Bonferroni over the possible looks), and a decision once made
stands.  Within a time, the last look is the one that twice as many samples would take beyond it; what was not looked at
is undefined, which never passes.
"""

from __future__ import annotations

import datetime
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from vaeprobe.budget import NO_TIME, about, budget, share_of
from vaeprobe.checkpoints.architecture import path_beside
from vaeprobe.errors import ResourceError, UsageError, VaeprobeError, bug
from vaeprobe.findings import (
    NOTHING_CHECKED,
    PART_OF_JACOBIAN,
    PART_OF_LATENTS,
    SAME_ARTIFACT,
    TIME_LIMIT,
    WAIVER_EXPIRED,
)
from vaeprobe.foreign import in_words
from vaeprobe.gate import agreement, journal
from vaeprobe.gate import baseline as baselines
from vaeprobe.gate.outcome import Failure, ModelReport, Outcome
from vaeprobe.gate.policy import AGREEMENT, FORMAT, FORMAT_SPEC, Policy, Rule, Side, probe_of, spec_of
from vaeprobe.probes import asks_decoder, probe_class, question_class
from vaeprobe.probes.base import rows_of
from vaeprobe.processes import current as processes
from vaeprobe.report import Artifact, Finding, Json, Metric, Status
from vaeprobe.result import Result

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder

Loader = Callable[[str], "Decoder"]

# of a rule that bounds both sides, the side that says most against the model first
WORST_STATUS: tuple[Status, ...] = ("fail", "undefined", "inconclusive", "pass")
NOT_IN_BASELINE = (
    "the baseline has no values of it: its model has latents without one, or no rule asked for it; "
    "--update-baseline makes it anew"
)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A policy with its baseline, ready to check models.

    Attributes:
        policy: the rules.
        baseline: records by model path, or None.
        data: rows for all models, in place of the policy's: a path.
        loading: options that models are loaded with, by their names in Python, before the policy's.
        today: the day that waivers are judged on.
    """

    policy: Policy
    baseline: Mapping[str, baselines.Record] | None = None
    data: str | None = None
    loading: Mapping[str, object] = field(default_factory=dict)
    today: datetime.date = field(default_factory=datetime.date.today)

    def check(self, model: str, load: Loader, *, share: float = 1.0) -> ModelReport:
        """Return what the policy says of one model; an error becomes the report's failure.

        Args:
            model: its name to the policy.
            load: makes its decoder.
            share: of the time that is left once it is loaded, what it may take.
        """
        from vaeprobe.engine.remembered import remembered
        from vaeprobe.probes.parts import as_asked

        try:
            _ask_for_time()
            decoder = load(model)
            _ask_for_time()
            # a policy says how many samples; each look has the latents of the last, and probes share them
            with as_asked(), remembered(), share_of(share):
                return self.check_decoder(model, decoder)
        except VaeprobeError as error:
            return ModelReport(model=model, failure=failure_of(error))
        except MemoryError:
            if processes().world > 1:  # the others are in the midst of the same model
                raise
            return ModelReport(
                model=model,
                failure=Failure(code="resources", message="out of memory", hint="fewer samples", exit_code=6),
            )
        except Exception as error:
            # one model that meets a bug of ours must not cost the reports of the others
            if os.environ.get("VAEPROBE_DEBUG") or processes().world > 1:
                raise
            return ModelReport(model=model, failure=failure_of(in_words(error) or bug(error)))

    def check_decoder(self, model: str, decoder: Decoder) -> ModelReport:
        """Return what the policy says of a loaded decoder.

        Raises:
            UsageError: a rule needs a baseline that is missing, or one made by another method.
        """
        rules = self.policy.rules_for(model)
        outcomes: list[Outcome] = []
        findings = list(decoder.notes)
        record = self._record(model, decoder, rules, findings)
        agreed = {id: rule for id, rule in rules.items() if id in AGREEMENT}
        probes = [p for p in dict.fromkeys(map(probe_of, rules)) if p is not None]  # None: agreement
        for k, probe in enumerate(probes):
            mine = {id: r for id, r in rules.items() if probe_of(id) == probe}
            with share_of(1 / (len(probes) - k + bool(agreed))):
                decided, limits = self._decide(probe, mine, decoder, record, self._data(model))
            outcomes += decided
            findings += limits
        if agreed and budget().over:
            outcomes += [unmeasured(rule, NO_TIME) for rule in agreed.values()]
            findings.append(Finding(TIME_LIMIT, f"agreement with the baseline: {NO_TIME}"))
        elif agreed and record is not None:
            found = agreement.measure(
                decoder, record, self._data(model), agreed, level=self.policy.confidence
            )
            outcomes += [hold(rule, found[id]) for id, rule in agreed.items()]
        outcomes += self._format(decoder.artifact)
        waived = [self._waive(outcome, model, findings) for outcome in outcomes]
        if not waived:
            findings.append(
                Finding(
                    NOTHING_CHECKED,
                    "no rule applies to this model",
                    hint="add one under [check.rules]; `vaeprobe explain` lists the metrics",
                )
            )
        return ModelReport(
            model=model,
            artifact=decoder.artifact,
            outcomes=tuple(waived),
            findings=tuple(findings),
            inconclusive=self.policy.inconclusive,
        )

    def record(self, model: str, decoder: Decoder) -> baselines.Record:
        """Return what a baseline keeps of a decoder: its metrics that are means over latents, at max-samples.

        Probes are those of the model's rules; of their metrics, all but costly ones that no rule names.
        """
        import numpy as np

        values: Json = {}
        methods: dict[str, Mapping[str, object]] = {}
        rules, data = self.policy.rules_for(model), self._data(model)
        asked = {p for p in map(probe_of, rules) if p and asks_decoder(question_class(p))}
        for name in sorted(asked or {"orthogonality"}):
            skipped = {id for _, ids in _savings(name, rules).values() for id in ids}
            result = self._measure(name, decoder, self.policy.max_samples, rules, data)
            methods[name] = self._method(name, result, data)
            values |= {
                id: np.asarray(v, dtype=np.float64)
                for id, v in result.per_sample().items()
                if id not in skipped
            }
        sha256 = decoder.artifact.sha256 if decoder.artifact else ""
        kept = None
        if any(id in AGREEMENT for id in rules):
            kept = agreement.kept_of(decoder, data, columns=not agreement.COLUMNS.isdisjoint(rules))
        return baselines.Record(
            sha256=sha256,
            latent_dim=decoder.latent_dim,
            methods=methods,
            values=values,
            kept=kept,
            loading=self._loaded(model),
        )

    def loading_for(self, model: str) -> dict[str, object]:
        """Return the options that a model is loaded with, those that are given here before the policy's."""
        said = {name: value for name, value in self.loading.items() if value not in (None, [], ())}
        return {**self.loading, **self.policy.loading_for(model), **said}

    # -- the parts -----------------------------------------------------------------------------------

    def _data(self, model: str) -> str | None:
        return self.data if self.data is not None else self.policy.data_for(model)

    def _rows(self, probe: str, data: str | None) -> str | None:
        """Return the rows that a probe takes: its own of the policy, if neither is overridden."""
        own = self.policy.settings.get(probe, {}).get("data")
        return own if isinstance(own, str) and self.data is None else data

    def _loaded(self, model: str) -> Json:
        """Return what a baseline keeps of how a model is loaded: files by their bytes, conditions in one order."""
        given = {**self.loading_for(model)}
        if isinstance(conditions := given.get("condition"), (list, tuple)):
            given["condition"] = ", ".join(sorted(conditions))
        if isinstance(blueprint := given.get("blueprint") or path_beside(Path(model)), (str, Path)):
            given["blueprint"] = journal.fingerprint(blueprint) or str(blueprint)
        return baselines.said(given, (*baselines.LOADED, *baselines.NETWORK))

    def _method(self, probe: str, result: Result, data: str | None) -> Json:
        """Return the part of a measurement that a paired comparison must share: its settings, the files of these, the rows of its data."""
        method, rows = baselines.method_of(result.settings), self._rows(probe, data)
        if rows is not None and "rows" in result.settings:
            method["data"] = agreement.sha256_of(rows_of(rows, agreement.MOST_ROWS))
        for name, path in journal.named_files(self.policy.settings.get(probe, {})):
            if name in baselines.FILES:
                method[f"file of {name}"] = journal.fingerprint(path)
        if result.settings.get("part", "auto") != "auto":
            method["part"] = result.settings["part"]
        return method

    def _measure(
        self, probe: str, decoder: Decoder, samples: int, wanted: Iterable[str], data: str | None = None
    ) -> Result:
        """Return what a probe measures; of its metrics, only the wanted ones can be relied on."""
        from vaeprobe.probes.with_encoder import rows_as_drawn

        cls = question_class(probe)
        settings, data = dict(self.policy.settings.get(probe, {})), self._rows(probe, data)
        if not asks_decoder(cls):
            if data is None:
                raise UsageError(f"a rule on `{probe}` needs data", hint="--data, or `data` under [check]")
            return cls.asked(settings).measure(data)
        if data is not None:
            settings["data"] = data
        settings |= {name: cheapest for name, (cheapest, _) in _savings(probe, wanted).items()}
        with rows_as_drawn():
            return cls.asked({"samples": max(1, samples // cls.COST), **settings}).measure(decoder)

    def _decide(
        self,
        probe: str,
        rules: Mapping[str, Rule],
        decoder: Decoder,
        record: baselines.Record | None,
        data: str | None,
    ) -> tuple[list[Outcome], list[Finding]]:
        """Return the outcomes of a probe's rules, and what to say of the time that they were given."""
        if budget().over:
            limit = Finding(TIME_LIMIT, f"{probe}: {NO_TIME}")
            return [unmeasured(part, NO_TIME) for rule in rules.values() for part in rule.parts], [limit]
        limited: list[Finding] = []
        parts = [part for rule in rules.values() for part in rule.parts]
        paired = {part.metric: part for part in parts if part.regression is not None}
        limits = {part.metric: part for part in parts if part.regression is None}
        pairs: dict[str, Outcome] = {}
        decided: dict[str, Outcome] = {}
        if paired and record is not None:
            pairs, limited = self._pair(probe, paired, decoder, record, data)
        n, looks = self.policy.samples, looks_of(self.policy.samples, self.policy.max_samples)
        level = 1 - (1 - self.policy.confidence) / looks
        while len(decided) < len(limits):
            start = time.monotonic()
            result = self._measure(probe, decoder, n, limits.keys() - decided.keys(), data)
            twice = 2 * (time.monotonic() - start)
            limited += (cut := _limits_of(result))
            full = n >= self.policy.max_samples
            last = full or bool(cut) or not budget().affords(twice)
            still_open = False
            for id, rule in limits.items():
                if id in decided:
                    continue
                if rule.verdicts:
                    open_words = question_class(probe).OPEN_VERDICTS
                    outcome = hold_verdict(rule, result, open_words)
                    # nor of the verdict of all, where that of a part is decided
                    of_part = result.verdict_of_all is not None and result.verdict not in open_words
                    final = outcome.status != "inconclusive" or of_part
                else:
                    outcome = hold(rule, metric_at(result, id, level))
                    # more samples never define an undefined metric nor move one without an interval, nor tell of
                    # latents that are not measured
                    final = (
                        outcome.status in ("pass", "fail", "undefined")
                        or outcome.metric.ci is None
                        or outcome.left_open
                    )
                if final or last:
                    decided[id] = replace(outcome, part=_part_of(result))
                    still_open |= not final
            if last and still_open and not (full or cut):
                words = f"{n} of at most {self.policy.max_samples} samples fitted into the time given; twice as many"
                limited.append(Finding(TIME_LIMIT, f"{probe}: {words} would take {about(twice)}"))
            n = min(2 * n, self.policy.max_samples)
        return [(decided if part.regression is None else pairs)[part.metric] for part in parts], limited

    def _pair(
        self,
        probe: str,
        rules: Mapping[str, Rule],
        decoder: Decoder,
        record: baselines.Record,
        data: str | None,
    ) -> tuple[dict[str, Outcome], list[Finding]]:
        import numpy as np

        if record.latent_dim != decoder.latent_dim:
            reason = (
                f"the baseline's model has {record.latent_dim} latents, this one {decoder.latent_dim}: "
                "there are no common latents to pair on"
            )
            return {id: unmeasured(rule, reason) for id, rule in rules.items()}, []
        out = {id: unmeasured(rule, NOT_IN_BASELINE) for id, rule in rules.items() if id not in record.values}
        paired = {id: rule for id, rule in rules.items() if id in record.values}
        if not paired:
            return out, []
        n = max(len(record.values[id]) for id in paired)
        result = self._measure(probe, decoder, n * probe_class(probe).COST, paired, data)
        if limits := _limits_of(result):
            reason = f"a regression is judged on all {n} latents of the baseline, which did not fit into the time given"
            return out | {id: unmeasured(rule, reason) for id, rule in paired.items()}, limits
        baselines.check_method(record.methods.get(probe, {}), self._method(probe, result, data))
        part = _part_of(result)
        for id, rule in paired.items():
            old, new = record.values[id], np.asarray(result.per_sample().get(id, ()), dtype=np.float64)
            if len(new) != len(old):
                out[id] = replace(unmeasured(rule, _unpaired(result[id], len(old))), part=part)
                continue
            metric, status, margin = baselines.compare(
                result[id].spec, rule, old, new, confidence=self.policy.confidence
            )
            out[id] = Outcome(rule=rule, metric=metric, status=status, bound=margin, part=part)
        return out, []

    def _record(
        self, model: str, decoder: Decoder, rules: Mapping[str, Rule], findings: list[Finding]
    ) -> baselines.Record | None:
        if not any(r.needs_baseline for r in rules.values()):
            return None
        if self.baseline is None:
            raise UsageError(
                "a rule compares with a baseline, and none was given",
                hint="add --baseline FILE, or `baseline` to [check]; --update-baseline makes it",
            )
        record = self.baseline.get(Path(os.path.relpath(model)).as_posix())
        if record is None:
            raise UsageError(
                f"the baseline holds nothing about `{model}`", hint="add it with --update-baseline"
            )
        mine = self._loaded(model)
        theirs = baselines.said(record.loading, record.loading)
        baselines.check_method(*(baselines.said(how, baselines.LOADED) for how in (theirs, mine)))
        same = record.latent_dim == decoder.latent_dim and mine == theirs
        if same and decoder.artifact and record.sha256 and record.sha256 == decoder.artifact.sha256:
            message = "this is the very artifact of the baseline: no regression is possible"
            findings.append(Finding(SAME_ARTIFACT, message))
        return record

    def _format(self, artifact: Artifact | None) -> list[Outcome]:
        if not self.policy.formats or artifact is None:
            return []
        good = artifact.format in self.policy.formats
        rule = Rule(metric=FORMAT, side="max", limit=0)
        reason = f"{artifact.format} is {'' if good else 'not '}among {', '.join(self.policy.formats)}"
        metric = Metric(FORMAT_SPEC, int(not good), reason=reason)
        return [Outcome(rule=rule, metric=metric, status="pass" if good else "fail", bound=0.0)]

    def _waive(self, outcome: Outcome, model: str, findings: list[Finding]) -> Outcome:
        if outcome.status == "pass":
            return outcome
        for waiver in self.policy.waivers:
            if waiver.covers(outcome.rule.metric, model, self.today):
                return replace(outcome, waiver=waiver)
            if waiver.applies(outcome.rule.metric, model):
                message = f"the waiver of {outcome.rule.metric} expired on {waiver.expires}: {waiver.reason}"
                findings.append(Finding(WAIVER_EXPIRED, message))
        return outcome


def _ask_for_time() -> None:
    """Refuse to begin where no time is left.

    Raises:
        ResourceError: none is.
    """
    if budget().over:
        raise ResourceError(NO_TIME, hint="give more --time, or go on with --resume FILE")


def _savings(probe: str, wanted: Iterable[str]) -> dict[str, tuple[object, frozenset[str]]]:
    """Return the costly settings of a probe that no wanted metric depends on."""
    read = set(wanted)
    return {name: saving for name, saving in question_class(probe).SAVINGS.items() if not saving[1] & read}


def looks_of(first: int, last: int) -> int:
    """Return how many times a rule may be looked at when the samples double from first to last."""
    return 1 + max(0, math.ceil(math.log2(last / first)))


def metric_at(result: Result, id: str, level: float) -> Metric:
    """Return a metric of a result with its interval at another level.

    Means over latents get Student's interval of their values; other intervals are widened as a normal
    distribution's would be.
    """
    import numpy as np

    from vaeprobe.intervals import student_interval

    metric = result.metrics.get(id)
    if metric is None:
        return Metric.undefined(spec_of(id), "the probe did not report it")
    values = result.per_sample().get(id)
    # Student's is over latents alone: an estimate's interval holds the choice of columns too
    over_latents = metric.of_all != "estimated"
    if values is not None and len(values) > 1 and metric.value is not None and over_latents:
        array = np.asarray(values, dtype=np.float64)
        return replace(metric, ci=student_interval(array, level), level=level)
    if metric.ci is None or not isinstance(metric.value, (int, float)):
        return metric
    normal = NormalDist()
    factor = normal.inv_cdf(0.5 + level / 2) / normal.inv_cdf(0.5 + (metric.level or 0.95) / 2)
    low, high = (metric.value - (metric.value - end) * factor for end in metric.ci)
    return replace(metric, ci=(low, high), level=level)


def unmeasured(rule: Rule, reason: str) -> Outcome:
    """Return the outcome of a rule of which nothing was measured, and why."""
    return Outcome(
        rule=rule, metric=Metric.undefined(spec_of(rule.metric), reason), status="undefined", bound=rule.limit
    )


def _unpaired(metric: Metric, wanted: int) -> str:
    """Return why a metric cannot be paired with the values of a baseline: its own reason where it has one."""
    counts = f"it is known at {metric.n} latents and its baseline at {wanted}: they are not the same ones"
    return metric.reason or counts


def hold(rule: Rule, metric: Metric) -> Outcome:
    """Return the outcome of a limit rule: of the worse side, where it bounds both."""
    if not rule.limits:
        raise ValueError("a regression rule is held against a baseline, a verdict by `hold_verdict`")
    sides = [_hold_side(rule, metric, side, limit) for side, limit in rule.limits]
    return min(sides, key=lambda outcome: WORST_STATUS.index(outcome.status))


def _hold_side(rule: Rule, metric: Metric, side: Side, limit: float) -> Outcome:
    from vaeprobe.report import Check

    if isinstance(metric.value, list):
        metric = worst_of(metric, side)
    if isinstance(metric.value, bool) or not isinstance(metric.value, (int, float, type(None))):
        raise UsageError(f"`{metric.id}` is no number and takes no limit", hint="choose another metric")
    status: Status = Check(metric=metric, side=side, limit=limit).status
    return Outcome(rule=rule, metric=metric, status=status, bound=limit)


def hold_verdict(rule: Rule, result: Result, still_open: Iterable[str]) -> Outcome:
    """Return the outcome of a rule on a verdict.

    Args:
        still_open: verdicts that more samples may turn into another.
    """
    word, listed = result.verdict, set(rule.verdicts)
    status: Status
    if result.verdict_of_all is not None:
        may = set(result.verdict_of_all)
        status = "pass" if may <= listed else "inconclusive" if may & listed else "fail"
    elif set(word.split("; ")) <= listed:
        status = "pass"
    else:
        status = "inconclusive" if word in still_open else "undefined" if word == "undefined" else "fail"
    samples = result.settings.get("samples")
    metric = Metric(
        spec_of(rule.metric),
        word,
        n=samples if isinstance(samples, int) else None,
        of_all="known" if result.verdict_of_all is None else "open",
    )
    return Outcome(rule=rule, metric=metric, status=status, bound=None)


def worst_of(metric: Metric, side: Side) -> Metric:
    """Return the worst of a metric that has a number per latent, which is what a limit bounds."""
    known = [v for v in metric.value if isinstance(v, (int, float))] if isinstance(metric.value, list) else []
    if not known:
        return Metric.undefined(metric.spec, "no latent has a value", n=metric.n)
    what = f"the {'largest' if side == 'max' else 'smallest'} of {len(known)} latents"
    return Metric(
        metric.spec,
        max(known) if side == "max" else min(known),
        n=metric.n,
        method=metric.method,
        reason=what,
        of_all=metric.of_all,
    )


def failure_of(error: VaeprobeError) -> Failure:
    """Return an error as data."""
    return Failure(code=error.code, message=error.message, hint=error.hint, exit_code=error.exit_code)


def _limits_of(result: Result) -> list[Finding]:
    """Return what a result says that the time given did not last for."""
    return [
        replace(f, message=f"{result.command}: {f.message}") for f in result.findings if f.spec is TIME_LIMIT
    ]


def _part_of(result: Result) -> str:
    """Return which part of a decoder a result speaks of, "" where it is all of it."""
    parts = (f.message for f in result.findings if f.spec in (PART_OF_JACOBIAN, PART_OF_LATENTS))
    return next(parts, "")
