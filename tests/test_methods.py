"""Which way to differentiate a decoder, and what it is said to cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vaeprobe import decoder as decoders
from vaeprobe.autograd import differentiable_kernels
from vaeprobe.decoder import Decoder
from vaeprobe.engine import factors, gram, jacobian, methods, norms
from vaeprobe.engine.methods import carried, choose, reversed_twice
from vaeprobe.engine.verbs import values
from vaeprobe.likelihoods import Gaussian
from vaeprobe.progress import listening

Z0 = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)


def convolutional(width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, width * 4),
        nn.Unflatten(1, (width, 2, 2)),
        nn.ConvTranspose2d(width, width, 4, 2, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 4, 3, padding=1, groups=2),
        nn.ConvTranspose2d(4, 20, 4, 2, 1),
        nn.Sigmoid(),
    ).eval()


def test_products_are_counted_as_torch_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "NUMBER", 0)
    network, z = convolutional(), torch.randn(3, 6)
    heads = nn.MultiheadAttention(6, 2).eval()
    watch = methods._Watch(1, 3)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), differentiable_kernels(), counter:
        network(z)
        heads(z, z, z)
        z @ torch.ones(6)
    with torch.no_grad(), differentiable_kernels(), watch:
        network(z)
        heads(z, z, z)
        z @ torch.ones(6)
    by_a_vector = 3 * 6  # which torch does not count
    assert watch.work == counter.get_total_flops() / 2 + by_a_vector


def test_work_is_the_same_for_any_number_of_test_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    works = []
    for large in (1e9, 0):
        monkeypatch.setattr(decoders, "LARGE", large)
        decoder = Decoder(convolutional(), 6)
        assert decoder.large is (large == 0)
        assert choose(decoder).method is carried
        works.append(choose(decoder).work)
    assert works[1] == pytest.approx(works[0], rel=0.1)
    wide = choose(Decoder(convolutional(64), 6)).work
    assert wide > 1.5 * works[0]


def test_work_is_the_same_whatever_was_made_of_the_weights_before() -> None:
    maps = nn.Unflatten(1, (16, 5, 3))
    network = nn.Sequential(
        nn.Linear(3, 240), maps, nn.GroupNorm(2, 16), nn.SiLU(), nn.Conv2d(16, 2, 3, padding=1),
        nn.ConvTranspose2d(2, 1, 4, 2, 1), nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 3, padding=1), nn.Flatten(), nn.Linear(240, 999),
    )  # fmt: skip
    norms._of_groups.cache_clear()
    factors._one_of.cache_clear()
    first, again = choose(Decoder(network, 3)), choose(Decoder(network, 3))
    assert (first.work, first.held, first.at_once) == (again.work, again.held, again.at_once)


def test_a_vast_decoder_is_checked_in_few_decodings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress, and what it is said to take, with them."""
    monkeypatch.setattr(decoders, "LARGE", 0)
    monkeypatch.setattr(decoders, "VAST", 0)
    network, rows = convolutional(), {"plain": 0, "forward": 0, "reverse": 0}
    said: list[tuple[object, ...]] = []
    told: list[tuple[str, float, float | None]] = []

    def f(z: Tensor) -> object:
        dual = torch._C._functorch.is_functorch_wrapped_tensor(z)
        rows["forward" if dual else "reverse" if z.requires_grad else "plain"] += len(z)
        return network(z)

    with listening(lambda *progress: told.append(progress), lambda *forecast: said.append(forecast)):
        decoder = Decoder(f, 6, dtype=torch.float32)
        assert rows == {"plain": 2 + 1 + 1 + 4, "forward": 1 + 2, "reverse": 2}
        choice = choose(decoder)
    assert choice.method is carried
    # as forward and reverse mode take about three and two decodings
    assert rows["plain"] + 3 * rows["forward"] + 2 * rows["reverse"] <= decoders.DECODINGS
    assert [what for what, *_ in said] == ["checks of decoder"]
    ended = {what: (done, total) for what, done, total in told}
    assert ended["derivatives held against differences"] == (6, 6)
    assert ended["ways to differentiate compared"] >= (3, 6)


def test_a_large_decoder_with_a_wrong_fast_way_takes_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(f: object, x: Tensor, v: Tensor) -> object:
        y, columns = carried(f, x, v)  # type: ignore[arg-type]
        return y, methods.Known(columns.value() * (1 + 1e-3 * v[:, :, :1]))

    monkeypatch.setattr(decoders, "LARGE", 0)
    monkeypatch.setattr(methods, "carried", wrong)
    assert choose(Decoder(convolutional(), 6)).method is methods.mapped


def test_what_torch_cannot_watch_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unseen(self: object, func: object, types: object, args: object = (), kwargs: object = None) -> None:
        raise RuntimeError("no mode here")

    monkeypatch.setattr(methods._Watch, "__torch_dispatch__", unseen)
    choice = choose(Decoder(convolutional(), 6))
    assert choice.method is carried
    assert choice.widest == choice.widest_gram == 4 * 20 * 8 * 8
    assert choice.work > 0


@pytest.mark.parametrize(
    "f", [lambda z: z.sin().prod(1), lambda z: z.norm(dim=1), lambda z: F.normalize(z.exp(), dim=1), lambda z: torch.tensordot(z, Z0, 1)],
    ids=["product", "norm", "normalised", "tensordot"],
)  # fmt: skip
def test_one_number_for_each_latent_and_no_out_are_carried(f: Callable[[Tensor], Tensor]) -> None:
    z = torch.linspace(-1, 1.3, 15, dtype=torch.float64).reshape(5, 3)
    decoder = Decoder(f, 3)
    assert choose(decoder).method is carried
    J = torch.func.vmap(torch.func.jacfwd(lambda x: f(x[None])[0].reshape(-1)))(z)
    torch.testing.assert_close(jacobian(decoder, z), J, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gram(decoder, z), J.mT @ J, rtol=1e-12, atol=1e-14)
    weighed = gram(decoder, z, likelihood=Gaussian(4.0))
    torch.testing.assert_close(weighed, J.mT @ J / 4, rtol=1e-12, atol=1e-14)


class Viewing(nn.Sequential):
    """Views what convolutions made as torch lays it out."""

    def forward(self, z: Tensor) -> Tensor:
        h = super().forward(z)
        return h.view(len(z), -1).view(len(z), -1, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_outputs_laid_out_as_tangents_are_those_of_the_network(dtype: torch.dtype) -> None:
    network = Viewing(*convolutional(), nn.ConvTranspose2d(20, 3, 4, 2, 1), nn.Tanh()).to(dtype)
    decoder = Decoder(network, 6)
    assert choose(decoder).laid_out
    z = torch.randn(301, 6, dtype=dtype)
    with torch.no_grad():
        truth = network(z).flatten(1)
    torch.testing.assert_close(
        values(decoder, z), truth, rtol=0, atol=1e-14 if dtype == torch.float64 else 1e-5
    )


def test_a_layout_that_changes_outputs_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    right = methods._laid_out
    for wrong in (lambda f, x: 1.01 * right(f, x), lambda f, x: right(f, x)[:, 1:], lambda f, x: 1 / 0):
        monkeypatch.setattr(methods, "_laid_out", wrong)
        decoder = Decoder(convolutional(), 6)
        assert choose(decoder).method is carried
        assert not choose(decoder).laid_out
        z = torch.randn(5, 6)
        assert torch.equal(values(decoder, z), decoder.flat(z).detach())


def test_latents_at_a_time_where_tangents_come_in_blocks_follow_from_what_stays() -> None:
    def narrow(layers: int) -> nn.Sequential:
        torch.manual_seed(0)
        convolutions = [part for _ in range(layers) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
        front = [nn.Linear(6, 700), nn.ReLU(), nn.Linear(700, 8 * 16 * 16), nn.Unflatten(1, (8, 16, 16))]
        return nn.Sequential(*front, *convolutions, nn.ConvTranspose2d(8, 1, 4, 2, 1))

    few, many = (choose(Decoder(narrow(layers), 6)) for layers in (1, 20))
    assert few.widest_gram == many.widest_gram == 8 * 16 * 16
    # a product of matrices takes all rows; other tangents come in blocks
    assert few.at_once == many.at_once == 700
    # what a layer gives and its activation, and what that multiplies by
    assert many.held - few.held == 19 * 3 * 2048
    assert few.size_for_gram(4, 6, None) == methods.Size(methods.HELD // (4 * few.held), 6)
    # as if all tangents came at once
    assert many.size_for_gram(4, 6, None) == methods.Size(methods.BUDGET // (4 * 6 * few.widest_gram), 6)
    light = replace(few, held=few.held // 10, work=1.0)
    assert light.size_for_gram(4, 6, None) == methods.Size(methods.BUDGET // (4 * 6 * 700), 6)
    weighed = light.size_for_gram(4, 6, None, 100_000)
    assert (
        weighed.points
        == methods.HELD // (4 * light.held + 100_000)
        > methods.BUDGET // (4 * 6 * few.widest_gram)
    )
    slow = replace(few, work=methods.SOON / (6 * 640))
    assert slow.size_for_gram(4, 6, None).points == 640
    assert few.size_for_gram(4, 6, 11).points == 11
    # no more than before where nothing comes in blocks, or directions do not fit at once
    eager = replace(few, held=0)
    assert eager.size_for_gram(4, 6, None) == methods.Size.fitting(few.widest_gram, 4, 6)
    assert few.size_for_gram(4, 100_000, None) == methods.Size.fitting(few.widest_gram, 4, 100_000)


class Recurrent(nn.Module):
    """So many steps of an LSTM, through which no tangents can be carried."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.steps = steps
        self.cells = nn.LSTM(4, 8, batch_first=True)
        self.last = nn.Linear(8, 1)

    def forward(self, z: Tensor) -> Tensor:
        y: Tensor = self.last(self.cells(z[:, None].expand(-1, self.steps, -1))[0]).flatten(1)
        return y


def test_where_reverse_mode_holds_all_steps_they_bound_the_latents_at_a_time() -> None:
    few, many = (choose(Decoder(Recurrent(steps), 4)) for steps in (5, 20))
    assert few.method is many.method is reversed_twice
    # the output is as wide as there are steps; what is left of each is wider
    assert few.widest_gram > 5
    assert many.widest_gram > 20
    assert many.widest_gram == pytest.approx(4 * few.widest_gram, rel=0.3)
    assert many.size_for_gram(4, 4, None) == methods.Size.fitting(many.widest_gram, 4, 4)


def test_what_stays_is_seen_by_one_thread_as_by_two() -> None:
    def looked_at(threads: int) -> tuple[int, ...]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            choice = choose(Decoder(convolutional(), 6))
        finally:
            torch.set_num_threads(before)
        return choice.widest, choice.widest_gram, choice.at_once, choice.held

    assert looked_at(1) == looked_at(2)


def test_what_stays_is_seen_on_any_axis() -> None:
    class Slots(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.each = nn.Linear(6, 16 * 16), nn.Sequential(nn.Linear(16, 64), nn.Tanh())

        def forward(self, z: Tensor) -> Tensor:
            slots = self.each(self.first(z).view(-1, 16)).view(-1, 16, 64)
            return slots.transpose(0, 1).tanh().transpose(0, 1).reshape(len(z), -1)

    choice = choose(Decoder(Slots(), 6))
    assert choice.held >= 16 * 16 + 4 * 16 * 64  # values, and both activations with their factors


def test_tangents_are_seen_where_times_come_first() -> None:
    class Times(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 64), nn.Linear(64, 5)
            self.weight = nn.Parameter(torch.randn(16, 64, 64) / 8)

        def forward(self, z: Tensor) -> Tensor:
            return self.last(torch.matmul(self.first(z)[None], self.weight).tanh().mean(0))

    torch.manual_seed(0)
    choice = choose(Decoder(Times(), 6))
    assert choice.method is carried
    assert choice.widest == choice.widest_gram == 16 * 64
