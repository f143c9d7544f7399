"""The numbers of `trace`: means over starts, with their intervals."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from vaeprobe.intervals import LEVEL, mean_interval
from vaeprobe.probes.trace.metrics import SPECS
from vaeprobe.report import Metric, OfAll, metric_map
from vaeprobe.seams.summary import by_start, random_axis_overlap, usable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from vaeprobe.engine.rounding import Lost
    from vaeprobe.seams import LoopDefects, Paths

IN_UNIT_INTERVAL = frozenset(
    f"trace.{name}" for name in ("straightness", "axis_overlap", "axis_overlap_worst", "tied")
)


# why numbers have no value where time ended before they were measured
# Numbers of the run itself are what they are, whatever part of the latents it was in.
OF_ALL: dict[str, OfAll] = {"trace.step_limits": "known", "trace.return_error": "known"}
LATE = "the time given was over before it was measured"


def trace_metrics(
    paths: Paths, loops: LoopDefects | None, misses: Tensor | None, lost: Lost | None = None
) -> dict[str, Metric]:
    """Return every number of the seams, by id, in the order of the page.

    Args:
        misses: None where time was over first.
        lost: columns that are rounding, so that there are no seams.
    """
    found = _trace_metrics(paths, loops, misses)
    if lost is None:
        return found
    chance = "trace.axis_overlap_random"  # which has nothing to do with the decoder
    return {id: m if id == chance else Metric.undefined(SPECS[id], lost.why) for id, m in found.items()}


def _trace_metrics(paths: Paths, loops: LoopDefects | None, misses: Tensor | None) -> dict[str, Metric]:
    seams = usable(paths)
    starts = by_start(seams) if seams else {}
    why = _no_seams(paths)
    out = []
    for name in ("straightness", "turning", "axis_overlap"):
        out.append(_mean(f"trace.{name}", starts.get(name), why))
    out.append(
        Metric(
            SPECS["trace.axis_overlap_random"],
            random_axis_overlap(len(paths.coordinates)),
            method="4096 draws",
        )
    )
    for name in ("axis_overlap_worst", "crossings", "tied", "speed_spread"):
        out.append(_mean(f"trace.{name}", starts.get(name), why))
    out.append(_loop_metric(loops, paths))
    length = sum(seam.length for seam in seams)
    kinds = Counter(event.kind for event in paths.events)
    if paths.scheme == "kinks" and length:
        out.append(Metric(SPECS["trace.kinks"], kinds["kink"] / length, n=len(seams)))
    else:
        reason = why if not length else f"scheme `{paths.scheme}` does not look for single kinks"
        out.append(Metric.undefined(SPECS["trace.kinks"], reason))
    limits = SPECS["trace.step_limits"]
    out.append(
        Metric(limits, kinds["step limit"], n=len(seams)) if len(seams) else Metric.undefined(limits, why)
    )
    if misses is None:
        out.append(Metric.undefined(SPECS["trace.return_error"], why or LATE))
    elif len(misses):
        out.append(
            Metric(
                SPECS["trace.return_error"],
                float(misses.median()),
                n=len(misses),
                method=f"largest {float(misses.max()):.2g}",
            )
        )
    else:
        out.append(Metric.undefined(SPECS["trace.return_error"], why or "no open seam to trace back"))
    out.append(Metric(SPECS["trace.collapsed"], paths.stops["collapse"], n=sum(paths.stops.values())))
    return metric_map(out)


def _mean(id: str, values: NDArray[np.float64] | None, why: str) -> Metric:
    if values is None:
        return Metric.undefined(SPECS[id], why)
    # shares and overlaps lie in [0, 1], whatever else is averaged here is not negative
    high = 1.0 if id in IN_UNIT_INTERVAL else float("inf")
    interval = mean_interval(values, low=0.0, high=high)
    return Metric(
        SPECS[id],
        float(values.mean()),
        ci=interval,
        level=LEVEL if interval else None,
        n=len(values),
        method="mean over starts, interval by Student's t, skewness" if interval else "one start",
    )


def _loop_metric(loops: LoopDefects | None, paths: Paths) -> Metric:
    id, k = "trace.nonintegrability", len(paths.coordinates)
    if k < 3:
        reason = "pairs of seams always span a surface with fewer than three latents"
        return Metric.undefined(SPECS[id], reason)
    if loops is None or not loops.pairs:
        reason = "not measured by iteration (many latents)"
        if paths.method == "dense":
            reason = "it needs two components" if len(paths.components) < 2 else LATE
        return Metric.undefined(SPECS[id], reason)
    rows = zip(loops.bracket, loops.determined, strict=True)
    values = np.array([float(b[d].median()) for b, d in rows if d.any()])
    if not len(values):
        return Metric.undefined(SPECS[id], "the seam directions at the starts are tied or not finite")
    metric = _mean(id, values, "")
    return Metric(
        SPECS[id],
        metric.value,
        ci=metric.ci,
        level=metric.level,
        n=metric.n,
        method=f"loops of side {loops.size:g}, {len(loops.pairs)} pairs",
    )


def _no_seams(paths: Paths) -> str:
    """Return why no seam has any length, or "" where some have."""
    if any(seam.length > 0 for seam in paths):
        return ""
    reasons = {
        "collapse": "the decoder is collapsed at every start: its output changes in no traced direction",
        "outside": f"every start lies outside the radius {paths.radius:.3g}",
        "not finite": "the decoder's Jacobian is not finite at any start",
    }
    most = paths.stops.most_common(1)[0][0] if paths.stops else "collapse"
    return reasons.get(most, f"no seam has any length: {most}")
