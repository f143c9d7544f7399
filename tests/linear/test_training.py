"""Training reaches the closed form, and breaks the rotation symmetry exactly where it should."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from vaeprobe.data import in_memory
from vaeprobe.errors import UsageError
from vaeprobe.linear import certificate, closed_form, spectrum
from vaeprobe.linear.certificate import Certificate, certify
from vaeprobe.linear.training import (
    METHODS,
    Covariance,
    Parameters,
    Training,
    TrainingMethod,
    objective,
    train,
)

from linear_rows import LAMBDA, rows_with

GRADIENT_METHODS = METHODS[:4]


def certified(
    method: TrainingMethod,
    values: tuple[float, ...] = LAMBDA,
    d: int = 3,
    *,
    beta: float = 1.0,
    sigma2: float | None = None,
    seed: int = 0,
    **how: object,
) -> tuple[Certificate, closed_form.Solution]:
    X = rows_with(values)
    found = spectrum.compute(in_memory(X), d)
    solution = closed_form.solve(found, d, beta=beta, sigma2=sigma2)
    S = Covariance.of_spectrum(found, X - X.mean(axis=0))
    run = train(method, S, solution, Training(**how), seed=seed)  # type: ignore[arg-type]
    return certify(run, solution, S), solution


@pytest.mark.parametrize("method", GRADIENT_METHODS)
@pytest.mark.parametrize("free_encoder", [False, True])
def test_gradients_match_finite_differences(method: TrainingMethod, free_encoder: bool) -> None:
    rng = np.random.default_rng(0)
    A = rng.normal(size=(6, 6))
    S = Covariance(lambda V: A @ A.T @ V, float(np.trace(A @ A.T)), 6)
    p = Parameters.initial(method, 6, 3, 0.5, 1, free_encoder=free_encoder)
    p = p.like(p.flat() + 0.1 * rng.normal(size=p.flat().shape))
    if method == "elbo-full":
        p.spread[np.triu_indices(3, 1)] = 0  # the upper triangle is not used
    x = p.flat()

    def value(at: np.ndarray) -> float:
        return objective(method, S, p.like(at), 1.7).value

    numeric = np.array([(value(x + 1e-6 * e) - value(x - 1e-6 * e)) / 2e-6 for e in np.eye(len(x))])
    np.testing.assert_allclose(objective(method, S, p, 1.7).gradient.flat(), numeric, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("beta", "sigma2"), [(1.0, None), (1.0, 0.4), (3.0, 0.3)])
def test_every_method_reaches_the_closed_form(
    method: TrainingMethod, beta: float, sigma2: float | None
) -> None:
    found, s = certified(method, beta=beta, sigma2=sigma2, tolerance=1e-13)
    assert abs(found.run.gap) < 1e-6
    assert found.max_angle is not None
    assert found.max_angle < 1e-5
    assert found.sigma2_ratio == pytest.approx(1, abs=1e-6)
    if method in ("elbo", "det-elbo"):
        np.testing.assert_allclose(found.cosines, 1, atol=1e-6)
        np.testing.assert_allclose(found.norm_ratios, 1, atol=1e-5)
        np.testing.assert_allclose(found.kl, s.kl, atol=1e-5)
        assert found.max_abs_cosine is not None
        assert found.max_abs_cosine < 1e-5
        assert found.verdict == "optimum on the axes"


def test_learned_sigma2_with_beta() -> None:
    found, s = certified("elbo", beta=1.5, tolerance=1e-13)
    assert s.learned
    assert found.sigma2_ratio == pytest.approx(1, abs=1e-6)
    with pytest.raises(UsageError, match="EM maximises the likelihood"):
        certified("em", beta=1.5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equation_10_as_printed_leaves_the_rotation_free(seed: int) -> None:
    literal, _ = certified("det-elbo-literal", seed=seed)
    diagonal, _ = certified("det-elbo", seed=seed, tolerance=1e-14)
    assert literal.verdict == "optimum, rotated"
    assert literal.max_abs_cosine is not None
    assert literal.max_abs_cosine > 0.1
    assert diagonal.max_abs_cosine is not None
    assert diagonal.max_abs_cosine < 1e-6
    assert literal.run.objective == pytest.approx(diagonal.run.objective, abs=1e-8)
    assert "as printed" in literal.sentence


def test_a_rotation_costs_a_diagonal_posterior_the_mean_field_gap() -> None:
    """The ELBO gap of a rotated PPCA solution equals 1/2 (sum log Lambda_ii - log det Lambda)."""
    X = rows_with(LAMBDA)
    found = spectrum.compute(in_memory(X), 3)
    s = closed_form.solve(found, 3)
    rotated, _ = certified("em", seed=4)
    run = rotated.run
    tau = run.sigma2
    diagonal = closed_form.LinearModel(
        found.mean, run.W, run.sigma2, run.E, tau / (np.square(run.W).sum(axis=0) + tau)
    )
    lost = s.elbo - closed_form.beta_elbo(found, diagonal, 1.0)
    assert lost > 0.01
    assert lost == pytest.approx(rotated.mean_field_gap, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_tied_eigenvalues_are_certified_as_a_block(method: TrainingMethod) -> None:
    found, s = certified(method, (8.0, 3.0, 3.0, 3.0, 0.5, 0.5), 4, tolerance=1e-13)
    assert found.converged
    assert certificate.tied(s.values) == [slice(0, 1), slice(1, 4)]
    assert found.blocks == ((1, 3),)
    if method in ("elbo", "det-elbo"):
        assert found.verdict == "optimum, tied block"
        assert "once the tied block of z1 to z3 is aligned" in found.sentence
        np.testing.assert_allclose(found.cosines, 1, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_tied_block_has_no_axes_to_be_on(method: TrainingMethod) -> None:
    found, _ = certified(method, (9.0, 9.0, 9.0, 1.0, 1.0, 1.0), 3, tolerance=1e-13)
    assert found.verdict == "optimum, tied block"
    assert found.one_block
    assert found.rotation_distance is None
    assert "all 3 active columns are one tied block" in found.sentence
    assert "symmetry" not in found.sentence
    apart, _ = certified(method, (9.0, 8.0, 7.0, 1.0, 1.0, 1.0), 3, tolerance=1e-13)
    assert (apart.blocks, apart.one_block) == ((), False)
    assert apart.rotation_distance is not None
    assert apart.verdict != "optimum, tied block"
    alone, _ = certified(method, (9.0, 1.0, 1.0), 1, tolerance=1e-13)
    assert alone.verdict == "optimum on the axes"


@pytest.mark.parametrize("method", ["em", "elbo"])
def test_a_tie_with_discarded_directions_is_a_tied_block(method: TrainingMethod) -> None:
    found, _ = certified(method, (9.0, 4.0, 4.0, 1.0, 1.0), 2, tolerance=1e-13, sigma2=1.0)
    assert found.max_angle is not None
    assert found.max_angle > 0.1
    assert found.verdict == "optimum, tied block"


@pytest.mark.parametrize("method", METHODS)
def test_collapsed_latents_end_collapsed(method: TrainingMethod) -> None:
    found, s = certified(method, d=5, sigma2=2.0, tolerance=1e-12)
    assert s.active.tolist() == [True, True, True, False, False]
    assert found.converged
    assert len(found.angles) == 3
    assert float(np.linalg.svd(found.run.W, compute_uv=False)[3]) < 1e-3


def test_theorem_3_in_training() -> None:
    """The two objectives, trained apart with the rotation fixed, end at the same columns."""
    one, _ = certified("elbo", beta=3, sigma2=0.4, tolerance=1e-14)
    other, _ = certified("elbo", beta=1, sigma2=1.2, tolerance=1e-14, seed=5)
    own = one.run.W[:, one.partners]
    theirs = other.run.W[:, other.partners]
    np.testing.assert_allclose(np.abs(own), np.abs(theirs), atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 100])
def test_adam_trains_the_encoder_too(batch_size: int | None) -> None:
    found, _ = certified("elbo", optimiser="adam", steps=1500, learning_rate=0.03, batch_size=batch_size)
    assert found.run.optimiser == "adam"
    assert found.run.gap < (1e-6 if batch_size is None else 1e-2)
    assert [step for step, _ in found.run.trace] == sorted(step for step, _ in found.run.trace)


def test_a_run_cut_short_is_called_not_converged() -> None:
    found, _ = certified("elbo", steps=2)
    assert found.verdict == "not converged"
    assert found.run.stopped == "steps"
    assert "after 2 steps" in found.sentence


def test_minibatches_are_for_adam() -> None:
    with pytest.raises(UsageError, match="minibatches are for Adam"):
        certified("elbo", batch_size=10)
    with pytest.raises(UsageError, match="EM takes all rows at every step") as refused:
        certified("em", optimiser="adam", batch_size=10)
    assert "--method elbo" in str(refused.value.hint)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["elbo", "elbo-full", "det-elbo"])
@pytest.mark.parametrize("rate", [1e3, 1e9, 1e200])
def test_a_learning_rate_that_leaves_all_numbers_behind_is_refused(method: str, rate: float) -> None:
    with pytest.raises(UsageError, match="is too large") as refused:
        certified(method, optimiser="adam", steps=60, learning_rate=rate)
    assert "smaller --learning-rate" in str(refused.value.hint)


@pytest.mark.filterwarnings("error")
def test_a_learning_rate_that_is_merely_bad_is_not_refused() -> None:
    assert certified("elbo", optimiser="adam", steps=60, learning_rate=1.0)[0].verdict == "not converged"


def test_em_never_falls() -> None:
    found, _ = certified("em", tolerance=1e-12)
    gaps = [gap for _, gap in found.run.trace]
    assert all(b <= a + 1e-13 for a, b in itertools.pairwise(gaps))


@pytest.mark.parametrize(("share", "counted"), [(1.01e-6, True), (0.99e-6, False)])
def test_a_column_counts_from_a_millionth_of_the_threshold(share: float, counted: bool) -> None:
    """A column that is all but gone has a direction of rounding: it says nothing of the cosines."""
    X = rows_with(LAMBDA)
    found = spectrum.compute(in_memory(X), 3)
    solution = closed_form.solve(found, 3)
    S = Covariance.of_spectrum(found, X - X.mean(axis=0))
    run = train("elbo", S, solution, Training(), seed=0)
    W = run.W.copy()
    order = np.linalg.norm(W, axis=0).argsort()
    first = W[:, order[-1]] / np.linalg.norm(W[:, order[-1]])
    W[:, order[0]] = first * np.sqrt(share * solution.beta * run.sigma2)  # along the longest: cosine 1
    cosine = certify(replace(run, W=W), solution, S).max_abs_cosine
    assert cosine is not None
    assert (cosine > 0.99) == counted


def test_em_at_small_noise_is_not_said_to_be_at_an_optimum_that_it_has_not_reached() -> None:
    """Its gap rounded to -0.3 nats, which passed for none, where it was short of 0.8."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(300, 3)) @ rng.normal(size=(10, 3)).T + 1e-4 * rng.normal(size=(300, 10))
    found = spectrum.compute(in_memory(X), 5)
    solution = closed_form.solve(found, 5)
    run = train("em", Covariance.of_spectrum(found, X - X.mean(axis=0)), solution, Training(steps=60))
    C = run.W @ run.W.T + run.sigma2 * np.eye(10)
    scatter = np.cov(X.T, bias=True)
    loglik = -0.5 * (10 * np.log(2 * np.pi) + np.linalg.slogdet(C)[1] + np.trace(np.linalg.solve(C, scatter)))
    assert run.gap == pytest.approx(solution.elbo - loglik, abs=1e-4)
    assert run.gap > 0.1
    assert run.stopped == "steps"
