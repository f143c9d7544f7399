"""The convolutional VAE of Burgess et al. (2018), as in disentangling-vae: 32 x 32 images, or 64 x 64 with one more layer."""

from __future__ import annotations

import re

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan
from vaeprobe.checkpoints.families import family as f

SQUARE = "32 32 4 4"
DECODER = {
    "lin1": "linear 256 d",
    "lin2": "linear 256 256",
    "lin3": "linear 512 256",
    "convT1": f"conv_transpose {SQUARE}",
    "convT2": f"conv_transpose {SQUARE}",
    "convT3": "conv_transpose 32 c 4 4",
}
ENCODER = {
    "conv1": "conv 32 c 4 4",
    "conv2": f"conv {SQUARE}",
    "conv3": f"conv {SQUARE}",
    "lin1": "linear 256 512",
    "lin2": "linear 256 256",
    "mu_logvar_gen": "linear e 256",
}


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold; the encoder's last layer gives (mean, log variance) of each latent in turn."""
    for prefix in f.prefixes(clues.shapes, "convT1.weight"):
        own = f.below(clues.shapes, prefix)
        large = "convT_64.weight" in own
        found = f.solve(own, {**DECODER, **({"convT_64": f"conv_transpose {SQUARE}"} if large else {})})
        if found is None:
            continue
        up = ("convT_64", "convT1", "convT2") if large else ("convT1", "convT2")
        doublings = [layer for key in up for layer in (f.conv_transpose(key), f.RELU)]
        hidden = [layer for key in ("lin1", "lin2", "lin3") for layer in (f.linear(key), f.RELU)]
        side = 64 if large else 32
        return f.Recognised(
            Blueprint(
                layers=(*hidden, f.reshape(32, 4, 4), *doublings, f.conv_transpose("convT3"), f.SIGMOID),
                latents=f.normal(found["d"]),
                likelihood="bernoulli",
                prefix=prefix,
                encoder=_encoder(clues.shapes, prefix, found["d"], (found["c"], side, side)),
            )
        )
    return None


def _encoder(shapes: f.Shapes, prefix: str, d: int, image: tuple[int, int, int]) -> EncoderPlan | None:
    prefix = re.sub(r"decoder\.$", "encoder.", prefix)
    large = image[1] == 64
    layers = {**ENCODER, **({"conv_64": f"conv {SQUARE}"} if large else {})}
    if f.solve(f.below(shapes, prefix), layers, c=image[0], e=2 * d) is None:
        return None
    down = ("conv1", "conv2", "conv3", "conv_64") if large else ("conv1", "conv2", "conv3")
    halvings = [layer for key in down for layer in (f.conv(key, 2), f.RELU)]
    dense = [f.linear("lin1"), f.RELU, f.linear("lin2"), f.RELU, f.linear("mu_logvar_gen")]
    return EncoderPlan((*halvings, f.FLATTEN, *dense), image, "interleaved", prefix=prefix)


FAMILY = f.Family(
    name="burgess",
    title="convolutional VAE of Burgess et al. (2018)",
    source="YannDubs/disentangling-vae, MIT; arXiv:1804.03599",
    recognise=recognise,
)
