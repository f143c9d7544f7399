"""Likelihoods against torch.distributions and autograd."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, Normal, Poisson

from vaeprobe import likelihoods
from vaeprobe.errors import UsageError

GENERATOR = torch.Generator().manual_seed(0)
THETA = torch.randn(4, 3, generator=GENERATOR, dtype=torch.float64)
CASES = {
    "gaussian": (likelihoods.Gaussian(0.3), lambda t: Normal(t, 0.3**0.5)),
    "bernoulli": (likelihoods.Bernoulli(), lambda t: Bernoulli(logits=t)),
    "poisson": (likelihoods.Poisson(), lambda t: Poisson(t.exp())),
}


@pytest.mark.parametrize("name", CASES)
def test_against_torch_distributions(name: str) -> None:
    likelihood, make = CASES[name]
    distribution = make(THETA)
    x = distribution.sample()
    expected = distribution.log_prob(x).sum(1)
    torch.testing.assert_close(likelihood.log_density(x, THETA, "natural"), expected)
    torch.testing.assert_close(likelihood.log_density(x, likelihood.mean(THETA), "mean"), expected)
    torch.testing.assert_close(likelihood.mean(THETA), distribution.mean)


@pytest.mark.parametrize("name", CASES)
def test_the_weight_is_minus_the_second_derivative(name: str) -> None:
    # A^2 = Var[x | theta] = -d^2 log p / d theta^2 (Eq. 7); in the mean's coordinates, its expectation
    likelihood, make = CASES[name]
    x = make(THETA).sample()

    def total(theta: torch.Tensor) -> torch.Tensor:
        return likelihood.log_density(x, theta, "natural").sum()

    hessian = torch.func.hessian(total)(THETA).reshape(12, 12)
    torch.testing.assert_close(likelihood.weight(THETA, "natural").flatten(), -hessian.diagonal())
    slope = torch.func.jvp(likelihood.mean, (THETA,), (torch.ones_like(THETA),))[1]
    mean_weight = likelihood.weight(likelihood.mean(THETA), "mean")
    torch.testing.assert_close(mean_weight * slope**2, likelihood.weight(THETA, "natural"))


def test_saturated_outputs_have_no_weight() -> None:
    p = torch.tensor([[0.0, 1.0, 0.5]])
    assert likelihoods.Bernoulli().weight(p, "mean").tolist() == [[0.0, 0.0, 4.0]]
    assert likelihoods.Poisson().weight(torch.tensor([[0.0, 2.0]]), "mean").tolist() == [[0.0, 0.5]]


def test_names() -> None:
    assert likelihoods.by_name("gaussian", sigma2=2.0) == likelihoods.Gaussian(2.0)
    with pytest.raises(UsageError, match="no likelihood") as caught:
        likelihoods.by_name("bernouli")
    assert "bernoulli" in str(caught.value.hint)
    with pytest.raises(UsageError, match="positive variance"):
        likelihoods.Gaussian(0.0)
