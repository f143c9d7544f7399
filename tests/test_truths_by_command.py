"""Numbers of the theory by the commands themselves: programs of maps in closed form, their documents against the formulae."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_sheets import BEND, FLAT, STEEP, rolled, rolled_truth
from torch import Tensor, nn

from vaeprobe.cli import run


class Rolled(nn.Module):
    """The plane of two independent seams, rolled to a cylinder."""

    def __init__(self, A: Tensor) -> None:
        super().__init__()
        self.A, self.B = nn.Buffer(A.float()), nn.Buffer(BEND.float())

    def forward(self, z: Tensor) -> Tensor:
        return rolled(z, self.A, self.B)


class Square(nn.Module):
    """z^2 of a complex number."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([z[:, 0] ** 2 - z[:, 1] ** 2, 2 * z[:, 0] * z[:, 1]], 1)


class Fold(nn.Module):
    """(z_0^2, 1.2 sinh z_1)."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([z[:, 0] ** 2, 1.2 * torch.sinh(z[:, 1])], 1)


class ReluFold(nn.Module):
    """(|z_0|, 2 z_1), by rectifiers."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([z[:, 0].relu() + (-z[:, 0]).relu(), 2 * z[:, 1]], 1)


class Polar(nn.Module):
    """e^{z_0} (cos 2 z_1, sin 2 z_1): latents a turn apart are one output."""

    def forward(self, z: Tensor) -> Tensor:
        return z[:, :1].exp() * torch.stack([torch.cos(2 * z[:, 1]), torch.sin(2 * z[:, 1])], 1)


class Circle(nn.Module):
    """(rho, z_2): a circle of latents for every output, of which no two are apart by a jump."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([z[:, :2].square().sum(1).sqrt(), z[:, 2], 0.3 * z[:, 2]], 1)


class Stretched(nn.Module):
    """(1.5 sinh z_0, 0.6 sinh 1.5 z_1): one to one."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([1.5 * torch.sinh(z[:, 0]), 0.6 * torch.sinh(1.5 * z[:, 1])], 1)


def asked(
    command: str, f: nn.Module, d: int, folder: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> dict[str, dict[str, object]]:
    """Return the metrics of a command's document, of a map as a program."""
    path = folder / "map.pt2"
    batch = torch.export.Dim("batch", min=2)
    torch.export.save(torch.export.export(f, (torch.randn(2, d),), dynamic_shapes=({0: batch},)), path)
    capsys.readouterr()
    assert run([command, str(path), "--json", *options]) == 0
    metrics: dict[str, dict[str, object]] = json.loads(capsys.readouterr().out)["metrics"]
    return metrics


def gap(
    f: nn.Module, d: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[float, float, list[float]]:
    """Return the true gap, the share of latents with a twin, and the gap's interval."""
    found = asked(
        "factorise", f, d, folder, capsys, "--samples", "128", "--max-samples", "128", "--sheets", "128"
    )
    return (
        found["factorise.true_gap"]["value"],
        found["factorise.sheets"]["value"],
        found["factorise.true_gap"]["ci"],
    )  # type: ignore[return-value]


@pytest.mark.parametrize("A", [STEEP, FLAT], ids=["0.662 nats", "0.017 nats"])
def test_a_rolled_plane(A: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = torch.randn(100_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = float(rolled_truth(many, A, BEND).mean())
    assert truth == pytest.approx(0.662 if A is STEEP else 0.017, rel=0.1)
    value, share, (low, high) = gap(Rolled(A), 2, tmp_path, capsys)
    assert low <= truth <= high
    assert value == pytest.approx(truth, abs=0.15 if A is STEEP else 0.02)
    assert share > 0.95 if A is STEEP else share < 0.15


@pytest.mark.parametrize("f", [Square(), Fold(), ReluFold()], ids=lambda f: type(f).__name__)
def test_twofold_maps_cost_log_2(f: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value, share, _ = gap(f, 2, tmp_path, capsys)
    assert share > 0.95
    assert value == pytest.approx(share * math.log(2), abs=2e-3)


def test_polar_coordinates_come_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value, share, (low, high) = gap(Polar(), 2, tmp_path, capsys)
    turns = math.pi * torch.arange(-40, 41, dtype=torch.float64)
    z = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = float(((-(z[:, None] + turns).square() / 2).logsumexp(1) + z.square() / 2).mean())
    assert low <= truth <= high
    assert share > 0.9
    assert value == pytest.approx(truth, abs=0.15)


def test_one_to_one_maps_cost_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value, share, _ = gap(Stretched(), 2, tmp_path, capsys)
    assert share == 0
    assert value == pytest.approx(0, abs=1e-6)


def test_a_circle_of_latents_for_every_output_has_no_density_to_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = asked("factorise", Circle(), 3, tmp_path, capsys, "--samples", "64", "--max-samples", "64")
    assert found["factorise.verdict"]["value"] == "undefined"
    assert found["factorise.true_gap"]["value"] is None


class Sheared(nn.Module):
    """Columns (2, 0, 0) and (1, 1.5, 0) at every latent."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([2 * z[:, 0] + z[:, 1], 1.5 * z[:, 1], 0 * z[:, 0]], 1)


def test_dependence_entropies_and_defect_of_a_shear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = asked("orthogonality", Sheared(), 2, tmp_path, capsys, "--samples", "64", "--rotations", "99")
    norms, cosine = np.array([2.0, math.sqrt(1 + 1.5**2)]), 1 / math.sqrt(1 + 1.5**2)
    shared = -0.5 * math.log1p(-(cosine**2))
    entropies = np.log(norms) + 0.5 * math.log(2 * math.pi * math.e)
    assert found["orthogonality.mutual_information"]["value"] == pytest.approx(shared, abs=1e-5)
    assert found["orthogonality.ima_contrast"]["value"] == pytest.approx(shared, abs=1e-5)
    assert found["orthogonality.entropy"]["value"] == pytest.approx(entropies.tolist(), abs=1e-5)
    s = np.linalg.svd(np.array([[2.0, 1.0], [0.0, 1.5]]), compute_uv=False)
    defect = 1 - s.sum() ** 2 / (2 * (s**2).sum())
    assert found["orthogonality.isometry_defect"]["value"] == pytest.approx(defect, abs=1e-5)
