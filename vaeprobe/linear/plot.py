"""Spectrum, learning curves and column images as a picture file; needs matplotlib."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vaeprobe.errors import MissingExtraError, UsageError
from vaeprobe.pictures import signed_image
from vaeprobe.writing import write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaeprobe.linear.certificate import Certificate
    from vaeprobe.linear.closed_form import Solution
    from vaeprobe.linear.spectrum import Spectrum

SUFFIXES = (".png", ".svg", ".pdf")


def draw(
    spectrum: Spectrum,
    solution: Solution,
    certificates: Sequence[Certificate],
    row_shape: tuple[int, ...],
    path: Path,
) -> None:
    """Write the picture of a result whose rows had the given shape.

    Raises:
        MissingExtraError: matplotlib is not installed.
        UsageError: the suffix names no picture format.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"`{path.suffix}` is no picture format", hint=f"end the name in {', '.join(SUFFIXES)}"
        )
    try:
        Figure = import_module("matplotlib.figure").Figure
        FigureCanvas = import_module("matplotlib.backends.backend_agg").FigureCanvasAgg
    except ImportError:
        raise MissingExtraError("--plot needs matplotlib", hint="pip install 'vaeprobe[plot]'") from None

    shape = tuple(k for k in row_shape if k != 1)
    pictured = len(shape) == 2 and len(row_shape) > 1
    images = np.flatnonzero(solution.active)[:12].tolist() if pictured else []
    figure = Figure(figsize=(10, 3.6 + (1.8 if len(images) else 0)), layout="constrained")
    FigureCanvas(figure)
    grid = figure.add_gridspec(2 if len(images) else 1, 12, height_ratios=[2, 1] if len(images) else [1])

    axis = figure.add_subplot(grid[0, :6] if certificates else grid[0, :])
    values = spectrum.values[: max(4 * solution.d, 40)]
    axis.semilogy(np.arange(1, len(values) + 1), np.maximum(values, 1e-300), "o-", markersize=3)
    axis.axhline(solution.tau, linestyle="--", color="tab:red", label="collapse threshold βσ²")
    axis.axvline(solution.d + 0.5, linestyle=":", color="gray", label="latent dimension")
    lowest = min(float(values[-1]), solution.tau)
    axis.set_ylim(bottom=max(lowest / 2, float(values[0]) * 1e-8))
    axis.set(xlabel="index", ylabel="eigenvalue", title="Spectrum")
    axis.legend(fontsize="small")
    if certificates:
        axis = figure.add_subplot(grid[0, 6:])
        for c in certificates:
            steps, gaps = zip(*c.run.trace, strict=True)
            axis.loglog(np.maximum(steps, 1), np.maximum(gaps, 1e-16), label=c.run.method)
        axis.set(xlabel="step", ylabel="gap to the optimum (nats per row)", title="Learning curves")
        axis.legend(fontsize="small")
    for k, i in enumerate(images):
        axis = figure.add_subplot(grid[1, k])
        axis.imshow(signed_image(solution.vectors[:, i].reshape(shape)), interpolation="nearest")
        axis.set_title(f"z{i}", fontsize="small")
        axis.axis("off")
    write(path, lambda place: figure.savefig(place, dpi=150))
