"""A survey as a section for a model card, and as Hugging Face's `model-index`."""

from __future__ import annotations

import json
from pathlib import PurePath

import torch

from vaeprobe._version import __version__
from vaeprobe.overview.content import Content
from vaeprobe.pictures import ImageShape
from vaeprobe.render.markdown import STATUS_MARK, escape, grid
from vaeprobe.render.text import clean, inert, interval, measured, number, verdict_words
from vaeprobe.report import Metric, Value

SOURCE = "https://arxiv.org/abs/2410.22559"
TASK = ("unconditional-image-generation", "other")  # of images, and of all else


def model_index(survey: Content, name: str | None = None) -> str:
    """Return the results as the `model-index` of a model card's metadata, in YAML.

    Strings are quoted as JSON quotes them, which YAML reads alike.

    Source: https://huggingface.co/docs/hub/model-cards, "Specifying evaluation results".
    """
    shown = [m for m in _numbers(survey) if isinstance(m.value, (int, float))]
    data = _data(survey)
    walk = survey.traversal
    lines = ["model-index:", f"- name: {_text(name or _name(survey))}", "  results:", "  - task:"]
    lines += [
        f"      type: {TASK[0] if walk is not None and isinstance(walk.image, ImageShape) else TASK[1]}"
    ]
    lines += ["      name: decoder geometry", "    dataset:"]
    lines += [f"      type: {_text(data or 'prior')}", f"      name: {_text(data or 'latents of the prior')}"]
    lines += ["    metrics:"]
    for metric in shown:
        lines += [f"    - type: {metric.id}", f"      value: {number_of(metric)}"]
        lines += [f"      name: {_text(metric.title)}"]
    for probe, result in survey.results.items():
        lines += [f"    - type: {probe}.verdict", f"      value: {_text(verdict_words(result))}"]
        lines += [f"      name: {_text(f'verdict of {probe}')}"]
    lines += ["    source:", f"      name: vaeprobe {__version__}", f"      url: {SOURCE}"]
    return "\n".join(lines) + "\n"


def card(survey: Content, name: str | None = None) -> str:
    """Return a section for a model card: metadata, verdicts, the numbers beside their nulls, how to repeat it."""
    a = survey.artifact
    verdicts: list[list[Value]] = [
        [probe, verdict_words(result), result.summary] for probe, result in survey.results.items()
    ]
    rows: list[list[Value]] = []
    for result in survey.results.values():
        for metric, *beside in result.carried():
            row: list[Value] = [
                metric.title,
                measured(metric) if metric.defined else f"undefined: {metric.reason}",
                " ".join(part for part in (interval(metric.ci), metric.unit, metric.remark) if part),
                "; ".join(f"{m.spec.beside or m.title} {number(m.value)}" for m in beside if m.defined),
                metric.id,
            ]
            if row not in rows:
                rows.append(row)
    parts = [
        "---\n" + model_index(survey, name) + "---",
        f"## Geometry of the decoder of {escape(name or _name(survey))}",
    ]
    if a is not None and a.maps:
        parts.append(escape(a.maps))
    if survey.outcomes:
        held: list[list[Value]] = [[STATUS_MARK[o.status], o.message] for o in survey.outcomes]
        parts.append("### Rules\n\n" + grid(["", "rule"], held))
    parts.append("### Verdicts\n\n" + grid(["question", "verdict", "in words"], verdicts))
    parts.append("### Numbers\n\n" + grid(["", "value", "95 % interval", "beside it", "metric"], rows))
    known = [f for f in survey.findings if f.level != "note"]
    if known:
        parts.append("### To know\n\n" + "\n".join(f"- **{f.level}** {escape(f.message)}" for f in known))
    parts += [f"- **not measured**: {escape(probe)}: {escape(why)}" for probe, why in survey.failed.items()]
    parts.append("### How this was measured\n\n" + "\n".join(_how(survey)))
    return inert("\n\n".join(parts) + "\n")


def number_of(metric: Metric) -> str:
    """Return a metric's value as YAML reads a number: six significant digits, a point before an exponent."""
    value = metric.value
    if isinstance(value, int):
        return str(value)
    digits, exponent, power = repr(float(f"{value:.6g}")).partition("e")
    return digits + (".0" if exponent and "." not in digits else "") + exponent + power


def _numbers(survey: Content) -> list[Metric]:
    """Return the numbers that verdicts rest on, each once."""
    found = {m.id: m for r in survey.results.values() for row in r.carried() for m in row}
    return list(found.values())


def _how(survey: Content) -> list[str]:
    a, s = survey.artifact, survey.settings
    lines = [
        f"vaeprobe {__version__}, torch {torch.__version__}, {s['samples']} samples, seed {s['seed']}",
        _data(survey),
        f"sha256 `{a.sha256}`" if a is not None and a.sha256 else "",
        f"`{clean(survey.repeat).replace('`', chr(39))}`" if survey.repeat else "",
    ]
    lines = [f"- {line if line.startswith(('`', 'sha256')) else escape(line)}" for line in lines if line]
    return [
        *lines,
        f"- after [arXiv:2410.22559]({SOURCE}); `vaeprobe explain METRIC` says what a number means",
    ]


def _data(survey: Content) -> str:
    with_data = next((survey.results[p] for p in ("posterior", "beta") if p in survey.results), None)
    if with_data is None:
        return ""
    s = with_data.settings
    return f"{s['rows_of']}, {s['scaling']}; {s['likelihood']} likelihood".replace("`", "")


def _name(survey: Content) -> str:
    path = PurePath(survey.artifact.path) if survey.artifact else PurePath("decoder")
    return (
        path.parent.name
        if path.stem in ("model", "pytorch_model", "weights") and path.parent.name
        else path.stem
    )


def _text(text: str) -> str:
    return json.dumps(clean(text))
