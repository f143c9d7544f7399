"""Walks through the latent space: outputs along directions, and the Jacobian along them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.budget import Fit, in_time
from vaeprobe.engine import pullback, pushforward
from vaeprobe.latents import resting
from vaeprobe.progress import track

if TYPE_CHECKING:
    from vaeprobe.decoder import Decoder

# bytes of J v that are held at a time
HELD = 64 << 20
# a range of codes leaves out this share at each end
TAIL = 0.01


@dataclass(frozen=True, slots=True)
class Direction:
    """A way to move: `name`, the vector over the continuous latents, shape (k,), float64, and which of them it is."""

    name: str
    vector: Tensor
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class Strip:
    """Outputs along one direction.

    Attributes:
        name: of the direction: `z0`, `channel 1`, `R* z0`.
        at: coordinate of each frame along the direction, shape (frames,).
        outputs: shape (frames, m), float64.
        column: J v at the centre, shape (m,), float64, signed.
        norm: root mean square of |J v| over the latents that were drawn.
        share: of E|J v|^2 summed over all directions.
    """

    name: str
    at: Tensor
    outputs: Tensor
    column: Tensor
    norm: float
    share: float


def axes(decoder: Decoder) -> list[Direction]:
    """Return a direction per continuous latent; where latents have places one per channel, all its places together."""
    k = len(decoder.continuous)
    if not decoder.is_map or k != decoder.latent_dim:
        # every axis is a window on one vector: k^2 numbers would be gigabytes where latents are many
        ones = cpu.zeros(2 * k - 1, dtype=torch.float64)
        ones[k - 1] = 1
        names = decoder.latent_names
        return [Direction(name, ones[k - 1 - i : 2 * k - 1 - i], i) for i, name in enumerate(names)]
    channels = decoder.latent_shape[0]
    rows = cpu.zeros(channels, channels, k // channels, dtype=torch.float64)
    rows[range(channels), range(channels)] = 1
    return [Direction(f"channel {c}", v) for c, v in enumerate(rows.reshape(channels, k))]


def rotated(decoder: Decoder, R: Tensor) -> list[Direction]:
    """Return the columns of a rotation of the latents, shape (latent, latent), as directions."""
    free = decoder.continuous
    names = decoder.latent_names
    return [Direction(f"R* {name}", v) for name, v in zip(names, R[free][:, free].double().T, strict=True)]


def mean_squares(
    decoder: Decoder, directions: Sequence[Direction], z: Tensor, row: float | None = None
) -> tuple[Tensor, Fit]:
    """Return E|J v|^2 of each direction over latents, shape (directions,), float64, and how many of them fitted in time.

    Args:
        z: latents, shape (n, latent).
        row: seconds that one latent takes, where they are foretold.
    """
    single = [d.axis for d in directions if d.axis is not None]
    by_rows = len(single) == len(directions) > decoder.data_dim
    sums = cpu.zeros(len(directions), dtype=torch.float64)

    def add(part: slice) -> None:
        some = z[part]
        squares = _sums_by_rows(decoder, some)[single] if by_rows else _sums(decoder, directions, some)
        sums.add_(squares)

    fit = in_time(len(z), add, row=row)
    return sums / fit.done, fit


def _sums(decoder: Decoder, directions: Sequence[Direction], z: Tensor) -> Tensor:
    """Return |J v|^2 of each direction, summed over latents, shape (directions,)."""
    out = cpu.zeros(len(directions), dtype=torch.float64)
    block = max(1, HELD // (8 * max(decoder.data_dim, decoder.latent_dim) * len(z)))
    for some in track(list(_blocks(len(directions), block)), "columns"):
        v = torch.stack([d.vector for d in directions[some]])
        _, Jv = pushforward(decoder, z, v[:, None].expand(-1, len(z), -1))
        out[some] = Jv.double().square().sum((1, 2)).cpu()
    return out


def _sums_by_rows(decoder: Decoder, z: Tensor) -> Tensor:
    """Return |J e_i|^2 of each continuous latent, summed over latents, from the rows of J, of which there are fewer, shape (k,)."""
    out = cpu.zeros(len(decoder.continuous), dtype=torch.float64)
    block = max(1, HELD // (8 * decoder.latent_dim))
    for some in track(list(_blocks(len(z), block)), "rows"):
        for row in range(decoder.data_dim):
            w = cpu.zeros(len(z[some]), decoder.data_dim, dtype=torch.float64)
            w[:, row] = 1
            out += pullback(decoder, z[some], w).double().square().sum(0).cpu()
    return out


def _blocks(n: int, size: int) -> Iterator[slice]:
    yield from (slice(start, start + size) for start in range(0, n, size))


def centre_of(decoder: Decoder, codes: Tensor | None) -> Tensor:
    """Return where walks pass: the mean code, or the prior's centre; one-hot codes at their first. Shape (latent,)."""
    z = resting(decoder)
    z[decoder.continuous] = 0.0
    if codes is not None:
        z[decoder.continuous] = codes.double().mean(0)
    return z


def coordinates(direction: Direction, codes: Tensor | None, reach: float, frames: int) -> Tensor:
    """Return the coordinates of a strip's frames: from -reach to reach, or over the range of codes, shape (n, k)."""
    if codes is None:
        return cpu.linspace(-reach, reach, frames, dtype=torch.float64)
    v = direction.vector
    at = codes.double() @ v / v.dot(v)
    low, high = torch.quantile(at, at.new_tensor([TAIL, 1 - TAIL])).tolist()
    return cpu.linspace(low, high, frames, dtype=torch.float64)


def strip(
    decoder: Decoder, direction: Direction, centre: Tensor, at: Tensor, norm: float, share: float
) -> Strip:
    """Return the outputs along a direction through a centre, shape (latent,)."""
    free, v = decoder.continuous, direction.vector
    now = float(centre[free] @ v / v.dot(v))
    z = centre.repeat(len(at), 1)
    z[:, free] += (at - now)[:, None] * v
    with torch.no_grad():
        outputs = _means(decoder, decoder.flat(z).double().cpu())
    _, Jv = pushforward(decoder, centre[None], v[None])
    return Strip(direction.name, at, outputs, Jv[0].double().cpu(), norm, share)


def _means(decoder: Decoder, y: Tensor) -> Tensor:
    """Return outputs as they are looked at: a Bernoulli's logits as probabilities."""
    return y.sigmoid() if decoder.parameter == "natural" and decoder.likelihood == "bernoulli" else y
