"""Programs written by `torch.export.save` (.pt2), read without torch's own loader.

A `.pt2` is a zip of raw weights and a graph of `aten` operators in JSON.  `torch.export.load` would also unpickle the
sample inputs, weights and constants, parse expressions with sympy's `eval`, and execute source code that it makes of names in
the file.  None of that is needed to run a graph: this module reads the JSON, takes operators from a list of harmless ones
(`vaeprobe.checkpoints.programs.operators`), weights from their raw bytes, and nothing else.  What only the other loader would run
is looked at all the same, and a file that carries it is refused.

Source: the schema of torch 2.13, `torch/_export/serde/schema.py`, major version 8.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vaeprobe.checkpoints.blueprint import Blueprint, BlueprintError
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.programs import operators
from vaeprobe.checkpoints.programs.inputs import OpenSizeError, latents_of
from vaeprobe.checkpoints.programs.program import RUN_ERRORS, Here, Program, Step, Value, flat, parts_of
from vaeprobe.errors import InputError, ResourceError, UnsafeError
from vaeprobe.files.harm import HINT_SAVE_ANEW, bare_parts, refuse_operator, refuse_parts
from vaeprobe.files.source import quoted
from vaeprobe.files.tensors import countable
from vaeprobe.files.zips import Archive
from vaeprobe.findings import TRAINING_MODE
from vaeprobe.report import Finding

__all__ = ["ENTRY", "blueprint_of", "read"]

ENTRY = "data/weights/model_weights_config.json"
BLUEPRINT_ENTRY = "extra/vaeprobe.toml"
# torch/_export/serde/schema.py, ScalarType, MemoryFormat
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
SCHEMA_MAJOR = 8
LARGEST_VIEW = 1 << 28  # bytes of a tensor that repeats its numbers (strides of 0)


def blueprint_of(archive: Archive) -> Blueprint | None:
    """Return the blueprint that `vaeprobe convert` puts into a .pt2 for its latents and likelihood, or None."""
    if BLUEPRINT_ENTRY not in archive:
        return None
    return Blueprint.from_toml(
        archive.read(BLUEPRINT_ENTRY).decode("utf-8", "replace"), "the program's own blueprint"
    )


def read(archive: Archive, *, blueprint: Blueprint | None = None, latent_dim: int | None = None) -> Parts:
    """Return the decoder that a .pt2 archive holds; nothing of it is executed before all of it is checked.

    Args:
        archive: a checked zip archive.
        blueprint: latents, likelihood and parameter, without layers; by default the one in the archive.
        latent_dim: number of latents, where the graph leaves it open.

    Raises:
        UnsafeError: it holds pickles, source code, compiled code, custom operators, or operators that are not known to be harmless.
        InputError: it is damaged, or no map from one tensor to outputs.
        ResourceError: it would make an absurdly large tensor.
        BlueprintError: the blueprint's latents are not those of the program.
    """
    bp = blueprint or blueprint_of(archive) or Blueprint()
    refuse_parts("pt2", bare_parts(archive))
    graph = _Graph(archive)
    program = graph.program()
    d = graph.latent_dim(latent_dim)
    if bp.latent_dim not in (None, d):
        raise BlueprintError(
            f"`{bp.origin}` says {bp.latent_dim} latents, and the program takes {d}",
            hint=f"write latents = {d}",
        )
    graph.rehearse(program, d)
    return parts_of(program, program.natural(bp), bp, d, [*graph.notes, *program.notes()])


# -- what another loader would evaluate ----------------------------------------------------------------


def _plain_expression(text: str) -> bool:
    """Return whether a symbolic size is arithmetic on symbols, as torch writes it."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if len(text) > 2000:
        return False
    allowed = (
        ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Add, ast.Sub, ast.Mult,
        ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.Compare, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq,
    )  # fmt: skip
    for node in ast.walk(tree):
        if not isinstance(node, allowed):
            return False
        if (
            isinstance(node, ast.Name)
            and not re.fullmatch(r"[suzf]\d+|True|False", node.id)
            and node.id not in SYMPY
        ):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in SYMPY):
            return False
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and not re.fullmatch(r"[suzf]\d+", node.value)
        ):
            return False
        if (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Pow)
            and not isinstance(node.right, (ast.Constant, ast.UnaryOp))
        ):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) > 1 << 63:
            return False
    return True


SYMPY = frozenset(
    [
        "Symbol",
        "Integer",
        "Rational",
        "Float",
        "Add",
        "Mul",
        "Pow",
        "Mod",
        "PythonMod",
        "FloorDiv",
        "CleanDiv",
        "CeilDiv",
        "CeilToInt",
        "FloorToInt",
        "TruncToInt",
        "IntTrueDiv",
        "FloatTrueDiv",
        "ToFloat",
        "Max",
        "Min",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "Abs",
        "Identity",
        "Piecewise",
        "ModularIndexing",
        "floor",
        "ceiling",
    ]
)


# -- the graph ----------------------------------------------------------------------------------------


class _Graph:
    """The JSON of a program, checked while it is read."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.notes: list[Finding] = []
        models = [n for n in archive.records if n.startswith("models/") and n.endswith(".json")]
        if not models:
            raise InputError("the archive holds no program (`models/model.json`)", hint=HINT_SAVE_ANEW)
        chosen = "models/model.json" if "models/model.json" in models else models[0]
        self.stem = chosen[len("models/") : -len(".json")]
        document = self.json(chosen)
        major = self.at(document, "schema_version", "major")
        if major != SCHEMA_MAJOR:
            raise InputError(
                f"the program has schema version {major}, and {SCHEMA_MAJOR} is known", hint=HINT_SAVE_ANEW
            )
        module = self.at(document, "graph_module")
        self.graph = self.at(module, "graph")
        self.signature = self.at(module, "signature")
        self.symbols(document)

    # -- checked access --------------------------------------------------------------------------

    def json(self, name: str) -> object:
        if name not in self.archive:
            raise InputError(f"the archive holds no {quoted(name)}", hint=HINT_SAVE_ANEW)
        try:
            return json.loads(self.archive.read(name))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{quoted(name)} is no JSON: {quoted(str(error))}") from None

    def at(self, table: object, *keys: str) -> Any:
        for key in keys:
            if not isinstance(table, dict) or key not in table:
                raise InputError(
                    f"the program's JSON has no {quoted(key)} where one is due", hint=HINT_SAVE_ANEW
                )
            table = table[key]
        return table

    def items(self, table: object, key: str) -> list[Any]:
        value = self.at(table, key)
        if not isinstance(value, list):
            raise InputError(f"{quoted(key)} of the program's JSON is no list")
        return value

    def union(self, table: object) -> tuple[str, Any]:
        if not isinstance(table, dict) or len(table) != 1:
            raise InputError("the program's JSON has an argument that is not one thing")
        ((kind, value),) = table.items()
        return kind, value

    def name(self, value: object) -> str:
        if not isinstance(value, str) or not value.isidentifier():
            raise UnsafeError(
                f"the program names a value {quoted(str(value))}, which torch would put into source code and execute",
                hint="do not load this file with torch.export.load",
            )
        return value

    def symbols(self, document: Any) -> None:
        """Check what other loaders evaluate: symbolic sizes and guards."""
        for text in _found(document, "expr_str"):
            if not isinstance(text, str) or not _plain_expression(text):
                raise UnsafeError(
                    f"the program has {quoted(str(text), limit=60)} for a size, which torch.export.load would evaluate",
                    hint="do not load this file with torch.export.load",
                )
        for code in document.get("guards_code") or []:
            if not isinstance(code, str) or not _plain_guard(code):
                raise UnsafeError(
                    f"the program has the guard {quoted(str(code), limit=60)}, which torch would execute",
                    hint="do not load this file with torch.export.load",
                )
        for names in (self.graph.get("tensor_values", {}), self.graph.get("sym_int_values", {})):
            for value in names:
                self.name(value)
        if self.graph.get("custom_obj_values"):
            raise UnsafeError("the program uses custom objects", hint=HINT_SAVE_ANEW)

    # -- weights ---------------------------------------------------------------------------------

    def state(self) -> Iterator[tuple[str, str, Tensor | None]]:
        """Yield (graph name, kind, tensor or None) of every input of the graph."""
        weights, constants = self.payload("weights"), self.payload("constants")
        for spec in self.items(self.signature, "input_specs"):
            kind, body = self.union(spec)
            if kind == "user_input":
                what, arg = self.union(self.at(body, "arg"))
                if what != "as_tensor":
                    raise InputError(f"the program takes an input that is no tensor ({quoted(what)})")
                yield self.name(self.at(arg, "name")), kind, None
                continue
            key = {
                "parameter": "parameter_name",
                "buffer": "buffer_name",
                "tensor_constant": "tensor_constant_name",
            }.get(kind)
            if key is None:
                raise UnsafeError(f"the program has an input of kind {quoted(kind)}", hint=HINT_SAVE_ANEW)
            path, name = self.at(body, key), self.name(self.at(body, "arg", "name"))
            meta = weights.get(path) or constants.get(path)
            if meta is None:
                raise InputError(
                    f"the archive holds no tensor {quoted(str(path))}", hint="is the file truncated?"
                )
            yield name, kind, self.tensor(meta, "weights" if path in weights else "constants", str(path))

    def payload(self, folder: str) -> Mapping[str, object]:
        name = f"data/{folder}/{self.stem}_{folder}_config.json"
        config = self.at(self.json(name), "config") if folder == "weights" or name in self.archive else {}
        for key, meta in config.items():
            path = self.at(meta, "path_name")
            if meta.get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", str(path)):
                raise UnsafeError(
                    f"the program keeps {quoted(key)} as a pickle, which torch.export.load would run",
                    hint=HINT_SAVE_ANEW,
                )
        return dict(config)

    def tensor(self, meta: Any, folder: str, key: str) -> Tensor:
        path = f"data/{folder}/{meta['path_name']}"
        if path not in self.archive:
            raise InputError(f"the archive holds no {quoted(path)}", hint="is the file truncated?")
        raw = self.archive.records[path]
        info = self.at(meta, "tensor_meta")
        dtype = DTYPES.get(self.at(info, "dtype"))
        if dtype is None:
            raise InputError(
                f"tensor {quoted(key)} has a type that is not supported (code {self.at(info, 'dtype')})"
            )
        sizes, strides = ([self.size(n) for n in self.items(info, k)] for k in ("sizes", "strides"))
        offset = self.size(self.at(info, "storage_offset"))
        if len(sizes) != len(strides) or not countable(sizes, dtype.itemsize):
            raise InputError(f"tensor {quoted(key)} is described in a way that torch never writes")
        last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
        count = math.prod(sizes)
        if len(raw) % dtype.itemsize or (count and last >= len(raw) // dtype.itemsize):
            raise InputError(
                f"tensor {quoted(key)} claims {count:,} numbers that its {len(raw):,} bytes do not hold"
            )
        if count * dtype.itemsize > max(len(raw), LARGEST_VIEW):
            raise ResourceError(
                f"tensor {quoted(key)} claims {count:,} numbers, and its {len(raw):,} bytes repeat"
            )
        if not count:
            return torch.zeros(sizes, dtype=dtype)
        flat = torch.frombuffer(bytearray(raw), dtype=dtype)  # a copy: the file's bytes are read-only
        return flat.as_strided(sizes, strides, offset)

    def size(self, value: object) -> int:
        kind, n = self.union(value)
        if kind != "as_int" or type(n) is not int or not 0 <= n < 1 << 48:
            raise InputError("a stored tensor of the program has no fixed size")
        return n

    # -- steps -----------------------------------------------------------------------------------

    def program(self) -> Program:
        state: dict[str, Tensor] = {}
        inputs = []
        for name, _, tensor in self.state():
            if tensor is None:
                inputs.append(name)
            else:
                state[name] = tensor
        if len(inputs) != 1:
            raise InputError(
                f"the program takes {len(inputs)} inputs, and a decoder takes one",
                hint="export a wrapper that fixes the others",
            )
        self.input = inputs[0]
        mutations = [
            k
            for k, _ in map(self.union, self.items(self.signature, "output_specs"))
            if k not in ("user_output", "buffer_mutation")
        ]
        if mutations:
            raise InputError(
                f"the program returns more than outputs ({quoted(mutations[0])})", hint=HINT_SAVE_ANEW
            )
        steps = [step for node in self.items(self.graph, "nodes") if (step := self.step(node)) is not None]
        defined = {*state, self.input, *flat(n for s in steps for n in s.outputs)}
        specs = self.items(self.signature, "output_specs")
        kept = [
            self.argument(out)
            for out, spec in zip(self.items(self.graph, "outputs"), specs, strict=False)
            if self.union(spec)[0] == "user_output"
        ]
        for used in (v for s in steps for v in (*s.args, *s.kwargs.values())):
            for value in flat([used]):
                if isinstance(value, Value) and value.name not in defined:
                    raise InputError(f"the program uses {quoted(value.name)}, which nothing computes")
        if not kept or any(not isinstance(o, Value) or o.name not in defined for o in kept):
            raise InputError(
                "the program does not return tensors", hint="a decoder returns its reconstruction first"
            )
        row, batch, batched = self.input_shape()
        return Program(state, steps, self.input, kept[0] if len(kept) == 1 else kept, row, batch, batched)

    def step(self, node: object) -> Step | None:
        target = self.at(node, "target")
        if not isinstance(target, str):
            raise InputError("the program has an operator without a name")
        outputs = tuple(self.result(o) for o in self.items(node, "outputs"))
        if target in operators.PYTHON:
            function, arguments = operators.PYTHON[target], {}
        else:
            parts = target.split(".")
            if len(parts) != 5 or parts[:3] != ["torch", "ops", "aten"]:
                namespace = ".".join(parts[2:]) if parts[:2] == ["torch", "ops"] else target
                raise refuse_operator(namespace)
            if parts[3] in operators.ASSERTIONS:
                return None
            function = operators.operator(parts[3], parts[4])
            arguments = {a.name: a for a in function._schema.arguments}  # type: ignore[attr-defined]
        args, kwargs = [], {}
        for item in self.items(node, "inputs"):
            name, value = self.at(item, "name"), self.argument(self.at(item, "arg"))
            operators.bounded([value])
            if name in ("training", "train") and value is True and name in arguments:
                value = False
                self.note_training(parts[3])
            known = arguments.get(name)
            # kind 1 is positional; older files do not say, and then the operator's own signature does
            if item.get("kind") == 2 or (item.get("kind") != 1 and known is not None and known.kwarg_only):
                kwargs[str(name)] = value
            else:
                args.append(value)
        name = target.split(".")[-2] if "." in target else target
        return Step(name, function, tuple(args), kwargs, outputs, mutates=name.endswith("_"))

    def note_training(self, operator: str) -> None:
        if not any(n.spec is TRAINING_MODE for n in self.notes):
            self.notes.append(
                Finding(
                    TRAINING_MODE,
                    f"the program was exported in training mode ({operator}): it is probed in eval mode",
                )
            )

    def argument(self, arg: object) -> object:
        kind, value = self.union(arg)
        match kind:
            case "as_none":
                return None
            case "as_tensor":
                return Value(self.name(self.at(value, "name")))
            case "as_tensors":
                return [Value(self.name(self.at(v, "name"))) for v in value]
            case "as_optional_tensor":
                return self.argument(value)
            case "as_optional_tensors":
                return [self.argument(v) for v in value]
            case "as_int" | "as_float" | "as_bool" | "as_string" | "as_ints" | "as_floats" | "as_bools":
                return value
            case "as_sym_int" | "as_sym_float" | "as_sym_bool":
                what, inner = self.union(value)
                return Value(self.name(inner)) if what == "as_name" else inner
            case "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
                return [self.argument({kind[:-1]: v}) for v in value]
            case "as_scalar_type" if value in DTYPES:
                return DTYPES[value]
            case "as_memory_format" if value in MEMORY_FORMATS:
                return MEMORY_FORMATS[value]
            case "as_layout" if value == 7:
                return torch.strided
            case "as_device":
                return Here()
            case "as_operator" | "as_graph" | "as_custom_obj" | "as_string_to_argument":
                raise refuse_operator(kind.removeprefix("as_"), "a program within the program")
        raise InputError(f"the program has an argument of a kind that is not supported, {quoted(kind)}")

    def result(self, out: object) -> object:
        kind, value = self.union(out)
        match kind:
            case "as_tensor":
                return self.name(self.at(value, "name"))
            case "as_tensors":
                return [self.name(self.at(v, "name")) for v in value]
            case "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return self.name(self.at(value, "as_name"))
            case "as_none":
                return None
        raise InputError(f"the program computes something that is not supported, {quoted(kind)}")

    # -- the input -------------------------------------------------------------------------------

    def input_sizes(self) -> list[int | None]:
        sizes = self.items(self.at(self.graph, "tensor_values", self.input), "sizes")
        return [n if kind == "as_int" else None for kind, n in map(self.union, sizes)]

    def input_shape(self) -> tuple[tuple[int, ...], int, bool]:
        """Return the shape of one input row, the fixed batch size or 0, and whether there is a batch axis."""
        sizes = self.input_sizes()
        if not sizes or any(n is not None and not 0 < n < 1 << 31 for n in sizes):
            raise InputError("the program's input has no shape that a latent could have")
        batched = len(sizes) > 1
        rest = sizes[1:] if batched else sizes
        if any(n is None for n in rest):
            rest = [-1]
        return tuple(n for n in rest if n is not None), (sizes[0] or 0) if batched else 0, batched

    def latent_dim(self, asked: int | None) -> int:
        row, _, _ = self.input_shape()
        if -1 in row:
            if asked is None:
                raise OpenSizeError(
                    "the program leaves the number of latents open", hint="add --latent-dim D"
                )
            return asked
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
                ghost.run(x, operators.Kept())
        except ResourceError:
            raise
        except RUN_ERRORS as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"the program cannot run: {quoted(reason)}", hint=HINT_SAVE_ANEW) from None


def _plain_guard(code: str) -> bool:
    """Return whether a guard compares sizes and constants, as torch writes it."""
    try:
        tree = ast.parse(code, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    allowed = (
        ast.Expression, ast.Compare, ast.BoolOp, ast.And, ast.Or, ast.Not, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult,
        ast.FloorDiv, ast.Mod, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq, ast.Subscript, ast.Name, ast.Load, ast.Constant,
        ast.Attribute, ast.Call,
    )  # fmt: skip
    for node in ast.walk(tree):
        if not isinstance(node, allowed):
            return False
        if isinstance(node, ast.Name) and (
            node.id.startswith("__") or node.id in ("eval", "exec", "open", "getattr")
        ):
            return False
        if isinstance(node, ast.Attribute) and node.attr not in ("size", "shape", "ndim"):
            return False
        if isinstance(node, ast.Call) and not (
            isinstance(node.func, ast.Attribute) and node.func.attr == "size"
        ):
            return False
    return True


def _found(tree: object, key: str) -> Iterator[object]:
    """Yield every value under a key, at any depth."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if key in node:
                yield node[key]
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
