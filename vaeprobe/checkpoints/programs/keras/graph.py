"""Keras models, rebuilt as programs of torch functions from their configuration and weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vaeprobe.checkpoints.blueprint import Blueprint, Condition
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.programs.held import hold
from vaeprobe.checkpoints.programs.inputs import OpenSizeError, latents_of
from vaeprobe.checkpoints.programs.keras import convolutions, layers, recurrence
from vaeprobe.checkpoints.programs.keras.operations import OPERATIONS, arguments, is_operation
from vaeprobe.checkpoints.programs.keras.saved import MODELS, Saved, from_hdf5, from_keras
from vaeprobe.checkpoints.programs.keras.table import IDENTITIES, LAYERS, Layer, activation_of
from vaeprobe.checkpoints.programs.program import Program, Step, Value, parts_of, rehearse
from vaeprobe.checkpoints.programs.whole import halves, rows_of
from vaeprobe.errors import InputError, UsageError, VaeprobeError, did_you_mean
from vaeprobe.files.source import quoted
from vaeprobe.files.zips import Archive
from vaeprobe.findings import CHOSEN_ENTRY, LOOKS_LIKE_ENCODER
from vaeprobe.report import Finding

__all__ = ["read"]

ROOMS = (convolutions, layers, recurrence)  # importing them fills the table
DECODERS = ("decoder", "generator")
HINT = "export the decoder to ONNX, or give its weights and a blueprint"
LATENT = "z"


def read(
    source: Archive | bytes,
    *,
    blueprint: Blueprint | None = None,
    latent_dim: int | None = None,
    part: str | None = None,
    conditions: Mapping[str, str | float] | None = None,
) -> Parts:
    """Return the decoder that a Keras file holds.

    Args:
        source: a checked `.keras` archive, or the bytes of a legacy `.h5` file.
        blueprint: latents, likelihood and parameter, without layers.
        latent_dim: number of latents, where the model leaves it open.
        part: name of the model within the model that decodes.
        conditions: values at which inputs besides the latents are held, by name.

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
    saved, notes = _decoder_of(root, part)
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
    row = builder.row(asked)
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


# -- which model ------------------------------------------------------------------------------------


def _decoder_of(root: Saved, part: str | None) -> tuple[Saved, list[Finding]]:
    """Return the model that decodes, and what to say of the choice."""
    inner = dict(_models_in(root))
    if part is not None:
        if part not in inner:
            raise UsageError(
                f"the Keras model holds no model {quoted(part)}",
                hint=did_you_mean(part, inner)
                or (f"it holds {', '.join(quoted(k) for k in list(inner)[:5])}" if inner else None),
            )
        return inner[part], []
    named = [k for k in inner if any(word in k.rpartition("/")[2].lower() for word in DECODERS)]
    if len(named) == 1:
        rest = "" if len(inner) == 1 else f" of {', '.join(quoted(k) for k in list(inner)[:5])}"
        return inner[named[0]], [Finding(CHOSEN_ENTRY, f"the model {quoted(named[0])}{rest} was taken")]
    if root.config.get("class_name") not in MODELS:
        raise InputError(
            f"the Keras model is of somebody's own class {quoted(str(root.config.get('class_name')))}, which keeps its network in code",
            hint="save the decoder alone: model.decoder.save('decoder.keras')"
            if not inner
            else f"choose one of its models with --key: {', '.join(quoted(k) for k in list(inner)[:5])}",
        )
    return root, []


def _models_in(saved: Saved) -> Iterator[tuple[str, Saved]]:
    """Yield the models within a model, by name: layers of it, or arguments of somebody's own class."""
    if saved.config.get("class_name") in MODELS:
        for config, key in zip(saved.layers, saved.keys(), strict=True):
            if config.get("class_name") in MODELS:
                yield (
                    str(config["config"].get("name", key) if isinstance(config["config"], dict) else key),
                    saved.inside(config, key),
                )
        return
    inner = saved.config.get("config")
    for key, value in (inner or {}).items() if isinstance(inner, dict) else ():
        if isinstance(value, dict) and value.get("class_name") in MODELS:
            yield str(key), Saved(value, saved.version, saved.file, saved.legacy, (str(key),), saved.used)


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
        if saved.config.get("class_name") == "Sequential":
            return self.sequential(saved, inputs)
        return self.functional(saved, inputs)

    def sequential(self, saved: Saved, inputs: tuple[Value, ...]) -> Value:
        value = inputs[0] if inputs else Value(LATENT)
        if not inputs:
            first = saved.layers[0]["config"] if saved.layers else {}
            self.inputs.append(("input", self._shape(first, saved), str(first.get("dtype", "float32"))))
        for config, key in zip(saved.layers, saved.keys(), strict=True):
            value = self.layer(saved, config, key, (value,))
        return value

    def functional(self, saved: Saved, inputs: tuple[Value, ...]) -> Value:
        inner = saved.config["config"]
        tensors: dict[tuple[str, int, int], Value] = {}
        heads = _references(inner.get("input_layers"))
        by_name = {str(c["config"].get("name", c.get("name"))): c for c in saved.layers}
        if inputs and len(inputs) != len(heads):
            raise InputError("a model within the Keras model is called with the wrong number of inputs")
        chosen = heads[0] if inputs or len(heads) == 1 else self._latents(heads, by_name)
        for i, head in enumerate(heads):
            if head[0] not in by_name:
                raise InputError("the Keras model names an input that it does not have")
            config = by_name[head[0]]["config"]
            if inputs:
                tensors[head] = inputs[i]
                continue
            shape = tuple((config.get("batch_shape") or config.get("batch_input_shape") or [None])[1:])
            entry = (head[0], shape, str(config.get("dtype", "float32")))
            if head == chosen:
                self.inputs.insert(0, entry)
                tensors[head] = Value(LATENT)
            else:
                self.inputs.append(entry)
                tensors[head] = Value(f"held {head[0]}")
        pending = [
            (
                str(config["config"].get("name", config.get("name"))),
                number,
                _called(node, config),
                config,
                key,
                node,
            )
            for config, key in zip(saved.layers, saved.keys(), strict=True)
            for number, node in enumerate(config.get("inbound_nodes") or [])
        ]
        while pending:
            ready = [p for p in pending if all(t in tensors for t in p[2])]
            if not ready:
                raise InputError(
                    f"the layer {quoted(pending[0][0])} of the Keras model takes what nothing computes"
                )
            for name, number, taken, config, key, node in ready:
                if (name, number, 0) in tensors:
                    continue
                if is_operation(config):
                    tensors[name, number, 0] = self.operation(config, arguments(node, tensors))
                else:
                    found = tuple(tensors[t] for t in taken)
                    tensors[name, number, 0] = self.layer(saved, config, key, found)
            pending = [p for p in pending if p not in ready]
        outs = _references(inner.get("output_layers"))
        if not outs or outs[0] not in tensors:
            raise InputError("the Keras model returns nothing that it computes")
        return tensors[outs[0]]

    def _latents(self, heads: list[tuple[str, int, int]], by_name: Mapping[str, Any]) -> tuple[str, int, int]:
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
        real = [h for h in heads if str(by_name[h[0]]["config"].get("dtype", "float32")).startswith("float")]
        if len(real) == 1:
            return real[0]
        raise InputError(
            f"the Keras model takes {len(heads)} inputs ({', '.join(quoted(h[0]) for h in heads)}), and which is the latents it does not say",
            hint="call the input of the latents `z`",
        )

    def _shape(self, config: Mapping[str, Any], saved: Saved) -> tuple[int | None, ...]:
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if shape is None and isinstance(saved.config.get("config"), dict):
            shape = saved.config["config"].get("build_input_shape") or (
                saved.config.get("build_config") or {}
            ).get("input_shape")
        if shape is None:
            weights = saved.weights(saved.keys()[0]) if saved.layers else []
            return (int(weights[0].shape[0]),) if weights and weights[0].ndim == 2 else (None,)
        return tuple(shape[1:])

    # -- layers ------------------------------------------------------------------------------------

    def layer(self, saved: Saved, config: Mapping[str, Any], key: str, inputs: tuple[Value, ...]) -> Value:
        kind, settings = str(config.get("class_name")), config["config"]
        name = str(settings.get("name", kind))
        if kind in MODELS:
            return self.model(saved.inside(config, key), inputs)
        if kind in IDENTITIES:
            return inputs[0]
        if kind not in LAYERS:
            own = config.get("registered_name") and ">" in str(config.get("registered_name"))
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
        layer = Layer(kind, settings, self.version, len(weights))
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
            operator, act = activation_of(settings["activation"], self.version)
            before, out = out, Value(self.fresh())
            self.steps.append(Step(operator, act, (before,), {}, (out.name,)))
        return out

    def operation(self, config: Mapping[str, Any], given: list[object]) -> Value:
        """Add the step of an operation of `keras.ops`."""
        kind, settings = str(config.get("class_name")), config["config"]
        if kind not in OPERATIONS:
            raise InputError(
                f"the Keras model has an operation that is not supported, {quoted(kind)}", hint=HINT
            )
        if settings.get("initial") is not None:
            raise InputError(f"the Keras operation {quoted(kind)} starts from a number of its own", hint=HINT)
        out = Value(self.fresh())
        self.steps.append(Step(kind.lower(), OPERATIONS[kind](settings), tuple(given), {}, (out.name,)))
        return out

    def expected(self, layer: Layer, name: str, weights: list[Value]) -> None:
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
        if layer.config.get("use_bias", layer.kind in CARRY) and layer.kind in CARRY:
            wanted += 1
        if len(weights) < wanted:
            raise InputError(
                f"the file holds {len(weights)} weights of the Keras layer {quoted(name)}, which needs {wanted}",
                hint="is it truncated? save the model anew, as .keras",
            )

    # -- inputs ------------------------------------------------------------------------------------

    def row(self, asked: int | None) -> tuple[int, ...]:
        """Return the shape of one row of latents."""
        shape = self.inputs[0][1]
        if shape == (None,) and asked is not None:
            return (asked,)
        if not shape or any(type(n) is not int or n < 1 for n in shape):
            raise OpenSizeError(
                "the Keras model leaves the number of its latents open", hint="add --latent-dim D"
            )
        return tuple(n for n in shape if n is not None)

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


def _references(value: object) -> list[tuple[str, int, int]]:
    """Return the tensors that `input_layers` or `output_layers` name: one, a list of them, or nested."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        raise InputError("the Keras model does not name its inputs and outputs")
    if len(value) == 3 and isinstance(value[0], str):
        value = [value]
    found = []
    for item in value:
        if not isinstance(item, list) or len(item) < 3 or not isinstance(item[0], str):
            raise InputError("the Keras model does not name its inputs and outputs")
        found.append((item[0], int(item[1]), int(item[2])))
    return found


def _called(node: object, config: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return the tensors that a call of a layer takes, in either form in which Keras writes them.

    Raises:
        InputError: a layer is called with more than its inputs (a state to begin with, a mask), which would be left out.
    """
    if isinstance(node, dict):  # Keras 3
        found, operation = [], is_operation(config)
        more = node.get("kwargs") or {}
        left = [k for k, v in more.items() if k not in ("inputs", "training") and v not in (None, False)]
        stack = [node.get("args", []), *(v for k, v in more.items() if k == "inputs")]
        while stack:
            item = stack.pop(0)
            if isinstance(item, dict) and item.get("class_name") == "__keras_tensor__":
                name, number, place = item["config"]["keras_history"]
                found.append((str(name), int(number), int(place)))
            elif isinstance(item, list):
                stack = [*item, *stack]
            elif item is not None and not operation:
                left.append(str(item))
        if left and not operation:
            raise _called_with(config, left[0])
        return found
    if isinstance(node, list):
        for item in node:
            more = item[3] if isinstance(item, list) and len(item) > 3 and isinstance(item[3], dict) else {}
            left = [k for k, v in more.items() if k != "training" and v not in (None, False)]
            if left:
                raise _called_with(config, left[0])
        return [(str(i[0]), int(i[1]), int(i[2])) for i in node if isinstance(i, list) and len(i) >= 3]
    raise InputError("the configuration of the Keras model is damaged")


def _called_with(config: Mapping[str, Any], what: str) -> InputError:
    name = str(config["config"].get("name", config.get("name")))
    return InputError(
        f"the Keras layer {quoted(name)} is called with {quoted(what)} beside its inputs, which is not supported",
        hint=HINT,
    )
