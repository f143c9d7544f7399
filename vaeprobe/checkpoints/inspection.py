"""What is in a checkpoint file, as data and as a page: formats, tensors, what it would import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.draft.blocks import Recorded
from vaeprobe.files.source import printable
from vaeprobe.report import Json, Section, Table, Value
from vaeprobe.result import Result
from vaeprobe.writing import write_text

__all__ = ["Inspection", "FileKind", "TensorInfo"]

FileKind = Literal["weights", "module", "matrix", "program", "unsafe", "unsupported"]
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

    kind: FileKind
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
            rows: list[list[Value]] = [
                [printable(t.name, limit=200), " x ".join(map(str, t.shape)) or "scalar", t.dtype, t.numel]
                for t in self.tensors
            ]
            out.append(_cut("Tensors", ("name", "shape", "dtype", "numbers"), rows))
        if self.metadata:
            rows = [[k, v if len(v) <= 60 else f"{v[:59]}…"] for k, v in self.metadata.items()]
            out.append(_cut("Metadata", ("key", "value"), rows))
        return tuple(out)

    def details(self) -> Json:
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


def _cut(title: str, columns: tuple[str, ...], rows: Sequence[Sequence[Value]]) -> Table:
    note = f"and {len(rows) - ROWS} more (--json lists all)" if len(rows) > ROWS else ""
    return Table(title=title, columns=columns, rows=rows[:ROWS], note=note)
