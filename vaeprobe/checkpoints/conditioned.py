"""Drafts of decoders that take more than latents: the encoder has fewer means than the decoder has inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from vaeprobe.checkpoints.blueprint import Blueprint, Condition, Layer
from vaeprobe.files.source import quoted

__all__ = ["conditioned"]

Shape = tuple[int, ...]
MEANS = re.compile(r"(^|[._])(fc_?)?(mu|mean|means|z_?mean|loc)\d?(\.weight)$", re.IGNORECASE)
SPREADS = re.compile(r"(var|sigma|std|scale|sd)\w*\.weight$", re.IGNORECASE)
EMBEDDING = re.compile(r"emb\w*\.weight$", re.IGNORECASE)


def conditioned(bp: Blueprint, shapes: Mapping[str, Shape]) -> Blueprint:
    """Return the blueprint with fewer latents and a condition, where the encoder has fewer means than the decoder inputs."""
    first = next((layer for layer in bp.layers if layer.key is not None), None)
    taken, d = bp.latent_dim or 0, _means(shapes)
    if first is None or first.kind != "linear" or d is None or not 0 < d < taken - 1:
        return bp
    extra = taken - d
    if _other_heads(shapes) == extra:
        return bp  # codes that the encoder gives too: latents, not a condition
    tables = [k for k, s in shapes.items() if EMBEDDING.search(k) and len(s) == 2 and s[1] == extra]
    if tables:
        key = tables[0].removesuffix(".weight")
        condition = Condition("label", "embedding", key=key)
        what = f"a row of {quoted(key)}, one of {shapes[tables[0]][0]} classes"
    else:
        condition = Condition("label", "onehot", extra)
        what = f"a one-hot class of {extra}"
    assumed = f"{extra} inputs beside {d} latents are a condition, {what}: the encoder has {d} means, the decoder takes {taken} numbers"
    priors = f"all {taken} latents are N(0, 1)"
    kept = [a.replace(priors, f"all {d} latents are N(0, 1)") for a in bp.assumptions]
    return replace(
        bp,
        layers=(
            Layer("concat", "label", comment="assumed: the condition comes after the latents"),
            *bp.layers,
        ),
        latents=(("normal", d),),
        conditions=(condition,),
        assumptions=(assumed, *kept),
    )


def _other_heads(shapes: Mapping[str, Shape]) -> int:
    """Return how many numbers other heads give from what the means are made of: logits of codes."""
    hidden = {s[1] for k, s in shapes.items() if MEANS.search(k) and len(s) == 2}
    return sum(
        s[0]
        for k, s in shapes.items()
        if len(s) == 2
        and s[1] in hidden
        and k.endswith(".weight")
        and re.search(r"alpha|logit|cat|code|fc_z", k)
    )


def _means(shapes: Mapping[str, Shape]) -> int | None:
    """Return the number of means of an encoder with two heads, None where it has none."""
    means = {s[0] for k, s in shapes.items() if MEANS.search(k) and len(s) == 2}
    spreads = {s[0] for k, s in shapes.items() if SPREADS.search(k) and len(s) == 2}
    both = means & spreads
    return both.pop() if len(both) == 1 else None
