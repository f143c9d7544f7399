"""Files of torch.save, old and new, and plain pickles: weights, a whole module, or a matrix; nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from vaeprobe.checkpoints import described, folders, naming, said, selection
from vaeprobe.checkpoints.draft.drafting import draft
from vaeprobe.checkpoints.formats.format import Format
from vaeprobe.checkpoints.inspection import FileKind, Inspection
from vaeprobe.checkpoints.recorded import recorded
from vaeprobe.errors import UnsafeError, UsageError
from vaeprobe.files import torch_pickles
from vaeprobe.files.sniff import sniff
from vaeprobe.files.source import Source, quoted
from vaeprobe.files.tensors import TensorSpec
from vaeprobe.files.torch_pickles import TorchFile
from vaeprobe.files.trust import named, trust
from vaeprobe.findings import FOREIGN_CLASSES
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from vaeprobe.checkpoints.blueprint import Blueprint
    from vaeprobe.checkpoints.request import Found, Request
    from vaeprobe.checkpoints.weights import Weights

__all__ = ["FORMAT"]


def read(request: Request) -> Found:
    """Read a file of torch.save or a plain pickle."""
    if request.allow_code:
        from vaeprobe.checkpoints import users_code

        found, notes = users_code.unpickled(request)
        return found or replace(_checked(request), notes=notes)
    return _checked(request)


def _checked(request: Request) -> Found:
    """Read a file without running anything."""
    from vaeprobe.checkpoints import bare_weights

    file = _file(request.source)
    chosen = selection.select(file, request.name, request.key, request.weights)
    if selection.is_module(chosen.node):
        found = _module(request, file, chosen.node)
        found = replace(found, notes=(*chosen.notes, *found.notes))
    elif request.submodule is not None:
        raise UsageError(
            f"{request.name} holds bare weights, which have no submodules",
            hint="the `prefix` of a blueprint, or --key, takes the weights of a part",
            about=request.name,
        )
    else:
        specs = _specs(request.source, file, chosen)
        told = said.in_file(file)
        matrix = file.is_tensor(chosen.node)
        weights = bare_weights.read(request, specs, told)
        weights = replace(weights, notes=(*chosen.notes, *weights.notes))
        found = bare_weights.found(request, weights, "state_dict", matrix=matrix, told=told)
    details = {"container": file.container, **({"key": chosen.key} if chosen.key else {})}
    return replace(found, details={**found.details, **details})


def _specs(source: Source, file: TorchFile, chosen: selection.Selection) -> dict[str, TensorSpec]:
    """Return the tensors of what was chosen of a file, and of its shards."""

    def of(part: Source) -> dict[str, TensorSpec]:
        if part is source:
            return selection.tensors_of(file, chosen.node)
        shard = _file(part)
        return selection.tensors_of(shard, selection.select(shard, part.name).node)

    return folders.joined(source, of)


def _module(request: Request, file: TorchFile, node: selection.PickledModule) -> Found:
    """Read a whole pickled module: rebuilt if it is made of torch's layers, else its weights by a blueprint."""
    from torch import nn

    from vaeprobe.checkpoints import bare_weights, modules, plain
    from vaeprobe.checkpoints.request import Found

    if request.submodule is None:
        if str(request.blueprint) == "draft":
            request = replace(request, blueprint=_draft(file, node, request.latent_size))
        bp = bare_weights.blueprint_of(request)
        if bp is not None or request.blueprint is not None:
            weights = bare_weights.read(request, selection.tensors_of(file, node))
            return bare_weights.found(request, weights, "module")
        if modules.foreign_parts(node):
            weights = bare_weights.read(request, selection.tensors_of(file, node), said.in_file(file))
            network = bare_weights.network(request, weights, said.in_file(file))
            if network is not None:
                return Found(parts=network, format="module", notes=weights.notes)
    where = node if request.submodule is None else selection.module_at(node, request.submodule)
    name = (
        request.name if request.submodule is None else f"part {quoted(request.submodule)} of {request.name}"
    )
    module, notes = modules.rebuild(file, where, name)
    layers = f"pickled {where.maker.name}" + (
        f", part {quoted(request.submodule)}" if request.submodule else ""
    )
    parts = plain.parts_of(
        module, latent_dim=request.latent_dim, architecture=layers, latent_size=request.latent_size
    )
    if isinstance(parts.decoder, nn.Module):
        modules.rehearse(parts.decoder, parts.latent_dim)
    return Found(parts=parts, format="module", notes=notes)


def _draft(file: TorchFile, node: selection.PickledModule, size: tuple[int, ...] | None) -> Blueprint:
    """Return a draft of a pickled module, with what the module records of its layers."""
    return draft(naming.for_matching(selection.tensors_of(file, node)), recorded(node), size)


def weights(request: Request) -> tuple[Weights, str]:
    """Return the weights of a file by name, whatever holds them, for a network of the user's."""
    from vaeprobe.checkpoints import bare_weights
    from vaeprobe.checkpoints.weights import realise

    file = _file(request.source)
    chosen = selection.select(file, request.name, request.key, request.weights)
    found = bare_weights.one_set(request, realise(_specs(request.source, file, chosen)), fold=False)
    return replace(found, notes=(*chosen.notes, *found.notes)), "state_dict"


def settings(source: Source) -> dict[str, object]:
    """Return the hyper-parameters that a file says beside its weights."""
    file = _file(source)
    told = said.in_file(file)
    root = file.root if isinstance(file.root, dict) else {}
    plain = {str(k): v for k, v in root.items() if isinstance(v, (bool, int, float, str))}
    return plain | {str(k): v for entry in told.values() if isinstance(entry, dict) for k, v in entry.items()}


def _file(source: Source) -> TorchFile:
    return torch_pickles.read(source.data, source.name, sniff(source))  # type: ignore[arg-type]


# -- for inspect -------------------------------------------------------------------------------------


def look(source: Source, key: str | None) -> Inspection:
    """Say what is in a file of torch.save or a plain pickle."""
    file = _file(source)
    try:
        chosen = selection.select(file, source.name, key)
    except UnsafeError as error:
        return described.unsafe(source, error, file)
    specs = _specs(source, file, chosen)
    if selection.is_module(chosen.node):
        return _look_at_module(source, file, chosen.node, chosen.notes, specs)
    kind: FileKind = "matrix" if file.is_tensor(chosen.node) else "weights"
    where = f", entry {quoted(chosen.key)}" if chosen.key else ""
    what = f"A state dict ({file.container}{where})"
    return described.of_tensors(source, kind, what, "state_dict", specs, file=file, notes=chosen.notes)


def _look_at_module(
    source: Source,
    file: TorchFile,
    module: selection.PickledModule,
    notes: tuple[Finding, ...],
    specs: Mapping[str, TensorSpec],
) -> Inspection:
    parts = [("(itself)", module), *selection.submodules(module)]
    strangers = list(dict.fromkeys(part.maker for _, part in parts if trust(part.maker) != "layer"))
    listed = tuple((name, str(part.maker)) for name, part in parts)
    what = f"A pickled module, {quoted(str(module.maker))}"
    out = described.of_tensors(source, "module", what, "module", specs, file=file, notes=notes, parts=listed)
    out = replace(out, recorded=recorded(module))
    if not strangers:
        return out
    finding = Finding(
        FOREIGN_CLASSES,
        f"running it as it is needs the code of {named(strangers)}, which vaeprobe takes from no file",
        hint="--submodule takes a part made of torch's layers; --blueprint or --arch say what the whole is (in Python,"
        " submodule=, blueprint=, arch=)",
    )
    return Inspection(
        **{**vars(out), "findings": (*out.findings, finding), "verdict": "module of foreign classes"}
    )


FORMAT = Format(
    name="torch",
    claims=lambda contents: (
        contents.container in ("torch zip", "torch legacy", "pickle")
        and not folders.is_distributed(contents.source)
    ),
    read=read,
    look=look,
    weights=weights,
    settings=settings,
)
