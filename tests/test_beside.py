"""Convolutions of small maps side by side give what each map alone gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vaeprobe.engine import convolutions
from vaeprobe.engine.beside import CHANNELS, WIDTH, WIDTH_OF_ROWS, beside, pays
from vaeprobe.engine.upsampling import FEW_TAPS, four_at_a_time, upsampled
from vaeprobe.engine.verbs import jacobian


@pytest.mark.parametrize("rows_first", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more"),
    [
        (4, 2, 1, 0),
        (3, 2, 1, 1),
        (5, 2, 2, 1),
        (2, 2, 0, 0),
        (8, 4, 2, 0),
        (6, 3, 2, 1),
        (3, 3, 0, 0),
        (6, 2, 2, 0),
    ],
)
def test_maps_side_by_side_do_not_reach_each_other(
    kernel: int, stride: int, padding: int, more: int, rows_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the neighbours are: of stripes of tens of thousands next to small numbers, nothing crosses over."""
    torch.manual_seed(kernel)
    taken = []

    def watched(*args: Any) -> torch.Tensor:
        taken.append(args)
        return beside(*args)

    monkeypatch.setattr(convolutions, "beside", watched)
    layer = nn.ConvTranspose2d(6, 17, kernel, stride, padding, more).requires_grad_(False)
    x = torch.randn(7, 6, 3, 5) * 10.0 ** torch.tensor([0, 4, 0, -4, 4, 0, 4]).view(7, 1, 1, 1)
    if rows_first:
        x = x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
    args = (x, layer.weight, layer.bias, stride, padding, more)
    found = convolutions.convolution(F.conv_transpose2d, "conv_transpose2d", args, {})
    assert len(taken) == (kernel + more == stride + 2 * padding)
    for one, alone in zip(found, x, strict=True):
        expected = layer.double()(alone[None].double())[0].float()
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("out", [1, FEW_TAPS, FEW_TAPS + 1, 5])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (3, 2), (4, 7)])
@pytest.mark.parametrize("bias", [False, True])
def test_four_pixels_at_a_time_are_those_of_the_transposed_convolution(
    out: int, h: int, w: int, bias: bool
) -> None:
    torch.manual_seed(h)
    layer = nn.ConvTranspose2d(6, out, 4, 2, 1, bias=bias).requires_grad_(False)
    x = torch.randn(5, 6, h, w) * torch.tensor([1, 1e4, 1, 1e-4, 1]).view(5, 1, 1, 1)
    assert four_at_a_time(x, layer.weight).shape == (5, 4 * out, h + 1, w + 1)
    found = upsampled(x, layer.weight, layer.bias)
    for one, alone in zip(found, x, strict=True):
        expected = layer.double()(alone[None].double())[0].float()
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_where_it_pays() -> None:
    """On both sides of each limit that was measured."""
    x = torch.zeros(2, CHANNELS, 1, WIDTH)
    assert pays(x, CHANNELS)
    assert not pays(x, CHANNELS + 1)
    assert not pays(torch.zeros(2, CHANNELS, 1, WIDTH + 1), CHANNELS)
    rows = torch.zeros(2, 2, WIDTH_OF_ROWS + 1, 3).permute(1, 3, 0, 2)  # rows first in memory
    assert pays(rows[..., :-1], 3)
    assert not pays(rows, 3)
    assert not pays(x[:1], CHANNELS)
    assert not pays(x.double(), CHANNELS)
    assert not pays(x.to("meta"), CHANNELS)


@pytest.mark.parametrize("side", [2, 8, WIDTH + 2])
def test_a_chain_of_them_has_the_jacobian_of_reverse_mode(side: int) -> None:
    torch.manual_seed(side)
    network = nn.Sequential(
        nn.Linear(3, 4 * side * side), nn.Tanh(), nn.Unflatten(1, (4, side, side)), nn.ConvTranspose2d(4, 5, 3, 2, 1, 1),
        nn.SiLU(), nn.ConvTranspose2d(5, 18, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(18, 1, 4, 2, 1), nn.Sigmoid(),
    ).requires_grad_(False)  # fmt: skip
    z = torch.randn(4, 3)
    found = jacobian(network, z)
    network.double()
    plain = torch.func.vmap(torch.func.jacfwd(lambda x: network(x[None])[0].flatten()))
    torch.testing.assert_close(found.double(), plain(z.double()), rtol=1e-4, atol=1e-6)
