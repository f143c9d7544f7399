"""`vaeprobe check`: a gate for model artifacts."""

from __future__ import annotations

import glob
import itertools
import os
import shlex
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from vaeprobe import writing
from vaeprobe.cli import loading, options, output, streams
from vaeprobe.cli.checking import Checking, load
from vaeprobe.cli.output import Document
from vaeprobe.errors import ResourceError, UsageError, VaeprobeError, did_you_mean
from vaeprobe.gate import baseline as baselines
from vaeprobe.gate import journal, policy_file
from vaeprobe.gate.formats import FORMATS
from vaeprobe.gate.outcome import GateReport, worst_code
from vaeprobe.gate.policy import Override, Policy
from vaeprobe.gate.rules import rules_of_texts
from vaeprobe.gate.run import Gate
from vaeprobe.processes import current
from vaeprobe.render.text import clean

if TYPE_CHECKING:
    GateFormat: TypeAlias = str
else:
    GateFormat = Literal[tuple(FORMATS)]
GATE = "Gate"
BASELINE_FILE = "vaeprobe-baseline.json"


@options.taking(loading.LOADING, options.DOCUMENT, without=("verbose",))
def check(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoints or globs (default: `models` of the policy).", show_default=False),
    ] = None,
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="Policy file (default: vaeprobe.toml upwards from here).", rich_help_panel=GATE),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="A rule besides the policy's, e.g. orthogonality.alignment=0.5, 'latents.dim<=10' or "
            "factorise.verdict=linear,independent.",
            metavar="METRIC=LIMIT",
            rich_help_panel=GATE,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Rows for rules that need them (default: `data` of the policy).",
            metavar="FILE",
            rich_help_panel=GATE,
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="Baseline to compare with (default: the policy's).", rich_help_panel=GATE),
    ] = None,
    update_baseline: Annotated[
        bool,
        typer.Option(
            "--update-baseline", help="Write the baseline anew from these models.", rich_help_panel=GATE
        ),
    ] = False,
    init: Annotated[
        bool,
        typer.Option(
            "--init", help="Write a first policy that these models pass, as they are.", rich_help_panel=GATE
        ),
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", help="Models at a time.", min=1, rich_help_panel=GATE)
    ] = 1,
    fail_fast: Annotated[
        bool,
        typer.Option("--fail-fast", help="Stop at the first model that does not pass.", rich_help_panel=GATE),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Keep finished models in this .jsonl file, and skip those it holds.", rich_help_panel=GATE
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--time",
            help="Seconds that the run may take: rules that it does not decide are open, and never pass.",
            metavar="SECONDS",
            min=1,
            rich_help_panel=GATE,
        ),
    ] = None,
    report: Annotated[
        list[str] | None,
        typer.Option(
            help="Also write a report, e.g. sarif=out.sarif.", metavar="FORMAT=FILE", rich_help_panel="Output"
        ),
    ] = None,
    format: Annotated[
        GateFormat | None,
        typer.Option(
            help="The document on stdout (default: text, or by -o's suffix).", rich_help_panel="Output"
        ),
    ] = None,
    **values: Any,
) -> int:
    """Hold models against a policy and a baseline: exit 0 all pass, 1 one fails, 3 undecided or nothing checked.

    A policy is `vaeprobe.toml`; rules name metrics (`vaeprobe explain` lists them), and each metric knows
    its better direction.  Sampling grows until every rule is decided.

    Examples:
        vaeprobe check 'models/*.safetensors' --rule orthogonality.alignment=0.5
        vaeprobe check --update-baseline
        vaeprobe check --baseline vaeprobe-baseline.json --report sarif=out.sarif
    """
    loaded = loading.chosen(values)
    loading.check_device(values["device"])  # once, and not of every model
    document = Document.asked({**values, "format": format}, FORMATS)
    if seconds is not None and (init or update_baseline):
        raise UsageError(
            "--time bounds a check, and a policy or a baseline is made of whole measurements",
            hint="make it once without --time",
        )
    if init:
        if rule or update_baseline:
            raise UsageError(
                "--init writes a policy and takes no other task", hint="run `vaeprobe check` after it"
            )
        place = config or Path(policy_file.POLICY_FILE)
        return _init(place, models or [], data, baseline, loaded, document.progress)
    policy = _policy(config, rule or [], needed=not update_baseline)
    targets = _targets(models or [], policy)
    baseline = baseline or (Path(policy.baseline) if policy.baseline else None)
    reports = [_report_target(text) for text in report or []]
    if resume is not None:
        writing.check_suffix(resume, (journal.SUFFIX,), "--resume")
    kept = baseline or Path(BASELINE_FILE) if update_baseline else resume
    files = [kept, *(path for _, path in reports)]
    read = [policy.origin, None if update_baseline else baseline, values["blueprint"], data or policy.data]
    document.ready(files, inputs=[*targets, *(path for path in read if path)])
    if update_baseline:
        gate = Gate(policy=policy, data=data, loading=loaded)
        return _update(gate, targets, baseline or Path(BASELINE_FILE), document.progress)
    records = _needed_baseline(policy, targets, baseline)
    gate = Gate(policy=policy, baseline=records, data=data, loading=loaded)
    digest = journal.digest_of(policy, (baseline, loaded["blueprint"], data), loaded)
    streaming = document.format == "jsonl" and document.place is None
    with output.progress_bar(document.progress and not streaming):
        checking = Checking(gate, targets, digest, jobs, fail_fast, resume, seconds)
        done = checking.reports(streaming=streaming)
    current().meet()
    finished = GateReport(
        models=done,
        policy=policy.origin,
        policy_digest=digest,
        baseline=None if baseline is None else str(baseline),
        settings={
            "confidence": policy.confidence,
            "samples": policy.samples,
            "max_samples": policy.max_samples,
            **({} if seconds is None else {"time": seconds}),
        },
    )
    _write(finished, document, reports, streaming=streaming)
    return finished.exit_code


# -- what to check --------------------------------------------------------------------------------


def _policy(config: Path | None, rules: Sequence[str], *, needed: bool) -> Policy:
    path = config or policy_file.find(Path.cwd())
    if path is None and not rules and needed:
        raise UsageError(
            f"nothing to check by: there is no {policy_file.POLICY_FILE} here or above, and no --rule",
            hint="try --rule orthogonality.mean_abs_cosine=0.2, or write that under [check.rules] in "
            f'{policy_file.POLICY_FILE}: "orthogonality.mean_abs_cosine" = 0.2',
        )
    policy = policy_file.read(path) if path is not None else Policy(origin="command line")
    own = Override(models="*", rules=rules_of_texts(rules))
    return replace(policy, overrides=[*policy.overrides, own])


MOST_MODELS = 10_000


def _targets(models: Sequence[str], policy: Policy) -> list[str]:
    """Return the files to check, globs expanded, each once, in order; those of the policy stand beside it."""
    root = Path(policy.origin).parent
    patterns = list(models) or [os.path.relpath(root / m) for m in policy.models]
    if not patterns:
        raise UsageError(
            "no model to check", hint="name one, or list them under [check] models in the policy"
        )
    found: list[str] = []
    for pattern in patterns:
        special = any(c in pattern for c in "*?[") and not Path(pattern).exists()
        some = itertools.islice(glob.iglob(pattern, recursive=True), MOST_MODELS + 1)
        matched = sorted(some) if special else [pattern]
        if len(matched) > MOST_MODELS:
            raise ResourceError(
                f"over {MOST_MODELS:,} files match `{pattern}`", hint="name the folder of the models"
            )
        if not matched:
            raise UsageError(f"no file matches `{pattern}`")
        found += matched
    return list(dict.fromkeys(found))


def _report_target(text: str) -> tuple[str, Path]:
    format, equals, path = text.partition("=")
    if not equals or not path:
        raise UsageError(f"`{text}` is no report", hint="write FORMAT=FILE, e.g. sarif=out.sarif")
    if format not in FORMATS:
        raise UsageError(
            f"no report format is called `{format}`", hint=did_you_mean(format, FORMATS) or ", ".join(FORMATS)
        )
    return format, Path(path)


# -- baselines --------------------------------------------------------------------------------------


def _baseline(path: Path) -> dict[str, baselines.Record]:
    """Return a baseline's records; its paths are relative to its own folder, so that it serves any checkout."""
    return {_relative(path.parent / model, Path()): r for model, r in baselines.read(path).items()}


def _needed_baseline(
    policy: Policy, targets: Sequence[str], path: Path | None
) -> dict[str, baselines.Record] | None:
    """Return the baseline's records; a policy may name a file that no rule needs yet."""
    named = path is not None and path == Path(policy.baseline or "")
    if path is None or (
        named
        and not path.exists()
        and not any(r.needs_baseline for t in targets for r in policy.rules_for(t).values())
    ):
        return None
    return _baseline(path)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _init(
    path: Path,
    models: Sequence[str],
    data: str | None,
    baseline: Path | None,
    loaded: dict[str, Any],
    progress: bool,
) -> int:
    """Write a first policy from the models as they are."""
    from vaeprobe.gate import first_policy
    from vaeprobe.progress import track

    if path.exists():
        raise UsageError(
            f"`{path}` exists and is not overwritten", hint="--config NAME writes the policy to another file"
        )
    if not models:
        raise UsageError("no model to write a policy for", hint="vaeprobe check --init MODEL...")
    output.ready(None, [path], inputs=models)
    samples = Policy().samples
    with output.progress_bar(progress):
        measured = {
            _relative(Path(target), path.parent): first_policy.measure(
                loading.load(Path(target), **loaded), samples=samples, data=data
            )
            for target in track(_targets(models, Policy()), "measuring")
        }
    keys = {name: name.replace("_", "-") for name in loaded}
    kept = {keys[n]: v for n, v in loaded.items() if v is not None and keys[n] in policy_file.LOADING}
    if "condition" in kept:
        kept["condition"] = options.conditions(kept["condition"])
    text = first_policy.text(
        measured,
        models=[_relative(Path(m), path.parent) for m in models],
        samples=samples,
        data=None if data is None else _relative(Path(data), path.parent),
        baseline=None if baseline is None else _relative(baseline, path.parent),
        loading=kept,
    )
    rules = policy_file.parse(tomllib.loads(text)).rules
    current().meet()
    output.write_text(path, text)
    again = ["vaeprobe", "check", *([] if path.name == policy_file.POLICY_FILE else ["--config", str(path)])]
    # the rest of how they were loaded, which a policy cannot say
    defaults = {name: default for name, (_, default) in loading.LOADING.items()}
    again += loading.words({n: v for n, v in loaded.items() if keys[n] not in policy_file.LOADING}, defaults)
    counts = f"{_counted(len(rules), 'rule')} for {_counted(len(measured), 'model')}"
    print(f"{counts}; `{clean(shlex.join(again))}` holds them", file=sys.stderr)
    return 0


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _update(gate: Gate, targets: Sequence[str], path: Path, progress: bool) -> int:
    """Write the records of the models into a baseline, keeping those of other models.

    Raises:
        VaeprobeError: a model cannot be measured; nothing is written then, and all of them are told.
    """
    from vaeprobe.progress import track

    records = baselines.read(path) if path.is_file() else {}
    failed: dict[str, VaeprobeError] = {}
    with output.progress_bar(progress):
        for target in track(targets, "measuring the baseline"):
            try:
                record = gate.record(target, load(gate, target))
            except VaeprobeError as error:
                failed[target] = error
            else:
                records[_relative(Path(target), path.parent)] = record
    if failed:
        raise _unmeasured(failed, len(targets))
    text = baselines.text(records)
    current().meet()
    writing.write_text(path, text)
    streams.say(f"baseline {clean(path)}: {len(targets)} measured, {len(records)} in all")
    return 0


def _unmeasured(failed: Mapping[str, VaeprobeError], count: int) -> VaeprobeError:
    """Return one error for those of the models of a baseline that cannot be measured: of the kind of the worst."""
    worst_exit = worst_code(error.exit_code for error in failed.values())
    worst = next(error for error in failed.values() if error.exit_code == worst_exit)
    if count == 1:
        return worst
    each = "; ".join(
        f"`{model}`: {error.message}" + (f" ({error.hint})" if error.hint else "")
        for model, error in failed.items()
    )
    return type(worst)(
        f"no baseline was written, for {len(failed)} of {_counted(count, 'model')} cannot be measured: {each}",
        hint="mend them, or leave them out",
    )


# -- writing ----------------------------------------------------------------------------------------


def _write(
    report: GateReport, document: Document, reports: Sequence[tuple[str, Path]], *, streaming: bool
) -> None:
    from vaeprobe.gate.formats import jsonl, markdown, renderer, text
    from vaeprobe.render import terminal

    failed: list[UsageError] = []
    for name, path in reports:
        try:
            output.write_text(path, renderer(name)(report), document.quiet)
        except UsageError as error:
            failed.append(error)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and (document.format == "github" or any(name == "github" for name, _ in reports)):
        try:
            with open(summary, "a", encoding="utf-8") as file:
                file.write(markdown.render(report))
        except OSError as error:
            failed.append(UsageError(f"cannot write the job summary `{summary}`: {error.strerror}"))

    def text_of(unwritten: int | None) -> str:
        ended = replace(report, unwritten=unwritten)
        return jsonl.end_line(ended) if streaming else renderer(document.format)(ended)

    if document.format == "text" and document.place is None and not failed:
        text.show(report, terminal.console(sys.stdout, document.color), document.quiet)
        sys.stdout.flush()
    else:
        output.deliver(text_of, document.place, document.quiet, failed)
