"""The table of published models: complete, measured anew on the checkpoints, and one line of `orthogonality`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from published_facts import SOURCES, fact

import vaeprobe
from vaeprobe.published import FACTS, below, place


def test_the_table_is_complete() -> None:
    assert [(f.name, f.source) for f in FACTS] == list(SOURCES.values())
    for f in FACTS:
        assert f.alignment == pytest.approx(1 - f.contrast / f.null, abs=0.01)


def test_a_place_counts_those_below() -> None:
    ordered = sorted(f.alignment for f in FACTS)
    assert below(ordered[0]) == 0
    assert below(ordered[0] + 1e-9) == 1
    assert below(1.0) == len(FACTS)
    assert place(1.0) == f"Of {len(FACTS)} published models {len(FACTS)} are less aligned."
    assert place(-0.1) == f"Of {len(FACTS)} published models 1 is less aligned."


@pytest.mark.parametrize(
    "file", ["disvae/btcvae_dsprites/model.pt", "inverse_micro/vae.pth", "goldsmdn_keras/decoder.keras"]
)
def test_facts_are_measured_anew(models: Path, file: str) -> None:
    if file.endswith(".keras"):
        pytest.importorskip("h5py")
    if not (models / file).is_file():
        pytest.skip("not among the checkpoints here")
    (known,) = (f for f, row in zip(FACTS, SOURCES.items(), strict=True) if row[0] == file)
    for name, value in fact(models / file).items():
        assert value == pytest.approx(getattr(known, name), rel=0.02, abs=0.01)


def test_orthogonality_says_where_a_model_stands() -> None:
    linear = vaeprobe.Decoder(lambda z: z @ torch.tensor([[2.0, 0, 0], [0.3, 1, 0]]).to(z), 2)
    said = f"Of {len(FACTS)} published models"
    assert said in vaeprobe.orthogonality(linear, samples=16).summary
    assert said not in vaeprobe.orthogonality(linear, samples=16, likelihood="gaussian").summary
    assert said not in vaeprobe.orthogonality(linear, samples=16, latents="grid").summary
    table = vaeprobe.compare([linear, linear], samples=16, rotations=9).sections()[-1]
    assert table.title == "Where they stand among published models"
    assert len(table.rows) == len(FACTS) + 2  # type: ignore[union-attr]
