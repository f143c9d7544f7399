"""What is compared: codes and Jacobian columns of models at the same data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.budget import pause
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import check_codes
from vaeprobe.engine.costs import foretell_directions
from vaeprobe.engine.rounding import bytes_of, directions_of, lost_columns
from vaeprobe.engine.verbs import jacobian
from vaeprobe.errors import UsageError
from vaeprobe.geometry import nearest
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
from vaeprobe.geometry.gram import active_latents, alike_words, ima_contrast, singular_tolerance
from vaeprobe.latents import Prior
from vaeprobe.likelihoods import LikelihoodSettings, by_name
from vaeprobe.progress import foretold

# latents up to which the outputs of models are searched for their codes without being asked to
SEARCHED = 64
ACTIVE = 0.05
BLOCK = 64  # latents that are decoded at a time


class NothingToCompareError(UsageError):
    """Nothing is known of the latents of a model at the data that another's could be compared with."""


@dataclass(frozen=True, eq=False)
class Pair:
    """What two models have in common.

    Attributes:
        first, second: places among the models.
        codes: agreement of informative latents in latent space.
        columns: the same in data space; None where outputs have different sizes.
        tangents: mean squared cosine of principal angles; None likewise.
        udr: of the pair.
    """

    first: int
    second: int
    codes: Agreement
    columns: Agreement | None
    tangents: float | None
    udr: float


@dataclass(frozen=True, eq=False)
class Seen:
    """A model at the data: its codes, informative latents and Jacobians there.

    Attributes:
        codes: of informative latents, shape (n, k).
        informative: which latents those are.
        names: what they are called.
        J: columns of informative latents, shape (n, m, k).
        how: where codes come from.
    """

    codes: Tensor
    informative: tuple[int, ...]
    names: tuple[str, ...]
    J: Tensor
    how: Literal["encoder", "nearest decodings"]


def meaned(decoder: Decoder) -> Decoder:
    """Return the decoder with means for outputs, where they are natural parameters (logits, log-rates)."""
    if decoder.parameter == "mean" or decoder.likelihood is None:
        return decoder
    given, f, m = LikelihoodSettings(class_axis=decoder.class_axis), decoder.flat, decoder.output_shape
    likelihood = by_name(decoder.likelihood, m, given)
    return decoder.with_function(
        lambda z: likelihood.mean(f(z)).reshape(len(z), *m), natural=None, parameter="mean", output=None
    )


def decodings(decoders: Sequence[Decoder], n: int, seed: int) -> Tensor | None:
    """Return outputs of the models, some of each, to compare them at; None where they do not fit together."""
    fits = {d.output_shape for d in decoders}
    if len(fits) > 1 or any(why_not(d) or d.latent_dim > SEARCHED for d in decoders):
        return None
    share, rows = -(-n // len(decoders)), []
    for k, decoder in enumerate(decoders):
        z = Prior(f"decodings/{k}").draw(decoder, share, seed=seed)
        for some in torch.split(z.to(decoder.dtype), BLOCK):
            pause()
            with torch.no_grad():
                rows.append(meaned(decoder)(some).detach().double().cpu())
    return torch.cat(rows)


def why_apart(decoders: Sequence[Decoder]) -> str:
    """Return why there are no outputs to compare the models at, where `decodings` finds none."""
    if len({d.output_shape for d in decoders}) > 1:
        apart = "the models' outputs do not fit together"
        if len(rows := _row_sizes(decoders)) > 1:
            return f"{apart}, and no data fit all models, which take rows of {' and '.join(map(str, rows))} numbers"
        return f"{apart}: agreement needs data (--data)"
    for decoder in decoders:
        if why := why_not(decoder):
            return why
        if decoder.latent_dim > SEARCHED:
            return (
                f"`{name_of(decoder)}` has {decoder.latent_dim} latents, and codes are not searched for more than {SEARCHED}: "
                "agreement needs data (--data)"
            )
    return ""


def _row_sizes(decoders: Sequence[Decoder]) -> list[int]:
    """Return how many numbers the rows of data have at which models are looked at: one size, or no data fit all of them."""
    sizes = set()
    for decoder in decoders:
        if decoder.encoder is None:
            sizes.add(decoder.data_dim)
        elif decoder.encoder.input_shape is not None:
            sizes.add(math.prod(decoder.encoder.input_shape))
    return sorted(sizes)


def why_not(decoder: Decoder) -> str:
    """Return why the codes of a model cannot be compared; "" where they can."""
    if len(decoder.continuous) != decoder.latent_dim:
        return f"`{name_of(decoder)}` has one-hot latents, whose codes are not compared"
    return ""


def name_of(decoder: Decoder) -> str:
    return decoder.artifact.path if decoder.artifact and decoder.artifact.path else "a decoder"


def foretell_seeing(decoder: Decoder, rows: int) -> None:
    """Say how long it will take to `see` a model at so many rows, to whoever listens."""
    if not foretold() or why_not(decoder):
        return
    k = decoder.latent_dim
    search = 0.0 if decoder.encoder is not None else nearest.directions_of(rows, k)
    foretell_directions(
        decoder,
        search + rows * (1 + k) + directions_of(decoder),
        8 * rows * decoder.data_dim * k + bytes_of(decoder),
        f"codes and columns of `{name_of(decoder)}` at {rows} rows",
        at_once=rows,
    )


def see(decoder: Decoder, rows: Tensor, *, seed: int = 0) -> Seen:
    """Return a model at data rows, shape (n, ...): its codes are the encoder's means, else the nearest decodings.

    A latent is informative where its posteriors cost more than 0.01 nats and their means vary by as much (Duan et al.
    2020 and Burda et al. 2016); without an encoder, where its column is not far shorter than the longest.

    Raises:
        UsageError: the rows do not fit the model, or a latent is a code of classes.
        NothingToCompareError: no latent is informative, the columns of one are rounding, or outputs do not tell latents.
    """
    if reason := why_not(decoder):
        raise UsageError(reason)
    plain = meaned(decoder)
    if decoder.encoder is not None:
        mean, log_variance = (t.detach().cpu().double() for t in decoder.encoder(rows))
        check_codes(mean)
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean(0) / 2
        told = (mean.var(0) > INFORMATIVE) & (kl > INFORMATIVE)
        J = jacobian(plain, mean.to(decoder.dtype)).detach().cpu().double()
    else:
        if rows.flatten(1).shape[1] != decoder.data_dim:
            raise UsageError(
                f"the data rows have shape {tuple(rows.shape[1:])}, and `{name_of(decoder)}` gives "
                f"{tuple(decoder.output_shape)}: without an encoder, codes are those of the nearest outputs",
                hint="give rows of that shape, or leave --data out",
            )
        mean, _ = nearest.nearest_codes(plain, rows.flatten(1), seed=seed)
        J = jacobian(plain, mean.to(decoder.dtype)).detach().cpu().double()
        told = (mean.var(0) > INFORMATIVE) & active_latents(J.mT @ J, ACTIVE)
    informative = tuple(told.nonzero().flatten().tolist())
    if not informative:
        raise NothingToCompareError(
            f"no latent of `{name_of(decoder)}` tells anything about the data: there is nothing to compare"
        )
    if lost := lost_columns(plain, mean, informative):
        raise NothingToCompareError(
            f"{lost.why}, in `{name_of(decoder)}`: there is nothing to compare",
            hint=lost.hint,
        )
    how: Literal["encoder", "nearest decodings"] = "encoder" if decoder.encoder else "nearest decodings"
    names = tuple(decoder.latent_names[i] for i in informative)
    if decoder.encoder is None and (why := _untold(decoder, J[:, :, informative], names)):
        raise NothingToCompareError(why, hint="--data, of models with encoders, compares the codes of those")
    return Seen(mean[:, informative], informative, names, J[:, :, informative], how)


def _untold(decoder: Decoder, J: Tensor, names: Sequence[str]) -> str:
    """Return why outputs do not tell latents, so that the nearest decodings are where a search began; "" where they do."""
    G, tolerance = J.mT @ J, singular_tolerance(J.shape[2], decoder.dtype or J.dtype)
    lost = int(ima_contrast(G, tolerance=tolerance).isinf().sum())
    if 2 * lost <= len(G):
        return ""
    return (
        f"the outputs of `{name_of(decoder)}` do not tell its latents, whose columns are linearly dependent at {lost} of "
        f"{len(G)} codes{alike_words(G, names, tolerance)}"
    )


def pair(seen: Sequence[Seen], first: int, second: int, *, count: int, seed: int) -> Pair:
    """Return what two of the models have in common."""
    a, b = seen[first], seen[second]
    columns = tangents = None
    if a.J.shape[1] == b.J.shape[1]:
        cross, G, H = a.J.mT @ b.J, a.J.mT @ a.J, b.J.mT @ b.J
        columns = column_agreement(cross, G, H, count=count, seed=seed)
        tangents = float(tangent_overlap(cross, G, H).mean())
    codes = code_agreement(a.codes, b.codes, count=count, seed=seed)
    return Pair(first, second, codes, columns, tangents, udr(correlations(ranks(a.codes), ranks(b.codes))))


def mean(values: Sequence[float]) -> float:
    return float(cpu.tensor(values, dtype=torch.float64).mean())
