"""Where a model lies in its repository: what dashboards and annotations go by."""

from __future__ import annotations

import os
from pathlib import Path


def from_root(model: str) -> str:
    """Return a model's path from the root of the repository it lies in; as it was given outside of any."""
    path = Path(os.path.abspath(model))
    root = next((folder for folder in path.parents if (folder / ".git").exists()), None)
    return path.relative_to(root).as_posix() if root is not None else Path(model).as_posix()
