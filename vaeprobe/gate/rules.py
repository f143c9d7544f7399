"""Rules, from what a policy, `--rule` or a test writes: a bare limit, verdicts, or a table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import cast, get_args

from vaeprobe.errors import UsageError, did_you_mean
from vaeprobe.gate.policy import AGREEMENT, Rule, RuleLevel, Side, is_verdict, probe_of, ruled, spec_of
from vaeprobe.gate.toml_values import check_keys, choice, finite, require, table_of, texts
from vaeprobe.probes import question_class
from vaeprobe.probes.settings import is_number
from vaeprobe.report import MetricSpec

__all__ = ["COMMAND_LINE", "LISTED", "rule", "rule_of_text", "rules_of", "rules_of_texts"]

RULE_KEYS = ("max", "min", "limit", "regression", "is", "level")


LISTED = "`vaeprobe explain` lists the metrics"


COMMAND_LINE = "--rule"  # where a rule stands that is written for a shell


def rule_of_text(text: str) -> Rule:
    """Return the rule that `--rule` names: METRIC=LIMIT, METRIC<=X, METRIC>=X, or PROBE.verdict=WORD,WORD.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"\s*([^<>=\s]+)\s*(<=|>=|=)\s*(.+?)\s*", text)
    if match is None:
        raise UsageError(f"`{text}` is no rule", hint="write METRIC=LIMIT, e.g. orthogonality.alignment=0.5")
    metric, sign, value = match.groups()
    body: object = _verdicts(metric, value) if is_verdict(metric) else value
    if not is_verdict(metric):
        try:
            limit = float(value)
        except ValueError:
            raise UsageError(
                f"`{text}` is no rule", hint="write METRIC=LIMIT, e.g. orthogonality.alignment=0.5"
            ) from None
        body = {{"=": "limit", "<=": "max", ">=": "min"}[sign]: limit}
    made = rule(metric, body, COMMAND_LINE)
    if made is None:  # pragma: no cover - only `false` switches a rule off
        raise UsageError(f"`{text}` is no rule")
    return made


def rules_of_texts(texts: Iterable[str]) -> dict[str, Rule]:
    """Return the rules that `--rule` names, by metric: an upper and a lower limit of one metric are one rule.

    Raises:
        UsageError: one is no rule, or two are of one side of a metric.
    """
    out: dict[str, Rule] = {}
    for made in map(rule_of_text, texts):
        known = out.get(made.metric)
        if known is None:
            out[made.metric] = made
            continue
        limits = dict((*known.limits, *made.limits))
        if known.floor is not None or len(limits) < 2:
            raise UsageError(
                f"{COMMAND_LINE}: two rules on {made.metric}, {known.describe()} and {made.describe()}",
                hint="leave one of them out",
            )
        both = rule(made.metric, dict(limits), COMMAND_LINE)
        assert both is not None
        out[made.metric] = both
    return out


def _verdicts(metric: str, text: str) -> list[str]:
    """Return the words between commas; a verdict that has a comma of its own is one word."""
    for word in question_class(probe_of(metric) or "").VERDICTS:
        text = text.replace(word, word.replace(",", "\0"))
    return [word.strip().replace("\0", ",") for word in text.split(",")]


def rule(metric: str, body: object, where: str = "rule") -> Rule | None:
    """Return one rule: a bare limit, verdicts, a table, or False for a rule that is switched off.

    Raises:
        UsageError: no such metric, a limit on the wrong side, or a value of the wrong kind.
    """
    if metric not in (known := ruled()):
        raise UsageError(
            f"{where}: no metric is called `{metric}`",
            hint=_unquoted(metric, body, known) or did_you_mean(metric, known) or LISTED,
        )
    if body is False:
        return None
    if is_verdict(metric):
        return _verdict_rule(metric, body, f'{where}: "{metric}"')
    spec = spec_of(metric)
    if not is_number(body) and not isinstance(body, dict):
        raise UsageError(
            f'{where}: "{metric}" takes a number or a table, not {_kind(body)}',
            hint=f"without quotes: {body}"
            if _says_number(body)
            else f'for example "{metric}" = {_example(spec)}',
        )
    table = table_of(body, f'{where}: "{metric}"') if not is_number(body) else {"limit": body}
    check_keys(table, RULE_KEYS, f'{where}: "{metric}"')
    if "is" in table:
        raise UsageError(
            f'{where}: "{metric}" is a number, and `is` names verdicts',
            hint=f"rules on verdicts: {', '.join(id for id in known if is_verdict(id))}",
        )
    sides = [k for k in ("max", "min", "limit") if k in table]
    both = sides == ["max", "min"] and spec.better is None and "regression" not in table
    if len(sides) != 1 and not both and (sides or "regression" not in table):
        raise UsageError(
            f'{where}: "{metric}" needs exactly one of max, min and limit, a regression, or one of each',
            hint=f'for example "{metric}" = {{ {_side(spec, where)} = 0.2 }}'
            if spec.better
            else "or both max and min",
        )
    level = cast("RuleLevel", choice(table.get("level", "error"), get_args(RuleLevel), where))
    margin: float | None = None
    relative = False
    if "regression" in table:
        if metric in AGREEMENT:
            raise UsageError(
                f'{where}: "{metric}" is agreement with the baseline itself, and takes a limit',
                hint=f'for example "{metric}" = 0.95',
            )
        cls = question_class(probe_of(metric) or "")
        if metric not in cls.PER_SAMPLE:
            raise UsageError(
                f'{where}: "{metric}" is no mean over latents and has no baseline to compare with',
                hint="give it a limit (max or min) instead of a regression"
                + (f"; {', '.join(sorted(cls.PER_SAMPLE))} have one" if cls.PER_SAMPLE else ""),
            )
        margin, relative = _margin(table["regression"], f'{where}: "{metric}"')
        if not sides:
            side = _side(spec, where)
            return Rule(metric=metric, side=side, regression=margin, relative=relative, level=level)
    limit = finite(table[sides[0]], f'{where}: "{metric}"')
    if both:
        floor = finite(table["min"], f'{where}: "{metric}"')
        if floor > limit:
            raise UsageError(f'{where}: "{metric}": nothing is at least {floor:g} and at most {limit:g}')
        return Rule(metric=metric, side="max", limit=limit, floor=floor, level=level)
    side = _side(spec, where) if sides[0] == "limit" else "max" if sides[0] == "max" else "min"
    if spec.better and side != _side(spec, where):
        right = _side(spec, where)
        sign = "<=" if right == "max" else ">="
        raise UsageError(
            f'{where}: "{metric}" is better when {spec.better}, and `{side}` would bound its good side',
            hint=f"write {metric}={limit:g}, which means {sign} {limit:g}"
            if where == COMMAND_LINE
            else f"write {{ {right} = {limit:g} }}, or just {limit:g}",
        )
    return Rule(metric=metric, side=side, limit=limit, regression=margin, relative=relative, level=level)


def _unquoted(metric: str, body: object, known: Iterable[str]) -> str:
    """Return what to write where TOML took the dots of a metric's name for tables, "" where it did not."""
    path = metric
    while isinstance(body, dict):
        deeper = [
            k for k in body if any(id == f"{path}.{k}" or id.startswith(f"{path}.{k}.") for id in known)
        ]
        if not deeper:
            break
        path, body = f"{path}.{deeper[0]}", body[deeper[0]]
    return f'names of metrics stand in quotes: "{path}" = ...' if path in known else ""


def _kind(body: object) -> str:
    return {str: "a text", bool: "true", list: "a list"}.get(type(body), type(body).__name__)


def _says_number(body: object) -> bool:
    try:
        return isinstance(body, str) and math.isfinite(float(body))
    except ValueError:
        return False


def _example(spec: MetricSpec) -> str:
    return "0.5" if spec.better else "{ max = 0.5 }"


def _verdict_rule(metric: str, body: object, where: str) -> Rule:
    """Return a rule on a verdict: a word, a list of words, or { is = ..., level = ... }."""
    table = (
        {"is": body}
        if isinstance(body, (str, list))
        else {"limit": body}
        if is_number(body)
        else table_of(body, where)
    )
    if any(key in table for key in ("max", "min", "limit", "regression")):
        raise UsageError(
            f"{where} is a word and takes no limit", hint=f'write "{metric}" = "WORD", or a list'
        )
    check_keys(table, ("is", "level"), where)
    require(table, ("is",), where)
    words = tuple(texts(table["is"], where))
    known = question_class(probe_of(metric) or "").VERDICTS
    if not words:
        raise UsageError(f"{where}: no verdict would pass", hint=f"one of {', '.join(known)}")
    for word in words:
        if known and word not in known:
            raise UsageError(
                f"{where}: no verdict is called `{word}`",
                hint=did_you_mean(word, known) or f"one of {', '.join(known)}",
            )
    level = cast("RuleLevel", choice(table.get("level", "error"), get_args(RuleLevel), where))
    return Rule(metric=metric, verdicts=words, level=level)


def rules_of(body: object, where: str) -> list[Rule | None]:
    return [rule(metric, value, where) for metric, value in table_of(body, where).items()]


def _side(spec: MetricSpec, where: str) -> Side:
    if spec.better is None:
        raise UsageError(
            f'{where}: "{spec.id}" has no better direction',
            hint=f"say which side: '{spec.id}<=X' or '{spec.id}>=X'"
            if where == COMMAND_LINE
            else "say which side: { max = ... } or { min = ... }",
        )
    return "max" if spec.better == "lower" else "min"


def _margin(value: object, where: str) -> tuple[float, bool]:
    if isinstance(value, str) and value.rstrip().endswith("%"):
        try:
            share = float(value.rstrip().removesuffix("%")) / 100
        except ValueError:
            raise UsageError(f"{where}: `{value}` is no percentage", hint='write "3 %"') from None
        if not 0 <= share < 10:
            raise UsageError(f"{where}: a relative margin lies between 0 and 1000 %")
        return share, True
    margin = finite(value, where)
    if margin < 0:
        raise UsageError(
            f"{where}: a margin is never negative", hint="the metric knows which direction is worse"
        )
    return margin, False
