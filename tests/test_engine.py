"""The engine on its own: four verbs on plain functions and modules, and the examples of their pages."""

from __future__ import annotations

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import vaeprobe
from vaeprobe.autograd import differentiable_kernels
from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram, jacobian, pullback, pushforward, verbs
from vaeprobe.engine.methods import carried, choose
from vaeprobe.errors import ContractError, UsageError


def bend(z: Tensor) -> Tensor:
    return torch.stack([z[:, 0] * z[:, 1], z[:, 1].sin(), z[:, 0].exp()], dim=1).reshape(-1, 3, 1)


def test_the_examples_run() -> None:
    found = doctest.testmod(verbs)
    assert found.attempted >= 9
    assert found.failed == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_plain_functions_in_the_precision_of_their_latents(dtype: torch.dtype) -> None:
    z = torch.randn(5, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))
    J = torch.func.vmap(torch.func.jacrev(lambda x: bend(x[None]).flatten()))(z)
    assert jacobian(bend, z).dtype == dtype
    torch.testing.assert_close(jacobian(bend, z), J)
    torch.testing.assert_close(gram(bend, z), J.double().mT @ J.double(), rtol=1e-5, atol=1e-6)
    v, w = torch.ones(5, 2, dtype=dtype), torch.ones(5, 3, dtype=dtype)
    y, Jv = pushforward(bend, z, v)
    torch.testing.assert_close(y, bend(z).flatten(1))
    torch.testing.assert_close(Jv, J.sum(-1))
    torch.testing.assert_close(pullback(bend, z, w), J.sum(1))


def test_modules_follow_their_weights() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)).double().eval()
    z = torch.randn(6, 3, dtype=torch.float64)
    before = jacobian(network, z)
    torch.testing.assert_close(before, torch.func.vmap(torch.func.jacrev(network))(z))
    with torch.no_grad():
        network[2].weight.mul_(2)
    torch.testing.assert_close(jacobian(network, z), 2 * before)
    torch.testing.assert_close(vaeprobe.engine.gram(Decoder(network, 3), z), gram(network, z))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"not \(4,\) of torch\.float32") as caught:
        jacobian(bend, torch.zeros(4))
    assert caught.value.hint
    with pytest.raises(UsageError, match=r"of torch\.int64"):
        gram(bend, torch.zeros(4, 2, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"the decoder takes \(n, 2\)"):
        gram(Decoder(bend, 2), torch.zeros(4, 3))
    with pytest.raises(ContractError, match="mixes the rows"):
        gram(lambda z: z - z.mean(0), torch.zeros(4, 2))


class Block(nn.Module):
    """A residual block: what a skip connection shares must not be written to."""

    def __init__(self, c: int, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(norm, activation, nn.Conv2d(c, c, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.body(h)


NORMS = {"none": lambda c: nn.Identity(), "batch": nn.BatchNorm2d, "group": lambda c: nn.GroupNorm(2, c)}
ACTIVATIONS = {"relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.1), "tanh": nn.Tanh, "silu": nn.SiLU, "gelu": nn.GELU}  # fmt: skip


def decoder_of(seed: int, norm: str, activation: str, wide: bool, blocks: int, colours: int) -> nn.Module:
    """A random convolutional decoder: 4 latents -> 2 x 2 -> 4 x 4 -> 8 x 8, with settled batch statistics."""
    torch.manual_seed(seed)
    c = 128 if wide else 6
    act = ACTIVATIONS[activation]
    layers = [nn.Linear(4, 4 * c), act(), nn.Unflatten(1, (c, 2, 2))]
    layers += [nn.ConvTranspose2d(c, c, 4, 2, 1), *[Block(c, NORMS[norm](c), act()) for _ in range(blocks)]]
    layers += [nn.ConvTranspose2d(c, colours, 4, 2, 1), nn.Sigmoid()]
    network = nn.Sequential(*layers).double().eval().requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.uniform_(0.5, 2.0)
            layer.running_mean.normal_()
    return network


@settings(max_examples=12)
@given(
    st.integers(0, 10**6), st.sampled_from(sorted(NORMS)), st.sampled_from(sorted(ACTIVATIONS)), st.booleans(),
    st.integers(0, 2), st.sampled_from([1, 3, 20]), st.integers(1, 4),
)  # fmt: skip
def test_random_decoders_have_the_jacobians_that_vmap_of_jacfwd_gives(
    seed: int, norm: str, activation: str, wide: bool, blocks: int, colours: int, chunk: int
) -> None:
    network = decoder_of(seed, norm, activation, wide, blocks, colours)
    z = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with differentiable_kernels():
        J = torch.func.vmap(torch.func.jacfwd(lambda x: network(x[None]).flatten()))(z)
    decoder = Decoder(network, 4)
    assert choose(decoder).method is carried
    G, w = J.mT @ J, torch.ones(5, J.shape[1], dtype=torch.float64)
    for found, true in [
        (jacobian(decoder, z, chunk=chunk), J),
        (gram(decoder, z, chunk=chunk), G),
        (gram(decoder, z, columns=torch.tensor([[2, 0]]).expand(5, 2)), G[:, [2, 0]][:, :, [2, 0]]),
        (pushforward(decoder, z, z)[1], (J @ z[:, :, None])[..., 0]),
        (pullback(decoder, z, w), J.sum(1)),
    ]:
        assert (found - true).norm() <= 1e-10 * true.norm()
