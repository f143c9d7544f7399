"""The page of published models: written from what was kept, and of every model that is at hand."""

from __future__ import annotations

from pathlib import Path

import gallery
import pytest
import torch
from torch import nn


def test_the_page_is_written_from_what_was_kept() -> None:
    models, formats = gallery.kept()
    assert list(models) == list(gallery.MODELS)
    assert list(formats) == list(gallery.FORMATS)
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.page(list(models.values()), formats)


def test_every_model_that_is_at_hand_has_a_row_or_a_reason(models: Path) -> None:
    there = {
        str(path.relative_to(models))
        for path in models.rglob("*")
        if path.suffix in (".pt", ".pth", ".pt2", ".ts", ".onnx", ".keras", ".safetensors", ".ckpt", ".pkl")
    }
    assert there == {*gallery.MODELS, *gallery.FORMATS, *gallery.LEFT_OUT}


def test_decoders_are_held_apart_by_their_outputs(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 5)).eval()
        save(net, tmp_path / f"{name}.pt2")
    assert gallery.apart(tmp_path, "one.pt2", "same.pt2") == 0
    assert gallery.apart(tmp_path, "one.pt2", "other.pt2") > 0.1


def save(net: nn.Module, path: Path) -> None:
    batch = torch.export.Dim("batch", min=2)
    torch.export.save(torch.export.export(net, (torch.randn(2, 3),), dynamic_shapes=({0: batch},)), path)


def test_without_searches_there_are_no_twins() -> None:
    assert "no latent" in gallery.twins([gallery.Measured((), None, 0, 0)])
    assert "3 have one (30.0%" in gallery.twins(
        [gallery.Measured((), None, 1, 4), gallery.Measured((), None, 2, 6)]
    )


@pytest.mark.slow
def test_a_row_repeats(models: Path) -> None:
    path = "goldsmdn_keras/decoder.keras"
    assert gallery.measure(models, path).cells[-1] == gallery.kept()[0][path].cells[-1]
