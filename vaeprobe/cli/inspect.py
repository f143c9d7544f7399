"""`vaeprobe inspect`: what is in a file, without running anything of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vaeprobe.cli import options, output
from vaeprobe.cli.output import Document
from vaeprobe.errors import UsageError, VaeprobeError

WORST_FIRST = (70, 4, 6, 5, 3, 1, 0)


@options.taking(options.DOCUMENT, without=("verbose", "no_progress"))
def inspect(
    models: Annotated[list[Path], typer.Argument(help="Checkpoints to look into.", show_default=False)],
    *,
    key: options.Key = None,
    draft_blueprint: Annotated[
        Path | None,
        typer.Option(
            "--draft-blueprint",
            help="Write a first blueprint, from the names and shapes of the tensors, to this file.",
            metavar="OUT",
            rich_help_panel="Output",
        ),
    ] = None,
    latent_size: options.LatentSize = None,
    **values: object,
) -> int:
    """Say what is in a checkpoint: format, tensors, what it would import, how its architecture is known.

    Nothing in the file is executed.  Exit 0 where `vaeprobe` can read it, 1 for NaN weights, 4 for a file that asks to
    run code, 5 for one that is damaged or in no known format.

    Examples:
        vaeprobe inspect model.pt
        vaeprobe inspect model.pt --draft-blueprint model.toml
    """
    if draft_blueprint is not None and len(models) > 1:
        raise UsageError("--draft-blueprint takes one model", hint="draft them one at a time")
    document = Document.asked(values)
    if document.place is not None and len(models) > 1:
        raise UsageError("--output takes one model", hint="write them one at a time, or use --json > FILE")
    from vaeprobe.checkpoints.looking import inspect as look

    document.ready([draft_blueprint], inputs=models)
    if len(models) == 1:
        found = look(models[0], key=key, draft_blueprint=draft_blueprint is not None, latent_size=latent_size)
        files = {"draft_blueprint": draft_blueprint} if draft_blueprint is not None else None
        code = document.emit(found, files)
        if found.draft is not None and document.quiet:  # a guess is said however quiet the rest is
            for said in found.draft.assumptions:
                print(f"draft: {said}", file=sys.stderr)
        return code
    from vaeprobe.render import json_document

    codes, documents = [], []
    for k, model in enumerate(models):
        try:
            found = look(model, key=key, latent_size=latent_size)
        except VaeprobeError as error:
            codes.append(error.exit_code)
            documents.append({"model": str(model), **json_document.failure(error)})
            if document.format != "json":
                output.error(error, ())
            continue
        codes.append(found.exit_code)
        if document.format == "json":
            documents.append({**json_document.header(), **found.to_dict()})
        else:
            if k and document.format == "text":
                print()
            document.emit(found)
    worst = (
        next(code for code in WORST_FIRST if code in codes) if set(codes) <= set(WORST_FIRST) else max(codes)
    )
    if document.format == "json":
        body = {"command": "inspect", "models": documents, "exit_code": worst}
        sys.stdout.write(json_document.dumps({**json_document.header(), **body}))
    return worst
