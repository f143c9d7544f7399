"""A learned variance of a Gaussian likelihood: found in the file, said in the header, taken by `beta`, kept by `convert`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from vaeprobe import from_module, load
from vaeprobe.checkpoints.scale import RECORD_KEY, learned, name_of, recorded
from vaeprobe.cli.app import app
from vaeprobe.probes.beta.probe import Beta

from vaes import exact_data

BETA, SIGMA2 = 2.0, 0.3
BLUEPRINT = """
latents = 3
likelihood = "{likelihood}"
parameter = "{parameter}"

[decoder]
prefix = "decoder."
layers = [{{ linear = "out" }}]

[encoder]
prefix = "encoder."
input = [6]
layers = [{{ linear = "both" }}]
output = "chunked"
"""


def linear_file(folder: Path, more: dict[str, Tensor], likelihood: str = "gaussian") -> tuple[Path, Tensor]:
    """Write a linear beta-VAE at its optimum for beta = 2 and sigma^2 = 0.3, with more tensors beside; return its data."""
    lam = torch.tensor([9.0, 4.0, 2.0, 0.3, 0.3, 0.3], dtype=torch.float64)
    x, U = exact_data(lam, 64)
    W = U[:, :3] * (lam[:3] - BETA * SIGMA2).sqrt()
    precision = 1 + (W**2).sum(0) / (BETA * SIGMA2)
    state = {
        "decoder.out.weight": W,
        "decoder.out.bias": torch.zeros(6, dtype=torch.float64),
        "encoder.both.weight": torch.cat([W.T / (BETA * SIGMA2) / precision[:, None], torch.zeros(3, 6)]),
        "encoder.both.bias": torch.cat([torch.zeros(3), -precision.log()]),
    }
    path = folder / "model.safetensors"
    save_file({k: t.contiguous() for k, t in {**state, **more}.items()}, path)
    parameter = "mean" if likelihood == "gaussian" else "natural"
    text = BLUEPRINT.format(likelihood=likelihood, parameter=parameter)
    (folder / "model.safetensors.toml").write_text(text)
    return path, x


def one(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(("name", "value"), [
    ("log_sigma", one(0.5 * math.log(SIGMA2))),
    ("logscale", one(0.5 * math.log(SIGMA2))[None]),
    ("decoder_dist.log_scale", one(0.5 * math.log(SIGMA2))),
    ("loss.logvar", one(math.log(SIGMA2))),
    ("log_sigma2", one(math.log(SIGMA2)).reshape(1, 1)),
])  # fmt: skip
def test_beta_itself_is_read_where_the_variance_was_learned(tmp_path: Path, name: str, value: Tensor) -> None:
    path, x = linear_file(tmp_path, {name: value})
    decoder = load(path)
    assert decoder.sigma2 == pytest.approx(SIGMA2, rel=1e-12)
    assert decoder.artifact is not None
    assert f"{name}) = 0.3" in decoder.artifact.architecture
    assert "unused-tensors" not in {note.code for note in decoder.notes}
    result = Beta(data=x, pairs=2).measure(decoder)
    assert result["beta.estimate"].value == pytest.approx(BETA, abs=1e-9)
    assert "Gaussian (sigma^2 = 0.3)" in result.summary
    assert "imply beta = 2 " in result.summary
    assert result.settings["sigma2"] == pytest.approx(SIGMA2)
    told = Beta(data=x, pairs=2, sigma2=1.0).measure(decoder)
    assert told["beta.estimate"].value == pytest.approx(BETA * SIGMA2, abs=1e-9), (
        "what the user says comes first"
    )


def test_without_one_the_product_is_read(tmp_path: Path) -> None:
    path, x = linear_file(tmp_path, {})
    decoder = load(path)
    assert decoder.sigma2 is None
    result = Beta(data=x, pairs=2).measure(decoder)
    assert result["beta.estimate"].value == pytest.approx(BETA * SIGMA2, abs=1e-9)
    assert result.settings["sigma2"] == 1.0


def test_another_likelihood_has_no_such_variance(tmp_path: Path) -> None:
    path, _ = linear_file(tmp_path, {"log_sigma": one(-1.0)}, likelihood="bernoulli")
    assert load(path).sigma2 is None


class Written(torch.nn.Module):
    """A linear VAE of the user's, with the names of `linear_file`."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = torch.nn.Sequential()
        self.decoder.out = torch.nn.Linear(3, 6)
        self.encoder = torch.nn.Sequential()
        self.encoder.both = torch.nn.Linear(6, 6)
        self.log_sigma = torch.nn.Parameter(torch.zeros(()))


def test_it_is_taken_from_the_users_class_and_from_a_network_in_memory(tmp_path: Path) -> None:
    path, x = linear_file(tmp_path, {"log_sigma": one(0.5 * math.log(SIGMA2))})
    decoder = load(path, arch=Written, dtype="float64")
    assert decoder.sigma2 == pytest.approx(SIGMA2, rel=1e-6)
    assert decoder.artifact is not None
    assert "exp(2 log_sigma) = 0.3" in decoder.artifact.architecture
    read = Beta(data=x, pairs=2, likelihood="gaussian").measure(decoder)
    assert read["beta.estimate"].value == pytest.approx(BETA, abs=1e-4)
    network = Written().double()
    network.load_state_dict(load_file(path))
    kept = from_module(network, likelihood="gaussian")
    assert kept.sigma2 == pytest.approx(SIGMA2, rel=1e-12)
    assert Beta(data=x, pairs=2).measure(kept)["beta.estimate"].value == pytest.approx(BETA, abs=1e-9)
    assert from_module(network, likelihood="bernoulli").sigma2 is None
    assert from_module(network, sigma2=2.0).sigma2 == 2.0, "what the user says comes first"


def test_a_converted_file_keeps_it(tmp_path: Path) -> None:
    path, x = linear_file(tmp_path, {"log_sigma": one(0.5 * math.log(SIGMA2))})
    out = tmp_path / "written.safetensors"
    run = CliRunner().invoke(app, ["convert", str(path), "-o", str(out)])
    assert run.exit_code == 0, run.output
    result = Beta(data=x, pairs=2).measure(load(out))
    assert result["beta.estimate"].value == pytest.approx(BETA, abs=1e-5)


@pytest.mark.parametrize(("sizes", "name"), [
    ({"log_sigma": 1, "encoder.w": 9}, "log_sigma"),
    ({"log_sigma": 784}, None),
    ({"encoder.log_sigma": 1}, None),
    ({"prior.logvar": 1, "log_scale": 1}, "log_scale"),
    ({"log_sigma": 1, "loss.logvar": 1}, None),
    ({"logit_scale": 1}, None),
    ({"loss.logvar": 1, "unet.weight": 9}, "loss.logvar"),
    ({"loss.logvar": 1, "loss.perceptual_loss.lin0.weight": 64}, None),
    ({"loss.logvar": 1, "loss.discriminator.main.0.weight": 64}, None),
])  # fmt: skip
def test_which_numbers_are_a_likelihoods_scale(sizes: dict[str, int], name: Any) -> None:
    assert name_of(sizes) == name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e4, -1e4])
def test_a_number_that_is_no_variance_is_left(value: float) -> None:
    assert learned({"log_sigma": one(value)}) is None
    assert learned({"log_sigma": torch.tensor(3)}) is None


@pytest.mark.parametrize(("text", "sigma2"), [
    ('{"sigma2": 0.5, "beta": 2.0}', 0.5),
    ('{"sigma2": 3}', 3.0),
    ('{"sigma2": true}', None),
    ('{"sigma2": "0.5"}', None),
    ('{"sigma2": -1.0}', None),
    ('{"sigma2": 0.0}', None),
    ('{"sigma2": NaN}', None),
    ('{"sigma2": Infinity}', None),
    ('{"sigma2": 1' + "0" * 400 + "}", None),
    ('{"beta": 2.0}', None),
    ("[0.5]", None),
    ("[" * 100_000, None),
    ("no JSON", None),
])  # fmt: skip
def test_what_train_linear_recorded_is_taken_where_it_is_a_variance(text: str, sigma2: float | None) -> None:
    found = recorded({RECORD_KEY: text})
    assert (None if found is None else found.sigma2) == sigma2
    assert recorded({}) is None
