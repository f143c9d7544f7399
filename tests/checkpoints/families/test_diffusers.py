"""Autoencoders of diffusers, from folders as it writes them: by our own layers, or built by the library, against the library."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import vaeprobe
from vaeprobe.autograd import differentiable_kernels
from vaeprobe.checkpoints import diffusers_library, weights
from vaeprobe.errors import (
    ArchitectureError,
    InputError,
    MissingExtraError,
    UnsafeError,
    UsageError,
)

diffusers: Any = pytest.importorskip("diffusers")

TWO = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
KL = {**TWO, "block_out_channels": [8, 16], "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4}
FOUR = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
OWN = {
    "AutoencoderKL": KL,
    "VQModel": {**KL, "num_vq_embeddings": 11},
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 2),
        "num_decoder_blocks": (2, 1),
    },
}
LIBRARY: dict[str, dict[str, Any]] = {
    "AsymmetricAutoencoderKL": {
        "down_block_types": TWO["down_block_types"], "down_block_out_channels": (8, 16),
        "up_block_types": TWO["up_block_types"], "up_block_out_channels": (8, 16), "norm_num_groups": 4,
    },
    "AutoencoderDC": {
        "latent_channels": 4, "encoder_block_out_channels": (8, 16), "decoder_block_out_channels": (8, 16),
        "encoder_block_types": "ResBlock", "decoder_block_types": ["ResBlock", "EfficientViTBlock"], "attention_head_dim": 8,
        "encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1),
        "encoder_qkv_multiscales": ((), ()), "decoder_qkv_multiscales": ((), (5,)),
    },
    "AutoencoderOobleck": {
        "encoder_hidden_size": 8, "downsampling_ratios": [2, 2], "channel_multiples": [1, 2],
        "decoder_channels": 8, "decoder_input_channels": 4,
    },
    "AutoencoderKLWan": {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    "AutoencoderKLLTXVideo": {
        "latent_channels": 8, "block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4,
        "layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5,
    },
    "AutoencoderKLLTX2Video": {
        "latent_channels": 8, "block_out_channels": (8,) * 4, "decoder_block_out_channels": (8, 16, 32),
        "layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 4,
    },
    "AutoencoderKLTemporalDecoder": {"block_out_channels": (32, 32), "down_block_types": TWO["down_block_types"]},
    "AutoencoderKLHunyuanImage": {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (32, 32), "layers_per_block": 1,
        "spatial_compression_ratio": 2, "sample_size": 16,
    },
    "AutoencoderKLHunyuanImageRefiner": {"latent_channels": 4, "block_out_channels": (8,) * 5, "layers_per_block": 1},
    "AutoencoderKLHunyuanVideo": {"latent_channels": 4, **FOUR},
    "AutoencoderKLHunyuanVideo15": {"latent_channels": 4, "block_out_channels": (8,) * 5, "layers_per_block": 1},
    "AutoencoderKLKVAE": {"channels": 32, "num_enc_blocks": 1, "num_dec_blocks": 1, "z_channels": 4, "ch_mult": (1, 1)},
    "AutoencoderKLKVAEVideo": {"ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1, "z_channels": 4, "temporal_compress_times": 2},
    "AutoencoderKLCogVideoX": {"latent_channels": 4, **FOUR},
    "AutoencoderKLCosmos": {
        "latent_channels": 4, "encoder_block_out_channels": (8,) * 4, "decode_block_out_channels": (8,) * 4,
        "attention_resolutions": (8,), "resolution": 64, "num_layers": 1, "spatial_compression_ratio": 4,
        "temporal_compression_ratio": 4,
    },
    "AutoencoderKLMagvit": {"latent_channels": 4, **FOUR},
    "AutoencoderKLMochi": {
        "latent_channels": 4, "latents_mean": None, "latents_std": None, "encoder_block_out_channels": (32,) * 4,
        "decoder_block_out_channels": (32,) * 4, "layers_per_block": (1,) * 5,
    },
    "AutoencoderVidTok": {"ch": 32, "ch_mult": [1, 1, 1], "z_channels": 4, "num_res_blocks": 1},
    "AutoencoderKLMiniMaxH3": {
        "latent_channels": 4, "block_out_channels": (8,) * 6, "layers_per_block": 1, "norm_num_groups": 4,
        "decoder_num_layers": 1, "decoder_num_attention_heads": 2, "decoder_attention_head_dim": 16,
        "latents_mean": (0.0,) * 4, "latents_std": (1.0,) * 4,
    },
    "AutoencoderKLQwenImage": {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    "AutoencoderKLQwenImage21": {
        "base_dim": 8, "decoder_base_dim": 8, "z_dim": 4, "dim_mult": [1] * 5, "num_res_blocks": 1,
        "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
    },
    "Kandinsky6SRVAE": {
        "latent_channels": 4, "encoder_block_out_channels": (8,) * 5, "decoder_block_out_channels": (8,) * 5,
        "layers_per_block": 1,
    },
    "AutoencoderRAE": {
        "encoder_hidden_size": 64, "encoder_num_hidden_layers": 1, "encoder_patch_size": 8, "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32, "patch_size": 4,
        "encoder_input_size": 16, "image_size": 8,
    },
    "AutoencoderKLLTX2Audio": {"base_channels": 16, "ch_mult": (1, 2), "num_res_blocks": 1, "latent_channels": 4, "mel_bins": 8},
    "AutoencoderKLKVAEAudio": {
        "encoder_dim": 8, "encoder_rates": [2, 2], "latent_dim": 16, "codebook_dim": 4, "decoder_dim": 16,
        "decoder_rates": [2, 2], "attn_num_heads": 2,
    },
    "AutoencoderKLMiniMaxH3Audio": {
        "encoder_dim": 8, "encoder_rates": (2, 2), "latent_dim": 16, "latent_channels": 4, "num_attention_heads": 2,
        "decoder_dim": 16, "decoder_rates": (2, 2), "decoder_kernel_sizes": (4, 4), "resblock_kernel_sizes": (3,),
        "resblock_dilation_sizes": ((1, 3, 5),),
    },
    "AutoencoderSAME": {
        "patch_size": 4, "encoder_channels": 8, "encoder_c_mults": (2,), "encoder_strides": (2,),
        "encoder_transformer_depths": (1,), "latent_dim": 4, "dim_heads": 8,
    },
    "LongCatAudioDiTVae": {"channels": 8, "c_mults": [1, 2], "strides": [2], "latent_dim": 4, "encoder_latent_dim": 8},
    "MMAudioVAE": {
        "mel_bins": 80, "latent_channels": 4, "hidden_channels": 16, "layers_per_block": 1, "sample_rate": 16000,
        "n_fft": 1024, "hop_length": 256,
    },
    "Cosmos3AVAEAudioTokenizer": {
        "vocoder_input_dim": 4, "dec_dim": 8, "dec_c_mults": (1, 2), "dec_strides": (2, 2), "enc_dim": 16,
        "enc_intermediate_dim": 16, "enc_num_layers": 1, "enc_num_blocks": 1, "enc_latent_dim": 8, "enc_c_mults": (1, 2),
        "enc_strides": (2, 2),
    },
}  # fmt: skip
# the size of a map, where one by one is enough to see everything: these double five times and more
SIZES = dict.fromkeys(("AutoencoderKLHunyuanImageRefiner", "AutoencoderKLHunyuanVideo15", "Kandinsky6SRVAE", "AutoencoderKLQwenImage21"), "1x1")  # fmt: skip
# like another on the list, or many layers for its outputs
SLOW = frozenset({"AutoencoderKLHunyuanImageRefiner", "AutoencoderKLMochi", "Kandinsky6SRVAE"})
POSTERIOR = frozenset({
    "AsymmetricAutoencoderKL", "AutoencoderOobleck", "AutoencoderKLWan", "AutoencoderKLLTXVideo", "AutoencoderKLLTX2Video",
    "AutoencoderKLHunyuanImage", "AutoencoderKLHunyuanImageRefiner", "AutoencoderKLHunyuanVideo", "AutoencoderKLKVAE",
    "AutoencoderKLHunyuanVideo15", "AutoencoderKLKVAEVideo", "AutoencoderKLCogVideoX", "AutoencoderKLMagvit",
    "AutoencoderKLMochi", "AutoencoderKLQwenImage", "AutoencoderKLQwenImage21", "Kandinsky6SRVAE", "AutoencoderKLKVAEAudio",
    "AutoencoderKLTemporalDecoder",
})  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may reach for the network."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)


def made(name: str, settings: dict[str, Any], folder: Path, *, half: bool = False) -> Any:
    """Write a model of diffusers with random weights, and return it."""
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**settings).eval()
    with torch.no_grad():
        for p in model.parameters():  # norms of one and biases of zero would hide what is left out
            p.copy_((p + 0.1 * torch.randn_like(p)).half().float())
    folder.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in dict(model.config).items() if not k.startswith("_")}
    (folder / "config.json").write_text(json.dumps({"_class_name": name, **config}))
    state = {k: t.contiguous().clone() for k, t in model.state_dict().items()}
    state = {k: t.half() for k, t in state.items()} if half else state
    save_file(state, folder / f"diffusion_pytorch_model{'.fp16' if half else ''}.safetensors")
    return model


def decoded(model: Any, z: Tensor) -> Tensor:
    """What the library returns."""
    name = type(model).__name__
    more = {"VQModel": {"force_not_quantize": True}, "AutoencoderKLTemporalDecoder": {"num_frames": 1}}
    rows = z.split(1) if diffusers_library.ALLOWED[name].alone else (z,)
    with torch.no_grad():
        found = [model.decode(row, **more.get(name, {})) for row in rows]
    return torch.cat([out if isinstance(out, Tensor) else out.sample for out in found])


def same(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and float((ours - theirs).abs().max()) < 1e-5 * float(
        theirs.abs().max()
    )


def slope_of(decoder: vaeprobe.Decoder, h: float = 1e-6) -> float:
    """The largest error of forward mode against central differences, of the largest slope."""
    rng = torch.Generator().manual_seed(4)
    z, v = torch.randn(2, 2, decoder.latent_dim, dtype=torch.float64, generator=rng)
    with torch.no_grad(), differentiable_kernels():
        _, moved = torch.func.jvp(decoder.flat, (z,), (v,))
        central = (decoder.flat(z + h * v) - decoder.flat(z - h * v)) / (2 * h)
    return float((moved - central).abs().max() / central.abs().max())


@pytest.mark.parametrize("name", OWN)
def test_by_our_own_layers(name: str, tmp_path: Path) -> None:
    model = made(name, OWN[name], tmp_path / "model")
    decoder = vaeprobe.load(tmp_path / "model", latent_size=(3, 5))
    assert decoder.artifact is not None
    assert decoder.artifact.architecture.startswith("preset autoencoder-")
    assert decoder.latent_shape[1:] == (3, 5)
    z = torch.randn(2, decoder.latent_dim)
    assert same(decoder(z), decoded(model, z.reshape(2, *decoder.latent_shape)))
    assert decoder.differentiation == "forward"
    assert slope_of(vaeprobe.load(tmp_path / "model", dtype="float64", latent_size="2x2")) < 1e-6


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in LIBRARY]
)
@pytest.mark.filterwarnings("ignore")
def test_built_by_the_library(name: str, tmp_path: Path) -> None:
    needs = diffusers_library.ALLOWED[name].needs
    if needs:
        pytest.importorskip(needs)
    model = made(name, LIBRARY[name], tmp_path / "model")
    sizes = {2: "2x2", 3: "2x2"} if not needs else {}
    size = SIZES.get(name, sizes.get(diffusers_library.ALLOWED[name].axes))
    decoder = vaeprobe.load(tmp_path / "model", latent_size=size)
    assert decoder.artifact is not None
    assert decoder.artifact.architecture == f"diffusers {name}"
    assert decoder.differentiation == "forward"
    z = torch.randn(2, decoder.latent_dim)
    assert same(decoder(z), decoded(model, z.reshape(2, *decoder.latent_shape)))
    # in float64 the casts that the library makes to single precision are left out: differences are clean
    assert slope_of(vaeprobe.load(tmp_path / "model", dtype="float64", latent_size=size)) < 1e-6
    assert (decoder.encoder is not None) is (name in POSTERIOR)
    if decoder.encoder is not None:
        x = torch.rand(1, *decoder.output_shape)
        mean, log_variance = decoder.encoder(x)
        with torch.no_grad():
            theirs = model.encode(x).latent_dist
        assert torch.allclose(mean, theirs.mean.flatten(1), atol=1e-5)
        assert torch.allclose(log_variance.exp(), theirs.var.flatten(1), rtol=1e-4)


def test_every_autoencoder_of_the_library_is_on_the_list_tested_or_refused_with_a_reason() -> None:
    from diffusers.models import autoencoders

    theirs = {k for k in vars(autoencoders) if k[0].isupper() and isinstance(getattr(autoencoders, k), type)}
    allowed, refused = set(diffusers_library.ALLOWED), set(diffusers_library.REFUSED)
    assert not allowed & refused
    # another version of the library may have more: they are refused until somebody has read them
    if diffusers.__version__.startswith("0.42."):
        assert allowed | refused == theirs
    assert allowed == {*LIBRARY, *OWN, "AutoencoderKLFlux2"}


def test_a_class_off_the_list_is_refused_with_its_reason(tmp_path: Path) -> None:
    state = {"decoder.conv_in.weight": torch.zeros(1)}
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    for name, why in {**diffusers_library.REFUSED, "AutoencoderOfTomorrow": "knows no decoder"}.items():
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": name}))
        with pytest.raises(InputError, match=why):
            vaeprobe.load(tmp_path)


def test_a_class_that_needs_one_package_more_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"decoder.weight": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderRAE"}))
    monkeypatch.setattr(diffusers_library, "_is_there", lambda package: False)
    with pytest.raises(MissingExtraError, match="transformers, which is not installed"):
        vaeprobe.load(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_flux2_is_loaded_by_our_own_layers(tmp_path: Path) -> None:
    model = made("AutoencoderKLFlux2", KL, tmp_path / "model")
    decoder = vaeprobe.load(tmp_path / "model", latent_size=(3, 5))
    assert decoder.artifact is not None
    assert decoder.artifact.architecture == "preset autoencoder-kl"
    z = torch.randn(2, decoder.latent_dim)
    assert same(decoder(z), decoded(model, z.reshape(2, *decoder.latent_shape)))


def test_the_encoder_of_a_kl_model(tmp_path: Path) -> None:
    model = made("AutoencoderKL", KL, tmp_path / "model")
    encoder = vaeprobe.load(tmp_path / "model").encoder
    assert encoder is not None
    assert encoder.input_shape == (3, 8, 8)
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        posterior = model.encode(x).latent_dist
    mean, log_variance = encoder(x)
    assert torch.allclose(mean, posterior.mean.flatten(1), atol=1e-5)
    assert torch.allclose(log_variance, posterior.logvar.flatten(1), atol=1e-5)


def test_a_deeper_kl_model_without_quant_convolutions_or_attention(tmp_path: Path) -> None:
    settings = {
        **KL,
        "block_out_channels": [8, 8, 16],
        "layers_per_block": 2,
        "latent_channels": 16,
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "mid_block_add_attention": False,
    }
    model = made("AutoencoderKL", settings, tmp_path / "model")
    decoder = vaeprobe.load(tmp_path / "model")
    z = torch.randn(2, decoder.latent_dim)
    assert same(decoder(z), decoded(model, z.reshape(2, 16, 4, 4)))


TINY = {
    "encoder_block_out_channels": [8, 8], "num_encoder_blocks": [1, 1],
    "decoder_block_out_channels": [8, 8], "num_decoder_blocks": [1, 1],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("AutoencoderKL", {**KL, "act_fn": "gelu"}),
        ("AutoencoderTiny", {**TINY, "act_fn": "gelu"}),
        ("AutoencoderTiny", {**TINY, "upsample_fn": "bilinear"}),
    ],
)
def test_what_our_own_layers_lack_is_built_by_the_library(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = made(name, settings, tmp_path / "model")
    decoder = vaeprobe.load(tmp_path / "model")
    assert decoder.artifact is not None
    assert "preset" not in decoder.artifact.architecture
    z = torch.randn(2, decoder.latent_dim)
    assert same(decoder(z), decoded(model, z.reshape(2, 4, 4, 4)))


def test_half_precision_pipeline_and_shards(tmp_path: Path) -> None:
    model = made("AutoencoderKL", KL, tmp_path / "pipe" / "vae", half=True)
    (tmp_path / "pipe" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    decoder = vaeprobe.load(tmp_path / "pipe")
    z = torch.randn(2, 64)
    assert same(decoder(z), decoded(model, z.reshape(2, 4, 4, 4)))
    assert "cast-up" in {n.code for n in decoder.notes}
    # the same, in shards
    shards = tmp_path / "shards"
    made("AutoencoderKL", KL, shards)
    whole = shards / "diffusion_pytorch_model.safetensors"
    whole.unlink()
    state = list(model.state_dict().items())
    files = {
        f"diffusion_pytorch_model-{i:05}-of-00002.safetensors": dict(part)
        for i, part in enumerate((state[:100], state[100:]), 1)
    }
    for name, part in files.items():
        save_file(part, shards / name)
    table = {k: name for name, part in files.items() for k in part}
    index = shards / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    assert same(vaeprobe.load(shards)(z), decoder(z))
    (shards / next(iter(files))).unlink()
    with pytest.raises(InputError, match="which is not there"):
        vaeprobe.load(shards)
    index.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(UnsafeError, match="is not beside it"):
        vaeprobe.load(shards)


def test_a_folder_does_not_lead_out_of_itself(tmp_path: Path) -> None:
    made("AutoencoderKL", KL, tmp_path / "real")
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in (tmp_path / "real").iterdir():
        (linked / file.name).symlink_to(file)
    with pytest.raises(UnsafeError, match="leads out of its folder"):
        vaeprobe.load(linked)


def test_a_config_of_other_weights_is_an_error(tmp_path: Path) -> None:
    made("AutoencoderKL", KL, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "block_out_channels": [8, 32]}))
    with pytest.raises(ArchitectureError, match=r"says block_out_channels = \[8, 32\]"):
        vaeprobe.load(tmp_path / "model")


@pytest.mark.filterwarnings("ignore")
def test_a_class_that_the_config_does_not_fit_is_an_error(tmp_path: Path) -> None:
    made("AutoencoderKL", KL, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    for name, message in (
        ("AutoencoderDC", "the config makes|cannot build"),
        ("UNet2DConditionModel", "no decoder of latents"),
    ):
        path.write_text(json.dumps({**config, "_class_name": name}))
        with pytest.raises(InputError, match=message):
            vaeprobe.load(tmp_path / "model")


@pytest.mark.filterwarnings("ignore")
def test_a_video_model_that_draws_noise_is_refused(tmp_path: Path) -> None:
    made(
        "AutoencoderKLLTXVideo", {**LIBRARY["AutoencoderKLLTXVideo"], "timestep_conditioning": True}, tmp_path
    )
    with pytest.raises(InputError, match="`timestep_conditioning` on"):
        vaeprobe.load(tmp_path)


def test_a_size_must_fit(tmp_path: Path) -> None:
    made("AutoencoderKL", KL, tmp_path)
    with pytest.raises(UsageError, match="no size of a map"):
        vaeprobe.load(tmp_path, latent_size="8by8")


def test_a_codebook_is_named(tmp_path: Path) -> None:
    made("VQModel", OWN["VQModel"], tmp_path)
    decoder = vaeprobe.load(tmp_path)
    assert decoder.encoder is None
    assert any("a codebook of 11 codes" in n.message for n in decoder.notes)


@pytest.mark.parametrize("half", [False, True])
def test_the_weights_in_a_folder_are_read_with_the_config_beside_them(tmp_path: Path, half: bool) -> None:
    name = next(iter(OWN))
    model = made(name, OWN[name], tmp_path / "model", half=half)
    (file,) = (tmp_path / "model").glob("*.safetensors")
    decoder = vaeprobe.load(file, latent_size=(3, 5))
    z = torch.randn(2, *decoder.latent_shape)
    assert same(decoder(z.flatten(1)).reshape(decoded(model, z).shape), decoded(model, z))


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_of_a_whole_pipeline_only_the_autoencoder_is_read(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**KL, "block_out_channels": [32, 32], "norm_num_groups": 32}
    model = made("AutoencoderKL", settings, tmp_path / "model")
    state = {f"first_stage_model.{k}": t.half() for k, t in model.state_dict().items()}
    state["model.diffusion_model.input_blocks.0.0.weight"] = torch.full((500, 400), torch.nan).half()
    state["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"] = torch.zeros(300, 8)
    file = tmp_path / f"whole.{suffix}"
    if suffix == "ckpt":
        torch.save({"state_dict": state, "pytorch-lightning_version": "1.9"}, file)
    else:
        save_file(state, file)
    made_of_bytes = []
    tensor = weights._tensor
    monkeypatch.setattr(
        weights, "_tensor", lambda spec, bases: made_of_bytes.append(spec.shape) or tensor(spec, bases)
    )  # type: ignore[func-returns-value]
    decoder = vaeprobe.load(file)
    assert len(made_of_bytes) == len(model.state_dict())
    assert (500, 400) not in made_of_bytes
    z = torch.randn(2, decoder.latent_dim)
    assert same(decoder(z), decoded(model, z.reshape(2, *decoder.latent_shape)))
    assert decoder.encoder is not None
    said = {n.code: n.message for n in decoder.notes}
    assert "`cond_stage_model`" in said["unused-tensors"]
    assert "`model`" in said["unused-tensors"]
    assert "nonfinite-weights" not in said  # the NaN are in what was not read
