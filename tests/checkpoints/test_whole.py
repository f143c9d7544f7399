"""Whole VAEs: the parts that decode and encode are found, in memory and through `--arch`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe import Encoder
from vaeprobe.checkpoints.factory import parse_arguments
from vaeprobe.checkpoints.whole import from_module, is_whole
from vaeprobe.errors import ArchitectureError, ContractError, InputError, UsageError
from vaeprobe.inference.encoders import open_encoder
from vaeprobe.likelihoods import Categorical, LikelihoodSettings

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


class Sentences(nn.Module):
    """6 tokens of 5 kinds: its encoder looks them up, its decoder gives logits (position, kind)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.heads, self.up = nn.Embedding(5, 4), nn.Linear(24, 6), nn.Linear(3, 30)

    def encode(self, x: Tensor) -> Any:
        return self.heads(self.table(x).flatten(1)).chunk(2, 1)

    def decode(self, z: Tensor) -> Tensor:
        return self.up(z).view(-1, 6, 5)


def test_an_encoder_of_tokens_takes_labels() -> None:
    torch.manual_seed(0)
    network, tokens = Sentences(), torch.randint(5, (40, 6))
    decoder = from_module(network, 3, likelihood="categorical", parameter="natural", class_axis=-1)
    assert decoder.encoder is not None
    for found, right in zip(decoder.encoder(tokens), network.encode(tokens), strict=True):
        torch.testing.assert_close(found, right)
    result = vaeprobe.posterior(decoder, data=tokens, samples=40)
    z = torch.randn(40, 3)
    log_p = torch.distributions.Categorical(logits=network.decode(z)).log_prob(tokens).sum(1)
    told = Categorical.of((6, 5), LikelihoodSettings(class_axis=-1)).log_density(
        tokens, network.decode(z), "natural"
    )
    torch.testing.assert_close(told, log_p)
    assert result.metrics["elbo.value"].value is not None


class ClassesFirst(Sentences):
    """Logits (kind, position), as torch's cross-entropy takes them."""

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z).mT


def test_an_encoder_of_tokens_takes_labels_of_classes_first() -> None:
    torch.manual_seed(0)
    network, tokens = ClassesFirst(), torch.randint(5, (40, 6))
    decoder = from_module(network, 3, likelihood="categorical", parameter="natural", class_axis=1)
    assert decoder.encoder is not None
    for found, right in zip(decoder.encoder(tokens), network.encode(tokens), strict=True):
        torch.testing.assert_close(found, right)
    assert vaeprobe.posterior(decoder, data=tokens, samples=40).metrics["elbo.value"].value is not None


class OneHots(nn.Module):
    """Its encoder takes one-hot rows, of positions or of kinds first."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.heads, self.up = shape, nn.Linear(30, 6), nn.Linear(3, 30)

    def encode(self, x: Tensor) -> Any:
        assert x.is_floating_point()
        assert x.shape[1:] == self.shape
        return self.heads(x.flatten(1)).chunk(2, 1)

    def decode(self, z: Tensor) -> Tensor:
        return self.up(z).view(-1, *self.shape)


TOKENS = torch.randint(5, (40, 6), generator=torch.Generator().manual_seed(0))
ONE_HOT = torch.nn.functional.one_hot(TOKENS, 5).float()


def mended(error: UsageError, x: Any) -> Any:
    """Return what the expression of a hint makes of data."""
    return eval(str(error.hint).partition(": ")[2].partition(", or")[0], {"torch": torch, "x": x})


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize(
    ("network", "given"),
    [
        (Sentences(), ONE_HOT),
        (Sentences(), ONE_HOT.flatten(1)),
        (ClassesFirst(), ONE_HOT.mT),
        (ClassesFirst(), ONE_HOT.mT.flatten(1)),
    ],
)
def test_one_hot_rows_for_an_encoder_of_tokens(network: Sentences, given: Tensor, array: bool) -> None:
    """It says what it takes, what was given, and the expression that mends it, which does."""
    axis = 1 if isinstance(network, ClassesFirst) else -1
    decoder = from_module(network, 3, likelihood="categorical", parameter="natural", class_axis=axis)
    data = given.numpy() if array else given
    with pytest.raises(
        UsageError, match=r"takes tokens, whole numbers of shape .*, and the data rows are one-hot"
    ) as e:
        vaeprobe.posterior(decoder, data=data, samples=20)
    assert torch.equal(torch.as_tensor(mended(e.value, data)), TOKENS)
    assert vaeprobe.posterior(decoder, data=mended(e.value, data), samples=20).metrics["elbo.value"].value


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (5, 6), (30,)])
def test_tokens_for_an_encoder_of_one_hot_rows(shape: tuple[int, ...], array: bool) -> None:
    network = OneHots(shape)
    encoder = vaeprobe.Encoder(network.encode, 3, input_shape=shape)
    with pytest.raises(
        UsageError, match=r"takes one-hot rows of shape .* data rows are tokens, of shape .6,"
    ) as e:
        encoder(TOKENS)
    right = ONE_HOT.mT if shape == (5, 6) else ONE_HOT.reshape(40, *shape)
    assert torch.equal(mended(e.value, TOKENS.numpy() if array else TOKENS), right)
    assert torch.equal(encoder(mended(e.value, TOKENS))[0], network.encode(right)[0])
    with pytest.raises(UsageError, match="their largest is 5, and 5 classes count from 0 to 4"):
        encoder(torch.full((2, 6), 5))
    with pytest.raises(UsageError, match="the data rows have shape"):
        encoder(TOKENS + 0.5)


def test_what_is_no_token_is_refused() -> None:
    encoder = from_module(
        Sentences(), 3, likelihood="categorical", parameter="natural", class_axis=-1
    ).encoder
    assert encoder is not None
    right = encoder(TOKENS)
    assert torch.equal(encoder(TOKENS.double())[0], right[0])  # whole numbers of another type
    assert encoder(torch.full((2, 6), 4))[0].shape == (2, 3)
    with pytest.raises(UsageError, match=r"the data hold fractions, such as 0\.5"):
        encoder(torch.full((2, 6), 0.5))
    with pytest.raises(UsageError, match="they run from 5 to 5, and it knows 5, from 0 to 4"):
        encoder(torch.full((2, 6), 5))
    with pytest.raises(UsageError, match="whole numbers from 0, and the data hold -1"):
        encoder(torch.full((2, 6), -1))


def test_an_encoder_of_tokens_that_was_made_by_hand() -> None:
    network = Sentences()
    with pytest.raises(UsageError, match="cannot take data of shape") as caught:
        vaeprobe.Encoder(network.encode, 3)(TOKENS)
    assert "dtype=torch.long" in str(caught.value.hint)
    encoder = vaeprobe.Encoder(network.encode, 3, dtype=torch.long)
    assert torch.equal(encoder(TOKENS)[0], network.encode(TOKENS)[0])
    with pytest.raises(
        UsageError, match="takes tokens, whole numbers, and the data rows are one-hot"
    ) as one_hot:
        encoder(ONE_HOT)
    assert torch.equal(mended(one_hot.value, ONE_HOT), TOKENS)


class OfOneHot(Sentences):
    def forward(self, x: Tensor) -> Any:
        return self.heads((x @ self.table.weight).flatten(1)).chunk(2, 1)


def test_an_exported_program_of_whole_numbers_alone_says_so(tmp_path: Path) -> None:
    """And what it asks for is an encoder."""

    class Encodes(Sentences):
        def forward(self, x: Tensor) -> Any:
            return self.encode(x)

    network = Encodes()
    torch.export.save(torch.export.export(network, (TOKENS[:2],)), tmp_path / "tokens.pt2")
    with pytest.raises(
        InputError, match=r"takes whole numbers alone .*, as an encoder of tokens does"
    ) as caught:
        vaeprobe.load(tmp_path / "tokens.pt2")
    assert "`x @ table.weight`" in str(caught.value.hint)
    assert "vaeprobe.Encoder(encode, D, dtype=torch.long)" in str(caught.value.hint)
    wrapper = OfOneHot()
    wrapper.load_state_dict(network.state_dict())
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.export.save(
        torch.export.export(wrapper, (ONE_HOT[:2],), dynamic_shapes=batch), tmp_path / "enc.pt2"
    )
    decoder = vaeprobe.Decoder(
        network.decode, 3, likelihood="categorical", parameter="natural", class_axis=-1
    )
    found = open_encoder(tmp_path / "enc.pt2", decoder)
    torch.testing.assert_close(found(ONE_HOT)[0], network.encode(TOKENS)[0].detach())


def test_what_is_known_of_an_encoder_that_is_not_read_is_said() -> None:
    with pytest.raises(
        UsageError,
        match="posterior needs the encoder: no posterior was found in the network: `encode` returns 1",
    ):
        vaeprobe.posterior(from_module(Deterministic()), data=X, likelihood="bernoulli")
    with pytest.raises(
        UsageError, match="posterior needs the encoder, and this checkpoint comes without one"
    ):
        vaeprobe.posterior(from_module(nn.Linear(4, 64)), data=X, likelihood="bernoulli")


def test_a_decoder_takes_the_encoder_of_another_network() -> None:
    torch.manual_seed(0)
    vae = Base()
    own = Encoder(vae.moments, 4)
    assert from_module(nn.Linear(4, 64), encoder=own).encoder is own
    assert from_module(Deterministic(), encoder=own).encoder is own, "what the user says comes first"
    with pytest.raises(UsageError, match=r"the encoder is a Linear") as caught:
        from_module(nn.Linear(4, 64), encoder=nn.Linear(64, 8))
    assert "Encoder(function, 4)" in str(caught.value.hint)


def test_a_decoder_alone_is_none_of_the_two() -> None:
    assert not is_whole(nn.Sequential(nn.Linear(2, 3)))
    assert from_module(nn.Sequential(nn.Linear(2, 3))).latent_dim == 2


class Conditional(nn.Module):
    """Takes a class, made one-hot by its own code, beside the latents."""

    def __init__(self, latent_dim: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.classes = classes
        self.mu, self.d = nn.Linear(64, latent_dim), nn.Linear(latent_dim + classes, 64)

    def encode(self, x: Tensor) -> Any:
        return self.mu(x)

    def rows(self, y: Tensor) -> Tensor:
        return nn.functional.one_hot(y, self.classes).to(self.d.weight)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(self.d(torch.cat([z, self.rows(y)], 1)))


class OneHot(Conditional):
    def rows(self, y: Tensor) -> Tensor:
        return y


class Labelled(Conditional):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 3)

    def rows(self, y: Tensor) -> Tensor:
        out: Tensor = self.table(y)
        return out


class Scaled(Base):
    def encode(self, x: Tensor) -> Any:
        return self.moments(x)

    def decode(self, z: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        return self.fc3(z) * scale


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nz = 4
        self.table, self.layer = nn.Embedding(3, 2), nn.Linear(6, 5)

    def forward(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        out: Tensor = self.layer(torch.cat([z * truncation, self.table(labels)], 1))
        return out


@pytest.mark.parametrize("cls", [Conditional, OneHot, Labelled])
def test_a_class_beside_the_latents_is_held(cls: type[Conditional]) -> None:
    torch.manual_seed(0)
    vae = cls()
    rows = torch.eye(3)[[2] * 5] if cls is OneHot else torch.full((5,), 2)
    decoder = from_module(vae, condition={"y": "2"})
    assert decoder.latent_dim == 4
    assert torch.allclose(decoder(Z), vae.decode(Z, rows))
    assert "condition-held" not in [n.code for n in decoder.notes]
    assert "condition-held" in [n.code for n in from_module(vae).notes]
    assert not torch.allclose(from_module(vae)(Z), decoder(Z))


class ConditionalPair(Conditional):
    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Linear(64 + 3, 8)

    def encode(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        return self.e(torch.cat([x.flatten(1), self.rows(y)], 1)).chunk(2, 1)


def test_the_encoder_is_held_at_the_class_of_the_decoder() -> None:
    torch.manual_seed(0)
    vae = ConditionalPair()
    decoder = from_module(vae, condition={"y": 1})
    assert decoder.encoder is not None
    mean, log_variance = decoder.encoder(X.flatten(1))
    wanted = vae.encode(X, torch.full((5,), 1))
    assert torch.allclose(mean, wanted[0])
    assert torch.allclose(log_variance, wanted[1])
    note = next(n for n in decoder.notes if n.code == "encoder-read")
    assert note.level == "warning"
    assert "held at the decoder's `y` as well" in note.message


def test_a_part_that_takes_latents_alone_comes_before_one_that_takes_more() -> None:
    class Both(Pair):
        def generator(self, z: Tensor, labels: Tensor) -> Tensor:
            raise AssertionError

    net = Both()
    assert torch.allclose(from_module(net)(Z), net.decode(Z))


def test_a_number_beside_the_latents_is_held() -> None:
    torch.manual_seed(0)
    vae = Scaled()
    assert torch.allclose(from_module(vae, condition={"scale": 1.5})(Z), vae.fc3(Z) * 1.5)


def test_a_generator_takes_its_label_and_options_that_are_given() -> None:
    torch.manual_seed(0)
    net = Generator()
    labels = torch.full((5,), 1)
    assert torch.allclose(from_module(net, condition={"labels": 1})(Z), net(Z, labels))
    held = from_module(net, condition={"labels": 1, "truncation": 0.5})
    assert torch.allclose(held(Z), net(Z, labels, 0.5))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"y": "7"}, "the network takes no y = 7: Class values must be smaller"),
        ({"x": "1"}, "the decoder has no condition `x`"),
        ({"y": "red"}, "condition `y` cannot be `red`"),
    ],
)
def test_a_condition_that_is_none_is_refused(values: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        from_module(Conditional(), condition=values)


class Mapped(Base):
    def decode(self, z: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        return self.fc3(z) + image.flatten(2).mean(2)


def test_what_no_class_or_number_can_be_is_named() -> None:
    with pytest.raises(ContractError, match="the method `decode` takes `image` beside the latents: neither"):
        from_module(Mapped(), part="decode")


def test_latents_beside_a_condition_are_never_guessed() -> None:
    class Untold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.d = nn.Linear(7, 5)

        def encode(self, x: Tensor) -> Any:
            return x

        def decode(self, z: Tensor, y: Tensor) -> Tensor:
            out: Tensor = self.d(torch.cat([z, y], 1))
            return out

    with pytest.raises(UsageError, match="does not tell how many"):
        from_module(Untold())
    assert from_module(Untold(), 4, condition={"y": 2}).latent_dim == 4


class Alone(nn.Module):
    """Decodes by a method, encodes nothing, and has no `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.layer(z).tanh()
        return out


def test_a_class_that_only_decodes_is_probed_by_its_method() -> None:
    net = Alone()
    assert torch.allclose(from_module(net)(Z), net.decode(Z))


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


class Waves(nn.Module):
    """A VAE whose latents are maps of 3 channels along one axis; what decodes is a submodule."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv1d(1, 4, 4, 4)
        self.to_mu, self.to_logvar = nn.Conv1d(4, 3, 1), nn.Conv1d(4, 3, 1)
        self.decoder = nn.Sequential(nn.Conv1d(3, 4, 3, 1, 1), nn.ELU(), nn.ConvTranspose1d(4, 1, 4, 4))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.features(x)
        return self.to_mu(h), self.to_logvar(h)


class ByMethod(Waves):
    """The same, decoded by a method; what encodes returns means and log-variances in one tensor."""

    def encode(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.cat(super().encode(x), 1)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)


class Sequences(nn.Module):
    """A VAE whose latents are 6 tokens of 4 numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out = nn.Linear(5, 8), nn.Linear(4, 5)
        self.mix = nn.Parameter(torch.randn(6, 6))

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.into(x).chunk(2, -1)

    def decode(self, z: Tensor) -> Tensor:
        return torch.tanh(self.out(self.mix @ z))


@pytest.mark.parametrize(
    ("network", "sizes", "row"),
    [
        (Waves, ("8", "3x8"), (3, 8)),
        (ByMethod, ("8", "3x8"), (3, 8)),
        (Sequences, ("6x4",), (6, 4)),
    ],
)
@pytest.mark.parametrize("part", [None, "its own"])
def test_maps_of_latents_and_their_encoder_are_found_together(
    tmp_path: Path, network: type[nn.Module], sizes: tuple[str, ...], row: tuple[int, ...], part: str | None
) -> None:
    net = network().eval()
    torch.save(net.state_dict(), path := tmp_path / "m.pt")
    name = "decode" if hasattr(net, "decode") else "decoder"
    decode: Any = getattr(net, name)
    z = torch.randn(4, *row)
    d = z[0].numel()
    for size in sizes:
        for latent_dim in (None, d):
            decoder = vaeprobe.load(
                path, arch=network, latent_size=size, latent_dim=latent_dim, submodule=part and name
            )
            assert decoder.latent_shape == row
            x = decode(z).detach()
            torch.testing.assert_close(decoder(z.flatten(1)), x)
            assert decoder.encoder is not None
            mean = net.encode(x)[0] if network is not ByMethod else Waves.encode(net, x)[0]  # type: ignore[operator, arg-type]
            torch.testing.assert_close(decoder.encoder(x)[0], mean.detach().flatten(1))
        assert from_module(net, latent_size=size).latent_shape == row


def test_hints_of_maps_of_latents_work_when_they_are_followed(tmp_path: Path) -> None:
    torch.save(Waves().state_dict(), path := tmp_path / "m.pt")
    for how in ({}, {"latent_dim": 24}, {"submodule": "decoder"}, {"submodule": "decoder", "latent_dim": 24}):
        with pytest.raises(ArchitectureError, match="begins with a convolution, and nothing says") as unsaid:
            vaeprobe.load(path, arch=Waves, **how)  # type: ignore[arg-type]
        assert unsaid.value.hint == "say it: --latent-size 8 (latent_size=...)"
    with pytest.raises(UsageError, match="5 x 8 is none of maps of 3 channels along 1 axis") as channels:
        vaeprobe.load(path, arch=Waves, latent_size="5x8")
    assert channels.value.hint == "say it without the channels: --latent-size 8"
    with pytest.raises(UsageError, match="25 latents are no maps of 8"):
        vaeprobe.load(path, arch=Waves, latent_size="8", latent_dim=25)
    with pytest.raises(UsageError, match="has 24 latents, not 16"):
        vaeprobe.load(path, arch=Waves, latent_size="8", latent_dim=16)
    with pytest.raises(ContractError, match="no part of the network decodes latents: `decode` on maps of 5"):
        from_module(Sequences(), latent_size="5")
    with pytest.raises(UsageError, match="does not run on maps of latents of 2: ") as encodes:
        vaeprobe.load(path, arch=Waves, submodule="encode", latent_size="2")
    assert "is this the part that decodes?" in (encodes.value.hint or "")
