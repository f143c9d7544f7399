"""JointVAE (Dupont 2018): normal latents, then one one-hot group for each of `fc_alphas`; 32 x 32 or 64 x 64 images."""

from __future__ import annotations

import itertools

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan
from vaeprobe.checkpoints.families import family as f

SCOPE = ("latent_to_features.", "features_to_img.")
TRUNK = ("img_to_features.", "features_to_hidden.", "fc_mean.", "fc_log_var.")


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold: as many latents as means and classes together."""
    for prefix in f.prefixes(clues.shapes, "latent_to_features.0.weight"):
        own = f.below(clues.shapes, prefix)
        up = f.places(own, "features_to_img")
        if up not in ([0, 2, 4], [0, 2, 4, 6]):
            continue
        dense = {"latent_to_features.0": "linear 256 d", "latent_to_features.2": "linear 1024 256"}
        widths = ["64", *(f"w{i}" for i in up[1:]), "c"]
        maps = {
            f"features_to_img.{i}": f"conv_transpose {a} {b} 4 4"
            for i, (a, b) in zip(up, itertools.pairwise(widths), strict=True)
        }
        found = f.solve({k: v for k, v in own.items() if k.startswith(SCOPE)}, {**dense, **maps})
        heads = [own.get(f"fc_alphas.{i}.weight", (0,))[0] for i in range(len(f.places(own, "fc_alphas")))]
        means = own.get("fc_mean.weight", (0,))[0]
        if found is None or found["d"] != means + sum(heads):
            continue
        side = 4 * 2 ** len(up)
        doublings = [layer for i in up for layer in (f.conv_transpose(f"features_to_img.{i}"), f.RELU)]
        hidden = [layer for key in dense for layer in (f.linear(key), f.RELU)]
        return f.Recognised(
            Blueprint(
                layers=(*hidden, f.reshape(64, 4, 4), *doublings[:-1], f.SIGMOID),
                latents=(*(f.normal(means) if means else ()), *(("onehot", size) for size in heads)),
                likelihood="bernoulli",
                prefix=prefix,
                encoder=_encoder(own, prefix, means, (found["c"], side, side)),
            ),
            scope=tuple(prefix + part for part in SCOPE),
        )
    return _alone(clues)


def _alone(clues: f.Clues) -> f.Recognised | None:
    """Return the decoder written as one chain, its layers counted: which latents are codes is not in it."""
    for up in ((5, 7, 9), (5, 7, 9, 11)):
        widths = ["64", *(f"w{i}" for i in up[1:]), "c"]
        maps = {
            str(i): f"conv_transpose {a} {b} 4 4"
            for i, (a, b) in zip(up, itertools.pairwise(widths), strict=True)
        }
        found = f.solve(clues.shapes, {"0": "linear 256 d", "2": "linear 1024 256", **maps})
        if found is not None:
            doublings = [layer for i in up for layer in (f.conv_transpose(str(i)), f.RELU)]
            hidden = (f.linear("0"), f.RELU, f.linear("2"), f.RELU)
            return f.Recognised(
                Blueprint(
                    layers=(*hidden, f.reshape(64, 4, 4), *doublings[:-1], f.SIGMOID),
                    latents=f.normal(found["d"]),
                    likelihood="bernoulli",
                ),
                assumed=(
                    f"all {found['d']} latents are N(0, 1): its last ones may be one-hot codes, which the encoder would tell",
                ),
            )
    return None


def _encoder(own: f.Shapes, prefix: str, means: int, image: tuple[int, int, int]) -> EncoderPlan | None:
    down = f.places(own, "img_to_features")
    widths = ["c", "32", *(f"w{i}" for i in down[1:-1]), "64"]
    maps = {
        f"img_to_features.{i}": f"conv {b} {a} 4 4"
        for i, (a, b) in zip(down, itertools.pairwise(widths), strict=False)
    }
    heads = {
        "features_to_hidden.0": "linear 256 1024",
        "fc_mean": "linear d 256",
        "fc_log_var": "linear d 256",
    }
    found = f.solve(
        {k: v for k, v in own.items() if k.startswith(TRUNK)}, {**maps, **heads}, c=image[0], d=means
    )
    if found is None or image[1] != 4 * 2 ** len(down):
        return None
    halvings = [layer for i in down for layer in (f.conv(f"img_to_features.{i}", 2), f.RELU)]
    return EncoderPlan(
        layers=(*halvings, f.FLATTEN, f.linear("features_to_hidden.0"), f.RELU),
        input=image,
        output="heads",
        mean=(f.linear("fc_mean"),),
        spread=(f.linear("fc_log_var"),),
        prefix=prefix,
    )


FAMILY = f.Family(
    name="joint-vae",
    title="JointVAE of Dupont (2018)",
    source="Schlumberger/joint-vae, MIT; arXiv:1804.00104",
    recognise=recognise,
)
