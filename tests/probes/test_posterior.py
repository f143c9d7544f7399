"""`posterior`: precisions, Hessian and ELBO against closed forms, and against models trained both ways."""

from __future__ import annotations

import json
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vaeprobe.checkpoints.loading import load
from vaeprobe.decoder import Decoder
from vaeprobe.engine.verbs import gram
from vaeprobe.errors import UsageError
from vaeprobe.geometry.gram import mean_field_gap
from vaeprobe.geometry.rotations import alignment
from vaeprobe.inference.beta import estimate_beta
from vaeprobe.inference.encoders import open_encoder
from vaeprobe.latents import Prior
from vaeprobe.probes.posterior import METRICS, Posterior, PosteriorResult
from vaeprobe.probes.posterior.numbers import hessian_alignment

from maps import haar
from vaes import SAMPLES, encoder_of, linear_vae

BETAS, COVARIANCE = SAMPLES / "betas", SAMPLES / "covariance"
EIGENVALUES = (9.0, 4.0, 2.0, 0.3, 0.3, 0.3)


def probed(vae: Any, **settings: Any) -> PosteriorResult:
    return Posterior(**{"data": vae.x, "sigma2": 0.3, "pairs": 2, "rotations": 199, **settings}).measure(
        vae.decoder
    )


# -- closed forms ------------------------------------------------------------------------------------


def test_linear_vae_at_its_optimum() -> None:
    result = probed(linear_vae(EIGENVALUES, sigma2=0.3))
    assert result["posterior.precision_ratio"].value == pytest.approx([1.0] * 3, abs=1e-10)
    assert result["posterior.residual_share"].value == pytest.approx(0.0, abs=1e-10)
    assert result["posterior.hessian_diagonality"].value == pytest.approx(1.0, abs=1e-10)
    assert result["posterior.hessian_p_value"].value == pytest.approx(1 / 200)
    assert result.verdict == "aligned"
    for gap in ("mean_field_gap", "variance_gap", "mean_gap"):
        assert result[f"posterior.{gap}"].value == pytest.approx(0.0, abs=1e-10)
    assert result["elbo.remainder"].value == pytest.approx(0.0, abs=1e-10)
    assert result["elbo.det"].value == pytest.approx(result["elbo.value"].value, abs=1e-10)
    assert result["kl.per_latent"].value == pytest.approx(
        (0.5 * np.log(np.array(EIGENVALUES[:3]) / 0.3)).tolist(), abs=1e-10
    )
    # the ELBO is the log-likelihood of PPCA, divided by n: -1/2 (log det C + m + m log 2 pi)
    log_det = np.log(EIGENVALUES).sum()
    assert result["elbo.value"].value == pytest.approx(
        -0.5 * (log_det + 6 * (1 + np.log(2 * np.pi))), abs=1e-10
    )


def test_given_beta_shows_in_the_ratio() -> None:
    vae = linear_vae(EIGENVALUES, beta=2.0, sigma2=0.3)
    assert probed(vae, beta=2.0)["posterior.precision_ratio"].value == pytest.approx([1.0] * 3, abs=1e-10)
    ratios = probed(vae, beta=1.0)["posterior.precision_ratio"].value
    precision = np.array(EIGENVALUES[:3]) / 0.6
    assert ratios == pytest.approx(((1 + 2 * (precision - 1)) / precision).tolist(), abs=1e-10)


def test_rotated_linear_vae_is_not_aligned() -> None:
    R = haar(3, seed=3)
    vae = linear_vae(EIGENVALUES, sigma2=0.3, R=R)
    result = probed(vae, beta=1.0)
    assert result.verdict == "not aligned"
    truth = mean_field_gap((vae.W.T @ vae.W / 0.3)[None])
    assert result["posterior.mean_field_gap"].value == pytest.approx(float(truth), abs=1e-10)
    assert result["elbo.value"].value + float(truth) == pytest.approx(
        float(probed(linear_vae(EIGENVALUES, sigma2=0.3), beta=1.0)["elbo.value"].value), abs=1e-10
    )


def test_equal_curvature_is_undecided() -> None:
    vae = linear_vae((4.0, 4.0, 0.3, 0.3), d=2, sigma2=0.3)
    result = probed(vae)
    assert not result["posterior.hessian_diagonality"].defined
    assert "diagonal in every basis" in (result["posterior.hessian_diagonality"].reason or "")
    assert result.verdict == "undecided"


def test_one_active_latent_has_no_off_diagonal() -> None:
    result = probed(linear_vae((4.0, 0.303, 0.3, 0.3), d=2, sigma2=0.3))
    assert "1 active latent" in (result["posterior.hessian_diagonality"].reason or "")
    assert json.dumps(result.to_dict(), allow_nan=False)


def test_collapsed_model_needs_beta() -> None:
    result = probed(linear_vae(EIGENVALUES, beta=50.0, sigma2=0.3))
    assert result.beta == 1.0
    assert "beta-unknown" in {f.code for f in result.findings}
    assert not result["posterior.residual_share"].defined


def test_residual_of_relu_is_seen() -> None:
    # data far above a relu's output: the kink's curvature rivals the smooth one
    mean, variance = torch.zeros(64, 2, dtype=torch.float64), torch.full((64, 2), 0.3, dtype=torch.float64)
    x = torch.full((64, 2), -3.0, dtype=torch.float64)
    decoder = Decoder(
        torch.relu, 2, dtype=torch.float64, likelihood="gaussian", encoder=encoder_of(mean, variance)
    )
    result = Posterior(data=x, pairs=64, beta=1.0).measure(decoder)
    kink = 3 / np.sqrt(2 * np.pi * 0.3)
    assert result["posterior.residual_share"].value == pytest.approx(kink / 0.5, rel=0.15)
    assert "large-residual" in {f.code for f in result.findings}


def test_the_interval_of_the_alignment_holds_the_error_of_beta() -> None:
    """Of a linear decoder all rows have the same Hessian: what rows say of its alignment is what they say of beta."""
    vae = linear_vae(R=haar(3, 4), noise=0.5, n=256)
    found = probed(vae, samples=256)
    m, n = found.moments, 256

    def without(row: int) -> float:
        kept = torch.arange(n) != row
        rows = {f.name: v[kept] for f in fields(m) if isinstance(v := getattr(m, f.name), torch.Tensor)}
        estimate = estimate_beta(replace(m, **rows))
        assert estimate is not None
        one, _ = hessian_alignment(replace(m, **rows), estimate.active, estimate.stein.value, 199, 0)
        assert one is not None
        assert one.value is not None
        return one.value

    parts = np.array([without(row) for row in range(0, n, 4)])
    jackknife = np.sqrt(n - 1) * parts.std()
    given = probed(vae, samples=256, beta=found.beta)["posterior.hessian_diagonality"]
    estimated = found["posterior.hessian_diagonality"]
    assert given.value == estimated.value
    wide, narrow = (m.ci[1] - m.ci[0] for m in (estimated, given))
    by_rows = np.sqrt(wide**2 - narrow**2) / 2 / 1.97
    # the spread of 64 of the rows for that of all
    assert by_rows == pytest.approx(jackknife, rel=0.25)


# -- trained models ------------------------------------------------------------------------------------


def test_trained_vae_is_aligned_in_the_likelihoods_metric() -> None:
    result = Posterior(data=BETAS / "gaussian.npy", samples=128, sigma2=0.05, rotations=199).measure(
        load(BETAS / "gaussian_beta4.safetensors")
    )
    assert result.verdict == "aligned"
    assert result["posterior.precision_ratio"].value[2] == pytest.approx(1.0, abs=0.1)
    assert 0 < result["posterior.residual_share"].value < 0.2
    assert result["elbo.value"].value > result["elbo.objective"].value
    assert set(result.metrics) == {s.id for s in METRICS}
    latents, elbo, heatmap, chance = result.sections()
    assert sum("collapsed" in str(row[0]) for row in latents.rows) == 2
    assert [row[0] for row in elbo.rows][-2:] == ["ELBO (Eq. 1)", "beta-ELBO"]
    assert len(heatmap.matrix) == 4
    assert len(chance.draws) == 199
    assert chance.marks["these axes"] < min(chance.draws)
    assert set(result.per_sample()) == Posterior.PER_SAMPLE
    assert result.per_sample()["elbo.value"] == pytest.approx(result.terms.value().tolist())


@pytest.mark.parametrize("truth", ["linear", "curved"])
def test_axes_come_from_the_diagonal_posterior(truth: str) -> None:
    models = {m["file"]: m for m in json.loads((COVARIANCE / "manifest.json").read_text())["models"]}
    found = {}
    for posterior in ("diagonal", "full"):
        decoder = load(COVARIANCE / f"{truth}_{posterior}.safetensors")
        found[posterior] = alignment(gram(decoder, Prior().draw(decoder, 256)), count=499)
    assert found["diagonal"].p_value is not None
    assert found["diagonal"].p_value <= 0.05
    assert found["full"].p_value is not None
    assert found["full"].p_value > 0.05
    if truth == "linear":
        factors = [
            models[f"linear_{p}.safetensors"]["matched_rank_correlation"] for p in ("diagonal", "full")
        ]
        assert factors[0] > 0.95 > 0.9 > factors[1]


def test_diagonal_covariance_models_obey_the_identity() -> None:
    for truth in ("linear", "curved"):
        decoder = load(COVARIANCE / f"{truth}_diagonal.safetensors")
        result = Posterior(data=COVARIANCE / f"{truth}.npy", sigma2=0.09, beta=1.0, rotations=199).measure(
            decoder
        )
        assert result["posterior.precision_ratio"].value == pytest.approx([1.0] * decoder.latent_dim, abs=0.1)
        assert result.verdict == "aligned"


# -- encoders in files of their own --------------------------------------------------------------------


class PairEncoder(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_variance = self.net(x).chunk(2, 1)
        return mean, log_variance


def test_encoder_from_another_checkpoint() -> None:
    file = BETAS / "gaussian_beta4.safetensors"
    decoder = load(file)
    settings: dict[str, Any] = {
        "data": BETAS / "gaussian.npy",
        "samples": 32,
        "sigma2": 0.05,
        "rotations": 19,
    }
    own, other = (Posterior(**settings, encoder=e).measure(decoder) for e in (None, file))
    assert own["elbo.value"] == other["elbo.value"]


def test_encoder_from_an_exported_program(tmp_path: Path) -> None:
    decoder = load(BETAS / "gaussian_beta4.safetensors")
    assert decoder.encoder is not None
    trunk: Any = decoder.encoder.function
    program = torch.export.export(
        PairEncoder(trunk.trunk), (torch.zeros(2, 64),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    path = tmp_path / "encoder.pt2"
    torch.export.save(program, path)
    x = torch.rand(5, 8, 8)
    assert "output-chosen" not in {note.code for note in open_encoder(path, decoder).notes}, "two are meant"
    for mine, truth in zip(open_encoder(path, decoder)(x), decoder.encoder(x), strict=True):
        assert torch.allclose(mine, truth, atol=1e-6)


def test_torchscript_encoder_of_unknown_input_shape(tmp_path: Path) -> None:
    decoder = load(BETAS / "gaussian_beta4.safetensors")
    path = tmp_path / "encoder.ts"
    net = nn.Sequential(nn.Conv2d(1, 12, 8), nn.Flatten())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still about
        torch.jit.script(PairEncoder(net)).save(str(path))
    with pytest.raises(UsageError, match="does not say what shape") as error:
        open_encoder(path, decoder)
    assert ".pt2" in (error.value.hint or "")


def test_file_without_an_encoder() -> None:
    decoder = load(BETAS / "gaussian_beta4.safetensors")
    with pytest.raises(UsageError, match="takes 2 numbers a row, an encoder of this decoder 64"):
        open_encoder(COVARIANCE / "curved_full.safetensors", decoder)


def test_every_field_of_every_spec_is_filled() -> None:
    for spec in METRICS:
        assert all(
            (spec.title, spec.range, spec.formula, spec.source, spec.meaning, spec.misleads, spec.remedy)
        ), spec.id


def test_published_checkpoint(models: Path) -> None:
    decoder = load(models / "disvae" / "betaH_mnist" / "model.pt")
    result = Posterior(data=models / "data" / "mnist32_grid_100.npy", samples=32, rotations=199).measure(
        decoder
    )
    assert result.verdict == "aligned"
    assert result["posterior.hessian_diagonality"].value > 0.7
    assert result.beta == pytest.approx(4.0, rel=0.15)
