"""Convolutions to few channels by a product of matrices and sums: the convolution's numbers, and only where it is faster."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaeprobe.decoder import Decoder
from vaeprobe.engine import convolutions, gram, pushforward, winograd
from vaeprobe.engine import few as module
from vaeprobe.engine.few import few, given, summed
from vaeprobe.engine.methods import choose


@pytest.mark.parametrize("sides", [(4, 4), (5, 3), (1, 1), (1, 6), (7, 1), (0, 3)])
@pytest.mark.parametrize("most", [1, 1 << 20])
@pytest.mark.parametrize("k", [2, 3])
def test_the_convolution_is_the_same(
    sides: tuple[int, int], most: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHE", most)  # of 1 byte: map by map
    x, w = torch.randn(3, 9, *sides, dtype=torch.float64), torch.randn(2, 9, k, k, dtype=torch.float64)
    for layout in (x, x.contiguous(memory_format=torch.channels_last)):
        found = summed(layout, given(w), k)
        right = F.conv2d(x, w, padding=1) if x.numel() else x.new_zeros(found.shape)
        assert found.shape == right.shape
        assert torch.allclose(found, right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("n", "out"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_what_was_summed_holds_no_more_memory_than_its_numbers(n: int, out: int) -> None:
    x, w = torch.randn(n, 16, 5, 3), torch.randn(out, 16, 3, 3)
    found = summed(x, given(w), 3)
    assert found.is_contiguous()
    assert found.untyped_storage().nbytes() == 4 * found.numel()


@pytest.mark.parametrize(
    ("out", "c", "does"),
    [
        (module.FEW, 16, True),
        (module.FEW, 15, False),
        (module.FEW + 1, 64, False),
        (1, 8, True),
        (1, 7, False),
    ],
)
def test_it_is_done_where_it_is_faster(out: int, c: int, does: bool) -> None:
    assert few(torch.empty(2, c, 4, 4), torch.empty(out, c, 3, 3)) is does


@pytest.mark.parametrize("bias", [True, False])
def test_last_convolutions_of_decoders_go_this_way(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(3, 12 * 5 * 6), nn.Unflatten(1, (12, 5, 6)), nn.Tanh(), nn.Conv2d(12, 3, 3, padding=1, bias=bias),
        nn.Sigmoid(),
    ).double()  # fmt: skip
    decoder, z = Decoder(network, 3), torch.randn(5, 3, dtype=torch.float64)
    shapes: list[torch.Size] = []

    def seen(x: Tensor, gives: Tensor, k: int) -> Tensor:
        shapes.append(x.shape)
        return summed(x, gives, k)

    monkeypatch.setattr(convolutions, "summed", seen)
    J = torch.func.vmap(torch.func.jacfwd(lambda x: network(x[None])[0].flatten()))(z)
    assert torch.allclose(gram(decoder, z), J.mT @ J, rtol=1e-12)
    assert {shape[0] for shape in shapes} >= {5, 15}  # values, and tangents in three directions
    v = torch.randn(2, 5, 3, dtype=torch.float64)
    moved = pushforward(decoder, z, v)[1].flatten(2)
    assert torch.allclose(moved, torch.einsum("nmd,knd->knm", J, v), rtol=1e-12)


@pytest.mark.parametrize("wide", [False, True])
def test_work_is_that_of_the_network(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of samples and ways follow from it: it must not depend on how a convolution is computed."""
    c = 64 if wide else 16
    network = nn.Sequential(
        nn.Unflatten(1, (4, 6, 6)), nn.Conv2d(4, c, 3, padding=1), nn.GroupNorm(2, c), nn.Conv2d(c, c, 3, padding=1),
        nn.Tanh(), nn.Conv2d(c, 3, 3, padding=1),
    )  # fmt: skip
    monkeypatch.setattr(winograd, "WIDE", 64)
    monkeypatch.setattr(winograd, "MANY_TILES", 1)
    ours = choose(Decoder(network, 144)).work
    monkeypatch.setattr(winograd, "WIDE", 10**9)
    monkeypatch.setattr(module, "FEW", 0)
    # torch's own lie with channels last, and are put in the order of the outputs besides
    assert choose(Decoder(network, 144)).work == pytest.approx(ours, rel=0.03)
