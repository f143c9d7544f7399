"""Presets: matched by names and shapes alone, and right: encoder and decoder of real files undo each other."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import vaeprobe
from vaeprobe.checkpoints import families
from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.checkpoints.network.assemble import assemble
from vaeprobe.decoder import Decoder, Group
from vaeprobe.errors import UsageError
from vaeprobe.latents import Prior


def tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Return random layers: `a__b=(out, in)` makes `a.b.weight` and its bias, of the right length for its kind."""
    torch.manual_seed(0)
    out = {}
    for name, shape in shapes.items():
        key = name.replace("__", ".")
        transposed = "convT" in name or "features_to_img" in name
        out[f"{key}.weight"] = torch.randn(shape) / 10
        out[f"{key}.bias"] = torch.randn(shape[1] if transposed else shape[0]) / 10
    return out


def burgess(d: int = 10, channels: int = 1, *, large: bool = False) -> dict[str, Tensor]:
    square = (32, 32, 4, 4)
    side = {"encoder__conv_64": square, "decoder__convT_64": square} if large else {}
    return tensors(
        encoder__conv1=(32, channels, 4, 4), encoder__conv2=square, encoder__conv3=square, encoder__lin1=(256, 512),
        encoder__lin2=(256, 256), encoder__mu_logvar_gen=(2 * d, 256), decoder__lin1=(256, d), decoder__lin2=(256, 256),
        decoder__lin3=(512, 256), decoder__convT1=square, decoder__convT2=square, decoder__convT3=(32, channels, 4, 4), **side,
    )  # fmt: skip


def matched(state: dict[str, Tensor]) -> Blueprint:
    found = families.match(families.Clues.of(state))
    assert found is not None
    return found.blueprint


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("prefix", ["", "module.", "vae.net."])
def test_burgess(large: bool, channels: int, prefix: str) -> None:
    state = {prefix + k: v for k, v in burgess(6, channels, large=large).items()}
    bp = matched(state)
    assert bp.origin == "preset burgess"
    parts = assemble(bp, state)
    side = 64 if large else 32
    assert parts.decoder(torch.zeros(2, 6)).shape == (2, channels, side, side)
    assert parts.encoder is not None
    assert parts.encoder.input_shape == (channels, side, side)
    assert parts.notes == ()


def test_burgess_decoder_alone() -> None:
    state = {k.removeprefix("decoder."): v for k, v in burgess().items() if k.startswith("decoder.")}
    bp = matched(state)
    assert (bp.name, bp.encoder) == ("burgess", None)


@pytest.mark.parametrize(
    "change",
    [
        {"decoder.lin2.weight": (256, 255)},
        {"decoder.convT2.weight": (32, 32, 3, 3)},
        {"decoder.lin3.weight": (1024, 256)},
        {"decoder.lin4.weight": (3, 3)},
        {"decoder.lin1.bias": None},
        {"decoder.convT3.weight": None},
        {"decoder.bn.running_mean": (3,)},
    ],
)
def test_near_misses_are_no_match(change: dict[str, tuple[int, ...] | None]) -> None:
    state = burgess()
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.zeros(shape)
    assert families.match(families.Clues.of(state)) is None


def test_joint_vae_reads_the_prior_off_its_heads() -> None:
    state = tensors(
        img_to_features__0=(32, 1, 4, 4), img_to_features__2=(64, 32, 4, 4), img_to_features__4=(64, 64, 4, 4),
        features_to_hidden__0=(256, 1024), fc_mean=(4, 256), fc_log_var=(4, 256), fc_alphas__0=(3, 256), fc_alphas__1=(2, 256),
        latent_to_features__0=(256, 9), latent_to_features__2=(1024, 256), features_to_img__0=(64, 32, 4, 4),
        features_to_img__2=(32, 32, 4, 4), features_to_img__4=(32, 1, 4, 4),
    )  # fmt: skip
    parts = assemble(matched(state), state)
    assert parts.prior == (Group("normal", 4), Group("onehot", 3), Group("onehot", 2))
    assert parts.decoder(torch.zeros(2, 9)).shape == (2, 1, 32, 32)
    # heads that do not add up to what the decoder takes: not this family
    state["latent_to_features.0.weight"] = torch.zeros(256, 10)
    assert families.match(families.Clues.of(state)) is None


def test_dcgan() -> None:
    state: dict[str, Tensor] = {}
    sizes = [100, 64, 32, 16, 3]
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        state[f"main.{3 * i}.weight"] = torch.randn(a, b, 4, 4) / 10
        if b != 3:
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                state[f"main.{3 * i + 1}.{leaf}"] = torch.ones(b)
            state[f"main.{3 * i + 1}.num_batches_tracked"] = torch.tensor(7)
    parts = assemble(matched(state), state)
    assert parts.architecture == "preset dcgan"
    y = parts.decoder(torch.randn(2, 100))
    assert y.shape == (2, 3, 32, 32)
    assert float(y.abs().max()) <= 1


def test_asked_for_by_name() -> None:
    assert families.get("burgess", families.Clues.of(burgess())).blueprint.name == "burgess"
    with pytest.raises(UsageError, match="no preset is called `burges`") as caught:
        families.get("burges", families.Clues.of(burgess()))
    assert "did you mean `burgess`" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="not those of preset `dcgan`"):
        families.get("dcgan", families.Clues.of(burgess()))


def test_presets_can_be_written_as_blueprints() -> None:
    bp = matched(burgess(large=True))
    assert Blueprint.from_toml(bp.to_toml()) == bp


# -- real files -------------------------------------------------------------------------------------------

PRESETS = {
    "disvae/VAE_mnist/model.pt": "burgess",
    "disvae/VAE_dsprites/model.pt": "burgess",
    "disvae/betaH_mnist/model.pt": "burgess",
    "disvae/betaH_dsprites/model.pt": "burgess",
    "disvae/btcvae_mnist/model.pt": "burgess",
    "disvae/btcvae_dsprites/model.pt": "burgess",
    "jointvae/fashion.pt": "joint-vae",
    "jointvae/chairs.pt": "joint-vae",
    "riemann/celeba.pth": "riemannian-conv",
    "riemann/mnist.pth": "pytorch-examples-mlp",
    "inverse_micro/vae.pth": "inverse-micro",
    "wgangp/generator.pt": "wgan-gp",
}


@pytest.fixture(scope="module")
def decoders(models: Path) -> dict[str, Decoder]:
    return {name: vaeprobe.load(models / name) for name in PRESETS}


def test_real_files_load_with_no_option_and_name_their_preset(decoders: dict[str, Decoder]) -> None:
    for name, decoder in decoders.items():
        assert decoder.artifact is not None
        assert decoder.artifact.architecture == f"preset {PRESETS[name]}"
        assert decoder.differentiation == "forward"


def test_outputs_have_the_range_of_their_likelihood(decoders: dict[str, Decoder]) -> None:
    for decoder in decoders.values():
        y = decoder(Prior().draw(decoder, 64))
        if decoder.likelihood == "bernoulli":
            assert float(y.min()) >= 0
            assert float(y.max()) <= 1
            assert float(y.max() - y.min()) > 0.9
            theta = decoder.natural_flat(Prior().draw(decoder, 64))
            assert torch.allclose(torch.sigmoid(theta), y.flatten(1), atol=1e-6)


def test_one_hot_groups_come_after_the_normal_latents(decoders: dict[str, Decoder]) -> None:
    assert decoders["jointvae/fashion.pt"].prior == (Group("normal", 10), Group("onehot", 10))
    assert decoders["jointvae/chairs.pt"].prior == (Group("normal", 32), *[Group("onehot", 2)] * 3)


@pytest.mark.parametrize(
    ("name", "data", "worst"),
    [
        ("disvae/VAE_mnist/model.pt", "mnist32_1000.npy", 0.4),
        ("disvae/betaH_mnist/model.pt", "mnist32_1000.npy", 0.6),
        ("disvae/btcvae_mnist/model.pt", "mnist32_1000.npy", 0.7),
        ("disvae/VAE_dsprites/model.pt", "dsprites64_grid_100.npy", 0.1),
        ("disvae/betaH_dsprites/model.pt", "dsprites64_grid_100.npy", 0.3),
        ("disvae/btcvae_dsprites/model.pt", "dsprites64_grid_100.npy", 0.3),
        ("riemann/mnist.pth", "mnist28_2000.npy", 0.5),
    ],
)
def test_real_images_are_reconstructed(
    decoders: dict[str, Decoder], models: Path, name: str, data: str, worst: float
) -> None:
    """Squared error over that of the mean image, which is 1; a wrong layout of the encoder's outputs gives over 1."""
    decoder = decoders[name]
    assert decoder.encoder is not None
    x = torch.from_numpy(np.load(models / "data" / data)[:100]).float() / 255
    mean, log_variance = decoder.encoder(x)
    x = x.flatten(1)
    spread = float((x - x.mean(0)).square().mean())
    assert float((decoder.flat(mean) - x).square().mean()) / spread < worst
    # the other layout: what is now called the mean is part log variance
    h = torch.stack([mean, log_variance], 2).flatten(1)
    assert float((decoder.flat(h[:, : mean.shape[1]]) - x).square().mean()) / spread > 1
    # variances of a trained posterior are below those of the prior
    assert float(log_variance.mean()) < 0


@pytest.mark.parametrize(
    "name", ["jointvae/fashion.pt", "jointvae/chairs.pt", "riemann/celeba.pth", "inverse_micro/vae.pth"]
)
def test_encoder_and_decoder_undo_each_other(decoders: dict[str, Decoder], name: str) -> None:
    """Where no data is at hand: decoded prior samples, encoded and decoded again, come back."""
    decoder = decoders[name]
    z = Prior().draw(decoder, 256).float()
    x = decoder(z)
    assert decoder.encoder is not None
    mean, log_variance = decoder.encoder(x)
    again = decoder(torch.cat([mean, z[:, mean.shape[1] :]], 1))
    assert float((again - x).square().mean() / x.var(0).mean()) < 0.15
    active = (log_variance.mean(0) < -1).nonzero().flatten().tolist()
    assert len(active) >= 4
    correlations = [float(torch.corrcoef(torch.stack([mean[:, i], z[:, i]]))[0, 1]) for i in active]
    assert np.mean(correlations) > 0.8


def test_the_gan_makes_digits(decoders: dict[str, Decoder], models: Path) -> None:
    decoder = decoders["wgangp/generator.pt"]
    y = decoder(Prior().draw(decoder, 200))
    assert y.shape[1:] == (1, 28, 28)
    x = torch.from_numpy(np.load(models / "data/mnist28_2000.npy")).float()
    both = torch.stack([y.mean((0, 1)).flatten(), x.mean(0).flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.95


def test_the_tiny_residual_decoder_makes_smooth_images(models: Path) -> None:
    """Any error in the blocks gives noise, or colours far outside of [0, 1]."""
    decoder = vaeprobe.load(models / "taef2/taef2_decoder.pth")
    codes = {n.code for n in decoder.notes}
    assert {"assumed", "cast-up"} <= codes
    y = decoder(Prior().draw(decoder, 8))
    assert y.shape == (8, 3, 32, 32)
    assert -0.2 < float(y.min()) < float(y.max()) < 1.2
    assert 0.3 < float(y.mean()) < 0.6
    beside = torch.stack([y[..., 1:].flatten(), y[..., :-1].flatten()])
    assert float(torch.corrcoef(beside)[0, 1]) > 0.9
