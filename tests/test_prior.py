"""Priors that are not N(0, I): drawn from, and counted in their own units where that makes them N(0, I)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vaeprobe
from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.decoder import Decoder, Group
from vaeprobe.encoder import Encoder
from vaeprobe.errors import BlueprintError, UsageError
from vaeprobe.latents import Given, Grid, Prior
from vaeprobe.prior import LearnedPrior

MEAN, SCALE = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 3.0]).double()
W = torch.tensor([[1.0, 0.2], [0.0, 0.7], [0.4, -0.3], [0.1, 0.1]]).double()


def bent(z: Tensor) -> Tensor:
    return torch.sin(z @ W.T.to(z)) + z @ W.T.to(z)


def mixture() -> LearnedPrior:
    return LearnedPrior([[-3.0, 0.0], [3.0, 1.0]], [[0.5, 1.0], [0.25, 2.0]], [1.0, 3.0])


def test_draws_have_the_moments_of_a_learned_normal() -> None:
    decoder = Decoder(bent, 2, learned=LearnedPrior(MEAN, SCALE))
    z = Prior().draw(decoder, 20_000)
    torch.testing.assert_close(z.mean(0), MEAN, atol=0.06, rtol=0)
    torch.testing.assert_close(z.std(0), SCALE, atol=0, rtol=0.02)
    assert torch.equal(Prior().draw(decoder, 7), z[:7])


def test_draws_have_the_moments_and_shares_of_a_mixture() -> None:
    prior = mixture()
    z = Prior().draw(Decoder(bent, 2, learned=prior), 20_000)
    low = z[:, 0] < 0
    assert abs(float(low.double().mean()) - 0.25) < 0.015
    assert abs(float(z[low, 0].std()) - 0.5) < 0.02
    assert abs(float(z[~low, 1].std()) - 2.0) < 0.05
    mean, deviation = prior.moments()
    torch.testing.assert_close(z.mean(0), mean, atol=0.06, rtol=0)
    torch.testing.assert_close(z.std(0), deviation, atol=0.06, rtol=0)
    assert torch.equal(Prior().draw(Decoder(bent, 2, learned=prior), 7), z[:7])


def test_codes_stand_where_they_stood() -> None:
    groups = (Group("normal", 1), Group("onehot", 3), Group("normal", 1))
    z = Prior().draw(Decoder(lambda z: z, 5, prior=groups, learned=LearnedPrior(MEAN, SCALE)), 4000)
    assert torch.equal(z[:, 1:4].sum(1), torch.ones(4000).double())
    torch.testing.assert_close(z[:, [0, 4]].mean(0), MEAN, atol=0.2, rtol=0)


def test_units_of_the_prior_make_it_standard_and_keep_the_map() -> None:
    decoder = Decoder(bent, 2, learned=LearnedPrior(MEAN, SCALE)).standardised()
    u = Prior().draw(decoder, 500)
    assert torch.equal(u, Prior().draw(Decoder(bent, 2), 500))
    torch.testing.assert_close(decoder(u), bent(MEAN + SCALE * u))
    z = torch.randn(5, 2).double()
    torch.testing.assert_close(decoder(Given(z).draw(decoder, 5)), bent(z))


@pytest.mark.parametrize("probe", [vaeprobe.orthogonality, vaeprobe.factorise])
def test_a_learned_normal_is_measured_as_the_map_of_its_units(probe: object) -> None:
    there = Decoder(bent, 2, learned=LearnedPrior(MEAN, SCALE))
    here = Decoder(lambda u: bent(MEAN.to(u) + SCALE.to(u) * u), 2)
    found, right = (probe(d, samples=64) for d in (there, here))  # type: ignore[operator]
    assert found.verdict == right.verdict
    numbers = {k: m.value for k, m in right.metrics.items() if isinstance(m.value, float)}
    assert {k: found.metrics[k].value for k in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-7)
    assert [n.code for n in found.findings if n.code == "learned-prior"]


def test_beta_of_a_linear_vae_with_a_learned_prior() -> None:
    """The posterior of x = W z + noise under z ~ N(m, S^2) has precision S^-2 + W'W / (beta sigma^2) on its diagonal."""
    rng = torch.Generator().manual_seed(0)
    U = torch.linalg.qr(torch.randn(6, 2, generator=rng).double()).Q * torch.tensor([2.0, 1.0]).double()
    beta = 2.5
    precision = SCALE**-2 + U.square().sum(0) / beta
    x = (MEAN + SCALE * torch.randn(400, 2, generator=rng).double()) @ U.T
    x = x + 0.3 * torch.randn(400, 6, generator=rng).double()

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = (MEAN / SCALE**2 + x.double() @ U / beta) / precision
        return mean, (-precision.log()).expand_as(mean)

    encoder = Encoder(encode, 2, input_shape=(6,), dtype=torch.float64)
    decoder = Decoder(
        lambda z: z @ U.T.to(z),
        2,
        learned=LearnedPrior(MEAN, SCALE),
        encoder=encoder,
        likelihood="gaussian",
    )
    found = vaeprobe.beta(decoder, data=x, samples=200)
    assert found.metrics["beta.estimate"].value == pytest.approx(beta, rel=1e-3)
    standard = Decoder(decoder.function, 2, encoder=encoder, likelihood="gaussian")
    assert vaeprobe.beta(standard, data=x, samples=200).metrics["beta.estimate"].value != pytest.approx(
        beta, rel=0.1
    )
    named = vaeprobe.beta(
        Decoder(decoder.function, 2, learned=LearnedPrior(MEAN, SCALE), likelihood="gaussian"),
        data=x,
        samples=200,
        encoder=encoder,
    )
    assert named.metrics["beta.estimate"].value == pytest.approx(beta, rel=1e-3)


def test_a_mixture_is_drawn_from_and_not_taken_for_standard() -> None:
    decoder = Decoder(bent, 2, learned=mixture())
    found = vaeprobe.orthogonality(decoder, samples=64)
    assert {"learned-prior", "approximate-p-value"} <= {f.code for f in found.findings}
    with pytest.raises(UsageError, match="factorise holds latents against N"):
        vaeprobe.factorise(decoder)
    traced = vaeprobe.trace(decoder, samples=1, length=0.2)
    assert any("log_prior is that of the mixture" in f.message for f in traced.findings)
    (seam, *_) = traced.paths.seams
    normals = torch.distributions.Normal(mixture().mean, mixture().scale)
    parts = torch.distributions.Categorical(torch.tensor([0.25, 0.75]).double())
    reference = torch.distributions.MixtureSameFamily(parts, torch.distributions.Independent(normals, 1))
    torch.testing.assert_close(seam.log_prior, reference.log_prob(seam.z))
    mean, deviation = mixture().moments()
    z = Grid(extent=1.0).draw(decoder, 9)
    torch.testing.assert_close(z.min(0).values, mean - deviation)
    torch.testing.assert_close(z.max(0).values, mean + deviation)


def test_the_density_of_a_mixture_along_a_direction_is_that_of_its_projection() -> None:
    prior, v = mixture(), torch.tensor([[0.6, -0.8]]).double()
    z = torch.tensor([[0.3, 0.9]]).double()
    draws = prior.draw(400_000, seed=0, purpose="test") @ v[0]
    at, width = float(v[0] @ z[0]), 0.2
    share = float(((draws - at).abs() < width).double().mean()) / (2 * width)
    assert float(prior.log_density_along(v, z).exp()) == pytest.approx(share, rel=0.03)
    # along an axis it is that latent's own
    axis = torch.tensor([[0.0, 1.0]]).double()
    torch.testing.assert_close(
        prior.log_density_along(axis, z), prior.over([1]).log_density(z[:, 1:]), atol=1e-12, rtol=0
    )


def test_the_density_of_some_latents_of_a_mixture_integrates_to_one() -> None:
    grid = torch.linspace(-12, 12, 4001).double()[:, None]
    one = mixture().over([0])
    assert float(torch.trapezoid(one.log_density(grid).exp(), grid[:, 0])) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(
    ("mean", "scale", "weights", "why"),
    [
        ([0.0, 0.0], [1.0, 0.0], None, "not positive"),
        ([0.0, float("nan")], 1.0, None, "not finite"),
        ([0.0, 0.0], [1.0, 1.0, 1.0], None, "scales of shape"),
        ([[0.0], [1.0]], 1.0, [1.0], "1 weights"),
        ([[0.0], [1.0]], 1.0, [1.0, -1.0], "not positive"),
    ],
)
def test_what_is_no_prior(mean: object, scale: object, weights: object, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        LearnedPrior(mean, scale, weights)  # type: ignore[arg-type]


def test_a_prior_of_other_latents_is_refused() -> None:
    with pytest.raises(UsageError, match="the prior has 2 latents, the decoder 3"):
        Decoder(lambda z: z, 3, learned=LearnedPrior(MEAN, SCALE))


# -- in blueprints -----------------------------------------------------------------------------------

LAYERS = '[decoder]\nlayers = [{ linear = "fc" }, "tanh"]\n'


def saved(folder: Path, prior: str) -> Path:
    net = nn.Linear(2, 3)
    tensors = {f"fc.{k}": v for k, v in net.state_dict().items()}
    learned = {"prior.mu": MEAN[None].float(), "prior.logvar": 2 * SCALE.log()[None].float()}
    mixed = {
        "prior.means": mixture().mean[None].float(),
        "prior.logits": torch.tensor([[0.0], [np.log(3.0)]]),
    }
    path = folder / "model.safetensors"
    save_file({**tensors, **learned, **mixed}, path)
    (folder / "model.toml").write_text(f"[prior]\n{prior}\n{LAYERS}")
    return path


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ('mean = "prior.mu"\nlog_variance = "prior.logvar"', LearnedPrior(MEAN, SCALE)),
        ("mean = [1, -2]\nscale = [0.5, 3]", LearnedPrior(MEAN, SCALE)),
        ("mean = [1, -2]\nvariance = [0.25, 9.0]", LearnedPrior(MEAN, SCALE)),
        ("mean = [1, -2]\nlog_scale = 0", LearnedPrior(MEAN, torch.ones(2))),
        (
            'mean = "prior.means"\nscale = [[0.5, 1.0], [0.25, 2.0]]\nlogits = "prior.logits"',
            mixture(),
        ),
        ("mean = [[-3, 0], [3, 1]]\nscale = [[0.5, 1.0], [0.25, 2.0]]\nweights = [2, 6]", mixture()),
    ],
)
def test_a_blueprint_says_a_prior(tmp_path: Path, said: str, right: LearnedPrior) -> None:
    path = saved(tmp_path, said)
    found = vaeprobe.load(path).learned
    assert found is not None
    for name in ("mean", "scale", "weights"):
        torch.testing.assert_close(getattr(found, name), getattr(right, name), rtol=1e-6, atol=1e-6)
    bp = Blueprint.from_toml((tmp_path / "model.toml").read_text())
    assert Blueprint.from_toml(bp.to_toml()) == bp


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
def test_a_converted_decoder_keeps_its_prior(tmp_path: Path, suffix: str) -> None:
    from vaeprobe.checkpoints.conversion import convert

    path = saved(tmp_path, 'mean = "prior.mu"\nlog_variance = "prior.logvar"')
    (out := tmp_path / "out").mkdir()
    convert(vaeprobe.load(path), out / f"model{suffix}")
    learned = vaeprobe.load(out / f"model{suffix}").learned
    assert learned is not None
    torch.testing.assert_close(learned.scale[0], SCALE, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("mean = [0, 0]", "needs `mean` and one of scale"),
        ("mean = [0, 0]\nscale = 1\nvariance = 1", "needs `mean` and one of scale"),
        ("mean = [0, true]\nscale = 1", "must be numbers or a tensor's name"),
        ('mean = "prior.m"\nscale = 1', "asks for the tensor `prior.m`"),
        ("mean = [0, 0]\nscal = 1", "no setting `scal`"),
    ],
)
def test_what_a_blueprint_cannot_say_of_a_prior(tmp_path: Path, said: str, why: str) -> None:
    with pytest.raises(BlueprintError, match=why):
        vaeprobe.load(saved(tmp_path, said))
