"""The variance of a Gaussian likelihood that was learned: one number in the file, beside encoder and decoder.

Files of `vaeprobe train-linear` say it in their metadata.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from vaeprobe.checkpoints.network.parts import Parts

__all__ = ["RECORD_KEY", "LearnedVariance", "learned", "name_of", "recorded", "with_variance"]

RECORD_KEY = "vaeprobe.train_linear"  # of the metadata in which `train-linear` says how it trained

# the last part of a name -> by what its number is multiplied to give log sigma^2
NAMES = {
    **dict.fromkeys(("log_sigma", "logsigma", "log_scale", "logscale", "log_sd", "log_std", "logstd"), 2.0),
    **dict.fromkeys(("logvar", "log_var", "log_variance", "log_sigma2", "logsigma2"), 1.0),
}
# scales that are not the likelihood's: of posteriors and priors
OTHERS = ("enc", "posterior", "prior", "latent", "flow", "quant")
# a loss with these parts measures |x - x'| and features, of which the number is no variance (latent diffusion's)
NO_SQUARES = ("perceptual", "lpips", "discriminator")


@dataclass(frozen=True)
class LearnedVariance:
    """A learned variance.

    Attributes:
        name: of the tensor, or of the metadata.
        sigma2: the variance.
        words: how it follows from the file.
    """

    name: str
    sigma2: float
    words: str


def name_of(sizes: Mapping[str, int]) -> str | None:
    """Return the name of the one number that is a likelihood's log scale; None where there is none, or several.

    Args:
        sizes: how many numbers each tensor of the file holds.
    """
    found = [name for name, size in sizes.items() if size == 1 and _is_scale(name)]
    if len(found) != 1:
        return None
    beside = found[0].rpartition(".")[0]
    return None if beside and _measures_features(beside, sizes) else found[0]


def learned(tensors: Mapping[str, Tensor]) -> LearnedVariance | None:
    """Return the variance that the tensors of a file hold, if any."""
    name = name_of({key: t.numel() for key, t in tensors.items()})
    if name is None or not tensors[name].is_floating_point():
        return None
    times = NAMES[name.rpartition(".")[2].lower()]
    log_variance = times * float(tensors[name].detach().double())
    if not abs(log_variance) < 300:  # also NaN: no variance that float64 holds well
        return None
    sigma2 = math.exp(log_variance)
    factor = "" if times == 1 else f"{times:g} "
    return LearnedVariance(name, sigma2, f"learned sigma^2 = exp({factor}{name}) = {sigma2:.4g}")


def recorded(metadata: Mapping[str, str]) -> LearnedVariance | None:
    """Return the variance that `train-linear` wrote into a file's metadata, if any."""
    try:
        record = json.loads(metadata.get(RECORD_KEY, "null"))
    except (ValueError, RecursionError):
        return None
    sigma2: Any = record.get("sigma2") if isinstance(record, dict) else None
    numeric = isinstance(sigma2, (int, float)) and not isinstance(sigma2, bool)
    if not numeric or not math.exp(-300) < sigma2 < math.exp(300):  # also NaN
        return None
    return LearnedVariance(RECORD_KEY, sigma2, f"sigma^2 = {sigma2:.4g} by train-linear")


def with_variance(parts: Parts, variance: LearnedVariance | None) -> Parts:
    """Return the parts with a learned variance, said in how the network was known; as they are for other likelihoods."""
    if variance is None or parts.likelihood not in (None, "gaussian") or parts.sigma2 is not None:
        return parts
    how = f"{parts.architecture}, {variance.words}".lstrip(", ")
    return replace(parts, sigma2=variance.sigma2, architecture=how)


def _is_scale(name: str) -> bool:
    *rooms, last = name.lower().split(".")
    return last in NAMES and not any(room.startswith(OTHERS) for room in rooms)


def _measures_features(room: str, names: Iterable[str]) -> bool:
    return any(n.startswith(f"{room}.") and any(w in n.lower() for w in NO_SQUARES) for n in names)
