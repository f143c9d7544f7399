"""A linear VAE as a safetensors file with its blueprint: decoder and encoder, ready for every other command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.scale import RECORD_KEY
from vaeprobe.linear.closed_form import LinearModel
from vaeprobe.writing import write


def blueprint(model: LinearModel, row_shape: tuple[int, ...]) -> Blueprint:
    """Return the architecture of a linear VAE whose outputs are rows of the given shape."""
    shape = list(row_shape)
    reshape = f", {{ reshape = {shape} }}" if len(shape) > 1 else ""
    flatten = '"flatten"' if len(shape) > 1 else ""
    return Blueprint.from_toml(
        f"""
        latents = {model.W.shape[1]}
        likelihood = "gaussian"

        [decoder]
        layers = [{{ linear = "decoder" }}{reshape}]

        [encoder]
        input = {shape}
        layers = [{flatten}]
        mean = [{{ linear = "encoder.mean" }}]
        log_variance = [{{ linear = "encoder.log_variance" }}]
        """
    )


def save(path: Path, model: LinearModel, row_shape: tuple[int, ...], record: Mapping[str, object]) -> None:
    """Write decoder and encoder as float64 tensors; `record` (sigma2, beta, ...) goes into the metadata as JSON."""
    from safetensors.numpy import save_file

    d, m = model.E.shape
    tensors = {
        "decoder.weight": model.W,
        "decoder.bias": model.mean,
        "encoder.mean.weight": model.E,
        "encoder.mean.bias": -(model.E @ model.mean),
        "encoder.log_variance.weight": np.zeros((d, m)),
        "encoder.log_variance.bias": np.log(model.variance),
    }
    metadata = {**blueprint(model, row_shape).to_metadata(), RECORD_KEY: json.dumps(dict(record))}
    dense = {k: np.ascontiguousarray(v, np.float64) for k, v in tensors.items()}
    write(path, lambda place: save_file(dense, place, metadata))
