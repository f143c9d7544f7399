"""Convolutions and their tangents, laid out and taken apart as is fastest on CPUs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vaeprobe.autograd import as_one
from vaeprobe.engine.by_pixel import SMALL, SMALL_OF_DOUBLED, is_by_pixel
from vaeprobe.engine.columns import Columns, Deferred, Known
from vaeprobe.engine.dense import kept, on_every_point
from vaeprobe.engine.factors import normalised
from vaeprobe.engine.few import few, given, summed
from vaeprobe.engine.functions import (
    CONVOLUTIONS,
    OF_MEMORY,
    RESHAPES,
    Arguments,
    Function,
    Keywords,
    plain_name,
)
from vaeprobe.engine.upsampling import (
    FEW,
    Doubled,
    Upsampling,
    of_doubled,
    together,
    upsampled,
    upsampled_by_pixel,
)
from vaeprobe.engine.winograd import DOUBLING, KEEPING, Filter, filtered, pays

__all__ = ["LaidOut", "are_channels_last", "convolution", "convolved", "laid_out"]

CONVOLUTION = torch.ops.aten.convolution.default

MADE_ANEW = frozenset({"batch_norm", "group_norm", "instance_norm", "gelu"})
"""Functions that torch is slow at on maps pixel by pixel, and that give no view of them."""


class LaidOut(TorchFunctionMode):
    """Within it, convolutions of plain tensors are as fast as those of tensors that carry tangents.

    Attributes:
        sure: whether nothing was done so far whose numbers depend on how they lie in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sure = True
        self._copied: set[StorageWeakRef] = set()

    def __torch_function__(
        self,
        func: Function,
        types: Iterable[type],
        args: Sequence[object] = (),
        kwargs: Keywords | None = None,
    ) -> object:
        args, kwargs = tuple(args), kwargs or {}
        if args and isinstance(args[0], Tensor):
            name = plain_name(func)
            if name in CONVOLUTIONS:
                return convolution(func, name, args, kwargs)
            if name in MADE_ANEW and is_by_pixel(args[0]):
                y = normalised(args[0], args[1:], kwargs) if name == "batch_norm" else None
                return func(laid_out(args[0]), *args[1:], **kwargs) if y is None else y
            if name in RESHAPES:
                return self._reshaped(func, name, args, kwargs)
            if name in OF_MEMORY or (self._copied and kwargs.get("out") is not None):
                self.sure = False
            if self._copied and _memory(args[0]) in self._copied:
                return self._of_copy(func, args, kwargs)
        return func(*args, **kwargs)

    def _of_copy(self, func: Function, args: Arguments, kwargs: Keywords) -> object:
        """Return what a function gives, and note whether it wrote to what is a copy here and a view elsewhere."""
        x = args[0]
        before = None if x.is_inference() else x._version
        y = func(*args, **kwargs)
        self.sure = self.sure and before is not None and x._version == before
        return y

    def _reshaped(self, func: Function, name: str, args: Arguments, kwargs: Keywords) -> object:
        """Return the same numbers in another shape, and note of what the network's own layout would have given a view."""
        x = args[0]
        if name == "view" and len(args) > 1 and not isinstance(args[1], torch.dtype):
            func = Tensor.reshape  # our layout must not fail where the network's own would not
        y = func(*args, **kwargs)
        if (is_by_pixel(x) or are_channels_last(x)) and _memory(x) != _memory(y):
            self._copied |= {_memory(x), _memory(y)}
        return y


def _memory(x: Tensor) -> StorageWeakRef:
    return StorageWeakRef(x.untyped_storage())  # type: ignore[no-untyped-call]


def convolution(func: Function, name: str, args: Arguments, kwargs: Keywords) -> Tensor:
    """Return the value of a convolution of plain tensors."""
    return _value(func, args, kwargs, _kind(name, args, kwargs))


def convolved(
    func: Function, name: str, columns: Columns, args: Arguments, kwargs: Keywords
) -> tuple[Tensor, Columns]:
    """Return the value of a convolution of plain tensors, and its tangents."""
    kind, most = _kind(name, args, kwargs), SMALL
    if isinstance(columns, Doubled) and kind is KEEPING:
        # the same as a transposed convolution of the map before it was doubled, in four ninths of the products
        weight = kept(_weight(args, kwargs), "of doubled", of_doubled)
        func, kind, most, columns = F.conv_transpose2d, DOUBLING, SMALL_OF_DOUBLED, columns.source
        args, kwargs = (args[0][:, :, ::2, ::2], weight, _bias(args, kwargs), 2, 1), {}
    primal, weight = args[0], _weight(args, kwargs)
    y = _value(func, args, kwargs, kind, most)

    def along(t: Tensor) -> Tensor:
        if kind is KEEPING and few(t, weight):
            return _summed(t, weight)
        if kind and pays(t, weight):
            return as_one(
                CONVOLUTION, (t, weight, None, 1, 1, 1, kind is DOUBLING), lambda: filtered(t, weight, kind)
            )
        found = _doubled(t, weight, most=most) if kind is DOUBLING else None
        if found is not None:
            return found
        out: Tensor = (
            func(laid_out(t), weight, None, *args[3:], **kwargs)
            if len(args) > 2
            else func(laid_out(t), *args[1:], **{**kwargs, "bias": None})
        )
        return out

    if primal.ndim == weight.ndim - 1:  # a single sample, without the batch axis
        return y, Known(on_every_point(along, columns.value().unsqueeze(1)).squeeze(1))
    if kind is DOUBLING:
        return y, Upsampling(columns, weight, y.shape, along)
    return y, Deferred(columns, y.shape, along)


def _value(
    func: Function, args: Arguments, kwargs: Keywords, kind: Filter | None, most: int = SMALL
) -> Tensor:
    x, weight, bias = args[0], _weight(args, kwargs), _bias(args, kwargs)
    found = _doubled(x, weight, bias, most=most) if kind is DOUBLING else None
    if found is not None:
        return found
    if kind is KEEPING and few(x, weight):
        return _summed(x, weight, bias)
    out: Tensor = func(laid_out(x), *args[1:], **kwargs)
    return out


def _doubled(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, most: int = SMALL) -> Tensor | None:
    """Return a transposed convolution that doubles the sides by the faster of our ways; None where torch's is faster than both.

    Args:
        most: channels in times channels out up to which maps go pixel by pixel.
    """
    if together(x, weight, most):
        settings = (x, weight, bias, 2, 1, 1, True)
        return as_one(CONVOLUTION, settings, lambda: upsampled_by_pixel(x, weight, bias))
    return upsampled(x, weight, bias) if weight.shape[1] <= FEW else None


def laid_out(x: Tensor) -> Tensor:
    """Return a tensor with channels last, which makes transposed convolutions up to twice as fast on CPUs."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()


def are_channels_last(x: Tensor) -> bool:
    """Whether maps lie in memory with channels last, and not as networks have them."""
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _summed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a 3 x 3 convolution to few channels of maps (n, in, h, w)."""
    gives = kept(weight, "given", given)

    def make() -> Tensor:
        y = summed(x, gives, 3)
        return y if bias is None else y.add_(bias.detach()[:, None, None])

    return as_one(CONVOLUTION, (x, weight, bias, 1, 1, 1, False), make)


def _weight(args: Arguments, kwargs: Keywords) -> Tensor:
    weight: Tensor = args[1] if len(args) > 1 else kwargs["weight"]
    return weight


def _bias(args: Arguments, kwargs: Keywords) -> Tensor | None:
    bias: Tensor | None = args[2] if len(args) > 2 else kwargs.get("bias")
    return bias


def _kind(name: str, args: Arguments, kwargs: Keywords) -> Filter | None:
    """Return what a convolution of a batch does to the sides of its maps, if it is of the two commonest kinds."""
    if name == "conv2d":
        return KEEPING if _settings(args, kwargs, "dilation", "groups") == (3, 1, 1) else None
    return DOUBLING if name == "conv_transpose2d" and _settings(args, kwargs) == (4, 2, 1) else None


def _settings(args: Arguments, kwargs: Keywords, *last: str) -> tuple[int, ...] | None:
    """Return kernel, stride and padding of a convolution of a batch of maps that are the same along both sides, with
    neither output padding, groups nor dilation; else None.

    Args:
        last: the names of the settings after padding, in order, where they are not those of a transposed convolution.
    """
    if args[0].ndim != 4:
        return None
    names = (
        "input",
        "weight",
        "bias",
        "stride",
        "padding",
        *(last or ("output_padding", "groups", "dilation")),
    )
    settings = {**dict(zip(names, args, strict=False)), **kwargs}
    usual = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
    found = [settings["weight"].shape[2:]]
    for name, value in usual.items():
        value = settings.get(name, value)
        found.append(tuple(value) if isinstance(value, list | tuple) else (value,))
    same = [set(values) for values in found]
    if any(len(values) != 1 for values in same) or same[3:] != [{0}, {1}, {1}]:
        return None
    kernel, stride, padding = (values.pop() for values in same[:3])
    return (kernel, stride, padding) if isinstance(padding, int) else None
