"""ONNX models: their graph of operators is translated to torch's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaeprobe.checkpoints import described
from vaeprobe.checkpoints.formats.format import Format
from vaeprobe.files.source import Source

if TYPE_CHECKING:
    from vaeprobe.checkpoints.inspection import Inspection
    from vaeprobe.checkpoints.request import Found, Request

__all__ = ["FORMAT"]


def read(request: Request) -> Found:
    """Read the program's decoder."""
    from vaeprobe.checkpoints import bare_weights
    from vaeprobe.checkpoints.programs.onnx import graph
    from vaeprobe.checkpoints.request import Found

    parts = graph.read(
        request.source.data,
        request.source.path.parent,
        blueprint=bare_weights.blueprint_of(request),
        latent_dim=request.latent_dim,
        output=request.output,
        conditions=request.condition,
        latent_size=request.latent_size,
    )
    return Found(parts=parts, format="onnx", output_taken=True)


def look(source: Source, key: str | None) -> Inspection:
    """Say what the program holds."""
    return described.of_sized_program(source, "onnx", lambda size: _look(source, size))


def sized(source: Source, size: tuple[int, ...]) -> Inspection | None:
    """Say what the program holds, of maps of latents of that size, where its graph leaves it open."""
    from vaeprobe.checkpoints.programs.inputs import where_open

    return where_open(lambda size: _look(source, size), size)


def _look(source: Source, size: tuple[int, ...] | None) -> Inspection:
    from vaeprobe.checkpoints.programs.onnx import graph

    parts = graph.read(source.data, source.path.parent, latent_size=size)
    return described.of_program(source, "onnx", parts)


FORMAT = Format(
    name="onnx",
    claims=lambda contents: contents.container == "onnx",
    read=read,
    look=look,
    sized=sized,
    keyed=False,
)
