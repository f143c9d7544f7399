"""What `convert` writes is read by every probe, with or without the old blueprint beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import vaeprobe
from vaeprobe.checkpoints.conversion import convert

TOML = """
latents = 4
likelihood = "gaussian"
[decoder]
prefix = "decoder."
layers = [{ linear = "net.0" }, "tanh", { linear = "net.2" }]
[encoder]
prefix = "encoder."
input = [12]
layers = [{ linear = "net.0" }, "tanh"]
mean = [{ linear = "mean" }]
log_variance = [{ linear = "lv" }]
"""


class Half(nn.Module):
    def __init__(self, net: nn.Module, **heads: nn.Module) -> None:
        super().__init__()
        self.net = net
        for name, head in heads.items():
            setattr(self, name, head)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    vae = nn.Module()
    vae.encoder = Half(nn.Sequential(nn.Linear(12, 8), nn.Tanh()), mean=nn.Linear(8, 4), lv=nn.Linear(8, 4))
    vae.decoder = Half(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 12)))
    torch.save(vae.state_dict(), tmp_path / "model.pt")
    (tmp_path / "model.toml").write_text(TOML)
    return tmp_path / "model.pt"


PROBES: dict[str, Callable[[vaeprobe.Decoder], object]] = {
    "orthogonality": lambda d: vaeprobe.orthogonality(d, samples=8, rotations=9, restarts=0).summary,
    "factorise": lambda d: vaeprobe.factorise(d, samples=16).verdict,
    "trace": lambda d: vaeprobe.trace(d, samples=2).verdict,
    "posterior": lambda d: vaeprobe.posterior(d, data=torch.randn(40, 12), samples=20).verdict,
    "beta": lambda d: vaeprobe.beta(d, data=torch.randn(40, 12), samples=20).verdict,
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
def test_every_probe_reads_what_was_converted_beside_the_old_blueprint(model: Path, suffix: str) -> None:
    old = vaeprobe.load(model)
    convert(old, model.with_suffix(suffix))
    new = vaeprobe.load(model.with_suffix(suffix))
    z = torch.randn(5, 4)
    torch.testing.assert_close(new(z), old(z))
    for name, probe in PROBES.items():
        if suffix == ".pt2" and name in ("posterior", "beta"):
            continue  # a program holds no encoder
        torch.manual_seed(0)
        before = probe(old)
        torch.manual_seed(0)
        assert probe(new) == before, name


def test_an_embedded_blueprint_wins_and_is_said(model: Path) -> None:
    path = model.with_suffix(".safetensors")
    convert(vaeprobe.load(model), path)
    new = vaeprobe.load(path)
    assert new.artifact is not None
    assert new.artifact.architecture == "safetensors metadata"
    found = vaeprobe.inspect(path)
    assert "Its metadata hold a blueprint." in found.summary
