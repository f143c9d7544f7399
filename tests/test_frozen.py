"""Networks as people have them after training: probed on a copy, and left as they were."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe.decoder import Decoder
from vaeprobe.errors import ContractError, UsageError
from vaeprobe.frozen import frozen, unwrapped

Z = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 12))


class Keeps(nn.Module):
    """Keeps its activations, a lock, an open file and a generator; none of them can be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.h = plain(), torch.zeros(())
        self.lock, self.random = threading.Lock(), torch.Generator()
        self.cache: dict[str, Tensor] = {}
        self.drop = nn.Dropout()

    def forward(self, z: Tensor) -> Tensor:
        self.h = self.net[1](self.net[0](self.drop(z)))
        self.cache["h"] = self.h
        out: Tensor = self.net[2](self.h)
        return out

    def decode(self, z: Tensor, scale: float = 1.0) -> Tensor:
        return scale * self.forward(z)


def hooked() -> nn.Module:
    module, kept = plain(), []
    module.kept = kept  # type: ignore[assignment]
    module[0].register_forward_hook(lambda m, given, out: kept.append(out))
    return module


def normed() -> nn.Module:
    module = plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(module[0])
    return module


def called(module: nn.Module) -> nn.Module:
    """Return a module that has been run in training, so that it keeps what it keeps."""
    module(Z)
    return module


def compiled_inside() -> nn.Module:
    module = plain()
    return nn.Sequential(torch.compile(module[0]), module[1], module[2])  # type: ignore[arg-type]


def compiled_in_place() -> nn.Module:
    module = plain()
    module.compile()
    return module


def through(module: nn.Module) -> Callable[[Tensor], Any]:
    return lambda z: module(z)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(plain())


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return plain()


MAKERS: list[Callable[[], Any]] = [
    lambda: called(Keeps().eval()),
    lambda: called(hooked()),
    lambda: called(normed()),
    lambda: torch.compile(plain()),
    compiled_inside,
    compiled_in_place,
    lambda: torch.compile(through(plain())),
    lambda: nn.DataParallel(plain()),
    scripted,
    lambda: plain().requires_grad_(False),
    made_in_inference_mode,
    lambda: Keeps().decode,
    lambda: functools.partial(Keeps().decode, scale=1.0),
    lambda: functools.partial(Keeps()),
    lambda: plain().forward,
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_network_is_measured_as_its_plain_twin(make: Callable[[], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        decoder = Decoder(make(), 5)
    torch.testing.assert_close(decoder(Z), plain()(Z), rtol=1e-6, atol=1e-6)
    found, right = (
        vaeprobe.orthogonality(d, samples=8, rotations=9, restarts=0)["orthogonality.ima_contrast"].value
        for d in (decoder, Decoder(plain(), 5))
    )
    assert found == pytest.approx(right, rel=1e-4)


def test_the_network_is_left_as_it_was() -> None:
    module = Keeps().train()
    h = module.h
    decoder = Decoder(module, 5)
    assert module.training
    assert module.net.training
    assert module.h is h
    assert module.cache == {}
    assert decoder.module is not None
    assert not decoder.module.net.training  # type: ignore[union-attr]
    assert decoder.module.net[0].weight is module.net[0].weight  # type: ignore[index,union-attr]


def test_tied_tensors_stay_tied_when_they_are_cast() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).bfloat16()
    module[1].weight = module[0].weight
    copy = frozen(module, torch.float32)
    assert copy[0].weight is copy[1].weight  # type: ignore[index]
    assert copy[0].weight.dtype == torch.float32  # type: ignore[index]
    assert module[0].weight.dtype == torch.bfloat16
    assert isinstance(copy[0].weight, nn.Parameter)  # type: ignore[index]


def test_wrappers_of_training_come_off() -> None:
    inner = plain()
    assert unwrapped(torch.compile(nn.DataParallel(inner))) is inner  # type: ignore[arg-type]


# -- latents are the caller's -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.LeakyReLU(0.2, inplace=True), plain()),
        lambda: nn.Sequential(nn.Hardtanh(-5, 5, inplace=True), plain()),  # changes nothing here
        lambda: lambda z: z.mul_(2) @ torch.eye(5, dtype=z.dtype),
        # at some latents alone, which the door does not meet
        lambda: lambda z: (z.clamp_(-3, 3) if z.abs().max() > 3 else z) @ torch.eye(5, dtype=z.dtype),
    ],
)
def test_a_network_never_changes_the_latents_it_is_given(make: Callable[[], Any], dtype: torch.dtype) -> None:
    decoder = Decoder(make(), 5, dtype=dtype)
    z = 6 * Z.to(dtype)
    before = z.clone()
    decoder(z)
    assert torch.equal(z, before)
    vaeprobe.engine.gram(decoder, z)
    vaeprobe.orthogonality(decoder, samples=8, rotations=9, restarts=0)


# -- precision --------------------------------------------------------------------------------------------


class Ends(nn.Module):
    def __init__(self, end: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.end = plain(), end

    def forward(self, z: Tensor) -> Any:
        return self.end(self.net(z))


@pytest.mark.parametrize(
    "end",
    [lambda y: y.double(), lambda y: y * torch.ones(12, dtype=torch.float64)],
)
def test_double_outputs_of_a_single_network_are_no_mixing_of_rows(end: Callable[[Tensor], Tensor]) -> None:
    decoder = Decoder(Ends(end), 5)
    assert (decoder.dtype, decoder.differentiation) == (torch.float32, "forward")
    assert "low-precision" not in [n.code for n in decoder.notes]


class Auto(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out: Tensor = self.net(z)
        return out.float()


def test_autocast_inside_is_measured_and_said() -> None:
    decoder = Decoder(Auto(), 5)
    assert [n.level for n in decoder.notes if n.code == "low-precision"] == ["warning"]
    assert "bfloat16" in next(n.message for n in decoder.notes if n.code == "low-precision")


def test_autocast_outside_is_switched_off() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoder = Decoder(plain(), 5)
    assert "low-precision" not in [n.code for n in decoder.notes]


def test_half_precision_is_cast_up_on_the_copy() -> None:
    module = plain().bfloat16()
    decoder = Decoder(module, 5)
    assert decoder.dtype == torch.float32
    assert module[0].weight.dtype == torch.bfloat16
    assert "bfloat16 weights were cast to float32" in [n.message for n in decoder.notes]
    torch.testing.assert_close(decoder(Z), plain().bfloat16().float()(Z))


def test_inference_mode_is_named() -> None:
    with torch.inference_mode(), pytest.raises(UsageError, match="inference_mode"):
        Decoder(plain(), 5)


# -- networks that cannot be probed -------------------------------------------------------------------------


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 12)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        out: Tensor = self.a(torch.cat([z, label], 1))
        return out


@pytest.mark.parametrize("part", [lambda m: m, lambda m: m.forward, lambda m: m.__call__])
def test_a_needed_second_argument_is_named(part: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(ContractError, match="needs `label` beside the latents `z`") as error:
        Decoder(part(Conditional()), 5)
    assert "functools.partial(decoder, label=...)" in str(error.value.hint)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: plain().to("meta"), "meta device"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "lazy layer"),
        (lambda: Ends(lambda y: y.to_sparse()), "sparse"),
        (lambda: Ends(lambda y: y.detach().numpy()), "ndarray"),
        (lambda: Ends(lambda y: torch.distributions.Cauchy(y, 1.0)), "`Cauchy`, that has no mean"),
        (
            lambda: Ends(
                lambda y: torch.distributions.TransformedDistribution(
                    torch.distributions.Normal(y, 1.0), [torch.distributions.TanhTransform()]
                )
            ),
            "`TransformedDistribution`, that has no mean",
        ),
    ],
)
def test_what_cannot_be_probed_is_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        Decoder(make(), 5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantize:UserWarning")
def test_quantised_layers_are_named() -> None:
    if not torch.backends.quantized.supported_engines[1:]:
        pytest.skip("no engine for quantised layers here")
    module = torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear})  # type: ignore[no-untyped-call]
    with pytest.raises(ContractError, match="quantised"):
        Decoder(module, 5)


# -- distributions and several outputs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "mean", "likelihood"),
    [
        (lambda y: torch.distributions.Normal(y, 1.0), lambda y: y, "gaussian"),
        (lambda y: torch.distributions.Independent(torch.distributions.Bernoulli(logits=y), 1), torch.sigmoid, "bernoulli"),
        (lambda y: torch.distributions.Poisson(y.exp()), torch.exp, "poisson"),
        (lambda y: torch.distributions.Laplace(y, 1.0), lambda y: y, None),
        (
            lambda y: torch.distributions.Categorical(logits=y.reshape(-1, 3, 4)),
            lambda y: y.reshape(-1, 3, 4).softmax(-1).movedim(-1, 1),
            "categorical",
        ),
    ],
)  # fmt: skip
def test_a_distribution_is_probed_by_its_mean(
    end: Callable[[Tensor], Any], mean: Callable[[Tensor], Tensor], likelihood: str | None
) -> None:
    decoder = Decoder(Ends(end), 5)
    torch.testing.assert_close(decoder(Z), mean(plain()(Z)))
    assert decoder.likelihood == likelihood
    assert "distribution-output" in [n.code for n in decoder.notes]


@pytest.mark.parametrize(
    ("end", "level", "words"),
    [
        (lambda y: (y, y.exp()), "warning", "2 outputs, `0`, `1`: the first, `0`,"),
        (lambda y: {"px_scale": y, "px_r": y.exp()}, "warning", "2 outputs, `px_scale`, `px_r`: the first"),
        (lambda y: {"z": y.exp(), "recon_x": y}, "note", "`recon_x` was probed"),
        (lambda y: ((y, y), y), "warning", "2 outputs"),
        (lambda y: {"mu": y[:, :2], "recon": y}, "note", "`recon` was probed"),
        (lambda y: {"z": y[:, :2], "x_hat": y}, "note", "`x_hat` was probed"),
        (
            lambda y: {"recon_loss": y.square().sum(1), "recons": y, "mu": y[:, :2]},
            "note",
            "`recons` was probed",
        ),
        (lambda y: {"mu": y, "logvar": y.exp()}, "note", "the first, `mu`, was probed"),
        (lambda y: {"mu": y, "kl": y.exp()}, "warning", "the first, `mu`, was probed"),
    ],
)
def test_which_of_several_outputs_was_taken_is_said(
    end: Callable[[Tensor], Any], level: str, words: str
) -> None:
    decoder = Decoder(Ends(end), 5)
    torch.testing.assert_close(decoder(Z), plain()(Z))
    found = next(n for n in decoder.notes if n.code == "output-chosen")
    assert found.level == level
    assert words in found.message
    assert "--output-name" in str(found.hint)


def test_an_output_is_chosen_by_name_or_place() -> None:
    named = Ends(lambda y: {"a": y, "b": 2 * y})
    torch.testing.assert_close(Decoder(named, 5, output="b")(Z), 2 * plain()(Z))
    placed = Ends(lambda y: (y, 2 * y))
    for place in (1, "1"):
        decoder = Decoder(placed, 5, output=place)
        torch.testing.assert_close(decoder(Z), 2 * plain()(Z))
        assert "output-chosen" not in [n.code for n in decoder.notes]
    with pytest.raises(UsageError, match="no output `c`") as error:
        Decoder(named, 5, output="c")
    assert "it returns `a`, `b`" in str(error.value.hint)


# -- derivatives at kinks -------------------------------------------------------------------------------------


class Kink(torch.autograd.Function):
    """A relu without forward mode."""

    slope = 1.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (x > 0)


class Wrong(Kink):
    """A relu whose backward is a tenth too large."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 1.1 * g * (x > 0)


class Kinked(nn.Module):
    def __init__(self, kink: type[Kink]) -> None:
        super().__init__()
        self.l, self.kink = nn.Linear(32, 64 * 16), kink
        self.a, self.b = nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ConvTranspose2d(32, 3, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.kink.apply(self.l(z)).view(-1, 64, 4, 4)
        out: Tensor = self.b(self.kink.apply(self.a(h)))
        return out


@pytest.mark.parametrize("seed", range(8))
def test_kinks_are_no_wrong_derivatives(seed: int) -> None:
    torch.manual_seed(seed)
    module = Kinked(Kink)
    assert Decoder(module, 32).differentiation == "reverse"
    assert Decoder(lambda z: module(z), 32).differentiation == "reverse"  # no copy in float64 to be had


@pytest.mark.parametrize("seed", range(4))
def test_a_backward_a_tenth_too_large_is_refused(seed: int) -> None:
    torch.manual_seed(seed)
    module = Kinked(Wrong)
    for function in (module, lambda z: module(z)):
        with pytest.raises(ContractError, match="finite differences"):
            Decoder(function, 32)


@pytest.mark.parametrize("seed", range(4))
def test_a_grid_sampler_passes(seed: int) -> None:
    torch.manual_seed(seed)
    a, image = nn.Linear(5, 6), torch.randn(1, 1, 8, 8)

    def f(z: Tensor) -> Tensor:
        grid = nn.functional.affine_grid(a(z).view(-1, 2, 3) * 0.3, [len(z), 1, 8, 8], align_corners=False)
        return nn.functional.grid_sample(image.expand(len(z), -1, -1, -1), grid, align_corners=False)

    assert Decoder(f, 5, dtype=torch.float32).differentiation == "reverse"


# -- the words for it -----------------------------------------------------------------------------------------


def test_a_decoder_says_what_it_maps() -> None:
    image = nn.Sequential(nn.Linear(10, 1024), nn.Unflatten(1, (1, 32, 32)))
    assert Decoder(image, 10, likelihood="bernoulli").shapes == "10 latents -> 1 x 32 x 32, bernoulli"
    assert Decoder(lambda z: z, 1).shapes == "1 latent -> 1 output"
