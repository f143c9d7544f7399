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
"orthogonality.mean_field_gap" = { max = 0.5, regression = "3 %" }  # both, each with its own outcome
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
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

from vaeprobe.errors import InputError, UsageError, did_you_mean
from vaeprobe.files.source import read_text
from vaeprobe.gate.baseline import WORDS
from vaeprobe.gate.policy import (
    FORMAT,
    Override,
    Policy,
    Undecided,
    Waiver,
    ruled,
)
from vaeprobe.gate.rules import LISTED, rule, rules_of
from vaeprobe.gate.toml_values import (
    beside,
    check_keys,
    choice,
    finite,
    list_of,
    require,
    table_of,
    texts,
    whole,
)
from vaeprobe.probes import PROBES, question_class
from vaeprobe.probes.settings import check, field_type, is_list

POLICY_FILE = "vaeprobe.toml"
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
        'metric = LIMIT, { max = X }, { min = X }, both where neither side is better, { regression = X or "3 %" }, beside a limit too; verdict = WORD '
        "or a list",
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
    "class-axis": ("1", "axis of the outputs that runs over the classes of a categorical likelihood"),
    "key": ("none", "the entry that holds the weights"),
    "arch-args": ("none", 'arguments for --arch, which itself is given on the command line: "latent_dim=10"'),
}
KEYS |= LOADING

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
    check_keys(tables, ("check", *PROBES), origin)
    check = table_of(tables.get("check", {}), f"{origin}: [check]")
    check_keys(check, tuple(KEYS), f"{origin}: [check]")
    policy = Policy(
        rules={r.metric: r for r in rules_of(check.get("rules", {}), f"{origin}: [check.rules]") if r},
        overrides=[
            _override(o, origin) for o in list_of(check.get("overrides", []), f"{origin}: check.overrides")
        ],
        waivers=[_waiver(w, origin) for w in list_of(check.get("waivers", []), f"{origin}: check.waivers")],
        models=texts(check.get("models", []), f"{origin}: check.models"),
        data=beside(check.get("data"), f"{origin}: check.data", origin),
        loading=_loading(check, f"{origin}: [check]"),
        baseline=beside(check.get("baseline"), f"{origin}: check.baseline", origin),
        samples=whole(check.get("samples", 256), f"{origin}: check.samples"),
        max_samples=whole(check.get("max-samples", 4096), f"{origin}: check.max-samples"),
        confidence=finite(check.get("confidence", 0.95), f"{origin}: check.confidence"),
        inconclusive=cast(
            "Undecided", choice(check.get("inconclusive", "error"), get_args(Undecided), origin)
        ),
        formats=texts(check.get("formats", []), f"{origin}: check.formats"),
        settings={name: _settings(name, tables[name], origin) for name in PROBES if name in tables},
        origin=origin,
    )
    if not 0.5 < policy.confidence < 1:
        raise UsageError(f"{origin}: confidence must lie between 0.5 and 1, not {policy.confidence}")
    if policy.max_samples < policy.samples:
        raise UsageError(f"{origin}: max-samples ({policy.max_samples}) is below samples ({policy.samples})")
    return policy


def _override(body: object, origin: str) -> Override:
    where = f"{origin}: [[check.overrides]]"
    table = table_of(body, where)
    check_keys(table, ("models", "rules", "data", *LOADING), where)
    require(table, ("models",), where)
    entries = table_of(table.get("rules", {}), where)
    return Override(
        models=str(table["models"]),
        rules={m: rule(m, value, where) for m, value in entries.items()},
        data=beside(table.get("data"), f"{where}: data", origin),
        loading=_loading(table, where),
    )


def _loading(table: Mapping[str, object], where: str) -> dict[str, object]:
    """Return what a table says of loading, as the options of these names take it."""
    found = {key: table[key] for key in LOADING if key in table}
    for key, value in found.items():
        if key == "condition":
            held = table_of(value, f"{where}: condition")
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
        elif key == "class-axis":
            if type(value) is not int:
                raise UsageError(f"{where}: class-axis is a whole number, not `{value}`")
        elif not isinstance(value, str):
            raise UsageError(f"{where}: `{key}` is a text, not `{value}`")
    if "weights" in found:
        choice(found["weights"], ("ema", "raw"), where)
    return {key.replace("-", "_"): value for key, value in found.items()}


def _waiver(body: object, origin: str) -> Waiver:
    where = f"{origin}: [[check.waivers]]"
    table = table_of(body, where)
    check_keys(table, ("rule", "models", "reason", "expires"), where)
    require(table, ("rule", "reason", "expires"), where)
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
    table = {key.replace("_", "-"): value for key, value in table_of(body, where).items()}
    check_keys(table, tuple(fields), where)
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
        beside = str(Path(origin).parent / value) if isinstance(value, str) else ""
        settings[fields[key].name] = beside if value not in WORDS and os.path.isfile(beside) else value
    return settings
