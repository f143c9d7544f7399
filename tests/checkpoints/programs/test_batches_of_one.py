"""Programs in which a batch of one loses its axis, or that were exported for one batch size: said as that, and mended as is said."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe.contract import FIXED_BATCH
from vaeprobe.errors import ContractError, InputError


class Images(nn.Module):
    def __init__(self, end: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.conv = nn.Linear(4, 16), nn.Conv2d(1, 1, 3, padding=1)
        self.end = end

    def forward(self, z: Tensor) -> Tensor:
        h = torch.tanh(self.layer(z))
        if self.end == "fixed":
            out: Tensor = self.conv(h.view(64, 1, 4, 4))
            return out
        y: Tensor = self.conv(h.view(z.shape[0], 1, 4, 4))
        return y.squeeze() if self.end == "squeezed" else y.squeeze(1)


def written(net: nn.Module, batch: int, path: Path) -> Path:
    z = torch.randn(batch, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match path.suffix:
            case ".pt2":
                torch.export.save(torch.export.export(net.eval(), (z,)), path)
            case ".onnx":
                pytest.importorskip("onnx")
                torch.onnx.export(net.eval(), (z,), str(path), dynamo=False)
            case _:
                torch.jit.trace(net.eval(), z, check_trace=False).save(str(path))
    return path


@pytest.mark.parametrize(
    ("name", "batch"), [("m.pt2", 1), ("m.pt", 1), ("m.pt", 2), ("m.onnx", 1), ("m.onnx", 2)]
)
def test_a_batch_of_one_that_a_program_squeezes_away_is_said(tmp_path: Path, name: str, batch: int) -> None:
    with pytest.raises(ContractError, match="squeezes a batch of one away") as caught:
        vaeprobe.load(written(Images("squeezed"), batch, tmp_path / name))
    assert "a program is to be exported again" in str(caught.value.hint)
    net = Images("named")
    z = torch.randn(3, 4)
    torch.testing.assert_close(vaeprobe.load(written(net, 2, tmp_path / name))(z), net(z).detach())


def test_a_batch_size_fixed_in_a_traced_program_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="runs with 64 rows of latents at a time, and not with 2") as caught:
        vaeprobe.load(written(Images("fixed"), 64, tmp_path / "m.pt"), latent_dim=4)
    assert caught.value.hint == FIXED_BATCH
