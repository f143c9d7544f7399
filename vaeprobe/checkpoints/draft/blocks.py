"""Tensors as layers: one block a layer, and what a pickled module records of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vaeprobe.checkpoints.blueprint import Layer

__all__ = ["LEAVES", "Block", "Recorded", "Shape", "blocks_of", "takes"]

Shape = tuple[int, ...]

TABLE = re.compile(r"emb[^.]*$|codebook[^.]*$", re.IGNORECASE)
LEAVES = ("weight", "bias", "running_mean", "running_var")
RECURRENT = re.compile(r"(weight|bias)_[ih]h_l\d+(_reverse)?")
GATES = {3: "gru", 4: "lstm"}
QUERIES = ("to_q", "query", "q")  # the first of the four maps of an attention, as libraries call it


@dataclass(frozen=True)
class Block:
    """One layer of the file: its name and the shapes of its tensors."""

    name: str
    shapes: Mapping[str, Shape]

    @property
    def weight(self) -> Shape:
        first = self.shapes.get("weight") or self.shapes.get("running_mean")
        return first or self.shapes.get("weight_ih_l0") or self.shapes.get("in_proj_weight") or ()

    @property
    def kind(self) -> str:
        """Return linear, conv (either kind), batch_norm, norm, prelu, gru, lstm, attention, or table of an embedding."""
        if "in_proj_weight" in self.shapes or "queries" in self.shapes:
            return "attention"
        carried = self.shapes.get("weight_hh_l0")
        if carried is not None:
            return GATES.get(carried[0] // max(carried[1], 1), "recurrent")
        if "running_mean" in self.shapes:
            return "batch_norm"
        if len(self.weight) == 2 and "bias" not in self.shapes and TABLE.search(self.name):
            return "table"
        if len(self.weight) == 2:
            return "linear"
        if len(self.weight) in (3, 4, 5):
            return "conv"
        return "norm" if "bias" in self.shapes else "prelu"


@dataclass(frozen=True)
class Recorded:
    """A part of a pickled module, as the module records it.

    Attributes:
        name: dotted.
        layer: what it is in a blueprint, without its key; None where a blueprint has no such layer.
        cls: the name of its class.
        ordered: whether it stands in a Sequential, whose order is the order of computation.
    """

    name: str
    layer: Layer | None
    cls: str
    ordered: bool


def blocks_of(shapes: Mapping[str, Shape]) -> tuple[list[Block], bool]:
    """Return the layers in the order of the file, and whether the file sorts its names."""
    groups: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "weight_v":
            leaf = "weight"
        if leaf in LEAVES or RECURRENT.fullmatch(leaf) or leaf in ("in_proj_weight", "in_proj_bias"):
            groups.setdefault(stem, {})[leaf] = shape
    groups = dict(_with_attention(groups))
    names = list(groups)
    alphabetical = len(names) > 2 and list(shapes) == sorted(shapes)
    if alphabetical:
        names.sort(
            key=lambda name: [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name)]
        )
    return [
        Block(n, groups[n])
        for n in names
        if {"weight", "running_mean", "weight_ih_l0", "in_proj_weight", "queries"} & set(groups[n])
    ], alphabetical


def _with_attention(groups: Mapping[str, dict[str, Shape]]) -> Iterator[tuple[str, dict[str, Shape]]]:
    """Yield the groups, the four maps of an attention as one."""
    for name, shapes in groups.items():
        stem, _, last = name.rpartition(".")
        outer, _, before = stem.rpartition(".")
        if last == "out_proj" and "in_proj_weight" in groups.get(stem, {}):
            continue
        of = outer if (last, before) == ("0", "to_out") else stem
        query = next((q for q in QUERIES if f"{of}.{q}" in groups), None)
        if query is None or not of:
            yield name, shapes
        elif name == f"{of}.{query}":
            yield of, {"queries": shapes.get("weight", ())}
        elif last in ("group_norm", "norm") or last not in (
            "to_k",
            "to_v",
            "to_out",
            "0",
            "key",
            "value",
            "proj_attn",
            "k",
            "v",
            "proj_out",
        ):
            yield name, shapes


def takes(block: Block) -> int:
    """Return how many numbers or channels a layer takes."""
    return block.weight[1] if block.kind == "linear" else block.weight[0] if block.weight else 0
