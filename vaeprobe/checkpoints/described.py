"""Inspections made of what readers find: of tensors by name, of a program, of a file that asks to run code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vaeprobe.checkpoints import architecture, families, folders, naming, said, selection
from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.inspection import FileKind, Inspection, TensorInfo
from vaeprobe.errors import UnsafeError, VaeprobeError
from vaeprobe.files.inert import Global
from vaeprobe.files.pickles import PickleError, interpret
from vaeprobe.files.source import Source
from vaeprobe.files.tensors import TensorSpec, nonfinite_finding
from vaeprobe.files.torch_pickles import TorchFile
from vaeprobe.files.trust import foreign
from vaeprobe.files.zips import open_archive
from vaeprobe.findings import LATENTS_OPEN, UNSAFE
from vaeprobe.report import Artifact, Finding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vaeprobe.checkpoints.network.parts import Parts

__all__ = [
    "artifact",
    "of_arrays",
    "of_open_program",
    "of_program",
    "of_sized_program",
    "of_tensors",
    "unsafe",
]


def of_tensors(
    source: Source,
    kind: FileKind,
    what: str,
    format: str,
    specs: Mapping[str, TensorSpec],
    *,
    file: TorchFile | None = None,
    metadata: Mapping[str, str] | None = None,
    notes: tuple[Finding, ...] = (),
    parts: tuple[tuple[str, str], ...] = (),
) -> Inspection:
    """Return what is to be said of tensors by name.

    Args:
        what: the words for what holds them.
        file: the torch file that they are from.
        parts: names and classes of the parts of a module.
    """
    told = {**(said.in_file(file) if file is not None else {}), **folders.said_beside(source)}
    tensors = tuple(TensorInfo(name=k, dtype=s.dtype, shape=s.shape) for k, s in specs.items())
    beside = architecture.beside(source.path)
    embedded = Blueprint.from_metadata(metadata or {})
    match = (
        families.match(families.Clues.of(naming.for_matching(specs), told))
        if kind in ("weights", "module")
        else None
    )
    preset = match.blueprint if match is not None else None
    known = embedded or beside or preset
    count = sum(t.numel for t in tensors)
    sentences = [f"{what} of {len(tensors)} tensors, {count:,} numbers."]
    if embedded is not None:
        sentences.append("Its metadata hold a blueprint.")
    elif beside is not None:
        sentences.append(f"Its {beside.origin} stands beside it.")
    elif preset is not None:
        sentences.append(f"Names and shapes are those of {preset.origin}.")
    elif kind == "weights":
        sentences.append("Nothing says which network they belong to: a blueprint or --arch must.")
    names = file.globals if file is not None else ()
    return Inspection(
        kind=kind,
        metrics={},
        verdict=kind if kind != "weights" or known else "weights without architecture",
        summary=" ".join(sentences),
        findings=(*notes, *nonfinite_finding(specs)),
        tensors=tensors,
        globals=tuple(map(str, names)),
        foreign=tuple(map(str, foreign(names))),
        preset=preset.name or preset.origin if preset is not None else None,
        blueprint=known,
        parts=parts,
        metadata=metadata,
        artifact=artifact(source, format, known.origin if known is not None else ""),
    )


def of_arrays(
    source: Source, format: str, arrays: Mapping[str, tuple[NDArray[np.generic], tuple[Finding, ...]]]
) -> Inspection:
    """Return what is to be said of arrays and of what was noted on reading them, by name."""
    tensors = tuple(TensorInfo(name=k, dtype=str(a.dtype), shape=a.shape) for k, (a, _) in arrays.items())
    notes = tuple(note for _, own in arrays.values() for note in own)
    return Inspection(
        kind="matrix",
        metrics={},
        verdict="matrix",
        summary=f"{len(tensors)} numeric array{'s' * (len(tensors) != 1)}; an m x d matrix is a linear decoder of d latents.",
        findings=notes,
        tensors=tensors,
        artifact=artifact(source, format, "linear"),
    )


def of_program(source: Source, format: str, parts: Parts) -> Inspection:
    """Return what is to be said of a program that was read."""
    from vaeprobe.checkpoints.programs.program import Program
    from vaeprobe.checkpoints.programs.torchscript.script import Script

    program = parts.decoder
    state: Mapping[str, Any] = (
        program.state() if isinstance(program, (Program, Script)) else getattr(program, "state_dict", dict)()
    )
    return Inspection(
        kind="program",
        metrics={},
        verdict="self-contained program",
        summary=f"A program of {parts.latent_dim} latents; every operator of it is on the list of harmless ones.",
        findings=parts.notes,
        tensors=_told(state),
        artifact=artifact(source, format, parts.architecture),
    )


def of_open_program(
    source: Source, format: str, state: Mapping[str, Any], notes: Iterable[Finding], error: VaeprobeError
) -> Inspection:
    """Return what is to be said of a program of which nothing says what latents it takes.

    Args:
        state: its tensors by name.
        error: what came of running it.
    """
    return Inspection(
        kind="program",
        metrics={},
        verdict="program of unknown latents",
        summary="A program; its file does not record what latents it takes.",
        findings=(
            *notes,
            Finding(LATENTS_OPEN, error.message, hint=f"to probe it, {error.hint}" if error.hint else None),
        ),
        tensors=_told(state),
        artifact=artifact(source, format, "self-contained"),
    )


def of_sized_program(
    source: Source, format: str, look: Callable[[tuple[int, ...] | None], Inspection]
) -> Inspection:
    """Return what is to be said of a program, or what of its latents its file leaves open.

    Args:
        look: takes the size of a map of latents, and raises an `OpenSizeError` where there is none and it is open.
    """
    from vaeprobe.checkpoints.programs.inputs import OpenSizeError

    try:
        return look(None)
    except OpenSizeError as error:
        return of_open_program(source, format, error.state, (), error)


def _told(state: Mapping[str, Any]) -> tuple[TensorInfo, ...]:
    """Return what is to be said of each of a program's tensors."""
    return tuple(
        TensorInfo(name=k.removeprefix(":"), dtype=str(t.dtype).removeprefix("torch."), shape=tuple(t.shape))
        for k, t in state.items()
    )


def unsafe(source: Source, error: UnsafeError, file: TorchFile | None = None) -> Inspection:
    """Return what can be said of a file that asks to run code."""
    specs: Mapping[str, TensorSpec] = {}
    with contextlib.suppress(VaeprobeError):  # damaged as well
        specs = selection.tensors_of(file, file.root) if file is not None else {}
    return Inspection(
        kind="unsafe",
        metrics={},
        verdict="unsafe",
        summary="It asks for code that is not torch's own; none of it was run, and `load` refuses the file.",
        findings=(Finding(UNSAFE, error.message, hint=error.hint),),
        tensors=tuple(TensorInfo(name=k, dtype=s.dtype, shape=s.shape) for k, s in specs.items()),
        globals=tuple(map(str, file.globals)) if file is not None else (),
        foreign=tuple(map(str, foreign(file.globals))) if file is not None else _names_in(source),
        artifact=artifact(source, ""),
    )


def _names_in(source: Source) -> tuple[str, ...]:
    """Return the foreign names that an unsafe pickle asks for, where it can be read."""
    names: list[Global] = []
    try:
        data = open_archive(source.data).read("data.pkl") if source.data[:2] == b"PK" else source.data
        at = 0
        while at < len(data) and len(names) < 1000:
            pickle = interpret(data, at)
            names += pickle.globals
            at = pickle.end
    except PickleError as error:
        names += error.globals
    except (VaeprobeError, KeyError):
        return ()
    return tuple(dict.fromkeys(map(str, foreign(names))))


def artifact(source: Source, format: str, architecture: str = "") -> Artifact:
    """Return how reports name a file."""
    return Artifact(
        path=source.shown,
        sha256=source.sha256,
        size=source.size,
        format=format,
        architecture=architecture,
    )
