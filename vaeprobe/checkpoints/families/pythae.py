"""Folders of pythae: its default MLP and its six benchmark networks, told by names and shapes; no pickled code is opened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan, Layer
from vaeprobe.checkpoints.families import family as f
from vaeprobe.errors import ArchitectureError
from vaeprobe.recipe import Recipe

HIDDEN = 512
# (name, width, kernel, stride, padding, output padding) of transposed convolutions; "R" is a residual block
Convolution = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark network.

    Attributes:
        first: the name of its first, dense layer.
        map: what that makes.
        up: place and (channels, kernel, stride, padding, output padding) of transposed convolutions; 0 channels: the image's.
        normed: whether batch normalisation and relu follow all but the last.
        residual: place of two residual blocks, 0 for none.
        after: activation after each place, where not that of `normed`.
        down: kernel, stride of the encoder's convolutions and their channels.
    """

    first: str
    map: tuple[int, int, int]
    up: dict[int, Convolution]
    normed: bool
    residual: int
    after: dict[int, str]
    down: tuple[tuple[int, int, int], ...]


CONV_DOWN = ((128, 4, 2), (256, 4, 2), (512, 4, 2), (1024, 4, 2))
NETS = {
    "conv mnist": Benchmark("layers.0", (1024, 4, 4), {1: (512, 3, 2, 1, 0), 2: (256, 3, 2, 1, 1), 3: (0, 3, 2, 1, 1)}, True, 0, {}, CONV_DOWN),
    "conv cifar": Benchmark("layers.0", (1024, 8, 8), {1: (512, 4, 2, 1, 0), 2: (256, 4, 2, 1, 1), 3: (0, 4, 1, 2, 0)}, True, 0, {}, CONV_DOWN),
    "conv celeba": Benchmark("layers.0.0", (1024, 8, 8), {1: (512, 5, 2, 2, 0), 2: (256, 5, 2, 1, 0), 3: (128, 5, 2, 2, 1), 4: (0, 5, 1, 1, 0)}, True, 0, {}, CONV_DOWN),
    "resnet mnist": Benchmark("layers.0", (128, 4, 4), {1: (128, 3, 2, 1, 0), 3: (64, 3, 2, 1, 1), 4: (0, 3, 2, 1, 1)}, False, 2, {2: "relu", 3: "relu"}, ((64, 4, 2), (128, 4, 2), (128, 3, 2))),
    "resnet cifar": Benchmark("layers.0", (128, 8, 8), {2: (64, 4, 2, 1, 0), 3: (0, 4, 2, 1, 0)}, False, 1, {}, ((64, 4, 2), (128, 4, 2), (128, 3, 1))),
    "resnet celeba": Benchmark("layers.0", (128, 4, 4), {1: (128, 3, 2, 1, 0), 3: (128, 5, 2, 1, 0), 4: (64, 5, 2, 1, 1), 5: (0, 4, 2, 1, 0)}, False, 2, {3: "sigmoid"}, ((64, 4, 2), (128, 4, 2), (128, 3, 2), (128, 3, 2))),
}  # fmt: skip
# models whose loss has one KL term to N(0, 1), weighed by `beta`, 1 where they have none
PLAIN = ("VAEConfig", "BetaVAEConfig")
# whose latents are no draws of N(0, I), and what they are
ELSEWHERE = {
    "SVAEConfig": "its latents lie on the unit sphere: give some there, --latents FILE",
    "PoincareVAEConfig": "its latents lie in a Poincaré ball: give some there, --latents FILE",
    "VQVAEConfig": "its latents are codes of its quantiser: give some of these, --latents FILE",
    **dict.fromkeys(
        ("AEConfig", "RAE_L2_Config", "RAE_GP_Config"),
        "it has no prior, so that draws of N(0, I) may be unlike its codes: give some of these, --latents FILE",
    ),
}
# posteriors that are no Gaussian with two heads
OTHER_POSTERIORS = ("Flow", "IAF", "LinNF", "HVAE", "SVAE", "Poincare", "VQVAE")
# why a loss has no one beta, by what the name of its class holds; the first that it holds
REASONS = {
    "VAMP": "its KL is to a mixture, the posteriors of its pseudo-inputs",
    "VQVAE": "it has no KL, and a loss of its codes instead",
    "RAE_": "it has no KL, and penalises codes and the decoder's gradient or weights",
    "WAE_MMD": "it has no KL, and holds codes against the prior all together",
    "Adversarial": "it has no KL: a discriminator holds codes against the prior",
    "Disentangled": "it weighs the KL's distance to a capacity, which grew as it trained",
    "IWAE": "it bounds the likelihood by several draws at once, at whose optimum posteriors are not the ELBO's",
}


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold."""
    config = clues.table("model_config.json")
    for prefix in f.prefixes(clues.shapes, "decoder.layers.0.0.weight"):
        found = _mlp(clues.shapes, config, prefix)
        if found is not None:
            return found
    for net in NETS.values():
        for prefix in f.prefixes(clues.shapes, f"decoder.{net.first}.weight"):
            found = _convolutional(clues.shapes, config, prefix, net)
            if found is not None:
                return found
    return None


def _mlp(shapes: f.Shapes, config: Mapping[str, object], prefix: str) -> f.Recognised | None:
    own = f.below(shapes, f"{prefix}decoder.")
    found = f.solve(own, {"layers.0.0": f"linear {HIDDEN} d", "layers.1.0": f"linear m {HIDDEN}"})
    if found is None or not _same_latents(shapes, prefix, found["d"]):
        return None
    image = _image(config, found["m"])
    layers = [f.linear("layers.0.0"), f.RELU, f.linear("layers.1.0"), f.SIGMOID]
    trunk = {"layers.0.0": f"linear {HIDDEN} m", **_heads("d", str(HIDDEN))}
    encoder = f.solve(f.below(shapes, f"{prefix}encoder."), trunk, m=found["m"], d=found["d"])
    flat = (f.FLATTEN,) if len(image) > 1 else ()
    plan = EncoderPlan((*flat, f.linear("layers.0.0"), f.RELU), image, "heads") if encoder else None
    return _found(
        config, prefix, found["d"], [*layers, f.reshape(*image)] if len(image) > 1 else layers, plan
    )


def _same_latents(shapes: f.Shapes, prefix: str, d: int) -> bool:
    """Return whether the encoder, where there is one, has as many means as the decoder takes numbers."""
    return shapes.get(f"{prefix}encoder.embedding.weight", (d,))[0] == d


def _image(config: Mapping[str, object], m: int) -> tuple[int, ...]:
    said = config.get("input_dim")
    if not isinstance(said, list) or not all(isinstance(n, int) for n in said):
        return (m,)
    if math.prod(said) != m:
        raise ArchitectureError(
            f"`model_config.json` says input_dim = {said}, and the decoder returns {m} numbers",
            hint="are these the weights that belong to this config?",
        )
    return tuple(said)


def _heads(d: str, h: str) -> dict[str, str]:
    return {"embedding": f"linear {d} {h}", "log_var": f"linear {d} {h}"}


def _residual(wanted: dict[str, str], key: str, relu: bool) -> list[Layer]:
    """Return two residual blocks, and a relu after them where there is one."""
    layers = []
    for i in (0, 1):
        here = f"{key}.{i}.conv_block"
        wanted |= {f"{here}.1": "conv 32 128 3 3", f"{here}.3": "conv 128 32 1 1"}
        body = (f.RELU, f.conv(f"{here}.1"), f.RELU, f.conv(f"{here}.3", padding=0))
        layers.append(Layer("residual", body=body))
    return [*layers, f.RELU] if relu else layers


def _convolutional(
    shapes: f.Shapes, config: Mapping[str, object], prefix: str, net: Benchmark
) -> f.Recognised | None:
    own = f.below(shapes, f"{prefix}decoder.")
    wanted = {net.first: f"linear {math.prod(net.map)} d"}
    layers = [f.linear(net.first), f.reshape(*net.map)]
    before, side, last = net.map[0], net.map[1], max(net.up)
    for place in sorted({*net.up, *([net.residual] if net.residual else [])}):
        if place == net.residual:
            layers += _residual(wanted, f"layers.{place}", net.after.get(place) == "relu")
            continue
        channels, k, stride, padding, extra = net.up[place]
        key = f"layers.{place}" if net.residual and place == 1 else f"layers.{place}.0"
        wanted[key] = f"conv_transpose {before} {channels or 'c'} {k} {k}"
        layers.append(f.conv_transpose(key, stride, padding, extra))
        if net.normed and place != last:
            wanted[f"layers.{place}.1"] = f"batch_norm {channels}"
            layers += [f.batch_norm(f"layers.{place}.1"), f.RELU]
        elif place in net.after:
            layers.append(Layer(net.after[place]))
        before, side = channels, (side - 1) * stride - 2 * padding + k + extra
    found = f.solve(own, wanted)
    if found is None or not _same_latents(shapes, prefix, found["d"]):
        return None
    image = _image(config, found["c"] * side * side) if config else (found["c"], side, side)
    plan = _encoder(f.below(shapes, f"{prefix}encoder."), net, found["d"], (found["c"], side, side))
    return _found(config, prefix, found["d"], [*layers, f.SIGMOID], plan if len(image) == 3 else None)


def _encoder(own: f.Shapes, net: Benchmark, d: int, image: tuple[int, int, int]) -> EncoderPlan | None:
    wanted: dict[str, str] = {}
    layers: list[Layer] = []
    before, side = image[0], image[1]
    for i, (channels, k, stride) in enumerate(net.down):
        wanted[f"layers.{i}.0"] = f"conv {channels} {before} {k} {k}"
        layers.append(f.conv(f"layers.{i}.0", stride))
        if net.normed:
            wanted[f"layers.{i}.1"] = f"batch_norm {channels}"
            layers += [f.batch_norm(f"layers.{i}.1"), f.RELU]
        before, side = channels, (side + 2 - k) // stride + 1
    if net.residual:
        layers += _residual(wanted, f"layers.{len(net.down)}", relu=False)
    wanted |= _heads(str(d), str(before * side * side))
    if f.solve(own, wanted) is None:
        return None
    return EncoderPlan((*layers, f.FLATTEN), image, "heads")


def _found(
    config: Mapping[str, object], prefix: str, d: int, layers: list[Layer], plan: EncoderPlan | None
) -> f.Recognised:
    name = str(config.get("name", ""))
    if plan is not None:
        mean, spread = (f.linear("embedding"),), (f.linear("log_var"),)
        plan = replace(plan, mean=mean, spread=spread, prefix=f"{prefix}encoder.")
    if any(word in name for word in OTHER_POSTERIORS):
        plan = None
    loss = config.get("reconstruction_loss")
    likelihood = {"mse": "gaussian", "bce": "bernoulli"}.get(str(loss))
    bp = Blueprint(
        layers=tuple(layers),
        latents=f.normal(d),
        likelihood=likelihood,
        prefix=f"{prefix}decoder.",
        encoder=plan,
    )
    vamp = name == "VAMPConfig" and plan is not None
    return f.Recognised(
        bp,
        encoder_scope=(f"{prefix}encoder.",),
        recipe=_recipe(name, config),
        warnings=(ELSEWHERE[name],) if name in ELSEWHERE else (),
        pseudo_inputs=f"{prefix}pseudo_inputs.0" if vamp else "",
    )


def _recipe(name: str, config: Mapping[str, object]) -> Recipe:
    """Return beta: half the squared error, or the cross-entropy, summed, against beta times the KL."""
    if name and name not in PLAIN:
        if name == "AEConfig":
            return Recipe(None, "an AE has no KL")
        model = name.removesuffix("Config").strip("_")
        why = next((why for word, why in REASONS.items() if word in name), None)
        more = f"the loss of {model} has more terms than one KL to N(0, 1)"
        return Recipe(None, f"{model}: {why}" if why else more)
    beta = config.get("beta", 1.0)
    if isinstance(beta, bool) or not isinstance(beta, (int, float)):
        beta = 1.0
    return Recipe(
        float(beta), f"beta = {beta:g}", "" if name else "a VAE, since no config stands beside the weights"
    )


FAMILY = f.Family(
    name="pythae",
    title="default and benchmark networks of pythae",
    source="clementchadebec/benchmark_VAE 6419e21, Apache-2.0",
    recognise=recognise,
)
