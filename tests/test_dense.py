"""Products of tangents with weights, and what is made of a weight."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaeprobe.decoder import Decoder
from vaeprobe.engine.dense import ROWS, by_onednn, kept, linear, one_pass
from vaeprobe.engine.verbs import gram, jacobian

torch.manual_seed(0)
T, W = torch.randn(ROWS, 30), torch.randn(20, 30)


@pytest.mark.parametrize(
    ("t", "weight"),
    [
        (T, W), (T, nn.Parameter(W, requires_grad=False)), (T.view(ROWS, 1, 30).repeat(1, 3, 1), W), (T[:-1], W),
        (T[:, :20], W[:, :20]), (T.double(), W.double()), (T, W.mT.contiguous().mT),
        (T[:, :0].contiguous(), W[:, :0].contiguous()), (T, W[:0]),
    ],
)  # fmt: skip
def test_products(t: Tensor, weight: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []
    plain = F.linear
    monkeypatch.setattr(F, "linear", lambda *args: (calls.append(args[0]), plain(*args))[1])
    linear(t, weight)
    whole = t.is_contiguous() and weight.is_contiguous() and weight.numel() > 0
    by_library = by_onednn() and whole and len(t) >= ROWS and t.dtype == torch.float32
    assert bool(calls) != by_library
    expected = t.double() @ weight.detach().double().mT
    torch.testing.assert_close(linear(t, weight).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_a_library_that_is_switched_off_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(
        nn.Linear(4, 8 * 16), nn.Unflatten(1, (8, 4, 4)), nn.ConvTranspose2d(8, 1, 4, 2, 1)
    )
    z = torch.randn(64, 4)
    expected = gram(network, z)

    def refused(*args: object) -> Tensor:
        raise AssertionError("oneDNN is called")

    for name in ("_linear_pointwise", "_convolution_transpose_pointwise", "_convolution_pointwise"):
        monkeypatch.setattr(torch.ops.mkldnn, name, refused, raising=False)
    flags = torch.backends.mkldnn.flags
    with flags(enabled=False):  # type: ignore[no-untyped-call]
        assert not by_onednn()
        linear(T, W)
        torch.testing.assert_close(gram(network, z), expected, rtol=1e-4, atol=1e-5)
    if by_onednn():
        with pytest.raises(AssertionError, match="oneDNN is called"):
            linear(T, W)


# -- what is made of a weight is made anew when it changes, however it does ------------------------------


def fused_step(m: nn.Module) -> None:
    optimizer = torch.optim.Adam(m.parameters(), lr=0.1, fused=True)
    m(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()


def each(change: Callable[[nn.Parameter], Any]) -> Callable[[nn.Module], None]:
    def work(m: nn.Module) -> None:
        for p in m.parameters():
            change(p)

    return work


def in_the_same_place(p: nn.Parameter) -> None:
    where = p.data_ptr()
    p.data = p.data * 1.1
    for _ in range(20):
        if p.data_ptr() == where:
            return
        p.data = p.data * 1.1


def through_numpy(p: nn.Parameter) -> None:
    p.detach().numpy()[...] *= 1.5


CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "a fused optimizer": fused_step, "data": each(lambda p: p.data.mul_(-2)), "numpy": each(through_numpy),
    "memory used again": each(in_the_same_place), "in place": torch.no_grad()(each(lambda p: p.mul_(3))),
    "another type": lambda m: m.double(), "one number": each(lambda p: p.data.view(-1)[-1:].add_(5)),
}  # fmt: skip
MAPS = nn.Unflatten(1, (4, 4, 4))
NETWORKS: dict[str, list[nn.Module]] = {
    "linear": [nn.Linear(64, 20), nn.Tanh()], "root": [nn.Linear(64, 90)], "taps": [MAPS, nn.ConvTranspose2d(4, 1, 4, 2, 1)],
    "patches": [MAPS, nn.ConvTranspose2d(4, 2, 4, 2, 1)], "of doubled": [MAPS, nn.Upsample(scale_factor=2), nn.Conv2d(4, 5, 3, padding=1)],
    "given": [nn.Unflatten(1, (16, 2, 2)), nn.Conv2d(16, 3, 3, padding=1)],
}  # fmt: skip


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("what", NETWORKS)
def test_weights_that_change(what: str, how: str) -> None:
    torch.manual_seed(1)
    m = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), *deepcopy(NETWORKS[what]), nn.Sigmoid(), nn.Flatten())
    for p in m.parameters():
        nn.init.normal_(p, std=0.1)
    decoder, z = Decoder(m, 3), torch.randn(ROWS, 3)
    for _ in range(3):
        type_ = next(m.parameters()).dtype
        J = torch.func.vmap(torch.func.jacfwd(lambda x: m(x[None])[0]))(z.to(type_)).detach().double()
        tolerance = {"rtol": 1e-4, "atol": 1e-6 * J.abs().max().item()}
        torch.testing.assert_close(jacobian(decoder, z.to(type_)).double(), J, **tolerance)
        torch.testing.assert_close(
            gram(decoder, z.to(type_)), J.mT @ J, rtol=1e-4, atol=1e-6 * (J**2).sum((1, 2)).max().item()
        )
        CHANGES[how](m)
        m.zero_grad()
        if how == "another type":
            decoder = Decoder(m, 3)


def test_a_weight_is_looked_at_once_in_a_pass() -> None:
    """And in every other one."""
    weight, made = torch.ones(3), []

    def doubled() -> Tensor:
        return kept(weight, "doubled", lambda w: (made.append(1), w * 2)[1])

    with one_pass():
        assert doubled().sum() == doubled().sum() == 6
        weight.data.mul_(2)
        assert doubled().sum() == 6
    assert doubled().sum() == 12
    with one_pass():
        assert doubled().sum() == 12
    weight.mul_(2)
    with one_pass():
        assert doubled().sum() == 24
        weight.mul_(2)  # a change that torch knows of
        assert doubled().sum() == 48
    assert len(made) == 4
    with torch.inference_mode():
        inference = torch.ones(2)
    assert kept(inference, "itself", lambda w: w.clone()).sum() == 2


@pytest.mark.parametrize("numbers", [8, 7])
@pytest.mark.parametrize("kind", ["plain", "from the second number", "transposed", "of half precision"])
def test_a_change_of_any_number_of_a_weight_is_seen(kind: str, numbers: int) -> None:
    """However it lies in memory: whole words of it are compared where they can be."""
    weight = {
        "plain": torch.ones(numbers, 3),
        "from the second number": torch.ones(3 * numbers + 1)[1:].view(numbers, 3),
        "transposed": torch.ones(3, numbers).T,
        "of half precision": torch.ones(numbers, 3, dtype=torch.float16),
    }[kind]
    for i in range(weight.numel()):
        weight.data[i // 3, i % 3] += 1
        assert kept(weight, "itself", lambda w: w.clone()).sum() == weight.sum()
    made: list[int] = []
    for _ in range(2):
        kept(weight, "made once", lambda w: made.append(1))
    assert made == [1]
