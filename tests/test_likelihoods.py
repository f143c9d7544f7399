"""Likelihoods against torch.distributions and autograd."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal, Poisson

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

    hessian = torch.autograd.functional.hessian(total, THETA).reshape(12, 12)
    torch.testing.assert_close(likelihood.weight(THETA, "natural").flatten(), -hessian.diagonal())
    slope = torch.autograd.functional.jvp(likelihood.mean, THETA, torch.ones_like(THETA))[1]
    mean_weight = likelihood.weight(likelihood.mean(THETA), "mean")
    torch.testing.assert_close(mean_weight * slope**2, likelihood.weight(THETA, "natural"))


def test_saturated_outputs_have_no_weight() -> None:
    p = torch.tensor([[0.0, 1.0, 0.5]])
    assert likelihoods.Bernoulli().weight(p, "mean").tolist() == [[0.0, 0.0, 4.0]]
    assert likelihoods.Poisson().weight(torch.tensor([[0.0, 2.0]]), "mean").tolist() == [[0.0, 0.5]]


# -- categorical: K = 3 classes at 2 x 2 positions ------------------------------------------------

LOGITS = torch.randn(4, 3, 2, 2, generator=GENERATOR, dtype=torch.float64)
CATEGORICAL = likelihoods.Categorical(3)


def test_categorical_against_torch_distributions() -> None:
    distribution = Categorical(logits=LOGITS.movedim(1, -1))
    labels = distribution.sample()
    hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double()
    expected = distribution.log_prob(labels).sum((1, 2))
    p = CATEGORICAL.mean(LOGITS)
    torch.testing.assert_close(p, distribution.probs.movedim(-1, 1))
    torch.testing.assert_close(CATEGORICAL.one_hot(labels, 12), hot.flatten(1).long())
    for x in (labels, hot, hot.flatten(1)):
        for y, parameter in ((LOGITS, "natural"), (p, "mean")):
            torch.testing.assert_close(CATEGORICAL.log_density(x, y, parameter), expected)  # type: ignore[arg-type]
            rows = CATEGORICAL.log_density(x, y.flatten(1), parameter)  # type: ignore[arg-type]
            torch.testing.assert_close(rows, expected)


def test_categorical_metric_is_the_hessian_on_logits_and_on_probabilities() -> None:
    theta = LOGITS[:1].flatten(1)
    labels = torch.tensor([[0, 2, 1, 1]])
    hessian = torch.autograd.functional.hessian(
        lambda t: -CATEGORICAL.log_density(labels, t, "natural").sum(), theta
    ).reshape(12, 12)
    eye = torch.eye(12, dtype=torch.float64)[:, None]
    torch.testing.assert_close(CATEGORICAL.lowered(eye, theta, "natural")[:, 0], hessian)
    B = CATEGORICAL.whitened(eye, theta, "natural")[:, 0]
    torch.testing.assert_close(B @ B.T, hessian)
    # J_p^T diag(1/p) J_p, whose tangents J_p sum to zero over the classes
    J_p = torch.autograd.functional.jacobian(CATEGORICAL.mean, theta).reshape(12, 12).T[:, None]
    B_p = CATEGORICAL.whitened(J_p, CATEGORICAL.mean(theta), "mean")[:, 0]
    torch.testing.assert_close(B_p @ B_p.T, hessian)


def test_two_classes_are_a_bernoulli() -> None:
    theta = torch.stack([torch.zeros_like(THETA), THETA], dim=1)
    x = (THETA > 0.3).long()
    two, one = likelihoods.Categorical(2), likelihoods.Bernoulli()
    expected = one.log_density(x.double(), THETA, "natural")
    torch.testing.assert_close(two.log_density(x, theta, "natural"), expected)
    tangent = torch.stack([torch.zeros_like(THETA), torch.ones_like(THETA)], dim=1).flatten(1)
    length = two.whitened(tangent, theta.flatten(1), "natural").square().sum(1)
    torch.testing.assert_close(length, one.weight(THETA, "natural").sum(1))


def test_outputs_that_are_no_means_are_named() -> None:
    assert CATEGORICAL.misfit(CATEGORICAL.mean(LOGITS).flatten(1)) is None
    assert "sum to 1.5 to 1.5" in str(CATEGORICAL.misfit(torch.full((2, 12), 0.5)))
    assert "lie in [0, 1]" in str(CATEGORICAL.misfit(LOGITS.flatten(1)))
    assert "lie in [0, inf)" in str(likelihoods.Poisson().misfit(torch.tensor([[-1.0]])))
    assert likelihoods.Gaussian().misfit(torch.tensor([[-1e9, 1e9]])) is None
    with pytest.raises(UsageError, match="two classes or more"):
        likelihoods.by_name("categorical", (1,))


def test_names() -> None:
    assert likelihoods.by_name(
        "gaussian", given=likelihoods.LikelihoodSettings(sigma2=2.0)
    ) == likelihoods.Gaussian(2.0)
    with pytest.raises(UsageError, match="no likelihood") as caught:
        likelihoods.by_name("bernouli")
    assert "bernoulli" in str(caught.value.hint)
    with pytest.raises(UsageError, match="positive variance"):
        likelihoods.Gaussian(0.0)
