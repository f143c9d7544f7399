"""Frozen-coordinate differences and the linear test."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vaeprobe.decoder import Decoder, Group
from vaeprobe.engine.verbs import gram
from vaeprobe.geometry import modulation
from vaeprobe.geometry.gram import column_norms
from vaeprobe.geometry.modulation import (
    column_lengths,
    frozen,
    frozen_lengths,
    jacobian_variation,
    log_ratio,
    redrawn_lengths,
)
from vaeprobe.latents import Prior
from vaeprobe.likelihoods import Bernoulli

import maps


def draws(decoder: Decoder, n: int = 64) -> tuple[Tensor, Tensor]:
    return Prior().draw(decoder, n), Prior(purpose="partners").draw(decoder, n)


def test_freezing_keeps_one_coordinate_and_redraws_the_rest() -> None:
    decoder = Decoder(
        lambda z: z @ torch.ones(5, 3, dtype=z.dtype), 5, prior=(Group("normal", 3), Group("onehot", 2))
    )
    z, partner = draws(decoder)
    x = frozen(decoder, z, partner, torch.eye(3, dtype=torch.float64)[1])
    assert torch.allclose(x[:, 1], z[:, 1])
    assert torch.equal(x[:, [0, 2, 3, 4]], partner[:, [0, 2, 3, 4]])  # codes too
    R = maps.haar(3, seed=1)
    y, y0, y1 = (w[:, :3] @ R for w in (frozen(decoder, z, partner, R[:, 2]), z, partner))
    assert torch.allclose(y[:, 2], y0[:, 2])
    assert torch.allclose(y[:, :2], y1[:, :2])


@pytest.mark.parametrize("likelihood", [None, Bernoulli()])
def test_frozen_lengths_are_those_of_the_gram_matrix(likelihood: Bernoulli | None) -> None:
    map = maps.c2(3)
    decoder = Decoder(lambda z: torch.sigmoid(map.f(z)), 3, natural=map.f, dtype=torch.float64)
    z, partner = draws(decoder, 20)
    R = torch.eye(3, dtype=torch.float64)[:, [0, 2]]
    lengths = frozen_lengths(decoder, z, partner, R, likelihood=likelihood, chunk=7)
    for at, i in enumerate((0, 2)):
        x = partner.clone()
        x[:, i] = z[:, i]
        assert torch.allclose(lengths[:, at], column_norms(gram(decoder, x, likelihood=likelihood))[:, i])


def test_latents_of_few_axes_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(maps.c2(3).f, 3, dtype=torch.float64)
    z, partner = draws(decoder, 20)
    R, held = torch.eye(3, dtype=torch.float64), []

    def seen(of: Decoder, x: Tensor, **how: Any) -> Tensor:
        held.append(x.numel())
        return gram(of, x, **how)

    monkeypatch.setattr(modulation, "gram", seen)
    found = {}
    for most, sizes in ((3 * z.numel(), [180]), (2 * z.numel(), [120, 60]), (1, [60, 60, 60])):
        monkeypatch.setattr(modulation, "NUMBERS", most)
        found[most] = frozen_lengths(decoder, z, partner, R)
        assert held == sizes
        held.clear()
        assert torch.allclose(found[most], found[3 * z.numel()], rtol=1e-12, atol=0)


def test_a_folded_plane_modulates_though_no_derivative_shows_it() -> None:
    map = maps.c4()
    decoder = maps.decoder(map)
    z, partner = draws(decoder, 4096)
    R = torch.eye(2, dtype=torch.float64)
    lengths = column_lengths(gram(decoder, z), R)
    ratio, alive = log_ratio(lengths, frozen_lengths(decoder, z, partner, R))
    assert alive.all()
    cross = (ratio.square().mean(0) / 2).sqrt()
    assert map.cross is not None
    assert torch.allclose(cross, torch.tensor(map.cross, dtype=torch.float64), rtol=0.05)


def test_pairs_name_the_modulator() -> None:
    """c1 beside b1: column 1 follows z_0 and nothing follows the others."""
    decoder = maps.decoder(maps.direct_sum(maps.c1(), maps.b1(2)))
    z, partner = draws(decoder, 512)
    R = torch.eye(4, dtype=torch.float64)
    lengths = column_lengths(gram(decoder, z), R)
    cross = torch.stack(
        [
            (log_ratio(lengths, x)[0].square().mean(0) / 2).sqrt()
            for x in redrawn_lengths(decoder, z, partner, R)
        ],
        dim=1,
    )
    assert math.isclose(float(cross[1, 0]), 1.0, rel_tol=0.1)
    off = cross.clone()
    off.fill_diagonal_(0)
    off[1, 0] = 0
    assert off.max() < 1e-9


def test_log_ratio_leaves_out_dead_columns() -> None:
    first, second = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])
    ratio, alive = log_ratio(first, second)
    assert alive.tolist() == [True, False, False]
    assert ratio.tolist() == [0.0, 0.0, 0.0]


def test_variation_is_zero_for_linear_maps_alone() -> None:
    for map, expected in ((maps.a(3), 0.0), (maps.rotated(maps.a(3)), 0.0)):
        decoder = maps.decoder(map)
        found = jacobian_variation(decoder, *draws(decoder), torch.eye(3, dtype=torch.float64))
        assert float((found.changes.sum(0) / found.sizes.sum(0)).max()) == pytest.approx(expected, abs=1e-25)
    # b1: Var(a cosh b z) / E (a cosh b z)^2 with E cosh^k known
    map = maps.b1(2)
    decoder = maps.decoder(map)
    found = jacobian_variation(decoder, *draws(decoder, 4000), torch.eye(2, dtype=torch.float64))
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((400_000, 2)))
    n = map.norms(z)
    assert torch.allclose(found.changes.sum(0) / found.sizes.sum(0), n.var(0) / n.square().mean(0), rtol=0.2)


@pytest.mark.parametrize("likelihood", [None, Bernoulli()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_metric_that_variation_gives_is_that_of_the_engine(
    likelihood: Bernoulli | None, dtype: torch.dtype
) -> None:
    map = maps.c2(3)
    decoder = Decoder(lambda z: torch.sigmoid(map.f(z)), 3, natural=map.f, dtype=dtype)
    z, partner = draws(decoder, 20)
    found = jacobian_variation(
        decoder, z, partner, torch.eye(3, dtype=torch.float64), likelihood=likelihood, chunk=21
    )
    G = gram(decoder, z, likelihood=likelihood)
    assert float(((found.G - G).flatten(1).norm(dim=1) / G.flatten(1).norm(dim=1)).max()) < (
        1e-14 if dtype == torch.float64 else 1e-6
    )


def test_lengths_where_one_latent_is_redrawn_are_those_of_all_columns() -> None:
    decoder = maps.decoder(maps.c2(4))
    z, partner = draws(decoder, 20)
    R = torch.eye(4, dtype=torch.float64)
    some = list(redrawn_lengths(decoder, z, partner, R[:, [3, 1]]))
    every = list(redrawn_lengths(decoder, z, partner, R))
    for at, j in enumerate((3, 1)):
        assert torch.allclose(some[at], every[j][:, [3, 1]], rtol=1e-13)
