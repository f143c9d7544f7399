"""Which columns of a Jacobian are rounding: what a network computes where larger numbers cancel, or where it saturates.

The columns of forward mode are held against those of reverse mode, in float64 where the network can be had in it, and else
in its own precision at latents a few roundings away.  Both round otherwise, so that a column that is right is the same
in both, and one that is rounding is another.  Reverse mode pulls a few random covectors back, which see all columns at once,
and forward mode pushes a few random sums of all columns: only where these tell of an error that could be one column's is
each column pushed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.autograd import differentiable_kernels, gradient
from vaeprobe.contract import precision_of, word
from vaeprobe.decoder import Decoder
from vaeprobe.derivatives import LOST, SCALE
from vaeprobe.engine.costs import DIRECTION
from vaeprobe.engine.verbs import pushforward
from vaeprobe.frozen import tensors_of
from vaeprobe.intervals import stream

__all__ = ["Lost", "bytes_of", "column_errors", "directions_of", "in_float64", "lost_columns", "typical"]

# Latents at which it is looked: more would hardly be surer, since rounding is there or not.
LATENTS = 2
# Covectors at each; of a large decoder half as many, at one latent.
COVECTORS = 4
# Sums of all columns that are looked at before each column is: errors of columns that are alike could cancel in one.
SUMS = 2
# An error of these that is worth a look at each column, as a part of the least that is a lost column's: no column has less
# than half its length in a sum.
SUSPECT = 0.25
# What a decoding takes in float64, in those of float32 (measured on convolutions: 3 to 5).
DOUBLE = 4
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
        columns = cpu.arange(len(names)).expand(min(len(z), LATENTS), -1)
    pulled = _pulled_back(decoder, z, natural, columns[:, active])
    if pulled.right_by_sums():
        return None
    errors = pulled.errors().tolist()
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
            x = z[:1].to(device=decoder.device, dtype=decoder.dtype).double()
            with torch.no_grad():  # one that fails is found to when it is used
                if wide is not None and precision_of(wide, x, x)[0] == torch.float64:
                    return wide
    return None


def column_errors(
    decoder: Decoder, z: Tensor, *, natural: bool = False, columns: Tensor | None = None
) -> Tensor:
    """Return the relative error of each column of the Jacobian, shape (k,): about eps where it is right, 1 where it is rounding.

    0 for a column that is zero both times.

    Args:
        z: latents, shape (n, latent); the first two are looked at, of a large decoder the first.
        natural: of the natural parameter instead of the output.
        columns: which ones, as indices among the continuous latents, shape (n, k); all by default.
    """
    if columns is None:
        columns = cpu.arange(len(decoder.continuous)).expand(min(len(z), LATENTS), -1)
    return _pulled_back(decoder, z, natural, columns).errors()


def directions_of(decoder: Decoder) -> float:
    """Return how many directions at a latent take as long as to look at sums of columns."""
    latents, covectors = _amount(decoder)
    double = 1 if decoder.dtype == torch.float64 else DOUBLE
    # sums and their primal; a decoding that tells the type, at one latent; a primal and a pass back for each covector
    return latents * (1 + SUMS) + double * (1 + latents * (1 + 2 * covectors)) / DIRECTION


def bytes_of(decoder: Decoder) -> int:
    """Return what reverse mode holds in float64 at the latents that are looked at: all that operations return on the way."""
    return 8 * _amount(decoder)[0] * decoder.numbers


def _amount(decoder: Decoder) -> tuple[int, int]:
    """Return at how many latents to look, and with how many covectors."""
    return (1, COVECTORS // 2) if decoder.large else (LATENTS, COVECTORS)


@dataclass(frozen=True, eq=False)
class _Pulled:
    """What reverse mode makes of some covectors, to hold columns against.

    Attributes:
        z: latents, shape (n, latent).
        columns: which columns, as indices among the continuous latents, shape (n, k).
        w: covectors, shape (c, n, data).
        reverse: <w, J_i>, shape (c, n, k).
    """

    decoder: Decoder
    z: Tensor
    natural: bool
    columns: Tensor
    w: Tensor
    reverse: Tensor

    def right_by_sums(self) -> bool:
        """Whether all columns are right, as forward mode along random sums of them tells.

        A column that is lost leaves its own error in them, held against the length of the shortest.
        """
        if not self.columns.numel():
            return True
        rng, shape = stream(0, "sums of columns"), (SUMS, *self.columns.shape)
        by = torch.from_numpy(rng.uniform(0.5, 1.5, size=shape) * rng.choice([-1.0, 1.0], size=shape))
        v = by.new_zeros(SUMS, len(self.z), len(self.decoder.continuous))
        v.scatter_(2, self.columns.expand(shape), by)
        off = self._forward(v) - torch.einsum("snk,cnk->cns", by, self.reverse)
        return bool(_rms(off.reshape(-1, 1, 1)) <= SUSPECT * LOST * _rms(self.reverse).min())

    def errors(self) -> Tensor:
        """Return the relative error of each column, shape (k,), see `column_errors`."""
        forward = torch.empty_like(self.reverse)
        some = max(1, HELD // (len(self.z) * self.decoder.data_dim))
        for part in torch.split(cpu.arange(self.columns.shape[1]), some):
            v = torch.nn.functional.one_hot(self.columns[:, part].T, len(self.decoder.continuous))
            forward[:, :, part] = self._forward(v.to(torch.float64))
        size = torch.maximum(_rms(forward), _rms(self.reverse))
        error = _rms(forward - self.reverse)
        return torch.where(size > 0, error / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0).nan_to_num(
            1.0
        )

    def _forward(self, v: Tensor) -> Tensor:
        """Return <w, J v> for directions v, shape (s, n, continuous): shape (c, n, s)."""
        Jv = pushforward(self.decoder, self.z, v, natural=self.natural)[1].double().cpu()
        return torch.einsum("snm,cnm->cns", Jv, self.w)


def _pulled_back(decoder: Decoder, z: Tensor, natural: bool, columns: Tensor) -> _Pulled:
    latents, covectors = _amount(decoder)
    z, columns = z[:latents], columns[:latents]
    rng = stream(0, "rounding")
    w = torch.from_numpy(rng.standard_normal((covectors, len(z), decoder.data_dim)))
    pulled = _reverse(decoder, z, w, natural)[..., decoder.continuous]
    reverse = pulled.gather(2, columns.expand(covectors, -1, -1))
    return _Pulled(decoder, z, natural, columns, w, reverse)


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
    leaf = x.clone().requires_grad_(True)
    with torch.enable_grad(), differentiable_kernels():
        y = f(leaf)
        out = [gradient(y, leaf, each.to(y), retain_graph=i + 1 < len(w)) for i, each in enumerate(w)]
    return torch.stack(out).double().cpu()
