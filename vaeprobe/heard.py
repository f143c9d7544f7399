"""Which process of several is heard before they have joined; nothing is imported, for an interrupt may ask at any time."""

from __future__ import annotations

import os


def heard() -> bool:
    """Return whether this process is the first one, or alone, as the environment says."""
    return (os.environ.get("WORLD_SIZE") or "1") == "1" or (os.environ.get("RANK") or "0") == "0"
