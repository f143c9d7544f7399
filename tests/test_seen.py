"""Functions that the verbs were given before are not checked anew, unless they have changed."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram, jacobian, seen
from vaeprobe.errors import ContractError

Z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Clipped(nn.Module):
    def __init__(self, limit: float) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5).double()
        self.limit = limit

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z).tanh().clamp(-self.limit, self.limit)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Decoder]:
    """Return the decoders that were held to the contract."""
    made: list[Decoder] = []
    right = Decoder._check_contract

    def counted(decoder: Decoder) -> None:
        made.append(decoder)
        right(decoder)

    monkeypatch.setattr(Decoder, "_check_contract", counted)
    return made


def expected(network: nn.Module) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(network))(Z)


def test_the_door_is_passed_once(checks: list[Decoder]) -> None:
    network = Clipped(2)
    for _ in range(3):
        torch.testing.assert_close(jacobian(network, Z), expected(network))
        gram(network, Z)
    assert len(checks) == 1
    gram(network, Z.reshape(4, 3, 1, 1)[:, :, 0, 0])
    assert len(checks) == 1


def test_a_function_is_checked_for_each_precision(checks: list[Decoder]) -> None:
    def f(z: Tensor) -> Tensor:
        return z.sin()

    for _ in range(2):
        assert jacobian(f, Z).dtype == torch.float64
        assert jacobian(f, Z.float()).dtype == torch.float32
    assert len(checks) == 2


def test_weights_that_change_in_place_are_checked_anew(checks: list[Decoder]) -> None:
    network = Clipped(2)
    jacobian(network, Z)
    network.layer.weight.data.mul_(0.5)  # which leaves the version of the parameter as it is
    torch.testing.assert_close(jacobian(network, Z), expected(network))
    assert len(checks) == 2
    network.float()
    assert jacobian(network, Z).dtype == torch.float32
    assert len(checks) == 3


def test_a_setting_that_no_test_latent_meets_is_that_of_today(checks: list[Decoder]) -> None:
    network = Clipped(2)
    jacobian(network, Z)
    far = 1e6 * Z  # where whatever weights saturate
    network.limit = 1 - 1e-9
    assert jacobian(network, far).abs().max() == 0
    assert len(checks) == 1
    network.layer = nn.Linear(3, 5).double()
    torch.testing.assert_close(jacobian(network, Z), expected(network))
    assert len(checks) == 2


def test_what_no_longer_keeps_the_contract_is_refused() -> None:
    mixes = False

    def f(z: Tensor) -> Tensor:
        return z - z.mean(0) if mixes else z

    gram(f, Z)
    mixes = True
    with pytest.raises(ContractError, match="rows of a batch"):
        gram(f, Z)


def test_functions_are_not_kept_alive() -> None:
    def fresh() -> list[weakref.ref[object]]:
        network, f = Clipped(2), lambda z: z.sin()
        gram(f, Z)
        gram(network, Z)
        assert f in seen._seen
        assert network in seen._seen
        return [weakref.ref(f), weakref.ref(network)]

    known = fresh()
    gc.collect()
    assert [one() for one in known] == [None, None]


def test_what_cannot_be_remembered_is_checked_each_time(checks: list[Decoder]) -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, z: Tensor) -> Tensor:
            return z.exp()

    f = Unhashable()
    for _ in range(2):
        torch.testing.assert_close(jacobian(f, Z), torch.diag_embed(Z.exp()))
    assert len(checks) == 2
