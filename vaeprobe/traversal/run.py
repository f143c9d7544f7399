"""Traverse a decoder: a strip per latent, by importance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from vaeprobe.budget import Fit, budget, share_of, spared, within
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import check_codes
from vaeprobe.engine.costs import foretell_directions
from vaeprobe.engine.rounding import bytes_of, lost_columns
from vaeprobe.engine.rounding import directions_of as looking_at
from vaeprobe.errors import UsageError
from vaeprobe.findings import TIME_LIMIT
from vaeprobe.foreign import said
from vaeprobe.geometry.gram import ACTIVE_THRESHOLD
from vaeprobe.given import check_given, check_least
from vaeprobe.kept import keeping
from vaeprobe.latents import Prior
from vaeprobe.likelihoods import class_of
from vaeprobe.pictures import image_shape as image_of
from vaeprobe.probes import probe_class
from vaeprobe.probes.base import rows_of
from vaeprobe.probes.functions import DecoderLike, as_decoder
from vaeprobe.probes.rounded import rounded
from vaeprobe.report import Finding, Metric, metric_map
from vaeprobe.traversal.metrics import SPECS
from vaeprobe.traversal.numbers import (
    Direction,
    Strip,
    axes,
    centre_of,
    coordinates,
    mean_squares,
    rotated,
    strip,
)
from vaeprobe.traversal.pictures import Look
from vaeprobe.traversal.result import Traversal

Show: TypeAlias = Literal["auto", "image", "audio", "curves", "bars"]

# a flat row of fewer outputs is no image, however square
LEAST = 64
# vectors of so many outputs are drawn as bars; so many samples in a row or two are a waveform
BARS, WAVE = 32, 2048
# rows of data that are encoded
MOST_ROWS = 4096


def traverse(
    decoder: DecoderLike,
    *,
    data: object = None,
    reach: float = 3.0,
    frames: int = 7,
    most: int = 16,
    rotate: bool = False,
    image_shape: str | None = None,
    show: Show = "auto",
    samples: int = 64,
    seed: int = 0,
    latent_dim: int | None = None,
    time: float | None = None,
    resume: Path | str | None = None,
) -> Traversal:
    """Return outputs along each latent, by importance, beside its signed Jacobian column.

    Args:
        decoder: a `Decoder`, a module or callable with `latent_dim`, or the path of a checkpoint.
        data: rows as the encoder takes them; strips then run over the range of its codes (1st to 99th percentile)
            through their mean, instead of from -reach to reach through the prior's centre.
        reach: how far to go each way, in the prior's standard deviations.
        frames: outputs per strip.
        most: strips that are shown, those of the longest columns.
        rotate: also along the columns of R*, the rotation that makes columns most orthogonal.
        image_shape: how outputs are images, such as "28x28"; by default as their shape says.
        show: images, spectrograms of waveforms (`audio`), `bars` or `curves`; auto goes by the outputs' shape: one or
            two rows of 2048 samples or more are a waveform, vectors of up to 32 outputs are bars.
        samples: latents of the prior over which column lengths are averaged.
        seed: seed of every draw.
        latent_dim: number of latents, where the decoder leaves it open.
        time: seconds that it may take; what does not fit is left out, and said.
        resume: a file in which what takes long is kept as it is measured, and from which it goes on.

    Raises:
        UsageError: a setting does not fit the decoder, or data come without an encoder.

    Example:
        >>> import torch
        >>> found = traverse(lambda z: z * torch.tensor([1.0, 2.0], dtype=z.dtype), latent_dim=2)
        >>> [(s.name, round(s.norm, 2)) for s in found.strips]
        [('z1', 2.0), ('z0', 1.0)]
    """
    check_given(traverse, locals())
    check_least(2, frames=frames)
    check_least(1, most=most, samples=samples)
    check_least(0, seed=seed)
    if not 0 < reach < float("inf"):
        raise UsageError(f"`reach` must be a positive number, not {reach}")
    decoder = as_decoder(decoder, latent_dim).standardised()
    with within(time), keeping(resume), said():
        return _traversal(
            decoder, data=data, reach=float(reach), frames=frames, most=most, rotate=rotate, image_shape=image_shape,
            show=show, samples=samples, seed=seed,
        )  # fmt: skip


def _traversal(
    decoder: Decoder,
    *,
    data: object,
    reach: float,
    frames: int,
    most: int,
    rotate: bool,
    image_shape: str | None,
    show: Show,
    samples: int,
    seed: int,
) -> Traversal:
    if not decoder.continuous:
        raise UsageError("all latents of this decoder are one-hot codes, which have no derivative")
    shape = _look(decoder, image_shape, show)
    codes = None if data is None else _codes(decoder, data)
    z = Prior("columns").draw(decoder, samples, seed=seed)
    centre = centre_of(decoder, codes)

    def strips(directions: Sequence[Direction]) -> tuple[tuple[Strip, ...], Tensor, Fit]:
        row = None if one is None else one * (1 + len(directions))
        squares, fit = mean_squares(decoder, directions, z, row)
        total = max(float(squares.sum()), 1e-300)
        order = sorted(range(len(directions)), key=lambda i: -float(squares[i]))[:most]
        found: list[Strip] = []
        for i in order:
            if found and one is not None and not budget().affords(one * (1 + frames)):
                message = f"{len(found)} of {len(order)} strips fitted into the time given"
                limits.append(Finding(TIME_LIMIT, message))
                break
            found.append(
                strip(
                    decoder,
                    directions[i],
                    centre,
                    coordinates(directions[i], codes, reach, frames),
                    float(squares[i].sqrt()),
                    float(squares[i]) / total,
                )
            )
        return tuple(found), squares, fit

    limits: list[Finding] = []
    ways = axes(decoder)
    # the columns of channels are sums over places, which are not asked
    looking, held = (0.0, 0) if decoder.is_map else (looking_at(decoder), bytes_of(decoder))
    one = foretell_directions(
        decoder,
        samples * (1 + len(ways)) + most * (1 + frames) + looking,
        8 * most * frames * decoder.data_dim + held,
        f"columns of {len(ways)} directions at {samples} latents",
        at_once=samples,
        least=1 + len(ways) + 1 + frames + looking,
    )
    turned: tuple[Strip, ...] = ()
    with spared(0.0 if one is None else looking * one):  # for which columns are rounding
        with share_of(1 / 3 if rotate else 1):
            shown, squares, fit = strips(ways)
        if rotate:
            with share_of(1 / 2):
                R = _rotation(decoder, samples, seed)
            turned, _, _ = strips(rotated(decoder, R))
    if not fit.whole:
        limits.insert(0, Finding(TIME_LIMIT, fit.words("latents")))
    total = max(float(squares.sum()), 1e-300)
    method = f"over {fit.done} latents of the prior"
    first = ", ".join(f"{s.name} ({s.share:.0%})" for s in shown[:3])
    what = "channels" if len(ways) != len(decoder.continuous) else "latents"
    summary = f"Of {len(ways)} {what}, what moves in the output is most the doing of {first}, by squared column length."
    metrics = [
        Metric(SPECS["traverse.norm"], squares.sqrt().tolist(), n=fit.done, method=method),
        Metric(SPECS["traverse.share"], (squares / total).tolist(), n=fit.done, method=method),
    ]
    lost = None
    if not decoder.is_map:
        longest = squares.topk(len(shown)).indices
        moving = longest[squares[longest] > ACTIVE_THRESHOLD**2 * squares.max()]
        lost = lost_columns(decoder, z, moving.sort().values.tolist())
    if lost is not None:
        limits.append(rounded(lost))
        metrics = [Metric.undefined(m.spec, lost.why, n=m.n) for m in metrics]
        summary = f"Which of {len(ways)} {what} moves the output is not known: {lost.why}."
    elif not squares.any():
        why = f"no latent moves the output at {fit.done} samples of the prior"
        metrics[1] = Metric.undefined(metrics[1].spec, why, n=fit.done)
        summary = f"{why[0].upper()}{why[1:]}."
    return Traversal(
        metrics=metric_map(metrics),
        summary=summary,
        findings=(*decoder.notes, *limits),
        settings={
            "reach": None if codes is not None else reach, "frames": frames, "most": most, "rotate": rotate,
            "samples": samples, "seed": seed, "range": "prior" if codes is None else f"codes of {len(codes)} rows",
        },
        artifact=decoder.artifact,
        strips=shown,
        turned=turned,
        image=shape,
        left_out=len(ways) - len(shown),
    )  # fmt: skip


def _look(decoder: Decoder, asked: str | None, show: Show) -> Look:
    """Return how outputs are drawn.

    Raises:
        UsageError: they cannot be drawn as asked.
    """
    shape, flat = tuple(decoder.output_shape), len(decoder.output_shape) == 1
    if show == "auto" and asked is None:
        if len(shape) == 2 and shape[0] <= 2 and shape[1] >= WAVE:
            return "audio"
        if flat and decoder.data_dim <= BARS:
            return "bars"
        likelihood = class_of(decoder.likelihood) if decoder.likelihood else None
        if (likelihood and not likelihood.pixels) or (flat and decoder.data_dim < LEAST):
            return None
    if show in ("auto", "image"):
        try:
            return image_of(shape, asked)
        except UsageError:
            if asked is not None or show == "image":
                raise
            return None
    return "audio" if show == "audio" else "bars" if show == "bars" else None


def _codes(decoder: Decoder, data: object) -> Tensor:
    if decoder.encoder is None:
        raise UsageError(
            "a range from data needs the encoder, and this decoder comes without one",
            hint="leave --data out for strips from -3 to 3",
        )
    rows = rows_of(data, MOST_ROWS)
    if rows.ndim < 2 or len(rows) < 2:
        raise UsageError(f"the data have shape {tuple(rows.shape)}: at least two rows are needed")
    mean, _ = decoder.encoder(rows)
    codes = mean.double().cpu()
    check_codes(codes)
    return codes


def _rotation(decoder: Decoder, samples: int, seed: int) -> torch.Tensor:
    probe: Any = probe_class("orthogonality")
    result = probe(samples=max(samples, 64), seed=seed, rotations=1).measure(decoder)
    if result.rotation is None or result.rotation.shape[0] != decoder.latent_dim:
        reason = result["orthogonality.ima_contrast_rotated"].reason
        raise UsageError(
            f"there is no best rotation to follow: {reason or 'the latents were measured in part'}",
            hint="leave --rotate out",
        )
    found: torch.Tensor = result.rotation
    return found
