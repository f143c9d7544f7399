"""Families of decoders, one file each: a module of this package with a `FAMILY` is one.

`match` finds the family that tensors belong to, by the names and shapes of all tensors of its decoder.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from vaeprobe.checkpoints.families.family import Clues, Family, Recognised, Shaped
from vaeprobe.errors import ArchitectureError, UsageError, did_you_mean

__all__ = ["Clues", "Family", "Recognised", "Shaped", "every", "get", "match", "names"]


def every() -> Mapping[str, Family]:
    """Return the families by name."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    found = [m.FAMILY for m in modules if hasattr(m, "FAMILY")]
    return {family.name: family for family in found}


def names() -> tuple[str, ...]:
    """Return the names of the families."""
    return tuple(every())


def match(clues: Clues) -> Recognised | None:
    """Return what the tensors hold, or None where they are of no family that is known.

    Raises:
        ArchitectureError: they are those of two families.
    """
    found = {name: hit for name, family in every().items() if (hit := family.match(clues)) is not None}
    if len(found) > 1:
        listed = " and ".join(f"`{name}`" for name in found)
        raise ArchitectureError(
            f"the tensors are those of {listed}", hint=f"say which: --blueprint {next(iter(found))}"
        )
    return next(iter(found.values()), None)


def get(name: str, clues: Clues) -> Recognised:
    """Return what the tensors hold as one family reads them.

    Raises:
        UsageError: no family has that name, or the tensors are not of that family.
    """
    name = name.removeprefix("preset ")
    known = every()
    if name not in known:
        raise UsageError(
            f"no preset is called `{name}`", hint=did_you_mean(name, known) or f"presets: {', '.join(known)}"
        )
    found = known[name].match(clues)
    if found is None:
        raise UsageError(
            f"the tensors are not those of preset `{name}`: their names or shapes differ",
            hint="write a blueprint: `vaeprobe inspect MODEL --draft-blueprint OUT` makes a first one",
        )
    return found
