"""Whole VAEs as ONNX: the decoder is cut out of them, and the encoder where the outputs' names tell it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe.errors import InputError

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


class Dense(nn.Module):
    """A VAE of rows of 12 numbers, 3 latents."""

    def __init__(self, *, noise: bool, returned: str = "xml") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.mu, self.logvar = nn.Linear(12, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 12), nn.Sigmoid())
        self.noise, self.returned = noise, returned
        self.eval().requires_grad_(False)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.body(x))
        return self.mu(h), self.logvar(h)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        m, l = self.encode(x)
        z = m + torch.randn_like(m) * torch.exp(0.5 * l) if self.noise else m
        out = {"x": self.decoder(z), "m": m, "l": l, "z": z}
        return tuple(out[k] for k in self.returned)


class Images(Dense):
    """A VAE of pictures."""

    def __init__(self, *, noise: bool, returned: str = "xml") -> None:
        super().__init__(noise=noise, returned=returned)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.Flatten(), nn.Linear(64, 8))  # type: ignore[assignment]
        self.decoder = nn.Sequential(
            *(nn.Linear(3, 64), nn.ReLU(), nn.Unflatten(1, (4, 4, 4))), nn.ConvTranspose2d(4, 1, 4, 2, 1)
        )
        self.eval().requires_grad_(False)


def exported(
    vae: nn.Module, path: Path, names: list[str], shape: tuple[int, ...], *, free: bool = True
) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            vae,
            (torch.rand(2, *shape),),
            path,
            dynamo=False,
            input_names=["x"],
            output_names=names,
            dynamic_axes={name: {0: "n"} for name in ("x", *names)} if free else None,
        )
    return path


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize(("kind", "shape"), [(Dense, (12,)), (Images, (1, 8, 8))])
def test_decoder_and_encoder_are_those_of_the_vae(
    tmp_path: Path, noise: bool, free: bool, kind: type[Dense], shape: tuple[int, ...]
) -> None:
    vae = kind(noise=noise)
    path = exported(vae, tmp_path / "vae.onnx", ["recon", "mu", "logvar"], shape, free=free)
    found = vaeprobe.load(path)
    assert found.latent_dim == 3
    z, x = torch.randn(5, 3), torch.rand(5, *shape)
    torch.testing.assert_close(found(z), vae.decoder(z), rtol=1e-5, atol=1e-6)
    assert found.encoder is not None
    for mine, right in zip(found.encoder(x), vae.encode(x), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-6)
    assert "is a whole VAE" in next(n.message for n in found.notes if n.code == "whole-vae")


def test_the_reconstruction_is_that_of_the_runtime(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    path = exported(Dense(noise=False), tmp_path / "vae.onnx", ["recon", "mu", "logvar"], (12,))
    x = np.random.default_rng(0).random((4, 12), dtype=np.float32)
    recon, mean, _ = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(vaeprobe.load(path)(torch.from_numpy(mean)), recon, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("returned", "names"), [("xml", ["a", "b", "c"]), ("xz", ["out", "code"]), ("mlx", ["p", "q", "r"])]
)
def test_names_are_not_needed_for_the_decoder(tmp_path: Path, returned: str, names: list[str]) -> None:
    vae = Dense(noise=True, returned=returned)
    found = vaeprobe.load(exported(vae, tmp_path / "vae.onnx", names, (12,)))
    z = torch.randn(5, 3)
    torch.testing.assert_close(found(z), vae.decoder(z), rtol=1e-5, atol=1e-6)
    assert found.encoder is None


def test_a_reconstruction_alone_is_suspected(tmp_path: Path) -> None:
    path = exported(Dense(noise=False, returned="x"), tmp_path / "vae.onnx", ["y"], (12,))
    (note,) = (n for n in vaeprobe.load(path).notes if n.code == "whole-vae")
    assert note.message.startswith("12 numbers go in and as many come out, through 3")
    assert note.level == "warning"
    assert "recon" in str(note.hint)


def test_decoders_are_not_cut(tmp_path: Path) -> None:
    """Of as many outputs as latents, wide inside; and of several outputs none of which comes of the other."""
    square = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 4)).eval()

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(z), self.b(z)

    for k, (module, names) in enumerate(((square, ["y"]), (Two(), ["y", "aux"]))):
        found = vaeprobe.load(exported(module, tmp_path / f"{k}.onnx", names, (4,)))
        assert found.latent_dim == 4
        assert "whole-vae" not in {n.code for n in found.notes}


class Labelled(nn.Module):
    """Decoders of a latent and an integer label."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.table, self.out = nn.Embedding(7, 7), nn.Linear(10, 5)
        self.eval()

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        rows = self.table(label) if self.how == "table" else nn.functional.one_hot(label, 7).to(z)
        return self.out(torch.cat([z, rows], 1))


@pytest.mark.parametrize("how", ["table", "onehot"])
def test_a_label_out_of_range_is_told_the_classes(tmp_path: Path, how: str) -> None:
    path = tmp_path / "labelled.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Labelled(how),
            (torch.randn(2, 3), torch.zeros(2, dtype=torch.int64)),
            path,
            dynamo=False,
            input_names=["z", "label"],
            dynamic_axes={"z": {0: "n"}, "label": {0: "n"}},
        )
    with pytest.raises((InputError, vaeprobe.VaeprobeError)) as error:
        vaeprobe.load(path, condition={"label": 7})
    assert "no class 7" in error.value.message
    assert "a class from 0 to 6" in str(error.value.hint)
    assert vaeprobe.load(path, condition={"label": 6}).latent_dim == 3
