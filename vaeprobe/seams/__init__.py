"""Seams: paths through latent space that follow one right singular vector of the decoder's Jacobian.

Source: Allen (2024), arXiv:2410.22559v1, Section 4.1.3 (sub-manifolds M_i) and footnote 5.
"""

from vaeprobe.seams.loops import LoopDefects, loop_defects
from vaeprobe.seams.paths import Paths
from vaeprobe.seams.schemes import texture
from vaeprobe.seams.seam import Event, Seam
from vaeprobe.seams.tracing import trace_paths

__all__ = ["Event", "LoopDefects", "Paths", "Seam", "loop_defects", "texture", "trace_paths"]
