"""The whole of G, however many latents: how much of its energy lies off the diagonal, beside random rotations.

Sums of squares need no Jacobian: where G is measured they are exact, and else estimated from a few random products with
J and J^T.  Under a random rotation R the squared diagonal of R^T G R has a mean in closed form,
E (r^T G r)^2 = ((tr G)^2 + 2 ||G||_F^2) / (k (k + 2)), so that no rotation is drawn.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch

from vaeprobe import cpu
from vaeprobe.budget import NO_TIME, budget
from vaeprobe.engine.matrix_free import MISSED, SingularTriplets, energies, exact_energies, singular_triplets
from vaeprobe.engine.methods import choose
from vaeprobe.engine.remembered import recalled_together
from vaeprobe.intervals import LEVEL, mean_interval
from vaeprobe.probes.orthogonality.metrics import SPECS
from vaeprobe.probes.parts import WORK
from vaeprobe.processes import current as processes
from vaeprobe.report import Metric, Table

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.decoder import Decoder
    from vaeprobe.engine.matrix_free import Energies
    from vaeprobe.likelihoods import Likelihood

# Latents at which the whole of G is estimated, at most and at least; passes that a probe costs.
MOST, LEAST, PASSES = 16, 4, 3
# Singular triplets, products to find them in, and latents to find them at.
TRIPLETS, PRODUCTS, TRIPLETS_AT = 3, 24, 2


@dataclass(frozen=True, eq=False)
class Whole:
    """What is known of the whole of G.

    Attributes:
        energies: sums of squares at each latent; None where they were not asked for.
        k: columns.
        probes: random probes at each latent; 0 where the energies are exact.
        top: the leading singular triplets at some latents; None where G was measured, or with a likelihood's metric.
        why: why there is nothing, or "".
    """

    IDS: ClassVar[tuple[str, ...]] = ("off_diagonal", "off_diagonal_null", "participation")

    energies: Energies | None
    k: int
    probes: int = 0
    top: SingularTriplets | None = None
    why: str = ""

    @property
    def how(self) -> str:
        n = 0 if self.energies is None else len(self.energies.total)
        return f"{self.probes} random probes at {n} latents" if self.probes else f"exact at {n} latents"

    @cached_property
    def metrics(self) -> list[Metric]:
        """The share of energy off the diagonal, the same under random rotations, and the participation ratio."""
        if self.energies is None:
            return [Metric.undefined(SPECS[f"orthogonality.{name}"], self.why) for name in self.IDS]
        e = self.energies
        diagonal = (e.trace_squared + 2 * e.total) / (self.k + 2)  # of R^T G R, on average
        return [
            self._ratio("off_diagonal", e.off, e.total, high=1.0),
            self._ratio("off_diagonal_null", e.total - diagonal, e.total, high=1.0),
            self._ratio("participation", e.trace_squared, e.total, high=float(self.k)),
        ]

    def _ratio(self, name: str, over: Tensor, under: Tensor, *, high: float) -> Metric:
        """Return a ratio of two means over latents, with its interval to first order."""
        ratio = float(over.mean() / under.mean())
        one = (ratio + (over - ratio * under) / under.mean()).numpy()
        ratio = min(max(ratio, 0.0), high)
        ci = mean_interval(one, low=0.0, high=high)
        return Metric(
            SPECS[f"orthogonality.{name}"],
            ratio,
            ci=ci,
            level=LEVEL if ci else None,
            n=len(one),
            method=f"{self.how}, ratio of means over latents",
        )

    @property
    def sentence(self) -> str:
        """What the whole says where only a part of its columns was measured, as a sentence; "" where nothing."""
        if self.energies is None or not self.probes:
            return ""
        off, null, _ = (metric.value for metric in self.metrics)
        assert isinstance(off, float)
        assert isinstance(null, float)
        return (
            f" Of all {self.k} columns, {off:.2g} of the energy of G lies off the diagonal, {null:.2g} under random "
            f"rotations ({self.how})."
        )

    def tables(self) -> list[Table]:
        """Return the leading singular values of the whole Jacobian, where they were looked for."""
        if self.top is None:
            return []
        s, residual = self.top.s, self.top.residual
        looked = bool((self.top.missed <= MISSED).all())
        return [
            Table(
                title=f"Largest singular values of the whole Jacobian, at {len(s)} latent{'s' if len(s) > 1 else ''}",
                columns=["", "root mean square", "residual / s0"],
                rows=[
                    [f"s{i}", float(s[:, i].square().mean().sqrt()), float(residual[:, i].max())]
                    for i in range(s.shape[1])
                ],
                note=f"block Lanczos, {self.top.products} products with J and J^T each; residual: the largest |J^T u - s v|"
                + ("" if looked else "; too few products to rule out that larger ones were missed"),
            )
        ]


def directions_of(decoder: Decoder, samples: int, probes: int, likelihood: Likelihood | None) -> int:
    """Return about how many directions `whole_of` takes where it estimates, all latents together."""
    if probes < 2:
        return 0
    few = _few(decoder, samples, probes, likelihood)
    return PASSES * (few * probes + (TRIPLETS_AT if few == min(MOST, samples) else 1) * PRODUCTS)


def _few(decoder: Decoder, samples: int, probes: int, likelihood: Likelihood | None) -> int:
    """Return at how many latents the whole of G is estimated: for half of what the columns of the part may cost."""
    cost = PASSES * probes * choose(decoder, natural=decoder.natural_for(likelihood)).work
    return min(samples, MOST, max(LEAST, int(WORK // (2 * cost))))


def whole_of(
    decoder: Decoder,
    z: Tensor,
    G: Tensor | None,
    *,
    likelihood: Likelihood | None,
    probes: int,
    seed: int,
) -> Whole:
    """Return what is known of the whole of G.

    Args:
        z: latents.
        G: the whole pullback metrics, shape (n, k, k), where they were measured.
        probes: random probes at each latent where they were not; 0 for none.
    """
    k = len(decoder.continuous)
    if k < 2:
        return Whole(None, k, why="one latent makes no pair of columns")
    if G is not None:
        G = G[torch.isfinite(G).flatten(1).all(1)]
        if len(G) < 1 or not G.any():
            return Whole(None, k, why="every column of the Jacobian is zero, or it is not finite")
        return Whole(exact_energies(G / G.abs().max()), k)  # ratios have no scale, squares overflow
    if probes < 2:
        return Whole(
            None, k, why="a part of the columns was measured, and no random probes of all were asked for"
        )
    few = _few(decoder, len(z), probes, likelihood)
    at = min(few, _affordable(decoder, z, probes, seed, likelihood)) if budget().bounded else few
    if not at:
        return Whole(None, k, why=NO_TIME)
    found = energies(decoder, z[:at], probes=probes, seed=seed, likelihood=likelihood)
    if not (torch.isfinite(found.total).all() and found.total.mean() > 0):
        return Whole(None, k, why="every column of the Jacobian is zero, or it is not finite")
    top = None
    if likelihood is None and at == few:
        count = min(TRIPLETS, k, decoder.data_dim)
        places = z[: TRIPLETS_AT if few == min(MOST, len(z)) else 1]
        top = _leading(decoder, places, count, seed)
    return Whole(found, k, probes, top)


def _leading(decoder: Decoder, z: Tensor, count: int, seed: int) -> SingularTriplets:
    """Return the leading singular triplets at some latents."""

    def found() -> tuple[Tensor, ...]:
        top = singular_triplets(decoder, z, count, products=PRODUCTS, tolerance=1e-2, seed=seed)
        return top.s, top.U, top.V, top.residual, top.missed, cpu.tensor(top.products)

    s, U, V, residual, missed, products = recalled_together(("triplets", decoder, count, seed), [z], found)
    return SingularTriplets(s, U, V, residual, missed, int(products))


def _affordable(decoder: Decoder, z: Tensor, probes: int, seed: int, likelihood: Likelihood | None) -> int:
    """Return at how many latents there is time for random products, as they tell at one; 0 where there is none left."""
    if budget().over:
        return 0
    start = time.monotonic()
    energies(decoder, z[:1], probes=2, seed=seed, likelihood=likelihood)
    one = (time.monotonic() - start) * probes / 2
    # half of what is left, for triplets take about as long again
    return int(processes().agreed(budget().left / (2 * one)))
