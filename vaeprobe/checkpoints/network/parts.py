"""What a checkpoint gives to a `vaeprobe.Decoder`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.decoder import Encoder, Group
from vaeprobe.findings import DRAFT_BLUEPRINT, UNUSED_LAYERS
from vaeprobe.recipe import Recipe
from vaeprobe.report import Finding

__all__ = ["Parts", "assumptions_of", "layers_unused"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a checkpoint gives to a `vaeprobe.Decoder`.

    Attributes:
        decoder: maps (n, latent_dim) to (n, ...), last activation included.
        natural: the same without its last activation, where that makes it the natural parameter.
        latent_dim: number of latents d.
        prior: groups of latents in order.
        parameter: "mean" or "natural".
        likelihood: its name, where it is known.
        encoder: the encoder, where there is one.
        architecture: how the network was known, in words.
        notes: what the reader should know: unused tensors, weights cast up, assumptions of a draft.
        blueprint: the blueprint, where there was one.
        latent_shape: shape in which the network takes its latents, where they are a map.
        recipe: what the loss of its family says of beta, where it is known.
    """

    decoder: Callable[[Tensor], Any]
    natural: Callable[[Tensor], Any] | None = None
    latent_dim: int
    prior: tuple[Group, ...] = ()
    parameter: Literal["mean", "natural"] = "mean"
    likelihood: str | None = None
    encoder: Encoder | None = None
    architecture: str = ""
    notes: tuple[Finding, ...] = ()
    blueprint: Blueprint | None = None
    latent_shape: tuple[int, ...] = ()
    recipe: Recipe | None = None


def layers_unused(bp: Blueprint) -> Iterator[Finding]:
    """Yield what to say of a blueprint that describes layers, given for a program that has its own."""
    if bp.layers or bp.encoder is not None:
        yield Finding(
            UNUSED_LAYERS,
            f"the program is self-contained: of {bp.origin} only latents, likelihood and parameter are used",
        )


def assumptions_of(bp: Blueprint) -> Iterator[Finding]:
    """Yield what to say of a blueprint that rests on guesses."""
    if bp.assumptions:
        count = len(bp.assumptions)
        yield Finding(
            DRAFT_BLUEPRINT,
            f"the architecture is a draft that rests on {count} assumption{'s' * (count > 1)}: "
            + "; ".join(bp.assumptions),
            hint="write it with `vaeprobe inspect MODEL --draft-blueprint OUT`, check it, and pass it as --blueprint OUT",
        )
