"""ONNX models, as programs of torch functions: differentiable in every mode, and nothing in the file is executed.

The `onnx` package (extra `[onnx]`) parses the file; run-times such as onnxruntime, which have no derivatives, are not
needed.  A node becomes a step with a function from `table.OPERATORS`; what is not in that table is refused by name.

Source: `onnx/onnx.proto`, IR versions 3 to 13.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vaeprobe.checkpoints.blueprint import Blueprint, BlueprintError, Condition
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.programs.held import hold
from vaeprobe.checkpoints.programs.onnx.model import Input, Model, inner_name
from vaeprobe.checkpoints.programs.onnx.nodes import Constant, Nodes
from vaeprobe.checkpoints.programs.program import (
    RUN_ERRORS,
    Program,
    Step,
    Value,
    example,
    flat,
    parts_of,
    rehearse,
)
from vaeprobe.errors import InputError, ResourceError
from vaeprobe.files.source import quoted

__all__ = ["read"]


def read(
    data: bytes,
    folder: Path | None = None,
    *,
    blueprint: Blueprint | None = None,
    latent_dim: int | None = None,
    output: int | str | None = None,
    conditions: Mapping[str, str | float] | None = None,
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
    model = Model(data, folder)
    asked = latent_dim or bp.latent_dim
    latent, others = model.choose_input()
    row, batch, batched = model.row(asked)
    d = math.prod(row)
    if bp.latent_dim not in (None, d):
        raise BlueprintError(
            f"`{bp.origin}` says {bp.latent_dim} latents, and the model takes {d}",
            hint=f"write latents = {d}",
        )
    held, at = _held(model, others, conditions or {})
    taken = model.choose_output(output)
    state = model.state()
    steps = [*held, *Nodes(model, model.latent).steps(model.proto.graph, 0)]
    values = {name: Value(inner_name(name)) for name in taken}
    out = values if len(values) > 1 else values[taken[0]]
    program = Program(state, _used(steps, taken), inner_name(latent.name), out, row, batch, batched)
    rehearse(program, d, "the ONNX model")
    if batch:
        program = _any_batch(program, d)
    return parts_of(program, program.natural(bp), bp, d, [*model.notes, *program.notes()], at, row)


def _used(steps: Sequence[Step], outputs: Sequence[str]) -> list[Step]:
    """Return the steps that the outputs need."""
    wanted, kept = {inner_name(name) for name in outputs}, []
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
    shapes |= {s.outputs[0]: s.function.value for s in program.steps if isinstance(s.function, Constant)}
    steps = []
    for step in program.steps:
        shape = step.args[1] if step.operator == "reshape" and len(step.args) > 1 else None
        sizes = shapes[shape.name].tolist() if isinstance(shape, Value) and shape.name in shapes else []
        if isinstance(sizes, list) and sizes[:1] == [program.batch] and -1 not in sizes:
            steps.append(replace(step, args=(step.args[0], torch.tensor([-1, *sizes[1:]]))))
        else:
            steps.append(step)
    return steps


def _held(
    model: Model, others: Sequence[Input], values: Mapping[str, str | float]
) -> tuple[list[Step], tuple[Condition, ...]]:
    """Return steps that make the other inputs, each held at one value, and what they are held at."""
    open_sizes = next((i for i in others if None in i.sizes[1:]), None)
    if open_sizes is not None:
        raise InputError(f"the ONNX model leaves the size of its input {quoted(open_sizes.name)} open")
    rows = {i.name: (i.dtype, [n for n in i.sizes[1:] if n is not None], bool(i.sizes)) for i in others}
    held, at = hold(rows, values)
    return [Step("held", h, (Value(model.latent),), {}, (inner_name(n),)) for n, h in held.items()], at
