"""PPCA and linear VAEs of data against their closed forms: probe, numbers, pictures, words (and metrics)."""

from vaeprobe.probes.train_linear.metrics import METRICS
from vaeprobe.probes.train_linear.probe import LinearResult, TrainLinear

__all__ = ["METRICS", "LinearResult", "TrainLinear"]
