"""Whole pickled modules: layers of `torch.nn` are built anew from their recorded state, foreign classes never.

A pickled module names the class of each of its parts.  A part whose class is torch's own is that class with the
attributes in the file, and runs torch's code only.  A part of any other class is an empty shell here: its weights
can be read and its children taken, its own `forward` is somebody's code and is not to be had from the file.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vaeprobe.autograd import Watching, without_compiler
from vaeprobe.checkpoints.naming import folded, joined
from vaeprobe.checkpoints.programs import operators
from vaeprobe.checkpoints.selection import PickledModule, is_module, submodules
from vaeprobe.checkpoints.weights import realise
from vaeprobe.errors import InputError, UnsafeError
from vaeprobe.files.inert import Built, Global, Node
from vaeprobe.files.source import quoted
from vaeprobe.files.tensors import TensorSpec
from vaeprobe.files.torch_pickles import CUT, TorchFile, text_of
from vaeprobe.files.trust import named, trust
from vaeprobe.findings import TRAINING_MODE
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["foreign_parts", "rebuild", "rehearse"]

# names of parts that decode; no other part is ever proposed
DECODERS = ("decoder", "dec", "generator", "gen", "netG", "G", "decode")
# bookkeeping that a fresh module has too: hooks would be code, and `_backend` is torch 0.4's
DROPPED = {"_backend", "_is_full_backward_hook", "dump_patches", "_version", "_is_hf_initialized"}


def foreign_parts(module: PickledModule) -> dict[str, Global]:
    """Return the parts of a module whose class is none of torch's layers, by name ("" is the module itself)."""
    parts = [("", module), *submodules(module)]
    return {name: part.maker for name, part in parts if trust(part.maker) != "layer"}


def rebuild(file: TorchFile, module: PickledModule, name: str) -> tuple[nn.Module, tuple[Finding, ...]]:
    """Return a module made of torch's own layers, in eval mode, and notes on its weights.

    Args:
        name: how messages call it.

    Raises:
        UnsafeError: a part needs code that is not torch's.
        InputError: the recorded state fits no layer.
    """
    strangers = foreign_parts(module)
    if strangers:
        raise UnsafeError(
            f"{name} would import {named(dict.fromkeys(strangers.values()))} when it is unpickled",
            hint=_way_out(module, strangers),
            about=name,
        )
    builder = _Builder(file)
    out = builder.module(module, name)
    weights = realise(builder.specs)
    with torch.no_grad():
        for path, tensor in folded(weights.tensors, joined).items():
            holder = out.get_submodule(path.rpartition(".")[0])
            _place(holder, path.rpartition(".")[2], tensor)
    return out.eval().requires_grad_(False), (*weights.notes, *builder.notes())


def _way_out(module: PickledModule, strangers: Mapping[str, Global]) -> str:
    """Say which parts can be had without foreign code, and what to do for the whole."""
    whole = "--arch package.module:CLASS or --blueprint FILE (in Python, arch=, blueprint=) says what the whole network is"
    inside = dict(submodules(module))
    alone = len([name for name in inside if "." not in name]) == 1
    parts = [
        name
        for name, part in inside.items()
        if (name.rpartition(".")[2] in DECODERS or (alone and "." not in name))
        and list(submodules(part))
        and not any(s == name or s.startswith(f"{name}.") for s in strangers)
    ]
    if not parts:
        return f"vaeprobe runs no code from a file; {whole}"
    parent = parts[0].rpartition(".")[0]
    beside = [f"`{n}`" for n in inside if n.rpartition(".")[0] == parent and n != parts[0]]
    without = f", without {', '.join(beside[:6])}{', ...' * (len(beside) > 6)} beside it" if beside else ""
    return (
        f"no code of it is needed for the part that `--submodule {parts[0]}` (in Python, submodule={parts[0]!r}) takes{without};"
        f" {whole}"
    )


class _Builder:
    """Builds modules, and gathers their tensors to be made together."""

    def __init__(self, file: TorchFile) -> None:
        self.file = file
        self.specs: dict[str, TensorSpec] = {}
        self.training: list[str] = []

    def notes(self) -> Iterator[Finding]:
        """Yield a note where layers that behave differently in training were saved in training mode."""
        if self.training:
            kinds = " and ".join(sorted(set(self.training)))
            message = f"{kinds} layers were saved in training mode: probed in eval mode"
            yield Finding(TRAINING_MODE, message)

    def module(self, node: PickledModule, name: str, path: str = "") -> nn.Module:
        cls = _layer_class(node.maker, name)
        state = {text_of(k): v for k, v in node.state.items()}
        out: nn.Module = cls.__new__(cls)
        nn.Module.__init__(out)
        settings: dict[str, object] = {}
        normed = _weight_normed(state)
        for key, value in state.items():
            if key in ("_parameters", "_buffers"):
                places = self.tensors(_entries(value, f"{path}{key}", name), path)
                for weight in normed if key == "_parameters" else ():
                    del places[f"{weight}_g"], places[f"{weight}_v"]
                    places[weight] = None
                settings[key] = places
            elif key in normed:
                continue  # a kept product of the two
            elif key == "_modules":
                settings[key] = {
                    text_of(k): self.module(v, name, f"{path}{text_of(k)}.") if is_module(v) else None
                    for k, v in _entries(value, f"{path}{key}", name).items()
                }
            elif key.endswith("_hooks") or "_hooks_" in key:
                if isinstance(value, dict) and value and not (normed and key == "_forward_pre_hooks"):
                    raise UnsafeError(
                        f"part {quoted(path.removesuffix('.'))} of {name} has hooks, which are code (weight or spectral"
                        " normalisation?)",
                        hint="remove them before saving (torch.nn.utils.remove_spectral_norm), or use --arch",
                        about=name,
                    )
            elif key not in DROPPED:
                settings[key] = self.setting(value, f"{path}{key}", name)
        if settings.get("training") and isinstance(
            out, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd
        ):
            self.training.append(cls.__name__)
        shadowed = [k for k in settings if callable(getattr(cls, k, None))]
        if shadowed:
            raise InputError(
                f"{name} replaces method {quoted(shadowed[0])} of a layer, which torch never writes",
                about=name,
            )
        out.__setstate__({**out.__dict__, **settings})  # type: ignore[no-untyped-call]
        return out

    def tensors(self, table: Mapping[Node, Node], path: str) -> dict[str, object]:
        """Return empty places for parameters or buffers, and remember what goes there."""
        for k, value in table.items():
            if value is not None:
                self.specs[f"{path}{text_of(k)}"] = self.file.spec(value)
        return {text_of(k): None for k in table}

    def setting(self, value: Node, path: str, name: str) -> object:
        """Return a plain attribute of a layer: numbers, text, containers of them, functions of torch.nn.functional."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple)):
            return type(value)(self.setting(v, path, name) for v in value)
        if isinstance(value, dict):
            return {k: self.setting(v, path, name) for k, v in value.items()}
        if isinstance(value, Built) and value.by("builtins.set"):
            members = [*value.items, *_given(value)]
            if all(isinstance(v, (bool, int, float, str)) for v in members):
                return set(members)
        if isinstance(value, Built) and value.by("torch.Size"):
            sizes = [n for n in _given(value) if type(n) is int]
            if len(sizes) == len(_given(value)):
                return torch.Size(sizes)
        if (
            isinstance(value, Global)
            and value.module == "torch"
            and isinstance(getattr(torch, value.name, None), torch.dtype)
        ):
            return getattr(torch, value.name)
        if isinstance(value, Global) and value.module in ("torch.nn.functional", "torch._C._nn"):
            function = getattr(nn.functional, value.name, None)
            if callable(function) and not isinstance(function, type):
                return function
        raise InputError(
            f"attribute {quoted(path)} of {name} is nothing that a layer of torch holds",
            hint="use --arch or --blueprint",
            about=name,
        )


def _entries(value: Node, path: str, name: str) -> dict[Node, Node]:
    """Return a table of parts, parameters or buffers, which a file may say to be anything."""
    if not isinstance(value, dict):
        raise InputError(
            f"{quoted(path)} of {name} is no table, which torch never writes", hint=CUT, about=name
        )
    return value


def _given(value: Built) -> Sequence[Node]:
    """Return the members that a set or a size is made of."""
    first = value.args[0] if value.args else ()
    return first if isinstance(first, (list, tuple)) else ()


def _weight_normed(state: Mapping[str, Node]) -> list[str]:
    """Return the names of weights that the old weight normalisation split, where a layer has no other hooks."""
    hooks = state.get("_forward_pre_hooks")
    found = list(hooks.values()) if isinstance(hooks, dict) else []
    if not found or not all(
        isinstance(h, Built) and h.by("torch.nn.utils.weight_norm.WeightNorm") for h in found
    ):
        return []
    names = [h.state.get("name") for h in found if isinstance(h, Built) and isinstance(h.state, dict)]
    parameters = state.get("_parameters")
    own = {text_of(k) for k in parameters} if isinstance(parameters, dict) else set()
    return ["weight"] if "weight" in names and {"weight_g", "weight_v"} <= own else []


def _layer_class(maker: Global, name: str) -> type[nn.Module]:
    """Return a class of torch.nn; it is looked up among those already imported, nothing is imported for it."""
    cls = getattr(sys.modules.get(maker.module), maker.name, None)
    if not isinstance(cls, type) or not issubclass(cls, nn.Module) or cls.__module__ != maker.module:
        raise InputError(
            f"{name} uses layer {quoted(str(maker))}, which torch {torch.__version__.partition('+')[0]} does not have",
            hint="say what it is with --blueprint or --arch",
            about=name,
        )
    return cls


def _place(holder: nn.Module, name: str, tensor: Tensor) -> None:
    if name in holder._parameters:
        holder._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        holder._buffers[name] = tensor


class _Bounded(Watching):
    """Refuses absurdly large tensors as they are made (on the meta device, where they take no memory)."""

    def saw(self, func: Any, args: Any, out: object) -> None:
        operators.small(out)


def rehearse(module: nn.Module, latent_dim: int) -> None:
    """Run a module on tensors without memory, to see that nothing in it would be absurdly large.

    Raises:
        ResourceError: an activation would have over 2^30 numbers.
    """
    tensors = itertools.chain(module.named_parameters(), module.named_buffers())
    ghosts = {name: tensor.to("meta") for name, tensor in tensors}
    dtype = next((t.dtype for t in ghosts.values() if t.is_floating_point()), torch.float32)
    z = torch.empty(2, latent_dim, device="meta", dtype=dtype)
    # a layer that cannot run at all is for the decoder's contract to say
    cannot_run = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError)
    with contextlib.suppress(*cannot_run), torch.no_grad(), without_compiler(), _Bounded():
        torch.func.functional_call(module, ghosts, (z,))


# -- from a module to a decoder -----------------------------------------------------------------------
