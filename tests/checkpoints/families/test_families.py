"""Families against networks written here from their published layers, near families that must not be taken for them, and one more family in one file."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vaeprobe
from vaeprobe import likelihoods
from vaeprobe.checkpoints import families
from vaeprobe.checkpoints.conversion import write
from vaeprobe.checkpoints.families import Clues
from vaeprobe.errors import ArchitectureError, UsageError
from vaeprobe.inference.moments import PosteriorMoments, posterior_moments
from vaeprobe.likelihoods.likelihood import LikelihoodSettings


def randomised(net: nn.Module) -> nn.Module:
    """Give norms and biases values that would show if they were left out."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, t in [*net.named_parameters(), *net.named_buffers()]:
            if t.is_floating_point():
                t.copy_(
                    0.5 + torch.rand_like(t)
                    if name.endswith("running_var")
                    else t + 0.1 * torch.randn_like(t)
                )
    return net.eval()


def match(state: dict[str, Any], said: dict[str, Any] | None = None) -> str | None:
    found = families.match(Clues.of(state, said))
    return found.blueprint.name if found else None


def changed(state: dict[str, Any], change: dict[str, tuple[int, ...] | None]) -> dict[str, Any]:
    """Tensors of which some have another shape, or are taken away (None)."""
    others = {name: torch.empty(shape, device="meta") for name, shape in change.items() if shape is not None}
    return {name: t for name, t in (state | others).items() if name not in change or name in others}


def held_to(path: Path, net: nn.Module, d: int, shape: tuple[int, ...], **settings: Any) -> vaeprobe.Decoder:
    """Hold what is loaded against the network's own `decode`, and forward mode against central differences."""
    decoder = vaeprobe.load(path, dtype="float64", **settings)
    assert (decoder.latent_dim, tuple(decoder.output_shape)) == (d, shape)
    z, v = torch.randn(2, 3, d, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        decode: Any = net.double().decode
        assert torch.allclose(decoder(z), decode(z), rtol=1e-9, atol=1e-10)
        _, moved = torch.func.jvp(decoder.flat, (z,), (v,))
        slope = (decoder.flat(z + 1e-6 * v) - decoder.flat(z - 1e-6 * v)) / 2e-6
    # a step across the kink of a relu moves all entries behind it a little, and rarely
    error = (moved - slope).abs()
    assert float(error.median()) < 1e-5 * float(slope.abs().median())
    assert float(error.norm()) < 1e-2 * float(slope.norm())
    return decoder


def posterior_is(decoder: vaeprobe.Decoder, net: nn.Module, x: Tensor) -> None:
    assert decoder.encoder is not None
    mean, log_variance = decoder.encoder(x)
    encode: Any = net.encode
    with torch.no_grad():
        m, variance = encode(x.double())
    assert torch.allclose(mean.double(), m, atol=1e-10)
    assert torch.allclose(log_variance.double().exp(), variance, rtol=1e-6)


# -- PyTorch-VAE --------------------------------------------------------------------------------------------


class AntixK(nn.Module):
    """Vanilla and conditional VAE of PyTorch-VAE."""

    def __init__(self, hidden: tuple[int, ...], d: int, classes: int = 0) -> None:
        super().__init__()
        up = hidden[::-1]

        def block(conv: nn.Module, n: int) -> nn.Sequential:
            return nn.Sequential(conv, nn.BatchNorm2d(n), nn.LeakyReLU())

        sizes = [4 if classes else 3, *hidden]
        pairs = list(zip(sizes, hidden, strict=False))
        self.encoder = nn.Sequential(*(block(nn.Conv2d(a, b, 3, 2, 1), b) for a, b in pairs))
        self.fc_mu, self.fc_var = nn.Linear(hidden[-1] * 4, d), nn.Linear(hidden[-1] * 4, d)
        self.decoder_input = nn.Linear(d + classes, hidden[-1] * 4)
        back = list(itertools.pairwise(up))
        self.decoder = nn.Sequential(*(block(nn.ConvTranspose2d(a, b, 3, 2, 1, 1), b) for a, b in back))
        last = block(nn.ConvTranspose2d(up[-1], up[-1], 3, 2, 1, 1), up[-1])
        self.final_layer = nn.Sequential(*last, nn.Conv2d(up[-1], 3, 3, padding=1), nn.Tanh())
        self.classes, self.label = classes, 0
        if classes:
            self.embed_class, self.embed_data = nn.Linear(classes, 64 * 64), nn.Conv2d(3, 3, 1)

    def decode(self, z: Tensor) -> Tensor:
        if self.classes:
            hot = F.one_hot(torch.tensor(self.label), self.classes).to(z).expand(len(z), -1)
            z = torch.cat([z, hot], 1)
        out: Tensor = self.final_layer(self.decoder(self.decoder_input(z).view(-1, 512, 2, 2)))
        return out

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x).flatten(1)
        return self.fc_mu(h), self.fc_var(h).exp()


def lightning(net: nn.Module, path: Path, prefix: str = "model.", **more: Any) -> Path:
    state = {f"{prefix}{k}": t for k, t in net.state_dict().items()}
    torch.save({"epoch": 1, "pytorch-lightning_version": "1.5.6", "state_dict": state, **more}, path)
    return path


def test_pytorch_vae(tmp_path: Path) -> None:
    net = randomised(AntixK((4, 4, 8, 512), 5))
    decoder = held_to(lightning(net, tmp_path / "m.ckpt"), net, 5, (3, 32, 32))
    posterior_is(decoder, net, torch.rand(2, 3, 32, 32))
    assert decoder.recipe is not None
    assert decoder.recipe.implied == pytest.approx(0.00025 * 3072 / 2)
    wide = families.match(Clues.of(AntixK((4, 4, 4, 8, 512), 5).state_dict()))
    assert wide is not None
    assert wide.recipe is not None
    assert wide.recipe.implied == pytest.approx(1.536)


@pytest.mark.parametrize("label", [0, 2])
def test_conditional_pytorch_vae_is_held_at_a_label(tmp_path: Path, label: int) -> None:
    net = AntixK((4, 4, 8, 512), 5, classes=3)
    randomised(net)
    net.label = label
    path = lightning(net, tmp_path / "m.ckpt")
    decoder = held_to(path, net, 5, (3, 32, 32), condition={"label": str(label)} if label else None)
    codes = [n.code for n in decoder.notes]
    assert ("condition-held" in codes) is (label == 0)
    assert decoder.artifact is not None
    assert f"label = {label} of 3" in decoder.artifact.architecture
    for wrong, message in (({"lable": 1}, "lable"), ({"label": 3}, "label"), ({"label": "cat"}, "cat")):
        with pytest.raises(UsageError, match=message):
            vaeprobe.load(path, condition=wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"decoder.0.0.weight": (512, 8, 4, 4)},
        {"final_layer.3.weight": (4, 4, 3, 3)},
        {"decoder.0.2.weight": (8,)},
        {"decoder_input.weight": (1024, 5)},
        {"embed_pseudo.0.weight": (5, 5)},
        {"discriminator.0.weight": (5, 5)},
        {"fc_var.weight": (4, 2048)},
        {"final_layer.1.running_var": None},
    ],
)
def test_near_pytorch_vaes_are_no_match(change: dict[str, tuple[int, ...] | None]) -> None:
    state = dict(AntixK((4, 4, 8, 512), 5).state_dict())
    assert match(state) == "pytorch-vae"
    assert match(changed(state, change)) is None


def test_a_vamp_prior_of_pytorch_vae_is_the_mixture_of_its_pseudo_inputs_posteriors(tmp_path: Path) -> None:
    net = AntixK((4, 4, 8, 512), 5)
    net.embed_pseudo = nn.Sequential(nn.Linear(7, 3 * 32 * 32), nn.Hardtanh(0.0, 1.0))
    randomised(net)
    decoder = held_to(lightning(net, tmp_path / "m.ckpt"), net, 5, (3, 32, 32))
    assert decoder.learned is not None
    with torch.no_grad():
        mean, variance = net.encode(net.embed_pseudo(torch.eye(7).double()).view(-1, 3, 32, 32))
    # the mixture is made in the file's precision
    torch.testing.assert_close(decoder.learned.mean, mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(decoder.learned.scale, variance.sqrt(), atol=0, rtol=1e-5)
    assert decoder.recipe is not None
    assert decoder.recipe.implied is None
    assert "7 pseudo-inputs" in decoder.recipe.words()
    written = tmp_path / "out.safetensors"
    write(decoder, written)
    again = vaeprobe.load(written)
    assert again.learned is not None
    torch.testing.assert_close(again.learned.mean, decoder.learned.mean)
    state = {k: t for k, t in net.state_dict().items() if not k.startswith("encoder.")}
    assert match(state) is None


class BetaTC(nn.Module):
    """BetaTCVAE of PyTorch-VAE."""

    def __init__(self, hidden: tuple[int, ...], d: int) -> None:
        super().__init__()
        up = hidden[::-1]
        down = zip((3, *hidden), hidden, strict=False)
        self.encoder = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU()) for a, b in down)
        )
        self.fc = nn.Linear(hidden[-1] * 16, 256)
        self.fc_mu, self.fc_var = nn.Linear(256, d), nn.Linear(256, d)
        self.decoder_input = nn.Linear(d, 512)
        self.decoder = nn.Sequential(
            *(
                nn.Sequential(nn.ConvTranspose2d(a, b, 3, 2, 1, 1), nn.LeakyReLU())
                for a, b in itertools.pairwise(up)
            )
        )
        last = nn.ConvTranspose2d(up[-1], up[-1], 3, 2, 1, 1)
        self.final_layer = nn.Sequential(last, nn.LeakyReLU(), nn.Conv2d(up[-1], 3, 3, padding=1), nn.Tanh())

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.final_layer(self.decoder(self.decoder_input(z).view(-1, 32, 4, 4)))
        return out

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc(self.encoder(x).flatten(1))
        return self.fc_mu(h), self.fc_var(h).exp()


@pytest.mark.parametrize("hidden", [(4, 8, 32), (32, 32, 32, 32)])
def test_beta_tc_of_pytorch_vae(tmp_path: Path, hidden: tuple[int, ...]) -> None:
    net = randomised(BetaTC(hidden, 5))
    side = 4 * 2 ** len(hidden)
    decoder = held_to(lightning(net, tmp_path / "m.ckpt"), net, 5, (3, side, side))
    assert decoder.artifact is not None
    assert "pytorch-vae-tc" in decoder.artifact.architecture
    posterior_is(decoder, net, torch.rand(2, 3, side, side))
    assert decoder.recipe is not None
    assert decoder.recipe.implied is None


@pytest.mark.parametrize(
    "change",
    [
        {"fc.weight": None},
        {"encoder.0.0.weight": (4, 3, 3, 3)},
        {"encoder.0.1.weight": (4,)},
        {"decoder.0.1.running_mean": (8,)},
        {"decoder_input.weight": (1024, 5)},
        {"fc_var.weight": (4, 256)},
        {"final_layer.2.weight": (1, 4, 3, 3)},
        {"discriminator.0.weight": (5, 5)},
    ],
)
def test_near_beta_tcs_are_no_match(change: dict[str, tuple[int, ...] | None]) -> None:
    state = dict(BetaTC((4, 8, 32), 5).state_dict())
    assert match(state) == "pytorch-vae-tc"
    assert match(changed(state, change)) is None


# -- disentanglement-pytorch, Beta-VAE ----------------------------------------------------------------------


def test_disentanglement_pytorch(tmp_path: Path) -> None:
    d, c = 4, 1
    relu = nn.ReLU()
    up = [(256, 256, 1), (256, 128, 0), (128, 128, 0), (128, 64, 0), (64, 64, 0)]
    maps = [layer for a, b, p in up for layer in (relu, nn.ConvTranspose2d(a, b, 4, 2, p))]
    main = [nn.Identity(), nn.Conv2d(d, 256, 1, 2), *maps, relu, nn.ConvTranspose2d(64, c, 3, 1)]
    down = [(c, 32), (32, 32), (32, 64), (64, 128), (128, 256), (256, 256)]
    trunk = [layer for a, b in down for layer in (nn.Conv2d(a, b, 4, 2, 1), relu)]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder, self.encoder = nn.Module(), nn.Module()
            self.decoder.main = nn.Sequential(*main)
            self.encoder.main = nn.Sequential(*trunk, nn.Flatten(), nn.Linear(256, 2 * d))

        def decode(self, z: Tensor) -> Tensor:
            return torch.sigmoid(self.decoder.main(z[:, :, None, None]))  # type: ignore[operator]

        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean, log_variance = self.encoder.main(x).chunk(2, 1)  # type: ignore[operator]
            return mean, log_variance.exp()

    net = randomised(Net())
    torch.save({"iter": 5, "model_states": {"G": net.state_dict()}, "optim_states": {}}, tmp_path / "last")
    decoder = held_to(tmp_path / "last", net, d, (c, 64, 64))
    assert decoder.likelihood == "bernoulli"
    posterior_is(decoder, net, torch.rand(2, c, 64, 64))
    state = dict(net.state_dict())
    state["decoder.main.3.weight"] = torch.zeros(256, 256, 3, 3)
    assert match(state) is None


def disentangling(decoder: str, encoder: str, d: int, c: int, classes: int = 0) -> nn.Module:
    """Return a network of disentanglement-pytorch of linear layers, or with its encoder without padding."""
    m = c * 64 * 64
    widths = {"shallow": [400], "deep": [100, 200, 400, 1000]}[decoder]
    up = [d + classes, *widths, m]
    main = [layer for a, b in itertools.pairwise(up) for layer in (nn.Linear(a, b), nn.ReLU())][:-1]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder, self.encoder = nn.Module(), nn.Module()
            self.decoder.main = nn.Sequential(*main)
            if encoder == "padless":
                sizes = itertools.pairwise([c, 32, 32, 64, 128, 256])
                trunk = [layer for a, b in sizes for layer in (nn.Conv2d(a, b, 3, 2), nn.ReLU())]
                self.encoder.main = nn.Sequential(*trunk, nn.Flatten(), nn.Linear(256, 2 * d))
            else:
                down = [m, *{"shallow": [400], "deep": [1000, 400, 200, 100]}[encoder]]
                trunk = [x for a, b in itertools.pairwise(down) for x in (nn.Linear(a, b), nn.ReLU())]
                self.encoder.main = nn.Sequential(nn.Flatten(), *trunk)
                self.encoder.head_mu = nn.Linear(down[-1], d)
                self.encoder.head_logvar = nn.Linear(down[-1], d)

        def decode(self, z: Tensor) -> Tensor:
            if classes:
                z = torch.cat([z, F.one_hot(torch.tensor(1), classes).to(z).expand(len(z), -1)], 1)
            return torch.sigmoid(self.decoder.main(z)).reshape(-1, c, 64, 64)  # type: ignore[operator]

        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.encoder.main(x)  # type: ignore[operator]
            if encoder == "padless":
                return h[:, :d], h[:, d:].exp()
            return self.encoder.head_mu(h), self.encoder.head_logvar(h).exp()  # type: ignore[operator]

    return Net()


@pytest.mark.parametrize(
    ("decoder", "encoder", "c"),
    [("shallow", "shallow", 1), ("deep", "deep", 1), ("shallow", "padless", 3), ("deep", "padless", 1)],
)
def test_linear_and_padless_networks_of_disentanglement_pytorch(
    tmp_path: Path, decoder: str, encoder: str, c: int
) -> None:
    net = randomised(disentangling(decoder, encoder, 4, c))
    torch.save({"iter": 5, "model_states": {"G": net.state_dict()}}, tmp_path / "last")
    loaded = held_to(tmp_path / "last", net, 4, (c, 64, 64))
    assert loaded.likelihood == "bernoulli"
    posterior_is(loaded, net, torch.rand(2, c, 64, 64))


def test_a_linear_network_of_disentanglement_pytorch_at_a_label(tmp_path: Path) -> None:
    net = randomised(disentangling("shallow", "padless", 4, 1, classes=3))
    torch.save({"iter": 5, "model_states": {"G": net.state_dict()}}, tmp_path / "last")
    held_to(tmp_path / "last", net, 4, (1, 64, 64), condition={"label": "1"})


@pytest.mark.parametrize("decoder", ["shallow", "deep"])
@pytest.mark.parametrize(
    "change",
    [
        {"decoder.main.0.weight": (401, 4)},
        {"decoder.main.2.bias": None},
        {"decoder.main.1.weight": (400,)},
        {"encoder.main.0.weight": (32, 1, 4, 4)},
        {"encoder.main.11.weight": (7, 256)},
        {"encoder.main.11.bias": None},
    ],
)
def test_near_linear_networks_are_no_match(decoder: str, change: dict[str, tuple[int, ...] | None]) -> None:
    with torch.device("meta"):
        state = dict(disentangling(decoder, "padless", 4, 1).state_dict())
    assert match(state) == "disentanglement-pytorch"
    assert match(changed(state, change)) is None


def test_linear_layers_without_an_encoder_of_the_repository_are_no_match() -> None:
    with torch.device("meta"):
        state = dict(disentangling("shallow", "shallow", 4, 1).state_dict())
    assert match(state) == "disentanglement-pytorch"
    assert match({k: t for k, t in state.items() if k.startswith("decoder.")}) is None
    odd = {**state, "decoder.main.2.weight": torch.empty(4095, 400), "decoder.main.2.bias": torch.empty(4095)}
    assert match(odd) is None


@pytest.mark.parametrize("letter", ["H", "B"])
def test_beta_vae(tmp_path: Path, letter: str) -> None:
    d, relu = 4, nn.ReLU()

    def up(*sizes: int) -> list[nn.Module]:
        layers = [x for a, b in itertools.pairwise(sizes) for x in (nn.ConvTranspose2d(a, b, 4, 2, 1), relu)]
        return layers[:-1]

    def down(*sizes: int) -> list[nn.Module]:
        return [x for a, b in itertools.pairwise(sizes) for x in (nn.Conv2d(a, b, 4, 2, 1), relu)]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if letter == "H":
                first = [
                    nn.Linear(d, 256),
                    nn.Unflatten(1, (256, 1, 1)),
                    relu,
                    nn.ConvTranspose2d(256, 64, 4),
                    relu,
                ]
                self.decoder = nn.Sequential(*first, *up(64, 64, 32, 32, 3))
                last = [nn.Conv2d(64, 256, 4), relu, nn.Flatten(), nn.Linear(256, 2 * d)]
                self.encoder = nn.Sequential(*down(3, 32, 32, 64, 64), *last)
            else:
                dense = [nn.Linear(d, 256), relu, nn.Linear(256, 256), relu, nn.Linear(256, 512), relu]
                self.decoder = nn.Sequential(*dense, nn.Unflatten(1, (32, 4, 4)), *up(32, 32, 32, 32, 3))
                dense = [
                    nn.Flatten(),
                    nn.Linear(512, 256),
                    relu,
                    nn.Linear(256, 256),
                    relu,
                    nn.Linear(256, 2 * d),
                ]
                self.encoder = nn.Sequential(*down(3, 32, 32, 32, 32), *dense)

        def decode(self, z: Tensor) -> Tensor:
            return torch.sigmoid(self.decoder(z))

        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean, log_variance = self.encoder(x).chunk(2, 1)
            return mean, log_variance.exp()

    net = randomised(Net())
    torch.save({"iter": 9, "model_states": {"net": net.state_dict()}, "optim_states": {}}, tmp_path / "last")
    decoder = held_to(tmp_path / "last", net, d, (3, 64, 64))
    posterior_is(decoder, net, torch.rand(2, 3, 64, 64))


# -- recommenders -------------------------------------------------------------------------------------------


class MultVAE(nn.Module):
    def __init__(self, names: tuple[str, str], step: int) -> None:
        super().__init__()
        self.names = names
        for name, sizes in zip(names, ((30, 12, 8), (4, 12, 30)), strict=True):
            layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
            self.add_module(name, nn.ModuleDict({str(step * i): layer for i, layer in enumerate(layers)}))

    def _run(self, name: str, h: Tensor) -> Tensor:
        first, second = getattr(self, name).values()
        out: Tensor = second(torch.tanh(first(h)))
        return out

    def decode(self, z: Tensor) -> Tensor:
        return torch.softmax(self._run(self.names[1], z), 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self._run(self.names[0], F.normalize(x))
        return h[:, :4], h[:, 4:].exp()


def test_mult_vae(tmp_path: Path) -> None:
    net = randomised(MultVAE(("q_layers", "p_layers"), 1))
    torch.save(net.state_dict(), tmp_path / "m.pt")
    decoder = held_to(tmp_path / "m.pt", net, 4, (30,))
    assert decoder.likelihood == "multinomial"
    assert decoder.has_natural
    posterior_is(decoder, net, torch.rand(2, 30).round())


def test_recbole_needs_its_config(tmp_path: Path) -> None:
    net = randomised(MultVAE(("encoder", "decoder"), 2))
    state = dict(net.state_dict().items())
    assert match(state) is None  # any MLP has these names
    config = {"final_config_dict": {"model": "MultiVAE", "anneal_cap": 0.3, "total_anneal_steps": 1000}}
    torch.save({"config": config, "epoch": 3, "state_dict": state}, tmp_path / "m.pth")
    decoder = held_to(tmp_path / "m.pth", net, 4, (30,))
    assert decoder.recipe is not None
    assert decoder.recipe.implied == pytest.approx(0.3)
    assert match(state, {"config": {"final_config_dict": {"model": "MultiDAE"}}}) is None


# -- scVI ---------------------------------------------------------------------------------------------------


class Stack(nn.Module):
    """FCLayers of scvi-tools: `Layer i` of Linear, BatchNorm (eps 1e-3), ReLU, covariates appended to every layer."""

    def __init__(
        self, a: int, b: int, n: int, extra: int = 0, first: int = 0, *, linear: bool = False
    ) -> None:
        super().__init__()
        self.linear = linear
        blocks = {}
        for i in range(n):
            width = (a + first if i == 0 else b) + extra
            blocks[f"Layer {i}"] = nn.Sequential(
                nn.Linear(width, b, bias=not linear), nn.BatchNorm1d(b, eps=1e-3)
            )
        self.fc_layers = nn.ModuleDict(blocks)

    def forward(self, x: Tensor, covariates: Tensor) -> Tensor:
        for block in self.fc_layers.values():
            x = block(torch.cat([x, covariates.to(x).expand(len(x), -1)], 1))
            x = x if self.linear else torch.relu(x)
        return x


class SCVI(nn.Module):
    def __init__(
        self, *, genes: int = 12, d: int = 3, n: int = 2, linear: bool = False, continuous: int = 0
    ) -> None:
        super().__init__()
        self.linear, self.hot, self.library, self.continuous = (
            linear,
            torch.tensor([1, 0, 0, 1, 0]),
            1.0,
            continuous,
        )
        self.z_encoder, self.decoder = nn.Module(), nn.Module()
        self.z_encoder.encoder = Stack(genes, 8, n)
        self.z_encoder.mean_encoder, self.z_encoder.var_encoder = nn.Linear(8, d), nn.Linear(8, d)
        self.px_r = nn.Parameter(torch.zeros(genes))
        if linear:
            self.decoder.factor_regressor = Stack(d, genes, 1, 5, linear=True)
            self.decoder.px_dropout_decoder = Stack(d, genes, 1, 5, linear=True)
        else:
            self.decoder.px_decoder = Stack(d, 8, n, 5, continuous)
            self.decoder.px_scale_decoder = nn.Sequential(nn.Linear(8, genes), nn.Softmax(-1))
            self.decoder.px_r_decoder, self.decoder.px_dropout_decoder = (
                nn.Linear(8, genes),
                nn.Linear(8, genes),
            )

    def decode(self, z: Tensor) -> Tensor:
        z = torch.cat([z, z.new_zeros(len(z), self.continuous)], 1)
        if self.linear:
            return self.library * torch.softmax(self.decoder.factor_regressor(z, self.hot), 1)  # type: ignore[operator]
        h = self.decoder.px_decoder(z, self.hot)  # type: ignore[operator]
        out: Tensor = self.library * self.decoder.px_scale_decoder(h)  # type: ignore[operator]
        return out

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        e = self.z_encoder
        h = e.encoder(torch.log1p(x), torch.zeros(0))  # type: ignore[operator]
        return e.mean_encoder(h), e.var_encoder(h).exp() + 1e-4  # type: ignore[operator]


def registry(cells: int = 100_000, continuous: int = 0, **settings: Any) -> dict[str, Any]:
    """`attr_dict` for a batch of three and a covariate of two."""
    names = np.array(["ctrl", "stim", "late"], dtype=object)
    fields = {
        "X": {"summary_stats": {"n_vars": 12, "n_cells": cells}, "state_registry": {}},
        "batch": {"summary_stats": {"n_batch": 3}, "state_registry": {"categorical_mapping": names}},
        "extra_categorical_covs": {
            "state_registry": {"mappings": {"sex": np.array(["f", "m"], dtype=object)}}
        },
        "extra_continuous_covs": {
            "state_registry": {"columns": np.array(["age"][:continuous], dtype=object)}
        },
        "size_factor": {"state_registry": {}},
    }
    return {
        "init_params_": {"non_kwargs": {"gene_likelihood": "nb", **settings}, "kwargs": {"kwargs": {}}},
        "registry_": {"scvi_version": "1.4.2", "field_registries": fields},
    }


def scvi_folder(net: SCVI, folder: Path, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    state = {**net.state_dict(), "pyro_param_store": {"params": {}, "constraints": {}}}
    genes = np.array([f"g{i}" for i in range(12)], dtype=object)
    told = registry(continuous=net.continuous, **settings)
    torch.save({"model_state_dict": state, "var_names": genes, "attr_dict": told}, folder / "model.pt")
    return folder


@pytest.mark.parametrize("linear", [False, True])
def test_scvi_is_held_at_batch_covariates_and_library(tmp_path: Path, linear: bool) -> None:
    net = SCVI(linear=linear, continuous=0 if linear else 1)
    randomised(net)
    folder = scvi_folder(net, tmp_path / "model")
    decoder = held_to(folder, net, 3, (12,))
    assert decoder.artifact is not None
    assert decoder.likelihood == "negative_binomial"
    assert decoder.dispersion is not None
    assert torch.allclose(decoder.dispersion.double(), net.px_r.detach().exp(), rtol=1e-6)
    found = vaeprobe.orthogonality(
        decoder, samples=8, likelihood="negative_binomial"
    )  # with the file's dispersions
    assert found["orthogonality.ima_contrast"].defined
    assert "batch = 0 of 3 (`ctrl`), sex = 0 of 2 (`f`), library = 1" in decoder.artifact.architecture
    posterior_is(decoder, net, torch.randint(0, 9, (4, 12)).float())
    assert decoder.recipe is not None
    assert decoder.recipe.implied == pytest.approx((80 - 1) / 400)  # 80 epochs by default for 100,000 cells
    net.hot, net.library = torch.tensor([0, 0, 1, 0, 1]), 1000.0
    held_to(folder, net, 3, (12,), condition={"batch": "late", "sex": "m", "library": 1000})


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_posteriors_of_cells_are_measured_at_each_cells_own_library(tmp_path: Path, likelihood: str) -> None:
    net = SCVI(n=1)
    randomised(net)
    folder = scvi_folder(net, tmp_path / "model", gene_likelihood=likelihood)
    x = torch.randint(0, 9, (6, 12), generator=torch.Generator().manual_seed(3)).double()
    x[1:] *= torch.tensor([1.0, 2.0, 5.0, 20.0, 0.0]).double()[:, None]  # the last cell has no counts

    def moments(decoder: vaeprobe.Decoder, rows: Tensor) -> PosteriorMoments:
        assert decoder.dispersion is not None
        assert decoder.encoder is not None
        assert decoder.likelihood is not None
        full = decoder.at_totals().under(decoder.likelihood)
        given = LikelihoodSettings(dispersion=decoder.dispersion)
        family = likelihoods.by_name(decoder.likelihood, full.output_shape, given)
        return posterior_moments(full, decoder.encoder, rows, family, pairs=2, gram_pairs=2, seed=0)

    whole = vaeprobe.load(folder, dtype="float64")
    assert any("take each cell's own" in n.message for n in whole.notes)
    assert whole(torch.zeros(1, 3)).sum() == pytest.approx(1), "elsewhere the library is 1"
    together = moments(whole, x)
    for i in range(5):
        total = float(x[i].sum())
        held = vaeprobe.load(folder, dtype="float64", condition={"library": total})
        assert held.at_totals() is held, "a library that was chosen is kept"
        alone = moments(held, torch.stack([x[i], x[i]]))
        # each draws its own noise, which does not enter at the posterior's mean
        torch.testing.assert_close(together.gram_at_mean[i], alone.gram_at_mean[0], rtol=1e-9, atol=1e-12)
    assert all(t.isfinite().all() for t in (together.gram, together.curvature))
    found = vaeprobe.posterior(whole, data=x[:5], samples=5, pairs=2, rotations=19)
    assert found["elbo.value"].defined


def test_a_size_factor_of_the_users_is_chosen_and_not_summed() -> None:
    told = registry()
    told["registry_"]["field_registries"]["size_factor"]["state_registry"] = {"attr_key": "sf"}
    told["registry_"]["field_registries"]["batch"]["state_registry"]["categorical_mapping"] = ["a", "b", "c"]
    told["registry_"]["field_registries"]["extra_categorical_covs"]["state_registry"]["mappings"] = {
        "sex": ["f", "m"]
    }
    told["registry_"]["field_registries"]["extra_continuous_covs"]["state_registry"]["columns"] = []
    found = families.match(Clues.of(SCVI().state_dict(), {"attr_dict": told}))
    assert found is not None
    assert found.total == ""
    assert any("size factor" in w for w in found.warnings)


def test_scvi_whose_registry_does_not_fit_is_no_match(tmp_path: Path) -> None:
    state = SCVI().state_dict()
    assert match(dict(state), {"attr_dict": registry()}) is None  # arrays are read from a file, not here
    told = registry()
    fields = told["registry_"]["field_registries"]
    fields["batch"]["state_registry"]["categorical_mapping"] = ["ctrl", "stim", "late"]
    fields["extra_categorical_covs"]["state_registry"]["mappings"] = {"sex": ["f", "m"]}
    fields["extra_continuous_covs"]["state_registry"]["columns"] = []
    assert match(dict(state), {"attr_dict": told}) == "scvi"
    fields["batch"]["summary_stats"]["n_batch"] = 4
    assert match(dict(state), {"attr_dict": told}) is None


# -- Bolts --------------------------------------------------------------------------------------------------


class Up(nn.Module):
    def __init__(self, a: int, b: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv1, self.bn1 = nn.Conv2d(a, a, 3, padding=1, bias=False), nn.BatchNorm2d(a)
        second = nn.Conv2d(a, b, 3, padding=1, bias=False)
        resize = nn.Upsample(scale_factor=2)
        self.conv2 = nn.Sequential(resize, second) if scale > 1 else second
        self.bn2 = nn.BatchNorm2d(b)
        if scale > 1:
            beside = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 1, bias=False))
            self.upsample = nn.Sequential(beside, nn.BatchNorm2d(b))

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(h + (self.upsample(x) if self.scale > 1 else x))


@pytest.mark.slow
def test_bolts(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Module()
            self.decoder.linear = nn.Linear(4, 8192)
            for n, (a, b, s) in enumerate(((512, 256, 2), (256, 128, 2), (128, 64, 2), (64, 64, 1)), 1):
                self.decoder.add_module(f"layer{n}", nn.Sequential(Up(a, b, s), Up(b, b, 1)))
            self.decoder.conv1 = nn.Conv2d(64, 3, 3, padding=1, bias=False)
            self.fc_mu, self.fc_var = nn.Linear(512, 4), nn.Linear(512, 4)

        def decode(self, z: Tensor) -> Tensor:
            d: Any = self.decoder
            x = F.interpolate(d.linear(z).view(-1, 512, 4, 4), (6, 6))
            return d.conv1(d.layer4(d.layer3(d.layer2(d.layer1(x)))))  # type: ignore[no-any-return]

    net = randomised(Net())
    told = {
        "input_height": 48,
        "enc_type": "resnet18",
        "first_conv": False,
        "maxpool1": False,
        "kl_coeff": 0.2,
    }
    path = lightning(net, tmp_path / "b.ckpt", "", hyper_parameters=told)
    decoder = held_to(path, net, 4, (3, 48, 48))
    assert decoder.recipe is not None
    assert decoder.recipe.implied == pytest.approx(0.2 * 3 * 48 * 48 / 8)


class Bottleneck(nn.Module):
    """Of the ResNet-50's: 1 x 1, 3 x 3 (after a doubling, or with a stride), 1 x 1."""

    def __init__(self, a: int, width: int, scale: int = 1, stride: int = 1) -> None:
        super().__init__()
        b = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(a, width, 1, bias=False), nn.BatchNorm2d(width)
        second = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Sequential(nn.Upsample(scale_factor=2), second) if scale > 1 else second
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, b, 1, bias=False), nn.BatchNorm2d(b)
        if scale > 1:
            beside = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 1, bias=False))
            self.upsample = nn.Sequential(beside, nn.BatchNorm2d(b))
        elif a != b or stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        h = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(h)))))
        beside = getattr(self, "upsample", getattr(self, "downsample", None))
        return torch.relu(h + (x if beside is None else beside(x)))


class Bolts50(nn.Module):
    """The ResNet-50 VAE of Lightning-Bolts, with the stem of larger images."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Module(), nn.Module()
        self.decoder.linear = nn.Linear(d, 2048 * 16)
        a = 2048
        for n, (width, blocks) in enumerate(zip((256, 128, 64, 64), (3, 4, 6, 3), strict=True), 1):
            first = Bottleneck(a, width, scale=2 if n < 4 else 1)
            rest = [Bottleneck(4 * width, width) for _ in range(blocks - 1)]
            self.decoder.add_module(f"layer{n}", nn.Sequential(first, *rest))
            a = 4 * width
        self.decoder.conv1 = nn.Conv2d(a, 3, 3, padding=1, bias=False)
        self.encoder.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.encoder.bn1, a = nn.BatchNorm2d(64), 64
        for n, (width, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), 1):
            first = Bottleneck(a, width, stride=2 if n > 1 else 1)
            rest = [Bottleneck(4 * width, width) for _ in range(blocks - 1)]
            self.encoder.add_module(f"layer{n}", nn.Sequential(first, *rest))
            a = 4 * width
        self.fc_mu, self.fc_var = nn.Linear(2048, d), nn.Linear(2048, d)

    def decode(self, z: Tensor) -> Tensor:
        d: Any = self.decoder
        x = F.interpolate(d.linear(z).view(-1, 2048, 4, 4), (3, 3))
        x = F.interpolate(d.layer4(d.layer3(d.layer2(d.layer1(x)))), scale_factor=2)
        return d.conv1(x)  # type: ignore[no-any-return]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        e: Any = self.encoder
        h = torch.relu(e.bn1(e.conv1(x)))
        h = e.layer4(e.layer3(e.layer2(e.layer1(h)))).mean((2, 3))
        return self.fc_mu(h), self.fc_var(h).exp()


BOLTS50 = {"input_height": 48, "enc_type": "resnet50", "first_conv": True, "maxpool1": False}


@pytest.mark.slow
def test_bolts_of_fifty_layers(tmp_path: Path) -> None:
    net = randomised(Bolts50(3))
    decoder = held_to(lightning(net, tmp_path / "b.ckpt", "", hyper_parameters=BOLTS50), net, 3, (3, 48, 48))
    posterior_is(decoder, net, torch.rand(2, 3, 48, 48))


def test_bolts_of_fifty_layers_is_told_by_its_names() -> None:
    with torch.device("meta"):
        state = dict(Bolts50(3).state_dict())
    assert match(state, {"hyper_parameters": BOLTS50}) == "bolts-vae"
    found = families.match(Clues.of(state, {"hyper_parameters": BOLTS50}))
    assert found is not None
    assert found.blueprint.encoder is not None
    # the other network's hyper-parameters, another number of means, Bolts' plain autoencoder
    assert match(state, {"hyper_parameters": {**BOLTS50, "enc_type": "resnet18"}}) is None
    heads = {f"fc_{k}.{leaf}": torch.empty(4, *rest, device="meta") for k in ("mu", "var") for leaf, rest in (("weight", (2048,)), ("bias", ()))}  # fmt: skip
    assert match({**state, **heads}, {"hyper_parameters": BOLTS50}) is None
    assert match({k: t for k, t in state.items() if not k.startswith("fc_")}) is None


# -- pythae -------------------------------------------------------------------------------------------------


def pythae_folder(folder: Path, state: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_config.json").write_text(json.dumps(config))
    torch.save({"model_state_dict": state}, folder / "model.pt")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ["", "final_model"])
def test_pythae_default_networks(tmp_path: Path, place: str) -> None:
    models = pytest.importorskip("pythae.models")
    model = models.BetaVAE(models.BetaVAEConfig(input_dim=(1, 4, 4), latent_dim=3, beta=2.5)).eval()
    pythae_folder(
        tmp_path / place, model.state_dict(), name="BetaVAEConfig", input_dim=[1, 4, 4], latent_dim=3, beta=2.5, reconstruction_loss="bce"
    )  # fmt: skip
    decoder = vaeprobe.load(tmp_path)
    z, x = torch.randn(4, 3), torch.rand(4, 1, 4, 4)
    with torch.no_grad():
        assert torch.allclose(decoder(z), model.decoder(z)["reconstruction"], atol=1e-6)
        posterior = model.encoder(x)
    assert decoder.encoder is not None
    mean, log_variance = decoder.encoder(x)
    assert torch.allclose(mean, posterior["embedding"], atol=1e-6)
    assert torch.allclose(log_variance, posterior["log_covariance"], atol=1e-6)
    assert (decoder.likelihood, decoder.recipe and decoder.recipe.implied) == ("bernoulli", 2.5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("room", "kind", "shape"),
    [
        ("mnist", "Conv", (1, 28, 28)), ("cifar", "Conv", (3, 32, 32)), ("celeba", "Conv", (3, 64, 64)),
        ("mnist", "ResNet", (1, 28, 28)), ("cifar", "ResNet", (3, 32, 32)), ("celeba", "ResNet", (3, 64, 64)),
    ],
)  # fmt: skip
def test_pythae_benchmark_networks(tmp_path: Path, room: str, kind: str, shape: tuple[int, ...]) -> None:
    config = pytest.importorskip("pythae.models.base.base_config")
    nets = pytest.importorskip(f"pythae.models.nn.benchmarks.{room}")
    settings = config.BaseAEConfig(input_dim=shape, latent_dim=2)
    name = "_ResNet_VAE_" if kind == "ResNet" else "_Conv_VAE_"
    encoder = randomised(getattr(nets, f"Encoder{name}{room.upper()}")(settings))
    decoder = randomised(getattr(nets, f"Decoder{name.replace('VAE', 'AE')}{room.upper()}")(settings))
    state = {f"encoder.{k}": t for k, t in encoder.state_dict().items()}
    state |= {f"decoder.{k}": t for k, t in decoder.state_dict().items()}
    ours = vaeprobe.load(pythae_folder(tmp_path / "m", state, name="VAEConfig", input_dim=list(shape)))
    z, x = torch.randn(3, 2), torch.rand(2, *shape)
    with torch.no_grad():
        theirs, posterior = decoder(z)["reconstruction"], encoder(x)
    assert ours(z).shape == theirs.shape
    assert torch.allclose(ours(z), theirs, atol=1e-5)
    assert ours.encoder is not None
    mean, log_variance = ours.encoder(x)
    assert torch.allclose(mean, posterior["embedding"], atol=1e-4)
    assert torch.allclose(log_variance, posterior["log_covariance"], atol=1e-4)


# every model of pythae 0.1: whether its posterior is a Gaussian with two heads, and what its header says of latents and loss
PYTHAE = {
    "VAE": (True, "", "beta = 1"),
    "BetaVAE": (True, "", "beta = 1"),
    "BetaTCVAE": (True, "", "more terms"),
    "DisentangledBetaVAE": (True, "", "capacity"),
    "FactorVAE": (True, "", "more terms"),
    "INFOVAE_MMD": (True, "", "more terms"),
    "VAEGAN": (True, "", "more terms"),
    "MSSSIM_VAE": (True, "", "more terms"),
    "IWAE": (True, "", "several draws"),
    "MIWAE": (True, "", "several draws"),
    "CIWAE": (True, "", "several draws"),
    "PIWAE": (True, "", "several draws"),
    "Adversarial_AE": (True, "", "discriminator"),
    "VAMP": (True, "", "mixture"),
    "AE": (False, "no prior", "no KL"),
    "WAE_MMD": (False, "", "no KL"),
    "RAE_L2": (False, "no prior", "no KL"),
    "RAE_GP": (False, "no prior", "no KL"),
    "VQVAE": (False, "quantiser", "no KL"),
    "SVAE": (False, "sphere", "more terms"),
    "PoincareVAE": (False, "ball", "more terms"),
    "HVAE": (False, "", "more terms"),
    "RHVAE": (False, "", "more terms"),
    "VAE_IAF": (False, "", "more terms"),
    "VAE_LinNF": (False, "", "more terms"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PYTHAE)
def test_every_model_of_pythae_as_it_saves_itself(tmp_path: Path, name: str) -> None:
    models = pytest.importorskip("pythae.models")
    gaussian, latents, loss = PYTHAE[name]
    config = getattr(models, f"{name}_Config", None) or getattr(models, f"{name}Config")
    image = (1, 16, 16) if name == "MSSSIM_VAE" else (1, 4, 4)
    torch.manual_seed(0)
    model = randomised(getattr(models, name)(config(input_dim=image, latent_dim=2)))
    save: Any = model.save
    save(str(tmp_path))
    ours = vaeprobe.load(tmp_path)
    z, x = torch.randn(4, 2), torch.rand(3, *image)
    decode, encode = (getattr(model, part) for part in ("decoder", "encoder"))
    with torch.no_grad():
        theirs, posterior = decode(z)["reconstruction"], encode(x)
    torch.testing.assert_close(ours(z), theirs, atol=1e-5, rtol=0)
    assert (ours.encoder is not None) is gaussian
    if ours.encoder is not None:
        mean, log_variance = ours.encoder(x)
        torch.testing.assert_close(mean, posterior["embedding"], atol=1e-5, rtol=0)
        torch.testing.assert_close(log_variance, posterior["log_covariance"], atol=1e-5, rtol=0)
    said = " ".join(n.message for n in ours.notes if n.code == "family-warning")
    assert latents in said
    assert bool(said) is bool(latents)
    assert ours.recipe is not None
    assert loss in ours.recipe.words()
    assert (ours.recipe.implied is None) is (name not in ("VAE", "BetaVAE"))
    if name == "VAMP":
        log_p: Any = model._log_p_z
        z = z.double()
        with torch.no_grad():
            want = log_p(z.float()) - np.log(2 * np.pi)  # pythae leaves the constant out: d / 2 log 2 pi
        assert ours.learned is not None
        torch.testing.assert_close(ours.learned.log_density(z).float(), want, atol=1e-4, rtol=1e-5)
    else:
        assert ours.learned is None


def test_a_mixture_prior_of_pythae_without_its_encoder_is_not_made_up(tmp_path: Path) -> None:
    sizes = {"decoder.layers.0.0": (512, 3), "decoder.layers.1.0": (16, 512), "pseudo_inputs.0": (16, 5)}
    state = {f"{k}.weight": torch.randn(s) / 9 for k, s in sizes.items()}
    state |= {f"{k}.bias": torch.randn(s[0]) for k, s in sizes.items()}
    decoder = vaeprobe.load(pythae_folder(tmp_path / "m", state, name="VAMPConfig", input_dim=[16]))
    assert (decoder.encoder, decoder.learned) == (None, None)
    assert any("pseudo_inputs" in n.message for n in decoder.notes)


def test_pythae_weights_of_another_config_are_refused(tmp_path: Path) -> None:
    sizes = {"decoder.layers.0.0": (512, 3), "decoder.layers.1.0": (16, 512)}
    state = {f"{k}.weight": torch.randn(s) / 9 for k, s in sizes.items()}
    state |= {f"{k}.bias": torch.randn(s[0]) for k, s in sizes.items()}
    folder = pythae_folder(tmp_path / "m", state, name="VAEConfig", input_dim=[1, 5, 5])
    with pytest.raises(ArchitectureError, match="says input_dim"):
        vaeprobe.load(folder)


def test_latents_with_places_say_channel_and_place(models: Path) -> None:
    decoder = vaeprobe.load(models / "taef2/taef2_decoder.pth", latent_size="2x3")
    assert decoder.latent_shape == (32, 2, 3)
    assert decoder.latent_names[:4] == ("z0[0,0,0]", "z1[0,0,1]", "z2[0,0,2]", "z3[0,1,0]")
    assert decoder.latent_names[-1] == "z191[31,1,2]"
    assert decoder.shapes.startswith("32 x 2 x 3 latents -> 3 x 16 x 24")
    with pytest.raises(UsageError, match="the latents are no map"):
        vaeprobe.load(models / "wgangp/generator.pt", latent_size="2x2")
    assert vaeprobe.load(models / "wgangp/generator.pt").latent_names[:2] == ("z0", "z1")


# -- near families ------------------------------------------------------------------------------------------


def small_taesd(channels: int = 4, width: int = 8) -> dict[str, Tensor]:
    """One block before and after a doubling, in the original's places."""
    convs = {"1": (width, channels), "5": (width, width), "7": (3, width)}
    convs |= {f"{place}.conv.{j}": (width, width) for place in (3, 6) for j in (0, 2, 4)}
    state = {f"{k}.weight": torch.empty(*s, 3, 3) for k, s in convs.items()}
    return state | {f"{k}.bias": torch.empty(s[0]) for k, s in convs.items() if k != "5"}


def latent_diffusion(widths: tuple[int, ...] = (32, 64), z: int = 4) -> dict[str, Tensor]:
    """Decoder and heads of a latent diffusion autoencoder, by its own names."""
    state: dict[str, Tensor] = {}

    def conv(key: str, a: int, b: int, k: int = 3) -> None:
        state[f"{key}.weight"], state[f"{key}.bias"] = torch.empty(b, a, k, k), torch.empty(b)

    def residual(key: str, a: int, b: int) -> None:
        for i, (n_in, n_out) in enumerate(((a, b), (b, b)), 1):
            state[f"{key}.norm{i}.weight"], state[f"{key}.norm{i}.bias"] = (
                torch.empty(n_in),
                torch.empty(n_in),
            )
            conv(f"{key}.conv{i}", n_in, n_out)
        if a != b:
            conv(f"{key}.nin_shortcut", a, b, 1)

    top, before = widths[-1], widths[-1]
    conv("post_quant_conv", z, z, 1)
    conv("quant_conv", 2 * z, 2 * z, 1)
    conv("encoder.conv_out", top, 2 * z)
    conv("decoder.conv_in", z, top)
    residual("decoder.mid.block_1", top, top)
    residual("decoder.mid.block_2", top, top)
    for level in reversed(range(len(widths))):
        for block in range(2):
            residual(f"decoder.up.{level}.block.{block}", before, widths[level])
            before = widths[level]
        if level:
            conv(f"decoder.up.{level}.upsample.conv", before, before)
    state["decoder.norm_out.weight"], state["decoder.norm_out.bias"] = (
        torch.empty(before),
        torch.empty(before),
    )
    conv("decoder.conv_out", before, 3)
    return state


def small_pythae(d: int = 3) -> dict[str, Tensor]:
    sizes = {"decoder.layers.0.0": (512, d), "decoder.layers.1.0": (16, 512), "encoder.layers.0.0": (512, 16)}
    sizes |= {"encoder.embedding": (d, 512), "encoder.log_var": (d, 512)}
    return {f"{k}.weight": torch.empty(s) for k, s in sizes.items()} | {
        f"{k}.bias": torch.empty(s[0]) for k, s in sizes.items()
    }


SMALL: dict[str, Any] = {
    "autoencoder-tiny": (small_taesd, ()),
    "autoencoder-kl": (latent_diffusion, ("decoder.", "post_quant_conv.")),
    "pythae": (small_pythae, ("decoder.",)),
    "pytorch-vae": (lambda: dict(AntixK((4, 4, 8, 512), 5).state_dict()), ("decoder", "final_layer.")),
    "mult-vae": (lambda: dict(MultVAE(("q_layers", "p_layers"), 1).state_dict()), ("p_layers.",)),
}


@pytest.mark.parametrize("family", SMALL)
def test_every_tensor_of_the_decoder_counts(family: str) -> None:
    make, begins = SMALL[family]
    with torch.device("meta"):
        state = {k: t for k, t in make().items() if not k.endswith("num_batches_tracked")}
    assert match(state) == family
    own = [name for name in state if not begins or name.startswith(begins)]
    assert len(own) > 3
    for name in own:
        assert match({k: t for k, t in state.items() if k != name}) is None, f"without {name}"
        for axis in range(state[name].ndim):
            if (family, name, axis) == ("autoencoder-tiny", "1.weight", 1):
                continue  # alone without an encoder, its latents may be any number
            grown = list(state[name].shape)
            grown[axis] += 1
            assert match({**state, name: torch.empty(grown, device="meta")}) is None, f"{name} as {grown}"
        stem = name.rpartition(".")[0]
        for more in ("extra.weight", "lora_A.weight", "attn.q.weight"):
            assert match({**state, f"{stem}.{more}": torch.empty(3, 3)}) is None, f"{stem}.{more}"


@pytest.mark.parametrize("family", SMALL)
def test_what_stands_beside_the_decoder_does_no_harm(family: str) -> None:
    make, _ = SMALL[family]
    if family == "autoencoder-tiny":
        pytest.skip("a file of the decoder alone, without a name before its places")
    with torch.device("meta"):
        state = {f"vae.{k}": t for k, t in make().items()}
    beside = {"unet.down.0.weight": torch.empty(3, 3), "loss.logvar": torch.empty(())}
    assert match({**beside, **state}) == family


# -- the rule of the house ----------------------------------------------------------------------------------


def test_no_two_families_claim_the_same_file_and_each_says_where_it_was_read() -> None:
    known = families.every()
    assert len(known) >= 16
    assert all(family.source and family.title for family in known.values())


ONE_MORE = """
from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.families import family as f


def recognise(clues):
    found = f.solve(clues.shapes, {"only": "linear m d"})
    if found is None:
        return None
    return f.Recognised(Blueprint(layers=(f.linear("only"), f.TANH), latents=f.normal(found["d"])))


FAMILY = f.Family(name="one-more", title="a layer", source="written here", recognise=recognise)
"""


def test_a_family_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_more_family.py").write_text(ONE_MORE)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    W, b = torch.randn(5, 2), torch.randn(5)
    torch.save({"only.weight": W, "only.bias": b}, tmp_path / "m.pt")
    decoder = vaeprobe.load(tmp_path / "m.pt")
    assert decoder.artifact is not None
    assert decoder.artifact.architecture == "preset one-more"
    z = torch.randn(3, 2)
    assert torch.allclose(decoder(z), torch.tanh(z @ W.T + b))
    assert "one-more" in families.names()
    named = vaeprobe.load(tmp_path / "m.pt", blueprint="one-more")  # where two families could be meant
    assert torch.equal(named(z), decoder(z))
    sys.modules.pop("vaeprobe.checkpoints.families.one_more_family", None)


# -- zero inflation -----------------------------------------------------------------------------------------


def enumerated_information(decode: Any, theta: Tensor, z: Tensor, most: int = 400) -> Tensor:
    """Return sum over counts x of p(x) s(x) s(x)^T, s the gradient in z of log p(x): the Fisher metric by its definition."""
    from scipy import stats

    mu, logit = decode(z)
    pi, counts = torch.sigmoid(logit), torch.arange(most, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda z: torch.stack(decode(z)), z)  # (2, genes, latents)
    total = torch.zeros(len(z), len(z), dtype=torch.float64)
    for g in range(len(mu)):
        r, m, p = float(theta[g]), float(mu[g].detach()), float(pi[g].detach())
        own = torch.from_numpy(stats.nbinom.pmf(counts.numpy(), r, r / (r + m)))
        density = (1 - p) * own + p * (counts == 0)
        # d log p / d mu and d log p / d logit, by hand
        by_mu = (counts / m - (counts + r) / (r + m)) * (1 - p) * own / density
        by_logit = p * (1 - p) * ((counts == 0).double() - own) / density
        scores = by_mu[:, None] * J[0, g] + by_logit[:, None] * J[1, g]
        total += torch.einsum("x,xi,xj->ij", density, scores, scores)
    return total


@pytest.mark.parametrize("linear", [False, True])
def test_the_zeros_of_another_cause_enter_the_metric_and_the_density(tmp_path: Path, linear: bool) -> None:
    pytest.importorskip("scipy")
    net = SCVI(linear=linear)
    randomised(net)
    net.library = 40.0
    folder = scvi_folder(net, tmp_path / "model", gene_likelihood="zinb")
    decoder = held_to(folder, net, 3, (12,), condition={"library": 40})  # the map is that of the means
    assert decoder.likelihood == "zero_inflated_negative_binomial"
    assert decoder.returns == ("mean", "zero_logits")
    assert not [n for n in decoder.notes if n.code == "output-chosen"]
    whole = decoder.under("zinb")
    assert tuple(whole.output_shape) == (2, 12)
    assert decoder.under("negative_binomial") is decoder
    double = net.double()

    def decode(z: Tensor) -> tuple[Tensor, Tensor]:
        stack: Any = double.decoder.px_dropout_decoder if linear else double.decoder.px_decoder
        h = stack(z[None], double.hot)
        zeros: Any = h if linear else double.decoder.px_dropout_decoder(h)  # type: ignore[operator]
        return double.decode(z[None])[0], zeros[0]

    z = torch.tensor([[0.3, -0.7, 0.4]], dtype=torch.float64)
    assert torch.allclose(whole(z)[0], torch.stack(decode(z[0])), rtol=1e-9, atol=1e-12)
    theta = net.px_r.detach().exp()
    given = likelihoods.LikelihoodSettings(dispersion=decoder.dispersion)
    zinb = likelihoods.by_name("zinb", whole.output_shape, given)
    G = vaeprobe.engine.gram(whole, z, likelihood=zinb)[0]
    assert torch.allclose(G, enumerated_information(decode, theta, z[0]), rtol=1e-7)
    # without the head it is another metric: the head matters here
    nb = likelihoods.by_name("nb", decoder.output_shape, given)
    assert not torch.allclose(G, vaeprobe.engine.gram(decoder, z, likelihood=nb)[0], rtol=1e-2)
    # what is converted keeps both outputs, and the dispersions
    write(decoder, tmp_path / "model.safetensors")
    again = vaeprobe.load(tmp_path / "model.safetensors")
    assert again.returns == decoder.returns
    assert again.dispersion is not None
    assert decoder.dispersion is not None
    assert torch.equal(again.dispersion, decoder.dispersion)
    # every probe takes it in by the name of the likelihood
    ours = vaeprobe.orthogonality(decoder, samples=8, likelihood=zinb.name, rotations=9)
    theirs = vaeprobe.orthogonality(whole, samples=8, likelihood=zinb.name, rotations=9)
    assert ours.ima_contrast.value == theirs.ima_contrast.value
    from scipy import stats

    x = torch.randint(0, 5, (6, 12)).double()
    found = vaeprobe.posterior(decoder, data=x, samples=6, pairs=2)
    assert found.settings["likelihood"] == "zero_inflated_negative_binomial"
    mu, logit = decode(z[0])
    r, pi = theta.numpy(), torch.sigmoid(logit).detach().numpy()
    p = (1 - pi) * stats.nbinom.pmf(x.numpy(), r, r / (r + mu.detach().numpy())) + pi * (x.numpy() == 0)
    log_p = zinb.log_density(x, whole(z).expand(6, -1, -1), "mean")
    assert np.allclose(log_p.numpy(), np.log(p).sum(1), rtol=1e-9)


def test_dispersions_of_each_batch_are_taken_at_the_batch(tmp_path: Path) -> None:
    net = SCVI()
    net.px_r = nn.Parameter(torch.zeros(12, 3))
    randomised(net)
    folder = scvi_folder(net, tmp_path / "model", gene_likelihood="nb")
    for batch in (0, 2):
        found = vaeprobe.load(folder, condition={"batch": batch}).dispersion
        assert found is not None
        assert torch.allclose(found, net.px_r[:, batch].detach().double().exp())
