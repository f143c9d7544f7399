"""How an encoder's outputs can be read, and which reading the likelihood bears out.

What stands in a file is a row of numbers per data row; that the second half are log-variances, and not log
standard deviations, precisions or the means of other latents, is nowhere written.  The identities of the optimum
(`vaeprobe.inference.identity`) tell: under the right reading means, variances, latents and rows ask for one beta.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from vaeprobe.inference.collapse import informative

__all__ = ["SECONDS", "LayoutReading", "defect", "readings"]

FLAT = 0.01  # variance of a log-variance over the rows below which it is as good as constant


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


# what the second output may be: (log variance of it, it of the log variance)
SECONDS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "log_variance": (lambda s: s, lambda v: v),
    "log_sd": (lambda s: 2 * s, lambda v: v / 2),
    "variance": (lambda s: s.log(), lambda v: v.exp()),
    "sd": (lambda s: 2 * s.log(), lambda v: (v / 2).exp()),
    "softplus_variance": (lambda s: softplus(s).log(), lambda v: _inverse_softplus(v.exp())),
    "softplus_sd": (lambda s: 2 * softplus(s).log(), lambda v: _inverse_softplus((v / 2).exp())),
    "log_precision": (lambda s: -s, lambda v: -v),
    "precision": (lambda s: -s.log(), lambda v: (-v).exp()),
    "softplus_precision": (lambda s: -softplus(s).log(), lambda v: _inverse_softplus((-v).exp())),
}
WORDS = {
    "log_variance": "log-variances",
    "log_sd": "log standard deviations",
    "variance": "variances",
    "sd": "standard deviations",
    "softplus_variance": "variances before their softplus",
    "softplus_sd": "standard deviations before their softplus",
    "log_precision": "log-precisions",
    "precision": "precisions",
    "softplus_precision": "precisions before their softplus",
}
ORDERS = {
    "": "",
    "swapped": "second outputs first, then means",
    "interleaved": "interleaved, (mean, second) per latent",
    "interleaved swapped": "interleaved, (second, mean) per latent",
    "chunked": "chunked, all means first",
    "chunked swapped": "chunked, all second outputs first",
}
LARGEST = 20.0  # log variance


@dataclass(frozen=True, eq=False)
class LayoutReading:
    """Means and log-variances as one layout of the encoder's outputs has them.

    Attributes:
        order: a key of `ORDERS`, "" for the order as it was read.
        second: a key of `SECONDS`.
        mean, log_variance: shape (n, k).
    """

    order: str
    second: str
    mean: Tensor
    log_variance: Tensor

    @property
    def words(self) -> str:
        """What to call it in a sentence: "read as ...".

        >>> one = torch.ones(1, 2)
        >>> Reading("interleaved", "log_sd", one, one).words
        'interleaved, (mean, second) per latent, the second being log standard deviations'
        """
        if not self.order:
            return WORDS[self.second]
        if self.second == "log_variance":
            return (
                ORDERS[self.order]
                .replace("second outputs", "log-variances")
                .replace("second", "log variance")
            )
        return f"{ORDERS[self.order]}, the second being {WORDS[self.second]}"


def readings(mean: Tensor, log_variance: Tensor, second: str = "log_variance") -> Iterator[LayoutReading]:
    """Yield what other layouts make of the same outputs, where the variances are positive and no overflow.

    Args:
        mean, log_variance: as read, shape (n, k).
        second: what the second output was read as.
    """
    n, k = mean.shape
    raw = SECONDS[second][1](log_variance)
    orders = {"": (mean, raw), "swapped": (raw, mean)}
    if k > 1:
        pairs = torch.cat([mean, raw], dim=1).view(n, k, 2)
        halves = torch.stack([mean, raw], dim=2).reshape(n, 2 * k)
        orders["interleaved"] = (pairs[:, :, 0], pairs[:, :, 1])
        orders["interleaved swapped"] = (pairs[:, :, 1], pairs[:, :, 0])
        orders["chunked"] = (halves[:, :k], halves[:, k:])
        orders["chunked swapped"] = (halves[:, k:], halves[:, :k])
    for order, (e, s) in orders.items():
        for name, (of, _) in SECONDS.items():
            if not order and name == second:
                continue
            found = of(s)
            if torch.isfinite(found).all() and float(found.abs().max()) < LARGEST:
                yield LayoutReading(order, name, e, found)


def defect(mean: Tensor, log_variance: Tensor, curvature: Tensor, score: Tensor) -> float:
    """Return how far posteriors are from obeying the identities of the optimum, 0 where one beta serves them all.

    The sum of three squares: the spread of log beta_i over the latents; the slope at which the residual of the
    precision identity follows the log-variance over the rows; log(beta by the means / beta by the variances), at
    most 2.  Infinite where no latent says anything or a beta_i is negative.  Unlike a divergence it is 0 for
    every encoder trained to the end, however badly it serves single rows.

    Args:
        mean, log_variance: of the posteriors, shape (n, k).
        curvature: h_i, shape (n, k).
        score: E_q[d_i log p(x|z)], shape (n, k).
    """
    variance = log_variance.exp()
    active = informative(mean, variance)
    if not bool(active.any()):
        return math.inf
    S, v, h, e, g = (t[:, active] for t in (variance, log_variance, curvature, mean, score))
    top, bottom = S * h, 1 - S
    own, beta = top.sum(0) / bottom.sum(0), top.sum() / bottom.sum()
    if not bool((own > 0).all()):
        return math.inf
    share = bottom.mean(0) / bottom.mean(0).sum()
    centred = v - v.mean(0)
    flat = centred.square().mean(0).clamp_min(FLAT)
    slope = ((top - own * bottom) * centred).mean(0) / (own * flat)
    w = S.mean(0)
    by_means = (w * e * g).sum() / (w * e.square()).sum()
    apart = min(4.0, float((by_means / beta).log().square())) if by_means > 0 else 4.0
    return float((share * ((own / beta).log().square() + slope.square())).sum()) + apart
