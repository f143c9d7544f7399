"""Tangents of group and layer normalisation, in closed form."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from vaeprobe.autograd import unwatched
from vaeprobe.engine.columns import Changed, Columns, Known, Scaled
from vaeprobe.engine.functions import Arguments, Function, Keywords

__all__ = ["group_norm", "layer_norm"]


def group_norm(columns: Columns, primal: Tensor, args: Arguments, kwargs: Keywords) -> tuple[Tensor, Columns]:
    """Group normalisation: x_hat = (x - mean) / sd, so its tangent is (t - mean t - x_hat mean(x_hat t)) / sd.

    Sums over pixels first and over the channels of a group then, so that either layout is read as it lies.  The
    variance is that of the centred numbers: torch's kernel for channels last takes it as a difference of squares.
    Its backward pass is the same map and three times as fast alone, but in blocks that the cache holds, a direction at a
    time, the decoder of latent diffusion took a tenth longer by it (measured).
    """
    settings = {**dict(zip(("input", "num_groups", "weight", "bias", "eps"), args, strict=False)), **kwargs}
    groups, c, eps = int(settings["num_groups"]), primal.shape[1], settings.get("eps", 1e-5)
    axes, ones = tuple(range(2 - primal.ndim, 0)), (1,) * (primal.ndim - 2)
    share, group_of, eps = _of_groups(c, groups, primal[0, 0].numel(), eps, primal.dtype, primal.device)

    def sums(t: Tensor) -> Tensor:
        """Return sums over groups, spread over their channels, of a tensor of shape (..., c, *pixels)."""
        each = (t.sum(axes) if axes else t).reshape(-1, groups, c // groups).sum(-1)
        return each.index_select(1, group_of).view(*t.shape[: t.ndim - len(axes)], *ones)

    weight, bias = (
        None if parameter is None else parameter.detach().view(-1, *ones)
        for parameter in (settings.get("weight"), settings.get("bias"))
    )
    # where numbers are nearly the same, all that is left are the mean's rounding, taken off again, and that of `alpha=`, which is
    # another at the end of a row
    hat = primal - sums(primal).mul_(share)
    hat.sub_(sums(hat), alpha=share)
    rate = torch.add(eps, sums(hat.square()), alpha=share).rsqrt_()
    hat.mul_(rate)

    def centred(t: Tensor, mine: bool, points: slice) -> Tensor:
        here = hat[points]
        shift, slope = sums(t), sums(t * here)
        out = t.sub_(shift, alpha=share) if mine else torch.sub(t, shift, alpha=share)
        return out.addcmul_(here, slope, value=-share)

    tangents = Scaled(Changed(columns, centred), rate if weight is None else rate * weight)
    if weight is None:  # `hat` is kept: what is given out may be written to
        return hat.clone() if bias is None else hat + bias, tangents
    return hat * weight if bias is None else torch.addcmul(bias, hat, weight), tangents


@lru_cache(maxsize=64)
def _of_groups(
    c: int, groups: int, pixels: int, eps: float, dtype: torch.dtype, device: torch.device
) -> tuple[float, Tensor, Tensor]:
    """Return the share of a number in the mean of its group, the group of each channel, and eps as a tensor.

    A number that Python gives torch makes an operation on few numbers half as long again.
    """
    each = c // groups
    with unwatched():
        group_of = torch.arange(groups, device=device).repeat_interleave(each)
        return 1 / (pixels * each), group_of, torch.tensor(eps, dtype=dtype, device=device)


def layer_norm(
    func: Function, columns: Columns, primal: Tensor, args: Arguments, kwargs: Keywords
) -> tuple[Tensor, Columns]:
    """Layer normalisation: as group normalisation, over the last axes."""
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    settings = {**dict(zip(names, args, strict=False)), **kwargs}
    y = func(*args, **kwargs)
    weight, eps = settings.get("weight"), settings.get("eps", 1e-5)
    lead = tuple(primal.shape[: primal.ndim - len(tuple(settings["normalized_shape"]))])
    rows = primal.reshape(*lead, -1)
    variance, mean = torch.var_mean(rows, -1, correction=0, keepdim=True)
    rate = (variance + eps).rsqrt()
    hat = (rows - mean) * rate

    def centred(t: Tensor, mine: bool, points: slice) -> Tensor:
        here, rates = hat[points], rate[points]
        rows = t.reshape(len(t), *here.shape)
        both = torch.stack([torch.ones_like(here), here], -1) / here.shape[-1]
        moments = torch.einsum("d...l,...lc->d...c", rows, both)
        out = torch.addcmul(rows - moments[..., :1], here, moments[..., 1:], value=-1).mul_(rates)
        out = out.reshape(t.shape)
        return out if weight is None else out.mul_(weight)

    if not lead:  # no axis of points is left
        return y, Known(centred(columns.value(), False, slice(None)))
    return y, Changed(columns, centred)
