"""The probes of geometry run on every published checkpoint that loads: no NaN, no crash, a verdict each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vaeprobe
from vaeprobe.probes.base import Probe
from vaeprobe.probes.factorise import Factorise
from vaeprobe.probes.orthogonality import Orthogonality
from vaeprobe.probes.trace import Trace

QUICK = ("riemann/mnist.pth", "inverse_micro/vae.pth")
SLOW = (
    *(
        f"disvae/{kind}_{data}/model.pt"
        for kind in ("VAE", "betaH", "btcvae")
        for data in ("dsprites", "mnist")
    ),
    "jointvae/fashion.pt",
    "jointvae/chairs.pt",
    "riemann/celeba.pth",
    "wgangp/generator.pt",
    "formats/btcvae_dsprites_dyn.pt2",
    "formats/btcvae_dsprites_script.ts",
    "formats/jointvae_fashion.safetensors",
    "formats/jointvae_fashion_trace.ts",
)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
@pytest.mark.parametrize(
    "probe",
    [
        Orthogonality(samples=16, rotations=19, restarts=1),
        Factorise(samples=16, max_samples=16, permutations=19),
        Trace(samples=1, components="0,1", length=0.3),
    ],
    ids=lambda probe: probe.NAME,
)
def test_every_published_checkpoint(models: Path, name: str, probe: Probe) -> None:
    blueprint = "draft" if name.endswith(".safetensors") else None  # its names tell no activations
    result = probe.measure(vaeprobe.load(models / name, blueprint=blueprint))
    assert result.summary
    assert any(metric.defined for metric in result.metrics.values())
    for metric in result.metrics.values():
        assert metric.defined or metric.reason, metric.id
    json.dumps(result.to_dict(), allow_nan=False)
    if isinstance(probe, Trace):
        assert result.verdict in ("curved", "nearly straight", "straight", "axis-parallel", "undecided")
        assert result["trace.collapsed"].value == 0


@pytest.mark.slow
def test_many_latents_are_traced_without_a_jacobian(models: Path) -> None:
    """512 latents: the leading seam by products with J and its transpose."""
    decoder = vaeprobe.load(models / "taef2" / "taef2_decoder.pth")
    result = Trace(samples=1, components="0", length=0.3).measure(decoder)
    assert result.paths.method == "iterative"
    assert result["trace.return_error"].value == pytest.approx(0, abs=0.1)
