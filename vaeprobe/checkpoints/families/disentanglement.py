"""disentanglement-pytorch, SimpleConv64: six transposed convolutions from 1 x 1 to 64 x 64; the sigmoid is outside its module."""

from __future__ import annotations

from vaeprobe.checkpoints.blueprint import Blueprint, Condition, EncoderPlan, Layer
from vaeprobe.checkpoints.families import family as f
from vaeprobe.recipe import Recipe

UP = {3: (256, 256, 4, 2, 1), 5: (256, 128, 4, 2, 0), 7: (128, 128, 4, 2, 0), 9: (128, 64, 4, 2, 0), 11: (64, 64, 4, 2, 0)}  # fmt: skip
DOWN = {0: ("c", 32), 2: (32, 32), 4: (32, 64), 6: (64, 128), 8: (128, 256), 10: (256, 256)}
DECODER = {
    "main.1": "conv 256 i 1 1",
    **{f"main.{i}": f"conv_transpose {a} {b} {k} {k}" for i, (a, b, k, _, _) in UP.items()},
    "main.13": "conv_transpose 64 c 3 3",
}
ENCODER = {
    **{f"main.{i}": f"conv {b} {a} 4 4" for i, (a, b) in DOWN.items()},
    "main.13": "linear e 256",
}


def recognise(clues: f.Clues) -> f.Found | None:
    """Return what the clues hold; the encoder's last layer gives means, then log variances."""
    for prefix in f.prefixes(clues.shapes, "decoder.main.1.weight"):
        found = f.solve(f.below(clues.shapes, f"{prefix}decoder."), DECODER)
        if found is None:
            continue
        means = clues.shapes.get(f"{prefix}encoder.main.13.weight", (2 * found["i"],))[0] // 2
        classes = found["i"] - means
        if classes < 0 or classes == 1:
            continue
        label = (Layer("concat", "label"),) if classes else ()
        up = [
            layer
            for i, (_, _, _, stride, padding) in UP.items()
            for layer in (f.RELU, f.conv_transpose(f"main.{i}", stride, padding))
        ]
        bp = Blueprint(
            layers=(
                *(*label, f.reshape(found["i"], 1, 1), f.conv("main.1", 2, 0), *up),
                *(f.RELU, f.conv_transpose("main.13", 1, 0), f.SIGMOID),
            ),
            latents=f.normal(means),
            likelihood="bernoulli",
            prefix=f"{prefix}decoder.",
            conditions=(Condition("label", "onehot", classes),) if classes else (),
            encoder=None if classes else _encoder(clues.shapes, prefix, means, found["c"]),
        )
        recipe = Recipe(None, "w_kld / w_recon, which the file does not hold", "its own command line")
        warnings = ("its labels may be of several kinds side by side; one column of them is set here",)
        return f.Found(bp, recipe=recipe, warnings=warnings if classes else ())
    return None


def _encoder(shapes: f.Shapes, prefix: str, d: int, channels: int) -> EncoderPlan | None:
    if f.solve(f.below(shapes, f"{prefix}encoder."), ENCODER, c=channels, e=2 * d) is None:
        return None
    down = [layer for i in DOWN for layer in (f.conv(f"main.{i}", 2), f.RELU)]
    return EncoderPlan(
        (*down, f.FLATTEN, f.linear("main.13")), (channels, 64, 64), "chunked", prefix=f"{prefix}encoder."
    )


FAMILY = f.Family(
    name="disentanglement-pytorch",
    title="SimpleConv64 VAEs of disentanglement-pytorch",
    source="amir-abdi/disentanglement-pytorch 2626252 (facts only: its code is GPL-3)",
    recognise=recognise,
)
