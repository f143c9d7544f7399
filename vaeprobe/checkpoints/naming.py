"""Tensors under the names that the plain network gives them, without what training wraps around it.

Compilation, data parallelism and checkpointed activations put components of their own into names; weight normalisation
splits a weight in two; an average of the weights over training (EMA) stands beside them under names of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from vaeprobe.errors import ArchitectureError, UsageError
from vaeprobe.findings import TWO_SETS_OF_WEIGHTS
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "AVERAGE",
    "PRUNED",
    "SPLIT",
    "UNPARAMETRIZED",
    "Set",
    "bare",
    "chosen_set",
    "folded",
    "for_matching",
    "joined",
    "lengths",
    "masked",
    "plain",
    "two_sets",
    "unknown_parametrization",
]

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


# -- weight normalisation and pruning ---------------------------------------------------------------

# what a weight is split into: its direction v and its length g, in the old form and as a parametrization
SPLIT = (
    ("weight_v", "weight_g"),
    ("parametrizations.weight.original1", "parametrizations.weight.original0"),
)
PRUNED = ("_orig", "_mask")
PARAMETRIZED = re.compile(r"(^|.*\.)parametrizations\.(\w+)\.(original\d*|0\._[uv])")
UNPARAMETRIZED = "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"


def unknown_parametrization(names: Iterable[str], layer: str | None = None) -> str | None:
    """Return the first name of what a tensor (of a layer, if given) is computed from, neither by weight nor spectral normalisation."""
    names = set(names) if layer is None else {n for n in names if n.startswith(f"{layer}parametrizations.")}
    for name in sorted(names):
        found = PARAMETRIZED.fullmatch(name)
        if found is None:
            continue
        stem = f"{found[1]}parametrizations.{found[2]}."
        of_weight_norm = {f"{stem}original0", f"{stem}original1"} <= names
        of_spectral_norm = {f"{stem}original", f"{stem}0._u", f"{stem}0._v"} <= names
        chained = any(n.startswith(f"{stem}1.") for n in names)
        if found[2] != "weight" or chained or not (of_weight_norm or of_spectral_norm):
            return name
    return None


def folded(
    tensors: Mapping[str, T],
    join: Callable[[T, T, tuple[str, str]], T],
    mask: Callable[[T, T, str], T] | None = None,
) -> dict[str, T]:
    """Return tensors with those that weight normalisation or pruning split made one.

    Args:
        tensors: by name.
        join: takes v and g, and their names.
        mask: takes a tensor as it was before it was pruned, which of its numbers are left, and its name; `masked` by
            default.
    """
    tensors = _unpruned(tensors, mask or masked)  # type: ignore[arg-type]
    split = {
        name.removesuffix(v): (f"{name.removesuffix(v)}{v}", f"{name.removesuffix(v)}{g}")
        for v, g in SPLIT
        for name in tensors
        if (name == v or name.endswith(f".{v}")) and f"{name.removesuffix(v)}{g}" in tensors
    }
    of_lengths = {g for _, g in split.values()}
    out: dict[str, T] = {}
    for name, tensor in tensors.items():
        stem = next((s for s, (v, _) in split.items() if name in (v, f"{s}weight")), None)
        if stem is None:
            if name not in of_lengths:
                out[name] = tensor
        elif name == split[stem][0]:  # where it stood: the order of a file tells the order of layers
            out[f"{stem}weight"] = join(tensor, tensors[split[stem][1]], split[stem])
    return out


def _unpruned(tensors: Mapping[str, T], mask: Callable[[T, T, str], T]) -> dict[str, T]:
    """Return tensors under the names that they had before `torch.nn.utils.prune` split them."""
    whole, left = PRUNED
    plain = {n: n.removesuffix(whole) for n in tensors if n.endswith(whole)}
    plain = {n: name for n, name in plain.items() if f"{name}{left}" in tensors and name not in tensors}
    masks = {f"{name}{left}" for name in plain.values()}
    return {
        plain.get(n, n): mask(tensor, tensors[f"{plain[n]}{left}"], plain[n]) if n in plain else tensor
        for n, tensor in tensors.items()
        if n not in masks
    }


def for_matching(shaped: Mapping[str, T], which: Set | None = None) -> dict[str, T]:
    """Return what a family is recognised by: one set, plain names, of split weights the direction, which has the shape."""
    names = chosen_set(shaped, which).names
    return folded(
        {name: shaped[own] for name, own in names.items()},
        lambda v, g, both: v,
        lambda whole, mask, name: whole,
    )


def masked(whole: Tensor, mask: Tensor, name: str) -> Tensor:
    """Return what pruning left of a tensor.

    Raises:
        ArchitectureError: its mask has another shape.
    """
    if whole.shape != mask.shape:
        first, second = (
            f"`{name}{half}` has shape {tuple(t.shape)}"
            for half, t in zip(PRUNED, (whole, mask), strict=True)
        )
        raise ArchitectureError(
            f"the tensor `{name}` was pruned, and its mask does not fit it: {first}, {second}",
            hint=f"save the model after torch.nn.utils.prune.remove(layer, '{name.rpartition('.')[2]}')",
        )
    return whole * mask


def joined(v: Tensor, g: Tensor, names: tuple[str, str]) -> Tensor:
    """Return the weight of direction v and length g, which the file calls by these names.

    Not by torch's own kernel, which checks no shapes and reads beyond its memory.

    Raises:
        ArchitectureError: the two do not belong together.
    """
    v, g = (t.float() if t.is_floating_point() and t.element_size() < 4 else t for t in (v, g))
    return v * (g / lengths(v, g, names))


def lengths(v: Tensor, g: Tensor, names: tuple[str, str]) -> Tensor:
    """Return the lengths of a direction, along the axes that g does not have: all, where it is one number.

    Args:
        names: what the two are called.

    Raises:
        ArchitectureError: g is no tensor of lengths of it.
    """
    for name, t in zip(names, (v, g), strict=True):
        if not t.is_floating_point():
            raise ArchitectureError(
                f"the tensor `{name}`, of a weight that weight normalisation split, is {str(t.dtype).removeprefix('torch.')}, and weights must be real numbers",
                hint="quantised and complex weights are not supported: save the model in float32",
            )
    along = [k for k in range(v.ndim) if g.shape == (1,) * k + (v.shape[k],) + (1,) * (v.ndim - 1 - k)]
    if g.ndim and not along:
        raise ArchitectureError(
            "the direction and the lengths of a weight that weight normalisation split do not fit each other: "
            + ", ".join(f"`{n}` has shape {tuple(t.shape)}" for n, t in zip(names, (v, g), strict=True)),
            hint=f"save the model after {UNPARAMETRIZED} or torch.nn.utils.remove_weight_norm(layer)",
        )
    axes = [k for k in range(v.ndim) if not g.ndim or k != along[0]]
    # `norm` takes one or two axes, and `sum` takes none of them for all
    return v.square().sum(dim=axes, keepdim=True).sqrt() if axes else v.abs()
