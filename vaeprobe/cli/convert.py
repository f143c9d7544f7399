"""`vaeprobe convert`: out of pickle, into a file that says everything by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaeprobe import writing
from vaeprobe.cli import options, output
from vaeprobe.cli.probe_commands import load
from vaeprobe.errors import UsageError


def convert(
    model: Annotated[Path, typer.Argument(help="Checkpoint to convert.", show_default=False)],
    *,
    to: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File to write: *.safetensors (with a blueprint) or *.pt2.",
            show_default=False,
        ),
    ],
    sidecar: Annotated[
        bool, typer.Option("--sidecar", help="Write the blueprint beside the file (OUT.toml), not into it.")
    ] = False,
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
    dtype: options.Dtype = None,
    json_: options.Json = False,
    format: options.FormatOption = None,
    quiet: options.Quiet = False,
    color: options.ColorOption = "auto",
) -> int:
    """Write a decoder as safetensors with its blueprint, or as .pt2, and check that it computes the same.

    The written file needs no option, no code and no pickle to be loaded again: it is the form for CI.

    Examples:
        vaeprobe convert model.pt -o model.safetensors
        vaeprobe convert model.pt --arch models:decoder -o model.pt2
    """
    from vaeprobe.checkpoints.architecture import path_beside
    from vaeprobe.checkpoints.conversion import SUFFIXES, Conversion, sidecar_of
    from vaeprobe.checkpoints.conversion import convert as write

    chosen = options.chosen_format(format, json_)
    if to.suffix not in SUFFIXES:
        raise UsageError(f"cannot write `{to}`", hint=f"name the output *{SUFFIXES[0]} or *{SUFFIXES[1]}")
    if sidecar and to.suffix == ".pt2":
        raise UsageError(
            "a .pt2 file carries its own program and takes no sidecar", hint="leave out --sidecar"
        )
    beside = sidecar_of(to) if sidecar else None
    output.ready(files=[to, beside], inputs=[model, path_beside(model), blueprint])
    decoder = load(
        model,
        blueprint=blueprint,
        arch=arch,
        arch_args=arch_args,
        key=key,
        submodule=submodule,
        weights=weights,
        output_name=output_name,
        allow_code=allow_code,
        latent_dim=latent_dim,
        latent_size=latent_size,
        condition=condition,
        dtype=dtype,
    )
    made: list[Conversion] = []

    def writer(place: Path) -> None:
        try:
            made.append(write(decoder, place, sidecar=sidecar))
        finally:
            sidecar_of(place).unlink(missing_ok=True)

    writing.write(to, writer)
    output.wrote(to, quiet)
    result = made[0].renamed(to)
    if beside is not None:
        output.write_text(beside, result.blueprint, quiet)
    return output.emit(result, format=chosen, quiet=quiet, color=color)
