"""An ONNX file, parsed and checked: its inputs, its outputs, its weights and what its nodes say of themselves."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.checkpoints.programs.inputs import latents_of, row_of
from vaeprobe.checkpoints.programs.onnx import table
from vaeprobe.checkpoints.programs.onnx.external import external_bytes
from vaeprobe.errors import InputError, MissingExtraError, ResourceError, UsageError, did_you_mean
from vaeprobe.files.source import quoted
from vaeprobe.findings import CAST_UP
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

__all__ = ["MAX_NODES", "Input", "Model", "inner_name"]

# what hands a class on as it is
FOLLOWED = ("Cast", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Identity", "Expand")
MAX_NODES = 100_000  # after functions are written out
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Input:
    """An input of a graph: its name, torch type and sizes (None where the graph leaves them open)."""

    name: str
    dtype: torch.dtype
    sizes: tuple[int | None, ...]


def inner_name(name: str) -> str:
    """Return the name of a graph's value among a program's (no name of a file can then collide with ours)."""
    return f":{name}"


class Model:
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

    def of(self, proto: ModelProto) -> Model:
        """Return the model of a part of this one's graph."""
        out = copy.copy(self)
        out.notes = []
        for name in ("stored", "latent"):
            vars(out).pop(name, None)  # what was looked up in the whole graph
        out.proto = proto
        return out

    def classes(self, name: str) -> int:
        """Return how many classes an integer input chooses from, 0 where the graph does not tell."""
        made = {o: node for node in self.proto.graph.node for o in node.output}
        names = {name}
        for node in self.proto.graph.node:
            taken = names & set(node.input)
            if taken and node.op_type in FOLLOWED:
                names.update(node.output)
            if not taken or len(node.input) < 2:
                continue
            first, second = node.input[:2]
            if node.op_type == "Gather" and second in names and first in self.stored:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                dims = self.stored[first].dims
                return int(dims[axis]) if -len(dims) <= axis < len(dims) else 0
            if node.op_type == "OneHot" and first in names:
                depth: object = None
                if second in self.stored:
                    depth = self.tensor(self.stored[second], second)
                elif second in made and made[second].op_type == "Constant":
                    depth = self.attributes(made[second]).get("value")
                return int(depth) if isinstance(depth, Tensor) and _is_count(depth) else 0
        return 0

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

        def size(nodes: Iterable[NodeProto], open: tuple[tuple[str, str], ...]) -> int:
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
    def stored(self) -> dict[str, TensorProto]:
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
        return {inner_name(name): self.tensor(t, name) for name, t in self.stored.items()}

    def tensor(self, proto: TensorProto, name: str) -> Tensor:
        """Return a tensor of the file, whose sizes and bytes must agree."""

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
            return cpu.zeros(sizes, dtype=torch.float32 if dtype in HALF else dtype)
        out = torch.frombuffer(bytearray(raw), dtype=dtype).reshape(sizes)
        return out.float() if dtype in HALF else out

    def attributes(self, node: NodeProto) -> dict[str, object]:
        """Return a node's attributes as numbers, lists, texts and tensors."""
        found: dict[str, object] = {}
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

    @cached_property
    def latent(self) -> str:
        return inner_name(self.choose_input()[0].name)

    def row(
        self, asked: int | None, size: tuple[int, ...] | None = None
    ) -> tuple[tuple[int, ...], int, bool]:
        """Return the shape of one row of latents, the fixed batch or 0, and whether there is a batch axis.

        Args:
            asked: number of latents, where somebody said it.
            size: of the map of latents, likewise.
        """
        latent, _ = self.choose_input()
        sizes = latent.sizes
        if not sizes:
            raise InputError(
                f"the input {quoted(latent.name)} of the ONNX model has no shape that a latent could have"
            )
        batched = len(sizes) > 1
        rest = sizes[1:] if batched else sizes
        told = next(self.widths(latent.name, len(rest)), None)
        if len(rest) > 1 and rest[0] is None:
            rest = (told, *rest[1:])
        d = asked or (told if len(rest) == 1 else None)
        said = f"the ONNX model leaves the shape of its input {quoted(latent.name)} open"
        row = row_of(rest, d, size, said)
        latents_of(row, asked, "model")
        return row, (sizes[0] or 0) if batched else 0, batched

    def widths(self, name: str, axes: int) -> Iterator[int]:
        """Yield the lengths that a vector, or the channels that a map, must have for the layers that take it."""
        for node in self.proto.graph.node:
            if len(node.input) < 2 or node.input[0] != name or node.input[1] not in self.stored:
                continue
            dims = self.stored[node.input[1]].dims
            attributes = {a.name: a.i for a in node.attribute}
            if node.op_type in ("Gemm", "MatMul") and len(dims) == 2 and axes == 1:
                yield int(dims[1] if attributes.get("transB") else dims[0])
            elif node.op_type == "Conv" and len(dims) == axes + 1 and axes > 1:
                yield int(dims[1] * attributes.get("group", 1))
            elif node.op_type == "ConvTranspose" and len(dims) == axes + 1 and axes > 1:
                yield int(dims[0])


def _is_count(x: Tensor) -> bool:
    """Whether a tensor is one finite number."""
    return x.numel() == 1 and bool(torch.isfinite(x).all())
