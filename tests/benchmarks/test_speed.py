"""The table of speeds: every row is measured in units of its own run, and the README's is written by the command."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import vaeprobe
from vaeprobe.engine import gram, pullback, pushforward

from benchmarks import speed
from benchmarks.speed import MARKERS, PICTURE, ROOT, ROWS, Found, Options


def test_a_row_measures_ours_and_what_one_would_use_instead() -> None:
    found = ROWS["burgess-32"].measure(Options(rounds=1, points=2))
    assert found.ours > 0
    assert set(found.instead) == {"vmap(jacfwd)", "functional.jacobian"}


def test_what_one_would_use_instead_gives_the_same_matrices() -> None:
    network = speed.frozen(lambda: speed.tanh_net(3, 20)).double()
    z = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(speed.by_jacfwd(network)(z), gram(network, z))
    J = speed.by_functional(network, z)[:, 0]
    torch.testing.assert_close(J.mT @ J, gram(network, z)[0])


def test_the_generator_that_a_command_is_timed_on_can_be_loaded() -> None:
    assert vaeprobe.load(speed.generator()).latent_dim == 100


def test_products_instead_of_ours_are_the_same() -> None:
    network = speed.frozen(lambda: speed.tanh_net(3, 20)).double()
    z, v = torch.randn(4, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    Jv = pushforward(network, z, v)[1]
    torch.testing.assert_close(speed.by_vmap(network, z, v), Jv)
    torch.testing.assert_close(speed.by_jvp_and_vjp(network, z, v), pullback(network, z, Jv))


def test_products_by_curvlinops_are_the_same() -> None:
    pytest.importorskip("curvlinops")
    network = speed.frozen(lambda: speed.tanh_net(3, 20)).double()
    z, v = torch.randn(4, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    Jv = pushforward(network, z, v)[1]
    J = speed.by_curvlinops(network, z)
    torch.testing.assert_close((J @ v.flatten(1).mT).mT.reshape(2, 4, 20), Jv)
    torch.testing.assert_close(
        (J.adjoint() @ (J @ v.flatten(1).mT)).mT.reshape(v.shape), pullback(network, z, Jv)
    )


def test_a_library_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    found = ROWS["kl-metric"].measure(Options(rounds=1, points=2))
    assert set(found.instead) == {"jvp, then vjp"}


def test_eigenvalues_that_errors_are_told_by_are_those_of_all() -> None:
    pytest.importorskip("scipy")
    Y = np.random.default_rng(0).normal(size=(40, 90)) * 0.9 ** np.arange(90)
    np.testing.assert_allclose(np.sort(speed.leading(Y, 5)), np.linalg.eigvalsh(Y @ Y.T)[-5:], rtol=1e-9)


def test_the_readme_is_written_by_the_command(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    kept = "| Gram matrices, MLP 32-512-512-512-784 | 0.50 | - | x |"
    path.write_text(f"before\n<!-- speed -->\n| no such row | 1 |\n{kept}\n<!-- /speed -->\nafter\n")
    for value in (9.0, 0.816):
        speed.write_readme({"dcgan": Found(value, {"vmap(jacfwd)": 12.34}, "a remark")}, path)
    rows = path.read_text().splitlines()
    assert rows[:2] == ["before", "<!-- speed -->"]
    assert rows[4] == kept  # not measured this time
    assert rows[5].startswith(
        "| Gram matrices, DCGAN generator, d = 100 (a remark) | 0.82 | vmap(jacfwd) 12 |"
    )
    assert rows[6:] == ["<!-- /speed -->", "after"]


def test_the_readme_claims_ratios_of_rows_that_can_be_measured_anew() -> None:
    table = MARKERS.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert table is not None
    rows = table[0].splitlines()[3:-1]
    known = tuple("| " + row.what for row in ROWS.values())
    assert len(rows) >= 8
    assert all(line.startswith(known) for line in rows)
    assert not re.search(r"MISSED|\d m?s\b|second", table[0])


def test_the_curves_are_a_picture_of_their_own() -> None:
    curves = [("latents n", [1, 4, 16], {"gram": [1.0, 0.9, 0.8], "others": [9.0, None, 3.0]})] * 3
    assert len(list(ElementTree.fromstring(speed.draw(curves)))) == 4  # a style and three panels
    assert ElementTree.parse(PICTURE).getroot().tag.endswith("svg")


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.long])
def test_every_row_can_be_measured(name: str) -> None:
    pytest.importorskip("sklearn")
    assert ROWS[name].measure(Options(rounds=1, points=2)).ours > 0
