"""What a TorchScript archive holds: modules with their attributes, constants, and code as syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from vaeprobe.checkpoints.programs import operators
from vaeprobe.checkpoints.weights import realise
from vaeprobe.errors import InputError, UnsafeError
from vaeprobe.files import torch_pickles
from vaeprobe.files.harm import parsed, refuse_operator, refuse_script
from vaeprobe.files.inert import Built, Global
from vaeprobe.files.pickles import PickleError
from vaeprobe.files.source import quoted
from vaeprobe.files.tensors import TensorSpec
from vaeprobe.files.trust import trust
from vaeprobe.files.zips import Archive
from vaeprobe.findings import TRAINING_MODE
from vaeprobe.report import Finding

ENTRY = "constants.pkl"
HINT = "save the weights alone, as .safetensors, and describe the network by a blueprint"
WAY_OUT = (
    "torch.export writes it in simpler operators: torch.export.save(torch.export.export(decoder.eval(), (z,)), 'decoder.pt2');"
    " or save its weights alone and build it with --arch FILE.py:CLASS"
)


@dataclass(frozen=True, eq=False)
class Instance:
    """A module of the archive: its class and its attributes; tensors are `Slot`s."""

    kind: str
    attributes: Mapping[str, object]


@dataclass(frozen=True)
class Slot:
    """A tensor, kept as a buffer of the `Script` under this name."""

    name: str


@dataclass(frozen=True, eq=False)
class BoundFunction:
    """A function of the archive, bound to its module where it has one."""

    code: ast.FunctionDef
    owner: Instance | None


def objects(archive: Archive, library: Library) -> tuple[object, Mapping[str, Tensor], list[Finding]]:
    """Return the root module, and its tensors by the name of their slot."""
    file = _pickled(archive, "data.pkl", "data/")
    specs: dict[str, TensorSpec] = {}
    made: dict[int, object] = {}
    notes: list[Finding] = []

    def value(node: object, path: str) -> object:
        if id(node) in made:
            return made[id(node)]
        if isinstance(node, (list, tuple)):
            made[id(node)] = type(node)(value(n, f"{path}.{i}") for i, n in enumerate(node))
            return made[id(node)]
        if isinstance(node, dict):
            made[id(node)] = {k: value(v, f"{path}.{k}") for k, v in node.items()}
            return made[id(node)]
        if not isinstance(node, Built) or not isinstance(node.maker, Global):
            return node
        if file.is_tensor(node):
            specs[path] = file.spec(node)
            made[id(node)] = Slot(path)
            return made[id(node)]
        if node.maker.module == "torch.jit._pickle" and node.args:
            return value(node.args[0], path)
        if str(node.maker).startswith("__torch__.torch.classes"):
            raise refuse_operator(str(node.maker), "compiled code that is no part of torch's mathematics")
        if not str(node.maker).startswith("__torch__"):
            return None
        state = node.state if isinstance(node.state, dict) else {}
        if state.get("training") is True and not notes:
            notes.append(
                Finding(TRAINING_MODE, "the program was saved in training mode: it is probed in eval mode")
            )
        made[id(node)] = Instance(
            str(node.maker), {str(k): value(v, f"{path}.{k}") for k, v in state.items()}
        )
        return made[id(node)]

    try:
        root = value(file.root, "")
        library.constants = _constants(archive)
    except RecursionError:
        raise InputError("the program nests its modules too deeply") from None
    weights = realise(specs)
    return root, weights.tensors, [*notes, *weights.notes]


def _pickled(archive: Archive, name: str, storages: str) -> torch_pickles.TorchFile:
    """Return one of the archive's pickles, whose tensors lie in the folder `storages`."""
    if name not in archive:
        raise InputError(
            f"the archive holds no `{name}`: it is no TorchScript program", hint="is the file truncated?"
        )
    try:
        file = torch_pickles.from_archive("torch zip", archive, name, storages)
    except PickleError as error:
        raise InputError(f"{quoted(name)}: {error.message}", hint=error.hint) from None
    harmful = [
        g
        for g in file.globals
        if trust(g) != "inert" and not str(g).startswith(("__torch__.", "torch.jit._pickle."))
    ]
    if harmful:
        raise UnsafeError(
            f"`{name}` of the TorchScript archive would import {quoted(str(harmful[0]))}", hint=HINT
        )
    return file


def _constants(archive: Archive) -> tuple[object, ...]:
    """Return the values of `CONSTANTS.c0`, `CONSTANTS.c1`, ..."""
    file = _pickled(archive, ENTRY, "constants/")
    nodes = file.root if isinstance(file.root, (list, tuple)) else ()
    return tuple(ConstantTensor(file.spec(n)) if file.is_tensor(n) else n for n in nodes)


@dataclass(frozen=True)
class ConstantTensor:
    spec: TensorSpec


class Library:
    """The code of an archive, parsed.

    Attributes:
        constants: the tuple that `CONSTANTS.c0`, `CONSTANTS.c1`, ... read.
        autocast: whether code that ran asks for autocast.
    """

    def __init__(self, archive: Archive) -> None:
        self.files: dict[str, ast.Module] = {}
        self.constants: Sequence[object] = ()
        self.autocast = False
        for name in archive.records:
            if name.startswith("code/") and name.endswith(".py"):
                self.files[name[len("code/") : -len(".py")].replace("/", ".")] = parsed(
                    archive.read(name), name
                )
        if not self.files:
            raise InputError("the archive holds no code: it is no TorchScript program")
        self.definitions: dict[str, ast.ClassDef | ast.FunctionDef] = {
            f"{module}.{d.name}": d
            for module, tree in self.files.items()
            for d in tree.body
            if isinstance(d, (ast.ClassDef, ast.FunctionDef))
        }

    def __deepcopy__(self, memo: object) -> Library:
        return self

    def method(self, kind: str, name: str) -> ast.FunctionDef | None:
        """Return a method of a class."""
        owner = self.definitions.get(kind)
        if not isinstance(owner, ast.ClassDef):
            return None
        return next((f for f in owner.body if isinstance(f, ast.FunctionDef) and f.name == name), None)

    def constant(self, kind: str, name: str) -> ast.expr | None:
        """Return the expression of a constant of a class (`stride : Final[...] = (2, 2)`)."""
        owner = self.definitions.get(kind)
        if not isinstance(owner, ast.ClassDef):
            return None
        for line in owner.body:
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and line.target.id == name
            ):
                return line.value
        return None

    def refuse_harm(self) -> None:
        """Refuse code that would do harm when torch runs it, whether or not it would ever be reached.

        Raises:
            UnsafeError: it would.
            ResourceError: a loop or a size with a literal that is absurdly large.
        """
        for tree in self.files.values():
            refuse_script(tree)
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    _refuse_literal_sizes(node)


def _refuse_literal_sizes(call: ast.Call) -> None:
    for a in call.args:
        if isinstance(a, ast.List) and a.elts and all(isinstance(e, ast.Constant) for e in a.elts):
            operators.bounded([[e.value for e in a.elts if isinstance(e, ast.Constant)]])
