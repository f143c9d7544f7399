"""`vaeprobe demo`: a theorem of the paper, shown on models that are trained on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vaeprobe.cli import options
from vaeprobe.cli.output import Document, progress_bar
from vaeprobe.errors import UsageError


@options.taking(options.document(without=("output", "verbose")))  # its one file is the figure
def demo(
    name: Annotated[
        Literal["theorem3"],
        typer.Argument(help="theorem3: beta and sigma^2 do the same to a VAE.", show_default=False),
    ],
    *,
    figure: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the figure to this SVG file.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the training.", min=0)] = 0,
    steps: Annotated[int, typer.Option("--steps", help="Adam steps for each model.", min=1)] = 1000,
    **values: object,
) -> int:
    """Train small VAEs over a range of beta and of sigma^2, and show that only their product matters.

    On points of two circles, as in Figure 3 of Allen (2024); takes less than a minute and needs no model.

    Examples:
        vaeprobe demo theorem3 -o circles.svg
    """
    from vaeprobe.inference.theorem3 import theorem3

    if figure is not None and figure.suffix != ".svg":
        raise UsageError(f"cannot write `{figure}`", hint="the figure is an SVG: name the output *.svg")
    document = Document.asked(values)
    document.ready([figure])
    with progress_bar(document.progress):
        result = theorem3(steps=steps, seed=seed)
    return document.emit(result, {"figure": figure} if figure is not None else {})
