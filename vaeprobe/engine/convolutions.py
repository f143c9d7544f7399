"""Tangents of convolutions, laid out and taken apart as is fastest on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from vaeprobe.engine.columns import Columns, Deferred, on_every_point
from vaeprobe.engine.functions import Arguments, Function, Keywords
from vaeprobe.engine.upsampling import Upsampling, upsampled, upsampled_by_quarters

__all__ = ["convolved"]


# channels out of a transposed convolution up to which, and channels and pixels of its map from and to which, it is
# faster as a convolution per parity of the output (measured)
FEW, MANY, SMALL_MAP = 16, 128, 25


def convolved(
    func: Function, name: str, columns: Columns, args: Arguments, kwargs: Keywords
) -> tuple[Tensor, Columns]:
    """Return the value of a convolution of plain tensors, and its tangents."""
    primal = args[0]
    weight = args[1] if len(args) > 1 else kwargs["weight"]

    def along(t: Tensor) -> Tensor:
        out: Tensor = (
            func(_laid_out(t), weight, None, *args[3:], **kwargs)
            if len(args) > 2
            else func(_laid_out(t), *args[1:], **{**kwargs, "bias": None})
        )
        return out

    doubles = name == "conv_transpose2d" and _doubles(args, kwargs)
    if doubles and primal.ndim == 4 and weight.shape[1] <= FEW:
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        inputs, y = columns.value(), upsampled(_laid_out(primal), weight, bias)
        return y, Upsampling(inputs, weight, y.shape)
    y = func(_laid_out(primal), *args[1:], **kwargs)
    inputs = columns.value()
    if primal.ndim == weight.ndim - 1:  # a single sample, without the batch axis
        inputs = inputs.unsqueeze(1)
        return y, Deferred(columns.directions, y.shape, lambda: on_every_point(along, inputs).squeeze(1))
    if doubles and primal.ndim == 4 and min(weight.shape[:2]) >= MANY and primal[0, 0].numel() <= SMALL_MAP:

        def by_quarters() -> Tensor:
            return on_every_point(lambda t: upsampled_by_quarters(_laid_out(t), weight), inputs)

        return y, Deferred(columns.directions, y.shape, by_quarters)
    return y, Deferred(columns.directions, y.shape, lambda: on_every_point(along, inputs))


def _laid_out(x: Tensor) -> Tensor:
    """Return a tensor with channels last, which makes transposed convolutions up to twice as fast on CPUs."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()


def _doubles(args: Arguments, kwargs: Keywords) -> bool:
    """Whether this is a transposed convolution of kernel 4, stride 2, padding 1: one that doubles the sides."""
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    settings = {**dict(zip(names, args, strict=False)), **kwargs}

    def both(name: str, wanted: int) -> bool:
        value = settings.get(name, wanted)
        return all(v == wanted for v in (value if isinstance(value, list | tuple) else (value,)))

    return (
        tuple(settings["weight"].shape[2:]) == (4, 4)
        and "stride" in settings
        and both("stride", 2)
        and "padding" in settings
        and both("padding", 1)
        and both("output_padding", 0)
        and both("dilation", 1)
        and settings.get("groups", 1) == 1
    )
