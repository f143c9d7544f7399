"""AutoencoderKL (Stable Diffusion, SDXL, SD3, FLUX.1) and VQModel, in the names of diffusers and of latent diffusion.

The decoder: residual blocks of GroupNorm, SiLU and 3 x 3 convolutions, attention in the middle, nearest doublings.  It takes a
map of any size; 4 x 4 unless the user says another.  A VQModel decodes the map that its codebook made: the map after
the quantiser is probed, as the quantised one is piecewise constant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan, Layer
from vaeprobe.checkpoints.families import family as f
from vaeprobe.errors import ArchitectureError
from vaeprobe.recipe import Recipe

SIZE = (4, 4)
GROUPS = 32  # of every model published; not in the tensors
CLASSES = ("AutoencoderKL", "AutoencoderKLFlux2", "VQModel")
KL_WEIGHT = 1e-6
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
LDM_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


@dataclass
class Names:
    """What the layers are called in a file, and what it takes for each of its tensors to have a place.

    Attributes:
        ldm: whether they are latent diffusion's, which counts its levels from the finest, not from the deepest.
        levels: number of levels.
        groups: of every normalisation.
        layers: fingerprint of the layers asked for so far (see `family.solve`).
    """

    ldm: bool
    levels: int
    groups: int
    own: f.Shapes
    layers: dict[str, str] = field(default_factory=dict)

    def conv(self, key: str, n_out: int | str, n_in: int | str, k: int = 3, stride: int = 1) -> Layer:
        self.layers[key] = f"conv {n_out} {n_in} {k} {k}"
        return f.conv(key, stride, k // 2 if stride == 1 else 0)

    def norm(self, key: str, n: int | str) -> Layer:
        self.layers[key] = f"norm {n}"
        return Layer("group_norm", key, {"groups": self.groups, "eps": 1e-6})

    def block(self, side: str, level: int, part: str, number: int) -> str:
        """Return the name of a part of a level, counted as diffusers counts."""
        up = side == "decoder"
        if not self.ldm:
            return f"{side}.{'up' if up else 'down'}_blocks.{level}.{part}.{number}"
        where = f"{side}.up.{self.levels - 1 - level}" if up else f"{side}.down.{level}"
        short = {"resnets": f"block.{number}", "attentions": f"attn.{number}"}
        return f"{where}.{short.get(part, 'upsample' if up else 'downsample')}"

    def middle(self, side: str, part: str, number: int) -> str:
        if not self.ldm:
            return f"{side}.mid_block.{part}.{number}"
        return f"{side}.mid.{'block' if part == 'resnets' else 'attn'}_{number + 1}"

    def last_norm(self, side: str) -> str:
        return f"{side}.{'norm_out' if self.ldm else 'conv_norm_out'}"

    def has(self, key: str) -> bool:
        return f"{key}.weight" in self.own

    def residual(self, key: str, n_in: int | str, n_out: int | str) -> Layer:
        """Return GroupNorm, SiLU, convolution, twice, added to the input or a 1 x 1 convolution of it."""
        shortcut = "nin_shortcut" if self.ldm else "conv_shortcut"
        body = (
            *(self.norm(f"{key}.norm1", n_in), f.SILU, self.conv(f"{key}.conv1", n_out, n_in)),
            *(self.norm(f"{key}.norm2", n_out), f.SILU, self.conv(f"{key}.conv2", n_out, n_out)),
        )
        skip = (self.conv(f"{key}.{shortcut}", n_out, n_in, 1),) if self.has(f"{key}.{shortcut}") else ()
        return Layer("residual", body=body, skip=skip)

    def attention(self, key: str, n: int | str) -> Layer:
        """Return self-attention between places, added to its input; three ways of naming its parts."""
        old = self.has(f"{key}.query")
        called = LDM_ATTENTION if self.ldm else OLD_ATTENTION if old else {}
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            name = f"{key}.{called.get(part, part)}"
            unit = len(self.own.get(f"{name}.weight", ())) - 2
            self.layers[name] = f"conv {n} {n}{' 1' * unit}" if unit > 0 else f"linear {n} {n}"
        norm = self.norm(f"{key}.{'norm' if self.ldm else 'group_norm'}", n)
        return Layer("residual", body=(norm, Layer("attention", key)))

    def middle_of(self, side: str, n: int | str) -> Iterator[Layer]:
        yield self.residual(self.middle(side, "resnets", 0), n, n)
        attention = self.middle(side, "attentions", 0)
        if any(name.startswith(f"{attention}.") for name in self.own):
            yield self.attention(attention, n)
        yield self.residual(self.middle(side, "resnets", 1), n, n)

    def level_of(self, side: str, level: int, n_in: int, n_out: int) -> Iterator[Layer]:
        """Yield the residual blocks of a level, each with its attention where there is one."""
        number = 0
        while self.has(f"{(key := self.block(side, level, 'resnets', number))}.conv1"):
            yield self.residual(key, n_in if number == 0 else n_out, n_out)
            attention = self.block(side, level, "attentions", number)
            if any(name.startswith(f"{attention}.") for name in self.own):
                yield self.attention(attention, n_out)
            number += 1


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold."""
    config = clues.table("config.json")
    if config.get("_class_name") not in (None, *CLASSES):
        return None
    for ldm, anchor in (
        (False, "decoder.mid_block.resnets.0.conv1.weight"),
        (True, "decoder.mid.block_1.conv1.weight"),
    ):
        for prefix in f.prefixes(clues.shapes, anchor):
            found = _at(clues, config, prefix, ldm)
            if found is not None:
                return found
    return None


def _at(clues: f.Clues, config: Mapping[str, object], prefix: str, ldm: bool) -> f.Recognised | None:
    own = f.below(clues.shapes, prefix)
    widths = _widths(own, ldm)
    first, last = own.get("decoder.conv_in.weight", ()), own.get("decoder.conv_out.weight", ())
    if widths is None or len(first) != 4 or len(last) != 4:
        return None
    latents, channels, top = first[1], last[0], widths[-1]
    groups = config.get("norm_num_groups", GROUPS)
    if not isinstance(groups, int) or groups < 1 or any(w % groups for w in widths):
        return None
    names = Names(ldm, len(widths), groups, own)
    h, w = clues.size or SIZE
    layers: list[Layer] = []
    z = latents
    if names.has("post_quant_conv"):
        z = own["post_quant_conv.weight"][1]
        layers.append(names.conv("post_quant_conv", latents, z, 1))
    layers = [f.reshape(z, h, w), *layers, names.conv("decoder.conv_in", top, latents)]
    layers += names.middle_of("decoder", top)
    before = top
    for level, width in enumerate(reversed(widths)):
        layers += names.level_of("decoder", level, before, width)
        before = width
        if level < len(widths) - 1:
            key = f"{names.block('decoder', level, 'upsamplers', 0)}.conv"
            layers += [f.doubling(), names.conv(key, width, width)]
    layers += [names.norm(names.last_norm("decoder"), before), f.SILU]
    layers.append(names.conv("decoder.conv_out", channels, before))
    mine = {k: v for k, v in own.items() if k.startswith(("decoder.", "post_quant_conv."))}
    if f.solve(mine, names.layers) is None:
        return None
    if f.for_library(config, {"act_fn": ("silu", "swish")}):
        return None
    _agree(config, widths, latents, channels, names)
    codebook = "quantize.embedding.weight" in own or "quantize.embed.weight" in own
    ends = own.get("quant_conv.weight", own.get("encoder.conv_out.weight"))
    if ends is not None and ends[0] != (z if codebook else 2 * z):
        return None  # the encoder makes other latents than the decoder takes
    side = 2 ** (len(widths) - 1)
    plan = None if codebook else _encoder(names, own, widths, z, (channels, side * h, side * w))
    return f.Recognised(
        Blueprint(
            layers=tuple(layers),
            latents=f.normal(z * h * w),
            prefix=prefix,
            encoder=replace(plan, prefix=prefix) if plan else None,
        ),
        scope=(f"{prefix}decoder.", f"{prefix}post_quant_conv."),
        encoder_scope=(f"{prefix}encoder.", f"{prefix}quant_conv."),
        assumed=tuple(_assumed(clues, config, names, (z, h, w), side)),
        recipe=_recipe(codebook),
        warnings=tuple(_warnings(config, own, codebook)),
    )


def _widths(own: f.Shapes, ldm: bool) -> list[int] | None:
    """Return the channels of each level, the finest first."""
    pattern = r"decoder\.up\.(\d+)\.block\.0" if ldm else r"decoder\.up_blocks\.(\d+)\.resnets\.0"
    found = {
        int(m[1]): shape[0]
        for name, shape in own.items()
        if (m := re.fullmatch(pattern + r"\.conv1\.weight", name)) and len(shape) == 4
    }
    if not found or sorted(found) != list(range(len(found))):
        return None
    return [found[i] for i in (sorted(found) if ldm else sorted(found, reverse=True))]


def _agree(
    config: Mapping[str, object], widths: list[int], latents: int, channels: int, names: Names
) -> None:
    """Check that a config says what the tensors are.

    Raises:
        ArchitectureError: it says something else.
    """
    per_level = sum(
        names.has(f"{names.block('decoder', 0, 'resnets', i)}.conv1") for i in range(len(names.own))
    )
    tensors = {
        "block_out_channels": widths,
        "latent_channels": latents,
        "out_channels": channels,
        "layers_per_block": per_level - 1,
        "use_post_quant_conv": names.has("post_quant_conv"),
        "mid_block_add_attention": any(".mid_block.attentions." in k or ".mid.attn_" in k for k in names.own),
        "act_fn": "silu",
    }
    same = {"swish": "silu"}
    for key, value in tensors.items():
        said = config.get(key, value)
        if (same.get(said, said) if isinstance(said, str) else said) != value:
            raise ArchitectureError(
                f"`config.json` says {key} = {said}, and the tensors have {value}",
                hint="are these the weights that belong to this config?",
            )
    for key in ("down_block_types", "up_block_types"):
        said = config.get(key, ())
        odd = [
            t
            for t in (said if isinstance(said, (list, tuple)) else [said])
            if "EncoderBlock2D" not in str(t) and "DecoderBlock2D" not in str(t)
        ]
        if odd:
            raise ArchitectureError(
                f"`config.json` asks for a block `{odd[0]}` that this reader does not know"
            )


def _encoder(
    names: Names, own: f.Shapes, widths: list[int], z: int, image: tuple[int, int, int]
) -> EncoderPlan | None:
    """Return the encoder, where all its tensors have their place."""
    names.layers = {}
    layers = [names.conv("encoder.conv_in", widths[0], image[0])]
    before = widths[0]
    for level, width in enumerate(widths):
        layers += names.level_of("encoder", level, before, width)
        before = width
        if level < len(widths) - 1:
            key = f"{names.block('encoder', level, 'downsamplers', 0)}.conv"
            layers += [
                Layer("pad", options={"amount": [0, 1, 0, 1]}),
                names.conv(key, width, width, stride=2),
            ]
    layers += names.middle_of("encoder", before)
    double = own.get("encoder.conv_out.weight", (0,))[0]
    layers += [names.norm(names.last_norm("encoder"), before), f.SILU]
    layers.append(names.conv("encoder.conv_out", double, before))
    if names.has("quant_conv"):
        double = own["quant_conv.weight"][0]
        layers.append(names.conv("quant_conv", double, own["encoder.conv_out.weight"][0], 1))
    mine = {k: v for k, v in own.items() if k.startswith(("encoder.", "quant_conv."))}
    if double != 2 * z or f.solve(mine, names.layers) is None:
        return None
    return EncoderPlan(tuple(layers), image, "chunked", limits=(-30.0, 20.0))


def _assumed(
    clues: f.Clues, config: Mapping[str, object], names: Names, latent: tuple[int, int, int], side: int
) -> Iterator[str]:
    if "norm_num_groups" not in config:
        yield f"every group normalisation has {names.groups} groups"
    if clues.size is None:
        c, h, w = latent
        yield f"the map of latents is {c} x {h} x {w}, which makes images of {side * h} x {side * w}"


def _warnings(config: Mapping[str, object], own: f.Shapes, codebook: bool) -> Iterator[str]:
    if codebook:
        name = "quantize.embedding.weight" if "quantize.embedding.weight" in own else "quantize.embed.weight"
        yield (
            f"a codebook of {own[name][0]} codes quantises the latents: the map after the quantiser is probed, and there "
            "is no posterior"
        )
        return
    scaling = config.get("scaling_factor")
    spread = (
        f", {1 / scaling:.1f} by its scaling factor" if isinstance(scaling, float) and scaling > 0 else ""
    )
    yield (
        "N(0, 1) is its prior in name only: its KL weight is 1e-6, and latents of data spread wider"
        f"{spread}; prefer latents of encoded data"
    )


def _recipe(codebook: bool) -> Recipe:
    if codebook:
        return Recipe(None, "a codebook has no posterior and no KL")
    formula = f"an L1 and perceptual loss with a KL weight of {KL_WEIGHT:g}: no Gaussian beta"
    return Recipe(None, formula, "latent diffusion's configs")


FAMILY = f.Family(
    name="autoencoder-kl",
    title="AutoencoderKL of diffusers and latent diffusion, and VQModel",
    source="diffusers 58eb52c, Apache-2.0; CompVis/latent-diffusion a506df5, MIT",
    recognise=recognise,
)
