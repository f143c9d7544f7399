"""Seams, followed through latent and data space: probe, numbers, pictures, words."""

from vaeprobe.probes.trace.metrics import METRICS
from vaeprobe.probes.trace.probe import Trace, TraceResult, parse_components

__all__ = ["METRICS", "Trace", "TraceResult", "parse_components"]
