"""What a survey finds, before it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from vaeprobe.gate.outcome import Outcome
from vaeprobe.report import Json, worst_status
from vaeprobe.result import Result
from vaeprobe.traversal.result import Traversal

# what a page leaves out of its JSON: numbers per sample, which `--json` of the probe itself has
PER_SAMPLE = ("samples", "events", "seams", "starts", "sheets")


@dataclass(frozen=True, kw_only=True)
class Content(Result):
    """What every probe finds on one model.

    Attributes:
        results: by probe, in the order of the page.
        failed: why a probe could not answer, by probe.
        traversal: a strip per latent; None where it could not be drawn.
        outcomes: rules that were asked for, each held against what was measured.
        repeat: the command that makes the page again; "" for a decoder made in Python.
    """

    command: ClassVar[str] = "report"
    CARRIED = (
        ("orthogonality.alignment", "orthogonality.alignment_p"),
        ("factorise.gap", "factorise.gap_null"),
        ("beta.estimate", "beta.mean_identity"),
        ("factorise.mean_own_share",),
    )

    results: Mapping[str, Result]
    failed: Mapping[str, str] = field(default_factory=dict)
    traversal: Traversal | None = None
    outcomes: tuple[Outcome, ...] = ()
    repeat: str = ""

    @property
    def exit_code(self) -> int:
        """0 where all rules hold or none was asked for; 1 one does not; 3 one is open or was not measured."""
        return worst_status(outcome.status for outcome in self.outcomes)

    def details(self) -> Json:
        def short(result: Result) -> Json:
            details = {k: v for k, v in result.details().items() if k not in PER_SAMPLE}
            whole = result.to_dict() | {"details": details}
            return {k: v for k, v in whole.items() if k not in ("artifact", "schema_version")}

        return {
            "results": {name: short(result) for name, result in self.results.items()},
            "failed": dict(self.failed),
            "rules": [outcome.to_dict() for outcome in self.outcomes],
            "traverse": None if self.traversal is None else self.traversal.details(),
        }
