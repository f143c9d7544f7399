"""The MLP VAE of the PyTorch examples: fc1, fc21, fc22, fc3, fc4 on 784 pixels."""

from __future__ import annotations

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan
from vaeprobe.checkpoints.families import family as f
from vaeprobe.recipe import Recipe

LAYERS = {"fc1": "linear h 784", "fc21": "linear d h", "fc22": "linear d h", "fc3": "linear h d", "fc4": "linear 784 h"}  # fmt: skip


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold."""
    for prefix in f.prefixes(clues.shapes, "fc21.weight"):
        found = f.solve(f.below(clues.shapes, prefix), LAYERS)
        if found is None:
            continue
        encoder = EncoderPlan(
            layers=(f.linear("fc1"), f.RELU),
            input=(784,),
            output="heads",
            mean=(f.linear("fc21"),),
            spread=(f.linear("fc22"),),
            prefix=prefix,
        )
        bp = Blueprint(
            layers=(f.linear("fc3"), f.RELU, f.linear("fc4"), f.SIGMOID),
            latents=f.normal(found["d"]),
            likelihood="bernoulli",
            prefix=prefix,
            encoder=encoder,
        )
        recipe = Recipe(1.0, "a sum of cross-entropies plus the KL")
        return f.Recognised(bp, scope=(f"{prefix}fc3.", f"{prefix}fc4."), recipe=recipe)
    return None


FAMILY = f.Family(
    name="pytorch-examples-mlp",
    title="MLP VAE of the PyTorch examples",
    source="pytorch/examples, BSD-3",
    recognise=recognise,
)
