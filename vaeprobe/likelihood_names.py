"""The names of the likelihoods: a likelihood is a file of `vaeprobe/likelihoods`, and listing them imports no torch."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

__all__ = ["LIKELIHOODS", "LikelihoodName", "in_words"]

_FOLDER = Path(__file__).parent / "likelihoods"
LIKELIHOODS = tuple(m.name for m in pkgutil.iter_modules([str(_FOLDER)]) if m.name != "likelihood")
if TYPE_CHECKING:
    LikelihoodName: TypeAlias = str
else:
    LikelihoodName = Literal[LIKELIHOODS]


def in_words(name: str) -> str:
    """Return what a sentence calls a likelihood: those of people after them, others in small letters."""
    return name.capitalize() if name in ("bernoulli", "gaussian", "poisson") else name.replace("_", " ")
