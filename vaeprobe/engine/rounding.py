"""Which columns of a Jacobian are rounding: what a network computes where larger numbers cancel, or where it saturates.

The columns of forward mode are held against those of reverse mode, in float64 where the network can be had in it, and else
in its own precision at latents a few roundings away.  Both round otherwise, so that a column that is right is the same
in both, and one that is rounding is another.  Reverse mode pulls a few random covectors back, which see all columns at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe.autograd import differentiable_kernels, gradient
from vaeprobe.contract import precision_of, word
from vaeprobe.decoder import Decoder
from vaeprobe.derivatives import LOST, SCALE
from vaeprobe.engine.verbs import pushforward
from vaeprobe.frozen import tensors_of
from vaeprobe.intervals import stream

__all__ = ["Lost", "column_errors", "in_float64", "lost_columns", "typical"]

COVECTORS = 4
# Latents at which it is looked: more would hardly be surer, since rounding is there or not.
LATENTS = 2
# Columns times outputs that are held at a time.
HELD = 1 << 24
# Bytes of weights up to which there is a copy in float64.
LARGEST_TWIN = 1 << 28


def typical(G: Tensor) -> Tensor:
    """Return the places of two finite metrics of middling size, of shape (n, k, k): half of all Jacobians are larger, half smaller."""
    finite = G.isfinite().flatten(1).all(1).nonzero().flatten()
    order = G[finite].diagonal(dim1=-2, dim2=-1).sum(-1).argsort()
    middle = max(0, len(order) // 2 - LATENTS // 2)
    return finite[order[middle : middle + LATENTS]]


@dataclass(frozen=True)
class Lost:
    """Columns that are rounding.

    Attributes:
        names: what to call them.
        error: the largest difference between two ways to compute one, in its lengths.
        dtype: what the network computes in.
        cured: whether float64 knows them, where it could be asked; None where not.
    """

    names: tuple[str, ...]
    error: float
    dtype: torch.dtype | None
    cured: bool | None = None

    @property
    def why(self) -> str:
        """Why there is no verdict."""
        return f"{self._columns} rounding in {word(self.dtype)}"

    @property
    def evidence(self) -> str:
        """The same with what shows it."""
        several = len(self.names) > 1
        they, length = ("they differ", "their length") if several else ("it differs", "its length")
        return f"{self.why}: computed in two ways, {they} by {min(self.error, 9.99):.0%} of {length}"

    @property
    def hint(self) -> str:
        """What to do next."""
        if self.dtype != torch.float64 and self.cured is not False:
            return "--dtype float64 computes nine digits more"
        who = (
            "no precision here knows" if self.dtype == torch.float64 else "float64, which was asked, knows no"
        )
        return f"{who} more: the output does not depend on them as far as numbers tell"

    @property
    def _columns(self) -> str:
        listed = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
        return f"the columns of {listed} are" if len(self.names) > 1 else f"the column of {listed} is"


def lost_columns(
    decoder: Decoder,
    z: Tensor,
    active: Sequence[int],
    *,
    natural: bool = False,
    columns: Tensor | None = None,
    names: Sequence[str] | None = None,
) -> Lost | None:
    """Return which of the active columns are rounding, None where all are right or there are no latents to look at.

    Args:
        z, natural, columns: see `column_errors`.
        active: positions among the columns; all where there is none, which may be zero for this very reason.
        names: of the columns; by default those of the latents.
    """
    if not len(z):
        return None
    names = decoder.latent_names if names is None else names
    active = list(active) or list(range(len(names)))
    if columns is None:
        columns = torch.arange(len(names)).expand(min(len(z), LATENTS), -1)
    errors = column_errors(decoder, z, natural=natural, columns=columns[:, active]).tolist()
    lost = [i for i, error in zip(active, errors, strict=True) if error > LOST]
    if not lost:
        return None
    cured = None
    if (wide := in_float64(decoder, z, natural=natural)) is not None:
        cured = float(column_errors(wide, z, columns=columns[:, lost]).max()) <= LOST
    return Lost(tuple(names[i] for i in lost), max(errors), decoder.dtype, cured)


def in_float64(decoder: Decoder, z: Tensor, *, natural: bool = False) -> Decoder | None:
    """Return the map in float64 as a decoder without likelihood; None where it is so, or cannot be had.

    Args:
        z: latents to ask what it computes in, shape (n, latent).
        natural: of the natural parameter instead of the output.
    """
    wide = _wide(decoder, z[:LATENTS], natural)
    if wide is None:
        return None
    with suppress(Exception):  # whatever foreign code raises on another type
        return Decoder(
            wide, decoder.latent_dim, dtype=torch.float64, device=decoder.device, prior=decoder.prior
        )
    return None


def _wide(decoder: Decoder, z: Tensor, natural: bool) -> Callable[[Tensor], Tensor] | None:
    """Return the map in float64; None where it is so, or cannot be had."""
    weights = sum(t.nbytes for t in tensors_of(decoder.function))
    if decoder.dtype != torch.float64 and weights <= LARGEST_TWIN:
        with suppress(Exception):  # whatever foreign code raises on another type
            wide = decoder.in_double(natural=natural)
            x = z.to(device=decoder.device, dtype=decoder.dtype).double()
            if wide is not None and precision_of(wide, x, y := wide(x))[0] == y.dtype == torch.float64:
                return wide
    return None


def column_errors(
    decoder: Decoder, z: Tensor, *, natural: bool = False, columns: Tensor | None = None
) -> Tensor:
    """Return the relative error of each column of the Jacobian, shape (k,): about eps where it is right, 1 where it is rounding.

    0 for a column that is zero both times.

    Args:
        z: latents, shape (n, latent); the first two are looked at.
        natural: of the natural parameter instead of the output.
        columns: which ones, as indices among the continuous latents, shape (n, k); all by default.
    """
    z = z[:LATENTS]
    if columns is None:
        columns = torch.arange(len(decoder.continuous)).expand(len(z), -1)
    columns = columns[: len(z)]
    rng = stream(0, "rounding")
    w = torch.from_numpy(rng.standard_normal((COVECTORS, len(z), decoder.data_dim)))
    pulled = _reverse(decoder, z, w, natural)[..., decoder.continuous]
    reverse = pulled.gather(2, columns.expand(COVECTORS, -1, -1))
    forward = torch.empty_like(reverse)
    some = max(1, HELD // (len(z) * decoder.data_dim))
    for part in torch.split(torch.arange(columns.shape[1]), some):
        v = torch.nn.functional.one_hot(columns[:, part].T, len(decoder.continuous))
        Jv = pushforward(decoder, z, v.to(torch.float64), natural=natural)[1].double().cpu()
        forward[:, :, part] = torch.einsum("snm,cnm->cns", Jv, w)
    size = torch.maximum(_rms(forward), _rms(reverse))
    error = _rms(forward - reverse)
    return torch.where(size > 0, error / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0).nan_to_num(1.0)


def _rms(x: Tensor) -> Tensor:
    """Return the root mean square over covectors and latents, by scale first: squares of small numbers underflow."""
    scale = x.abs().amax((0, 1)).clamp_min(torch.finfo(x.dtype).tiny)
    rms: Tensor = (x / scale).square().mean((0, 1)).sqrt() * scale
    return rms


def _reverse(decoder: Decoder, z: Tensor, w: Tensor, natural: bool) -> Tensor:
    """Return J^T w over all latents, in float64 where that can be had, shape (c, n, latent)."""
    x = z.to(device=decoder.device, dtype=decoder.dtype)
    if (wide := _wide(decoder, z, natural)) is not None:
        with suppress(Exception):  # as above, of its derivatives
            return _pulled(wide, x.double(), w)
    f = decoder.natural_flat if natural else decoder.flat
    x = x * (1 + 4 * torch.finfo(x.dtype).eps)
    return _pulled(f, x, SCALE * w) / SCALE


def _pulled(f: Callable[[Tensor], Tensor], x: Tensor, w: Tensor) -> Tensor:
    out = []
    for each in w:
        leaf = x.clone().requires_grad_(True)
        with torch.enable_grad(), differentiable_kernels():
            y = f(leaf)
            out.append(gradient(y, leaf, each.to(y)).double().cpu())
    return torch.stack(out)
