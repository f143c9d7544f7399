"""Latents: the same draw everywhere, prefixes, one-hot groups, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaeprobe
from vaeprobe.decoder import Decoder, Group
from vaeprobe.encoder import Encoder
from vaeprobe.errors import InputError, ResourceError, UsageError
from vaeprobe.latents import Given, Grid, Posterior, Prior, parse, source


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(lambda z: z, latent_dim=2)


@pytest.fixture(scope="module")
def mixed() -> Decoder:
    return Decoder(lambda z: z, latent_dim=5, prior=(Group("normal", 2), Group("onehot", 3)))


def test_the_draw_is_pinned(decoder: Decoder) -> None:
    # these numbers must never change: seeds mean the same on every machine and in every version
    z = Prior().draw(decoder, 2, seed=0)
    expected = [[0.09455926301039429, -0.12095565167509989], [-1.8664700082649308, 0.5724386912604309]]
    torch.testing.assert_close(z, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_longer_draw_starts_with_the_shorter(mixed: Decoder) -> None:
    assert torch.equal(Prior().draw(mixed, 7, seed=3), Prior().draw(mixed, 50, seed=3)[:7])


def test_purposes_and_seeds_are_independent(decoder: Decoder) -> None:
    a, b, c = Prior().draw(decoder, 4000), Prior("x").draw(decoder, 4000), Prior().draw(decoder, 4000, seed=1)
    for one, other in ((a, b), (a, c)):
        assert abs(np.corrcoef(one[:, 0], other[:, 0])[0, 1]) < 0.06
    assert abs(float(a.mean())) < 0.05
    assert abs(float(a.std()) - 1) < 0.05


def test_one_hot_groups_are_codes(mixed: Decoder) -> None:
    codes = Prior().draw(mixed, 300)[:, 2:]
    assert torch.equal(codes.sum(1), torch.ones(300, dtype=torch.float64))
    assert (codes.mean(0) - 1 / 3).abs().max() < 0.1


def test_a_grid_is_a_lattice_or_traversals(decoder: Decoder, mixed: Decoder) -> None:
    z = Grid(extent=1.0).draw(decoder, 9)
    assert sorted(z.tolist()) == [[float(x), float(y)] for x in (-1, 0, 1) for y in (-1, 0, 1)]
    assert torch.equal(Grid().draw(mixed, 9)[:, 2:], torch.eye(3, dtype=torch.float64)[[0] * 9])
    many = Decoder(lambda z: z, latent_dim=12)
    traversals = Grid().draw(many, 48)
    assert traversals.shape == (48, 12)
    assert ((traversals != 0).sum(1) <= 1).all()


def test_posterior_draws_follow_the_encoder(decoder: Decoder) -> None:
    data = torch.tensor([[0.0, 5.0], [1.0, -5.0]])
    encoder = Encoder(lambda x: (x, torch.full_like(x, -2.0)), latent_dim=2)
    owner = decoder.with_function(lambda z: z, encoder=encoder)
    z = Posterior(data).draw(owner, 20_000)
    torch.testing.assert_close(z[::2].mean(0), data[0].double(), rtol=0, atol=0.02)
    torch.testing.assert_close(
        z[1::2].var(0), torch.full((2,), float(np.exp(-2)), dtype=torch.float64), rtol=0.05, atol=0
    )
    assert torch.equal(Posterior(data, means=True).draw(owner, 2), data.double())
    with pytest.raises(UsageError, match="need an encoder"):
        Posterior(data).draw(decoder, 2)


def test_files_and_mistakes(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "z.npy"
    np.save(path, np.arange(6, dtype=">f4").reshape(3, 2))
    assert parse(str(path)).draw(decoder, 2).tolist() == [[0, 1], [2, 3]]
    np.save(path, np.zeros((3, 5)))
    with pytest.raises(UsageError, match=r"the decoder takes \(n, 2\)"):
        parse(str(path)).draw(decoder, 2)
    np.save(path, np.array([[np.nan, 0.0]]))
    with pytest.raises(InputError, match="row 0"):
        parse(str(path)).draw(decoder, 2)
    np.save(path, np.array([["a", "b"]]))
    with pytest.raises(InputError, match="not real numbers"):
        parse(str(path))
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no \.npy matrix"):
        parse(str(tmp_path / "bad.npy"))
    with pytest.raises(UsageError, match="neither a source"):
        parse("priro")
    with pytest.raises(UsageError, match="need data"):
        parse("posterior")


def test_given_rows(decoder: Decoder) -> None:
    assert Given(torch.ones(5, 2)).draw(decoder, 3).shape == (3, 2)


@pytest.mark.parametrize(
    "kind",
    [
        lambda rows: rows,
        torch.tensor,
        lambda rows: rows.tolist(),
        lambda rows: rows.astype(">f8"),
        lambda rows: torch.tensor(rows, requires_grad=True),
        lambda rows: np.asfortranarray(rows),
        lambda rows: Given(torch.tensor(rows)),
        lambda rows: lambda n: rows[:n],
        lambda rows: lambda n: torch.tensor(rows[:n]),
    ],
)
def test_rows_and_samplers_are_sources(kind: Callable[[np.ndarray], Any], decoder: Decoder) -> None:
    rows = np.random.default_rng(0).standard_normal((6, 2))
    drawn = source(kind(rows), lambda: None).draw(decoder, 4)
    assert drawn.dtype == torch.float64
    assert drawn.tolist() == rows[:4].tolist()


def test_a_distribution_is_a_source_and_its_draws_depend_on_the_seed_alone(decoder: Decoder) -> None:
    normal = torch.distributions.Normal(torch.tensor([1.0, -1.0]), 0.1)
    before = torch.get_rng_state()
    one, same, other = (source(normal, lambda: None).draw(decoder, 500, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.testing.assert_close(one.mean(0), torch.tensor([1.0, -1.0]).double(), rtol=0, atol=0.02)
    assert source(normal, lambda: None).describe() == "Normal distribution"


@pytest.mark.parametrize(
    ("given", "words"),
    [({"a": 1}, "are dict, not real numbers"), (np.array(["a"]), "not real numbers"), ([[1], [1, 2]], "no array")],
)  # fmt: skip
def test_what_is_no_source_is_named(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        source(given, lambda: None)


def test_probes_take_rows_as_latents_and_as_data() -> None:
    rows = np.random.default_rng(0).standard_normal((16, 2))
    encoder = Encoder(
        lambda x: (x[:, :2], torch.zeros(len(x), 2, dtype=x.dtype)), 2, input_shape=(2,), dtype=torch.float64
    )
    decoder = Decoder(lambda z: z.sin(), 2, dtype=torch.float64, likelihood="gaussian", encoder=encoder)
    found = [
        vaeprobe.orthogonality(decoder, latents=x, rotations=9).summary for x in (rows, torch.tensor(rows))
    ]
    assert found[0] == found[1]
    found = [vaeprobe.posterior(decoder, data=x, samples=8).summary for x in (rows, torch.tensor(rows))]
    assert found[0] == found[1]


def test_a_latent_is_called_by_its_column(mixed: Decoder) -> None:
    assert mixed.latent_names == ("z0", "z1")
    codes_first = Decoder(lambda z: z, latent_dim=5, prior=(Group("onehot", 3), Group("normal", 2)))
    assert codes_first.latent_names == ("z3", "z4")


def test_a_grid_of_too_many_latents_is_a_limit() -> None:
    with pytest.raises(ResourceError, match=r"6\.4 GB"):
        Grid().draw(Decoder(lambda z: z[:, :2], 20_000), 256)
