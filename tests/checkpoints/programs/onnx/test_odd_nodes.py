"""Nodes of an ONNX graph that lack what they need, or say it in another kind of value: each is refused in words of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from vaeprobe.checkpoints.programs.onnx.graph import read
from vaeprobe.errors import InputError, UsageError

onnx = pytest.importorskip("onnx", minversion="1.17")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

WEIGHTS = {
    "W": np.ones((4, 6), np.float32),
    "none": np.ones((0,), np.int64),
    "endless": np.array([np.inf], np.float32),
}


def model(*nodes: object, width: object = 4) -> bytes:
    """A model of latents `z` (n, width) and a class `c` (n,), with output `y` (n, 6)."""
    inputs = [
        helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", width]),
        helper.make_tensor_value_info("c", TensorProto.INT64, ["n"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])]
    stored = [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()]
    graph = helper.make_graph(list(nodes), "g", inputs, outputs, stored)
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    return data


def node(
    operator: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: object
) -> object:
    return helper.make_node(operator, list(inputs), list(outputs), **attributes)


def graph_of(*outputs: str) -> object:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6]) for name in outputs]
    return helper.make_graph([], "inner", [], values)


@pytest.mark.parametrize(
    ("operator", "attributes", "words"),
    [
        ("Softmax", {"axis": "one"}, "the attribute `axis` of the ONNX operator `Softmax` is `one`, which it cannot be"),
        ("Softmax", {"axis": [1]}, "the attribute `axis` .* is `\\[1\\]`, which it cannot be"),
        ("Elu", {"alpha": "much"}, "the attribute `alpha` .* is `much`, which it cannot be"),
        ("Gelu", {"approximate": 1}, "the attribute `approximate` .* is `1`, which it cannot be"),
        ("Transpose", {"perm": "10"}, "the attribute `perm` .* is `10`, which it cannot be"),
        ("DepthToSpace", {}, "the attribute `blocksize` .* is missing"),
        ("DepthToSpace", {"blocksize": 2.5}, "the attribute `blocksize` .* is `2.5`, which it cannot be"),
    ],
)  # fmt: skip
def test_an_attribute_of_another_kind_is_named(
    operator: str, attributes: Mapping[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=words) as error:
        read(model(node(operator, ["z"], **attributes)))
    assert error.value.exit_code == 5


@pytest.mark.parametrize(
    ("values", "right"), [({"value_float": 2}, True), ({"value_ints": [1, 2, 3, 4]}, True), ({"value": "two"}, False),
                          ({"value_float": "two"}, False), ({"value_strings": ["two"]}, False)],
)  # fmt: skip
def test_a_constant_is_a_number_or_numbers(values: Mapping[str, object], right: bool) -> None:
    data = model(
        node("Constant", [], ["k"], **values), node("Cast", ["k"], ["f"], to=1), node("Add", ["z", "f"])
    )
    if right:
        assert read(data, latent_dim=4).latent_dim == 4
        return
    with pytest.raises(InputError, match="a constant that is no number"):
        read(data)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (node("If", [], then_branch=graph_of("y"), else_branch=graph_of("y")), "`If` lacks its condition"),
        (node("Loop", [], body=graph_of("y")), "`Loop` lacks its body, or what says"),
        (node("Loop", ["", "", "z"], body=graph_of()), "returns less than it hands on"),
    ],
)
def test_control_flow_without_its_inputs_is_refused(odd: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(model(odd))


@pytest.mark.parametrize(
    "odd",
    [
        node("Gather", ["c"], ["q"]),
        node("OneHot", ["c"], ["q"]),
        node("OneHot", ["c", "none", "none"], ["q"]),
        node("OneHot", ["c", "endless", "endless"], ["q"]),
    ],
)
def test_how_many_classes_there_are_is_left_open_where_a_node_does_not_tell(odd: object) -> None:
    assert read(model(odd, node("MatMul", ["z", "W"]))).latent_dim == 4


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
@pytest.mark.parametrize("inputs", [[], ["z"]])
def test_a_product_of_less_than_two_tells_no_latents(operator: str, inputs: list[str]) -> None:
    with pytest.raises((InputError, UsageError), match="leaves the shape of its input `z` open"):
        read(model(node(operator, inputs), width="d"))
