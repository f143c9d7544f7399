"""The exception tree.

Every error says what went wrong and why (the message) and what to do next (`hint`), and carries the
documented exit code of the command line.  `code` is the short name that `vaeprobe explain CODE` takes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "ArchitectureError",
    "BlueprintError",
    "ContractError",
    "InputError",
    "MissingExtraError",
    "ResourceError",
    "UnsafeError",
    "UsageError",
    "VaeprobeError",
    "bug",
    "did_you_mean",
]


class VaeprobeError(Exception):
    """Base of every error that vaeprobe raises on purpose.

    Args:
        message: what is wrong and why, lower case, names in backticks, one line.
        hint: what to do next, one line, or None.
    """

    exit_code: ClassVar[int] = 70
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(VaeprobeError, ValueError):
    """An option, argument, policy or blueprint is wrong (exit code 2)."""

    exit_code = 2
    code = "usage"


class BlueprintError(UsageError):
    """A blueprint is malformed, or does not fit the tensors (exit code 2)."""

    code = "blueprint"


class MissingExtraError(UsageError, ImportError):
    """A feature needs a package that is not installed (exit code 2); the hint is the pip command."""

    code = "missing-extra"


class UnsafeError(VaeprobeError):
    """A file asks for something that could run code, and is refused (exit code 4)."""

    exit_code = 4
    code = "unsafe"


class InputError(VaeprobeError, ValueError):
    """A file is unreadable, corrupt or unsupported (exit code 5)."""

    exit_code = 5
    code = "unreadable"


class ArchitectureError(InputError):
    """The file holds weights, and what network they belong to is unknown or does not fit (exit code 5)."""

    code = "architecture"


class ContractError(InputError):
    """A decoder breaks the contract of `vaeprobe.Decoder` (exit code 5)."""

    code = "contract"


class ResourceError(VaeprobeError):
    """A run would take, or took, more memory or time than allowed (exit code 6)."""

    exit_code = 6
    code = "resources"


def bug(error: Exception) -> VaeprobeError:
    """Return an exception that nobody foresaw as an error (exit code 70)."""
    return VaeprobeError(
        f"this is a bug of vaeprobe, not of your input: {type(error).__name__}: {error}",
        hint="run again with VAEPROBE_DEBUG=1 and report the traceback",
    )


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return a hint that offers the nearest known names, or None where nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(f'`{k}`' for k in near)}?" if near else None
