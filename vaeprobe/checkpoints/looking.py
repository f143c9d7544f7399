"""What is in a checkpoint file: formats, tensors, what it would import; torch is not needed but for programs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vaeprobe.checkpoints import described, folders, formats, naming
from vaeprobe.checkpoints.blueprint.plan import size_of
from vaeprobe.checkpoints.inspection import Inspection
from vaeprobe.errors import UnsafeError, UsageError, VaeprobeError
from vaeprobe.files import limits
from vaeprobe.files.source import Source
from vaeprobe.findings import DRAFT_BLUEPRINT
from vaeprobe.given import check_given
from vaeprobe.report import Finding

__all__ = ["inspect"]


def inspect(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    draft_blueprint: bool = False,
    latent_size: str | Sequence[int] | None = None,
) -> Inspection:
    """Say what is in a checkpoint file; nothing of it is executed.

    Args:
        path: the file.
        key: the entry to look at, as in `load`.
        draft_blueprint: also draft a blueprint from the names and shapes of the tensors.
        latent_size: size of the map of latents in the draft, or of a program that does not record it, as in `load`.

    Raises:
        InputError: the file is damaged or in no known format.
        UsageError: there is no entry `key`, nothing to draft a blueprint from, or nothing that depends on `latent_size`.
        ResourceError: it claims more memory than makes sense.
    """
    check_given(inspect, locals())
    size = size_of(latent_size)
    source = folders.read(path)
    limits.note_reading(source.name)
    try:
        with limits.loading(source.size):
            found = _look(source, key, None if draft_blueprint else size)
        return _with_draft(found, source, size) if draft_blueprint else found
    except UnsafeError as error:
        return described.unsafe(source, error)
    except VaeprobeError as error:
        error.within(source.name)
        raise


def _look(source: Source, key: str | None, size: tuple[int, ...] | None) -> Inspection:
    """Look at a file, with the size of the maps of latents where one is said."""
    format = formats.of(source)
    format.refuse_key(key, source.name)
    if size is None:
        return format.look(source, key)
    found = None if format.sized is None else format.sized(source, size)
    if found is None:
        draft = (
            ", or ask for a draft that uses it: --draft-blueprint OUT" if format.weights is not None else ""
        )
        raise UsageError(
            f"nothing that is told of {source.name} depends on the size of its latents",
            hint=f"leave out --latent-size{draft}",
            about=source.name,
        )
    return found


def _with_draft(found: Inspection, source: Source, size: tuple[int, ...] | None) -> Inspection:
    """Add a draft of the blueprint."""
    from vaeprobe.checkpoints.draft.drafting import draft

    if found.kind not in ("weights", "module") or not found.tensors:
        raise UsageError(
            f"{source.name} holds no bare weights to draft a blueprint from",
            hint="leave out --draft-blueprint",
            about=source.name,
        )
    bp = found.blueprint or draft(
        naming.for_matching({t.name: t for t in found.tensors}), found.recorded, size
    )
    noted = tuple(Finding(DRAFT_BLUEPRINT, f"in the draft, {said}", level="note") for said in bp.assumptions)
    return Inspection(**{**vars(found), "draft": bp, "findings": (*found.findings, *noted)})
