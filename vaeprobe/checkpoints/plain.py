"""Networks that decode as they are: how many latents their first layer takes, and in which shape."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.errors import ArchitectureError, UsageError
from vaeprobe.findings import RESHAPED_LATENTS
from vaeprobe.report import Finding

__all__ = ["latents_of", "parts_of", "widths"]


def parts_of(module: nn.Module, *, latent_dim: int | None, architecture: str) -> Parts:
    """Return what a module gives to a `vaeprobe.Decoder`.

    A network that begins with a transposed convolution gets its latents as images of one pixel.

    Raises:
        UsageError: the number of latents cannot be told from the first layer.
        ArchitectureError: the first layer takes images.
    """
    d, shape = latents_of(module)
    if isinstance(next(_leaves(module), None), (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        raise ArchitectureError(
            "the network begins with a convolution, and nothing says the shape that latents take before it",
            hint="a blueprint whose first layer is a `reshape` says it, or --arch with a wrapper that reshapes",
        )
    notes: tuple[Finding, ...] = ()
    layers = list(module) if isinstance(module, nn.Sequential) else [module]
    if shape:
        layers = [nn.Unflatten(1, shape), *layers]
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
    )


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
