"""The numbers of `orthogonality`: every metric of a reading, each with its null and its interval."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vaeprobe.geometry import gram
from vaeprobe.geometry.axes import distance_to_axes
from vaeprobe.geometry.decisions import rule_of_three
from vaeprobe.geometry.entropies import isometry_defect, pairwise_information, shared_information
from vaeprobe.geometry.nulls import expected_abs_cosine, expected_contrast, expected_isometry_defect
from vaeprobe.geometry.rotations import Alignment
from vaeprobe.intervals import LEVEL, mean_interval, median_interval, p_value_interval
from vaeprobe.probes.orthogonality.metrics import SPECS, dim_beside
from vaeprobe.probes.orthogonality.reading import Reading
from vaeprobe.probes.parts import of_part
from vaeprobe.report import Metric, OfAll

__all__ = ["OF_ALL", "metrics_of"]

# What numbers of a random part of the latents say of those of all. A contrast and a gap are those of a principal
# submatrix: more columns never lower them. Were the axes of all random ones, those of the part would be.
OF_ALL: dict[str, OfAll] = {
    "latents.dim": "known",
    "latents.active": "at least",
    "orthogonality.mean_abs_cosine": "estimated",
    "orthogonality.max_abs_cosine": "at least",
    "orthogonality.ima_contrast": "at least",
    "orthogonality.mean_field_gap": "at least",
    "orthogonality.mutual_information": "at least",
    "orthogonality.alignment_p": "at most",
    "orthogonality.ima_contrast_held_out": "at least",
    "orthogonality.condition_number": "at least",
    "orthogonality.off_diagonal": "known",
    "orthogonality.off_diagonal_null": "known",
    "orthogonality.participation": "known",
    "orthogonality.mean_abs_cosine_gaussian": "known",
    "orthogonality.mutual_information_gaussian": "known",
}
# The channels of a site are no random part: what two of them share is nothing that others on the map share as well.
OF_ALL_SITES: dict[str, OfAll] = OF_ALL | {
    "orthogonality.mean_abs_cosine": "open",
    "orthogonality.mutual_information": "open",
}

# What numbers say of all latents where J is rank-deficient at some: there the contrast is larger than is known, or
# infinite, along the axes and along random ones by the same log det G, and the alignment divides by the latter.  What a
# rotation gains there, and what pairs share, is not known.
OF_FULL_RANK: dict[str, OfAll] = {
    "orthogonality.ima_contrast": "at least",
    "orthogonality.ima_contrast_null": "at least",
    "orthogonality.ima_contrast_held_out": "at least",
    "orthogonality.ima_contrast_rotated": "at least",
    "orthogonality.alignment": "at most",
    "orthogonality.fixable": "open",
    "orthogonality.distance_to_axes": "open",
    "orthogonality.mutual_information": "open",
    "orthogonality.mutual_information_null": "open",
    "orthogonality.condition_number": "at least",
}


def _mean(
    reading: Reading,
    id: str,
    values: Tensor,
    *,
    why: str | None = None,
    method: Literal["mean", "median"] = "mean",
    low: float = 0.0,
    high: float = math.inf,
    columns: Tensor | None = None,
    unseen: float = 0.0,
) -> Metric:
    """Return a metric that is the mean (or median) of one value per latent, with its interval.

    Args:
        low, high: what it cannot pass.
        columns: what each column that was drawn moves it by, for an interval over the choice of columns too.
        unseen: the most that columns which were not drawn may add.
    """
    x, n = values.double().numpy(), len(values)
    if why is None and n == 0:
        why = "no latent has a value"
    if why is not None:
        return Metric.undefined(SPECS[id], why)
    if method == "median":
        value, ci, how = float(np.median(x)), median_interval(x), "order statistics"
    else:
        drawn = () if columns is None else (columns.numpy(),)
        value, ci, how = (
            float(np.mean(x)),
            mean_interval(x, *drawn, low=low, high=high),
            "Student's t, skewness",
        )
        if ci is not None and columns is not None:
            ci, how = (ci[0], min(ci[1] + unseen, high)), f"{how}, over latents and columns drawn"
        if n == reading.samples:
            reading.per_sample[id] = tuple(x.tolist())
    how = f"{method} over latents" + (f", interval by {how}" if ci else "")
    return Metric(SPECS[id], value, ci=ci, level=LEVEL if ci else None, n=n, method=how)


def _mostly(lost: Tensor, what: str) -> str | None:
    """Return why a mean over the latents that are left says nothing of most, None where they are most."""
    count = int(lost.sum())
    return f"{what} at {count} of {len(lost)} latents" if 2 * count > len(lost) else None


def metrics_of(reading: Reading) -> list[Metric]:
    """Return every metric, in the order of the page, and keep the values behind means in `reading.per_sample`."""
    found = _all_metrics(reading)
    if reading.left_out and not reading.singular:
        zero = bool(reading.zero_columns.any())
        found = [_of_full_rank(m, reading.left_out, zero) for m in found]
    if reading.block is None:
        return found
    known = OF_ALL_SITES if reading.block.kind == "channels" else OF_ALL
    return [of_part(m, known) for m in found]


def _of_full_rank(metric: Metric, left_out: str, zero: bool) -> Metric:
    """Return a number over the latents where J has full rank with what it says of all.

    Args:
        zero: whether a column has length zero at some: it has no angles, and the limit of a short one may have any.
    """
    of_all = OF_FULL_RANK.get(metric.id)
    if of_all is None or not metric.defined:
        return metric
    if of_all == "at most" and isinstance(metric.value, float) and metric.value < 0:
        of_all = "at least"  # the alignment is nearer to 0
    if zero and metric.id != "orthogonality.condition_number":
        of_all = "open"
    return replace(metric, of_all=of_all, reason=left_out)


def _all_metrics(reading: Reading) -> list[Metric]:
    return [
        dim_beside(reading.decoder.latent_dim, None if reading.block is None else len(reading.block.names)),
        _active(reading),
        *_cosine_metrics(reading),
        *_contrast_metrics(reading),
        *_rotation_metrics(reading),
        _mean_field_gap(reading),
        *reading.whole.metrics,
        *_frame_metrics(reading),
        *_nats_metrics(reading),
        *_isometry_metrics(reading),
    ]


def _active(reading: Reading) -> Metric:
    if reading.rounding:
        return Metric.undefined(SPECS["latents.active"], reading.rounding.why)
    how = "" if reading.block is None else f"of {reading.block.words}"
    return Metric(SPECS["latents.active"], len(reading.active), n=len(reading.G), method=how)


def _cosine_metrics(reading: Reading) -> list[Metric]:
    cosine, both = reading.pairs
    some = both.any(1)
    cosine, both = torch.where(both, cosine, 0.0)[some], both[some]
    why = reading.no_pairs or _mostly(~some, "no two columns have a length")
    mean = cosine.sum(1) / both.sum(1)
    largest = cosine.amax(1) if cosine.shape[1] else mean
    null = Metric(
        SPECS["orthogonality.mean_abs_cosine_gaussian"], expected_abs_cosine(reading.decoder.data_dim)
    )
    columns = reading.moved_by_columns(reading.mean_cosines[0])
    # columns none of which was drawn, each along the others at worst
    unseen = min(rule_of_three(max(len(reading.active), 1)), 1 - reading.share_drawn) ** 2
    return [
        _mean(
            reading, "orthogonality.mean_abs_cosine", mean, why=why, high=1.0, columns=columns, unseen=unseen
        ),
        _mean(reading, "orthogonality.max_abs_cosine", largest, why=why, high=1.0),
        null,
    ]


def _contrast_metrics(reading: Reading) -> list[Metric]:
    gaussian_id = "orthogonality.ima_contrast_gaussian"
    out = [_mean(reading, "orthogonality.ima_contrast", reading.known_contrast, why=reading.singular)]
    if reading.left_out:  # what is known of them is no number to pair with a baseline's
        reading.per_sample.pop("orthogonality.ima_contrast", None)
    found = reading.alignment
    if found is None:
        why = reading.singular or ""
        ids = ("ima_contrast_null", "ima_contrast_gaussian")
        out += [Metric.undefined(SPECS[f"orthogonality.{name}"], why) for name in ids]
        return out + _alignment_metrics(
            reading,
            reading.gap_alignment if reading.low_rank else None,
            f"of the mean-field gap, {reading.noise}; ",
        )
    null, draws = found.null.numpy(), found.draws.numpy()
    expected = float(null.mean())
    if (
        len(null) == reading.samples and not reading.left_out
    ):  # a baseline draws the same rotations, so that latents can be paired
        reading.per_sample["orthogonality.ima_contrast_null"] = tuple(null.tolist())
    how = f"{len(draws)} Haar rotations, the same at every latent"
    out.append(
        Metric(
            SPECS["orthogonality.ima_contrast_null"],
            expected,
            ci=mean_interval(null, draws - draws.mean(), low=0.0),
            level=LEVEL if len(draws) > 1 else None,
            n=len(null),
            method=f"mean over latents and {how}; interval over both",
        )
    )
    gaussian = expected_contrast(len(reading.active), reading.decoder.data_dim)
    out.append(Metric(SPECS[gaussian_id], gaussian, method="closed form"))
    return out + _alignment_metrics(reading, found)


def _alignment_metrics(reading: Reading, found: Alignment | None, of: str = "") -> list[Metric]:
    """Return the alignment and its p-value.

    Args:
        of: what they are of, where it is not the contrast, as the start of the method.
    """
    if found is None or found.value is None or found.p_value is None:
        why = "G is a multiple of the identity: every basis of the latent space is orthogonal"
        if found is None:
            why = reading.singular or ""
        return [
            Metric.undefined(SPECS[f"orthogonality.{name}"], why) for name in ("alignment", "alignment_p")
        ]
    count = len(found.draws)
    how = f"{of}{count} Haar rotations, the same at every latent"
    value = Metric(
        SPECS["orthogonality.alignment"],
        found.value,
        ci=found.interval(),
        level=LEVEL if count > 1 else None,
        n=len(found.contrast),
        method=f"{how}; interval over latents and rotations",
    )
    p = Metric(
        SPECS["orthogonality.alignment_p"],
        found.p_value,
        ci=p_value_interval(found.p_value, count),
        level=LEVEL,
        n=count,
        method=f"Monte Carlo, {how}; interval over rotations",
    )
    return [value, p]


def _rotation_metrics(reading: Reading) -> list[Metric]:
    ids = [f"orthogonality.{name}" for name in ("ima_contrast_held_out", "ima_contrast_rotated", "fixable")]
    if isinstance(reading.search, str):
        return [Metric.undefined(SPECS[id], reading.search) for id in ids]
    assert reading.held_out is not None
    given, turned = reading.held_out
    return [
        _mean(reading, id, x, low=low)
        for id, x, low in zip(ids, (given, turned, given - turned), (0.0, 0.0, -math.inf), strict=True)
    ]


def _nats_metrics(reading: Reading) -> list[Metric]:
    """Entropies of latents and what pairs of them share, beside random axes and random columns."""
    names = ("entropy", "mutual_information", "mutual_information_null", "mutual_information_gaussian")
    specs = [SPECS[f"orthogonality.{name}"] for name in names]
    if reading.singular or reading.entropies is None:
        return [Metric.undefined(spec, reading.singular or "") for spec in specs]
    shared = pairwise_information(reading.usable).mean(1)
    by_rotation = torch.stack([each for _, each in reading.turned])
    null, draws = by_rotation.mean(0).numpy(), by_rotation.mean(1).numpy()
    return [
        Metric(
            specs[0],
            [value for value, _ in reading.entropies],
            n=len(reading.usable),
            method="mean over latents; intervals in the table",
        ),
        _mean(
            reading,
            specs[1].id,
            shared,
            columns=reading.moved_by_columns(shared_information(gram.column_cosines(reading.usable)).mean(0)),
        ),
        Metric(
            specs[2],
            float(null.mean()),
            ci=mean_interval(null, draws - draws.mean(), low=0.0),
            level=LEVEL,
            n=len(null),
            method=f"mean over latents and {len(draws)} Haar rotations; interval over both",
        ),
        Metric(specs[3], expected_contrast(2, reading.decoder.data_dim), method="closed form"),
    ]


def _isometry_metrics(reading: Reading) -> list[Metric]:
    spec, beside = (SPECS[f"orthogonality.isometry_defect{end}"] for end in ("", "_gaussian"))
    if reading.no_pairs or reading.decoder.data_dim < len(reading.active):
        why = reading.no_pairs or reading.singular or ""
        return [Metric.undefined(spec, why), Metric.undefined(beside, why)]
    s = reading.singular_values
    value, moved = isometry_defect(s)
    return [
        Metric(
            spec,
            value,
            ci=mean_interval(moved.numpy(), low=0.0, high=1.0),
            level=LEVEL,
            n=len(s),
            method="ratio of means over latents; interval by their influence",
        ),
        Metric(
            beside,
            expected_isometry_defect(len(reading.active), reading.decoder.data_dim),
            method="200 draws of a Gaussian matrix",
        ),
    ]


def _mean_field_gap(reading: Reading) -> Metric:
    id, b = "orthogonality.mean_field_gap", reading.beta_sigma2
    why = reading.no_pairs if reading.rounding or not len(reading.G) else None
    metric = _mean(reading, id, gram.mean_field_gap(reading.G, b), why=why)
    return replace(metric, method=f"{reading.noise}; {metric.method}") if metric.defined else metric


def _frame_metrics(reading: Reading) -> list[Metric]:
    def undefined(name: str) -> Metric:
        return Metric.undefined(SPECS[f"orthogonality.{name}"], reading.singular or "")

    whole = ~reading.zero_columns
    why = reading.no_pairs if reading.rounding or not len(reading.G) else None
    rank = _mean(
        reading, "orthogonality.effective_rank", gram.effective_rank(reading.all_singular_values), why=why
    )
    logs = gram.conformality(reading.sub[whole]) if reading.no_pairs is None else reading.contrast
    few = reading.no_pairs or _mostly(~whole, "an active column has length zero")
    spread = _mean(reading, "orthogonality.conformality", logs, why=few)
    if reading.singular:
        names = ("condition_number", "smallest_gap")
        return [undefined("distance_to_axes"), spread, rank, *(undefined(name) for name in names)]
    s, V = reading.frame
    return [
        _mean(reading, "orthogonality.distance_to_axes", distance_to_axes(s, V, tie=reading.tie)),
        spread,
        rank,
        _mean(reading, "orthogonality.condition_number", gram.condition_number(s), method="median"),
        _mean(reading, "orthogonality.smallest_gap", gram.smallest_gap(s), method="median"),
    ]
