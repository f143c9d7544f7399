"""From a blueprint and tensors to the parts of a decoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.network.modules import Exp
from vaeprobe.checkpoints.network.parts import Parts, assumptions_of
from vaeprobe.checkpoints.network.repair import repair
from vaeprobe.checkpoints.network.tensors import Misfit, Tensors, Uninitialised
from vaeprobe.checkpoints.network.walk import walk
from vaeprobe.decoder import Group
from vaeprobe.encoder import Encoder
from vaeprobe.errors import BlueprintError
from vaeprobe.findings import CAST_UP, UNUSED_TENSORS
from vaeprobe.likelihoods import activations
from vaeprobe.report import Finding

__all__ = ["assemble", "natural_of"]


def assemble(bp: Blueprint, tensors: Mapping[str, Tensor]) -> Parts:
    """Return the network that a blueprint and tensors make.

    The tensors are not copied, except that half precision is cast up to float32.

    Args:
        bp: the architecture.
        tensors: by name.

    Raises:
        BlueprintError: a tensor is missing, or a layer does not fit; the hint is the nearest repair found.
        ArchitectureError: a tensor is no weight (quantised, complex).
        ResourceError: an activation would be absurdly large.
    """
    if not bp.layers:
        raise BlueprintError(
            f"`{bp.origin}` has no decoder layers, and this file holds bare weights",
            hint="add [decoder] and its layers",
        )
    own = Tensors(tensors, bp.origin, bp.conditions)
    try:
        with Uninitialised():
            network = walk(bp, own)
        learned = bp.prior.made({name: own.need(name) for name in bp.prior.names}) if bp.prior else None
    except Misfit as error:
        if error.hint is None:
            error.hint = repair(bp, tensors, error)
        raise BlueprintError(error.message, hint=error.hint) from None
    for module in filter(None, (network.decoder, network.encoder)):
        module.eval().requires_grad_(False)
    free = sum(size for kind, size in network.latents if kind == "normal")
    return Parts(
        decoder=network.decoder,
        natural=natural_of(network.decoder, bp),
        latent_dim=sum(size for _, size in network.latents),
        prior=tuple(Group(kind, size) for kind, size in network.latents),
        learned=learned,
        parameter=bp.parameter,
        dispersion=own.need(bp.dispersion).detach().to(torch.float64) if bp.dispersion else None,
        output=bp.layers[-1].branches[0][0] or None if bp.layers[-1].branches else None,
        likelihood=bp.likelihood,
        encoder=Encoder(
            network.encoder, free, input_shape=bp.encoder.input, dtype=own.dtype, second=bp.encoder.second
        )
        if network.encoder is not None and bp.encoder is not None
        else None,
        architecture=bp.origin,
        notes=tuple(_notes(bp, own)),
        blueprint=replace(bp, latents=network.latents),
    )


def natural_of(decoder: nn.Sequential, bp: Blueprint) -> nn.Module | None:
    """Return the decoder without its last activation, where that makes its output the natural parameter.

    A sigmoid belongs to a Bernoulli mean, an exponential to a Poisson rate and a softmax to class
    probabilities; a Gaussian's natural parameter is its mean.
    """
    modules = list(decoder)
    shaping = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout)
    last = next((i for i in reversed(range(len(modules))) if not isinstance(modules[i], shaping)), None)
    if bp.parameter != "mean" or last is None:
        return None
    called = {nn.Sigmoid: "sigmoid", Exp: "exp", nn.Softmax: "softmax"}.get(type(modules[last]))
    if called not in activations(bp.likelihood):
        return None
    return nn.Sequential(*modules[:last], *modules[last + 1 :])


def _notes(bp: Blueprint, tensors: Tensors) -> Iterator[Finding]:
    unused = [k for k in tensors.tensors if k not in tensors.used and not k.endswith("num_batches_tracked")]
    if unused:
        families = OrderedDict((k.partition(".")[0] if "." in k else k, None) for k in unused)
        shown = ", ".join(f"`{name}`" for name in list(families)[:5])
        yield Finding(
            UNUSED_TENSORS,
            f"{len(unused)} of {len(tensors.tensors)} tensors have no place in {bp.origin}: "
            f"{shown}{', ...' if len(families) > 5 else ''}",
        )
    half = {
        str(tensors.tensors[k].dtype).removeprefix("torch.")
        for k in tensors.used
        if tensors.tensors[k].itemsize < 4
    }
    if half:
        yield Finding(CAST_UP, f"{' and '.join(sorted(half))} weights were cast up to float32")
    yield from assumptions_of(bp)
