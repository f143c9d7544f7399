"""The words of `train-linear`: verdict, summary, findings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vaeprobe.findings import (
    COLLAPSE,
    DROPPED_ROWS,
    FLATTENED,
    FLOAT32,
    MISSING_VALUES,
    NOT_CONVERGED,
    RANDOMIZED,
    SINGULAR_VALUES,
    TIED_EIGENVALUES,
    UNSTEADY_COLUMNS,
    FindingSpec,
    Level,
)
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaeprobe.data import Data, NonfiniteRowsError
    from vaeprobe.linear.certificate import Certificate
    from vaeprobe.probes.train_linear.numbers import LinearFit

FEW_METHODS = 2  # of which each is told in full

VERDICTS = {
    "closed form": "no method was trained beside the closed form",
    "optimum on the axes": "a method reached the optimum, with its columns along the principal axes of these rows",
    "optimum, rotated": "it reached the optimum in another basis: its objective leaves the rotation free",
    "optimum, tied block": "it reached the optimum, but eigenvalues are equal or nearly so, and the axes among them are free",
    "not converged": "it ended short of the optimum: a saddle, too few steps, or no time",
    "collapsed": "no latent is active at the optimum",
    "EM on the observed values": "values are missing, and EM converged on those that are there",
    "EM not converged": "values are missing, and EM did not converge",
}


def verdict(fit: LinearFit) -> str:
    """Return what became of the fit: a word for each method that was trained, joined by `; `."""
    if not fit.solution.active.any():
        return "collapsed"
    if fit.missing is not None:
        return "EM on the observed values" if fit.missing.converged else "EM not converged"
    return "; ".join(dict.fromkeys(c.verdict for c in fit.certificates)) or "closed form"


def summary(fit: LinearFit) -> str:
    """Return how many latents are active, what they carry, and which columns the rows determine."""
    s, spec, ident = fit.solution, fit.spectrum, fit.identifiability
    active = int(s.active.sum())
    share = min(float(s.values.sum()) / spec.total, 1.0)
    alone = ident.alone(s.active)
    carried = "over 99.9%" if 0.9995 <= share < 1 - 1e-9 else f"{share:.1%}"
    if s.d == 1:
        text = f"The latent is {'active' if active else 'not active'} and its direction carries {carried} of the variance"
        text += f"; these {spec.n} rows {'determine' if alone else 'do not determine'} it." if active else "."
    else:
        text = (
            f"{active} of {s.d} latents are active and the {s.d} directions carry {carried} of the variance"
        )
        text += (
            f"; these {spec.n} rows determine {alone} of the {active} columns one by one." if active else "."
        )
    return " ".join([text, *trained(fit.certificates)])


def trained(certificates: Sequence[Certificate]) -> list[str]:
    """Return what became of the methods, each in a sentence of its own where they are few or it ended short."""
    if len(certificates) <= FEW_METHODS:
        return [c.sentence for c in certificates]
    there = [c for c in certificates if c.converged]
    ends = [
        f"{_and([f'`{c.run.method}`' for c in there if c.verdict == end])} reached the {end}"
        for end in dict.fromkeys(c.verdict for c in there)
    ]
    told = []
    if there:
        last = max(there, key=lambda c: c.run.gap)
        told = [
            f"{'; '.join(ends)} (the largest gap is that of `{last.run.method}`, {max(last.run.gap, 0.0):.1e} nats)."
        ]
    return told + [c.sentence for c in certificates if not c.converged]


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def findings(fit: LinearFit, rows: Data, chosen: Finding | None) -> list[Finding]:
    """Return what is worth knowing about the rows, the columns and the runs.

    Args:
        chosen: how the number of latents was chosen, where it was.
    """
    spec, s, ident, fitted = fit.spectrum, fit.solution, fit.identifiability, fit.missing
    out = [] if chosen is None else [chosen]

    def note(spec: FindingSpec, message: str, hint: str | None = None, level: Level | None = None) -> None:
        out.append(Finding(spec, message, hint=hint, level=level))

    if len(rows.row_shape) > 1:
        note(FLATTENED, f"rows of shape {rows.row_shape} were flattened to {spec.m} columns")
    if spec.left_out:
        seen = spec.n + spec.left_out
        note(DROPPED_ROWS, f"{spec.left_out} of {seen} rows hold NaN or infinity and were left out")
    if fitted is not None:
        done = "came to rest" if fitted.converged else "did not come to rest"
        note(
            MISSING_VALUES,
            f"{fitted.missing:.1%} of the values are missing; EM {done} after {fitted.steps} steps"
            f"{', when no time was left' if fitted.timed_out else ''}; intervals count every row as if it were whole",
            None if fitted.converged else _more(fitted.timed_out),
            level=None if fitted.converged else "warning",
        )
        if spec.n < rows.rows:
            note(DROPPED_ROWS, f"{rows.rows - spec.n} rows have no value at all and were left out")
    collapsed = (~s.active).nonzero()[0]
    if len(collapsed):
        which = f"z{collapsed[0]}" + (f" to z{collapsed[-1]}" if len(collapsed) > 1 else "")
        verb = "collapse" if len(collapsed) > 1 else "collapses"
        note(COLLAPSE, f"{which} {verb}: lambda does not exceed beta sigma^2 = {s.tau:.4g}")
    q = int(s.active.sum())
    for first, last in ident.blocks:
        if last >= q:
            others = "discarded" if q == s.d else "collapsed" if s.d == s.m else "collapsed and discarded"
            message = f"{_span(first, q - 1)} cannot be told from the {others} directions by these rows"
        else:
            message = f"{_span(first, last)} are identified only as a block"
        note(TIED_EIGENVALUES, message)
    if ident.angles is not None and (loose := [i for i in ident.loose if s.active[i]]):
        which = ", ".join(f"z{i}" for i in loose)
        widest = math.degrees(max(ident.angles[i] for i in loose))
        note(
            UNSTEADY_COLUMNS,
            f"resampled rows turn {which} by up to {widest:.0f} degrees (95 %), though the test of normal rows tells "
            "the eigenvalues apart",
        )
    if spec.solver == "randomized":
        note(
            RANDOMIZED,
            f"randomized solver: each retained eigenvalue lies within {spec.error:.1e} lambda_1 of a true one",
        )
    if spec.singular:
        note(
            SINGULAR_VALUES,
            "the covariance had lost the digits of the small eigenvalues (1e-9 of each was wanted): they are squares of "
            "singular values of the centred rows",
        )
    if spec.precision == "float32":
        note(
            FLOAT32,
            "products were formed in float32 and summed in float64: eigenvalues below 1e-6 lambda_1 are noise",
        )
    for c in fit.certificates:
        if not c.converged:
            hint = _more(True) if c.run.stopped == "time" else "more --steps or --restarts"
            note(NOT_CONVERGED, c.sentence, hint, "warning")
    return out


def instead(error: NonfiniteRowsError, processes: int) -> str:
    """Return what can be done about rows that hold NaN or infinity: what leaves two rows or more, in so many processes."""
    alone = ", without torchrun," if processes > 1 else ""
    estimate = f"--missing em --latent-dim N{alone} estimates missing values"
    if error.valued < 2:
        return "all other rows hold nothing else: is it the right file or array?"
    if error.left < 2:
        return f"put NaN where infinity stands: {estimate}" if error.infinite else estimate
    return "leave them out with --drop-nonfinite" + ("" if error.infinite else f", or {estimate}")


def _more(timed_out: bool) -> str:
    return "more --time, or none" if timed_out else "more --steps"


def _span(first: int, last: int) -> str:
    return f"columns z{first} to z{last}" if last > first else f"column z{first}"
