"""Analyse trained decoders: Jacobians, seams, density factorisation, posteriors and linear VAEs.

>>> import torch, vaeprobe
>>> decoder = vaeprobe.Decoder(lambda z: z * torch.tensor([1.0, 2.0], dtype=z.dtype), latent_dim=2)
>>> vaeprobe.factorise(decoder, samples=64, seed=0).verdict
'linear'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from vaeprobe._version import __version__
from vaeprobe.probes import PROBES

if TYPE_CHECKING:
    from vaeprobe import engine
    from vaeprobe.api import beta, factorise, orthogonality, posterior, trace, train_linear
    from vaeprobe.checkpoints.loading import load
    from vaeprobe.checkpoints.looking import inspect
    from vaeprobe.checkpoints.whole import from_module
    from vaeprobe.comparison.run import compare
    from vaeprobe.decoder import Decoder, Group
    from vaeprobe.encoder import Encoder
    from vaeprobe.errors import VaeprobeError
    from vaeprobe.likelihoods import (
        Bernoulli,
        Categorical,
        Gaussian,
        Multinomial,
        NegativeBinomial,
        Poisson,
        ZeroInflatedNegativeBinomial,
    )
    from vaeprobe.linear.estimators import PPCA, LinearVAE
    from vaeprobe.overview.run import survey
    from vaeprobe.prior import LearnedPrior
    from vaeprobe.traversal.run import traverse

__all__ = [
    "load", "from_module", "inspect", "Decoder", "Encoder", "Group", "LearnedPrior",
    "orthogonality", "factorise", "trace", "posterior", "beta",
    "traverse", "survey", "compare", "PPCA", "LinearVAE", "train_linear", "Callback",
    "Gaussian", "Bernoulli", "Poisson", "Categorical", "Multinomial", "NegativeBinomial",
    "ZeroInflatedNegativeBinomial",
    "VaeprobeError",
    "engine",
    "__version__",
]  # fmt: skip

_HOME = {
    "load": "vaeprobe.checkpoints.loading",
    "inspect": "vaeprobe.checkpoints.looking",
    "from_module": "vaeprobe.checkpoints.whole",
    **dict.fromkeys(("Decoder", "Group"), "vaeprobe.decoder"),
    "Encoder": "vaeprobe.encoder",
    "LearnedPrior": "vaeprobe.prior",
    **dict.fromkeys(PROBES, "vaeprobe.api"),
    **dict.fromkeys(("PPCA", "LinearVAE"), "vaeprobe.linear.estimators"),
    **dict.fromkeys(
        (
            "Gaussian",
            "Bernoulli",
            "Poisson",
            "Categorical",
            "Multinomial",
            "NegativeBinomial",
            "ZeroInflatedNegativeBinomial",
        ),
        "vaeprobe.likelihoods",
    ),
    "VaeprobeError": "vaeprobe.errors",
    "Callback": "vaeprobe.callback",
    "compare": "vaeprobe.comparison.run",
    "traverse": "vaeprobe.traversal.run",
    "survey": "vaeprobe.overview.run",
}


def __getattr__(name: str) -> object:
    """Import public names on first use, so that `import vaeprobe` stays fast (PEP 562)."""
    if name == "engine":
        return import_module("vaeprobe.engine")
    if name not in _HOME:
        raise AttributeError(f"module 'vaeprobe' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
