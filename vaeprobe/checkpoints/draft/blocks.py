"""Tensors as layers: one block a layer, and what a pickled module records of each."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from vaeprobe.checkpoints.blueprint import Layer

__all__ = ["LEAVES", "STEPPED", "Block", "Recorded", "Shape", "blocks_of", "by_name", "plain_layer", "takes"]

Shape = tuple[int, ...]

TABLE = re.compile(r"emb[^.]*$|codebook[^.]*$", re.IGNORECASE)
PARAMETRIZED = ".parametrizations.weight"
LEAVES = ("weight", "bias", "running_mean", "running_var")
RECURRENT = re.compile(r"(weight|bias)_([ih]h|hr)(_l\d+(_reverse)?)?")
GATES = {3: "gru", 4: "lstm"}
QUERIES = ("to_q", "query", "q")  # the first of the four maps of an attention, as libraries call it
# names of maps of attentions that a draft does not follow: of all three maps in one, and of each by itself
FUSED = re.compile(r"(^|[._])(w?qkv|to_kv|query_key_value|c_attn|[qkv]_proj)$", re.IGNORECASE)
APART = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
FEED_FORWARD = frozenset(("linear1", "ff", "ffn", "mlp", "feed_forward"))
STEPPED = ("gru", "lstm", "attention", "unfollowed")
"""Kinds of layers that work along steps or between places, whose number no tensor tells."""


@dataclass(frozen=True)
class Block:
    """One layer of the file: its name and the shapes of its tensors."""

    name: str
    shapes: Mapping[str, Shape]
    of_transformer: bool = False

    @property
    def why(self) -> str:
        """Return why a draft cannot follow a layer along steps or between places, "" where it can, and of other layers."""
        carried = self.shapes.get("weight_hh_l0")
        if "weight_hh" in self.shapes:
            return "is a cell that code calls step by step, and how often is not recorded"
        if carried is not None and (
            "weight_hr_l0" in self.shapes or not carried[1] or carried[0] / carried[1] not in GATES
        ):
            return "is recurrent, and neither a GRU nor an LSTM, the two that a blueprint has"
        if self.of_transformer:
            return "is the attention of a transformer, and where its norms and sums stand, and its heads, is not recorded"
        if APART[0] in self.shapes or FUSED.search(self.name):
            return (
                "is part of an attention that a draft does not follow: its heads and places are not recorded"
            )
        return ""

    @property
    def weight(self) -> Shape:
        first = self.shapes.get("weight") or self.shapes.get("running_mean")
        return first or self.shapes.get("weight_ih_l0") or self.shapes.get("in_proj_weight") or ()

    @cached_property
    def kind(self) -> str:
        """Return linear, conv (either kind), batch_norm, norm, prelu, gru, lstm, attention, table of an embedding, or unfollowed."""
        if self.why:
            return "unfollowed"
        if "in_proj_weight" in self.shapes or "queries" in self.shapes:
            return "attention"
        carried = self.shapes.get("weight_hh_l0")
        if carried is not None:
            return GATES[carried[0] // carried[1]]
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
        stem, leaf = plain_layer(name, shapes)
        if leaf in (*LEAVES, "in_proj_weight", "in_proj_bias", *APART) or RECURRENT.fullmatch(leaf):
            groups.setdefault(stem, {})[leaf] = shape
    groups = dict(_with_attention(groups))
    names = list(groups)
    alphabetical = len(names) > 2 and by_name(shapes)
    if alphabetical:
        names.sort(
            key=lambda name: [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name)]
        )
    told = {"weight", "running_mean", "weight_ih_l0", "weight_hh", "in_proj_weight", "queries", APART[0]}
    beside = _children(groups)
    return [
        Block(n, groups[n], of_transformer=_of_transformer(n, groups[n], beside))
        for n in names
        if told & set(groups[n])
    ], alphabetical


def by_name(names: Iterable[str]) -> bool:
    """Return whether tensors are sorted by name; safetensors puts whole numbers, the counters of norms, before the others."""
    told = [name for name in names if not name.endswith("num_batches_tracked")]
    return told == sorted(told)


def plain_layer(name: str, names: Container[str]) -> tuple[str, str]:
    """Return the layer of a tensor and what it is there; of a weight that training split, the half that has its shape."""
    stem, _, leaf = name.rpartition(".")
    layer = stem.removesuffix(f"{PARAMETRIZED}.0").removesuffix(PARAMETRIZED)
    if layer == stem:
        whole = leaf == "weight_orig" or (leaf == "weight_v" and f"{stem}.weight_g".lstrip(".") in names)
        return stem, "weight" if whole else leaf
    of_spectral = leaf == "original" and f"{stem}.0._u" in names
    return (layer, "weight") if of_spectral or leaf == "original1" else (layer, leaf)


def _children(names: Iterable[str]) -> dict[str, set[str]]:
    """Return the first components of all names below each stem of a name."""
    out: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".")
        for i, part in enumerate(parts):
            out.setdefault(".".join(parts[:i]), set()).add(part)
    return out


def _of_transformer(name: str, shapes: Mapping[str, Shape], beside: Mapping[str, set[str]]) -> bool:
    """Return whether an attention stands in a layer of a transformer: beside it is the layer's other half."""
    if not {"in_proj_weight", "queries"} & set(shapes):
        return False
    return bool(FEED_FORWARD & beside[name.rpartition(".")[0]])


def _with_attention(groups: Mapping[str, dict[str, Shape]]) -> Iterator[tuple[str, dict[str, Shape]]]:
    """Yield the groups, the four maps of an attention as one."""
    for name, shapes in groups.items():
        stem, _, last = name.rpartition(".")
        outer, _, before = stem.rpartition(".")
        if last == "out_proj" and {"in_proj_weight", APART[0]} & set(groups.get(stem, {})):
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
    if block.kind in ("linear", "gru", "lstm"):
        return block.weight[1]
    return block.weight[0] if block.weight else 0
