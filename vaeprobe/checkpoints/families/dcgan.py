"""The DCGAN generator of the PyTorch examples (`main.0`, `main.1`, `main.3`, ...): ConvT k4 without bias, BatchNorm, ReLU; tanh."""

from __future__ import annotations

from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.families import family as f


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold."""
    for prefix in f.prefixes(clues.shapes, "main.0.weight"):
        own = f.below(clues.shapes, prefix)
        n = sum(len(shape) == 4 for shape in own.values())
        wanted = {}
        for i in range(n):
            wanted[f"main.{3 * i}"] = f"conv_transpose w{i} w{i + 1} 4 4 -"
            if i < n - 1:
                wanted[f"main.{3 * i + 1}"] = f"batch_norm w{i + 1}"
        found = f.solve(own, wanted) if n >= 3 else None
        if found is None:
            continue
        body = [
            layer
            for i in range(n - 1)
            for layer in (
                f.conv_transpose(f"main.{3 * i}", 2 if i else 1, 1 if i else 0),
                f.batch_norm(f"main.{3 * i + 1}"),
                f.RELU,
            )
        ]
        d = found["w0"]
        bp = Blueprint(
            layers=(f.reshape(d, 1, 1), *body, f.conv_transpose(f"main.{3 * n - 3}"), f.TANH),
            latents=f.normal(d),
            prefix=prefix,
        )
        return f.Recognised(bp)
    return None


FAMILY = f.Family(
    name="dcgan",
    title="DCGAN generator of the PyTorch examples",
    source="pytorch/examples, BSD-3; arXiv:1511.06434",
    recognise=recognise,
)
