"""Arrays by name as numpy.savez writes them: one a linear decoder, or all the weights of a blueprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaeprobe.checkpoints import described
from vaeprobe.checkpoints.formats.format import Format
from vaeprobe.errors import InputError
from vaeprobe.files import npy
from vaeprobe.files.source import Source, quoted
from vaeprobe.files.zips import directory
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.checkpoints.inspection import Inspection
    from vaeprobe.checkpoints.request import Found, Request

__all__ = ["FORMAT"]


def read(request: Request) -> Found:
    """Read a linear decoder, or the network of a blueprint."""
    from vaeprobe.checkpoints import bare_weights, matrix
    from vaeprobe.checkpoints.request import Found
    from vaeprobe.checkpoints.weights import Weights

    if {"indices.npy", "data.npy", "shape.npy"} <= {entry.name for entry in directory(request.source.data)}:
        raise InputError(
            f"{request.name} is a sparse matrix, as scipy.sparse.save_npz writes it",
            hint="save it dense: numpy.save(path, scipy.sparse.load_npz(path).toarray())",
            about=request.name,
        )
    notes: list[Finding] = []
    tensors: dict[str, Tensor] = {}
    for name, (array, own) in npy.read_npz(request.source.data, request.name).items():
        tensors[name], rounded = matrix.tensor_of(array, f"array {quoted(name)}")
        notes += [*own, *rounded]
    if bare_weights.blueprint_of(request) is not None:
        return bare_weights.found(request, Weights(tensors, {}, tuple(notes)), "npz")
    return Found(
        parts=matrix.parts_of(tensors, request.name, key=request.key), format="npz", notes=tuple(notes)
    )


def look(source: Source, key: str | None) -> Inspection:
    """Say what the arrays are."""
    return described.of_arrays(source, "npz", npy.read_npz(source.data, source.name))


FORMAT = Format(
    name="npz",
    claims=lambda contents: contents.container == "npz",
    read=read,
    look=look,
)
