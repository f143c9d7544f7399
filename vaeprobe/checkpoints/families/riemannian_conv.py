"""The convolutional VAE of Riemannian_Geometry_of_Deep_Generative_Models (CelebA, 64 x 64): d1 to d5 with bn6 to bn8."""

from __future__ import annotations

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan
from vaeprobe.checkpoints.families import family as f

DECODER = {
    "d1": "linear 1024 d",
    "d2": "conv_transpose 64 64 4 4",
    "d3": "conv_transpose 64 32 4 4",
    "d4": "conv_transpose 32 32 4 4",
    "d5": "conv_transpose 32 c 4 4",
    "bn6": "batch_norm 64",
    "bn7": "batch_norm 32",
    "bn8": "batch_norm 32",
}
ENCODER = {
    "e1": "conv 32 c 4 4",
    "e2": "conv 32 32 4 4",
    "e3": "conv 64 32 4 4",
    "e4": "conv 64 64 4 4",
    "bn1": "batch_norm 32",
    "bn2": "batch_norm 32",
    "bn3": "batch_norm 64",
    "bn4": "batch_norm 64",
    "fc1": "linear d 1024",
    "fc2": "linear d 1024",
}


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold."""
    for prefix in f.prefixes(clues.shapes, "d5.weight"):
        found = f.solve(f.below(clues.shapes, prefix), {**DECODER, **ENCODER})
        if found is None:
            continue
        leaky = f.leaky_relu(0.2)
        up = [s for i in (2, 3, 4) for s in (f.conv_transpose(f"d{i}"), f.batch_norm(f"bn{i + 4}"), leaky)]
        down = [s for i in range(1, 5) for s in (f.conv(f"e{i}", 2), f.batch_norm(f"bn{i}"), leaky)]
        return f.Recognised(
            Blueprint(
                layers=(
                    *(f.linear("d1"), f.RELU, f.reshape(64, 4, 4), *up),
                    *(f.conv_transpose("d5"), f.SIGMOID),
                ),
                latents=f.normal(found["d"]),
                prefix=prefix,
                encoder=EncoderPlan(
                    layers=(*down, f.FLATTEN),
                    input=(found["c"], 64, 64),
                    output="heads",
                    mean=(f.linear("fc1"),),
                    spread=(f.linear("fc2"),),
                    prefix=prefix,
                ),
            ),
            scope=tuple(f"{prefix}{layer}." for layer in DECODER),
        )
    return None


FAMILY = f.Family(
    name="riemannian-conv",
    title="convolutional VAE for CelebA",
    source="shagunuppal/Riemannian_Geometry_of_Deep_Generative_Models, MIT",
    recognise=recognise,
)
