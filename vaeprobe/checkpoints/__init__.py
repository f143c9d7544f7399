"""Checkpoint files: `load` makes a `Decoder` of one, `inspect` says what is in it; nothing in a file is executed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaeprobe.checkpoints.inspection import Inspection as Inspection
    from vaeprobe.checkpoints.inspection import inspect as inspect
    from vaeprobe.checkpoints.loading import load as load

__all__ = ["Inspection", "inspect", "load"]

# late, since only loading needs torch
_HOMES = {"Inspection": "inspection", "inspect": "inspection", "load": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
