"""Models of a sweep: names that differ in one number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Sweep:
    """What a sweep runs over: `beta`, and its value in each model."""

    name: str
    values: tuple[float, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The models by value."""
        return tuple(sorted(range(len(self.values)), key=lambda k: self.values[k]))

    @property
    def log(self) -> bool:
        """Whether ratios matter more than differences: all above 0, over more than half a decade."""
        return min(self.values) > 0 and max(self.values) / min(self.values) > 3


def sweep_of(names: Sequence[str]) -> Sweep | None:
    """Return what names of models run over, where they differ in one number alone.

    Example:
        >>> sweep_of(["vae_beta1.pt", "vae_beta4.pt", "vae_beta0.5.pt"])
        Sweep(name='beta', values=(1.0, 4.0, 0.5))
    """
    parts = [NUMBER.split(name.removesuffix("." + name.rpartition(".")[2])) for name in names]
    if len({len(p) for p in parts}) != 1 or len(parts) < 2:
        return None
    differing = [k for k in range(len(parts[0])) if len({p[k] for p in parts}) > 1]
    if len(differing) != 1 or differing[0] % 2 == 0:
        return None
    k = differing[0]
    values = tuple(float(p[k]) for p in parts)
    if len(set(values)) != len(values):
        return None
    word = re.search(r"([^\W\d_]+)[\W_]*$", parts[0][k - 1])
    return Sweep(word[1] if word else "number", values)
