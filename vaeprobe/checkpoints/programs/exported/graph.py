"""The graph of a program as steps of operators that are known to be harmless."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vaeprobe.checkpoints.blueprint import Condition
from vaeprobe.checkpoints.programs import operators
from vaeprobe.checkpoints.programs.exported.code import refuse_code
from vaeprobe.checkpoints.programs.exported.document import (
    at,
    items,
    list_of,
    name_of,
    parsed,
    table_of,
    union,
)
from vaeprobe.checkpoints.programs.exported.weights import DTYPES, inputs_of
from vaeprobe.checkpoints.programs.held import hold
from vaeprobe.checkpoints.programs.inputs import latents_of, row_of, with_state
from vaeprobe.checkpoints.programs.program import (
    RUN_ERRORS,
    UNDER_AUTOCAST,
    Here,
    Names,
    Program,
    Step,
    Value,
    flat,
)
from vaeprobe.checkpoints.programs.whole import DRAWS, Noise
from vaeprobe.errors import InputError, ResourceError, UnsafeError
from vaeprobe.files.harm import HINT_SAVE_ANEW, refuse_operator
from vaeprobe.files.source import quoted
from vaeprobe.files.zips import Archive
from vaeprobe.findings import TRAINING_MODE
from vaeprobe.report import Finding

__all__ = ["Graph"]

# torch/_export/serde/schema.py, MemoryFormat
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
SCHEMA_MAJOR = 8
REGIONS = frozenset(f"torch.ops.higher_order.wrap_with_{how}" for how in ("set_grad_enabled", "autocast"))
"""What runs a graph within the graph, once."""
MOST_NESTED = 32
LATENTS = ("z", "latent", "latents", "noise", "latent_sample", "code")


OPEN = "the program leaves the number of latents open"


class Graph:
    """The JSON of a program, checked while it is read.

    Args:
        archive: a checked zip archive.
        asked: number of latents, where somebody said it.
        size: of the map of latents, likewise.
    """

    def __init__(
        self, archive: Archive, asked: int | None = None, size: tuple[int, ...] | None = None
    ) -> None:
        self.archive = archive
        self.asked, self.size = asked, size
        self.notes: list[Finding] = []
        self.conditions: tuple[Condition, ...] = ()
        self.regions = 0
        models = [n for n in archive.records if n.startswith("models/") and n.endswith(".json")]
        if not models:
            raise InputError("the archive holds no program (`models/model.json`)", hint=HINT_SAVE_ANEW)
        chosen = "models/model.json" if "models/model.json" in models else models[0]
        self.stem = chosen[len("models/") : -len(".json")]
        document = table_of(parsed(archive, chosen))
        major = at(document, "schema_version", "major")
        if major != SCHEMA_MAJOR:
            raise InputError(
                f"the program has schema version {major}, and {SCHEMA_MAJOR} is known", hint=HINT_SAVE_ANEW
            )
        module = at(document, "graph_module")
        self.graph = table_of(at(module, "graph"))
        self.signature = at(module, "signature")
        refuse_code(document, self.graph)

    def program(self, conditions: Mapping[str, str | float] | None = None) -> Program:
        """Return the program of the latents, its other inputs held.

        Args:
            conditions: values at which they are held, by name.

        Raises:
            InputError: which input is the latents cannot be told.
            UsageError: a condition is no input, or no class of it.
        """
        state: dict[str, Tensor] = {}
        inputs = []
        for name, _, tensor in inputs_of(self.archive, self.stem, self.signature):
            if tensor is None:
                inputs.append(name)
            else:
                state[name] = tensor
        self.input = self.latents_among(inputs)
        mutations = [
            k
            for k, _ in map(union, items(self.signature, "output_specs"))
            if k not in ("user_output", "buffer_mutation")
        ]
        if mutations:
            raise InputError(
                f"the program returns more than outputs ({quoted(mutations[0])})", hint=HINT_SAVE_ANEW
            )
        steps = list(self.steps(self.graph))
        steps = [*self.held(inputs, state, steps, conditions or {}), *steps]
        defined = {*state, self.input, *(name for s in steps for name in s.gives())}
        specs = items(self.signature, "output_specs")
        kept = [
            self.argument(out)
            for out, spec in zip(items(self.graph, "outputs"), specs, strict=False)
            if union(spec)[0] == "user_output"
        ]
        for used in (v for s in steps for v in (*s.args, *s.kwargs.values())):
            for value in flat([used]):
                if isinstance(value, Value) and value.name not in defined:
                    raise InputError(f"the program uses {quoted(value.name)}, which nothing computes")
        if not kept or any(not isinstance(o, Value) or o.name not in defined for o in kept):
            raise InputError(
                "the program does not return tensors", hint="a decoder returns its reconstruction first"
            )
        with with_state(lambda: state):
            row, batch, batched = self.input_shape()
        return Program(state, steps, self.input, kept[0] if len(kept) == 1 else kept, row, batch, batched)

    def steps(self, graph: object, depth: int = 0) -> Iterator[Step]:
        """Yield what the nodes of a graph compute; of a graph within it, its steps in the place of its node."""
        for node in items(graph, "nodes"):
            if at(node, "target") in REGIONS:
                yield from self.region(node, depth + 1)
            elif (step := self.step(node)) is not None:
                yield step

    def region(self, node: object, depth: int) -> Iterator[Step]:
        """Yield the steps of a graph that the program runs once, with names of its own: under no_grad, or under autocast.

        Derivatives are those of the function that it computes, in the precision of the rest.
        """
        settings, graph, inputs = _split(items(node, "inputs"))
        if "autocast" in str(at(node, "target")) and [union(a) for a in settings][2:3] == [("as_bool", True)]:
            self.note(UNDER_AUTOCAST)
        given = list(map(self.argument, inputs))
        if table_of(graph).get("custom_obj_values"):
            raise UnsafeError("the program uses custom objects", hint=HINT_SAVE_ANEW)
        inputs_of_it, outputs = ([self.argument(o) for o in items(graph, k)] for k in ("inputs", "outputs"))
        names = _names_of(inputs_of_it)
        if len(names) != len(given):
            raise InputError("the program gives a graph within it other inputs than it takes")
        if depth > MOST_NESTED:
            raise InputError(f"the program has graphs within graphs, more than {MOST_NESTED} deep")
        self.regions += 1
        own = _Names(f"region{self.regions}/", dict(zip(names, given, strict=True)))
        for step in self.steps(graph, depth):
            yield replace(
                step,
                args=tuple(map(own.argument, step.args)),
                kwargs={k: own.argument(v) for k, v in step.kwargs.items()},
                outputs=tuple(own.result(o) for o in step.outputs),
            )
        results = [self.result(o) for o in items(node, "outputs")]
        results = results[0] if len(results) == 1 and isinstance(results[0], list) else results
        if len(results) != len(outputs):
            raise InputError("the program takes other outputs of a graph within it than it gives")
        for result, output in zip(results, outputs, strict=True):
            yield Step("alias", _same, (own.argument(output),), {}, (result,))

    def step(self, node: object) -> Step | None:
        target = at(node, "target")
        if not isinstance(target, str):
            raise InputError("the program has an operator without a name")
        outputs = tuple(self.result(o) for o in items(node, "outputs"))
        if target in operators.PYTHON:
            function, arguments = operators.PYTHON[target], {}
        else:
            parts = target.split(".")
            if len(parts) != 5 or parts[:3] != ["torch", "ops", "aten"]:
                namespace = ".".join(parts[2:]) if parts[:2] == ["torch", "ops"] else target
                raise refuse_operator(namespace)
            if parts[3] in operators.ASSERTIONS:
                return None
            if parts[3] in DRAWS:  # of a whole VAE, whose decoder it is no part of
                given = [self.argument(at(item, "arg")) for item in items(node, "inputs")]
                operators.bounded(given)
                return Step(parts[3], Noise(parts[3]), tuple(given), {}, outputs)
            function = operators.operator(parts[3], parts[4])
            arguments = {a.name: a for a in function._schema.arguments}  # type: ignore[attr-defined]
        args, kwargs = [], {}
        for item in items(node, "inputs"):
            name, value = at(item, "name"), self.argument(at(item, "arg"))
            operators.bounded([value])
            if name in ("training", "train") and value is True and name in arguments:
                value = False
                said = f"the program was exported in training mode ({parts[3]}): it is probed in eval mode"
                self.note(Finding(TRAINING_MODE, said))
            known = arguments.get(name)
            # kind 1 is positional; older files do not say, and then the operator's own signature does
            how = table_of(item).get("kind")
            if how == 2 or (how != 1 and known is not None and known.kwarg_only):
                kwargs[str(name)] = value
            else:
                args.append(value)
        name = target.split(".")[-2] if "." in target else target
        return Step(name, function, tuple(args), kwargs, outputs, mutates=name.endswith("_"))

    def note(self, found: Finding) -> None:
        """Note something, once of each kind."""
        if not any(n.spec is found.spec for n in self.notes):
            self.notes.append(found)

    def argument(self, arg: object) -> object:
        kind, value = union(arg)
        match kind:
            case "as_none":
                return None
            case "as_tensor":
                return Value(name_of(at(value, "name")))
            case "as_tensors":
                return [Value(name_of(at(v, "name"))) for v in list_of(value, kind)]
            case "as_optional_tensor":
                return self.argument(value)
            case "as_optional_tensors":
                return [self.argument(v) for v in list_of(value, kind)]
            case "as_int" | "as_bool" | "as_string" | "as_ints" | "as_bools":
                return value
            case "as_float":
                return _number(value)
            case "as_floats":
                return [_number(v) for v in list_of(value, kind)]
            case "as_sym_int" | "as_sym_float" | "as_sym_bool":
                what, inner = union(value)
                return Value(name_of(inner)) if what == "as_name" else _number(inner)
            case "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
                return [self.argument({kind[:-1]: v}) for v in list_of(value, kind)]
            case "as_scalar_type" if isinstance(value, int) and value in DTYPES:
                return DTYPES[value]
            case "as_memory_format" if isinstance(value, int) and value in MEMORY_FORMATS:
                return MEMORY_FORMATS[value]
            case "as_layout" if value == 7:
                return torch.strided
            case "as_device":
                return Here()
            case "as_operator" | "as_graph" | "as_custom_obj" | "as_string_to_argument":
                raise refuse_operator(kind.removeprefix("as_"), "a program within the program")
        raise InputError(f"the program has an argument of a kind that is not supported, {quoted(kind)}")

    def result(self, out: object) -> Names:
        kind, value = union(out)
        match kind:
            case "as_tensor":
                return name_of(at(value, "name"))
            case "as_tensors":
                return [name_of(at(v, "name")) for v in list_of(value, kind)]
            case "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return name_of(at(value, "as_name"))
            case "as_none":
                return None
        raise InputError(f"the program computes something that is not supported, {quoted(kind)}")

    def rows(self, batched: bool) -> dict[str, tuple[int, ...]]:
        """Return the shape of one row of every value whose size the file says."""
        out = {}
        for name, meta in table_of(at(self.graph, "tensor_values")).items():
            sizes = [n if kind == "as_int" else None for kind, n in map(union, items(meta, "sizes"))]
            row = tuple(n for n in sizes[1 if batched else 0 :] if type(n) is int and n > 0)
            if len(row) == len(sizes) - batched:
                out[name] = row
        return out

    # -- the inputs -------------------------------------------------------------------------------

    def latents_among(self, inputs: list[str]) -> str:
        """Return the name of the input that is the latents: the only one of real numbers, or the one that is called so."""
        real = [name for name in inputs if self.dtype(name).is_floating_point]
        named = [name for name in real if name.lower() in LATENTS]
        if len(real) == 1 or len(named) == 1:
            return named[0] if len(named) == 1 else real[0]
        shown = ", ".join(map(quoted, inputs))
        if inputs and not real:
            raise InputError(
                f"the program takes whole numbers alone ({shown}), as an encoder of tokens does, and latents are real numbers",
                hint="export what decodes latents; an encoder of tokens with `x @ table.weight` of one-hot rows x in the place of `table(x)`,"
                " or in Python give it as encoder=vaeprobe.Encoder(encode, D, dtype=torch.long)",
            )
        raise InputError(
            f"the program takes {len(inputs)} inputs{f' ({shown})' if inputs else ''}, and which is the latents it does not say",
            hint="export a wrapper that fixes the others, or call the input of the latents `z`",
        )

    def dtype(self, name: str) -> torch.dtype:
        code = at(self.graph, "tensor_values", name, "dtype")
        return DTYPES.get(code, torch.float32) if isinstance(code, int) else torch.float32

    def held(
        self,
        inputs: list[str],
        state: Mapping[str, Tensor],
        steps: list[Step],
        values: Mapping[str, str | float],
    ) -> list[Step]:
        """Return steps that make the inputs beside the latents, each held at one value."""
        rows, classes = {}, {}
        for name in inputs:
            if name == self.input:
                continue
            sizes = self.sizes(name)
            if any(n is None for n in sizes[1:]):
                raise InputError(f"the program leaves the size of its input {quoted(name)} open")
            rows[name] = (self.dtype(name), [n for n in sizes[1:] if n is not None], bool(sizes))
            classes[name] = _classes(name, state, steps)
        held, self.conditions = hold(rows, values, classes)
        return [Step("held", h, (Value(self.input),), {}, (name,)) for name, h in held.items()]

    def sizes(self, name: str) -> list[int | None]:
        sizes = items(at(self.graph, "tensor_values", name), "sizes")
        return [n if kind == "as_int" and isinstance(n, int) else None for kind, n in map(union, sizes)]

    def input_shape(self) -> tuple[tuple[int, ...], int, bool]:
        """Return the shape of one input row, the fixed batch size or 0, and whether there is a batch axis."""
        sizes = self.sizes(self.input)
        if not sizes or any(n is not None and not 0 < n < 1 << 31 for n in sizes):
            raise InputError("the program's input has no shape that a latent could have")
        batched = len(sizes) > 1
        rest = sizes[1:] if batched else sizes
        row = (-1,) if rest == [None] else row_of(rest, self.asked, self.size, OPEN)
        return row, (sizes[0] or 0) if batched else 0, batched

    def latent_dim(self, asked: int | None) -> int:
        row, _, _ = self.input_shape()
        if -1 in row:
            return row_of([None], asked, None, OPEN)[0]
        return latents_of(row, asked)

    def rehearse(self, program: Program, d: int) -> None:
        """Run the program once on tensors without memory, to see that no tensor in it is absurdly large."""
        steps = [(s.operator, [*s.args, *s.kwargs.values()]) for s in program.steps]
        repeats = any(t.numel() * t.itemsize > t.untyped_storage().nbytes() for t in program.buffers())
        if not repeats and not any(operators.grows(name, arguments) for name, arguments in steps):
            return  # torch takes seconds to import what computes shapes alone
        ghost = Program(
            {n: t.to("meta") for n, t in program.state().items()},
            program.steps, program.source, program.output, program.row, program.batch, program.batched,
        )  # fmt: skip
        rows = (program.batch or 2,) if program.batched else ()
        dtype = next((t.dtype for t in program.buffers() if t.is_floating_point()), torch.float32)
        x = torch.empty(*rows, *(program.row if -1 not in program.row else (d,)), device="meta", dtype=dtype)
        try:
            with torch.no_grad():
                ghost.run(x, operators.SizeGuard())
        except ResourceError:
            raise
        except RUN_ERRORS as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"the program cannot run: {quoted(reason)}", hint=HINT_SAVE_ANEW) from None


def _classes(name: str, state: Mapping[str, Tensor], steps: Sequence[Step]) -> int:
    """Return how many classes an input chooses from, where a table or a one-hot vector tells; 0 where none does."""
    for step in steps:
        args = step.args
        if step.operator == "embedding" and len(args) > 1 and args[1] == Value(name):
            table = args[0]
            return len(state[table.name]) if isinstance(table, Value) and table.name in state else 0
        if step.operator == "one_hot" and len(args) > 1 and args[0] == Value(name):
            return args[1] if isinstance(args[1], int) and args[1] > 0 else 0
    return 0


@dataclass(frozen=True)
class _Names:
    """The names within a graph that is part of another, in which they may be taken.

    Attributes:
        own: what stands before names of its own.
        given: what its inputs are outside, by name.
    """

    own: str
    given: Mapping[str, object]

    def argument(self, value: object) -> object:
        if isinstance(value, Value):
            return self.given.get(value.name, Value(self.own + value.name))
        return [self.argument(v) for v in value] if isinstance(value, list) else value

    def result(self, names: Names) -> Names:
        if isinstance(names, str):
            return self.own + names
        return [self.result(n) for n in names] if names is not None else None


def _split(inputs: Sequence[object]) -> tuple[list[object], object, list[object]]:
    """Return the settings of a graph within the graph, itself, and what it is given."""
    arguments = [at(item, "arg") for item in inputs]
    for k, arg in enumerate(arguments):
        if union(arg)[0] == "as_graph":
            return arguments[:k], at(arg, "as_graph", "graph"), arguments[k + 1 :]
    raise InputError("the program names a graph within it that is not there")


def _names_of(values: Sequence[object]) -> list[str]:
    if not all(isinstance(v, Value) for v in values):
        raise InputError("a graph within the program has inputs without names")
    return [v.name for v in values if isinstance(v, Value)]


def _same(value: object) -> object:
    return value


def _number(value: object) -> object:
    """Return a number, which the file writes as a word where JSON has none."""
    return float(value) if value in ("Infinity", "-Infinity", "NaN") and isinstance(value, str) else value
