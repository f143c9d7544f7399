"""Architectures of well-known families, recognised by the names and shapes of their tensors.

Names and shapes never tell the activations; a family's published code does.  So a preset matches only
where every tensor of the decoder has the name and the shape that the family's code gives it, and the
report names the preset.  File names play no part.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan, Latents, Layer
from vaeprobe.errors import UsageError, did_you_mean

__all__ = ["NAMES", "Shaped", "get", "match"]

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


class Shaped(Protocol):
    """A tensor, or what a file's header says of it."""

    @property
    def shape(self) -> Sequence[int]: ...


def match(tensors: Mapping[str, Shaped]) -> Blueprint | None:
    """Return the blueprint of the family that the tensors belong to, or None.

    Args:
        tensors: by name; only their names and shapes are looked at.
    """
    shapes = {name: tuple(t.shape) for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
    return next((bp for recognise in FAMILIES.values() if (bp := recognise(shapes)) is not None), None)


def get(name: str, tensors: Mapping[str, Shaped]) -> Blueprint:
    """Return the blueprint of one family for these tensors.

    Raises:
        UsageError: no preset has that name, or the tensors are not of that family.
    """
    name = name.removeprefix("preset ")
    if name not in FAMILIES:
        raise UsageError(
            f"no preset is called `{name}`", hint=did_you_mean(name, NAMES) or f"presets: {', '.join(NAMES)}"
        )
    found = FAMILIES[name](
        {k: tuple(t.shape) for k, t in tensors.items() if not k.endswith("num_batches_tracked")}
    )
    if found is None:
        raise UsageError(
            f"the tensors are not those of preset `{name}`: their names or shapes differ",
            hint="write a blueprint: `vaeprobe inspect MODEL --draft-blueprint OUT` makes a first one",
        )
    return found


# -- words for shapes -----------------------------------------------------------------------------------


def _prefixes(shapes: Shapes, name: str) -> Iterator[str]:
    """Yield what may stand before `name`: "", "decoder.", "module.vae.decoder.", ..."""
    for key in shapes:
        if key == name or key.endswith("." + name):
            yield key[: len(key) - len(name)]


def _below(shapes: Shapes, prefix: str) -> dict[str, Shape]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {k[len(prefix) :]: v for k, v in shapes.items() if k.startswith(prefix)}


def _has(shapes: Shapes, layers: Mapping[str, Shape]) -> bool:
    """Return whether each layer has a weight of that shape and a bias that goes with it; 0 fits any size."""
    for name, wanted in layers.items():
        weight, bias = shapes.get(f"{name}.weight"), shapes.get(f"{name}.bias")
        if weight is None or bias is None or len(weight) != len(wanted) or len(bias) != 1:
            return False
        if any(w not in (0, n) for w, n in zip(wanted, weight, strict=True)):
            return False
    return True


def _names(shapes: Shapes) -> set[str]:
    """Return the names of the layers: those of the tensors without their last part."""
    return {k.rpartition(".")[0] for k in shapes}


def linear(key: str) -> Layer:
    return Layer("linear", key)


def conv(key: str, stride: int = 2, padding: int = 1) -> Layer:
    return Layer("conv", key).with_options(stride=stride, padding=padding)


def conv_transpose(key: str, stride: int = 2, padding: int = 1) -> Layer:
    return Layer("conv_transpose", key).with_options(stride=stride, padding=padding)


def batch_norm(key: str) -> Layer:
    return Layer("batch_norm", key)


def reshape(*shape: int) -> Layer:
    return Layer("reshape", options={"shape": list(shape)})


def leaky_relu(slope: float) -> Layer:
    return Layer("leaky_relu").with_options(slope=slope)


RELU, SIGMOID, TANH, FLATTEN = Layer("relu"), Layer("sigmoid"), Layer("tanh"), Layer("flatten")


def _normal(d: int) -> Latents:
    return (("normal", d),)


# -- the families -----------------------------------------------------------------------------------------


def burgess(shapes: Shapes) -> Blueprint | None:
    """The convolutional VAE of Burgess et al. (2018), as in disentangling-vae: 32x32 images, or 64x64 with `convT_64`."""
    for prefix in _prefixes(shapes, "convT1.weight"):
        own = _below(shapes, prefix)
        large = "convT_64.weight" in own
        wanted = {"lin1", "lin2", "lin3", "convT1", "convT2", "convT3"} | ({"convT_64"} if large else set())
        square = (32, 32, 4, 4)
        fits = _has(
            own,
            {
                "lin1": (256, 0),
                "lin2": (256, 256),
                "lin3": (512, 256),
                "convT1": square,
                "convT2": square,
                "convT3": (32, 0, 4, 4),
            },
        )
        if _names(own) != wanted or not fits or (large and not _has(own, {"convT_64": square})):
            continue
        d, channels = own["lin1.weight"][1], own["convT3.weight"][1]
        side = 64 if large else 32
        up = ["convT_64", "convT1", "convT2"] if large else ["convT1", "convT2"]
        return Blueprint(
            layers=(
                linear("lin1"), RELU, linear("lin2"), RELU, linear("lin3"), RELU, reshape(32, 4, 4),
                *(layer for key in up for layer in (conv_transpose(key), RELU)),
                conv_transpose("convT3"), SIGMOID,
            ),
            latents=_normal(d),
            likelihood="bernoulli",
            prefix=prefix,
            encoder=_burgess_encoder(shapes, prefix, d, (channels, side, side)),
            name="burgess",
            origin="preset burgess",
        )  # fmt: skip
    return None


def _burgess_encoder(shapes: Shapes, prefix: str, d: int, image: Shape) -> EncoderPlan | None:
    prefix = re.sub(r"decoder\.$", "encoder.", prefix)
    own = _below(shapes, prefix)
    large = image[1] == 64
    square = (32, 32, 4, 4)
    fits = _has(
        own,
        {
            "conv1": (32, image[0], 4, 4),
            "conv2": square,
            "conv3": square,
            "lin1": (256, 512),
            "lin2": (256, 256),
            "mu_logvar_gen": (2 * d, 256),
        },
    )
    if not fits or (large and not _has(own, {"conv_64": square})):
        return None
    down = ["conv1", "conv2", "conv3", "conv_64"] if large else ["conv1", "conv2", "conv3"]
    return EncoderPlan(
        layers=(
            *(layer for key in down for layer in (conv(key), RELU)),
            FLATTEN, linear("lin1"), RELU, linear("lin2"), RELU, linear("mu_logvar_gen"),
        ),
        input=image,
        output="interleaved",  # mu_logvar_gen(h).view(-1, d, 2).unbind(-1)
        prefix=prefix,
    )  # fmt: skip


def joint_vae(shapes: Shapes) -> Blueprint | None:
    """JointVAE (Dupont 2018): normal latents, then one one-hot group for each of `fc_alphas`; 32x32 or 64x64 images."""
    for prefix in _prefixes(shapes, "latent_to_features.0.weight"):
        own = _below(shapes, prefix)
        heads = [
            own.get(f"fc_alphas.{i}.weight", (0,))[0]
            for i in range(sum(k.startswith("fc_alphas.") for k in own) // 2)
        ]
        means = own.get("fc_mean.weight", (0,))[0]
        d = own["latent_to_features.0.weight"][-1]
        up = sorted(int(m[1]) for k in own if (m := re.fullmatch(r"features_to_img\.(\d+)\.weight", k)))
        last = own.get(f"features_to_img.{up[-1]}.weight", ()) if up else ()
        whole = _has(
            own,
            {
                "latent_to_features.0": (256, 0),
                "latent_to_features.2": (1024, 256),
                "features_to_img.0": (64, 0, 4, 4),
            },
        )
        chained = all(
            own[f"features_to_img.{a}.weight"][1] == own[f"features_to_img.{b}.weight"][0]
            for a, b in itertools.pairwise(up)
        )
        if (
            not whole
            or up not in ([0, 2, 4], [0, 2, 4, 6])
            or not chained
            or last[2:] != (4, 4)
            or d != means + sum(heads)
        ):
            continue
        side = 4 * 2 ** len(up)
        groups: Latents = (*(_normal(means) if means else ()), *(("onehot", size) for size in heads))
        return Blueprint(
            layers=(
                linear("latent_to_features.0"), RELU, linear("latent_to_features.2"), RELU, reshape(64, 4, 4),
                *(layer for i in up[:-1] for layer in (conv_transpose(f"features_to_img.{i}"), RELU)),
                conv_transpose(f"features_to_img.{up[-1]}"), SIGMOID,
            ),
            latents=groups,
            likelihood="bernoulli",
            prefix=prefix,
            encoder=_joint_encoder(own, prefix, means, (last[1], side, side)),
            name="joint-vae",
            origin="preset joint-vae",
        )  # fmt: skip
    return None


def _joint_encoder(own: Shapes, prefix: str, means: int, image: Shape) -> EncoderPlan | None:
    down = sorted(int(m[1]) for k in own if (m := re.fullmatch(r"img_to_features\.(\d+)\.weight", k)))
    fits = _has(
        own,
        {
            "img_to_features.0": (32, image[0], 4, 4),
            "features_to_hidden.0": (256, 1024),
            "fc_mean": (means, 256),
            "fc_log_var": (means, 256),
        },
    )
    if not fits or image[1] != 4 * 2 ** len(down):
        return None
    return EncoderPlan(
        layers=(
            *(layer for i in down for layer in (conv(f"img_to_features.{i}"), RELU)),
            FLATTEN, linear("features_to_hidden.0"), RELU,
        ),
        input=image,
        output="heads",
        mean=(linear("fc_mean"),),
        spread=(linear("fc_log_var"),),
        prefix=prefix,
    )  # fmt: skip


def examples_mlp(shapes: Shapes) -> Blueprint | None:
    """The MLP VAE of the PyTorch examples: fc1, fc21, fc22, fc3, fc4 on 784 pixels."""
    for prefix in _prefixes(shapes, "fc21.weight"):
        own = _below(shapes, prefix)
        if _names(own) != {"fc1", "fc21", "fc22", "fc3", "fc4"} or len(own["fc21.weight"]) != 2:
            continue
        d, h = own["fc21.weight"]
        if not _has(own, {"fc1": (h, 784), "fc21": (d, h), "fc22": (d, h), "fc3": (h, d), "fc4": (784, h)}):
            continue
        return Blueprint(
            layers=(linear("fc3"), RELU, linear("fc4"), SIGMOID),
            latents=_normal(d),
            likelihood="bernoulli",
            prefix=prefix,
            encoder=EncoderPlan(
                layers=(linear("fc1"), RELU),
                input=(784,),
                output="heads",
                mean=(linear("fc21"),),
                spread=(linear("fc22"),),
                prefix=prefix,
            ),
            name="pytorch-examples-mlp",
            origin="preset pytorch-examples-mlp",
        )
    return None


def riemannian_conv(shapes: Shapes) -> Blueprint | None:
    """The convolutional VAE of Riemannian_Geometry_of_Deep_Generative_Models (CelebA, 64x64): d1 to d5 with bn6 to bn8."""
    for prefix in _prefixes(shapes, "d5.weight"):
        own = _below(shapes, prefix)
        wanted = {
            *(f"e{i}" for i in range(1, 5)),
            *(f"d{i}" for i in range(1, 6)),
            *(f"bn{i}" for i in (1, 2, 3, 4, 6, 7, 8)),
            "fc1",
            "fc2",
        }
        d, channels = own.get("d1.weight", (0, 0))[-1], own["d5.weight"][1]
        fits = _has(own, {"d1": (1024, d), "d2": (64, 64, 4, 4), "d3": (64, 32, 4, 4), "d4": (32, 32, 4, 4), "d5": (32, channels, 4, 4), "bn6": (64,), "bn7": (32,), "bn8": (32,),
            "e1": (32, channels, 4, 4), "e2": (32, 32, 4, 4), "e3": (64, 32, 4, 4), "e4": (64, 64, 4, 4), "fc1": (d, 1024), "fc2": (d, 1024)})  # fmt: skip
        if _names(own) != wanted or not fits:
            continue
        leaky = leaky_relu(0.2)
        return Blueprint(
            layers=(
                linear("d1"), RELU, reshape(64, 4, 4),
                *(layer for i in (2, 3, 4) for layer in (conv_transpose(f"d{i}"), batch_norm(f"bn{i + 4}"), leaky)),
                conv_transpose("d5"), SIGMOID,
            ),
            latents=_normal(d),
            prefix=prefix,
            encoder=EncoderPlan(
                layers=(*(layer for i in range(1, 5) for layer in (conv(f"e{i}"), batch_norm(f"bn{i}"), leaky)), FLATTEN),
                input=(channels, 64, 64),
                output="heads",
                mean=(linear("fc1"),),
                spread=(linear("fc2"),),
                prefix=prefix,
            ),
            name="riemannian-conv",
            origin="preset riemannian-conv",
        )  # fmt: skip
    return None


def inverse_micro(shapes: Shapes) -> Blueprint | None:
    """The MLP VAE of inverse-micro: `decoder_input`, blocks of Linear, BatchNorm1d, LeakyReLU, a linear `final_layer.0`."""
    for prefix in _prefixes(shapes, "final_layer.0.weight"):
        own = _below(shapes, prefix)
        up, down = (
            [len({k.split(".")[1] for k in own if k.startswith(f"{side}.")})]
            for side in ("decoder", "encoder")
        )
        blocks = [f"{side}.{i}" for side, (n,) in (("encoder", down), ("decoder", up)) for i in range(n)]
        wanted = {f"{b}.{j}" for b in blocks for j in (0, 1)} | {
            "fc_mu",
            "fc_var",
            "decoder_input",
            "final_layer.0",
        }
        if _names(own) != wanted or not all(_has(own, {f"{b}.0": (0, 0), f"{b}.1": (0,)}) for b in blocks):
            continue
        if not all(f"{b}.1.running_var" in own for b in blocks) or not _has(
            own, {"fc_mu": (0, 0), "fc_var": (0, 0), "decoder_input": (0, 0)}
        ):
            continue
        d = own["decoder_input.weight"][1]
        if own["fc_mu.weight"][0] != d or own["encoder.0.0.weight"][1] != own["final_layer.0.weight"][0]:
            continue

        def block(key: str) -> tuple[Layer, ...]:
            return linear(f"{key}.0"), batch_norm(f"{key}.1"), leaky_relu(0.01)

        return Blueprint(
            layers=(
                linear("decoder_input"),
                *(layer for b in blocks[down[0] :] for layer in block(b)),
                linear("final_layer.0"),
            ),
            latents=_normal(d),
            likelihood="gaussian",
            prefix=prefix,
            encoder=EncoderPlan(
                layers=tuple(layer for b in blocks[: down[0]] for layer in block(b)),
                input=(own["encoder.0.0.weight"][1],),
                output="heads",
                mean=(linear("fc_mu"),),
                spread=(linear("fc_var"),),
                prefix=prefix,
            ),
            name="inverse-micro",
            origin="preset inverse-micro",
        )
    return None


def wgan_gp(shapes: Shapes) -> Blueprint | None:
    """The generator of WGAN-GP (28x28): three blocks of ConvT, BatchNorm, ReLU and a last ConvT with tanh; z as d x 1 x 1."""
    for prefix in _prefixes(shapes, "model.0.block.0.weight"):
        own = _below(shapes, prefix)
        wanted = {f"model.{i}.block.{j}" for i in range(3) for j in (0, 1)} | {"model.3"}
        if _names(own) != wanted or not all(f"model.{i}.block.1.running_var" in own for i in range(3)):
            continue
        kernels = [own[f"model.{i}.block.0.weight"][2:] for i in range(3)] + [own["model.3.weight"][2:]]
        if kernels != [(3, 3), (4, 4), (3, 3), (4, 4)]:
            continue
        d = own["model.0.block.0.weight"][0]
        strides = (2, 1, 2)
        return Blueprint(
            layers=(
                reshape(d, 1, 1),
                *(
                    layer
                    for i, stride in enumerate(strides)
                    for layer in (conv_transpose(f"model.{i}.block.0", stride, 0), batch_norm(f"model.{i}.block.1"), RELU)
                ),
                conv_transpose("model.3", 2, 0), TANH,
            ),
            latents=_normal(d),
            prefix=prefix,
            name="wgan-gp",
            origin="preset wgan-gp",
        )  # fmt: skip
    return None


def dcgan(shapes: Shapes) -> Blueprint | None:
    """The DCGAN generator of the PyTorch examples (`main.0`, `main.1`, `main.3`, ...): ConvT k4 without bias, BatchNorm, ReLU; tanh."""
    for prefix in _prefixes(shapes, "main.0.weight"):
        own = _below(shapes, prefix)
        n = sum(len(v) == 4 for v in own.values())
        convs = [3 * i for i in range(n)]
        wanted = {f"main.{i}" for i in convs} | {f"main.{i + 1}" for i in convs[:-1]}
        if n < 3 or _names(own) != wanted or any(f"main.{i}.bias" in own for i in convs):
            continue
        weights = [own.get(f"main.{i}.weight", ()) for i in convs]
        norms = [own.get(f"main.{i + 1}.running_var", ()) for i in convs[:-1]]
        if any(w[2:] != (4, 4) for w in weights) or any(
            (a[1],) != b for a, b in zip(weights, norms, strict=False)
        ):
            continue
        if any(a[1] != b[0] for a, b in itertools.pairwise(weights)):
            continue
        body = [
            layer
            for i in convs[:-1]
            for layer in (
                conv_transpose(f"main.{i}", 2 if i else 1, 1 if i else 0),
                batch_norm(f"main.{i + 1}"),
                RELU,
            )
        ]
        d = weights[0][0]
        return Blueprint(
            layers=(reshape(d, 1, 1), *body, conv_transpose(f"main.{convs[-1]}"), TANH),
            latents=_normal(d),
            prefix=prefix,
            name="dcgan",
            origin="preset dcgan",
        )
    return None


def taef2(shapes: Shapes) -> Blueprint | None:
    """The tiny decoder of FLUX.2 latents (taesd): residual blocks, some with a wide 1 x 1 branch, and three doublings.

    It takes a map of 32 channels of any size, and the weights do not tell which: 4 x 4 is taken, and said.
    """
    wide, plain, doubling = (3, 4, 5), (8, 9, 10, 13, 14, 15, 18), (7, 12, 17)
    for prefix in _prefixes(shapes, "3.pool.0.weight"):
        own = _below(shapes, prefix)
        blocks = {f"{i}.conv.{j}" for i in (*wide, *plain) for j in (0, 2, 4)}
        pools = {f"{i}.pool.{j}" for i in wide for j in (0, 1, 3)}
        if _names(own) != {"1", "19", *map(str, doubling), *blocks, *pools}:
            continue
        channels, latents = own["1.weight"][:2]
        square = (channels, channels, 3, 3)
        if own["19.weight"] != (3, channels, 3, 3) or any(own[f"{b}.weight"] != square for b in blocks):
            continue

        def same(key: str) -> Layer:
            return Layer("conv", key).with_options(padding=1)

        def block(i: int) -> Iterator[Layer]:
            if i in wide:
                norm = Layer("group_norm", "1", {"groups": 4})
                yield Layer(
                    "residual", body=(Layer("conv", "0"), norm, RELU, Layer("conv", "3")), prefix=f"{i}.pool."
                )
            yield Layer("residual", body=(same("0"), RELU, same("2"), RELU, same("4")), prefix=f"{i}.conv.")
            yield RELU

        middle: list[Layer] = []
        for i in range(3, 19):
            if i in doubling:
                middle += [Layer("upsample", options={"factor": 2}), same(str(i))]
            elif i in (*wide, *plain):
                middle += block(i)
        third, thrice = (Layer("scale", options={"factor": f}) for f in (1 / 3, 3.0))
        return Blueprint(
            layers=(reshape(latents, 4, 4), third, TANH, thrice, same("1"), RELU, *middle, same("19")),
            latents=_normal(latents * 16),
            prefix=prefix,
            name="taef2",
            assumptions=(
                "the map of latents is 4 x 4, which makes images of 32 x 32",
                "its latents are N(0, 1)",
            ),
            origin="preset taef2",
        )
    return None


FAMILIES: Mapping[str, Callable[[Shapes], Blueprint | None]] = {
    "burgess": burgess,
    "joint-vae": joint_vae,
    "pytorch-examples-mlp": examples_mlp,
    "riemannian-conv": riemannian_conv,
    "inverse-micro": inverse_micro,
    "wgan-gp": wgan_gp,
    "dcgan": dcgan,
    "taef2": taef2,
}
NAMES = tuple(FAMILIES)
