"""`vaeprobe report`: every probe on one model, as one page."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

import typer

from vaeprobe.cli import loading, options
from vaeprobe.cli.output import Document, deliver, tell_limits
from vaeprobe.cli.running import BUDGET, running
from vaeprobe.render import RENDERERS, Renderer

# what the documents of a report are written by; the Markdown is a section for a model card
KNOWN = {
    **{name: RENDERERS[name] for name in ("html", "json", "markdown")},
    "model-index": Renderer("vaeprobe.overview.card", (".yaml", ".yml")),
}
ReportFormat = Literal["html", "json", "md", "markdown", "model-index"]


@options.taking(BUDGET, loading.LOADING, options.DOCUMENT, without=("verbose", "color"))
def report(
    model: options.ModelPath,
    *,
    data: Annotated[
        str | None,
        typer.Option(help="Data rows: posterior and beta are measured too.", metavar="FILE"),
    ] = None,
    samples: options.Samples = 256,
    seed: options.Seed = 0,
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
    format: Annotated[
        ReportFormat | None,
        typer.Option(
            "--format",
            help="html; md for a model card; model-index for its YAML alone; json (default: by -o's suffix).",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    **values: Any,
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
    values["format"] = {"md": "markdown"}.get(format or "", format)
    document = Document.asked(values, KNOWN)
    document.ready([values["resume"]], inputs=loading.inputs(model, {**values, "data": data}))
    with running(document, values) as work:
        decoder = work.loaded(lambda: loading.load(model, **loading.chosen(values)))
        from vaeprobe.overview.run import survey

        own = {"data": data, "name": name, "samples": samples, "seed": seed, "rule": rule}
        defaults = {"samples": 256, "seed": 0, **{flag: row[1] for flag, row in loading.LOADING.items()}}
        place = {"markdown": "card.md", "model-index": "index.yaml"}.get(document.format, "page.html")
        said = loading.words({**own, **loading.chosen(values)}, defaults)
        repeat = shlex.join(["vaeprobe", "report", str(model), *said, "-o", place])
        found = survey(decoder, data=data, samples=samples, seed=seed, rules=rule or (), repeat=repeat)
        result = work.told(found)
    if document.format == "json":
        return document.emit(result)
    named = {"name": name} if document.format != "html" else {}
    writers = {"html": result.html, "markdown": result.markdown, "model-index": result.model_index}
    deliver(lambda _: writers[document.format](**named), document.place, document.quiet)
    tell_limits(result, document.quiet)
    return result.exit_code
