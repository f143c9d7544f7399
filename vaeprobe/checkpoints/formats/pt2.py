"""Programs of torch.export (.pt2): read, checked operator by operator, and run by ours."""

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
    from vaeprobe.checkpoints.programs import exported
    from vaeprobe.checkpoints.request import Found

    archive = open_archive(request.source.data)
    parts = exported.read(
        archive,
        blueprint=bare_weights.blueprint_of(request),
        latent_dim=request.latent_dim,
        conditions=request.condition,
        latent_size=request.latent_size,
    )
    return Found(parts=parts, format="pt2")


def look(source: Source, key: str | None) -> Inspection:
    """Say what the program holds."""
    return described.of_sized_program(source, "pt2", lambda size: _look(source, size))


def sized(source: Source, size: tuple[int, ...]) -> Inspection | None:
    """Say what the program holds, of maps of latents of that size, where it leaves it open."""
    from vaeprobe.checkpoints.programs.inputs import where_open

    return where_open(lambda size: _look(source, size), size)


def _look(source: Source, size: tuple[int, ...] | None) -> Inspection:
    from vaeprobe.checkpoints.programs import exported

    return described.of_program(source, "pt2", exported.read(open_archive(source.data), latent_size=size))


FORMAT = Format(
    name="pt2",
    claims=lambda contents: contents.container == "pt2",
    read=read,
    look=look,
    sized=sized,
    keyed=False,
)
