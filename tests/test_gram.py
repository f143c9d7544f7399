"""Gram-matrix maths against exact maps, laws, and independent references."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vaeprobe.geometry.gram import (
    active_latents,
    canonical_signs,
    column_cosines,
    column_norms,
    condition_number,
    conformality,
    effective_rank,
    ima_contrast,
    log_det,
    mean_field_gap,
    singular_frame,
    singular_tolerance,
    smallest_gap,
)
from vaeprobe.geometry.rotations import haar

from maps import (
    ExactMap,
    all_maps,
    c1,
    e,
    f_dead,
    f_duplicated,
    oblique_maps,
    orthogonal_maps,
    rotated,
    tied_maps,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# -- exact maps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("map", [m for m in all_maps() if m.contrast], ids=repr)
def test_contrast_of_exact_maps(map: ExactMap) -> None:
    z = draw(50, map.latent_dim)
    assert map.contrast is not None
    close(ima_contrast(map.gram(z)), map.contrast(z))


@pytest.mark.parametrize("map", [m for m in all_maps() if not m.contrast], ids=repr)
def test_contrast_of_singular_maps_is_infinite_and_the_mean_field_gap_finite(map: ExactMap) -> None:
    G = map.gram(draw(50, map.latent_dim))
    assert (ima_contrast(G) == math.inf).all()
    assert (log_det(G) == -math.inf).all()
    assert torch.isfinite(mean_field_gap(G)).all()


@pytest.mark.parametrize("map", orthogonal_maps() + tied_maps(), ids=repr)
def test_orthogonal_maps_have_no_angles_and_no_gap(map: ExactMap) -> None:
    G = map.gram(draw(20, map.latent_dim))
    close(column_cosines(G), torch.eye(map.latent_dim, dtype=torch.float64).expand_as(G))
    close(mean_field_gap(G, 0.3), torch.zeros(20, dtype=torch.float64))


def test_mean_field_gap_of_a_duplicated_column_in_closed_form() -> None:
    # two equal columns of length n: Lambda = [[1 + q, q], [q, 1 + q]], q = n^2 / (beta sigma^2)
    G = torch.full((1, 2, 2), 4.0, dtype=torch.float64)
    q = 4.0 / 0.5
    close(
        mean_field_gap(G, 0.5),
        torch.tensor([math.log(1 + q) - 0.5 * math.log(1 + 2 * q)], dtype=torch.float64),
    )


def test_mean_field_gap_ignores_dead_columns() -> None:
    z = draw(9, 5)
    map = f_dead(5, dead=(0, 3))
    close(mean_field_gap(map.gram(z)), torch.zeros(9, dtype=torch.float64))


def test_mean_field_gap_is_the_kl_of_the_best_diagonal_gaussian() -> None:
    G = oblique_maps()[6].gram(draw(4, 2))
    precision = torch.eye(2, dtype=torch.float64) + G / 0.7
    full = torch.distributions.MultivariateNormal(
        torch.zeros(4, 2, dtype=torch.float64), precision_matrix=precision
    )
    # the best diagonal Gaussian has the precision's own diagonal
    best = torch.diag_embed(precision.diagonal(dim1=-2, dim2=-1))
    diagonal = torch.distributions.MultivariateNormal(
        torch.zeros(4, 2, dtype=torch.float64), precision_matrix=best
    )
    close(mean_field_gap(G, 0.7), torch.distributions.kl_divergence(diagonal, full))


def test_mean_field_gap_is_the_evidence_lost_on_a_linear_gaussian_model() -> None:
    W, sigma2 = draw(6, 3), 0.4
    x = draw(6)
    covariance = W @ W.T + sigma2 * torch.eye(6, dtype=torch.float64)
    evidence = torch.distributions.MultivariateNormal(
        torch.zeros(6, dtype=torch.float64), covariance
    ).log_prob(x)
    precision = torch.eye(3, dtype=torch.float64) + W.T @ W / sigma2
    mean = torch.linalg.solve(precision, W.T @ x / sigma2)
    variance = 1 / precision.diagonal()
    # ELBO of q = N(mean, diag variance), term by term
    likelihood = -0.5 * ((x - W @ mean).square().sum() + (variance * W.square().sum(0)).sum()) / sigma2
    likelihood -= 3 * math.log(2 * math.pi * sigma2)
    kl = 0.5 * (variance + mean.square() - 1 - variance.log()).sum()
    close(mean_field_gap((W.T @ W)[None], sigma2)[0], evidence - (likelihood - kl))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_mean_field_gap_at_extreme_scales_is_finite(scale: float) -> None:
    for map in (e(4), f_duplicated(4)):
        gap = mean_field_gap(scale * map.gram(draw(5, 4)))
        assert torch.isfinite(gap).all()
        assert (gap >= 0).all()


# -- laws ---------------------------------------------------------------------------------------

seeds = st.integers(0, 10_000)
sizes = st.integers(2, 6)


def random_gram(seed: int, k: int, n: int = 3) -> Tensor:
    J = draw(n, k + 2, k, seed=seed)
    return J.mT @ J


@given(seeds, sizes)
def test_permutation_and_sign_of_latents_change_no_contrast_and_no_gap(seed: int, k: int) -> None:
    G = random_gram(seed, k)
    P = torch.eye(k, dtype=torch.float64)[torch.randperm(k, generator=torch.Generator().manual_seed(seed))]
    P = P * torch.where(draw(k, seed=seed) < 0, -1.0, 1.0)
    close(ima_contrast(P.T @ G @ P), ima_contrast(G), 1e-8)
    close(mean_field_gap(P.T @ G @ P, 0.2), mean_field_gap(G, 0.2), 1e-8)
    close(column_cosines(P.T @ G @ P), P.T @ column_cosines(G) @ P, 1e-8)


@given(seeds, sizes, st.floats(-4, 4))
def test_scale_of_latents_and_of_data_changes_no_angle(seed: int, k: int, exponent: float) -> None:
    G = random_gram(seed, k)
    D = torch.diag((exponent * draw(k, seed=seed)).exp())
    close(column_cosines(D @ G @ D), column_cosines(G), 1e-8)
    close(ima_contrast(D @ G @ D), ima_contrast(G), 1e-7)
    close(column_norms(D @ G @ D), column_norms(G) * D.diagonal(), 1e-8)
    # and the gap depends on the data's scale only through beta sigma^2
    close(mean_field_gap(9 * G, 9 * 0.3), mean_field_gap(G, 0.3), 1e-8)


@given(seeds, sizes)
def test_rotating_the_data_changes_nothing(seed: int, k: int) -> None:
    J = draw(3, k + 2, k, seed=seed)
    Q = haar(k + 2, 1, seed)[0]
    turned = (Q @ J).mT @ (Q @ J)
    close(ima_contrast(turned), ima_contrast(J.mT @ J), 1e-7)


@given(seeds, sizes)
def test_contrast_is_positive_and_bounds_the_mean_field_gap(seed: int, k: int) -> None:
    # the gap grows to the contrast as the noise vanishes
    G = random_gram(seed, k)
    c = ima_contrast(G)
    assert (c >= 0).all()
    small, large = mean_field_gap(G, 1e-12), mean_field_gap(G, 1.0)
    assert (large <= small + 1e-9).all()
    assert (small <= c + 1e-6).all()
    close(small, c, 1e-4)


@given(seeds, sizes)
def test_log_det_is_that_of_torch(seed: int, k: int) -> None:
    G = random_gram(seed, k)
    close(log_det(G), torch.linalg.slogdet(G)[1], 1e-8)


# -- rank, saturation, precision ----------------------------------------------------------------


def test_a_zero_column_is_masked_and_marked_on_the_diagonal() -> None:
    C = column_cosines(f_dead(3, dead=(1,)).gram(draw(4, 3)))
    assert torch.equal(C[:, 1], torch.zeros(4, 3, dtype=torch.float64))
    assert torch.equal(
        C.diagonal(dim1=-2, dim2=-1), torch.tensor([1.0, 0, 1], dtype=torch.float64).expand(4, 3)
    )


def test_single_singular_latents_are_inf_and_leave_the_others_alone() -> None:
    G = e(3).gram(draw(5, 3))
    G[2, :, 1] = G[2, 1, :] = 0
    c = ima_contrast(G)
    assert c[2] == math.inf
    assert torch.isfinite(c[[0, 1, 3, 4]]).all()


def test_columns_equal_up_to_float32_rounding_are_dependent_at_float32_tolerance() -> None:
    column = draw(200, 1).float()
    nudged = column * (1 + 6e-8 * draw(200, 1, seed=1).float())
    J = torch.cat([column, nudged, draw(200, 1, seed=2).float()], dim=1).double()[None]
    G = J.mT @ J
    assert ima_contrast(G, tolerance=singular_tolerance(3, torch.float32))[0] == math.inf
    assert (
        ima_contrast(rotated(e(3)).gram(draw(9, 3)), tolerance=singular_tolerance(3, torch.float32)).max() < 5
    )


@pytest.mark.parametrize(
    ("k", "dtype", "tolerance"),
    [
        (2, torch.float64, 128 * 2.0**-52),
        (10, torch.float64, 640 * 2.0**-52),
        (10, torch.float32, (30 * 2.0**-23) ** 2),
        (2000, torch.float32, 128_000 * 2.0**-52),  # rounding of so long sums outweighs that of the type
        (10, torch.float16, (30 * 2.0**-10) ** 2),
    ],
)
def test_a_column_within_rounding_of_the_others_is_dependent(
    k: int, dtype: torch.dtype, tolerance: float
) -> None:
    assert singular_tolerance(k, dtype) == pytest.approx(tolerance, rel=1e-12)


@pytest.mark.parametrize("tolerance", [singular_tolerance(2), singular_tolerance(2, torch.float32), 1e-4])
def test_the_tolerance_is_the_square_of_the_part_that_others_lack(tolerance: float) -> None:
    for share, finite in ((0.9, False), (1.1, True)):
        sine = share * math.sqrt(tolerance)
        J = torch.tensor([[1.0, math.sqrt(1 - sine**2)], [0.0, sine]], dtype=torch.float64)
        J = J * torch.tensor([1e-5, 30.0], dtype=torch.float64)  # lengths do not matter
        c = ima_contrast((J.T @ J)[None], tolerance=tolerance)
        assert bool(torch.isfinite(c)) == finite
        assert bool(torch.isfinite(log_det((J.T @ J)[None], tolerance=tolerance))) == finite
        if tolerance == singular_tolerance(2):
            assert bool(torch.isfinite(ima_contrast((J.T @ J)[None]))) == finite
        if finite:
            assert float(c) == pytest.approx(-math.log(sine), rel=1e-2)


def test_active_latents_by_the_five_percent_rule() -> None:
    n = torch.tensor([1.0, 0.051, 0.049, 0.0], dtype=torch.float64)
    G = torch.diag_embed(n.square()).expand(7, 4, 4)
    assert active_latents(G).tolist() == [True, True, False, False]
    assert active_latents(G, 0.04).tolist() == [True, True, True, False]
    assert active_latents(G, 0.0).tolist() == [True, True, True, False]
    assert active_latents(torch.zeros(3, 2, 2, dtype=torch.float64)).tolist() == [False, False]


# -- spectrum -----------------------------------------------------------------------------------


@given(seeds, sizes)
def test_singular_frame_is_that_of_the_jacobian(seed: int, k: int) -> None:
    J = draw(3, k + 2, k, seed=seed)
    s, V = singular_frame(J.mT @ J)
    close(s, torch.linalg.svdvals(J), 1e-7)
    close(V @ torch.diag_embed(s.square()) @ V.mT, J.mT @ J, 1e-8)
    close(V.mT @ V, torch.eye(k, dtype=torch.float64).expand_as(V), 1e-10)


def test_scales_of_columns_cost_no_digits_of_singular_values() -> None:
    J = draw(9, 5) * torch.tensor([1e-7, 1.0, 1e-4, 1e-6, 1e-2], dtype=torch.float64)
    exact = torch.linalg.svdvals(J)
    s, _ = singular_frame((J.T @ J)[None])
    assert ((s[0] - exact) / exact).abs().max() < 1e-7


def test_singular_frame_of_singular_matrices_is_orthonormal() -> None:
    for map in [m for m in all_maps() if not m.contrast]:
        G = map.gram(draw(6, map.latent_dim))
        s, V = singular_frame(G)
        close(V @ torch.diag_embed(s.square()) @ V.mT, G, 1e-8)
        close(V.mT @ V, torch.eye(map.latent_dim, dtype=torch.float64).expand_as(V), 1e-10)


def test_canonical_signs_survive_rounding_of_a_tie() -> None:
    V = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
    for seed in range(20):
        noisy = canonical_signs(V + 1e-9 * draw(2, 2, seed=seed))
        close(noisy, V, 1e-7)
        close(canonical_signs(-V + 1e-9 * draw(2, 2, seed=seed)), V, 1e-7)


def test_spectrum_numbers_of_known_values() -> None:
    s = torch.tensor(
        [[4.0, 2.0, 1.0], [3.0, 3.0, 3.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64
    )
    assert condition_number(s).tolist() == [4.0, 1.0, math.inf, math.inf]
    assert smallest_gap(s).tolist() == [0.5, 0.0, 0.0, 0.0]
    p = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64) / 7
    expected = math.exp(-float((p * p.log()).sum()))
    close(effective_rank(s), torch.tensor([expected, 3.0, 1.0, 0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="one singular value has no gap"):
        smallest_gap(s[:, :1])


def test_conformality_is_the_spread_of_log_norms() -> None:
    z = draw(5, 2)
    # norms e^{z_1} (1, k): two values log k apart
    close(conformality(c1(k=1.7).gram(z)), torch.full((5,), math.log(1.7) / 2, dtype=torch.float64))
    close(conformality(c1(k=1.0).gram(z)), torch.zeros(5, dtype=torch.float64))
    with pytest.raises(ValueError, match="length zero"):
        conformality(f_dead(2).gram(z))


def test_nothing_is_nan_on_empty_or_zero_input() -> None:
    for G in (torch.zeros(3, 2, 2), torch.zeros(3, 0, 0), torch.zeros(0, 2, 2), torch.zeros(3, 1, 1)):
        G = G.double()
        for value in (column_cosines(G), column_norms(G), ima_contrast(G), mean_field_gap(G)):
            assert not torch.isnan(value).any()
