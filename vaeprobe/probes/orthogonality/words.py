"""The words of `orthogonality`: the verdict, its sentence, and what a reader has to know about the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from vaeprobe.contract import word as precision
from vaeprobe.findings import (
    APPROXIMATE_P_VALUE,
    BORDERLINE_LATENTS,
    FEW_LATENTS,
    FEWER_LATENTS,
    ILL_CONDITIONED,
    INACTIVE_LATENTS,
    LATENTS_ON_A_MAP,
    NOT_CONVERGED,
    NOT_FINITE,
    PART_OF_JACOBIAN,
    RANK_DEFICIENT,
    TIED_SINGULAR_VALUES,
)
from vaeprobe.geometry import gram
from vaeprobe.geometry.decisions import rule_of_three, unseen
from vaeprobe.geometry.rotations import rotate
from vaeprobe.intervals import mean_interval
from vaeprobe.likelihood_names import in_words
from vaeprobe.probes.parts import MORE_TIME, SOME, cost_of_all
from vaeprobe.probes.rounded import rounded
from vaeprobe.report import Finding, Metric

if TYPE_CHECKING:
    from vaeprobe.probes.orthogonality.reading import Reading
    from vaeprobe.probes.orthogonality.repair import Repair

# Columns are called orthogonal where three things hold: their root-mean-square cosine, as the contrast implies it,
# is under ORTHOGONAL; the alignment is at least FAR, so that c is a fifth of what random axes have or less; and
# c is at most half of what random columns of the same lengths have, or NEGLIGIBLE nats: in high dimensions
# random columns have small cosines too.
ORTHOGONAL = 0.05
FAR = 0.8
NEGLIGIBLE = 1e-3
# The alignment from which on axes are called aligned: a smaller one is an effect too small for the word, however
# significant it is.
ALIGNED = 0.2
# The contrast in nats under random rotations, up to which G counts as a multiple of the identity.  In high
# dimensions random columns look orthogonal too, at a contrast of many nats.
CONFORMAL = 0.05
SIGNIFICANT = 0.05
"""Significance of the rotation test."""
# The share of the contrast that a rotation must remove to explain it, and to explain a part of it.
REPAIRED = 0.9
PARTLY = 0.5
# The share of latents that a sample which shows orthogonal columns alone may have missed (at 95 % confidence), where as rare an
# oblique pair would make the contrast more than twice what counts as orthogonal: 29 draws for 2 to 4 latents.
MISSED = 0.1
# Condition number of the normalised columns above which float32 Jacobians lose digits that matter.
LARGEST_CONDITION = 1e3
# Latents within this factor of the line between active and inactive are pointed out.
BORDER = 1.25
# The p-value of axes that half of all random ones are as orthogonal as.
EVEN = 0.5


def verdict(metrics: Mapping[str, Metric], reading: Reading) -> tuple[str, str]:
    """Return the verdict in a word or two, and as a researcher would write it."""

    def number(name: str) -> float:
        value = metrics[f"orthogonality.{name}"].value
        assert isinstance(value, float)
        return value

    def interval(name: str) -> tuple[float, float]:
        return metrics[f"orthogonality.{name}"].ci or (number(name), number(name))

    a, k = len(reading.active), len(reading.names)
    if reading.singular and reading.low_rank:
        return _low_rank(number, interval, reading)
    if reading.singular:
        gap = metrics["orthogonality.mean_field_gap"]
        rest = ""
        if isinstance(gap.value, float):
            rest = f" The mean-field gap is {nats(gap.value)} ({reading.noise}).{_in_the_row_space(reading)}"
        return "undefined", f"Orthogonality is undefined: {reading.singular}.{rest}"
    small = _small(a)
    c, null, gaussian = number("ima_contrast"), number("ima_contrast_null"), number("ima_contrast_gaussian")
    c_high = interval("ima_contrast")[1]
    among = f"the {a} active {reading.kind}" if a < k else f"the {a} {reading.kind}"
    if reading.block is not None:
        among = reading.block.words if a == k else f"{among} of {reading.block.words}"
    if c_high <= small and interval("ima_contrast_null")[1] <= min(small, CONFORMAL):
        return "conformal", (
            f"The Jacobian's columns are orthogonal in every basis of {among} (ima contrast {nats(c)}, "
            f"{nats(null)} under random rotations): the axes are not special."
        )
    if metrics["orthogonality.alignment"].value is None:
        return "undecided", (
            f"The axes of {among} cannot be told from random ones: the decoder computes in {precision(reading.dtype)}, whose "
            f"rounding alone makes contrasts like the {nats(null)} under random rotations of the latent space (ima contrast "
            f"{nats(c)}). In float32 it would show."
        )
    A, p = number("alignment"), number("alignment_p")
    A_low, A_high = interval("alignment")
    metric = f" in the {in_words(reading.likelihood)} metric" if reading.likelihood else ""
    more = f" or more ({reading.left_out})" if reading.left_out else ""
    evidence = (
        f"ima contrast {nats(c)}{more}{metric} against {nats(null)} under random rotations of the latent space "
        f"(alignment {A:.2f}, p = {p:.2g})"
    )
    if c_high <= min(small, max(gaussian / 2, NEGLIGIBLE)) and A_low >= FAR:
        n = metrics["orthogonality.ima_contrast"].n or 1
        if reading.isotropic and rule_of_three(n) > MISSED and c_high + unseen(n) > 2 * small:
            return "undecided", (
                f"The Jacobian's columns are orthogonal along the axes of {among} at the {n} samples: {evidence}. So few "
                f"may miss up to {rule_of_three(n):.0%} of all latents, where they are not; {reading.more} would decide it."
            )
        return "orthogonal", f"The Jacobian's columns are orthogonal along the axes of {among}: {evidence}."
    repair = reading.repair
    searched = not isinstance(reading.search, str)
    mended = _repair_words(repair, bool(reading.left_out)) if repair else ""
    tail = f" {mended[0].upper()}{mended[1:]}." if repair else f" {_unsearched(reading)}"
    random = ""
    if (c <= small or (p <= SIGNIFICANT and A_low >= ALIGNED)) and gaussian / 2 < c < 2 * gaussian:
        random = f" The columns meet as random directions of the output space do ({nats(gaussian)})."
    tail = random + tail
    if repair and repair.share[0] >= REPAIRED and _left_high(repair, reading) <= small:
        of = "" if reading.block is None else f" of {reading.block.words}"
        return "rotated", (
            f"The Jacobian's columns are not orthogonal along the given axes{of}, {evidence}, but one rotation of the "
            f"latent space makes them so: {mended}.{random}"
        )
    if p <= SIGNIFICANT and A_low >= ALIGNED:
        return (
            "aligned",
            f"The axes of {among} are more orthogonal than chance, not perfectly so: {evidence}.{tail}",
        )
    if repair and repair.share[0] >= PARTLY:
        return "partly rotated", (
            f"The given axes of {among} are {_beside_chance(p)}, but those of a rotation are: {evidence}.{tail}"
        )
    if p <= SIGNIFICANT and A_high >= ALIGNED:
        return "undecided", (
            f"It is open by how much the axes of {among} are more orthogonal than chance: {evidence}; "
            f"{reading.more} would decide it.{tail}"
        )
    if p > SIGNIFICANT and p * (reading.rotations + 1) < 1.5:
        return "undecided", (
            f"{reading.rotations} random rotations are too few to tell the axes of {among} from random ones: "
            f"{evidence}; --rotations 19 or more would.{tail}"
        )
    if repair and repair.share[1] >= REPAIRED and repair.left_ci[0] <= small:
        return "undecided", (
            f"The given axes of {among} are {_beside_chance(p)}: {evidence}. Whether a rotation repairs it is open; "
            f"{reading.more} would decide it.{tail}"
        )
    word = "entangled" if searched else "unaligned"
    return word, f"The axes of {among} are {_beside_chance(p)}: {evidence}.{tail}"


def _left_high(repair: Repair, reading: Reading) -> float:
    """Return the upper end of the contrast that the best rotation leaves, where J is rank-deficient what it is at least."""
    if not reading.left_out or isinstance(reading.search, str) or reading.held_out is None:
        return repair.left_ci[1]
    lost = gram.least_contrast(rotate(reading.sub[~reading.regular], reading.search.R), reading.tolerance)
    # R* was fitted on one half of the others
    left = mean_interval(torch.cat([reading.held_out[1], lost[::2]]).numpy(), low=0.0)
    return max(repair.left_ci[1], left[1] if left else 0.0)


def _in_the_row_space(reading: Reading) -> str:
    """Say what is known where J is rank-deficient: its rank, and how the axes do beside random ones."""
    if reading.no_pairs:
        return ""
    words = f" J has {reading.rank_words}."
    found = reading.gap_alignment
    if found is not None and found.value is not None:
        null = float(found.draws.mean())
        words += (
            f" Under random rotations the gap is {nats(null)} (alignment of the gap {found.value:.2f}, "
            f"p = {found.p_value:.2g})."
        )
    if reading.dtype != torch.float64:
        words += _wider(reading)
    return words


def _wider(reading: Reading) -> str:
    """Say what float64 sees of the rank, or, where it was not asked, which singular values it tells from none."""
    told = f"singular values down to {gram.singular_tolerance(len(reading.names)) ** 0.5:.0e} of the largest"
    if reading.wider is None:
        return f" --dtype float64 tells {told}."
    if reading.wider.apart:
        return f" --dtype float64, which tells {told}, finds the columns independent (looked at {reading.wider.at} latents)."
    if reading.wider.more:
        low, high = reading.wider.ranks
        return f" --dtype float64 tells {told}: rank {low if low == high else f'{low} to {high}'}."
    return f" Float64, which tells {told}, finds the same rank (looked at {reading.wider.at} latents)."


def _low_rank(
    number: Callable[[str], float], interval: Callable[[str], tuple[float, float]], reading: Reading
) -> tuple[str, str]:
    """Return the verdict where J has fewer dimensions than active latents: by the mean-field gap, and in the row space."""
    assert reading.gap_alignment is not None
    a, p, A = len(reading.active), number("alignment_p"), number("alignment")
    A_low, A_high = interval("alignment")
    evidence = (
        f"mean-field gap {nats(float(reading.gap_alignment.contrast.mean()))} ({reading.noise}) against "
        f"{nats(float(reading.gap_alignment.draws.mean()))} under random rotations (alignment {A:.2f}, p = {p:.2g})"
    )
    lost, n = int((~reading.regular).sum()), len(reading.G)
    at, there = ("", "") if lost == n else (f" at {lost} of {n} samples", " there")
    start = (
        f"J has {reading.rank_words}, so that{at} the columns of {a} active {reading.kind} cannot all be orthogonal, and "
        f"their contrast is {reading.least_contrast:.2g} nats at least{there}"
    )
    tail, row = "", reading.row_space
    if row is not None:
        left, before = nats(row.repair.left), nats(row.repair.before)
        tail = (
            f" All that J sees is one space of {row.dim} dimensions, whose best basis has a contrast of {left} where random "
            f"ones have {before} (held out)."
        )
    if reading.dtype != torch.float64:
        tail += _wider(reading)
    if row is not None and row.repair.share[0] >= REPAIRED and row.repair.left_ci[1] <= _small(row.dim):
        return "rotated", f"{start}; a basis of the space that it sees makes them so: {evidence}.{tail}"
    if p <= SIGNIFICANT and A_low >= ALIGNED:
        return "aligned", f"{start}; the axes come nearer than chance: {evidence}.{tail}"
    if p <= SIGNIFICANT and A_high >= ALIGNED:
        return "undecided", (
            f"{start}; by how much the axes come nearer than chance is open: {evidence}; {reading.more} would decide it.{tail}"
        )
    return (
        "unaligned",
        f"{start}; the axes come {_beside_chance(p).replace('more orthogonal', 'nearer')}: {evidence}.{tail}",
    )


def _small(columns: int) -> float:
    """Return the contrast in nats of columns whose root-mean-square cosine is ORTHOGONAL."""
    return 0.5 * columns * (columns - 1) / 2 * ORTHOGONAL**2


def _beside_chance(p: float) -> str:
    how = "hardly" if p <= SIGNIFICANT else "not significantly" if p < EVEN else "no"
    return f"{how} more orthogonal than random ones"


def _unsearched(reading: Reading) -> str:
    """Say that no rotation was looked for, and why."""
    assert isinstance(reading.search, str)
    return f"Whether a rotation repairs it was not searched: {reading.search}."


def _repair_words(repair: Repair, left_out: bool) -> str:
    held = "held-out latents" + " where J has full rank" * left_out
    before, left = nats(repair.before), nats(repair.left)
    if repair.fell:
        return f"the best rotation lowers the contrast from {before} to {left} on {held}"
    held = f"on {held}" if left_out else "held out"
    clearly = "" if repair.left >= repair.before else "clearly "
    return f"no rotation does {clearly}better ({before} at the axes, {left} at the best found, {held})"


def nats(value: float) -> str:
    """Return an amount in nats; rounding noise as 0."""
    return f"{value:.3g} nats" if value > 1e-9 else "0 nats"


# -- findings ---


def findings(reading: Reading, asked_samples: int, metrics: Mapping[str, Metric]) -> list[Finding]:
    """Return what a reader has to know about these numbers."""
    found = []
    p, A = (metrics[f"orthogonality.alignment{more}"].value for more in ("_p", ""))
    if (
        reading.on_a_map
        and isinstance(p, float)
        and isinstance(A, float)
        and p <= SIGNIFICANT
        and A < 1 - NEGLIGIBLE
    ):
        found.append(_apart(reading, reading.on_a_map[0]))
    if reading.rounding:
        found.append(rounded(reading.rounding))
    if reading.block is not None:
        asked = (
            "" if reading.samples == asked_samples else f", at {reading.samples} of {asked_samples} samples"
        )
        how = f", {reading.block.how}" if reading.block.how else ""
        found.append(
            Finding(
                PART_OF_JACOBIAN,
                f"of {reading.block.whole} columns, those of {reading.block.words} were measured{how}{asked}",
                hint=f"--part all measures every column {cost_of_all(reading.decoder, asked_samples)}, --part "
                f"{'channels' if reading.kind == 'channels' else 'some'} takes all samples that were asked for",
            )
        )
    elif reading.samples < asked_samples and len(reading.names) > SOME:
        found.append(
            Finding(
                FEWER_LATENTS,
                f"{len(reading.names)} columns each were measured at {reading.samples} of {asked_samples} samples",
                hint="--part all measures them at all samples that were asked for"
                + (f", with {MORE_TIME}" if reading.more == MORE_TIME else ""),
            )
        )
    if reading.overflowed:
        found.append(
            Finding(
                NOT_FINITE,
                f"the Jacobian is not finite at {reading.overflowed} of {reading.overflowed + len(reading.G)} "
                "latents, which are left out",
                hint="a decoder that overflows often has an exponential output"
                if reading.dtype == torch.float64
                else "--dtype float64 widens the range",
            )
        )
    idle = [name for i, name in enumerate(reading.names) if i not in set(reading.active.tolist())]
    if idle and reading.G.any() and not reading.rounding:
        found.append(
            Finding(
                INACTIVE_LATENTS,
                f"{_some(idle)} {'is' if len(idle) == 1 else 'are'} inactive: mean column norm within "
                f"{reading.active_threshold:g} of the largest",
                hint="angles are measured among active latents; --active-threshold moves the line",
            )
        )
    share = (
        reading.mean_norms
        / reading.mean_norms.max().clamp_min(1e-300)
        / max(reading.active_threshold, 1e-300)
    )
    near = [name for name, x in zip(reading.names, share.tolist(), strict=True) if 1 / BORDER < x < BORDER]
    if near and reading.no_pairs is None:
        found.append(
            Finding(
                BORDERLINE_LATENTS,
                f"{_some(near)} {'is' if len(near) == 1 else 'are'} near the line between active and "
                "inactive: the contrasts depend on which side they fall",
                hint="see the bars, and set --active-threshold in a gap between them",
            )
        )
    lost = int((~reading.regular).sum())
    dependent = bool((~reading.regular & ~reading.zero_columns).any())
    size = f"over {reading.least_contrast:.2g} nats or infinite" if dependent else "infinite"
    counts = "counts as what it is at least" if dependent else "averaged over the others"
    if lost and reading.no_pairs is None and reading.decoder.data_dim >= len(reading.active):
        found.append(
            Finding(
                RANK_DEFICIENT,
                f"J is rank-deficient at {lost} of {len(reading.G)} latents ({reading.lost_how}): the contrast is "
                f"{size} there, and {'undefined' if reading.singular else counts}",
                hint="the mean-field gap is finite at all of them",
            )
        )
    if reading.singular:
        return found
    found += _precision_findings(reading)
    if not reading.isotropic:
        found.append(
            Finding(
                APPROXIMATE_P_VALUE,
                "the p-value of the alignment is exact for latents from the prior, approximate for these",
            )
        )
    fit, _ = reading.halves
    angles = len(reading.active) * (len(reading.active) - 1) // 2
    if not isinstance(reading.search, str):
        if len(fit) * len(reading.active) < 2 * angles:
            found.append(
                Finding(
                    FEW_LATENTS,
                    f"the best rotation has {angles} angles, fitted on {len(fit)} latents",
                    hint=f"--samples {8 * len(reading.active)} or more",
                )
            )
        if not reading.search.converged:
            found.append(
                Finding(
                    NOT_CONVERGED,
                    f"the search for the best rotation was still improving after {reading.search.steps} steps",
                    hint="its contrast is an upper bound of what a rotation can reach",
                )
            )
    return found


def _precision_findings(reading: Reading) -> list[Finding]:
    found = []
    eigenvalues = torch.linalg.eigvalsh(reading.cosines[reading.regular]).flip(-1).clamp_min(0)
    condition = float(gram.condition_number(eigenvalues.sqrt()).median())
    if condition > LARGEST_CONDITION and reading.dtype != torch.float64:
        found.append(
            Finding(
                ILL_CONDITIONED,
                f"the normalised columns have condition number {condition:.1e}, more than "
                f"{str(reading.dtype).removeprefix('torch.')} Jacobians resolve",
                hint="--dtype float64",
            )
        )
    s = reading.frame[0]
    tied = float(((s[:, :-1] - s[:, 1:]) <= reading.tie * s[:, :-1]).any(1).double().mean())
    if tied > 0:
        found.append(
            Finding(
                TIED_SINGULAR_VALUES,
                f"singular values coincide at {tied:.0%} of the latents: V is arbitrary there, and is "
                "rotated to the nearest axes",
            )
        )
    return found


def _apart(reading: Reading, channels: int) -> Finding:
    """Say what the axes of latents on a map owe to its sites, which overlap little: what the channels alone have."""
    message = "columns of sites that are far apart hardly overlap, and count as alignment whatever the channels' axes"
    alone = reading.channels_alone
    if alone is None or alone.value is None or alone.p_value is None:
        return Finding(LATENTS_ON_A_MAP, message, level="warning")
    return Finding(
        LATENTS_ON_A_MAP,
        f"{message}; the {channels} channels of one site have an alignment of {alone.value:.2f}, p = {alone.p_value:.2g}",
        level="note" if alone.p_value <= SIGNIFICANT and alone.value >= ALIGNED else "warning",
    )


def _some(names: Sequence[str], limit: int = 6) -> str:
    """Return a few names and how many more there are."""
    if len(names) <= limit:
        return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
    return f"{', '.join(names[:limit])} and {len(names) - limit} more"
