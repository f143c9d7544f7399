"""Whole VAEs as ONNX: data in, a reconstruction and the posterior's parameters out; the decoder is cut out of them.

A graph is taken for one where an output has the shape of the input, another (the code: means, as a rule) is smaller, and
everything that leads from the input to the first goes through one value of the code's shape that is made of the code.
That value is what the decoder takes, whether it is the means or a draw round them, which is then never drawn.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaeprobe.checkpoints.programs.onnx.model import Model
from vaeprobe.checkpoints.programs.whole import Call, made_of, needed, partings

if TYPE_CHECKING:
    from onnx import NodeProto, ValueInfoProto

__all__ = ["ModelHalves", "bottleneck", "halves"]

MEANS = ("mu", "mean", "loc", "z_mean", "means")
LOG_VARIANCES = ("logvar", "log_var", "log_variance", "z_log_var", "lv")


@dataclass(frozen=True)
class ModelHalves:
    """The two halves of a whole VAE.

    Attributes:
        decoder: the model from the code to the reconstruction.
        encoder: the model from data to means and log variances; None where the outputs' names do not tell these.
        heads: the names of the encoder's outputs, mean and log variance.
        cut: the value that the decoder takes.
        reconstruction: the output that it returns.
    """

    decoder: Model
    encoder: Model | None
    heads: tuple[str, ...]
    cut: str
    reconstruction: str


def halves(model: Model) -> ModelHalves | None:
    """Return the halves of a whole VAE, None of any other graph."""
    graph = model.proto.graph
    inputs, outputs = model.inputs(), {str(o.name): o for o in graph.output}
    if len(inputs) != 1 or len(outputs) < 2 or len(inputs[0].sizes) < 2:
        return None
    (data,) = inputs
    shapes = {name: _row(value) for name, value in outputs.items()}
    row = tuple(data.sizes[1:])
    recon = next((name for name, shape in shapes.items() if shape == row and None not in row), None)
    if recon is None:
        return None
    m = _size(row)
    codes = [k for k, s in shapes.items() if k != recon and s and None not in s and _size(s) < m]
    means = [name for name in codes if name.lower() in MEANS] + codes
    calls = _calls(graph.node)
    for code in dict.fromkeys(means):
        cut = _cut(calls, data.name, code, recon)
        if cut is None:
            continue
        decoder = _part(model, [_renamed(outputs[code], cut)], [outputs[recon]])
        mean = next((n for n in codes if n.lower() in MEANS), None)
        spread = next((n for n in codes if n.lower() in LOG_VARIANCES and shapes[n] == shapes[code]), None)
        encoder: Model | None = None
        heads: tuple[str, ...] = ()
        if mean is not None and spread is not None and shapes[mean] == shapes[code]:
            heads = (mean, spread)
            encoder = _part(model, list(graph.input), [outputs[mean], outputs[spread]])
        return ModelHalves(decoder, encoder, heads, cut, recon)
    return None


def bottleneck(model: Model) -> int | None:
    """Return how many numbers all goes through between an input and one output of its shape; None if no fewer than in it."""
    graph, inputs = model.proto.graph, model.inputs()
    if len(inputs) != 1 or len(graph.output) != 1 or None in inputs[0].sizes[1:]:
        return None
    row, recon = tuple(inputs[0].sizes[1:]), str(graph.output[0].name)
    if not row or _row(graph.output[0]) != row:
        return None
    narrowest, calls = _size(row), _calls(graph.node)
    found = None
    for node in graph.node:
        if node.op_type not in ("Gemm", "MatMul") or len(node.input) < 2 or not node.output:
            continue
        weight = model.stored.get(node.input[1])
        if weight is None or len(weight.dims) != 2:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        width = int(weight.dims[0 if transposed else 1])
        if width >= narrowest:
            continue
        names = needed(calls, recon, node.output[0])
        if node.output[0] in names and inputs[0].name not in names:
            narrowest = found = width
    return found


def _row(value: ValueInfoProto) -> tuple[int | None, ...]:
    """Return the shape of one row of an output, None where it is open."""
    return tuple(d.dim_value or None for d in value.type.tensor_type.shape.dim)[1:]


def _size(shape: Sequence[int | None]) -> int:
    return math.prod(n for n in shape if n is not None)


def _calls(nodes: Iterable[NodeProto]) -> list[Call]:
    return [Call(tuple(_names(n)), tuple(n.output), n.op_type.startswith("Random")) for n in nodes]


def _cut(calls: Sequence[Call], data: str, code: str, recon: str) -> str | None:
    """Return the first value made of the code through which all goes that leads from the data to the reconstruction."""
    of_code = made_of(calls, [code])
    return next((value for value in partings(calls, data, recon) if value in of_code), None)


def _names(node: NodeProto) -> Iterator[str]:
    """Yield the names that a node takes, those that graphs inside it take included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from _names(inner)
            yield from (o.name for o in graph.output)


def _renamed(value: ValueInfoProto, name: str) -> ValueInfoProto:
    """Return the type of one value for another of the same shape."""
    out = copy.deepcopy(value)
    out.name = name
    return out


def _part(model: Model, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> Model:
    """Return the model of the nodes between inputs and outputs."""
    given = {i.name for i in inputs}
    nodes, wanted = [], {o.name for o in outputs} - given
    for node in reversed(model.proto.graph.node):
        if wanted & (set(node.output) - given):
            nodes.append(node)
            wanted.update(_names(node))
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    for field, kept in (("node", nodes[::-1]), ("input", inputs), ("output", outputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(kept)
    used = [t for t in model.proto.graph.initializer if t.name in wanted]
    graph.ClearField("initializer")
    graph.initializer.extend(used)
    return model.of(proto)
