"""What the door of windows lets through: decoders that break locality late, and kinks that rounding decides."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaeprobe.autograd import differentiable_kernels
from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram, methods
from vaeprobe.engine.methods import choose

SIDE, CHANNELS = 12, 3
LATENTS = CHANNELS * SIDE * SIDE


def network(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (CHANNELS, SIDE, SIDE)),
        nn.Conv2d(CHANNELS, 6, 3, padding=1, **settings),
        nn.SiLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(6, 4, 3, padding=1, **settings),
    ).double().requires_grad_(False)  # fmt: skip


BODY = network()
RAMP = torch.linspace(-1, 1, 24, dtype=torch.float64)


def hidden_mean(h: Tensor) -> Tensor:
    return 1e-6 * h.mean(dim=[2, 3], keepdim=True)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    scripted_mean = torch.jit.script(hidden_mean)


class HiddenMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h + 1e-6 * h.mean(dim=(2, 3), keepdim=True)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> Tensor:
        return w + 1e-6 * w.mean(dim=(2, 3), keepdim=True)

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return t + 1e-6 * t.mean(dim=(2, 3), keepdim=True)


def attention(h: Tensor) -> Tensor:
    t = F.avg_pool2d(h, 4).flatten(2).mT
    mixed = F.scaled_dot_product_attention(t, t, t).mT.unflatten(2, (6, 6))
    return h + 1e-6 * F.interpolate(mixed, scale_factor=4.0)


def squeezed(h: Tensor) -> Tensor:
    return h * torch.sigmoid(1e-6 * F.adaptive_avg_pool2d(h, 1))


def strided(h: Tensor) -> Tensor:
    h = h.contiguous()
    return h + 1e-6 * h.as_strided(h.shape, (h.stride(0), h.stride(1), 1, 24))  # the transposed map


def assigned(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, :, 0, 0] += 1e-6 * h.sum(dim=(2, 3))
    return h


def filtered(h: Tensor) -> Tensor:
    """Filters that are made of the map itself."""
    kernel = 1e-6 * h[:, :, :3, :3].reshape(-1, 1, 3, 3)
    n, c = h.shape[:2]
    return h + F.conv2d(h.reshape(1, n * c, 24, 24), kernel, padding=1, groups=n * c).reshape(h.shape)


SPREADS: dict[str, Callable[[Tensor], Tensor]] = {
    "a mean of the map": lambda h: h + 1e-6 * h.mean(dim=(2, 3), keepdim=True),
    "a mean in an autograd function": HiddenMean.apply,
    "a mean in a scripted function": lambda h: h + scripted_mean(h),
    "attention at one scale": attention,
    "squeeze and excitation": squeezed,
    "a softmax over places": lambda h: h + 1e-6 * h.flatten(2).softmax(-1).reshape(h.shape),
    "a norm of rows": lambda h: F.normalize(h, dim=3),
    "strides of another map": strided,
    "a corner that is written to": assigned,
    "filters of the map": filtered,
    "a sum along an axis": lambda h: h + 1e-6 * h.cumsum(dim=2),
    "a flip": lambda h: h + 1e-6 * h.flip(3),
    "a roll": lambda h: h + 1e-6 * h.roll(12, dims=2),
    "a matrix of places": lambda h: h + 1e-6 * torch.ones(24, 24).double() @ h,
    "a Fourier transform": lambda h: h + 1e-6 * torch.fft.fft2(h).real,
    "the largest of the map": lambda h: h + 1e-6 * h.amax(dim=(2, 3), keepdim=True),
}  # fmt: skip

STAYS: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any]]] = {
    "a ramp": (lambda h: h * RAMP + RAMP[:, None], {}),
    "a branch on the size": (lambda h: h.sin() if h.shape[-1] < 30 else h.mean(), {}),
    "a border of its own": (lambda h: F.pad(F.conv2d(h, torch.ones(4, 4, 3, 3).double()), (1, 1, 1, 1), value=2), {}),
    "a mask of the data": (lambda h: torch.where(h > 0.1, h, h.sin()), {}),
    "a mask of the whole map": (lambda h: torch.where(h.detach() > h.detach().mean(dim=(1, 2, 3), keepdim=True), h, 2 * h), {}),
    "a circle": (lambda h: h, {"padding_mode": "circular"}),
    "reflection": (lambda h: h, {"padding_mode": "reflect"}),
    "replication": (lambda h: h, {"padding_mode": "replicate"}),
}  # fmt: skip


def decoder_of(late: Callable[[Tensor], Tensor], body: nn.Module = BODY) -> Decoder:
    return Decoder(lambda z: late(body(z)), LATENTS, dtype=torch.float64)


@pytest.mark.parametrize("name", SPREADS)
def test_windows_are_refused_where_locality_breaks_late(name: str) -> None:
    assert choose(decoder_of(lambda h: h)).reach is not None  # else this would not tell anything
    choice = choose(decoder_of(SPREADS[name]))
    assert choice.reach is None
    assert choice.spread or choice.method is not methods.carried


def truth_of(decoder: Decoder, z: Tensor, columns: Tensor) -> Tensor:
    """Return Gram matrices of columns, (s,), of plain forward mode, shape (n, s, s)."""
    J = []
    for i in columns.tolist():
        u = torch.zeros_like(z)
        u[:, i] = 1
        with torch.no_grad(), differentiable_kernels():
            J.append(torch.func.jvp(decoder.flat, (z,), (u,))[1])
    t = torch.stack(J, dim=1).double()
    return t @ t.mT


def places() -> Tensor:
    """Return all channels of the four corners, of a place beside one, of the middle of an edge and of the map's."""
    sites = torch.tensor(
        [0, SIDE - 1, SIDE * (SIDE - 1), SIDE**2 - 1, SIDE + 1, SIDE // 2, SIDE * SIDE // 2 + 5]
    )
    return (torch.arange(CHANNELS)[:, None] * SIDE**2 + sites).flatten()


@pytest.mark.parametrize("name", STAYS)
def test_gram_is_that_of_whole_columns_where_locality_holds(name: str) -> None:
    late, settings = STAYS[name]
    decoder = decoder_of(late, network(**settings))
    z = 3 * torch.randn(2, LATENTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    truth = truth_of(decoder, z, places())
    found = gram(decoder, z, columns=places())
    assert float((found - truth).abs().max()) <= 1e-10 * float(truth.abs().max())


@pytest.mark.parametrize("hidden", [False, True])
def test_a_leak_that_no_rule_sees_is_seen_by_reverse_mode(
    monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    """A leak of 1e-12 of a column, below every tolerance, as it were if a rule had forgotten it."""
    strength = 1e-12 if hidden else 0.0
    leaks = lambda h: h + strength * h.mean(dim=(2, 3), keepdim=True)  # noqa: E731
    f, g = decoder_of(leaks), decoder_of(lambda h: h)
    local = methods._located(g.flat, g._probe_rows(methods.TEST_POINTS))
    monkeypatch.setattr(methods, "_located", lambda *_: local)
    choice = choose(f)
    assert (choice.reach is None) is hidden
    assert choice.spread == ("outputs outside of its window depend on a latent" if hidden else "")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
def test_weights_of_every_precision_and_layout(dtype: torch.dtype, last: bool) -> None:
    body = network().to(dtype)
    if last:
        body = body.to(memory_format=torch.channels_last)
    decoder = Decoder(body, LATENTS)
    assert choose(decoder).reach is not None
    z = torch.randn(3, LATENTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wide = Decoder(network().to(dtype).double(), LATENTS)  # the same weights
    truth = truth_of(wide, z, places())
    found = gram(decoder, z, columns=places())
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    assert float((found - truth).abs().max()) <= tolerance * float(truth.abs().max())


def test_a_second_input_that_is_held() -> None:
    torch.manual_seed(2)
    body, condition = network(), torch.randn(1, 4, 24, 24, dtype=torch.float64)
    decoder = Decoder(lambda z: torch.tanh(body(z) + condition) * condition, LATENTS, dtype=torch.float64)
    assert choose(decoder).reach is not None
    z = torch.randn(2, LATENTS, dtype=torch.float64)
    truth = truth_of(decoder, z, places())
    assert torch.allclose(gram(decoder, z, columns=places()), truth, rtol=0, atol=1e-10 * float(truth.max()))


def test_random_columns_that_differ_from_latent_to_latent() -> None:
    decoder = decoder_of(lambda h: h)
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(3, LATENTS, dtype=torch.float64, generator=generator)
    columns = torch.stack([torch.randperm(LATENTS, generator=generator)[:30] for _ in range(3)])
    found = gram(decoder, z, columns=columns)
    for i in range(3):
        truth = truth_of(decoder, z[i : i + 1], columns[i])[0]
        assert torch.allclose(found[i], truth, rtol=0, atol=1e-10 * float(truth.abs().max()))


@pytest.mark.parametrize(("error", "steady", "taken"), [
    (0.5e-4, 0.0, True), (2e-4, 0.0, False), (2e-4, 1e-4, True), (4.5e-4, 1e-4, False), (2e-2, 1.0, False),
])  # fmt: skip
def test_tangents_are_held_as_close_as_rounding_leaves_them(error: float, steady: float, taken: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 4, generator=generator), torch.randn(3, 50, generator=generator)
    t = torch.randn(2, 3, 50, generator=generator)
    G = torch.einsum("inx,jnx->nij", t.double(), t.double())
    truth = methods._Truth(methods._Found(y, t, G), lambda _: t[0] * (1 + steady), x)
    assert truth.agrees(y, t * (1 + error), G) is taken


@pytest.mark.parametrize(("error", "taken"), [(0.5e-4, True), (2e-4, False)])
def test_gram_matrices_and_values_are_held_close_whatever_the_kinks(error: float, taken: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 4, generator=generator), torch.randn(3, 50, generator=generator)
    t = torch.randn(2, 3, 50, generator=generator)
    G = torch.einsum("inx,jnx->nij", t.double(), t.double())
    truth = methods._Truth(methods._Found(y, t, G), lambda _: 2 * t[0], x)
    assert truth.agrees(y, t, G * (1 + error)) is taken
    assert truth.agrees(y * (1 + error), t, G) is taken
