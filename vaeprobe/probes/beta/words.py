"""The words of `beta`: verdict, summary, findings, and never more than the tests carry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vaeprobe.findings import (
    CODES_OFF_PRIOR,
    COLLAPSED,
    COLLAPSED_LATENTS,
    IMPLIED_BETA,
    LATENTS_APART,
    MEANS_DISAGREE,
    NO_CURVATURE,
    NOT_AT_OPTIMUM,
    OTHER_BETA,
    ROWS_DISAGREE,
)
from vaeprobe.probes.with_encoder import EncoderEvidence
from vaeprobe.report import Finding

if TYPE_CHECKING:
    from vaeprobe.inference.beta import BetaEstimate
    from vaeprobe.recipe import Recipe

OFF_PRIOR = 2.0  # mean squares of codes within this factor of 1 are what trained models show
CLEARLY = 0.02  # shares of beta under this are not worth a word, however certain
OTHER_LOSSES = (
    "early stopping, annealing, a total-correlation or capacity term in the loss, rows that the encoder was not "
    "trained on, or another likelihood than the one named"
)


def verdict(evidence: EncoderEvidence) -> str:
    """Return mismatched, collapsed, inconsistent, untested or consistent."""
    estimate = evidence.estimate
    if estimate is None and evidence.reading is None:
        return "collapsed"
    if evidence.no_curvature:
        return "untested"
    if estimate is None or evidence.mismatched:
        return "mismatched"
    if estimate.disagrees or estimate.of_rows.ci[1] < 0:
        return "inconsistent"
    return "consistent" if estimate.tested else "untested"


def symbol(evidence: EncoderEvidence) -> str:
    """Return what the estimate is an estimate of."""
    return "beta sigma^2" if evidence.likelihood.free_variance == 1.0 else "beta"


def summary(evidence: EncoderEvidence) -> str:
    """Return the verdict in sentences."""
    estimate, k = evidence.estimate, evidence.moments.latents
    if estimate is not None and evidence.no_curvature:
        return f"{evidence.place}: {evidence.no_curvature}: the curvature that would tell beta is not known."
    if estimate is None:
        told = (
            f"{evidence.place}: {_all(k)} the prior: the model has collapsed, and its beta cannot be told from the "
            "encoder."
        )
    elif evidence.no_beta:
        told = f"{evidence.place}: {evidence.no_beta}. {_below_zero(estimate)}"
    else:
        low, high = estimate.stein.ci
        imply = "imply" if low > 0 else "imply nothing that is distinguishable from 0:"
        told = (
            f"{evidence.place}: the variances {imply} {symbol(evidence)} = {estimate.stein.value:.3g} (95 % CI {low:.3g} to "
            f"{high:.3g}; rows that the encoder was not trained on bias it), from {int(estimate.active.sum())} of {k} "
            f"latents. {tested(estimate)}"
        )
    if evidence.reading is not None:
        return f"The encoder's outputs are probably laid out otherwise: do not trust this. {told}"
    if evidence.mismatched and estimate is not None:
        return f"The codes reconstruct these data no better than the mean image: do not trust this. {told}"
    return told


def _below_zero(estimate: BetaEstimate) -> str:
    low, high = estimate.of_rows.ci
    if high < 0:
        return (
            f"It is below 0 for certain (95 % CI {low:.3g} to {high:.3g}): this encoder is at the optimum of no beta-ELBO "
            "with this likelihood on these rows."
        )
    return f"These rows leave open whether there is one (95 % CI {low:.3g} to {high:.3g})."


def _all(k: int) -> str:
    return "the posterior of the one latent equals" if k == 1 else f"all {k} posteriors equal"


def tested(estimate: BetaEstimate) -> str:
    """Return what tested the estimate, and how that ended."""
    against = []
    if estimate.agreement is not None and estimate.latents_disagree:
        against.append(f"the latents' own values lie {estimate.agreement.spread:.0%} apart beyond noise")
    if estimate.means_disagree:
        against.append(
            f"the means {'imply' if estimate.means.value > 0 else 'ask for'} {estimate.means.value:.3g}"
        )
    if estimate.rows_disagree:
        against.append(
            f"noise of the log-variances from row to row adds {estimate.row_shift.value:.0%} to it"
        )
    if against:
        return (
            f"No single value explains these posteriors: {', '.join(against)}. So this encoder is not at the "
            "optimum of a beta-ELBO with this likelihood on these rows."
        )
    if estimate.agreement is None:
        return "With one active latent nothing tests whether one value explains all."
    _, most = estimate.agreement.ci
    if not math.isfinite(most):
        return "Nothing tests it: the likelihood has no curvature there."
    if not estimate.clear:
        return "Nothing tests it: it is not clear of 0."
    if not estimate.tested:
        return f"These rows are too few to test it: the latents' own values may lie {most:.0%} apart."
    return (
        f"One value explains these latents within {max(most, 0.001):.1%}"
        f"{_means_too(estimate)}; total-correlation and capacity losses can look alike."
    )


def _means_too(estimate: BetaEstimate) -> str:
    low, high = estimate.means_over_variances.ci
    if not low <= high:
        return ", and the means, which are 0, cannot test it"
    if high - low > 1:
        return ", and the means are too noisy to test it"
    agree = "nearly agree" if _of_means(estimate) else "agree"
    if estimate.means.ci[0] <= 0:
        return f", and what the means imply ({estimate.means.value:.3g}) is not distinguishable from 0"
    return f", and the means {agree} (they imply {estimate.means.value:.3g})"


def meaning(evidence: EncoderEvidence) -> str:
    """Return what the beta says about Var[x|z] (Theorem 3), "" where there is none."""
    estimate = evidence.estimate
    if estimate is None or evidence.no_beta or estimate.stein.ci[0] <= 0:
        return ""
    return evidence.likelihood.at_beta(estimate.stein.value, evidence.outputs)


def findings(evidence: EncoderEvidence, nominal: float | None) -> list[Finding]:
    """Return what deserves attention, beside what loading and layout noted.

    Args:
        nominal: the beta that the user gave.
    """
    estimate, k = evidence.estimate, evidence.moments.latents
    if estimate is not None and evidence.no_curvature:
        return _of_codes(evidence)
    if estimate is None:
        return [
            Finding(
                COLLAPSED,
                f"{_all(k)} the prior: the encoder says nothing about its data",
                hint="train with a smaller beta or sigma^2, or warm the KL up",
            )
        ]
    if evidence.no_beta:
        return [_not_curved(evidence.no_beta), *_of_codes(evidence)]
    out = [
        *_of_latents(estimate, evidence.names),
        *_of_means(estimate),
        *_of_rows(estimate),
        *_of_codes(evidence),
    ]
    low, high = estimate.stein.ci
    if low <= 0:
        out.append(
            _not_curved(
                f"whether beta is positive is open: its interval reaches from {low:.3g} to {high:.3g}"
            )
        )
    if nominal is not None and evidence.likelihood.free_variance is None and not low <= nominal <= high:
        out.append(
            Finding(
                OTHER_BETA,
                f"the nominal beta {nominal:g} lies outside the interval {low:.3g} to {high:.3g}",
                hint="capacity annealing and early stopping leave an effective beta below the nominal one",
            )
        )
    dead = [n for n, on in zip(evidence.names, estimate.active.tolist(), strict=True) if not on]
    if dead:
        out.append(
            Finding(
                COLLAPSED_LATENTS,
                f"{len(dead)} of {k} latents ({_listed(dead)}) say nothing that the prior does not, and carry no "
                "weight here",
            )
        )
    return out


def _not_curved(what: str) -> Finding:
    return Finding(
        NO_CURVATURE,
        what,
        hint="is this the encoder of this decoder, and are these data like the training data?",
    )


def _of_codes(evidence: EncoderEvidence) -> list[Finding]:
    """Return which latents' codes are for certain further than a factor of two from filling the prior."""
    from vaeprobe.intervals import mean_interval

    off = []
    for name, squares in zip(evidence.names, evidence.moments.squares.T, strict=True):
        low, high = mean_interval(squares.numpy(), low=0.0) or (0.0, OFF_PRIOR)
        if high < 1 / OFF_PRIOR or low > OFF_PRIOR:
            off.append(f"{name} {float(squares.mean()):.3g}")
    if not off:
        return []
    return [
        Finding(
            CODES_OFF_PRIOR, f"codes do not fill the prior: mean squares {_listed(off)}, where 1 is expected"
        )
    ]


def implied(evidence: EncoderEvidence, recipe: Recipe | None) -> list[Finding]:
    """Return what the loss of the decoder's family implies, held against the reading where there is one."""
    if recipe is None:
        return []
    variance = evidence.likelihood.free_variance
    if evidence.no_curvature or evidence.estimate is None or not evidence.estimate.stein.ci[0] > 0:
        what = recipe.words("beta" if variance is None else "beta sigma^2")
        return [
            Finding(
                IMPLIED_BETA,
                f"the loss of its family implies {what}, and there is no reading to hold it against",
            )
        ]
    reading = evidence.estimate.stein.value * (1.0 if variance is None else variance)
    name = "beta" if variance is None else "beta sigma^2"
    said = f"the loss of its family implies {recipe.words(name)}"
    if not recipe.is_far(reading):
        near = f", and the reading is {reading:.3g}" if recipe.implied is not None else ""
        return [Finding(IMPLIED_BETA, f"{said}{near}")]
    mistake = recipe.pointing_at(reading)
    points = f"; a known mistake leaves such a reading: {mistake.says}" if mistake is not None else ""
    return [
        Finding(
            IMPLIED_BETA,
            f"{said}, and the reading is {reading:.3g}{points}",
            hint="was it trained with other settings, stopped early, or are these other data?",
            level="warning",
        )
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:6])}, ... {names[-1]}"


def _of_latents(estimate: BetaEstimate, names: Sequence[str]) -> list[Finding]:
    if estimate.agreement is None or estimate.agreement.ci[0] <= CLEARLY / 2:
        return []
    own = {
        n: e.value
        for n, e, on in zip(names, estimate.per_latent, estimate.active.tolist(), strict=True)
        if on
    }
    least, most = min(own, key=lambda n: own[n]), max(own, key=lambda n: own[n])
    span = f"run from {own[least]:.3g} ({least}) to {own[most]:.3g} ({most})"
    if estimate.latents_disagree:
        return [
            Finding(
                NOT_AT_OPTIMUM,
                f"this encoder is not at the ELBO's optimum: the active latents' own beta {span}",
                hint=OTHER_LOSSES,
            )
        ]
    return [
        Finding(
            LATENTS_APART,
            f"the active latents' own beta {span}: little, and more than their errors explain",
            hint=OTHER_LOSSES,
        )
    ]


def _of_means(estimate: BetaEstimate) -> list[Finding]:
    quotient, (low, high) = estimate.means_over_variances.value, estimate.means_over_variances.ci
    if not (high < 1 - CLEARLY / 2 or low > 1 + CLEARLY / 2) or estimate.stein.ci[0] <= 0:
        return []
    imply = "imply beta =" if estimate.means.value > 0 else "ask for"
    return [
        Finding(
            MEANS_DISAGREE,
            f"the means {imply} {estimate.means.value:.3g}, {quotient:.3g} times what the variances imply "
            f"({estimate.stein.value:.3g})",
            level="warning" if estimate.means_disagree else "note",
            hint="variances of another training stage, scaled or clamped, or rows that the encoder was not trained on, "
            "where its means err",
        )
    ]


def _of_rows(estimate: BetaEstimate) -> list[Finding]:
    shift = estimate.row_shift
    if shift.ci[0] <= CLEARLY / 2 or shift.value <= CLEARLY:
        return []
    return [
        Finding(
            ROWS_DISAGREE,
            "the log-variances differ from row to row by more than the likelihood asks for, as noise would: that "
            f"adds about {shift.value:.0%} to beta",
            level="warning" if estimate.rows_disagree else "note",
            hint="use rows that the encoder was trained on; a dropout left on, or a second output that is no "
            "log-variance, does it too",
        )
    ]
