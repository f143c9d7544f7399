"""The exact maps are what they say: stated G and contrast against derivatives of f."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maps import (
    ExactMap,
    all_maps,
    direct_sum,
    oblique_maps,
    orthogonal_maps,
    rotated,
    singular_maps,
    tied_maps,
)

ALL = all_maps()


def latents(map: ExactMap, n: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, map.latent_dim, generator=generator, dtype=torch.float64)


def autograd_gram(map: ExactMap, z: Tensor) -> Tensor:
    J = torch.func.vmap(torch.func.jacrev(lambda row: map.f(row[None])[0]))(z)
    return J.mT @ J


@pytest.mark.parametrize("map", ALL, ids=repr)
def test_stated_gram_is_that_of_f(map: ExactMap) -> None:
    z = latents(map)
    assert map.f(z).shape == (7, map.data_dim)
    torch.testing.assert_close(map.gram(z), autograd_gram(map, z), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("map", ALL, ids=repr)
def test_stated_gram_agrees_with_finite_differences(map: ExactMap) -> None:
    z, step = latents(map), 1e-6
    basis = step * torch.eye(map.latent_dim, dtype=torch.float64)
    J = torch.stack([(map.f(z + v) - map.f(z - v)) / (2 * step) for v in basis], dim=2)
    torch.testing.assert_close(map.gram(z), J.mT @ J, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("map", [m for m in ALL if m.contrast], ids=repr)
def test_stated_contrast_is_that_of_the_gram(map: ExactMap) -> None:
    z = latents(map)
    G = autograd_gram(map, z)
    c = 0.5 * (G.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.linalg.slogdet(G).logabsdet)
    assert map.contrast is not None
    torch.testing.assert_close(map.contrast(z), c, rtol=1e-9, atol=1e-9)


def test_the_lists_hold_what_they_promise() -> None:
    for map in orthogonal_maps() + tied_maps():
        assert map.orthogonal
        assert map.contrast is not None
        assert map.contrast(latents(map)).abs().max() < 1e-12
    for map in tied_maps():
        G = map.gram(latents(map))
        torch.testing.assert_close(G, G[:, :1, :1] * torch.eye(map.latent_dim, dtype=torch.float64))
    for map in oblique_maps():
        assert map.contrast is not None
        assert (map.contrast(latents(map)) > 1e-4).all()
    for map in singular_maps():
        G = map.gram(latents(map))
        assert (torch.linalg.matrix_rank(G) < map.latent_dim).all()


@pytest.mark.parametrize("map", [m for m in ALL if m.own], ids=repr)
def test_c2_column_lengths_depend_on_their_own_latent_alone(map: ExactMap) -> None:
    z = latents(map)
    for i in range(map.latent_dim):
        moved = z.flip(0).clone()
        moved[:, i] = z[:, i]
        torch.testing.assert_close(map.norms(moved)[:, i], map.norms(z)[:, i], rtol=1e-12, atol=0)


@pytest.mark.parametrize("map", [m for m in orthogonal_maps() if m.own is False and not m.tied], ids=repr)
def test_without_c2_some_column_length_depends_on_another_latent(map: ExactMap) -> None:
    z = latents(map, 64)
    moved = [z.roll(1, 0).index_copy(1, torch.tensor([i]), z[:, i : i + 1]) for i in range(map.latent_dim)]
    assert (
        max(float((map.norms(m)[:, i] - map.norms(z)[:, i]).abs().max()) for i, m in enumerate(moved)) > 1e-3
    )


@pytest.mark.parametrize("map", [m for m in ALL if m.cross], ids=repr)
def test_stated_cross_terms_are_the_sobol_differences(map: ExactMap) -> None:
    generator = torch.Generator().manual_seed(1)
    n = 40_000
    z, other = torch.randn(2, n, map.latent_dim, generator=generator, dtype=torch.float64)
    for i, expected in enumerate(map.cross or ()):
        other_i = other.clone()
        other_i[:, i] = z[:, i]
        difference = map.norms(z)[:, i].log() - map.norms(other_i)[:, i].log()
        assert float((0.5 * difference.square().mean()).sqrt()) == pytest.approx(expected, abs=0.02)


def test_maps_combine() -> None:
    map = direct_sum(*orthogonal_maps()[5:8])
    z = latents(map)
    torch.testing.assert_close(map.gram(z), autograd_gram(map, z), rtol=1e-11, atol=1e-11)
    turned = rotated(map, seed=4)
    assert turned.rotation is not None
    torch.testing.assert_close(turned.f(z @ turned.rotation), map.f(z))
