"""`vaeprobe report`: every probe on one model, as one page."""

from __future__ import annotations

import shlex
from typing import Annotated, Literal

import typer

from vaeprobe.cli import options, output
from vaeprobe.cli.probe_commands import load
from vaeprobe.render import RENDERERS, Renderer

# what the documents of a report are written by; the Markdown is a section for a model card
KNOWN = {
    **{name: RENDERERS[name] for name in ("html", "json", "markdown")},
    "model-index": Renderer("vaeprobe.survey.card", (".yaml", ".yml")),
}
ReportFormat = Literal["html", "json", "md", "markdown", "model-index"]


def report(
    model: options.ModelPath,
    *,
    data: Annotated[
        str | None,
        typer.Option(help="Data rows: posterior and beta are measured too.", metavar="FILE"),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", help="Latents, and data rows.", min=8)] = 256,
    seed: Annotated[int, typer.Option(help="Seed of every draw.", min=0)] = 0,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="A rule for the top of the page, e.g. orthogonality.alignment=0.5 or factorise.verdict=linear.",
            metavar="METRIC=LIMIT",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The model's name in a model card (default: the file's).")
    ] = None,
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
    format: Annotated[
        ReportFormat | None,
        typer.Option(
            "--format",
            help="html; md for a model card; model-index for its YAML alone; json (default: by -o's suffix).",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    json_: options.Json = False,
    out: options.OutputFile = None,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Write one page with every probe and a picture of what each latent does; on stdout, or to a file with -o.

    The page is self-contained: no network, no script that runs; the results are in it as JSON. The same model,
    data and settings make the same page.

    A file in .md is a section for a model card, with Hugging Face's `model-index` at its head; one in .yaml is the
    `model-index` alone.

    Examples:
        vaeprobe report model.safetensors -o page.html
        vaeprobe report model.pt --data x.npy -o page.html
        vaeprobe report model.pt --rule orthogonality.alignment=0.5 -o page.html
        vaeprobe report model.pt --name owner/name -o card.md
    """
    default = None if json_ or out else "html"
    asked = options.chosen_format({"md": "markdown"}.get(format or "", format or default), json_, out, KNOWN)
    given = {
        "data": data, "name": name, "samples": None if samples == 256 else samples, "seed": seed or None, "blueprint": blueprint,
        "arch": arch, "arch-args": arch_args, "key": key, "submodule": submodule, "weights": weights,
        "output-name": output_name, "allow-code": allow_code or None, "latent-dim": latent_dim,
        "latent-size": latent_size, "device": None if device == "cpu" else device, "dtype": dtype,
    }  # fmt: skip
    words = ["vaeprobe", "report", str(model)]
    for flag, value in given.items():
        if value is not None:
            words += [f"--{flag}"] if value is True else [f"--{flag}", str(value)]
    for option, texts in (("rule", rule), ("condition", condition)):
        for text in texts or ():
            words += [f"--{option}", text]
    output.ready(out, inputs=[model, data])
    with output.progress_bar(not no_progress):
        decoder = load(
            model, blueprint=blueprint, arch=arch, arch_args=arch_args, key=key, submodule=submodule,
            weights=weights, output_name=output_name, allow_code=allow_code, latent_dim=latent_dim,
            latent_size=latent_size, condition=condition, device=device, dtype=dtype,
        )  # fmt: skip
        from vaeprobe.survey.run import survey

        repeat = shlex.join(
            [*words, "-o", {"markdown": "card.md", "model-index": "index.yaml"}.get(asked, "page.html")]
        )
        result = survey(decoder, data=data, samples=samples, seed=seed, rules=rule or (), repeat=repeat)
    if asked == "json":
        return output.emit(result, format="json", output=out, quiet=quiet)
    named = {"name": name} if asked != "html" else {}
    text = {"html": result.html, "markdown": result.markdown, "model-index": result.model_index}[asked](
        **named
    )
    if out is not None:
        output.write_text(out, text, quiet)
    else:
        typer.echo(text, nl=False)
    return result.exit_code
