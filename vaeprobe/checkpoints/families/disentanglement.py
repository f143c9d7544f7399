"""disentanglement-pytorch: SimpleConv64 (six transposed convolutions from 1 x 1 to 64 x 64), ShallowLinear, DeepLinear.

The sigmoid is outside its modules.  Any of its four encoders may stand beside any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vaeprobe.checkpoints.blueprint import Blueprint, Condition, EncoderPlan, Layer
from vaeprobe.checkpoints.families import family as f
from vaeprobe.recipe import Recipe

UP = {3: (256, 256, 4, 2, 1), 5: (256, 128, 4, 2, 0), 7: (128, 128, 4, 2, 0), 9: (128, 64, 4, 2, 0), 11: (64, 64, 4, 2, 0)}  # fmt: skip
DECODER = {
    "main.1": "conv 256 i 1 1",
    **{f"main.{i}": f"conv_transpose {a} {b} {k} {k}" for i, (a, b, k, _, _) in UP.items()},
    "main.13": "conv_transpose 64 c 3 3",
}
LINEAR = {"shallow": (400,), "deep": (100, 200, 400, 1000)}  # widths between the latents and the image
SIDE = 64


@dataclass(frozen=True)
class EncoderForm:
    """An encoder of the repository: what its tensors are, and the layers of its trunk and heads."""

    fingerprint: Mapping[str, str]
    trunk: tuple[Layer, ...]
    mean: tuple[Layer, ...] = ()
    spread: tuple[Layer, ...] = ()


def _convolutional(channels: tuple[int, ...], kernel: int, padding: int) -> EncoderForm:
    """Return an encoder whose last layer gives means, then log variances."""
    last = f"main.{2 * len(channels) + 1}"
    names = [f"main.{2 * i}" for i in range(len(channels))]
    pairs = zip(names, ("c", *channels), channels, strict=False)
    return EncoderForm(
        {**{name: f"conv {b} {a} {kernel} {kernel}" for name, a, b in pairs}, last: "linear e 256"},
        (
            *(layer for name in names for layer in (f.conv(name, 2, padding), f.RELU)),
            *(f.FLATTEN, f.linear(last)),
        ),
    )


def _linear(widths: tuple[int, ...]) -> EncoderForm:
    """Return an encoder of linear layers with a head for the means and one for the log variances."""
    names = [f"main.{2 * i + 1}" for i in range(len(widths))]
    pairs = zip(names, ("m", *widths), widths, strict=False)
    return EncoderForm(
        {
            **{name: f"linear {b} {a}" for name, a, b in pairs},
            **dict.fromkeys(("head_mu", "head_logvar"), f"linear d {widths[-1]}"),
        },
        (f.FLATTEN, *(layer for name in names for layer in (f.linear(name), f.RELU))),
        (f.linear("head_mu"),),
        (f.linear("head_logvar"),),
    )


ENCODERS = (
    _convolutional((32, 32, 64, 128, 256, 256), 4, 1),
    _convolutional((32, 32, 64, 128, 256), 3, 0),
    _linear((400,)),
    _linear((1000, 400, 200, 100)),
)


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold."""
    for prefix in f.prefixes(clues.shapes, "decoder.main.1.weight"):
        found = f.solve(f.below(clues.shapes, f"{prefix}decoder."), DECODER)
        if found is not None:
            up = [
                layer
                for i, (_, _, _, stride, padding) in UP.items()
                for layer in (f.RELU, f.conv_transpose(f"main.{i}", stride, padding))
            ]
            layers = (
                *(f.reshape(found["i"], 1, 1), f.conv("main.1", 2, 0), *up),
                *(f.RELU, f.conv_transpose("main.13", 1, 0)),
            )
            return _found(clues.shapes, prefix, layers, found["i"], found["c"])
    for prefix in f.prefixes(clues.shapes, "decoder.main.2.weight"):
        for kind, widths in LINEAR.items():
            names = [f"main.{2 * i}" for i in range(len(widths) + 1)]
            pairs = zip(names, ("i", *widths), (*widths, "m"), strict=True)
            wanted = {name: f"linear {b} {a}" for name, a, b in pairs}
            found = f.solve(f.below(clues.shapes, f"{prefix}decoder."), wanted)
            # such names are common: without an encoder of the repository beside them they say too little
            if found is None or _encoder(clues.shapes, prefix) is None:
                continue
            channels, rest = divmod(found["m"], SIDE * SIDE)
            if rest or channels not in (1, 3):
                continue
            between = [layer for name in names[1:] for layer in (f.RELU, f.linear(name))]
            layers = (f.linear(names[0]), *between, f.reshape(channels, SIDE, SIDE))
            hit = _found(clues.shapes, prefix, layers, found["i"], channels)
            if hit is not None:
                said = f"a {kind} linear decoder's image is {channels} x {SIDE} x {SIDE}"
                return replace(hit, assumed=(said,))
    return None


def _found(
    shapes: f.Shapes, prefix: str, layers: tuple[Layer, ...], inputs: int, channels: int
) -> f.Recognised | None:
    unknown = shapes.get(f"{prefix}encoder.main.13.weight", (2 * inputs,))[0] // 2
    encoder, d = _encoder(shapes, prefix) or (None, unknown)
    classes = inputs - d
    if classes < 0 or classes == 1:
        return None
    label = (Layer("concat", "label"),) if classes else ()
    bp = Blueprint(
        layers=(*label, *layers, f.SIGMOID),
        latents=f.normal(d),
        likelihood="bernoulli",
        prefix=f"{prefix}decoder.",
        conditions=(Condition("label", "onehot", classes),) if classes else (),
        encoder=None if classes or encoder is None else _plan(encoder, shapes, prefix, channels),
    )
    recipe = Recipe(None, "w_kld / w_recon, which the file does not hold", "its own command line")
    warnings = ("its labels may be of several kinds side by side; one column of them is set here",)
    return f.Recognised(bp, recipe=recipe, warnings=warnings if classes else ())


def _encoder(shapes: f.Shapes, prefix: str) -> tuple[EncoderForm, int] | None:
    """Return the encoder that stands beside the decoder, and how many means it has."""
    own = f.below(shapes, f"{prefix}encoder.")
    for encoder in ENCODERS:
        found = f.solve(own, encoder.fingerprint)
        if found is not None and found.get("e", 0) % 2 == 0:
            return encoder, found["d"] if "d" in found else found["e"] // 2
    return None


def _plan(encoder: EncoderForm, shapes: f.Shapes, prefix: str, channels: int) -> EncoderPlan | None:
    own = f.below(shapes, f"{prefix}encoder.")
    if f.solve(own, encoder.fingerprint, c=channels, m=channels * SIDE * SIDE) is None:
        return None
    return EncoderPlan(
        encoder.trunk,
        (channels, SIDE, SIDE),
        "heads" if encoder.mean else "chunked",
        mean=encoder.mean,
        spread=encoder.spread,
        prefix=f"{prefix}encoder.",
    )


FAMILY = f.Family(
    name="disentanglement-pytorch",
    title="VAEs of disentanglement-pytorch",
    source="amir-abdi/disentanglement-pytorch 2626252 (facts only: its code is GPL-3)",
    recognise=recognise,
)
