"""`vaeprobe traverse`: what each latent does, as pictures."""

from __future__ import annotations

from typing import Annotated

import typer

from vaeprobe.cli import options, output
from vaeprobe.cli.probe_commands import load
from vaeprobe.render import RENDERERS, Renderer

# what a file is by its suffix, beside the documents
PICTURES = {"png": Renderer("", (".png",)), "svg": Renderer("", (".svg",))}


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
    samples: Annotated[int, typer.Option("--samples", "-n", help="Latents for column lengths.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Seed of every draw.", min=0)] = 0,
    blueprint: options.BlueprintOption = None,
    arch: options.Arch = None,
    arch_args: options.ArchArgs = None,
    key: options.Key = None,
    submodule: options.Submodule = None,
    weights: options.WeightsOption = None,
    output_name: options.OutputName = None,
    allow_code: options.AllowCode = False,
    latent_dim: options.LatentDim = None,
    latent_size: options.LatentSize = None,
    condition: options.ConditionOption = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    json_: options.Json = False,
    format: options.FormatOption = None,
    out: options.OutputFile = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
    color: options.ColorOption = "auto",
) -> int:
    """Show what each latent does: outputs along it, by importance, beside its signed Jacobian column.

    Strips run from -3 to 3 through the prior's centre, or with --data over the range of the encoder's codes.
    Latents with space move by channel. A file that ends in .png or .svg is a picture with names of its rows and
    columns, one in .html a page.

    Examples:
        vaeprobe traverse model.safetensors -o strips.png
        vaeprobe traverse model.pt --data x.npy --rotate -o strips.html
    """
    chosen = options.chosen_format(format, json_, out, {**RENDERERS, **PICTURES})
    output.ready(out, inputs=[model, data])
    with output.progress_bar(not no_progress):
        decoder = load(
            model, blueprint=blueprint, arch=arch, arch_args=arch_args, key=key, submodule=submodule,
            weights=weights, output_name=output_name, allow_code=allow_code, latent_dim=latent_dim,
            latent_size=latent_size, condition=condition, device=device, dtype=dtype,
        )  # fmt: skip
        from vaeprobe.traversal.run import traverse as run

        result = run(
            decoder, data=data, reach=reach, frames=frames, most=most, rotate=rotate, image_shape=image_shape,
            samples=samples, seed=seed,
        )  # fmt: skip
    if chosen in PICTURES and out is not None:
        result.save(out)
        output.wrote(out, quiet)
        return result.exit_code
    return output.emit(result, format=chosen, output=out, quiet=quiet, verbose=verbose, color=color)
