"""The direction fields that seams follow: right singular vectors of the decoder's Jacobian, tracked by continuity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.budget import budget
from vaeprobe.decoder import Decoder
from vaeprobe.engine.matrix_free import metric_products
from vaeprobe.engine.verbs import gram
from vaeprobe.geometry.gram import canonical_signs, singular_frame
from vaeprobe.intervals import stream
from vaeprobe.likelihoods import Likelihood

__all__ = [
    "DenseField",
    "DirectionField",
    "Directions",
    "Frame",
    "IterativeField",
    "between",
    "follow",
    "nearest_axes",
    "rounding",
]


# Relative difference under which two singular values are tied.  Near a tie the frame turns as fast as the gap is
# small; carrying the direction over so narrow a zone costs nothing (1e-5 of length, squared, times the curvature),
# and spares the many tiny steps that would resolve it.
TIED = 1e-5


@dataclass(frozen=True, slots=True)
class Frame:
    """Leading singular values and right singular vectors of the Jacobian at P points.

    Attributes:
        s: descending, shape (P, b).
        V: orthonormal columns, shape (P, k, b).
        finite: whether the Jacobian was finite, shape (P,); s and V are arbitrary where not.
        near: spans nearly the leading vectors at a point nearby, shape (P, k, b); V where None.
    """

    s: Tensor
    V: Tensor
    finite: Tensor
    near: Tensor | None = None

    @property
    def warm(self) -> Tensor:
        """What the iteration at a point nearby starts from, shape (P, k, b)."""
        return self.V if self.near is None else self.near

    def at(self, rows: Tensor) -> Frame:
        """Return the frames at some of the points."""
        near = None if self.near is None else self.near[rows]
        return Frame(self.s[rows], self.V[rows], self.finite[rows], near)

    def put(self, rows: Tensor, new: Frame) -> None:
        """Overwrite the frames at some of the points."""
        for name in ("s", "V", "finite", "near"):
            if getattr(self, name) is not None:
                getattr(self, name)[rows] = getattr(new, name)

    @staticmethod
    def cat(frames: Sequence[Frame]) -> Frame:
        """Return the frames at the points of all."""
        near = None if frames[0].near is None else torch.cat([f.warm for f in frames])
        s, V, finite = (torch.cat([getattr(f, name) for f in frames]) for name in ("s", "V", "finite"))
        return Frame(s, V, finite, near)


_PLAIN = ("v", "s", "rank", "overlap", "tied", "finite")


@dataclass(frozen=True, slots=True)
class Directions:
    """The singular direction that continues a given one, at P points.

    Attributes:
        v: unit vectors, shape (P, k), on the side of the direction they continue.
        s: their singular values, shape (P,).
        rank: their place in the descending order of singular values, shape (P,).
        overlap: cosine with the direction they continue, or the share of it inside a tied block, shape (P,).
        tied: whether the singular value coincides with a neighbour within the field's resolution, shape (P,).
        finite: whether the decoder is finite there, shape (P,).
        frame: the frame they were taken from.
    """

    v: Tensor
    s: Tensor
    rank: Tensor
    overlap: Tensor
    tied: Tensor
    finite: Tensor
    frame: Frame

    def at(self, rows: Tensor) -> Directions:
        """Return the directions at some of the points."""
        return Directions(**{name: getattr(self, name)[rows] for name in _PLAIN}, frame=self.frame.at(rows))

    def put(self, rows: Tensor, new: Directions) -> None:
        """Overwrite the directions at some of the points."""
        for name in _PLAIN:
            getattr(self, name)[rows] = getattr(new, name)
        self.frame.put(rows, new.frame)

    @staticmethod
    def cat(parts: Sequence[Directions]) -> Directions:
        """Return the directions at the points of all."""
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in _PLAIN}
        return Directions(**joined, frame=Frame.cat([part.frame for part in parts]))


class DirectionField(Protocol):
    """Singular frames of a decoder, on demand.

    Attributes:
        k: number of continuous latents.
        width: singular vectors that a frame holds, b <= k.
        resolution: relative difference under which two singular values count as tied.
        rounding: relative rounding of the Jacobian.
        evaluations: points at which frames were taken so far.
    """

    k: int
    width: int
    resolution: float
    rounding: float
    evaluations: int

    def frame(self, z: Tensor, warm: Tensor | None = None, last: Tensor | None = None) -> Frame:
        """Return the frames at P latents.

        Args:
            z: shape (P, latent).
            warm: spans a guess at V, shape (P, k, b).
            last: directions, shape (P, k), of which only the continuation need be accurate.

        Raises:
            TimeIsOver: a direction was to be continued, and no time is left.
        """
        ...


def rounding(decoder: Decoder) -> float:
    """Return the relative rounding of the decoder's Jacobian: that of its dtype."""
    return float(torch.finfo(decoder.dtype or torch.float32).eps)


@dataclass
class DenseField:
    """Frames by the whole pullback metric: exact, k directional derivatives a point."""

    decoder: Decoder
    likelihood: Likelihood | None = None
    chunk: int | None = None
    evaluations: int = 0
    k: int = field(init=False)
    width: int = field(init=False)
    rounding: float = field(init=False)
    resolution: float = field(init=False)

    def __post_init__(self) -> None:
        self.k = self.width = len(self.decoder.continuous)
        self.rounding = rounding(self.decoder)
        self.resolution = max(TIED, 1e3 * self.rounding)

    def frame(self, z: Tensor, warm: Tensor | None = None, last: Tensor | None = None) -> Frame:
        if last is not None:
            budget().ask()
        self.evaluations += len(z)
        G = gram(self.decoder, z, likelihood=self.likelihood, chunk=self.chunk)
        finite = torch.isfinite(G).flatten(1).all(1)
        if not finite.all():
            G = torch.where(finite[:, None, None], G, cpu.eye(self.k, dtype=G.dtype))
        s, V = singular_frame(G)
        return Frame(s, V, finite)


@dataclass
class IterativeField:
    """Leading frames by block Krylov iteration on J v and J^T w: no Jacobian is ever formed.

    Each frame starts from G V of the last point, one step of subspace iteration on, so that few products are
    needed; the block holds `guard` more vectors than are wanted, which speeds convergence.  Where a seam is
    followed, only its own vector is iterated until it is accurate: the others are as good as the warm start.

    Args:
        decoder: what to differentiate.
        wanted: how many leading singular vectors must be right.
        guard: extra vectors in the block.
        accuracy: largest angle error of a wanted vector, in radians.
        rounds: most block products per frame.
    """

    decoder: Decoder
    wanted: int
    likelihood: Likelihood | None = None
    guard: int = 2
    accuracy: float = 1e-6
    rounds: int = 40
    evaluations: int = 0
    products: int = 0
    unconverged: int = 0
    k: int = field(init=False)
    width: int = field(init=False)
    rounding: float = field(init=False)
    resolution: float = field(init=False)

    def __post_init__(self) -> None:
        self.k = len(self.decoder.continuous)
        self.width = min(self.k, self.wanted + self.guard)
        self.rounding = rounding(self.decoder)
        self.resolution = max(TIED, 1e3 * self.rounding)
        self.accuracy = max(self.accuracy, 30 * self.rounding)

    def apply(self, z: Tensor, Q: Tensor) -> Tensor:
        """Return G Q, shape (P, k, c), for Q of shape (P, k, c)."""
        self.products += Q.shape[2]
        natural = self.decoder.natural_for(self.likelihood)
        v = Q.permute(2, 0, 1)
        return metric_products(self.decoder, z, v, natural, self.likelihood).permute(1, 2, 0)

    def frame(self, z: Tensor, warm: Tensor | None = None, last: Tensor | None = None) -> Frame:
        self.evaluations += len(z)
        B = self._orthonormal(self._guess(len(z)) if warm is None else warm, None)
        GB = self.apply(z, B)
        finite = torch.isfinite(GB).flatten(1).all(1)
        GB = torch.where(finite[:, None, None], GB, B)
        s = cpu.empty(len(z), self.width, dtype=torch.float64)
        V, near = torch.empty_like(B[:, :, : self.width]), torch.empty_like(B[:, :, : self.width])
        left = cpu.arange(len(z))
        for round in range(1, self.rounds + 1):
            if last is not None:
                budget().ask()
            values, X, GX = self._ritz(B, GB)
            residual = GX - X * values[:, None, :]
            accurate = self._accurate(values, residual)
            followed = None
            if last is not None:
                followed = (X.mT @ last[left][:, :, None]).abs().argmax(1)
                done = accurate.gather(1, followed)[:, 0]
            else:
                done = accurate[:, : self.wanted].all(1)
            if B.shape[2] == self.k:
                done[:] = True
            elif round == self.rounds:
                self.unconverged += int((~done).sum())
                done[:] = True
            ready, more = left[done], ~done
            s[ready], V[ready], near[ready] = values[done].clamp_min(0).sqrt(), X[done], GX[done]
            if not more.any():
                break
            left, B, GB, X, GX = left[more], B[more], GB[more], X[more], GX[more]
            if followed is not None:
                new = residual[more].gather(2, followed[more][:, None].expand(-1, self.k, 1))
            else:
                new = residual[more][:, :, ~accurate[more].all(0)]
            B, GB = self._grown(z[left], B, GB, X, GX, new)
        return Frame(s, canonical_signs(V), finite, near)

    def _ritz(self, B: Tensor, GB: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the leading Ritz values, vectors X and G X of the space spanned by B."""
        T = B.mT @ GB
        values, Y = torch.linalg.eigh((T + T.mT) / 2)
        values, Y = values.flip(-1)[:, : self.width], Y.flip(-1)[:, :, : self.width]
        return values, B @ Y, GB @ Y

    def _grown(
        self, z: Tensor, B: Tensor, GB: Tensor, X: Tensor, GX: Tensor, new: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the space widened by new directions; one grown too wide restarts from its Ritz vectors."""
        if B.shape[2] + new.shape[2] > min(self.k, 6 * self.width):
            B, GB = X, GX
        if B.shape[2] + new.shape[2] > self.k:
            B = self._orthonormal(torch.cat([B, self._guess(len(z), self.k)], 2)[:, :, : self.k], None)
            return B, self.apply(z, B)
        block = self._orthonormal(new, B)
        return torch.cat([B, block], 2), torch.cat([GB, torch.nan_to_num(self.apply(z, block))], 2)

    def _accurate(self, values: Tensor, residual: Tensor) -> Tensor:
        """Return whether each Ritz vector is accurate, shape (P, width): residual over gap bounds its angle.

        Source: Davis and Kahan (1970).
        """
        scale = values[:, :1].clamp_min(torch.finfo(values.dtype).tiny)
        gaps = (values[:, :, None] - values[:, None, :]).abs() / scale[:, :, None]
        # a tied pair has no vectors of its own to converge to: its block does
        gaps = torch.where(gaps > self.resolution, gaps, torch.ones_like(gaps)).amin(-1)
        bound = torch.clamp_min(self.accuracy * gaps, 30 * self.rounding)
        accurate: Tensor = residual.norm(dim=1) / scale <= bound
        return accurate

    def _guess(self, points: int, columns: int | None = None) -> Tensor:
        draw = stream(0, "krylov").standard_normal((self.k, columns or self.width))
        return torch.from_numpy(draw).expand(points, -1, -1)

    def _orthonormal(self, block: Tensor, against: Tensor | None) -> Tensor:
        """Return an orthonormal block orthogonal to `against`; spent columns are replaced by random ones."""
        noise = self._guess(len(block), block.shape[2])
        for _ in range(3):
            if against is not None:
                block = block - against @ (against.mT @ block)
            size = block.norm(dim=1, keepdim=True)
            spent = size <= 1e-14 * size.amax((1, 2), keepdim=True).clamp_min(1e-280)
            block = torch.where(spent, noise, block / torch.where(spent, torch.ones_like(size), size))
            block = torch.linalg.qr(block).Q
        return block


def follow(frame: Frame, last: Tensor, resolution: float, *, floor: float = 0.0) -> Directions:
    """Return the singular directions that continue `last` (P, k): those of largest overlap.

    Inside a block of tied singular values no vector is distinguished, and the last direction is projected
    on the block.

    Args:
        frame: frames at P points.
        last: unit vectors, shape (P, k).
        resolution: relative difference under which singular values are tied.
        floor: relative rounding of the Jacobian, which blurs small singular values further.
    """
    overlaps = (frame.V.mT @ last[:, :, None]).squeeze(-1)
    rank = overlaps.abs().argmax(1)
    s = frame.s.gather(1, rank[:, None])
    blur = resolution * torch.maximum(frame.s, s) + 8 * floor * frame.s[:, :1]
    block = (frame.s - s).abs() <= blur
    block.scatter_(1, rank[:, None], True)
    projected = (frame.V @ (overlaps * block)[:, :, None]).squeeze(-1)
    overlap = projected.norm(dim=1)
    safe = overlap.clamp_min(1e-300)[:, None]
    v = torch.where(overlap[:, None] > 0, projected / safe, last)
    return Directions(
        v=v, s=s[:, 0], rank=rank, overlap=overlap, tied=block.sum(1) > 1, finite=frame.finite, frame=frame
    )


def between(a: Frame, b: Frame, share: float) -> Frame:
    """Return the leading frames of (1 - share) G_a + share G_b, the metric of both Jacobians one above the other."""
    rows = torch.cat(
        [a.V * (a.s * math.sqrt(1 - share))[:, None], b.V * (b.s * math.sqrt(share))[:, None]], 2
    )
    V, s, _ = torch.linalg.svd(rows, full_matrices=False)
    width = a.s.shape[1]
    return Frame(s[:, :width], V[:, :, :width], a.finite & b.finite)


def nearest_axes(frame: Frame, resolution: float, floor: float = 0.0) -> Tensor:
    """Return V with each block of tied singular vectors turned as near to the axes as it goes, (P, k, b).

    Tied singular vectors are arbitrary inside their block; this choice makes them the same on every
    machine, and exact axes where the block is spanned by axes.
    """
    s, V = frame.s, frame.V.clone()
    near = (s[:, :-1] - s[:, 1:]) <= resolution * s[:, :-1] + 8 * floor * s[:, :1]
    for p in near.any(1).nonzero().flatten().tolist():
        for low, high in _runs(near[p].tolist()):
            block = V[p, :, low:high]
            axes = block.square().sum(1).argsort(descending=True, stable=True)[: high - low].sort().values
            U, _, Wh = torch.linalg.svd(block[axes].T)
            V[p, :, low:high] = block @ (U @ Wh)
    return canonical_signs(V)


def _runs(near: Sequence[bool]) -> list[tuple[int, int]]:
    """Return the half-open ranges of indices chained together by `near[i]` (i tied to i + 1)."""
    runs, low = [], 0
    for i, tied in enumerate([*near, False]):
        if not tied:
            if i > low:
                runs.append((low, i + 1))
            low = i + 1
    return runs
