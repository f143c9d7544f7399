"""Tensors under the names that the plain network gives them, without what training wraps around it.

Compilation, data parallelism and checkpointed activations put components of their own into names; weight normalisation
splits a weight in two; an average of the weights over training (EMA) stands beside them under names of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from vaeprobe.errors import UsageError
from vaeprobe.findings import TWO_SETS_OF_WEIGHTS
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AVERAGE", "Set", "bare", "chosen_set", "folded", "for_matching", "joined", "plain", "two_sets"]

T = TypeVar("T")
Set: TypeAlias = Literal["ema", "raw"]
OTHER: dict[Set, Set] = {"ema": "raw", "raw": "ema"}

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
AVERAGE = re.compile(r"(^|_)(ema|averaged?|swa|polyak|shadow)(_|$)", re.IGNORECASE)
# what averaging keeps beside its weights
COUNTERS = re.compile(r"^(n_averaged|initted|step|model_ema\.(decay|num_updates))$")


def plain(name: str) -> str:
    """Return a tensor's name without the components that wrappers of training put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def bare(name: str) -> str:
    """Return a tensor's name without any component that a wrapper could have put there, `module` included."""
    *parts, last = plain(name).split(".")
    return ".".join([*(part for part in parts if part != "module"), last])


@dataclass(frozen=True)
class Chosen:
    """What was chosen of the tensors of a file.

    Attributes:
        names: the plain name of each tensor that was taken, and its name in the file.
        notes: that there were two sets, and which was taken.
    """

    names: Mapping[str, str]
    notes: tuple[Finding, ...] = ()


def chosen_set(names: Iterable[str], which: Set | None = None) -> Chosen:
    """Return one set of weights by their plain names: the average over training where there are two, unless told.

    Raises:
        UsageError: the average was asked for, and there is none.
    """
    table = {plain(name): name for name in names if not COUNTERS.search(name)}
    table = _without_module(table)
    averages = _lit_ema(table) or _by_prefix(table)
    if averages is None:
        if which == "ema":
            raise UsageError(
                "the file holds one set of weights, and no average of them beside it",
                hint="leave out --weights",
            )
        return Chosen(table)
    prefix, raw_prefix, pairs = averages
    taken = which or "ema"
    inside = {name for name in table if name.startswith(prefix)}
    raw = {name: file for name, file in table.items() if name not in inside}
    if taken == "ema":
        raw |= {name: table[average] for name, average in pairs.items()}
    other = OTHER[taken]
    note = two_sets(
        f"`{prefix}...`", f"`{raw_prefix}...`", taken, f"the other (in Python, weights={other!r})"
    )
    return Chosen(raw, (note,))


def two_sets(averages: str, raws: str, taken: Set, others: str) -> Finding:
    """Return the note of where averaged and raw weights stand in a file, which were taken, and how to take the others."""
    what = "averages" if taken == "ema" else "raw ones"
    return Finding(
        TWO_SETS_OF_WEIGHTS,
        f"the file holds two sets of weights, averages over training ({averages}) and raw ones ({raws}): "
        f"the {what} were taken",
        hint=f"--weights {OTHER[taken]} takes {others}",
    )


def _without_module(table: dict[str, str]) -> dict[str, str]:
    """Strip `module`, which data parallelism puts into every name, of the whole or of each half, and nobody into some."""
    while table and all(f".{name}".count(".module.") for name in table):
        table = {f".{name}".replace(".module.", ".", 1)[1:]: file for name, file in table.items()}
    return table


Averages: TypeAlias = tuple[str, str, dict[str, str]]


def _lit_ema(table: Mapping[str, str]) -> Averages | None:
    """Return the averages of latent diffusion's `LitEma`, whose names lost their dots."""
    prefix = "model_ema."
    dotless = {name.removeprefix(prefix) for name in table if name.startswith(prefix)}
    if not dotless or any("." in name for name in dotless):
        return None
    raw = [name for name in table if not name.startswith(prefix)]
    for stem in ("", "model.", "first_stage_model."):
        pairs = {
            name: f"{prefix}{bare}"
            for name in raw
            if name.startswith(stem) and (bare := name.removeprefix(stem).replace(".", "")) in dotless
        }
        if len(pairs) == len(dotless):
            return prefix, stem, pairs
    return None


def _by_prefix(table: Mapping[str, str]) -> Averages | None:
    """Return the averages that stand under a prefix of their own, beside the same names under another."""
    prefixes = {
        name[: match.end()]: None
        for name in table
        for match in re.finditer(r"[^.]+\.", name)
        if AVERAGE.search(match.group()[:-1])
    }
    for prefix in prefixes:
        tails = [name.removeprefix(prefix) for name in table if name.startswith(prefix)]
        tails = [t for t in tails if not COUNTERS.search(t)]
        outer = prefix[: prefix[:-1].rfind(".") + 1]
        others = {name for name in table if not name.startswith(prefix)}
        stems = dict.fromkeys(
            name[: -len(tails[0].removeprefix("module."))]
            for name in others
            if tails and name.endswith(tails[0].removeprefix("module."))
        )
        for stem in [outer, *stems]:
            pairs = {f"{stem}{tail.removeprefix('module.')}": f"{prefix}{tail}" for tail in tails}
            if pairs and set(pairs) <= others:
                return prefix, stem, pairs
    return None


# -- weight normalisation ---------------------------------------------------------------------------

# what a weight is split into: its direction v and its length g, in the old form and as a parametrization
SPLIT = (
    ("weight_v", "weight_g"),
    ("parametrizations.weight.original1", "parametrizations.weight.original0"),
)


def folded(tensors: Mapping[str, T], join: Callable[[T, T], T]) -> dict[str, T]:
    """Return tensors with those that weight normalisation split made one; `join` takes v and g."""
    split = {
        name.removesuffix(v): (f"{name.removesuffix(v)}{v}", f"{name.removesuffix(v)}{g}")
        for v, g in SPLIT
        for name in tensors
        if (name == v or name.endswith(f".{v}")) and f"{name.removesuffix(v)}{g}" in tensors
    }
    lengths = {g for _, g in split.values()}
    out: dict[str, T] = {}
    for name, tensor in tensors.items():
        stem = next((s for s, (v, _) in split.items() if name in (v, f"{s}weight")), None)
        if stem is None:
            if name not in lengths:
                out[name] = tensor
        elif name == split[stem][0]:  # where it stood: the order of a file tells the order of layers
            out[f"{stem}weight"] = join(tensor, tensors[split[stem][1]])
    return out


def for_matching(shaped: Mapping[str, T], which: Set | None = None) -> dict[str, T]:
    """Return what a family is recognised by: one set, plain names, of split weights the direction, which has the shape."""
    names = chosen_set(shaped, which).names
    return folded({name: shaped[own] for name, own in names.items()}, lambda v, g: v)


def joined(v: Tensor, g: Tensor) -> Tensor:
    """Return the weight of direction v and length g, on the axis that keeps its own length."""
    import torch

    return torch._weight_norm(v, g, next((k for k, n in enumerate(g.shape) if n > 1), 0))
