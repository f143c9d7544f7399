"""Whole pickled modules: torch's layers rebuilt, foreign classes never imported."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vaeprobe
from vaeprobe.errors import ArchitectureError, InputError, UnsafeError, UsageError

from hostile_files import raw_pickle, saved

CONVOLUTIONAL = nn.Sequential(
    nn.Linear(3, 32),
    nn.LeakyReLU(0.1),
    nn.Unflatten(1, (8, 2, 2)),
    nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1),
    nn.BatchNorm2d(4),
    nn.ELU(),
    nn.Upsample(scale_factor=2),
    nn.Conv2d(4, 2, 3, padding="same", padding_mode="reflect"),
    nn.Sigmoid(),
).eval()
NETWORKS = {
    "linear": nn.Linear(3, 5),
    "mlp": nn.Sequential(nn.Linear(3, 8), nn.Softplus(beta=2), nn.LayerNorm(8), nn.Linear(8, 5, bias=False)),
    "convolutional": CONVOLUTIONAL,
    "nested": nn.Sequential(
        nn.Sequential(nn.Linear(3, 4), nn.GELU()), nn.Sequential(nn.Linear(4, 4), nn.PReLU())
    ),
    "attention": nn.Sequential(
        nn.Linear(3, 8),
        nn.Unflatten(1, (2, 4)),
        nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True),
    ),
}


def write(folder: Path, data: bytes) -> Path:
    path = folder / "module.pt"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("container", ["zip", "legacy", "pickle"])
def test_modules_of_torch_layers_come_back_whole(tmp_path: Path, name: str, container: str) -> None:
    module = NETWORKS[name].eval()
    data = raw_pickle(module, 2) if container == "pickle" else saved(module, legacy=container == "legacy")
    decoder = vaeprobe.load(write(tmp_path, data))
    assert decoder.latent_dim == 3
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(decoder(z), module(z), atol=1e-6, rtol=1e-6)
    assert decoder.artifact is not None
    assert decoder.artifact.format == "module"


def test_the_natural_parameter_is_before_a_last_sigmoid(tmp_path: Path) -> None:
    decoder = vaeprobe.load(write(tmp_path, saved(CONVOLUTIONAL)))
    z = torch.randn(2, 3)
    torch.testing.assert_close(decoder.natural_flat(z).sigmoid(), decoder.flat(z))


def test_latents_of_a_transposed_convolution_are_images_of_one_pixel(tmp_path: Path) -> None:
    module = nn.Sequential(
        nn.ConvTranspose2d(6, 4, 4), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Tanh()
    )
    decoder = vaeprobe.load(write(tmp_path, saved(module)))
    assert decoder.latent_dim == 6
    assert "reshaped to 6 x 1 x 1" in decoder.notes[0].message
    z = torch.randn(2, 6)
    torch.testing.assert_close(decoder(z), module(z[:, :, None, None]))


def test_a_first_convolution_leaves_the_latents_open(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="begins with a convolution"):
        vaeprobe.load(write(tmp_path, saved(nn.Sequential(nn.Conv2d(3, 1, 3)))))


# -- foreign classes ----------------------------------------------------------------------------------

SOURCE = """
from torch import nn
imported.append(True)
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 5)
    def forward(self, x):
        return x + self.inner(x)
class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 6))
        self.decoder = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
        self.tail = nn.Sequential(nn.Linear(5, 5), Block())
    def forward(self, x):
        return self.tail(self.decoder(x))
"""


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[tuple[Path, nn.Module, list[bool]]]:
    """A pickled VAE whose module is gone from this process, the VAE, and a list that grows on every import."""
    imported: list[bool] = []
    module = types.ModuleType("somebodys_models")
    vars(module)["imported"] = imported
    sys.modules["somebodys_models"] = module
    exec(SOURCE, vars(module))
    vae = module.VAE().eval()
    path = write(tmp_path, saved(vae))
    imported.clear()
    del sys.modules["somebodys_models"]
    yield path, vae, imported
    assert "somebodys_models" not in sys.modules
    assert imported == []


def test_a_foreign_class_is_refused_by_name_with_ways_on(foreign: Any) -> None:
    path, _, _ = foreign
    with pytest.raises(
        UnsafeError, match=r"would import `somebodys_models\.VAE` and `somebodys_models\.Block`"
    ) as error:
        vaeprobe.load(path)
    assert (
        "`--submodule decoder` (in Python, submodule='decoder') takes, without `encoder`, `tail` beside it"
        in (error.value.hint or "")
    )
    assert "--arch" in (error.value.hint or "")


def test_its_parts_of_torch_layers_can_be_taken(foreign: Any) -> None:
    path, vae, _ = foreign
    decoder = vaeprobe.load(path, submodule="decoder")
    z = torch.randn(4, 3)
    torch.testing.assert_close(decoder(z), vae.decoder(z))
    assert decoder.artifact is not None
    assert decoder.artifact.architecture == "pickled Sequential, part `decoder`"


def test_a_part_with_foreign_layers_is_refused(foreign: Any) -> None:
    path, _, _ = foreign
    with pytest.raises(UnsafeError, match=r"would import `somebodys_models\.Block`"):
        vaeprobe.load(path, submodule="tail")


def test_an_unknown_part_gets_the_nearest(foreign: Any) -> None:
    path, _, _ = foreign
    with pytest.raises(UsageError, match="no part `decodr`") as error:
        vaeprobe.load(path, submodule="decodr")
    assert "`decoder`" in (error.value.hint or "")


def test_its_weights_can_be_read_by_a_blueprint(foreign: Any) -> None:
    path, vae, _ = foreign
    blueprint = path.with_name("bp.toml")
    blueprint.write_text(
        '[decoder]\nprefix = "decoder."\nlayers = [{linear = "0"}, "relu", {linear = "2"}]\n'
    )
    z = torch.randn(4, 3)
    torch.testing.assert_close(vaeprobe.load(path, blueprint=blueprint)(z), vae.decoder(z))


def test_inspection_lists_its_parts_and_says_unsafe(foreign: Any) -> None:
    path, _, _ = foreign
    found = vaeprobe.inspect(path)
    assert found.exit_code == 4
    assert ("decoder", "torch.nn.modules.container.Sequential") in found.parts
    assert found.foreign == ("somebodys_models.VAE", "somebodys_models.Block")


# -- layers that lie ------------------------------------------------------------------------------------


def test_hooks_are_refused(tmp_path: Path) -> None:
    from torch.nn.utils import spectral_norm

    with pytest.raises(UnsafeError, match="spectral_norm"):
        vaeprobe.load(write(tmp_path, saved(nn.Sequential(spectral_norm(nn.Linear(3, 3))))))


def test_an_attribute_cannot_replace_a_method(tmp_path: Path) -> None:
    module = nn.Linear(3, 3)
    module.__dict__["forward"] = torch.nn.functional.gelu
    with pytest.raises(InputError, match="replaces method `forward`"):
        vaeprobe.load(write(tmp_path, saved(module)))


def _unlike_torch(how: str) -> nn.Module:
    """Return a module whose recorded state is nothing that torch writes."""
    module = nn.Sequential(
        nn.Linear(3, 4), nn.Conv2d(4, 2, 3), nn.Unflatten(1, (2, 2)), nn.Upsample(scale_factor=2)
    )
    state: dict[str, Any] = module[0].__dict__
    match how:
        case "parameters that are no table":
            state["_parameters"] = 5
        case "a parameter that is a number":
            state["_parameters"] = {"weight": 5, "bias": None}
        case "buffers in a list":
            state["_buffers"] = [torch.zeros(3)]
        case "weight normalisation said twice":
            module[0] = nn.utils.weight_norm(nn.Linear(3, 4))
            hooks = module[0]._forward_pre_hooks
            hooks[10_000] = next(iter(hooks.values()))
        case "sizes within sizes":
            module[1].__dict__["stride"] = ([1], [1])
            module[3].__dict__["scale_factor"] = ["x", "y"]
        case "a size that is none":
            module[2].__dict__["unflattened_size"] = {"a": [{}]}
        case "a set of numbers within numbers":
            state["in_features"] = {(1, (2,))}
        case "a name with a dot":
            module._modules["a.b"] = nn.ReLU()
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "how",
    [
        "parameters that are no table",
        "a parameter that is a number",
        "buffers in a list",
        "weight normalisation said twice",
        "sizes within sizes",
        "a size that is none",
        "a set of numbers within numbers",
        "a name with a dot",
    ],
)
def test_state_that_torch_never_writes_is_an_error_of_the_file(tmp_path: Path, how: str) -> None:
    path = write(tmp_path, saved(_unlike_torch(how)))
    for read in (vaeprobe.load, lambda p: vaeprobe.load(p, blueprint="draft"), vaeprobe.inspect):
        with contextlib.suppress(InputError, ArchitectureError, UnsafeError, UsageError):
            read(path)


def test_a_layer_that_torch_does_not_have(tmp_path: Path) -> None:
    data = saved(nn.Linear(3, 3), legacy=True).replace(
        b"torch.nn.modules.linear\nLinear", b"torch.nn.modules.linear\nLinaer"
    )
    with pytest.raises(InputError, match=r"which torch .* does not have"):
        vaeprobe.load(write(tmp_path, data))


def test_a_module_in_a_dict_and_a_decoder_beside_an_encoder(tmp_path: Path) -> None:
    module = NETWORKS["mlp"].eval()
    z = torch.randn(2, 3)
    torch.testing.assert_close(
        vaeprobe.load(write(tmp_path, saved({"epoch": 1, "model": module})))(z), module(z)
    )
    both = {"encoder": nn.Linear(5, 6), "decoder": module}
    torch.testing.assert_close(vaeprobe.load(write(tmp_path, saved(both)))(z), module(z))


def test_real_pickled_module(models: Path) -> None:
    path = models / "refuse" / "dcwgan_generator.pkl"
    with pytest.raises(UnsafeError, match=r"would import `Models\.Generator`") as error:
        vaeprobe.load(path)
    assert "`--submodule model`" in (error.value.hint or "")
    with pytest.raises(
        UnsafeError, match=r"`builtins\.getattr` and `torch\.optim\.swa_utils\.SWALR`"
    ) as error:
        vaeprobe.load(models / "refuse" / "lightning_classifier.ckpt")
    assert "`--key state_dict`" in (error.value.hint or "")


def test_allow_code_unpickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(
        "from torch import nn\nclass Own(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = nn.Linear(3, 2)\n"
        "    def forward(self, z):\n        return self.layer(z).exp()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import own_models

    path = write(tmp_path, saved(own_models.Own()))
    with pytest.raises(UnsafeError, match=r"own_models\.Own"):
        vaeprobe.load(path)
    decoder = vaeprobe.load(path, allow_code=True)
    assert decoder.latent_dim == 3
    assert "code-was-run" in [n.code for n in decoder.notes]
