"""Columns of convolutional decoders as windows of the output, against whole columns by plain forward mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import vaeprobe
from vaeprobe.autograd import differentiable_kernels
from vaeprobe.budget import within
from vaeprobe.decoder import Decoder
from vaeprobe.engine import costs, gram, jacobian, methods, pushforward, verbs, windows
from vaeprobe.engine.costs import gram_directions
from vaeprobe.engine.local import LocalMap
from vaeprobe.engine.methods import choose
from vaeprobe.engine.tangents import located
from vaeprobe.engine.windows import Spread, Windows
from vaeprobe.likelihoods import Bernoulli
from vaeprobe.probes import parts
from vaeprobe.probes.orthogonality.neighbours import cosines_of_the_halves, with_the_next_site
from vaeprobe.probes.parts import block_of

Function = Callable[[Tensor], Tensor]


def reference(f: Function, z: Tensor, latent: list[int]) -> Tensor:
    """Return columns of J at every latent, shape (len(latent), n, data)."""
    columns = []
    with torch.no_grad(), differentiable_kernels():
        for i in latent:
            u = torch.zeros_like(z)
            u[:, i] = 1
            columns.append(torch.func.jvp(f, (z,), (u,))[1])
    return torch.stack(columns)


def corners_and_middle(channels: int, space: tuple[int, ...]) -> list[int]:
    """Return a column at the corners of a map, beside one and in the middle, each of another channel."""
    ends = np.array(space) - 1
    places = [0 * ends, ends, ends // 2, np.minimum(ends, 1), np.where(np.arange(len(ends)) == 0, ends, 0)]
    sites = int(np.prod(space))
    return [
        (i % channels) * sites + int(np.ravel_multi_index(tuple(place), space))
        for i, place in enumerate(places)
    ]


def compare(network: Function, channels: int, space: tuple[int, ...], *, narrow: bool = True) -> None:
    """Hold windows of columns, and their Gram matrices, against whole columns; `narrow`: they are smaller than maps."""
    torch.manual_seed(1)
    z = torch.randn(2, channels * int(np.prod(space)), dtype=torch.float64)

    def f(z: Tensor) -> Tensor:
        return network(z.reshape(len(z), channels, *space)).flatten(1)

    latent = corners_and_middle(channels, space)
    truth = reference(f, z, latent)
    y, local = located(f, z)
    assert torch.allclose(y, f(z), rtol=1e-12, atol=1e-12)
    rows = [(i, point) for point in range(2) for i in range(len(latent))]
    point, which = np.array([p for _, p in rows]), np.array([latent[i] for i, _ in rows])
    expected = torch.stack([truth[i, p] for i, p in rows])
    scale = float(expected.abs().max())
    assert scale > 0 or not narrow
    own, direction = slice(0, len(latent)), np.array([i for i, _ in rows]) // 2
    sums = torch.zeros(3, 2, expected.shape[1], dtype=torch.float64)
    sums.index_put_((torch.from_numpy(direction), torch.from_numpy(point)), expected, accumulate=True)
    for most, few, tile in ((None, windows.FEW, windows.TILE), (3, windows.FEW, 0), (None, 0, 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(windows, "FEW", few)
            patch.setattr(windows, "TILE", tile)
            found = local.columns(point, which, most)
            assert float((found.whole().flatten(1) - expected).abs().max()) <= 1e-10 * scale
            assert (found.size < found.shape).any() or not narrow
            out = torch.zeros(3, 2, *found.shape, dtype=torch.float64)
            found.add_to(out, direction)
            assert float((out.flatten(2) - sums).abs().max()) <= 1e-10 * scale
            for weight in (torch.rand(found.shape, dtype=torch.float64), None):
                t = expected[own] if weight is None else expected[own] * weight.flatten()
                limit = 1e-10 * float((t @ t.T).abs().max())
                assert torch.allclose(found.of(own).gram(weight), t @ t.T, rtol=0, atol=limit)


class Gated(nn.Module):
    """Two halves of the channels, one times the sigmoid of the other."""

    def forward(self, h: Tensor) -> Tensor:
        a, b = h.chunk(2, dim=1)
        return a * torch.sigmoid(b)


class Skip(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, h: Tensor) -> Tensor:
        return h + self.body(h)


class Beside(nn.Module):
    """The input and what a body makes of it, as more channels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([h, self.body(h), torch.ones_like(h[:, :1])], dim=1)


class ChannelsLast(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.layer = nn.Linear(c, c)

    def forward(self, h: Tensor) -> Tensor:
        return self.layer(h.movedim(1, -1)).movedim(-1, 1)


def held(*layers: nn.Module) -> nn.Module:
    """Return the layers in a row, in float64, batch normalisation with statistics of its own."""
    network = nn.Sequential(*layers).double().eval().requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return network


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "kernels and strides": (lambda: nn.Conv2d(4, 4, (3, 5), (2, 1), (1, 0)), (9, 12)),
    "a stride of three": (lambda: nn.Conv2d(4, 4, 2, 3, 1), (17, 16)),
    "more padding than kernel": (lambda: nn.Conv2d(4, 4, 3, padding=3), (8, 8)),
    "dilation and groups": (lambda: nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2), (11, 9)),
    "as large, even kernel": (lambda: nn.Conv2d(4, 4, 4, padding="same"), (9, 9)),
    "as large, odd kernel": (lambda: nn.Conv2d(4, 4, 5, padding="same"), (9, 9)),
    "no padding": (lambda: nn.Conv2d(4, 4, 3, padding="valid"), (9, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 4, 4, 2, 1), (7, 8)),
    "transposed, more output": (lambda: nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1), (7, 8)),
    "transposed, dilated": (lambda: nn.ConvTranspose2d(4, 4, 3, 3, 2, 1, groups=2, dilation=2), (7, 8)),
    "one axis": (
        lambda: nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.SiLU(), nn.ConvTranspose1d(4, 4, 4, 2, 1)),
        (15,),
    ),
    "three axes": (
        lambda: nn.Sequential(
            nn.Conv3d(4, 4, 3, padding=1), nn.Upsample(scale_factor=2), nn.ConvTranspose3d(4, 2, 2, 2)
        ),
        (5, 6, 4),
    ),
    "nearest": (lambda: nn.Upsample(scale_factor=3), (5, 6)),
    "nearest, a size": (lambda: nn.Upsample(size=(10, 18)), (5, 6)),
    "nearest, exact": (lambda: nn.Upsample(scale_factor=2, mode="nearest-exact"), (5, 6)),
    "bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (6, 5)),
    "bilinear, one axis": (lambda: nn.Upsample(scale_factor=(1, 4), mode="bilinear"), (6, 5)),
    "linear": (lambda: nn.Upsample(scale_factor=2, mode="linear"), (9,)),
    "trilinear": (lambda: nn.Upsample(scale_factor=2, mode="trilinear"), (4, 5, 6)),
    "channels to pixels": (lambda: nn.PixelShuffle(2), (5, 6)),
    "pixels to channels": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.PixelUnshuffle(2)), (10, 8)),
    "means": (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), (11, 9)),
    "zeros around": (lambda: nn.ZeroPad2d((1, 2, 0, 3)), (5, 6)),
    "less around": (lambda: nn.ZeroPad2d((-1, 2, 0, -2)), (7, 6)),
    "reflected": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (9, 9)),
    "reflected unevenly": (lambda: nn.Sequential(nn.ReflectionPad2d((2, 1, 0, 3)), nn.Conv2d(4, 4, 3)), (9, 9)),
    "replicated": (lambda: nn.Conv2d(4, 4, 5, padding=2, padding_mode="replicate"), (16, 15)),
    "batch normalisation": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.LeakyReLU(0.1)), (5, 5)),
    "a skip": (lambda: Skip(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())), (7, 7)),
    "a skip in place": (lambda: Skip(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(True))), (7, 7)),
    "channels beside": (lambda: Beside(nn.Conv2d(4, 3, 3, padding=1)), (7, 7)),
    "gates": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), Gated()), (7, 7)),
    "a layer of channels": (lambda: ChannelsLast(4), (6, 6)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CASES)
def test_windows_are_the_columns(name: str) -> None:
    make, space = CASES[name]
    torch.manual_seed(0)
    compare(held(make()), 4, space)


def test_a_circle_is_whole_where_it_is_crossed() -> None:
    network = held(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"))
    compare(network, 2, (9, 9), narrow=False)
    _, local = located(lambda z: network(z.reshape(-1, 2, 9, 9)), torch.randn(1, 162).double())
    assert local.columns(np.array([0]), np.array([40])).size.tolist() == [3, 3, 3]
    assert local.columns(np.array([0]), np.array([0])).size.tolist() == [3, 9, 9]


LAYERS = (
    "conv",
    "dilated",
    "grouped",
    "strided",
    "transposed",
    "nearest",
    "bilinear",
    "skip",
    "beside",
    "pad",
    "norm",
    "shuffle",
)


@settings(max_examples=25, deadline=None)
@given(
    layers=st.lists(st.sampled_from(LAYERS), min_size=1, max_size=5),
    side=st.integers(3, 9),
    other=st.integers(3, 9),
    mode=st.sampled_from(["zeros", "reflect", "replicate"]),
    activation=st.sampled_from([nn.ReLU, nn.SiLU, nn.Tanh, lambda: nn.LeakyReLU(0.2)]),
)
def test_windows_of_random_networks_are_their_columns(
    layers: list[str], side: int, other: int, mode: str, activation: Callable[[], nn.Module]
) -> None:
    torch.manual_seed(0)
    made: list[nn.Module] = []
    c, scale = 4, 1
    for i, layer in enumerate(layers):
        if layer == "strided" and layer in layers[:i]:
            continue  # reflection needs two places
        if layer in ("transposed", "nearest", "bilinear", "shuffle"):
            if scale >= 4:
                continue
            scale *= 2
        made += {
            "conv": lambda: [nn.Conv2d(c, c, 3, padding=1, padding_mode=mode)],
            "dilated": lambda: [nn.Conv2d(c, c, 3, padding=2, dilation=2)],
            "grouped": lambda: [nn.Conv2d(c, c, (1, 3), padding=(0, 1), groups=2)],
            "strided": lambda: [nn.Conv2d(c, c, 3, stride=2, padding=1)],
            "transposed": lambda: [nn.ConvTranspose2d(c, c, 4, 2, 1)],
            "nearest": lambda: [nn.Upsample(scale_factor=2)],
            "bilinear": lambda: [nn.Upsample(scale_factor=2, mode="bilinear")],
            "skip": lambda: [Skip(nn.Sequential(nn.Conv2d(c, c, 3, padding=1), activation()))],
            "beside": lambda: [Beside(nn.Conv2d(c, c, 3, padding=1)), nn.Conv2d(2 * c + 1, c, 1)],
            "pad": lambda: [nn.ReplicationPad2d((1, 0, 2, 1))],
            "norm": lambda: [nn.BatchNorm2d(c)],
            "shuffle": lambda: [nn.Conv2d(c, 4 * c, 1), nn.PixelShuffle(2)],
        }[layer]()
        made.append(activation())
    compare(held(*made), c, (side, other), narrow=False)


@pytest.mark.parametrize(
    ("make", "by"),
    [
        (lambda: nn.GroupNorm(2, 4), "group_norm"),
        (lambda: nn.InstanceNorm2d(4), "instance_norm"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(100, 100)), "linear"),
        (lambda: nn.Sequential(nn.Flatten(2), nn.Softmax(-1)), "flatten"),
        (lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), "interpolate"),
        (lambda: nn.Upsample(scale_factor=1.4), "interpolate"),
        (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), "interpolate"),
        (lambda: nn.AdaptiveAvgPool2d(1), "adaptive_avg_pool2d"),
    ],
)
def test_what_spreads_a_latent_is_named(make: Callable[[], nn.Module], by: str) -> None:
    network = held(nn.Conv2d(4, 4, 3, padding=1), make())
    with pytest.raises(Spread) as caught:
        located(lambda z: network(z.reshape(-1, 4, 5, 5)).flatten(1), torch.randn(2, 100).double())
    assert caught.value.by == by


def convolutional(side: int, *more: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return held(
        nn.Unflatten(1, (3, side, side)), nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2),
        nn.Conv2d(6, 6, 3, padding=1), *more, nn.Sigmoid(),
    )  # fmt: skip


def test_gram_takes_windows_where_they_are_small() -> None:
    decoder = Decoder(convolutional(12), 432)
    choice = choose(decoder)
    assert choice.reach is not None
    assert choice.reach.window == (6, 8, 8)
    assert choice.reach.shape == (6, 24, 24)
    assert choice.reach.widest == 6 * 8 * 8
    assert choice.reach.work < 0.8 * choice.work
    assert not choice.spread
    z = torch.randn(3, 432).double()
    columns = torch.stack([torch.arange(3) * 144 + site for site in (0, 77, 143, 6)])
    for likelihood in (None, Bernoulli()):
        truth = gram(whole(decoder), z, likelihood=likelihood)
        one = gram(decoder, z, columns=columns[:3], likelihood=likelihood)
        assert torch.allclose(one, torch.stack([G[c][:, c] for G, c in zip(truth, columns, strict=False)]))
        several = gram(decoder, z, columns=columns.expand(3, -1, -1), likelihood=likelihood)
        assert several.shape == (3, 4, 3, 3)
        assert torch.allclose(several, torch.stack([truth[:, c][:, :, c] for c in columns], dim=1))
        assert torch.allclose(gram(decoder, z, likelihood=likelihood), truth)


def whole(decoder: Decoder) -> Decoder:
    """Return the same decoder, of which only whole columns are taken."""
    other = replace(decoder, name="whole")
    methods._choices[other] = {False: replace(choose(other), reach=None)}
    return other


def test_blocks_of_whole_columns_are_the_same() -> None:
    decoder = whole(Decoder(convolutional(6), 108))
    z, columns = torch.randn(2, 108).double(), torch.randint(108, (2, 3, 4))
    blocks = gram(decoder, z, columns=columns)
    assert blocks.shape == (2, 3, 4, 4)
    assert torch.equal(blocks[:, 1], gram(decoder, z, columns=columns[:, 1]))


def test_windows_that_fail_are_tried_once_for_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, tried = Decoder(convolutional(12), 432), []

    def spread(*_: object) -> Any:
        tried.append(1)
        raise Spread

    z, columns = torch.randn(2, 432).double(), torch.randint(432, (2, 3, 4))
    expected = gram(decoder, z, columns=columns)
    monkeypatch.setattr(verbs, "_gram_of_windows", spread)
    torch.testing.assert_close(gram(decoder, z, columns=columns), expected)
    assert len(tried) == 1


def whole_jacobians(f: Function, z: Tensor) -> Tensor:
    """Return the Jacobians of plain forward mode, shape (n, data, latent)."""
    J: Tensor = torch.func.vmap(torch.func.jacfwd(lambda x: f(x[None])[0].flatten()))(z)
    return J


@pytest.fixture
def no_whole_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    def push(*_: object) -> Any:
        raise AssertionError("a whole column")

    monkeypatch.setattr(methods.Choice, "push", push)


@pytest.mark.usefixtures("no_whole_columns")
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_columns_of_a_jacobian_are_windows_and_zero_elsewhere(
    dtype: torch.dtype, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, z = convolutional(8), torch.randn(3, 192).double()
    J = whole_jacobians(network, z)
    decoder = Decoder(convolutional(8).to(dtype), 192)
    places = torch.tensor([0, 7, 56, 63, 9, 27, 28]) + 64 * torch.arange(3)[:, None]
    for columns, held in (
        (places.flatten(), verbs.HELD),
        (torch.randint(192, (3, 6)), verbs.HELD),
        (torch.randint(192, (3, 6)), 9000),  # some windows at a time
        (None, verbs.HELD),
    ):
        monkeypatch.setattr(verbs, "HELD", held)
        taken = torch.arange(192) if columns is None else columns
        truth = J.gather(2, taken.expand(3, -1)[:, None].expand(-1, J.shape[1], -1))
        found = jacobian(decoder, z, columns=columns)
        assert found.shape == truth.shape
        assert found.dtype == dtype
        assert float((found - truth).abs().max()) <= limit * float(truth.abs().max())
        assert not found[truth == 0].any()
        assert float((truth == 0).double().mean()) > 0.7
    assert jacobian(decoder, z, columns=torch.arange(0)).shape == (3, 1536, 0)
    assert jacobian(decoder, z[:0], columns=torch.arange(2)).shape == (0, 1536, 2)


@pytest.mark.usefixtures("no_whole_columns")
def test_directions_along_few_latents_are_sums_of_windows() -> None:
    decoder, z = Decoder(convolutional(12), 432), torch.randn(2, 432).double()
    J = whole_jacobians(decoder.flat, z)
    v = torch.zeros(4, 2, 432).double()
    v[0, :, [5, 6, 18]] = torch.randn(2, 3).double()  # windows that overlap
    v[1, 0, [0, 143, 431]] = torch.randn(3).double()
    v[2, 1, 77] = 1
    y, Jv = pushforward(decoder, z, v)  # and nothing along the last
    truth = torch.einsum("nmk,snk->snm", J, v)
    assert torch.allclose(y, decoder.flat(z))
    assert float((Jv - truth).abs().max()) <= 1e-10 * float(truth.abs().max())
    assert torch.equal(Jv != 0, truth != 0)
    assert not pushforward(decoder, z, 0 * v)[1].any()


def test_directions_are_whole_where_their_windows_take_longer() -> None:
    decoder, z = Decoder(convolutional(12), 432), torch.randn(2, 432).double()
    choice = choose(decoder)
    assert choice.reach is not None
    most = int(0.8 * choice.work / choice.reach.work)  # latents along each direction
    assert most > 1
    J = whole_jacobians(decoder.flat, z)
    for along, taken in ((most, True), (most + 1, False)):
        v = torch.zeros(3, 2, 432).double()
        v[..., torch.randperm(432)[:along]] = torch.randn(along).double()
        with pytest.MonkeyPatch.context() as patch:
            if taken:  # it would not do without
                patch.delattr(methods.Choice, "push")
            else:
                patch.delattr(methods.Choice, "locate")
            _, Jv = pushforward(decoder, z, v)
        truth = torch.einsum("nmk,snk->snm", J, v)
        assert float((Jv - truth).abs().max()) <= 1e-10 * float(truth.abs().max())


def test_columns_over_the_whole_output_are_the_same() -> None:
    network, z, columns = (
        convolutional(6, nn.GroupNorm(2, 6)),
        torch.randn(2, 108).double(),
        torch.randint(108, (2, 7)),
    )
    decoder = Decoder(network, 108)
    assert choose(decoder).reach is None
    J = whole_jacobians(network, z)
    for taken in (columns, columns[0]):
        truth = J.gather(2, taken.expand(2, -1)[:, None].expand(-1, J.shape[1], -1))
        assert torch.allclose(
            jacobian(decoder, z, columns=taken), truth, rtol=0, atol=1e-10 * float(truth.abs().max())
        )
    v = torch.zeros(2, 108).double()
    v[:, 5] = 2
    assert torch.allclose(pushforward(decoder, z, v)[1], 2 * J[:, :, 5], rtol=0, atol=1e-10)


def test_random_latents_come_from_windows_of_all_places() -> None:
    decoder = Decoder(convolutional(12), 432)
    z, some = torch.randn(2, 432).double(), torch.randperm(432)[:40]
    found = gram(decoder, z, columns=some.expand(2, -1))
    truth = gram(whole(decoder), z, columns=some.expand(2, -1))
    assert torch.allclose(found, truth, rtol=0, atol=1e-12 * float(truth.max()))


def test_neighbouring_sites_have_the_cosines_of_whole_columns() -> None:
    decoder = replace(Decoder(convolutional(12), 432), latent_shape=(3, 12, 12))
    assert choose(decoder).reach is not None
    z = torch.randn(3, 432).double()
    block = block_of(decoder, "channels", 3, 0)
    assert block is not None
    columns = with_the_next_site(decoder, block, 3, 0)
    found = [cosines_of_the_halves(gram(d, z, columns=columns)) for d in (decoder, whole(decoder))]
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "were measured, each in the 8 x 8 of 24 x 24 outputs that a latent reaches"),
        (
            (nn.GroupNorm(2, 6),),
            "were measured, each over the whole output (`group_norm` may spread a latent over the whole output)",
        ),
    ],
)
def test_orthogonality_says_how_far_a_latent_reaches(more: tuple[nn.Module, ...], words: str) -> None:
    decoder = replace(Decoder(convolutional(12, *more), 432), latent_shape=(3, 12, 12))
    result = vaeprobe.orthogonality(decoder, samples=4)
    (note,) = [f for f in result.findings if f.code == "part-of-jacobian"]
    assert words in note.message


def test_windows_that_are_small_on_the_way_alone_go_without_saying() -> None:
    choice = choose(Decoder(convolutional(12), 432))
    assert choice.reach is not None
    assert choice.how
    assert not replace(choice, reach=replace(choice.reach, window=choice.reach.shape)).how


@pytest.mark.parametrize("window", [0.01, 3.0])
def test_what_a_window_takes_is_timed_where_anybody_asks(
    window: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work, where nobody does; the first time, which is dearer, is none."""
    decoder, now, first = Decoder(convolutional(12), 432), [0.0], [5.0, 0.0]

    class Timed:
        def columns(self, point: object, latent: Any) -> Timed:
            now[0] += len(latent) * window + first.pop(0)
            return self

        def gram(self, factor: None) -> None:
            pass

    monkeypatch.setattr(costs, "windowed", lambda f, x: (None, Timed()))
    monkeypatch.setattr(costs, "pace", lambda decoder, at_once: 0.5)
    monkeypatch.setattr(costs.time, "monotonic", lambda: now[0])
    reach = choose(decoder).reach
    assert reach is not None
    assert gram_directions(decoder, 40) == pytest.approx(1 + 40 * reach.work / choose(decoder).work)
    with within(1e9):
        assert gram_directions(decoder, 40) == pytest.approx(1 + 40 * window / 0.5)


def test_small_windows_afford_more_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(convolutional(12), 432)
    choice = choose(decoder)
    assert choice.reach is not None
    assert choice.work_of(3) == choice.work + 3 * choice.reach.work < 3 * choice.work
    assert gram_directions(decoder, 3) == pytest.approx(choice.work_of(3) / choice.work)
    assert gram_directions(whole(decoder), 3) == 4
    monkeypatch.setattr(parts, "WORK", 100 * choice.work_of(3) + 1)
    assert parts.affordable(decoder, 3, 256, grams=1) == 100
    assert parts.affordable(decoder, 6, 256, grams=2) == 50
    assert parts.affordable(decoder, 3, 256) < 100


def test_a_normalisation_over_the_map_keeps_whole_columns_and_is_named() -> None:
    choice = choose(Decoder(convolutional(12, nn.GroupNorm(2, 6)), 432))
    assert choice.method is methods.carried
    assert choice.reach is None
    assert choice.spread == "`group_norm` may spread a latent over the whole output"


def test_windows_as_large_as_the_output_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "WORTH", 0)
    network = convolutional(3)
    choice = choose(Decoder(network, 27))
    assert choice.reach is None
    assert choice.spread == "a latent reaches 6 x 6 of 6 x 6 outputs"


@pytest.mark.parametrize(("share", "taken"), [(0.99, False), (1.01, True)])
def test_windows_pay_up_to_a_share_of_the_work(
    monkeypatch: pytest.MonkeyPatch, share: float, taken: bool
) -> None:
    choice = choose(Decoder(convolutional(12), 432))
    assert choice.reach is not None
    monkeypatch.setattr(methods, "WORTH", share * choice.reach.work / choice.work)
    assert (choose(Decoder(convolutional(12), 432)).reach is not None) is taken


@pytest.mark.parametrize(("error", "taken"), [(0.4e-9, True), (2e-9, False)])
def test_windows_that_disagree_with_forward_mode_are_not_taken(
    monkeypatch: pytest.MonkeyPatch, error: float, taken: bool
) -> None:
    right = LocalMap.columns

    def wrong(*args: Any) -> Windows:
        found = right(*args)
        return replace(found, values=found.values * (1 + error))

    monkeypatch.setattr(LocalMap, "columns", wrong)
    choice = choose(Decoder(convolutional(12), 432))
    assert (choice.reach is not None) is taken
    assert choice.spread == ("" if taken else "windows of columns disagree with plain forward mode")


def test_control_flow_that_leads_elsewhere_takes_whole_columns() -> None:
    network, norm = convolutional(12), nn.GroupNorm(1, 6).double()

    def f(z: Tensor) -> Tensor:
        y = network(z)
        return norm(y) if bool((z > 100).any()) else y

    decoder = Decoder(f, 432, dtype=torch.float64)
    assert choose(decoder).reach is not None
    z, some = 1000 + torch.randn(2, 432).double(), torch.arange(5).expand(2, -1)
    found = gram(decoder, z, columns=some)
    J = reference(lambda z: f(z).flatten(1), z, list(range(5))).transpose(0, 1)
    assert torch.allclose(found, J @ J.mT, rtol=1e-9, atol=1e-20)
    columns = jacobian(decoder, z, columns=some).mT
    assert torch.allclose(columns, J, rtol=1e-9, atol=1e-20)


def test_float32_windows_agree_to_its_rounding() -> None:
    network = convolutional(12).float()
    z, some = torch.randn(2, 432), torch.arange(0, 432, 29).expand(2, -1)
    decoder = Decoder(network, 432)
    assert choose(decoder).reach is not None
    truth = gram(Decoder(convolutional(12), 432), z.double(), columns=some)
    found = gram(decoder, z, columns=some)
    assert float((found - truth).abs().max()) <= 1e-5 * float(truth.abs().max())


class AlongChannels(nn.Module):
    """A normalisation or gate of all channels at a place, between convolutions."""

    def __init__(self, of: Callable[[Tensor, Tensor, Tensor], Tensor], gates: bool = False) -> None:
        super().__init__()
        self.of = of
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.weight, self.bias = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.last = nn.Conv2d(4 if gates else 8, 2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.of(self.first(z.unflatten(1, (3, 8, 8))).tanh(), self.weight, self.bias)
        return self.last(F.interpolate(x, scale_factor=2).sin())


def last(norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return norm(x.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize(
    ("of", "gates"),
    [
        (lambda x, w, b: last(lambda t: F.layer_norm(t, (8,), w, b), x), False),
        (lambda x, w, b: last(lambda t: F.layer_norm(t, (8,), eps=0.1), x), False),
        (lambda x, w, b: last(lambda t: F.rms_norm(t, (8,), w), x), False),
        (lambda x, w, b: last(lambda t: F.rms_norm(t, (8,), eps=0.1), x), False),
        (lambda x, w, b: F.normalize(x, dim=1) * w[:, None, None], False),
        (lambda x, w, b: F.glu(x * w[:, None, None], 1), True),
    ],
)
def test_norms_and_gates_of_channels_keep_windows(of: Any, gates: bool) -> None:
    torch.manual_seed(0)
    network, z = AlongChannels(of, gates).double().requires_grad_(False), torch.randn(2, 192).double()
    y, map = located(lambda x: network(x).flatten(1), z)
    torch.testing.assert_close(y, network(z).flatten(1))
    point, latent = np.repeat([0, 1], 192), np.tile(np.arange(192), 2)
    windows = map.columns(point, latent)
    assert windows.size.tolist() == [2, 8, 8]
    right = torch.stack(
        [torch.autograd.functional.jacobian(lambda u: network(u[None]).flatten(), row) for row in z]
    )
    found = windows.whole().reshape(2, 192, -1).mT
    torch.testing.assert_close(found, right, rtol=0, atol=1e-12)
    torch.testing.assert_close(gram(network, z), right.mT @ right)


@pytest.mark.parametrize(
    ("of", "by"),
    [
        (lambda x, w, b: F.layer_norm(x, x.shape[1:]), "layer_norm"),
        (lambda x, w, b: F.rms_norm(x, x.shape[1:]), "rms_norm"),
        (lambda x, w, b: F.normalize(x, p=1.0, dim=1), "normalize"),
        (lambda x, w, b: F.normalize(x, dim=1, eps=1e3), "normalize"),
        (lambda x, w, b: F.normalize(x.flatten(1)).view_as(x), "normalize"),
    ],
)
def test_norms_that_are_not_of_channels_spread(of: Any, by: str) -> None:
    torch.manual_seed(0)
    network = AlongChannels(of).double().requires_grad_(False)
    with pytest.raises(Spread) as spread:
        located(lambda x: network(x).flatten(1), torch.randn(2, 192).double())
    assert spread.value.by == by
