"""Parts of a decoder that few latents meet: in a branch of `torch.where`, of Python's control flow, or behind a gate."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram, jacobian, pullback, pushforward
from vaeprobe.engine.methods import carried, choose

Branch = Callable[[Tensor], Tensor]


def twisted(h: Tensor) -> Tensor:
    return h * h.sin()


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TorchScript is on its way out
    scripted: Branch = torch.jit.script(twisted)


@torch.library.custom_op("vaeprobe_tests::softened", mutates_args=())
def softened(h: Tensor) -> Tensor:
    return torch.log1p(h.exp())


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


softened.register_autograd(lambda ctx, w: w * torch.sigmoid(ctx.saved_tensors[0]), setup_context=_keep)


def normed(h: Tensor) -> Tensor:
    """Instance normalisation, as a batch normalisation of one sample."""
    n = len(h)
    return F.batch_norm(h.reshape(1, 4 * n, 4), None, None, training=True).reshape(n, 16)


BEHIND: dict[str, Branch] = {
    "vmap": torch.vmap(twisted),
    "a gradient": torch.vmap(torch.func.grad(lambda h: h.sin().sum())),
    "functionalize": torch.func.functionalize(twisted),
    "TorchScript": scripted,
    "an operator of its own": softened,
    "a normalisation": normed,
}
BETWEEN: dict[str, Branch] = {
    "a grid": lambda h: F.grid_sample(h.reshape(len(h), 1, 4, 4), h[:, :8].reshape(len(h), 2, 2, 2).tanh(),
                                      align_corners=False).flatten(1).repeat(1, 4),
    "a layout": lambda h: h.reshape(-1, 4, 2, 2).to(memory_format=torch.channels_last).square().flatten(1),
    "rows in turn": lambda h: torch.stack([row * row.norm() for row in h]),
    "distances": lambda h: torch.cdist(h.reshape(-1, 4, 4), h.reshape(-1, 4, 4).square()).flatten(1),
}  # fmt: skip


class Branched(nn.Module):
    """A network with a branch for latents whose first coordinate is beyond a threshold."""

    def __init__(self, branch: Branch, beyond: float, *, by_where: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(5, 16), nn.Linear(16, 20)
        self.branch, self.beyond, self.by_where = branch, beyond, by_where

    def forward(self, z: Tensor) -> Tensor:
        h, there = self.first(z), z[:, :1] > self.beyond
        if self.by_where or there.any():
            h = torch.where(there, self.branch(h), h)
        return self.last(h)


def by_rows(network: nn.Module, z: Tensor) -> Tensor:
    """Return Jacobians by reverse mode, a latent and an output at a time."""
    return torch.stack([torch.autograd.functional.jacobian(lambda u: network(u[None])[0], u) for u in z])


def assert_right(network: nn.Module, z: Tensor) -> None:
    J = by_rows(network, z)
    torch.testing.assert_close(jacobian(network, z), J, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gram(network, z), J.mT @ J, rtol=1e-10, atol=1e-10)
    v, w = torch.randn(len(z), 5).double(), torch.randn(len(z), 20).double()
    moved, pulled = pushforward(network, z, v)[1], pullback(network, z, w)
    torch.testing.assert_close((moved * w).sum(1), (pulled * v).sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BEHIND)
def test_derivatives_are_right_in_a_branch_of_where(name: str) -> None:
    network = Branched(BEHIND[name], 0.7, by_where=True).double().eval()
    assert_right(network, torch.randn(60, 5, generator=torch.Generator().manual_seed(1)).double())


@pytest.mark.parametrize("name", BETWEEN)
@pytest.mark.parametrize("beyond", [0.7, 2.9])
def test_derivatives_are_right_where_control_flow_leads_elsewhere(name: str, beyond: float) -> None:
    """At 2.9 no latent that the door looks at takes the branch."""
    network = Branched(BETWEEN[name], beyond, by_where=False).double().eval()
    z = torch.randn(12, 5, generator=torch.Generator().manual_seed(1)).double()
    z[3, 0] = 3.5
    assert_right(network, z)


def test_a_gate_that_training_opens_is_looked_behind() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 16), nn.Linear(16, 20)
            self.gate = nn.Parameter(torch.zeros(()))

        def forward(self, z: Tensor) -> Tensor:
            h = self.first(z)
            return self.last(h + self.gate * softened(h))

    network = Gated().double().eval()
    decoder, z = Decoder(network, latent_dim=5), torch.randn(6, 5).double()
    for gate in (0.0, 1.0):
        with torch.no_grad():
            network.gate.fill_(gate)
        J = by_rows(network, z)
        torch.testing.assert_close(gram(decoder, z), J.mT @ J, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kinks_are_no_reason_for_a_slower_method(dtype: torch.dtype) -> None:
    """Of 200,000 activations some change sign with rounding at most latents."""
    torch.manual_seed(0)
    layers = [part for _ in range(3) for part in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())]
    front = [nn.Linear(6, 16 * 16 * 16), nn.Unflatten(1, (16, 16, 16)), nn.ReLU()]
    network = nn.Sequential(*front, *layers, nn.Conv2d(16, 1, 3, padding=1)).to(dtype)
    assert choose(Decoder(network, latent_dim=6)).method is carried
