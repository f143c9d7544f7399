"""What probes say of columns of the Jacobian that are rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaeprobe.findings import ROUNDING
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from vaeprobe.engine.rounding import Lost

__all__ = ["rounded"]


def rounded(lost: Lost) -> Finding:
    """Return the finding about such columns, with what to do next."""
    import torch

    hint = (
        "no precision here knows more: the output does not depend on them as far as numbers tell"
        if lost.dtype == torch.float64
        else "--dtype float64 computes nine digits more"
    )
    return Finding(ROUNDING, lost.evidence, hint=hint)
