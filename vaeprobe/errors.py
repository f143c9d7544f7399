"""The exception tree.

Every error says what went wrong and why (the message) and what to do next (`hint`), and carries the
documented exit code of the command line.  `code` is the short name that `vaeprobe explain CODE` takes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "ERRORS",
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
    "out_of_memory",
]


class VaeprobeError(Exception):
    """Base of every error that vaeprobe raises on purpose.

    Args:
        message: what is wrong and why, lower case, names in backticks, one line.
        hint: what to do next, one line, or None.
        about: the file that the message names; None where it names none, and whoever opened the file does (`within`).
    """

    exit_code: ClassVar[int] = 70
    code: ClassVar[str] = "internal"
    # what `vaeprobe explain CODE` says
    meaning: ClassVar[str] = "A bug of vaeprobe (exit code 70)."
    remedy: ClassVar[str] = (
        "Run again with VAEPROBE_DEBUG=1 and report the traceback with the smallest file that shows it."
    )

    def __init__(self, message: str, *, hint: str | None = None, about: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.about = about
        if hint:
            self.add_note(f"hint: {hint}")

    def within(self, file: str) -> None:
        """Put the name of a file before the message, if it names none yet."""
        if self.about is None:
            self.message = f"{file}: {self.message}"
            self.args = (self.message,)
            self.about = file


class UsageError(VaeprobeError, ValueError):
    """An option, argument, policy or blueprint is wrong (exit code 2)."""

    exit_code = 2
    code = "usage"
    meaning = "An option, argument, policy or blueprint is wrong (exit code 2)."
    remedy = "The hint names the nearest valid name or form; `vaeprobe COMMAND --help` lists all."


class BlueprintError(UsageError):
    """A blueprint is malformed, or does not fit the tensors (exit code 2)."""

    code = "blueprint"
    meaning = "A blueprint is malformed, or its layers do not fit the tensors of the file (exit code 2)."
    remedy = (
        "The message names the layer and both shapes, the hint the nearest fix. `vaeprobe inspect MODEL` "
        "lists the tensors; `--draft-blueprint OUT` writes a first version."
    )


class MissingExtraError(UsageError, ImportError):
    """A feature needs a package that is not installed (exit code 2); the hint is the pip command."""

    code = "missing-extra"
    meaning = "A feature needs a package that is not installed (exit code 2)."
    remedy = "Run the pip command in the hint."


class UnsafeError(VaeprobeError):
    """A file asks for something that could run code, and is refused (exit code 4)."""

    exit_code = 4
    code = "unsafe"
    meaning = (
        "The file asks for something that could run code, write files or reach outside itself, and is "
        "refused (exit code 4)."
    )
    remedy = (
        "Ask its author for safetensors with a blueprint, or for a bare state_dict. Do not load a file from "
        "a stranger by other means: what it would import is named in the message."
    )


class InputError(VaeprobeError, ValueError):
    """A file is unreadable, corrupt or unsupported (exit code 5)."""

    exit_code = 5
    code = "unreadable"
    meaning = "The file is missing, damaged, empty, or in no format that vaeprobe reads (exit code 5)."
    remedy = (
        "The message says what was found. A git-LFS pointer wants `git lfs pull`; a web page saved by "
        "mistake wants another download."
    )


class ArchitectureError(InputError):
    """The file holds weights, and what network they belong to is unknown or does not fit (exit code 5)."""

    code = "architecture"
    meaning = "The file holds weights alone, and nothing says which network they belong to (exit code 5)."
    remedy = (
        "Write a blueprint (`vaeprobe inspect MODEL --draft-blueprint OUT` makes a marked draft), or name "
        "your own code with --arch."
    )


class ContractError(InputError):
    """A decoder breaks the contract of `vaeprobe.Decoder` (exit code 5)."""

    code = "contract"
    meaning = (
        "The network is no decoder in vaeprobe's sense: deterministic, rows independent, finite, "
        "differentiable (exit code 5)."
    )
    remedy = (
        "The message says which property fails and what usually causes it. Wrap the network so that it "
        "returns the mean instead of a sample."
    )


class ResourceError(VaeprobeError):
    """A run would take, or took, more memory or time than allowed (exit code 6)."""

    exit_code = 6
    code = "resources"
    meaning = "The run would take, or took, more memory or time than allowed (exit code 6)."
    remedy = "Fewer --samples, a smaller --chunk, or only some components."


def _codes(cls: type[VaeprobeError]) -> dict[str, type[VaeprobeError]]:
    found = {cls.code: cls}
    for sub in cls.__subclasses__():
        found |= _codes(sub)
    return found


ERRORS: dict[str, type[VaeprobeError]] = _codes(VaeprobeError)  # by code


def bug(error: Exception) -> VaeprobeError:
    """Return an exception that nobody foresaw as an error (exit code 70)."""
    return VaeprobeError(
        f"this is a bug of vaeprobe, not of your input: {type(error).__name__}: {error}",
        hint="run again with VAEPROBE_DEBUG=1 and report the traceback",
    )


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out (torch says so in words)."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    # all that oneDNN says where it has no room for the code of an operation; of one that it does not know it says more
    return isinstance(error, RuntimeError) and (
        text.strip() == "could not create a primitive"
        or any(words in text for words in ("can't allocate memory", "not enough memory", "out of memory"))
    )


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return a hint that offers the names which begin like this one, or else the nearest; None where none is near.

    A name of several parts (`factorise.gap`) also begins like its last one.
    """
    # neither the dashes before an option nor what stands between words makes two names alike
    names = {k.lower().lstrip("-").replace("_", "-").replace(" ", "-"): k for k in known}
    word = name.lower().lstrip("-").replace("_", "-").replace(" ", "-")
    near = [word] if word in names else [k for k in names if len(word) > 1 and k.startswith(word)][:3]
    if not near:
        near = [k for k in names if len(word) > 2 and k.rpartition(".")[2].startswith(word)][:3]
    if not near:
        alike = {k: difflib.SequenceMatcher(None, k, word).ratio() for k in names}
        if "." not in word:  # a name by its last part alone
            last = {k: difflib.SequenceMatcher(None, k.rpartition(".")[2], word).ratio() for k in names}
            alike = {k: max(ratio, last[k]) for k, ratio in alike.items()}
        least = max(0.55, max(alike.values(), default=0.0) - 0.1)
        near = sorted((k for k in names if alike[k] >= least), key=lambda k: -alike[k])[:3]
    return f"did you mean {' or '.join(f'`{names[k]}`' for k in near)}?" if near else None
