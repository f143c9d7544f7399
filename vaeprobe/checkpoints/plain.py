"""Networks that decode as they are: how many latents their first layer takes, and in which shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import nn

from vaeprobe import cpu
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.errors import ArchitectureError, UsageError
from vaeprobe.findings import RESHAPED_LATENTS
from vaeprobe.frozen import MethodModule, frozen, tensors_of
from vaeprobe.outputs import picked
from vaeprobe.report import Finding

Convolution: TypeAlias = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)
CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
ROWS = 5  # to try a network on: as many as few convolutions have channels, which take a batch for these

__all__ = [
    "as_it_is",
    "channels_of",
    "convolution_of",
    "latents_of",
    "no_size",
    "parts_of",
    "row_of",
    "widths",
]


def parts_of(
    module: nn.Module,
    *,
    latent_dim: int | None,
    architecture: str,
    latent_size: tuple[int, ...] | None = None,
) -> Parts:
    """Return what a module gives to a `vaeprobe.Decoder`.

    A network that begins with a convolution gets its latents as maps of `latent_size`, one that begins with a transposed
    convolution as images of one pixel where no size is said.  Another gets such maps where it runs on them.

    Raises:
        UsageError: the number of latents cannot be told from the first layer, or the size is none that it takes.
        ArchitectureError: the first layer takes maps, and nothing says of which size.
    """
    d, shape = latents_of(module)
    notes: tuple[Finding, ...] = ()
    row, why = None, ""
    if latent_size is not None:
        row, why = row_of(module, latent_size, latent_dim, channels_of(module))
    sized = row is not None
    if row is not None:
        shape, d = row, math.prod(row)
    elif not shape and (unsized := convolution_of(module)) is not None:
        raise no_size("the network", unsized)
    layers = list(module) if isinstance(module, nn.Sequential) else [module]
    if shape:
        layers = [nn.Unflatten(1, shape), *layers]
        if not sized:
            message = f"the first layer is a transposed convolution: latents were reshaped to {' x '.join(map(str, shape))}"
            notes = (Finding(RESHAPED_LATENTS, message),)
    if d is None and latent_dim is None and latent_size is not None:
        raise UsageError(
            f"the network does not run on maps of latents of {' x '.join(map(str, latent_size))}: {why}",
            hint="is the size right, and is this the part that decodes? (--submodule, in Python submodule=)",
        )
    if d is None and latent_dim is None:
        raise UsageError(
            "the first layer does not tell how many latents there are",
            hint="say it: --latent-dim (latent_dim=...)",
        )
    natural = (
        nn.Sequential(*layers[:-1]).eval() if len(layers) > 1 and isinstance(layers[-1], nn.Sigmoid) else None
    )
    return Parts(
        decoder=nn.Sequential(*layers).eval() if shape else module,
        natural=natural,
        latent_dim=d or latent_dim or 0,
        architecture=architecture,
        notes=notes,
        latent_shape=shape if sized else (),
    )


def convolution_of(module: object) -> Convolution | None:
    """Return the convolution that a network begins with, None for another."""
    first = next(_leaves(module), None) if isinstance(module, nn.Module) else None
    return first if isinstance(first, CONVOLUTIONS) else None


def no_size(word: str, first: Convolution) -> ArchitectureError:
    """Return the error for maps of latents of which nothing says the size."""
    example = "x".join("8" * _axes(first))
    return ArchitectureError(
        f"{word} begins with a convolution, and nothing says the size of the maps of latents that it takes",
        hint=f"say it: --latent-size {example} (latent_size=...)",
    )


def as_it_is(module: nn.Module, d: int, architecture: str) -> Parts:
    """Return a network that is given d latents as rows: its own code knows how they enter.

    Raises:
        ArchitectureError: it begins with a convolution and does not run on rows.
    """
    first = convolution_of(module)
    if first is not None and runs_on(frozen(module), (d,)):
        raise no_size("the network", first)
    return Parts(decoder=module, latent_dim=d, architecture=architecture)


def _axes(convolution: Convolution) -> int:
    """Return the number of axes that a convolution runs along."""
    return len(convolution.kernel_size)


def row_of(
    decode: Callable[..., object], size: tuple[int, ...], d: int | None, channels: Sequence[int]
) -> tuple[tuple[int, ...] | None, str]:
    """Return the shape of one row of latents that are maps of a size, None where it runs on none, and why it does not.

    A network that begins with a convolution says its channels.  Another is run: on rows of the size itself, which are
    tokens and their numbers or say the channels, then on as many channels as are asked for, or as some layer takes.

    Args:
        decode: the network, or a method of one.
        size: with the channels or without them.
        d: number of latents, if that was said.
        channels: numbers of these that could be, the likeliest first.

    Raises:
        UsageError: maps of that size have another number of axes, or not that number of latents.
    """
    shown, places = " x ".join(map(str, size)), math.prod(size)
    if d is not None and d % places:
        raise UsageError(
            f"{d} latents are no maps of {shown}",
            hint="leave out --latent-dim: the size and the channels tell it",
        )
    first = convolution_of(decode)
    if first is not None:
        if len(size) == _axes(first) + 1 and size[0] == first.in_channels:
            return size, ""
        if len(size) != _axes(first):
            example = "x".join("8" * _axes(first))
            raise UsageError(
                f"a size of {shown} is none of maps of {first.in_channels} channels along {_axes(first)}"
                f" ax{'i' if _axes(first) == 1 else 'e'}s",
                hint=f"say it without the channels: --latent-size {example}",
            )
        return (first.in_channels, *size), ""
    counts = channels if d is None else [d // places]
    rows = [size] if len(size) > 1 and d in (None, places) else []
    trial, reason = frozen(decode), ""
    for row in [*rows, *((n, *size) for n in dict.fromkeys([*counts, 1] if d is None else counts))]:
        why = runs_on(trial, row)
        if not why:
            return row, ""
        reason = reason or why
    return None, reason


def runs_on(decode: Callable[..., object], row: tuple[int, ...]) -> str:
    """Return why a network does not run on latents of rows of a shape, "" where it does."""
    like = next((t for t in tensors_of(decode) if t.is_floating_point()), cpu.zeros(()))
    try:
        with torch.no_grad():
            y = picked(decode(torch.zeros(ROWS, *row, dtype=like.dtype, device=like.device)))
    except Exception as error:  # whatever foreign code raises on a shape that is not its own
        return (str(error).splitlines() or [type(error).__name__])[0][:120] or type(error).__name__
    return "" if y.ndim and len(y) == ROWS else f"it returns a tensor of shape {tuple(y.shape)}"


def latents_of(module: nn.Module) -> tuple[int | None, tuple[int, ...]]:
    """Return the number of latents that the first layer takes, and the shape it takes them in if not as rows.

    (None, ()) where it does not tell.
    """
    first = next(_leaves(module), None)
    match first:
        case nn.Linear():
            return first.in_features, ()
        case nn.Bilinear():
            return None, ()
        case nn.ConvTranspose1d():
            return first.in_channels, (first.in_channels, 1)
        case nn.ConvTranspose2d():
            return first.in_channels, (first.in_channels, 1, 1)
        case nn.ConvTranspose3d():
            return first.in_channels, (first.in_channels, 1, 1, 1)
        case nn.BatchNorm1d():
            return first.num_features, ()
        case nn.LayerNorm() if len(first.normalized_shape) == 1:
            return first.normalized_shape[0], ()
        case nn.Unflatten() if isinstance(first.unflattened_size, (tuple, list)):
            size = 1
            for n in first.unflattened_size:
                size *= int(n)
            return (size if size > 0 else None), ()
        case _:
            return None, ()


def channels_of(module: nn.Module) -> list[int]:
    """Return how many channels each convolution takes, in the order of the module, then what `widths` says."""
    return [m.in_channels for m in module.modules() if isinstance(m, CONVOLUTIONS)] + widths(module)


def widths(module: nn.Module) -> list[int]:
    """Return how many numbers or channels each layer takes that latents can enter by, in the order of the module."""
    takes = [m.in_features for m in module.modules() if isinstance(m, nn.Linear)]
    return takes + [m.in_channels for m in module.modules() if isinstance(m, nn.ConvTranspose2d)]


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a chain, activations that keep the shape left out; a method does not tell which it begins with."""
    if isinstance(module, MethodModule):
        return
    children = [] if nn.utils.parametrize.is_parametrized(module) else list(module.children())
    if not children and not isinstance(module, (nn.Identity, nn.Dropout, nn.Flatten, nn.ReLU, nn.Tanh)):
        yield module
    for child in children:
        yield from _leaves(child)
