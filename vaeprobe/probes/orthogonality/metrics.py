"""What the numbers of `orthogonality` mean, and the words for what they say."""

from __future__ import annotations

from dataclasses import replace

from vaeprobe.report import Metric, MetricSpec, specs_by_id

PAPER = "Allen (2024), arXiv:2410.22559v1"

VERDICTS = {
    "orthogonal": "the Jacobian's columns are orthogonal along the latent axes",
    "conformal": "they are orthogonal in every basis: the axes are not special",
    "rotated": "they are not orthogonal along the axes, but one rotation of the latent space makes them so",
    "aligned": "the axes are more orthogonal than chance, not perfectly so",
    "partly rotated": "the axes are hardly more orthogonal than random ones, those of a rotation are",
    "entangled": "the axes are hardly more orthogonal than random ones, and no rotation repairs it",
    "unaligned": "the axes are hardly more orthogonal than random ones; a rotation was not searched for, or J is rank-deficient",
    "undecided": "samples, rotations or precision leave it open: the summary says which",
    "undefined": "there are no angles: the summary says why",
}

METRICS: tuple[MetricSpec, ...] = (
    MetricSpec(
        id="latents.dim",
        title="latents",
        beside="of",
        range="1, 2, ...",
        formula="number of latent dimensions the decoder takes, one-hot codes included",
        source="the checkpoint",
        meaning="The size of the latent space. Jacobians have a column per continuous latent; one-hot codes are "
        "drawn and held fixed.",
        misleads="It says nothing about how many latents do anything: see `latents.active`.",
        remedy="If it is not what you trained, the wrong part of the checkpoint was loaded: see --submodule and "
        "--key.",
    ),
    MetricSpec(
        id="latents.active",
        title="active latents",
        better="higher",
        range="0 .. continuous latents",
        formula="#{i : mean_z n_i > t max_j mean_z n_j}, n_i = |J_i|, t = 0.05 (--active-threshold)",
        source="column-norm analogue of active units, Burda et al. (2016), arXiv:1509.00519",
        meaning="Latents that move the output. The cosines, contrasts and rotations are taken among these: a "
        "column of nearly zero length has a direction, and no meaning.",
        misleads="It depends on the threshold where norms fall off gradually (see the bars), on the unit of the "
        "output, and it may disagree with the KL term of the encoder.",
        remedy="Many inactive latents are posterior collapse: lower beta, anneal it, or take fewer latents.",
    ),
    MetricSpec(
        id="orthogonality.mean_abs_cosine",
        title="mean |cos| between columns",
        better="lower",
        range="[0, 1]",
        formula="mean over latents z and pairs i < j of |G_ij| / sqrt(G_ii G_jj), G = J^T J",
        source=f"{PAPER}, Sections 2, 3",
        meaning="0 for orthogonal columns, 1 for collinear ones: the plainest reading of how orthogonal the "
        "Jacobian is.",
        misleads="In high dimension everything looks orthogonal: random columns in R^4096 have mean |cos| 0.0125. "
        "Read it beside its null, and trust the alignment before the raw value. Of 64 random latents the interval holds which "
        "were drawn and what up to 5 % of columns that were not may add among themselves; single pairs it does not see.",
        remedy="See whether a rotation repairs it (`orthogonality.ima_contrast_rotated`); a larger beta and a "
        "diagonal posterior push it down.",
    ),
    MetricSpec(
        id="orthogonality.max_abs_cosine",
        title="largest |cos| of a pair",
        better="lower",
        range="[0, 1]",
        formula="mean over latents z of max_{i<j} |G_ij| / sqrt(G_ii G_jj)",
        source=f"{PAPER}, Sections 2, 3",
        meaning="The worst pair at each latent, whichever it is there. The heat map shows which pair is worst on "
        "average.",
        misleads="A maximum over d(d-1)/2 pairs grows with d by chance alone; one nearly dead latent can make it.",
        remedy="Look up the pair in the heat map: two latents that share a factor, or one that is hardly active.",
    ),
    MetricSpec(
        id="orthogonality.mean_abs_cosine_gaussian",
        title="mean |cos| of random columns",
        beside="random columns",
        range="(0, 1]",
        formula="Gamma(m/2) / (sqrt(pi) Gamma((m+1)/2)), m outputs",
        source="angle between isotropic directions in R^m",
        meaning="What columns of independent Gaussian entries would have: the floor that raw cosines start from.",
        misleads="Real Jacobians live in far fewer directions than m outputs, so this null is too easy to miss: "
        "a decoder is usually above it and still orthogonal beyond chance.",
        remedy="Use the rotation null (`orthogonality.alignment`), which keeps the decoder's own spectrum.",
    ),
    MetricSpec(
        id="orthogonality.ima_contrast",
        title="ima contrast c",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="mean_z [sum_i log n_i - 1/2 log det G] = mean_z [-1/2 log det C]",
        source=f"Gresele et al. (2021), arXiv:2106.05200; {PAPER}, Eqs. 14, 15",
        meaning="0 exactly where the columns are orthogonal (Hadamard). It is the total correlation of the manifold's "
        "latents (Galperin and Koethe 2025) and the gap log p(x) - sum_i log p_i(x) "
        "between the density and the product of its seam factors, averaged per latent, never taken of an "
        "averaged Jacobian. The verdict says orthogonal where the root-mean-square cosine that it implies is "
        "under 0.05, the alignment is at least 0.8, and it is at most half of that of random columns (or 0.001 "
        "nats), each by the end of its interval.",
        misleads="It grows with the number of active latents and is infinite where J loses rank. Samples where it does are counted "
        "in a finding: they count as the least that the rounding leaves, or are left out where a column has length zero, "
        "so that the number is what the contrast is at least. It sees angles only, not whether norms depend on other latents (C2).",
        remedy="Compare it with its null and with c at the best rotation before calling it large.",
    ),
    MetricSpec(
        id="orthogonality.ima_contrast_null",
        title="c under random rotations",
        beside="random axes",
        unit="nats",
        range="[0, inf)",
        formula="mean over Haar R and latents z of c(R^T G(z) R), the same R for all z",
        source="rotation null; N(0, I) is invariant under R",
        meaning="The contrast that an arbitrary orthogonal basis of the same latent space has on the same decoder.",
        misleads="It is small for a decoder that stretches all latents alike, whose every basis is orthogonal.",
        remedy="None needed: it is what the contrast is held against.",
    ),
    MetricSpec(
        id="orthogonality.ima_contrast_gaussian",
        title="c of random columns",
        unit="nats",
        range="[0, inf)",
        formula="1/2 sum_{i=1..d} [psi(m/2) - psi((m-i+1)/2)], d active latents, m outputs",
        source="Bartlett's decomposition of a Gaussian matrix",
        meaning="The expected contrast of an m x d Jacobian with independent Gaussian entries.",
        misleads="As for the cosines: m overstates the directions that a decoder really uses.",
        remedy="Use the rotation null.",
    ),
    MetricSpec(
        id="orthogonality.alignment",
        title="alignment with the axes",
        better="higher",
        range="(-inf, 1]",
        formula="A = 1 - mean_z c(G) / E_R[mean_z c(R^T G R)], R Haar on O(d)",
        source=f"rotation null on {PAPER}, Section 3",
        meaning="1: the latent axes are perfectly orthogonal in data space; 0: no better than a random basis; "
        "below 0: worse. It is the evidence that orthogonality is the axes' doing and not high dimension's. The "
        "verdict says aligned where p is at most 0.05 and the interval lies above 0.2; the interval holds the "
        "sampling of latents and of rotations.",
        misleads="Undefined where G is a multiple of I, since then every basis is orthogonal. A high value with a "
        "large contrast still is not orthogonality. Where J has fewer dimensions than active latents, c is infinite in "
        "every basis, and the mean-field gap takes its place, which depends on --beta-sigma2: the method says so.",
        remedy="A low value with a low c at the best rotation means a rotated basis: apply --save-rotation. A low "
        "value otherwise: no single linear basis is orthogonal everywhere.",
    ),
    MetricSpec(
        id="orthogonality.alignment_p",
        title="p-value of the alignment",
        beside="p",
        better="lower",
        range="[1 / (K + 1), 1]",
        formula="(1 + #{R : c_R <= c}) / (K + 1), K random rotations",
        source="exact Monte-Carlo test",
        meaning="Probability of a contrast this low if the basis were a random rotation. Exact for latents from "
        "an isotropic prior.",
        misleads="It cannot fall under 1 / (K + 1). With many latents a tiny alignment is significant: read A for "
        "size, p for evidence. For latents from posteriors, grids or files it is approximate.",
        remedy="Raise --rotations for a finer value.",
    ),
    MetricSpec(
        id="orthogonality.ima_contrast_held_out",
        title="c at the axes, held-out half",
        unit="nats",
        range="[0, inf)",
        formula="mean of c(G) over the latents that R* was not fitted on",
        source=f"{PAPER}, Section 3",
        meaning="The value that `orthogonality.ima_contrast_rotated` is to be compared with: same latents, given "
        "axes.",
        misleads="It differs from `orthogonality.ima_contrast` by sampling alone.",
        remedy="Draw more latents (--samples) where the two differ by more than their intervals.",
    ),
    MetricSpec(
        id="orthogonality.ima_contrast_rotated",
        title="c at the best rotation R*",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="mean of c(R*^T G R*) over the held-out half, R* = argmin_R mean c(R^T G R) on the other half",
        source="Flury and Gautschi (1986); Pham (2001): joint approximate diagonalisation",
        meaning="What no rotation of the latent space repairs: the intrinsic part of the contrast. 0 for a map "
        "that is orthogonal in some basis. The verdict says rotated where R* removes at least 90 % of c at the axes "
        "and leaves a root-mean-square cosine under 0.05, partly rotated where it removes at least half, each by "
        "the end of its interval. Above 128 active latents R* is not searched, and the summary says so.",
        misleads="The search may end in a local optimum (the table says how many starts agree), and with few "
        "latents R* overfits, so that this is above c at the axes.",
        remedy="More --samples and --restarts. If it is near 0 and c is not, probe the rotated decoder "
        "(`result.rotated(decoder)`, or --save-rotation).",
    ),
    MetricSpec(
        id="orthogonality.fixable",
        title="part of c that R* repairs",
        better="lower",
        unit="nats",
        range="(-inf, inf)",
        formula="mean over the held-out half of c(G) - c(R*^T G R*), paired",
        source="split c = c_min + (c - c_min)",
        meaning="An interval that contains 0: the given axes are as good as the best rotation.",
        misleads="Slightly negative values are the price of fitting R* on a finite half.",
        remedy="A clear positive part means that the factors are there, in a rotated basis: save the rotation.",
    ),
    MetricSpec(
        id="orthogonality.neighbour_cosine",
        title="mean |cos| to the next site",
        better="lower",
        range="[0, 1]",
        formula="mean over latents and channels i, j of |cos(J_i at a site, J_j at a neighbouring one)|",
        source="mean |cos| between columns, of two sites that touch",
        meaning="Angles between columns of different sites of a map of latents, where their supports overlap most. "
        "Columns of far sites of a convolutional decoder have none in common.",
        misleads="It is measured with the channels at a site only, at few latents.",
        remedy="None needed: neighbouring sites share pixels, and cosines under `orthogonality.mean_abs_cosine` are usual.",
    ),
    MetricSpec(
        id="orthogonality.off_diagonal",
        title="energy off the diagonal",
        better="lower",
        range="[0, 1)",
        formula="E_z sum_{i != j} G_ij^2 / E_z ||G||_F^2, over all continuous latents",
        source="unbiased by random signs: the variance of v * G v, Hutchinson (1990); Bekas, Kokiopoulou and Saad (2007)",
        meaning="How far G is from diagonal, for all columns, whatever their number: 0 iff they are orthogonal. Where only a "
        "part of the columns is measured it is estimated by --probes random products.",
        misleads="It weighs columns by their squared lengths and latents by ||G||_F^2: long columns decide. Read it beside "
        "`orthogonality.off_diagonal_null`.",
        remedy="More --probes or --samples narrow its interval.",
    ),
    MetricSpec(
        id="orthogonality.off_diagonal_null",
        title="the same under random rotations",
        beside="random axes",
        range="[0, 1)",
        formula="1 - (E_z (tr G)^2 + 2 E_z ||G||_F^2) / ((k + 2) E_z ||G||_F^2)",
        source="E (r^T G r)^2 = ((tr G)^2 + 2 ||G||_F^2) / (k (k + 2)) for r uniform on the sphere",
        meaning="What the share would be if the basis of the latent space were a random one: exact, no rotation is drawn.",
        misleads="Near 0 where all singular values are alike: every basis is orthogonal then.",
        remedy="None needed.",
    ),
    MetricSpec(
        id="orthogonality.participation",
        title="participation ratio of G",
        better="higher",
        range="[1, k]",
        formula="E_z (tr G)^2 / E_z ||G||_F^2",
        source="participation ratio of the squared singular values",
        meaning="How many directions of the latent space carry the metric: k where all singular values are alike, 1 where "
        "one outweighs the rest.",
        misleads="Dominated by the largest singular values; `orthogonality.effective_rank` counts small ones too.",
        remedy="A small number beside many latents: few directions do all the work.",
    ),
    MetricSpec(
        id="orthogonality.mean_field_gap",
        title="mean-field gap",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="mean_z 1/2 (sum_i log L_ii - log det L), L = I + G / (beta sigma^2)",
        source=f"{PAPER}, Eqs. 5-9",
        meaning="The ELBO that a diagonal posterior loses against a full one, over all continuous latents. Finite "
        "for dead, duplicated and too many latents: the primary number where beta sigma^2 is known.",
        misleads="It is in units of the noise: with the default beta sigma^2 = 1 and no likelihood it supposes a "
        "Gaussian of unit variance per output, which is far more noise than most decoders were trained at.",
        remedy="Pass --likelihood, and the trained value with --beta-sigma2 (`vaeprobe beta` recovers it).",
    ),
    MetricSpec(
        id="orthogonality.distance_to_axes",
        title="distance of V to the axes",
        better="lower",
        range="[0, sqrt(2 d))",
        formula="mean_z min_P |V - P|_F, P signed permutations (Hungarian), tied blocks of V rotated to the axes",
        source="Rolinek et al. (2019), arXiv:1812.06775",
        meaning="How far the right singular vectors are from the latent axes; 0 iff the columns are orthogonal.",
        misleads="V is hardly determined where singular values nearly coincide (`orthogonality.smallest_gap`), "
        "and the distance is then large whatever the angles of the columns. It grows as sqrt(d).",
        remedy="With a small gap, read the contrast instead.",
    ),
    MetricSpec(
        id="orthogonality.conformality",
        title="spread of log column norms",
        range="[0, inf)",
        formula="mean_z of the standard deviation over i of log n_i(z)",
        source=f"{PAPER}, Section 5 calls column-orthogonal maps conformal; conformal also needs equal norms",
        meaning="0 for equal column norms at each latent: with c = 0 the map is conformal, and no basis is "
        "special. Large: latents of very different strength, which is what identifies the axes.",
        misleads="It says nothing about angles.",
        remedy="None: neither end is better by itself.",
    ),
    MetricSpec(
        id="orthogonality.entropy",
        title="entropy per latent",
        unit="nats",
        range="(-inf, inf) each",
        formula="H_i = E log n_i + 1/2 log(2 pi e), active latents",
        source="Galperin and Koethe (2025), arXiv:2410.19426",
        meaning="Importance of each active latent in nats: the entropy of what it alone does to the output. A latent that "
        "stretches e times as far has one nat more. Their sum less the ima contrast, which is the total correlation "
        "between them, is the entropy of all together.",
        misleads="It is in the unit of the output (only differences between latents mean anything), counts stretching that "
        "the noise of the likelihood drowns, and is that of a density only where the decoder is one-to-one.",
        remedy="Rank latents by it beside their KL (`vaeprobe posterior`), which counts what the encoder keeps.",
    ),
    MetricSpec(
        id="orthogonality.mutual_information",
        title="information shared by a pair",
        better="lower",
        unit="nats",
        range="[0, inf)",
        formula="mean over latents z and pairs i < j of -1/2 log(1 - C_ij^2)",
        source="Galperin and Koethe (2025), arXiv:2410.19426",
        meaning="Dependence of two latents through the angle of their columns, averaged over pairs; 0 for orthogonal ones. "
        "`details.mutual_information` of the JSON form has every pair. For two latents it is the ima contrast.",
        misleads="Pairs do not add up to the contrast: three columns in a plane share more than their pairs say.",
        remedy="Look up the largest pairs: two latents that share a factor.",
    ),
    MetricSpec(
        id="orthogonality.mutual_information_null",
        title="the same under random rotations",
        beside="random axes",
        unit="nats",
        range="[0, inf)",
        formula="mean over Haar R, latents z and pairs of -1/2 log(1 - C_ij^2) for R^T G(z) R",
        source="rotation null; N(0, I) is invariant under R",
        meaning="What pairs of an arbitrary basis of the same latent space share.",
        misleads="It is small for a decoder that stretches all latents alike, whose every basis is orthogonal.",
        remedy="None needed: it is what the pairs are held against.",
    ),
    MetricSpec(
        id="orthogonality.mutual_information_gaussian",
        title="the same of random columns",
        beside="random columns",
        unit="nats",
        range="[0, inf)",
        formula="1/2 [psi(m/2) - psi((m-1)/2)], m outputs",
        source="Bartlett's decomposition of a Gaussian matrix",
        meaning="What two columns of independent Gaussian entries share.",
        misleads="As for the cosines: m overstates the directions that a decoder really uses.",
        remedy="Use the rotation null.",
    ),
    MetricSpec(
        id="orthogonality.isometry_defect",
        title="isometry defect",
        better="lower",
        range="[0, 1)",
        formula="1 - (E sum_i s_i)^2 / (a E sum_i s_i^2) = min over c, Q(z) orthonormal of E|J - c Q|_F^2 / E|J|_F^2",
        source="Horan et al. (2021); arXiv:2503.15355",
        meaning="0 where the decoder keeps all lengths up to one factor, over the a active latents: then latent distances "
        "are distances of outputs. It does not depend on the axes.",
        misleads="No isometry is needed for independent components: latents of different strength have a defect, and only "
        "they identify the axes.",
        remedy="None: neither end is better by itself. Compare it with that of random columns.",
    ),
    MetricSpec(
        id="orthogonality.isometry_defect_gaussian",
        title="isometry defect of random columns",
        beside="random columns",
        range="[0, 1)",
        formula="that of an m x a Jacobian with independent Gaussian entries, by simulation",
        source="Bartlett's decomposition of a Gaussian matrix",
        meaning="What chance gives: near 0 where outputs are many, for random columns are orthogonal and alike there.",
        misleads="As for the cosines: m overstates the directions that a decoder really uses.",
        remedy="None needed.",
    ),
    MetricSpec(
        id="orthogonality.condition_number",
        title="condition number of J",
        range="[1, inf)",
        formula="median over z of s_1 / s_d, active latents",
        source="singular values of J",
        meaning="Ratio of the strongest to the weakest direction.",
        misleads="Dominated by the weakest active latent, and so by the threshold that calls it active.",
        remedy="Above 1e5 or so take --dtype float64.",
    ),
    MetricSpec(
        id="orthogonality.effective_rank",
        title="effective rank of J",
        range="[0, d]",
        formula="mean_z exp(-sum_i p_i log p_i), p_i = s_i / sum_j s_j, all continuous latents",
        source="Roy and Vetterli (2007), The effective rank: a measure of effective dimensionality",
        meaning="How many directions share the Jacobian's strength, as a number that need not be whole.",
        misleads="Not the number of active latents: one strong direction lowers it while others still matter.",
        remedy="None: it describes.",
    ),
    MetricSpec(
        id="orthogonality.smallest_gap",
        title="smallest relative gap of s",
        range="[0, 1]",
        formula="median over z of min_i (s_i - s_{i+1}) / s_i, active latents",
        source="perturbation of singular subspaces (Davis and Kahan 1970)",
        meaning="How well single singular vectors are determined; it qualifies every number that uses V.",
        misleads="One tied pair makes it 0, though all other vectors may be well determined.",
        remedy="With a small gap use numbers that do without V: cosines, contrast, alignment.",
    ),
)
SPECS = specs_by_id(METRICS)
LATENTS = METRICS[:2]  # what other probes count too


def dim_beside(dim: int, measured: int | None) -> Metric:
    """Return the number of latents, for a line on which a count of the active ones stands before it.

    Args:
        dim: how many the decoder takes.
        measured: how many of them the active ones were counted among, None for all.
    """
    spec = SPECS["latents.dim"]
    beside = spec.beside if measured is None else f"of {measured} measured, in all"
    return Metric(replace(spec, beside=beside), dim)
