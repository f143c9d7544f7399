"""What a family's own loss says of beta: the number that a right training would leave in the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from vaeprobe.report import Json

__all__ = ["FAR", "Mistake", "Recipe"]

FAR = 2.0  # a reading that is so many times more or less than what the loss implies was left by another training


@dataclass(frozen=True, slots=True)
class Mistake:
    """A known mistake, and the reading that it leaves behind.

    Attributes:
        low, high: the range of readings of beta that point at it.
        says: what it is, in words.
    """

    low: float
    high: float
    says: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the KL term weighs in a family's loss, in the units in which `beta` reads it.

    For a Gaussian that is beta sigma^2 against the squared error's half, 1/2 sum (x - x')^2 + (beta sigma^2) KL; for
    other likelihoods beta itself.

    Attributes:
        implied: the number; None where the loss has none, and `formula` says why.
        formula: how it comes about ("0.00025 x 12288 / 2").
        assumes: what it rests on that the file does not say ("the repository's config").
        mistakes: known ones, and the readings that point at them.
    """

    implied: float | None
    formula: str
    assumes: str = ""
    mistakes: tuple[Mistake, ...] = ()

    def is_far(self, reading: float) -> bool:
        """Return whether a reading is far from what the loss implies; False where it implies no number."""
        if self.implied is None:
            return False
        return not self.implied / FAR <= reading <= self.implied * FAR

    def words(self, symbol: str = "beta") -> str:
        """Return what the loss implies, as a clause: "beta = 1.536 (0.00025 x 12288 / 2; the repository's config)"."""
        if self.implied is None:
            return f"no one {symbol}: {self.formula}"
        rests = f"; by {self.assumes}" if self.assumes else ""
        return f"{symbol} = {self.implied:.4g} ({self.formula}{rests})"

    def pointing_at(self, reading: float) -> Mistake | None:
        """Return the known mistake that a reading of beta points at, if any."""
        return next((m for m in self.mistakes if m.low <= reading <= m.high), None)

    def to_dict(self) -> Json:
        """Return the recipe, JSON-able."""
        return {"implied": self.implied, "formula": self.formula, "assumes": self.assumes}
