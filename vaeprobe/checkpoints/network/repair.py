"""The smallest change of a blueprint that makes it fit its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from vaeprobe.checkpoints.blueprint import Blueprint, Layer
from vaeprobe.checkpoints.network.tensors import Misfit, Tensors, Uninitialised
from vaeprobe.checkpoints.network.walk import chain, first_latents, stem, walk
from vaeprobe.errors import ArchitectureError, BlueprintError, ResourceError

__all__ = ["repair"]


def repair(bp: Blueprint, tensors: Mapping[str, Tensor], misfit: Misfit) -> str | None:
    """Return the smallest change of a blueprint that makes all its layers fit, in words.

    Where no single change does, the first that gets past the layer that does not fit.
    """
    past = None
    for words, changed in _changes(bp, tensors, misfit):
        try:
            with Uninitialised():
                walk(changed, Tensors(tensors, bp.origin, bp.conditions))
        except Misfit as other:
            if past is None and other.part == misfit.part and other.index > misfit.index + ("put" in words):
                past = words
        except (BlueprintError, ArchitectureError, ResourceError):
            continue
        else:
            return words
    return past


def _changes(bp: Blueprint, tensors: Mapping[str, Tensor], misfit: Misfit) -> Iterator[tuple[str, Blueprint]]:
    """Yield changed blueprints, the likeliest first."""
    in_encoder = misfit.part.startswith("encoder")
    plan = bp.encoder
    layers = plan.layers if in_encoder and plan else bp.layers
    prefix = plan.prefix if in_encoder and plan else bp.prefix
    at = misfit.index if misfit.part in ("decoder", "encoder") else len(layers)

    def rebuilt(new: Sequence[Layer]) -> Blueprint:
        if in_encoder and plan:
            return replace(bp, encoder=replace(plan, layers=tuple(new)))
        return replace(bp, layers=tuple(new))

    def weight(layer: Layer) -> Tensor | None:
        return tensors.get(f"{stem(prefix + layer.key)}weight") if layer.key is not None else None

    if at < len(layers):
        layer, W = layers[at], weight(layers[at])
        known = W is not None and W.ndim > (layer.kind == "linear")
        if not in_encoder and W is not None and known and not any(earlier.key for earlier in layers[:at]):
            n = W.shape[1] if layer.kind == "linear" else W.shape[0]
            yield f"write latents = {n}, not {bp.latent_dim}", replace(bp, latents=(("normal", int(n)),))
        yield 'put "flatten" before it', rebuilt([*layers[:at], Layer("flatten"), *layers[at:]])
        if W is not None and W.ndim > 2:
            channels = int(W.shape[0] if layer.kind == "conv_transpose" else W.shape[1])
            for side in (4, 1, 2, 3, 5, 6, 7, 8, 12, 14, 16, 28, 32):
                shape = [channels, *([side] * (W.ndim - 2))]
                new = Layer("reshape", options={"shape": shape})
                yield f"put {new} before it", rebuilt([*layers[:at], new, *layers[at:]])
        if layer.kind in ("reshape", "flatten"):
            yield f"take layer {at + 1}, `{layer}`, out", rebuilt([*layers[:at], *layers[at + 1 :]])
    else:
        yield 'put "flatten" at its end', rebuilt([*layers, Layer("flatten")])
    if in_encoder and plan:
        own = Tensors(tensors, bp.origin, bp.conditions)
        d = sum(size for _, size in bp.latents or first_latents(bp, own))
        _, returned = chain(bp.layers, bp.prefix, own, (d,), "decoder")
        words = f"write input = {list(returned)}, as the decoder returns"
        yield words, replace(bp, encoder=replace(plan, input=returned))
    for i in reversed(range(min(at + 1, len(layers)))):
        for changed in _otherwise(layers[i]):
            yield (
                f"write {changed} for layer {i + 1}, `{layers[i]}`",
                rebuilt([*layers[:i], changed, *layers[i + 1 :]]),
            )


def _otherwise(layer: Layer) -> Iterator[Layer]:
    """Yield a layer with other settings that change the size of what it returns."""
    if layer.kind in ("conv", "conv_transpose"):
        for stride, padding in (
            (2, 1),
            (1, 0),
            (1, 1),
            (2, 0),
            (2, 2),
            (2, layer["padding"]),
            (1, layer["padding"]),
        ):
            if (stride, padding) != (layer["stride"], layer["padding"]):
                yield layer.with_options(stride=stride, padding=padding)
        if layer.kind == "conv_transpose" and not layer["output_padding"]:
            yield layer.with_options(output_padding=1)
        common = {k: v for k, v in layer.options.items() if k not in ("padding_mode", "output_padding")}
        yield replace(layer, kind={"conv": "conv_transpose"}.get(layer.kind, "conv"), options=common)
    elif layer.kind == "reshape" and len(layer["shape"]) == 3:
        numbers = math.prod(layer["shape"])
        for side in (4, 7, 8, 1, 2, 3, 5, 6, 16, 14):
            if numbers % side**2 == 0 and side != layer["shape"][-1]:
                yield layer.with_options(shape=[numbers // side**2, side, side])
    elif layer.kind == "upsample" and isinstance(layer["factor"], int):
        yield from (layer.with_options(factor=n) for n in (2, 4, 3) if n != layer["factor"])
