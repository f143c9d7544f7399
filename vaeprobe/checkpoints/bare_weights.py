"""The network that bare weights belong to: by a blueprint, or the family that recognises them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from vaeprobe.checkpoints import architecture, diffusers_library, families, folders, naming, recognised, scale
from vaeprobe.checkpoints.blueprint import METADATA_KEY, Blueprint
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.request import Found, Request
from vaeprobe.checkpoints.weights import Weights, realise
from vaeprobe.files.tensors import TensorSpec

__all__ = ["blueprint_of", "found", "network", "one_set", "read"]


def read(
    request: Request,
    specs: Mapping[str, TensorSpec],
    told: Mapping[str, object] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Weights:
    """Make the tensors of a file that its network takes; `told` is what the file says beside them.

    Where a family recognises them by names and shapes, the others are left in the file: the autoencoder of a whole
    Stable Diffusion checkpoint is a twentieth of it.
    """
    told = {**(told or {}), **folders.said_beside(request.source)}
    return realise(specs, metadata, _taken(request, specs, told, metadata or {}))


def found(
    request: Request,
    weights: Weights,
    format: str,
    *,
    matrix: bool = False,
    told: Mapping[str, object] | None = None,
) -> Found:
    """Find the network that weights belong to; `told` is what the file says beside them."""
    if matrix:
        from vaeprobe.checkpoints import matrix as linear

        return Found(parts=linear.parts_of(weights.tensors, request.name), format=format, notes=weights.notes)
    bp = blueprint_of(request, weights)
    if bp is None or not architecture.names_all(bp, weights.tensors):
        weights = one_set(request, weights)
    parts = network(request, weights, {**(told or {}), **folders.said_beside(request.source)})
    if parts is None:
        raise architecture.unknown(request.name, weights.tensors, weights.notes)
    return Found(parts=parts, format=format, notes=weights.notes)


def _taken(
    request: Request, specs: Mapping[str, TensorSpec], told: Mapping[str, object], metadata: Mapping[str, str]
) -> frozenset[str] | None:
    """Return the names in the file of the tensors that a family takes, None where all may be needed."""
    if METADATA_KEY in metadata or str(request.blueprint) == "draft" or blueprint_of(request) is not None:
        return None
    names = naming.chosen_set(specs, request.weights).names
    clues = families.Clues.of(naming.for_matching(specs, request.weights), told, request.latent_size)
    hit = architecture.found(request.blueprint, clues)
    if hit is None:
        return None
    of_likelihood = scale.name_of({name: math.prod(specs[own].shape) for name, own in names.items()})
    return frozenset(own for name, own in names.items() if hit.takes(name) or name == of_likelihood)


def network(request: Request, weights: Weights, told: Mapping[str, object]) -> Parts | None:
    """Return the network of a blueprint or a family, held at its conditions; None where neither is known."""
    bp = blueprint_of(request, weights)
    if bp is not None:
        hit: families.Recognised | None = families.Recognised(bp)
    else:
        clues = families.Clues.of(weights.tensors, told, request.latent_size)
        hit = architecture.found(request.blueprint, clues, weights.metadata)
    variance = scale.learned(weights.tensors)
    tensors = {k: t for k, t in weights.tensors.items() if variance is None or k != variance.name}
    config = told.get("config.json")
    free = hit is None and request.blueprint is None
    if free and isinstance(config, Mapping) and diffusers_library.said_class(told) is not None:
        parts = diffusers_library.parts_of(config, tensors, request.latent_size)
        return scale.with_variance(parts, variance)
    if hit is None:
        return None
    parts = recognised.parts_of(hit, tensors, size=request.latent_size, condition=request.condition)
    return scale.with_variance(parts, variance or scale.recorded(weights.metadata))


def blueprint_of(request: Request, weights: Weights | None = None) -> Blueprint | None:
    """Return the blueprint that the user gave, or that stands beside the file where it carries none itself."""
    own = Blueprint.from_metadata(weights.metadata) if weights is not None else None
    return architecture.given(request.blueprint, request.source.path, own)


def one_set(request: Request, weights: Weights, *, fold: bool = True) -> Weights:
    """Return one set of weights by their plain names; `fold` joins what weight normalisation split."""
    chosen = naming.chosen_set(weights.tensors, request.weights)
    tensors = {name: weights.tensors[own] for name, own in chosen.names.items()}
    if fold:
        tensors = naming.folded(tensors, naming.joined)
    return replace(weights, tensors=tensors, notes=(*chosen.notes, *weights.notes))
