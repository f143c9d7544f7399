"""Decoders that take maps of latents: who says how large the maps are, in every format that networks are saved in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vaeprobe
from vaeprobe.checkpoints.loading import load
from vaeprobe.engine import gram
from vaeprobe.errors import ArchitectureError, BlueprintError, InputError, UsageError

SCRIPT = """
import torch
from torch import nn

class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential({first}, nn.SiLU(), nn.Conv2d(5, 2, 3, padding=1), nn.Sigmoid())

    def forward(self, z):
        return self.body(z)
"""
FIRST = {
    "conv": "nn.Conv2d(3, 5, 3, padding=1)",
    "transposed": "nn.ConvTranspose2d(3, 5, 4, 2, 1)",
}


@pytest.fixture(params=sorted(FIRST))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[nn.Module, Path]:
    """A network of somebody's own code, which is in a file."""
    torch.manual_seed(0)
    code = SCRIPT.format(first=FIRST[request.param])
    (tmp_path / "net.py").write_text(code)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["Decoder"]().eval(), tmp_path


def held_against(network: nn.Module, decoder: vaeprobe.Decoder, h: int = 2, w: int = 4) -> None:
    assert decoder.latent_shape == (3, h, w)
    assert decoder.latent_names[-1] == f"z{3 * h * w - 1}[2,{h - 1},{w - 1}]"
    z = torch.randn(3, 3, h, w, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(gram(decoder, z), gram(network, z), rtol=1e-5, atol=1e-7)


def test_ones_own_code_takes_maps_of_the_size_that_is_said(made: tuple[nn.Module, Path]) -> None:
    network, folder = made
    path, arch = folder / "weights.pt", f"{folder / 'net.py'}:Decoder"
    torch.save(network.state_dict(), path)
    held_against(network, load(path, arch=arch, latent_size="2x4"))
    held_against(network, load(path, arch=arch, latent_size=(2, 4), submodule="body"))


def test_a_pickled_chain_of_layers_takes_maps_of_the_size_that_is_said(
    made: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    network, _ = made
    torch.save(network.body, path := tmp_path / "chain.pt")
    held_against(network, load(path, latent_size="2x4"))
    if isinstance(network.body[0], nn.ConvTranspose2d):  # a generator's: images of one pixel
        assert load(path).latent_dim == 3
        return
    with pytest.raises(ArchitectureError, match="nothing says the size of the maps") as caught:
        load(path)
    assert "--latent-size 8x8" in str(caught.value.hint)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_records_no_size_and_takes_the_one_that_is_said(
    made: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    network, _ = made
    z = torch.zeros(1, 3, 2, 4)
    torch.jit.trace(network, z).save(path := str(tmp_path / "net.ts"))
    held_against(network, load(path, latent_size="2x4"))
    held_against(network, load(path, latent_size="2x4", latent_dim=24))
    with pytest.raises(BlueprintError, match="25 numbers are no maps of 2 x 4"):
        load(path, latent_size="2x4", latent_dim=25)
    unsaid = load(path)
    assert unsaid.latent_dim == 3
    (said,) = [note for note in unsaid.notes if note.code == "latents-inferred"]
    assert said.level == "warning"
    assert "3 channels of one place were taken" in said.message
    assert not [n for n in load(path, latent_size="1x1").notes if n.level == "warning"]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_of_a_generator_of_images_is_taken_at_one_place_without_ado(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.ConvTranspose2d(3, 4, 16, 1, 0), nn.Tanh()).eval()
    torch.jit.trace(network, torch.zeros(1, 3, 1, 1)).save(path := str(tmp_path / "generator.ts"))
    assert not [n for n in load(path).notes if n.level == "warning"]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_tokens_and_their_numbers_are_said_as_a_size(tmp_path: Path) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.out = nn.Linear(6, 16), nn.Linear(16, 5)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.out(torch.tanh(self.a(z)).mean(1))
            return out

    network = Tokens().eval()
    torch.jit.trace(network, torch.zeros(1, 4, 6)).save(path := str(tmp_path / "tokens.ts"))
    with pytest.raises(InputError, match="cannot be run on latents") as caught:
        load(path)
    assert "6x8 of 6 tokens of 8 numbers" in str(caught.value.hint)
    z = torch.randn(3, 4, 6)
    for how in ({}, {"latent_dim": 24}):
        decoder = load(path, latent_size="4x6", **how)
        assert decoder.latent_shape == (4, 6)
        torch.testing.assert_close(decoder(z.flatten(1)), network(z))
    program = torch.export.export(network, (z,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, path := str(tmp_path / "tokens.pt2"))
    torch.testing.assert_close(load(path, latent_size="4x6")(z.flatten(1)), network(z))


def test_exported_programs_say_their_maps(made: tuple[nn.Module, Path], tmp_path: Path) -> None:
    network, _ = made
    z = torch.zeros(2, 3, 2, 4)
    program = torch.export.export(network, (z,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, path := str(tmp_path / "net.pt2"))
    held_against(network, load(path))
    held_against(network, load(path, latent_size="2x4"))
    with pytest.raises(UsageError, match="takes maps of 2 x 4, not of 4 x 4"):
        load(path, latent_size="4x4")


def test_the_size_of_a_map_may_leave_out_the_frames_of_a_video(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv3d(3, 4, 1), nn.Tanh()).eval()
    z = torch.zeros(2, 3, 5, 2, 4)
    program = torch.export.export(network, (z,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, path := str(tmp_path / "video.pt2"))
    assert load(path, latent_size="2x4").latent_dim == load(path, latent_size="5x2x4").latent_dim == 120
    for other in ("2x2", "5x2", "1x2x4"):
        with pytest.raises(UsageError, match="takes maps of 5 x 2 x 4, not of"):
            load(path, latent_size=other)


def test_latents_that_are_no_maps_have_no_size(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), path := tmp_path / "rows.pt")
    with pytest.raises(UsageError, match="are no map"):
        load(path, latent_size="2x2")
