"""From a blueprint to modules, layer by layer, each given a batch of no rows: that checks every shape and computes nothing."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vaeprobe import cpu
from vaeprobe.checkpoints.blueprint import KINDS, Blueprint, EncoderPlan, LatentGroups, Layer
from vaeprobe.checkpoints.network.modules import GaussianEncoder, Held, Parallel, Residual
from vaeprobe.checkpoints.network.tensors import Misfit, Tensors, shown
from vaeprobe.errors import BlueprintError, ResourceError

__all__ = ["Network", "chain", "first_latents", "stem", "walk"]

Shape = tuple[int, ...]
LARGEST_ROW = 1 << 28  # numbers in one row of an activation: 1 GB in float32


def chain(
    layers: Sequence[Layer], prefix: str, tensors: Tensors, shape: Shape, part: str
) -> tuple[nn.Sequential, Shape]:
    """Return the layers as modules without memory, and the shape that comes out."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for index, layer in enumerate(layers):
        try:
            if layer.kind == "residual":
                module, after = _residual(layer, prefix, tensors, shape, part)
            elif layer.branches:
                last = part == "decoder" and index == len(layers) - 1
                module, after = _parallel(layer, prefix, tensors, shape, part, last=last)
            elif KINDS[layer.kind].main == "condition":
                module = _held(layer, tensors)
                after = _after(module, shape, tensors)
            else:
                module = _module(layer, prefix, tensors, shape)
                after = _after(module, shape, tensors)
        except Misfit as error:
            if not error.part:
                error.part, error.index = part, index
                place = f"layer {index + 1} of the {part}, `{layer}`"
                error = _renamed(error, f"`{tensors.origin}`: {place}: {error.message}")
            elif layer.inner:
                error.index = index
            raise error from None
        name = (layer.key or layer.kind).replace(".", "_")
        modules[name if name not in modules else f"{name}_{index}"] = module
        shape = after
    return nn.Sequential(modules), shape


def _renamed(error: Misfit, message: str) -> Misfit:
    new = Misfit(message, hint=error.hint)
    new.part, new.index = error.part, error.index
    return new


def _module(layer: Layer, prefix: str, tensors: Tensors, shape: Shape) -> nn.Module:
    key = "" if layer.key is None else stem(prefix + layer.key)
    return KINDS[layer.kind].make(layer.settings, key, tensors, shape)


def _held(layer: Layer, tensors: Tensors) -> nn.Module:
    """Return what brings a condition in, at the value that it is held at."""
    c = next(c for c in tensors.conditions if c.name == layer.key)
    if c.kind == "number":
        return Held(layer.kind, c.name, cpu.full((1, 1), c.value, dtype=tensors.dtype), 0)
    if c.kind == "onehot":
        return Held(layer.kind, c.name, cpu.eye(c.size, dtype=tensors.dtype), int(c.value))
    table = tensors.need(f"{c.key}.weight" if f"{c.key}.weight" in tensors.tensors else c.key)
    if table.ndim != 2 or c.value >= len(table):
        raise Misfit(f"condition `{c.name}` has {len(table)} classes, and class {int(c.value)} was asked for")
    return Held(layer.kind, c.name, table.to(tensors.dtype), int(c.value))


def stem(key: str) -> str:
    """Return what comes before `weight` and `bias`."""
    return key if not key or key.endswith(".") else f"{key}."


def _residual(
    layer: Layer, prefix: str, tensors: Tensors, shape: Shape, part: str
) -> tuple[nn.Module, Shape]:
    inner = prefix + layer.prefix
    body, after = chain(layer.body, inner, tensors, shape, f"{part}'s residual block")
    skip, beside = chain(layer.skip, inner, tensors, shape, f"{part}'s skip")
    if after != beside:
        raise Misfit(
            f"its layers return shape {shown(after)}, and {'its skip' if layer.skip else 'its input has'} {shown(beside)}",
            hint="a stride or padding inside it, or a missing `skip = [{ conv = ... }]`",
        )
    return Residual(body, skip if len(skip) else nn.Identity()), after


def _parallel(
    layer: Layer, prefix: str, tensors: Tensors, shape: Shape, part: str, *, last: bool
) -> tuple[nn.Module, Shape]:
    if layer.named and not last:
        raise Misfit("branches with names are outputs, and stand at the end of the decoder alone")
    inner = prefix + layer.prefix
    found = [chain(own, inner, tensors, shape, f"{part}'s branch") for _, own in layer.branches]
    names = [name or str(i) for i, (name, _) in enumerate(layer.branches)]
    branches = {name: made for name, (made, _) in zip(names, found, strict=True)}
    if layer.named:
        return Parallel(branches, ""), found[0][1]
    module = Parallel(branches, layer["join"])
    shapes = [after for _, after in found]
    if layer["join"] != "concat" and len(set(shapes)) > 1:
        raise Misfit(f"its branches return shapes {', '.join(map(shown, shapes))}, and must agree")
    if layer["join"] == "concat":
        if len({after[1:] for after in shapes}) > 1:
            raise Misfit(
                f"its branches return shapes {', '.join(map(shown, shapes))}, which do not join along channels"
            )
        return module, (sum(after[0] for after in shapes), *shapes[0][1:])
    return module, (len(shapes), *shapes[0]) if layer["join"] == "stack" else shapes[0]


def _after(module: nn.Module, shape: Shape, tensors: Tensors) -> Shape:
    """Return the shape that comes out of a module: it is given no rows, so that nothing is computed."""
    if isinstance(module, (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)):
        return shape  # refuses a batch of no rows
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    try:
        with torch.no_grad():
            after = tuple(module.eval()(cpu.empty(0, *shape, dtype=dtype)).shape[1:])
    except (RuntimeError, ValueError, NotImplementedError, IndexError) as error:
        reason = (str(error).strip().splitlines() or ["does not fit"])[0]
        raise Misfit(f"cannot take an input of shape {shown(shape)}: {reason[:160]}") from None
    if math.prod(after) > LARGEST_ROW:
        raise ResourceError(
            f"`{tensors.origin}` asks for an activation of shape {shown(after)}",
            hint="is a factor or a stride of the blueprint too large?",
        )
    return after


# -- the whole blueprint ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """What a blueprint and tensors make; `output` is the shape of one row."""

    decoder: nn.Sequential
    output: Shape
    latents: LatentGroups
    encoder: GaussianEncoder | None


def walk(bp: Blueprint, tensors: Tensors) -> Network:
    """Return the network; nothing is computed but shapes.

    Raises:
        Misfit: a layer does not fit.
    """
    latents = bp.latents or first_latents(bp, tensors)
    d = sum(size for _, size in latents)
    decoder, output = chain(bp.layers, bp.prefix, tensors, (d,), "decoder")
    encoder = None
    if bp.encoder is not None:
        free = sum(size for kind, size in latents if kind == "normal")
        encoder = _encoder(bp.encoder, tensors, free, bp.origin)
        if math.prod(bp.encoder.input) != math.prod(output):
            error = Misfit(
                f"`{bp.origin}`: the decoder returns shape {shown(output)}, and the encoder takes {shown(bp.encoder.input)}"
            )
            error.part, error.index = "decoder", len(bp.layers)
            raise error
    return Network(decoder, output, latents, encoder)


def _encoder(plan: EncoderPlan, tensors: Tensors, free: int, origin: str) -> GaussianEncoder:
    trunk, h = chain(plan.layers, plan.prefix, tensors, plan.input, "encoder")
    mean, first = chain(plan.mean, plan.prefix, tensors, h, "encoder's mean")
    spread, second = chain(plan.spread, plan.prefix, tensors, h, f"encoder's {plan.second}")
    sizes = (math.prod(first), math.prod(second)) if plan.output == "heads" else (math.prod(h) / 2,) * 2
    if sizes != (free, free):
        got = (
            f"{sizes[0]} means and {sizes[1]} variances"
            if plan.output == "heads"
            else f"{math.prod(h)} numbers"
        )
        error = Misfit(
            f"`{origin}`: the encoder returns {got}, and {free} normal latents need "
            + (f"{free} of each" if plan.output == "heads" else f"{2 * free}")
        )
        error.part, error.index = "encoder", len(plan.layers)
        raise error
    return GaussianEncoder(trunk, plan.output, plan.second, mean, spread, plan.limits)


def first_latents(bp: Blueprint, tensors: Tensors) -> LatentGroups:
    """Return the latents that the first layer takes."""
    for layer in bp.layers:
        if layer.kind == "linear":
            W = tensors.weight(stem(f"{bp.prefix}{layer.key}"))
            if W.ndim == 2:
                return (("normal", W.shape[1]),)
        if layer.kind == "reshape":
            return (("normal", math.prod(layer["shape"])),)
        if KINDS[layer.kind].main in ("key", "layers", "condition", "branches") or layer.kind in (
            "flatten",
            "slice",
        ):
            break
    raise BlueprintError(
        f"`{bp.origin}` does not say how many latents there are", hint="write latents = 10 at its top"
    )
