"""The words of `trace`: the verdict, its sentence, and what a reader has to know about the seams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vaeprobe.findings import (
    PART_OF_LATENTS,
    TRACE_COLLAPSE,
    TRACE_COMPONENTS,
    TRACE_NO_PICTURE,
    TRACE_NOT_FINITE,
    TRACE_NOT_REPRODUCIBLE,
    TRACE_OUTSIDE,
    TRACE_SCHEME,
    TRACE_SLIDING,
    TRACE_STEPS,
)
from vaeprobe.report import Finding, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.probes.parts import Part
    from vaeprobe.seams import Paths, Seam

# From this mean chord over length on seams are called straight (an arc that turns by half a radian), and below
# this one curved (by more than a radian).  Between the two they bend by too little for either word.
STRAIGHT, CURVED = 0.99, 0.95
# From this mean overlap on, straight seams are called axis-parallel.
PARALLEL = 0.99
# The share of length with tied singular values above which paths say nothing.
TIED = 0.5

NO_SEAM = "no seam has any length"  # why nothing is drawn


def verdict(
    metrics: Mapping[str, Metric],
    paths: Paths,
    source: str,
    axes: Sequence[str] = (),
    part: Part | None = None,
    more: str = "more --starts",
) -> tuple[str, str]:
    """Return the verdict and the sentence that carries it.

    Args:
        axes: the names of the latents that seams run along.
        more: what would bring more starts.
        part: among which latents they were traced, None for all.
    """
    word, sentence = _verdict(metrics, paths, source, axes, more)
    if part is None:
        return word, sentence
    sentence = f"{sentence[0].lower()}{sentence[1:]}"
    return word, f"Of {part.whole} latents, among {part.words}, the others held: {sentence}"


def _verdict(
    metrics: Mapping[str, Metric], paths: Paths, source: str, axes: Sequence[str], more: str
) -> tuple[str, str]:
    straight, axis = metrics["trace.straightness"], metrics["trace.axis_overlap"]
    tied = metrics["trace.tied"].value
    starts = len(paths.starts)
    where = f"through {starts} start{'s' if starts > 1 else ''}" + (f" ({source})" if source else "")
    if not isinstance(straight.value, float) or not isinstance(axis.value, float):
        return "undefined", f"No seam could be traced {where}: {straight.reason}."
    if isinstance(tied, float) and tied > TIED:
        return "undetermined", (
            f"Singular values are tied on {100 * tied:.0f} % of the length of the seams {where}: "
            "the decoder distinguishes no directions there, and the paths are mere continuations."
        )
    turning = metrics["trace.turning"].value
    random = metrics["trace.axis_overlap_random"].value
    low, high = straight.ci or (straight.value, straight.value)
    named = f" {', '.join(axes[:6])}{', ...' if len(axes) > 6 else ''}" if axes else ""
    overlap = f"overlap {axis.value:.3f} with the nearest axis, {random:.2f} for a random direction"
    sentence = f"chord over length {straight.value:.3f}, turning {turning:.2g} rad per unit length; {overlap}"
    if paths.stops["time"]:
        went = f"{100 * paths.share:.2g} % of the way"
        if high >= CURVED:  # short pieces of curves are straight
            return "undecided", (
                f"It is open whether the seams {where} are straight: the time given was over after {went}, along which "
                f"they have {sentence}; more --time would decide it."
            )
        where += f" are curved as far as they were traced in the time given, {went}"
        return "curved", f"The seams {where}: {sentence}."
    if low >= STRAIGHT:
        least, most = axis.ci or (axis.value, axis.value)
        if least >= PARALLEL:
            return (
                "axis-parallel",
                f"The seams {where} are straight and run along the latent axes{named} ({overlap}).",
            )
        oblique = "but oblique to" if most < PARALLEL else "and it is open whether they run along"
        return "straight", f"The seams {where} are straight {oblique} the latent axes ({overlap})."
    if low >= CURVED:
        return "nearly straight", f"The seams {where} bend a little: {sentence}."
    if high < CURVED:
        return "curved", f"The seams {where} are curved: {sentence}."
    return "undecided", (
        f"It is open whether the seams are straight: those {where} have {sentence}; {more} would decide it."
    )


def findings(
    paths: Paths,
    misses: Tensor | None,
    skipped: int,
    wanted: frozenset[str],
    first: Sequence[Seam],
    part: Part | None = None,
) -> tuple[Finding, ...]:
    """Return what a reader has to know about these seams."""
    found = [
        Finding(
            TRACE_SCHEME,
            f"traced by {paths.statement}, tolerance {paths.tolerance:.0e} per step, "
            f"{paths.method} frames at {paths.evaluations} latents",
        )
    ]
    if part is not None:
        found.append(
            Finding(
                PART_OF_LATENTS,
                f"of {part.whole} latents, seams were traced among {part.words}, through {len(paths.starts)} "
                f"start{'s' if len(paths.starts) > 1 else ''}, with the others held where each start has them",
                hint="--part all traces the leading seams of all latents; --part channels takes as many starts as --starts says",
            )
        )
    if skipped:
        found.append(
            Finding(
                TRACE_COMPONENTS,
                f"{skipped} component{'s' if skipped > 1 else ''} of smaller singular value not traced",
                hint="--components 0,1,... chooses",
            )
        )
    stops = paths.stops
    for spec, reason, text, hint in (
        (
            TRACE_OUTSIDE,
            "outside",
            f"start outside the radius {paths.radius:.3g}",
            "raise --radius, or leave it out",
        ),
        (
            TRACE_NOT_FINITE,
            "not finite",
            "stop where the decoder is not finite",
            "the decoder overflows there; lower --radius",
        ),
        (
            TRACE_STEPS,
            "steps",
            "end at the step limit, short of any other stop",
            "raise --tolerance, or --scheme rough",
        ),
        (
            TRACE_SLIDING,
            "sliding",
            "stop at a kink into which the directions on both sides run: no seam leaves it",
            "--scheme rough steps along it",
        ),
        (TRACE_COLLAPSE, "collapse", "stop where the output no longer changes along them", None),
    ):
        if stops[reason]:
            found.append(
                Finding(spec, f"{stops[reason]} of {sum(stops.values())} half-seams {text}", hint=hint)
            )
    if misses is not None and len(misses) and float(misses.median()) > 0.05:
        found.append(
            Finding(
                TRACE_NOT_REPRODUCIBLE,
                f"seams traced back miss their start by {float(misses.median()):.2g} (median): single paths "
                "depend on the tolerance, read the means",
                hint="a smaller --tolerance or --length; the directions of a network with many kinks change by jumps",
            )
        )
    if not first and wanted & {"images", "svg"}:
        found.append(Finding(TRACE_NO_PICTURE, f"no picture was written: {NO_SEAM}"))
    return tuple(found)
