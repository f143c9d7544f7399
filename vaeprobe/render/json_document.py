"""The JSON document: always valid JSON (non-finite numbers are null), with schema, tool and torch versions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vaeprobe._version import __version__
from vaeprobe.errors import VaeprobeError
from vaeprobe.report import SCHEMA_VERSION, Json, Page


def render(page: Page) -> str:
    """Return the JSON document of one page."""
    return dumps({**header(), **page.to_dict()})


def of_error(error: VaeprobeError, *, indent: int | None = 2) -> str:
    """Return the JSON document of a run that ended with an error; on one line without indent."""
    return dumps(failure(error), indent=indent)


def failure(error: VaeprobeError) -> Json:
    """Return what a document says of an error."""
    body = {"code": error.code, "message": error.message, "hint": error.hint}
    return {**header(), "error": body, "exit_code": error.exit_code}


def header() -> Json:
    """Return what every document starts with."""
    try:
        torch_version = version("torch")
    except PackageNotFoundError:  # pragma: no cover - torch is a dependency
        torch_version = None
    tool = {"name": "vaeprobe", "version": __version__}
    return {"schema_version": SCHEMA_VERSION, "tool": tool, "torch": torch_version}


def dumps(document: Mapping[str, object], *, indent: int | None = 2) -> str:
    """Return JSON text, one document, ending in a newline."""
    return json.dumps(plain(document), indent=indent, ensure_ascii=True, allow_nan=False) + "\n"


def plain(value: object) -> object:
    """Return a value made of JSON's own types; numpy and torch numbers and arrays are converted."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        if set(map(type, value)) == {float} and all(map(math.isfinite, value)):
            return list(value)  # millions of numbers between many latents
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)
