"""What a check found before a file ended its worker process: carried to the next worker, which goes on after that file.

Lines of JSON in a file without a name, which the guardian (`vaeprobe.cli.worker`) opens before it makes the first worker,
so that each inherits it: when the check began, which model it is at, each finished report, and why a worker died.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from vaeprobe.errors import VaeprobeError

if TYPE_CHECKING:
    from vaeprobe.gate.outcome import ModelReport

__all__ = ["Carried", "begin", "died", "found", "keep", "open_file"]

_file: BinaryIO | None = None


@dataclass(frozen=True)
class Carried:
    """What workers before this one left.

    Attributes:
        reports: of the models that they finished, by model.
        deaths: reports on the models that ended them, by model, which nobody has heard of yet.
        seconds: since the first of them began.
    """

    reports: dict[str, ModelReport]
    deaths: dict[str, ModelReport]
    seconds: float


def open_file() -> None:
    """Carry what is found from now on from each worker to the next, where there is a place for it; called by their guardian."""
    global _file
    try:
        _file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    except OSError:
        return
    _write({"began": time.monotonic()})


def begin(model: str) -> None:
    """Note which model is checked now."""
    _write({"at": model})


def keep(report: ModelReport) -> None:
    """Keep the report on a model."""
    if _file is not None:
        from vaeprobe.gate.formats import jsonl

        _append(jsonl.model_line(report))


def died(error: VaeprobeError) -> bool:
    """Note why a worker died, and return whether the next one can go on: whether that was at a model that is not finished."""
    *_, last = [{}, *_lines()]
    if "at" not in last:
        return False
    failure = {"code": error.code, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    death = {"death": last["at"], "failure": failure}
    _write(death)
    return [*_lines()][-1:] == [death]  # else there is no room, and the next one would die of it too


def found() -> Carried:
    """Return what workers before this one left; nothing where there were none."""
    reports: dict[str, ModelReport] = {}
    deaths: dict[str, ModelReport] = {}
    began = time.monotonic()
    for line in _lines():
        from vaeprobe.gate.outcome import Failure, ModelReport

        began = line.get("began", began)
        if line.get("kind") == "model":
            report = ModelReport.from_dict(line)
            reports[report.model] = report
        elif "death" in line:
            deaths[line["death"]] = ModelReport(model=line["death"], failure=Failure(**line["failure"]))
    unheard = {model: report for model, report in deaths.items() if model not in reports}
    return Carried(reports, unheard, time.monotonic() - began)


def _write(line: dict[str, Any]) -> None:
    _append(json.dumps(line) + "\n")


def _append(line: str) -> None:
    """Write a line, if there is room for it: a full disk ends the carrying, not the check."""
    if _file is not None:
        with contextlib.suppress(OSError):
            os.lseek(_file.fileno(), 0, os.SEEK_END)
            os.write(_file.fileno(), line.encode())


def _lines() -> Iterator[dict[str, Any]]:
    if _file is not None:
        text = os.pread(_file.fileno(), os.fstat(_file.fileno()).st_size, 0)
        for line in text.splitlines():
            with contextlib.suppress(ValueError):  # one for which there was no room
                yield json.loads(line)
