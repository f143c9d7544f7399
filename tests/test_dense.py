"""Products of tangents with weights, in whichever order of memory they are kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vaeprobe.engine import dense
from vaeprobe.engine.dense import ROWS, linear

torch.manual_seed(0)
T, W = torch.randn(ROWS, 30), torch.randn(20, 30)


@pytest.fixture
def by_library(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by a word whenever a weight is packed."""
    packed: list[str] = []
    kept = dense.kept

    def watched(weight: Tensor, name: str, *args: object) -> Tensor:
        packed.append(name)
        return kept(weight, name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(dense, "kept", watched)
    return packed


def close(t: Tensor, weight: Tensor) -> None:
    expected = t.double() @ weight.detach().double().mT
    torch.testing.assert_close(linear(t, weight).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("t", "weight", "library"),
    [
        (T, W, True), (T, nn.Parameter(W, requires_grad=False), True), (T.view(ROWS, 1, 30).repeat(1, 3, 1), W, True),
        (T[:-1], W, False), (T[:, :20], W[:, :20], False), (T.double(), W.double(), False),
        (T, W.mT.contiguous().mT, False), (T[:, :0].contiguous(), W[:, :0].contiguous(), False),
    ],
)  # fmt: skip
def test_products(t: Tensor, weight: Tensor, library: bool, by_library: list[str]) -> None:
    close(t, weight)
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    assert by_library == ["packed"] * (library and available)


def test_a_weight_that_changes_is_packed_anew() -> None:
    weight = W.clone()
    close(T, weight)
    weight.mul_(-3)
    close(T, weight)
    weight.data = W[:, torch.randperm(30)].contiguous()
    close(T, weight)


@pytest.mark.parametrize("most", [W.numel(), W.numel() - 1])
def test_large_weights_are_not_copied(
    most: int, by_library: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        pytest.skip("torch comes without oneDNN here")
    monkeypatch.setattr(dense, "PACKED", most)
    close(T, W)
    assert bool(by_library) == (most == W.numel())
