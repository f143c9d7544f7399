"""The MLP VAE of inverse-micro: `decoder_input`, blocks of Linear, BatchNorm1d, LeakyReLU, and a linear `final_layer.0`."""

from __future__ import annotations

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan, Layer
from vaeprobe.checkpoints.families import family as f


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold."""
    for prefix in f.prefixes(clues.shapes, "final_layer.0.weight"):
        own = f.below(clues.shapes, prefix)
        down, up = (
            [f"{side}.{i}" for i in range(len({k.split(".")[1] for k in own if k.startswith(f"{side}.")}))]
            for side in ("encoder", "decoder")
        )
        wanted = {"fc_mu": "linear d h", "fc_var": "linear d h", "decoder_input": "linear a0 d"}
        for before, side, blocks in (("m", "e", down), ("a0", "a", up)):
            for i, block in enumerate(blocks, 1):
                last = "h" if side == "e" and i == len(down) else f"{side}{i}"
                wanted |= {f"{block}.0": f"linear {last} {before}", f"{block}.1": f"batch_norm {last}"}
                before = last
        wanted["final_layer.0"] = f"linear m {before}"
        found = f.solve(own, wanted)
        if found is None or not down or not up:
            continue
        return f.Recognised(
            Blueprint(
                layers=(f.linear("decoder_input"), *_blocks(up), f.linear("final_layer.0")),
                latents=f.normal(found["d"]),
                likelihood="gaussian",
                prefix=prefix,
                encoder=EncoderPlan(
                    layers=_blocks(down),
                    input=(found["m"],),
                    output="heads",
                    mean=(f.linear("fc_mu"),),
                    spread=(f.linear("fc_var"),),
                    prefix=prefix,
                ),
            ),
            scope=tuple(prefix + part for part in ("decoder_input.", "decoder.", "final_layer.")),
        )
    return None


def _blocks(names: list[str]) -> tuple[Layer, ...]:
    return tuple(s for b in names for s in (f.linear(f"{b}.0"), f.batch_norm(f"{b}.1"), f.leaky_relu(0.01)))


FAMILY = f.Family(
    name="inverse-micro",
    title="MLP VAE with batch normalisation",
    source="agenerale/inverse-micro, MIT",
    recognise=recognise,
)
