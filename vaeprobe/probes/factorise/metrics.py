"""What the numbers of `factorise` mean."""

from __future__ import annotations

from vaeprobe.probes.orthogonality.metrics import LATENTS
from vaeprobe.report import MetricSpec, specs_by_id

PAPER = "Allen (2024), arXiv:2410.22559v1"

VERDICTS = {
    "linear": "J constant and no jumps",
    "independent": "C1 (orthogonal columns) and C2 (the length of each depends on its own latent alone)",
    "dependent": "C1 without C2",
    "rotated": "C1 after one rotation of the latent space",
    "curved": "M, curved C2 and twist are 0",
    "entangled": "none of these",
    "undetermined": "the latents drawn leave a test open that decides",
    "undefined": "there is nothing to test: the summary says why",
}

METRICS: tuple[MetricSpec, ...] = (
    MetricSpec(
        id="factorise.verdict",
        title="verdict",
        range=", ".join(VERDICTS),
        formula="; ".join(f"{word}: {meaning}" for word, meaning in VERDICTS.items()),
        source=f"{PAPER}, Theorems 1 and 2 and Section 4.1.3; C2 is needed and missing from Theorem 2",
        meaning="What kind of factorisation the density has, exactly, within the margin. Trained decoders are "
        "rarely anything but entangled in this sense: read the effect sizes beside it.",
        misleads="It is strict: a decoder with nearly orthogonal columns and a random one are both entangled. It "
        "reads the Jacobian, so that it is about the density of outputs only where the decoder is one-to-one.",
        remedy="Compare `factorise.gap` with `factorise.gap_null`, and read the own shares; --margin says what "
        "counts as zero.",
    ),
    MetricSpec(
        id="factorise.gap",
        title="gap (C1)",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="mean_z [sum_i log n_i - 1/2 log det G] = mean_z [log p(x) - sum_i log p_i(x)]",
        source=f"{PAPER}, Eqs. 14, 15",
        meaning="How far the density is from the product of its seam factors p(z_i) / n_i; 0 iff the columns of "
        "the Jacobian are orthogonal at every latent. The equality with p(x) holds where the decoder is "
        "one-to-one (injective): other latents with the same output add to p(x).",
        misleads="0 does not make the factors independent (polar coordinates): that takes C2 as well. It grows "
        "with the number of active latents.",
        remedy="See whether a rotation repairs it (`factorise.gap_rotated`); a larger beta with a diagonal "
        "posterior lowers it.",
    ),
    MetricSpec(
        id="factorise.gap_null",
        title="gap at random axes",
        beside="random axes",
        unit="nats",
        range="[0, inf)",
        formula="mean over Haar R and latents z of the gap of f(R z)",
        source="rotation null; N(0, I) is invariant under R",
        meaning="What an arbitrary orthogonal basis of the same latent space has: the yardstick of the gap.",
        misleads="It is small where all latents stretch alike, and 0 where G is a multiple of I.",
        remedy="None needed.",
    ),
    MetricSpec(
        id="factorise.sheets",
        title="share with other sheets",
        better="lower",
        range="[0, 1]",
        formula="share of latents z with sum over z' != z, f(z') = f(z), of p(z') / sqrt(det G(z')) above 1 % of "
        "the own term",
        source="area formula; exact binomial interval, Clopper and Pearson (1934)",
        meaning="How often another latent has the same output and adds to its density. Statements about p(x) from "
        "one Jacobian need 0: a one-to-one (injective) decoder.",
        misleads="0 found is a bound, the interval's end, on what the search finds, and no proof. Active latents "
        "alone move in it.",
        remedy="Read `factorise.true_gap`; --sheets looks at more latents.",
    ),
    MetricSpec(
        id="factorise.true_gap",
        title="gap over all sheets",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="mean_z [log sum over z' in f^-1(f(z)) of p(z') / sqrt(det G(z')) - sum_i log p_i]",
        source="area formula; equals `factorise.gap` where the decoder is one-to-one",
        meaning="How far the density of outputs is from the product of seam factors, other latents with the same "
        "output included. A fold that makes every output twice adds log 2.",
        misleads="Sheets that the search missed would raise it. Its interval leaves room for a second sheet at "
        "latents too rare to be probed.",
        remedy="--sheets looks at more latents.",
    ),
    MetricSpec(
        id="factorise.linearity",
        title="linearity",
        better="higher",
        range="(-inf, 1], below 0 by sampling error alone",
        formula="min_i [1 - E |J_i(z) - J_i(z')|^2 / (2 E |J_i|^2)], z and z' independent",
        source=f"{PAPER}, Theorem 1",
        meaning="Share of the Jacobian that is the same everywhere, for the least linear column; 1 for a linear "
        "decoder, whose density factorises along its singular vectors.",
        misleads="A map can be far from linear and still factorise.",
        remedy="None: neither end is better by itself.",
    ),
    MetricSpec(
        id="factorise.cross",
        title="cross per latent (C2)",
        range="[0, inf) each",
        formula="cross_i^2 = E Var(log n_i | z_i) = 1/2 E [log n_i(z_i, a) - log n_i(z_i, b)]^2, a, b independent "
        "draws of all else",
        source="C2, missing from Theorem 2 of the paper; pick-freeze differences, Sobol' (1993)",
        meaning="How much the length of column i (how strongly latent i acts) varies with the other latents, in "
        "log units: 0.1 is ten per cent. One number per active latent.",
        misleads="Needs latents with independent coordinates: for posteriors, grids and files, the other latents "
        "are taken from other rows.",
        remedy="The matrix of pairs says which other latent modulates it.",
    ),
    MetricSpec(
        id="factorise.modulation",
        title="largest cross (C2)",
        better="lower",
        range="[0, inf)",
        formula="max_i cross_i",
        source="C2, missing from Theorem 2 of the paper",
        meaning="The worst latent: 0 iff every column's length depends on its own latent alone.",
        misleads="One nearly inactive latent can make it. Its interval takes the maximum into account, and what a "
        "doubling of the column at latents too rare to be seen (3 in n) would add.",
        remedy="Find the latent in the table, and who modulates it in the matrix of pairs.",
    ),
    MetricSpec(
        id="factorise.own_share",
        title="own share per latent",
        range="(-inf, 1] each, below 0 by sampling error alone",
        formula="1 - cross_i^2 / Var(log n_i)",
        source="first-order Sobol' index of log n_i in z_i",
        meaning="Share of the variation of log column length that the latent itself explains: 1 is C2.",
        misleads="A ratio: a column of almost constant length can have any share. Undefined where the length is "
        "constant, which satisfies C2.",
        remedy="Read it beside the standard deviation of log n_i.",
    ),
    MetricSpec(
        id="factorise.mean_own_share",
        title="mean own share",
        better="higher",
        range="(-inf, 1]",
        formula="mean over active latents of 1 - cross_i^2 / Var(log n_i)",
        source="first-order Sobol' indices",
        meaning="How far the strength of latents is their own affair, on average; 1 is C2.",
        misleads="As for the single shares; latents whose column length is constant are left out.",
        remedy="As for the single shares.",
    ),
    MetricSpec(
        id="factorise.derivative_cross",
        title="C2 by derivatives",
        range="[0, inf) each",
        formula="sqrt(E sum_{j != i} (d log n_i / d z_j)^2)",
        source="derivative form of C2",
        meaning="How fast column i changes with the other latents, per unit latent; 0 for every i iff C2, on a "
        "smooth decoder.",
        misleads="Vacuous for ReLU and other networks with kinks, where the change of J hides in the kinks: "
        "undefined there.",
        remedy="Use `factorise.cross`, which works for every network.",
    ),
    MetricSpec(
        id="factorise.seam_dependence",
        title="correlation of seams",
        better="lower",
        range="[0, 1]",
        formula="max_{i<j} |corr(l_i, l_j)|, l_i = log p(z_i) - log n_i(z)",
        source=f"{PAPER}, Section 4.1",
        meaning="Linear dependence of the log density factors of two seams; 0 under C2. Polar coordinates: 2/3.",
        misleads="A maximum over pairs, well above 0 by chance for few samples: read its p-value. 0 does not "
        "imply C2.",
        remedy="Look up the pair in the matrix of correlations.",
    ),
    MetricSpec(
        id="factorise.seam_dependence_p",
        title="  its p-value",
        range="[1 / (K + 1), 1]",
        formula="(1 + #{permutations with a larger maximum over pairs}) / (K + 1)",
        source="Westfall and Young (1993): corrected for the number of pairs",
        meaning="Probability of a largest correlation like this if the seam factors were independent.",
        misleads="It cannot fall under 1 / (K + 1), and a tiny correlation is significant in enough samples.",
        remedy="Raise --permutations for a finer value.",
    ),
    MetricSpec(
        id="factorise.distance_correlation",
        title="distance correlation",
        better="lower",
        range="[0, 1]",
        formula="max_{i<j} dCor(l_i, l_j)",
        source="Szekely, Rizzo and Bakirov (2007)",
        meaning="Dependence of any form between the log density factors of two seams, not only linear.",
        misleads="Biased upwards in small samples (0.1 is nothing in 256): read its p-value.",
        remedy="Look up the pair in the JSON matrix.",
    ),
    MetricSpec(
        id="factorise.distance_correlation_p",
        title="  its p-value",
        range="[1 / (K + 1), 1]",
        formula="as factorise.seam_dependence_p, at most 199 permutations",
        source="Westfall and Young (1993)",
        meaning="Probability of a largest distance correlation like this if the seam factors were independent.",
        misleads="As for the correlation.",
        remedy="As for the correlation.",
    ),
    MetricSpec(
        id="factorise.dependence",
        title="dependence (at least)",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="-1/2 log det corr of the normal scores of l_i = log p(z_i) - log n_i(z), less its bias "
        "1/2 sum_i [psi((n-1)/2) - psi((n-i)/2)]",
        source="total correlation of a normal copula; bias by Bartlett's decomposition of a Wishart matrix",
        meaning="How dependent the log seam factors are, as a lower bound of their total correlation: a number to "
        "rank decoders by that all fail the strict test. 0 where they are independent.",
        misleads="Dependence without correlation (of ranks) is not counted, so 0 is no proof. It grows with the "
        "number of active latents.",
        remedy="Compare it with `factorise.dependence_null`, the same at random axes.",
    ),
    MetricSpec(
        id="factorise.dependence_null",
        title="dependence at random axes",
        beside="random axes",
        unit="nats",
        range="[0, inf)",
        formula="mean over 20 Haar R of `factorise.dependence` of f(R z)",
        source="rotation null; N(0, I) is invariant under R",
        meaning="How dependent the factors along an arbitrary orthogonal basis of the same latent space are.",
        misleads="As for `factorise.dependence`.",
        remedy="None needed.",
    ),
    MetricSpec(
        id="factorise.explained",
        title="log-density explained",
        better="higher",
        range="(-inf, 1]",
        formula="1 - Var(c) / Var(log p(x)), c = log p(x) - sum_i log p_i(x) at each latent",
        source=f"{PAPER}, Eqs. 14, 15",
        meaning="Share of the variation of log p(x) from output to output that the sum of log seam factors "
        "explains; 1 iff the gap is the same everywhere.",
        misleads="A gap that is large and constant is not counted: read `factorise.gap`. On one sheet.",
        remedy="Compare it with `factorise.explained_null`, the same at random axes.",
    ),
    MetricSpec(
        id="factorise.explained_null",
        title="explained at random axes",
        beside="random axes",
        range="(-inf, 1]",
        formula="mean over 20 Haar R of `factorise.explained` of f(R z)",
        source="rotation null; N(0, I) is invariant under R",
        meaning="What factors along an arbitrary orthogonal basis explain.",
        misleads="High where the prior's own part of log p(x) outweighs that of the Jacobian.",
        remedy="None needed.",
    ),
    MetricSpec(
        id="factorise.gap_rotated",
        title="gap at best rotation",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="mean gap of f(R* z) over one half of the latents, R* the best rotation on the other half",
        source="joint diagonalisation, Flury and Gautschi (1986), Pham (2001)",
        meaning="What no rotation of the latent space repairs. Undefined where the gap is 0 already, or J is "
        "constant.",
        misleads="The search can end in a local optimum; with few latents R* overfits.",
        remedy="More --samples; `vaeprobe orthogonality --save-rotation` writes the rotation.",
    ),
    MetricSpec(
        id="factorise.modulation_rotated",
        title="cross at best rotation",
        better="lower",
        range="[0, inf)",
        formula="max_i cross_i of f(R* z)",
        source="C2 in the rotated basis",
        meaning="Whether the seams of a rotated decoder are independent as well. Measured where the verdict is "
        "rotated.",
        misleads="As for `factorise.modulation`.",
        remedy="As for `factorise.modulation`.",
    ),
    MetricSpec(
        id="factorise.curved_dependence",
        title="M of curved seams",
        better="lower",
        range="[0, 1]",
        formula="mean_z |M| / (1 + sum of the absolute terms of M); M_ij is the mixed derivative of the log density "
        "in the coordinates of seams i and j",
        source=f"{PAPER}, Section 4.1.3, cases (1) and (2)",
        meaning="0 iff curved seams are statistically independent (rays and circles), given that they form "
        "coordinates; parabolic seams have 0.3.",
        misleads="Needs derivatives of singular vectors: undefined on networks with kinks, where nothing can be "
        "said, and where singular values are too close for the rounding.",
        remedy="--dtype float64 where rounding is the reason.",
    ),
    MetricSpec(
        id="factorise.curved_modulation",
        title="curved C2",
        better="lower",
        range="[0, 1]",
        formula="mean_z |B| / (1 + terms), B_ij = v_j(log s_i) + v_j(log h_i), h_i the latent length per unit of "
        "seam coordinate i",
        source=f"{PAPER}, Section 4.1.3",
        meaning="0 iff the density factor of each curved seam depends on that seam's own coordinate alone.",
        misleads="As for `factorise.curved_dependence`.",
        remedy="As for `factorise.curved_dependence`.",
    ),
    MetricSpec(
        id="factorise.curved_twist",
        title="twist of curved seams",
        better="lower",
        range="[0, 1]",
        formula="mean_z |part of [v_i, v_j] outside span(v_i, v_j)| / (1 + bending)",
        source="Frobenius' theorem",
        meaning="0 iff the seams are coordinate lines of something, which is always so for two latents.",
        misleads="As for `factorise.curved_dependence`.",
        remedy="`vaeprobe trace` measures the same as the closure defect of loops.",
    ),
)
SPECS = specs_by_id((*LATENTS, *METRICS))
