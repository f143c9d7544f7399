"""AutoencoderTiny (TAESD): a clamp, residual blocks of three convolutions, nearest doublings.

In diffusers' names (which return images in [-1, 1]) and in the original's, places one later, with images in [0, 1].
It takes a map of any size; 4 x 4 unless the user says another.
"""

from __future__ import annotations

from collections.abc import Mapping

from vaeprobe.checkpoints.blueprint import Blueprint, Layer
from vaeprobe.checkpoints.families import family as f
from vaeprobe.errors import ArchitectureError
from vaeprobe.recipe import Recipe

SIZE = (4, 4)


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold."""
    config = clues.table("config.json")
    if config.get("_class_name") not in (None, "AutoencoderTiny"):
        return None
    if f.for_library(config, {"act_fn": ("relu",), "upsample_fn": ("nearest",)}):
        return None
    for prefix in f.prefixes(clues.shapes, "decoder.layers.2.conv.0.weight"):
        found = _at(clues, config, f"{prefix}decoder.layers.", 0)
        if found is not None:
            return found
    for prefix in f.prefixes(clues.shapes, "3.conv.0.weight"):
        if not config and not prefix.endswith("layers."):
            found = _at(clues, config, prefix, 1)
            if found is not None:
                return found
    return None


def _at(clues: f.Clues, config: Mapping[str, object], prefix: str, first: int) -> f.Recognised | None:
    """Return the decoder whose first convolution has a place of its own number."""
    own = f.below(clues.shapes, prefix)
    places = [int(k.split(".")[0]) for k in own if k.split(".")[0].isdecimal()]
    if f"{first}.weight" not in own or not places:
        return None
    factor = config.get("upsampling_scaling_factor", 2)
    if not isinstance(factor, int) or not 1 <= factor <= LARGEST_FACTOR:
        raise ArchitectureError(
            f"`config.json` says upsampling_scaling_factor = {factor}, which is no factor of an upsampling",
            hint="are these the weights that belong to this config?",
        )
    fingerprint = {str(first): "conv w0 d 3 3"}
    layers: list[Layer] = [f.conv(str(first)), f.RELU]
    width, blocks, doublings = "w0", [0], 0
    for place in range(first + 2, max(places) + 1):
        if f"{place}.conv.0.weight" in own:
            fingerprint |= {f"{place}.conv.{j}": f"conv {width} {width} 3 3" for j in (0, 2, 4)}
            body = (f.conv("0"), f.RELU, f.conv("2"), f.RELU, f.conv("4"))
            layers += [Layer("residual", body=body, prefix=f"{place}.conv."), f.RELU]
            blocks[-1] += 1
        elif f"{place}.weight" in own:
            last = place == max(places)
            after = "c" if last else f"w{len(blocks)}"
            fingerprint[str(place)] = f"conv {after} {width} 3 3" + ("" if last else " -")
            layers.append(f.conv(str(place)))
            width = after
            blocks.append(0)
        elif f"{place + 1}.weight" not in own:
            return None  # a convolution follows every doubling: what has neither is another network
        else:
            layers.append(Layer("upsample", options={"factor": factor}))
            doublings += 1
    found = f.solve(own, fingerprint)
    if found is None or not doublings or blocks[-1] != 0:
        return None
    _agree(config, found, blocks[:-1])
    h, w = clues.size or SIZE
    third, thrice = (Layer("scale", options={"factor": x}) for x in (1 / 3, 3.0))
    images = (
        () if first else (Layer("scale", options={"factor": 2.0}), Layer("shift", options={"amount": -1.0}))
    )
    d, side = found["d"], factor**doublings
    size = (
        ()
        if clues.size
        else (f"the map of latents is {d} x {h} x {w}, which makes images of {side * h} x {side * w}",)
    )
    return f.Recognised(
        Blueprint(
            layers=(f.reshape(d, h, w), third, f.TANH, thrice, *layers, *images),
            latents=f.normal(d * h * w),
            prefix=prefix,
        ),
        assumed=(*size, "its latents are N(0, 1)"),
        recipe=Recipe(None, "it was distilled from another autoencoder: no KL, no beta"),
        warnings=("its encoder is deterministic: there is no posterior",),
    )


def _agree(config: Mapping[str, object], found: dict[str, int], blocks: list[int]) -> None:
    """Check that a config says what the tensors are.

    Raises:
        ArchitectureError: it says something else.
    """
    widths = [found[f"w{i}"] for i in range(len(blocks))]
    tensors = {
        "num_decoder_blocks": blocks,
        "decoder_block_out_channels": widths,
        "latent_channels": found["d"],
        "out_channels": found["c"],
        "act_fn": "relu",
        "upsample_fn": "nearest",
    }
    for key, value in tensors.items():
        said = config.get(key, value)
        if said != value:
            raise ArchitectureError(
                f"`config.json` says {key} = {said}, and the tensors have {value}",
                hint="are these the weights that belong to this config?",
            )


LARGEST_FACTOR = 64

FAMILY = f.Family(
    name="autoencoder-tiny",
    title="AutoencoderTiny of diffusers, and TAESD",
    source="diffusers 58eb52c, Apache-2.0; madebyollin/taesd 5cccb12, MIT",
    recognise=recognise,
)
