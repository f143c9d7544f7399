"""Likelihoods against torch.distributions and autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal, Poisson

from vaeprobe import Decoder, likelihoods
from vaeprobe.engine import gram
from vaeprobe.errors import UsageError
from vaeprobe.likelihoods.categorical import axis_of_classes
from vaeprobe.probes.orthogonality import Orthogonality

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


@pytest.mark.parametrize("axis", [2, 3, -1])
def test_classes_along_another_axis_are_the_same_likelihood(axis: int) -> None:
    """The same numbers in another order, of outputs (4, 2, 3, 2) and (4, 2, 2, 3)."""
    moved = LOGITS.movedim(1, axis)
    given = likelihoods.LikelihoodSettings(class_axis=axis)
    other = likelihoods.by_name("categorical", moved.shape[1:], given)
    assert isinstance(other, likelihoods.Categorical)
    assert other.classes == 3
    labels = Categorical(logits=LOGITS.movedim(1, -1)).sample()
    hot = torch.nn.functional.one_hot(labels, 3).double()
    order = torch.arange(12).reshape(3, 2, 2).movedim(0, axis - 1 if axis > 0 else axis).flatten()
    theta, turned, rows = LOGITS.flatten(1), moved.flatten(1), torch.randn(5, 4, 12, dtype=torch.float64)
    torch.testing.assert_close(other.mean(turned), CATEGORICAL.mean(theta)[:, order])
    torch.testing.assert_close(other.one_hot(labels, 12), CATEGORICAL.one_hot(labels, 12)[:, order])
    expected = CATEGORICAL.log_density(labels, theta, "natural")
    for x in (labels, hot.movedim(-1, axis)):
        other.check_rows(x, moved.shape[1:])
        torch.testing.assert_close(other.log_density(x, turned, "natural"), expected)
    p = CATEGORICAL.mean(theta)
    torch.testing.assert_close(other.constant(p[:, order]), CATEGORICAL.constant(p)[order])
    for given_theta, other_theta, parameter in ((theta, turned, "natural"), (p, p[:, order], "mean")):
        plain = CATEGORICAL.whitened(rows, given_theta, parameter)  # type: ignore[arg-type]
        torch.testing.assert_close(
            other.whitened(rows[..., order], other_theta, parameter), plain[..., order]
        )  # type: ignore[arg-type]
    assert other.misfit(p[:, order]) is None
    assert f"classes of axis {other.axis}" in str(other.misfit(p[:, order] / 2))


def test_which_axis_runs_over_the_classes() -> None:
    p = CATEGORICAL.mean(LOGITS)
    for axis in (1, 2, 3):
        assert axis_of_classes(p.movedim(1, axis)) == axis
    assert axis_of_classes(LOGITS) is None
    assert axis_of_classes(p / 2) is None
    assert axis_of_classes(torch.ones(4, 1, 5)) is None, "one class is none"
    assert axis_of_classes(p[:0]) is None
    for axis in (4, 0, -4):
        with pytest.raises(UsageError, match=f"no axis {axis}"):
            likelihoods.by_name("categorical", (3, 2, 2), likelihoods.LikelihoodSettings(class_axis=axis))
    hot = torch.nn.functional.one_hot(torch.tensor([[0, 2, 1, 3]]), 5).double()
    with pytest.raises(UsageError, match="over the 4 classes of axis 1") as caught:
        likelihoods.by_name("categorical", (4, 5)).check_rows(hot, (4, 5))
    assert "--class-axis 2" in str(caught.value.hint)
    with pytest.raises(UsageError, match="the data rows have shape") as caught:
        likelihoods.by_name("categorical", (4, 5)).check_rows(torch.zeros(2, 4), (4, 5))
    assert "labels of shape (5,); --class-axis 2 where" in str(caught.value.hint)


def tokens(*, logits: bool) -> Decoder:
    """3 latents to 4 positions of 5 tokens."""
    torch.manual_seed(0)
    layers = (nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 20), nn.Unflatten(1, (4, 5)))
    return Decoder(
        nn.Sequential(*layers, *([] if logits else [nn.Softmax(-1)])),
        3,
        dtype=torch.float64,
        parameter="natural" if logits else "mean",
    )


def test_probes_read_the_axis_that_is_given_or_told_by_probabilities() -> None:
    z = torch.randn(6, 3, dtype=torch.float64)
    logits, p = tokens(logits=True), tokens(logits=False)
    assert (logits.class_axis, p.class_axis) == (None, 2)

    def fisher(row: Tensor) -> Tensor:
        J = torch.func.jacfwd(lambda r: logits.function(r[None])[0])(row)  # type: ignore[operator]
        q = logits(row[None])[0].softmax(-1)
        centred = J - (q[..., None] * J).sum(1, keepdim=True)
        return torch.einsum("lvi,lv,lvj->ij", centred, q, centred)

    truth = torch.stack([fisher(row) for row in z])
    said = replace(logits, class_axis=-1)
    torch.testing.assert_close(gram(p, z, likelihood="categorical"), truth)
    torch.testing.assert_close(gram(said, z, likelihood="categorical"), truth)
    assert not torch.allclose(gram(logits, z, likelihood="categorical"), truth, rtol=1e-2)
    for decoder, warned in ((logits, True), (said, False), (p, False)):
        found = Orthogonality(samples=16, likelihood="categorical", rotations=9).measure(decoder)
        told = [f for f in found.findings if f.code == "class-axis"]
        assert bool(told) == warned
        if warned:
            assert "4 classes at 5 positions" in told[0].message


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
