"""Axes: where ticks stand, and where a value lies between two ends, linear or logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vaeprobe.render.text import number


@dataclass(frozen=True, slots=True)
class Axis:
    """Values between two ends.

    Attributes:
        low, high: the ends, low below high, above 0 where `log`.
        log: whether equal ratios are equally long.
    """

    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], *, log: bool = False) -> Axis:
        """Return an axis over finite values; linear where one of them is not above 0, wider than nothing."""
        low, high = min(values), max(values)
        log = log and low > 0
        if low == high:
            room = abs(low) * 0.1 or 1.0
            low, high = (low / 1.1, high * 1.1) if log else (low - room, high + room)
        return cls(low, high, log)

    def share(self, value: float) -> float:
        """Return how far along the axis a value lies, 0 to 1 between the ends."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(max(value, self.low * 1e-9)), math.log(low), math.log(high)
        return (value - low) / (high - low)

    def at(self, share: float) -> float:
        """Return the value so far along the axis."""
        if self.log:
            return math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return self.low + share * (self.high - self.low)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values between the ends, two or more where there are some, at most so many."""
        if self.log:
            found = self._powers()
            if len(found) >= 2:
                return found[:: math.ceil(len(found) / most)]
        raw = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(raw))
        for step in (size, 2 * size, 5 * size, 10 * size):
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            if last - first + 1 <= most:
                return [0.0 if k == 0 else float(f"{k * step:.12g}") for k in range(first, last + 1)]
        return []  # pragma: no cover - ten steps of a sixth of the axis do not fit

    def _powers(self) -> list[float]:
        """Return powers of ten between the ends, or with them 2 and 5 times of each where those are few."""
        low, high = self.low * (1 - 1e-9), self.high * (1 + 1e-9)
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        tens = [t for e in exponents if low <= (t := float(f"1e{e}")) <= high]
        if len(tens) >= 3:
            return tens
        return [t for e in exponents for k in (1, 2, 5) if low <= (t := float(f"{k}e{e}")) <= high]


def tick(value: float) -> str:
    """Return how a tick is written, in five characters or six: 0.25, 1000, 2e6, -1.5e-7."""
    if value == round(value) and abs(value) < 1e5:
        return f"{value + 0:.0f}"  # + 0: -0 is 0
    mantissa, e, exponent = number(value, 3).partition("e")
    return f"{float(mantissa):g}e{int(exponent)}" if e else mantissa
