"""Decoders in which rows of a batch know of one another are refused, however little outputs show it; others never are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaeprobe import contract
from vaeprobe import decoder as decoders
from vaeprobe.decoder import Decoder
from vaeprobe.derivatives import LEAKS
from vaeprobe.engine import gram, jacobian, pullback
from vaeprobe.engine.verbs import values
from vaeprobe.errors import ContractError

LATENTS, HIDDEN, OUTPUTS, ROWS = 3, 16, 6, 40
Map = Callable[[Tensor], Tensor]


def weight(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0])).double() / 2


V, W, CODES = weight(LATENTS, HIDDEN), weight(HIDDEN, OUTPUTS), weight(30, HIDDEN)


def around(middle: Map) -> Map:
    return lambda z: middle(torch.tanh(z @ V.to(z))) @ W.to(z)


class Around(nn.Module):
    """The same in single precision, of which a copy in double can be had."""

    def __init__(self, middle: Map) -> None:
        super().__init__()
        self.first, self.last = (nn.Parameter(w.float(), requires_grad=False) for w in (V, W))
        self.middle = middle

    def forward(self, z: Tensor) -> Tensor:
        return self.middle(torch.tanh(z @ self.first)) @ self.last


def mean_of_derivatives(h: Tensor) -> Tensor:
    m = h.mean(0)
    return h + m - m.detach()


def attention(h: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(h[None], h[None], h[None])[0]


def earlier(rows: int) -> Map:
    return lambda h: torch.cat([h[:rows], h[rows:] + h[:-rows].sin()])


def halves(h: Tensor) -> Tensor:
    """A reshape that moves rows: of four, it changes places of two that look alike from both ends."""
    n = len(h)
    return h if n % 2 else h.view(2, n // 2, -1).transpose(0, 1).reshape(n, -1)


def cut_off(h: Tensor) -> Tensor:
    return h * min(1.0, 8 / float(h.detach().square().sum()) ** 0.5)


def eights(h: Tensor) -> Tensor:
    return torch.cat([part - part.mean(0) if len(part) == 8 else part for part in h.split(8)])


def room_for_two(h: Tensor) -> Tensor:
    """An expert that takes the first two rows of those that ask for it, as most do."""
    gate = h[:, 0] > -0.9
    return torch.where((gate & (gate.cumsum(0) > 2))[:, None], 0, h)


def rounded(h: Tensor) -> Tensor:
    step = h.detach().abs().max() / 127
    return h + ((h / step).round() * step - h).detach()


def trained(h: Tensor) -> Tensor:
    return F.batch_norm(h, None, None, training=True) if len(h) > 1 else h


def spread_of_all(h: Tensor) -> Tensor:
    return h + (h - h.mean(0)).square().mean(0).add(1e-8).sqrt().mean()


COUPLED: dict[str, Map] = {
    "batch normalisation in training": around(trained),
    "a mean": around(lambda h: h - h.mean(0)),
    "a mean without a derivative": around(lambda h: h - h.mean(0).detach()),
    "a mean of derivatives alone": around(mean_of_derivatives),
    "a faint mean": around(lambda h: h + 1e-10 * h.mean(0)),
    "a faint mean in single precision": Around(lambda h: h + 1e-6 * h.mean(0)),
    "a faint sum in single precision": Around(lambda h: h + 1e-6 * h.sum(0)),
    "the spread of all": around(spread_of_all),
    "attention": around(attention),
    "a norm of all": around(lambda h: h / h.norm()),
    "a norm cut off": around(cut_off),
    "a softmax of rows": around(lambda h: F.softmax(h, dim=0)),
    "the last row": around(earlier(1)),
    "the last but one": around(earlier(2)),
    "the last but eight": around(earlier(9)),
    "halves": around(halves),
    "groups of eight": around(eights),
    "large batches": around(lambda h: h - h.mean(0) if len(h) > 20 else h),
    "room for two": around(room_for_two),
    "one step of rounding": around(rounded),
    "sums of rows": around(lambda h: h.cumsum(0)),
    "a Fourier transform of rows": around(lambda h: torch.fft.fftn(h).real),
    "a few of the outputs": lambda z: torch.cat([1e4 * around(torch.sin)(z), z[:, :1] + z[:, :1].mean(0) / 2], 1),
}  # fmt: skip


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", COUPLED)
def test_rows_that_know_of_one_another_are_refused(
    name: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(decoders, "LARGE", 0)
    # of what rounds, the door may look at derivatives before it looks at enough rows
    said = "mixes the rows of a batch" + "|finite differences, in both modes" * (
        name == "one step of rounding"
    )
    with pytest.raises(ContractError, match=said):
        gram(Decoder(COUPLED[name], LATENTS), latents(ROWS))


def largest_off(h: Tensor) -> Tensor:
    """A softmax from which the largest number of the whole batch is taken, lest it overflows."""
    e = torch.exp(9 * h - 9 * h.max())
    return e / e.sum(1, keepdim=True)


def log_softmax(h: Tensor) -> Tensor:
    top = (20 * h).max()
    return h - top - torch.log(torch.exp(20 * h - top).sum(1, keepdim=True))


def scaled_by_largest(h: Tensor) -> Tensor:
    return torch.sin(h / h.abs().max() * h.abs().max())


def padded(h: Tensor) -> Tensor:
    return torch.sin(torch.cat([h, h.new_zeros(-len(h) % 8, HIDDEN)]))[: len(h)]


def modulated(h: Tensor) -> Tensor:
    """A filter of each row's own, of all rows at once as groups."""
    filters = h[:, :9].reshape(-1, 1, 3, 3)
    return F.conv2d(h.reshape(1, -1, 4, 4), filters, padding=1, groups=len(h)).reshape(h.shape)


def hidden_half(h: Tensor) -> Tensor:
    return torch.sin(h.bfloat16()).to(h.dtype)


def constant_noise(h: Tensor) -> Tensor:
    return h + torch.randn(1, HIDDEN, generator=torch.Generator().manual_seed(5)).to(h)


INNOCENT: dict[str, Map] = {
    "the largest of all off": largest_off,
    "a logarithm of it": log_softmax,
    "scaled by the largest and back": scaled_by_largest,
    "the mean off and on": lambda h: torch.sin(h - h.mean(0) + h.mean(0)),
    "one by one": lambda h: torch.cat([torch.sin(row) for row in h.split(1)]),
    "two by two": lambda h: torch.cat([torch.sin(rows) for rows in h.split(2)]),
    "padded to eights": padded,
    "filters of rows": modulated,
    "eval batch normalisation": lambda h: F.batch_norm(h, h.new_zeros(HIDDEN), h.new_ones(HIDDEN)),
    "group normalisation": lambda h: F.group_norm(h, 4),
    "attention within rows": lambda h: attention(h.view(-1, 4, 4)).flatten(1),
    "a Fourier transform within rows": lambda h: torch.fft.fft(h).real,
    "the same noise for all": constant_noise,
    "one row mapped": lambda h: torch.func.vmap(torch.sin)(h),
    "distances of a codebook": lambda h: torch.cdist(h, CODES.to(h))[:, :HIDDEN],
    "in place": lambda h: h.clone().mul_(2),
    "rank one of rows": lambda h: torch.bmm(h[:, None], torch.tanh(h[:, :, None] * h[:, None]))[:, 0],
    "kinks": lambda h: F.relu(h) - F.relu(-h - 0.3),
    "the root of a kink": lambda h: F.relu(h).sqrt(),
    "sorted": lambda h: h.sort(1)[0],
    "tiny outputs": lambda h: 1e-20 * h,
    "huge outputs": lambda h: 1e15 * h,
    "half precision inside": hidden_half,
    "weights that are solved for": lambda h: torch.linalg.solve(3 * torch.eye(HIDDEN).to(h), h.T).T,
}  # fmt: skip


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("name", INNOCENT)
def test_rows_that_do_not_are_measured_as_they_are_alone(name: str, single: bool) -> None:
    middle = INNOCENT[name]
    decoder, z = Decoder(Around(middle) if single else around(middle), LATENTS), latents(ROWS)
    found = gram(decoder, z)
    tolerance = 0.1 if middle is hidden_half else 1e-3 if single else 1e-9
    for i in (0, ROWS // 2, ROWS - 1):
        J = jacobian(decoder, z[i : i + 1])[0].double()
        assert torch.allclose(found[i], J.T @ J, rtol=0, atol=tolerance * float((J.T @ J).max()))


def latents(n: int) -> Tensor:
    return torch.randn(n, LATENTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("verb", [values, jacobian, lambda f, z: pullback(f, z, torch.ones(len(z), OUTPUTS))])
def test_every_verb_looks_at_the_largest_batch(verb: Callable[[Decoder, Tensor], Tensor]) -> None:
    decoder = Decoder(around(lambda h: h - h.mean(0) if len(h) > 30 else h), LATENTS)
    verb(decoder, latents(7))
    with pytest.raises(ContractError, match="mixes the rows") as caught:
        verb(decoder, latents(33))
    assert "other outputs for 33 latents together than for one alone" in str(caught.value.hint)


def test_a_batch_is_looked_at_once() -> None:
    def f(z: Tensor) -> Tensor:
        calls.append(len(z))
        return z.sin()

    calls: list[int] = []
    decoder = Decoder(f, LATENTS)
    for n in (3, 7, 7, 5, 9, 9):
        values(decoder, latents(n))
    assert calls[-24:] == [3, *[1] * 3, 7, *[1] * 7, 7, 5, 9, *[1] * 8, 9]


@pytest.mark.parametrize(("part", "taken"), [(0.5e-4, True), (3e-4, False)])
def test_rows_of_large_batches_are_held_as_close_as_those_of_small_ones(part: float, taken: bool) -> None:
    z = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
    y = z.clone()
    y[-1] += part * 5
    if taken:
        contract.check_batch(lambda z: z, z, y, 4)
        return
    with pytest.raises(ContractError, match="mixes the rows"):
        contract.check_batch(lambda z: z, z, y, 4)


def test_what_is_no_number_alone_is_not_held_against_a_batch() -> None:
    z = torch.linspace(0, 4, 5)[:, None]
    contract.check_batch(lambda z: z.log() * math.nan, z, z, 4)
    with pytest.raises(ContractError, match="mixes the rows"):
        contract.check_batch(lambda z: z, z, z * math.nan, 4)


@pytest.mark.parametrize(("share", "taken"), [(0.25, True), (8.0, False)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_leak_is_held_against_what_rounding_leaves(share: float, taken: bool, dtype: torch.dtype) -> None:
    """A function, of which no copy in double can be had."""
    leak = 4 * share * LEAKS[dtype.itemsize]
    couples = lambda z: z.to(dtype) + leak * z.to(dtype).mean(0)  # noqa: E731
    if taken:
        assert Decoder(couples, LATENTS).output_shape == (LATENTS,)
        return
    with pytest.raises(ContractError, match="mixes the rows"):
        Decoder(couples, LATENTS)


def test_what_mixes_rows_in_reverse_mode_alone_is_refused() -> None:
    class Mean(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, z: Tensor) -> Tensor:
            return z + 3e-10 * z.mean(0)

        @staticmethod
        def backward(ctx: object, w: Tensor) -> Tensor:
            return w + 3e-10 * w.mean(0)

    class Alone(Mean):
        @staticmethod
        def forward(ctx: object, z: Tensor) -> Tensor:
            return 1 * z

        @staticmethod
        def backward(ctx: object, w: Tensor) -> Tensor:
            return w

    assert Decoder(Alone.apply, LATENTS).differentiation == "reverse"
    with pytest.raises(ContractError, match="mixes the rows"):
        Decoder(Mean.apply, LATENTS)


def deep(gain: float, layers: int) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for k in range(layers):
        parts += [nn.Linear(32 if k else LATENTS, 32), nn.Tanh()]
    network = nn.Sequential(*parts, nn.Linear(32, OUTPUTS))
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(gain)
    return network.eval()


class Leaky(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        y: Tensor = self.network(z + 1e-3 * z.mean(0))
        return y


@pytest.mark.parametrize(("gain", "layers"), [(3.0, 20), (4.0, 14), (6.0, 10), (1.0, 2)])
def test_rounding_that_a_network_makes_much_of_is_told_from_rows_that_are_mixed(
    gain: float, layers: int
) -> None:
    network, z = deep(gain, layers), latents(64).float()
    assert jacobian(Decoder(network, LATENTS), z).shape == (64, OUTPUTS, LATENTS)
    with pytest.raises(ContractError, match=r"mixes the rows|finite differences"):
        jacobian(Decoder(Leaky(network), LATENTS), z)


BY_THE_BATCH: dict[str, Callable[[nn.Module, nn.Module, Tensor], Tensor]] = {
    "sum": lambda a, b, x: a(x) if x.sum() > 0 else b(x),
    "any": lambda a, b, x: a(x).tanh() if bool((x[:, 0] > 0).any()) else b(x).tanh(),
    "first": lambda a, b, x: a(x) * (2.0 if x[0, 0] > 0 else 1.0),
    "last": lambda a, b, x: a(x) * (2.0 if x[-1, 0] > 0 else 1.0),
    "peak": lambda a, b, x: a(x) / a(x).abs().max().clamp_min(1.0),
}


@pytest.mark.parametrize("how", BY_THE_BATCH)
@pytest.mark.parametrize("n", [2, 4, 64])
def test_what_the_whole_batch_chooses_is_refused_or_right(how: str, n: int) -> None:
    """By chance all rows may choose alike: then numbers are those of each row alone."""
    refused = took_it = 0
    for seed in range(8):
        torch.manual_seed(seed)
        a, b = nn.Linear(5, 9).double(), nn.Linear(5, 9).double()
        z = torch.randn(n, 5, dtype=torch.float64)

        def f(x: Tensor, a: nn.Module = a, b: nn.Module = b) -> Tensor:
            return BY_THE_BATCH[how](a, b, x)

        right = torch.stack([torch.func.jacfwd(lambda r, f=f: f(r[None])[0])(row) for row in z])
        try:
            found = jacobian(f, z)
        except ContractError as error:
            refused += "mixes the rows" in error.message
            continue
        torch.testing.assert_close(found, right)
        took_it += 1
    assert refused + took_it == 8
    assert refused >= 2


@pytest.mark.parametrize(("large", "call", "said"), [
    (False, 0, "NaN or infinity at"), (False, 2, "NaN or infinity at"), (False, 3, "two calls"),
    (False, 4, "mixes the rows"), (False, 5, "NaN or infinity for a batch of one"),
    (True, 0, "NaN or infinity at"), (True, 1, "NaN or infinity for a batch of one"),
    (True, 2, "NaN or infinity for a batch of one"),
])  # fmt: skip
def test_nan_in_one_call_alone_is_told(
    large: bool, call: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls at the door: the first, a look inside at the last row alone, all rows, once more, in another order, one row alone.

    Of a large decoder the third is the first row alone.
    """
    if large:
        monkeypatch.setattr(decoders, "LARGE", 0)
    seen = -1

    def f(z: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        return torch.sin(z) * (math.nan if seen == call else 1.0)

    with pytest.raises(ContractError, match=said):
        Decoder(f, LATENTS)


@pytest.mark.parametrize("way", ["backward", "jvp"])
def test_nan_in_one_mode_of_differentiation_is_told(way: str) -> None:
    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(z: Tensor) -> Tensor:
            return z.sin()

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx: Any, w: Tensor) -> Tensor:
            return w * ctx.saved_tensors[0].cos() * (math.nan if way == "backward" else 1.0)

        @staticmethod
        def jvp(ctx: Any, v: Tensor) -> Tensor:
            return v * ctx.saved_tensors[0].cos() * (math.nan if way == "jvp" else 1.0)

    if way == "backward":
        with pytest.raises(ContractError, match="are NaN or infinite"):
            Decoder(Sine.apply, LATENTS)
        return
    decoder, z = Decoder(Sine.apply, LATENTS), latents(2)
    assert decoder.differentiation == "reverse"
    assert torch.allclose(jacobian(decoder, z), torch.diag_embed(z.cos()))


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_standard_deviation_over_the_batch_is_told(dtype: torch.dtype) -> None:
    """It does not change with the order of rows, and is NaN for one."""
    with pytest.raises(ContractError, match=r"mixes the rows|NaN or infinity for a batch of one"):
        Decoder(lambda z: z.to(dtype) / z.to(dtype).std(0), LATENTS)


def test_an_infinite_mask_does_not_make_every_difference_rounding() -> None:
    mask = torch.full((4, 4), -math.inf).double().triu(1)

    def f(z: Tensor) -> Tensor:
        scores = (z @ z.T)[: len(z), : len(z)] + mask[: len(z), : len(z)]
        return z + 1e-6 * scores.softmax(1) @ z

    with pytest.raises(ContractError, match="mixes the rows"):
        Decoder(f, LATENTS)
