"""BetaTCVAE of PyTorch-VAE (AntixK): a network of its own, without batch norms; 3 channels, tanh."""

from __future__ import annotations

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan
from vaeprobe.checkpoints.families import family as f
from vaeprobe.recipe import Recipe

LAST = 32  # of `hidden_dims`: the one that the code fixes
SLOPE = 0.01


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold; a layer `fc` before the encoder's heads tells it from a stranger with such names."""
    for prefix in f.prefixes(clues.shapes, "final_layer.2.weight"):
        own = f.below(clues.shapes, prefix)
        n = _blocks(own, "decoder.")
        wanted = {"decoder_input": f"linear {16 * LAST} d"}
        for i in range(n):
            a, b = str(LAST) if i == 0 else f"w{i}", "z" if i == n - 1 else f"w{i + 1}"
            wanted[f"decoder.{i}.0"] = f"conv_transpose {a} {b} 3 3"
        wanted |= {"final_layer.0": "conv_transpose z z 3 3", "final_layer.2": "conv 3 z 3 3"}
        wanted |= {"fc": "linear 256 512", "fc_mu": "linear d 256", "fc_var": "linear d 256"}
        down = _blocks(own, "encoder.")
        for i in range(down):
            b = str(LAST) if i == down - 1 else f"e{i + 1}"
            wanted[f"encoder.{i}.0"] = f"conv {b} {'3' if i == 0 else f'e{i}'} 4 4"
        # the encoder halves as often as the decoder doubles: its widths are those of the decoder backwards
        found = f.solve(own, wanted) if n and down == n + 1 else None
        if found is None:
            continue
        side = 4 * 2**down
        up = [
            layer
            for key in (*(f"decoder.{i}.0" for i in range(n)), "final_layer.0")
            for layer in (f.conv_transpose(key, 2, 1, 1), f.leaky_relu(SLOPE))
        ]
        halvings = [
            layer for i in range(down) for layer in (f.conv(f"encoder.{i}.0", 2), f.leaky_relu(SLOPE))
        ]
        encoder = EncoderPlan(
            layers=(*halvings, f.FLATTEN, f.linear("fc")),
            input=(3, side, side),
            output="heads",
            mean=(f.linear("fc_mu"),),
            spread=(f.linear("fc_var"),),
            prefix=prefix,
        )
        bp = Blueprint(
            layers=(
                *(f.linear("decoder_input"), f.reshape(LAST, 4, 4), *up),
                *(f.conv("final_layer.2"), f.TANH),
            ),
            latents=f.normal(found["d"]),
            likelihood="gaussian",
            prefix=prefix,
            encoder=encoder,
        )
        scope = tuple(prefix + part for part in ("decoder.", "decoder_input.", "final_layer."))
        return f.Recognised(bp, scope, recipe=RECIPE, warnings=WARNINGS)
    return None


def _blocks(own: f.Shapes, start: str) -> int:
    return len({k.split(".")[1] for k in own if k.startswith(start)})


WARNINGS = ("images are in [0, 1] for its encoder although the output is a tanh",)
RECIPE = Recipe(
    None, "its loss weighs three parts of the KL differently, and the file holds none of the weights"
)

FAMILY = f.Family(
    name="pytorch-vae-tc",
    title="BetaTCVAE of PyTorch-VAE",
    source="AntixK/PyTorch-VAE a6896b9, Apache-2.0",
    recognise=recognise,
)
