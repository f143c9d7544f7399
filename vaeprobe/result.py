"""What every probe returns: numbers with a verdict, and the page that shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self, overload

from vaeprobe.errors import did_you_mean
from vaeprobe.report import Artifact, Check, Finding, Json, Metric, Page, Section, worst_status


class UnknownMetric(KeyError):
    """A result has no metric of this id."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would quote it


class Measured:
    """A metric as an attribute: `alignment = Measured("orthogonality.alignment")` in a result's class.

    `result.alignment` is then the same `Metric` as `result["orthogonality.alignment"]`.
    """

    def __init__(self, id: str) -> None:
        self.id = id

    @overload
    def __get__(self, result: None, owner: type) -> Self: ...
    @overload
    def __get__(self, result: Result, owner: type) -> Metric: ...
    def __get__(self, result: Result | None, owner: type) -> Metric | Self:
        return self if result is None else result[self.id]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every probe returns.

    Attributes:
        metrics: by id; read one with `result["orthogonality.mean_abs_cosine"]`.
        verdict: one word (or a few), fit for a program.
        summary: the verdict as a researcher would write it, one to three sentences.
        findings: what deserves attention.
        settings: the probe's settings, JSON-able: seed, samples, likelihood, method, dtype, ...
        artifact: the file, or None for a decoder made in Python.
        part: which latents it is of, "" where it is of all.
        checks: limits that were asked for.
        verdict_of_all: the verdicts that all latents may have, where `verdict` is that of a random part of them; None where
            it is that of all.
    """

    command: ClassVar[str] = ""
    # ids of the few numbers that the verdict rests on, each before those that stand beside it
    CARRIED: ClassVar[tuple[tuple[str, ...], ...]] = ()
    # how many of the first sections a terminal shows without being asked
    LEADING: ClassVar[int] = 0

    metrics: Mapping[str, Metric]
    verdict: str = ""
    summary: str = ""
    findings: tuple[Finding, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    artifact: Artifact | None = None
    part: str = ""
    checks: tuple[Check, ...] = ()
    verdict_of_all: tuple[str, ...] | None = None

    def __getitem__(self, id: str) -> Metric:
        """Return a metric by its id.

        Raises:
            KeyError: there is none; the message offers the nearest.
        """
        if id not in self.metrics:
            hint = did_you_mean(id, self.metrics)
            raise UnknownMetric(f"no metric of this result is called `{id}`" + (f"; {hint}" if hint else ""))
        return self.metrics[id]

    def __init_subclass__(cls) -> None:
        cls.__repr__ = Result.__repr__  # type: ignore[method-assign]  # a dataclass would print every array

    def __repr__(self) -> str:
        """Return one line: the verdict, and the few numbers that it rests on."""
        first = [row[0] for row in self.carried()]
        numbers = ", ".join(f"{m.id}={'undefined' if m.value is None else f'{m.value:.4g}'}" for m in first)
        return f"<{type(self).__name__} {self.verdict!r}{': ' * bool(numbers)}{numbers}>"

    def carried(self) -> tuple[tuple[Metric, ...], ...]:
        """Return the few numbers that the verdict rests on, each with those that stand beside it."""
        found = (tuple(self.metrics[id] for id in ids if id in self.metrics) for ids in self.CARRIED)
        return tuple(row for row in found if row)

    def sections(self) -> tuple[Section, ...]:
        """Return the tables and pictures that show this result, most important first."""
        return ()

    def details(self) -> Json:
        """Return what else belongs in the JSON form (matrices, per-latent rows), JSON-able."""
        return {}

    def per_sample(self) -> Mapping[str, Sequence[float]]:
        """Return the values behind each metric that is a mean over latents, by metric id, in drawing order.

        The gate pairs them with a baseline's on the same latents.
        """
        return {}

    def files(self) -> Mapping[str, Callable[[Path], None]]:
        """Return a writer for each file that the probe was asked to save, by the name of its option."""
        return {}

    def unwritten(self) -> Mapping[str, str]:
        """Return why a file that the probe was asked to save is none of `files`, by the name of its option."""
        return {}

    def page(self) -> Page:
        """Return what renderers show."""
        return Page(
            command=self.command,
            artifact=self.artifact,
            settings=self.settings,
            verdict=self.verdict,
            verdict_of_all=self.verdict_of_all,
            summary=self.summary,
            metrics=self.metrics,
            checks=self.checks,
            findings=self.findings,
            carried=self.carried(),
            sections=self.sections(),
            leading=self.LEADING,
            details=self.details(),
            exit_code=self.exit_code,
        )

    def to_dict(self) -> Json:
        """Return the JSON-able form: schema, metrics, verdict, findings, checks, settings, artifact."""
        return self.page().to_dict()

    @property
    def exit_code(self) -> int:
        """0 where all checks pass or none was asked; 1 a check failed; 3 one could not be decided."""
        return worst_status(c.status for c in self.checks if c.level == "error")

    def __str__(self) -> str:
        from vaeprobe.render import terminal

        return terminal.plain(self.page()).rstrip("\n")

    def __rich__(self) -> object:
        from vaeprobe.render import terminal

        return terminal.view(self.page())

    def _repr_html_(self) -> str:
        from vaeprobe.render import html

        return html.fragment(self.page())
