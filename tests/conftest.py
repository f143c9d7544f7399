"""Fixtures: the folder of real checkpoints, and quiet, repeatable runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# many small operations: threads that wait for each other make them up to thirty times slower
torch.set_num_threads(1)
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
