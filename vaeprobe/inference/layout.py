"""Do an encoder, a decoder and data belong together?  Checked by decoding the data's own codes.

The commonest mistake is the layout of the encoder's outputs: means and log-variances in the wrong places
make every later number meaningless, and nothing in a file rules it out.  The data do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.engine.verbs import gram
from vaeprobe.errors import InputError, UsageError
from vaeprobe.findings import NO_BETTER_THAN_CHANCE
from vaeprobe.inference.collapse import informative
from vaeprobe.inference.elbo import kl_per_latent
from vaeprobe.inference.moments import PosteriorMoments, log_density_and_score, with_codes
from vaeprobe.inference.readings import LayoutReading, defect, readings
from vaeprobe.intervals import stream, student_quantile
from vaeprobe.likelihoods import Likelihood
from vaeprobe.report import Finding

__all__ = ["better_reading", "check_data", "check_layout", "how_to_say"]

COLLAPSED_KL = 0.1  # nats: an encoder that says less than this reconstructs no better than chance, rightly
READ_ROWS = 64  # that other layouts are tried on
DEFECT, FAR_BETTER = (
    0.25,
    4.0,
)  # a defect under the first needs no other layout; how much smaller another's must be
LEFT_OVER = 0.6  # and the largest that another's may be: encoders trained to the end are below it
ALIKE = 0.01  # defects that near are the same: the plainer layout, which comes first, is named
THREE_SIGMA = 0.99865  # how sure what many rows show within three standard errors is
# second outputs that a blueprint can name
SAYABLE = ("log_variance", "log_sd", "variance", "sd", "softplus_variance", "softplus_sd")


def check_data(decoder: Decoder, x: Tensor, likelihood: Likelihood) -> None:
    """Check that data rows fit the decoder's output and the likelihood.

    Raises:
        UsageError: the rows have another size than the decoder's output, or values outside the
            likelihood's support; the decoder's outputs are no means of that likelihood.
    """
    likelihood.check_rows(x, decoder.output_shape)
    if decoder.parameter == "mean":
        with torch.no_grad():
            wrong = likelihood.misfit(decoder.flat(cpu.zeros(1, decoder.latent_dim)))
        if wrong is not None:
            raise UsageError(
                wrong,
                hint='if they are logits or log-rates, say parameter = "natural" in the blueprint',
            )


def check_layout(
    decoder: Decoder, encoder: Encoder, x: Tensor, likelihood: Likelihood, *, seed: int = 0, rows: int = 128
) -> tuple[Finding, ...]:
    """Check that the encoder's codes reconstruct the data better than the mean image, with a finite KL.

    Returns:
        a finding where they do not, no other layout does either, and the rows would have shown it.

    Raises:
        InputError: another layout of the encoder's outputs clearly serves the data better, or the KL is
            not finite.
    """
    x = x[:rows]
    mean, log_variance = (t.double().cpu() for t in encoder(x))
    kl = kl_per_latent(mean, log_variance.exp()).sum(1)
    broken = int((~torch.isfinite(kl)).sum())
    if broken:
        raise InputError(
            f"the encoder's KL is not finite on {broken} of {len(x)} data rows",
            hint="a precision, a variance or a standard deviation read as a log-variance? name it in the "
            "blueprint's [encoder]",
        )
    noise = torch.from_numpy(stream(seed, "layout").standard_normal(tuple(mean.shape)))
    chance = _chance(x, likelihood, decoder.data_dim)

    def quality(mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        z = mean + noise * (0.5 * log_variance).exp()
        value, _ = log_density_and_score(decoder, likelihood, x, with_codes(decoder, likelihood, x, z))
        return value, value - kl_per_latent(mean, log_variance.exp()).sum(1)

    given, given_elbo = quality(mean, log_variance)
    if _clearly_positive(given - chance) or float(kl.mean()) < COLLAPSED_KL:
        return ()
    best, found = given_elbo, None
    for reading in readings(mean, log_variance, encoder.second):
        value, elbo = quality(reading.mean, reading.log_variance)
        if _clearly_positive(value - chance) and _clearly_positive(elbo - best):
            best, found = elbo, reading
    gap = float((chance - given).mean())
    if found is not None:
        raise InputError(
            f"the encoder's codes reconstruct the data {abs(gap):.4g} nats a row {_side(gap)} than the mean "
            f"image does: its outputs are laid out otherwise",
            hint=f"read as {found.words} they gain {float((best - given_elbo).mean()):.4g} nats: "
            f"{how_to_say(found)}",
        )
    if _may_gain(given - chance, kl):
        return ()
    return (
        Finding(
            NO_BETTER_THAN_CHANCE,
            f"the encoder's codes reconstruct the data {abs(gap):.4g} nats a row {_side(gap)} than the mean "
            "image does",
            hint="other data than it was trained on, another scaling, or a wrong layout of the encoder's outputs",
        ),
    )


def better_reading(
    decoder: Decoder, encoder: Encoder, x: Tensor, likelihood: Likelihood, moments: PosteriorMoments
) -> tuple[LayoutReading, float] | None:
    """Return the layout of the encoder's outputs that obeys the identities of the optimum far better, and its beta.

    Only where the given one does not obey them: its defect (`vaeprobe.inference.readings.defect`) is above 0.25 and
    four times that of the other.  Curvature and score are taken at the means, without averaging over the posterior.

    Args:
        x: data rows, shape (n, ...), and `moments` those of the given layout.
    """
    given = defect(moments.mean, moments.variance.log(), moments.curvature, moments.score)
    if given < DEFECT or float(kl_per_latent(moments.mean, moments.variance).sum(1).mean()) < COLLAPSED_KL:
        return None
    rows = x[:READ_ROWS]
    mean, log_variance = (t.double().cpu() for t in encoder(rows))
    seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def at(e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = with_codes(decoder, likelihood, rows, e)
        value, score = log_density_and_score(decoder, likelihood, rows, z)
        h = gram(decoder, z, likelihood=likelihood).diagonal(dim1=1, dim2=2)
        copies = likelihood.copies(rows)
        return value, score, h if copies is None else h * copies[:, None].cpu()

    seen[""] = at(mean)
    best, found = min(given, defect(mean, log_variance, seen[""][2], seen[""][1])) / FAR_BETTER, None
    for reading in readings(mean, log_variance, encoder.second):
        if reading.order not in seen:
            seen[reading.order] = at(reading.mean)
        value, score, h = seen[reading.order]
        if float((value - seen[""][0]).mean()) < 0:
            continue  # its means reconstruct worse than the given ones
        other = defect(reading.mean, reading.log_variance, h, score)
        if other < min(best - ALIKE * (found is not None), LEFT_OVER):
            best, found = other, reading
    if found is None:
        return None
    S = found.log_variance.exp()
    active = informative(found.mean, S)
    top, bottom = (S * seen[found.order][2])[:, active], (1 - S)[:, active]
    return found, float(top.sum() / bottom.sum())


def how_to_say(reading: LayoutReading) -> str:
    """Return what to do so that the encoder is read that way."""
    if reading.second not in SAYABLE or reading.order.endswith("swapped"):
        return "wrap the encoder so that it returns (mean, log variance)"
    parts = [f'output = "{reading.order}"'] if reading.order else []
    if reading.second != "log_variance":
        parts.append(f'second = "{reading.second}"')
    return f"say {' and '.join(parts)} in the blueprint's [encoder], or let a function of your own return (mean, log variance)"


def _side(gap: float) -> str:
    return "worse" if gap > 0 else "better"


def _chance(x: Tensor, likelihood: Likelihood, outputs: int) -> Tensor:
    """Return log p(x | mean image), shape (n,)."""
    rows = likelihood.rows(x, outputs).flatten(1).double().cpu()
    centre = likelihood.constant(rows)
    return likelihood.log_density(rows, centre.expand(len(rows), -1), "mean")


def _may_gain(gain: Tensor, kl: Tensor) -> bool:
    """Whether the codes may gain what they cost, for all that the rows show: the least they do at the optimum of beta = 1.

    Posteriors of a few tenths of a nat gain less than single draws at some rows can show, and that a gain was not
    shown is no sign that there is none.
    """
    difference = gain - kl
    return float(difference.mean()) > -_uncertainty(difference)


def _clearly_positive(difference: Tensor) -> bool:
    return float(difference.mean()) > _uncertainty(difference)


def _uncertainty(values: Tensor) -> float:
    """Return three standard errors of a mean, of few values as many as Student's t takes for the same certainty."""
    n = len(values)
    if n < 2:
        return 0.0
    return student_quantile(THREE_SIGMA, n - 1) * float(values.std()) / math.sqrt(n)
