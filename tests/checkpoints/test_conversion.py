"""Conversion: every decoder written, read back with no option, and the same; nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import vaeprobe
from vaeprobe.checkpoints.blueprint import Blueprint, BlueprintError
from vaeprobe.checkpoints.conversion import convert
from vaeprobe.checkpoints.network.modules import GaussianEncoder
from vaeprobe.cli import run
from vaeprobe.decoder import Decoder, Group
from vaeprobe.encoder import Encoder
from vaeprobe.errors import UsageError

from programs import network, scripted


def vae() -> Decoder:
    """Return a decoder with a one-hot group, an encoder with two heads, and a batch normalisation."""
    torch.manual_seed(0)
    decoder = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.Sigmoid()
    ).eval()
    trunk, mean, spread = (
        nn.Sequential(nn.Linear(6, 4), nn.Tanh()),
        nn.Sequential(nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(4, 3)),
    )
    encoder = GaussianEncoder(trunk, "heads", "log_sd", mean, spread)
    for module in (decoder, encoder):
        module.requires_grad_(False)
    return Decoder(
        decoder, 5, prior=(Group("normal", 3), Group("onehot", 2)), likelihood="bernoulli", natural=decoder[:-1],
        encoder=Encoder(encoder, 3, input_shape=(6,)),
    )  # fmt: skip


def test_safetensors_keep_everything(tmp_path: Path) -> None:
    old = vae()
    made = convert(old, tmp_path / "m.safetensors")
    assert made["convert.largest_difference"].value == 0
    new = vaeprobe.load(tmp_path / "m.safetensors")
    z, x = torch.randn(4, 5), torch.rand(4, 6)
    assert torch.equal(new(z), old(z))
    assert torch.equal(new.natural_flat(z), old.natural_flat(z))
    assert (new.prior, new.likelihood, new.parameter) == (old.prior, old.likelihood, old.parameter)
    assert new.encoder is not None
    assert old.encoder is not None
    for a, b in zip(new.encoder(x), old.encoder(x), strict=True):
        assert torch.equal(a, b)
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert Blueprint.from_metadata(file.metadata()) is not None


def test_sidecar(tmp_path: Path) -> None:
    made = convert(vae(), tmp_path / "m.safetensors", sidecar=True)
    assert made.sidecar == str(tmp_path / "m.safetensors.toml")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert Blueprint.from_metadata(file.metadata()) is None
    assert vaeprobe.load(tmp_path / "m.safetensors").likelihood == "bernoulli"


def test_pt2_keeps_latents_and_likelihood_and_says_what_it_loses(tmp_path: Path) -> None:
    old = vae()
    made = convert(old, tmp_path / "m.pt2")
    assert [f.code for f in made.findings] == ["encoder-left-out"]
    new = vaeprobe.load(tmp_path / "m.pt2")
    z = torch.randn(4, 5)
    assert torch.allclose(new(z), old(z), atol=1e-6)
    assert (new.prior, new.likelihood, new.has_natural) == (old.prior, old.likelihood, True)


def test_programs_become_pt2(tmp_path: Path) -> None:
    (tmp_path / "m.ts").write_bytes(scripted(network()))
    old = vaeprobe.load(tmp_path / "m.ts")
    convert(old, tmp_path / "m.pt2")
    z = torch.randn(7, 2)
    assert torch.allclose(vaeprobe.load(tmp_path / "m.pt2")(z), network()(z), atol=1e-6)
    with pytest.raises(BlueprintError, match="no layer for `Script`") as caught:
        convert(old, tmp_path / "n.safetensors")
    assert ".pt2" in (caught.value.hint or "")


class Halves(nn.Module):
    """A whole VAE whose halves are methods."""

    def __init__(self) -> None:
        super().__init__()
        self.latent_dim = 3
        self.weight = nn.Parameter(torch.randn(3, 5))
        self.head = nn.Linear(5, 6)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.head(x).chunk(2, -1)

    def decode(self, z: Tensor) -> Tensor:
        return torch.sin(z) @ self.weight


class Branches(Halves):
    """One whose decoder no program of torch.export holds."""

    def decode(self, z: Tensor) -> Tensor:
        x = super().decode(z)
        return x * 2 if x.sum() > 1e9 else x


class Variadic(nn.Module):
    """A decoder that takes its latents as any number of arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, *args: Tensor) -> Tensor:
        return torch.sin(self.layer(args[0]))


@pytest.mark.parametrize("network", [Halves, Variadic])
def test_users_own_networks_become_pt2(tmp_path: Path, network: type[nn.Module]) -> None:
    torch.save(network().state_dict(), tmp_path / "m.pt")
    old = vaeprobe.load(tmp_path / "m.pt", arch=network)
    made = convert(old, tmp_path / "m.pt2")
    z = torch.randn(7, 3)
    assert torch.equal(vaeprobe.load(tmp_path / "m.pt2")(z), old(z))
    assert {f.hint for f in made.findings if f.code == "encoder-left-out"} <= {None}


def test_hints_lead_to_the_other_form_only_where_it_works(tmp_path: Path) -> None:
    torch.save(Halves().state_dict(), tmp_path / "m.pt")
    old = vaeprobe.load(tmp_path / "m.pt", arch=Branches)
    with pytest.raises(BlueprintError, match="no layer") as caught:
        convert(old, tmp_path / "m.safetensors")
    assert "which takes any network that torch.export traces" in (caught.value.hint or "")
    with pytest.raises(UsageError, match=r"torch\.export cannot trace") as refused:
        convert(old, tmp_path / "m.pt2")
    assert "safetensors" not in (refused.value.hint or "")
    assert "torch.where" in (refused.value.hint or "")
    for suffix in (".safetensors", ".pt2"):  # a function is no network for either
        with pytest.raises(UsageError) as neither:
            convert(Decoder(torch.sin, 3), tmp_path / f"f{suffix}")
        assert "nn.Module" in (neither.value.hint or "")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
def test_a_draft_stays_a_draft(tmp_path: Path, suffix: str) -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5))
    torch.save({f"decoder.{k}": v for k, v in net.state_dict().items()}, tmp_path / "m.pt")
    old = vaeprobe.load(tmp_path / "m.pt", blueprint="draft")
    made = convert(old, tmp_path / f"m{suffix}")
    assert "draft-blueprint" in {f.code for f in made.findings}
    (note,) = [n for n in vaeprobe.load(tmp_path / f"m{suffix}").notes if n.code == "draft-blueprint"]
    assert "relu follows every hidden layer" in note.message
    assert "all 3 latents are N(0, 1)" in note.message


def test_functions_cannot_be_written(tmp_path: Path) -> None:
    decoder = Decoder(lambda z: z.sin(), 3)
    with pytest.raises(UsageError, match="a function"):
        convert(decoder, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="a function"):
        convert(decoder, tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


def test_tied_weights(tmp_path: Path) -> None:
    shared = nn.Linear(4, 4)
    old = Decoder(nn.Sequential(shared, nn.Tanh(), shared).eval().requires_grad_(False), 4)
    convert(old, tmp_path / "m.safetensors")
    z = torch.randn(3, 4)
    assert torch.equal(vaeprobe.load(tmp_path / "m.safetensors")(z), old(z))


# -- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A pickled state dict and its blueprint."""
    state: dict[str, Tensor] = {f"net.{k}": v for k, v in network().state_dict().items()}
    torch.save(state, tmp_path / "model.pt")
    (tmp_path / "model.toml").write_text(
        'likelihood = "bernoulli"\n[decoder]\nprefix = "net."\nlayers = [{ linear = "0" }, "relu", { reshape = [2, 2, 2] },\n'
        '{ conv_transpose = "3", stride = 2, padding = 1 }, "sigmoid"]'
    )
    return tmp_path / "model.pt"


def test_command(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = model.with_name("out.safetensors")
    assert run(["convert", str(model), "-o", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["details"]["output"] == str(out)
    assert document["details"]["sidecar"] is None
    assert "bit for bit" in document["summary"]
    z = torch.randn(3, 2)
    assert torch.equal(vaeprobe.load(out)(z), network()(z))


def test_command_with_a_sidecar(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = model.with_name("out.safetensors")
    assert run(["convert", str(model), "-o", str(out), "--sidecar"]) == 0
    assert "out.safetensors" in capsys.readouterr().out
    names = {p.name for p in model.parent.iterdir()}
    assert names == {"model.pt", "model.toml", "out.safetensors", "out.safetensors.toml"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.onnx"], "cannot write `out.onnx`"),
        (["-o", "out.pt2", "--sidecar"], "takes no sidecar"),
        (["-o", "/nonexistent/out.safetensors"], "cannot write"),
        ([], "--output"),
    ],
)
def test_command_misused(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["convert", str(model), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_wrong_blueprint_is_exit_code_2_and_writes_nothing(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = model.with_name("wrong.toml")
    wrong.write_text(model.with_name("model.toml").read_text().replace("[2, 2, 2]", "[4, 2, 1]"))
    out = model.with_name("out.safetensors")
    assert run(["convert", str(model), "--blueprint", str(wrong), "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert "layer 4 of the decoder" in error
    assert "hint: put { reshape = [2, 2, 2] } before it" in error
    assert not out.exists()
