"""The words of `factorise`: the verdict as a researcher would write it, and what deserves attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from vaeprobe.budget import NO_TIME, about
from vaeprobe.findings import (
    DISCONTINUOUS,
    FACTORISE_UNDEFINED,
    INACTIVE_LATENTS,
    LOW_RANK,
    NOT_ONE_TO_ONE,
    NOT_SMOOTH,
    PART_OF_LATENTS,
    RANK_DEFICIENT,
    TIED_SEAMS,
    TIED_SINGULAR_VALUES,
    TIME_LIMIT,
    UNDECIDED,
)
from vaeprobe.likelihood_names import in_words
from vaeprobe.probes.factorise.numbers import latent_names, short
from vaeprobe.probes.rounded import rounded
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from vaeprobe.geometry.decisions import Decision
    from vaeprobe.geometry.factorisation import Evidence, Extra
    from vaeprobe.geometry.spread import Spread
    from vaeprobe.probes.parts import Part

# Share of the random bases' gap under which columns are called nearly orthogonal, or partly so.
NEARLY, PARTLY = 0.35, 0.75
# Own share above which column lengths are called mostly, or partly, a latent's own.
MOSTLY_OWN, PARTLY_OWN = 0.75, 0.35
# Factor of a column's length under which what other latents change is not worth a clause.
TRIFLING = 1.005


def summary(e: Evidence, likelihood: str | None, part: Part | None = None) -> str:
    """Return the verdict as a researcher would write it."""
    if part is None:
        return _summary(e, likelihood)
    told = _summary(
        e, likelihood, seams="these are its seams" if part.seen else "the given axes are its seams"
    )
    if part.seen and e.undefined:
        told += (
            " Which of them move the output differs between latents, as where units are off, and no basis has independent "
            "columns everywhere; `vaeprobe orthogonality` measures rank and alignment."
        )
    return f"{part.start}: {_lowered(told)}"


def _lowered(sentence: str) -> str:
    return (
        sentence
        if sentence[:1].isdigit() or sentence[1:2].isupper()
        else f"{sentence[0].lower()}{sentence[1:]}"
    )


def _summary(e: Evidence, likelihood: str | None, seams: str = "the given axes are its seams") -> str:
    if e.undefined or e.gap is None or e.spread is None or e.gap_null is None:
        return f"Undefined: {e.undefined}."
    active, k = len(e.active), len(e.continuous)
    count = "" if active == k else f"{active} of {k} {e.axes} are active. "
    if likelihood is not None:
        count = f"{count}Measured in the metric of a {in_words(likelihood)} likelihood. "
    lengths = _lengths(e.spread, _worst(e))
    locally, tail = _locally(e), _over_sheets(e)
    jumps = " It jumps between latents, and what is said holds apart from the jumps." if e.jumps else ""
    gap = short(e.gap.value)
    match e.verdict:
        case "undetermined":
            # the parts of the sentence that are decided are left to the table of evidence
            questions = [QUESTIONS[test] for test in e.undecided]
            return (
                f"{count}Undetermined: {e.drawn} latents leave open {' and '.join(questions)}. The estimates point "
                f"to `{e.leaning}` (gap {gap} nats, largest cross {short(e.spread.largest.value)}).{jumps}"
            )
        case "linear":
            where = (
                seams
                if e.gap.likely_zero
                else f"its singular vectors are not the given axes (gap {gap} nats there)"
            )
            return (
                f"{count}The decoder is linear: its density factorises along its singular vectors, and {where}."
                f"{_exceptions(e.variation)}"
            )
        case "independent":
            return (
                f"{count}{locally} density factorises into independent components "
                f"along the latent axes: the columns are orthogonal (gap {gap} nats against {short(e.gap_null)} at "
                f"random axes) and the length of each depends on its own latent alone.{_exceptions(e.gap)}{tail}{jumps}"
            )
        case "dependent":
            tied = " All singular values are equal, so no basis is special." if e.tied else ""
            return (
                f"{count}{locally} density factorises along the latent axes, but "
                f"not into independent components: the columns are orthogonal (gap {gap} nats), and {lengths}."
                f"{tied}{tail}{jumps}"
            )
        case "rotated":
            assert e.gap_rotated is not None
            assert e.spread_rotated is not None
            also = {
                True: "there the components are independent as well",
                False: f"there the components are still dependent ({_lengths(e.spread_rotated)})",
                None: f"whether the components are independent there, {e.spread_rotated.largest.n} latents leave open",
            }[e.spread_rotated.largest.zero]
            return (
                f"{count}{locally} density factorises after one rotation of the "
                f"latent space, which takes the gap from {gap} to {short(e.gap_rotated.value)} nats; {also}.{tail}{jumps}"
            )
        case "curved":
            return (
                f"{count}{locally} density factorises into independent components "
                f"along curved seams: no rotation makes the columns orthogonal (gap {gap} nats), and the seams bend "
                f"so that the mixed derivative of the log density along them is 0.{tail}{jumps}"
            )
        case _:
            return (
                f"{count}The density does not factorise along straight seams, strictly. {_oblique(e)}, and {lengths}."
                f"{_bent(e)}{tail}{jumps}"
            )


# what each test of the verdict asks, as the object of "leave open"
QUESTIONS = {
    "linear": "whether the Jacobian is constant",
    "C1": "whether the columns are orthogonal",
    "C2": "whether the length of each column depends on its own latent alone",
    "C1 after a rotation": "whether a rotation makes the columns orthogonal",
}


def _locally(e: Evidence) -> str:
    """Return how a statement about the density begins: what was tested of the decoder being one-to-one."""
    if e.sheets is None:
        return "Locally, where the decoder is one-to-one, the"
    return "Locally, on each sheet by itself, the" if e.sheets.shared.any() else "The"


def _over_sheets(e: Evidence) -> str:
    """Return what the search for other sheets says, as a sentence."""
    from vaeprobe.intervals import binomial_interval

    if e.sheets is None:
        return ""
    n, hits = len(e.sheets.shared), int(e.sheets.shared.sum())
    if hits == 0:
        most = binomial_interval(0, n)[1]
        if e.verdict == "entangled":
            return ""  # nothing is claimed that needs it
        return (
            f" No second latent with the same output was found at {n} latents (at most {most:.1%} have one within "
            "reach of the search)."
        )
    return (
        f" The decoder is not one-to-one: at {hits} of {n} latents another one has the same output, and over all "
        f"sheets the gap is {short(e.gap_true or 0.0)} nats."
    )


def _exceptions(decision: Decision | None) -> str:
    """Return what so many latents cannot exclude, as a sentence."""
    from vaeprobe.geometry.decisions import rule_of_three

    if decision is None:
        return ""
    return f" Rare exceptions, at most {rule_of_three(decision.n):.2%} of the latents, would go unseen."


def _oblique(e: Evidence) -> str:
    """Return how far the columns are from orthogonal, as a clause."""
    assert e.gap is not None
    assert e.gap_null is not None
    share = e.gap.value / e.gap_null if e.gap_null > 0 else 1.0
    degree = "nearly orthogonal" if share < NEARLY else "partly orthogonal" if share < PARTLY else "oblique"
    rotated = f"; the best rotation leaves {short(e.gap_rotated.value)}" if e.gap_rotated else ""
    lost = e.drawn - e.usable
    where = f", and linearly dependent at {lost} of {e.drawn} latents" if lost else ""
    more = " or more" if lost else ""
    return f"The columns are {degree} (gap {short(e.gap.value)} nats{more} against {short(e.gap_null)} at random axes{rotated}){where}"


def _bent(e: Evidence) -> str:
    """Return what is known of curved seams, as a sentence."""
    if e.curved is None:
        return f" Curved seams cannot be judged: {NO_TIME}." if "curved" in e.skipped else ""
    judged = (
        "Curved seams cannot be judged" if e.curved.state == "undetermined" else "Curved seams are dependent"
    )
    return f" {judged}: {e.curved.why}."


def _lengths(spread: Spread, worst: str = "") -> str:
    """Return how far column lengths are their latents' own, as a clause."""
    if spread.largest.zero or spread.mean_own_share is None:
        return "the length of each depends on its own latent alone"
    share = spread.mean_own_share
    degree = "mostly on their own latent" if share > MOSTLY_OWN else "on other latents as well"
    if share < PARTLY_OWN:
        degree = "mostly on other latents"
    return f"their lengths depend {degree} (mean own share {share:.2f}{worst})"


def _worst(e: Evidence) -> str:
    """Return which column other latents change most, and which of them does, as the end of a bracket; "" for a trifle."""
    if e.spread is None or e.pairs is None:
        return ""
    i = max(range(len(e.active)), key=e.spread.cross.__getitem__)
    row = e.pairs[i].clone()
    row[i] = 0
    factor = math.exp(e.spread.cross[i])
    if factor < TRIFLING or not row.any():
        return ""
    changed, by = (f"{e.letter}{e.continuous[e.active[at]]}" for at in (i, int(row.argmax())))
    size = f"{factor:.3g}" if factor < 1.1 else f"{factor:.2g}"
    return f"; others change the length of {changed} by a factor {size} (rms), {by} most of all"


def findings(e: Evidence, part: Part | None = None, cost: str = "") -> list[Finding]:
    """Return what a reader has to know about the numbers.

    Args:
        part: the latents that were measured, None for all.
        cost: of all of them, in brackets.
    """
    found = []
    if part is not None and part.seen:
        found.append(
            Finding(
                LOW_RANK,
                f"the output depends on {part.decoder.latent_dim} directions of the {part.whole} latents alone, and is constant "
                "along the others to rounding: axes u0, u1, ... are eigenvectors of the mean metric, the longest first",
                hint=None
                if part.decoder.dtype == torch.float64
                else "--dtype float64 tells a direction that hardly moves the output from one that does not",
            )
        )
    elif part is not None:
        found.append(
            Finding(
                PART_OF_LATENTS,
                f"of {part.whole} latents, {part.words} were measured, at {e.drawn} draws of all; other latents with the "
                "same output were not looked for",
                hint=f"--part all measures along every latent {cost}, --part channels or some at as many draws as --max-samples "
                "says",
            )
        )
    if e.rounding is not None:
        return [*found, rounded(e.rounding)]
    if e.undefined:
        fewer = part is not None and not part.seen and len(e.active) > 1
        hint = (
            "--part all looks for the directions that the output depends on, and asks along these"
            if fewer
            else None
        )
        return [*found, Finding(FACTORISE_UNDEFINED, f"no verdict: {e.undefined}", hint=hint)]
    inactive = [f"{e.letter}{c}" for i, c in enumerate(e.continuous) if i not in set(e.active)]
    if inactive:
        continuous = "continuous " * (e.letter == "z")
        listed = ", ".join(inactive[:8]) + (", ..." if len(inactive) > 8 else "")
        found.append(
            Finding(
                INACTIVE_LATENTS,
                f"left out as inactive: {len(inactive)} of {len(e.continuous)} {continuous}{e.axes} ({listed})",
            )
        )
    if e.usable < e.drawn:
        found.append(
            Finding(
                RANK_DEFICIENT,
                f"the active columns are linearly dependent at {e.drawn - e.usable} of {e.drawn} latents, "
                "which are left out",
            )
        )
    if e.undecided:
        found.append(
            Finding(
                UNDECIDED,
                f"{e.drawn} latents leave open: {', '.join(e.undecided)}; the estimates point to "
                f"`{e.leaning}`",
                hint=("raise --max-samples" if e.limited is None else "give more --time")
                + ", or choose another --margin",
            )
        )
    if e.sheets is not None and e.sheets.count.any():
        found.append(_not_one_to_one(e))
    if e.jumps:
        found.append(
            Finding(
                DISCONTINUOUS,
                f"the decoder jumps, on {e.jumps:.2g} of the segments and latents looked at: its Jacobian knows "
                "nothing of jumps, and a constant one does not make it linear",
            )
        )
    if e.tied:
        found.append(
            Finding(
                TIED_SINGULAR_VALUES,
                "all singular values are equal at every latent: every orthogonal basis is a set of seams, and "
                "what is said of lengths is about the given axes",
            )
        )
    if e.smooth is not None and not e.smooth.smooth:
        vacuous = (
            "derivative tests of C2 and of curved seams are vacuous"
            if e.smooth.kind != "unknown"
            else ("derivative tests of C2 and of curved seams are not to be had")
        )
        found.append(
            Finding(
                NOT_SMOOTH,
                f"{e.smooth.why}: {vacuous}; C2 rests on differences, which work for every network",
            )
        )
    if e.curved is not None and e.curved.tied > 0:
        found.append(
            Finding(
                TIED_SEAMS,
                f"some singular values are equal at {e.curved.tied:.0%} of the latents: those seams are not "
                "identified one by one and are tested as one block",
            )
        )
    return found


def _not_one_to_one(e: Evidence) -> Finding:
    """Return where other latents have the same output, and what they add."""
    assert e.sheets is not None
    assert e.sheets.example is not None
    sheets, n = e.sheets, len(e.sheets.count)
    here, there = (_place(e, z) for z in e.sheets.example)
    adding = int(sheets.shared.sum())
    return Finding(
        NOT_ONE_TO_ONE,
        f"the decoder is not one-to-one: at {int((sheets.count > 0).sum())} of {n} latents another latent has the same "
        f"output ({here} and {there}, for one), and at {adding} it adds over 1 % to the density, "
        f"{short(float(sheets.others.mean()))} nats on average",
        level="warning" if adding else "note",
    )


def _place(e: Evidence, z: Tensor) -> str:
    names = latent_names(e)[:3]
    more = ", ..." if len(e.active) > 3 else ""
    return ", ".join(f"{name} = {float(z[int(name[1:])]):.3g}" for name in names) + more


# what is left out where no time is left
LEFT_OUT: dict[Extra, str] = {
    "jumps": "whether the decoder jumps",
    "grades": "how far the density is from factorising",
    "factors": "dependence of the seam factors",
    "curved": "curved seams",
    "pairs": "which latent changes which column",
    "sheets": "other latents with the same output",
    "derivatives": "derivatives of the column lengths",
}


def limits(evidence: Evidence) -> tuple[Finding, ...]:
    """Return what did not fit into the time that was given."""
    said = []
    if evidence.limited is not None:
        said.append(
            f"the time given lasted for {evidence.drawn} latents; those that the verdict asked for would take "
            f"{about(evidence.limited)}"
        )
    if evidence.skipped:
        said.append(
            f"no time was left for {', '.join(words for name, words in LEFT_OUT.items() if name in evidence.skipped)}"
        )
    return tuple(Finding(TIME_LIMIT, message) for message in said)
