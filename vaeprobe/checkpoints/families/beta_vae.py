"""The VAEs H and B of 1Konny/Beta-VAE, 64 x 64: a decoder whose outputs are logits, or what a sigmoid makes into a mean."""

from __future__ import annotations

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan, Layer
from vaeprobe.checkpoints.families import family as f
from vaeprobe.recipe import Recipe

# places and widths of the transposed convolutions; the first of H is of stride 1 without padding
H = {3: (256, 64), 5: (64, 64), 7: (64, 32), 9: (32, 32), 11: (32, 0)}
B = {7: (32, 32), 9: (32, 32), 11: (32, 32), 13: (32, 0)}
H_DOWN, B_DOWN = {0: 32, 2: 32, 4: 64, 6: 64}, {0: 32, 2: 32, 4: 32, 6: 32}


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold; the places of the layers tell H from B."""
    for prefix in f.prefixes(clues.shapes, "decoder.0.weight"):
        for dense, up in ((["linear 256 d"], H), (["linear 256 d", "linear 256 256", "linear 512 256"], B)):
            wanted = {str(2 * i): text for i, text in enumerate(dense)}
            wanted |= {str(i): f"conv_transpose {a} {b or 'c'} 4 4" for i, (a, b) in up.items()}
            found = f.solve(f.below(clues.shapes, f"{prefix}decoder."), wanted)
            means = clues.shapes.get(f"{prefix}encoder.{11 if up is H else 13}.weight", (0,))[0] / 2
            if found is None or means not in (0, found["d"]):
                continue
            hidden = [layer for i in range(len(dense)) for layer in (f.linear(str(2 * i)), f.RELU)]
            maps = [
                layer
                for i in up
                for layer in (f.conv_transpose(str(i), 1 if i == 3 else 2, 0 if i == 3 else 1), f.RELU)
            ]
            begin = (
                [*hidden[:-1], f.reshape(256, 1, 1), f.RELU]
                if up is H
                else [*hidden[:-1], f.RELU, f.reshape(32, 4, 4)]
            )
            bp = Blueprint(
                layers=(*begin, *maps[:-1], f.SIGMOID),
                latents=f.normal(found["d"]),
                prefix=f"{prefix}decoder.",
                encoder=_encoder(clues.shapes, prefix, found["d"], found["c"], H=up is H),
            )
            return f.Recognised(
                bp,
                recipe=Recipe(
                    None,
                    "beta for a Bernoulli likelihood, beta / 2 for its Gaussian one; beta is not in the file",
                ),
                assumed=(
                    "the outputs are means by a sigmoid, Bernoulli on dsprites, Gaussian on chairs and CelebA",
                ),
            )
    return None


def _encoder(shapes: f.Shapes, prefix: str, d: int, channels: int, *, H: bool) -> EncoderPlan | None:
    down = H_DOWN if H else B_DOWN
    widths = [channels, *down.values()]
    wanted = {str(i): f"conv {b} {a} 4 4" for i, a, b in zip(down, widths, widths[1:], strict=False)}
    layers: list[Layer] = [layer for i in down for layer in (f.conv(str(i), 2), f.RELU)]
    if H:
        wanted |= {"8": "conv 256 64 4 4", "11": f"linear {2 * d} 256"}
        layers += [f.conv("8", 1, 0), f.RELU, f.FLATTEN, f.linear("11")]
    else:
        wanted |= {"9": "linear 256 512", "11": "linear 256 256", "13": f"linear {2 * d} 256"}
        layers += [f.FLATTEN, f.linear("9"), f.RELU, f.linear("11"), f.RELU, f.linear("13")]
    if f.solve(f.below(shapes, f"{prefix}encoder."), wanted) is None:
        return None
    return EncoderPlan(tuple(layers), (channels, 64, 64), "chunked", prefix=f"{prefix}encoder.")


FAMILY = f.Family(
    name="beta-vae",
    title="VAEs H and B of 1Konny/Beta-VAE",
    source="1Konny/Beta-VAE 977a1ec, MIT",
    recognise=recognise,
)
