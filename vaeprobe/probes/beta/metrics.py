"""The metrics of `beta`: what each means, misleads by, and what to do about it."""

from __future__ import annotations

from vaeprobe.probes.with_encoder import KL_PER_LATENT
from vaeprobe.report import MetricSpec, specs_by_id

__all__ = ["METRICS", "SPECS"]

METRICS = (
    MetricSpec(
        id="beta.estimate",
        title="training beta",
        range="(0, inf)",
        positive=True,
        formula="sum_x,i Sigma_ii h_i / sum_x,i (1 - Sigma_ii) over active latents, h_i = -E_q[d_i^2 log p(x|z)] by "
        "Bonnet/Stein",
        source="Allen 2024, Eqs. 5-9; stationarity of the log-variance head's bias",
        meaning="The weight of the KL term at which these posteriors are optimal for this decoder; for a Gaussian at "
        "the default sigma^2 = 1 it is beta sigma^2.",
        misleads="Under a capacity it is the multiplier in force, not the nominal weight, and kl.total is the capacity. "
        "After annealing it is the beta of the last steps. A total-correlation term can leave it at 1. A Gaussian shows the product beta sigma^2 only (Theorem 3). Loss terms averaged instead of "
        "summed scale it. Rows that the encoder was not trained on bias it: a small Bernoulli VAE of beta 1 read 1.013 on "
        "its training rows and .898 on fresh ones.",
        remedy="Use training rows. Give --sigma2, or --beta to read off sigma^2; more rows narrow the interval.",
    ),
    MetricSpec(
        id="beta.gauss_newton",
        title="beta by Gauss-Newton",
        range="(0, inf)",
        positive=True,
        formula="sum Sigma_ii E_q[G_ii] / sum (1 - Sigma_ii)",
        source="Allen 2024, Eqs. 5-7",
        meaning="Lower in noise, biased by the residual term of Eq. 7: 3 to 14 % high on trained models.",
        misleads="It agrees with the exact estimate only where the residual is small.",
        remedy="Prefer beta.estimate.",
    ),
    MetricSpec(
        id="beta.mean_identity",
        title="beta by the means",
        beside="by means",
        range="(0, inf)",
        positive=True,
        formula="sum w_i e_i E_q[d_i log p(x|z)] / sum w_i e_i^2 over active latents, w_i the mean of Sigma_ii",
        source="derivative of the ELBO by e(x); E_q[d_i log p] = beta e_i at the optimum",
        meaning="A second opinion, in which variances only weigh the latents. Far from beta.estimate: these posteriors "
        "are not the optimum of one beta.",
        misleads="Errors of sharp posteriors' means are magnified by their precision: useless on held-out data there. That it "
        "agrees speaks neither against a capacity nor against a total-correlation term.",
        remedy="Use rows of the training data; read its interval.",
    ),
    MetricSpec(
        id="beta.consistency",
        title="consistency",
        better="higher",
        range="(0, 1]; 1 one beta explains every latent",
        formula="1 / (1 + s), s the spread over latents of beta_i / beta beyond sampling noise (random effects)",
        source="Allen 2024, Eqs. 5-9: at the optimum every latent obeys the identity at the same beta",
        meaning="How well one beta serves all active latents. Low: the encoder is not at the optimum of any beta-ELBO with this likelihood.",
        misleads="A wrong likelihood, a constraint on the total KL, and most models trained with a total-correlation term "
        "show one beta for all latents too. It does not see means and rows: read beta.mean_identity and beta.row_shift.",
        remedy="Early stopping, annealing, a total-correlation or capacity term, or a second output that is no log-variance.",
    ),
    MetricSpec(
        id="beta.row_shift",
        title="shift by row noise",
        range="(-inf, inf); 0 at the optimum",
        formula="1/2 sum (Sigma_ii h_i - beta_i (1 - Sigma_ii)) (log Sigma_ii - mean_x log Sigma_ii) / beta_i, over "
        "sum (1 - Sigma_ii)",
        source="stationarity of the log-variance head's weights: at the optimum the residual of the identity does not "
        "follow the log-variance; noise of variance v makes it follow with slope beta",
        meaning="The share of beta.estimate that noise of the log-variances from row to row adds.",
        misleads="An encoder far from its rows' own optima has none of it if it is trained to the end: it is no "
        "amortisation gap.",
        remedy="Use training rows; where they were used, the encoder's variances do not follow its data.",
    ),
    MetricSpec(
        id="beta.sigma2",
        title="sigma^2, given beta",
        range="(0, inf)",
        positive=True,
        formula="beta.estimate * sigma^2 / --beta",
        source="Allen 2024, Theorem 3",
        meaning="sigma^2 and beta act on the posterior through their product alone.",
        misleads="Only as right as the beta that was given.",
        remedy="Check it against beta.residual_variance if sigma^2 was learned.",
    ),
    MetricSpec(
        id="beta.residual_variance",
        title="residual variance",
        range="(0, inf)",
        formula="mean over rows of E_q |x - f(z)|^2 / m, Gaussian likelihood",
        source="Allen 2024, Theorem 3: what sigma^2 would be if it were learned",
        meaning="If sigma^2 was learned, beta is the estimate of beta sigma^2 over this number.",
        misleads="With a fixed sigma^2 the two have no reason to agree: Theorem 3 needs sigma^2 fixed.",
        remedy="Use it only where sigma^2 was learned.",
    ),
    KL_PER_LATENT,
    MetricSpec(
        id="posterior.mean_square",
        title="mean square of codes",
        range="[0, inf) per latent; 1 at the optimum",
        formula="E[z_i^2] = mean_x (e_i^2 + Sigma_ii)",
        source="stationarity of the ELBO under scaling a latent: dKL_i/ds = E[z_i^2] - 1, the decoder scaled back",
        meaning="Whether codes fill the prior that latents are drawn from: 1 at every optimum whose decoder can rescale a "
        "latent, at any beta, under a capacity and with a total-correlation term too.",
        misleads="It is one moment: codes of mean square 1 may still leave holes, or depend on one another. Weight decay moves it.",
        remedy="Far from 1: trained too short, rows that are not training rows, another prior, or outputs that are read otherwise "
        "than they are laid out.",
    ),
    MetricSpec(
        id="kl.total",
        title="total KL",
        unit="nats",
        range="[0, inf)",
        formula="sum_i KL_i, mean over x",
        source="Allen 2024, Eq. 1",
        meaning="How much the codes tell about the data, at most.",
        misleads="Depends on the number of latents only through those that are active.",
        remedy="Lower beta for more, raise it for less.",
    ),
    MetricSpec(
        id="latents.active.kl",
        title="active by KL",
        range="0 .. d",
        formula="#{i: mean_x KL_i > 0.01}",
        source="common practice",
        meaning="Latents that the encoder uses.",
        misleads="A broad posterior far from 0 counts, though it says little.",
        remedy="Read it beside the other three rules.",
    ),
    MetricSpec(
        id="latents.active.means",
        title="active by means",
        beside="means",
        range="0 .. d",
        formula="#{i: Var_x e_i(x) > 0.01}",
        source="Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519",
        meaning="Latents whose means depend on the data.",
        misleads="Blind to the decoder: an ignored latent with moving means counts.",
        remedy="Read it beside the other three rules.",
    ),
    MetricSpec(
        id="latents.active.columns",
        title="active by columns",
        beside="columns",
        range="0 .. d",
        formula="#{i: rms ||J_i|| > 5 % of the largest}, in the likelihood's metric, at posterior draws",
        source="Allen 2024, Section 3",
        meaning="Latents that the decoder uses.",
        misleads="Relative to the strongest latent: weak but useful ones fall under 5 %.",
        remedy="Read it beside the other three rules.",
    ),
    MetricSpec(
        id="latents.active.precision",
        title="active by precision",
        beside="precision",
        range="0 .. d",
        formula="#{i: mean_x (1 - Sigma_ii) > 3 standard errors, and mean_x KL_i > 0.01}",
        source="Allen 2024, Eqs. 5-9",
        meaning="The encoder knows these better than the prior does. They carry the estimate of beta.",
        misleads="It believes the encoder: a latent that the decoder ignores can count.",
        remedy="Read it beside the other three rules.",
    ),
    MetricSpec(
        id="latents.active.supported",
        title="supported directions",
        range="0 .. m",
        formula="#{eigenvalues of V^-1/2 Cov(x) V^-1/2 > beta}, V = Var[x | mean image]; Gaussian: lambda_i > beta sigma^2",
        source="Allen 2024, Corollary 3.1; linear theory",
        meaning="How many latents a linear decoder could keep alive; fewer than d: collapse is the data's doing.",
        misleads="A nonlinear decoder can keep fewer or more. Needs at least five times as many rows as outputs.",
        remedy="Where it is below the number of latents, use fewer latents or a smaller beta.",
    ),
    MetricSpec(
        id="posterior.overlap",
        title="neighbours' overlap",
        range="[0, 1]",
        formula="mean_x max_x' integral sqrt(q(z|x) q(z|x'))",
        source="Allen 2024, Section 4.2, Figure 3; Bhattacharyya 1943",
        meaning="How much of a posterior its nearest neighbour shares. 0: codes are separate islands, the VAE memorises; towards 1: neighbours are blurred together.",
        misleads="It grows with the number of rows: compare at equal --samples only.",
        remedy="Raise beta for more overlap, lower it for less.",
    ),
)
SPECS = specs_by_id(METRICS)
