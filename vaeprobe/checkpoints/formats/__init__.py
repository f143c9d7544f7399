"""Formats of checkpoint files, one file each: a module of this package with a `FORMAT` is one.

Other packages add theirs by an entry point of the group `vaeprobe.formats` that names a `Format`.  Those are asked only
about files that are in no format of ours, after everything that `vaeprobe.files.sniff` refuses; until then none of their
code is imported.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points

from vaeprobe.checkpoints.formats.format import Contents, Format
from vaeprobe.errors import InputError, UsageError
from vaeprobe.files.sniff import UnknownFormatError, sniff
from vaeprobe.files.source import Source

__all__ = ["GROUP", "Contents", "Format", "every", "of"]

GROUP = "vaeprobe.formats"


def every() -> Mapping[str, Format]:
    """Return the formats of this package by name."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    found = [m.FORMAT for m in modules if hasattr(m, "FORMAT")]
    return {format.name: format for format in found}


def of(source: Source) -> Format:
    """Return the format of a file.

    Raises:
        UnsafeError, InputError: as `vaeprobe.files.sniff.sniff`.
        InputError: two formats claim it.
        UsageError: a format that another package adds cannot be imported.
    """
    try:
        contents = Contents(source, sniff(source))
    except UnknownFormatError:
        contents = Contents(source)
        claimed = [format for format in (*every().values(), *_added()) if format.claims(contents)]
        if not claimed:
            raise
    else:
        claimed = [format for format in every().values() if format.claims(contents)]
    if len(claimed) > 1:
        listed = " and ".join(f"`{format.name}`" for format in claimed)
        raise InputError(
            f"{source.name} is claimed by two formats, {listed}",
            hint="one of them comes with another package: remove the one that is wrong",
            about=source.name,
        )
    return claimed[0]


def _added() -> Iterator[Format]:
    """Yield the formats of other packages."""
    for entry in entry_points(group=GROUP):
        try:
            found = entry.load()
        except Exception as error:  # of another package's code
            raise UsageError(
                f"the format `{entry.name}` of another package cannot be imported: {type(error).__name__}: {error}",
                hint=f"it is `{entry.value}`: mend or remove the package that holds it",
            ) from error
        if not isinstance(found, Format):
            raise UsageError(
                f"`{entry.value}`, which another package adds as the format `{entry.name}`, is {type(found).__name__}",
                hint="its entry point must name a `vaeprobe.checkpoints.formats.format.Format`",
            )
        yield found
