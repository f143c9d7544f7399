"""Does the density that a decoder generates factorise, along which seams, and independently? The evidence.

With the prior N(0, I) the density at f(z) is p(z) / |det J|.  It is the product of the seam factors
p(z_i) / n_i, n_i = ||J_i||, iff the columns of J are orthogonal (C1), and the factors are independent iff
each n_i is a function of z_i alone (C2): independent components <=> C1 and C2 <=> G = diag(n_i(z_i)^2).

Whether something is zero is an equivalence test: it is where its whole confidence interval lies under a
margin, it is not where the interval lies above, and else more latents are drawn.  All margins follow from
one, in nats: a contrast is about half the sum of squared cosines, and a column length that varies by a factor
exp(cross) costs about cross^2 / 2.

Source: Allen (2024), arXiv:2410.22559v1, Section 4.1; C2 is missing from Theorem 2 of that version, which is
false without it (polar coordinates have orthogonal columns and dependent factors).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.geometry.connection import seam_connection
from vaeprobe.geometry.dependence import PairTest, correlation_test, distance_correlation_test
from vaeprobe.geometry.gram import active_latents, ima_contrast, singular_tolerance
from vaeprobe.geometry.jacobian import gram
from vaeprobe.geometry.modulation import (
    column_lengths,
    frozen_lengths,
    jacobian_variation,
    log_ratio,
    redrawn_lengths,
)
from vaeprobe.geometry.rotations import RotationFit, haar, joint_diagonalise, rotated_contrast
from vaeprobe.geometry.smoothness import Smoothness, metric_derivatives, smoothness
from vaeprobe.intervals import mean_interval, percentile_interval, resampled_means, stream
from vaeprobe.latents import Latents, Prior
from vaeprobe.likelihoods import Likelihood
from vaeprobe.progress import tell, track

__all__ = ["Curved", "Decision", "Evidence", "Factors", "Spread", "Verdict", "gather"]

Verdict = Literal["linear", "independent", "dependent", "rotated", "curved", "entangled", "undefined"]

# J is constant where it varies by no more than this, root mean square and relative to its length.
CONSTANT = 1e-3
# M, curved C2 and twist count as zero under this share of their terms.
CURVED = 0.01
# Latents for the linear test, the pairs, the rotation null, the tests of dependence, second derivatives.
LINEAR_ROWS, PAIR_ROWS, NULL_ROWS, TEST_ROWS, CURVED_ROWS = 128, 128, 256, 4096, 64
# Rows of the fit of R*, random rotations of the null.
FIT_ROWS, ROTATIONS = 1024, 50
# Third-order evaluations of the decoder at most.
THIRD_ORDER = 60_000
SEGMENTS = 16
TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Decision:
    """Is a quantity that cannot be negative zero, for all that matters?

    Attributes:
        value: estimate.
        ci: confidence interval; None where there are too few samples for one.
        limit: what counts as zero.
        n: independent samples.
    """

    value: float
    ci: tuple[float, float] | None
    limit: float
    n: int

    @property
    def zero(self) -> bool | None:
        """True, False, or None where the interval holds the limit."""
        low, high = self.ci or (0.0, math.inf)
        if high <= self.limit:
            return True
        return False if low > self.limit else None

    @property
    def likely_zero(self) -> bool:
        """The decision, by the estimate where the interval does not decide."""
        return self.value <= self.limit if self.zero is None else self.zero


@dataclass(frozen=True, eq=False)
class Spread:
    """How far column lengths depend on their own latent alone (C2).

    Attributes:
        cross: sqrt(E Var(log n_i | z_i)) per latent, shape (a,).
        cross_ci: shape (a, 2).
        deviation: standard deviation of log n_i, shape (a,).
        own_share: 1 - cross_i^2 / Var(log n_i) per latent; None where n_i is constant.
        own_share_ci: per latent, likewise.
        mean_own_share: over the latents whose n_i is not constant; None where there is none.
        mean_own_share_ci: likewise.
        largest: the largest cross, against zero.
        lost: pairs of latents left out since a column had length zero, at the worst latent.
    """

    cross: tuple[float, ...]
    cross_ci: tuple[tuple[float, float], ...]
    deviation: tuple[float, ...]
    own_share: tuple[float | None, ...]
    own_share_ci: tuple[tuple[float, float] | None, ...]
    mean_own_share: float | None
    mean_own_share_ci: tuple[float, float] | None
    largest: Decision
    lost: int


@dataclass(frozen=True, eq=False)
class Factors:
    """Are the seam factors, p(z_i) / n_i as a random variable each, dependent?

    Attributes:
        correlations: of log p(z_i) - log n_i.
        distances: distance correlations of the same.
        rows: latents behind the correlations.
        distance_rows: latents behind the distance correlations.
    """

    correlations: PairTest
    distances: PairTest
    rows: int
    distance_rows: int


@dataclass(frozen=True, eq=False)
class Curved:
    """Do curved seams factorise the density (Section 4.1.3)?

    Attributes:
        state: "independent" (case 2), "dependent" (case 1, or seams that form no coordinates), or
            "undetermined".
        why: a clause for the report.
        dependence: size of M relative to its terms; None where it was not computed.
        modulation: size of the curved C2, likewise.
        twist: size of the part of brackets of seams that keeps them from forming coordinates, likewise.
        tied: share of the latents at which some singular values are equal: those seams are tested together.
        rows: latents used.
    """

    state: Literal["independent", "dependent", "undetermined"]
    why: str
    dependence: Decision | None = None
    modulation: Decision | None = None
    twist: Decision | None = None
    tied: float = 0.0
    rows: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """Everything that a verdict rests on; what was not needed or cannot be had is None.

    Attributes:
        continuous: indices of the continuous latents.
        active: which of them are active, as positions in `continuous`.
        drawn: latents drawn.
        usable: latents at which the active columns are finite and linearly independent.
        undefined: why there is no verdict; None where there is one.
        contrast: ima contrast at each usable latent, in drawing order.
        gap: its mean, against zero (C1).
        gap_null: its mean over random rotations of the latent space.
        variation: how much the Jacobian varies, as the largest share of E ||J_i||^2 that is variance.
        spread: C2 at the given axes.
        factors: dependence of the seam factors at the given axes; None where a column is too often dead.
        pairs: cross(i, j), shape (a, a): how column i changes when latent j alone is redrawn.
        pair_rows: latents behind it.
        smooth: whether derivatives of J mean anything.
        derivatives: rms of d log n_i / d z_j, shape (a, a).
        rotation: the best rotation, fitted on one half.
        gap_held_out: contrast at the given axes on the other half.
        gap_rotated: contrast at the best rotation on the other half, against zero.
        spread_rotated, factors_rotated: as `spread` and `factors`, at the best rotation.
        tied: the metric is a multiple of I at every latent, so that no basis is special.
        curved: the test of curved seams.
    """

    continuous: tuple[int, ...]
    active: tuple[int, ...]
    drawn: int
    usable: int
    undefined: str | None = None
    contrast: Tensor = field(default_factory=lambda: torch.zeros(0))
    gap: Decision | None = None
    gap_null: float | None = None
    variation: Decision | None = None
    spread: Spread | None = None
    factors: Factors | None = None
    pairs: Tensor | None = None
    pair_rows: int = 0
    smooth: Smoothness | None = None
    derivatives: Tensor | None = None
    rotation: RotationFit | None = None
    gap_held_out: float | None = None
    gap_rotated: Decision | None = None
    spread_rotated: Spread | None = None
    factors_rotated: Factors | None = None
    tied: bool = False
    curved: Curved | None = None

    @property
    def verdict(self) -> Verdict:
        if self.undefined or not (self.gap and self.variation and self.spread):
            return "undefined"
        if self.variation.likely_zero:
            return "linear"
        if self.gap.likely_zero:
            return "independent" if self.spread.largest.likely_zero else "dependent"
        if self.gap_rotated and self.gap_rotated.likely_zero:
            return "rotated"
        return "curved" if self.curved and self.curved.state == "independent" else "entangled"

    @property
    def undecided(self) -> tuple[str, ...]:
        """The tests behind the verdict that the samples leave open."""
        return tuple(name for name, decision in self._path() if decision.zero is None)

    def _path(self) -> list[tuple[str, Decision]]:
        if self.undefined or not (self.gap and self.variation and self.spread):
            return []
        path = [("linear", self.variation)]
        if not self.variation.likely_zero:
            path.append(("C1", self.gap))
            if self.gap.likely_zero:
                path.append(("C2", self.spread.largest))
            elif self.gap_rotated:
                path.append(("C1 after a rotation", self.gap_rotated))
        return path


# -- sampling -----------------------------------------------------------------------------------


@dataclass(eq=False)
class _Sample:
    """Latents with independent partners, their metrics and column lengths; grows.

    Attributes:
        R: directions of the active latents, shape (k, a).
        G: metric at z, shape (n, k, k).
        frozen: ||J r_i|| with the i-th coordinate of z and all else of the partner, shape (n, a).
        changes, sizes: of each column between z and its partner (`jacobian_variation`), for the first rows.
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
    ) -> _Sample:
        k = len(decoder.continuous)
        z = torch.zeros(0, decoder.latent_dim, dtype=torch.float64)
        G = torch.zeros(0, k, k, dtype=torch.float64)
        none = torch.zeros(k, 0, dtype=torch.float64)
        sample = cls(decoder, source, likelihood, seed, chunk, z, z, G, none, none.T, none.T, none.T)
        sample.grow(samples)
        finite = sample.G[torch.isfinite(sample.G).flatten(1).all(1)]
        active = _active(finite, threshold)
        sample.R = torch.eye(k, dtype=torch.float64)[:, active]
        empty = torch.zeros(0, len(active), dtype=torch.float64)
        sample.frozen = sample.changes = sample.sizes = empty
        return sample

    def grow(self, total: int) -> bool:
        """Extend to `total` latents; False where the source has no more."""
        start = len(self.z)
        z = self.source.draw(self.decoder, total, seed=self.seed)[start:]
        if not len(z):
            return False
        self.z = torch.cat([self.z, z])
        self.partner = torch.cat([self.partner, self._partners(z, start, total)])
        self.G = torch.cat([self.G, gram(self.decoder, z, likelihood=self.likelihood, chunk=self.chunk)])
        return True

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
        """Return G over the active latents, shape (n, a, a)."""
        return self.R.T @ self.G @ self.R

    def freeze(self) -> Tensor:
        """Return `frozen`, for all rows drawn so far."""
        start = len(self.frozen)
        if start < len(self.z):
            more = frozen_lengths(
                self.decoder,
                self.z[start:],
                self.partner[start:],
                self.R,
                likelihood=self.likelihood,
                chunk=self.chunk,
            )
            self.frozen = torch.cat([self.frozen, more])
        return self.frozen

    def vary(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return `changes` and `sizes` for that many rows at least."""
        start, stop = len(self.changes), min(rows, len(self.z))
        if start < stop:
            natural = self.decoder.natural_for(self.likelihood)
            z, partner = self.z[start:stop], self.partner[start:stop]
            more = jacobian_variation(self.decoder, z, partner, self.R, natural=natural, chunk=self.chunk)
            self.changes = torch.cat([self.changes, more[0]])
            self.sizes = torch.cat([self.sizes, more[1]])
        return self.changes, self.sizes


def _active(G: Tensor, threshold: float) -> Tensor:
    """Return the positions of the active latents.

    The one per cent of the latents with the largest metric is left out of the root mean square: where J has a
    pole, a single latent would decide.
    """
    if not len(G):
        return torch.arange(0)
    size = G.diagonal(dim1=-2, dim2=-1).sum(-1)
    ordinary = size <= size.sort().values[math.ceil(0.99 * len(G)) - 1]
    return active_latents(G[ordinary], threshold).nonzero().flatten()


# -- collecting ---------------------------------------------------------------------------------


def gather(
    decoder: Decoder,
    source: Latents,
    *,
    samples: int,
    max_samples: int,
    seed: int = 0,
    margin: float = 1e-4,
    threshold: float = 0.05,
    permutations: int = 499,
    likelihood: Likelihood | None = None,
    chunk: int | None = None,
) -> Evidence:
    """Collect the evidence on a decoder, drawing latents until the verdict is decided or max_samples.

    Intervals are not corrected for looking again after each doubling.

    Args:
        samples: latents to start with; doubled while a test that the verdict needs is undecided.
        max_samples: latents at most.
        margin: contrast in nats that counts as zero; C2 is held against the cross that costs as much,
            sqrt(2 margin).
        threshold: share of the largest rms column norm above which a latent is active.
        permutations: of the tests of dependence.
        likelihood: whose metric weights the Jacobian; None for the Euclidean one.
    """
    sample = _Sample.start(
        decoder, source, samples, threshold=threshold, likelihood=likelihood, seed=seed, chunk=chunk
    )
    while True:
        tell("latents", len(sample.z), None)
        evidence = _decide(sample, margin, threshold)
        if evidence.undefined or not evidence.undecided or len(sample.z) >= max_samples:
            break
        if not sample.grow(min(2 * len(sample.z), max_samples)):
            break
    tell("latents", len(sample.z), len(sample.z))
    return evidence if evidence.undefined else _complete(evidence, sample, margin, permutations)


def _decide(sample: _Sample, margin: float, threshold: float) -> Evidence:
    """Return what the verdict rests on."""
    k, a = sample.R.shape
    continuous = tuple(sample.decoder.continuous)
    active = tuple(sample.R.argmax(0).tolist()) if a else ()
    n = len(sample.z)
    finite = torch.isfinite(sample.G).flatten(1).all(1)
    if a < 2:
        undefined = _too_few(k, a, threshold)
        return Evidence(
            continuous=continuous, active=active, drawn=n, usable=int(finite.sum()), undefined=undefined
        )
    contrast = _contrasts(sample)
    usable = torch.isfinite(contrast)
    count = int(usable.sum())
    if count < 4 or 2 * count <= n:
        undefined = _deficient(a, sample.decoder.data_dim, count, n)
        return Evidence(continuous=continuous, active=active, drawn=n, usable=count, undefined=undefined)

    gap = _mean_decision(contrast[usable], margin, sample.seed)
    variation = _variation(sample)
    rotation = gap_held_out = gap_rotated = None
    if not (gap.likely_zero or variation.likely_zero):
        rotation, gap_held_out, gap_rotated = _best_rotation(sample, usable, margin)
    return Evidence(
        continuous=continuous,
        active=active,
        drawn=n,
        usable=count,
        contrast=contrast[usable],
        gap=gap,
        variation=variation,
        spread=_spread(sample, usable, sample.R, sample.freeze(), margin),
        rotation=rotation,
        gap_held_out=gap_held_out,
        gap_rotated=gap_rotated,
    )


def _complete(evidence: Evidence, sample: _Sample, margin: float, permutations: int) -> Evidence:
    """Return the evidence with what explains the verdict, and the test of curved seams where it is needed."""
    usable = torch.isfinite(_contrasts(sample))
    G = sample.active_metric()[usable]
    seed, a = sample.seed, G.shape[1]
    null = rotated_contrast(G[:NULL_ROWS], haar(a, ROTATIONS, seed), tolerance=_tolerance(sample))
    pairs, pair_rows = _pairs(sample, usable)
    smooth = _smoothness(sample, 1)
    spread_rotated = factors_rotated = None
    if evidence.verdict == "rotated" and evidence.rotation:
        R = sample.R @ evidence.rotation.R
        keep = usable.clone()
        keep[usable.nonzero().flatten()[0::2]] = False  # R* was fitted on these
        frozen = frozen_lengths(
            sample.decoder,
            sample.z[keep],
            sample.partner[keep],
            R,
            likelihood=sample.likelihood,
            chunk=sample.chunk,
        )
        full = torch.full((len(sample.z), a), torch.nan, dtype=torch.float64)
        full[keep] = frozen
        spread_rotated = _spread(sample, keep, R, full, margin)
        factors_rotated = _factors(sample, keep, R, permutations)
    return replace(
        evidence,
        gap_null=float(null.mean()),
        factors=_factors(sample, usable, sample.R, permutations),
        pairs=pairs,
        pair_rows=pair_rows,
        smooth=smooth,
        derivatives=_log_length_derivatives(sample, usable) if smooth.smooth else None,
        spread_rotated=spread_rotated,
        factors_rotated=factors_rotated,
        tied=_is_tied(G),
        curved=_curved(sample, usable, smooth) if evidence.verdict == "entangled" else None,
    )


def _tolerance(sample: _Sample) -> float:
    return singular_tolerance(sample.R.shape[1], sample.decoder.dtype or torch.float64)


def _contrasts(sample: _Sample) -> Tensor:
    """Return the ima contrast over the active latents, inf where they are not independent, shape (n,)."""
    G = sample.active_metric()
    finite = torch.isfinite(G).flatten(1).all(1)
    contrast = torch.full((len(G),), torch.inf, dtype=torch.float64)
    contrast[finite] = ima_contrast(G[finite], tolerance=_tolerance(sample))
    return contrast


def _too_few(k: int, active: int, threshold: float) -> str:
    if k < 2:
        return "one latent has no other to be orthogonal to or independent of"
    return (
        f"{active} of {k} continuous latents {'is' if active == 1 else 'are'} active (above {threshold:g} of "
        "the largest column norm), and a verdict needs two"
    )


def _deficient(active: int, outputs: int, usable: int, drawn: int) -> str:
    if drawn < 4:
        return f"{drawn} latents are too few for a verdict"
    if outputs < active:
        return f"{active} active latents in {outputs} outputs: the Jacobian has no full column rank"
    return (
        f"the columns of the {active} active latents are linearly dependent (or not finite) at "
        f"{drawn - usable} of {drawn} latents"
    )


def _is_tied(G: Tensor) -> bool:
    """Return whether G is a multiple of I at every latent, to rounding."""
    scale = G.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    return bool(((G / scale - torch.eye(G.shape[1], dtype=G.dtype)).abs().amax((1, 2)) < 1e-5).all())


# -- C1 and linearity ---------------------------------------------------------------------------


def _mean_decision(values: Tensor, limit: float, seed: int) -> Decision:
    ci = mean_interval(values.numpy(), seed=seed)
    return Decision(float(values.mean()), ci, limit, len(values))


def _variation(sample: _Sample) -> Decision:
    """Decide whether J is constant: on a part of the latents, and on all where that part says so."""
    decision = _variation_of(*sample.vary(LINEAR_ROWS), sample.seed)
    if decision.zero is not False:
        decision = _variation_of(*sample.vary(len(sample.z)), sample.seed)
    return decision


def _variation_of(changes: Tensor, sizes: Tensor, seed: int) -> Decision:
    a = changes.shape[1]
    rows = torch.cat([changes, sizes], dim=1).numpy()

    def largest(means: NDArray[np.float64]) -> NDArray[np.float64]:
        worst: NDArray[np.float64] = (means[..., :a] / np.maximum(means[..., a:], TINY)).max(-1)
        return worst

    ci = percentile_interval(largest(resampled_means(rows, seed=seed)))
    return Decision(float(largest(rows.mean(0))), ci, CONSTANT**2, len(rows))


def _best_rotation(sample: _Sample, usable: Tensor, margin: float) -> tuple[RotationFit, float, Decision]:
    """Fit the best rotation on every other latent; return it and the contrasts on the rest, before and after."""
    G = sample.active_metric()[usable]
    restarts = 4 if G.shape[1] <= 16 else 1
    fit = joint_diagonalise(
        G[0::2][:FIT_ROWS], restarts=restarts, seed=sample.seed, tolerance=_tolerance(sample)
    )
    bases = torch.stack([torch.eye(G.shape[1], dtype=G.dtype), fit.R])
    held, rotated = rotated_contrast(G[1::2], bases, tolerance=_tolerance(sample))
    return fit, float(held.mean()), _mean_decision(rotated, margin, sample.seed)


# -- C2 -----------------------------------------------------------------------------------------


def _spread(sample: _Sample, usable: Tensor, R: Tensor, frozen: Tensor, margin: float) -> Spread:
    """Compare column lengths at latents that share one coordinate."""
    lengths, frozen = column_lengths(sample.G[usable], R), frozen[usable]
    rounding = float(torch.finfo(sample.decoder.dtype or torch.float64).eps)
    floor = rounding * lengths.square().mean(0).sqrt()
    ratio, alive = log_ratio(lengths, frozen, floor)
    alive &= torch.isfinite(frozen)
    one = torch.ones_like(lengths)
    logs, logs_ = (torch.where(alive, x, one).log() for x in (lengths, frozen))
    centre = (logs + logs_).sum(0) / (2 * alive.sum(0)).clamp_min(1)
    logs, logs_ = (torch.where(alive, x - centre, 0.0) for x in (logs, logs_))
    ratio = torch.where(alive, ratio, 0.0)
    a = R.shape[1]
    rows = torch.cat(
        [alive.double(), ratio.square() / 2, (logs + logs_) / 2, (logs.square() + logs_.square()) / 2], dim=1
    ).numpy()

    def of(means: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return cross and standard deviation of log n_i, both (..., a)."""
        weight, half, first, second = (means[..., i * a : (i + 1) * a] for i in range(4))
        weight = np.maximum(weight, TINY)
        variance = np.maximum(second / weight - (first / weight) ** 2, 0)
        return np.sqrt(half / weight), np.sqrt(variance)

    cross, deviation = of(rows.mean(0))
    crosses, deviations = of(resampled_means(rows, seed=sample.seed))
    constant = deviation <= max(1e-9, 100 * rounding)
    own = 1 - (cross / np.where(constant, 1, deviation)) ** 2
    owns = 1 - (crosses / np.where(constant, 1, np.maximum(deviations, TINY))) ** 2
    varying = np.flatnonzero(~constant)
    return Spread(
        cross=tuple(cross.tolist()),
        cross_ci=tuple(percentile_interval(crosses[:, i]) for i in range(a)),
        deviation=tuple(deviation.tolist()),
        own_share=tuple(None if constant[i] else float(own[i]) for i in range(a)),
        own_share_ci=tuple(None if constant[i] else percentile_interval(owns[:, i]) for i in range(a)),
        mean_own_share=float(own[varying].mean()) if len(varying) else None,
        mean_own_share_ci=percentile_interval(owns[:, varying].mean(1)) if len(varying) else None,
        largest=Decision(
            float(cross.max()), percentile_interval(crosses.max(1)), math.sqrt(2 * margin), len(rows)
        ),
        lost=int((~alive).sum(0).max()),
    )


def _pairs(sample: _Sample, usable: Tensor) -> tuple[Tensor, int]:
    """Return cross(i, j) = sqrt(1/2 E (change of log n_i when z_j alone is redrawn)^2), and the latents used."""
    a = sample.R.shape[1]
    rows = usable.nonzero().flatten()[: max(16, min(PAIR_ROWS, 64 * PAIR_ROWS // a**2))]
    lengths = column_lengths(sample.G[rows], sample.R)
    floor = 1e-300 + 1e-7 * lengths.square().mean(0).sqrt()
    redrawn = redrawn_lengths(
        sample.decoder,
        sample.z[rows],
        sample.partner[rows],
        sample.R,
        likelihood=sample.likelihood,
        chunk=sample.chunk,
    )
    columns = []
    for other in track(redrawn, "which latent modulates which", total=a):
        ratio, alive = log_ratio(lengths, other, floor)
        columns.append((ratio.square().sum(0) / (2 * alive.sum(0)).clamp_min(1)).sqrt())
    return torch.stack(columns, dim=1), len(rows)


def _log_length_derivatives(sample: _Sample, usable: Tensor) -> Tensor | None:
    """Return the root mean square over latents of d log n_i / d z_j, shape (a, a), [i, j]."""
    a = sample.R.shape[1]
    rows = usable.nonzero().flatten()[: max(8, min(CURVED_ROWS, 16 * CURVED_ROWS // a))]
    try:
        G, dG, _ = metric_derivatives(
            sample.decoder, sample.z[rows], _places(sample), likelihood=sample.likelihood, order=1
        )
    except (RuntimeError, NotImplementedError):
        return None
    slope = torch.einsum("njii->nij", dG) / (2 * G.diagonal(dim1=-2, dim2=-1)[:, :, None].clamp_min(TINY))
    return slope.square().mean(0).sqrt()


def _places(sample: _Sample) -> list[int]:
    """Return the columns of z that hold the active latents."""
    continuous = sample.decoder.continuous
    return [continuous[i] for i in sample.R.argmax(0).tolist()]


# -- seam factors -------------------------------------------------------------------------------


def _factors(sample: _Sample, usable: Tensor, R: Tensor, permutations: int) -> Factors | None:
    """Test the log seam factors log p(y_i) - log n_i, y = R^T z, for dependence."""
    lengths = column_lengths(sample.G[usable], R)
    y = sample.z[usable][:, sample.decoder.continuous] @ R
    alive = (lengths > 0).all(1)
    if int(alive.sum()) < 8:
        return None
    factors = (-y.square() / 2 - torch.where(lengths > 0, lengths, 1.0).log())[alive][:TEST_ROWS]
    a = R.shape[1]
    few = factors[: max(64, min(256, int(400 / a**0.5)))]
    return Factors(
        correlations=correlation_test(factors, permutations=permutations, seed=sample.seed),
        distances=distance_correlation_test(few, permutations=min(permutations, 199), seed=sample.seed),
        rows=len(factors),
        distance_rows=len(few),
    )


# -- curved seams -------------------------------------------------------------------------------


def _smoothness(sample: _Sample, order: Literal[1, 2]) -> Smoothness:
    rows = min(SEGMENTS, len(sample.z))
    rng = stream(sample.seed, "segments")
    u = torch.from_numpy(rng.standard_normal((rows, sample.R.shape[1]))) @ sample.R.T
    a, b = sample.z[:rows], sample.partner[:rows].clone()
    codes = [i for i in range(a.shape[1]) if i not in set(sample.decoder.continuous)]
    b[:, codes] = a[:, codes]
    natural = sample.decoder.natural_for(sample.likelihood)
    return smoothness(sample.decoder, a, b, u, natural=natural, order=order)


def _curved(sample: _Sample, usable: Tensor, smooth: Smoothness) -> Curved:
    """Decide between independent and dependent curved seams, where derivatives can."""
    decoder = sample.decoder
    single = (decoder.dtype or torch.float64) != torch.float64
    a = sample.R.shape[1]
    if smooth.kind in ("unknown", "piecewise linear"):
        return Curved("undetermined", smooth.why)
    if smooth.kind == "kinked" and single:
        return Curved("undetermined", f"{smooth.why}, and derivatives miss what happens there")
    rows = min(CURVED_ROWS, THIRD_ORDER // (a * a * (a + 1) // 2))
    if rows < 4:
        return Curved("undetermined", f"{a} active latents have too many third derivatives")
    chosen = usable.nonzero().flatten()[:rows]
    try:
        z = sample.z[chosen]
        G, dG, ddG = metric_derivatives(decoder, z, _places(sample), likelihood=sample.likelihood)
    except (RuntimeError, NotImplementedError):
        return Curved("undetermined", "the decoder has no third derivatives")
    assert ddG is not None
    rounding = float(torch.finfo(decoder.dtype or torch.float64).eps)
    seams = seam_connection(
        z[:, _places(sample)], G, dG, ddG, tie=1e-4 if single else 1e-9, rounding=rounding
    )
    clear = torch.isfinite(seams.mixed).flatten(1).all(1) & (seams.noise < CURVED / 10)
    if 4 * int(clear.sum()) < len(chosen) or int(clear.sum()) < 4:
        cure = "; float64 would tell more (--dtype float64)" if single else ""
        return Curved(
            "undetermined",
            f"singular values are too close for the rounding at {int((~clear).sum())} of {len(chosen)} latents{cure}",
        )
    if seams.same.all():
        return Curved("undetermined", "all singular values are equal, and no seam is identified")

    def share(part: Tensor, scale: Tensor) -> Decision:
        """Hold the size of a defect against its terms, and against the prior's own curvature, 1."""
        relative = part[clear].flatten(1).norm(dim=1) / (1 + scale[clear].flatten(1).norm(dim=1))
        return _mean_decision(relative, CURVED, sample.seed)

    # without symmetry M is no mixed derivative: seams that form no coordinates show in the twist
    dependence = share(seams.mixed, seams.mixed_scale)
    modulation = share(seams.modulation, seams.modulation_scale)
    twist = share(seams.twist, seams.bending)
    numbers = {"dependence": dependence, "modulation": modulation, "twist": twist}
    untied = seams.same.sum((1, 2)) == a
    facts = {"tied": 1 - float(untied[clear].double().mean()), "rows": int(clear.sum())}

    def verdict(state: Literal["independent", "dependent", "undetermined"], why: str) -> Curved:
        return Curved(state, why, **numbers, **facts)  # type: ignore[arg-type]

    if not twist.likely_zero:
        return verdict("dependent", "the seams form no coordinates: brackets of seams leave their span")
    if not dependence.likely_zero:
        return verdict("dependent", "the density along the seams does not factorise: M is not 0")
    if not modulation.likely_zero:
        return verdict("dependent", "the density factor of a seam changes along other seams")
    if not smooth.smooth:
        return verdict("undetermined", f"{smooth.why}, and derivatives miss what happens there")
    twice = _smoothness(sample, 2)
    if not twice.smooth:
        return verdict("undetermined", f"{twice.why}, and derivatives miss what happens there")
    return verdict("independent", "M, the curved C2 and the twist of the seams are 0")
