"""Every metric of a probe is an attribute of its result, with the same name."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from vaeprobe.probes import PROBES, question_class
from vaeprobe.report import MetricSpec
from vaeprobe.result import Measured, Result

# names that the result has for something else
TAKEN = {"factorise.verdict", "beta.estimate"}
LATENTS = {"latents.dim", "latents.active"}


def result_class(probe: str) -> type[Result]:
    """The class that `measure` says it returns."""
    cls = question_class(probe)
    name = inspect.get_annotations(cls.measure)["return"]
    found: type[Result] = getattr(import_module(cls.__module__), name)
    return found


def attributes(cls: type[Result]) -> dict[str, str]:
    return {name: value.id for name, value in vars(cls).items() if isinstance(value, Measured)}


CASES = [(name, result_class(name), question_class(name).METRICS) for name in PROBES]


@pytest.mark.parametrize(("prefix", "cls", "specs"), CASES, ids=[case[0] for case in CASES])
def test_every_metric_is_an_attribute(prefix: str, cls: type[Result], specs: tuple[MetricSpec, ...]) -> None:
    found = attributes(cls)
    wanted = {spec.id for spec in specs}
    assert wanted - TAKEN <= set(found.values()) <= wanted | LATENTS
    assert all(name == id.removeprefix(f"{prefix}.").replace(".", "_") for name, id in found.items())
