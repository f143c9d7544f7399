"""The VAE of Lightning-Bolts: a mirrored ResNet-18 whose doublings are nearest; no activation at the end.

Its input height is among the hyper-parameters alone: 32 where they are missing.
"""

from __future__ import annotations

from typing import Any

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan, Layer
from vaeprobe.checkpoints.families import family as f
from vaeprobe.recipe import Recipe

LEVELS = ((512, 256, 2), (256, 128, 2), (128, 64, 2), (64, 64, 1))
DOWN = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))


def recognise(clues: f.Clues) -> f.Found | None:
    """Return what the clues hold."""
    for prefix in f.prefixes(clues.shapes, "decoder.layer1.0.conv2.1.weight"):
        own = f.below(clues.shapes, prefix)
        told = clues.table("hyper_parameters")
        height = told.get("input_height", 32)
        maxpool, first = bool(told.get("maxpool1", False)), bool(told.get("first_conv", False))
        if (
            type(height) is not int
            or not 8 <= height <= 4096
            or told.get("enc_type", "resnet18") != "resnet18"
        ):
            continue
        wanted, layers = _decoder(maxpool)
        found = f.solve({k: v for k, v in own.items() if k.startswith("decoder.")}, wanted)
        if found is None or not all(f"{head}.weight" in own for head in ("fc_mu", "fc_var")):
            continue  # without the heads it is Bolts' plain autoencoder
        start = height // (8 * (2 if maxpool else 1) * (2 if first else 1))
        resized = () if start == 4 else (Layer("resize", options={"size": start}),)
        end = (f.doubling(),) if first else ()
        bp = Blueprint(
            layers=(
                *(f.linear("decoder.linear"), f.reshape(512, 4, 4), *resized),
                *(*layers, *end, f.conv("decoder.conv1")),
            ),
            latents=f.normal(found["d"]),
            likelihood="gaussian",
            prefix=prefix,
            encoder=_encoder(own, prefix, found["d"], height, maxpool, first),
        )
        assumed = () if "input_height" in told else ("its images are 32 x 32 (`input_height`)",)
        return f.Found(
            bp,
            (f"{prefix}decoder.",),
            (f"{prefix}encoder.", f"{prefix}fc_mu.", f"{prefix}fc_var."),
            assumed=assumed,
            recipe=_recipe(told, found["d"], 3 * height * height),
        )
    return None


def _block(wanted: dict[str, str], here: str, a: int, b: int, scale: int) -> Layer:
    """Return a block of two convolutions, the second after a doubling where `scale` is 2."""
    second, beside = (f"{here}.conv2.1", f"{here}.upsample.0.1") if scale > 1 else (f"{here}.conv2", "")
    wanted |= {f"{here}.conv1": f"conv {a} {a} 3 3 -", f"{here}.bn1": f"batch_norm {a}"}
    wanted |= {second: f"conv {b} {a} 3 3 -", f"{here}.bn2": f"batch_norm {b}"}
    double = (f.doubling(),) if scale > 1 else ()
    body = (f.conv(f"{here}.conv1"), f.batch_norm(f"{here}.bn1"), f.RELU, *double, f.conv(second), f.batch_norm(f"{here}.bn2"))  # fmt: skip
    skip: tuple[Layer, ...] = ()
    if beside:
        wanted |= {beside: f"conv {b} {a} 1 1 -", f"{here}.upsample.1": f"batch_norm {b}"}
        skip = (*double, f.conv(beside, padding=0), f.batch_norm(f"{here}.upsample.1"))
    return Layer("residual", body=body, skip=skip)


def _decoder(maxpool: bool) -> tuple[dict[str, str], list[Layer]]:
    wanted = {"decoder.linear": "linear 8192 d", "decoder.conv1": "conv 3 64 3 3 -"}
    layers: list[Layer] = []
    for n, (a, b, scale) in enumerate(LEVELS, 1):
        scale = 2 if n == 4 and maxpool else scale
        layers += [_block(wanted, f"decoder.layer{n}.0", a, b, scale), f.RELU]
        layers += [_block(wanted, f"decoder.layer{n}.1", b, b, 1), f.RELU]
    return wanted, layers


def _encoder(
    own: f.Shapes, prefix: str, d: int, height: int, maxpool: bool, first: bool
) -> EncoderPlan | None:
    """Return a ResNet-18 with a mean over places; None where it begins with another stem."""
    if maxpool or first:
        return None
    wanted = {"encoder.conv1": "conv 64 3 3 3 -", "encoder.bn1": "batch_norm 64"}
    layers: list[Layer] = [f.conv("encoder.conv1"), f.batch_norm("encoder.bn1"), f.RELU]
    for n, (a, b, stride) in enumerate(DOWN, 1):
        for j in (0, 1):
            here, c, s = f"encoder.layer{n}.{j}", a if j == 0 else b, stride if j == 0 else 1
            wanted |= {f"{here}.conv1": f"conv {b} {c} 3 3 -", f"{here}.bn1": f"batch_norm {b}"}
            wanted |= {f"{here}.conv2": f"conv {b} {b} 3 3 -", f"{here}.bn2": f"batch_norm {b}"}
            skip: tuple[Layer, ...] = ()
            if c != b:
                wanted |= {
                    f"{here}.downsample.0": f"conv {b} {c} 1 1 -",
                    f"{here}.downsample.1": f"batch_norm {b}",
                }
                skip = (f.conv(f"{here}.downsample.0", s, 0), f.batch_norm(f"{here}.downsample.1"))
            body = (f.conv(f"{here}.conv1", s), f.batch_norm(f"{here}.bn1"), f.RELU)
            body = (*body, f.conv(f"{here}.conv2"), f.batch_norm(f"{here}.bn2"))  # type: ignore[assignment]
            layers += [Layer("residual", body=body, skip=skip), f.RELU]
    wanted |= {"fc_mu": f"linear {d} 512", "fc_var": f"linear {d} 512"}
    mine = {k: v for k, v in own.items() if k.startswith(("encoder.", "fc_mu.", "fc_var."))}
    if f.solve(mine, wanted) is None or height % 8:
        return None
    layers += [Layer("avg_pool", options={"kernel": height // 8}), f.FLATTEN]
    return EncoderPlan(
        tuple(layers), (3, height, height), "heads", mean=(f.linear("fc_mu"),), spread=(f.linear("fc_var"),), prefix=prefix
    )  # fmt: skip


def _recipe(told: Any, d: int, m: int) -> Recipe:
    """Return kl_coeff m / (2 d): squared error and KL are both means."""
    weight = told.get("kl_coeff")
    known = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    value = float(weight) if known else 0.1
    assumes = "" if known else "kl_coeff by default"
    return Recipe(value * m / (2 * d), f"{value:g} x {m} / (2 x {d})", assumes)


FAMILY = f.Family(
    name="bolts-vae",
    title="VAE of Lightning-Bolts, ResNet-18",
    source="Lightning-Universe/lightning-bolts 34958a8, Apache-2.0",
    recognise=recognise,
)
