"""The beta that a checkpoint was trained at: probe, numbers, pictures, words."""

from vaeprobe.probes.beta.metrics import METRICS
from vaeprobe.probes.beta.probe import Beta, BetaResult

__all__ = ["METRICS", "Beta", "BetaResult"]
