"""`vaeprobe convert`: out of pickle, into a file that says everything by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaeprobe.cli import options, output
from vaeprobe.cli.probe_commands import load
from vaeprobe.errors import UsageError


def convert(
    model: options.ModelPath,
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
    key: options.Key = None,
    submodule: options.Submodule = None,
    latent_dim: options.LatentDim = None,
    dtype: options.Dtype = None,
    json_: options.Json = False,
    format: options.FormatOption = None,
    quiet: options.Quiet = False,
    color: options.ColorOption = "auto",
) -> int:
    """Write a decoder as safetensors with its blueprint, or as .pt2, and check that it computes the same.

    The written file needs no option, no code and no pickle to be loaded again: it is the form for CI.
    """
    from vaeprobe.checkpoints.conversion import SUFFIXES, Conversion, sidecar_of
    from vaeprobe.checkpoints.conversion import convert as write

    if to.suffix not in SUFFIXES:
        raise UsageError(f"cannot write `{to}`", hint=f"name the output *{SUFFIXES[0]} or *{SUFFIXES[1]}")
    if sidecar and to.suffix == ".pt2":
        raise UsageError(
            "a .pt2 file carries its own program and takes no sidecar", hint="leave out --sidecar"
        )
    decoder = load(
        model,
        blueprint=blueprint,
        arch=arch,
        key=key,
        submodule=submodule,
        latent_dim=latent_dim,
        dtype=dtype,
    )
    made: list[Conversion] = []

    def writer(path: Path) -> None:
        made.append(write(decoder, path, sidecar=sidecar))
        if sidecar:
            sidecar_of(path).replace(sidecar_of(to))

    output.write_atomically(to, writer)
    result = made[0].renamed(to)
    chosen = options.chosen_format(format, json_)
    return output.emit(result, format=chosen, quiet=quiet, color=color)
