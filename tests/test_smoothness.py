"""Smooth, kinked or piecewise linear: told by what a network does, not by what its layers are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vaeprobe.decoder import Decoder
from vaeprobe.geometry import smoothness as judged
from vaeprobe.geometry.smoothness import departures, discontinuities, metric_derivatives, smoothness
from vaeprobe.likelihoods import Bernoulli

import maps


def kind(decoder: Decoder, order: int = 1, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    a, b, u = (torch.from_numpy(rng.standard_normal((12, decoder.latent_dim))) for _ in range(3))
    return smoothness(decoder, a, b, u, order=order).kind  # type: ignore[arg-type]


def network(activation: nn.Module, *, last: nn.Module | None = None) -> Decoder:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 40), activation, nn.Linear(40, 40), activation, nn.Linear(40, 20)]
    net = nn.Sequential(*layers, *([last] if last else []))
    for p in net.parameters():
        p.data *= 1.5
    return Decoder(net, 3)


@pytest.mark.parametrize(
    ("map", "expected"),
    [
        (maps.a(3), "linear"),
        (maps.b1(4), "smooth"),
        (maps.c2(3), "smooth"),
        (maps.g(2), "smooth"),  # a pole at 0, which no segment hits
        (maps.c4(), "piecewise linear"),
        (maps.parabolic(), "kinked"),  # cut along a half line
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_maps(map: maps.ExactMap, expected: str, dtype: torch.dtype) -> None:
    assert kind(maps.decoder(map, dtype=dtype)) == expected


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.SiLU(), nn.Mish(), nn.GELU(), nn.Softplus()], ids=repr)
def test_smooth_networks(activation: nn.Module) -> None:
    assert kind(network(activation)) == "smooth"
    assert kind(network(activation, last=nn.Sigmoid())) == "smooth"


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.PReLU()], ids=repr)
def test_networks_with_kinks(activation: nn.Module) -> None:
    assert kind(network(activation)) == "piecewise linear"
    assert kind(network(activation, last=nn.Sigmoid())) == "kinked"


def test_elu_has_kinks_in_its_second_derivative() -> None:
    assert kind(network(nn.ELU()), order=2) == "kinked"
    assert kind(network(nn.Tanh()), order=2) == "smooth"


def test_many_outputs_are_sketched() -> None:
    torch.manual_seed(0)
    for activation, expected in ((nn.Tanh(), "smooth"), (nn.ReLU(), "piecewise linear")):
        net = nn.Sequential(nn.Linear(3, 30), activation, nn.Linear(30, 3000))
        assert kind(Decoder(net, 3)) == expected


def jumps(decoder: Decoder, rows: int = 24) -> float | None:
    rng = np.random.default_rng(1)
    a, b = (torch.from_numpy(rng.standard_normal((rows, decoder.latent_dim))) for _ in range(2))
    return discontinuities(decoder, a, b)


@pytest.mark.parametrize(
    "map", [maps.a(3), maps.b1(4), maps.b3(), maps.c2(3), maps.c4(), maps.g(2), maps.e(3)], ids=repr
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_continuous_maps_have_no_jumps(map: maps.ExactMap, dtype: torch.dtype) -> None:
    assert jumps(maps.decoder(map, dtype=dtype)) == 0


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.LeakyReLU(0.01), nn.ELU()], ids=repr)
def test_continuous_networks_have_no_jumps(activation: nn.Module) -> None:
    assert jumps(network(activation)) == 0
    assert jumps(network(activation, last=nn.Sigmoid())) == 0


@pytest.mark.parametrize("height", [1.0, 1e-3, -4.0])
def test_jumps_are_found_where_they_are(height: float) -> None:
    """A step at z_0 = 0: on the segments whose ends lie on either side of it, however low it is."""
    found = Decoder(lambda z: z + height * (z[:, :1] > 0).to(z.dtype), 2, dtype=torch.float64)
    rng = np.random.default_rng(1)
    a, b = (torch.from_numpy(rng.standard_normal((24, 2))) for _ in range(2))
    crossing = ((a[:, 0] > 0) != (b[:, 0] > 0)).double().mean()
    assert jumps(found) == pytest.approx(float(crossing) if abs(height) > 0.01 else 0.0)
    # a step that falls under a hundredth of a part's length is taken for curvature


def test_the_cut_of_a_square_root_is_a_jump() -> None:
    assert 0 < (jumps(maps.decoder(maps.parabolic()), 60) or 0) < 0.5


def test_what_cannot_be_differentiated_twice_is_unknown() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)  # type: ignore[attr-defined]
            return x * x

        @staticmethod
        def backward(ctx: object, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
            return 2 * x * g

    found = Decoder(Square.apply, 2)
    assert found.differentiation == "reverse"
    z = torch.randn(3, 2)
    seen = smoothness(found, z, z + 1, z)
    assert seen.kind == "unknown"
    assert not seen.smooth
    assert "forward-mode" in seen.why


@pytest.mark.parametrize("likelihood", [None, Bernoulli()])
@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU(), nn.Mish()], ids=repr)
def test_derivatives_of_the_metric_match_finite_differences(
    activation: nn.Module, likelihood: Bernoulli | None
) -> None:
    torch.manual_seed(1)
    logits = nn.Sequential(nn.Linear(4, 16), activation, nn.Linear(16, 12)).double()
    decoder = Decoder(nn.Sequential(logits, nn.Sigmoid()), 4, natural=logits)
    latents, h = [0, 1, 3], 1e-4
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 4)))

    def at(x: Tensor) -> tuple[Tensor, Tensor]:
        G, dG, _ = metric_derivatives(decoder, x, latents, likelihood=likelihood, order=1)
        return G, dG

    _, dG, ddG = metric_derivatives(decoder, z, latents, likelihood=likelihood)
    assert ddG is not None
    for place, latent in enumerate(latents):
        step = torch.zeros(4, dtype=torch.float64)
        step[latent] = h
        (up, dup), (down, ddown) = at(z + step), at(z - step)
        assert torch.allclose((up - down) / (2 * h), dG[:, place], atol=1e-6 * float(dG.abs().max()))
        assert torch.allclose((dup - ddown) / (2 * h), ddG[:, place], atol=1e-6 * float(ddG.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_jump_that_few_latents_lie_beyond_is_seen(dtype: torch.dtype) -> None:
    from vaeprobe.probes.factorise import Factorise

    def jumping(z: torch.Tensor) -> torch.Tensor:
        return torch.stack([1.5 * z[:, 0] + 5 * (z[:, 1] > 2.5).to(z.dtype), 0.5 * z[:, 1] + 100], -1)

    def smooth(z: torch.Tensor) -> torch.Tensor:
        return torch.stack([1.5 * z[:, 0], 0.5 * z[:, 1] + 100], -1)

    z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    beyond = float((z[:, 1] > 2.5).double().mean())
    assert 0 < beyond < 0.01
    assert departures(Decoder(jumping, 2, dtype=dtype), z) == pytest.approx(beyond)
    assert departures(Decoder(smooth, 2, dtype=dtype), z) == 0
    rare = Factorise(samples=1024, max_samples=2048, seed=0).measure(Decoder(jumping, 2, dtype=dtype))
    assert rare.verdict != "linear"
    assert "discontinuous" in {f.code for f in rare.findings}
    plain = Factorise(samples=1024, max_samples=4096, seed=0).measure(Decoder(smooth, 2, dtype=dtype))
    assert plain.verdict == "linear"
    assert "discontinuous" not in {f.code for f in plain.findings}


def test_a_bend_is_no_departure() -> None:
    """x = z + b z^2/2 misses what J takes from the origin by half of what its slope changes; change that J does not know shows."""
    z = torch.randn(500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for bend, unseen, expected in (
        (1e-3, 0.0, 0.0),
        (0.0, 0.9e-4, 0.0),
        (0.0, 1.1e-4, 1.0),
        (1e-3, 0.01, 1.0),
    ):

        def f(z: torch.Tensor, bend: float = bend, unseen: float = unseen) -> torch.Tensor:
            return z + bend * z.square() / 2 + unseen * z.detach()

        assert departures(Decoder(f, 1, dtype=torch.float64), z) == expected


@pytest.mark.parametrize("wrong", [lambda y: 1.001 * y, lambda y: 1 / 0])
def test_a_wrong_fast_way_to_second_derivatives_is_not_taken(
    wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held to forward mode of forward mode at a few latents."""
    right, asked = judged.second_derivative, []

    def second(f: object, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        asked.append(len(x))
        found = right(f, x, u, v)  # type: ignore[arg-type]
        return (*found[:3], wrong(found[3]))  # type: ignore[operator]

    network = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 8))
    z = torch.randn(3, 8, 3, dtype=torch.float64)
    decoder = Decoder(network.double(), 3)
    assert smoothness(decoder, *z).kind == "smooth"
    monkeypatch.setattr(judged, "second_derivative", second)
    assert smoothness(decoder, *z).kind == "smooth"
    assert asked == [judged.FIRST]
