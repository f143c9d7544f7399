"""A policy file: `vaeprobe.toml`, or the same tables under `[tool.vaeprobe]` in pyproject.toml.

```toml
[check]
models = ["models/*.safetensors"]
samples = 256
max-samples = 4096
data = "validation.npy"             # for rules on posterior, beta and elbo
baseline = "vaeprobe-baseline.json"

[check.rules]
"orthogonality.mean_abs_cosine" = { max = 0.2 }
"orthogonality.alignment" = 0.5                        # the metric knows its direction: at least 0.5
"orthogonality.ima_contrast" = { regression = "3 %" }  # against the baseline; 0.05 would be nats
"factorise.verdict" = ["linear", "independent"]        # verdicts that pass
"compare.mcc" = 0.95                                   # the same latents as the baseline's; needs data

[orthogonality]                     # settings of a probe, as on its command line
likelihood = "bernoulli"

[[check.overrides]]
models = "models/legacy_*"
rules = { "orthogonality.alignment" = { min = 0.2, level = "warning" } }
data = "legacy.npy"
condition = { label = 3 }           # how they are loaded: condition, latent-size, weights, output-name, key, ...

[[check.waivers]]
rule = "orthogonality.mean_abs_cosine"
models = "models/old.pt"
reason = "retrained in the next release"
expires = 2027-01-31
```

`KEYS` says what each key means.  A policy can never grant trust: `arch`, `allow-code`, `submodule` and the
like belong on the command line.
"""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

from vaeprobe.errors import InputError, UsageError, did_you_mean
from vaeprobe.files.source import read_text
from vaeprobe.gate.policy import (
    AGREEMENT,
    FORMAT,
    Override,
    Policy,
    Rule,
    RuleLevel,
    Side,
    Undecided,
    Waiver,
    is_verdict,
    probe_of,
    ruled,
    spec_of,
)
from vaeprobe.probes import PROBES, asks_decoder, question_class
from vaeprobe.probes.settings import check, field_type, is_list, is_number
from vaeprobe.report import MetricSpec

POLICY_FILE = "vaeprobe.toml"
TRUST = frozenset({"arch", "allow-code", "allow_code", "submodule", "trust", "device"})
# key of [check] -> (its default, what it means)
KEYS = {
    "models": (
        "none",
        "paths and globs that are checked where the command line names none, beside this file",
    ),
    "data": (
        "none",
        "rows for rules that need them (posterior, beta, elbo, kl, train_linear), beside this file",
    ),
    "baseline": ("none", "the file that rules on regression and agreement compare with, beside this file"),
    "samples": ("256", "the first draw of latents (trace: 4 starts); it doubles until every rule is decided"),
    "max-samples": ("4096", "where it stops doubling, and what is still open is inconclusive"),
    "confidence": ("0.95", "of each rule's decision, over all its looks together"),
    "inconclusive": ('"error"', 'what an open rule counts as: "error" (exit 3), "warning" or "pass"'),
    "formats": ("any", "formats that artifacts must have, e.g. safetensors, pt2"),
    "rules": (
        "none",
        'metric = LIMIT, { max = X }, { min = X }, { regression = X or "3 %" }; verdict = WORD or a list',
    ),
    "overrides": (
        "none",
        "[[check.overrides]] models, rules, data and the keys of loading: for some models; a rule that is false is off",
    ),
    "waivers": ("none", "[[check.waivers]] rule, models, reason, expires: what may fail until a date"),
}
# how models are loaded: what the options of these names say
LOADING = {
    "condition": ("none", "what conditional decoders are held at: { label = 3 }"),
    "latent-size": ("none", 'size of a map of latents: "8x8"'),
    "latent-dim": ("none", "number of latents, where the file leaves it open"),
    "weights": ("the average", '"ema" or "raw", where a file holds both'),
    "output-name": ("none", "which of several outputs to probe"),
    "key": ("none", "the entry that holds the weights"),
    "arch-args": ("none", 'arguments for --arch, which itself is given on the command line: "latent_dim=10"'),
}
KEYS |= LOADING
RULE_KEYS = ("max", "min", "limit", "regression", "is", "level")
LISTED = "`vaeprobe explain` lists the metrics"
COMMAND_LINE = "--rule"  # where a rule stands that is written for a shell

LARGEST = 1 << 20  # bytes of a policy, or of the pyproject.toml that it stands in


def find(start: Path) -> Path | None:
    """Return the nearest policy file at or above a folder, or None."""
    for folder in (start, *start.parents):
        path = folder / POLICY_FILE
        if path.is_file():
            return path
        project = folder / "pyproject.toml"
        if project.is_file() and _speaks_of_us(project) and _tool(_toml(project)):
            return project
    return None


def _speaks_of_us(project: Path) -> bool:
    """Whether a pyproject.toml names this tool: a broken one of somebody else's is none of our business."""
    try:
        return b"vaeprobe" in project.read_bytes()
    except OSError:
        return False


def read(path: Path) -> Policy:
    """Return the policy in a TOML file.

    Raises:
        InputError: the file cannot be read or is no TOML.
        UsageError: a key, metric or value is wrong; the hint offers the nearest name.
    """
    tables = _toml(path)
    if path.name == "pyproject.toml":
        tables = _tool(tables)
    return parse(tables, origin=str(path))


def _tool(tables: Mapping[str, object]) -> dict[str, object]:
    """Return our tables of a pyproject.toml."""
    tool = tables.get("tool")
    own = tool.get("vaeprobe") if isinstance(tool, dict) else None
    return own if isinstance(own, dict) else {}


def _toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(read_text(path, LARGEST))
    except InputError as error:
        raise InputError(f"cannot read the policy `{path}`: {error.message}") from None
    except ValueError as error:  # no TOML, or a number of more digits than Python reads
        raise UsageError(f"the policy `{path}` is no TOML: {str(error)[:200]}") from None
    except RecursionError:
        raise UsageError(f"the policy `{path}` is nested too deeply") from None


def parse(tables: Mapping[str, object], *, origin: str = "policy") -> Policy:
    """Return the policy in parsed TOML tables (see `read`)."""
    tables = {key.replace("-", "_"): body for key, body in tables.items()}  # as the command writes it
    _known(tables, ("check", *PROBES), origin)
    check = _table(tables.get("check", {}), f"{origin}: [check]")
    _known(check, tuple(KEYS), f"{origin}: [check]")
    policy = Policy(
        rules={r.metric: r for r in _rules(check.get("rules", {}), f"{origin}: [check.rules]") if r},
        overrides=[
            _override(o, origin) for o in _list(check.get("overrides", []), f"{origin}: check.overrides")
        ],
        waivers=[_waiver(w, origin) for w in _list(check.get("waivers", []), f"{origin}: check.waivers")],
        models=_texts(check.get("models", []), f"{origin}: check.models"),
        data=_beside(check.get("data"), f"{origin}: check.data", origin),
        loading=_loading(check, f"{origin}: [check]"),
        baseline=_beside(check.get("baseline"), f"{origin}: check.baseline", origin),
        samples=_integer(check.get("samples", 256), f"{origin}: check.samples"),
        max_samples=_integer(check.get("max-samples", 4096), f"{origin}: check.max-samples"),
        confidence=_number(check.get("confidence", 0.95), f"{origin}: check.confidence"),
        inconclusive=cast(
            "Undecided", _choice(check.get("inconclusive", "error"), get_args(Undecided), origin)
        ),
        formats=_texts(check.get("formats", []), f"{origin}: check.formats"),
        settings={name: _settings(name, tables[name], origin) for name in PROBES if name in tables},
        origin=origin,
    )
    if not 0.5 < policy.confidence < 1:
        raise UsageError(f"{origin}: confidence must lie between 0.5 and 1, not {policy.confidence}")
    if policy.max_samples < policy.samples:
        raise UsageError(f"{origin}: max-samples ({policy.max_samples}) is below samples ({policy.samples})")
    return policy


def _known(table: Mapping[str, object], keys: Sequence[str], where: str) -> None:
    for key in table:
        if key in TRUST:
            raise UsageError(
                f"{where}: `{key}` is a matter of trust and is not read from a file",
                hint=f"give --{key.replace('_', '-')} on the command line",
            )
        if key not in keys:
            raise UsageError(
                f"{where}: unknown key `{key}`",
                hint=did_you_mean(key, keys) or f"known keys: {', '.join(keys)}",
            )


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
            hint=did_you_mean(metric, known) or LISTED,
        )
    if body is False:
        return None
    if is_verdict(metric):
        return _verdict_rule(metric, body, f'{where}: "{metric}"')
    spec = spec_of(metric)
    table = _table(body, f'{where}: "{metric}"') if not is_number(body) else {"limit": body}
    _known(table, RULE_KEYS, f'{where}: "{metric}"')
    if "is" in table:
        raise UsageError(
            f'{where}: "{metric}" is a number, and `is` names verdicts',
            hint=f"rules on verdicts: {', '.join(id for id in known if is_verdict(id))}",
        )
    sides = [k for k in ("max", "min", "limit") if k in table]
    if len(sides) + ("regression" in table) != 1:
        raise UsageError(
            f'{where}: "{metric}" needs exactly one of max, min, limit and regression',
            hint=f'for example "{metric}" = {{ {_side(spec, where)} = 0.2 }}' if spec.better else None,
        )
    level = cast("RuleLevel", _choice(table.get("level", "error"), get_args(RuleLevel), where))
    if "regression" in table:
        if metric in AGREEMENT:
            raise UsageError(
                f'{where}: "{metric}" is agreement with the baseline itself, and takes a limit',
                hint=f'for example "{metric}" = 0.95',
            )
        if not asks_decoder(question_class(probe_of(metric) or "")):
            raise UsageError(
                f'{where}: "{metric}" is no mean over latents and has no baseline to compare with',
                hint="give it a limit (max or min) instead of a regression",
            )
        margin, relative = _margin(table["regression"], f'{where}: "{metric}"')
        return Rule(metric=metric, side=_side(spec, where), regression=margin, relative=relative, level=level)
    limit = _number(table[sides[0]], f'{where}: "{metric}"')
    side: Side = _side(spec, where) if sides[0] == "limit" else "max" if sides[0] == "max" else "min"
    if spec.better and side != _side(spec, where):
        right = _side(spec, where)
        sign = "<=" if right == "max" else ">="
        raise UsageError(
            f'{where}: "{metric}" is better when {spec.better}, and `{side}` would bound its good side',
            hint=f"write {metric}={limit:g}, which means {sign} {limit:g}"
            if where == COMMAND_LINE
            else f"write {{ {right} = {limit:g} }}, or just {limit:g}",
        )
    return Rule(metric=metric, side=side, limit=limit, level=level)


def _verdict_rule(metric: str, body: object, where: str) -> Rule:
    """Return a rule on a verdict: a word, a list of words, or { is = ..., level = ... }."""
    table = (
        {"is": body}
        if isinstance(body, (str, list))
        else {"limit": body}
        if is_number(body)
        else _table(body, where)
    )
    if any(key in table for key in ("max", "min", "limit", "regression")):
        raise UsageError(
            f"{where} is a word and takes no limit", hint=f'write "{metric}" = "WORD", or a list'
        )
    _known(table, ("is", "level"), where)
    _require(table, ("is",), where)
    words = tuple(_texts(table["is"], where))
    known = question_class(probe_of(metric) or "").VERDICTS
    if not words:
        raise UsageError(f"{where}: no verdict would pass", hint=f"one of {', '.join(known)}")
    for word in words:
        if known and word not in known:
            raise UsageError(
                f"{where}: no verdict is called `{word}`",
                hint=did_you_mean(word, known) or f"one of {', '.join(known)}",
            )
    level = cast("RuleLevel", _choice(table.get("level", "error"), get_args(RuleLevel), where))
    return Rule(metric=metric, verdicts=words, level=level)


def _rules(body: object, where: str) -> list[Rule | None]:
    return [rule(metric, value, where) for metric, value in _table(body, where).items()]


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
    margin = _number(value, where)
    if margin < 0:
        raise UsageError(
            f"{where}: a margin is never negative", hint="the metric knows which direction is worse"
        )
    return margin, False


def _override(body: object, origin: str) -> Override:
    where = f"{origin}: [[check.overrides]]"
    table = _table(body, where)
    _known(table, ("models", "rules", "data", *LOADING), where)
    _require(table, ("models",), where)
    entries = _table(table.get("rules", {}), where)
    return Override(
        models=str(table["models"]),
        rules={m: rule(m, value, where) for m, value in entries.items()},
        data=_beside(table.get("data"), f"{where}: data", origin),
        loading=_loading(table, where),
    )


def _loading(table: Mapping[str, object], where: str) -> dict[str, object]:
    """Return what a table says of loading, as the options of these names take it."""
    found = {key: table[key] for key in LOADING if key in table}
    for key, value in found.items():
        if key == "condition":
            held = _table(value, f"{where}: condition")
            if not held or any(
                isinstance(v, bool) or not isinstance(v, (str, int, float)) for v in held.values()
            ):
                raise UsageError(
                    f"{where}: condition holds names at values", hint="condition = { label = 3 }"
                )
            found[key] = [f"{name}={v}" for name, v in held.items()]
        elif key == "latent-dim":
            if type(value) is not int or value < 1:
                raise UsageError(f"{where}: latent-dim is a whole number of at least 1, not `{value}`")
        elif not isinstance(value, str):
            raise UsageError(f"{where}: `{key}` is a text, not `{value}`")
    if "weights" in found:
        _choice(found["weights"], ("ema", "raw"), where)
    return {key.replace("-", "_"): value for key, value in found.items()}


def _waiver(body: object, origin: str) -> Waiver:
    where = f"{origin}: [[check.waivers]]"
    table = _table(body, where)
    _known(table, ("rule", "models", "reason", "expires"), where)
    _require(table, ("rule", "reason", "expires"), where)
    expires = table["expires"]
    if isinstance(expires, datetime.datetime):
        expires = expires.date()
    if isinstance(expires, str):
        try:
            expires = datetime.date.fromisoformat(expires)
        except ValueError:
            raise UsageError(f"{where}: `{expires}` is no date", hint="write expires = 2027-01-31") from None
    if not isinstance(expires, datetime.date):
        raise UsageError(f"{where}: expires must be a date", hint="write expires = 2027-01-31")
    if not str(table["reason"]).strip():
        raise UsageError(f"{where}: a waiver needs a reason")
    known = [FORMAT, *ruled()]
    if not any(fnmatch.fnmatch(id, str(table["rule"])) for id in known):
        raise UsageError(
            f"{where}: no metric matches `{table['rule']}`",
            hint=did_you_mean(str(table["rule"]), known) or LISTED,
        )
    return Waiver(
        rule=str(table["rule"]),
        models=str(table.get("models", "*")),
        reason=str(table["reason"]),
        expires=expires,
    )


def _settings(name: str, body: object, origin: str) -> dict[str, object]:
    """Return the settings of a probe; paths are relative to the policy's folder."""
    where = f"{origin}: [{name}]"
    cls = question_class(name)
    fields = {f.name.replace("_", "-"): f for f in dataclasses.fields(cls) if f.name not in cls.HIDDEN}
    table = {key.replace("_", "-"): value for key, value in _table(body, where).items()}
    _known(table, tuple(fields), where)
    if "samples" in table:
        raise UsageError(f"{where}: `samples` is set for all probes", hint="move it to check.samples")
    settings = {}
    for key, value in table.items():
        hint = field_type(cls, fields[key])
        if Path in (hint, *get_args(hint)):
            raise UsageError(f"{where}: `{key}` names a file to write, and the gate writes none but reports")
        if isinstance(value, dict) or (isinstance(value, list) and not is_list(hint)):
            raise UsageError(f"{where}: `{key}` takes one value, not {type(value).__name__}")
        check(cls, fields[key], value, f"{where}: `{key}`")
        beside = Path(origin).parent / value if isinstance(value, str) else None
        settings[fields[key].name] = str(beside) if beside is not None and beside.is_file() else value
    return settings


def _require(table: Mapping[str, object], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in table:
            raise UsageError(f"{where}: `{key}` is missing")


def _beside(value: object, where: str, origin: str) -> str | None:
    """Return a path of a policy, which stands beside it."""
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}: a path is expected, not `{value}`")
    return str(Path(origin).parent / value)


def _table(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: a table is expected, not {type(value).__name__}")
    return value


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise UsageError(f"{where}: a list is expected", hint="write it with double brackets: [[...]]")
    return value


def _texts(value: object, where: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise UsageError(f"{where}: a list of strings is expected")
    return values


def _number(value: object, where: str) -> float:
    if not is_number(value) or not math.isfinite(value):
        raise UsageError(f"{where}: a finite number is expected, not `{value}`")
    return float(value)


def _integer(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 2:
        raise UsageError(f"{where}: a whole number of at least 2 is expected, not `{value}`")
    return value


def _choice(value: object, known: Sequence[str], where: str) -> str:
    if value not in known:
        raise UsageError(
            f"{where}: `{value}` is none of {', '.join(known)}", hint=did_you_mean(str(value), known)
        )
    return str(value)
