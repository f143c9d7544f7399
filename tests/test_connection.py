"""Bending, M, curved C2 and twist, against coordinates whose answers are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vaeprobe.geometry.connection import SeamConnection, frame_expansion, seam_connection, tied_blocks
from vaeprobe.geometry.smoothness import metric_derivatives

import maps


def points(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)))


def connection(map: maps.ExactMap, z: Tensor) -> SeamConnection:
    G, dG, ddG = metric_derivatives(maps.decoder(map), z, list(range(map.latent_dim)))
    assert ddG is not None
    return seam_connection(z, G, dG, ddG)


def test_parabolic_seams_have_the_closed_form() -> None:
    z = points(50, 2)
    seams = connection(maps.parabolic(), z)
    rho, angle = z.norm(dim=1), torch.atan2(z[:, 1], z[:, 0])
    u, v = (2 * rho).sqrt() * torch.cos(angle / 2), (2 * rho).sqrt() * torch.sin(angle / 2)
    s = u.square() + v.square()
    M = (-u * v - 4 * u * v / s.square()) / s
    # singular vectors have no sign, so that M is known up to one
    assert torch.allclose(seams.mixed[:, 0, 1].abs(), M.abs(), rtol=1e-10, atol=1e-12)
    assert torch.allclose(seams.mixed, seams.mixed.mT, atol=1e-12)
    # p(u) and p(v) are mixed up by the prior, not by the lengths: f = (a u, b v)
    assert seams.modulation.abs().max() < 1e-12


@pytest.mark.parametrize("d", [2, 3, 5])
def test_rays_and_spheres_are_independent(d: int) -> None:
    """For d > 2 the directions on the sphere are tied, and one block."""
    seams = connection(maps.g(d), points(40, d, seed=d))
    assert (seams.same.sum((1, 2)) == 1 + (d - 1) ** 2).all()
    assert seams.bending.abs().amax((1, 2)).min() > 0.05
    for part, scale in (
        (seams.mixed, seams.mixed_scale),
        (seams.modulation, seams.modulation_scale),
        (seams.twist, seams.bending),
    ):
        allowed = (1e-9 + 1e4 * seams.noise) * (1 + scale.abs().amax((1, 2)))
        assert (part.abs().amax((1, 2)) < allowed).all()
    assert seams.noise.median() < 1e-12


def test_circles_bend_by_one_over_the_radius() -> None:
    z = points(40, 2, seed=7)
    seams = connection(maps.g(2), z)
    assert torch.allclose(seams.bending.abs().amax((1, 2)), 1 / z.norm(dim=1), rtol=1e-9)


def test_polar_lengths_in_data_space_break_the_curved_condition() -> None:
    """(rho, k angle rho^2): rays and circles again, M = 0, and the speed on the circles changes along rays."""

    def f(z: Tensor) -> Tensor:
        rho = z.norm(dim=1, keepdim=True)
        return torch.cat([torch.sinh(rho), z * rho], dim=1)

    from vaeprobe.decoder import Decoder

    z = points(30, 2, seed=3)
    G, dG, ddG = metric_derivatives(Decoder(f, 2), z, [0, 1])
    assert ddG is not None
    seams = seam_connection(z, G, dG, ddG)
    assert seams.mixed.abs().max() < 1e-9
    # circle: s = rho, latent length rho: growth 2 / rho along the ray
    assert torch.allclose(seams.modulation.abs().amax((1, 2)), 2 / z.norm(dim=1), rtol=1e-8)


@pytest.mark.parametrize("map", [maps.b1(4), maps.c1(), maps.rotated(maps.b1(3))], ids=repr)
def test_straight_seams_have_none_of_it(map: maps.ExactMap) -> None:
    seams = connection(map, points(20, map.latent_dim))
    assert seams.bending.abs().max() < 1e-9
    assert seams.mixed.abs().max() < 1e-8
    assert seams.twist.max() < 1e-9


def test_straight_dependent_seams_fail_the_condition_on_lengths() -> None:
    seams = connection(maps.c1(), points(20, 2))
    # n_2 = k e^{z_1}: a logarithmic growth of 1 along z_1
    assert torch.allclose(seams.modulation.abs().amax((1, 2)), torch.ones(20, dtype=torch.float64))


def test_seams_that_form_no_coordinates_twist() -> None:
    assert connection(maps.e(3), points(20, 3)).twist.amax((1, 2)).mean() > 0.1
    assert connection(maps.e(2), points(20, 2)).twist.max() == 0


def test_the_basis_of_latents_and_outputs_does_not_matter() -> None:
    """M is a property of the map, not of the coordinates that it is written in."""
    z, R = points(20, 3), maps.haar(3, seed=4)
    map = maps.direct_sum(maps.parabolic(), maps.b1(1))
    turned = maps.rotated(map, R)
    one, two = connection(map, z), connection(turned, z @ R)
    assert torch.allclose(one.mixed.abs(), two.mixed.abs(), atol=1e-8)
    assert torch.allclose(one.s, two.s, rtol=1e-12)


def test_the_frame_expansion_block_diagonalises_to_second_order() -> None:
    rng = np.random.default_rng(0)
    k = 4
    values = torch.tensor([[3.0, 2.0, 2.0, 0.5]], dtype=torch.float64)
    first = torch.from_numpy(rng.standard_normal((1, k, k, k)))
    first = first + first.mT
    second = torch.from_numpy(rng.standard_normal((1, k, k, k, k)))
    second = second + second.mT
    second = second + second.transpose(1, 2)
    same = tied_blocks(values, 1e-9)
    D1, D2 = frame_expansion(values, first, second, same)
    direction = torch.from_numpy(rng.standard_normal(k))
    defects = []
    for h in (1e-2, 5e-3):
        step = h * direction
        G = torch.diag(values[0]) + torch.einsum("l,lij->ij", step, first[0])
        G = G + torch.einsum("l,m,lmij->ij", step, step, second[0]) / 2
        E = torch.eye(k, dtype=torch.float64) + torch.einsum("l,lij->ij", step, D1[0])
        E = E + torch.einsum("l,m,lmij->ij", step, step, D2[0]) / 2
        defects.append(float(torch.where(same[0], 0.0, E.T @ G @ E).abs().max()))
    # what is left is of third order
    assert defects[1] < defects[0] / 7


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_m_of_coordinates_is_symmetric(seed: int, d: int) -> None:
    """In two dimensions all seams form coordinates, whose mixed derivatives commute."""
    rng = np.random.default_rng(seed)
    W, V = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((6, 2), (d, 6)))

    def f(z: Tensor) -> Tensor:
        return torch.tanh(z @ W.T / 2) @ V.T

    from vaeprobe.decoder import Decoder

    z = torch.from_numpy(rng.standard_normal((5, 2)))
    G, dG, ddG = metric_derivatives(Decoder(f, 2), z, [0, 1])
    assert ddG is not None
    seams = seam_connection(z, G, dG, ddG)
    tolerance = 1e-7 * (1 + seams.mixed_scale)
    assert ((seams.mixed - seams.mixed.mT).abs() <= tolerance).all()


def test_tied_blocks_chain() -> None:
    values = torch.tensor([[3.0, 3.0 - 1e-12, 1.0], [3.0, 2.0, 1.0]], dtype=torch.float64)
    same = tied_blocks(values, 1e-9)
    assert same[0].tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert same[1].tolist() == torch.eye(3, dtype=torch.bool).tolist()
