"""What losses that are no beta-ELBO look like to `beta`, in closed form: capacity, total correlation, annealing.

Data, decoder and encoder are linear and Gaussian, so that each loss is a closed form of three matrices and its optimum is
found to the end.  What `beta` may say of them rests on these results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.inference.moments import PosteriorMoments, posterior_moments
from vaeprobe.likelihoods import Gaussian
from vaeprobe.probes.beta.probe import Beta

from vaes import exact_data

F64 = torch.float64
EIGENVALUES = (9.0, 4.0, 2.0, 0.3, 0.3, 0.3)
SIGMA2 = 0.3


@dataclass
class Linear:
    """A linear VAE of x ~ N(0, S): decoder W (m x d), means E x, variances exp(s) of all rows."""

    S: Tensor
    W: Tensor
    E: Tensor
    s: Tensor

    def error(self) -> Tensor:
        """Return E_q |x - W z|^2 / (2 sigma^2), averaged over the rows."""
        rest = torch.eye(len(self.S), dtype=F64) - self.W @ self.E
        missed = torch.trace(rest @ self.S @ rest.T) + (self.s.exp() * self.W.square().sum(0)).sum()
        return missed / (2 * SIGMA2)

    def kl(self) -> Tensor:
        return 0.5 * (
            torch.trace(self.E @ self.S @ self.E.T) + self.s.exp().sum() - len(self.s) - self.s.sum()
        )

    def total_correlation(self) -> Tensor:
        """Return the total correlation of the aggregate posterior N(0, E S E^T + diag)."""
        Q = self.E @ self.S @ self.E.T + self.s.exp().diag()
        L = torch.linalg.cholesky(Q)
        return 0.5 * Q.diagonal().log().sum() - L.diagonal().log().sum()

    def decoder(self) -> Decoder:
        W, E, s = self.W.detach(), self.E.detach(), self.s.detach()
        encoder = Encoder(lambda x: (x @ E.T, s.expand(len(x), -1)), len(s), input_shape=(len(W),), dtype=F64)
        return Decoder(lambda z: z @ W.T, len(s), dtype=F64, likelihood="gaussian", encoder=encoder)


def descended(parts: Sequence[Tensor], loss: Callable[[], Tensor]) -> None:
    """Take parts to a minimum of a loss."""
    optimiser = torch.optim.LBFGS(
        parts, max_iter=400, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )  # fmt: skip

    def step() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(step)  # type: ignore[arg-type]


def free(S: Tensor, W: Tensor | None = None, seed: int = 0) -> Linear:
    """Return a VAE to be trained: its encoder, and its decoder where none is given."""
    g = torch.Generator().manual_seed(seed)
    m, d = len(S), 3
    start = 0.3 * torch.randn(m, d, generator=g, dtype=F64) if W is None else W
    E = 0.3 * torch.randn(d, m, generator=g, dtype=F64)
    return Linear(
        S, start.requires_grad_(W is None), E.requires_grad_(), torch.zeros(d, dtype=F64).requires_grad_()
    )


# -- capacity: gamma |KL - C| ---------------------------------------------------------------------


def test_a_capacity_reads_as_its_multiplier_and_stands_in_the_total_kl() -> None:
    # at the optimum KL = C, and the multiplier of that constraint is a beta of which nothing else tells gamma or C
    x, _ = exact_data(torch.tensor(EIGENVALUES, dtype=F64), 64)
    vae, gamma, C = free(x.T @ x / len(x)), 10.0, 1.5
    parts = [vae.W, vae.E, vae.s]
    for width in (1e-1, 1e-3):  # the corner of |.|, rounded less and less
        descended(parts, lambda w=width: vae.error() + gamma * ((vae.kl() - C) ** 2 + w**2).sqrt())  # type: ignore[misc]
    # 1/2 sum log(lambda_i / (beta sigma^2)) over the latents above beta sigma^2 is C
    beta = math.exp((math.log(9 * 4 * 2) - 2 * C) / 3) / SIGMA2
    assert beta * SIGMA2 < 2, "all three latents are alive"
    result = Beta(data=x, sigma2=SIGMA2, pairs=2).measure(vae.decoder())
    assert result.verdict == "consistent", "a constraint is not to be told from a beta"
    assert result["beta.estimate"].value == pytest.approx(beta, rel=5e-3)
    assert result["beta.mean_identity"].value == pytest.approx(beta, rel=5e-3)
    assert result["kl.total"].value == pytest.approx(C, abs=3e-3)
    assert "total-correlation and capacity losses can look alike" in result.summary


# -- total correlation: KL + (b - 1) TC -----------------------------------------------------------


def crossed(moments: PosteriorMoments) -> Tensor:
    """Return sum_x e_j E_q[d_i log p] / sum_x e_i e_j, shape (k, k): the mean head's identities for pairs."""
    return (moments.score.T @ moments.mean) / (moments.mean.T @ moments.mean)


@pytest.mark.parametrize("b", [1.0, 6.0])
def test_a_total_correlation_reads_as_one_and_shows_between_latents_alone(b: float) -> None:
    # columns of the decoder that are not orthogonal want dependent latents, which the loss forbids: with sharp
    # posteriors the identity between latents i and j reads b, that of each latent with itself 1
    x, U = exact_data(torch.tensor(EIGENVALUES, dtype=F64), 64)
    C = torch.linalg.cholesky(0.5 * torch.eye(3, dtype=F64) + 0.5)
    W = U[:, :3] @ C.T * torch.tensor([2.0, 1.5, 1.0], dtype=F64)
    vae = free(W @ W.T + SIGMA2 * torch.eye(6, dtype=F64), W)
    L = torch.linalg.cholesky(vae.S)
    rows = (
        torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / len(x)), x.T, upper=False).T @ L.T
    )  # of covariance S, exactly
    descended([vae.E, vae.s], lambda: vae.error() + vae.kl() + (b - 1) * vae.total_correlation())
    decoder = vae.decoder()
    result = Beta(data=rows, sigma2=SIGMA2, pairs=2).measure(decoder)
    assert result.verdict == "consistent", "variances and means see no term of the total correlation here"
    assert result["beta.estimate"].value == pytest.approx(1.0, abs=0.005)
    assert result["beta.mean_identity"].value == pytest.approx(1.0, abs=0.005)
    assert decoder.encoder is not None
    between = crossed(posterior_moments(decoder, decoder.encoder, rows, Gaussian(SIGMA2), pairs=2))
    off = between[~torch.eye(3, dtype=torch.bool)]
    if b == 1:
        torch.testing.assert_close(off, torch.ones(6, dtype=F64), rtol=0, atol=1e-5)
    else:
        assert off.min() > 4
        assert off.max() < b


# -- annealing ------------------------------------------------------------------------------------


def annealed(before: float, after: float, steps: Sequence[int]) -> list[tuple[float, float, float]]:
    """Return beta by variances, by means, and the aggregate second moment, after so many steps at another beta."""
    x, _ = exact_data(torch.tensor(EIGENVALUES, dtype=F64), 64)
    vae = free(x.T @ x / len(x))
    parts = [vae.W, vae.E, vae.s]
    descended(parts, lambda: vae.error() + before * vae.kl())
    optimiser, found = torch.optim.Adam(parts, lr=0.01), []
    for step in range(max(steps) + 1):
        if step in steps:
            result = Beta(data=x, sigma2=SIGMA2, pairs=2).measure(vae.decoder())
            second = (result.moments.mean.square() + result.moments.variance).mean()
            found.append((result["beta.estimate"].value, result["beta.mean_identity"].value, float(second)))
        optimiser.zero_grad()
        (vae.error() + after * vae.kl()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return found


@pytest.mark.parametrize(("before", "after"), [(4.0, 1.0), (1.0, 4.0)])
def test_annealing_reads_as_the_beta_at_the_end_once_the_encoder_has_followed(
    before: float, after: float
) -> None:
    # the identities are the encoder's: they hold at the new beta long before the decoder has followed.  What is left
    # of the change is then the scale of the latents, mean e^2 + Sigma, over 1 after a fall of beta, under 1 after a rise
    (start, _, ready), (early, by_means, scale), (late, late_means, done) = annealed(
        before, after, (0, 10, 600)
    )
    assert start == pytest.approx(before, rel=1e-4)
    assert ready == pytest.approx(1, abs=1e-4)
    assert min(before, after) < early < max(before, after)
    assert (by_means < early) == (after < before), "means overtake variances"
    assert abs(by_means / early - 1) > 0.5
    assert (scale > 1.1) if after < before else (scale < 0.9)
    assert late == pytest.approx(after, rel=0.01)
    assert late_means == pytest.approx(after, rel=0.01)
    assert done == pytest.approx(1, abs=0.01)
