"""Whole VAEs as programs: the decoder that is cut out is the network's own, and what cannot be parted is not."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe.checkpoints.conversion import write
from vaeprobe.checkpoints.programs.whole import Call, cut, partings
from vaeprobe.errors import BlueprintError, InputError, UsageError

SHAPES = {False: (20,), True: (1, 8, 8)}


class VAE(nn.Module):
    """Returns its reconstruction, alone or with the posterior's parameters, of a draw or of the mean."""

    def __init__(self, images: bool, alone: bool, draws: bool) -> None:
        super().__init__()
        self.alone, self.draws = alone, draws
        if images:
            self.encoder: nn.Module = nn.Sequential(
                nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 16), nn.Tanh()
            )
            self.decoder: nn.Module = nn.Sequential(
                *(nn.Linear(3, 64), nn.Tanh(), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 1, 4, 2, 1)),
                nn.Sigmoid(),
            )
        else:
            self.encoder = nn.Sequential(nn.Linear(20, 16), nn.Tanh())
            self.decoder = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 20), nn.Sigmoid())
        self.mu, self.log_variance = nn.Linear(16, 3), nn.Linear(16, 3)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        return self.mu(h), self.log_variance(h)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        mu, log_variance = self.encode(x)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_variance) if self.draws else mu
        out: Tensor = self.decoder(z)
        return out if self.alone else (out, mu, log_variance)


def exported(net: nn.Module, path: Path, format: str, *, images: bool) -> Path:
    torch.manual_seed(0)
    x = torch.rand(2, *SHAPES[images])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if format == "pt2":
            batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
            torch.export.save(torch.export.export(net.eval(), (x,), dynamic_shapes=batch), path)
        else:
            torch.jit.trace(net.eval(), x, check_trace=False).save(str(path))
    return path


@pytest.mark.parametrize("format", ["pt2", "pt"])
@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize(("alone", "draws"), [(False, False), (False, True), (True, True), (True, False)])
def test_the_decoder_is_cut_out(tmp_path: Path, format: str, images: bool, alone: bool, draws: bool) -> None:
    torch.manual_seed(1)
    net = VAE(images, alone, draws)
    decoder = vaeprobe.load(exported(net, tmp_path / f"m.{format}", format, images=images))
    notes = {n.code: n for n in decoder.notes}
    if not images and alone and not draws:  # a decoder of low rank would look the same
        assert decoder.latent_dim == 20
        assert "through 3: is this a whole VAE" in notes["whole-vae"].message
        return
    z, x = torch.randn(5, 3), torch.rand(4, *SHAPES[images])
    with torch.no_grad():
        torch.testing.assert_close(decoder(z), net.decoder(z), atol=1e-6, rtol=0)
        mean, log_variance = net.encode(x)
    assert notes["whole-vae"].level == ("warning" if alone and not draws else "note")
    assert "output-chosen" not in notes
    assert (decoder.encoder is not None) is draws, "without a draw nothing tells what the outputs are"
    if decoder.encoder is not None:
        m, v = decoder.encoder(x)
        torch.testing.assert_close(m, mean, atol=1e-6, rtol=0)
        torch.testing.assert_close(v, log_variance, atol=1e-4, rtol=0)
    assert decoder.has_natural, "its last sigmoid is seen behind the cut too"
    _, slope = torch.func.jvp(decoder.flat, (z,), (torch.ones_like(z),))
    step = 1e-2 * torch.ones_like(z)
    with torch.no_grad():
        difference = (decoder.flat(z + step) - decoder.flat(z - step)) / 2e-2
    torch.testing.assert_close(slope, difference, atol=1e-3, rtol=0)


@pytest.mark.parametrize("format", ["pt2", "pt"])
def test_what_is_cut_out_is_written_as_a_program_of_its_own(tmp_path: Path, format: str) -> None:
    net = VAE(False, False, True)
    decoder = vaeprobe.load(exported(net, tmp_path / f"m.{format}", format, images=False))
    out = tmp_path / "decoder.pt2"
    write(decoder, out)
    z = torch.randn(5, 3)
    again = vaeprobe.load(out)
    assert not any(n.code == "whole-vae" for n in again.notes)
    torch.testing.assert_close(again(z), decoder(z))


class Skips(VAE):
    """The decoder sees the data beside the latents."""

    def forward(self, x: Tensor) -> Tensor:
        mu, log_variance = self.encode(x)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_variance)
        out: Tensor = self.decoder(z) + 0.1 * x
        return out


class Noisy(VAE):
    """The decoder adds noise to what it makes."""

    def forward(self, x: Tensor) -> Tensor:
        mu, log_variance = self.encode(x)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_variance)
        out: Tensor = self.decoder(z)
        return out + 0.1 * torch.randn_like(out)


@pytest.mark.parametrize("format", ["pt2", "pt"])
@pytest.mark.parametrize("kind", [Skips, Noisy])
def test_what_no_value_parts_is_refused_and_the_hint_works(
    tmp_path: Path, format: str, kind: type[VAE]
) -> None:
    net = kind(False, True, True)
    with pytest.raises(InputError, match="draws random numbers, and no value") as caught:
        vaeprobe.load(exported(net, tmp_path / f"m.{format}", format, images=False))
    assert "torch.export.export(vae.decoder, (z,))" in str(caught.value.hint)
    torch.export.save(torch.export.export(net.decoder, (torch.randn(2, 3),)), tmp_path / "decoder.pt2")
    assert vaeprobe.load(tmp_path / "decoder.pt2").latent_dim == 3


class Multiplied(VAE):
    """A draw whose noise is squashed: no Gaussian, so that no posterior is read off it."""

    def forward(self, x: Tensor) -> Tensor:
        mu, log_variance = self.encode(x)
        out: Tensor = self.decoder(mu + torch.tanh(torch.randn_like(mu)) * torch.exp(0.5 * log_variance))
        return out


@pytest.mark.parametrize("format", ["pt2", "pt"])
def test_a_draw_that_is_no_gaussian_tells_no_posterior(tmp_path: Path, format: str) -> None:
    net = Multiplied(False, True, True)
    decoder = vaeprobe.load(exported(net, tmp_path / f"m.{format}", format, images=False))
    assert (decoder.latent_dim, decoder.encoder) == (3, None)


def test_a_decoder_with_a_smaller_second_output_is_left_whole(tmp_path: Path) -> None:
    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out, self.spread = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return self.out(z), self.spread(z)

    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(Spread().eval(), (torch.randn(2, 4),)), path)
    assert vaeprobe.load(path).latent_dim == 4


class Labelled(VAE):
    """A conditional VAE: the decoder takes a class beside the latents."""

    def __init__(self) -> None:
        super().__init__(False, True, True)
        self.table = nn.Embedding(4, 3)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        mu, log_variance = self.encode(x)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_variance)
        out: Tensor = self.decoder(z + self.table(label))
        return out


def test_a_conditional_vae_is_cut_and_held_at_its_class(tmp_path: Path) -> None:
    net = Labelled().eval()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    given = (torch.rand(2, 20), torch.zeros(2, dtype=torch.int64))
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(net, given, dynamic_shapes=(batch, batch)), path)
    decoder = vaeprobe.load(path, condition={"label": 2})
    assert decoder.latent_dim == 3
    z = torch.randn(5, 3)
    torch.testing.assert_close(decoder(z), net.decoder(z + net.table.weight[2]).detach())
    assert decoder.encoder is not None


class CVAE(nn.Module):
    """A conditional VAE as they are written: encode, reparameterise, decode, each with the class beside what it takes.

    Args:
        kind: of the condition: "onehot", "embedding" (a table), "class" (made one-hot inside) or "number".
        draws: whether it draws in eval mode too.
        chunks: whether one layer gives mean and log-variance.
    """

    def __init__(self, kind: str, images: bool, draws: bool, chunks: bool) -> None:
        super().__init__()
        self.kind: str = kind
        self.images: bool = images
        self.draws: bool = draws
        self.chunks: bool = chunks
        width = {"onehot": 4, "embedding": 5, "class": 4, "number": 1}[kind]
        self.table = nn.Embedding(4, 5)
        self.conv = nn.Conv2d(1, 2, 4, 2, 1)
        self.hidden = nn.Linear((32 if images else 20) + width, 16)
        self.mean, self.log_variance, self.both = nn.Linear(16, 3), nn.Linear(16, 3), nn.Linear(16, 6)
        self.first = nn.Linear(3 + width, 16)
        self.last = nn.Linear(16, 32 if images else 20)
        self.up = nn.ConvTranspose2d(2, 1, 4, 2, 1)

    def beside(self, c: Tensor) -> Tensor:
        if self.kind == "embedding":
            out: Tensor = self.table(c)
            return out
        return nn.functional.one_hot(c, 4).to(torch.float32) if self.kind == "class" else c

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.conv(x)).flatten(1) if self.images else x
        h = torch.relu(self.hidden(torch.cat([h, self.beside(c)], 1)))
        if self.chunks:
            mean, log_variance = self.both(h).chunk(2, 1)
            return mean, log_variance
        return self.mean(h), self.log_variance(h)

    def reparameterise(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        if self.training or self.draws:
            return mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return mean

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        h = self.last(torch.relu(self.first(torch.cat([z, self.beside(c)], 1))))
        return torch.sigmoid(self.up(torch.relu(h).view(-1, 2, 4, 4)) if self.images else h)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x, c)
        return self.decode(self.reparameterise(mean, log_variance), c), mean, log_variance


def saved(net: nn.Module, given: tuple[Tensor, ...], path: Path, how: str) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = (
            torch.jit.script(net) if how == "scripted" else torch.jit.trace(net, given, check_trace=False)
        )
        module.save(str(path))
    return path


CLASS = {
    "onehot": torch.tensor([0.0, 0, 1, 0]), "embedding": torch.tensor(2), "class": torch.tensor(2), "number": torch.tensor([2.0]),
}  # fmt: skip


@pytest.mark.parametrize("how", ["scripted", "traced"])
@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("kind", CLASS)
@pytest.mark.parametrize(("draws", "chunks"), [(False, False), (False, True), (True, False), (True, True)])
def test_a_conditional_vae_in_torchscript_is_cut_and_held_with_nothing_but_its_condition(
    tmp_path: Path, how: str, images: bool, kind: str, draws: bool, chunks: bool
) -> None:
    torch.manual_seed(0)
    net = CVAE(kind, images, draws, chunks).eval()
    x, c = torch.rand(5, *((1, 8, 8) if images else (20,))), CLASS[kind].expand(5, *CLASS[kind].shape)
    path = saved(net, (x[:2], c[:2]), tmp_path / "m.pt", how)
    decoder = vaeprobe.load(path, condition={"c": 2})
    assert decoder.latent_dim == 3
    assert decoder.artifact is not None
    assert "at c = 2" in decoder.artifact.architecture
    z = torch.randn(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(decoder(z), net.decode(z, c), atol=1e-6, rtol=0)
        mean, log_variance = net.encode(x, c)
    assert (decoder.encoder is not None) is draws
    if decoder.encoder is not None:
        m, v = decoder.encoder(x)
        torch.testing.assert_close(m, mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(v, log_variance, atol=1e-4, rtol=0)


def test_a_conditional_vae_in_torchscript_says_what_it_does_not_take(tmp_path: Path) -> None:
    path = saved(CVAE("embedding", False, False, True).eval(), (), tmp_path / "m.pt", "scripted")
    with pytest.raises(UsageError, match="takes no c = 9"):
        vaeprobe.load(path, condition={"c": 9})
    with pytest.raises(UsageError, match="no condition `label`"):
        vaeprobe.load(path, condition={"label": 1})
    assert vaeprobe.load(path, latent_dim=3, condition={"c": 1}).latent_dim == 3
    with pytest.raises(BlueprintError, match="takes 3 latents, not 4"):
        vaeprobe.load(path, latent_dim=4, condition={"c": 1})
    assert "condition-held" in {n.code for n in vaeprobe.load(path).notes}


class Chunked(nn.Module):
    """An autoencoder whose latents are one of the two results of an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.both = nn.Linear(20, 16), nn.Linear(16, 6)
        self.decoder = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 20))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.both(torch.tanh(self.hidden(x))).chunk(2, 1)
        return self.decoder(mean), mean, log_variance


@pytest.mark.parametrize("how", ["scripted", "traced"])
def test_latents_that_are_one_result_of_several_are_cut_at(tmp_path: Path, how: str) -> None:
    net = Chunked().eval()
    decoder = vaeprobe.load(saved(net, (torch.rand(2, 20),), tmp_path / "m.pt", how))
    z = torch.randn(5, 3)
    torch.testing.assert_close(decoder(z), net.decoder(z).detach())
    assert "whole-vae" in {n.code for n in decoder.notes}
    write(decoder, tmp_path / "decoder.pt2")
    torch.testing.assert_close(vaeprobe.load(tmp_path / "decoder.pt2")(z), decoder(z))


ROWS = {"x": (9,), "h": (5,), "mu": (2,), "e": (2,), "z": (2,), "g": (5,), "y": (9,)}
ENCODE = [Call(("x",), ("h",)), Call(("h",), ("mu",))]


@pytest.mark.parametrize(
    ("calls", "outputs", "found"),
    [
        ([*ENCODE, Call((), ("e",), True), Call(("mu", "e"), ("z",)), Call(("z",), ("g",)), Call(("g",), ("y",))], ["y"], ("z", "normal draw")),
        ([*ENCODE, Call(("mu",), ("g",)), Call(("g",), ("y",))], ["y", "mu"], ("mu", "code")),
        ([*ENCODE, Call(("mu",), ("g",)), Call(("g",), ("y",))], ["y"], ("mu", "narrowest value")),
        ([*ENCODE, Call(("mu",), ("g",)), Call(("g", "h"), ("y",))], ["y"], ("h", "narrowest value")),
        ([*ENCODE, Call(("mu",), ("g",)), Call(("g", "x"), ("y",))], ["y", "mu"], None),
        # a draw that the reconstruction does not need is none of its own
        ([*ENCODE, Call((), ("e",), True), Call(("mu",), ("y",))], ["y", "e"], None),
    ],
)  # fmt: skip
def test_the_parting_value(calls: list[Call], outputs: list[str], found: tuple[str, str] | None) -> None:
    assert cut(calls, "x", outputs, ROWS) == found


def reaches(calls: list[Call], recon: str, without: str) -> set[str]:
    """The names on which a value depends where another is given."""
    names, todo = {recon}, [recon]
    while todo:
        name = todo.pop()
        for call in calls:
            if name in call.gives and name != without:
                todo.extend(set(call.takes) - names)
                names.update(call.takes)
    return names


def test_values_that_part_a_program_are_those_that_everything_goes_through() -> None:
    """Random programs against the definition: give a value, and what is left needs neither data nor draws."""
    seen = 0
    for seed in range(2000):
        pick = random.Random(seed)
        names, calls = ["x", "w"], list[Call]()
        for i in range(pick.randint(1, 9)):
            takes = tuple(pick.sample(names[-4:], min(pick.randint(1, 2), len(names[-4:]))))
            gives = tuple(f"v{i}{j}" for j in range(pick.choice((1, 1, 1, 2))))
            calls.append(Call(takes, gives, draws=pick.random() < 0.1))
            names += gives
        recon = pick.choice(names[2:])
        drawn = {name for call in calls if call.draws for name in call.gives}
        if not ({"x"} | drawn) & reaches(calls, recon, ""):
            continue
        expected = [
            name
            for name in names[2:]
            if name != recon
            and name in reaches(calls, recon, "")
            and not ({"x"} | drawn) & reaches(calls, recon, name)
        ]
        assert partings(calls, "x", recon) == expected, (seed, calls, recon)
        seen += len(expected)
    assert seen > 200


def test_long_programs_are_parted_in_one_look() -> None:
    """Twenty thousand steps: a look at all of them for each would take minutes."""
    n = 20_000
    calls = [Call((f"v{i}",), (f"v{i + 1}",)) for i in range(n)]
    assert partings(calls, "v0", f"v{n}") == [f"v{i}" for i in range(1, n)]
