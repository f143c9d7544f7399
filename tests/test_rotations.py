"""Rotations against exact maps, brute force, and scipy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from vaeprobe import budget
from vaeprobe.geometry import best_rotation, rotations
from vaeprobe.geometry.axes import assignment, distance_to_axes, nearest_order
from vaeprobe.geometry.best_rotation import RotationFit, joint_diagonalise
from vaeprobe.geometry.gram import ima_contrast, singular_frame
from vaeprobe.geometry.rotations import FACTORED, TOGETHER, alignment, haar, rotate, rotated_contrast
from vaeprobe.geometry.threads import one_thread_below
from vaeprobe.intervals import stream

from maps import ExactMap, b1, c1, c2, e, g, oblique_maps, orthogonal_maps, rotated, tied_maps
from maps import haar as map_haar

Array = NDArray[np.float64]
seeds = st.integers(0, 10_000)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_grams(n: int, k: int, seed: int = 0) -> Tensor:
    J = draw(n, k + 3, k, seed=seed)
    return J.mT @ J


# -- Haar ---------------------------------------------------------------------------------------


def test_haar_is_orthogonal_repeatable_and_uniform() -> None:
    R = haar(3, 4000, seed=1)
    torch.testing.assert_close(R.mT @ R, torch.eye(3, dtype=torch.float64).expand_as(R))
    assert torch.equal(R[:10], haar(3, 10, seed=1))
    assert not torch.equal(R[:10], haar(3, 10, seed=2))
    # second moments of Haar entries are 1/k, and both determinants come up
    torch.testing.assert_close(
        R.square().mean(0), torch.full((3, 3), 1 / 3, dtype=torch.float64), rtol=0, atol=0.02
    )
    assert R.mean(0).abs().max() < 0.04
    assert abs(float(torch.linalg.det(R).mean())) < 0.06


# -- contrasts under rotation -------------------------------------------------------------------


@given(seeds, st.integers(1, 6))
def test_rotated_contrast_is_the_contrast_of_rotated_metrics(seed: int, k: int) -> None:
    G, R = random_grams(4, k, seed), haar(k, 3, seed)
    expected = torch.stack([ima_contrast(rotate(G, r)) for r in R])
    torch.testing.assert_close(rotated_contrast(G, R), expected, rtol=1e-8, atol=1e-9)


def test_rotation_convention_is_that_of_f_after_r() -> None:
    base = b1(3)
    R = map_haar(3, 5)
    z = draw(6, 3)
    torch.testing.assert_close(rotate(base.gram(z @ R.T), R), rotated(base, R).gram(z))


# -- alignment ----------------------------------------------------------------------------------


@pytest.mark.parametrize("map", [m for m in orthogonal_maps() if m.latent_dim > 1], ids=repr)
def test_orthogonal_maps_are_perfectly_aligned(map: ExactMap) -> None:
    found = alignment(map.gram(draw(30, map.latent_dim)), count=99)
    assert found.value == pytest.approx(1.0, abs=1e-9)
    assert found.p_value == 0.01


@pytest.mark.parametrize("map", tied_maps(), ids=repr)
def test_alignment_is_undefined_where_every_basis_is_orthogonal(map: ExactMap) -> None:
    found = alignment(map.gram(draw(30, map.latent_dim)), count=19)
    assert found.value is None
    assert found.p_value is None


def test_alignment_in_closed_form_for_two_latents() -> None:
    # G = diag(a, b), rotated by t: c = 1/2 log(1 + (a-b)^2 sin(2t)^2 / (4ab)), whose mean over t is
    # log((sqrt a + sqrt b)^2 / (4 sqrt(ab)))
    G = torch.diag(torch.tensor([9.0, 1.0], dtype=torch.float64))[None]
    found = alignment(G, count=20_000)
    expected = math.log((3 + 1) ** 2 / (4 * 3))
    assert float(found.draws.mean()) == pytest.approx(
        expected, abs=4 * float(found.draws.std()) / math.sqrt(20_000)
    )


def test_p_value_is_uniform_under_random_rotations() -> None:
    # the exact test: a randomly rotated basis gives a uniform p
    p = []
    for seed in range(150):
        map = rotated(b1(3), map_haar(3, seed))
        found = alignment(map.gram(draw(8, 3, seed=seed)), count=39, seed=seed)
        assert found.p_value is not None
        p.append(found.p_value)
    share = np.mean(np.array(p) <= 0.25)
    assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 150))


@given(seeds)
def test_alignment_does_not_depend_on_permutation_or_scale_of_the_data(seed: int) -> None:
    G = random_grams(5, 4, seed)
    first, second = alignment(G, count=19), alignment(7.5 * G, count=19)
    assert first.value == pytest.approx(second.value)
    assert first.p_value == second.p_value


def test_null_mean_does_not_depend_on_the_basis() -> None:
    G = e(3).gram(draw(20, 3))
    turned = rotate(G, haar(3, 1, seed=9)[0])
    first, second = alignment(G, count=4000), alignment(turned, count=4000, seed=1)
    error = 4 * math.hypot(float(first.draws.std()), float(second.draws.std())) / math.sqrt(4000)
    assert float(first.draws.mean()) == pytest.approx(float(second.draws.mean()), abs=error)


def test_singular_metrics_are_refused() -> None:
    G = torch.ones(2, 2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="infinite contrast"):
        alignment(G)
    with pytest.raises(ValueError, match="infinite contrast"):
        joint_diagonalise(G)


# -- the best rotation --------------------------------------------------------------------------


@pytest.mark.parametrize("map", [m for m in oblique_maps() if m.rotation is not None], ids=repr)
def test_a_rotated_map_is_rotated_back(map: ExactMap) -> None:
    fit = joint_diagonalise(map.gram(draw(40, map.latent_dim)))
    assert fit.contrast < 1e-12
    assert fit.converged
    assert map.rotation is not None
    back = nearest_order(map.rotation @ fit.R)
    torch.testing.assert_close(back, torch.eye(map.latent_dim, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("map", [m for m in orthogonal_maps() if m.latent_dim > 1], ids=repr)
def test_an_orthogonal_basis_stays_where_it_is(map: ExactMap) -> None:
    fit = joint_diagonalise(map.gram(draw(40, map.latent_dim)))
    torch.testing.assert_close(fit.R, torch.eye(map.latent_dim, dtype=torch.float64))
    assert fit.contrast < 1e-14


@pytest.mark.parametrize("map", tied_maps(), ids=repr)
def test_a_tied_basis_stays_where_it_is(map: ExactMap) -> None:
    fit = joint_diagonalise(map.gram(draw(40, map.latent_dim)))
    torch.testing.assert_close(fit.R, torch.eye(map.latent_dim, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("map", [e(2), g(2), e(2, k=3.0)], ids=repr)
def test_two_latents_against_a_scan_of_all_angles(map: ExactMap) -> None:
    G = map.gram(draw(50, 2))
    angles = torch.linspace(0, math.pi / 2, 20_001, dtype=torch.float64)
    scan = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], dim=1).reshape(-1, 2, 2)
    assert joint_diagonalise(G).contrast == pytest.approx(
        float(rotated_contrast(G, scan).mean(1).min()), abs=1e-8
    )


@pytest.mark.parametrize("map", [e(3), e(4, k=3.0), g(4)], ids=repr)
def test_no_rotation_near_or_far_does_better(map: ExactMap) -> None:
    k = map.latent_dim
    G = map.gram(draw(50, k))
    fit = joint_diagonalise(G, restarts=6)
    assert fit.contrast == pytest.approx(float(ima_contrast(rotate(G, fit.R)).mean()), abs=1e-9)
    near = [fit.R @ torch.matrix_exp(0.01 * (A - A.T)) for A in draw(200, k, k)]
    for others in (torch.stack(near), haar(k, 2000)):
        assert float(rotated_contrast(G, others).mean(1).min()) > fit.contrast - 1e-7


def test_the_best_rotation_agrees_with_a_general_optimiser() -> None:
    G = e(3).gram(draw(30, 3))

    starts = haar(3, 3000)
    best = starts[rotated_contrast(G, starts).mean(1).argsort()[:2]]

    def contrast(angles: np.ndarray, R: Tensor) -> float:
        A = torch.zeros(3, 3, dtype=torch.float64)
        A[[0, 0, 1], [1, 2, 2]] = torch.from_numpy(angles)
        return float(rotated_contrast(G, (R @ torch.matrix_exp(A - A.T))[None]).mean())

    found = [scipy.optimize.minimize(contrast, np.zeros(3), args=(R,), method="BFGS") for R in best]
    assert joint_diagonalise(G, restarts=8).contrast == pytest.approx(min(f.fun for f in found), abs=1e-6)


def test_forty_latents_in_a_hidden_basis_are_found() -> None:
    spectra = (
        torch.rand(60, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp().square()
    )
    R = haar(40, 1)[0]
    fit = joint_diagonalise(rotate(torch.diag_embed(spectra), R), restarts=0)
    assert fit.start > 1
    assert fit.contrast < 1e-9
    torch.testing.assert_close(
        nearest_order(R @ fit.R), torch.eye(40, dtype=torch.float64), rtol=0, atol=1e-4
    )


def test_small_problems_run_on_one_thread_and_give_the_others_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread_below(1e3):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with one_thread_below(1e9):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_given_basis_wins_ties_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several best rotations the identity's own end is taken, as long as they differ by rounding."""
    monkeypatch.setattr(best_rotation, "_jacobi", lambda G, R: R)
    monkeypatch.setattr(best_rotation, "_descend", lambda G, R, steps: (R, 0, True))
    G = e(3, k=3.0).gram(draw(5, 3))
    scale = float(ima_contrast(G).mean())

    def found(*excess: float) -> RotationFit:
        ends = torch.tensor([[1 + x * scale] for x in excess], dtype=torch.float64)
        monkeypatch.setattr(best_rotation, "rotated_contrast", lambda *_, **__: ends)
        return joint_diagonalise(G, restarts=len(excess) - 1)

    for excess, kept in ((0.9e-8, True), (1.1e-8, False)):
        fit = found(excess, 0.0, 0.0)
        assert torch.equal(fit.R, torch.eye(3, dtype=torch.float64)) == kept
        assert fit.contrast == (1 + excess * scale if kept else 1.0)
    assert found(0.0, 0.9e-4, 1.1e-4, 0.5).agreeing == 2
    assert found(0.0, 1.1e-4).agreeing == 1


def test_a_flat_contrast_counts_ties_in_thousandths_of_a_nat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best_rotation, "_jacobi", lambda G, R: R)
    monkeypatch.setattr(best_rotation, "_descend", lambda G, R, steps: (R, 0, True))
    monkeypatch.setattr(
        best_rotation,
        "rotated_contrast",
        lambda *_, **__: torch.tensor([[0.9e-11], [0.0]], dtype=torch.float64),
    )
    fit = joint_diagonalise(b1(2).gram(draw(5, 2)), restarts=1)
    assert torch.equal(fit.R, torch.eye(2, dtype=torch.float64))
    assert fit.agreeing == 2


@pytest.mark.parametrize(
    ("s", "tied"),
    [
        ((3.0, 2.0, 2.0 * (1 - 0.9e-6)), True),
        ((3.0, 2.0, 2.0 * (1 - 1.1e-6)), False),
        # beside 1e-8 of the first one, both are nothing
        ((300.0, 0.9 * 300e-8, 0.0), True),
        ((300.0, 1.1 * 300e-8, 0.0), False),
    ],
)
def test_singular_values_tie_within_a_millionth(s: tuple[float, float, float], tied: bool) -> None:
    t = 0.2
    V = torch.eye(3, dtype=torch.float64)
    V[1:, 1:] = torch.tensor([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]], dtype=torch.float64)
    found = float(distance_to_axes(torch.tensor([s], dtype=torch.float64), V[None]))
    assert found == pytest.approx(0.0 if tied else math.sqrt(4 * (1 - math.cos(t))), abs=1e-9)


def test_one_latent_has_nothing_to_rotate() -> None:
    fit = joint_diagonalise(b1(1).gram(draw(5, 1)))
    assert fit.R.tolist() == [[1.0]]
    assert fit.contrast == 0


# -- assignment ---------------------------------------------------------------------------------


@given(seeds, st.integers(1, 6))
def test_assignment_is_the_best_of_all_permutations(seed: int, k: int) -> None:
    weight = np.random.default_rng(seed).uniform(size=(3, k, k)).round(1)  # rounded: ties
    found = assignment(weight)
    for w, columns in zip(weight, found, strict=True):
        assert sorted(columns) == list(range(k))
        best = max(sum(w[i, p[i]] for i in range(k)) for p in itertools.permutations(range(k)))
        assert sum(w[i, columns[i]] for i in range(k)) == pytest.approx(best)


def weights_of_all_kinds(k: int, more: int) -> dict[str, Array]:
    """Weights, (k, k + more), that assignments are hard or degenerate for."""
    draw = np.random.default_rng(k)
    shape = (k, k + more)
    allowed = draw.uniform(size=shape) < 0.3
    allowed[np.arange(k), draw.permutation(k + more)[:k]] = True  # one assignment at least
    one, place = np.arange(1.0, k + 1), np.arange(1.0, k + more + 1)
    return {
        "of a rotation": np.abs(haar(k + more, 1).numpy()[0, :k]),
        "equal": np.zeros(shape),
        "tied": draw.uniform(size=shape).round(1),
        "of zeros and ones": draw.integers(0, 2, shape).astype(float),
        "of both signs": draw.standard_normal(shape) * 1e6,
        "of many sizes": draw.uniform(size=shape) ** 20,
        "in one order for all rows": one[:, None] * place,
        "mostly forbidden": np.where(allowed, draw.uniform(size=shape), -np.inf),
        "of a row's only column": np.where(np.eye(k, k + more) > 0, 1.0, -np.inf),
    }


@pytest.mark.parametrize("more", [0, 1, 30])
@pytest.mark.parametrize("k", [1, 2, 3, 7, 40, 130])
def test_assignment_agrees_with_scipy(k: int, more: int) -> None:
    for words, weight in weights_of_all_kinds(k, more).items():
        columns = assignment(weight[None])[0]
        rows, best = scipy.optimize.linear_sum_assignment(weight, maximize=True)
        assert len(set(columns.tolist())) == k, words
        rounding = 1e-14 * k * np.abs(weight[np.isfinite(weight)]).max()
        assert weight[np.arange(k), columns].sum() >= weight[rows, best].sum() - rounding, words


def test_assignment_of_six_hundred_rows_agrees_with_scipy() -> None:
    rotations = np.abs(haar(600, 1).numpy())
    tied = np.random.default_rng(0).uniform(size=(1, 600, 600)).round(2)
    for w in (rotations[0], tied[0]):
        rows, best = scipy.optimize.linear_sum_assignment(w, maximize=True)
        found = assignment(w[None])[0]
        assert w[rows, found].sum() == pytest.approx(w[rows, best].sum(), rel=1e-13)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (np.array([[[1.0, -np.inf], [1.0, -np.inf]]]), "cannot all have a column"),
        (np.array([[[1.0, 2.0], [-np.inf, -np.inf]]]), "cannot all have a column"),
        (np.array([[[1.0, -np.inf, -np.inf], [-np.inf] * 3]]), "cannot all have a column"),
        (np.full((1, 5, 5), -np.inf), "cannot all have a column"),
        (np.array([[[1.0, np.nan], [1.0, 2.0]]]), "NaN or infinite"),
        (np.array([[[1.0, np.inf], [1.0, 2.0]]]), "NaN or infinite"),
        (np.zeros((1, 3, 2)), "2 columns do not do for 3 rows"),
    ],
)
def test_an_assignment_that_there_is_not_is_told(weight: Array, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        assignment(weight)


def test_no_rows_and_no_problems_have_an_assignment() -> None:
    assert assignment(np.zeros((0, 3, 3))).shape == (0, 3)
    assert assignment(np.zeros((2, 0, 4))).shape == (2, 0)


# -- distance to the axes -----------------------------------------------------------------------


def distance(G: Tensor) -> Tensor:
    return distance_to_axes(*singular_frame(G))


@pytest.mark.parametrize("map", orthogonal_maps() + tied_maps(), ids=repr)
def test_orthogonal_maps_are_on_the_axes_ties_included(map: ExactMap) -> None:
    assert distance(map.gram(draw(40, map.latent_dim))).max() < 1e-8


def test_a_tied_map_in_any_basis_is_on_the_axes() -> None:
    map = rotated(c2(3, tied=True))
    s, V = singular_frame(map.gram(draw(40, 3)))
    assert distance_to_axes(s, V).max() < 1e-8
    # and without the rule for ties it would not be
    assert distance_to_axes(torch.arange(3, 0, -1).double().expand_as(s), haar(3, 40)).max() > 0.5


def test_a_known_angle_gives_a_known_distance() -> None:
    # a turn by t < 45 degrees: sqrt(2 * 2 (1 - cos t))
    t = 0.3
    R = torch.tensor([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]], dtype=torch.float64)
    G = rotate(torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))[None], R)
    assert float(distance(G)) == pytest.approx(math.sqrt(4 * (1 - math.cos(t))), abs=1e-12)


def test_a_tie_of_two_in_three_is_rotated_within_its_plane_only() -> None:
    t = 0.2
    R = torch.eye(3, dtype=torch.float64)
    R[1:, 1:] = torch.tensor([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]], dtype=torch.float64)
    values = torch.diag(torch.tensor([9.0, 4.0, 4.0], dtype=torch.float64))
    assert float(distance(rotate(values[None], R))) < 1e-8
    values = torch.diag(torch.tensor([9.0, 4.0, 3.0], dtype=torch.float64))
    assert float(distance(rotate(values[None], R))) == pytest.approx(
        math.sqrt(4 * (1 - math.cos(t))), abs=1e-9
    )


@given(seeds, st.integers(2, 5))
def test_distance_is_that_of_the_nearest_signed_permutation(seed: int, k: int) -> None:
    G = random_grams(2, k, seed)
    s, V = singular_frame(G)
    axes = torch.eye(k, dtype=torch.float64)
    for v, found in zip(V, distance_to_axes(s, V), strict=True):
        near = []
        for order in itertools.permutations(range(k)):
            P = axes[:, list(order)]
            near.append(float((v - P * torch.sign((v * P).sum(0))).norm()))
        assert float(found) == pytest.approx(min(near), abs=1e-9)
    assert (distance_to_axes(s, V) < math.sqrt(2 * k)).all()


@given(seeds, st.integers(2, 5))
def test_distance_does_not_depend_on_order_or_sign_of_latents(seed: int, k: int) -> None:
    G = random_grams(3, k, seed)
    P = torch.eye(k, dtype=torch.float64)[torch.randperm(k, generator=torch.Generator().manual_seed(seed))]
    P = P * torch.where(draw(k, seed=seed) < 0, -1.0, 1.0)
    torch.testing.assert_close(distance(rotate(G, P)), distance(G), rtol=1e-7, atol=1e-9)


def test_polar_coordinates_are_tied_only_at_unit_frequency() -> None:
    z = draw(10, 2)
    assert distance(rotated(c1(k=1.0)).gram(z)).max() < 1e-8
    assert distance(rotated(c1(k=1.7)).gram(z)).min() > 0.1


def test_a_draw_equal_to_the_axes_counts_against_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The p-value is exact under the null only with `<=`: a tie is no evidence."""
    from vaeprobe.geometry import rotations

    def axes(k: int, count: int, seed: int, at_once: int) -> Iterator[Tensor]:
        yield torch.eye(k, dtype=torch.float64).expand(count, k, k)

    monkeypatch.setattr(rotations, "_haar", axes)
    found = alignment(torch.tensor([[[1.0, 0.5], [0.5, 1.0]]], dtype=torch.float64), count=9)
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.p_value == 1


def test_a_bounded_null_takes_half_of_the_time_and_its_p_value_counts_what_was_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, k, n = 100.0, 400, 7  # so many that a block is of one rotation
    monkeypatch.setattr(budget.time, "monotonic", lambda: now)

    def told(what: str, done: int, total: int | None) -> None:
        nonlocal now
        now += 1.0

    monkeypatch.setattr(rotations, "tell", told)
    rng = torch.Generator().manual_seed(0)
    J = torch.randn(n, k + 10, k, generator=rng, dtype=torch.float64)
    G = J.mT @ J
    whole = alignment(G, count=40)
    assert len(whole.draws) == 40
    for seconds, drawn in ((60.0, 30), (10.0, 19)):
        with budget.within(seconds):
            found = alignment(G, count=40, least=19)
            assert len(alignment(G, count=40).draws) == 40
        assert len(found.draws) == drawn
        torch.testing.assert_close(found.draws, whole.draws[:drawn])
        torch.testing.assert_close(found.null.mean(), found.draws.mean())
        below = int((found.draws <= found.contrast.mean()).sum())
        assert found.p_value == (1 + below) / (1 + drawn)


@pytest.mark.parametrize("k", [FACTORED - 1, FACTORED])
def test_rotations_change_contrasts_that_are_known_at_least_by_as_much(k: int) -> None:
    """Column lengths of J R from J itself, which has fewer dimensions than columns, beside a G that has all of them."""
    J = torch.from_numpy(stream(3, "narrow").standard_normal((TOGETHER + 1, k + 2, k)))
    J[0, 10:] = 0
    G, known, R = J.mT @ J, torch.linspace(40, 50, len(J), dtype=torch.float64), haar(k, 5, 1)
    lengths = (J @ R[:, None]).norm(dim=2).log().sum(2) - J.norm(dim=1).log().sum(1)
    found = alignment(G, count=5, seed=1, contrast=known)
    torch.testing.assert_close(found.draws, (known + lengths).mean(1), rtol=1e-9, atol=1e-9)
    assert found.p_value == (1 + int((lengths.mean(1) <= 0).sum())) / 6
    assert rotated_contrast(J[1:].mT @ J[1:], haar(k, 0, 1)).shape == (0, TOGETHER)
    with pytest.raises(ValueError, match="singular"):
        alignment(G, count=5, seed=1)
