"""Values of a policy's TOML, each as the kind that it must be, with errors that say where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from vaeprobe.errors import UsageError, did_you_mean
from vaeprobe.probes.settings import is_number

__all__ = ["beside", "choice", "check_keys", "finite", "list_of", "require", "table_of", "texts", "whole"]

TRUST = frozenset({"arch", "allow-code", "allow_code", "submodule", "trust", "device"})


def check_keys(table: Mapping[str, object], keys: Sequence[str], where: str) -> None:
    for key in table:
        if key in TRUST:
            raise UsageError(
                f"{where}: `{key}` is a matter of trust and is not read from a file",
                hint=f"give --{key.replace('_', '-')} on the command line",
            )
        if key not in keys:
            raise UsageError(
                f"{where}: unknown key `{key}`",
                hint=did_you_mean(key, keys) or f"known keys: {', '.join(keys)}",
            )


def require(table: Mapping[str, object], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in table:
            raise UsageError(f"{where}: `{key}` is missing")


def beside(value: object, where: str, origin: str) -> str | None:
    """Return a path of a policy, which stands beside it."""
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}: a path is expected, not `{value}`")
    return str(Path(origin).parent / value)


def table_of(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: a table is expected, not {type(value).__name__}")
    return value


def list_of(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise UsageError(f"{where}: a list is expected", hint="write it with double brackets: [[...]]")
    return value


def texts(value: object, where: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise UsageError(f"{where}: a list of strings is expected")
    return values


def finite(value: object, where: str) -> float:
    if not is_number(value) or not math.isfinite(value):
        raise UsageError(f"{where}: a finite number is expected, not `{value}`")
    return float(value)


def whole(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 2:
        raise UsageError(f"{where}: a whole number of at least 2 is expected, not `{value}`")
    return value


def choice(value: object, known: Sequence[str], where: str) -> str:
    if value not in known:
        raise UsageError(
            f"{where}: `{value}` is none of {', '.join(known)}", hint=did_you_mean(str(value), known)
        )
    return str(value)
