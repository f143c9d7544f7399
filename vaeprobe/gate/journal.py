"""The journal of a check: the report on each finished model, a line each, so that a run that was stopped goes on.

A report is taken from it only where it would come out the same today: of the same bytes, by the same rules,
against the same baseline and data.
"""

from __future__ import annotations

import datetime
import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from vaeprobe import writing
from vaeprobe._version import __version__
from vaeprobe.checkpoints import folders
from vaeprobe.checkpoints.architecture import path_beside
from vaeprobe.errors import InputError, UsageError, VaeprobeError
from vaeprobe.files.source import read_text
from vaeprobe.findings import TIME_LIMIT
from vaeprobe.gate import baseline as baselines
from vaeprobe.gate.formats import jsonl
from vaeprobe.gate.outcome import ModelReport
from vaeprobe.gate.policy import Policy
from vaeprobe.kept import files_of

SUFFIX = ".jsonl"


def read(path: Path) -> dict[str, ModelReport]:
    """Return the latest report of each model in a resume file, and in those that other processes wrote beside it.

    A torn last line is cut off.
    """
    out: dict[str, ModelReport] = {}
    for file in files_of(path):
        out |= _read(file)
    return out


def _read(path: Path) -> dict[str, ModelReport]:
    out: dict[str, ModelReport] = {}
    try:
        text = read_text(path, 1 << 30)
        whole = text[: text.rfind("\n") + 1]
        for line in whole.splitlines():
            body = json.loads(line)
            if body["kind"] == "model":
                report = ModelReport.from_dict(body)
                out[report.model] = report
        if whole != text:
            writing.write_text(path, whole)
    except OSError as error:
        raise InputError(f"cannot read `{path}`: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise InputError(
            f"`{path}` is no result file of vaeprobe", hint="name a new file for --resume"
        ) from None
    return out


def append(path: Path, report: ModelReport) -> None:
    """Write a report on the disk, whatever stops the run afterwards."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(jsonl.model_line(report))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"cannot write `{path}`: {error.strerror}") from None


def stands(report: ModelReport, digest: str) -> bool:
    """Whether a kept report would come out the same today: one that time cut short need not."""
    cut = any(f.spec is TIME_LIMIT for f in report.findings)
    return (
        report.failure is None
        and not cut
        and report.inputs_sha256 == inputs(digest, report.model, _of_model(report.model))
    )


def digest_of(policy: Policy, files: Iterable[Path | str | None], loaded: Mapping[str, object]) -> str:
    """Return a hash of everything besides the model's own files that an outcome depends on.

    Args:
        policy: the rules.
        files: what the command line names besides: baseline, blueprint, data.
        loaded: how models are loaded.
    """
    body = __version__ + policy.digest() + json.dumps(loaded, sort_keys=True, default=str)
    if policy.waivers:
        body += datetime.date.today().isoformat()
    tables = [policy.loading, *policy.settings.values(), *(o.loading for o in policy.overrides)]
    named = [path for table in tables for _, path in named_files(table)]
    for path in (*files, policy.data, *(o.data for o in policy.overrides), *named):
        body += fingerprint(path)
    return hashlib.sha256(body.encode()).hexdigest()


def _of_model(path: str) -> str:
    """Return the hash that the report on a model has of it: of the bytes of all its files."""
    try:
        return folders.read(path).sha256
    except VaeprobeError:  # what is wrong with it the check says
        return ""


def inputs(digest: str, target: str, sha256: str) -> str:
    """Return a hash of all that the report on a model with bytes of this hash depends on."""
    return hashlib.sha256(f"{digest} {sha256} {_sha256(path_beside(Path(target)))}".encode()).hexdigest()


def named_files(settings: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the settings that name a file, or, of data, a folder or a glob of some, by name."""
    for name, value in settings.items():
        if isinstance(value, str) and (
            name == "data" or (os.path.isfile(value) and value not in baselines.WORDS)
        ):
            yield name, value


def fingerprint(path: Path | str | None) -> str:
    """Return the hash of a file's bytes, of the names, sizes and times in a folder or of a glob."""
    if path is None or os.path.isfile(path):
        return _sha256(path)
    found = sorted(Path(path).rglob("*")) if os.path.isdir(path) else map(Path, sorted(glob.glob(str(path))))
    return "".join(map(_looks, found))


def _looks(path: Path) -> str:
    """Return the name, size and time of a file; the name alone of a link that leads nowhere."""
    try:
        of_it = path.stat()
    except OSError:
        return f"{path};"
    return f"{path} {of_it.st_size} {of_it.st_mtime_ns};"


def _sha256(path: Path | str | None) -> str:
    """Return the hash of a file's bytes; empty where there is none."""
    if path is None or not os.path.isfile(path):
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
