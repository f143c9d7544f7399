"""Other latents with the same output: found where closed forms have them, and nowhere else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vaeprobe.decoder import Decoder, Group
from vaeprobe.geometry.sheets import COUNTS, Sheets, find_sheets
from vaeprobe.latents import Prior

import maps


def search(map: maps.ExactMap | Decoder, n: int = 64, seed: int = 1) -> tuple[Tensor, Sheets]:
    decoder = maps.decoder(map) if isinstance(map, maps.ExactMap) else map
    z = Prior().draw(decoder, n, seed=seed)
    return z, find_sheets(decoder, z, list(decoder.continuous))


def rolled(z: Tensor, A: Tensor, B: Tensor) -> Tensor:
    u = A * torch.sinh(B * z) / B
    p, q = (u[:, 0] + u[:, 1]) / math.sqrt(2), (u[:, 1] - u[:, 0]) / math.sqrt(2)
    return torch.stack([torch.cos(p), torch.sin(p), q], dim=1)


def rolled_truth(z: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Log of all sheets over the own one: p + 2 pi j at the same q is one latent each, in closed form."""

    def log_density(z: Tensor) -> Tensor:
        return -z.square().sum(-1) / 2 - (A * torch.cosh(B * z)).log().sum(-1)

    u = A * torch.sinh(B * z) / B
    p, q = (u[:, 0] + u[:, 1]) / math.sqrt(2), (u[:, 1] - u[:, 0]) / math.sqrt(2)
    sheets = []
    for turn in range(-40, 41):
        w = p + 2 * math.pi * turn
        u_ = torch.stack([w - q, w + q], dim=-1) / math.sqrt(2)
        sheets.append(log_density(torch.asinh(B * u_ / A) / B))
    return torch.stack(sheets).logsumexp(0) - log_density(z)


def wrapped_truth(z: Tensor, period: float) -> Tensor:
    """The same for a coordinate that f is periodic in, with a Jacobian that is too."""
    turns = torch.arange(-40, 41, dtype=torch.float64)
    return (-(z[:, None] + period * turns).square() / 2).logsumexp(1) + z.square() / 2


STEEP = torch.tensor([4.5, 2.1], dtype=torch.float64)
FLAT = torch.tensor([1.5, 0.7], dtype=torch.float64)
BEND = torch.tensor([0.3, 0.5], dtype=torch.float64)


@pytest.mark.parametrize(("A", "mean", "share"), [(STEEP, 0.662, 1.0), (FLAT, 0.017, 0.05)], ids=["3", "1"])
def test_a_rolled_plane(A: Tensor, mean: float, share: float) -> None:
    z, found = search(Decoder(lambda z: rolled(z, A.to(z), BEND.to(z)), 2, dtype=torch.float64), 200)
    truth = rolled_truth(z, A, BEND)
    # sheets of little weight may be missed, never invented
    assert bool((found.others <= truth + 1e-6).all())
    assert float((found.others - truth).abs().mean()) < 0.01
    assert float((found.shared == (truth > math.log1p(COUNTS))).double().mean()) > 0.97
    many = torch.randn(200_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = rolled_truth(many, A, BEND)
    assert float(exact.mean()) == pytest.approx(mean, rel=0.1)
    assert float((exact > math.log1p(COUNTS)).double().mean()) == pytest.approx(share, abs=0.02)


def test_maps_that_wrap() -> None:
    """Polar coordinates and tori are not one-to-one on the whole plane: k z_1, and both angles, come round."""
    z, polar = search(maps.c1(k=1.7), 100)
    assert torch.allclose(polar.others, wrapped_truth(z[:, 1], 2 * math.pi / 1.7), atol=5e-3)
    z, torus = search(maps.c3(), 100)
    truth = wrapped_truth(z[:, 0], 2 * math.pi) + wrapped_truth(z[:, 1], 2 * math.pi)
    assert torch.allclose(torus.others, truth, atol=1e-2)
    A, B = torch.tensor([0.8, 1.4], dtype=torch.float64), torch.tensor([0.7, 0.4], dtype=torch.float64)
    z, cylinder = search(maps.b3(), 100)
    assert float((cylinder.others - rolled_truth(z, A, B)).abs().mean()) < 2e-3


def square(z: Tensor) -> Tensor:
    return torch.stack([z[:, 0] ** 2 - z[:, 1] ** 2, 2 * z[:, 0] * z[:, 1]], dim=1)


def fold(z: Tensor) -> Tensor:
    return torch.cat([z[:, :1] ** 2, 1.2 * torch.sinh(z[:, 1:])], dim=1)


def relu_fold(z: Tensor) -> Tensor:
    return torch.cat([z[:, :1].relu() + (-z[:, :1]).relu(), 1.2 * torch.sinh(z[:, 1:])], dim=1)


def lopsided(z: Tensor) -> Tensor:
    """|z_0|, of slope 2 on the left: both halves map to the same, at other densities."""
    return torch.cat([torch.where(z[:, :1] > 0, z[:, :1], -2 * z[:, :1]), z[:, 1:]], dim=1)


@pytest.mark.parametrize("f", [square, fold, relu_fold], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_twofold_maps_add_log_2(f: maps.Map, dtype: torch.dtype) -> None:
    _, found = search(Decoder(f, 2, dtype=dtype))
    assert float(found.shared.double().mean()) > 0.98
    assert torch.allclose(
        found.others[found.shared], torch.tensor(math.log(2), dtype=torch.float64), atol=2e-3
    )
    assert found.example is not None
    assert torch.allclose(
        found.example[0].abs(), found.example[1].abs(), atol=1e-4 if dtype == torch.float32 else 1e-6
    )


@pytest.mark.parametrize("d", [3, 10])
def test_folds_of_one_latent_among_many(d: int) -> None:
    _, found = search(Decoder(fold, d, dtype=torch.float64))
    assert float(found.shared.double().mean()) > 0.95


def test_sheets_are_weighed_by_their_jacobian() -> None:
    z, found = search(Decoder(lopsided, 2, dtype=torch.float64), 100)
    x = lopsided(z)[:, 0]
    right, left = -x.square() / 2, -(x / 2).square() / 2 - math.log(2)
    truth = torch.logaddexp(right, left) - torch.where(z[:, 0] > 0, right, left)
    assert torch.allclose(found.others, truth, atol=1e-9)


@pytest.mark.parametrize(
    "map",
    [maps.a(3), maps.b1(2), maps.b1(6), maps.b2(4), maps.c2(3), maps.c4(), maps.d(), maps.e(3), maps.g(3)],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_to_one_maps_have_none(map: maps.ExactMap, dtype: torch.dtype) -> None:
    _, found = search(maps.decoder(map, dtype=dtype))
    assert int(found.count.sum()) == 0
    assert float(found.others.abs().max()) == 0
    assert found.example is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_saturated_outputs_are_not_the_same(dtype: torch.dtype) -> None:
    """Far out all outputs are 0 to rounding, next to those elsewhere: blank, and one-to-one none the less."""

    def f(z: Tensor) -> Tensor:
        return 10 * torch.sigmoid(8 * z - 10)

    _, found = search(Decoder(f, 2, dtype=dtype), 200)
    assert int(found.count.sum()) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "f",
    [lambda z: z**3, lambda z: torch.tanh(3 * z), lambda z: z - torch.sin(z), lambda z: torch.exp(3 * z)],
    ids=["cube", "tanh", "cycloid", "exp"],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_rounds_to_one_output_is_one_sheet(f: maps.Map, dtype: torch.dtype, seed: int) -> None:
    """One-to-one maps whose outputs hardly move at some latents: near a stationary point, and where they saturate."""
    scale = torch.tensor([1.0, 0.7], dtype=dtype)
    decoder = Decoder(lambda z: f(z) * scale.to(z), 2, dtype=dtype)
    z = Prior().draw(decoder, 100, seed=seed)
    regular = (
        torch.func.vmap(torch.func.jacrev(lambda w: f(w[None])[0]))(z.to(dtype)).diagonal(dim1=1, dim2=2) > 0
    )
    found = find_sheets(decoder, z[regular.all(1)], [0, 1])
    assert int(found.count.sum()) == 0


def test_codes_and_inactive_latents_keep_their_values() -> None:
    """A code that undoes a sign makes no sheet, nor does a latent that is not searched."""
    prior = (Group("normal", 2), Group("onehot", 2))

    def f(z: Tensor) -> Tensor:
        return torch.stack([z[:, 0] * (z[:, 2] - z[:, 3]), torch.sinh(z[:, 1])], dim=1)

    decoder = Decoder(f, 4, prior=prior, dtype=torch.float64)
    z = Prior().draw(decoder, 32)
    assert int(find_sheets(decoder, z, [0, 1]).count.sum()) == 0
    folded = Decoder(fold, 2, dtype=torch.float64)
    assert int(find_sheets(folded, z[:, :2], [1]).count.sum()) == 0
