"""Whole VAEs: the parts that decode and encode are found, in memory and through `--arch`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe.checkpoints.factory import parse_arguments
from vaeprobe.checkpoints.whole import from_module, is_whole
from vaeprobe.errors import ContractError, UsageError

X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Z = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


class Base(nn.Module):
    """fc3 and fc4 decode, as in torch's examples; subclasses return their posteriors in other ways."""

    def __init__(self, latent_dim: int = 4, hidden: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, hidden)
        self.fc21, self.fc22 = nn.Linear(hidden, latent_dim), nn.Linear(hidden, latent_dim)
        self.fc3, self.fc4 = nn.Linear(latent_dim, hidden), nn.Linear(hidden, 64)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.fc1(x.flatten(1)))
        return self.fc21(h), self.fc22(h)

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.fc4(torch.relu(self.fc3(z)))).reshape(-1, 1, 8, 8)

    def forward(self, x: Tensor) -> Any:
        mean, log_variance = self.moments(x)
        return self.decode(mean + torch.randn_like(mean)), mean, log_variance


class Pair(Base):
    def encode(self, x: Tensor) -> Any:
        return self.moments(x)


class Sampled(Base):
    def encode(self, x: Tensor) -> Any:
        mean, log_variance = self.moments(x)
        return mean + torch.randn_like(mean) * (log_variance / 2).exp(), mean, log_variance


class Named(Base):
    def encode(self, x: Tensor) -> Any:
        mean, log_variance = self.moments(x)
        return {"log_variance": log_variance, "mu": mean}


class Spread(Base):
    def encode(self, x: Tensor) -> Any:
        mean, log_variance = self.moments(x)
        return {"mean": mean, "log_std": log_variance / 2}


class Chunked(Base):
    def encode(self, x: Tensor) -> Any:
        return torch.cat(self.moments(x), 1)


class Normal(Base):
    def encode(self, x: Tensor) -> Any:
        mean, log_variance = self.moments(x)
        return torch.distributions.Normal(mean, (log_variance / 2).exp())


class Heads(Base):
    def encoder(self, x: Tensor) -> Any:
        return torch.relu(self.fc1(x.flatten(1)))


@pytest.mark.parametrize("cls", [Pair, Sampled, Named, Spread, Chunked, Normal, Heads])
def test_decoder_and_posterior_are_found(cls: type[Base]) -> None:
    torch.manual_seed(0)
    vae = cls()
    decoder = from_module(vae, likelihood="bernoulli")
    assert decoder.shapes == "4 latents -> 1 x 8 x 8, bernoulli"
    torch.testing.assert_close(decoder(Z), vae.decode(Z).detach())
    assert decoder.encoder is not None
    for found, right in zip(decoder.encoder(X), vae.moments(X), strict=True):
        torch.testing.assert_close(found, right.detach(), rtol=1e-5, atol=1e-6)
    assert {"whole-vae", "encoder-read"} <= {n.code for n in decoder.notes}
    assert vae.training


class Deterministic(Base):
    def encode(self, x: Tensor) -> Any:
        return self.moments(x)[0]


def test_an_autoencoder_has_no_posterior_and_says_so() -> None:
    decoder = from_module(Deterministic())
    assert decoder.encoder is None
    note = next(n for n in decoder.notes if n.code == "encoder-read")
    assert note.level == "warning"
    assert "`encode` returns 1 tensor" in note.message


def test_a_decoder_alone_is_none_of_the_two() -> None:
    assert not is_whole(nn.Sequential(nn.Linear(2, 3)))
    assert from_module(nn.Sequential(nn.Linear(2, 3))).latent_dim == 2


class Conditional(Base):
    def encode(self, x: Tensor) -> Any:
        return self.moments(x)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return self.fc3(z) * y


def test_a_condition_is_named() -> None:
    with pytest.raises(ContractError, match="`decode` needs `y` beside the latents"):
        from_module(Conditional())


def test_double_precision_reaches_the_encoder() -> None:
    decoder = from_module(Pair(), dtype=torch.float64)
    assert decoder.dtype == torch.float64
    assert decoder.encoder is not None
    assert decoder.encoder(X)[0].dtype == torch.float64


# -- --arch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}}]
)
def test_a_class_is_made_filled_and_halved(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    vae = Pair()
    torch.save(wrap(vae.state_dict()), tmp_path / "vae.pt")
    decoder = vaeprobe.load(tmp_path / "vae.pt", arch=Pair)
    torch.testing.assert_close(decoder(Z), vae.decode(Z).detach())
    assert decoder.encoder is not None
    found = vaeprobe.posterior(decoder, data=X.repeat(8, 1, 1, 1), samples=20, likelihood="bernoulli")
    assert found.summary


def test_arguments_come_from_the_checkpoint_or_the_user(tmp_path: Path) -> None:
    class Needs(Pair):
        def __init__(self, latent_dim: int, hidden: int) -> None:
            super().__init__(latent_dim, hidden)

    vae = Needs(3, 7)
    z = torch.randn(2, 3)
    for entry in ("hyper_parameters", "config", "args"):
        torch.save(
            {"state_dict": vae.state_dict(), entry: {"latent_dim": 3, "hidden": 7, "lr": 0.1}},
            tmp_path / "w.pt",
        )
        torch.testing.assert_close(vaeprobe.load(tmp_path / "w.pt", arch=Needs)(z), vae.decode(z).detach())
    torch.save(vae.state_dict(), tmp_path / "w.pt")
    for given in ({"latent_dim": 3, "hidden": 7}, "latent_dim=3, hidden=7"):
        decoder = vaeprobe.load(tmp_path / "w.pt", arch=Needs, arch_args=given)
        torch.testing.assert_close(decoder(z), vae.decode(z).detach())
    with pytest.raises(UsageError, match="needs the arguments `latent_dim`, `hidden`") as error:
        vaeprobe.load(tmp_path / "w.pt", arch=Needs)
    assert "--arch-args latent_dim=" in str(error.value.hint)
    with pytest.raises(UsageError, match="no argument `hiden`") as error:
        vaeprobe.load(tmp_path / "w.pt", arch=Needs, arch_args="latent_dim=3, hiden=7")
    assert "did you mean `hidden`" in str(error.value.hint)


def test_arguments_as_text() -> None:
    assert parse_arguments("a=1, b=[2, 3], c=word, d='x', e=-1.5, f=None, g=True") == {
        "a": 1, "b": [2, 3], "c": "word", "d": "x", "e": -1.5, "f": None, "g": True,
    }  # fmt: skip
    for text in ("1, 2", "a=open('x')", "a=", "**b", "a=1)(b=2"):
        with pytest.raises(UsageError, match="are no arguments"):
            parse_arguments(text)
