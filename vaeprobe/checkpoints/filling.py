"""Weights put into a module that the user's code built: every one of its tensors, by its own `load_state_dict`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from vaeprobe.checkpoints.naming import PRUNED, SPLIT, bare, folded, joined, lengths
from vaeprobe.errors import ArchitectureError, did_you_mean
from vaeprobe.files.source import quoted
from vaeprobe.findings import UNUSED_TENSORS
from vaeprobe.report import Finding

__all__ = ["as_normalised", "fill"]

DECODES = re.compile(r"(^|[._])(dec|decoder|generator|gen|netG|G)\.", re.IGNORECASE)


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[Finding, ...]:
    """Load weights into a module by its own `load_state_dict`, every one of its tensors; return notes on leftovers.

    The file's names may have a common prefix before the module's (`module.`, `decoder.`), the module's one before the
    file's (of a wrapper around what was trained), and weight normalisation may
    be in another form than the module's, or in one of the two only.

    Raises:
        ArchitectureError: a tensor is missing or has another shape.
    """
    wanted = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    # wrappers of training may be on either side: names are compared without them
    own = {bare(name): name for name in module.state_dict()}
    if len(own) == len(module.state_dict()) and len({bare(k) for k in tensors}) == len(tensors):
        tensors = {bare(k): t for k, t in tensors.items()}
    else:
        own = {name: name for name in module.state_dict()}
    outer = _outer([k for k, name in own.items() if name in wanted], tensors)
    own = {k.removeprefix(outer): name for k, name in own.items()}
    prefix = _prefix({k: wanted[name] for k, name in own.items() if name in wanted}, tensors)
    below = {
        own.get(k.removeprefix(prefix), f"{outer}{k.removeprefix(prefix)}"): t
        for k, t in tensors.items()
        if k.startswith(prefix)
    }
    mine = as_normalised(wanted, below)
    missing, surplus = _loaded(module, mine)
    missing = [k for k in missing if k in wanted]
    if missing:
        _check_fit(wanted, {**tensors, **{f"{prefix}{k}": t for k, t in mine.items()}}, prefix)
        raise ArchitectureError(
            f"the network wants the tensor {quoted(prefix + missing[0])}, which the file does not hold"
        )
    inside = {k for k in tensors if k.startswith(prefix)}
    left = [*(f"{prefix}{k.removeprefix(outer)}" for k in surplus), *(k for k in tensors if k not in inside)]
    left = [k for k in left if not k.endswith("num_batches_tracked")]
    if not left:
        return ()
    message = f"{len(left)} of {len(tensors)} tensors have no place in the network: {quoted(left[0])}" + (
        ", ..." if len(left) > 1 else ""
    )
    return (Finding(UNUSED_TENSORS, message),)


def _loaded(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Load by torch's own loader, hooks of the network included; return what was missing and what was left over.

    Raises:
        ArchitectureError: a tensor has another shape, or a hook of the network refuses the tensors.
    """
    for t in (*module.buffers(), *module.parameters()):
        # of `torch.meshgrid`, say: torch writes to no memory that several numbers share
        if any(stride == 0 and size > 1 for stride, size in zip(t.stride(), t.shape, strict=True)):
            t.data = t.data.contiguous()
    try:
        missing, surplus = module.load_state_dict(dict(tensors), strict=False)
    except Exception as error:  # of torch, or of the user's own hooks
        wanted = module.state_dict()
        _check_fit({k: v for k, v in wanted.items() if k in tensors}, tensors, "")
        raise ArchitectureError(
            f"the network does not load the weights: {(str(error).splitlines() or [''])[-1].strip()}"
        ) from error
    return list(missing), list(surplus)


def as_normalised(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with each weight split by weight normalisation, or whole, as the network has it."""
    plain = folded(tensors, joined)
    out = dict(tensors)
    for v_name, g_name in SPLIT:
        for name in wanted:
            stem = name.removesuffix(v_name)
            if stem == name or f"{stem}{g_name}" not in wanted or name in tensors:
                continue
            for other_v, other_g in SPLIT:
                if f"{stem}{other_v}" in tensors and f"{stem}{other_g}" in tensors:
                    out[name], out[f"{stem}{g_name}"] = (
                        out.pop(f"{stem}{other_v}"),
                        out.pop(f"{stem}{other_g}"),
                    )
                    break
            else:
                if f"{stem}weight" in tensors:
                    of_lengths = f"{stem}{g_name}"
                    v, g = out.pop(f"{stem}weight"), wanted[of_lengths]
                    out[name], out[of_lengths] = v, lengths(v, g, (name, of_lengths)).reshape(g.shape)
    for name in wanted:
        if name not in out and name in plain:
            stem = name.removesuffix("weight")
            halves = {f"{stem}{half}" for pair in SPLIT for half in pair} | {
                f"{name}{half}" for half in PRUNED
            }
            out = {k: t for k, t in out.items() if k not in halves}
            out[name] = plain[name]
    return out


def _outer(wanted: Sequence[str], tensors: Mapping[str, Tensor]) -> str:
    """Return what a wrapper puts before all names of the network, under which the file has none of them; "" for none."""
    ends = {".".join(parts[i:]) for parts in (name.split(".") for name in tensors) for i in range(len(parts))}
    if not wanted or any(name in ends for name in wanted):
        return ""
    parts = wanted[0].split(".")
    ends = {name for name in ends if "." in name} | set(tensors)  # `weight` alone tells no layer
    prefixes = [".".join(parts[: i + 1]) + "." for i in range(len(parts) - 1)]
    common = [p for p in prefixes if all(name.startswith(p) for name in wanted)]
    found = {p: sum(name.removeprefix(p) in ends for name in wanted) for p in common}
    return max(found, key=lambda p: found[p]) if any(found.values()) else ""


def _prefix(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Return the prefix under which most of the wanted names are found; of equals that which fits, or names a decoder.

    Raises:
        ArchitectureError: several are as likely, or nothing is wanted.
    """
    if not wanted:
        raise ArchitectureError(
            "the network that --arch builds has no weights", hint="does it return the module?"
        )
    first = next(iter(wanted))
    candidates = {k.removesuffix(name) for name in (first, *wanted) for k in tensors if k.endswith(name)}
    whole = {p for p in candidates if p == "" or p.endswith(".")} | {""}
    found = {p: sum(f"{p}{k}" in tensors for k in wanted) for p in whole}
    best = [p for p in whole if found[p] == max(found.values())]
    if len(best) > 1 and "" not in best and max(found.values()):
        fits = {
            p: sum(tensors[f"{p}{k}"].shape == t.shape for k, t in wanted.items() if f"{p}{k}" in tensors)
            for p in best
        }
        best = [p for p in best if fits[p] == max(fits.values())]
        decoders = [p for p in best if DECODES.search(p)]
        best = decoders if len(decoders) == 1 else best
        if len(best) > 1:
            names = sorted(p.removesuffix(".") for p in best)
            raise ArchitectureError(
                f"the tensors of the network stand {len(best)} times in the file, under {' and '.join(map(quoted, names))}",
                hint=f"--key {names[0]} takes the first",
            )
    return min(best, key=len)


def _check_fit(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str) -> None:
    missing = [k for k in wanted if f"{prefix}{k}" not in tensors]
    wrong = [k for k in wanted if k not in missing and tensors[f"{prefix}{k}"].shape != wanted[k].shape]
    if missing:
        name = missing[0]
        alike = [k for k, t in tensors.items() if t.shape == wanted[name].shape]
        near = did_you_mean(f"{prefix}{name}", alike) or did_you_mean(f"{prefix}{name}", tensors)
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ArchitectureError(
            f"the network wants the tensor {quoted(prefix + name)} of shape {_shape(wanted[name])}{more}, "
            f"which the file does not hold",
            hint=near or f"the file holds {', '.join(quoted(k) for k in list(tensors)[:4])}, ...",
        )
    if wrong:
        name = wrong[0]
        stored = tensors[f"{prefix}{name}"]
        more = f" (and {len(wrong) - 1} more tensors differ)" if len(wrong) > 1 else ""
        raise ArchitectureError(
            f"tensor {quoted(prefix + name)} has shape {_shape(stored)} in the file and {_shape(wanted[name])} in the"
            f" network{more}",
            hint=_nearest_fix(name, stored, wanted[name]),
        )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _nearest_fix(name: str, stored: Tensor, wanted: Tensor) -> str:
    """Say which size to change in the network."""
    layer = quoted(name.rpartition(".")[0] or name)
    if stored.ndim == wanted.ndim:
        axes = [k for k in range(stored.ndim) if stored.shape[k] != wanted.shape[k]]
        if stored.ndim >= 2 and sorted(stored.shape) == sorted(wanted.shape):
            return f"the sizes of {layer} are swapped: a transposed layer, or inputs and outputs exchanged?"
        changes = [f"{wanted.shape[k]} to {stored.shape[k]} (axis {k})" for k in axes]
        return f"change {layer} of the network: {', '.join(changes)}"
    return f"{layer} is another kind of layer in the file: {stored.ndim} axes, not {wanted.ndim}"
