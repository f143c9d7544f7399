"""What the page of simulated intervals and p-values holds (`tests/CALIBRATION.md`, written by `calibration.py`)."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent / "CALIBRATION.md"
# intervals that are one of another number's, by a formula
FOLLOWS = {
    "beta.sigma2": "beta.estimate",
    "factorise.modulation_rotated": "factorise.modulation",  # the same, of latents in another basis
}


def on_page(kind: str) -> list[tuple[str, int, int, float]]:
    """Return the rows of a kind ("interval" or "p-value"): number, n, draws and rate in percent."""
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(rf"^\| ([^|]+) \| (\d+) \| (\d+) \| {kind} \| ([0-9.]+)%", text, re.MULTILINE)
    return [(name, int(n), int(draws), float(rate)) for name, n, draws, rate in rows]


def named(*kinds: str) -> set[str]:
    """Return all names and ids that rows of these kinds simulate."""
    return {part for kind in kinds for name, *_ in on_page(kind) for part in (name, *name.split(", "))}


def has_row(id: str) -> bool:
    """Whether a metric's interval is simulated, or follows from one that is."""
    return FOLLOWS.get(id, id) in named("interval")
