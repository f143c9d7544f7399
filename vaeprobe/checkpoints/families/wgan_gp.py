"""The generator of WGAN-GP (28 x 28): three blocks of ConvT, BatchNorm, ReLU and a last ConvT with tanh; z as d x 1 x 1."""

from __future__ import annotations

from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.families import family as f

LAYERS = {
    "model.0.block.0": "conv_transpose d a 3 3",
    "model.0.block.1": "batch_norm a",
    "model.1.block.0": "conv_transpose a b 4 4",
    "model.1.block.1": "batch_norm b",
    "model.2.block.0": "conv_transpose b e 3 3",
    "model.2.block.1": "batch_norm e",
    "model.3": "conv_transpose e c 4 4",
}


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold."""
    for prefix in f.prefixes(clues.shapes, "model.0.block.0.weight"):
        found = f.solve(f.below(clues.shapes, prefix), LAYERS)
        if found is None:
            continue
        blocks = [
            layer
            for i, stride in enumerate((2, 1, 2))
            for layer in (
                f.conv_transpose(f"model.{i}.block.0", stride, 0),
                f.batch_norm(f"model.{i}.block.1"),
                f.RELU,
            )
        ]
        bp = Blueprint(
            layers=(f.reshape(found["d"], 1, 1), *blocks, f.conv_transpose("model.3", 2, 0), f.TANH),
            latents=f.normal(found["d"]),
            prefix=prefix,
        )
        return f.Recognised(bp)
    return None


FAMILY = f.Family(
    name="wgan-gp",
    title="generator of a WGAN-GP",
    source="akanametov/WGAN-GP, MIT; arXiv:1704.00028",
    recognise=recognise,
)
