"""The encoder's posteriors against the likelihood's Hessian: probe, numbers, pictures, words."""

from vaeprobe.probes.posterior.metrics import METRICS
from vaeprobe.probes.posterior.probe import Posterior, PosteriorResult

__all__ = ["METRICS", "Posterior", "PosteriorResult"]
