"""ONNX models, as programs of torch functions: differentiable in every mode, and nothing in the file is executed.

The `onnx` package (extra `[onnx]`) parses the file; run-times such as onnxruntime, which have no derivatives, are not
needed.  A node becomes a step with a function from `table.OPERATORS`; what is not in that table is refused by name.

Source: `onnx/onnx.proto`, IR versions 3 to 13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaeprobe.checkpoints.blueprint import Blueprint, BlueprintError
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.programs.held import hold
from vaeprobe.checkpoints.programs.onnx import elementwise, layers, recurrence, resize, shapes, table
from vaeprobe.checkpoints.programs.onnx.external import external_bytes
from vaeprobe.checkpoints.programs.program import (
    RUN_ERRORS,
    Program,
    Step,
    Value,
    example,
    flat,
    parts_of,
    rehearse,
    run_steps,
)
from vaeprobe.errors import InputError, MissingExtraError, ResourceError, UsageError, did_you_mean
from vaeprobe.files.source import quoted
from vaeprobe.findings import CAST_UP
from vaeprobe.report import Finding

if TYPE_CHECKING:
    pass

__all__ = ["read"]

ROOMS = (elementwise, layers, recurrence, resize, shapes)  # importing them fills the table
LATENT = "z"  # name of the input among the values: no ONNX name, since all of those are prefixed
MAX_NODES = 100_000  # after functions are written out
MAX_TURNS = 1_000  # of a loop
DEEPEST = 8  # graphs within graphs
HINT = "export the decoder alone to .pt2 with torch.export.save, or give its weights and a blueprint"


@dataclass(frozen=True)
class Input:
    """An input of a graph: its name, torch type and sizes (None where the graph leaves them open)."""

    name: str
    dtype: torch.dtype
    sizes: tuple[int | None, ...]


def read(
    data: bytes,
    folder: Path | None = None,
    *,
    blueprint: Blueprint | None = None,
    latent_dim: int | None = None,
    output: int | str | None = None,
    conditions: Mapping[str, float] | None = None,
) -> Parts:
    """Return the decoder that an ONNX model holds.

    Args:
        data: the bytes of the model.
        folder: where the files of its external data lie; None refuses them.
        blueprint: latents, likelihood and parameter, without layers.
        latent_dim: number of latents, where the graph leaves it open.
        output: the value to take as output: an output of the graph by its place, or any value in it by its name.
        conditions: values at which inputs besides the latents are held, by name; whole numbers choose a class.

    Raises:
        MissingExtraError: the package `onnx` is not installed.
        UnsafeError: external data that lie outside the folder, or custom operators.
        InputError: it is damaged, or no map from one tensor to outputs, or uses what is not supported.
        ResourceError: it would make an absurdly large tensor, or loop without end.
        BlueprintError: the blueprint's latents are not those of the model.
        UsageError: `output` or a condition is not in the graph.
    """
    bp = blueprint or Blueprint()
    model = _Model(data, folder)
    asked = latent_dim or bp.latent_dim
    latent, others = model.choose_input()
    row, batch, batched, d = _row_of(latent, asked, model)
    if bp.latent_dim not in (None, d):
        raise BlueprintError(
            f"`{bp.origin}` says {bp.latent_dim} latents, and the model takes {d}",
            hint=f"write latents = {d}",
        )
    held = model.held(others, conditions or {})
    taken = model.choose_output(output)
    state = model.state()
    steps = [*held, *model.steps(model.proto.graph, 0)]
    values = {name: Value(_inner(name)) for name in taken}
    out = values if len(values) > 1 else values[taken[0]]
    program = Program(state, _used(steps, taken), _inner(latent.name), out, row, batch, batched)
    rehearse(program, d, "the ONNX model")
    if batch:
        program = _any_batch(program, d)
    return parts_of(program, program.natural(bp), bp, d, [*model.notes, *program.notes()])


def _inner(name: str) -> str:
    """Return the name of a graph's value among a program's (no name of a file can then collide with ours)."""
    return f":{name}"


def _used(steps: Sequence[Step], outputs: Sequence[str]) -> list[Step]:
    """Return the steps that the outputs need."""
    wanted, kept = {_inner(name) for name in outputs}, []
    for step in reversed(steps):
        if any(name in wanted for name in flat(list(step.outputs))):
            kept.append(step)
            wanted.update(step.uses())
    return kept[::-1]


# -- running it once --------------------------------------------------------------------------------


def _any_batch(program: Program, d: int) -> Program:
    """Return the program for batches of any size, where it gives the same rows.

    Many graphs name a batch size and do not need it, or need it only where they reshape.
    """
    z = example(program, d, 3 * program.batch + 1)
    for steps in (program.steps, _open_reshapes(program)):
        free = Program(program.state(), steps, program.source, program.output, program.row)
        try:
            with torch.no_grad():
                one, many = program(z), free(z)
        except (*RUN_ERRORS, ResourceError):
            continue
        if (
            isinstance(many, Tensor)
            and one.shape == many.shape
            and torch.allclose(one, many, rtol=1e-4, atol=1e-6)
        ):
            return free
    return program


def _open_reshapes(program: Program) -> list[Step]:
    """Return a program's steps with -1 for the batch in the shapes that it reshapes to."""
    shapes = program.state()
    shapes |= {s.outputs[0]: s.function.value for s in program.steps if isinstance(s.function, _Constant)}
    steps = []
    for step in program.steps:
        shape = step.args[1] if step.operator == "reshape" and len(step.args) > 1 else None
        sizes = shapes[shape.name].tolist() if isinstance(shape, Value) and shape.name in shapes else []
        if isinstance(sizes, list) and sizes[:1] == [program.batch] and -1 not in sizes:
            steps.append(replace(step, args=(step.args[0], torch.tensor([-1, *sizes[1:]]))))
        else:
            steps.append(step)
    return steps


# -- the model --------------------------------------------------------------------------------------


class _Model:
    """A parsed model, checked while it is read."""

    def __init__(self, data: bytes, folder: Path | None) -> None:
        try:
            import onnx
            import onnx.inliner
        except ImportError:
            raise MissingExtraError(
                "reading ONNX needs the package `onnx`", hint="pip install 'vaeprobe[onnx]'"
            ) from None
        self.folder = folder
        self.notes: list[Finding] = []
        self.budget = MAX_NODES
        try:
            self.proto = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's own errors have no common base
            raise InputError(
                f"the file is no whole ONNX model ({quoted(str(error))})",
                hint="is it truncated? fetch it again",
            ) from None
        self.opset = self._opset()
        if self.proto.functions:
            self._refuse_bombs()
            try:
                self.proto = onnx.inliner.inline_local_functions(self.proto)
            except Exception as error:
                raise InputError(
                    f"the functions of the ONNX model cannot be written out: {quoted(str(error))}"
                ) from None

    def _opset(self) -> int:
        versions = {("ai.onnx" if not o.domain else o.domain): o.version for o in self.proto.opset_import}
        version = versions.get("ai.onnx", 0)
        if not 7 <= version <= 64:
            raise InputError(
                f"the ONNX model uses operator set {version}, and 7 to 25 are known",
                hint="export it anew with opset 17 or later",
            )
        return int(version)

    def _refuse_bombs(self) -> None:
        """Refuse functions that call functions that call ... to more nodes than any network has."""
        bodies = {(f.domain, f.name): f for f in self.proto.functions}
        sizes: dict[tuple[str, str], int] = {}

        def size(nodes: Any, open: tuple[tuple[str, str], ...]) -> int:
            total = 0
            for node in nodes:
                key = (node.domain, node.op_type)
                if key in open or len(open) > 64:
                    raise InputError(f"the ONNX function {quoted(node.op_type)} calls itself")
                if key in bodies and key not in sizes:
                    sizes[key] = size(bodies[key].node, (*open, key))
                total += sizes.get(key, 1)
                if total > MAX_NODES:
                    raise ResourceError(f"the ONNX model has over {MAX_NODES:,} operators")
            return total

        size(self.proto.graph.node, ())

    # -- inputs and outputs ----------------------------------------------------------------------

    @cached_property
    def stored(self) -> dict[str, Any]:
        """Initializers by name."""
        graph = self.proto.graph
        if graph.sparse_initializer:
            raise InputError("the ONNX model has sparse weights, which are not supported")
        return {t.name: t for t in graph.initializer}

    def inputs(self) -> list[Input]:
        """Return the inputs that are no weights."""
        found = []
        for value in self.proto.graph.input:
            if value.name in self.stored:
                continue
            kind = value.type.tensor_type
            dtype = table.TYPES.get(kind.elem_type)
            if not value.type.HasField("tensor_type") or dtype is None:
                raise InputError(
                    f"the ONNX model takes the input {quoted(value.name)}, which is no tensor of numbers"
                )
            sizes = tuple(
                d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim
            )
            found.append(Input(value.name, dtype, sizes))
        return found

    def choose_input(self) -> tuple[Input, list[Input]]:
        """Return the input that is the latents, and the others."""
        inputs = self.inputs()
        if not inputs:
            raise InputError("the ONNX model takes no input", hint="a decoder takes its latents")
        real = [i for i in inputs if i.dtype.is_floating_point]
        if not real:
            raise InputError(
                f"the ONNX model takes no real numbers, only {', '.join(quoted(i.name) for i in inputs)}",
                hint="a decoder takes its latents as floats",
            )
        named = [
            i for i in real if i.name.lower() in ("z", "latent", "latents", "noise", "latent_sample", "code")
        ]
        if len(real) > 1 and len(named) != 1:
            raise InputError(
                f"the ONNX model takes {len(real)} real inputs ({', '.join(quoted(i.name) for i in real)}), and which is the latents it does not say",
                hint="export a wrapper that fixes the others, or call the input of the latents `z`",
            )
        chosen = named[0] if len(real) > 1 else real[0]
        return chosen, [i for i in inputs if i is not chosen]

    def held(self, others: Sequence[Input], conditions: Mapping[str, float]) -> list[Step]:
        """Return steps that make the other inputs, each held at one value."""
        open_sizes = next((i for i in others if None in i.sizes[1:]), None)
        if open_sizes is not None:
            raise InputError(f"the ONNX model leaves the size of its input {quoted(open_sizes.name)} open")
        rows = {i.name: (i.dtype, [n for n in i.sizes[1:] if n is not None], bool(i.sizes)) for i in others}
        held = hold(rows, conditions, self.notes)
        return [Step("held", h, (Value(self.latent),), {}, (_inner(name),)) for name, h in held.items()]

    def choose_output(self, asked: int | str | None) -> list[str]:
        """Return the name of the value that was asked for, or the names of all outputs."""
        outputs = [str(o.name) for o in self.proto.graph.output]
        made = [name for node in self.proto.graph.node for name in node.output if name]
        if not outputs:
            raise InputError("the ONNX model returns nothing")
        if asked is None:
            return outputs
        if isinstance(asked, str) and asked in made:
            return [asked]
        place = int(asked) if str(asked).isdigit() else len(outputs)
        if place >= len(outputs):
            raise UsageError(
                f"the ONNX model computes nothing called {quoted(str(asked))}",
                hint=did_you_mean(str(asked), made)
                or f"its outputs are {', '.join(quoted(o) for o in outputs[:5])}",
            )
        return [outputs[place]]

    # -- weights ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return the weights."""
        half = [name for name, t in self.stored.items() if t.data_type in (10, 16)]
        if half:
            self.notes.append(
                Finding(
                    CAST_UP,
                    f"{len(half)} half-precision tensors were cast to float32",
                )
            )
        return {_inner(name): self.tensor(t, name) for name, t in self.stored.items()}

    def tensor(self, proto: Any, name: str) -> Tensor:
        """Return a tensor of the file, whose sizes and bytes must agree."""
        import math

        from onnx import numpy_helper

        dtype = table.TYPES.get(proto.data_type)
        if dtype is None:
            raise InputError(
                f"the ONNX tensor {quoted(name)} is of a type that is not supported (code {proto.data_type})"
            )
        sizes = list(proto.dims)
        count = math.prod(sizes)
        if any(n < 0 or n >= 1 << 48 for n in sizes):
            raise InputError(f"the ONNX tensor {quoted(name)} has impossible sizes {sizes}")
        if proto.data_location == 1:  # EXTERNAL
            raw = external_bytes(proto, name, self.folder, count * dtype.itemsize)
        elif proto.HasField("raw_data"):
            raw = proto.raw_data
        else:
            try:
                values = numpy_helper.to_array(proto)
            except Exception as error:
                raise InputError(f"the ONNX tensor {quoted(name)} is damaged: {quoted(str(error))}") from None
            return torch.from_numpy(values.astype("float32") if dtype in HALF else values.copy())
        if len(raw) != count * dtype.itemsize:
            raise InputError(
                f"the ONNX tensor {quoted(name)} claims the shape {sizes}, which its {len(raw):,} bytes do not fill"
            )
        if not count:
            return torch.zeros(sizes, dtype=torch.float32 if dtype in HALF else dtype)
        out = torch.frombuffer(bytearray(raw), dtype=dtype).reshape(sizes)
        return out.float() if dtype in HALF else out

    # -- nodes -----------------------------------------------------------------------------------

    def steps(self, graph: Any, depth: int) -> list[Step]:
        """Return the steps of a graph, or of a graph within it."""
        if depth > DEEPEST:
            raise InputError("the ONNX model nests graphs too deeply")
        return [self.step(node, depth) for node in graph.node]

    def step(self, node: Any, depth: int) -> Step:
        self.budget -= 1
        if self.budget < 0:
            raise ResourceError(f"the ONNX model has over {MAX_NODES:,} operators")
        name = node.op_type
        if node.domain not in ("", "ai.onnx"):
            raise InputError(
                f"the ONNX model uses {quoted(name)} of the domain {quoted(node.domain)}, which only its own run-time knows",
                hint="export it with standard operators alone",
            )
        outputs = tuple(_inner(o) if o else None for o in node.output)
        if name in table.RANDOM:
            raise InputError(
                f"the ONNX model draws random numbers ({quoted(name)})",
                hint="export the decoder alone, without the sampling of its latents",
            )
        if name == "Constant":
            value = self.constant(node)
            return Step("constant", _Constant(value), (), {"like": Value(self.latent)}, outputs)
        if name == "If":
            return self.branch(node, outputs, depth)
        if name == "Loop":
            return self.loop(node, outputs, depth)
        function = table.OPERATORS.get(name)
        if function is None:
            raise InputError(f"the ONNX operator {quoted(name)} is not supported", hint=HINT)
        while outputs and outputs[-1] is None:
            outputs = outputs[:-1]
        about = table.Node(name, self.opset, self.attributes(node), len(outputs))
        args = tuple(Value(_inner(i)) if i else None for i in node.input)
        kwargs = {"like": Value(self.latent)} if name in table.LIKE else {}
        run: Callable[..., Any] = _Single(function, about) if len(outputs) == 1 else partial(function, about)
        return Step(name.lower(), run, args, kwargs, outputs)

    @cached_property
    def latent(self) -> str:
        return _inner(self.choose_input()[0].name)

    def attributes(self, node: Any) -> dict[str, Any]:
        """Return a node's attributes as numbers, lists, texts and tensors."""
        found: dict[str, Any] = {}
        for a in node.attribute:
            match a.type:
                case 1:
                    found[a.name] = a.f
                case 2:
                    found[a.name] = a.i
                case 3:
                    found[a.name] = a.s.decode("utf-8", "replace")
                case 4:
                    found[a.name] = self.tensor(a.t, a.name)
                case 6:
                    found[a.name] = list(a.floats)
                case 7:
                    found[a.name] = list(a.ints)
                case 8:
                    found[a.name] = [s.decode("utf-8", "replace") for s in a.strings]
                case _:
                    raise InputError(
                        f"the ONNX operator {quoted(node.op_type)} has an attribute that is not supported"
                    )
        return found

    def constant(self, node: Any) -> Tensor:
        attributes = self.attributes(node)
        for name, value in attributes.items():
            if name == "value":
                return value if isinstance(value, Tensor) else torch.tensor(value)
            if name in ("value_int", "value_ints"):
                return torch.tensor(value, dtype=torch.int64)
            if name in ("value_float", "value_floats"):
                return torch.tensor(value, dtype=torch.float32)
        raise InputError("the ONNX model has a constant that is no number")

    # -- graphs within graphs --------------------------------------------------------------------

    def inner(self, graph: Any, depth: int) -> tuple[list[Step], dict[str, Tensor], list[str], list[str]]:
        """Return the steps of a graph within a node, its own weights, what it takes from outside, its outputs."""
        steps = self.steps(graph, depth + 1)
        own = {_inner(t.name): self.tensor(t, t.name) for t in graph.initializer}
        inputs = {_inner(i.name) for i in graph.input}
        made = {name for s in steps for name in flat(list(s.outputs))} | set(own) | inputs
        outputs = [_inner(o.name) for o in graph.output]
        outside = list(dict.fromkeys(n for s in steps for n in s.uses() if n not in made))
        outside += [n for n in outputs if n not in made and n not in outside]
        return steps, own, outside, outputs

    def branch(self, node: Any, outputs: tuple[Any, ...], depth: int) -> Step:
        graphs = {a.name: a.g for a in node.attribute if a.type == 5}
        if not {"then_branch", "else_branch"} <= set(graphs):
            raise InputError("an ONNX `If` lacks a branch")
        branches = [self.inner(graphs[k], depth) for k in ("then_branch", "else_branch")]
        outside = list(dict.fromkeys(n for b in branches for n in b[2]))

        def run(condition: Tensor, *values: Any, like: Tensor) -> Any:
            steps, own, _, wanted = branches[0 if bool(condition.reshape(-1)[0]) else 1]
            known = {**dict(zip(outside, values, strict=True)), **own}
            run_steps(steps, known, like.device)
            out = [known[n] for n in wanted]
            return out[0] if len(out) == 1 else out

        args = (Value(_inner(node.input[0])), *(Value(n) for n in outside))
        return Step("if", run, args, {"like": Value(self.latent)}, outputs)

    def loop(self, node: Any, outputs: tuple[Any, ...], depth: int) -> Step:
        if depth:
            raise InputError("the ONNX model has a `Loop` within a graph, which is not supported", hint=HINT)
        body = next((a.g for a in node.attribute if a.type == 5), None)
        if body is None:
            raise InputError("an ONNX `Loop` lacks its body")
        steps, own, outside, wanted = self.inner(body, depth)
        names = [_inner(i.name) for i in body.input]
        carried = len(node.input) - 2

        def run(turns: Tensor | None, going: Tensor | None, *rest: Any, like: Tensor) -> Any:
            state, fixed = list(rest[:carried]), dict(zip(outside, rest[carried:], strict=True))
            limit = int(turns.reshape(-1)[0]) if turns is not None else MAX_TURNS + 1
            if limit > MAX_TURNS and turns is not None:
                raise ResourceError(f"the program loops {limit:,} times", hint="is this the decoder alone?")
            scans: list[list[Tensor]] = [[] for _ in wanted[1 + carried :]]
            go, turn = going is None or bool(going.reshape(-1)[0]), 0
            while go and turn < limit:
                if turn >= MAX_TURNS:
                    raise ResourceError(
                        f"the program loops over {MAX_TURNS:,} times", hint="is this the decoder alone?"
                    )
                known = {**fixed, **own}
                known.update(zip(names, [torch.tensor(turn), torch.tensor(True), *state], strict=False))
                run_steps(steps, known, like.device)
                go = bool(known[wanted[0]].reshape(-1)[0])
                state = [known[n] for n in wanted[1 : 1 + carried]]
                for scan, n in zip(scans, wanted[1 + carried :], strict=True):
                    scan.append(known[n])
                    table.charge((len(scan), *scan[0].shape))
                turn += 1
            out = [*state, *(torch.stack(s) for s in scans)]
            return out[0] if len(out) == 1 else out

        args = (
            *(Value(_inner(i)) if i else None for i in node.input),
            *(Value(n) for n in outside),
        )
        return Step("loop", run, args, {"like": Value(self.latent)}, outputs)


HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Single:
    """An operator of which the first output alone is used."""

    function: Callable[..., Any]
    node: table.Node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self.function(self.node, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out


@dataclass(frozen=True, eq=False)
class _Constant:
    """A constant of the graph, in the precision of the latents where it is a real number."""

    value: Tensor

    def __call__(self, *, like: Tensor) -> Tensor:
        dtype = like.dtype if self.value.is_floating_point() else self.value.dtype
        return self.value.to(device=like.device, dtype=dtype)


# -- the latents ------------------------------------------------------------------------------------


def _row_of(latent: Input, asked: int | None, model: _Model) -> tuple[tuple[int, ...], int, bool, int]:
    """Return the shape of one row of latents, the fixed batch or 0, whether there is a batch axis, and d."""
    sizes = latent.sizes
    if not sizes:
        raise InputError(
            f"the input {quoted(latent.name)} of the ONNX model has no shape that a latent could have"
        )
    batched = len(sizes) > 1
    rest = sizes[1:] if batched else sizes
    if any(n is None for n in rest):
        d = asked or next(model_widths(model, latent.name), None)
        if d is None or len(rest) > 1:
            raise InputError(
                f"the ONNX model leaves the shape of its input {quoted(latent.name)} open",
                hint="add --latent-dim D",
            )
        rest = (d,)
    row = tuple(n for n in rest if n is not None)
    d = 1
    for n in row:
        d *= n
    if asked not in (None, d):
        raise BlueprintError(
            f"the model takes {d} latents, not {asked}", hint=f"leave out --latent-dim, or write {d}"
        )
    return row, (sizes[0] or 0) if batched else 0, batched, d


def model_widths(model: _Model, name: str) -> Iterator[int]:
    """Yield the lengths that a vector must have for the layers that take it."""
    for node in model.proto.graph.node:
        if node.op_type in ("Gemm", "MatMul") and node.input[0] == name and node.input[1] in model.stored:
            dims = model.stored[node.input[1]].dims
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            if len(dims) == 2:
                yield int(dims[1] if transposed else dims[0])
