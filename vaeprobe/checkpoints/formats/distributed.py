"""Distributed checkpoints of torch (DCP), folders of `.distcp` files: their tensors by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaeprobe.checkpoints import described, folders, selection
from vaeprobe.checkpoints.formats.format import Format
from vaeprobe.files import distributed
from vaeprobe.files.source import Source, quoted
from vaeprobe.files.tensors import TensorSpec
from vaeprobe.findings import CHOSEN_ENTRY
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from vaeprobe.checkpoints.inspection import Inspection
    from vaeprobe.checkpoints.request import Found, Request
    from vaeprobe.checkpoints.weights import Weights

__all__ = ["FORMAT"]


def _specs(source: Source, key: str | None) -> tuple[dict[str, TensorSpec], bool, tuple[Finding, ...]]:
    """Return the tensors of an entry, whether it is a single one, and what else there was to choose.

    Without a key the likeliest entry is taken, optimisers left out.
    """
    index = distributed.read(source.data, source.name)
    files = {shard.path.name: shard.data for shard in folders.shards(source)}
    if key is None:
        kept = {k: t for k, t in index.stored.items() if not t.keys[0].startswith("optim")}
        index = distributed.Distributed(kept or index.stored)
    found = distributed.tensors(index, files, source.name)
    if key is not None:
        return (*selection.under_key(found, source.name, key), ())
    entries = dict.fromkeys(t.keys[0] for t in index.stored.values() if len(t.keys) > 1)
    best = next((k for k in selection.USUAL if k in entries), None)
    if best is None or (len(entries) > 1 and any("ema" in k.lower() for k in entries)):
        return found, False, ()  # several networks, or two sets of weights: their names become prefixes
    below, _ = selection.under_key(found, source.name, best)
    rest = [quoted(k) for k in dict.fromkeys(t.keys[0] for t in index.stored.values()) if k != best]
    message = f"the weights are entry {quoted(best)}; the file also holds {', '.join(rest[:4])}"
    note = Finding(CHOSEN_ENTRY, message, hint="choose another with --key")
    return below, False, (note,) if rest else ()


def read(request: Request) -> Found:
    """Read the network of the tensors, or the matrix that the key names."""
    from dataclasses import replace

    from vaeprobe.checkpoints import bare_weights
    from vaeprobe.checkpoints.weights import realise

    specs, is_matrix, notes = _specs(request.source, request.key)
    found = bare_weights.found(request, realise(specs), "dcp", matrix=is_matrix)
    return replace(found, notes=(*notes, *found.notes))


def weights(request: Request) -> tuple[Weights, str]:
    """Return the tensors by name, for a network of the user's."""
    from dataclasses import replace

    from vaeprobe.checkpoints import bare_weights
    from vaeprobe.checkpoints.weights import realise

    specs, _, notes = _specs(request.source, request.key)
    found = bare_weights.one_set(request, realise(specs), fold=False)
    return replace(found, notes=(*notes, *found.notes)), "dcp"


def look(source: Source, key: str | None) -> Inspection:
    """Say what the tensors are."""
    specs, _, notes = _specs(source, key)
    return described.of_tensors(source, "weights", "A distributed checkpoint", "dcp", specs, notes=notes)


FORMAT = Format(
    name="distributed",
    claims=lambda contents: folders.is_distributed(contents.source),
    read=read,
    look=look,
    weights=weights,
)
