"""Decoders that see fewer directions of latent space than it has: z to f(B^T z), B with r < k orthonormal columns."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from vaeprobe.budget import budget
from vaeprobe.contract import ROUNDING
from vaeprobe.decoder import Decoder
from vaeprobe.engine import pullback
from vaeprobe.engine.costs import DIRECTION, pace
from vaeprobe.intervals import stream
from vaeprobe.progress import foretell, foretold

__all__ = ["MOST_SKETCHED", "depends_on", "foretell_sketch", "restricted", "row_space", "sketched_row_space"]

TINY = 1e-300
COVECTORS = 64
"""Random covectors at each latent that a sketch of the row space pulls back."""
MOST_SKETCHED = 384
"""Directions that a sketch of 8 latents finds at most: three quarters of its covectors, of which the smallest singular value is
some 1/8 of the largest for equal lengths, not 0."""
PIECE = 16
"""A sketch is foretold from a triangle of one of so many pieces of it."""
DIRECTIONS = 2.5
"""A sketch's time in that of its triangle, all that is made of it (measured: 2.4)."""
COPIES = 4
"""Copies of a sketch that are held at once."""


def row_space(G: Tensor, tolerance: float) -> Tensor | None:
    """Return an orthonormal basis of all that the metrics see, shape (k, r), the longest direction first.

    Its columns are eigenvectors of the mean metric, in which each latent has one vote, however long its columns.

    Args:
        G: pullback metrics, shape (n, k, k).
        tolerance: share of the largest eigenvalue up to which one is rounding.

    Returns:
        None where they see every direction, or fewer than two.
    """
    G = G / G.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(TINY)[:, None, None]
    values, vectors = torch.linalg.eigh(G.mean(0))
    seen = values > tolerance * values[-1]
    return vectors[:, seen].flip(1) if 2 <= int(seen.sum()) < len(values) else None


def sketched_row_space(decoder: Decoder, z: Tensor, tolerance: float, seed: int) -> Tensor | None:
    """Return the same without any metric, from random covectors pulled back at the latents z, shape (n, k).

    J^T w of random w spans the rows of J: as many of them as there are directions, and a few more, hold all (Halko,
    Martinsson and Tropp, 2011, Section 4), at the cost of one reverse pass each and in memory that does not grow with k^2.

    Returns:
        shape (k, r), None where they are more than `MOST_SKETCHED`, all, or fewer than two.
    """
    w = torch.from_numpy(stream(seed, "sketch").standard_normal((COVECTORS, len(z), decoder.data_dim)))
    rows = pullback(decoder, z, w).double()
    rows = rows / rows.flatten(2).square().sum((0, 2)).sqrt().clamp_min(TINY)[:, None]
    A = rows.flatten(0, 1).mT
    # A = Q R has the singular values of R and the left vectors A v / s: the many rows of Q are never made
    _, sizes, turned = torch.linalg.svd(torch.linalg.qr(A, mode="r")[1], full_matrices=False)
    seen = int((sizes.square() > tolerance * sizes[0] ** 2).sum())
    if not (2 <= seen < len(A) and seen <= MOST_SKETCHED):
        return None
    spanning: Tensor = A @ turned[:seen].mT / sizes[:seen]
    return spanning


def foretell_sketch(decoder: Decoder, points: int, asked: int) -> None:
    """Say how long it will take to sketch the row space and to ask whether outputs depend on it, to whoever listens.

    Args:
        points: latents of the sketch.
        asked: latents at which outputs are asked.
    """
    if not (foretold() or budget().bounded):
        return
    width, k = COVECTORS * points, decoder.latent_dim
    some = torch.from_numpy(stream(0, "pace of sketches").standard_normal((max(width, k // PIECE), width)))
    start = time.monotonic()
    torch.linalg.qr(some, mode="r")
    triangle = (time.monotonic() - start) * k / len(some)
    directions = points * (1 + COVECTORS) + 2 * asked / DIRECTION
    seconds = DIRECTIONS * triangle + directions * pace(decoder, points)
    # there is no answer without it
    foretell(f"the directions that the output depends on, of {k:,}", seconds, COPIES * 8 * width * k, seconds)


class Spanned(nn.Module):
    """u, shape (n, r) -> inner(B u)."""

    def __init__(self, inner: object, B: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("B", B)

    def forward(self, u: Tensor) -> object:
        """Return what the map makes of the latents B u."""
        return self.inner(u @ self.get_buffer("B").to(u).mT)  # type: ignore[operator]


def restricted(decoder: Decoder, B: Tensor) -> Decoder:
    """Return u -> f(B u), whose latents are N(0, I_r) where those of f are N(0, I_k); without its encoder.

    Args:
        B: shape (k, r), orthonormal columns over all the latents, which are all continuous.
    """
    B = B.to(device=decoder.device, dtype=decoder.dtype)
    natural = None if decoder.natural is None else Spanned(decoder.natural, B)
    return decoder.with_function(
        Spanned(decoder.function, B),
        natural=natural,
        latent_dim=B.shape[1],
        latent_shape=(),
        prior=(),
        encoder=None,
        artifact=None,
    )


def depends_on(decoder: Decoder, B: Tensor, z: Tensor) -> bool:
    """Whether f(z) is f(B B^T z) to rounding: what Jacobians do not see, outputs do not see either."""
    rounding = ROUNDING[(decoder.dtype or torch.float64).itemsize]
    for rows in torch.split(z.to(torch.float64), 16):
        with torch.no_grad():
            y, inside = decoder.flat(rows).double(), decoder.flat(rows @ B @ B.mT).double()
        if float((y - inside).abs().max()) > rounding * float(y.abs().max()):
            return False
    return True
