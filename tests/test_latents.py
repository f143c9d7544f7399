"""Latents: the same draw everywhere, prefixes, one-hot groups, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vaeprobe.decoder import Decoder, Encoder, Group
from vaeprobe.errors import InputError, UsageError
from vaeprobe.latents import Given, Grid, Posterior, Prior, parse


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
