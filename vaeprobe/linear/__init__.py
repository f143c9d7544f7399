"""PPCA and linear VAEs: closed forms, streaming moments, training against them, and estimators.

The public names are loaded when they are used, so that importing this package imports no numpy or torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "PPCA": "estimators",
    "LinearVAE": "estimators",
    "TrainLinear": "run",
    "LinearResult": "result",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
