"""Safetensors: tensors by name, with a blueprint in the metadata where `vaeprobe convert` wrote the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaeprobe.checkpoints import described, folders, selection
from vaeprobe.checkpoints.formats.format import Format
from vaeprobe.files import safetensors
from vaeprobe.files.source import Source
from vaeprobe.files.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vaeprobe.checkpoints.inspection import Inspection
    from vaeprobe.checkpoints.request import Found, Request
    from vaeprobe.checkpoints.weights import Weights

__all__ = ["FORMAT"]


def _specs(source: Source) -> tuple[dict[str, TensorSpec], Mapping[str, str]]:
    """Return the tensors of a file and its shards, and the metadata of the first."""
    _, metadata = safetensors.read(source.data)
    return folders.joined(source, lambda file: safetensors.read(file.data)[0]), metadata


def read(request: Request) -> Found:
    """Read the network of the tensors, or the matrix that the key names."""
    from vaeprobe.checkpoints import bare_weights

    specs, metadata = _specs(request.source)
    specs, is_matrix = selection.under_key(specs, request.name, request.key)
    weights = bare_weights.read(request, specs, metadata=metadata)
    return bare_weights.found(request, weights, "safetensors", matrix=is_matrix)


def weights(request: Request) -> tuple[Weights, str]:
    """Return the tensors by name, for a network of the user's."""
    from vaeprobe.checkpoints import bare_weights
    from vaeprobe.checkpoints.weights import realise

    specs, metadata = _specs(request.source)
    found = realise(selection.under_key(specs, request.name, request.key)[0], metadata)
    return bare_weights.one_set(request, found, fold=False), "safetensors"


def look(source: Source, key: str | None) -> Inspection:
    """Say what the tensors are."""
    specs, metadata = _specs(source)
    specs, _ = selection.under_key(specs, source.name, key)
    return described.of_tensors(source, "weights", "Safetensors", "safetensors", specs, metadata=metadata)


FORMAT = Format(
    name="safetensors",
    claims=lambda contents: contents.container == "safetensors",
    read=read,
    look=look,
    weights=weights,
)
