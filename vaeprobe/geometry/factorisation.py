"""Does the density that a decoder generates factorise, along which seams, and independently? The evidence.

With the prior N(0, I) the density at f(z) is p(z) / |det J|.  It is the product of the seam factors
p(z_i) / n_i, n_i = ||J_i||, iff the columns of J are orthogonal (C1), and the factors are independent iff
each n_i is a function of z_i alone (C2): independent components <=> C1 and C2 <=> G = diag(n_i(z_i)^2).

Whether something is zero is an equivalence test: it is where its whole confidence interval lies under a
margin, it is not where the interval lies above, and else more latents are drawn.  All margins follow from
one, in nats: a contrast is about half the sum of squared cosines, and a column length that varies by a factor
exp(cross) costs about cross^2 / 2.

Both statements are about p(x) where f is one-to-one: elsewhere other latents with the same output add to p(x)
(`sheets`), and what is said here holds locally.

Source: Allen (2024), arXiv:2410.22559v1, Section 4.1; C2 is missing from Theorem 2 of that version, which is
false without it (polar coordinates have orthogonal columns and dependent factors).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.budget import TimeIsOver, beginning, budget, optional, share_of, timely
from vaeprobe.decoder import Decoder
from vaeprobe.engine.remembered import recalled_together
from vaeprobe.engine.rounding import Lost, lost_columns, typical
from vaeprobe.geometry.best_rotation import RotationFit, joint_diagonalise
from vaeprobe.geometry.curved import FEW_SEGMENTS, SEGMENTS, Curved, curved_seams, segment_smoothness
from vaeprobe.geometry.decisions import EVENT, Decision, mean_decision, unseen
from vaeprobe.geometry.factors import Factors, seam_factors
from vaeprobe.geometry.grades import Grades, grades
from vaeprobe.geometry.gram import alike_words, least_contrast
from vaeprobe.geometry.modulation import column_lengths, log_ratio, redrawn_lengths
from vaeprobe.geometry.rotations import haar, null_contrasts, rotate, rotated_contrast
from vaeprobe.geometry.sample import Sample
from vaeprobe.geometry.sheets import Sheets, find_sheets
from vaeprobe.geometry.smoothness import (
    LOOKED_AT,
    Smoothness,
    departures,
    discontinuities,
    metric_derivatives,
)
from vaeprobe.geometry.spread import TINY, Spread, spread_of
from vaeprobe.intervals import percentile_interval, resampled_means
from vaeprobe.latents import Latents
from vaeprobe.likelihoods import Likelihood
from vaeprobe.processes import current as processes
from vaeprobe.progress import tell, track

__all__ = ["Evidence", "Verdict", "gather"]

Verdict = Literal[
    "linear", "independent", "dependent", "rotated", "curved", "entangled", "undetermined", "undefined"
]

# J is constant where it varies by no more than this, root mean square and relative to its length.
CONSTANT = 1e-3
# Latents for the pairs, the rotation null, first derivatives.
PAIR_ROWS, NULL_ROWS, SLOPE_ROWS = 64, 256, 64
# Rows that R* is fitted on at most; random rotations of the null, and the fewest where time is limited.
FIT_ROWS, ROTATIONS, FEWEST_ROTATIONS = 384, 50, 5
# Multiply-adds of a step of that fit, and of all rotations of a null, that rows of hundreds of axes are limited to; rows at least.
FIT_WORK, ROTATED_WORK, FEW_ROTATED = 10**10, 10**12, 16
# Latents and random rotations of the grades.
GRADED, GRADE_ROTATIONS = 4096, 20
# Where time is limited: latents to start with, those without which there is no verdict, and the part of what is left that
# looking for jumps may take.
FIRST, FEWEST, JUMPS = 8, 4, 0.25
# Active latents up to which other sheets are looked for.
SHEETS_MOST = 64
# What explains a verdict and is left out where no time is left, the most telling first.
Extra = Literal["jumps", "grades", "factors", "curved", "pairs", "sheets", "derivatives"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """Everything that a verdict rests on; what was not needed or cannot be had is None.

    Attributes:
        continuous: indices of the continuous latents.
        active: which of them are active, as positions in `continuous`.
        drawn: latents drawn.
        limited: seconds that the latents asked for would have taken, where time did not last for them.
        usable: latents at which the active columns are finite and linearly independent.
        undefined: why there is no verdict; None where there is one.
        alike: whether that is since some latents move the output alike, which it names.
        rounding: columns that are rounding, where that is why.
        zeros: latents at which an active column has length zero, of those that are not usable.
        contrast: ima contrast at each usable latent, in drawing order.
        gap: its mean over all latents, against zero (C1); at those that are not usable what it is at least.
        null: its mean over latents under each random rotation of the latent space, shape (rotations,).
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
        jumps: share of segments between latents on which the decoder itself jumps; None where unknown.
        grades: how far from factorising, beside the same at random axes.
        sheets: other latents with the same output; None where none was looked for.
        gap_true: mean over latents of log p(x), summed over the sheets found, less the log seam factors.
        letter: what latents are called, with their number.
        gap_true_ci: its interval, with room for sheets as heavy as the own at latents too rare to be probed.
        skipped: what no time was left for, of `Extra`.
    """

    continuous: tuple[int, ...]
    active: tuple[int, ...]
    drawn: int
    usable: int
    zeros: int = 0
    undefined: str | None = None
    alike: bool = False
    rounding: Lost | None = None
    letter: str = "z"
    limited: float | None = None
    contrast: Tensor = field(default_factory=lambda: cpu.zeros(0))
    gap: Decision | None = None
    null: Tensor | None = None
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
    jumps: float | None = None
    grades: Grades | None = None
    sheets: Sheets | None = None
    gap_true: float | None = None
    gap_true_ci: tuple[float, float] | None = None
    skipped: frozenset[Extra] = frozenset()

    @property
    def axes(self) -> str:
        """What is asked along, in the plural."""
        return "latents" if self.letter == "z" else "directions"

    @property
    def gap_null(self) -> float | None:
        """The gap at random axes: the mean of `null`."""
        return None if self.null is None else float(self.null.mean())

    @property
    def verdict(self) -> Verdict:
        """What the evidence decides; "undetermined" while a test that decides it is open."""
        return "undetermined" if self.undecided else self.leaning

    @property
    def leaning(self) -> Verdict:
        """The verdict by the estimates, where the intervals leave a test open."""
        if self.undefined or not (self.gap and self.variation and self.spread):
            return "undefined"
        if self.constant:
            return "linear"
        if self.gap.likely_zero:
            return "independent" if self.spread.largest.likely_zero else "dependent"
        if self.gap_rotated and self.gap_rotated.likely_zero:
            return "rotated"
        return "curved" if self.curved and self.curved.state == "independent" else "entangled"

    @property
    def constant(self) -> bool:
        """Whether the decoder looks linear: a constant Jacobian and no jumps."""
        return self.variation is not None and self.variation.likely_zero and not self.jumps

    @property
    def undecided(self) -> tuple[str, ...]:
        """The tests behind the verdict that the samples leave open."""
        return tuple(name for name, decision in self._path() if decision.zero is None)

    @property
    def wanting(self) -> bool:
        """Whether more latents could decide something that the report states."""
        rotated = self.spread_rotated
        return bool(self.undecided or (rotated and rotated.largest.zero is None))

    @property
    def near_zero(self) -> bool:
        """Whether all that is open looks like nothing, which only many latents tell from something rare."""
        open_ = [decision for _, decision in self._path() if decision.zero is None]
        if self.spread_rotated and self.spread_rotated.largest.zero is None:
            open_.append(self.spread_rotated.largest)
        return all(decision.value < 0.1 * decision.limit for decision in open_)

    def _path(self) -> list[tuple[str, Decision]]:
        if self.undefined or not (self.gap and self.variation and self.spread):
            return []
        path = [] if self.jumps else [("linear", self.variation)]
        if not self.constant:
            path.append(("C1", self.gap))
            if self.gap.likely_zero:
                path.append(("C2", self.spread.largest))
            elif self.gap_rotated:
                path.append(("C1 after a rotation", self.gap_rotated))
        return path


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
    sheets: int = 48,
    likelihood: Likelihood | None = None,
    chunk: int | None = None,
    frugal: bool = False,
    direction: float | None = None,
) -> Evidence:
    """Collect the evidence on a decoder, drawing latents until the verdict is decided or max_samples.

    Intervals are not corrected for looking again after each doubling.

    Args:
        samples: latents to start with; doubled while a test that the verdict needs is undecided, and all drawn
            where every such test sees nothing.
        max_samples: latents at most.
        margin: contrast in nats that counts as zero; C2 is held against the cross that costs as much,
            sqrt(2 margin).
        threshold: share of the largest mean column norm above which a latent is active, and above which other
            latents' change of its norm makes it so (`Sample`).
        permutations: of the tests of dependence.
        sheets: latents at which others with the same output are looked for.
        likelihood: whose metric weights the Jacobian; None for the Euclidean one.
        frugal: columns are dear: which latent changes which column is not measured (it takes a^2 columns a latent), and
            jumps, smoothness and a constant Jacobian are judged at fewer latents.
        direction: seconds that a directional derivative takes, as foretold; None where nobody knows.
    """
    began, wanted = time.monotonic(), samples
    if budget().bounded:
        row = (direction or 0.0) * directions_of(len(decoder.continuous))
        samples = beginning(row, min(samples, FIRST), least=FEWEST)
    sample = Sample.start(
        decoder,
        source,
        samples,
        threshold=threshold,
        likelihood=likelihood,
        seed=seed,
        chunk=chunk,
        frugal=frugal,
    )
    lost = _lost(sample)
    if lost is not None:
        every = tuple(decoder.continuous)
        return Evidence(
            continuous=every, active=(), drawn=len(sample.z), usable=0, undefined=lost.why, rounding=lost
        )
    looking = time.monotonic()
    jumps, skipped = _jumps(sample, FEW_SEGMENTS if frugal else SEGMENTS, direction)
    began += time.monotonic() - looking  # what is done once says nothing of the pace
    limited: float | None = None
    while True:
        tell("latents", len(sample.z), None)
        evidence = replace(_decide(sample, margin, threshold, jumps), jumps=jumps)
        drawn = len(sample.z)
        if evidence.undefined or drawn >= max_samples:
            break
        if not (evidence.wanting or drawn < wanted):
            break
        total = max_samples if evidence.near_zero and drawn >= wanted else min(2 * drawn, max_samples)
        if budget().bounded:
            # what explains the verdict takes about as long as what it rests on
            pace = (time.monotonic() - began) / drawn
            afforded = drawn + int(processes().agreed(budget().left / 2 / pace))
            if afforded < 1.25 * drawn:
                limited = pace * max(wanted, total)
                break
            total = min(total, afforded)
        if not sample.grow(total):
            break
    if not evidence.undefined and evidence.leaning == "linear":
        rare = timely(lambda: departures(decoder, sample.z, natural=decoder.natural_for(likelihood)))
        if rare:
            jumps = max(rare, jumps or 0.0)
            evidence = replace(_decide(sample, margin, threshold, jumps), jumps=jumps)
    tell("latents", len(sample.z), len(sample.z))
    evidence = replace(evidence, limited=limited, skipped=skipped)
    return evidence if evidence.undefined else _complete(evidence, sample, permutations, sheets)


def _lost(sample: Sample) -> Lost | None:
    """Return which active columns are rounding, at latents where J is of middling size; None where none is."""
    active = sample.R.argmax(0).tolist() if sample.R.shape[1] else []
    natural = sample.decoder.natural_for(sample.likelihood)
    return lost_columns(sample.decoder, sample.z[typical(sample.G)], active, natural=natural)


def directions_of(k: int) -> int:
    """Return how many directions a latent of k columns takes, primals among them.

    Its columns and its partner's; each once more where all else is redrawn, with a primal of its own; half as many along a
    best rotation.
    """
    return 2 * (1 + k) + 2 * k + k


def _jumps(sample: Sample, segments: int, direction: float | None) -> tuple[float | None, frozenset[Extra]]:
    """Return the share of segments on which the decoder jumps, None where unknown, and what no time was left for."""
    if budget().bounded:
        each = (direction or 0.0) * LOOKED_AT
        segments = min(segments, int(processes().agreed(JUMPS * budget().left / max(each, 1e-9))))
    if segments:
        natural = sample.decoder.natural_for(sample.likelihood)
        with suppress(TimeIsOver), optional():
            return discontinuities(sample.decoder, *sample.segments(segments), natural=natural), frozenset()
    return None, frozenset({"jumps"})


def _decide(sample: Sample, margin: float, threshold: float, jumps: float | None) -> Evidence:
    """Return what the verdict rests on."""
    k, a = sample.R.shape
    continuous = tuple(sample.decoder.continuous)
    active = tuple(sample.R.argmax(0).tolist()) if a else ()
    n = len(sample.z)
    finite = torch.isfinite(sample.G).flatten(1).all(1)
    if a < 2:
        undefined = _too_few(k, a, threshold) if sample.G[finite].any() or k < 2 else NOTHING_MOVES
        return Evidence(
            continuous=continuous, active=active, drawn=n, usable=int(finite.sum()), undefined=undefined
        )
    contrast = sample.contrasts()
    usable = torch.isfinite(contrast)
    count = int(usable.sum())
    if count < 4 or 2 * count <= n:
        alike = _alike(sample, finite)
        return Evidence(
            continuous=continuous,
            active=active,
            drawn=n,
            usable=count,
            undefined=_deficient(sample, count, finite) + alike,
            alike=bool(alike),
        )

    # where all latents there are were seen, none that is rarer hides
    event = 0.0 if sample.exhausted else EVENT
    gap = mean_decision(sample.known_contrasts()[finite], margin, event=event)
    variation = _variation(sample)
    rotation = gap_held_out = gap_rotated = spread_rotated = None
    if not (gap.likely_zero or (variation.likely_zero and not jumps)):
        rotation, gap_held_out, gap_rotated = _best_rotation(sample, usable, margin, event)
        if gap_rotated.likely_zero:
            spread_rotated = _spread_rotated(sample, usable, rotation.R, margin)
    lengths = column_lengths(sample.G[finite & ~usable], sample.R)
    return Evidence(
        continuous=continuous,
        active=active,
        drawn=n,
        usable=count,
        zeros=int((lengths <= 0).any(1).sum()),
        contrast=contrast[usable],
        gap=gap,
        variation=variation,
        spread=_spread(sample, finite, sample.R, sample.freeze()[finite], margin),
        rotation=rotation,
        gap_held_out=gap_held_out,
        gap_rotated=gap_rotated,
        spread_rotated=spread_rotated,
    )


def _complete(evidence: Evidence, sample: Sample, permutations: int, sheets: int) -> Evidence:
    """Return the evidence with what explains the verdict, as far as there is time, and the test of curved seams."""
    usable = torch.isfinite(sample.contrasts())
    finite = torch.isfinite(sample.G).flatten(1).all(1)
    G = sample.active_metric()[usable]
    seed, a = sample.seed, G.shape[1]
    long = finite & (column_lengths(sample.G, sample.R) > 0).all(1)
    rows = _rotatable(NULL_ROWS, a, ROTATED_WORK // ROTATIONS)
    of_null = sample.active_metric()[long][:rows], sample.known_contrasts()[long][:rows]
    _, null = null_contrasts(*of_null, count=ROTATIONS, least=FEWEST_ROTATIONS, seed=seed)
    evidence = replace(evidence, null=null, tied=_is_tied(G))

    def graded() -> Evidence:
        most = _rotatable(GRADED, a, ROTATED_WORK // GRADE_ROTATIONS)
        z, metric, contrast = (
            x[long][:most] for x in (sample.z[:, sample.places], sample.active_metric(), sample.contrasts())
        )
        found = grades(z, metric, contrast, haar(a, GRADE_ROTATIONS, seed), seed=seed)
        return replace(evidence, grades=found)

    def factored() -> Evidence:
        found = replace(evidence, factors=seam_factors(sample, finite, sample.R, permutations))
        if evidence.leaning != "rotated" or evidence.rotation is None:
            return found
        R, held = sample.R @ evidence.rotation.R, _held_out(usable, a)
        return replace(found, factors_rotated=seam_factors(sample, held, R, permutations))

    def curved() -> Evidence:
        smooth = segment_smoothness(sample, 1)
        bent = curved_seams(sample, usable, smooth) if evidence.leaning == "entangled" else None
        return replace(evidence, smooth=smooth, curved=bent)

    def paired() -> Evidence:
        pairs, rows = (None, 0) if sample.frugal else _pairs(sample, usable)
        return replace(evidence, pairs=pairs, pair_rows=rows)

    def unfolded() -> Evidence:
        if not sheets or a > SHEETS_MOST:
            return evidence
        z = sample.z[usable][:sheets]
        of = (sample.decoder, z, sample.places)

        def searched() -> tuple[Tensor, ...]:
            found = find_sheets(*of, G=G[:sheets], likelihood=sample.likelihood, seed=seed)
            pair = () if found.example is None else (torch.stack(found.example),)
            return found.others, found.count, *pair

        key = ("sheets", sample.decoder, tuple(sample.places), sample.likelihood, seed)
        others, count, *example = recalled_together(key, [z], searched)
        found = Sheets(others, count, (example[0][0], example[0][1]) if example else None)
        gap, ci = _gap_over_sheets(evidence.contrast, found.others, seed)
        return replace(evidence, sheets=found, gap_true=gap, gap_true_ci=ci)

    def derived() -> Evidence:
        smooth = evidence.smooth is not None and evidence.smooth.smooth
        return replace(evidence, derivatives=_log_length_derivatives(sample, usable) if smooth else None)

    steps: dict[Extra, Callable[[], Evidence]] = {
        "grades": graded,
        "factors": factored,
        "curved": curved,
        "pairs": paired,
        "sheets": unfolded,
        "derivatives": derived,
    }
    for name, step in steps.items():
        try:
            # one that does not end leaves half of the time to the next
            with share_of(1 / 2), optional():
                evidence = step()
        except TimeIsOver:
            evidence = replace(evidence, skipped=evidence.skipped | {name})
    return evidence


def _gap_over_sheets(contrast: Tensor, others: Tensor, seed: int) -> tuple[float, tuple[float, float] | None]:
    """Return the mean gap, summed over sheets, and its interval."""
    value = float(contrast.mean() + others.mean())
    if len(others) < 2:
        return value, None
    first, second = (
        resampled_means(part[:, None].numpy(), seed=seed + k)[:, 0]
        for k, part in enumerate((contrast, others))
    )
    low, high = percentile_interval(first + second)
    return value, (low, high + unseen(len(others), math.log(2)))


NOTHING_MOVES = "every column of the Jacobian is zero: no latent moves the output"


def _too_few(k: int, active: int, threshold: float) -> str:
    if k < 2:
        return "one latent has no other to be orthogonal to or independent of"
    return (
        f"{active} of {k} continuous latents {'is' if active == 1 else 'are'} active (above {threshold:g} of "
        "the largest mean column norm), and a verdict needs two"
    )


def _deficient(sample: Sample, usable: int, finite: Tensor) -> str:
    active, outputs, drawn = sample.R.shape[1], sample.decoder.data_dim, len(finite)
    if drawn < 4:
        return f"{drawn} latent{'s are' if drawn > 1 else ' is'} too few for a verdict"
    if outputs < active:
        return f"{active} active latents in {outputs} output{'s' * (outputs > 1)}: the Jacobian has no full column rank"
    overflowed = int((~finite).sum())
    return (
        f"the columns of the {active} active latents are linearly dependent to {sample.tolerance**0.5:.0e} at "
        f"{drawn - overflowed - usable} of {drawn} draws"
        + (f", not finite at {overflowed}" if overflowed else "")
    )


def _alike(sample: Sample, finite: Tensor) -> str:
    """Return which latents move the output alike, as the end of a sentence; "" where none do."""
    G = sample.active_metric()[finite]
    if len(G) < 4 or sample.decoder.data_dim < G.shape[1]:
        return ""
    names = [sample.decoder.latent_names[i] for i in sample.R.argmax(0).tolist()]
    return alike_words(G, names, sample.tolerance)


def _is_tied(G: Tensor) -> bool:
    """Return whether G is a multiple of I at every latent, to rounding."""
    scale = G.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    return bool(((G / scale - cpu.eye(G.shape[1], dtype=G.dtype)).abs().amax((1, 2)) < 1e-5).all())


# -- C1 and linearity ---------------------------------------------------------------------------


def _variation(sample: Sample) -> Decision:
    """Decide whether J is constant: on a part of the latents, and on all where that part says so."""
    decision = _variation_of(sample.changes, sample.sizes, sample.seed)
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


def _held_out(usable: Tensor, axes: int) -> Tensor:
    """Return which latents the best rotation of so many axes is not fitted on, shape (n,), bool."""
    keep = usable.clone()
    keep[usable.nonzero().flatten()[0::2][: _rotatable(FIT_ROWS, axes, FIT_WORK)]] = False
    return keep


def _rotatable(rows: int, axes: int, work: int) -> int:
    """Return how many of so many rows of metrics over so many axes to rotate, within some work."""
    return min(rows, max(FEW_ROTATED, work // axes**3))


def _best_rotation(
    sample: Sample, usable: Tensor, margin: float, event: float
) -> tuple[RotationFit, float, Decision]:
    """Fit the best rotation on some latents; return it and the contrasts on the rest, before and after."""
    held = _held_out(usable, sample.R.shape[1])
    G = sample.active_metric()
    restarts = 4 if G.shape[1] <= 16 else 1
    fit = joint_diagonalise(
        G[usable & ~held], restarts=restarts, seed=sample.seed, tolerance=sample.tolerance
    )
    bases = torch.stack([cpu.eye(G.shape[1], dtype=G.dtype), fit.R])
    given, rotated = rotated_contrast(G[held], bases, tolerance=sample.tolerance)
    dependent = G[~usable & torch.isfinite(G).flatten(1).all(1)]
    if len(dependent):  # as large a share of these
        dependent = dependent[cpu.arange(0, len(dependent), max(1, int(usable.sum()) // len(rotated)))]
        rotated = torch.cat([rotated, least_contrast(rotate(dependent, fit.R), sample.tolerance)])
    return fit, float(given.mean()), mean_decision(rotated, margin, event=event)


# -- C2 -----------------------------------------------------------------------------------------


def _spread(sample: Sample, usable: Tensor, R: Tensor, frozen: Tensor, margin: float) -> Spread:
    lengths = column_lengths(sample.G[usable], R)
    return spread_of(lengths, frozen, margin=margin, seed=sample.seed, rounding=sample.rounding)


def _spread_rotated(sample: Sample, usable: Tensor, rotation: Tensor, margin: float) -> Spread:
    """Return C2 at the best rotation, on the latents that it was not fitted on."""
    held = _held_out(usable, rotation.shape[1])
    R = sample.R @ rotation
    return _spread(sample, held, R, sample.frozen_along(R, held), margin)


def _pairs(sample: Sample, usable: Tensor) -> tuple[Tensor, int]:
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


def _log_length_derivatives(sample: Sample, usable: Tensor) -> Tensor | None:
    """Return the root mean square over latents of d log n_i / d z_j, shape (a, a), [i, j]."""
    a = sample.R.shape[1]
    rows = usable.nonzero().flatten()[: max(8, min(SLOPE_ROWS, 16 * SLOPE_ROWS // a))]
    try:
        G, dG, _ = metric_derivatives(
            sample.decoder, sample.z[rows], sample.places, likelihood=sample.likelihood, order=1
        )
    except (RuntimeError, NotImplementedError):
        return None
    slope = torch.einsum("njii->nij", dG) / (2 * G.diagonal(dim1=-2, dim2=-1)[:, :, None].clamp_min(TINY))
    return slope.square().mean(0).sqrt()
