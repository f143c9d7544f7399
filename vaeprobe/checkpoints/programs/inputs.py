"""What may be unknown of a program's input, as errors that a caller can answer."""

from __future__ import annotations

from vaeprobe.errors import InputError


class OpenSizeError(InputError):
    """The file leaves the number of latents open (exit code 5): a number from outside settles it."""


class NoFlatRowsError(InputError):
    """The program does not run on flat rows, and its file does not say which shape it takes (exit code 5)."""
