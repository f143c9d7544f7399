"""The JSON of a program: whatever is taken from it is looked at on the way."""

from __future__ import annotations

import json

from vaeprobe.errors import InputError, UnsafeError
from vaeprobe.files.harm import HINT_SAVE_ANEW
from vaeprobe.files.source import quoted
from vaeprobe.files.zips import Archive

__all__ = ["at", "items", "list_of", "name_of", "parsed", "table_of", "union"]


def parsed(archive: Archive, name: str) -> object:
    """Return an entry's JSON."""
    if name not in archive:
        raise InputError(f"the archive holds no {quoted(name)}", hint=HINT_SAVE_ANEW)
    try:
        return json.loads(archive.read(name))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{quoted(name)} is no JSON: {quoted(str(error))}") from None


def at(table: object, *keys: str) -> object:
    """Return what stands in nested tables under keys."""
    for key in keys:
        if not isinstance(table, dict) or key not in table:
            raise InputError(f"the program's JSON has no {quoted(key)} where one is due", hint=HINT_SAVE_ANEW)
        table = table[key]
    return table


def table_of(value: object) -> dict[str, object]:
    """Return a table as it is."""
    if not isinstance(value, dict):
        raise InputError("the program's JSON has something else where a table is due", hint=HINT_SAVE_ANEW)
    return value


def items(table: object, key: str) -> list[object]:
    """Return a list out of a table."""
    return list_of(at(table, key), key)


def list_of(value: object, what: str) -> list[object]:
    """Return a list as it is; `what` it is called if it is none."""
    if not isinstance(value, list):
        raise InputError(f"{quoted(what)} of the program's JSON is no list")
    return value


def union(table: object) -> tuple[str, object]:
    """Return the kind and the value of an argument: a table of one entry."""
    if not isinstance(table, dict) or len(table) != 1:
        raise InputError("the program's JSON has an argument that is not one thing")
    ((kind, value),) = table.items()
    return kind, value


def name_of(value: object) -> str:
    """Return the name of a value of the graph."""
    if not isinstance(value, str) or not value.isidentifier():
        raise UnsafeError(
            f"the program names a value {quoted(str(value))}, which torch would put into source code and execute",
            hint="do not load this file with torch.export.load",
        )
    return value
