"""Mult-VAE and RecBole's MultiVAE: MLPs with tanh between, whose outputs are logits over items.

Clicks of a row are draws of one multinomial; the encoder takes rows of length one.
"""

from __future__ import annotations

from collections.abc import Mapping

from vaeprobe.checkpoints.blueprint import Blueprint, EncoderPlan, Layer
from vaeprobe.checkpoints.families import family as f
from vaeprobe.recipe import Mistake, Recipe

SOFTMAX = Layer("softmax")


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold; RecBole's names are any MLP's, so that its config must say the model."""
    told = clues.table("config").get("final_config_dict")
    recbole = isinstance(told, dict) and told.get("model") == "MultiVAE"
    pairs = [("q_layers", "p_layers")] + ([("encoder", "decoder")] if recbole else [])
    for down, up in pairs:
        for prefix in f.prefixes(clues.shapes, f"{up}.0.weight"):
            found = _at(f.below(clues.shapes, prefix), prefix, down, up)
            if found is not None:
                return f.Recognised(
                    found,
                    (f"{prefix}{up}.",),
                    (f"{prefix}{down}.",),
                    recipe=_recipe(told if isinstance(told, Mapping) and recbole else {}),
                )
    return None


def _at(own: f.Shapes, prefix: str, down: str, up: str) -> Blueprint | None:
    places = [f.places(own, down), f.places(own, up)]
    if min(map(len, places)) < 2:
        return None
    wanted = _chain(down, places[0], "m", "e", "a") | _chain(up, places[1], "d", "m", "b")
    found = f.solve({k: v for k, v in own.items() if k.startswith((f"{down}.", f"{up}."))}, wanted)
    if found is None or found["e"] != 2 * found["d"]:
        return None
    return Blueprint(
        layers=(*_layers(up, places[1]), SOFTMAX),
        latents=f.normal(found["d"]),
        likelihood="multinomial",
        prefix=prefix,
        encoder=EncoderPlan(
            (Layer("l2_normalise"), *_layers(down, places[0])), (found["m"],), "chunked", prefix=prefix
        ),
    )


def _chain(name: str, places: list[int], first: str, last: str, letter: str) -> dict[str, str]:
    sizes = [first, *(f"{letter}{i}" for i in range(len(places) - 1)), last]
    return {f"{name}.{p}": f"linear {sizes[i + 1]} {sizes[i]}" for i, p in enumerate(places)}


def _layers(name: str, places: list[int]) -> list[Layer]:
    layers = [layer for p in places for layer in (f.TANH, f.linear(f"{name}.{p}"))]
    return layers[1:]


def _recipe(told: Mapping[str, object]) -> Recipe:
    cap = told.get("anneal_cap", 0.2) if told else 0.2
    steps = told.get("total_anneal_steps", 200_000) if told else 200_000
    if not isinstance(cap, (int, float)) or not isinstance(steps, int):
        cap, steps = 0.2, 200_000
    mistake = Mistake(
        500.0, 1e5, "noise of standard deviation 0.01 while training, against a KL of the full variance: the decoder never felt the posterior"
    )  # fmt: skip
    return Recipe(
        float(cap),
        f"anneal_cap = {cap:g}",
        f"training past {cap * steps:.0f} steps, before which it is lower",
        (mistake,) if told else (),
    )


FAMILY = f.Family(
    name="mult-vae",
    title="Mult-VAE, and MultiVAE of RecBole",
    source="younggyoseo/vae-cf-pytorch 3619878 (facts only); RUCAIBox/RecBole 7b02be5, MIT; arXiv:1802.05814",
    recognise=recognise,
)
