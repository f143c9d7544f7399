"""Which network bare weights belong to: never guessed in silence, always named in the report.

In this order: the blueprint that the user gives; one in the file's own metadata; one that stands beside the file; a
preset, where names and shapes of all the decoder's tensors are those of its family.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vaeprobe.checkpoints import families
from vaeprobe.checkpoints.blueprint import Blueprint, Layer
from vaeprobe.checkpoints.families import Clues, Recognised, Shaped
from vaeprobe.errors import ArchitectureError, InputError, UsageError, did_you_mean
from vaeprobe.files.source import quoted, read_text
from vaeprobe.findings import TWO_SETS_OF_WEIGHTS
from vaeprobe.report import Finding

__all__ = ["BlueprintLike", "beside", "found", "given", "unknown"]

# a blueprint, a file of one, the name of a preset, or "draft"
BlueprintLike = Blueprint | str | os.PathLike[str] | None


def given(blueprint: BlueprintLike, file: Path, embedded: Blueprint | None = None) -> Blueprint | None:
    """Return the blueprint that the user gave, that the file carries, or that stands beside it, the first of these.

    One that a file carries was made for its tensors; one beside it may be that of the file it was converted from.
    None where there is none, and for "draft" and the names of presets, which need the tensors (see `found`).

    Raises:
        UsageError: there is no such file, preset or draft.
        BlueprintError: it is malformed.
    """
    if blueprint is None:
        return embedded or beside(file)
    if isinstance(blueprint, Blueprint):
        return blueprint
    path = Path(blueprint)
    if path.is_file():
        return _read(path)
    names = families.names()
    if str(blueprint) == "draft" or str(blueprint).removeprefix("preset ") in names:
        return None
    near = did_you_mean(str(blueprint), [*names, "draft"])
    raise UsageError(
        f"there is no blueprint {quoted(str(blueprint))}",
        hint=near or f"a TOML file, draft, or one of {', '.join(names)}",
    )


def names_all(bp: Blueprint, names: Iterable[str]) -> bool:
    """Return whether every weight that a blueprint asks for has its name among these."""
    known = tuple(names)
    return all(any(name.startswith(f"{key}.") for name in known) for key in _keys(bp.layers, bp.prefix))


def _keys(layers: Iterable[Layer], prefix: str) -> Iterator[str]:
    for layer in layers:
        if layer.key is not None:
            yield f"{prefix}{layer.key}".removesuffix(".")
        yield from _keys(layer.inner, f"{prefix}{layer.prefix}")


def beside(file: Path) -> Blueprint | None:
    """Return the blueprint that stands beside a file, if any."""
    path = path_beside(file)
    return None if path is None else _read(path)


def path_beside(file: Path) -> Path | None:
    """Return `model.pt.toml`, `model.blueprint.toml` or `model.toml` beside `model.pt`, if there is one."""
    names = (f"{file.name}.toml", f"{file.stem}.blueprint.toml", f"{file.stem}.toml")
    return next((path for path in map(file.with_name, names) if path.is_file()), None)


def _read(path: Path) -> Blueprint:
    try:
        text = read_text(path, 1 << 22)
    except InputError as error:
        raise UsageError(f"the blueprint {quoted(str(path))} cannot be read: {error.message}") from None
    return Blueprint.from_toml(text, f"blueprint {path}")


def found(
    blueprint: BlueprintLike, clues: Clues, metadata: Mapping[str, str] | None = None
) -> Recognised | None:
    """Return what the tensors hold: a preset or draft asked for by name, their metadata's blueprint, a preset's.

    Raises:
        UsageError: the tensors are not of the preset asked for.
        ArchitectureError: no draft can be made of them, or they are of two presets.
    """
    if blueprint is None:
        own = Blueprint.from_metadata(metadata or {})
        return Recognised(own) if own is not None else families.match(clues)
    if str(blueprint) == "draft":
        from vaeprobe.checkpoints.draft.drafting import draft

        return Recognised(draft(clues.shaped, size=clues.size))
    return families.get(str(blueprint), clues)


def unknown(
    name: str, tensors: Mapping[str, Shaped], notes: Sequence[Finding] = (), limit: int = 6
) -> ArchitectureError:
    """Return the error that shows what the tensors are, which of two sets, and says how to say what they belong to."""
    shown = [
        f"{quoted(k)} {'x'.join(map(str, t.shape)) or 'scalar'}" for k, t in list(tensors.items())[:limit]
    ]
    more = f", and {len(tensors) - limit} more" if len(tensors) > limit else ""
    beside = _condition(tensors) + "".join(f"; {n.message}" for n in notes if n.spec is TWO_SETS_OF_WEIGHTS)
    classes = _classes(tensors)
    if classes:
        return ArchitectureError(
            f"{name} holds {len(tensors)} tensors that look like a classifier's: from images down to {classes} numbers"
            f" ({', '.join(shown[:2])}, ...)",
            hint="a classifier has no decoder; if this network decodes, --blueprint FILE or --arch says how",
            about=name,
        )
    return ArchitectureError(
        f"{name} holds {len(tensors)} tensors and does not say which network they belong to: {', '.join(shown)}{more}{beside}",
        hint="--arch FILE.py:CLASS builds the network with the code that you trained it with;"
        " or `vaeprobe inspect MODEL --draft-blueprint OUT` writes a first blueprint from these names and shapes",
        about=name,
    )


def _classes(tensors: Mapping[str, Shaped]) -> int:
    """Return the number of classes where the layers lead from an image's channels down to few numbers, else 0."""
    from vaeprobe.checkpoints.draft.names import DECODER

    weights = [(k, tuple(t.shape)) for k, t in tensors.items() if k.endswith("weight") and len(t.shape) > 1]
    if len(weights) < 3 or any(DECODER.search(k) for k, _ in weights):
        return 0
    (_, first), (_, last) = weights[0], weights[-1]
    outputs = [shape[0] for _, shape in weights[:-1]]
    begins = len(first) == 4 and first[1] in (1, 3, 4) and first[0] > first[1]
    grows = outputs == sorted(outputs)
    ends = len(last) == 2 and last[0] < last[1]
    return last[0] if begins and grows and ends else 0


def _condition(tensors: Mapping[str, Shaped]) -> str:
    """Return what the tensors tell of a condition beside the latents, "" where nothing."""
    from vaeprobe.checkpoints.draft.drafting import draft

    try:
        bp = draft(tensors)
    except ArchitectureError:
        return ""
    return f"; {bp.assumptions[0]}" if bp.conditions else ""
