"""How orthogonal the Jacobian's columns are: probe, numbers, pictures, words."""

from vaeprobe.probes.orthogonality.metrics import METRICS
from vaeprobe.probes.orthogonality.probe import Orthogonality, OrthogonalityResult

__all__ = ["METRICS", "Orthogonality", "OrthogonalityResult"]
