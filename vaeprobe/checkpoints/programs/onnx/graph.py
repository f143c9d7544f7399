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

from vaeprobe import cpu
from vaeprobe.checkpoints.blueprint import Blueprint, BlueprintError, Condition
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.programs.held import hold
from vaeprobe.checkpoints.programs.inputs import with_state
from vaeprobe.checkpoints.programs.onnx.model import Input, Model, inner_name
from vaeprobe.checkpoints.programs.onnx.nodes import Constant, Nodes
from vaeprobe.checkpoints.programs.onnx.whole import ModelHalves, bottleneck, halves
from vaeprobe.checkpoints.programs.program import (
    RUN_ERRORS,
    PlaceError,
    Program,
    Step,
    Value,
    example,
    parts_of,
    rehearse,
)
from vaeprobe.checkpoints.programs.whole import suspected
from vaeprobe.encoder import Encoder
from vaeprobe.errors import InputError, ResourceError
from vaeprobe.files.source import quoted
from vaeprobe.findings import ENCODER_READ, WHOLE_VAE
from vaeprobe.report import Finding

__all__ = ["read"]

SURER = (
    'export the decoder alone, or the VAE with output_names=["recon", "mu", "logvar"], of which it is cut out'
)


def read(
    data: bytes,
    folder: Path | None = None,
    *,
    blueprint: Blueprint | None = None,
    latent_dim: int | None = None,
    output: int | str | None = None,
    conditions: Mapping[str, str | float] | None = None,
    latent_size: tuple[int, ...] | None = None,
) -> Parts:
    """Return the decoder that an ONNX model holds.

    Args:
        data: the bytes of the model.
        folder: where the files of its external data lie; None refuses them.
        blueprint: latents, likelihood and parameter, without layers.
        latent_dim: number of latents, where the graph leaves it open.
        output: the value to take as output: an output of the graph by its place, or any value in it by its name.
        conditions: values at which inputs besides the latents are held, by name; whole numbers choose a class.
        latent_size: size of the map of latents, where the graph leaves it open.

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
    whole = halves(model) if output is None else None
    if whole is not None:
        model = whole.decoder
    latent, others = model.choose_input()
    with with_state(model.state):
        row, batch, batched = model.row(asked, latent_size)
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
    try:
        rehearse(program, d, "the ONNX model")
    except PlaceError as error:
        if at:
            error.hint = f"is there such a class? {at[0].name}=0 is the first"
        raise
    if batch:
        program = _any_batch(program, d)
    notes = [*model.notes, *program.notes()]
    narrow = bottleneck(model) if whole is None and output is None else None
    if narrow is not None:
        notes.append(replace(suspected(d, narrow), hint=SURER))
    parts = parts_of(program, program.natural(bp), bp, d, notes, at, row)
    return parts if whole is None else _with_encoder(parts, whole, d)


class _Heads(torch.nn.Module):
    """The two outputs of an encoder's program, as rows."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.program(x.flatten(1))
        return mean.flatten(1), log_variance.flatten(1)


def _with_encoder(parts: Parts, whole: ModelHalves, d: int) -> Parts:
    """Return the decoder that was cut out of a whole VAE, with its encoder where that is told."""
    said = f"the model is a whole VAE, of which the part from {quoted(whole.cut)} to {quoted(whole.reconstruction)} is probed"
    notes = (*parts.notes, Finding(WHOLE_VAE, said))
    model = whole.encoder
    if model is None:
        return replace(parts, notes=notes)
    row, batch, batched = model.row(None)
    steps = _used(Nodes(model, model.latent).steps(model.proto.graph, 0), whole.heads)
    out = [Value(inner_name(name)) for name in whole.heads]
    program = Program(model.state(), steps, model.latent, out, row, batch, batched)
    words = f"its posterior is read off the outputs {quoted(whole.heads[0])}, the mean, and {quoted(whole.heads[1])}, the log variance"
    notes = (*notes, Finding(ENCODER_READ, words))
    return replace(parts, encoder=Encoder(_Heads(program).eval(), d, input_shape=row), notes=notes)


def _used(steps: Sequence[Step], outputs: Sequence[str]) -> list[Step]:
    """Return the steps that the outputs need."""
    wanted, kept = {inner_name(name) for name in outputs}, []
    for step in reversed(steps):
        if any(name in wanted for name in step.gives()):
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
    shapes |= {
        n: s.function.value for s in program.steps if isinstance(s.function, Constant) for n in s.gives()
    }
    steps = []
    for step in program.steps:
        shape = step.args[1] if step.operator == "reshape" and len(step.args) > 1 else None
        sizes = shapes[shape.name].tolist() if isinstance(shape, Value) and shape.name in shapes else []
        if isinstance(sizes, list) and sizes[:1] == [program.batch] and -1 not in sizes:
            steps.append(replace(step, args=(step.args[0], cpu.tensor([-1, *sizes[1:]]))))
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
    classes = {i.name: model.classes(i.name) for i in others if not i.dtype.is_floating_point}
    held, at = hold(rows, values, classes)
    return [Step("held", h, (Value(model.latent),), {}, (inner_name(n),)) for n, h in held.items()], at
