"""Masked arrays of numpy: what a mask hides is missing, and no number that stands below it is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["hidden", "with_gaps"]


def hidden(rows: object) -> int:
    """Return how many values are masked, of an array or of a list of them."""
    mask = np.ma.getmask(_masked(rows))
    return int(mask.sum()) if mask.dtype == bool else 0


def with_gaps(rows: object) -> NDArray[Any]:
    """Return rows as an array, with NaN where a mask hides them; integers become float64 then."""
    if not hidden(rows):
        return np.asarray(rows)
    masked = _masked(rows)
    kind = masked.dtype if masked.dtype.kind == "f" else np.float64
    return np.asarray(masked.astype(kind).filled(np.nan))


def _masked(rows: object) -> Any:
    """Return a list with masked arrays in it as one of them, which `numpy.asarray` would uncover; all else as it is."""
    listed = isinstance(rows, (list, tuple)) and any(isinstance(row, np.ma.MaskedArray) for row in rows)
    return np.ma.array(rows) if listed else rows
