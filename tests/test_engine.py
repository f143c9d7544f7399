"""The engine on its own: four verbs on plain functions and modules, and the examples of their pages."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram, jacobian, pullback, pushforward, verbs
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
