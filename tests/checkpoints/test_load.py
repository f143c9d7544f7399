"""From a file to a decoder: where the architecture comes from, the user's own code, real checkpoints."""

from __future__ import annotations

import hashlib
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vaeprobe
from vaeprobe.checkpoints.blueprint import Blueprint
from vaeprobe.engine import jacobian
from vaeprobe.errors import ArchitectureError, InputError, UsageError, VaeprobeError

from hostile_files import saved, state

TOML = 'latents = 2\nlikelihood = "gaussian"\n[decoder]\nlayers = [{linear = "0"}, "tanh", {linear = "2"}]\n'
Z = torch.randn(5, 2, generator=torch.Generator().manual_seed(3))


def network(latents: int = 2) -> nn.Sequential:
    """Return the network of `state()`, without its weights."""
    return nn.Sequential(nn.Linear(latents, 4), nn.Tanh(), nn.Linear(4, 3))


def expected() -> torch.Tensor:
    module = network()
    module.load_state_dict(state())
    return module(Z).detach()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(saved(state()))
    return path


# -- errors ----------------------------------------------------------------------------------------------


def test_an_error_names_the_file_once_whatever_its_words_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("label").write_bytes(saved(state()))
    Path("label.toml").write_text(TOML)
    with pytest.raises(UsageError) as raised:  # the condition's name is the file's by chance
        vaeprobe.load("label", condition={"label": 1})
    assert raised.value.message == "`label`: the decoder has no condition `label`"
    assert raised.value.about == "`label`"
    assert str(raised.value) == raised.value.message
    np.savez("m.npz", a=np.array(["x"]))
    with pytest.raises(InputError) as raised_inside:
        vaeprobe.load("m.npz")
    assert raised_inside.value.message.startswith("array `a` of `m.npz` holds <U1")


# -- the architecture ----------------------------------------------------------------------------------


def test_a_classifier_is_told_that_it_has_no_decoder(tmp_path: Path) -> None:
    shapes = {
        "a.weight": (16, 3, 3, 3),
        "b.weight": (32, 16, 3, 3),
        "head.weight": (10, 32),
        "head.bias": (10,),
    }
    torch.save({k: torch.zeros(s) for k, s in shapes.items()}, tmp_path / "c.pt")
    with pytest.raises(ArchitectureError, match="a classifier's: from images down to 10 numbers"):
        vaeprobe.load(tmp_path / "c.pt")
    # an autoencoder goes down and up again
    shapes |= {"fc3.weight": (3072, 10), "fc3.bias": (3072,)}
    torch.save({k: torch.zeros(s) for k, s in shapes.items()}, tmp_path / "c.pt")
    with pytest.raises(ArchitectureError, match="does not say which network"):
        vaeprobe.load(tmp_path / "c.pt")


def test_a_sparse_matrix_is_named(tmp_path: Path) -> None:
    import numpy as np

    parts = {"indices": np.arange(2), "indptr": np.arange(3), "data": np.ones(2), "shape": np.array([2, 2])}
    np.savez(tmp_path / "s.npz", format=np.array(b"csr"), **parts)
    with pytest.raises(VaeprobeError, match="sparse matrix") as error:
        vaeprobe.load(tmp_path / "s.npz")
    assert "toarray" in str(error.value.hint)


@pytest.mark.parametrize(
    ("held", "where", "key"),
    [
        ([torch.ones(4, 2), torch.ones(3, 4)], "a list of 2 tensors (4x2, 3x4)", "0"),
        ((torch.ones(3), torch.ones(3, 2)), "a list of 2 tensors (3, 3x2)", "1"),
        ({"shadow_params": [torch.ones(4, 2)], "decay": 0.9}, "(entry `shadow_params`) of 1 tensor (4x2)", "shadow_params.0"),
    ],
)  # fmt: skip
def test_tensors_in_a_list_are_told_that_they_have_no_names(
    tmp_path: Path, held: object, where: str, key: str
) -> None:
    path = tmp_path / "list.pt"
    path.write_bytes(saved(held))
    with pytest.raises(InputError) as caught:
        vaeprobe.load(path)
    assert where in caught.value.message
    assert "without the names of their layers" in caught.value.message
    assert f"`--key {key}` takes the matrix" in str(caught.value.hint)
    assert vaeprobe.load(path, key=key).latent_dim == 2


def test_bare_weights_without_architecture_list_their_tensors(checkpoint: Path) -> None:
    with pytest.raises(ArchitectureError, match="4 tensors and does not say which network") as error:
        vaeprobe.load(checkpoint)
    assert "`0.weight` 4x2, `0.bias` 4, `2.weight` 3x4, `2.bias` 3" in error.value.message
    assert "--draft-blueprint OUT" in (error.value.hint or "")
    assert "--arch" in (error.value.hint or "")
    assert error.value.exit_code == 5


@pytest.mark.parametrize("name", ["model.pt.toml", "model.blueprint.toml", "model.toml"])
def test_a_blueprint_beside_the_file(checkpoint: Path, name: str) -> None:
    checkpoint.with_name(name).write_text(TOML)
    decoder = vaeprobe.load(checkpoint)
    torch.testing.assert_close(decoder(Z), expected())
    assert decoder.likelihood == "gaussian"
    assert decoder.artifact is not None
    assert decoder.artifact.architecture == f"blueprint {checkpoint.with_name(name)}"


def test_a_blueprint_as_file_and_as_object(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(TOML)
    (tmp_path / "model.toml").write_text("latents = 1")  # the one given wins
    for given in (tmp_path / "own.toml", str(tmp_path / "own.toml"), Blueprint.from_toml(TOML)):
        torch.testing.assert_close(vaeprobe.load(checkpoint, blueprint=given)(Z), expected())


def test_a_draft_is_used_only_when_asked_for_and_says_so(checkpoint: Path) -> None:
    decoder = vaeprobe.load(checkpoint, blueprint="draft")
    assert "draft-blueprint" in [n.code for n in decoder.notes]


def test_an_unknown_blueprint_gets_the_nearest(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="no blueprint `burges`") as error:
        vaeprobe.load(checkpoint, blueprint="burges")
    assert "`burgess`" in (error.value.hint or "")


def test_a_preset_that_does_not_fit(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="not those of preset `burgess`"):
        vaeprobe.load(checkpoint, blueprint="burgess")


def test_a_wrong_blueprint_names_layer_shapes_and_repair(checkpoint: Path) -> None:
    wrong = Blueprint.from_toml(TOML.replace("latents = 2", "latents = 5"))
    with pytest.raises(VaeprobeError) as error:
        vaeprobe.load(checkpoint, blueprint=wrong)
    assert error.value.exit_code in (2, 5)
    text = f"{error.value.message} {error.value.hint}"
    assert "`0" in text
    assert "5" in text
    assert "2" in text


def test_metadata_of_safetensors(tmp_path: Path) -> None:
    bp = Blueprint.from_toml(TOML)
    save_file(
        {k: v.clone() for k, v in state().items()}, tmp_path / "m.safetensors", metadata=bp.to_metadata()
    )
    torch.testing.assert_close(vaeprobe.load(tmp_path / "m.safetensors")(Z), expected())


def test_a_prefix_as_key(tmp_path: Path) -> None:
    tensors = {f"vae.decoder.{k}": v.clone() for k, v in state().items()}
    save_file(tensors, tmp_path / "m.safetensors")
    (tmp_path / "m.toml").write_text(TOML)
    torch.testing.assert_close(vaeprobe.load(tmp_path / "m.safetensors", key="vae.decoder")(Z), expected())
    with pytest.raises(UsageError, match="no entry `vea`") as error:
        vaeprobe.load(tmp_path / "m.safetensors", key="vea")
    assert "`vae`" in (error.value.hint or "")


def test_the_artifact_is_the_file(checkpoint: Path) -> None:
    artifact = vaeprobe.load(checkpoint, blueprint=Blueprint.from_toml(TOML)).artifact
    assert artifact is not None
    assert artifact.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert artifact.size == checkpoint.stat().st_size
    assert artifact.format == "state_dict"
    assert artifact.details == {"container": "torch zip"}


def test_double_precision(checkpoint: Path) -> None:
    decoder = vaeprobe.load(checkpoint, blueprint=Blueprint.from_toml(TOML), dtype="float64")
    assert decoder(Z.double()).dtype == torch.float64
    torch.testing.assert_close(decoder(Z.double()).float(), expected())


def test_submodule_needs_a_module(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="holds bare weights"):
        vaeprobe.load(checkpoint, submodule="decoder")


# -- the user's own code ---------------------------------------------------------------------------------

MODELS = """
import torch
from torch import nn
import vaeprobe

def decoder():
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))

def narrow():
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))

def renamed():
    return nn.ModuleDict({"a": nn.Linear(2, 4)})

def wrapped():
    return vaeprobe.Decoder(decoder(), 2, likelihood="gaussian")

def reads(path):
    module = decoder()
    module.load_state_dict(torch.load(path, weights_only=True))
    return module

class VAE(nn.Module):
    def __init__(self, z_dim=2):
        super().__init__()
        self.z_dim = z_dim
        self.encoder = nn.Linear(3, 4)
        self.decoder = decoder()
    def decode(self, z):
        return self.decoder(z)
    def forward(self, x):
        return self.decode(self.encoder(x)[:, :2])

def two(a, b):
    return decoder()

def broken():
    raise RuntimeError("no GPU")

class Broadcast(nn.Module):
    def __init__(self):
        super().__init__()
        line = torch.linspace(-1, 1, 4)
        for name, grid in zip("xy", torch.meshgrid(line, line, indexing="ij")):  # numbers that share memory
            self.register_buffer(name, grid)
        self.last = nn.Conv2d(4, 3, 3, padding=1)
    def forward(self, z):
        x, y = (grid.expand(len(z), 1, 4, 4) for grid in (self.x, self.y))
        return self.last(torch.cat([z[:, :, None, None].expand(-1, -1, 4, 4), x, y], 1))

class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.randn(6, 2, dtype=torch.complex64))
        self.last = nn.Linear(6, 5)
    def forward(self, z):
        return self.last((torch.complex(z, z.sin()) @ self.W.mT).abs())

number = 3
"""


@pytest.fixture
def arch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    (tmp_path / "my_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    return lambda name: f"my_models:{name}"


@pytest.mark.parametrize("name", ["decoder", "wrapped", "reads"])
def test_a_factory_builds_the_network(checkpoint: Path, arch: Callable[[str], str], name: str) -> None:
    decoder = vaeprobe.load(checkpoint, arch=arch(name))
    torch.testing.assert_close(decoder(Z), expected())
    assert decoder.latent_dim == 2
    assert decoder.artifact is not None
    assert decoder.artifact.architecture == f"arch my_models:{name}"


def test_buffers_whose_numbers_share_memory_are_filled(tmp_path: Path, arch: Callable[[str], str]) -> None:
    torch.manual_seed(0)
    network = runpy.run_path(str(tmp_path / "my_models.py"))["Broadcast"]()
    network.x = 2 * network.x
    path = tmp_path / "w.pt"
    path.write_bytes(saved(network.state_dict()))
    decoder = vaeprobe.load(path, arch=arch("Broadcast"), latent_dim=2)
    with torch.no_grad():
        torch.testing.assert_close(decoder(Z), network(Z.float()).to(decoder(Z).dtype))


def test_complex_weights_that_are_no_numbers_are_counted(tmp_path: Path) -> None:
    W = torch.ones(3, 2, dtype=torch.complex64)
    for value, count in ((1.0, 0), (complex(1, float("nan")), 1), (complex(float("inf"), float("nan")), 2)):
        W[1, 1] = value
        (tmp_path / "w.pt").write_bytes(saved({"W": W.mT}))
        found = vaeprobe.inspect(tmp_path / "w.pt").findings
        assert [f"has {count} of 6" in f.message for f in found if f.code == "nonfinite-weights"] == [
            True
        ] * (count > 0)


@pytest.mark.parametrize("dtype", [None, "float64"])
def test_complex_weights_stay_complex(tmp_path: Path, arch: Callable[[str], str], dtype: str | None) -> None:
    torch.manual_seed(0)
    network = runpy.run_path(str(tmp_path / "my_models.py"))["Spectral"]()
    path = tmp_path / "w.pt"
    path.write_bytes(saved(network.state_dict()))
    decoder = vaeprobe.load(path, arch=arch("Spectral"), latent_dim=2, dtype=dtype)
    W, last, z = network.W.to(torch.complex128), network.last.double(), Z.double()

    def function(row: Tensor) -> Tensor:
        y: Tensor = last((torch.complex(row, row.sin()) @ W.mT).abs())
        return y

    expected = torch.stack([torch.autograd.functional.jacobian(function, row) for row in z])  # type: ignore[no-untyped-call]
    tolerance = 1e-6 if dtype is None else 1e-13
    torch.testing.assert_close(jacobian(decoder, z).double(), expected, rtol=tolerance, atol=tolerance)


def test_a_factory_as_a_file_and_as_an_object(
    checkpoint: Path, arch: Callable[[str], str], tmp_path: Path
) -> None:
    torch.testing.assert_close(
        vaeprobe.load(checkpoint, arch=f"{tmp_path / 'my_models.py'}:decoder")(Z), expected()
    )
    torch.testing.assert_close(vaeprobe.load(checkpoint, arch=network)(Z), expected())


@pytest.mark.parametrize("part", ["decoder", "decode"])
def test_a_vae_and_the_part_that_decodes(tmp_path: Path, arch: Callable[[str], str], part: str) -> None:
    weights = {f"decoder.{k}": v for k, v in state().items()}
    weights |= {"encoder.weight": torch.zeros(4, 3), "encoder.bias": torch.zeros(4)}
    path = tmp_path / "vae.pt"
    path.write_bytes(saved({"state_dict": weights}))
    decoder = vaeprobe.load(path, arch=arch("VAE"), submodule=part, latent_dim=2)
    torch.testing.assert_close(decoder(Z), expected())


def test_prefixes_are_found_and_the_rest_is_named(tmp_path: Path, arch: Callable[[str], str]) -> None:
    path = tmp_path / "vae.pt"
    path.write_bytes(
        saved({**{f"module.decoder.{k}": v for k, v in state().items()}, "module.encoder.w": torch.ones(3)})
    )
    decoder = vaeprobe.load(path, arch=arch("decoder"))
    torch.testing.assert_close(decoder(Z), expected())
    (note,) = decoder.notes
    assert note.message == "1 of 5 tensors have no place in the network: `encoder.w`"


def test_a_shape_that_differs_names_both_and_the_change(checkpoint: Path, arch: Callable[[str], str]) -> None:
    with pytest.raises(ArchitectureError) as error:
        vaeprobe.load(checkpoint, arch=arch("narrow"))
    assert "tensor `0.weight` has shape 4x2 in the file and 4x5 in the network" in error.value.message
    assert error.value.hint == "change `0` of the network: 5 to 2 (axis 1)"


def test_a_missing_tensor_gets_the_nearest(checkpoint: Path, arch: Callable[[str], str]) -> None:
    with pytest.raises(ArchitectureError, match=r"wants the tensor `a\.weight` of shape 4x2") as error:
        vaeprobe.load(checkpoint, arch=arch("renamed"))
    assert "`0.weight`" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("my_models:decodr", "has no `decodr`", "did you mean `decoder`"),
        ("my_modls:decoder", "cannot be imported", "path/to/model.py:factory"),
        ("my_models", "names no factory", "package.module:factory"),
        ("my_models:two", "needs the arguments `a`, `b`", "without arguments"),
        ("my_models:broken", "`broken` raised RuntimeError: no GPU", ""),
        ("my_models:number", "is int, not a function", ""),
        ("nowhere.py:decoder", "there is no file `nowhere.py`", ""),
    ],
)
def test_what_can_be_wrong_with_a_factory(
    checkpoint: Path, arch: Callable[[str], str], name: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as error:
        vaeprobe.load(checkpoint, arch=name)
    assert message in error.value.message
    assert hint in (error.value.hint or "")


# -- inspect ---------------------------------------------------------------------------------------------


def test_inspect_describes_weights(checkpoint: Path) -> None:
    found = vaeprobe.inspect(checkpoint)
    assert (found.kind, found.verdict, found.exit_code, found.safe) == (
        "weights",
        "weights without architecture",
        0,
        True,
    )
    assert next((t.name, t.dtype, t.shape) for t in found.tensors) == ("0.weight", "float32", (4, 2))
    assert "torch._utils._rebuild_tensor_v2" in found.globals
    document = found.to_dict()
    assert document["details"]["tensors"][3] == {"name": "2.bias", "dtype": "float32", "shape": [3]}
    json.dumps(document)


def test_inspect_finds_the_blueprint_beside_the_file(checkpoint: Path) -> None:
    checkpoint.with_name("model.pt.toml").write_text(TOML)
    found = vaeprobe.inspect(checkpoint)
    assert found.verdict == "weights"
    assert found.blueprint == Blueprint.from_toml(TOML)
    assert "stands beside it" in found.summary


def test_inspect_drafts_a_blueprint_that_loads(checkpoint: Path, tmp_path: Path) -> None:
    found = vaeprobe.inspect(checkpoint, draft_blueprint=True)
    found.files()["draft_blueprint"](tmp_path / "draft.toml")
    decoder = vaeprobe.load(checkpoint, blueprint=tmp_path / "draft.toml")
    assert decoder.latent_dim == 2
    assert any("draft" in n.code for n in decoder.notes)


def test_inspect_sees_code_and_does_not_run_it(tmp_path: Path) -> None:
    from hostile_files import Touch

    path = tmp_path / "model.pt"
    path.write_bytes(saved({**state(), "x": Touch(tmp_path / "marker")}))
    found = vaeprobe.inspect(path)
    assert (found.kind, found.exit_code, found.safe) == ("unsafe", 4, False)
    assert found.foreign == ("posix.system",)
    assert not (tmp_path / "marker").exists()


def test_inspect_needs_no_torch(tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "zip.pt").write_bytes(saved(state()))
    (tmp_path / "legacy.pt").write_bytes(saved(state(), legacy=True))
    (tmp_path / "module.pt").write_bytes(saved(network()))
    save_file({k: v.clone() for k, v in state().items()}, tmp_path / "m.safetensors")
    np.save(tmp_path / "W.npy", np.eye(2))
    code = (
        "import sys, pathlib, vaeprobe as c\n"
        "for p in sorted(pathlib.Path(sys.argv[1]).iterdir()): assert c.inspect(p).exit_code == 0, p\n"
        "assert 'torch' not in sys.modules and 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_inspect_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vaeprobe.cli import run

    (tmp_path / "empty.pt").touch()
    assert run(["inspect", str(checkpoint)]) == 0
    assert "0.weight" in capsys.readouterr().out
    assert run(["inspect", str(checkpoint), str(tmp_path / "empty.pt"), "--json"]) == 5
    document = json.loads(capsys.readouterr().out)
    assert [m["exit_code"] for m in document["models"]] == [0, 5]
    assert run(["inspect", str(checkpoint), "--draft-blueprint", str(tmp_path / "out.toml")]) == 0
    assert "assumptions" in (tmp_path / "out.toml").read_text()


# -- real checkpoints ------------------------------------------------------------------------------------

REAL = {
    "disvae/VAE_mnist/model.pt": ("preset burgess", 10, (1, 32, 32), "bernoulli"),
    "disvae/btcvae_dsprites/model.pt": ("preset burgess", 10, (1, 64, 64), "bernoulli"),
    "jointvae/fashion.pt": ("preset joint-vae", 20, (1, 32, 32), "bernoulli"),
    "jointvae/chairs.pt": ("preset joint-vae", 38, (1, 64, 64), "bernoulli"),
    "inverse_micro/vae.pth": ("preset inverse-micro", 64, (1024,), "gaussian"),
    "riemann/mnist.pth": ("preset pytorch-examples-mlp", 20, (784,), "bernoulli"),
    "wgangp/generator.pt": ("preset wgan-gp", 64, (1, 28, 28), None),
    "formats/btcvae_dsprites_dyn.pt2": ("self-contained", 10, (1, 64, 64), None),
    "formats/btcvae_dsprites_script.ts": ("self-contained", 10, (1, 64, 64), None),
    "formats/jointvae_fashion_trace.ts": ("self-contained", 20, (1, 32, 32), None),
}


@pytest.mark.parametrize("name", REAL)
def test_real_checkpoints_load_with_no_option(models: Path, name: str) -> None:
    architecture, latents, shape, likelihood = REAL[name]
    decoder = vaeprobe.load(models / name)
    assert decoder.artifact is not None
    assert decoder.artifact.architecture == architecture
    assert (decoder.latent_dim, tuple(decoder.output_shape), decoder.likelihood) == (
        latents,
        shape,
        likelihood,
    )
    assert decoder.differentiation == "forward"


@pytest.mark.parametrize(
    "name", [f"{family}_{data}" for family in ("VAE", "betaH", "btcvae") for data in ("mnist", "dsprites")]
)
def test_disvae_by_preset(models: Path, name: str) -> None:
    found = vaeprobe.inspect(models / "disvae" / name / "model.pt")
    assert found.preset == "burgess"
    assert found.exit_code == 0


def test_formats_agree_with_the_state_dicts_they_came_from(models: Path) -> None:
    z = torch.randn(16, 10, generator=torch.Generator().manual_seed(0))
    truth = vaeprobe.load(models / "disvae/btcvae_dsprites/model.pt").flat(z)
    for name in ("btcvae_dsprites_dyn.pt2", "btcvae_dsprites_script.ts"):
        other: Any = vaeprobe.load(models / "formats" / name).flat(z)
        assert float((other - truth).abs().max() / truth.abs().max()) < 1e-5
    joint = vaeprobe.load(models / "jointvae/fashion.pt")
    z = torch.cat([z, torch.eye(10)[torch.arange(16) % 10]], 1)
    truth = joint.flat(z)
    layers = vaeprobe.load(models / "formats/jointvae_fashion.safetensors", blueprint="draft")
    for decoder in (layers, vaeprobe.load(models / "formats/jointvae_fashion_trace.ts")):
        assert float((decoder.flat(z) - truth).abs().max() / truth.abs().max()) < 1e-5


def test_a_condition_or_a_map_that_a_file_does_not_have_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "W.npy", np.eye(4, 2))
    with pytest.raises(UsageError, match="no condition `label`"):
        vaeprobe.load(tmp_path / "W.npy", condition={"label": 3})
    with pytest.raises(UsageError, match="are no map"):
        vaeprobe.load(tmp_path / "W.npy", latent_size="8x8")
