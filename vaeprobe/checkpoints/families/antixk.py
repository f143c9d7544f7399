"""The VAEs of PyTorch-VAE (AntixK) that share one decoder: vanilla, beta, DIP, info, log-cosh, IWAE, ...; 3 channels, tanh.

Which of them trained a file cannot be told.  A conditional one takes a vector of labels after its latents.
"""

from __future__ import annotations

from vaeprobe.checkpoints.blueprint import Blueprint, Condition, EncoderPlan, Layer
from vaeprobe.checkpoints.families import family as f
from vaeprobe.recipe import Mistake, Recipe

KLD_WEIGHT = 0.00025
LAST = 512  # of `hidden_dims`: the one that the code fixes
ALONE = ("discriminator", "fc_z")  # of other members of the repository


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold; a last 3 x 3 convolution tells it from families with a like naming."""
    for prefix in f.prefixes(clues.shapes, "final_layer.3.weight"):
        own = f.below(clues.shapes, prefix)
        n = len({k.split(".")[1] for k in own if k.startswith("decoder.")})
        wanted = {"decoder_input": "linear 2048 i", "final_layer.0": "conv_transpose z z 3 3"}
        wanted |= {"final_layer.1": "batch_norm z", "final_layer.3": "conv 3 z 3 3"}
        for i in range(n):
            a, b = str(LAST) if i == 0 else f"w{i}", "z" if i == n - 1 else f"w{i + 1}"
            wanted |= {f"decoder.{i}.0": f"conv_transpose {a} {b} 3 3", f"decoder.{i}.1": f"batch_norm {b}"}
        decoder = {
            k: v for k, v in own.items() if k.startswith(("decoder.", "decoder_input.", "final_layer."))
        }
        found = f.solve(decoder, wanted) if n else None
        heads = [own.get(f"{head}.weight", (0,))[0] for head in ("fc_mu", "fc_var")]
        if found is None or any(k.startswith(ALONE) for k in own):
            continue
        d = heads[0] or found["i"]
        classes = found["i"] - d
        if heads[0] != heads[1] or classes < 0 or (classes == 0 and "embed_class.weight" in own):
            continue
        side = 2 ** (n + 2)
        up = [
            layer
            for key in [f"decoder.{i}" for i in range(n)] + ["final_layer"]
            for layer in (f.conv_transpose(f"{key}.0", 2, 1, 1), f.batch_norm(f"{key}.1"), f.leaky_relu(0.01))
        ]
        if own.get("embed_class.weight", (0, classes))[1:] != (classes,):
            continue
        label = (Layer("concat", "label"),) if classes else ()
        bp = Blueprint(
            layers=(
                *(*label, f.linear("decoder_input"), f.reshape(LAST, 2, 2)),
                *(*up, f.conv("final_layer.3"), f.TANH),
            ),
            latents=f.normal(d),
            likelihood="gaussian",
            prefix=prefix,
            conditions=(Condition("label", "onehot", classes),) if classes > 1 else (),
            encoder=None if classes else _encoder(own, prefix, d, side),
        )
        if classes == 1:
            continue
        scope = tuple(prefix + part for part in ("decoder.", "decoder_input.", "final_layer."))
        if any(k.startswith("embed_pseudo.") for k in own):
            m, k = own.get("embed_pseudo.0.weight", (0, 0))
            if classes or bp.encoder is None or m != 3 * side * side:
                continue
            none = Recipe(None, f"its prior is a mixture of the posteriors of {k} pseudo-inputs")
            return f.Recognised(
                bp, scope, recipe=none, warnings=VAMP_WARNINGS, pseudo_inputs=f"{prefix}embed_pseudo.0"
            )
        return f.Recognised(bp, scope, recipe=_recipe(3 * side * side), warnings=tuple(_warnings(classes)))
    return None


SCALED = "images are in [0, 1] for its encoder although the output is a tanh"
VAMP_WARNINGS = (
    SCALED,
    "latents are drawn from the mixture that its loss holds them against; its own `sample` draws N(0, I)",
)


def _warnings(classes: int) -> list[str]:
    out = [
        "one of PyTorch-VAE's vanilla, beta, DIP, info, log-cosh, MSSIM or importance-weighted VAEs, or an early BetaTCVAE: "
        "their tensors are the same",
        SCALED,
    ]
    return [*out, "its labels may be several at once; one of them is set here"] if classes else out


def _encoder(own: f.Shapes, prefix: str, d: int, side: int) -> EncoderPlan | None:
    n = len({k.split(".")[1] for k in own if k.startswith("encoder.")})
    wanted = {"fc_mu": f"linear {d} h", "fc_var": f"linear {d} h"}
    for i in range(n):
        wanted |= {f"encoder.{i}.0": f"conv e{i + 1} {'3' if i == 0 else f'e{i}'} 3 3"}
        wanted |= {f"encoder.{i}.1": f"batch_norm e{i + 1}"}
    mine = {k: v for k, v in own.items() if k.startswith(("encoder.", "fc_mu.", "fc_var."))}
    if not n or f.solve(mine, wanted) is None or side != 2 ** (n + 1):
        return None
    down = [
        layer
        for i in range(n)
        for layer in (f.conv(f"encoder.{i}.0", 2), f.batch_norm(f"encoder.{i}.1"), f.leaky_relu(0.01))
    ]
    return EncoderPlan(
        layers=(*down, f.FLATTEN),
        input=(3, side, side),
        output="heads",
        mean=(f.linear("fc_mu"),),
        spread=(f.linear("fc_var"),),
        prefix=prefix,
    )


def _recipe(m: int) -> Recipe:
    """Return kld_weight m / 2: mean squared error over everything, KL summed over latents."""
    return Recipe(
        KLD_WEIGHT * m / 2,
        f"{KLD_WEIGHT} x {m} / 2",
        "kld_weight of the repository's configs, if it is the vanilla VAE; a beta-VAE's multiplies it by beta (10 in bhvae.yaml), "
        "and the losses of others have more terms",
        (
            Mistake(
                0.2 * m / 2,
                5 * m / 2,
                "a KL weight of 1, not kld_weight, which validation uses: kept checkpoints lean towards collapse",
            ),
        ),
    )


FAMILY = f.Family(
    name="pytorch-vae",
    title="convolutional VAEs of PyTorch-VAE",
    source="AntixK/PyTorch-VAE a6896b9, Apache-2.0",
    recognise=recognise,
)
