"""Nodes of an ONNX graph as steps of a program, graphs within graphs included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.checkpoints.programs.onnx import elementwise, layers, recurrence, resize, shapes, table
from vaeprobe.checkpoints.programs.onnx.model import MAX_NODES, Model, inner_name
from vaeprobe.checkpoints.programs.program import Names, Step, Value, run_steps
from vaeprobe.errors import InputError, ResourceError
from vaeprobe.files.source import quoted

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

__all__ = ["Constant", "Nodes"]

ROOMS = (elementwise, layers, recurrence, resize, shapes)  # importing them fills the table
MAX_TURNS = 1_000  # of a loop
DEEPEST = 8  # graphs within graphs
HINT = "export the decoder alone to .pt2 with torch.export.save, or give its weights and a blueprint"


class Nodes:
    """Turns the nodes of a model into steps.

    Args:
        model: the parsed file.
        latent: name of the latents among the program's values.
    """

    def __init__(self, model: Model, latent: str) -> None:
        self.model = model
        self.latent = latent
        self.left = MAX_NODES

    def steps(self, graph: GraphProto, depth: int) -> list[Step]:
        """Return the steps of a graph, or of a graph within it."""
        if depth > DEEPEST:
            raise InputError("the ONNX model nests graphs too deeply")
        return [self.step(node, depth) for node in graph.node]

    def step(self, node: NodeProto, depth: int) -> Step:
        self.left -= 1
        if self.left < 0:
            raise ResourceError(f"the ONNX model has over {MAX_NODES:,} operators")
        name = node.op_type
        if node.domain not in ("", "ai.onnx"):
            raise InputError(
                f"the ONNX model uses {quoted(name)} of the domain {quoted(node.domain)}, which only its own run-time knows",
                hint="export it with standard operators alone",
            )
        outputs = tuple(inner_name(o) if o else None for o in node.output)
        if name in table.RANDOM:
            raise InputError(
                f"the ONNX model draws random numbers ({quoted(name)})",
                hint="export the decoder alone, without the sampling of its latents",
            )
        if name == "Constant":
            value = self.constant(node)
            return Step("constant", Constant(value), (), {"like": Value(self.latent)}, outputs)
        if name == "If":
            return self.branch(node, outputs, depth)
        if name == "Loop":
            return self.loop(node, outputs, depth)
        function = table.OPERATORS.get(name)
        if function is None:
            raise InputError(f"the ONNX operator {quoted(name)} is not supported", hint=HINT)
        while outputs and outputs[-1] is None:
            outputs = outputs[:-1]
        about = table.Node(name, self.model.opset, self.model.attributes(node), len(outputs))
        args = tuple(Value(inner_name(i)) if i else None for i in node.input)
        kwargs = {"like": Value(self.latent)} if name in table.LIKE else {}
        run: Callable[..., object] = (
            _Single(function, about) if len(outputs) == 1 else partial(function, about)
        )
        return Step(name.lower(), run, args, kwargs, outputs)

    def constant(self, node: NodeProto) -> Tensor:
        kinds = dict.fromkeys(("value_int", "value_ints"), torch.int64)
        kinds |= dict.fromkeys(("value_float", "value_floats"), torch.float32)
        for name, value in self.model.attributes(node).items():
            if name == "value" and isinstance(value, Tensor):
                return value
            numbers = value if isinstance(value, list) else [value]
            if name in kinds and all(isinstance(n, (int, float)) for n in numbers):
                return cpu.tensor(value, dtype=kinds[name])
        raise InputError("the ONNX model has a constant that is no number")

    # -- graphs within graphs --------------------------------------------------------------------

    def inner(
        self, graph: GraphProto, depth: int
    ) -> tuple[list[Step], dict[str, Tensor], list[str], list[str]]:
        """Return the steps of a graph within a node, its own weights, what it takes from outside, its outputs."""
        steps = self.steps(graph, depth + 1)
        own = {inner_name(t.name): self.model.tensor(t, t.name) for t in graph.initializer}
        inputs = {inner_name(i.name) for i in graph.input}
        made = {name for s in steps for name in s.gives()} | set(own) | inputs
        outputs = [inner_name(o.name) for o in graph.output]
        outside = list(dict.fromkeys(n for s in steps for n in s.uses() if n not in made))
        outside += [n for n in outputs if n not in made and n not in outside]
        return steps, own, outside, outputs

    def branch(self, node: NodeProto, outputs: tuple[Names, ...], depth: int) -> Step:
        graphs = {a.name: a.g for a in node.attribute if a.type == 5}
        if not {"then_branch", "else_branch"} <= set(graphs) or not node.input:
            raise InputError("an ONNX `If` lacks its condition or a branch")
        branches = [self.inner(graphs[k], depth) for k in ("then_branch", "else_branch")]
        outside = list(dict.fromkeys(n for b in branches for n in b[2]))

        def run(condition: Tensor, *values: object, like: Tensor) -> object:
            steps, own, _, wanted = branches[0 if bool(condition.reshape(-1)[0]) else 1]
            known = {**dict(zip(outside, values, strict=True)), **own}
            run_steps(steps, known, like.device)
            out = [known[n] for n in wanted]
            return out[0] if len(out) == 1 else out

        args = (Value(inner_name(node.input[0])), *(Value(n) for n in outside))
        return Step("if", run, args, {"like": Value(self.latent)}, outputs)

    def loop(self, node: NodeProto, outputs: tuple[Names, ...], depth: int) -> Step:
        if depth:
            raise InputError("the ONNX model has a `Loop` within a graph, which is not supported", hint=HINT)
        body = next((a.g for a in node.attribute if a.type == 5), None)
        if body is None or len(node.input) < 2:
            raise InputError("an ONNX `Loop` lacks its body, or what says how often it runs")
        steps, own, outside, wanted = self.inner(body, depth)
        names = [inner_name(i.name) for i in body.input]
        carried = len(node.input) - 2
        if len(wanted) <= carried:
            raise InputError("the body of an ONNX `Loop` returns less than it hands on")

        def run(turns: Tensor | None, going: Tensor | None, *rest: object, like: Tensor) -> object:
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
                known.update(zip(names, [cpu.tensor(turn), cpu.tensor(True), *state], strict=False))
                run_steps(steps, known, like.device)
                go = bool(_tensor(known[wanted[0]]).reshape(-1)[0])
                state = [known[n] for n in wanted[1 : 1 + carried]]
                for scan, n in zip(scans, wanted[1 + carried :], strict=True):
                    scan.append(_tensor(known[n]))
                    table.charge((len(scan), *scan[0].shape))
                turn += 1
            out = [*state, *(torch.stack(s) for s in scans)]
            return out[0] if len(out) == 1 else out

        args = (
            *(Value(inner_name(i)) if i else None for i in node.input),
            *(Value(n) for n in outside),
        )
        return Step("loop", run, args, {"like": Value(self.latent)}, outputs)


def _tensor(value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError("an ONNX `Loop` goes on by, or stacks, what is no tensor")
    return value


@dataclass(frozen=True)
class _Single:
    """An operator of which the first output alone is used."""

    function: Callable[..., object]
    node: table.Node

    def __call__(self, *args: object, **kwargs: object) -> object:
        out = self.function(self.node, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant of the graph, in the precision of the latents where it is a real number."""

    value: Tensor

    def __call__(self, *, like: Tensor) -> Tensor:
        dtype = like.dtype if self.value.is_floating_point() else self.value.dtype
        return self.value.to(device=like.device, dtype=dtype)
