"""From a checked archive to the decoder that its program is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vaeprobe.checkpoints.blueprint import Blueprint, BlueprintError
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.programs.exported.graph import Graph
from vaeprobe.checkpoints.programs.inputs import latents_of, with_state
from vaeprobe.checkpoints.programs.program import parts_of
from vaeprobe.checkpoints.programs.whole import halves
from vaeprobe.files.harm import bare_parts, refuse_parts
from vaeprobe.files.zips import Archive

__all__ = ["ENTRY", "blueprint_of", "read"]

ENTRY = "data/weights/model_weights_config.json"
BLUEPRINT_ENTRY = "extra/vaeprobe.toml"


def blueprint_of(archive: Archive) -> Blueprint | None:
    """Return the blueprint that `vaeprobe convert` puts into a .pt2 for its latents and likelihood, or None."""
    if BLUEPRINT_ENTRY not in archive:
        return None
    return Blueprint.from_toml(
        archive.read(BLUEPRINT_ENTRY).decode("utf-8", "replace"), "the program's own blueprint"
    )


def read(
    archive: Archive,
    *,
    blueprint: Blueprint | None = None,
    latent_dim: int | None = None,
    conditions: Mapping[str, str | float] | None = None,
    latent_size: tuple[int, ...] | None = None,
) -> Parts:
    """Return the decoder that a .pt2 archive holds; nothing of it is executed before all of it is checked.

    Args:
        archive: a checked zip archive.
        blueprint: latents, likelihood and parameter, without layers; by default the one in the archive.
        latent_dim: number of latents, where the graph leaves it open.
        conditions: values at which inputs besides the latents are held, by name; whole numbers choose a class.
        latent_size: size of the map of latents, where the graph leaves it open.

    Raises:
        UnsafeError: it holds pickles, source code, compiled code, custom operators, or operators that are not known to be harmless.
        InputError: it is damaged, or no map from one tensor to outputs.
        ResourceError: it would make an absurdly large tensor.
        BlueprintError: the blueprint's latents are not those of the program.
    """
    bp = blueprint or blueprint_of(archive) or Blueprint()
    refuse_parts("pt2", bare_parts(archive))
    graph = Graph(archive, latent_dim, latent_size)
    program = graph.program(conditions)
    row: tuple[int, ...] = ()
    whole = halves(program, graph.rows(program.batched))
    if whole is not None and whole.decoder is not None:
        program, row = whole.decoder, whole.row
        d = latents_of(row, latent_dim)
    else:
        with with_state(program.state):
            d = graph.latent_dim(latent_dim)
        row = program.row if -1 not in program.row else ()
    if bp.latent_dim not in (None, d):
        raise BlueprintError(
            f"`{bp.origin}` says {bp.latent_dim} latents, and the program takes {d}",
            hint=f"write latents = {d}",
        )
    graph.rehearse(program, d)
    notes = [*graph.notes, *program.notes(), *(whole.notes if whole else ())]
    parts = parts_of(program, program.natural(bp), bp, d, notes, graph.conditions, row)
    return replace(parts, encoder=whole.encoder) if whole else parts
