"""Which of the models in a Keras file decodes."""

from __future__ import annotations

from collections.abc import Iterator

from vaeprobe.checkpoints.programs.keras.saved import MODELS, Entry, Saved
from vaeprobe.errors import InputError, UsageError, did_you_mean
from vaeprobe.files.source import quoted
from vaeprobe.findings import CHOSEN_ENTRY
from vaeprobe.report import Finding

__all__ = ["decoder_of"]

DECODERS = ("decoder", "generator")


def decoder_of(root: Saved, part: str | None) -> tuple[Saved, list[Finding]]:
    """Return the model that decodes, and what to say of the choice."""
    inner = dict(_models_in(root))
    if part is not None:
        if part not in inner:
            raise UsageError(
                f"the Keras model holds no model {quoted(part)}",
                hint=did_you_mean(part, inner)
                or (f"it holds {', '.join(quoted(k) for k in list(inner)[:5])}" if inner else None),
            )
        return inner[part], []
    named = [k for k in inner if any(word in k.rpartition("/")[2].lower() for word in DECODERS)]
    if len(named) == 1:
        rest = "" if len(inner) == 1 else f" of {', '.join(quoted(k) for k in list(inner)[:5])}"
        return inner[named[0]], [Finding(CHOSEN_ENTRY, f"the model {quoted(named[0])}{rest} was taken")]
    if root.entry.kind not in MODELS:
        raise InputError(
            f"the Keras model is of somebody's own class {quoted(root.entry.kind)}, which keeps its network in code",
            hint="save the decoder alone: model.decoder.save('decoder.keras')"
            if not inner
            else f"choose one of its models with --key: {', '.join(quoted(k) for k in list(inner)[:5])}",
        )
    return root, []


def _models_in(saved: Saved) -> Iterator[tuple[str, Saved]]:
    """Yield the models within a model, by name: layers of it, or arguments of somebody's own class."""
    if saved.entry.kind in MODELS:
        for layer, key in zip(saved.layers, saved.keys(), strict=True):
            if layer.kind in MODELS:
                yield str(layer.settings.get("name", key)), saved.inside(layer, key)
        return
    inner = saved.entry.table.get("config")
    for key, value in inner.items() if isinstance(inner, dict) else ():
        if isinstance(value, dict) and value.get("class_name") in MODELS:
            yield (
                str(key),
                Saved(Entry(value), saved.version, saved.file, saved.legacy, (str(key),), saved.used),
            )
