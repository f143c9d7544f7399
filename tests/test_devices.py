"""Where decoders compute: names of devices, GPUs where there are any, weights of half precision."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from vaeprobe.autograd import device_named
from vaeprobe.checkpoints.loading import load
from vaeprobe.cli import run
from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram, jacobian, pullback, pushforward
from vaeprobe.errors import UsageError
from vaeprobe.probes.factorise import Factorise
from vaeprobe.probes.orthogonality import Orthogonality

GPUS = {"cuda": torch.cuda.is_available()}  # mps has no float64


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 8)).requires_grad_(False)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = next((name for name, there in GPUS.items() if there), "cpu")
    assert device_named("auto").type == expected
    assert device_named("cpu") == torch.device("cpu")


def test_each_process_takes_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def zeros(n: int, device: object) -> torch.Tensor:
        asked.append(str(device))
        return torch.empty(n)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "zeros", zeros)
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        device_named("auto")
    device_named("cuda:0")  # a number is a number
    assert asked == ["cuda:0", "cuda:1", "cuda:0", "cuda:0"]


def refused(name: str) -> tuple[str, str]:
    with pytest.raises(UsageError) as caught:
        device_named(name)
    return caught.value.message, str(caught.value.hint)


def test_devices_that_are_none() -> None:
    assert refused("cuda_") == ("the device `cuda_` is no device", "did you mean `cuda`?")
    for name in ("gpu", "tpu", "gpu:0"):
        assert refused(name)[1] == "did you mean `cuda` or `auto`?"
    for name in ("nonsense", "", "cuda:x", "cuda:", "cuda:-1"):
        message, hint = refused(name)
        assert message == f"the device `{name}` is no device"
        assert "cuda" in hint
    assert refused("meta") == (
        "the device `meta` is on no machine: it holds no numbers",
        "--device cpu always works; auto takes a GPU where there is one; cuda, cuda:1, mps, xpu name one",
    )


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "cuda:7", "mps"):
        message, hint = refused(name)
        assert message.startswith(f"the device `{name}` cannot be used: torch finds no GPU of this kind here")
        assert hint == "--device cpu always works"
    assert device_named("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert refused("cuda:2")[0] == "the device `cuda:2` cannot be used: there are 2 here, counted from 0"


def test_what_is_wrong_with_a_device_is_no_fault_of_a_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in (["orthogonality", "a.npy"], ["check", "a.npy", "b.npy", "--rule", "latents.dim<=10"]):
        assert run([*command, "--device", "cuda"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: the device `cuda` cannot be used: ")


def test_a_device_without_float64_is_refused_and_auto_passes_it_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    message, hint = refused("mps")
    assert message.startswith("the device `mps` cannot be used: it has no float64")
    assert hint == "--device cpu always works"
    assert device_named("auto") == torch.device("cpu")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_computed_in_float32(kind: torch.dtype) -> None:
    half = network().to(kind)
    wide = Decoder(copy.deepcopy(half).float(), 3)
    decoder = Decoder(half, 3)
    z, v = torch.randn(5, 3), torch.randn(5, 3)
    assert decoder.dtype == torch.float32
    torch.testing.assert_close(gram(decoder, z), gram(wide, z), rtol=0, atol=0)
    w = torch.randn(5, 8)
    torch.testing.assert_close(pushforward(decoder, z, v), pushforward(wide, z, v), rtol=0, atol=0)
    torch.testing.assert_close(pullback(decoder, z, w), pullback(wide, z, w), rtol=0, atol=0)
    torch.testing.assert_close(jacobian(decoder, z), jacobian(wide, z), rtol=0, atol=0)
    assert half[0].weight.dtype == kind  # the network itself is left alone


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npy"])
def test_files_of_half_precision_are_computed_in_float32(
    suffix: str, kind: torch.dtype, tmp_path: Path
) -> None:
    def written(of: torch.dtype) -> Path:
        file = tmp_path / f"{str(of).removeprefix('torch.')}{suffix}"
        with safe_open("sample_models/digits_mlp.safetensors", "pt") as source:
            metadata, names = source.metadata(), source.keys()
            tensors = {name: source.get_tensor(name).to(kind).to(of) for name in names}
        if suffix == ".safetensors":
            save_file(tensors, file, metadata)
        elif suffix == ".pt":
            torch.save(tensors, file)
        else:
            if of == torch.bfloat16:
                pytest.skip("numpy has no bfloat16")
            matrix = torch.from_numpy(np.load("sample_models/linear.npy")).to(kind).to(of)
            np.save(file, matrix.numpy())
        return file

    blueprint = "sample_models/digits_mlp.toml" if suffix == ".pt" else None
    half, wide = (load(written(of), blueprint=blueprint) for of in (kind, torch.float32))
    assert half.dtype == wide.dtype == torch.float32
    z = torch.randn(5, half.latent_dim, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram(half, z), gram(wide, z), rtol=0, atol=0)
    torch.testing.assert_close(jacobian(half, z), jacobian(wide, z), rtol=0, atol=0)


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_finds_what_the_cpu_finds(name: str) -> None:
    if not GPUS[name]:
        pytest.skip(f"there is no {name} here")
    there = Decoder(network().to(name), 3, device=torch.device(name))
    here = Decoder(network(), 3)
    z, w = torch.randn(40, 3), torch.randn(40, 8)
    torch.testing.assert_close(gram(there, z), gram(here, z), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pullback(there, z, w).cpu(), pullback(here, z, w), rtol=1e-4, atol=1e-5)
    for probe in (Orthogonality(samples=32, rotations=19), Factorise(samples=32, max_samples=32, sheets=0)):
        a, b = probe.measure(there), probe.measure(here)
        assert a.verdict == b.verdict
        for id, metric in b.metrics.items():
            if isinstance(metric.value, float):
                assert a.metrics[id].value == pytest.approx(metric.value, rel=1e-2, abs=1e-3), id
