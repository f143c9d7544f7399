"""Transposed convolutions that double the sides, few channels at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaeprobe.autograd import differentiable_kernels
from vaeprobe.decoder import Decoder
from vaeprobe.engine import by_pixel, convolutions, upsampling
from vaeprobe.engine.columns import in_blocks
from vaeprobe.engine.methods import choose
from vaeprobe.engine.tangents import push
from vaeprobe.engine.upsampling import four_at_a_time, together, upsampled, upsampled_by_pixel
from vaeprobe.engine.verbs import gram, jacobian, pushforward, values


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


class Shared(nn.Module):
    """Two layers that double the sides, with what lies between them used twice."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.first = nn.ConvTranspose2d(wide, wide, 4, 2, 1)
        self.last = nn.ConvTranspose2d(wide, 2, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h.relu() * h.sigmoid()
        y: Tensor = self.last(h)
        return y


def chain(*layers: nn.Module, wide: int = 12, height: int = 3, width: int = 2) -> nn.Module:
    torch.manual_seed(0)
    start = [nn.Linear(3, wide * height * width), nn.Unflatten(1, (wide, height, width))]
    return nn.Sequential(*start, *layers).requires_grad_(False).eval()


def up(inside: int, out: int) -> nn.Module:
    return nn.ConvTranspose2d(inside, out, 4, 2, 1)


CHAINS = {
    "activations": lambda: chain(up(12, 20), nn.ReLU(), up(20, 18), nn.SiLU(), up(18, 1), nn.Sigmoid()),
    "three colours": lambda: chain(nn.ReLU(), up(12, 20), nn.ReLU(), up(20, 18), nn.LeakyReLU(), up(18, 3)),
    "few channels": lambda: chain(up(12, 8), nn.ReLU(), up(8, 6), nn.ReLU(), up(6, 2), nn.Tanh()),
    "no activation": lambda: chain(nn.Tanh(), up(12, 20), up(20, 18), up(18, 1)),
    "a factor per channel": lambda: chain(nn.Tanh(), up(12, 20), nn.BatchNorm2d(20), nn.ReLU(), up(20, 1)),
    "a shared map": lambda: chain(nn.Tanh(), Shared(12)),
    "another convolution": lambda: chain(up(12, 20), nn.ReLU(), nn.Conv2d(20, 17, 3, padding=1), nn.ReLU(), up(17, 1)),
    "a dropped row": lambda: chain(nn.Tanh(), up(12, 20), nn.ReLU(), nn.ZeroPad2d((0, -1, -1, 0)), up(20, 20), nn.ReLU(), up(20, 1)),
}  # fmt: skip


@pytest.mark.parametrize("rows", [None, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", CHAINS)
def test_maps_pixel_by_pixel_have_the_gram_matrices_of_plain_forward_mode(
    kind: str, dtype: torch.dtype, rows: int | None
) -> None:
    network, z = CHAINS[kind]().to(dtype), torch.randn(5, 3, dtype=dtype)
    with in_blocks(rows) if rows else nullcontext():
        found = carried_gram(network, z)
    network.double()
    J = torch.func.vmap(torch.func.jacfwd(lambda x: network(x[None])[0].flatten()))(z.double())
    expected = J.mT @ J
    scale = expected.diagonal(dim1=1, dim2=2).amax()
    torch.testing.assert_close(
        found, expected, rtol=0, atol=float(scale) * (1e-5 if dtype == torch.float32 else 1e-13)
    )


def carried_gram(network: nn.Module, z: Tensor) -> Tensor:
    """Return Gram matrices by tangents of our own, without the door that would take another way if they were wrong."""
    v = torch.eye(3, dtype=z.dtype)[:, None].expand(3, len(z), 3)
    with torch.no_grad(), differentiable_kernels():
        return push(network, z, v)[1].gram()


def test_chains_of_few_channels_are_taken_pixel_by_pixel_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to 64 channels in and out; and only where a Gram matrix of few channels ends them."""
    seen: list[int] = []
    monkeypatch.setattr(
        upsampling, "doubled", lambda x, weight: seen.append(x.shape[4]) or by_pixel.doubled(x, weight)
    )
    z = torch.randn(2, 3)
    carried_gram(chain(nn.Tanh(), up(64, 64), nn.ReLU(), up(64, 1), wide=64), z)
    assert seen == [64]
    seen.clear()
    carried_gram(chain(nn.Tanh(), up(65, 64), nn.ReLU(), up(64, 1), wide=65), z)
    carried_gram(chain(nn.Tanh(), up(64, 64), nn.ReLU(), up(64, 65), wide=64), z)
    carried_gram(chain(nn.Tanh(), up(32, 32), nn.ReLU(), nn.Conv2d(32, 1, 3), wide=32), z)
    carried_gram(chain(up(32, 32), nn.ReLU(), up(32, 1), wide=32), z)  # the same at every point
    carried_gram(chain(nn.Tanh(), up(32, 32), nn.ReLU(), up(32, 1), wide=32).double(), z.double())
    assert not seen


def test_blocks_of_maps_pixel_by_pixel_are_larger_and_others_are_not() -> None:
    """A product has a row for each map; other tangents stay in a core's cache."""

    def rows(*layers: nn.Module) -> int:
        network, z = chain(nn.Tanh(), up(12, 20), nn.ReLU(), *layers), torch.randn(2, 3)
        with torch.no_grad(), differentiable_kernels():
            return push(network, z, torch.eye(3)[:, None].expand(3, 2, 3))[1]._rows()

    few, number = upsampling.FEW, 4  # bytes
    assert rows(up(20, few), nn.Sigmoid()) == (16 << 20) // (number * few * 12 * 8)
    assert rows(up(20, few + 1)) == (4 << 20) // (number * (few + 1) * 12 * 8)
    assert rows(nn.Conv2d(20, 1, 3)) == (4 << 20) // (number * 20 * 6 * 4)


@pytest.mark.parametrize("out", [1, 20])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 3), (3, 1), (4, 5)])
@pytest.mark.parametrize(("d", "n"), [(1, 1), (3, 1), (1, 2), (4, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_map_pixel_by_pixel_is_doubled_as_alone(
    out: int, h: int, w: int, d: int, n: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(h)
    layer = nn.ConvTranspose2d(6, out, 4, 2, 1, bias=False).requires_grad_(False).to(memory_format=layout)
    t = torch.randn(d, n, 6, h, w)
    expected = layer(t.flatten(0, 1)).unflatten(0, (d, n))
    x = by_pixel.laid_by_pixel(t)
    found = by_pixel.doubled(x, layer.weight)
    assert found.is_contiguous()
    torch.testing.assert_close(found.permute(2, 3, 4, 0, 1), expected)
    places = by_pixel.doubled_places(x, by_pixel.one_tap(upsampling.patch_kernels(layer.weight)))
    assert places.is_contiguous()
    torch.testing.assert_close(
        places.permute(2, 3, 4, 0, 1).flatten(0, 1), four_at_a_time(t.flatten(0, 1), layer.weight)
    )


@pytest.mark.parametrize("out", [1, 3])
def test_no_latents_at_all(out: int) -> None:
    network = chain(nn.Tanh(), up(12, 20), nn.ReLU(), up(20, out))
    assert carried_gram(network, torch.zeros(0, 3)).shape == (0, 3, 3)


@pytest.mark.parametrize("out", [1, 3])
def test_a_map_that_is_not_finite_does_not_reach_others(out: int) -> None:
    network = chain(nn.Tanh(), up(12, 20), nn.ReLU(), up(20, 20), nn.ReLU(), up(20, out))
    z = torch.randn(6, 3)
    with torch.no_grad():
        network[0].weight *= 1e30  # type: ignore[operator]
        network[3].weight *= 1e30  # type: ignore[operator]
    z[[1, 3, 4]] = 0  # there the slope of tanh is that at the bias; elsewhere it is zero
    found = carried_gram(network, z)
    bad = ~found.isfinite().all(-1).all(-1)
    assert bad.tolist() == [False, True, False, True, True, False]


@pytest.mark.parametrize("out", [1, 2, 5, 18])
@pytest.mark.parametrize("bias", [None, "whole", "one number", "every other"])
def test_outputs_pixel_by_pixel_are_those_of_the_transposed_convolution(out: int, bias: str | None) -> None:
    torch.manual_seed(out)
    layer = nn.ConvTranspose2d(6, out, 4, 2, 1, bias=bias is not None).requires_grad_(False)
    x = torch.randn(17, 6, 3, 5) * torch.tensor([1, 1e4, 1, 1e-4] * 4 + [1]).view(17, 1, 1, 1)
    added = None if layer.bias is None else layer.bias.clone()
    if bias == "one number":
        layer.bias.fill_(0.7)
        added = torch.tensor(0.7).expand(out)
    elif bias == "every other":
        added = torch.stack([layer.bias, torch.full((out,), 9.0)], 1)[:, 0]
    parameters = layer.weight.clone(), added
    found = upsampled_by_pixel(x, *parameters)
    assert by_pixel.is_by_pixel(found) == (out > 1)
    for one, alone in zip(found, x, strict=True):
        expected = layer.double()(alone[None].double())[0].float()
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    x[4] = torch.nan
    again = upsampled_by_pixel(x, *parameters)
    assert again[4].isnan().all()
    torch.testing.assert_close(again[5:], found[5:])


@pytest.mark.parametrize(
    ("n", "out", "dtype", "at_once"),
    [
        (16, 32, torch.float32, True),
        (15, 32, torch.float32, False),
        (16, 5, torch.float32, True),
        (16, 4, torch.float32, False),
        (16, 1, torch.float32, True),
        (16, 32, torch.float64, False),
        (16, 129, torch.float32, False),
    ],
)
def test_many_outputs_of_few_channels_are_taken_pixel_by_pixel(
    n: int, out: int, dtype: torch.dtype, at_once: bool
) -> None:
    x, weight = torch.zeros(n, 32, 4, 4, dtype=dtype), torch.zeros(32, out, 4, 4, dtype=dtype)
    assert together(x, weight) == (at_once and by_pixel.by_onednn())


def through_a_view(h: Tensor) -> Tensor:
    h[:, 1:3].mul_(2)
    return h


def through_another_shape(h: Tensor) -> Tensor:
    h.view(len(h), h.shape[1], -1).mul_(2)
    return h


def of_what_was_before(h: Tensor) -> Tensor:
    """A view that is taken before what it is of is written to."""
    seen = h.flatten(2)
    h = torch.relu_(h)
    return h + seen.view_as(h)


NORM = nn.BatchNorm2d(18).eval().requires_grad_(False)
NORM.running_mean.copy_(torch.linspace(-1, 1, 18))  # type: ignore[union-attr]
NORM.running_var.copy_(torch.linspace(0.1, 2, 18))  # type: ignore[union-attr]
NORM.bias.copy_(torch.linspace(2, -1, 18))
BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu in place": torch.relu_,
    "sum in place": lambda h: h.add_(1).tanh(),
    "batch norm": lambda h: F.batch_norm(
        h, NORM.running_mean.to(h), NORM.running_var.to(h), NORM.weight.to(h), NORM.bias.to(h)
    ),
    "batch norm, no weight": lambda h: F.batch_norm(h, NORM.running_mean.to(h), NORM.running_var.to(h)),
    "group norm": lambda h: F.silu(F.group_norm(h, 3)),
    "instance norm": F.instance_norm,
    "gelu": F.gelu,
    "product": lambda h: h * h.sigmoid(),
    "skip": lambda h: h + h.relu(),
    "a view": lambda h: h[:, 1:3].sin(),
    "pixels": lambda h: h.flatten(2).cumsum(2).view_as(h),
    "axes": lambda h: h.permute(0, 2, 3, 1).contiguous().tanh().permute(0, 3, 1, 2),
    "joined": lambda h: torch.cat([h, h.exp().clamp(max=2)], 1),
    "resized": lambda h: F.interpolate(h, scale_factor=2),
    "mean": lambda h: h - h.mean((2, 3), keepdim=True),
    "through a view": through_a_view,
    "through another shape": through_another_shape,
    "of what was before": of_what_was_before,
}


@pytest.mark.parametrize(("channels", "does"), [(16, True), (17, False)])
def test_maps_doubled_and_convolved_are_taken_pixel_by_pixel_where_they_are_narrow(
    channels: int, does: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(3, channels * 16), nn.Unflatten(1, (channels, 4, 4)), nn.Tanh(), nn.Upsample(scale_factor=2),
        nn.Conv2d(channels, channels, 3, padding=1), nn.Tanh(), nn.Flatten(),
    ).requires_grad_(False)  # fmt: skip
    decoder, z, v = Decoder(network, 3), torch.randn(8, 3), torch.randn(4, 8, 3)
    seen: list[int] = []

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(len(x))
        return upsampled_by_pixel(x, weight, bias)

    monkeypatch.setattr(convolutions, "upsampled_by_pixel", counted)
    moved = pushforward(decoder, z, v)[1]
    network.double()
    J = torch.func.vmap(torch.func.jacfwd(lambda x: network(x[None])[0]))(z.double())
    torch.testing.assert_close(
        moved, torch.einsum("nmd,knd->knm", J, v.double()).float(), rtol=1e-4, atol=1e-5
    )
    assert bool(seen) is does


@pytest.mark.parametrize("name", BETWEEN)
def test_what_follows_on_maps_pixel_by_pixel_is_the_same(name: str) -> None:
    torch.manual_seed(3)
    between = BETWEEN[name]
    first, second = nn.Linear(3, 4 * 9), nn.ConvTranspose2d(4, 18, 4, 2, 1)
    channels = between(torch.zeros(1, 18, 6, 6)).shape[1]
    last = nn.ConvTranspose2d(channels, 1, 4, 2, 1)
    for layer in (first, second, last):
        layer.requires_grad_(False)

    def network(z: Tensor) -> Tensor:
        return last(between(second(first(z).tanh().view(-1, 4, 3, 3)))).sigmoid()  # type: ignore[no-any-return]

    z = torch.randn(40, 3)
    decoder = Decoder(network, 3)
    y, J, G = values(decoder, z), jacobian(decoder, z), gram(decoder, z)
    for layer in (first, second, last):
        layer.double()
    right = torch.func.vmap(torch.func.jacfwd(lambda x: network(x[None])[0].flatten()))(z.double())
    torch.testing.assert_close(y.double(), network(z.double()).flatten(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(J.double(), right, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(G, right.mT @ right, rtol=1e-3, atol=1e-4)


def by_where_they_lie(h: Tensor) -> Tensor:
    _, c, height, width = h.shape
    return h.as_strided(h.shape, (c * height * width, height * width, width, 1)).sin()


def by_where_it_says_they_lie(h: Tensor) -> Tensor:
    return h.as_strided(h.shape, h.stride()).sin()


def flat(h: Tensor) -> Tensor:
    seen = h.view(len(h), -1)
    seen.mul_(2)
    return (seen + (h > 1).flatten(1)).view_as(h)


def relu_of_flat(h: Tensor) -> Tensor:
    seen = h.flatten(1)
    F.relu(h, True)
    return (seen + h.detach().sign().flatten(1) * (seen.detach() < 0)).view_as(h)


class Ending(nn.Module):
    """A doubling convolution and what follows on its maps: a module, whose numbers in float64 explain what rounding does."""

    def __init__(self, between: Callable[[Tensor], Tensor], out: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(3, 4 * 9), nn.ConvTranspose2d(4, out, 4, 2, 1)
        self.between = between

    def forward(self, z: Tensor) -> Tensor:
        return self.between(self.second(self.first(z).view(-1, 4, 3, 3)))


@pytest.mark.parametrize("between", [by_where_they_lie, by_where_it_says_they_lie, flat, relu_of_flat])
@pytest.mark.parametrize("out", [12, 18])
@pytest.mark.parametrize("n", [15, 16])
def test_where_numbers_lie_in_memory_is_as_in_the_network_itself(
    between: Callable[[Tensor], Tensor], out: int, n: int
) -> None:
    """At few latents all of it may be as the network has it, and what differs may be at few numbers of few latents."""
    network = Ending(between, out).requires_grad_(False)
    z = torch.randn(n, 3) * torch.linspace(0, 8, n)[:, None]
    decoder = Decoder(network, 3)
    y, J, G = values(decoder, z), jacobian(decoder, z), gram(decoder, z)
    along, _ = pushforward(decoder, z, z)
    assert not choose(decoder).laid_out
    exact, z = copy.deepcopy(network).double(), z.double()
    right = torch.func.vmap(torch.func.jacfwd(lambda x: exact(x[None])[0].flatten()))(z)
    torch.testing.assert_close(y.double(), exact(z).flatten(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(along.double(), exact(z).flatten(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(J.double(), right, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(G, right.mT @ right, rtol=1e-3, atol=1e-4)
