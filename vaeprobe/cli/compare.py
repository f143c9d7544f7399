"""`vaeprobe compare`: models side by side, whether they have the same latents, and which to keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vaeprobe.cli import loading, options
from vaeprobe.cli.output import Document, deliver, tell_limits
from vaeprobe.cli.running import BUDGET, running
from vaeprobe.errors import UsageError
from vaeprobe.render import RENDERERS, Renderer

CompareFormat = Literal["text", "json", "markdown", "html", "csv"]
KNOWN = {**RENDERERS, "csv": Renderer("vaeprobe.comparison.result", (".csv",))}


@options.taking(BUDGET, loading.LOADING, options.DOCUMENT)
def compare(
    models: Annotated[list[Path], typer.Argument(help="Two or more checkpoints.", show_default=False)],
    *,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data rows at which codes are compared (default: outputs of the models).", metavar="FILE"
        ),
    ] = None,
    factors: Annotated[
        str | None,
        typer.Option(help="Known factors of the data's rows (.npy): MIG, DCI and MCC.", metavar="FILE"),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(help="Sort the table of models by a column or metric, best first.", metavar="COLUMN"),
    ] = None,
    samples: options.Samples = 256,
    rotations: Annotated[int, typer.Option(help="Random rotations for the nulls.", min=1)] = 199,
    seed: options.Seed = 0,
    format: Annotated[
        CompareFormat | None,
        typer.Option(
            "--format",
            help="The document on stdout (default: text, or by -o's suffix).",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    **values: Any,
) -> int:
    """Put models side by side on the same latents, say which latent of one is which of another, and which to keep.

    Agreement is held against random rotations of the latent space: two models of the same density may share a
    space of factors and still not the factors. Codes are the encoders' means, without one those of the nearest
    outputs. Names that differ in one number (beta, seed, step) are a sweep: one table, one picture.

    Examples:
        vaeprobe compare a.safetensors b.safetensors
        vaeprobe compare seed1.pt seed2.pt seed3.pt --data x.npy -v
        vaeprobe compare beta*.pt --data x.npy --factors f.npy --sort MIG
        vaeprobe compare beta*.pt --data x.npy -o table.csv
    """
    if len(models) < 2:
        raise UsageError("a comparison takes at least two models", hint="vaeprobe compare A B")
    document = Document.asked({**values, "format": format}, KNOWN)
    read = [path for model in models for path in loading.inputs(model, {**values, "data": data})]
    document.ready([values["resume"]], inputs=[*read, factors])
    with running(document, values) as work:
        decoders = work.loaded(lambda: [loading.load(model, **loading.chosen(values)) for model in models])
        from vaeprobe.comparison.run import compare as run

        found = run(
            decoders, data=data, factors=factors, sort=sort, samples=samples, rotations=rotations, seed=seed
        )
        result = work.told(found)
    if document.format != "csv":
        return document.emit(result)
    deliver(lambda _: result.csv(), document.place, document.quiet)
    tell_limits(result, document.quiet)
    return result.exit_code
