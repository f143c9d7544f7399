"""Does the encoder invert the decoder?  |e(f(z)) - z|^2 against the variance that the posteriors claim.

Where the noise is small the optimal encoder returns, for the output of a latent, that latent; what it misses is far
less than the posterior's variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.engine.remembered import recalled
from vaeprobe.errors import VaeprobeError
from vaeprobe.inference.moments import PosteriorMoments, with_codes
from vaeprobe.intervals import mean_interval, stream
from vaeprobe.likelihoods import Likelihood

__all__ = ["Consistency", "self_consistency"]


@dataclass(frozen=True)
class Consistency:
    """How far encoding what was decoded ends from where it began.

    Attributes:
        value: mean |e(f(z)) - z|^2 over the mean of tr Sigma(f(z)), over the latents in use.
        ci: its interval.
        null: the same with the codes of other rows.
    """

    value: float
    ci: tuple[float, float] | None
    null: float


def self_consistency(
    decoder: Decoder,
    encoder: Encoder,
    x: Tensor,
    likelihood: Likelihood,
    moments: PosteriorMoments,
    used: Tensor,
    *,
    seed: int = 0,
) -> Consistency | str:
    """Return how well the encoder returns the latents of decoded posterior draws, or why that cannot be said.

    Args:
        x: data rows that the moments are of, shape (n, ...); one draw z ~ q(z|x) is taken for each.
        used: latents that carry something, shape (k,), bool.

    Source: Reizinger et al. (2022), arXiv:2206.02416, Definition of self-consistency.
    """
    if not bool(used.any()):
        return "every latent collapsed"
    noise = torch.from_numpy(stream(seed, "self-consistency").standard_normal(tuple(moments.mean.shape)))
    z = moments.mean + moments.variance.sqrt() * noise

    def returned(at: Tensor) -> tuple[Tensor, Tensor]:
        full = with_codes(decoder, likelihood, x[at], z[at])
        with torch.no_grad():
            if decoder.natural_for(likelihood):
                outputs = likelihood.mean(decoder.natural_flat(full).double())
            else:
                outputs = decoder.flat(full).double()
            mean, log_variance = encoder(outputs)
        return mean.double().cpu(), log_variance.double().cpu()

    try:
        mean, log_variance = recalled(
            ("self-consistency", decoder, encoder, likelihood), [x, noise], returned
        )
    except VaeprobeError as error:
        return f"the encoder does not take the decoder's outputs: {error.message}"
    mean, variance, z = mean[:, used], log_variance.exp()[:, used], z[:, used]
    off, claimed = (mean - z).square().sum(1), variance.sum(1)
    if not bool(torch.isfinite(off).all() & torch.isfinite(claimed).all()):
        return "the encoder's posterior of a decoded latent is not finite"
    value = float(off.mean() / claimed.mean())
    # what one row moves the ratio of two means by, to first order
    moved = value + (off - value * claimed) / claimed.mean()
    others = (mean.roll(1, 0) - z).square().sum(1)
    return Consistency(value, mean_interval(moved.numpy(), low=0.0), float(others.mean() / claimed.mean()))
