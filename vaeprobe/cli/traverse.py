"""`vaeprobe traverse`: what each latent does, as pictures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from vaeprobe.cli import loading, options
from vaeprobe.cli.output import Document, deliver, tell_limits, wrote
from vaeprobe.cli.output import document as text_of
from vaeprobe.cli.running import BUDGET, running
from vaeprobe.errors import UsageError
from vaeprobe.render import RENDERERS, Renderer

# what a file is by its suffix, beside the documents
PICTURES = {"png": Renderer("", (".png",)), "svg": Renderer("", (".svg",))}


@options.taking(BUDGET, loading.LOADING, options.DOCUMENT)
def traverse(
    model: options.ModelPath,
    *,
    data: Annotated[
        str | None,
        typer.Option(help="Data rows: strips over the range of their codes.", metavar="FILE"),
    ] = None,
    reach: Annotated[float, typer.Option(help="How far to go each way, without --data.", min=1e-6)] = 3.0,
    frames: Annotated[int, typer.Option(help="Outputs per strip.", min=2, max=101)] = 7,
    most: Annotated[int, typer.Option(help="Strips to show, the longest columns first.", min=1)] = 16,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Also along R*, the rotation of most orthogonal columns.")
    ] = False,
    image_shape: Annotated[
        str | None, typer.Option(help="How outputs are images, e.g. 28x28 or 3x64x64.", metavar="SHAPE")
    ] = None,
    show: Annotated[
        Literal["auto", "image", "audio", "curves", "bars"],
        typer.Option(help="How outputs are drawn: image, audio (spectrograms), curves, bars; auto by shape."),
    ] = "auto",
    samples: Annotated[int, typer.Option("--samples", "-n", help="Latents for column lengths.", min=1)] = 64,
    seed: options.Seed = 0,
    **values: Any,
) -> int:
    """Show what each latent does: outputs along it, by importance, beside its signed Jacobian column.

    Strips run from -3 to 3 through the prior's centre, or with --data over the range of the encoder's codes.
    Latents with space move by channel. A file that ends in .png or .svg is a picture with names of its rows and
    columns, one in .html a page.

    Examples:
        vaeprobe traverse model.safetensors -o strips.png
        vaeprobe traverse model.pt --data x.npy --rotate -o strips.html
    """
    document = Document.asked(values, {**RENDERERS, **PICTURES})
    document.ready([values["resume"]], inputs=loading.inputs(model, {**values, "data": data}))
    with running(document, values) as work:
        decoder = work.loaded(lambda: loading.load(model, **loading.chosen(values)))
        from vaeprobe.traversal.run import traverse as run

        found = run(
            decoder, data=data, reach=reach, frames=frames, most=most, rotate=rotate, image_shape=image_shape,
            show=show, samples=samples, seed=seed,
        )  # fmt: skip
        result = work.told(found)
    if document.format in PICTURES and document.place is not None:
        try:
            result.save(document.place)
        except UsageError as error:
            deliver(lambda _: text_of(result.page(), "text"), None, document.quiet, [error])
        wrote(document.place, document.quiet)
        tell_limits(result, document.quiet)
        return result.exit_code
    return document.emit(result)
