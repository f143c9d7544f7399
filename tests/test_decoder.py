"""The contract at the door: what a Decoder accepts, what it refuses, and in which words."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.utils.checkpoint import checkpoint

import vaeprobe
from vaeprobe import contract
from vaeprobe.decoder import Decoder, Group
from vaeprobe.encoder import Encoder
from vaeprobe.engine import gram, jacobian
from vaeprobe.errors import ContractError, UsageError


def test_a_callable_settles_its_dtype() -> None:
    double = Decoder(lambda z: z @ torch.eye(2, 3, dtype=torch.float64), latent_dim=2)
    single = Decoder(lambda z: z @ torch.eye(2, 3), latent_dim=2)
    assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
    assert double.output_shape == (3,)
    assert double.differentiation == "forward"


def test_a_module_is_probed_in_eval_mode_and_left_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    decoder = Decoder(module, latent_dim=2)
    assert module.training
    assert [n.code for n in decoder.notes] == ["training-mode"]
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    shared = {p.data_ptr() for p in module.parameters()}
    assert decoder.module is not None
    assert {p.data_ptr() for p in decoder.module.parameters()} == shared


def cancelling(scale: float, dtype: torch.dtype) -> nn.Module:
    """A network whose second layer undoes the first, but for what rounding leaves."""
    W = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = nn.Linear(4, 64, bias=False, dtype=dtype), nn.Linear(64, 6, bias=False, dtype=dtype)
    first.weight.data.copy_(W)
    second.weight.data.copy_(scale * torch.linalg.svd(W)[0][:, 4:10].T)
    return nn.Sequential(first, second)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_outputs_that_are_rounding_are_not_called_mixed_rows(scale: float) -> None:
    with pytest.raises(ContractError, match="as the rounding of the numbers on the way to them") as caught:
        vaeprobe.from_module(cancelling(scale, torch.float32), latent_dim=4)
    assert "--dtype float64" in str(caught.value.hint)
    # as the hint says: what single precision left of the weights is no rounding in double
    found = vaeprobe.from_module(cancelling(scale, torch.float32), latent_dim=4, dtype=torch.float64)
    assert found(torch.eye(4)).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_rows_that_are_mixed_are_told_from_rounding(scale: float) -> None:
    with pytest.raises(ContractError, match="mixes the rows"):
        Decoder(lambda z: scale * (z - z.mean(0)).float(), latent_dim=4)


def overwritten(z: Tensor) -> Tensor:
    z[:, 0] = z[:, 0].sin()
    return 2 * z


@pytest.mark.parametrize("overwritten", [overwritten, lambda z: torch.mul(z, 2, out=z)])
def test_what_is_overwritten_in_place_is_named_and_not_called_no_grad(
    overwritten: Callable[[Tensor], Tensor],
) -> None:
    with pytest.raises(ContractError, match="overwrites in place what its derivative needs") as caught:
        Decoder(overwritten, latent_dim=3)
    assert "no_grad" not in str(caught.value.hint)
    assert "torch.cat" in str(caught.value.hint)
    # as the hint says
    made_anew = Decoder(lambda z: 2 * torch.cat([z[:, :1].sin(), z[:, 1:]], 1), latent_dim=3)
    assert made_anew.output_shape == (3,)


class Apart(Tensor):
    """A tensor that keeps its numbers in another."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Apart:
        made: Apart = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        return cls(func(*[a.inner if isinstance(a, Apart) else a for a in args], **(kwargs or {})))


class Straight(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx: object, z: Tensor) -> Tensor:
        return z.round()

    @staticmethod
    def backward(ctx: object, w: Tensor) -> Tensor:
        return w


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda z: z + torch.randn_like(z), "two calls"),
        (lambda z: z - z.mean(0), "mixes the rows"),
        (lambda z: z / 0, "NaN or infinity"),
        (lambda z: z.detach(), "not differentiable"),
        (lambda z: (z * 255).to(torch.uint8), "no derivative"),
        (lambda z: z[:, :0], r"has shape \(2, 0\), and no numbers"),
        (
            lambda z: z @ Apart(torch.eye(2, dtype=z.dtype)),
            "of class `Apart`, which keeps its numbers in a way of its own",
        ),
        (
            lambda z: torch.heaviside(z, z.new_zeros(())),
            "not differentiable: derivative for aten::heaviside is not implemented",
        ),
        (
            lambda z: torch.where(z > 5, (z - 5).sqrt(), z),
            "derivatives of the decoder are NaN or infinite, where its outputs are finite",
        ),
        (lambda z: z + Straight.apply(z), "do not match finite differences"),
        (lambda z: z.sum(), "output of shape"),
        (lambda z: torch.ones(1, 5), r"maps \d latents to an output of shape \(1, 5\)"),
        (lambda z: torch.ones(4, 5), r"maps . latents? to an output of shape \(4, 5\)"),
        (lambda z: z @ torch.eye(5, 5, dtype=z.dtype), "cannot be called"),
        (lambda z: "x", "returns str"),
        (lambda z: {"a": 1, "b": 2}, "dict with keys"),
    ],
)
def test_a_broken_contract_is_named(
    monkeypatch: pytest.MonkeyPatch, f: object, words: str, few: bool
) -> None:
    """Also where one output costs so much that few of them are looked at."""
    if few:
        monkeypatch.setattr("vaeprobe.decoder.LARGE", 0)
    with pytest.raises(ContractError, match=words) as caught:
        Decoder(f, latent_dim=2)  # type: ignore[arg-type]
    assert caught.value.exit_code == 5


def test_a_root_is_clamped_before_it_is_taken_as_the_hint_says() -> None:
    with pytest.raises(ContractError) as caught:
        Decoder(lambda z: torch.where(z > 0, z.sqrt(), z), latent_dim=2)
    assert "clamp what goes into a root" in str(caught.value.hint)
    z = torch.tensor([[-1.0, 4.0]], dtype=torch.float64)
    f = Decoder(lambda z: torch.where(z > 0, z.clamp(min=1e-9).sqrt(), z), latent_dim=2)
    torch.testing.assert_close(jacobian(f, z)[0], torch.tensor([1.0, 0.25], dtype=torch.float64).diag())


def test_outputs_that_do_not_depend_on_the_latents_are_told() -> None:
    with pytest.raises(ContractError, match="the same outputs at all of 4 latents"):
        Decoder(lambda z: torch.ones(len(z), 3, dtype=z.dtype), latent_dim=2)
    with pytest.raises(ContractError, match="not differentiable\nhint: does it stand"):
        Decoder(lambda z: z.detach() * 2, latent_dim=2)


@pytest.mark.parametrize("bad", [2, 3])
def test_a_decoder_that_fails_later_is_told_to(bad: int) -> None:
    calls = []

    def f(z: Tensor) -> Tensor:
        calls.extend([1] if len(z) == 4 else [])
        if len(calls) == bad:
            raise IndexError("no more")
        return z.sin()

    with pytest.raises(ContractError, match="fails when it is called again: no more"):
        Decoder(f, latent_dim=2, dtype=torch.float64)


def test_batch_normalisation_is_named_where_it_is_in_training_mode() -> None:
    training, still = nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval()

    def inner(z: torch.Tensor) -> torch.Tensor:
        return training(z)

    said = []
    for f in (
        lambda z: z * z[0, 0].item(),
        lambda z: still(z.float()) - z.float().mean(0),
        lambda z: 0 * training(torch.cat([z, z]).float())[: len(z)] + z.float() - z.float().mean(0),
        lambda z: inner(z.float()),
    ):
        with pytest.raises(ContractError, match=r"mixes the rows|batch of one") as caught:
            Decoder(f, latent_dim=2)
        said.append("batch normalisation" in str(caught.value.hint))
    assert said == [False, False, True, True]


@pytest.mark.parametrize("error", [AssertionError, IndexError, KeyError, AttributeError, TypeError])
def test_whatever_a_decoder_raises_at_a_batch_of_one_is_its_own_fault(error: type[Exception]) -> None:
    def f(z: Tensor) -> Tensor:
        if len(z) == 1:
            raise error
        return z.sin()

    with pytest.raises(ContractError, match="does not take a batch of one") as caught:
        Decoder(f, latent_dim=2)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.BatchNorm1d(2, track_running_stats=False), "batch of one"),
        (
            nn.Sequential(
                nn.Linear(2, 8), nn.Unflatten(1, (2, 4)), nn.BatchNorm1d(2, track_running_stats=False)
            ),
            "mixes",
        ),
    ],
)
def test_batch_norm_without_running_statistics_is_named(module: nn.Module, words: str) -> None:
    with pytest.raises(ContractError, match=words) as caught:
        Decoder(module, latent_dim=2)
    assert "batch normalisation" in str(caught.value.hint)


class OnlyReverse(torch.autograd.Function):
    """A square without a forward-mode derivative."""

    @staticmethod
    def forward(ctx: object, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)  # type: ignore[attr-defined]
        return z**2

    @staticmethod
    def backward(ctx: object, w: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2 * z * w


def test_reverse_mode_where_there_is_no_forward_mode() -> None:
    decoder = Decoder(OnlyReverse.apply, latent_dim=2)
    assert decoder.differentiation == "reverse"
    assert "reverse-mode" in [n.code for n in decoder.notes]


class WrongForward(OnlyReverse):
    """Forward mode that is silently zero, as TorchScript's from its second call on."""

    @staticmethod
    def jvp(ctx: object, v: Tensor) -> Tensor:
        return torch.zeros_like(v)

    @staticmethod
    def forward(ctx: object, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)  # type: ignore[attr-defined]
        ctx.save_for_forward(z)  # type: ignore[attr-defined]
        return z**2


class LaterWrong(OnlyReverse):
    """Forward mode that is zero from its second call on, as TorchScript's is."""

    calls = 0

    @staticmethod
    def jvp(ctx: Any, v: Tensor) -> Tensor:
        LaterWrong.calls += 1
        return 2 * ctx.saved_tensors[0] * v * float(LaterWrong.calls == 1)

    @staticmethod
    def forward(ctx: object, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)  # type: ignore[attr-defined]
        ctx.save_for_forward(z)  # type: ignore[attr-defined]
        return z**2


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("wrong", [WrongForward, LaterWrong])
def test_a_silently_wrong_forward_mode_is_caught(
    wrong: Any, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    LaterWrong.calls = 0
    if large:
        monkeypatch.setattr("vaeprobe.decoder.LARGE", 0)
    assert Decoder(wrong.apply, latent_dim=2).differentiation == "reverse"


class WrongBackward(OnlyReverse):
    @staticmethod
    def backward(ctx: object, w: Tensor) -> Tensor:
        return w


@pytest.mark.parametrize("large", [False, True])
def test_wrong_derivatives_are_refused(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr("vaeprobe.decoder.LARGE", 0)
    # no forward mode to compare with: finite differences are the judge
    with pytest.raises(ContractError, match="finite differences"):
        Decoder(WrongBackward.apply, latent_dim=2)


@pytest.mark.parametrize(
    "moved", [lambda call: call % 3 == 0, lambda call: call >= 5], ids=["turns", "later"]
)
@pytest.mark.parametrize("large", [False, True])
def test_outputs_that_change_from_call_to_call_are_told_as_that(
    moved: Callable[[int], bool], large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr("vaeprobe.decoder.LARGE", 0)
    calls = itertools.count(1)

    def f(z: Tensor) -> Tensor:
        return (z + 0.01 * moved(next(calls))).sin().repeat(1, 4)

    with pytest.raises(ContractError, match="two calls of the decoder on the same latents differ"):
        Decoder(f, 3)


class Assigned(nn.Module):
    """A network that gives its weight other memory in each call, as hand-written spectral norms do."""

    def __init__(self, *, turned: bool = False, own: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.raw = nn.Linear(3, 8), nn.Parameter(torch.randn(8, 3))
        self.turned, self.own = turned, own

    def forward(self, z: Tensor) -> Tensor:
        weight = self.raw / self.raw.norm()
        if self.turned:
            weight = self.layer.weight.data.roll(1, 0)
        if self.own:
            self.layer.weight.data = weight
            return torch.tanh(self.layer(z))
        return torch.tanh(nn.functional.linear(z, weight))


@pytest.mark.parametrize("large", [False, True])
def test_data_that_a_call_assigns_are_refused(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's forward mode ends the process (torch 2.13): the tensor that is assigned belongs to the differentiation."""
    if large:
        monkeypatch.setattr("vaeprobe.decoder.LARGE", 0)
    with pytest.raises(ContractError, match=r"its tensor `layer.weight` other memory in every call"):
        Decoder(Assigned(), 3)
    with pytest.raises(ContractError, match="two calls of the decoder on the same latents differ") as found:
        Decoder(Assigned(turned=True), 3)
    assert "changes its own `layer.weight`" in str(found.value.hint)
    assert Decoder(Assigned(own=False), 3).output_shape == (8,)


def frozen_script() -> nn.Module:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 8), nn.Tanh()).eval())  # type: ignore[no-untyped-call]
    out: nn.Module = torch.jit.freeze(scripted)  # type: ignore[no-untyped-call]
    return out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_frozen_torchscript_is_a_decoder() -> None:
    network, z = frozen_script(), torch.randn(4, 3)
    expected = torch.func.vmap(torch.func.jacrev(lambda x: network(x[None])[0]))(z).double()
    torch.testing.assert_close(gram(network, z), expected.mT @ expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("levels", [1, 255, 10_000])
def test_rounded_outputs_have_no_derivative(levels: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh())
    for last in (torch.round, torch.floor):
        with pytest.raises(
            ContractError, match="derivatives of the decoder are 0 at all of 4 latents"
        ) as found:
            Decoder(lambda z, last=last: last(network(z.float()) * levels) / levels, 3)  # type: ignore[misc]
        assert "rounded" in str(found.value.hint)
    prior = (Group("normal", 1), Group("onehot", 2))
    assert (
        Decoder(lambda z: network(0 * z.float())[:, :1] + z[:, 1:], 3, prior=prior).differentiation
        == "forward"
    )
    for same in (lambda z: 0 * z, lambda z: torch.relu(network(z.float()) - 2)):  # collapsed, not rounded
        assert Decoder(same, 3).differentiation == "forward"


@pytest.mark.parametrize("rows", [False, True])
def test_a_batch_on_another_axis_is_told_with_how_to_move_it(rows: bool) -> None:
    torch.manual_seed(0)
    first = nn.Linear(3, 8)

    def sequences(z: Tensor) -> Tensor:
        return first(z)[None].repeat(7, 1, 1) * torch.arange(7)[:, None, None]

    with pytest.raises(ContractError, match=r"shape \(7, 2, 8\): the batch seems to be axis 1") as found:
        gram(sequences, torch.randn(5, 3)) if rows else Decoder(sequences, 3)
    assert "y.movedim(1, 0)" in str(found.value.hint)
    z = torch.randn(5, 3)
    assert gram(lambda z: sequences(z).movedim(1, 0), z).shape == (5, 3, 3)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
def test_nested_outputs_are_refused() -> None:
    with pytest.raises(ContractError, match="is a nested tensor") as found:
        Decoder(lambda z: torch.nested.as_nested_tensor(list(z)), 3)
    assert "to_padded_tensor" in str(found.value.hint)


def straight_through(h: Tensor, scale: float = 1.0) -> Tensor:
    return h + ((scale * h).round() / scale - h).detach()


class Between(nn.Module):
    """A network in single precision, of which a copy in double can be had, around something."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 16), nn.Sequential(nn.ReLU(), nn.Linear(16, 24))
        self.middle = middle

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.last(self.middle(self.first(z)))
        return out


BETWEEN = Between(torch.nn.Identity())


@pytest.mark.parametrize(
    "f",
    [
        straight_through,
        lambda z: z * z.detach(),
        lambda z: torch.where(z[:, :1] < 0, z, z.detach()),
        lambda z: torch.cat([z, z.square().detach()], 1),
        Between(straight_through),
        Between(lambda h: straight_through(h, 64.0)),
        Between(lambda h: h / h.detach().norm(dim=1, keepdim=True)),
        Between(lambda h: h.sin() + 0.1 * h.sin().detach()),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("large", [False, True])
def test_what_is_detached_is_refused_though_both_modes_agree(
    f: Callable[[Tensor], Tensor], dtype: torch.dtype, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr("vaeprobe.decoder.LARGE", 0)
    with pytest.raises(ContractError, match="finite differences, in both modes alike") as caught:
        Decoder(f, 3, dtype=dtype)
    assert "comes after the quantiser" in str(caught.value.hint)


@pytest.mark.parametrize(
    "f",
    [
        lambda z: z + z.round(),
        lambda z: z * z.sign().detach(),
        lambda z: BETWEEN(z.float()) + (BETWEEN(z.float()) * 255).round() / 255,
        lambda z: z.float().repeat(1, 9) + (z.float().repeat(1, 9) * 1000).round() / 1000,
        lambda z: torch.sin(1e3 * BETWEEN(z.float())),
        lambda z: 1e4 + 1e-3 * BETWEEN(z.float()),
        Between(lambda h: h + torch.eye(16).to(h)[h.argmax(1)]),
        Between(lambda h: h * (h.detach() > h.detach().mean(1, keepdim=True))),
        Between(lambda h: h + 1e-3 * h.detach().sin()),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_kinks_and_rounding_are_not_called_detached(
    f: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    assert Decoder(f, 3, dtype=dtype).differentiation == "forward"


@pytest.mark.parametrize(
    ("output", "wrap"),
    [
        (None, lambda y: (y, y + 1)),
        (None, lambda y: {"reconstruction": y, "z": y + 1}),
        ("x", lambda y: {"x": y, "other": y + 1}),
        (1, lambda y: [y + 1, y]),
    ],
)
def test_tuples_and_dicts(output: int | str | None, wrap: object) -> None:
    decoder = Decoder(lambda z: wrap(2 * z), latent_dim=2, output=output)  # type: ignore[operator]
    z = torch.ones(3, 2)
    torch.testing.assert_close(decoder(z), 2 * z.double())


def test_one_hot_latents_carry_no_derivative() -> None:
    decoder = Decoder(lambda z: z, latent_dim=5, prior=(Group("normal", 2), Group("onehot", 3)))
    assert decoder.continuous == [0, 1]
    with pytest.raises(UsageError, match="prior"):
        Decoder(lambda z: z, latent_dim=5, prior=(Group("normal", 2),))


def test_an_encoder_checks_shapes() -> None:
    encoder = Encoder(lambda x: (x[:, :2], x[:, 2:4]), latent_dim=2, input_shape=(4,))
    mean, log_variance = encoder(torch.arange(8.0).reshape(2, 2, 2))
    assert mean.tolist() == [[0, 1], [4, 5]]
    assert log_variance.tolist() == [[2, 3], [6, 7]]
    with pytest.raises(UsageError, match=r"the encoder takes \(4,\)"):
        encoder(torch.zeros(2, 5))
    with pytest.raises(ContractError, match="not twice"):
        Encoder(lambda x: (x, x), latent_dim=2)(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("function", "says", "hint"),
    [
        (lambda x: x, r"one tensor of shape \(2, 4\)", "chunk(2, dim=1)"),
        (lambda x: x[:, :2], r"one tensor of shape \(2, 2\)", "two tensors of shape (n, 2)"),
        (lambda x: (x, x, x), "tuple of Tensor, Tensor, Tensor", "two tensors"),
        (lambda x: (x[:, :2], None), "tuple of Tensor, NoneType", "two tensors"),
        (lambda x: {"mean": x}, "dict", "two tensors"),
    ],
)
def test_an_encoder_of_anything_but_two_tensors_is_refused_by_name(
    function: Any, says: str, hint: str
) -> None:
    encoder = Encoder(function, latent_dim=2)
    for each in (encoder, encoder.in_units(torch.zeros(2), torch.ones(2))):
        with pytest.raises(ContractError, match=f"the encoder returns {says}, where the mean") as error:
            each(torch.zeros(2, 4))
        assert hint in str(error.value.hint)


def test_a_gaussian_is_measured_on_the_mean() -> None:
    # the natural parameter of a Gaussian is its mean: logits have no part in it
    from vaeprobe.engine.verbs import gram
    from vaeprobe.likelihoods import Bernoulli, Gaussian, Poisson

    W = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.1]], dtype=torch.float64)
    decoder = Decoder(
        lambda z: torch.sigmoid(z @ W.T), latent_dim=2, natural=lambda z: z @ W.T, likelihood="bernoulli"
    )
    z = torch.tensor([[0.3, -0.2], [1.0, 0.5]], dtype=torch.float64)
    p = decoder(z)
    variance = p * (1 - p)
    J = variance[:, :, None] * W
    torch.testing.assert_close(gram(decoder, z, likelihood=Gaussian(0.5)), 2 * J.mT @ J)
    torch.testing.assert_close(gram(decoder, z, likelihood=Bernoulli()), W.T @ (variance[:, :, None] * W))
    torch.testing.assert_close(gram(decoder, z, likelihood=Poisson()), J.mT @ (J / p[:, :, None]))


def test_one_output_without_an_axis_of_its_own() -> None:
    from vaeprobe.engine.verbs import gram

    decoder = Decoder(lambda z: (z**2).sum(1), latent_dim=3)
    z = torch.ones(2, 3, dtype=torch.float64)
    assert decoder.flat(z).shape == (2, 1)
    torch.testing.assert_close(gram(decoder, z), torch.full((2, 3, 3), 4.0, dtype=torch.float64))


def test_outputs_rounded_finely_in_single_precision_are_told_what_helps() -> None:
    def rounded(z: Tensor) -> Tensor:
        return z + (4000 * z).round() / 4000

    with pytest.raises(ContractError, match="in both modes alike") as caught:
        Decoder(lambda z: rounded(z.float()), 3)
    assert "one that takes float64, or an nn.Module" in str(caught.value.hint)
    # as the hint says
    for f in (rounded, Between(rounded)):
        assert Decoder(f, 3).differentiation == "forward"
    with pytest.raises(ContractError) as caught:
        Decoder(Between(straight_through), 3)
    assert "1/3000" not in str(caught.value.hint)


@pytest.mark.parametrize(("latents", "training"), [(2, False), (6, True)])
def test_a_whole_vae_is_told_how_to_give_its_decoder(latents: int, training: bool) -> None:
    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

        def forward(self, x: Tensor) -> Tensor:
            mean, log_variance = self.encoder(x).chunk(2, 1)
            noise = torch.randn_like(mean) if training else 0
            return self.decoder(mean + noise * log_variance.exp().sqrt())

    with pytest.raises(ContractError) as caught:
        Decoder(VAE(), latent_dim=latents)
    assert "this is a whole VAE, with `encoder` and `decoder`: vaeprobe.from_module(vae)" in str(
        caught.value.hint
    )
    assert vaeprobe.from_module(VAE()).latent_dim == 2


def test_a_reconstruction_beside_a_smaller_posterior_is_suspected() -> None:
    def vae(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.tanh(x), x[:, :2], x[:, 2:4]

    (note,) = (n for n in Decoder(vae, 6).notes if n.code == "whole-vae")
    assert note.level == "warning"
    assert "vaeprobe.from_module(vae)" in str(note.hint)
    for other in (
        lambda z: (torch.tanh(z), z[:, :2]),  # a decoder with a scale beside it
        lambda z: (torch.cat([z, z], 1), z[:, :2], z[:, 2:4]),  # of more numbers than latents
        lambda z: (torch.tanh(z), z, z),
    ):
        assert "whole-vae" not in {n.code for n in Decoder(other, 6).notes}
    assert "whole-vae" not in {n.code for n in Decoder(vae, 6, output=0).notes}


def test_a_decoder_and_a_result_are_one_line_each() -> None:
    torch.manual_seed(0)
    decoder = Decoder(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 5)), 3, name="small")
    assert repr(decoder) == "<Decoder 'small': 3 latents -> 5 outputs>"
    result = vaeprobe.orthogonality(decoder, samples=16)
    assert repr(result).startswith(
        f"<OrthogonalityResult {result.verdict!r}: orthogonality.ima_contrast={result.ima_contrast.value:.4g}, "
    )
    assert "\n" not in repr(result)
    nothing = vaeprobe.factorise(Decoder(nn.Linear(1, 3), 1), samples=4)
    assert repr(nothing).startswith("<FactoriseResult 'undefined': factorise.gap=undefined, ")


# -- what training puts into a network --------------------------------------------------------------------------


class Anew(nn.Module):
    """Computes its first layers anew in the backward pass."""

    def __init__(self, *, reentrant: bool, last: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Sequential(nn.Linear(3, 8), nn.Tanh()), nn.Linear(8, 8)
        self.reentrant, self.last = reentrant, last

    def forward(self, z: Tensor) -> Tensor:
        def half(part: nn.Module, x: Tensor) -> Tensor:
            out: Tensor = checkpoint(part, x, use_reentrant=self.reentrant)
            return out

        h = self.first(z) if self.last else half(self.first, z)
        return half(self.second, h) if self.last else self.second(h)


@pytest.mark.filterwarnings(
    "ignore:None of the inputs have requires_grad:UserWarning"
)  # where nothing is differentiated
@pytest.mark.parametrize("last", [False, True])
def test_reentrant_checkpointing_is_refused_and_the_other_way_works(last: bool) -> None:
    with pytest.raises(ContractError, match="in the reentrant way") as caught:
        Decoder(Anew(reentrant=True, last=last).eval(), 3)
    assert "use_reentrant=False" in str(caught.value.hint)
    decoder = Decoder(Anew(reentrant=False, last=last).eval(), 3)
    plain = Anew(reentrant=False, last=last).eval()
    z = torch.randn(4, 3)
    right = torch.func.vmap(torch.func.jacrev(lambda row: plain.second(plain.first(row))))(z)
    assert torch.allclose(jacobian(decoder, z), right, atol=1e-5)


def quantised_in_training(*, fused: bool, observes: bool = False) -> nn.Module:
    """A decoder after quantisation-aware training, whose layers round what they take and give."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = quantization.FusedMovingAvgObsFakeQuantize if fused else quantization.FakeQuantize
        own = quantization.QConfig(
            activation=kind.with_args(
                observer=quantization.MovingAverageMinMaxObserver, quant_min=0, quant_max=255
            ),
            weight=kind.with_args(
                observer=quantization.MovingAverageMinMaxObserver,
                quant_min=-128,
                quant_max=127,
                dtype=torch.qint8,
            ),
        )
        net.qconfig = own
        net = quantization.prepare_qat(net)
    for _ in range(5):
        net(torch.randn(32, 3))
    if not observes:
        net.apply(quantization.disable_observer)
    return net.eval()


@pytest.mark.parametrize("observes", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_fake_quantisation_is_refused_and_a_decoder_without_it_is_probed(fused: bool, observes: bool) -> None:
    network = quantised_in_training(fused=fused, observes=observes)
    with pytest.raises(ContractError, match="fake quantisation, of quantisation-aware training") as caught:
        Decoder(network, 3)
    assert "network.apply(torch.ao.quantization.disable_fake_quant)" in str(caught.value.hint)
    network.apply(torch.ao.quantization.disable_fake_quant)
    z = torch.randn(4, 3)
    J = jacobian(Decoder(network, 3), z)
    plain = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5))
    plain.load_state_dict(network.state_dict(), strict=False)
    assert torch.allclose(J, torch.func.vmap(torch.func.jacrev(plain))(z), atol=1e-5)


def test_a_function_that_fakes_quantisation_is_refused() -> None:
    W = torch.randn(3, 5)
    with pytest.raises(ContractError, match="fake quantisation"):
        Decoder(
            lambda z: torch.fake_quantize_per_tensor_affine((z.float() @ W).tanh(), 0.01, 0, -128, 127), 3
        )


# -- batches of one, and of one size alone ----------------------------------------------------------------------


class Last(nn.Module):
    """A hidden layer of 16, and what is made of it in the end."""

    def __init__(self, end: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.end = nn.Linear(4, 16), end

    def forward(self, z: Tensor) -> Tensor:
        return self.end(z, torch.tanh(self.layer(z)))


SQUEEZED: list[tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = [
    (lambda z, h: h.view(-1, 1, 4, 4).squeeze(), lambda z, h: h.view(-1, 1, 4, 4).squeeze(1)),
    (lambda z, h: h[:, :1].squeeze(), lambda z, h: h[:, :1].squeeze(1)),
    (lambda z, h: h.squeeze(), lambda z, h: h.reshape(len(z), -1)),
    (lambda z, h: h.squeeze(0), lambda z, h: h),
    (
        lambda z, h: h.view(-1, 1, 16).squeeze().softmax(1),
        lambda z, h: h.view(-1, 1, 16).squeeze(1).softmax(1),
    ),
    # of as many numbers, and others: taken for rows that are mixed
    (
        lambda z, h: h.view(-1, 1, 4, 4).squeeze().sum(1).reshape(len(z), -1),
        lambda z, h: h.view(-1, 1, 4, 4).squeeze(1).sum(1).reshape(len(z), -1),
    ),
]


@pytest.mark.parametrize(("wrong", "right"), SQUEEZED)
def test_a_batch_of_one_that_is_squeezed_away_is_said(
    wrong: Callable[[Tensor, Tensor], Tensor], right: Callable[[Tensor, Tensor], Tensor]
) -> None:
    with pytest.raises(ContractError, match="squeezes a batch of one away") as caught:
        Decoder(Last(wrong).eval(), 4)
    assert ".squeeze(1)" in str(caught.value.hint)
    assert "y.reshape(len(z), ...)" in str(caught.value.hint)
    assert Decoder(Last(right).eval(), 4).latent_dim == 4


def test_rows_that_are_mixed_are_not_called_squeezed() -> None:
    """Though something is squeezed, axes of length 1 that are none of the batch."""
    scale = torch.randn(1, 16)
    with pytest.raises(ContractError, match="mixes the rows"):
        Decoder(Last(lambda z, h: (h * scale.squeeze() - h.mean(0)).view(-1, 1, 16).squeeze(1)).eval(), 4)
    assert Decoder(Last(lambda z, h: h * scale.squeeze()).eval(), 4).output_shape == (16,)


@pytest.mark.parametrize("batch", [1, 2, 3, 64, 128])
@pytest.mark.parametrize("opaque", [False, True])
def test_a_batch_size_fixed_inside_is_said_in_the_same_words(batch: int, opaque: bool) -> None:
    network = Last(lambda z, h: h.view(batch, 1, 4, 4)).eval()
    with pytest.raises(
        ContractError, match=f"runs with {batch} rows? of latents at a time, and not with"
    ) as caught:
        Decoder((lambda z: network(z.float())) if opaque else network, 4)
    assert caught.value.hint == contract.FIXED_BATCH
    assert "z.shape[0]" in contract.FIXED_BATCH
    assert Decoder(Last(lambda z, h: h.view(z.shape[0], 1, 4, 4)).eval(), 4).output_shape == (1, 4, 4)
    with pytest.raises(ContractError, match="cannot be called") as other:
        Decoder(network, 5)
    assert "is the latent dimension really 5? (--latent-dim, in Python latent_dim=)" in str(other.value.hint)


def test_what_takes_long_to_fail_is_not_asked_for_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fails(z: Tensor) -> Tensor:
        asked.append(len(z))
        raise RuntimeError("a shape that is wrong")

    monkeypatch.setattr(contract, "PATIENCE", -1.0)
    assert contract.fixed_batch(fails, torch.zeros(2, 3)) == 0
    assert asked == []
    monkeypatch.setattr(contract, "PATIENCE", 60.0)
    assert contract.fixed_batch(fails, torch.zeros(2, 3)) == 0
    assert asked == list(contract.BATCHES)


@pytest.mark.parametrize(
    ("given", "kind", "hint"),
    [
        (np.eye(3), "ndarray", "numpy.save"),
        (torch.eye(3), "Tensor", "numpy.save"),
        ({"weight": torch.eye(3)}, "dict", "path of their file"),
        (np.ones(3), "ndarray", None),
        (3, "int", None),
        (None, "None", None),
    ],
)
@pytest.mark.parametrize("latent_dim", [None, 3])
def test_what_is_no_decoder_is_said(
    given: object, kind: str, hint: str | None, latent_dim: int | None
) -> None:
    with pytest.raises(UsageError, match=rf"Decoder, not {kind}\b") as caught:
        vaeprobe.orthogonality(given, latent_dim=latent_dim)  # type: ignore[arg-type]
    assert (caught.value.hint is None) if hint is None else hint in (caught.value.hint or "")


def test_the_hint_of_a_matrix_leads_to_a_decoder(tmp_path: Path) -> None:
    np.save(tmp_path / "decoder.npy", np.diag([1.0, 2.0, 3.0]))
    assert vaeprobe.orthogonality(tmp_path / "decoder.npy", samples=8)["latents.active"].value == 3
