"""Programs of maps of latents whose size their file leaves open: `--latent-size` says it, in every format alike."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe.checkpoints.programs.inputs import OpenSizeError, row_of
from vaeprobe.cli import run
from vaeprobe.errors import InputError, UsageError
from vaeprobe.inference.encoders import open_encoder

ROW = (4, 3, 5)


def maps() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Tanh(), nn.ConvTranspose2d(6, 2, 4, 2, 1)).eval()


def onnx_file(net: nn.Module, folder: Path) -> Path:
    pytest.importorskip("onnx", minversion="1.17")
    sizes = {0: "batch", 1: "channels", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.zeros(2, 4, 8, 8),), str(folder / "m.onnx"), opset_version=14, dynamo=False,
            input_names=["latent_sample"], output_names=["sample"], dynamic_axes={"latent_sample": sizes, "sample": sizes},
        )  # fmt: skip
    return folder / "m.onnx"


def pt2_file(net: nn.Module, folder: Path) -> Path:
    sizes = {k: torch.export.Dim(name) for k, name in ((0, "batch"), (2, "height"), (3, "width"))}
    program = torch.export.export(net, (torch.zeros(2, 4, 8, 9),), dynamic_shapes=(sizes,))
    torch.export.save(program, folder / "m.pt2")
    return folder / "m.pt2"


@pytest.mark.parametrize("make", [onnx_file, pt2_file])
def test_the_size_of_a_map_is_asked_for_and_taken(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = maps()
    path = make(net, tmp_path)
    for how in ({}, {"latent_dim": 60}):
        with pytest.raises(OpenSizeError, match="open") as asked:
            vaeprobe.load(path, **how)  # type: ignore[arg-type]
        assert asked.value.hint == "add --latent-size 8x8, the 2 sizes that are open"
    assert vaeprobe.load(path, latent_size="8x8").latent_shape == (4, 8, 8)
    z = torch.randn(3, 60, generator=torch.Generator().manual_seed(0))
    for size in ("3x5", "4x3x5"):
        decoder = vaeprobe.load(path, latent_size=size)
        assert decoder.latent_shape == ROW
        torch.testing.assert_close(decoder(z), net(z.view(-1, *ROW)).detach())
    for wrong in ("3", "3x3x5"):
        with pytest.raises(UsageError, match=r"rows of 4 x \? x \?") as refused:
            vaeprobe.load(path, latent_size=wrong)
        assert refused.value.hint == "say the 2 open sizes: --latent-size 8x8"
    assert run(["inspect", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "program of unknown latents" in said
    assert "to probe it, add --latent-size 8x8" in said
    assert "8 x 8" not in said
    assert run(["inspect", str(path), "--latent-size", "3x5"]) == 0
    assert "A program of 60 latents" in capsys.readouterr().out


@pytest.mark.parametrize("make", [onnx_file, pt2_file])
def test_what_was_taken_of_a_size_is_converted(make: Any, tmp_path: Path) -> None:
    path, out = make(maps(), tmp_path), tmp_path / "out.pt2"
    assert run(["convert", str(path), "--latent-size", "3x5", "-o", str(out), "-q"]) == 0
    z = torch.randn(5, 60, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vaeprobe.load(out)(z), vaeprobe.load(path, latent_size="3x5")(z))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_size_of_a_map_of_keras_stands_before_its_channels(tmp_path: Path) -> None:
    os.environ["KERAS_BACKEND"] = "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras", minversion="3.8")
    z = torch.randn(3, 60, generator=torch.Generator().manual_seed(0))
    for size in ((None, None), (3, 5)):
        layers = [keras.layers.Conv2DTranspose(2, 3, 2, "same", activation="tanh"), keras.layers.Conv2D(1, 3)]
        net = keras.Sequential([keras.Input((*size, 4)), *layers])
        net.save(tmp_path / "m.keras")
        for said in ("3x5", "3x5x4"):
            decoder = vaeprobe.load(tmp_path / "m.keras", latent_size=said)
            torch.testing.assert_close(decoder(z), torch.as_tensor(net(z.view(-1, 3, 5, 4))).detach())
        for wrong in ("3", "5x3x3"):
            with pytest.raises(UsageError, match="latents"):
                vaeprobe.load(tmp_path / "m.keras", latent_size=wrong)
        if size[0] is None:
            with pytest.raises(OpenSizeError) as asked:
                vaeprobe.load(tmp_path / "m.keras")
            assert asked.value.hint == "add --latent-size 8x8, the 2 sizes that are open"
            assert vaeprobe.inspect(tmp_path / "m.keras").findings[0].code == "latents-open"
            assert "60 latents" in vaeprobe.inspect(tmp_path / "m.keras", latent_size="3x5").summary
        else:
            with pytest.raises(UsageError, match="depends on the size of its latents"):
                vaeprobe.inspect(tmp_path / "m.keras", latent_size="3x5")


@pytest.mark.parametrize(
    ("row", "asked", "size", "right"),
    [
        ((7,), None, None, (7,)),
        ((None,), 7, None, (7,)),
        ((4, None), 12, None, (4, 3)),
        ((None, 3, 5), None, (2,), (2, 3, 5)),
        ((None, None), 6, (2, 3), (2, 3)),
        ((4, 3), None, (9,), (4, 3)),
    ],
)
def test_what_is_open_of_a_row_is_filled_in(row: Any, asked: Any, size: Any, right: tuple[int, ...]) -> None:
    assert row_of(row, asked, size, "open") == right


@pytest.mark.parametrize(
    ("row", "asked", "hint"),
    [((None,), None, "--latent-dim D"), ((4, None), 13, "a multiple of 4"), ((4, None, None), 12, "8x8,")],
)
def test_what_is_not_told_of_a_row_is_asked_for(row: Any, asked: Any, hint: str) -> None:
    with pytest.raises(OpenSizeError) as open_:
        row_of(row, asked, None, "open")
    assert hint in str(open_.value.hint)


def test_an_encoder_of_images_of_any_size_takes_those_that_the_decoder_returns(tmp_path: Path) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.means, self.log_variances = (nn.Conv2d(1, 3, 1) for _ in range(2))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.means(x).mean((2, 3)), self.log_variances(x).mean((2, 3))

    sizes = {k: torch.export.Dim(name) for k, name in ((0, "batch"), (2, "height"), (3, "width"))}
    program = torch.export.export(Encoder(), (torch.zeros(2, 1, 8, 9),), dynamic_shapes=(sizes,))
    torch.export.save(program, tmp_path / "e.pt2")
    decoder = vaeprobe.Decoder(nn.Sequential(nn.Linear(3, 30), nn.Unflatten(1, (1, 5, 6))), 3)
    assert open_encoder(tmp_path / "e.pt2", decoder).input_shape == (30,)


def test_an_inspection_of_several_files_says_which_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = pt2_file(maps(), tmp_path), tmp_path / "bad.pt2"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"schema_version", b"schema_wersion"))
    with pytest.raises(InputError) as refused:
        vaeprobe.inspect(bad)
    assert refused.value.message.startswith(f"`{bad}`: ")
    assert run(["inspect", str(good), str(bad)]) == 5
    assert "bad.pt2" in capsys.readouterr().err
