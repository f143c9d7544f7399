"""TorchScript archives: their code is interpreted by ours, never run by torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaeprobe.checkpoints import described
from vaeprobe.checkpoints.formats.format import Format
from vaeprobe.files.source import Source
from vaeprobe.files.zips import open_archive

if TYPE_CHECKING:
    from vaeprobe.checkpoints.inspection import Inspection
    from vaeprobe.checkpoints.request import Found, Request

__all__ = ["FORMAT"]


def read(request: Request) -> Found:
    """Read the program's decoder."""
    from vaeprobe.checkpoints import bare_weights
    from vaeprobe.checkpoints.programs import torchscript
    from vaeprobe.checkpoints.request import Found

    archive = open_archive(request.source.data)
    parts = torchscript.read(
        archive,
        blueprint=bare_weights.blueprint_of(request),
        latent_dim=request.latent_dim,
        submodule=request.submodule,
        latent_size=request.latent_size,
        conditions=request.condition,
    )
    return Found(parts=parts, format="torchscript")


def look(source: Source, key: str | None) -> Inspection:
    """Say what the program holds."""
    return sized(source, None)


def sized(source: Source, size: tuple[int, ...] | None) -> Inspection:
    """Say what the program holds, of maps of latents of that size; and where nothing says what it takes, its tensors."""
    from vaeprobe.checkpoints.programs import torchscript
    from vaeprobe.checkpoints.programs.inputs import NoFlatRowsError

    archive = open_archive(source.data)
    try:
        return described.of_program(source, "torchscript", torchscript.read(archive, latent_size=size))
    except NoFlatRowsError as error:
        tensors, notes = torchscript.state_of(archive)
        return described.of_open_program(source, "torchscript", tensors, notes, error)


FORMAT = Format(
    name="torchscript",
    claims=lambda contents: contents.container == "torchscript",
    read=read,
    look=look,
    sized=sized,
    keyed=False,
)
