"""`vaeprobe compare`: models side by side, and whether they have the same latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vaeprobe.cli import loading, options
from vaeprobe.cli.output import Document, progress_bar
from vaeprobe.errors import UsageError


@options.taking(loading.LOADING, options.DOCUMENT)
def compare(
    models: Annotated[list[Path], typer.Argument(help="Two or more checkpoints.", show_default=False)],
    *,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data rows, for agreement: which latent of one is which of the other.", metavar="FILE"
        ),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", help="Latents, and data rows.", min=8)] = 256,
    rotations: Annotated[int, typer.Option(help="Random rotations for the nulls.", min=1)] = 199,
    seed: Annotated[int, typer.Option(help="Seed of every draw.", min=0)] = 0,
    **values: Any,
) -> int:
    """Put models side by side on the same latents; with data, say which latent of one is which of the other.

    Agreement is held against random rotations of the latent space: two models of the same density may share a
    space of factors and still not the factors.

    Examples:
        vaeprobe compare a.safetensors b.safetensors
        vaeprobe compare seed1.pt seed2.pt seed3.pt --data validation.npy -v
    """
    if len(models) < 2:
        raise UsageError("a comparison takes at least two models", hint="vaeprobe compare A B")
    document = Document.asked(values)
    read = [path for model in models for path in loading.inputs(model, {**values, "data": data})]
    document.ready(inputs=read)
    with progress_bar(document.progress):
        decoders = [loading.load(model, **loading.chosen(values)) for model in models]
        from vaeprobe.comparison.run import compare as run

        result = run(decoders, data=data, samples=samples, rotations=rotations, seed=seed)
    return document.emit(result)
