"""Latents with independent partners, their metrics and column lengths: what the tests of factorisation share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.decoder import Decoder
from vaeprobe.engine.verbs import gram
from vaeprobe.geometry.gram import (
    active_latents,
    column_norms,
    ima_contrast,
    least_contrast,
    singular_tolerance,
)
from vaeprobe.geometry.modulation import frozen_lengths, jacobian_variation
from vaeprobe.intervals import stream
from vaeprobe.latents import Latents, Prior
from vaeprobe.likelihoods import Likelihood

__all__ = ["Sample"]

# Latents at which the Jacobian is compared with that of the partner from the start, at most.
COMPARED, FEW_COMPARED = 128, 8


@dataclass(eq=False)
class Sample:
    """Latents with independent partners, their metrics and column lengths; grows.

    Attributes:
        R: directions of the active latents, shape (k, a).
        G: metric at z, shape (n, k, k).
        frozen: ||J r_i|| with the i-th coordinate of z and all else of the partner, shape (n, a).
        frugal: columns are dear: what more latents would only make surer is measured at few.
        exhausted: the source has no more: these latents are all there are, not a sample of more.
        changes, sizes: of each active column between z and its partner (`Variation`), for the first rows.
        first: latents drawn at the start.
        silent: `frozen` of the latents of short columns at those, by position: what told whether they are active.
    """

    decoder: Decoder
    source: Latents
    likelihood: Likelihood | None
    seed: int
    chunk: int | None
    z: Tensor
    partner: Tensor
    G: Tensor
    R: Tensor
    frozen: Tensor
    changes: Tensor
    sizes: Tensor
    exhausted: bool = False
    frugal: bool = False
    first: int = 0
    silent: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        decoder: Decoder,
        source: Latents,
        samples: int,
        *,
        threshold: float,
        likelihood: Likelihood | None,
        seed: int,
        chunk: int | None,
        frugal: bool = False,
    ) -> Sample:
        k = len(decoder.continuous)
        z = cpu.zeros(0, decoder.latent_dim, dtype=torch.float64)
        G = cpu.zeros(0, k, k, dtype=torch.float64)
        none = cpu.zeros(k, 0, dtype=torch.float64)
        sample = cls(
            decoder, source, likelihood, seed, chunk, z, z, G, none, none.T, G[:, 0], G[:, 0], frugal=frugal
        )
        sample.grow(samples)
        sample.first = len(sample.z)
        active = sample._active(threshold)
        sample.R = cpu.eye(k, dtype=torch.float64)[:, active]
        sample.frozen = cpu.zeros(0, len(active), dtype=torch.float64)
        sample.changes, sample.sizes = sample.changes[:, active], sample.sizes[:, active]
        return sample

    def _active(self, threshold: float) -> Tensor:
        """Return the positions of the active latents.

        A latent whose column is short on average is active none the less where other latents make it long: the
        density cannot be judged without it.
        """
        finite = torch.isfinite(self.G).flatten(1).all(1)
        G = self.G[finite]
        if not len(G):
            return cpu.arange(0)
        active = active_latents(G, threshold)
        norms = column_norms(G)
        silent = (~active & (norms > 0).any(0)).nonzero().flatten()
        if len(silent):
            E = cpu.eye(G.shape[1], dtype=torch.float64)[:, silent]
            frozen = self.frozen_along(E, slice(0, None))
            self.silent = dict(zip(silent.tolist(), frozen.T, strict=True))
            change = ((norms[:, silent] - frozen[finite]).nan_to_num().square().mean(0) / 2).sqrt()
            active[silent] = change > threshold * norms.mean(0).max()
        return active.nonzero().flatten()

    def frozen_along(self, R: Tensor, rows: Tensor | slice) -> Tensor:
        """Return `frozen_lengths` along the columns of R at some of the latents, shape (n, a)."""
        z, partner = self.z[rows], self.partner[rows]
        return frozen_lengths(self.decoder, z, partner, R, likelihood=self.likelihood, chunk=self.chunk)

    def grow(self, total: int) -> bool:
        """Extend to `total` latents; False where the source has no more."""
        start = len(self.z)
        z = self.source.draw(self.decoder, total, seed=self.seed)[start:]
        self.exhausted = len(self.z) + len(z) < total
        if not len(z):
            return False
        self.z = torch.cat([self.z, z])
        self.partner = torch.cat([self.partner, self._partners(z, start, total)])
        # the metric alone says first where there is too much of it, and is the cheaper
        compared = 0 if start else FEW_COMPARED if self.frugal else COMPARED
        if compared:
            unit = cpu.eye(len(self.decoder.continuous), dtype=torch.float64)
            self.G = self._compare(slice(0, compared), unit)
        if len(z) > compared:
            more = gram(self.decoder, z[compared:], likelihood=self.likelihood, chunk=self.chunk)
            self.G = torch.cat([self.G, more])
        return True

    def _compare(self, rows: slice, R: Tensor) -> Tensor:
        """Compare the columns along R at some latents with those at their partners; return the metric by the way."""
        found = jacobian_variation(
            self.decoder, self.z[rows], self.partner[rows], R, likelihood=self.likelihood, chunk=self.chunk
        )
        self.changes = torch.cat([self.changes, found.changes])
        self.sizes = torch.cat([self.sizes, found.sizes])
        return found.G

    def _partners(self, z: Tensor, start: int, total: int) -> Tensor:
        """Return latents independent of z: another draw of the prior, else z's own rows in another order."""
        if isinstance(self.source, Prior):
            return Prior(purpose="partners").draw(self.decoder, total, seed=self.seed)[start:]
        # one cycle through all rows in random order: no row is its own partner
        order = stream(self.seed, f"partners/{start}").permutation(len(z))
        shifted = np.empty_like(order)
        shifted[order] = np.roll(order, 1)
        return z[torch.from_numpy(shifted)]

    def active_metric(self) -> Tensor:
        """Return G over the active latents, shape (n, a, a); nan where any number in G is not finite."""
        finite = torch.isfinite(self.G).flatten(1).all(1)[:, None, None]
        if self.R.shape[0] == self.R.shape[1]:
            return torch.where(finite, self.G, torch.nan)
        active = self.R.argmax(0)
        return torch.where(finite, self.G[:, active][:, :, active], torch.nan)

    @property
    def tolerance(self) -> float:
        """Squared relative length under which an active column depends on others (`singular_tolerance`)."""
        return singular_tolerance(self.R.shape[1], self.decoder.dtype or torch.float64)

    @property
    def rounding(self) -> float:
        return float(torch.finfo(self.decoder.dtype or torch.float64).eps)

    @property
    def places(self) -> list[int]:
        """The columns of z that hold the active latents."""
        continuous = self.decoder.continuous
        return [continuous[i] for i in self.R.argmax(0).tolist()]

    def contrasts(self) -> Tensor:
        """Return the ima contrast over the active latents, inf where they are not independent, shape (n,)."""
        G = self.active_metric()
        finite = torch.isfinite(G).flatten(1).all(1)
        contrast = cpu.full((len(G),), torch.inf, dtype=torch.float64)
        contrast[finite] = ima_contrast(G[finite], tolerance=self.tolerance)
        return contrast

    def known_contrasts(self) -> Tensor:
        """Return the same, at latents where they are not independent what it is at least; inf where G is not finite."""
        contrast, G = self.contrasts(), self.active_metric()
        dependent = torch.isinf(contrast) & torch.isfinite(G).flatten(1).all(1)
        if dependent.any():
            contrast[dependent] = least_contrast(G[dependent], self.tolerance)
        return contrast

    def freeze(self) -> Tensor:
        """Return `frozen`, for all rows drawn so far."""
        start = len(self.frozen)
        if start < len(self.z):
            places = self.R.argmax(0).tolist()
            seen = self.silent if start == 0 and len(self.z) == self.first else {}
            more = cpu.empty(len(self.z) - start, len(places), dtype=torch.float64)
            for i, place in enumerate(places):
                if place in seen:
                    more[:, i] = seen[place]
            fresh = [i for i, place in enumerate(places) if place not in seen]
            if fresh:
                more[:, fresh] = self.frozen_along(self.R[:, fresh], slice(start, None))
            self.frozen = torch.cat([self.frozen, more])
        return self.frozen

    def vary(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return `changes` and `sizes` for that many rows at least."""
        start, stop = len(self.changes), min(rows, len(self.z))
        if start < stop:
            self._compare(slice(start, stop), self.R)
        return self.changes, self.sizes

    def segments(self, most: int) -> tuple[Tensor, Tensor]:
        """Return the first latents and their partners, which keep their codes: ends of segments to walk along."""
        rows = min(most, len(self.z))
        a, b = self.z[:rows], self.partner[:rows].clone()
        codes = [i for i in range(a.shape[1]) if i not in set(self.decoder.continuous)]
        b[:, codes] = a[:, codes]
        return a, b
