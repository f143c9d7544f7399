"""Negative binomial, zero-inflated and multinomial likelihoods, by sampling, differences and scipy; a new one in a file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import vaeprobe
from vaeprobe import likelihoods
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.errors import UsageError
from vaeprobe.inference.beta import estimate_beta
from vaeprobe.inference.moments import posterior_moments
from vaeprobe.inference.training import train_vae
from vaeprobe.likelihoods import (
    Likelihood,
    LikelihoodSettings,
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from vaeprobe.likelihoods.likelihood import Parameter
from vaeprobe.probes.beta import Beta
from vaeprobe.probes.orthogonality import Orthogonality
from vaeprobe.probes.posterior import Posterior

from vaes import encoder_of

THETA = torch.tensor([0.7, 2.0, 9.0], dtype=torch.float64)
MU = torch.tensor([[0.3, 1.5, 6.0], [4.0, 0.05, 2.0]], dtype=torch.float64)
GATE = torch.tensor([[-1.0, 0.4, 2.0], [0.0, -3.0, 1.0]], dtype=torch.float64)
NB = NegativeBinomial(THETA)
ZINB = ZeroInflatedNegativeBinomial(THETA)
OUTPUTS: dict[str, tuple[Likelihood, torch.Tensor]] = {
    "negative_binomial": (NB, MU),
    "zero_inflated_negative_binomial": (ZINB, torch.cat([MU, GATE], 1)),
}


def natural(name: str, output: torch.Tensor) -> torch.Tensor:
    return output.log() if name == "negative_binomial" else torch.cat([output[:, :3].log(), output[:, 3:]], 1)


def draws(name: str, output: torch.Tensor, count: int) -> torch.Tensor:
    """Return counts drawn by numpy, shape (count, 3), for one output row."""
    rng = np.random.default_rng(0)
    mu, theta = output[0, :3].numpy(), THETA.numpy()
    x = rng.negative_binomial(theta, theta / (theta + mu), size=(count, 3))
    if name != "negative_binomial":
        x = np.where(rng.random((count, 3)) < torch.sigmoid(output[0, 3:]).numpy(), 0, x)
    return torch.from_numpy(x).double()


@pytest.mark.parametrize("name", OUTPUTS)
def test_probabilities_add_up_and_have_the_stated_moments(name: str) -> None:
    likelihood, output = OUTPUTS[name]
    x = torch.arange(4000, dtype=torch.float64)
    for i in range(3):
        one = (
            NegativeBinomial(THETA[i : i + 1])
            if name == "negative_binomial"
            else ZeroInflatedNegativeBinomial(THETA[i : i + 1])
        )
        y = output[:1, [i]] if name == "negative_binomial" else output[:1, [i, 3 + i]]
        p = one.log_density(x[:, None], y.expand(len(x), -1), "mean").exp()
        mu, theta = float(MU[0, i]), float(THETA[i])
        pi = 0.0 if name == "negative_binomial" else float(torch.sigmoid(GATE[0, i]))
        assert float(p.sum()) == pytest.approx(1, abs=1e-9)
        mean = float((p * x).sum())
        assert mean == pytest.approx((1 - pi) * mu)
        assert float((p * x * x).sum()) - mean**2 == pytest.approx(
            (1 - pi) * (mu + mu**2 / theta + pi * mu**2)
        )
    both = likelihood.log_density(torch.tensor([[0.0, 2, 5], [1, 0, 0]]), output, "mean")
    again = likelihood.log_density(torch.tensor([[0.0, 2, 5], [1, 0, 0]]), natural(name, output), "natural")
    torch.testing.assert_close(both, again)
    torch.testing.assert_close(likelihood.mean(natural(name, output)), output)


def test_negative_binomial_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    x = np.array([[0, 2, 5], [11, 0, 1]])
    theta = THETA.numpy()
    expected = stats.nbinom.logpmf(x, theta, theta / (theta + MU.numpy())).sum(1)
    torch.testing.assert_close(
        NB.log_density(torch.from_numpy(x).double(), MU, "mean"), torch.from_numpy(expected)
    )


def test_many_counts_per_dispersion_are_poisson() -> None:
    x = torch.tensor([[0.0, 2, 5], [1, 0, 0]], dtype=torch.float64)
    flat = NegativeBinomial(torch.tensor([1e9], dtype=torch.float64))
    torch.testing.assert_close(
        flat.log_density(x, MU, "mean"), Poisson().log_density(x, MU, "mean"), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(flat.weight(MU, "mean"), Poisson().weight(MU, "mean"))
    never = ZeroInflatedNegativeBinomial(THETA)
    y = torch.cat([MU, torch.full_like(MU, -60)], 1)
    torch.testing.assert_close(never.log_density(x, y, "mean"), NB.log_density(x, MU, "mean"))
    torch.testing.assert_close(never.weight(y, "mean")[:, :3], NB.weight(MU, "mean"))


def metric(likelihood: Likelihood, output: torch.Tensor, parameter: Parameter) -> torch.Tensor:
    """Return the metric of one output row as a matrix, and hold its three forms against each other."""
    m = output.shape[1]
    eye = torch.eye(m, dtype=torch.float64)[:, None]
    lowered = likelihood.lowered(eye, output, parameter)[:, 0]
    B = likelihood.whitened(eye, output, parameter)[:, 0]
    torch.testing.assert_close(B @ B.T, lowered)
    if not isinstance(likelihood, Multinomial):
        torch.testing.assert_close(likelihood.weight(output, parameter)[0], lowered.diagonal())
    return lowered


@pytest.mark.parametrize("parameter", ["mean", "natural"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_the_metric_is_the_expected_curvature(name: str, parameter: Parameter) -> None:
    """Exactly, by summing over all counts: the expectation of minus the second derivative by finite differences."""
    likelihood, output = OUTPUTS[name]
    x = torch.arange(600, dtype=torch.float64)
    for row in range(2):
        y = output[row : row + 1] if parameter == "mean" else natural(name, output[row : row + 1])
        found = metric(likelihood, y, parameter)
        step = 1e-4
        for i in range(3):
            places = [i] if name == "negative_binomial" else [i, 3 + i]
            own = type(likelihood)(THETA[i : i + 1])  # type: ignore[call-arg]

            def density(at: torch.Tensor, own: Likelihood = own, x: torch.Tensor = x) -> torch.Tensor:
                return own.log_density(x[:, None], at.expand(len(x), -1), parameter)

            at = y[:, places]
            p = density(at).exp()
            E = torch.eye(len(places), dtype=torch.float64) * step
            for a in range(len(places)):
                for b in range(len(places)):
                    mixed = density(at + E[a] + E[b]) - density(at + E[a] - E[b]) - density(at - E[a] + E[b])
                    second = (mixed + density(at - E[a] - E[b])) / (4 * step * step)
                    expected = -float((p * second).sum())
                    assert float(found[places[a], places[b]]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_metric_is_the_covariance_of_sampled_scores(name: str) -> None:
    likelihood, output = OUTPUTS[name]
    count = 40_000
    x = draws(name, output, count)
    leaf = output[:1].expand(count, -1).clone().requires_grad_(True)
    (score,) = torch.autograd.grad(likelihood.log_density(x, leaf, "mean").sum(), leaf)
    products = score[:, :, None] * score[:, None, :]
    found, error = metric(likelihood, output[:1], "mean"), products.std(0) / count**0.5
    assert float(((products.mean(0) - found).abs() / (error + 1e-12)).max()) < 4.5
    assert float((score.mean(0) / (score.std(0) / count**0.5)).abs().max()) < 4.5


def test_multinomial_against_torch_and_its_metric() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([[2.0, 0, 1, 0, 4], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.float64)
    M = Multinomial(5)
    for k in (0, 2):
        expected = torch.distributions.Multinomial(int(x[k].sum()), logits=logits[k]).log_prob(x[k])
        torch.testing.assert_close(M.log_density(x[k : k + 1], logits[k : k + 1], "natural")[0], expected)
        p = logits[k : k + 1].softmax(1)
        torch.testing.assert_close(M.log_density(x[k : k + 1], p, "mean")[0], expected)
        hessian = torch.autograd.functional.hessian(
            lambda t, k=k: -M.log_density(x[k : k + 1], t, "natural").sum(), logits[k : k + 1]
        ).reshape(5, 5)
        total = M.copies(x[k : k + 1])
        torch.testing.assert_close(total * metric(M, logits[k : k + 1], "natural"), hessian)
    assert float(M.log_density(x[1:2], logits[1:2], "natural")) == 0


# -- in the probes -------------------------------------------------------------------------------------


def counts(likelihood: str, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return counts of 12 genes from a map of 2 factors, and their inverse dispersions."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 2))
    mu = np.exp(1.0 + 0.9 * z @ rng.standard_normal((2, 12)))
    theta = np.linspace(1, 6, 12)
    x = rng.negative_binomial(theta, theta / (theta + mu))
    if likelihood == "zero_inflated_negative_binomial":
        x = np.where(rng.random(x.shape) < 0.3, 0, x)
    if likelihood == "multinomial":
        p = mu / mu.sum(1, keepdims=True)
        x = np.stack([rng.multinomial(rng.integers(5, 60), row) for row in p])
    return torch.from_numpy(x).float(), torch.from_numpy(theta)


@pytest.mark.parametrize("name", ["negative_binomial", "zero_inflated_negative_binomial", "multinomial"])
def test_the_beta_of_a_vae_trained_on_counts_is_found(name: str) -> None:
    x, theta = counts(name, 2000)
    if name == "multinomial":
        likelihood: Likelihood = Multinomial(12)
    else:
        likelihood = likelihoods.by_name(
            name, (2, 12) if name.startswith("zero") else (12,), LikelihoodSettings(dispersion=theta)
        )
    outputs = 24 if name.startswith("zero") else 12
    gate = torch.full((12,), -0.8)

    def natural_of(y: torch.Tensor) -> torch.Tensor:
        return torch.cat([y, gate.expand(len(y), -1)], 1) if outputs == 24 else y

    vae = train_vae(
        torch.log1p(x), lambda a, y: likelihood.log_density(a.expm1().round(), natural_of(y), "natural"), 2.0,
        latents=3, width=32, steps=1500, seed=1,
    )  # fmt: skip
    encoder = Encoder(lambda rows: vae.posterior(torch.log1p(rows)), 3, input_shape=(12,))
    shape = (2, 12) if outputs == 24 else (12,)

    def function(z: torch.Tensor) -> torch.Tensor:
        y = natural_of(vae.decoder(z))
        return (likelihood.mean(y) if name == "multinomial" else y).reshape(len(z), *shape)

    decoder = Decoder(function, 3, dtype=torch.float32, encoder=encoder, likelihood=name,
                      parameter="mean" if name == "multinomial" else "natural")  # fmt: skip
    settings = {"data": x, "samples": 400, **({} if name == "multinomial" else {"dispersion": theta})}
    result = Beta(**settings).measure(decoder)
    assert result["beta.estimate"].value == pytest.approx(2.0, rel=0.12)
    assert "Theorem 3" in result.meaning
    assert not result["latents.active.supported"].defined
    other = Posterior(**settings, rotations=19).measure(decoder)
    assert other["elbo.value"].defined
    weighed = Orthogonality(samples=16, rotations=19, restarts=0, likelihood=name,
                            dispersion=settings.get("dispersion")).measure(decoder)  # fmt: skip
    assert weighed["orthogonality.ima_contrast"].defined


def test_curvature_of_counts_is_gauss_newton_where_nothing_is_left_over() -> None:
    # log mu linear in z and x drawn from the model: over the draws the residual term vanishes
    rng = np.random.default_rng(0)
    n = 4000
    z = torch.from_numpy(0.5 * rng.standard_normal((n, 2)))
    W = torch.from_numpy(0.6 * rng.standard_normal((3, 2)))
    mu = (z @ W.T + 1).exp().numpy()
    theta = THETA.numpy()
    x = torch.from_numpy(rng.negative_binomial(theta, theta / (theta + mu))).double()
    decoder = Decoder(lambda z: z @ W.T + 1, 2, dtype=torch.float64, parameter="natural")
    m = posterior_moments(decoder, encoder_of(z, torch.full_like(z, 1e-4)), x, NB, pairs=2)
    gap = (m.curvature - m.gauss_newton).mean(0)
    error = (m.curvature - m.gauss_newton).std(0) / n**0.5
    assert float((gap / error).abs().max()) < 4
    assert estimate_beta(m) is not None


@pytest.mark.parametrize(("settings", "words"), [
    ({}, "needs the inverse dispersion"),
    ({"dispersion": -1.0}, "positive numbers"),
    ({"dispersion": [1.0, 2.0]}, "2 inverse dispersions for 3 counts"),
])  # fmt: skip
def test_dispersions_that_are_none(settings: dict[str, object], words: str) -> None:
    decoder = Decoder(lambda z: z.exp().repeat(1, 2)[:, :3], 2, dtype=torch.float64)
    with pytest.raises(UsageError, match=words):
        Orthogonality(samples=8, likelihood="negative_binomial", rotations=19, **settings).measure(decoder)  # type: ignore[arg-type]


def test_data_that_are_no_counts() -> None:
    x = torch.full((4, 3), -1.0)
    for likelihood, shape in ((NB, (3,)), (ZINB, (2, 3)), (Multinomial(3), (3,))):
        with pytest.raises(UsageError, match="counts from 0"):
            likelihood.check_rows(x, shape)
    with pytest.raises(UsageError, match="counts"):
        ZINB.check_rows(x.abs(), (3,))
    with pytest.raises(UsageError, match=r"shape \(2, counts\)"):
        likelihoods.by_name("zinb", (3,), LikelihoodSettings(dispersion=1.0))


def test_dispersion_from_a_file_is_that_of_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "theta.npy", THETA.numpy())
    decoder = Decoder(lambda z: z.exp() @ torch.ones(2, 3, dtype=z.dtype), 2, dtype=torch.float64)
    found = [
        Orthogonality(samples=8, likelihood="negative_binomial", rotations=19, dispersion=theta).measure(
            decoder
        )
        for theta in (THETA, tmp_path / "theta.npy", str(tmp_path / "theta.npy"))
    ]
    assert len({r["orthogonality.mean_abs_cosine"].value for r in found}) == 1


# -- what a likelihood costs: one file ------------------------------------------------------------------

FILE = '''
from dataclasses import dataclass
import torch
from vaeprobe.likelihoods.likelihood import Likelihood, inverse_or_zero

@dataclass(frozen=True)
class Exponential(Likelihood):
    """x ~ Exp(mean mu); a natural output is log mu."""
    name = "exponential"
    activation = "exp"
    domain = (0.0, float("inf"))
    def weight(self, output, parameter):
        return torch.ones_like(output) if parameter == "natural" else inverse_or_zero(output**2)
    def mean(self, theta):
        return theta.exp()
    def log_density(self, x, output, parameter):
        mu = output.exp() if parameter == "natural" else output
        return (-mu.log() - x / mu).flatten(1).sum(1)
'''
PROGRAM = """
import sys, json, numpy as np, torch, vaeprobe, vaeprobe.likelihoods
from vaeprobe.probes.beta import Beta
from vaeprobe.probes.posterior import Posterior
W = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 2)))
def encode(x):
    return (x.log() + 0.577) @ torch.linalg.pinv(W).T, (-(1 + W.square().sum(0)).log()).expand(len(x), 2)
encoder = vaeprobe.Encoder(encode, 2, input_shape=(6,), dtype=torch.float64)
decoder = vaeprobe.Decoder(lambda z: z @ W.T, 2, dtype=torch.float64, parameter="natural", likelihood="exponential",
                           encoder=encoder)
z = torch.from_numpy(np.random.default_rng(1).standard_normal((300, 2)))
x = (z @ W.T).exp() * torch.from_numpy(np.random.default_rng(2).exponential(size=(300, 6)))
result = Beta(data=x, likelihood="exponential").measure(decoder)
other = Posterior(data=x, rotations=19).measure(decoder)
reason = result["latents.active.supported"].reason
torch.save({"net.weight": W, "net.bias": torch.zeros(6).double()}, "m.pt")
toml = 'likelihood = "exponential"\\n[decoder]\\nlayers = [{ linear = "net" }, "exp"]'
open("m.toml", "w").write(toml)
loaded = vaeprobe.load("m.pt", blueprint="m.toml")
assert loaded.likelihood == "exponential" and loaded.parameter == "mean" and loaded.natural is not None
torch.testing.assert_close(loaded.natural(z), z @ W.T)
assert loaded.natural_for(vaeprobe.likelihoods.by_name("exponential"))
print(json.dumps([result["beta.estimate"].value, result.meaning, reason, result.summary, other.summary]))
"""


def test_a_likelihood_is_one_file_and_what_it_does_not_say_is_unknown(tmp_path: Path) -> None:
    package = tmp_path / "vaeprobe"
    shutil.copytree(Path(vaeprobe.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "likelihoods" / "exponential.py").write_text(FILE)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    beta, meaning, reason, summary, other = json.loads(done.stdout)
    assert beta > 0
    assert "Var[x|z] is not known for the likelihood `exponential`" in meaning
    assert "rate" not in meaning
    assert "sigma" not in meaning + summary + other  # it has no variance that beta could be told from
    assert reason == "not derived for this likelihood"
    assert "exponential likelihood" in summary
    assert "exponential likelihood" in other
    listed = subprocess.run([sys.executable, "-m", "vaeprobe", "beta", "--help"], capture_output=True, text=True,
                            cwd=tmp_path, env={**os.environ, "COLUMNS": "200"}, check=True)  # fmt: skip
    assert "exponential" in listed.stdout
