"""What the numbers of `trace` mean, and the words for what they say."""

from __future__ import annotations

from vaeprobe.report import MetricSpec, specs_by_id

VERDICTS = {
    "axis-parallel": "the seams are straight and run along the latent axes",
    "straight": "they are straight, and oblique to the axes, or it is open whether they run along them",
    "nearly straight": "they bend a little",
    "curved": "they are curved",
    "undecided": "the starts, or the time given, leave open whether they are straight",
    "undetermined": "singular values are tied along them: the decoder distinguishes no directions there",
    "undefined": "no seam could be traced: the summary says why",
}

SOURCE = "Allen (2024), arXiv:2410.22559v1, Section 4.1.3 and footnote 5"

METRICS = (
    MetricSpec(
        id="trace.straightness",
        title="straightness of the seams",
        better="higher",
        range="[0, 1]",
        formula="distance between a seam's ends over its latent arc length; mean over seams, then starts",
        source=SOURCE,
        meaning="1 for straight lines (linear decoders, and decoders whose seams are the axes or a rotation of them), "
        "0 for closed loops. The verdict says straight from 0.99 on (an arc that turns by half a radian), nearly "
        "straight from 0.95 on and curved below, where the whole interval lies there, and undecided where it does not",
        misleads="short seams look straight: read it beside the length; a seam that only wiggles keeps a high value, "
        "see `trace.turning`",
        remedy="a larger beta straightens the seams; curved seams may still be independent: see `factorise`",
    ),
    MetricSpec(
        id="trace.turning",
        title="turning of the seams",
        better="lower",
        unit="rad/length",
        range="[0, inf)",
        formula="sum of the angles between successive tangents over latent arc length; mean over seams, then starts",
        source=SOURCE,
        meaning="0 for straight seams; 1/r on a circle of latent radius r",
        misleads="on piecewise-linear decoders every kink contributes, back and forth, so it grows with resolution",
        remedy="see `trace.straightness`",
    ),
    MetricSpec(
        id="trace.axis_overlap",
        title="overlap with the nearest axis",
        better="higher",
        range="[0, 1]",
        formula="mean of |v . e_a| along a seam, a its nearest axis; mean over seams, then starts",
        source="Allen (2024), Section 4.1 (V = I); Rolinek et al. (2019)",
        meaning="1 where the seams run along the latent axes, so that a traversal of one latent follows one seam. The "
        "verdict says axis-parallel where seams are straight and the whole interval lies above 0.99",
        misleads="a random direction already has `trace.axis_overlap_random` (0.90 for two latents); where singular "
        "values are tied the direction is arbitrary: see `trace.tied`",
        remedy="if the seams are straight but oblique, one rotation of the latent space aligns them: "
        "`vaeprobe orthogonality` returns it",
    ),
    MetricSpec(
        id="trace.axis_overlap_random",
        title="the same for a random direction",
        beside="random direction",
        range="[0, 1]",
        formula="E max_a |v_a|, v uniform on the unit sphere; 4096 draws",
        source="definition",
        meaning="what `trace.axis_overlap` would be for straight seams in random directions",
        misleads="real seams bend, which lowers the value a little further",
        remedy="none: a reference",
    ),
    MetricSpec(
        id="trace.axis_overlap_worst",
        title="smallest overlap along a seam",
        better="higher",
        range="[0, 1]",
        formula="min of |v . e_a| along a seam; mean over seams, then starts",
        source=SOURCE,
        meaning="how far a seam leaves its axis at its worst place",
        misleads="an extreme, which grows with the length of the seams",
        remedy="look at the place: `--save` writes every node",
    ),
    MetricSpec(
        id="trace.crossings",
        title="crossings per seam",
        range="[0, inf)",
        formula="times that the followed singular value changes its place in the descending order; mean over seams, "
        "then starts",
        source=SOURCE,
        meaning="component numbers hold at the start only: beyond a crossing the seam belongs to another place",
        misleads="singular values that nearly touch and avoid each other count as well; each event carries the "
        "relative gap that was seen. Where kinks are dense the number grows with resolution, as that of turns does",
        remedy="none needed: seams are followed through crossings by continuity",
    ),
    MetricSpec(
        id="trace.tied",
        title="share of length with tied singular values",
        better="lower",
        range="[0, 1]",
        formula="share of arc length on which the singular value coincides with another within the resolution",
        source=SOURCE,
        meaning="there the direction is carried over from the last one, it is not determined by the decoder. The "
        "verdict says undetermined where it is more than half of the length",
        misleads="conformal maps are tied everywhere and have no seams of their own, whatever the other numbers say",
        remedy="weight by the decoder's likelihood (`--likelihood`), whose metric may separate them",
    ),
    MetricSpec(
        id="trace.speed_spread",
        title="spread of log s along the seams",
        better="lower",
        range="[0, inf)",
        formula="standard deviation of log s over the arc length of a seam; mean over seams, then starts",
        source="Allen (2024), Section 4.1: s_i is the data-space speed along seam i",
        meaning="0 for linear decoders; how unevenly equal latent steps move the output",
        misleads="says nothing about independence: s_i may vary along its own seam",
        remedy="none needed",
    ),
    MetricSpec(
        id="trace.nonintegrability",
        title="closure defect of small loops",
        better="lower",
        unit="1/length",
        range="[0, inf)",
        formula="part of the bracket [v_i, v_j] outside span(v_i, v_j), from loops; median over pairs, mean over starts",
        source="Frobenius' theorem; asked for by Allen (2024), Section 4.1.3 (seams as sub-manifolds)",
        meaning="0 iff each pair of seams spans surfaces, which coordinates along the seams need (three latents or more)",
        misleads="near-ties turn the frame fast and give large values; on decoders with kinks it is a finite-loop number",
        remedy="see `factorise`: independence along curved seams is undecided where the seams form no coordinates",
    ),
    MetricSpec(
        id="trace.kinks",
        title="kinks per unit of seam",
        range="[0, inf)",
        formula="places where the direction jumps over total latent arc length; scheme `kinks` only",
        source="definition",
        meaning="how often a piecewise-linear decoder changes piece along the seams",
        misleads="kinks that bend the seam by less than 1e-6 rad (1e-3 in float32) are not counted",
        remedy="none needed",
    ),
    MetricSpec(
        id="trace.step_limits",
        title="steps taken at the limit",
        better="lower",
        range="0, 1, 2, ...",
        formula="steps that were not halved further although their error exceeds the tolerance",
        source="definition",
        meaning="places where the direction turns faster than the tracer resolves: kinks, avoided crossings",
        misleads="a larger tolerance has fewer of them and is no more accurate",
        remedy="lower --tolerance, or --dtype float64",
    ),
    MetricSpec(
        id="trace.return_error",
        title="miss after tracing back",
        better="lower",
        unit="latent",
        range="[0, inf)",
        formula="distance to the start of up to eight seams traced back from their ends; median",
        source="definition",
        meaning="accuracy of the paths on this decoder, measured rather than promised",
        misleads="where neighbouring seams draw apart, the way back magnifies errors of the way out",
        remedy="lower --tolerance, or --dtype float64",
    ),
    MetricSpec(
        id="trace.collapsed",
        title="collapsed half-seams",
        better="lower",
        range="0, 1, 2, ...",
        formula="half-seams that stop because s falls under 1e-6 of the largest singular value at the start",
        source=SOURCE,
        meaning="directions along which the output does not change any more",
        misleads="components far under the largest one are not traced unless asked for",
        remedy="see `posterior` for collapsed latents",
    ),
)
SPECS = specs_by_id(METRICS)
