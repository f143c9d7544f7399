"""The VAE of Lightning-Bolts: a mirrored ResNet-18 or ResNet-50 whose doublings are nearest; no activation at the end.

Its input height is among the hyper-parameters alone: 32 where they are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan, Layer
from vaeprobe.checkpoints.families import family as f
from vaeprobe.recipe import Recipe

WIDTHS = (256, 128, 64, 64)
DOWN = (64, 128, 256, 512)


@dataclass(frozen=True)
class ResNet:
    """A ResNet.

    Attributes:
        blocks: in each level of the decoder, deepest first, and of the encoder, finest first.
        grows: how many times a block returns the channels that its name says (the bottleneck's expansion).
    """

    blocks: tuple[int, int, int, int]
    grows: int


# as hyper-parameters call them
NETS = {"resnet18": ResNet((2, 2, 2, 2), 1), "resnet50": ResNet((3, 4, 6, 3), 4)}


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold; names tell the network, and a config beside them must agree."""
    for prefix in f.prefixes(clues.shapes, "decoder.layer1.0.conv2.1.weight"):
        own = f.below(clues.shapes, prefix)
        told = clues.table("hyper_parameters")
        height = told.get("input_height", 32)
        maxpool, first = bool(told.get("maxpool1", False)), bool(told.get("first_conv", False))
        name = "resnet50" if "decoder.layer1.0.conv3.weight" in own else "resnet18"
        if type(height) is not int or not 8 <= height <= 4096 or told.get("enc_type", name) != name:
            continue
        net = NETS[name]
        wanted, layers = _decoder(net, maxpool)
        found = f.solve({k: v for k, v in own.items() if k.startswith("decoder.")}, wanted)
        heads = {own.get(f"{head}.weight", (0,))[0] for head in ("fc_mu", "fc_var")}
        if found is None or heads != {found["d"]}:
            continue  # without the heads it is Bolts' plain autoencoder
        start = height // (8 * (2 if maxpool else 1) * (2 if first else 1))
        resized = () if start == 4 else (Layer("resize", options={"size": start}),)
        end = (f.doubling(),) if first else ()
        bp = Blueprint(
            layers=(
                *(f.linear("decoder.linear"), f.reshape(512 * net.grows, 4, 4), *resized),
                *(*layers, *end, f.conv("decoder.conv1")),
            ),
            latents=f.normal(found["d"]),
            likelihood="gaussian",
            prefix=prefix,
            encoder=_encoder(net, own, prefix, found["d"], height, maxpool, first),
        )
        assumed = () if "input_height" in told else ("its images are 32 x 32 (`input_height`)",)
        return f.Recognised(
            bp,
            (f"{prefix}decoder.",),
            (f"{prefix}encoder.", f"{prefix}fc_mu.", f"{prefix}fc_var."),
            assumed=assumed,
            recipe=_recipe(told, found["d"], 3 * height * height),
        )
    return None


def _conv(wanted: dict[str, str], key: str, a: int, b: int, k: int, stride: int = 1) -> Layer:
    wanted[key] = f"conv {b} {a} {k} {k} -"
    return f.conv(key, stride, k // 2)


def _norm(wanted: dict[str, str], key: str, n: int) -> Layer:
    wanted[key] = f"batch_norm {n}"
    return f.batch_norm(key)


def _body(
    wanted: dict[str, str], net: ResNet, here: str, a: int, width: int, *, up: int = 1, stride: int = 1
) -> tuple[Layer, ...]:
    """Return the layers of a block: two convolutions, or three of which the outer ones are 1 x 1.

    The decoder's basic block keeps its channels until the second convolution; the encoder's changes them in the first.
    """
    b, second = width * net.grows, f"{here}.conv2.1" if up > 1 else f"{here}.conv2"
    double = (f.doubling(),) if up > 1 else ()
    if net.grows == 1:
        middle = a if here.startswith("decoder.") else width
        return (
            *(_conv(wanted, f"{here}.conv1", a, middle, 3, stride), _norm(wanted, f"{here}.bn1", middle), f.RELU, *double),
            *(_conv(wanted, second, middle, b, 3), _norm(wanted, f"{here}.bn2", b)),
        )  # fmt: skip
    return (
        *(_conv(wanted, f"{here}.conv1", a, width, 1), _norm(wanted, f"{here}.bn1", width), f.RELU, *double),
        *(_conv(wanted, second, width, width, 3, stride), _norm(wanted, f"{here}.bn2", width), f.RELU),
        *(_conv(wanted, f"{here}.conv3", width, b, 1), _norm(wanted, f"{here}.bn3", b)),
    )


def _decoder(net: ResNet, maxpool: bool) -> tuple[dict[str, str], list[Layer]]:
    top, a = 512 * net.grows, 512 * net.grows
    wanted = {"decoder.linear": f"linear {top * 16} d", "decoder.conv1": f"conv 3 {64 * net.grows} 3 3 -"}
    layers: list[Layer] = []
    for n, (width, blocks) in enumerate(zip(WIDTHS, net.blocks, strict=True), 1):
        for j in range(blocks):
            here = f"decoder.layer{n}.{j}"
            up = 2 if j == 0 and (n < 4 or maxpool) else 1
            body = _body(wanted, net, here, a, width, up=up)
            skip: tuple[Layer, ...] = ()
            if up > 1:
                beside = _conv(wanted, f"{here}.upsample.0.1", a, width * net.grows, 1)
                skip = (f.doubling(), beside, _norm(wanted, f"{here}.upsample.1", width * net.grows))
            layers += [Layer("residual", body=body, skip=skip), f.RELU]
            a = width * net.grows
    return wanted, layers


def _encoder(
    net: ResNet, own: f.Shapes, prefix: str, d: int, height: int, maxpool: bool, first: bool
) -> EncoderPlan | None:
    """Return a ResNet with a mean over places; None where a tensor has no place in it."""
    wanted: dict[str, str] = {}
    stem = _conv(wanted, "encoder.conv1", 3, 64, 7 if first else 3, 2 if first else 1)
    layers: list[Layer] = [stem, _norm(wanted, "encoder.bn1", 64), f.RELU]
    side = -(-height // 2) if first else height
    if maxpool:
        layers.append(Layer("max_pool", options={"kernel": 3, "stride": 2, "padding": 1}))
        side = -(-side // 2)
    a = 64
    for n, (width, blocks) in enumerate(zip(DOWN, net.blocks, strict=True), 1):
        for j in range(blocks):
            here, b = f"encoder.layer{n}.{j}", width * net.grows
            stride = 2 if j == 0 and n > 1 else 1
            body = _body(wanted, net, here, a, width, stride=stride)
            skip: tuple[Layer, ...] = ()
            if stride > 1 or a != b:
                beside = _conv(wanted, f"{here}.downsample.0", a, b, 1, stride)
                skip = (beside, _norm(wanted, f"{here}.downsample.1", b))
            layers += [Layer("residual", body=body, skip=skip), f.RELU]
            side, a = -(-side // stride), b
    wanted |= dict.fromkeys(("fc_mu", "fc_var"), f"linear {d} {a}")
    mine = {k: v for k, v in own.items() if k.startswith(("encoder.", "fc_mu.", "fc_var."))}
    if f.solve(mine, wanted) is None:
        return None
    layers += [Layer("avg_pool", options={"kernel": side}), f.FLATTEN]
    return EncoderPlan(
        tuple(layers), (3, height, height), "heads", mean=(f.linear("fc_mu"),), spread=(f.linear("fc_var"),), prefix=prefix
    )  # fmt: skip


def _recipe(told: Mapping[str, object], d: int, m: int) -> Recipe:
    """Return kl_coeff m / (2 d): squared error and KL are both means."""
    weight = told.get("kl_coeff")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        weight, assumes = 0.1, "kl_coeff by default"
    else:
        assumes = ""
    value = float(weight)
    return Recipe(value * m / (2 * d), f"{value:g} x {m} / (2 x {d})", assumes)


FAMILY = f.Family(
    name="bolts-vae",
    title="VAE of Lightning-Bolts, ResNet-18 and ResNet-50",
    source="Lightning-Universe/lightning-bolts 34958a8, Apache-2.0",
    recognise=recognise,
)
