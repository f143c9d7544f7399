"""Transposed convolutions that double the sides, few channels at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vaeprobe.engine.upsampling import four_at_a_time, upsampled
from vaeprobe.engine.verbs import gram, jacobian


@pytest.mark.parametrize("out", [1, 2, 5])
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


@pytest.mark.parametrize("out", [1, 2])
def test_no_map_at_all(out: int) -> None:
    assert upsampled(torch.randn(0, 3, 2, 4), torch.randn(3, out, 4, 4)).shape == (0, out, 4, 8)


def test_maps_do_not_reach_each_other() -> None:
    """Where the sums of one map's last row and the next one's first lie side by side in memory."""
    layer = nn.ConvTranspose2d(3, 1, 4, 2, 1, bias=False).requires_grad_(False)
    x = torch.randn(3, 3, 2, 4)
    alone = upsampled(x, layer.weight)
    x[1] = torch.nan
    found = upsampled(x, layer.weight)
    torch.testing.assert_close(found[::2], alone[::2])
    assert found[1].isnan().all()


@pytest.mark.parametrize("side", [2, 5])
def test_a_chain_of_them_has_the_jacobian_of_plain_forward_mode(side: int) -> None:
    torch.manual_seed(side)
    network = nn.Sequential(
        nn.Linear(3, 4 * side * side), nn.Tanh(), nn.Unflatten(1, (4, side, side)), nn.ConvTranspose2d(4, 5, 3, 2, 1, 1),
        nn.SiLU(), nn.ConvTranspose2d(5, 18, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(18, 1, 4, 2, 1), nn.Sigmoid(),
    ).requires_grad_(False)  # fmt: skip
    z = torch.randn(4, 3)
    found, metric = jacobian(network, z), gram(network, z)
    network.double()
    plain = torch.func.vmap(torch.func.jacfwd(lambda x: network(x[None])[0].flatten()))
    torch.testing.assert_close(found.double(), plain(z.double()), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metric, found.double().mT @ found.double(), rtol=1e-5, atol=1e-8)
