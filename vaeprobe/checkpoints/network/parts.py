"""What a checkpoint gives to a `vaeprobe.Decoder`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vaeprobe.checkpoints.blueprint import Blueprint, Condition
from vaeprobe.decoder import Group
from vaeprobe.encoder import Encoder
from vaeprobe.findings import CONDITION_HELD, DRAFT_BLUEPRINT, UNUSED_LAYERS
from vaeprobe.prior import LearnedPrior
from vaeprobe.recipe import Recipe
from vaeprobe.report import Finding

__all__ = ["Parts", "assumptions_of", "at_conditions", "layers_unused", "unchosen"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a checkpoint gives to a `vaeprobe.Decoder`.

    Attributes:
        decoder: maps (n, latent_dim) to (n, ...), last activation included.
        natural: the same without its last activation, where that makes it the natural parameter.
        latent_dim: number of latents d.
        prior: groups of latents in order.
        learned: prior of the continuous latents, where it is not N(0, I).
        parameter: "mean" or "natural".
        output: which output to take where the network returns several, unless the user says another.
        likelihood: its name, where it is known.
        encoder: the encoder, where there is one.
        architecture: how the network was known, in words.
        notes: what the reader should know: unused tensors, weights cast up, assumptions of a draft.
        blueprint: the blueprint, where there was one.
        conditions: what the decoder takes besides its latents, and is held at.
        latent_shape: shape in which the network takes its latents, where they are a map.
        recipe: what the loss of its family says of beta, where it is known.
        dispersion: inverse dispersions of a negative binomial, where the file holds them.
        sigma2: variance of a Gaussian likelihood, where it was learned and the file holds it.
        totalled: the output that the total of a data row multiplies, where it is held at 1 and nobody chose that.
    """

    decoder: Callable[[Tensor], object]
    natural: Callable[[Tensor], object] | None = None
    latent_dim: int
    prior: tuple[Group, ...] = ()
    learned: LearnedPrior | None = None
    parameter: Literal["mean", "natural"] = "mean"
    output: str | None = None
    likelihood: str | None = None
    encoder: Encoder | None = None
    architecture: str = ""
    notes: tuple[Finding, ...] = ()
    blueprint: Blueprint | None = None
    conditions: tuple[Condition, ...] = ()
    latent_shape: tuple[int, ...] = ()
    recipe: Recipe | None = None
    dispersion: Tensor | None = None
    sigma2: float | None = None
    totalled: str | None = None


def layers_unused(bp: Blueprint) -> Iterator[Finding]:
    """Yield what to say of a blueprint that describes layers, given for a program that has its own."""
    if bp.layers or bp.encoder is not None:
        yield Finding(
            UNUSED_LAYERS,
            f"the program is self-contained: of {bp.origin} only latents, likelihood and parameter are used",
        )


def at_conditions(architecture: str, conditions: Sequence[Condition]) -> str:
    """Return how the network was known, and what it is held at."""
    return f"{architecture} at {', '.join(map(str, conditions))}" if conditions else architecture


def unchosen(conditions: Sequence[Condition]) -> Iterator[Finding]:
    """Yield what to say of conditions that nobody chose."""
    left = [c for c in conditions if not c.chosen]
    if left:
        yield Finding(
            CONDITION_HELD,
            f"the decoder takes more than its latents, and is held at {', '.join(map(str, left))}",
            hint=f"nothing was chosen: {' '.join(f'--condition {c.example()}' for c in left)} holds it elsewhere",
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
