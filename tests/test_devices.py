"""Where decoders compute: names of devices, GPUs where there are any, weights of half precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vaeprobe.autograd import device_named
from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram, pullback, pushforward
from vaeprobe.errors import UsageError
from vaeprobe.probes.factorise import Factorise
from vaeprobe.probes.orthogonality import Orthogonality

GPUS = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


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


def test_devices_that_are_not_there() -> None:
    with pytest.raises(UsageError, match="no such kind of device") as caught:
        device_named("cuda_")
    assert "cuda" in str(caught.value.hint)
    if not GPUS["cuda"]:
        with pytest.raises(UsageError, match="the device `cuda` cannot be used"):
            device_named("cuda")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_computed_in_float32(kind: torch.dtype) -> None:
    half = network().to(kind)
    wide = Decoder(copy.deepcopy(half).float(), 3)
    decoder = Decoder(half, 3)
    z, v = torch.randn(5, 3), torch.randn(5, 3)
    assert decoder.dtype == torch.float32
    torch.testing.assert_close(gram(decoder, z), gram(wide, z), rtol=0, atol=0)
    torch.testing.assert_close(pushforward(decoder, z, v), pushforward(wide, z, v), rtol=0, atol=0)
    assert half[0].weight.dtype == kind  # the network itself is left alone


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
