"""Every ONNX operator of the table against the cases that the ONNX project ships with its standard."""

from __future__ import annotations

import warnings
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from vaeprobe.checkpoints.programs.onnx import table
from vaeprobe.checkpoints.programs.onnx.model import Model
from vaeprobe.checkpoints.programs.onnx.nodes import Nodes
from vaeprobe.checkpoints.programs.program import run_steps
from vaeprobe.errors import InputError

onnx = pytest.importorskip("onnx", minversion="1.17")

CONTROL = {"Constant", "If", "Loop"}
# what the standard's cases ask for and no decoder does
LEFT_OUT = (
    "_empty_set", "_cast",
    "training",  # batch norm and dropout run as in evaluation, on purpose
    "_same_values",  # which of equal numbers comes first
    # a fractional length of the output, where onnxruntime and torch take the whole one
    "resize_downsample_scales_linear_align_corners", "resize_downsample_scales_cubic_align_corners",
)  # fmt: skip
TYPES = {"float32", "float64", "int32", "int64", "bool"}


def usual(case: Any) -> bool:
    """Whether a case has arrays of numbers as decoders have, and nothing that no decoder does."""
    arrays = [a for inputs, outputs in case.data_sets for a in (*inputs, *outputs)]
    return all(str(getattr(a, "dtype", "")) in TYPES for a in arrays) and not any(
        w in case.name for w in LEFT_OUT
    )


@cache
def cases() -> dict[str, list[Any]]:
    """The standard's cases by operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    by_operator: dict[str, list[Any]] = defaultdict(list)
    for case in found:
        operators = {node.op_type for node in case.model.graph.node}
        if operators <= set(table.OPERATORS) | CONTROL and usual(case):
            for operator in operators:
                by_operator[operator].append(case)
    return by_operator


@pytest.mark.parametrize(
    "operator",
    sorted(set(table.OPERATORS) - {"SimplifiedLayerNormalization", "Upsample", "Cast", "CastLike"}),
)
def test_an_operator_computes_what_the_standard_says(operator: str) -> None:
    found = cases().get(operator, [])
    if not found:
        pytest.skip("this version of onnx ships no case of it")
    right = sum(run(case) for case in found[:40])
    assert right


def run(case: Any) -> bool:
    """Run one case; False where a form of the operator is refused as not supported."""
    try:
        model = Model(case.model.SerializeToString(), None)
        steps, state = Nodes(model, ":like").steps(model.proto.graph, 0), model.state()
    except InputError as error:
        return refused(case, error)
    for inputs, outputs in case.data_sets:
        values: dict[str, Any] = {
            f":{i.name}": torch.from_numpy(np.array(v))
            for i, v in zip(case.model.graph.input, inputs, strict=False)
        }
        wide = any(v.dtype == torch.float64 for v in values.values())
        values[":like"] = torch.zeros(1, dtype=torch.float64 if wide else torch.float32)
        values.update(state)
        try:
            run_steps(steps, values, torch.device("cpu"))
        except InputError as error:
            return refused(case, error)
        for out, want in zip(case.model.graph.output, outputs, strict=True):
            got = values[f":{out.name}"].numpy()
            np.testing.assert_allclose(
                got.astype(float), np.asarray(want).astype(float), rtol=1e-3, atol=1e-5, err_msg=case.name
            )
    return True


def refused(case: Any, error: InputError) -> bool:
    """A refusal must say that a form is not supported: anything else is a fault."""
    if "supported" in error.message or "operator set" in error.message:
        return False
    raise AssertionError(case.name) from error
