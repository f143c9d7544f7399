"""Keras models, rebuilt as programs of torch functions from their configuration and weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vaeprobe.checkpoints.blueprint import Blueprint, Condition
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.programs.held import hold
from vaeprobe.checkpoints.programs.inputs import latents_of, row_of, with_state
from vaeprobe.checkpoints.programs.keras import convolutions, layers, recurrence
from vaeprobe.checkpoints.programs.keras.calls import (
    HINT,
    Reference,
    arguments,
    is_operation,
    references,
    taken,
)
from vaeprobe.checkpoints.programs.keras.choice import decoder_of
from vaeprobe.checkpoints.programs.keras.operations import OPERATIONS
from vaeprobe.checkpoints.programs.keras.saved import MODELS, Entry, Saved, from_hdf5, from_keras
from vaeprobe.checkpoints.programs.keras.settings import Settings, damaged, table_of
from vaeprobe.checkpoints.programs.keras.table import IDENTITIES, LAYERS, KerasLayer, activation_of
from vaeprobe.checkpoints.programs.program import Program, Step, Value, parts_of, rehearse
from vaeprobe.checkpoints.programs.whole import halves, rows_of
from vaeprobe.errors import InputError, UsageError, VaeprobeError
from vaeprobe.files.source import quoted
from vaeprobe.files.zips import Archive
from vaeprobe.findings import LOOKS_LIKE_ENCODER
from vaeprobe.report import Finding

__all__ = ["read"]

ROOMS = (convolutions, layers, recurrence)  # importing them fills the table
LATENT = "z"
SHAPES = ("batch_shape", "batch_input_shape")  # settings that say the sizes of an input, the batch first


def read(
    source: Archive | bytes,
    *,
    blueprint: Blueprint | None = None,
    latent_dim: int | None = None,
    part: str | None = None,
    conditions: Mapping[str, str | float] | None = None,
    latent_size: tuple[int, ...] | None = None,
) -> Parts:
    """Return the decoder that a Keras file holds.

    Args:
        source: a checked `.keras` archive, or the bytes of a legacy `.h5` file.
        blueprint: latents, likelihood and parameter, without layers.
        latent_dim: number of latents, where the model leaves it open.
        part: name of the model within the model that decodes.
        conditions: values at which inputs besides the latents are held, by name.
        latent_size: size of the map of latents, where the model leaves it open.

    Raises:
        MissingExtraError: h5py is not installed.
        UnsafeError: the model holds code, or the file refers to others.
        InputError: it is damaged, or uses what is not supported.
        ArchitectureError: it holds weights alone.
        BlueprintError: the latents asked for are not those of the model.
        UsageError: `part` or a condition is not in the model.
    """
    bp = blueprint or Blueprint()
    root = from_hdf5(source) if isinstance(source, bytes) else from_keras(source)
    saved, notes = decoder_of(root, part)
    builder = _Builder(saved)
    asked = latent_dim or bp.latent_dim
    try:
        out = builder.model(saved, ())
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, VaeprobeError):
            raise
        raise InputError(
            f"the configuration of the Keras model is damaged: {quoted(str(error))}",
            hint="fetch the file again",
        ) from error  # a configuration can be wrong in more ways than can be asked for one by one
    with with_state(lambda: builder.state):
        row = builder.row(asked, latent_size)
    d = latents_of(row, asked, "model")
    held, at = builder.held(conditions or {})
    steps = [*held, *builder.steps]
    program = Program(builder.state, steps, LATENT, out, row)
    y = rehearse(program, d, "the Keras model")
    whole = halves(program, rows_of(program)) if tuple(y.shape[1:]) == row else None
    if whole is not None:
        notes.extend(whole.notes)
    if whole is not None and whole.decoder is not None:
        program, d = whole.decoder, latents_of(whole.row, latent_dim, "model")
        return parts_of(program, program.natural(bp), bp, d, [*notes, *program.notes()], at)
    if len(row) > 1 and max(row) > 1 and y[0].numel() < d:
        shape = " x ".join(str(n) for n in row)
        notes.append(
            Finding(
                LOOKS_LIKE_ENCODER,
                f"the model takes {shape} and returns {y[0].numel()} numbers: an encoder, by its looks",
            )
        )
    return parts_of(program, program.natural(bp), bp, d, [*notes, *program.notes()], at)


# -- building ---------------------------------------------------------------------------------------


class _Builder:
    """Turns configurations into steps."""

    def __init__(self, saved: Saved) -> None:
        major = re.match(r"[1-9](?=\.)", saved.version)
        self.version = int(major.group()) if major else 3
        self.state: dict[str, Tensor] = {}
        self.steps: list[Step] = []
        self.inputs: list[
            tuple[str, tuple[int | None, ...], str]
        ] = []  # name, sizes without the batch, dtype
        self.count = 0

    def fresh(self) -> str:
        self.count += 1
        return f"value {self.count}"

    # -- models ------------------------------------------------------------------------------------

    def model(self, saved: Saved, inputs: tuple[Value, ...]) -> Value:
        """Add the steps of a model; without inputs it is the outermost, and its own inputs are the program's."""
        if len(self.steps) > 10_000 or len(saved.path) > 32:
            raise InputError("the Keras model nests too many models")
        if saved.entry.kind == "Sequential":
            return self.sequential(saved, inputs)
        return self.functional(saved, inputs)

    def sequential(self, saved: Saved, inputs: tuple[Value, ...]) -> Value:
        value = inputs[0] if inputs else Value(LATENT)
        if not inputs:
            first = saved.layers[0] if saved.layers else Entry({"config": {}})
            self.inputs.append(("input", self._shape(first, saved), _dtype(first)))
        for entry, key in zip(saved.layers, saved.keys(), strict=True):
            value = self.layer(saved, entry, key, (value,))
        return value

    def functional(self, saved: Saved, inputs: tuple[Value, ...]) -> Value:
        inner = saved.entry.settings
        tensors: dict[Reference, Value] = {}
        heads = references(inner.get("input_layers"))
        by_name = {entry.name: entry for entry in saved.layers}
        if inputs and len(inputs) != len(heads):
            raise InputError("a model within the Keras model is called with the wrong number of inputs")
        chosen = heads[0] if inputs or len(heads) == 1 else self._latents(heads, by_name)
        for i, head in enumerate(heads):
            if head[0] not in by_name:
                raise InputError("the Keras model names an input that it does not have")
            if inputs:
                tensors[head] = inputs[i]
                continue
            made = by_name[head[0]]
            stated = (head[0], _sizes(made.setting(*SHAPES) or [None]), _dtype(made))
            if head == chosen:
                self.inputs.insert(0, stated)
                tensors[head] = Value(LATENT)
            else:
                self.inputs.append(stated)
                tensors[head] = Value(f"held {head[0]}")
        pending = [
            (number, taken(call, entry), entry, key, call)
            for entry, key in zip(saved.layers, saved.keys(), strict=True)
            for number, call in enumerate(entry.calls)
        ]
        while pending:
            ready = [p for p in pending if all(t in tensors for t in p[1])]
            if not ready:
                raise InputError(
                    f"the layer {quoted(pending[0][2].name)} of the Keras model takes what nothing computes"
                )
            for number, given, entry, key, call in ready:
                if (entry.name, number, 0) in tensors:
                    continue
                if is_operation(entry):
                    made_of = self.operation(entry, arguments(call, tensors))
                else:
                    made_of = self.layer(saved, entry, key, tuple(tensors[t] for t in given))
                tensors[entry.name, number, 0] = made_of
            pending = [p for p in pending if p not in ready]
        outs = references(inner.get("output_layers"))
        if not outs or outs[0] not in tensors:
            raise InputError("the Keras model returns nothing that it computes")
        return tensors[outs[0]]

    def _latents(self, heads: Sequence[Reference], by_name: Mapping[str, Entry]) -> Reference:
        """Return which of several inputs is the latents."""
        words = ("z", "latent", "noise", "code")
        named = [
            h
            for h in heads
            if any(h[0].lower() == w or w in h[0].lower() for w in words[1:])
            or h[0].lower() in ("z", "z_sampling")
        ]
        if len(named) == 1:
            return named[0]
        real = [h for h in heads if h[0] in by_name and _dtype(by_name[h[0]]).startswith("float")]
        if len(real) == 1:
            return real[0]
        raise InputError(
            f"the Keras model takes {len(heads)} inputs ({', '.join(quoted(h[0]) for h in heads)}), and which is the latents it does not say",
            hint="call the input of the latents `z`",
        )

    def _shape(self, first: Entry, saved: Saved) -> tuple[int | None, ...]:
        shape = first.setting(*SHAPES)
        table = saved.entry.table
        if shape is None and isinstance(table.get("config"), Mapping):
            shape = saved.entry.setting("build_input_shape")
            shape = shape or table_of(table.get("build_config") or {}).get("input_shape")
        if shape is None:
            weights = saved.weights(saved.keys()[0]) if saved.layers else []
            return (int(weights[0].shape[0]),) if weights and weights[0].ndim == 2 else (None,)
        return _sizes(shape)

    # -- layers ------------------------------------------------------------------------------------

    def layer(self, saved: Saved, entry: Entry, key: str, inputs: tuple[Value, ...]) -> Value:
        kind, name = entry.kind, entry.name
        if kind in MODELS:
            return self.model(saved.inside(entry, key), inputs)
        if kind in IDENTITIES:
            return inputs[0]
        if kind not in LAYERS:
            own = ">" in str(entry.table.get("registered_name"))
            raise InputError(
                f"the Keras model has a layer {quoted(name)} of "
                + ("somebody's own class " if own else "a kind that is not supported, ")
                + quoted(kind),
                hint=HINT,
            )
        weights = []
        for i, array in enumerate(saved.weights(key)):
            slot = "/".join((*saved.path, key, str(i)))
            tensor = torch.from_numpy(array.copy())
            self.state[slot] = (
                tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor
            )
            weights.append(Value(slot))
        settings = Settings(entry.settings, f"the Keras layer {quoted(name)}")
        layer = KerasLayer(kind, settings, self.version, len(weights))
        self.expected(layer, name, weights)
        try:
            function = LAYERS[kind](layer)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the configuration of the Keras layer {quoted(name)} is damaged") from None
        out = Value(self.fresh())
        if kind in ("Activation",):
            operator, function = activation_of(settings.get("activation"), self.version)
            self.steps.append(Step(operator, function, inputs, {}, (out.name,)))
            return out
        self.steps.append(Step(kind.lower(), function, (*inputs, *weights), {}, (out.name,)))
        if kind in CARRY and settings.get("activation") not in (None, "linear"):
            operator, act = activation_of(settings.get("activation"), self.version)
            before, out = out, Value(self.fresh())
            self.steps.append(Step(operator, act, (before,), {}, (out.name,)))
        return out

    def operation(self, entry: Entry, given: list[object]) -> Value:
        """Add the step of an operation of `keras.ops`."""
        kind = entry.kind
        settings = Settings(entry.settings, f"the Keras operation {quoted(kind)}")
        if kind not in OPERATIONS:
            raise InputError(
                f"the Keras model has an operation that is not supported, {quoted(kind)}", hint=HINT
            )
        if settings.get("initial") is not None:
            raise InputError(f"the Keras operation {quoted(kind)} starts from a number of its own", hint=HINT)
        out = Value(self.fresh())
        self.steps.append(Step(kind.lower(), OPERATIONS[kind](settings), tuple(given), {}, (out.name,)))
        return out

    def expected(self, layer: KerasLayer, name: str, weights: list[Value]) -> None:
        """Check that a layer has its weights: without, another network would be measured."""
        least = {
            "Dense": 1,
            "Embedding": 1,
            "PReLU": 1,
            "LSTM": 2,
            "GRU": 2,
            "SimpleRNN": 2,
            "Bidirectional": 4,
            "BatchNormalization": 2,
        }
        wanted = least.get(layer.kind, 1 if "Conv" in layer.kind else 0)
        if layer.config.flag("use_bias", layer.kind in CARRY) and layer.kind in CARRY:
            wanted += 1
        if len(weights) < wanted:
            raise InputError(
                f"the file holds {len(weights)} weights of the Keras layer {quoted(name)}, which needs {wanted}",
                hint="is it truncated? save the model anew, as .keras",
            )

    # -- inputs ------------------------------------------------------------------------------------

    def row(self, asked: int | None, size: tuple[int, ...] | None) -> tuple[int, ...]:
        """Return the shape of one row of latents."""
        shape = self.inputs[0][1] or (None,)
        row = [n if type(n) is int and n > 0 else None for n in shape]
        found = row_of(row, asked, size, "the Keras model leaves the number of its latents open")
        if size is not None and None not in row and size not in (found, found[:-1], found[-len(size) :]):
            raise UsageError(
                f"the Keras model takes latents of {' x '.join(map(str, found))}, not of {' x '.join(map(str, size))}",
                hint="leave out --latent-size",
            )
        return found

    def held(self, values: Mapping[str, str | float]) -> tuple[list[Step], tuple[Condition, ...]]:
        """Return steps that make the inputs besides the latents, and what they are held at."""
        rows = {}
        for name, sizes, dtype in self.inputs[1:]:
            if any(type(n) is not int for n in sizes):
                raise InputError(f"the Keras model leaves the size of its input {quoted(name)} open")
            kind = torch.int64 if dtype.startswith("int") else torch.float32
            rows[name] = (kind, [n for n in sizes if n is not None], True)
        held, at = hold(rows, values)
        return [Step("held", h, (Value(LATENT),), {}, (f"held {name}",)) for name, h in held.items()], at


# layers that carry an activation of their own
CARRY = {
    "Dense", "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "DepthwiseConv1D", "DepthwiseConv2D",
    "SeparableConv1D", "SeparableConv2D",
}  # fmt: skip


def _sizes(shape: object) -> tuple[int | None, ...]:
    """Return the sizes of an input without its batch."""
    if not isinstance(shape, (list, tuple)) or not all(n is None or isinstance(n, int) for n in shape[1:]):
        raise damaged()
    return tuple(shape[1:])


def _dtype(entry: Entry) -> str:
    return str(entry.settings.get("dtype", "float32"))
