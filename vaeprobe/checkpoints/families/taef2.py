"""The tiny decoder of FLUX.2 latents: residual blocks, some with a wide 1 x 1 branch, and three doublings.

It takes a map of any size, and the weights do not tell which: 4 x 4 unless the user says another.
"""

from __future__ import annotations

from collections.abc import Iterator

from vaeprobe.checkpoints.blueprint import Blueprint, Layer
from vaeprobe.checkpoints.families import family as f

WIDE, PLAIN, DOUBLING = (3, 4, 5), (8, 9, 10, 13, 14, 15, 18), (7, 12, 17)
LAYERS = {
    "1": "conv w d 3 3",
    "19": "conv 3 w 3 3",
    **{str(i): "conv w w 3 3 -" for i in DOUBLING},
    **{f"{i}.conv.{j}": "conv w w 3 3" for i in (*WIDE, *PLAIN) for j in (0, 2, 4)},
    **{f"{i}.pool.0": "conv e w 1 1 -" for i in WIDE},
    **{f"{i}.pool.1": "norm e" for i in WIDE},
    **{f"{i}.pool.3": "conv w e 1 1 -" for i in WIDE},
}


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold."""
    for prefix in f.prefixes(clues.shapes, "3.pool.0.weight"):
        found = f.solve(f.below(clues.shapes, prefix), LAYERS)
        if found is None:
            continue
        h, w = clues.size or (4, 4)
        third, thrice = (Layer("scale", options={"factor": x}) for x in (1 / 3, 3.0))
        middle: list[Layer] = []
        for i in range(3, 19):
            if i in DOUBLING:
                middle += [f.doubling(), f.conv(str(i))]
            elif i in (*WIDE, *PLAIN):
                middle += _block(i)
        bp = Blueprint(
            layers=(
                *(f.reshape(found["d"], h, w), third, f.TANH, thrice, f.conv("1"), f.RELU),
                *(*middle, f.conv("19")),
            ),
            latents=f.normal(found["d"] * h * w),
            prefix=prefix,
        )
        size = (
            ()
            if clues.size
            else (f"the map of latents is {h} x {w}, which makes images of {8 * h} x {8 * w}",)
        )
        return f.Recognised(bp, assumed=(*size, "its latents are N(0, 1)"))
    return None


def _block(i: int) -> Iterator[Layer]:
    if i in WIDE:
        norm = Layer("group_norm", "1", {"groups": 4})
        branch = (Layer("conv", "0"), norm, f.RELU, Layer("conv", "3"))
        yield Layer("residual", body=branch, prefix=f"{i}.pool.")
    body = (f.conv("0"), f.RELU, f.conv("2"), f.RELU, f.conv("4"))
    yield Layer("residual", body=body, prefix=f"{i}.conv.")
    yield f.RELU


FAMILY = f.Family(
    name="taef2",
    title="tiny decoder of FLUX.2 latents",
    source="madebyollin/taesd 5cccb12, MIT",
    recognise=recognise,
)
