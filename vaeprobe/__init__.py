"""Analyse trained decoders: Jacobians, seams, density factorisation, posteriors and linear VAEs."""

from __future__ import annotations

from vaeprobe._version import __version__

__all__ = ["__version__"]
