"""Self-consistency of encoder and decoder against linear VAEs, where it is sum Sigma^2 / sum Sigma."""

from __future__ import annotations

import pytest
import torch

from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.inference.consistency import Consistency, self_consistency
from vaeprobe.inference.moments import posterior_moments
from vaeprobe.likelihoods import Bernoulli
from vaeprobe.probes.posterior import Posterior

from vaes import LinearVAE, linear_vae


def found(vae: LinearVAE, seed: int = 0, used: list[bool] | None = None) -> Consistency | str:
    encoder = vae.decoder.encoder
    assert encoder is not None
    moments = posterior_moments(vae.decoder, encoder, vae.x, vae.likelihood, pairs=2)
    k = moments.latents
    chosen = torch.tensor([True] * k if used is None else used)
    return self_consistency(vae.decoder, encoder, vae.x, vae.likelihood, moments, chosen, seed=seed)


@pytest.mark.parametrize("sigma2", [0.05, 0.3, 1.0])
def test_of_a_linear_vae_in_closed_form(sigma2: float) -> None:
    vae = linear_vae(sigma2=sigma2, n=4000)
    consistent = found(vae)
    assert isinstance(consistent, Consistency)
    S = vae.variance
    # e(f(z)) = (1 - Sigma) z, and the rows' latents have variance 1 in all
    assert consistent.value == pytest.approx(float(S.square().sum() / S.sum()), rel=0.05)
    # codes of other rows: (1 - Sigma) z' - z, independent
    assert consistent.null == pytest.approx(float(((1 - S).square() + 1).sum() / S.sum()), rel=0.05)


def test_the_interval_covers() -> None:
    vae = linear_vae(n=256)
    truth = float(vae.variance.square().sum() / vae.variance.sum())
    covered = 0
    for seed in range(80):
        consistent = found(vae, seed)
        assert isinstance(consistent, Consistency)
        assert consistent.ci is not None
        covered += consistent.ci[0] <= truth <= consistent.ci[1]
    assert covered >= 69  # 95 % of 80 is 76; fewer than 69 once in 1000


def test_latents_that_are_not_used_do_not_count() -> None:
    vae = linear_vae(n=4000)
    consistent = found(vae, used=[True, False, False])
    assert isinstance(consistent, Consistency)
    assert consistent.value == pytest.approx(float(vae.variance[0]), rel=0.08)
    assert found(vae, used=[False] * 3) == "every latent collapsed"


def test_a_decoder_of_logits_is_encoded_by_its_means() -> None:
    """The encoder inverts the sigmoid of its own first two columns: nothing is missed."""
    x = torch.rand(32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round()

    def encode(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = rows[:, :2].clamp(0.2, 0.8).logit()
        return mean, torch.full_like(mean, -4.0)

    decoder = Decoder(
        lambda z: torch.cat([z.clamp(-1, 1), z[:, :1] * 0], 1),
        2,
        dtype=torch.float64,
        parameter="natural",
        likelihood="bernoulli",
    )
    encoder = Encoder(encode, 2, input_shape=(3,), dtype=torch.float64)
    moments = posterior_moments(decoder, encoder, x * 0.4 + 0.3, Bernoulli(), pairs=2)
    consistent = self_consistency(
        decoder, encoder, x * 0.4 + 0.3, Bernoulli(), moments, torch.tensor([True, True])
    )
    assert isinstance(consistent, Consistency)
    assert consistent.value < 0.2


def test_an_encoder_that_does_not_take_outputs_says_so() -> None:
    vae = linear_vae(n=64)
    other = Encoder(lambda rows: (rows[:, :3], rows[:, :3]), 3, input_shape=(5,), dtype=torch.float64)
    encoder = vae.decoder.encoder
    assert encoder is not None
    moments = posterior_moments(vae.decoder, encoder, vae.x, vae.likelihood, pairs=2)
    why = self_consistency(
        vae.decoder, other, vae.x, vae.likelihood, moments, torch.tensor([True, True, True])
    )
    assert isinstance(why, str)
    assert why.startswith("the encoder does not take the decoder's outputs: ")


def test_the_probe_carries_it() -> None:
    vae = linear_vae(n=256)
    result = Posterior(data=vae.x.numpy(), seed=0).measure(vae.decoder)
    assert result.self_consistency.value < 0.3 < 5 < result.self_consistency_null.value
