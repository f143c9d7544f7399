"""`vaeprobe report`: every probe on one model, as one page."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from vaeprobe.cli import options, output
from vaeprobe.cli.probe_commands import load
from vaeprobe.render import RENDERERS


def report(
    model: options.ModelPath,
    *,
    data: Annotated[
        str | None,
        typer.Option(help="Data rows: posterior and beta are measured too.", metavar="FILE"),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", help="Latents, and data rows.", min=8)] = 256,
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
    out: options.OutputFile = None,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Write one page with every probe and a picture of what each latent does; on stdout, or to a file with -o.

    The page is self-contained: no network, no script that runs; the results are in it as JSON. The same model,
    data and settings make the same page.

    Examples:
        vaeprobe report model.safetensors -o page.html
        vaeprobe report model.safetensors --data x.npy -o page.html
    """
    known = {name: RENDERERS[name] for name in ("html", "json")}
    asked = options.chosen_format(None if json_ or out else "html", json_, out, known)
    given = {
        "data": data, "samples": None if samples == 256 else samples, "seed": seed or None, "blueprint": blueprint,
        "arch": arch, "arch-args": arch_args, "key": key, "submodule": submodule, "weights": weights,
        "output-name": output_name, "allow-code": allow_code or None, "latent-dim": latent_dim,
        "latent-size": latent_size, "device": None if device == "cpu" else device, "dtype": dtype,
    }  # fmt: skip
    words = ["vaeprobe", "report", str(model)]
    for name, value in given.items():
        if value is not None:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    for text in condition or ():
        words += ["--condition", text]
    output.ready(out, inputs=[model, data])
    with output.progress_bar(not no_progress):
        decoder = load(
            model, blueprint=blueprint, arch=arch, arch_args=arch_args, key=key, submodule=submodule,
            weights=weights, output_name=output_name, allow_code=allow_code, latent_dim=latent_dim,
            latent_size=latent_size, condition=condition, device=device, dtype=dtype,
        )  # fmt: skip
        from vaeprobe.survey.run import survey

        repeat = shlex.join([*words, "-o", "page.html"])
        result = survey(decoder, data=data, samples=samples, seed=seed, repeat=repeat)
    if asked == "json":
        return output.emit(result, format="json", output=out, quiet=quiet)
    if out is not None:
        result.save(out)
        output.wrote(out, quiet)
    else:
        typer.echo(result.html(), nl=False)
    return result.exit_code
