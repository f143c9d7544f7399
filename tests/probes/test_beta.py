"""`beta`: the training beta of models whose beta is known, and honest answers where there is none."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from vaeprobe.checkpoints.loading import load
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.errors import InputError, UsageError
from vaeprobe.inference.theorem3 import Trained, judged, theorem3
from vaeprobe.inference.training import TrainedVAE, train_vae
from vaeprobe.probes.base import judge
from vaeprobe.probes.beta import METRICS, Beta, BetaResult

from vaes import SAMPLES, linear_vae, trainer

BETAS = SAMPLES / "betas"
MANIFEST: list[dict[str, Any]] = json.loads((BETAS / "manifest.json").read_text())["models"]


def beta_of(entry: dict[str, Any], **settings: Any) -> BetaResult:
    settings = {"data": BETAS / entry["data"], "sigma2": entry["sigma2"] or 1.0, **settings}
    return Beta(**settings).measure(load(BETAS / entry["file"]))


def sample(likelihood: str, beta: float) -> dict[str, Any]:
    return next(m for m in MANIFEST if m["likelihood"] == likelihood and m["beta"] == beta)


@pytest.fixture(scope="module")
def measured() -> dict[str, BetaResult]:
    return {m["file"]: beta_of(m) for m in MANIFEST}


# -- truth: models trained here -------------------------------------------------------------------


@pytest.mark.parametrize("entry", MANIFEST, ids=lambda m: m["file"])
def test_recovers_the_training_beta(entry: dict[str, Any], measured: dict[str, BetaResult]) -> None:
    result = measured[entry["file"]]
    assert result["beta.estimate"].value == pytest.approx(entry["beta"], rel=0.1)
    assert result.verdict == "consistent"
    assert result["beta.consistency"].value > 0.95


def test_nine_of_ten_intervals_hold_the_truth(measured: dict[str, BetaResult]) -> None:
    inside = [
        low <= m["beta"] <= high
        for m in MANIFEST
        for low, high in [measured[m["file"]]["beta.estimate"].ci or (0, 0)]
    ]
    assert sum(inside) >= 9
    assert all(
        (r["beta.estimate"].ci or (0, 9))[1] / (r["beta.estimate"].ci or (1, 9))[0] < 1.3
        for r in measured.values()
    )


def test_gauss_newton_is_biased_and_stein_is_not(measured: dict[str, BetaResult]) -> None:
    ratios = {
        id: [measured[m["file"]][id].value / m["beta"] for m in MANIFEST]
        for id in ("beta.estimate", "beta.gauss_newton")
    }
    assert abs(np.mean(ratios["beta.estimate"]) - 1) < 0.01
    assert 1.02 < np.mean(ratios["beta.gauss_newton"]) < 1.15


def test_files_are_those_of_the_manifest() -> None:
    import hashlib

    for entry in MANIFEST:
        file = BETAS / entry["file"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == entry["sha256"]
        assert file.stat().st_size < 100_000


@pytest.mark.parametrize(("likelihood", "beta", "steps", "seeds"), [
    ("gaussian", 2.0, 500, 1),
    pytest.param("gaussian", 2.0, 2500, 10, marks=pytest.mark.slow),
    pytest.param("bernoulli", 4.0, 2500, 10, marks=pytest.mark.slow),
])  # fmt: skip
def test_interval_covers_over_training_seeds(likelihood: str, beta: float, steps: int, seeds: int) -> None:
    train_betas = trainer()
    x = train_betas.rows(likelihood)
    covered = 0
    for seed in range(1, seeds + 1):
        vae = train_betas.train(
            x, likelihood, beta, width=train_betas.WIDTHS[likelihood], steps=steps, seed=seed
        )
        encoder = Encoder(lambda rows, vae=vae: vae.encoder(rows).chunk(2, 1), 6, input_shape=(x.shape[1],))
        parameter = "natural" if likelihood == "bernoulli" else "mean"
        decoder = Decoder(vae.decoder, 6, parameter=parameter, likelihood=likelihood, encoder=encoder)
        estimate = Beta(data=x, sigma2=train_betas.SIGMA2, seed=seed).measure(decoder)["beta.estimate"]
        assert estimate.value == pytest.approx(beta, rel=0.1)
        covered += estimate.ci is not None and estimate.ci[0] <= beta <= estimate.ci[1]
    assert covered >= 0.9 * seeds


@pytest.fixture(scope="module")
def categorical() -> tuple[torch.Tensor, TrainedVAE]:
    """Digits in three grey levels, one-hot, shape (n, 3, 8, 8), and a VAE trained on them at beta = 2."""
    grey = np.round(trainer().images("gaussian") / 127.5).clip(0, 2).astype(np.int64)
    x = torch.nn.functional.one_hot(torch.from_numpy(grey), 3).movedim(-1, 1).float()

    def log_likelihood(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        log_p = y.reshape(-1, 3, 64).log_softmax(1)
        return (x.reshape(-1, 3, 64) * log_p).sum((1, 2))

    return x, train_vae(x.flatten(1), log_likelihood, 2.0, latents=4, width=48, steps=700)


@pytest.mark.parametrize("output", ["logits", "probabilities"])
@pytest.mark.parametrize("labels", [False, True])
def test_recovers_beta_of_a_categorical_vae(
    categorical: tuple[torch.Tensor, TrainedVAE], output: str, labels: bool
) -> None:
    x, vae = categorical

    def function(z: torch.Tensor) -> torch.Tensor:
        theta = vae.decoder(z).reshape(-1, 3, 8, 8)
        return theta if output == "logits" else theta.softmax(1)

    decoder = Decoder(
        function,
        4,
        dtype=torch.float32,
        parameter="natural" if output == "logits" else "mean",
        likelihood="categorical",
        encoder=Encoder(vae.posterior, 4, input_shape=(192,)),
    )
    data = x.argmax(1).float() if labels else x
    result = Beta(data=data, samples=128).measure(decoder)
    assert result["beta.estimate"].value == pytest.approx(2.0, rel=0.1)
    assert result.verdict == "consistent"
    assert "diag(p) - p p^T" in result.meaning
    assert result["latents.active.supported"].defined


@pytest.mark.parametrize(("data", "words"), [
    (torch.full((8, 192), 0.5), "do not sum to 1 over the 3 classes of axis 1"),
    (torch.full((8, 8, 8), 3.0), "labels run from 3 to 3, the decoder's 3 classes from 0 to 2"),
    (torch.zeros(8, 100), r"rows have shape \(100,\), the decoder's output \(3, 8, 8\)"),
])  # fmt: skip
def test_data_that_are_no_classes(data: torch.Tensor, words: str) -> None:
    W = torch.randn(192, 4, generator=torch.Generator().manual_seed(0))
    encoder = Encoder(lambda x: (x[:, :4], x[:, :4]), 4, input_shape=(192,))
    decoder = Decoder(lambda z: (z @ W.T).reshape(-1, 3, 8, 8), 4, dtype=torch.float32, parameter="natural",
                      likelihood="categorical", encoder=encoder)  # fmt: skip
    with pytest.raises(UsageError, match=words):
        Beta(data=data).measure(decoder)


def test_labels_of_uint8_are_not_scaled(tmp_path: Path, categorical: tuple[torch.Tensor, TrainedVAE]) -> None:
    x, vae = categorical
    np.save(tmp_path / "labels.npy", x.argmax(1).numpy().astype(np.uint8))
    decoder = Decoder(lambda z: vae.decoder(z).reshape(-1, 3, 8, 8), 4, dtype=torch.float32, parameter="natural",
                      encoder=Encoder(vae.posterior, 4, input_shape=(192,)))  # fmt: skip
    settings = {"likelihood": "categorical", "samples": 32}
    from_file = Beta(data=tmp_path / "labels.npy", **settings).measure(decoder)
    in_memory = Beta(data=x, **settings).measure(decoder)
    assert from_file["beta.estimate"].value == pytest.approx(in_memory["beta.estimate"].value, rel=1e-6)


# -- Theorem 3 ------------------------------------------------------------------------------------


def test_models_of_one_product_agree_and_are_drawn(tmp_path: Path) -> None:
    result = theorem3((0.03,), steps=400)
    ((by_sigma2, by_beta),) = result.pairs
    assert (by_sigma2.beta, by_beta.beta) == (1.0, 1.5)
    assert result.verdict == "agree"
    for model in (by_sigma2, by_beta):
        assert model.estimate == pytest.approx(0.03, rel=0.1)
        assert 0.9 < model.size < 0.97
    assert not torch.equal(by_sigma2.reconstruction, by_beta.reconstruction), (
        "trained from seeds of their own"
    )
    result.files()["figure"](tmp_path / "f.svg")
    assert ElementTree.parse(tmp_path / "f.svg").getroot().tag.endswith("svg")
    assert [m["beta"] for m in result.details()["models"]] == [1.0, 1.5]


def test_models_of_one_product_that_differ_are_not_said_to_agree() -> None:
    def model(estimate: float | None, size: float = 0.9) -> Trained:
        return Trained(beta=1.0, sigma2=0.1, estimate=estimate, ci=None, overlap=1.0, reconstruction=torch.zeros(1, 2),
                       size=size)  # fmt: skip

    fine, dead = (model(0.1), model(0.102)), (model(None, 0.0), model(None, 0.01))
    assert judged([fine])[0] == "agree"
    assert "within 2.0%" in judged([fine])[1]
    assert judged([fine, dead]) == ("agree", judged([fine])[1] + " At 1 of the products both ways collapse.")
    assert judged([dead])[0] == "collapsed"
    for pair in ((model(0.1), model(0.12)), (model(0.1), model(0.1, 0.8)), (model(0.1), model(None))):
        assert judged([fine, pair])[0] == "disagree"


# -- truth: closed forms --------------------------------------------------------------------------


def test_linear_vae() -> None:
    vae = linear_vae((9.0, 4.0, 2.0, 0.5, 0.3, 0.3), d=4, beta=2.0, sigma2=0.3)
    result = Beta(data=vae.x, sigma2=0.3, beta=2.0, pairs=2).measure(vae.decoder)
    assert result["beta.estimate"].value == pytest.approx(2.0, abs=1e-10)
    assert result["beta.sigma2"].value == pytest.approx(0.3, abs=1e-10)
    for rule in ("kl", "means", "columns", "precision", "supported"):
        assert result[f"latents.active.{rule}"].value == 3
    assert result["beta.consistency"].value == pytest.approx(1.0, abs=1e-6)
    for row, eigenvalue in zip(result.latent_rows(), (9.0, 4.0, 2.0), strict=False):
        assert row["collapses_at"] == pytest.approx(eigenvalue / 0.3), "Corollary 3.1: lambda = beta sigma^2"


def test_theorem_3_reports_the_product_without_sigma2() -> None:
    vae = linear_vae(beta=2.0, sigma2=0.3)
    result = Beta(data=vae.x, pairs=2).measure(vae.decoder)
    assert result["beta.estimate"].value == pytest.approx(0.6, abs=1e-10)
    assert "beta sigma^2 = 0.6 " in result.summary
    assert not result["beta.sigma2"].defined
    assert "give --beta" in (result["beta.sigma2"].reason or "")
    assert "sigma^2 held fixed" in result.meaning


def test_learned_variance_shows_in_the_residual() -> None:
    # at beta = 1 and sigma2 the mean of the discarded eigenvalues, E|x - f|^2 / m is sigma2 itself
    vae = linear_vae((9.0, 4.0, 2.0, 0.3, 0.3, 0.3), sigma2=0.3)
    result = Beta(data=vae.x, pairs=2).measure(vae.decoder)
    assert result["beta.residual_variance"].value == pytest.approx(0.3, abs=1e-10)


# -- what it must say where the identity fails -------------------------------------------------------


def altered(entry: dict[str, Any], change: Any) -> Decoder:
    decoder = load(BETAS / entry["file"])
    old = decoder.encoder
    assert old is not None
    return replace(decoder, encoder=replace(old, function=lambda x: change(*old.function(x))))


def test_inconsistent_latents() -> None:
    entry = sample("gaussian", 1.0)
    shift = torch.linspace(-0.7, 0.7, 6)
    decoder = altered(entry, lambda mean, log_variance: (mean, log_variance + shift))
    result = Beta(data=BETAS / entry["data"], sigma2=entry["sigma2"]).measure(decoder)
    assert result.verdict == "inconsistent"
    finding = next(f for f in result.findings if f.code == "not-at-optimum")
    assert "not at the ELBO's optimum" in finding.message
    assert "not at the optimum" in result.summary


def test_nominal_beta_outside_the_interval() -> None:
    entry = sample("bernoulli", 2.0)
    assert "other-beta" in {f.code for f in beta_of(entry, beta=4.0).findings}
    assert "other-beta" not in {f.code for f in beta_of(entry, beta=2.0).findings}


def test_everything_collapsed() -> None:
    vae = linear_vae(beta=50.0, sigma2=0.3)
    result = Beta(data=vae.x, pairs=2).measure(vae.decoder)
    assert result.verdict == "collapsed"
    assert not result["beta.estimate"].defined
    assert "collapsed" in {f.code for f in result.findings}
    checked = judge(result, {"beta.consistency": 0.9}, {s.id: s for s in METRICS})
    assert checked.exit_code == 3


def test_one_latent_is_consistent_with_itself_only() -> None:
    vae = linear_vae((4.0, 0.3), d=1)
    result = Beta(data=vae.x, sigma2=0.3, pairs=2).measure(vae.decoder)
    assert result["beta.estimate"].value == pytest.approx(1.0, abs=1e-10)
    assert not result["beta.consistency"].defined


@pytest.mark.parametrize(("name", "change"), [
    ("interleaved", lambda m, v: torch.cat([m, v], 1).view(len(m), 6, 2).unbind(2)),
    ("log-variances first", lambda m, v: (v, m)),
])  # fmt: skip
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_wrong_layout_is_named(likelihood: str, name: str, change: Any) -> None:
    entry = sample(likelihood, 1.0)
    with pytest.raises(InputError, match="laid out otherwise") as error:
        Beta(data=BETAS / entry["data"], sigma2=entry["sigma2"] or 1.0).measure(altered(entry, change))
    expected = "chunked" if name == "interleaved" else name
    assert f"read as {expected}" in (error.value.hint or "")


def test_infinite_kl() -> None:
    entry = sample("gaussian", 1.0)
    decoder = altered(entry, lambda mean, log_variance: (mean, log_variance - float("inf")))
    with pytest.raises(InputError, match="KL is not finite on 128 of 128") as error:
        Beta(data=BETAS / entry["data"]).measure(decoder)
    assert "[encoder]" in (error.value.hint or "")


# -- what is missing is said -------------------------------------------------------------------------


def test_no_encoder() -> None:
    with pytest.raises(UsageError, match="comes without one") as error:
        Beta(data=torch.zeros(4, 3), likelihood="gaussian").measure(
            Decoder(lambda z: z.repeat(1, 3)[:, :3], 2)
        )
    assert "--encoder" in (error.value.hint or "")


def test_no_data_and_no_likelihood() -> None:
    vae = linear_vae()
    with pytest.raises(UsageError, match="needs data"):
        Beta().measure(vae.decoder)
    with pytest.raises(UsageError, match=r"likelihood .* is not known"):
        Beta(data=vae.x).measure(replace(vae.decoder, likelihood=None))


def test_data_of_another_shape_or_range() -> None:
    entry = sample("bernoulli", 1.0)
    with pytest.raises(UsageError, match=r"\(8, 8\), the decoder's output \(256,\)"):
        beta_of(entry, data=BETAS / "gaussian.npy")
    with pytest.raises(UsageError, match=r"from 0 to 255, a Bernoulli likelihood takes \[0, 1\]"):
        beta_of(entry, data=torch.from_numpy(np.load(BETAS / "bernoulli.npy")).float())
    with pytest.raises(UsageError, match="not at other latents"):
        beta_of(entry, latents="grid")


def test_encoder_with_another_number_of_latents() -> None:
    vae = linear_vae()
    other = linear_vae(d=2).decoder.encoder
    with pytest.raises(UsageError, match="the encoder has 2 latents, the decoder 3"):
        Beta(data=vae.x, encoder=other).measure(vae.decoder)


# -- the result --------------------------------------------------------------------------------------


def test_json_and_sections(measured: dict[str, BetaResult]) -> None:
    result = measured[sample("gaussian", 4.0)["file"]]
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert {"beta.estimate", "beta.consistency", "kl.per_latent"} <= set(json.loads(text)["metrics"])
    assert set(result.metrics) <= {s.id for s in METRICS}
    ways, latents, curve = result.sections()
    assert [row[0] for row in ways.rows] == [
        "variances, exact (the estimate)",
        "variances, Gauss-Newton",
        "means",
    ]
    assert len(latents.rows) == 6
    overlap = curve.ys["overlap"]
    assert all(a < b for a, b in itertools.pairwise(overlap)), "more beta, more overlap"


def test_every_field_of_every_spec_is_filled() -> None:
    for spec in METRICS:
        assert all(
            (spec.title, spec.range, spec.formula, spec.source, spec.meaning, spec.misleads, spec.remedy)
        ), spec.id


def test_seed_decides_everything() -> None:
    entry = sample("gaussian", 2.0)
    one, same, other = (beta_of(entry, samples=64, seed=s)["beta.estimate"] for s in (0, 0, 1))
    assert one == same
    assert one.value != other.value


def test_permuting_and_mirroring_latents_changes_little() -> None:
    entry = sample("gaussian", 2.0)
    decoder = load(BETAS / entry["file"])
    old = decoder.encoder
    assert old is not None
    order, sign = torch.tensor([3, 1, 5, 0, 2, 4]), torch.tensor([1.0, -1, 1, -1, -1, 1])

    def encode(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_variance = old.function(x)
        return (mean * sign)[:, order], log_variance[:, order]

    back = torch.argsort(order)
    moved = replace(
        decoder, function=lambda z: decoder.function(z[:, back] * sign), encoder=replace(old, function=encode)
    )
    settings = {"data": BETAS / entry["data"], "sigma2": entry["sigma2"]}
    a, b = (Beta(**settings).measure(d)["beta.estimate"].value for d in (decoder, moved))
    assert a == pytest.approx(b, rel=0.02)


# -- real checkpoints ----------------------------------------------------------------------------------


def real(models: Path, name: str, samples: int = 100) -> BetaResult:
    kind = "dsprites64" if "dsprites" in name else "mnist32"
    decoder = load(models / "disvae" / name / "model.pt")
    return Beta(data=models / "data" / f"{kind}_grid_100.npy", samples=samples).measure(decoder)


@pytest.mark.parametrize(("name", "beta"), [
    ("VAE_mnist", 1.0),
    ("betaH_mnist", 4.0),
    pytest.param("VAE_dsprites", 1.0, marks=pytest.mark.slow),
    pytest.param("betaH_dsprites", 4.0, marks=pytest.mark.slow),
])  # fmt: skip
def test_published_betas(models: Path, name: str, beta: float) -> None:
    result = real(models, name)
    assert result["beta.estimate"].value == pytest.approx(beta, rel=0.15)
    low, high = result["beta.estimate"].ci or (0, 0)
    assert low <= beta <= high
    assert result.verdict == "consistent"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["btcvae_mnist", "btcvae_dsprites"])
def test_total_correlation_objectives_have_no_one_beta(models: Path, name: str) -> None:
    # beta weights the total correlation alone: E_q log q(z|x) keeps weight 1, so what reaches a variance depends
    # on how far the row's own posterior dominates the aggregate one, latent by latent
    result = real(models, name)
    assert result.verdict == "inconsistent"
    assert 3 < result["beta.estimate"].value < 6


def test_an_encoder_that_is_neither_a_file_nor_an_encoder_is_said_to_be_none() -> None:
    decoder = Decoder(torch.nn.Linear(2, 3), 2, likelihood="gaussian")
    with pytest.raises(UsageError, match="the encoder is int, neither a path nor an Encoder") as error:
        Beta(data=torch.randn(8, 3), encoder=3).measure(decoder)
    assert error.value.exit_code == 2
