"""What is compared: metrics on the same latents, codes and columns at the same data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.engine.verbs import jacobian
from vaeprobe.errors import UsageError
from vaeprobe.geometry.agreement import (
    INFORMATIVE,
    Agreement,
    code_agreement,
    column_agreement,
    correlations,
    ranks,
    tangent_overlap,
    udr,
)


@dataclass(frozen=True, eq=False)
class Pair:
    """What two models have in common.

    Attributes:
        first, second: places among the models.
        codes, columns: agreement in latent and in data space, of informative latents.
        tangents: mean squared cosine of principal angles.
        udr: of the pair.
    """

    first: int
    second: int
    codes: Agreement
    columns: Agreement
    tangents: float
    udr: float


@dataclass(frozen=True, eq=False)
class Seen:
    """A model at the data: its codes, informative latents and Jacobians there."""

    codes: Tensor
    informative: tuple[int, ...]
    J: Tensor


def see(decoder: Decoder, rows: Tensor) -> Seen:
    """Return a model at data rows, shape (n, ...).

    Raises:
        UsageError: there is no encoder, a latent is a code of classes, or no latent is informative.
    """
    name = decoder.artifact.path if decoder.artifact else "a decoder"
    if decoder.encoder is None:
        raise UsageError(
            f"`{name}` comes without an encoder, and agreement needs the codes of the data",
            hint="leave out the data to compare metrics alone",
        )
    if len(decoder.continuous) != decoder.latent_dim:
        raise UsageError(f"`{name}` has one-hot latents, whose codes are not compared")
    mean = decoder.encoder(rows)[0].detach().cpu().double()
    informative = tuple(i for i, v in enumerate(mean.var(0).tolist()) if v > INFORMATIVE)
    if not informative:
        raise UsageError(f"no latent of `{name}` tells anything about the data: there is nothing to compare")
    J = jacobian(decoder, mean.to(decoder.dtype)).detach().cpu().double()
    return Seen(mean[:, informative], informative, J[:, :, informative])


def pair(seen: Sequence[Seen], first: int, second: int, *, count: int, seed: int) -> Pair:
    """Return what two of the models have in common."""
    a, b = seen[first], seen[second]
    if a.J.shape[1] != b.J.shape[1]:
        raise UsageError("the models have outputs of different sizes, and are compared at the same data")
    cross, G, H = a.J.mT @ b.J, a.J.mT @ a.J, b.J.mT @ b.J
    return Pair(
        first,
        second,
        code_agreement(a.codes, b.codes, count=count, seed=seed),
        column_agreement(cross, G, H, count=count, seed=seed),
        float(tangent_overlap(cross, G, H).mean()),
        udr(correlations(ranks(a.codes), ranks(b.codes))),
    )


def mean(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).mean())
