"""What the numbers of `vaeprobe compare` mean."""

from __future__ import annotations

from vaeprobe.report import MetricSpec, specs_by_id

METRICS = (
    MetricSpec(
        id="compare.mcc",
        title="correlation of matched codes",
        better="higher",
        range="[0, 1]",
        formula="mean over matched latents of |corr(mean_A,i(x), mean_B,j(x))|, the best one-to-one matching",
        source="Hyvarinen and Morioka (2016), arXiv:1605.06336",
        meaning="1 where each informative latent of one model is one of the other, up to order, sign and scale.",
        misleads="Few latents match well by chance: read it beside its rotation null. Bent latents lose correlation.",
    ),
    MetricSpec(
        id="compare.mcc_p",
        title="p-value of the codes' agreement",
        beside="p",
        range="(0, 1]",
        formula="share of 199 random rotations of B's codes that match as well",
        source="rotation null",
        meaning="Small where the axes themselves agree, not only the spaces that they span.",
    ),
    MetricSpec(
        id="compare.columns",
        title="|cos| of matched columns",
        better="higher",
        range="[0, 1]",
        formula="mean over data and matched latents of |cos(J_A e_i, J_B e_j)| at each model's code of x",
        source="Allen (2024), arXiv:2410.22559v1, Corollary 2.1",
        meaning="1 where matched latents do the same to the data.",
        misleads="Decoders that reconstruct differently have other tangents: see the tangent overlap.",
    ),
    MetricSpec(
        id="compare.columns_p",
        title="p-value of the columns' agreement",
        beside="p",
        range="(0, 1]",
        formula="share of 199 random rotations of B's latents whose columns match as well",
        source="rotation null",
        meaning="Small where the axes agree in data space.",
    ),
    MetricSpec(
        id="compare.tangents",
        title="overlap of tangent spaces",
        better="higher",
        range="[0, 1]",
        formula="mean squared cosine of the principal angles between the columns' spans",
        source="Bjorck and Golub (1973)",
        meaning="1 where both models move the data in the same directions at all, by whatever latents.",
    ),
    MetricSpec(
        id="compare.udr",
        title="UDR",
        better="higher",
        range="[0, 1]",
        formula="sum over latents of max^2 / sum of |Spearman|, over d + e",
        source="Duan et al. (2020), arXiv:1905.12614, Eq. 3",
        meaning="High where latents match one to one and no other: models that disentangle agree.",
        misleads="Models that fail in the same way agree too.",
    ),
)
SPECS = specs_by_id(METRICS)
