"""The tensors of a file by name, given to modules as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vaeprobe.checkpoints.blueprint.condition import Condition
from vaeprobe.checkpoints.naming import PRUNED, SPLIT, UNPARAMETRIZED, joined, masked, unknown_parametrization
from vaeprobe.errors import ArchitectureError, BlueprintError, did_you_mean

__all__ = ["Misfit", "Tensors", "Uninitialised", "shown"]


class Misfit(BlueprintError):
    """A layer does not fit its input or its tensors."""

    part: str = ""
    index: int = 0


def shown(shape: Sequence[int]) -> str:
    """Return a shape in parentheses, as torch writes it."""
    return f"({shape[0]},)" if len(shape) == 1 else f"({', '.join(map(str, shape))})"


@dataclass
class Tensors:
    """The tensors of a file, which of them were used, and what the decoder is held at.

    Attributes:
        origin: how messages call the blueprint that asks for them.
    """

    tensors: Mapping[str, Tensor]
    origin: str
    conditions: tuple[Condition, ...] = ()
    used: set[str] = field(default_factory=set)

    @cached_property
    def dtype(self) -> torch.dtype:
        """What to compute in: half precision is cast up, and the widest type of the file wins."""
        return (
            torch.float64 if any(t.dtype == torch.float64 for t in self.tensors.values()) else torch.float32
        )

    def get(self, name: str) -> Tensor | None:
        tensor = self.tensors.get(name)
        if tensor is None:
            return self._pruned(name)
        self.used.add(name)
        if not tensor.is_floating_point():
            raise ArchitectureError(
                f"tensor `{name}` is {str(tensor.dtype).removeprefix('torch.')}, and weights must be real numbers",
                hint="quantised and complex weights are not supported: save the model in float32",
            )
        return tensor

    def _pruned(self, name: str) -> Tensor | None:
        """Return a tensor that `torch.nn.utils.prune` split into what it was and what is left of it."""
        whole, left = (f"{name}{half}" for half in PRUNED)
        if left not in self.tensors:
            return None
        tensor, mask = self.get(whole), self.get(left)
        return None if tensor is None or mask is None else masked(tensor, mask, name)

    def need(self, name: str) -> Tensor:
        tensor = self.get(name)
        if tensor is None:
            self._known(name)
            tail = name.rpartition(".")[0].rpartition(".")[2]
            others = sorted(self.tensors, key=lambda k: tail not in k)
            longer = next((k for k in others if k.endswith(f".{name}")), "")
            raise BlueprintError(
                f"`{self.origin}` asks for the tensor `{name}`, which the file does not hold",
                hint=(longer and f"it holds `{longer}`: begin the prefix with `{longer.removesuffix(name)}`")
                or did_you_mean(name, others)
                or f"it holds {len(others)} tensors: {', '.join(f'`{k}`' for k in others[:4])}{', ...' if len(others) > 4 else ''}",
            )
        return tensor

    def _known(self, name: str) -> None:
        """Refuse a layer whose tensors are computed from others in a way that no name tells."""
        layer = name.removesuffix(name.rpartition(".")[2])
        made = unknown_parametrization(self.tensors, layer)
        if made is not None:
            raise ArchitectureError(
                f"the tensor `{name}` is computed from `{made}` by a parametrization, and the file does not say how",
                hint=f"save the model after {UNPARAMETRIZED}, or use --arch",
            )

    def weight(self, key: str, *, outputs: int = 0) -> Tensor:
        """Return `key.weight`, folding in weight or spectral normalisation; `outputs` is the axis of the outputs."""
        for halves in SPLIT:
            names = f"{key}{halves[0]}", f"{key}{halves[1]}"
            v, g = map(self.get, names)
            if v is not None and g is not None:
                return joined(v, g, names)
        raw, left, right = (self.get(f"{key}weight_{part}") for part in ("orig", "u", "v"))
        if raw is None:
            raw, left, right = (
                self.get(f"{key}parametrizations.weight.{part}") for part in ("original", "0._u", "0._v")
            )
        if raw is not None and left is not None and right is not None:
            return _of_norm_one(raw, left, right, f"{key}weight", outputs)
        return self.need(f"{key}weight")

    def put(self, module: nn.Module, **tensors: Tensor | None) -> nn.Module:
        """Give a module without memory its tensors, as they are: nothing is copied but what is cast up."""
        state = {k: t.detach().to(self.dtype) for k, t in tensors.items() if t is not None}
        try:
            module.load_state_dict(state, strict=False, assign=True)
        except RuntimeError:
            shapes = ", ".join(f"{k} {shown(t.shape)}" for k, t in state.items())
            raise Misfit(f"its tensors do not fit one another: {shapes}") from None
        return module


def _of_norm_one(raw: Tensor, left: Tensor, right: Tensor, name: str, outputs: int) -> Tensor:
    """Return a weight over its spectral norm, which the vectors of a power iteration tell; `outputs` as for `weight`.

    Raises:
        Misfit: the vectors are those of a layer whose outputs have the other axis.
        ArchitectureError: they are no vectors of this weight.
    """

    def fits(axis: int) -> bool:
        n = raw.shape[axis]
        return n > 0 and left.shape == (n,) and right.shape == (raw.numel() // n,)

    if raw.ndim >= 2 and fits(outputs):
        wide = reduce(torch.promote_types, (t.dtype for t in (raw, left, right)), torch.float32)
        raw, left, right = raw.to(wide), left.to(wide), right.to(wide)
        return raw / (left @ (raw.transpose(0, outputs).flatten(1) @ right))
    message = (
        f"the weight `{name}` of shape {shown(raw.shape)} does not fit the vectors of its spectral normalisation, of shapes "
        f"{shown(left.shape)} and {shown(right.shape)}"
    )
    if raw.ndim >= 3 and fits(1 - outputs):
        raise Misfit(message, hint=f"is it a {'conv' if outputs else 'conv_transpose'}?")
    raise ArchitectureError(
        message,
        hint=f"save the model after {UNPARAMETRIZED} or torch.nn.utils.remove_spectral_norm(layer)",
    )


class Uninitialised(TorchFunctionMode):
    """Makes modules without drawing their initial weights, which would be thrown away."""

    def __torch_function__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        if getattr(func, "__name__", "") in ("uniform_", "normal_", "fill_", "zero_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
