"""Put every question to one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaeprobe.budget import NO_TIME, budget, share_of, within
from vaeprobe.engine.remembered import remembered
from vaeprobe.errors import InputError, UnsafeError, UsageError, VaeprobeError
from vaeprobe.foreign import said
from vaeprobe.gate.outcome import Outcome
from vaeprobe.gate.policy import Rule, probe_of, spec_of
from vaeprobe.gate.rules import rules_of_texts
from vaeprobe.gate.run import hold, hold_verdict
from vaeprobe.given import check_given
from vaeprobe.kept import keeping
from vaeprobe.overview.card import card, model_index
from vaeprobe.overview.content import Content
from vaeprobe.overview.page import page
from vaeprobe.probes import PROBES, asks_decoder, probe_class, question_class
from vaeprobe.probes.functions import DecoderLike, as_decoder
from vaeprobe.probes.with_encoder import EncoderProbe
from vaeprobe.progress import track
from vaeprobe.render.text import verdict_words
from vaeprobe.report import Finding, Metric
from vaeprobe.result import Result
from vaeprobe.traversal.result import Traversal
from vaeprobe.traversal.run import traverse
from vaeprobe.writing import write_text

STARTS = 2  # a seam costs a Jacobian per step


@dataclass(frozen=True, kw_only=True)
class Survey(Content):
    """What every probe finds on one model, as a page; attributes as in `Content`."""

    def html(self) -> str:
        """Return the page: self-contained, without scripts that run, the result as JSON inside."""
        return page(self)

    def markdown(self, *, name: str | None = None) -> str:
        """Return a section for a model card, Hugging Face's `model-index` at its head; `name` is the model's."""
        return card(self, name)

    def model_index(self, *, name: str | None = None) -> str:
        """Return Hugging Face's `model-index` alone, as YAML; `name` is the model's."""
        return model_index(self, name)

    def save(self, path: Path | str) -> None:
        """Write the page to a file; one in `.md` gets the section for a model card, one in `.yaml` the `model-index`."""
        written = {".md": self.markdown, ".yaml": self.model_index, ".yml": self.model_index}
        write_text(path, written.get(Path(path).suffix.lower(), self.html)())

    def _repr_html_(self) -> str:
        from vaeprobe.render import html

        return html.fragment(self.page())


def survey(
    decoder: DecoderLike,
    *,
    data: object = None,
    samples: int = 256,
    seed: int = 0,
    latent_dim: int | None = None,
    rules: Sequence[str] = (),
    repeat: str = "",
    time: float | None = None,
    resume: Path | str | None = None,
) -> Survey:
    """Return what every probe finds on one model; `.save("page.html")` writes it as one page.

    Args:
        decoder: a `Decoder`, a module or callable with `latent_dim`, or the path of a checkpoint.
        data: rows as the encoder takes them: posterior and beta are measured too, and strips follow the codes.
        samples: latents, and data rows; seams are traced from two starts.
        seed: seed of every draw.
        latent_dim: number of latents, where the decoder leaves it open.
        rules: limits and verdicts to hold it against, such as "orthogonality.alignment=0.5" or
            "factorise.verdict=linear,independent"; they stand at the top of the page.
        repeat: the command that makes the same page.
        time: seconds that it may take; what does not fit is left out, and said.
        resume: a file in which what takes long is kept as it is measured, and from which it goes on.

    Raises:
        UsageError: data come without an encoder, or no latent is continuous.
        UnsafeError, InputError: the data are refused, or cannot be read.
        VaeprobeError: whatever loading raises.
    """
    check_given(survey, locals() | {"rules": [rules] if isinstance(rules, str) else rules})
    decoder = as_decoder(decoder, latent_dim)
    if not decoder.continuous:
        raise UsageError("all latents of this decoder are one-hot codes, which have no derivative")
    if data is not None and decoder.encoder is None:
        raise UsageError(
            "data need the encoder, and this decoder comes without one",
            hint="leave --data out: orthogonality, factorise and trace need the decoder alone",
        )
    wanted = list(rules_of_texts([rules] if isinstance(rules, str) else rules).values())
    for rule in wanted:
        if rule.needs_baseline:
            raise UsageError(
                f"a rule on `{rule.metric}` compares with a baseline, and a report has none",
                hint="`vaeprobe check` has",
            )
    results: dict[str, Result] = {}
    failed: dict[str, str] = {}
    first: VaeprobeError | None = None
    strips: Traversal | None = None
    # probes share the latents of a seed, and what was measured at them
    with within(time), keeping(resume), remembered(), said():
        names = [*_probes(), *(_probes(of_data=True) if data is not None else ())]
        for left, name in zip(range(len(names) + 1, 1, -1), track(names, "probes"), strict=True):
            if results and budget().over:
                failed[name] = NO_TIME
                continue
            settings: dict[str, object] = {"samples": STARTS if name == "trace" else samples, "seed": seed}
            if name in _probes(of_data=True):
                settings["data"] = data
            try:
                probe = probe_class(name).asked(settings)
                probe.check_ready()
                with share_of(1 / left):
                    results[name] = probe.measure(decoder)
            except (UnsafeError, InputError):  # of the data: no page is made of what was refused
                raise
            except VaeprobeError as error:
                failed[name] = error.message
                first = first or error
        if not results:
            assert first is not None
            raise type(first)(f"no probe could answer: {first.message}", hint=first.hint)
        try:
            if budget().over:
                failed["traverse"] = NO_TIME
            else:
                strips = traverse(decoder, data=data, seed=seed)
        except (UnsafeError, InputError):
            raise
        except VaeprobeError as error:
            failed["traverse"] = error.message
    metrics: dict[str, Metric] = {}
    findings: dict[tuple[str, str], Finding] = {}
    for result in results.values():
        for id, metric in result.metrics.items():
            metrics.setdefault(id, metric)
    for shown in (*results.values(), *([strips] if strips else [])):
        for found in shown.findings:
            findings.setdefault((found.code, found.message), found)
    return Survey(
        metrics=metrics,
        verdict="; ".join(f"{name}: {verdict_words(result)}" for name, result in results.items()),
        findings=tuple(findings.values()),
        settings={"samples": samples, "seed": seed, "starts": STARTS},
        artifact=decoder.artifact,
        results=results,
        failed=failed,
        traversal=strips,
        outcomes=tuple(_held(rule, results, failed) for rule in wanted),
        repeat=repeat,
    )


def _probes(*, of_data: bool = False) -> list[str]:
    """Return the probes of a decoder alone, or those that need data beside it."""
    asked = {name: question_class(name) for name in PROBES}
    return [
        name for name, cls in asked.items() if asks_decoder(cls) and issubclass(cls, EncoderProbe) == of_data
    ]


def _held(rule: Rule, results: Mapping[str, Result], failed: Mapping[str, str]) -> Outcome:
    """Return how a rule does against what was measured."""
    probe = probe_of(rule.metric) or ""
    found = [r for r in results.values() if rule.metric in r.metrics]
    if rule.verdicts and probe in results:
        return hold_verdict(rule, results[probe], probe_class(probe).OPEN_VERDICTS)
    if not rule.verdicts and found:
        return hold(rule, found[0].metrics[rule.metric])
    why = failed.get(
        probe, f"`{probe}` is measured with data alone" if probe in _probes(of_data=True) else "not measured"
    )
    return Outcome(
        rule=rule, metric=Metric.undefined(spec_of(rule.metric), why), status="undefined", bound=rule.limit
    )
