"""Networks as people have them after training, copied so that probing them changes nothing.

A copy has the structure of its own and shares the tensors, but for buffers that a call writes to: it is in eval mode whatever the original is in, keeps its
own activations, and is made without `copy.deepcopy`, which fails on kept activations, locks and open files.  What only
wraps a network for training (compilation, data parallelism, checkpointed activations) is taken off.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "MethodModule",
    "buffers_of",
    "cast",
    "frozen",
    "number_type",
    "tensors_of",
    "unwrapped",
    "whole_of",
    "written_in",
]

# class name -> where it keeps the network that it wraps
WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
CONTAINERS = (list, tuple, set, dict, OrderedDict, defaultdict)


class MethodModule(nn.Module):
    """A method of a module, as a module: it has the parameters and the mode of the whole."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        self.owner = owner
        self.name = name

    def forward(self, *args: object, **keywords: object) -> object:
        """Call the method."""
        method: Callable[..., object] = getattr(self.owner, self.name)
        return method(*args, **keywords)


def frozen(
    function: Callable[..., object], dtype: torch.dtype | None = None, *, apart: Iterable[Tensor] = ()
) -> Callable[..., object]:
    """Return a callable like `function` whose networks are copies in eval mode that share their tensors.

    Args:
        function: a module, a method of one, a `functools.partial` of either; anything else is returned as it is.
        dtype: cast the copy's floating tensors to it; those that have it already are shared.
        apart: tensors that are not shared in any case.
    """
    out: Callable[..., object] = _Copier(dtype, apart).function(function)
    return out


def buffers_of(function: object) -> dict[str, Tensor]:
    """Return the buffers of the network that a callable is or belongs to, by name."""
    module = whole_of(function)
    return {} if module is None else dict(module.named_buffers())


def written_in(function: object, copied: object) -> list[Tensor]:
    """Return the buffers of a function that were written to in a copy of it, which shared none."""
    own = buffers_of(copied)
    return [buffer for name, buffer in buffers_of(function).items() if name in own and own[name]._version]


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the network inside the wrappers that training puts around it."""
    while True:
        inner = getattr(module, WRAPPERS.get(type(module).__name__, ""), None)
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def whole_of(function: object) -> nn.Module | None:
    """Return the network that a callable is, or is a method or partial application of."""
    while isinstance(function, functools.partial):
        function = function.func
    owner = function.__self__ if inspect.ismethod(function) else function
    return owner if isinstance(owner, nn.Module) else None


def tensors_of(function: object) -> Iterator[Tensor]:
    """Yield the parameters and buffers of the network that a callable is or belongs to."""
    module = whole_of(function)
    if module is not None:
        yield from itertools.chain(module.parameters(), module.buffers())


def cast(module: nn.Module, dtype: torch.dtype | None, device: torch.device | None = None) -> nn.Module:
    """Return a module itself, its real and complex numbers in a precision, on a device; None leaves what they have."""
    out: nn.Module = module._apply(lambda t: t.to(device=device, dtype=number_type(t, dtype)))  # type: ignore[no-untyped-call]
    return out


def number_type(t: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Return the type of a tensor's numbers in a precision: complex ones stay complex, whole ones whole."""
    if dtype is None or not (t.is_floating_point() or t.is_complex()):
        return t.dtype
    if t.is_complex():
        return torch.complex128 if dtype == torch.float64 else torch.complex64
    return dtype


class _Copier:
    """Copies the structure of networks; what occurs twice is copied once."""

    def __init__(self, dtype: torch.dtype | None, apart: Iterable[Tensor] = ()) -> None:
        self.dtype = dtype
        self.apart = set(map(id, apart))
        self.made: dict[int, Any] = {}

    def function(self, function: Callable[..., object]) -> Any:
        if isinstance(function, nn.Module):
            return self.module(function)
        function = getattr(function, "_torchdynamo_orig_callable", function)  # torch.compile of a function
        if inspect.ismethod(function) and isinstance(function.__self__, nn.Module):
            owner, name = function.__self__, function.__name__
            if name == "__call__":
                return self.module(owner)
            if getattr(unwrapped(owner), name, None) == function or owner is not unwrapped(owner):
                return MethodModule(self.module(owner), name).eval()
        return self.value(function)

    def module(self, module: nn.Module) -> nn.Module:
        if id(module) in self.made:
            found: nn.Module = self.made[id(module)]
            return found
        inner = unwrapped(module)
        if inner is not module:
            self.made[id(module)] = out = self.module(inner)
            return out
        if isinstance(module, torch.jit.ScriptModule):
            self.made[id(module)] = out = self.script(module)
            return out
        out = object.__new__(type(module))
        self.made[id(module)] = out
        for name, value in vars(module).items():
            out.__dict__[name] = self.value(value)
        out.__dict__["training"] = False  # not by eval(), which a class may have made to do more
        out.__dict__.pop("_compiled_call_impl", None)
        return out

    @torch.no_grad()  # copies of its weights would be results of theirs, with a graph
    def script(self, module: torch.jit.ScriptModule) -> nn.Module:
        out: nn.Module = copy.deepcopy(module).eval()
        for parameter in out.parameters():
            parameter.requires_grad_(False)
        return cast(out, self.dtype)

    def value(self, value: Any) -> Any:
        """Return an attribute: modules inside it copied, tensors shared, containers anew, the rest as it is."""
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
            return types.MethodType(value.__func__, self.module(value.__self__))
        if type(value) is functools.partial:
            arguments = {k: self.value(v) for k, v in value.keywords.items()}
            return functools.partial(self.function(value.func), *map(self.value, value.args), **arguments)
        if type(value) not in CONTAINERS:
            return value
        if id(value) in self.made:
            return self.made[id(value)]
        if isinstance(value, tuple):
            self.made[id(value)] = whole = tuple(map(self.value, value))
            return whole
        self.made[id(value)] = out = copy.copy(value)
        out.clear()
        if isinstance(value, dict):
            out.update((k, self.value(v)) for k, v in value.items())
        elif isinstance(value, list):
            out.extend(map(self.value, value))
        else:
            out.update(value)
        return out

    def tensor(self, tensor: Tensor) -> Tensor:
        if id(tensor) in self.made:
            known: Tensor = self.made[id(tensor)]
            return known
        out = tensor.detach().clone() if id(tensor) in self.apart else tensor
        if tensor.is_inference():  # cannot take part in a backward pass
            with torch.inference_mode(False):
                out = tensor.clone()
        if (wanted := number_type(out, self.dtype)) != out.dtype:
            out = out.detach().to(wanted)
        if out is not tensor and isinstance(tensor, nn.Parameter):
            out = nn.Parameter(out.detach(), requires_grad=tensor.requires_grad)
        self.made[id(tensor)] = out
        return out
