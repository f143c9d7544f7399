"""A claim of the paper, what was measured of it, and the rule that makes a verdict of that.

The rule is a number and a bound.  A statement counts as true where the whole
interval of its number is on its side of the bound, as false where all of it is on the other, and as open otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from vaeprobe.intervals import mean_interval

Verdict: TypeAlias = Literal["holds", "in expectation", "needs a condition", "fails", "open"]
Instead: TypeAlias = Literal["in expectation", "needs a condition"]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is trained and drawn.

    Attributes:
        seeds: trainings of each model.
        steps: Adam steps of each.
        rotations: of the rotation null.
        samples: latents, rows or random maps behind a number.
    """

    seeds: int
    steps: int
    rotations: int
    samples: int

    @property
    def words(self) -> str:
        """How many trainings, as a table says it."""
        return f"{self.seeds} seeds, {self.steps} steps"


SMALL = Effort(seeds=2, steps=60, rotations=19, samples=48)
USUAL = Effort(seeds=6, steps=1500, rotations=99, samples=256)
FULL = Effort(seeds=20, steps=6000, rotations=199, samples=512)


@dataclass(frozen=True)
class Part:
    """A statement about one number: under a limit, or over it.

    Attributes:
        what: the number, in words.
        value: as measured.
        ci: its interval; None where it is exact.
        side: where the number has to be.
        limit: the bound.
    """

    what: str
    value: float
    ci: tuple[float, float] | None
    side: Literal["under", "over"]
    limit: float

    @property
    def true(self) -> bool | None:
        """Whether the statement is true; None where the interval does not decide it."""
        low, high = self.ci or (self.value, self.value)
        if self.side == "under":
            return True if high < self.limit else False if low >= self.limit else None
        return True if low > self.limit else False if high <= self.limit else None


@dataclass(frozen=True)
class Evidence:
    """What was measured of a claim.

    Attributes:
        claimed: the statement as the paper makes it.
        instead: what is true in its place: the same on average, or under a condition; None where there is none.
        kind: which of the two, in words of the verdict.
        beside: numbers worth knowing that decide nothing.
    """

    claimed: Part
    instead: Part | None = None
    kind: Instead = "needs a condition"
    beside: tuple[Part, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What came out."""
        if self.claimed.true:
            return "holds"
        if self.claimed.true is None:
            return "open"
        if self.instead is None or self.instead.true is False:
            return "fails"
        return "open" if self.instead.true is None else self.kind


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim.

    Attributes:
        name: what the command calls it.
        statement: what is claimed, and, after a semicolon, under which condition.
        equation: where the paper makes it.
        version: of the paper, whose numbering that is.
        note: what a reader has to know.
        measure: takes an effort, returns the evidence.
    """

    name: str
    statement: str
    equation: str
    measure: Callable[[Effort], Evidence]
    version: str = "v1"
    note: str = ""


def over_seeds(
    what: str, values: Sequence[float], side: Literal["under", "over"], limit: float, **bounds: float
) -> Part:
    """Return a part whose number is the mean over independent seeds, with Student's interval."""
    x = np.asarray(values, dtype=np.float64)
    return Part(what, float(x.mean()), mean_interval(x, **bounds), side, limit)


def as_record(evidence: Evidence, effort: Effort) -> dict[str, Any]:
    """Return evidence and the effort behind it as JSON holds them."""
    return {"effort": asdict(effort), **asdict(evidence)}


def from_record(record: dict[str, Any]) -> tuple[Evidence, Effort]:
    """Return what `as_record` wrote."""

    def part(body: dict[str, Any]) -> Part:
        return Part(**{**body, "ci": None if body["ci"] is None else tuple(body["ci"])})

    instead = record["instead"]
    evidence = Evidence(
        part(record["claimed"]),
        None if instead is None else part(instead),
        record["kind"],
        tuple(map(part, record["beside"])),
    )
    return evidence, Effort(**record["effort"])
