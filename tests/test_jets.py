"""Second derivatives carried along with tangents, against torch's forward mode of its forward mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from vaeprobe.engine.jets import nested_derivatives, second_derivative
from vaeprobe.engine.tangents import Unsupported

Function = Callable[[Tensor], Tensor]
D = 4


def truth(f: Function, x: Tensor, u: Tensor, v: Tensor) -> list[Tensor]:
    with nested_derivatives():
        found = torch.func.jvp(lambda x: torch.func.jvp(f, (x,), (u,)), (x,), (v,))
    return [found[0][0], found[0][1], found[1][0], found[1][1]]


def compare(f: Function, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    x, u, v = torch.randn(3, 5, D, dtype=torch.float64, generator=draw).to(dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    expected = truth(f, x, u, v)
    for found, right in zip(second_derivative(f, x, u, v), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=tolerance * (1 + float(right.abs().max())))
    return expected[3]


M = torch.linspace(-1, 1, D * 6, dtype=torch.float64).reshape(6, D).sin()


def lifted(x: Tensor) -> Tensor:
    return F.linear(x, M.to(x.dtype), torch.linspace(-1, 1, 6).to(x.dtype)).tanh()


CURVED: dict[str, Function] = {
    "sigmoid": torch.sigmoid, "tanh in place": lambda h: (h + 0).tanh_(), "silu": F.silu, "silu in place": lambda h: F.silu(h * 1, inplace=True),
    "mish": F.mish, "gelu": F.gelu, "softplus": F.softplus, "elu": F.elu, "exp": torch.exp, "sin": torch.sin, "power": lambda h: h**3,
    "square": lambda h: h * h, "own": lambda h: torch.addcmul(h, h, h), "reciprocal": lambda h: 1 / (h + 3), "quotient": lambda h: h / 3,
    "where": lambda h: torch.where(h > 0, h.exp(), 1.0), "sum": lambda h: torch.cat([h.sigmoid(), h]).chunk(2)[0] + h, "clamp": lambda h: h.sigmoid().clamp(0.4, 2),
    "matrix": lambda h: (h @ torch.ones(6, 3, dtype=h.dtype)).sin(), "rows": lambda h: h.sigmoid()[:, 1:3].repeat(1, 2).mean(1, keepdim=True).exp(),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CURVED)
def test_functions(name: str, dtype: torch.dtype) -> None:
    assert float(compare(lambda x: CURVED[name](lifted(x)), dtype).abs().max()) > 1e-3


def test_straight_pieces_have_none() -> None:
    def f(x: Tensor) -> Tensor:
        h = F.leaky_relu(F.linear(x, M.to(x.dtype)), 0.2)
        return F.relu(h - h.roll(1, 1), inplace=True).abs().clamp(max=2.0)

    assert not compare(f).any()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.Tanh]), st.booleans())
def test_random_networks(seed: int, activation: type[nn.Module], norm: bool) -> None:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(D, 32),
        activation(),
        nn.Unflatten(1, (8, 2, 2)),
        nn.ConvTranspose2d(8, 6, 4, 2, 1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        activation(),
        nn.Conv2d(6, 4, 3, padding=1, groups=2),
        activation(),
        nn.Upsample(scale_factor=2),
        nn.ConvTranspose2d(4, 2, 4, 2, 1),
        nn.Sigmoid(),
    )
    compare(network.double().eval(), seed=seed)


@pytest.mark.parametrize(
    "f",
    [
        lambda h: h * h.roll(1, 1),
        lambda h: torch.einsum("ni,ni->n", h, h),
        lambda h: F.layer_norm(h, (6,)),
        lambda h: h.softmax(1),
        lambda h: F.group_norm(h, 2),
    ],
    ids=["product", "inner product", "layer norm", "softmax", "group norm"],
)
def test_what_is_not_followed_is_said(f: Function) -> None:
    x = torch.randn(5, D, dtype=torch.float64)
    with pytest.raises(Unsupported, match="no second derivative"):
        second_derivative(lambda x: f(lifted(x)), x, x, x)


OPS = torch.ops.aten


@pytest.mark.parametrize(
    ("program", "plain"),
    [  # as exported programs and TorchScript call them
        (OPS.silu.default, lambda x: x * torch.sigmoid(x)),
        (OPS.mish.default, lambda x: x * torch.tanh(F.softplus(x))),
        (OPS.hardsigmoid.default, lambda x: F.relu6(x + 3) / 6),
        (OPS.glu.default, lambda x: x[:, :2] * torch.sigmoid(x[:, 2:])),
        (torch._C._nn.silu, lambda x: x * torch.sigmoid(x)),
    ],
)
def test_activations_of_programs_have_second_derivatives(program: Function, plain: Function) -> None:
    x, u, v = torch.randn(3, 5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for found, right in zip(truth(program, x, u, v), truth(plain, x, u, v), strict=True):
        torch.testing.assert_close(found, right)
