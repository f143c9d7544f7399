"""Torch's default device and type are the user's: nothing that is found depends on them."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._device import _device_constructors

import vaeprobe
from vaeprobe import engine
from vaeprobe.engine import matrix_free

MODEL = "sample_models/digits_conv.safetensors"
TRAINED, ROWS = (f"sample_models/betas/bernoulli{end}" for end in ("_beta1.safetensors", ".npy"))


class Maps(nn.Module):
    """Convolutions of a map of latents: their columns are windows of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 6, 3, padding=1), nn.ConvTranspose2d(6, 1, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.last(torch.tanh(self.first(z)))
        return out


@contextmanager
def of_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def plainly() -> Iterator[None]:
    """The user's networks are where they are, and of the type that they have."""
    with torch.device("cpu"), of_type(torch.float32):
        torch.manual_seed(0)
        yield


@plainly()
def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.LayerNorm(16), nn.Linear(16, 9))


@plainly()
def maps() -> nn.Module:
    return Maps()


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def drawn(*shape: int) -> Tensor:
    return torch.from_numpy(rng().standard_normal(shape, np.float32))


def verbs(network: nn.Module, z: Tensor, v: Tensor, w: Tensor) -> Mapping[str, object]:
    return {
        "gram": engine.gram(network, z),
        "columns": engine.gram(network, z, columns=[0, 2]),  # type: ignore[arg-type]
        "weighed": engine.gram(network, z, likelihood="gaussian"),
        "jacobian": engine.jacobian(network, z),
        "some": engine.jacobian(network, z, columns=[1]),  # type: ignore[arg-type]
        "pushforward": torch.stack([t.flatten(1) for t in engine.pushforward(network, z, v)]),
        "pullback": engine.pullback(network, z, w),
    }


def random_probes() -> Mapping[str, object]:
    decoder = vaeprobe.Decoder(dense(), 3)
    z = drawn(6, 3)
    top = matrix_free.singular_triplets(decoder, z, 2)
    return {
        "trace": matrix_free.xtrace(decoder, z, probes=2).value,
        "diagonal": matrix_free.xdiagonal(decoder, z, probes=2).value,
        "energy": matrix_free.off_diagonal_energy(decoder, z, probes=3).value,
        "triplets": top.s,
    }


def estimators() -> Mapping[str, object]:
    x = rng().standard_normal((64, 5)) * [5, 3, 1, 0.3, 0.3]
    ppca, vae = vaeprobe.PPCA(2).fit(x), vaeprobe.LinearVAE(2).fit(x)
    return {"ppca": ppca.transform(x), "vae": vae.transform(x)}


def decoders() -> Mapping[str, object]:
    loaded, made = vaeprobe.load(MODEL), vaeprobe.from_module(dense(), 3)
    mixture = vaeprobe.LearnedPrior(mean=[[0.1, 1.0], [2.0, 0.3]], scale=[[1.0, 0.5], [0.7, 0.3]])  # type: ignore[arg-type]
    groups = vaeprobe.Decoder(dense(), 3, prior=(vaeprobe.Group("normal", 1), vaeprobe.Group("onehot", 2)))
    files = ("digits_conv.pt", "digits_conv.pt2", "digits_mlp.pt", "linear.npy")
    return {
        **{file: vaeprobe.load(f"sample_models/{file}").flat(drawn(4, 6)) for file in files},
        "loaded": loaded.flat(drawn(4, 6)),
        "made": made.flat(drawn(4, 3)),
        "latents": groups._probe_rows(5),
        "mixture": mixture.draw(5, seed=0, purpose="latents"),
    }


ASKED: dict[str, Callable[[], Any]] = {
    "verbs of rows": lambda: verbs(dense(), drawn(5, 3), drawn(5, 3), drawn(5, 9)),
    "verbs of maps": lambda: verbs(maps(), drawn(3, 2, 5, 5), drawn(3, 2, 5, 5), drawn(3, 1, 10, 10)),
    "random probes": random_probes,
    "estimators": estimators,
    "decoders": decoders,
    "orthogonality": lambda: vaeprobe.orthogonality(dense(), latent_dim=3, samples=16, rotations=19),
    "orthogonality of maps": lambda: vaeprobe.orthogonality(
        vaeprobe.from_module(maps(), latent_size="4x4"), samples=8, rotations=19
    ),
    "factorise": lambda: vaeprobe.factorise(dense(), latent_dim=3, samples=24),
    "trace": lambda: vaeprobe.trace(dense(), latent_dim=3, samples=2, length=0.5),
    "posterior": lambda: vaeprobe.posterior(TRAINED, data=ROWS, samples=24),
    "beta": lambda: vaeprobe.beta(TRAINED, data=ROWS, samples=24),
    "traverse": lambda: vaeprobe.traverse(dense(), latent_dim=3, samples=8, rotate=True),
    "compare": lambda: vaeprobe.compare(
        [MODEL, "sample_models/digits_mlp.safetensors"], samples=16, rotations=9
    ),
    "train_linear": lambda: vaeprobe.train_linear(
        rng().standard_normal((64, 5)) * [5, 3, 1, 0.3, 0.3], latent_dim=2
    ),
}


SETTINGS = {
    "meta": lambda: torch.device("meta"),
    "float64": lambda: of_type(torch.float64),
    "float16": lambda: of_type(torch.float16),
}


def told(found: Any) -> Mapping[str, object]:
    """Return an answer's arrays, or its page and its document."""
    if isinstance(found, dict):
        return found
    return {"document": json.dumps(found.to_dict(), default=str), "page": str(found)}


def numbers(found: Any) -> np.ndarray[Any, Any]:
    return found.detach().numpy() if isinstance(found, Tensor) else np.asarray(found)


@pytest.mark.parametrize("name", ASKED)
def test_no_answer_depends_on_torchs_defaults(name: str) -> None:
    plain = told(ASKED[name]())
    for setting, within in SETTINGS.items():
        with within():
            found = told(ASKED[name]())
        for key, value in plain.items():
            if isinstance(value, str):
                assert found[key] == value, setting
            else:
                got: Any = found[key]
                assert got.dtype == value.dtype, (setting, key)
                np.testing.assert_array_equal(numbers(got), numbers(value), f"{key}, {setting}")


def test_no_tensor_is_made_on_a_default_device() -> None:
    makers = {f.__name__ for f in _device_constructors() if not f.__name__.endswith("_like")}
    found = [
        f"{file}:{call.lineno}"
        for file in Path(vaeprobe.__file__).parent.rglob("*.py")
        if file.name != "cpu.py"
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "torch"
        and call.func.attr in makers
        and not any(k.arg == "device" for k in call.keywords)
    ]
    assert found == []  # vaeprobe.cpu makes them
