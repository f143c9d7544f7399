"""TorchScript archives, run by a small interpreter of their own code and never by torch's.

`torch.jit.load` runs `__setstate__` methods of the archive while loading, its operators can write files, and its
executor returns silent zeros for forward-mode derivatives from the second call on.  The code in an archive is a
small, regular subset of Python: this module parses it with `ast` and evaluates it with the operators of
`vaeprobe.checkpoints.programs.operators` and nothing else, so that it cannot do more than mathematics on tensors, with a
budget of statements for its loops.  Modules are always in eval mode.

What is not bounded: the time of the operators inside a loop that stays within the budget.

Source: torch 2.13, `torch/csrc/jit/serialization/python_print.cpp`, which writes the code.
"""

from __future__ import annotations

import ast
import math
import operator as python_operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from vaeprobe.checkpoints.blueprint import Blueprint, BlueprintError
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.programs import operators
from vaeprobe.checkpoints.programs.inputs import NoFlatRowsError
from vaeprobe.checkpoints.programs.program import LAST, RUN_ERRORS, parts_of
from vaeprobe.checkpoints.weights import realise
from vaeprobe.errors import InputError, ResourceError, UnsafeError, did_you_mean, out_of_memory
from vaeprobe.files import torch_pickles
from vaeprobe.files.harm import dotted, parsed, refuse_operator, refuse_script
from vaeprobe.files.pickles import Built, Global, PickleError
from vaeprobe.files.source import quoted
from vaeprobe.files.tensors import TensorSpec
from vaeprobe.files.trust import trust
from vaeprobe.files.zips import Archive
from vaeprobe.findings import LATENTS_INFERRED, TRAINING_MODE
from vaeprobe.report import Finding

__all__ = ["ENTRY", "Script", "read"]

ENTRY = "constants.pkl"
BUDGET = 50_000  # steps of one call: a decoder takes a few hundred
LONGEST = 1_000_000  # of a list or a text
DEEPEST = 200  # nested calls
SURELY_SMALL = 1 << 26  # numbers that no operator on so many makes more of
NUMBERS = (int, float, torch.SymInt, torch.SymFloat)
HINT = "save the weights alone, as .safetensors, and describe the network by a blueprint"


def read(
    archive: Archive,
    *,
    blueprint: Blueprint | None = None,
    latent_dim: int | None = None,
    submodule: str | None = None,
) -> Parts:
    """Return the decoder that a TorchScript archive holds.

    Args:
        archive: a checked zip archive.
        blueprint: latents, likelihood and parameter, without layers.
        latent_dim: number of latents; by default the first size of the program's weights that it runs with.
        submodule: dotted name of the module that is the decoder.

    Raises:
        UnsafeError: its code would do more than mathematics on tensors.
        InputError: it is damaged, or no map from one tensor to outputs.
        ResourceError: it would loop without end, or make an absurdly large tensor.
        BlueprintError: the latents asked for are not those that it takes.
    """
    library = Library(archive)
    library.refuse_harm()
    root, tensors, notes = _objects(archive, library)
    for name in filter(None, (submodule or "").split(".")):
        if not isinstance(root, Instance) or not isinstance(root.attributes.get(name), Instance):
            known = (
                [k for k, v in root.attributes.items() if isinstance(v, Instance)]
                if isinstance(root, Instance)
                else []
            )
            raise BlueprintError(f"the program has no module {quoted(name)}", hint=did_you_mean(name, known))
        root = root.attributes[name]
    if not isinstance(root, Instance) or library.method(root.kind, "forward") is None:
        raise InputError(
            "the archive holds no module with a `forward`", hint="torch.jit.save a module, not a function"
        )
    bp = blueprint or Blueprint()
    asked = latent_dim or bp.latent_dim
    script = Script(library, root, tensors)
    d, row, inferred = _latents(script, asked)
    script.row = row
    if inferred:
        notes.append(
            Finding(
                LATENTS_INFERRED,
                f"TorchScript does not record the number of latents: {d} is the first size of its weights that it runs with",
                hint=f"--latent-dim {d} makes it sure",
            )
        )
    last = script.last_operator(d)
    natural = None
    if any(last == operator and bp.likelihood in (None, name) for name, operator in LAST.items()):
        natural = Script(library, root, tensors, row=row, without=last)
    return parts_of(script, natural, bp, d, notes)


# -- objects ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Instance:
    """A module of the archive: its class and its attributes; tensors are `Slot`s."""

    kind: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Slot:
    """A tensor, kept as a buffer of the `Script` under this name."""

    name: str


@dataclass(frozen=True, eq=False)
class Method:
    """A function of the archive, bound to its module where it has one."""

    code: ast.FunctionDef
    owner: Instance | None


@dataclass
class _Frozen:
    """Wraps what a copy of a module must share, not copy."""

    value: Any

    def __deepcopy__(self, memo: Any) -> _Frozen:
        return self


def _objects(archive: Archive, library: Library) -> tuple[Any, Mapping[str, Tensor], list[Finding]]:
    """Return the root module, and its tensors by the name of their slot."""
    file = _pickled(archive, "data.pkl", "data/")
    specs: dict[str, TensorSpec] = {}
    made: dict[int, Any] = {}
    notes: list[Finding] = []

    def value(node: Any, path: str) -> Any:
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


def _constants(archive: Archive) -> tuple[Any, ...]:
    """Return the values of `CONSTANTS.c0`, `CONSTANTS.c1`, ..."""
    file = _pickled(archive, ENTRY, "constants/")
    nodes = file.root if isinstance(file.root, (list, tuple)) else ()
    return tuple(_Constant(file.spec(n)) if file.is_tensor(n) else n for n in nodes)


@dataclass(frozen=True)
class _Constant:
    spec: TensorSpec


# -- the code -----------------------------------------------------------------------------------------


class Library:
    """The code of an archive, parsed.

    Attributes:
        constants: the tuple that `CONSTANTS.c0`, `CONSTANTS.c1`, ... read.
    """

    def __init__(self, archive: Archive) -> None:
        self.files: dict[str, ast.Module] = {}
        self.constants: Any = ()
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

    def __deepcopy__(self, memo: Any) -> Library:
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


# -- scalar operators: torch's on tensors, Python's on numbers, lists and texts -------------------------


def _append(items: list[Any], item: Any) -> list[Any]:
    items.append(item)
    return items


def _extend(items: list[Any], more: list[Any]) -> None:
    items.extend(more)


def _format(text: str, *values: Any) -> str:
    pieces = text.split("{}", len(values))
    shown = [str(value)[:200] for value in values[: len(pieces) - 1]]
    return "".join(part for pair in zip(pieces, [*shown, ""], strict=True) for part in pair)


def _power(a: Any, b: Any) -> Any:
    return float(a) ** float(b)


def _product(a: Any, b: Any) -> Any:
    for items, count in ((a, b), (b, a)):
        if isinstance(items, SEQUENCES) and len(items) * max(int(count), 0) > LONGEST:
            raise ResourceError(f"the program makes a list of {len(items) * int(count):,} items")
    return a * b


def _rounded(x: float) -> float:
    return float(round(x))


def _sliced(items: Any, start: int | None = None, stop: int | None = None, step: int | None = None) -> Any:
    return items[start:stop:step]


def _size(x: Tensor, axis: int | None = None) -> Any:
    return list(x.shape) if axis is None else x.shape[axis]


SCALAR: Mapping[str, Callable[..., Any]] = {
    "__range_length": lambda low, high, step: len(range(low, high, step)),
    "__derive_index": lambda i, start, step: start + i * step,
    "is_autocast_enabled": lambda *device: False,
    "is_autocast_cpu_enabled": lambda: False,
    "is_grad_enabled": lambda: True,  # fused kernels, chosen where it is not, have no derivatives
    "add": python_operator.add, "sub": python_operator.sub, "mul": _product, "div": python_operator.truediv,
    "floordiv": python_operator.floordiv, "remainder": python_operator.mod, "neg": python_operator.neg, "pow": _power,
    "eq": python_operator.eq, "ne": python_operator.ne, "lt": python_operator.lt, "le": python_operator.le,
    "gt": python_operator.gt, "ge": python_operator.ge, "__is__": python_operator.is_, "__isnot__": python_operator.is_not,
    "__not__": python_operator.not_, "__and__": python_operator.and_, "__or__": python_operator.or_,
    "__contains__": python_operator.contains, "__getitem__": python_operator.getitem, "len": len, "append": _append,
    "extend": _extend, "list": list, "slice": _sliced, "format": _format, "abs": abs, "floor": math.floor, "ceil": math.ceil,
    "sqrt": math.sqrt, "exp": math.exp, "log": math.log, "round": _rounded, "Int": int, "Float": float, "Bool": bool,
    "ScalarImplicit": lambda x: x, "IntImplicit": int, "FloatImplicit": float, "str": str, "min": min, "max": max, "warn": lambda *a: None,
    "size": _size, "dim": Tensor.dim,
}  # fmt: skip
SEQUENCES = (list, tuple, str, bytes)
# of these, those that take numbers alone: on a text "%" formats, and a list has no square root
NUMERIC = {
    "sub", "div", "floordiv", "remainder", "neg", "pow", "abs", "floor", "ceil", "sqrt", "exp", "log", "round",
    "__range_length", "__derive_index", "__and__", "__or__",
}  # fmt: skip
# of these Python's form serves tensors and lists of tensors too
ON_ANYTHING = {
    "size",
    "dim",
    "__is__",
    "__isnot__",
    "len",
    "append",
    "extend",
    "list",
    "__getitem__",
    "format",
    "warn",
}
READERS: Mapping[str, Callable[..., Any]] = {
    "Int": int,
    "Float": float,
    "Bool": bool,
    "IntImplicit": int,
    "FloatImplicit": float,
    "ScalarImplicit": Tensor.item,
}
PRIM: Mapping[str, Callable[..., Any] | None] = {
    "NumToTensor": lambda x: x if isinstance(x, torch.SymInt) else torch.tensor(x),
    "dtype": lambda x: x.dtype,
    "device": lambda x: x.device,
    "layout": lambda x: x.layout,
    "data": lambda x: x,
    "type": lambda x: x.type,
    "is_cuda": lambda x: x.is_cuda,
    "is_nested": lambda x: False,
    "requires_grad": lambda x: True,  # as above
    "min": min,
    "max": max,
    "unchecked_unwrap_optional": lambda x: x,
    "RaiseException": None,
}  # fmt: skip


# -- running --------------------------------------------------------------------------------------------


class Script(nn.Module):
    """A module of an archive, interpreted.

    Args:
        library: the archive's code.
        root: the module.
        tensors: by the name of their slot.
        row: shape of one input row; (-1,) for a vector of any length.
        without: return what goes into the last operator, where it is of this name.
    """

    def __init__(
        self,
        library: Library,
        root: Instance,
        tensors: Mapping[str, Tensor],
        row: tuple[int, ...] = (-1,),
        without: str | None = None,
    ) -> None:
        super().__init__()
        self.library = library
        self.root = _Frozen(root)
        self.row = row
        self.without = without
        self.steps = 0  # taken so far, over all calls
        self.names = {name: f"tensor_{i}" for i, name in enumerate(tensors)}
        for name, tensor in tensors.items():
            self.register_buffer(self.names[name], tensor)
        for i, constant in enumerate(library.constants):
            if isinstance(constant, _Constant):
                self.register_buffer(
                    f"constant_{i}", next(iter(realise({"c": constant.spec}).tensors.values()))
                )
        self.eval()

    def forward(self, z: Tensor) -> Any:
        """Return the outputs for latents of shape (n, latent)."""
        return self.run(z)[0]

    def run(self, z: Tensor) -> tuple[Any, str | None]:
        """Return the outputs, and the name of the operator that made the first of them, if it is sigmoid or exp."""
        x = z.reshape(z.shape[0], *self.row) if self.row != (-1,) else z
        call = _Call(self, z.device)
        method = self.library.method(self.root.value.kind, "forward")
        assert method is not None
        try:
            out = call.function(Method(method, self.root.value), [x], {})
        finally:
            self.steps += BUDGET - call.left
        first = out[0] if isinstance(out, (tuple, list)) and out else out
        name, before = call.last.get(id(first), (None, None, None))[:2]
        if self.without is not None and name == self.without:
            return before, name
        return out, name

    def last_operator(self, d: int) -> str | None:
        """Return the name of the operator that makes the output, if it is sigmoid or exp."""
        dtype = next((b.dtype for b in self.buffers() if b.is_floating_point()), torch.float32)
        with torch.no_grad():
            return self.run(torch.zeros(2, d, dtype=dtype))[1]


@dataclass
class _Return(Exception):
    """A `return` statement was reached."""

    value: Any


class _Call:
    """One run of a program: its budget, and what its last sigmoid or exponential was given."""

    def __init__(self, script: Script, device: torch.device) -> None:
        self.script = script
        self.library = script.library
        self.device = device
        self.left = BUDGET
        self.depth = 0
        self.last: dict[int, tuple[str, Tensor, Tensor]] = {}

    def unsupported(self, what: str) -> InputError:
        return InputError(
            f"the TorchScript program uses {quoted(what, limit=80)}, which is not supported", hint=HINT
        )

    # -- functions and statements ----------------------------------------------------------------

    def function(self, method: Method, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        parameters = method.code.args.args
        given = [method.owner, *args] if method.owner is not None else list(args)
        names: dict[str, Any] = dict(zip((p.arg for p in parameters), given, strict=False))
        names.update(kwargs)
        missing = len(method.code.args.defaults)
        for p, default in zip(
            parameters[len(parameters) - missing :], method.code.args.defaults, strict=True
        ):
            if p.arg not in names:
                names[p.arg] = self.value(default, {})
        if len(given) > len(parameters) or any(p.arg not in names for p in parameters):
            raise InputError(
                f"the program's `{method.code.name}` takes {len(parameters) - 1} inputs, and a decoder takes one"
            )
        self.depth += 1
        if self.depth > DEEPEST:
            raise ResourceError(f"the program nests over {DEEPEST} calls")
        try:
            self.block(method.code.body, names)
        except _Return as returned:
            return returned.value
        finally:
            self.depth -= 1
        return None

    def block(self, statements: Sequence[ast.stmt], names: dict[str, Any]) -> None:
        for statement in statements:
            self.spend(1)
            self.statement(statement, names)

    def spend(self, units: int) -> None:
        """Take from the budget: one for a statement, one for each item of a list that is gone through."""
        self.left -= units
        if self.left < 0:
            raise ResourceError(
                f"the program takes over {BUDGET:,} steps for one call", hint="does it loop without end?"
            )

    def statement(self, s: ast.stmt, names: dict[str, Any]) -> None:
        match s:
            case ast.Assign(targets=[target], value=value):
                self.assign(target, self.value(value, names), names)
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
                names[name] = self.value(value, names)
            case ast.Expr(value=value):
                self.value(value, names)
            case ast.Return(value=value):
                raise _Return(self.value(value, names) if value is not None else None)
            case ast.If(test=test, body=body, orelse=orelse):
                self.block(body if bool(self.value(test, names)) else orelse, names)
            case ast.For(target=target, iter=ast.Call(func=ast.Name(id="range"), args=bounds), body=body):
                for i in range(*(self.number(self.value(b, names)) for b in bounds)):
                    self.assign(target, i, names)
                    self.block(body or [ast.Pass()], names)
            case ast.While(test=test, body=body):
                while bool(self.value(test, names)):
                    self.block(body or [ast.Pass()], names)
            case ast.Pass():
                pass
            case _:
                raise self.unsupported(ast.unparse(s))

    def assign(self, target: ast.expr, value: Any, names: dict[str, Any]) -> None:
        match target:
            case ast.Name(id=name):
                names[name] = value
            case ast.Tuple(elts=parts) if isinstance(value, (tuple, list)) and len(value) == len(parts):
                for part, item in zip(parts, value, strict=True):
                    self.assign(part, item, names)
            case _:
                raise self.unsupported(ast.unparse(target))

    def number(self, value: Any) -> int:
        if isinstance(value, Tensor):
            value = value.item()
        return int(value)

    # -- expressions -----------------------------------------------------------------------------

    def value(self, e: ast.expr, names: Mapping[str, Any]) -> Any:
        match e:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.Name(id=name) if name in ("inf", "nan"):
                return float(name)
            case ast.List(elts=items):
                self.spend(len(items))
                return [self.value(i, names) for i in items]
            case ast.Tuple(elts=items):
                self.spend(len(items))
                return tuple(self.value(i, names) for i in items)
            case ast.Dict(keys=keys, values=values) if all(keys):
                self.spend(len(keys))
                return {
                    self.value(k, names): self.value(v, names) for k, v in zip(keys, values, strict=True) if k
                }
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.value(operand, names)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self.value(operand, names)
            case ast.BoolOp(op=op, values=values):
                stop = isinstance(op, ast.Or)
                return stop if any(bool(self.value(v, names)) is stop for v in values) else not stop
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.value(body if bool(self.value(test, names)) else orelse, names)
            case ast.Subscript(value=base, slice=index):
                return self.value(base, names)[self.value(index, names)]
            case ast.Attribute():
                return self.attribute(e, names)
            case ast.Call():
                return self.call(e, names)
        raise self.unsupported(ast.unparse(e))

    def attribute(self, e: ast.Attribute, names: Mapping[str, Any]) -> Any:
        name = dotted(e)
        if name.startswith("__torch__."):
            code = self.library.definitions.get(name)
            if isinstance(code, ast.FunctionDef):
                return Method(code, None)
            raise self.unsupported(name)
        if name.startswith("CONSTANTS.c"):
            index = (
                int(name.removeprefix("CONSTANTS.c")) if name.removeprefix("CONSTANTS.c").isdigit() else -1
            )
            if not 0 <= index < len(self.library.constants):
                raise InputError(f"the program uses the constant {quoted(name)}, which the archive lacks")
            constant = self.library.constants[index]
            return getattr(self.script, f"constant_{index}") if isinstance(constant, _Constant) else constant
        return self.field(self.value(e.value, names), e.attr)

    def field(self, owner: Any, name: str) -> Any:
        if not isinstance(owner, Instance):
            raise self.unsupported(f"attribute {name}")
        if name == "training":
            return False
        if name in owner.attributes:
            return self.resolved(owner.attributes[name])
        constant = self.library.constant(owner.kind, name)
        if constant is None:
            raise InputError(f"the program uses the attribute {quoted(name)}, which its module lacks")
        return self.value(constant, {})

    def resolved(self, value: Any) -> Any:
        """Return an attribute with its tensors in place."""
        if isinstance(value, Slot):
            return getattr(self.script, self.script.names[value.name])
        if isinstance(value, (list, tuple)):
            self.spend(_extent(value))
            return type(value)(map(self.resolved, value))
        return value

    def call(self, e: ast.Call, names: Mapping[str, Any]) -> Any:
        name = dotted(e.func)
        head = name.partition(".")[0]
        if head in names or not name:  # a method, or a function held in a variable
            return self.called(e, names)
        match name:
            case "annotate" | "unchecked_cast":
                return self.value(e.args[1], names)
            case "uninitialized":
                return None
            case "getattr":
                return self.field(self.value(e.args[0], names), str(self.value(e.args[1], names)))
            case "torch.device":
                return self.device
        args = [self.value(a, names) for a in e.args]
        kwargs = {str(k.arg): self.value(k.value, names) for k in e.keywords}
        if name == "int" and isinstance(args[0], torch.SymInt):
            return args[0]  # a size while the program is traced by torch.export
        if name in ("int", "float", "bool"):
            return (int if name == "int" else float if name == "float" else bool)(args[0])
        if head == "__torch__":
            return self.function(self.attribute_of(name), args, kwargs)
        if name.startswith("ops.prim."):
            return self.primitive(name.removeprefix("ops.prim."), args)
        if head == "torch" or name.startswith("ops.aten."):
            return self.operator(name.removeprefix("ops.aten.").removeprefix("torch."), args, kwargs)
        raise self.unsupported(name)

    def attribute_of(self, name: str) -> Method:
        code = self.library.definitions.get(name)
        if not isinstance(code, ast.FunctionDef):
            raise self.unsupported(name)
        return Method(code, None)

    def called(self, e: ast.Call, names: Mapping[str, Any]) -> Any:
        if isinstance(e.func, ast.Attribute):
            owner = self.value(e.func.value, names)
            code = self.library.method(owner.kind, e.func.attr) if isinstance(owner, Instance) else None
            if code is None:
                raise self.unsupported(ast.unparse(e.func))
            method = Method(code, owner)
        else:
            method = self.value(e.func, names)
            if not isinstance(method, Method):
                raise self.unsupported(ast.unparse(e.func))
        args = [self.value(a, names) for a in e.args]
        return self.function(method, args, {str(k.arg): self.value(k.value, names) for k in e.keywords})

    def primitive(self, name: str, args: Sequence[Any]) -> Any:
        if name == "RaiseException":
            self.raised(args)
        function = PRIM.get(name)
        if function is None:
            raise refuse_operator(f"prim.{name}")
        return function(*args)

    def raised(self, args: Sequence[Any]) -> NoReturn:
        raise InputError(
            f"the program raises {quoted(str(args[0]) if args else 'an error')}",
            hint="is the number of latents right?",
        )

    def foresee(
        self, name: str, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        """Check how large a result will be before it is computed, where its inputs could make it large."""
        tensors = [a for a in _leaves([*args, *kwargs.values()]) if isinstance(a, Tensor)]
        if math.prod(max(t.numel(), 1) for t in tensors) <= SURELY_SMALL and not operators.grows(name, args):
            return
        if any(type(t) is not Tensor and not isinstance(t, nn.Parameter) for t in tensors):
            return  # being traced or transformed: it ran on plain tensors before
        ghosts = {id(t): t.to("meta") for t in tensors}

        def ghost(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(map(ghost, value))
            return ghosts.get(id(value), torch.device("meta") if isinstance(value, torch.device) else value)

        try:
            out = function(*map(ghost, args), **{k: ghost(v) for k, v in kwargs.items()})
        except RUN_ERRORS:
            return  # not every operator has a form without memory; what is wrong shows when it runs
        operators.small(out)

    def operator(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        values = [*args, *kwargs.values()]
        if name not in ("append", "len", "__getitem__"):
            self.spend(sum(_extent(a) for a in values if isinstance(a, (*SEQUENCES, dict))))
        if name in SCALAR and (
            name in ON_ANYTHING or not any(isinstance(a, Tensor) for a in _leaves(values))
        ):
            if name in NUMERIC and not all(isinstance(a, NUMBERS) for a in values):
                raise self.unsupported(f"{name} of something that is no number")
            out = SCALAR[name](*args, **kwargs)
            if isinstance(out, SEQUENCES) and len(out) > LONGEST:
                raise ResourceError(f"the program makes a list of {len(out):,} items")
            if type(out) is int and abs(out) >= 1 << 63:
                raise InputError("the program computes a whole number beyond 64 bits")
            return out
        if name in READERS and len(args) == 1:
            return READERS[name](args[0])
        function = operators.operator(name)
        operators.bounded([*args, *kwargs.values()])
        if "device" in kwargs:
            kwargs["device"] = self.device
        self.foresee(name, function, args, kwargs)
        out = function(*args, **kwargs)
        operators.small(out)
        if name.removesuffix("_") in ("sigmoid", "exp") and isinstance(out, Tensor):
            self.last[id(out)] = (
                name.removesuffix("_"),
                args[0],
                out,
            )  # keeps `out` alive, so that its id stays its own
        return out


def _leaves(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(value)
        else:
            yield value


def _extent(value: Any, known: dict[int, int] | None = None) -> int:
    """Return how many items there are in nested lists when each is counted wherever it stands.

    A tuple that holds the one below twice, and so on, is short to make and endless to go through.
    """
    known = {} if known is None else known
    if isinstance(value, (str, bytes)):
        return len(value) // 64  # which is copied, not gone through
    if not isinstance(value, (list, tuple, dict)):
        return 0
    if id(value) not in known:
        known[id(value)] = 0  # of itself, where a list holds itself
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = len(value) + sum(
            _extent(v, known) for v in inside if isinstance(v, (*SEQUENCES, dict))
        )
    return known[id(value)]


# -- how many latents -------------------------------------------------------------------------------------


def _latents(script: Script, asked: int | None) -> tuple[int, tuple[int, ...], bool]:
    """Return the number of latents, the shape of one input row, and whether the number was inferred.

    Raises:
        InputError: the program runs with no number of latents that its weights suggest.
        BlueprintError: it does not run with the number asked for.
    """
    weights = [b for b in script.buffers() if b.ndim >= 2]
    suggested = list(dict.fromkeys(n for b in weights for n in (b.shape[1], b.shape[0])))[:64]
    reason = None
    for d in [asked] if asked else suggested:
        row, why = _row(script, d)
        if row is not None:
            return d, row, not asked
        reason = reason or why
    if not asked:  # latents that no weight takes as they are: a spatial broadcast decoder
        others = [
            (d, row) for d in range(1, 65) if d not in suggested and (row := _row(script, d)[0]) is not None
        ]
        if len(others) == 1:
            return (*others[0], True)
    if asked:
        raise BlueprintError(
            f"the program does not take {asked} latents: {quoted(reason or '')}",
            hint="is the number of latents right?",
        )
    raise NoFlatRowsError(
        f"the program cannot be run on latents: {quoted(reason or 'it has no weights')}",
        hint="add --latent-dim D, or --submodule NAME",
    )


def _row(script: Script, d: int) -> tuple[tuple[int, ...] | None, str | None]:
    """Return the shape of one input row with which a program runs on d latents, or None and why it does not."""
    dtype = next((b.dtype for b in script.buffers() if b.is_floating_point()), torch.float32)
    reason = None
    for row in ((-1,), (d, 1, 1)):
        if script.steps > 4 * BUDGET:
            raise ResourceError(
                "the program takes too many steps to find its number of latents", hint="add --latent-dim D"
            )
        script.row = row
        try:
            with torch.no_grad():
                script(torch.zeros(2, d, dtype=dtype))
        except (UnsafeError, ResourceError):
            raise
        except InputError as error:
            reason = reason or error.message
        except (*RUN_ERRORS, MemoryError) as error:
            if out_of_memory(error):
                raise ResourceError("the program takes more memory than there is for two latents") from None
            reason = reason or (str(error).strip().splitlines() or [type(error).__name__])[0]
        else:
            return row, None
    return None, reason
