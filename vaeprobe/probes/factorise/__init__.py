"""Does the generated density factorise: probe, numbers, pictures, words."""

from vaeprobe.probes.factorise.metrics import METRICS
from vaeprobe.probes.factorise.probe import Factorise, FactoriseResult

__all__ = ["METRICS", "Factorise", "FactoriseResult"]
