"""What is in a checkpoint file: formats, tensors, what it would import; torch is not needed but for programs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from vaeprobe.checkpoints import architecture, families, folders, naming, said, selection
from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.draft import Recorded
from vaeprobe.checkpoints.recorded import recorded
from vaeprobe.errors import UnsafeError, UsageError, VaeprobeError
from vaeprobe.files import limits, safetensors
from vaeprobe.files.pickles import Global, PickleError, interpret
from vaeprobe.files.sniff import Format, sniff
from vaeprobe.files.source import Source, printable, quoted
from vaeprobe.files.tensors import TensorSpec, nonfinite_finding
from vaeprobe.files.torch_pickles import TorchFile
from vaeprobe.files.torch_pickles import read as read_torch_file
from vaeprobe.files.trust import foreign, named, trust
from vaeprobe.files.zips import open_archive
from vaeprobe.findings import DRAFT_BLUEPRINT, FOREIGN_CLASSES, UNSAFE
from vaeprobe.report import Artifact, Finding, Section, Table
from vaeprobe.result import Result
from vaeprobe.writing import write_text

__all__ = ["Inspection", "TensorInfo", "inspect"]

Kind = Literal["weights", "module", "matrix", "program", "unsafe", "unsupported"]
ROWS = 60  # of the table; JSON has all


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """A tensor, as the file describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for n in self.shape:
            count *= n
        return count


@dataclass(frozen=True, kw_only=True)
class Inspection(Result):
    """What is in a file.

    Attributes:
        kind: "weights", "module" (pickled whole), "matrix", "program" (self-contained), "unsafe", "unsupported".
        tensors: every tensor of the part that `load` would read, in the file's order.
        globals: the names that unpickling it would import (vaeprobe imports none of them).
        foreign: those among them that are neither data nor layers of torch.
        preset: the name of the family that the tensors belong to, if one matches.
        blueprint: how `load` would know the architecture, or None.
        parts: of a module, the names and classes of its parts.
        draft: a first blueprint, where one was asked for.
        recorded: of a module, what it records of its layers.
        metadata: text in the file.
    """

    command: ClassVar[str] = "inspect"

    kind: Kind
    tensors: tuple[TensorInfo, ...] = ()
    globals: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    preset: str | None = None
    blueprint: Blueprint | None = None
    parts: tuple[tuple[str, str], ...] = ()
    metadata: Mapping[str, str] | None = None
    draft: Blueprint | None = None
    recorded: tuple[Recorded, ...] = ()

    @property
    def safe(self) -> bool:
        """Whether nothing in the file asks to run code that is not torch's own."""
        return self.kind != "unsafe" and not self.foreign

    @property
    def exit_code(self) -> int:
        """4 for a file that asks to run code, 5 for a format not read yet, 1 for NaN weights, else 0."""
        if not self.safe:
            return 4
        if self.kind == "unsupported":
            return 5
        return 1 if any(f.level == "error" for f in self.findings) else 0

    def sections(self) -> tuple[Section, ...]:
        """Return the tables of imports, parts and tensors."""
        out: list[Section] = []
        if self.foreign:
            asked = [[name, "would be imported on unpickling"] for name in self.foreign]
            out.append(_cut("Code that the file asks for", ("name", ""), asked))
        if self.parts:
            out.append(_cut("Parts of the module", ("part", "class"), [list(p) for p in self.parts]))
        if self.tensors:
            rows = [
                [printable(t.name, limit=200), " x ".join(map(str, t.shape)) or "scalar", t.dtype, t.numel]
                for t in self.tensors
            ]
            out.append(_cut("Tensors", ("name", "shape", "dtype", "numbers"), rows))
        if self.metadata:
            rows = [[k, v if len(v) <= 60 else f"{v[:59]}…"] for k, v in self.metadata.items()]
            out.append(_cut("Metadata", ("key", "value"), rows))
        return tuple(out)

    def details(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "kind": self.kind,
            "safe": self.safe,
            "tensors": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in self.tensors],
            "globals": list(self.globals),
            "foreign": list(self.foreign),
            "preset": self.preset,
            "blueprint": self.blueprint.to_toml() if self.blueprint else None,
            "parts": [{"name": name, "class": cls} for name, cls in self.parts],
            "metadata": dict(self.metadata or {}),
        }

    def files(self) -> Mapping[str, Callable[[Path], None]]:
        """Return the writer of the draft blueprint, where one was asked for."""
        if self.draft is None:
            return {}
        text = self.draft.to_toml()
        return {"draft_blueprint": lambda path: write_text(path, text)}


def _cut(title: str, columns: tuple[str, ...], rows: list[list[Any]]) -> Table:
    note = f"and {len(rows) - ROWS} more (--json lists all)" if len(rows) > ROWS else ""
    return Table(title=title, columns=columns, rows=rows[:ROWS], note=note)


def inspect(
    path: str | os.PathLike[str], *, key: str | None = None, draft_blueprint: bool = False
) -> Inspection:
    """Say what is in a checkpoint file; nothing of it is executed.

    Args:
        path: the file.
        key: the entry to look at, as in `load`.
        draft_blueprint: also draft a blueprint from the names and shapes of the tensors.

    Raises:
        InputError: the file is damaged or in no known format.
        UsageError: there is no entry `key`, or nothing to draft a blueprint from.
        ResourceError: it claims more memory than makes sense.
    """
    source = folders.read(path)
    try:
        with limits.loading(source.size):
            found = _INSPECTORS[format := sniff(source)](source, format, key)
    except UnsafeError as error:
        return _unsafe(source, error)
    if draft_blueprint:
        return _with_draft(found, source)
    return found


def _artifact(source: Source, format: str, architecture: str = "") -> Artifact:
    return Artifact(
        path=source.shown,
        sha256=source.sha256,
        size=source.size,
        format=format,
        architecture=architecture,
    )


# -- formats ----------------------------------------------------------------------------------------


def _torch_file(source: Source, format: Format, key: str | None) -> Inspection:
    file = read_torch_file(source.data, source.name, format)  # type: ignore[arg-type]
    try:
        chosen = selection.select(file, source.name, key)
    except UnsafeError as error:
        return _unsafe(source, error, file)
    specs = selection.tensors_of(file, chosen.node)
    if selection.is_module(chosen.node):
        return _module(source, file, chosen, specs)
    kind: Kind = "matrix" if file.is_tensor(chosen.node) else "weights"
    where = f", entry {quoted(chosen.key)}" if chosen.key else ""
    what = f"A state dict ({file.container}{where})"
    return _of_tensors(source, kind, what, "state_dict", specs, file=file, notes=chosen.notes)


def _module(
    source: Source, file: TorchFile, chosen: selection.Selection, specs: Mapping[str, TensorSpec]
) -> Inspection:
    module = chosen.node
    parts = [("(itself)", module), *selection.submodules(module)]
    strangers = list(dict.fromkeys(part.maker for _, part in parts if trust(part.maker) != "layer"))
    listed = tuple((name, str(part.maker)) for name, part in parts)
    what = f"A pickled module, {quoted(str(module.maker))}"
    out = _of_tensors(source, "module", what, "module", specs, file=file, notes=chosen.notes, parts=listed)
    out = replace(out, recorded=recorded(module))
    if not strangers:
        return out
    finding = Finding(
        FOREIGN_CLASSES,
        f"running it as it is needs the code of {named(strangers)}, which vaeprobe takes from no file",
        hint="--submodule takes a part made of torch's layers; --blueprint or --arch say what the whole is",
    )
    return Inspection(
        **{**vars(out), "findings": (*out.findings, finding), "verdict": "module of foreign classes"}
    )


def _safetensors(source: Source, format: Format, key: str | None) -> Inspection:
    specs, metadata = safetensors.read(source.data)
    for shard in source.shards if isinstance(source, folders.InFolder) else ():
        specs = {**specs, **safetensors.read(shard.data)[0]}
    specs, _ = selection.under_key(specs, source.name, key)
    return _of_tensors(source, "weights", "Safetensors", "safetensors", specs, metadata=metadata)


def _arrays(source: Source, format: Format, key: str | None) -> Inspection:
    from vaeprobe.files import npy

    if format == "npz":
        arrays = npy.read_npz(source.data, source.name)
    else:
        arrays = {"matrix": npy.read_npy(source.data, source.name)}
    tensors = tuple(TensorInfo(name=k, dtype=str(a.dtype), shape=a.shape) for k, (a, _) in arrays.items())
    notes = tuple(note for _, own in arrays.values() for note in own)
    return Inspection(
        kind="matrix",
        metrics={},
        verdict="matrix",
        summary=f"{len(tensors)} numeric array{'s' * (len(tensors) != 1)}; an m x d matrix is a linear decoder of d latents.",
        findings=notes,
        tensors=tensors,
        artifact=_artifact(source, format, "linear"),
    )


def _program(source: Source, format: Format, key: str | None) -> Inspection:
    from vaeprobe.checkpoints.programs.program import Program

    if format == "onnx":
        from vaeprobe.checkpoints.programs.onnx import graph

        parts = graph.read(source.data, source.path.parent)
    elif format in ("keras", "hdf5"):
        from vaeprobe.checkpoints.programs.keras import graph as keras

        parts = keras.read(source.data if format == "hdf5" else open_archive(source.data), part=key)
    elif format == "pt2":
        from vaeprobe.checkpoints.programs import exported

        parts = exported.read(open_archive(source.data))
    else:
        from vaeprobe.checkpoints.programs import torchscript

        parts = torchscript.read(open_archive(source.data))
    program = parts.decoder
    state: Mapping[str, Any] = (
        program.state() if isinstance(program, Program) else getattr(program, "state_dict", dict)()
    )
    tensors = tuple(
        TensorInfo(name=k.removeprefix(":"), dtype=str(t.dtype).removeprefix("torch."), shape=tuple(t.shape))
        for k, t in state.items()
    )
    return Inspection(
        kind="program",
        metrics={},
        verdict="self-contained program",
        summary=f"A program of {parts.latent_dim} latents; every operator of it is on the list of harmless ones.",
        findings=parts.notes,
        tensors=tensors,
        artifact=_artifact(source, format, parts.architecture),
    )


_INSPECTORS: Mapping[Format, Callable[[Source, Format, str | None], Inspection]] = {
    "torch zip": _torch_file,
    "torch legacy": _torch_file,
    "pickle": _torch_file,
    "safetensors": _safetensors,
    "npy": _arrays,
    "npz": _arrays,
    "pt2": _program,
    "torchscript": _program,
    "keras": _program,
    "hdf5": _program,
    "onnx": _program,
}


# -- weights ------------------------------------------------------------------------------------------


def _of_tensors(
    source: Source,
    kind: Kind,
    what: str,
    format: str,
    specs: Mapping[str, TensorSpec],
    *,
    file: TorchFile | None = None,
    metadata: Mapping[str, str] | None = None,
    notes: tuple[Finding, ...] = (),
    parts: tuple[tuple[str, str], ...] = (),
) -> Inspection:
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
        artifact=_artifact(source, format, known.origin if known is not None else ""),
    )


def _with_draft(found: Inspection, source: Source) -> Inspection:
    """Add a draft of the blueprint."""
    from vaeprobe.checkpoints.draft import draft

    if found.kind not in ("weights", "module") or not found.tensors:
        raise UsageError(
            f"{source.name} holds no bare weights to draft a blueprint from",
            hint="leave out --draft-blueprint",
        )
    bp = found.blueprint or draft(naming.for_matching({t.name: t for t in found.tensors}), found.recorded)
    noted = tuple(Finding(DRAFT_BLUEPRINT, f"in the draft, {said}", level="note") for said in bp.assumptions)
    return Inspection(**{**vars(found), "draft": bp, "findings": (*found.findings, *noted)})


def _unsafe(source: Source, error: UnsafeError, file: TorchFile | None = None) -> Inspection:
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
        artifact=_artifact(source, ""),
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
