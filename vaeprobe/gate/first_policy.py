"""A first policy, written from models as they are: what `vaeprobe check --init` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vaeprobe.errors import UsageError
from vaeprobe.gate.policy import VERDICT, spec_of
from vaeprobe.probes import probe_class
from vaeprobe.report import Metric
from vaeprobe.result import Result

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder

# what a first policy holds models to: few rules, those that say most
PROBES = {
    "orthogonality": ("orthogonality.mean_abs_cosine", "orthogonality.alignment"),
    "factorise": (),
}
PROBES_OF_DATA = {"beta": ("beta.consistency",)}


def measure(decoder: Decoder, *, samples: int, data: str | None = None) -> dict[str, Result]:
    """Return, by probe, what a first policy is made from; a probe that an encoder lacks for is left out."""
    out: dict[str, Result] = {}
    for probe in PROBES:
        out[probe] = probe_class(probe)(samples=samples).measure(decoder)
    if data is not None and decoder.encoder is not None:
        for probe in PROBES_OF_DATA:
            out[probe] = probe_class(probe)(samples=samples, data=data).measure(decoder)
    return out


def text(
    measured: Mapping[str, Mapping[str, Result]],
    *,
    models: Sequence[str],
    samples: int,
    data: str | None = None,
    baseline: str | None = None,
    loading: Mapping[str, object] | None = None,
) -> str:
    """Return a policy that these models pass, as TOML.

    Args:
        measured: per model, the result of each probe.
        models: paths or globs, as the policy is to name them.
        samples: how many were drawn.
        data, baseline: paths, as the policy is to name them.
        loading: how they were loaded: values by the policy's keys, a table for `condition`.
    """
    lines = [
        "# written by `vaeprobe check --init` from the models as they are: tighten what matters to you",
        "# (`vaeprobe explain policy` lists the keys, `vaeprobe explain METRIC` says what a number means)",
        "[check]",
        f"models = [{', '.join(map(_quoted, models))}]",
        f"samples = {samples}",
    ]
    lines += [f"data = {_quoted(data)}"] if data is not None else []
    lines += [f"baseline = {_quoted(baseline)}"] if baseline is not None else []
    lines += [f"{key} = {_written(value)}" for key, value in (loading or {}).items()]
    rules: list[str] = []
    off: dict[str, list[str]] = {}
    for probe, ids in (PROBES | PROBES_OF_DATA).items():
        mine = {model: results[probe] for model, results in measured.items() if probe in results}
        for id in ids:
            # of what a part of the latents leaves open no limit is known to hold
            known = {
                m: r[id]
                for m, r in mine.items()
                if id in r.metrics and r[id].value is not None and r[id].for_all
            }
            if known:
                rules.append(f"{_quoted(id)} = {_limit(list(known.values()))}")
                _without(off, id, set(measured) - set(known))
        open_words = {*probe_class(probe).OPEN_VERDICTS, "undefined", ""}
        said = {
            m: r.verdict for m, r in mine.items() if r.verdict not in open_words and r.verdict_of_all is None
        }
        if said:
            words = sorted(set(said.values()))
            id = f"{probe}.{VERDICT}"
            body = _quoted(words[0]) if len(words) == 1 else f"[{', '.join(map(_quoted, words))}]"
            rules.append(f"{_quoted(id)} = {body}")
            _without(off, id, set(measured) - set(said))
    lines += ["", "[check.rules]", *rules]
    for model, dropped in sorted(off.items()):
        lines += ["", "[[check.overrides]]", f"models = {_quoted(model)}"]
        lines.append(
            f"rules = {{ {', '.join(f'{_quoted(id)} = false' for id in dropped)} }}  # undefined or open"
        )
    return "\n".join(lines) + "\n"


def _without(off: dict[str, list[str]], id: str, models: set[str]) -> None:
    for model in models:
        off.setdefault(model, []).append(id)


def _limit(metrics: Sequence[Metric]) -> str:
    """Return a limit that all of these pass: beyond the worst interval by its width, to two digits."""
    lower = spec_of(metrics[0].id).better != "higher"
    edges = []
    for metric in metrics:
        value = float(metric.value) if isinstance(metric.value, (int, float)) else 0.0
        low, high = metric.ci or (value, value)
        room = max(high - low, 0.05 * abs(value))
        edges.append(high + room if lower else low - room)
    return f"{_outward(max(edges), up=True) if lower else _outward(min(edges), up=False):g}"


def _outward(x: float, *, up: bool) -> float:
    """Return x to two significant digits, rounded up or down."""
    if x == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(x))) - 1)
    return (math.ceil(x / step) if up else math.floor(x / step)) * step


def _written(value: object) -> str:
    """Return a number, a text or a table of them as TOML writes it."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_quoted(name)} = {_written(v)}' for name, v in value.items())} }}"
    return str(value) if isinstance(value, int) else _quoted(str(value))


def _quoted(text: str) -> str:
    """Return a text as TOML writes it.

    Raises:
        UsageError: it is a name of bytes that are no text.
    """
    if not text.isprintable() and any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise UsageError(f"a policy is UTF-8, and the name {text!r} is not", hint="rename the file")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
