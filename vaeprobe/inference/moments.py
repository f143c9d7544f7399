"""Expectations under the posteriors q(z|x) of data rows: curvature, score and log-likelihood, with errors.

The exact identity at the optimum of a diagonal Gaussian posterior, `1/Sigma_ii - 1 = -(1/beta) E_q[d_i^2
log p(x|z)]`, needs the averaged curvature of the log-likelihood.  Two estimators of it are made from the
same antithetic draws `z = e(x) +- sd * eps`:

* Gauss-Newton, `E_q[G_ii]` with `G = J^T A^2 J`: low noise, drops the residual term of Allen (2024), Eq. 7;
* Bonnet/Stein, `-E_q[eps_i d_i log p(x|z)] / sd_i`: exact, also for ReLU networks whose curvature sits in
  the kinks.

`G` at the posterior mean serves as control variate of all Monte-Carlo averages: it is independent of the
draws, so nothing is biased, and where the log-likelihood is quadratic in z nothing is left of the noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.autograd import differentiable_kernels, gradient
from vaeprobe.budget import Fit, in_time
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.engine.chunks import Chunk, Size, Sweep
from vaeprobe.engine.methods import choose, function_of
from vaeprobe.engine.remembered import recalled
from vaeprobe.engine.verbs import gram
from vaeprobe.intervals import stream
from vaeprobe.likelihoods import Likelihood
from vaeprobe.processes import current as processes

__all__ = ["PosteriorMoments", "log_density_and_score", "posterior_moments", "with_codes"]

SMALLEST_TOTAL = 1e-6  # of a row of zeros, whose logarithm is to be finite
MOST_CODES = 512
AVERAGES = (
    "gram_at_mean",
    "gram",
    "gauss_newton_error",
    "curvature",
    "curvature_error",
    "score",
    "score_error",
    "log_density_at_mean",
    "log_density",
    "log_density_error",
)
"""Fields of `PosteriorMoments` that are averages over draws."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PosteriorMoments:
    """Moments under q(z|x) = N(e(x), diag Sigma), one row per data row, float64 on the CPU.

    Attributes:
        mean: e(x), shape (n, k), k continuous latents.
        variance: the diagonal of Sigma, shape (n, k).
        gram_at_mean: G = J^T A^2 J at e(x), shape (n, k, k).
        gram: E_q[G], shape (n, k, k); its diagonal is the Gauss-Newton curvature.
        gauss_newton_error: standard error of that diagonal, shape (n, k).
        curvature: -E_q[d_i^2 log p(x|z)] by Bonnet/Stein, shape (n, k).
        curvature_error: its standard error, shape (n, k).
        score: E_q[d_i log p(x|z)], shape (n, k).
        score_error: its standard error, shape (n, k).
        log_density_at_mean: log p(x | e(x)), shape (n,), nats.
        log_density: E_q[log p(x|z)], shape (n,), nats.
        log_density_error: its standard error, shape (n,).
        pairs: number of antithetic pairs per row.
        fit: how many rows fitted into the time given.
    """

    mean: Tensor
    variance: Tensor
    gram_at_mean: Tensor
    gram: Tensor
    gauss_newton_error: Tensor
    curvature: Tensor
    curvature_error: Tensor
    score: Tensor
    score_error: Tensor
    log_density_at_mean: Tensor
    log_density: Tensor
    log_density_error: Tensor
    pairs: int
    fit: Fit | None = None

    @property
    def rows(self) -> int:
        return len(self.mean)

    @property
    def latents(self) -> int:
        return self.mean.shape[1]

    @property
    def gauss_newton(self) -> Tensor:
        """E_q[G_ii], shape (n, k)."""
        return self.gram.diagonal(dim1=1, dim2=2)

    @property
    def squares(self) -> Tensor:
        """E_q[z_i^2] = e_i^2 + Sigma_ii, shape (n, k): 1 on average over the rows, where the codes fill N(0, I)."""
        return self.mean.square() + self.variance


def log_density_and_score(
    decoder: Decoder, likelihood: Likelihood, x: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    """Return log p(x|z), shape (n,), and its gradient over the continuous latents, shape (n, k).

    Args:
        x: data, shape (n, ...), as many numbers a row as the decoder's output.
        z: latents, shape (n, latent_dim).
    """
    value, slope = recalled(
        ("log density", decoder, likelihood),
        [x, z],
        lambda at: _log_density_and_score(decoder, likelihood, x[at], z[at]),
    )
    return value, slope


def _log_density_and_score(
    decoder: Decoder, likelihood: Likelihood, x: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    natural = decoder.natural_for(likelihood)
    parameter, choice = decoder.parameter_of(natural), choose(decoder, natural=natural)
    f, free = function_of(decoder, natural), decoder.continuous
    w = z.detach().to(device=decoder.device, dtype=decoder.dtype)
    values = cpu.zeros(len(z), dtype=torch.float64)
    slopes = cpu.zeros(len(z), len(free), dtype=torch.float64)

    def work(part: Chunk) -> tuple[Tensor, Tensor]:
        leaf = w[part.points].clone().requires_grad_(True)
        with torch.enable_grad(), differentiable_kernels():
            y = f(leaf).double()
            value = likelihood.log_density(x[part.points].flatten(1).to(y), y, parameter)
            slope = gradient(value, leaf)
        return value.detach().cpu(), slope[:, free].double().cpu()

    def put(part: Chunk, value: Tensor, slope: Tensor) -> None:
        values[part.points], slopes[part.points] = value, slope

    def made_of(part: Chunk) -> Iterable[object]:
        weight = likelihood, likelihood.name, parameter
        return "log density", choice.known_by, natural, weight, free, x[part.points], w[part.points]

    size = Size(Size.fitting(choice.widest, w.itemsize, 2).points, 1)
    if Sweep(work, put, made_of, description="log densities").over(len(w), 1, size):
        return processes().summed(values), processes().summed(slopes)
    return values, slopes


def with_codes(decoder: Decoder, likelihood: Likelihood, x: Tensor, z: Tensor) -> Tensor:
    """Return full latents: continuous ones as given, the total of each row, one-hot codes chosen by maximum likelihood.

    Args:
        x: data, shape (n, ...).
        z: continuous latents, shape (n, k).

    Returns:
        shape (n, latent_dim), float64.
    """
    full = cpu.zeros(len(z), decoder.latent_dim, dtype=torch.float64)
    full[:, decoder.continuous] = z
    starts = list(itertools.accumulate((g.size for g in decoder.prior), initial=0))
    for start, g in zip(starts, decoder.prior, strict=False):
        if g.kind == "total":
            full[:, start] = x.flatten(1).double().sum(1).clamp_min(SMALLEST_TOTAL).log()
    groups = [(start, g.size) for start, g in zip(starts, decoder.prior, strict=False) if g.kind == "onehot"]
    if not groups:
        return full

    def place(codes: tuple[int, ...]) -> Tensor:
        out = full.clone()
        for (start, _), code in zip(groups, codes, strict=True):
            out[:, start + code] = 1
        return out

    choices: list[tuple[int, ...]] = list(
        itertools.islice(itertools.product(*(range(size) for _, size in groups)), MOST_CODES)
    )
    value = torch.stack([log_density_and_score(decoder, likelihood, x, place(c))[0] for c in choices])
    best = value.argmax(0)
    return torch.stack([place(c) for c in choices])[best, cpu.arange(len(z))]


def posterior_moments(
    decoder: Decoder,
    encoder: Encoder,
    x: Tensor,
    likelihood: Likelihood,
    *,
    pairs: int = 8,
    gram_pairs: int = 2,
    seed: int = 0,
    chunk: int | None = None,
) -> PosteriorMoments:
    """Return moments under the encoder's posteriors of data rows.

    Args:
        x: data, shape (n, ...).
        pairs: antithetic pairs of draws per row, at least 2.
        gram_pairs: how many of them G is averaged over, which is costly and low in noise; at least 2.
        seed: seed of the draws.
        chunk: latents per block of the Jacobian engine.

    Raises:
        ValueError: fewer than two pairs, or more for G than there are.
    """
    if not 2 <= gram_pairs <= pairs:
        raise ValueError(
            f"2 <= gram_pairs <= pairs is needed for standard errors, not {gram_pairs} and {pairs}"
        )
    mean, log_variance = (t.double().cpu() for t in encoder(x))
    noise = torch.from_numpy(
        stream(seed, "posterior moments").standard_normal((len(x), pairs, mean.shape[1]))
    )
    block = max(1, 512 // (2 * pairs + 1))
    parts: list[dict[str, Tensor]] = []

    def averages_of(i: Tensor) -> dict[str, Tensor]:
        def averages(some: Tensor) -> tuple[Tensor, ...]:
            at = i[some]
            parts = (x[at], mean[at], log_variance[at].exp(), noise[at])
            found = _averages(decoder, likelihood, *parts, gram_pairs, chunk)
            return tuple(found[name] for name in AVERAGES)

        # not by means, for an encoder's last digits depend on how many rows it is given
        key = ("posterior moments", decoder, encoder, likelihood, gram_pairs)
        found = recalled(key, [x[i], noise[i]], averages)
        return dict(zip(AVERAGES, found, strict=True))

    def measure(rows: slice) -> None:
        blocks = torch.split(cpu.arange(len(x))[rows], block)
        parts.extend(processes().shared(blocks, averages_of, "averaging over posteriors"))

    fit = in_time(len(x), measure)
    averages = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    mean, variance = mean[: fit.done], log_variance[: fit.done].exp()
    return PosteriorMoments(mean=mean, variance=variance, pairs=pairs, fit=fit, **averages)


def _averages(
    decoder: Decoder,
    likelihood: Likelihood,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    noise: Tensor,
    gram_pairs: int,
    chunk: int | None,
) -> dict[str, Tensor]:
    """Return the fields of `PosteriorMoments` that are averages over draws, for a block of rows."""
    n, pairs, k = noise.shape
    base = with_codes(decoder, likelihood, x, mean)
    step = cpu.zeros(n, pairs, decoder.latent_dim, dtype=torch.float64)
    step[:, :, decoder.continuous] = noise * variance.sqrt()[:, None]
    z = torch.stack([base[:, None] + step, base[:, None] - step], dim=1)

    few = z[:, :, :gram_pairs].reshape(-1, decoder.latent_dim)
    G_all = gram(decoder, torch.cat([base, few]), likelihood=likelihood, chunk=chunk)
    G0, G = G_all[:n], G_all[n:].reshape(n, 2, gram_pairs, k, k).mean(1)
    copies = likelihood.copies(x)
    if copies is not None:
        G0, G = G0 * copies.cpu()[:, None, None], G * copies.cpu()[:, None, None, None]
    value0, _ = _log_density_and_score(decoder, likelihood, x, base)
    value, score = _log_density_and_score(
        decoder, likelihood, x.repeat_interleave(2 * pairs, 0), z.flatten(0, 2)
    )
    value, score = value.reshape(n, 2, pairs).mean(1), score.reshape(n, 2, pairs, k)

    # -eps_i (g_i(+) - g_i(-)) / (2 sd_i), less the same for the quadratic of G0, plus its expectation G0_ii
    shift = noise * variance.sqrt()[:, None]
    bend = -(score[:, 0] - score[:, 1]) / 2 - torch.einsum("nij,npj->npi", G0, shift)
    curvature = noise * bend / variance.sqrt()[:, None] + G0.diagonal(dim1=1, dim2=2)[:, None]
    # log p averaged over a pair, likewise
    value = value + 0.5 * torch.einsum("npi,nij,npj->np", shift, G0, shift)
    value = value - 0.5 * (G0.diagonal(dim1=1, dim2=2) * variance).sum(1, keepdim=True)
    return {
        "gram_at_mean": G0,
        "gram": G.mean(1),
        "gauss_newton_error": G.diagonal(dim1=2, dim2=3).std(1) / math.sqrt(gram_pairs),
        "curvature": curvature.mean(1),
        "curvature_error": curvature.std(1) / math.sqrt(pairs),
        "score": score.mean((1, 2)),
        "score_error": score.mean(1).std(1) / math.sqrt(pairs),
        "log_density_at_mean": value0,
        "log_density": value.mean(1),
        "log_density_error": value.std(1) / math.sqrt(pairs),
    }
