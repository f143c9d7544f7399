"""Running the code of a TorchScript archive: statement by statement, within a budget."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from vaeprobe.checkpoints.programs import operators, whole
from vaeprobe.checkpoints.programs.inputs import UnsupportedError
from vaeprobe.checkpoints.programs.program import RUN_ERRORS
from vaeprobe.checkpoints.programs.torchscript.archive import (
    WAY_OUT,
    BoundFunction,
    Instance,
    Library,
    Slot,
)
from vaeprobe.checkpoints.programs.torchscript.table import (
    LISTS,
    LONGEST,
    NUMERIC,
    ON_ANYTHING,
    PRIM,
    READERS,
    SCALAR,
    SEQUENCES,
)
from vaeprobe.errors import InputError, ResourceError
from vaeprobe.files.harm import dotted, refuse_operator
from vaeprobe.files.source import quoted

BUDGET = 50_000  # steps of one call: a decoder takes a few hundred
DEEPEST = 200  # nested calls
SURELY_SMALL = 1 << 26  # numbers that no operator on so many makes more of
CASTS: Mapping[str, Callable[..., object]] = {"int": int, "float": float, "bool": bool}
CONTEXTS = frozenset(
    f"__torch__.torch.{name}"
    for name in (
        "autograd.grad_mode.no_grad", "autograd.grad_mode.enable_grad", "autograd.grad_mode.set_grad_enabled",
        "amp.autocast_mode.autocast", "cpu.amp.autocast_mode.autocast", "cuda.amp.autocast_mode.autocast",
    )
)  # fmt: skip
"""Classes whose contexts change no value: derivatives are those of the function, in one precision throughout."""
CONTEXT = object()
NUMBERS = (int, float, torch.SymInt, torch.SymFloat)


@dataclass
class _Return(Exception):
    """A `return` statement was reached."""

    value: object


# given the place of an operator on tensors among all of a run, its name, arguments and result; returns what to go on with
Watch: TypeAlias = Callable[[int, str, Sequence[object], object], object]


class Interpreter:
    """One run of a program.

    Args:
        library: the archive's code.
        tensors: by the name of their slot.
        constants: what `CONSTANTS.c0`, `CONSTANTS.c1`, ... are.
        device: what the program's own devices are replaced by.
        noise: what normal draws give.

    Attributes:
        left: of its budget.
        last: by the id of what sigmoids and exponentials returned: their name, what they were given, what they returned.
        watch: called on every operator on tensors.
    """

    def __init__(
        self,
        library: Library,
        tensors: Mapping[str, Tensor],
        constants: Sequence[object],
        device: torch.device,
        noise: float = 0.0,
    ) -> None:
        self.library = library
        self.tensors = tensors
        self.constants = constants
        self.device = device
        self.noise = noise
        self.left = BUDGET
        self.depth = 0
        self.last: dict[int, tuple[str, object, Tensor]] = {}
        self.place = -1  # of the last operator
        self.watch: Watch = lambda place, name, args, out: out

    def unsupported(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"the TorchScript program uses {quoted(what, limit=80)}, which is not supported", hint=WAY_OUT
        )

    # -- functions and statements ----------------------------------------------------------------

    def function(self, method: BoundFunction, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        parameters = method.code.args.args
        given = [method.owner, *args] if method.owner is not None else list(args)
        names: dict[str, object] = dict(zip((p.arg for p in parameters), given, strict=False))
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

    def block(self, statements: Sequence[ast.stmt], names: dict[str, object]) -> None:
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

    def statement(self, s: ast.stmt, names: dict[str, object]) -> None:
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
            case ast.With(items=[ast.withitem(context_expr=context, optional_vars=None)], body=body):
                if self.value(context, names) is not CONTEXT:
                    raise self.unsupported(f"with {ast.unparse(context)}")
                self.block(body, names)
            case ast.Pass():
                pass
            case _:
                raise self.unsupported(ast.unparse(s))

    def assign(self, target: ast.expr, value: object, names: dict[str, object]) -> None:
        match target:
            case ast.Name(id=name):
                names[name] = value
            case ast.Tuple(elts=parts) if isinstance(value, (tuple, list)) and len(value) == len(parts):
                for part, item in zip(parts, value, strict=True):
                    self.assign(part, item, names)
            case ast.Tuple(elts=parts) if isinstance(value, (tuple, list)):
                raise InputError(f"the program takes apart {len(value)} values as if they were {len(parts)}")
            case _:
                raise self.unsupported(ast.unparse(target))

    def number(self, value: object) -> int:
        if isinstance(value, (*NUMBERS, Tensor)):
            return int(value)
        raise self.unsupported(f"a range up to {value}")

    # -- expressions -----------------------------------------------------------------------------

    def value(self, e: ast.expr, names: Mapping[str, object]) -> object:
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
                return self.negative(self.value(operand, names))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self.value(operand, names)
            case ast.BoolOp(op=op, values=values):
                stop = isinstance(op, ast.Or)
                return stop if any(bool(self.value(v, names)) is stop for v in values) else not stop
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.value(body if bool(self.value(test, names)) else orelse, names)
            case ast.Subscript(value=base, slice=index):
                return self.item(self.value(base, names), self.value(index, names))
            case ast.Attribute():
                return self.attribute(e, names)
            case ast.Call():
                return self.call(e, names)
        raise self.unsupported(ast.unparse(e))

    def negative(self, value: object) -> object:
        if isinstance(value, (*NUMBERS, Tensor)):
            return SCALAR["neg"](value)
        raise self.unsupported(f"the negative of {value}")

    def item(self, base: object, index: object) -> object:
        match base, index:
            case dict(), _:
                return base[index]
            case ((list() | tuple() | str()), (int() | torch.SymInt())):
                return base[int(index)]
            case Tensor(), _:
                return SCALAR["__getitem__"](base, index)
        raise self.unsupported(f"an item of {base}")

    def attribute(self, e: ast.Attribute, names: Mapping[str, object]) -> object:
        name = dotted(e)
        if name.startswith("__torch__."):
            code = self.library.definitions.get(name)
            if isinstance(code, ast.FunctionDef):
                return BoundFunction(code, None)
            raise self.unsupported(name)
        if name.startswith("CONSTANTS.c"):
            index = (
                int(name.removeprefix("CONSTANTS.c")) if name.removeprefix("CONSTANTS.c").isdigit() else -1
            )
            if not 0 <= index < len(self.constants):
                raise InputError(f"the program uses the constant {quoted(name)}, which the archive lacks")
            return self.constants[index]
        return self.field(self.value(e.value, names), e.attr)

    def field(self, owner: object, name: str) -> object:
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

    def resolved(self, value: object) -> object:
        """Return an attribute with its tensors in place."""
        if isinstance(value, Slot):
            return self.tensors[value.name]
        if isinstance(value, (list, tuple)):
            self.spend(_extent(value))
            return type(value)(map(self.resolved, value))
        if isinstance(value, dict):
            self.spend(_extent(value))
            return {key: self.resolved(item) for key, item in value.items()}
        return value

    def call(self, e: ast.Call, names: Mapping[str, object]) -> object:
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
            case _ if name.removesuffix(".__new__") in CONTEXTS:
                return CONTEXT
        args = [self.value(a, names) for a in e.args]
        kwargs = {str(k.arg): self.value(k.value, names) for k in e.keywords}
        if name == "int" and isinstance(args[0], torch.SymInt):
            return args[0]  # a size while the program is traced by torch.export
        if name in ("int", "float", "bool"):
            return CASTS[name](*args[:1])
        if head == "__torch__":
            return self.function(self.attribute_of(name), args, kwargs)
        if name.startswith("ops.prim."):
            return self.primitive(name.removeprefix("ops.prim."), args)
        if head == "torch" or name.startswith("ops.aten."):
            return self.operator(name.removeprefix("ops.aten.").removeprefix("torch."), args, kwargs)
        raise self.unsupported(name)

    def attribute_of(self, name: str) -> BoundFunction:
        code = self.library.definitions.get(name)
        if not isinstance(code, ast.FunctionDef):
            raise self.unsupported(name)
        return BoundFunction(code, None)

    def called(self, e: ast.Call, names: Mapping[str, object]) -> object:
        method: object = None
        if not isinstance(e.func, ast.Attribute):
            method = self.value(e.func, names)
        elif (owner := self.value(e.func.value, names)) is CONTEXT and e.func.attr == "__init__":
            _, _, enabled, *_ = [*(self.value(a, names) for a in e.args), None, None, None]
            self.library.autocast |= enabled is True  # (device, type, enabled, ...)
            return None
        elif isinstance(owner, Instance):
            code = self.library.method(owner.kind, e.func.attr)
            method = None if code is None else BoundFunction(code, owner)
        if not isinstance(method, BoundFunction):
            raise self.unsupported(ast.unparse(e.func))
        args = [self.value(a, names) for a in e.args]
        return self.function(method, args, {str(k.arg): self.value(k.value, names) for k in e.keywords})

    def primitive(self, name: str, args: Sequence[object]) -> object:
        if name == "RaiseException":
            self.raised(args)
        function = PRIM.get(name)
        if function is None:
            raise refuse_operator(f"prim.{name}")
        return function(*args)

    def raised(self, args: Sequence[object]) -> NoReturn:
        raise InputError(
            f"the program raises {quoted(str(args[0]) if args else 'an error')}",
            hint="is the number of latents right?",
        )

    def foresee(
        self, name: str, function: Callable[..., object], args: list[object], kwargs: dict[str, object]
    ) -> None:
        """Check how large a result will be before it is computed, where its inputs could make it large."""
        tensors = [a for a in leaves([*args, *kwargs.values()]) if isinstance(a, Tensor)]
        if math.prod(max(t.numel(), 1) for t in tensors) <= SURELY_SMALL and not operators.grows(name, args):
            return
        if any(type(t) is not Tensor and not isinstance(t, nn.Parameter) for t in tensors):
            return  # being traced or transformed: it ran on plain tensors before
        ghosts = {id(t): t.to("meta") for t in tensors}

        def ghost(value: object) -> object:
            if isinstance(value, (list, tuple)):
                return type(value)(map(ghost, value))
            return ghosts.get(id(value), torch.device("meta") if isinstance(value, torch.device) else value)

        try:
            out = function(*map(ghost, args), **{k: ghost(v) for k, v in kwargs.items()})
        except RUN_ERRORS:
            return  # not every operator has a form without memory; what is wrong shows when it runs
        operators.small(out)

    def operator(self, name: str, args: list[object], kwargs: dict[str, object]) -> object:
        values = [*args, *kwargs.values()]
        if name not in ("append", "len", "__getitem__"):
            self.spend(sum(_extent(a) for a in values if isinstance(a, (*SEQUENCES, dict))))
        if name in LISTS and any(isinstance(a, (list, tuple, dict)) for a in args[:2]):
            return self.checked(LISTS[name](*args, **kwargs))
        if name in SCALAR and (name in ON_ANYTHING or not any(isinstance(a, Tensor) for a in leaves(values))):
            if name in NUMERIC and not all(isinstance(a, NUMBERS) for a in values):
                raise self.unsupported(f"{name} of something that is no number")
            return self.checked(SCALAR[name](*args, **kwargs))
        if name in READERS and len(args) == 1:
            return READERS[name](args[0])
        function = whole.Noise(name, self.noise) if name in whole.DRAWS else operators.operator(name)
        operators.bounded([*args, *kwargs.values()])
        if "device" in kwargs:
            kwargs["device"] = self.device
        self.foresee(name, function, args, kwargs)
        try:
            out = function(*args, **kwargs)
        except RuntimeError as error:
            if str(error).startswith(
                "Overloaded torch operator invoked from Python failed to match any schema"
            ):
                kinds = ", ".join(type(a).__name__ for a in args)
                raise self.unsupported(f"{name}({kinds})") from None
            raise
        operators.small(out)
        self.place += 1
        out = self.watch(self.place, name, values, out)
        if name.removesuffix("_") in ("sigmoid", "exp") and isinstance(out, Tensor):
            # keeps `out` alive, so that its id stays its own
            self.last[id(out)] = (name.removesuffix("_"), args[0], out)
        return out

    def checked(self, out: object) -> object:
        """Return what an operator on numbers and lists returned, where it is no larger than what we go through.

        Raises:
            ResourceError: a list is.
            InputError: a number is none of 64 bits.
        """
        if isinstance(out, SEQUENCES) and len(out) > LONGEST:
            raise ResourceError(f"the program makes a list of {len(out):,} items")
        if type(out) is int and abs(out) >= 1 << 63:
            raise InputError("the program computes a whole number beyond 64 bits")
        return out


def leaves(values: Sequence[object]) -> Iterator[object]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from leaves(value)
        else:
            yield value


def _extent(value: object, known: dict[int, int] | None = None) -> int:
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
