"""`vaeprobe check`: a gate for model artifacts."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vaeprobe.cli import options, output
from vaeprobe.cli.probe_commands import load
from vaeprobe.errors import InputError, UsageError, did_you_mean
from vaeprobe.gate import baseline as baselines
from vaeprobe.gate import policy as policies
from vaeprobe.gate.outcome import GateReport, ModelReport
from vaeprobe.gate.policy import Policy
from vaeprobe.gate.run import Gate

GateFormat = Literal["text", "json", "jsonl", "markdown", "junit", "sarif", "github", "gitlab"]
GATE = "Gate"


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
            help="A rule besides the policy's, e.g. orthogonality.alignment=0.5.",
            metavar="METRIC=LIMIT",
            rich_help_panel=GATE,
        ),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Baseline to compare with.", rich_help_panel=GATE)
    ] = None,
    update_baseline: Annotated[
        bool,
        typer.Option(
            "--update-baseline", help="Write the baseline anew from these models.", rich_help_panel=GATE
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
    report: Annotated[
        list[str] | None,
        typer.Option(
            help="Also write a report, e.g. sarif=out.sarif.", metavar="FORMAT=FILE", rich_help_panel="Output"
        ),
    ] = None,
    format: Annotated[
        GateFormat, typer.Option(help="The document on stdout.", rich_help_panel="Output")
    ] = "text",
    json_: Annotated[
        bool, typer.Option("--json", help="Same as --format json.", rich_help_panel="Output")
    ] = False,
    out: options.OutputFile = None,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
    color: options.ColorOption = "auto",
    blueprint: options.BlueprintOption = None,
    arch: options.Arch = None,
    key: options.Key = None,
    submodule: options.Submodule = None,
    allow_code: options.AllowCode = False,
    latent_dim: options.LatentDim = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
) -> int:
    """Hold models against a policy and a baseline: exit 0 all pass, 1 one fails, 3 undecided or nothing checked.

    A policy is `vaeprobe.toml`; rules name metrics (`vaeprobe explain` lists them), and each metric knows
    its better direction.  Sampling grows until every rule is decided.
    """
    policy = _policy(config, rule or [])
    targets = _targets(models or [], policy)
    reports = [_report_target(text) for text in report or []]
    loading = {
        "blueprint": blueprint, "arch": arch, "key": key, "submodule": submodule,
        "allow_code": allow_code, "latent_dim": latent_dim,
        "device": device, "dtype": dtype,
    }  # fmt: skip
    if update_baseline:
        return _update(policy, targets, baseline or Path("vaeprobe-baseline.json"), loading, no_progress)
    gate = Gate(policy=policy, baseline=None if baseline is None else baselines.read(baseline))
    chosen: GateFormat = "json" if json_ else format
    digest = _digest(policy, baseline, loading)
    streaming = chosen == "jsonl" and out is None
    done: list[ModelReport] = []
    with output.progress_bar(not no_progress and not streaming):
        for model in _run(gate, targets, loading, jobs, fail_fast, resume, digest):
            done.append(model)
            if streaming:
                from vaeprobe.render.gate import jsonl

                sys.stdout.write(jsonl.model_line(model, digest))
                sys.stdout.flush()
    order = {target: k for k, target in enumerate(targets)}
    finished = GateReport(
        models=tuple(sorted(done, key=lambda m: order[m.model])),
        policy=policy.origin,
        policy_digest=digest,
        baseline=None if baseline is None else str(baseline),
        settings={
            "confidence": policy.confidence,
            "samples": policy.samples,
            "max_samples": policy.max_samples,
        },
    )
    _write(finished, chosen, out, reports, quiet=quiet, color=color, streaming=streaming)
    return finished.exit_code


# -- what to check --------------------------------------------------------------------------------


def _policy(config: Path | None, rules: Sequence[str]) -> Policy:
    path = config or policies.find(Path.cwd())
    policy = policies.read(path) if path is not None else Policy(origin="command line")
    extra = dict(policy.rules)
    for text in rules:
        metric, equals, limit = text.partition("=")
        try:
            value = float(limit)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(
                f"`{text}` is no rule", hint="write METRIC=LIMIT, e.g. orthogonality.alignment=0.5"
            )
        made = policies.rule(metric.strip(), value, "--rule")
        if made is not None:
            extra[made.metric] = made
    return replace(policy, rules=extra)


def _targets(models: Sequence[str], policy: Policy) -> list[str]:
    """Return the files to check, globs expanded, each once, in order."""
    root = Path(policy.origin).parent if policy.origin.endswith(".toml") else Path()
    patterns = list(models) or [str(root / m) for m in policy.models]
    if not patterns:
        raise UsageError(
            "no model to check", hint="name one, or list them under [check] models in the policy"
        )
    found: list[str] = []
    for pattern in patterns:
        special = any(c in pattern for c in "*?[") and not Path(pattern).exists()
        matched = sorted(glob.glob(pattern, recursive=True)) if special else [pattern]
        if not matched:
            raise UsageError(f"no file matches `{pattern}`")
        found += matched
    return list(dict.fromkeys(found))


def _report_target(text: str) -> tuple[str, Path]:
    from vaeprobe.render.gate import FORMATS

    format, equals, path = text.partition("=")
    if not equals or not path:
        raise UsageError(f"`{text}` is no report", hint="write FORMAT=FILE, e.g. sarif=out.sarif")
    if format not in FORMATS:
        raise UsageError(
            f"no report format is called `{format}`", hint=did_you_mean(format, FORMATS) or ", ".join(FORMATS)
        )
    return format, Path(path)


def _digest(policy: Policy, baseline: Path | None, loading: dict[str, Any]) -> str:
    """Return a hash of everything besides the model that an outcome depends on."""
    body = policy.digest() + json.dumps(loading, sort_keys=True)
    if baseline is not None:
        body += hashlib.sha256(baseline.read_bytes()).hexdigest()
    return hashlib.sha256(body.encode()).hexdigest()


# -- running ----------------------------------------------------------------------------------------


def _check_one(gate: Gate, loading: dict[str, Any], model: str) -> ModelReport:
    return gate.check(model, lambda path: load(Path(path), **loading))


def _run(
    gate: Gate,
    targets: Sequence[str],
    loading: dict[str, Any],
    jobs: int,
    fail_fast: bool,
    resume: Path | None,
    digest: str,
) -> Iterator[ModelReport]:
    """Yield reports as they finish; finished ones are kept in, and taken from, the resume file."""
    from vaeprobe.progress import track

    kept = {} if resume is None else _kept(resume, digest)
    open_targets = []
    for target in targets:
        report = kept.get(target)
        if report is not None and report.artifact is not None and report.artifact.sha256 == _sha256(target):
            yield report
        else:
            open_targets.append(target)
    one = partial(_check_one, gate, loading)
    stream = (
        map(one, open_targets) if jobs == 1 or len(open_targets) < 2 else _parallel(one, open_targets, jobs)
    )
    for report in track(stream, "checking models", len(open_targets)):
        if resume is not None:
            _keep(resume, report, digest)
        yield report
        if fail_fast and report.exit_code != 0:
            return


def _parallel(one: partial[ModelReport], targets: Sequence[str], jobs: int) -> Iterator[ModelReport]:
    # spawned, not forked: torch's threads do not survive a fork
    pool = ProcessPoolExecutor(max_workers=min(jobs, len(targets)), mp_context=get_context("spawn"))
    try:
        for future in as_completed([pool.submit(one, target) for target in targets]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _sha256(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _kept(path: Path, digest: str) -> dict[str, ModelReport]:
    """Return the finished models of a resume file judged under the same policy; a torn last line is dropped."""
    if not path.exists():
        return {}
    out: dict[str, ModelReport] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        if lines[-1]:
            path.write_text("\n".join([*lines[:-1], ""]), encoding="utf-8")
        for line in lines[:-1]:
            body = json.loads(line)
            if body["kind"] == "model" and body["policy_sha256"] == digest:
                report = ModelReport.from_dict(body)
                out[report.model] = report
    except OSError as error:
        raise InputError(f"cannot read `{path}`: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise InputError(
            f"`{path}` is no result file of vaeprobe", hint="name a new file for --resume"
        ) from None
    return out


def _keep(path: Path, report: ModelReport, digest: str) -> None:
    from vaeprobe.render.gate import jsonl

    line = jsonl.model_line(report, digest).encode()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise UsageError(f"cannot write `{path}`: {error.strerror}") from None


def _update(
    policy: Policy, targets: Sequence[str], path: Path, loading: dict[str, Any], no_progress: bool
) -> int:
    """Write the records of the models into a baseline, keeping those of other models."""
    from vaeprobe.progress import track

    gate = Gate(policy=policy)
    records = baselines.read(path) if path.exists() else {}
    with output.progress_bar(not no_progress):
        for target in track(targets, "measuring the baseline"):
            records[Path(target).as_posix()] = gate.record(load(Path(target), **loading))
    text = baselines.text(records)
    output.write_atomically(path, lambda temporary: _text_to(temporary, text))
    print(f"baseline `{path}`: {len(targets)} models measured, {len(records)} in all", file=sys.stderr)
    return 0


# -- writing ----------------------------------------------------------------------------------------


def _text_to(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write(
    report: GateReport,
    format: GateFormat,
    out: Path | None,
    reports: Sequence[tuple[str, Path]],
    *,
    quiet: bool,
    color: str,
    streaming: bool,
) -> None:
    from vaeprobe.render import terminal
    from vaeprobe.render.gate import jsonl, markdown, renderer, text

    for name, path in reports:
        output.write_atomically(path, partial(_text_to, text=renderer(name)(report)))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and (format == "github" or any(name == "github" for name, _ in reports)):
        with open(summary, "a", encoding="utf-8") as file:
            file.write(markdown.render(report))
    if streaming:
        sys.stdout.write(jsonl.end_line(report))
    elif out is not None:
        output.write_atomically(out, partial(_text_to, text=renderer(format)(report)))
    elif format == "text":
        text.show(report, terminal.console(sys.stdout, color), quiet)
    else:
        sys.stdout.write(renderer(format)(report))
    sys.stdout.flush()
