"""Wide convolutions with fewer products: the convolution's numbers, whatever the sides, and only where it pays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaeprobe.decoder import Decoder
from vaeprobe.engine import convolutions, gram, winograd
from vaeprobe.engine.winograd import DOUBLING, KEEPING, Filter, filtered, pays

KINDS = {
    "3 x 3": (KEEPING, lambda x, w: F.conv2d(x, w, padding=1), 3),
    "doubling": (DOUBLING, lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1), 4),
}
kinds = pytest.mark.parametrize(("by", "plain", "kernel"), KINDS.values(), ids=KINDS)
Plain = Callable[[Tensor, Tensor], Tensor]


def weight(by: Filter, c: int, out: int, kernel: int, dtype: torch.dtype = torch.float64) -> Tensor:
    sides = (out, c) if by is KEEPING else (c, out)
    found: Tensor = torch.randn(*sides, kernel, kernel, dtype=dtype) / (c * kernel**2) ** 0.5
    return found


@kinds
@pytest.mark.parametrize("sides", [(4, 4), (5, 3), (1, 1), (2, 9), (8, 6)])
@pytest.mark.parametrize("tiles", [1, 6, 1024])
def test_the_convolution_is_the_same(
    by: Filter, plain: Plain, kernel: int, sides: tuple[int, int], tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "TILES", tiles)
    x, w = torch.randn(3, 5, *sides, dtype=torch.float64), weight(by, 5, 7, kernel)
    for layout in (x, x.contiguous(memory_format=torch.channels_last), x.expand(3, *x.shape)[1]):
        assert torch.allclose(filtered(layout, w, by), plain(x, w), rtol=1e-12, atol=1e-13)
    assert filtered(x[:0], w, by).shape == plain(x[:0], w).shape


@kinds
def test_rounding_is_that_of_a_convolution(by: Filter, plain: Plain, kernel: int) -> None:
    x, w = torch.randn(4, 256, 8, 8), weight(by, 256, 256, kernel, torch.float32)
    exact = plain(x.double(), w.double())
    error, usual = ((found - exact).norm() / exact.norm() for found in (filtered(x, w, by), plain(x, w)))
    assert error < 1e-6, error
    assert error < 4 * usual


@pytest.mark.parametrize(
    ("shape", "sides", "dtype", "does"),
    [
        ((4, 256, 16, 16), (256, 256), torch.float32, True),
        ((4, 256, 16, 16), (256, 256), torch.float64, True),
        ((4, 256, 16, 16), (255, 256), torch.float32, False),
        ((4, 255, 16, 16), (256, 255), torch.float32, False),
        ((3, 256, 16, 16), (256, 256), torch.float32, False),
        ((4, 256, 16, 16), (256, 256), torch.bfloat16, False),
    ],
)
def test_it_is_done_where_it_pays(
    shape: tuple[int, ...], sides: tuple[int, int], dtype: torch.dtype, does: bool
) -> None:
    assert pays(torch.empty(shape, dtype=dtype), torch.ones(*sides, 3, 3, dtype=dtype)) is does


def test_what_a_weight_hides_stays_hidden() -> None:
    """Products of sums cancel to the rounding of the largest number in a tile: a masked convolution is done as it is."""
    t, w = torch.randn(4, 256, 16, 16), torch.ones(256, 256, 3, 3)
    assert pays(t, w)
    w[3, 4, 2, 2] = 0
    assert not pays(t, w)


def test_wide_decoders_go_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(3, 64), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 20, 4, 2, 1), nn.Tanh(),
        nn.Conv2d(20, 24, 3, padding=1), nn.Tanh(), nn.Upsample(scale_factor=2), nn.Conv2d(24, 20, 3, padding=1), nn.Tanh(),
        nn.ConvTranspose2d(20, 17, 4, 2, 1, bias=False),
    ).double()  # fmt: skip
    decoder, z = Decoder(network, 3), torch.randn(5, 3, dtype=torch.float64)
    plain, used, whole = gram(decoder, z), set[Filter](), winograd.filtered

    def seen(t: Tensor, w: Tensor, by: Filter) -> Tensor:
        used.add(by)
        return whole(t, w, by)

    monkeypatch.setattr(convolutions, "filtered", seen)
    monkeypatch.setattr(winograd, "WIDE", 17)
    monkeypatch.setattr(winograd, "MANY_TILES", 1)
    assert torch.allclose(gram(decoder, z), plain, rtol=1e-12)
    assert used == {KEEPING, DOUBLING}
    J = torch.func.vmap(torch.func.jacfwd(lambda x: network(x[None])[0].flatten()))(z)
    assert torch.allclose(plain, J.mT @ J, rtol=1e-10)
