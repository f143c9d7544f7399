"""Keras models, as `.keras` archives or whole in HDF5."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaeprobe.checkpoints import described
from vaeprobe.checkpoints.formats.format import Format
from vaeprobe.files.source import Source
from vaeprobe.files.zips import Archive, is_zip, open_archive

if TYPE_CHECKING:
    from vaeprobe.checkpoints.inspection import Inspection
    from vaeprobe.checkpoints.request import Found, Request

__all__ = ["FORMAT"]


def read(request: Request) -> Found:
    """Read the program's decoder."""
    from vaeprobe.checkpoints import bare_weights
    from vaeprobe.checkpoints.programs.keras import graph
    from vaeprobe.checkpoints.request import Found

    parts = graph.read(
        _contents(request.source),
        blueprint=bare_weights.blueprint_of(request),
        latent_dim=request.latent_dim,
        part=request.submodule or request.key,
        conditions=request.condition,
        latent_size=request.latent_size,
    )
    return Found(parts=parts, format="keras", size_taken=request.latent_size is not None)


def _contents(source: Source) -> Archive | bytes:
    return open_archive(source.data) if is_zip(source.data) else source.data


def look(source: Source, key: str | None) -> Inspection:
    """Say what the program holds."""
    return described.of_sized_program(source, _kind(source), lambda size: _look(source, key, size))


def sized(source: Source, size: tuple[int, ...]) -> Inspection | None:
    """Say what the program holds, of maps of latents of that size, where it leaves it open."""
    from vaeprobe.checkpoints.programs.inputs import where_open

    return where_open(lambda size: _look(source, None, size), size)


def _look(source: Source, key: str | None, size: tuple[int, ...] | None) -> Inspection:
    from vaeprobe.checkpoints.programs.keras import graph

    parts = graph.read(_contents(source), part=key, latent_size=size)
    return described.of_program(source, _kind(source), parts)


def _kind(source: Source) -> str:
    return "keras" if is_zip(source.data) else "hdf5"


FORMAT = Format(
    name="keras",
    claims=lambda contents: contents.container in ("keras", "hdf5"),
    read=read,
    look=look,
    sized=sized,
)
