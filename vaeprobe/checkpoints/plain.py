"""Networks that decode as they are: how many latents their first layer takes, and in which shape."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn

from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.errors import ArchitectureError, UsageError
from vaeprobe.findings import RESHAPED_LATENTS
from vaeprobe.report import Finding

CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip

__all__ = ["latents_of", "parts_of", "widths"]


def parts_of(
    module: nn.Module,
    *,
    latent_dim: int | None,
    architecture: str,
    latent_size: tuple[int, ...] | None = None,
) -> Parts:
    """Return what a module gives to a `vaeprobe.Decoder`.

    A network that begins with a convolution gets its latents as maps of `latent_size`, one that begins with a transposed
    convolution as images of one pixel where no size is said.

    Raises:
        UsageError: the number of latents cannot be told from the first layer.
        ArchitectureError: the first layer takes maps, and nothing says of which size.
    """
    d, shape = latents_of(module)
    notes: tuple[Finding, ...] = ()
    channels = _channels(module)
    sized = channels is not None and latent_size is not None
    if channels is not None and latent_size is not None:
        shape = (channels, *latent_size)
        d = math.prod(shape)
    elif channels is not None and not shape:
        raise ArchitectureError(
            "the network begins with a convolution, and nothing says the size of the maps of latents that it takes",
            hint="say it: --latent-size 8x8 (latent_size=...)",
        )
    layers = list(module) if isinstance(module, nn.Sequential) else [module]
    if shape:
        layers = [nn.Unflatten(1, shape), *layers]
        if not sized:
            message = f"the first layer is a transposed convolution: latents were reshaped to {' x '.join(map(str, shape))}"
            notes = (Finding(RESHAPED_LATENTS, message),)
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


def _channels(module: nn.Module) -> int | None:
    """Return how many channels a network takes that begins with a convolution, None for another."""
    first = next(_leaves(module), None)
    return first.in_channels if isinstance(first, CONVOLUTIONS) else None


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


def widths(module: nn.Module) -> list[int]:
    """Return how many numbers or channels each layer takes that latents can enter by, in the order of the module."""
    takes = [m.in_features for m in module.modules() if isinstance(m, nn.Linear)]
    return takes + [m.in_channels for m in module.modules() if isinstance(m, nn.ConvTranspose2d)]


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a chain, activations that keep the shape left out."""
    children = [] if nn.utils.parametrize.is_parametrized(module) else list(module.children())
    if not children and not isinstance(module, (nn.Identity, nn.Dropout, nn.Flatten, nn.ReLU, nn.Tanh)):
        yield module
    for child in children:
        yield from _leaves(child)
