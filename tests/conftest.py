"""Fixtures: the folder of real checkpoints, and quiet, repeatable runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# many small operations: threads that wait for each other make them up to thirty times slower
torch.set_num_threads(1)
# torch's own forward mode warns of itself where it is first used
with warnings.catch_warnings(action="ignore"):
    import_module("torch._decomp.decompositions_for_jvp")
settings.register_profile("vaeprobe", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("vaeprobe")

pytest_plugins = ["pytester"]  # a project of its own for the plugin's tests

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of real checkpoints that this project did not write; skips where it is missing."""
    folder = Path(os.environ.get("VAEPROBE_MODELS", REPOSITORY.parent / "shared" / "models"))
    if not folder.is_dir():
        pytest.skip("no folder of real checkpoints (set VAEPROBE_MODELS)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def intervals_are_calibrated() -> Iterator[None]:
    """Hold every metric that a test makes against the page of simulations: no interval without a row of its own."""
    from vaeprobe.comparison.metrics import SPECS
    from vaeprobe.probes import metric_specs
    from vaeprobe.report import Metric

    from calibrated import has_row

    made = Metric.__post_init__
    without = {id for id in (*metric_specs(), *SPECS) if not has_row(id)}

    def checked(metric: Metric) -> None:
        made(metric)
        if metric.ci is not None:
            assert metric.id not in without, (
                f"{metric.id} has an interval, and no row of tests/CALIBRATION.md"
            )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metric, "__post_init__", checked)
        yield
