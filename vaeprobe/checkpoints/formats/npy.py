"""A matrix as numpy.save writes it: a linear decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaeprobe.checkpoints import described
from vaeprobe.checkpoints.formats.format import Format
from vaeprobe.files import npy
from vaeprobe.files.source import Source

if TYPE_CHECKING:
    from vaeprobe.checkpoints.inspection import Inspection
    from vaeprobe.checkpoints.request import Found, Request

__all__ = ["FORMAT"]


def read(request: Request) -> Found:
    """Read a linear decoder."""
    from vaeprobe.checkpoints import matrix
    from vaeprobe.checkpoints.request import Found

    array, notes = npy.read_npy(request.source.data, request.name)
    tensor, rounded = matrix.tensor_of(array, request.name)
    return Found(
        parts=matrix.parts_of({"matrix": tensor}, request.name), format="npy", notes=(*notes, *rounded)
    )


def look(source: Source, key: str | None) -> Inspection:
    """Say what the matrix is."""
    return described.of_arrays(source, "npy", {"matrix": npy.read_npy(source.data, source.name)})


FORMAT = Format(
    name="npy",
    claims=lambda contents: contents.container == "npy",
    read=read,
    look=look,
    keyed=False,
)
