"""Whole VAEs: which part of a network decodes, and which gives the posterior.

A class that somebody wrote for training takes images and returns a loss or a reconstruction; what is probed are its
halves.  They are looked for under the names that people give them, and tried out: nothing is decided by a name alone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from vaeprobe.checkpoints.beside import conditioned, others, zeros
from vaeprobe.checkpoints.blueprint.condition import held
from vaeprobe.checkpoints.blueprint.plan import size_of
from vaeprobe.checkpoints.network.parts import Parts, at_conditions, unchosen
from vaeprobe.checkpoints.part_names import DECODES, ENCODES, LATENTS, MEANS, named, word_of
from vaeprobe.checkpoints.plain import (
    as_it_is,
    channels_of,
    convolution_of,
    latents_of,
    no_size,
    parts_of,
    row_of,
    widths,
)
from vaeprobe.checkpoints.posterior import encoder_of
from vaeprobe.checkpoints.scale import learned, with_variance
from vaeprobe.decoder import Decoder
from vaeprobe.errors import ContractError, UsageError, did_you_mean
from vaeprobe.findings import WHOLE_VAE
from vaeprobe.frozen import MethodModule, frozen, unwrapped
from vaeprobe.given import check_given, check_keywords
from vaeprobe.outputs import picked
from vaeprobe.report import Finding

__all__ = ["from_module", "halves", "is_whole", "latents_named", "parts", "with_encoder"]


def is_whole(module: object) -> bool:
    """Return whether a network has a part that decodes, and one that encodes or else nothing that it does as a whole."""
    if not isinstance(module, nn.Module) or next(named(module, DECODES), None) is None:
        return False
    return next(named(module, ENCODES), None) is not None or type(module).forward is nn.Module.forward


def latents_named(owner: object, settings: Mapping[str, object] | None = None) -> int | None:
    """Return the number of latents that an attribute of a network, or a setting of its making, says."""
    for name in LATENTS:
        value = (settings or {}).get(name, getattr(owner, name, None))
        if type(value) is int and value > 0:
            return value
    return None


def parts(
    module: nn.Module,
    *,
    latent_dim: int | None = None,
    settings: Mapping[str, object] | None = None,
    input_shape: Sequence[int] | None = None,
    architecture: str = "",
    part: str | None = None,
    condition: Mapping[str, str | float] | None = None,
    latent_size: tuple[int, ...] | None = None,
) -> Parts:
    """Return the halves of a whole VAE, a decoder whose other arguments are held, or the decoder that a network is.

    Args and errors are those of `halves` and `plain.parts_of`; `settings` of its making may name the number of latents.
    """
    # beside a size, what is named so may count channels
    named = latent_dim or (latents_named(module, settings) if latent_size is None else None)
    if part is not None or is_whole(module):
        return halves(
            module,
            latent_dim=named,
            input_shape=input_shape,
            architecture=architecture,
            part=part,
            condition=condition,
            latent_size=latent_size,
        )
    if others(module, condition):
        network = frozen(unwrapped(module))
        assert isinstance(network, nn.Module)
        return _conditional(network, None, named, condition or {}, architecture, input_shape)
    if latent_dim is not None and latent_size is None and latents_of(module)[0] != latent_dim:
        return as_it_is(module, latent_dim, architecture)
    return parts_of(module, latent_dim=named, architecture=architecture, latent_size=latent_size)


def halves(
    module: nn.Module,
    *,
    latent_dim: int | None = None,
    input_shape: Sequence[int] | None = None,
    architecture: str = "",
    part: str | None = None,
    condition: Mapping[str, str | float] | None = None,
    latent_size: tuple[int, ...] | None = None,
) -> Parts:
    """Return the decoder of a whole VAE, and its encoder where its posterior can be told.

    Args:
        module: has a part that decodes, a method or a submodule.
        latent_dim: number of latents, where the network does not tell.
        input_shape: shape of one data row; by default that of the decoder's output.
        architecture: how the network was known, in words.
        part: the name of the part that decodes, where it has no usual one.
        condition: what arguments beside the latents are held at, by name.
        latent_size: size of the maps of latents, with their channels or without them.

    Raises:
        UsageError: the number of latents cannot be told, or a condition is no argument.
        ArchitectureError: the decoder begins with a convolution, and nothing says the size of its maps.
        ContractError: no part takes latents alone, or with arguments that can be held.
    """
    whole = frozen(unwrapped(module))
    assert isinstance(whole, nn.Module)
    if part is not None and not callable(getattr(whole, part, None)):
        known = [*dict(whole.named_children()), *(n for n in vars(type(whole)) if not n.startswith("_"))]
        raise UsageError(
            f"the network has no part `{part}` that could decode",
            hint=did_you_mean(part, known) or f"its parts are {', '.join(known)}",
        )
    names = [part] if part is not None else [name for name, _ in named(whole, DECODES)]
    failures: list[str] = []
    for name in names:
        decode = getattr(whole, name)
        if others(decode, condition):
            return _conditional(whole, name, latent_dim, condition or {}, architecture, input_shape)
        if latent_size is not None:
            row, why = row_of(decode, latent_size, latent_dim, [*_channels(whole), *channels_of(whole)])
            if row is not None:
                return _on_maps(whole, name, row, architecture, input_shape)
            failures.append(f"`{name}` on maps of {' x '.join(map(str, latent_size))}: {why}")
            continue
        for d in _sizes(whole, decode, latent_dim):
            try:
                with torch.no_grad():
                    y = picked(decode(zeros(whole, d)))
            except Exception as error:  # whatever foreign code raises on a size that is not its own
                failures.append(f"`{name}` on {d} latents: {(str(error).splitlines() or [''])[0][:120]}")
                continue
            encoder, notes = encoder_of(whole, d, tuple(input_shape or y.shape[1:]), y)
            said = Finding(
                WHOLE_VAE, f"the network is a whole VAE, of which {word_of(name, decode)} is probed"
            )
            return Parts(
                decoder=decode,
                latent_dim=d,
                encoder=encoder,
                architecture=architecture,
                notes=(said, *notes),
            )
    if latent_size is not None and failures:
        raise ContractError(
            f"no part of the network decodes latents: {failures[0]}",
            hint="is the size right? name the part: --submodule PART (in Python, submodule=)",
        )
    unsized = next((n for n in names if convolution_of(getattr(whole, n)) is not None), None)
    if unsized is not None:
        first = convolution_of(getattr(whole, unsized))
        assert first is not None
        raise no_size(word_of(unsized, getattr(whole, unsized)), first)
    if not failures:
        raise UsageError(
            "the network does not tell how many latents its decoder takes",
            hint="say it: --latent-dim (latent_dim=...)",
        )
    raise ContractError(
        f"no part of the network decodes latents: {failures[0]}",
        hint="say what it takes: --latent-dim D, or --latent-size 8x8 of maps (in Python, latent_dim=, latent_size=); or name the part:"
        " --submodule PART (in Python, submodule=)",
    )


def _on_maps(
    whole: nn.Module,
    name: str,
    row: tuple[int, ...],
    architecture: str,
    input_shape: Sequence[int] | None,
) -> Parts:
    """Return the part of a whole VAE that decodes maps of latents, as rows, and its encoder."""
    found = getattr(whole, name)
    part = found if isinstance(found, nn.Module) else MethodModule(whole, name)
    decode = nn.Sequential(nn.Unflatten(1, row), part).eval()
    d = math.prod(row)
    with torch.no_grad():
        y = picked(decode(zeros(whole, d)))
    encoder, notes = encoder_of(whole, d, tuple(input_shape or y.shape[1:]), y, row=row)
    said = Finding(WHOLE_VAE, f"the network is a whole VAE, of which {word_of(name, found)} is probed")
    return Parts(
        decoder=decode,
        latent_dim=d,
        latent_shape=row,
        encoder=encoder,
        architecture=architecture,
        notes=(said, *notes),
    )


def with_encoder(parts: Parts, module: object) -> Parts:
    """Return the decoder that a part of a network is with the encoder that stands beside it, where there is one."""
    if not isinstance(module, nn.Module) or next(named(module, ENCODES), None) is None:
        return parts
    network = frozen(unwrapped(module))
    assert isinstance(network, nn.Module)
    d = parts.latent_dim
    try:
        with torch.no_grad():
            y = picked(frozen(parts.decoder)(zeros(network, d)))
    except Exception:  # the contract of a decoder says what is wrong with it
        return parts
    encoder, notes = encoder_of(network, d, tuple(y.shape[1:]), y, row=parts.latent_shape)
    return parts if encoder is None else replace(parts, encoder=encoder, notes=(*parts.notes, *notes))


def _conditional(
    whole: nn.Module,
    name: str | None,
    given: int | None,
    values: Mapping[str, str | float],
    architecture: str,
    input_shape: Sequence[int] | None,
) -> Parts:
    """Return a decoder whose arguments beside the latents are held.

    Raises:
        UsageError: the number of latents cannot be told, or a condition is no argument.
        ContractError: nothing that a class or a number can be is taken.
    """
    decode = whole if name is None else getattr(whole, name)
    word = "the network" if name is None else word_of(name, decode)
    known = [given] if given is not None else [d for d in (latents_named(whole), *_means(whole)) if d]
    if not known:
        raise UsageError(
            f"{word} takes more than latents and does not tell how many of these",
            hint="say it: --latent-dim (latent_dim=...)",
        )
    found = conditioned(whole, name, list(dict.fromkeys(known)), values)
    if found is None:
        names = " and ".join(f"`{n}`" for n in others(decode, values))
        raise ContractError(
            f"{word} takes {names} beside the latents: neither a class, a one-hot vector nor a number for each",
            hint="write a factory that returns a decoder of latents alone: def decoder(): ...",
        )
    said: list[Finding] = []
    encoder = None
    if name is not None:
        y, d = found.output, found.latent_dim
        encoder, notes = encoder_of(whole, d, tuple(input_shape or y.shape[1:]), y, found.decoder.others)
        said = [Finding(WHOLE_VAE, f"the network is a whole VAE, of which {word} is probed"), *notes]
    return Parts(
        decoder=found.decoder,
        latent_dim=found.latent_dim,
        encoder=encoder,
        architecture=at_conditions(architecture, found.conditions),
        notes=(*said, *unchosen(found.conditions)),
        conditions=found.conditions,
    )


def _channels(whole: nn.Module) -> Iterator[int]:
    """Yield the number of channels of the means that a head of the encoder gives as maps."""
    heads = (head for _, head in named(whole, MEANS))
    yield from (head.out_channels for head in heads if isinstance(head, (nn.Conv1d, nn.Conv2d, nn.Conv3d)))


def _means(whole: nn.Module) -> Iterator[int]:
    """Yield the number of means that a head of the encoder gives."""
    yield from (head.out_features for _, head in named(whole, MEANS) if isinstance(head, nn.Linear))


def from_module(
    module: nn.Module,
    latent_dim: int | None = None,
    *,
    likelihood: str | None = None,
    input_shape: Sequence[int] | None = None,
    part: str | None = None,
    condition: Mapping[str, str | float] | None = None,
    latent_size: str | Sequence[int] | None = None,
    **settings: Any,
) -> Decoder:
    """Return the decoder of a network in memory, with its encoder where it is a whole VAE.

    Args:
        module: a VAE with parts that decode and encode (methods or submodules, under their usual names), or a decoder.
        latent_dim: number of latents, where the network does not tell.
        likelihood: gaussian, bernoulli, poisson or categorical, as it was trained with.
        input_shape: shape of one data row, where it is not that of the decoder's output.
        part: the name of the part that decodes, where it has no usual one.
        condition: what arguments that it takes beside latents are held at: {"label": 3}.
        latent_size: size of the map of latents of a convolutional decoder, "8x8" or (8, 8).
        settings: as for `Decoder`, an encoder of another network among them.

    Raises:
        UsageError: the number of latents cannot be told, or the encoder is no `Encoder`.
        ContractError: no part takes latents alone, or it is no decoder (see `Decoder`).

    Example:
        >>> class VAE(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)
        >>> from_module(VAE()).latent_dim
        2
    """
    check_given(from_module, locals())
    known = [f.name for f in fields(Decoder) if f.init and f.name not in ("function", "latent_dim")]
    check_keywords("from_module", settings, [*inspect.signature(from_module).parameters][1:-1] + known)
    dtype = settings.get("dtype")
    check_given(Decoder, {"dtype": dtype})
    if dtype is not None:
        module = frozen(module, dtype)  # type: ignore[assignment]
    size = size_of(latent_size)
    found = parts(
        module,
        latent_dim=latent_dim,
        input_shape=input_shape,
        architecture="module",
        part=part,
        condition=condition,
        latent_size=size,
    )
    if size is not None and not found.latent_shape:
        raise UsageError("the latents of the network are no map", hint="leave out latent_size=")
    held(found.conditions, condition or {})  # what was asked for and is not there is refused
    found = with_variance(replace(found, likelihood=likelihood), learned(unwrapped(module).state_dict()))
    return Decoder(
        found.decoder,
        found.latent_dim,
        likelihood=likelihood,
        **{
            "natural": found.natural,
            "encoder": found.encoder,
            "notes": found.notes,
            "sigma2": found.sigma2,
            "latent_shape": found.latent_shape,
            **settings,
        },
    )


def _sizes(whole: nn.Module, decode: object, given: int | None) -> list[int]:
    """Return the numbers of latents that could be, the likeliest first."""
    if given is not None:
        return [given]
    named = latents_named(whole)
    first = latents_of(decode)[0] if isinstance(decode, nn.Module) else None
    known = [d for d in (named, first) if d is not None]
    if known:
        return list(dict.fromkeys(known))
    return sorted(set(widths(whole)))
