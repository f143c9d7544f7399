"""`vaeprobe schema`: the JSON Schema of every JSON document that vaeprobe writes."""

from __future__ import annotations

import sys


def schema() -> None:
    """Print the JSON Schema of the JSON documents (results, errors, `check` reports).

    Examples:
        vaeprobe schema > vaeprobe.schema.json
    """
    from vaeprobe.render import json_document, schema

    sys.stdout.write(json_document.dumps(schema.document()))
