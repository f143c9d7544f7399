"""The input of a program: how many latents it takes, and what may be unknown of it, as errors that a caller can answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vaeprobe.errors import BlueprintError, InputError


class OpenSizeError(InputError):
    """The file leaves the number of latents open (exit code 5): a number from outside settles it."""


class UnsupportedError(InputError):
    """A program uses what we do not run, whatever it is given (exit code 5)."""


class NoFlatRowsError(InputError):
    """The program does not run on flat rows, and its file does not say which shape it takes (exit code 5)."""


def latents_of(row: Sequence[int], asked: int | None, what: str = "program") -> int:
    """Return how many latents an input row of this shape holds.

    Args:
        asked: the number that the user gives.
        what: what takes them, in words.

    Raises:
        BlueprintError: the user says another number.
    """
    d = math.prod(row)
    if asked not in (None, d):
        raise BlueprintError(
            f"the {what} takes {d} latents, not {asked}", hint=f"leave out --latent-dim, or write {d}"
        )
    return d
