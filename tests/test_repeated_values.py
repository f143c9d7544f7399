"""Singular values of J that are equal: all of them are found, at hardly more products where there are none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.engine import matrix_free
from vaeprobe.engine.matrix_free import singular_triplets
from vaeprobe.intervals import stream

DTYPES = [torch.float64, torch.float32]


def of_values(s: Tensor, dtype: torch.dtype = torch.float64) -> Decoder:
    """A linear decoder with singular values s, in random directions."""
    k = len(s)
    rng = stream(k, "repeated")
    U, V = (torch.linalg.qr(torch.from_numpy(rng.standard_normal((k, k)))).Q for _ in range(2))
    W = (U * s) @ V.T
    return Decoder(lambda z: z @ W.to(z).T, k, dtype=dtype)


def decaying(k: int, rate: float) -> Tensor:
    return rate ** torch.arange(k, dtype=torch.float64)


def equal(multiplicity: int, value: float = 1.0) -> Tensor:
    return torch.full((multiplicity,), value, dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("multiplicity", [2, 3, 5, 9, 20])
@pytest.mark.parametrize("kind", ["largest", "after two", "two values", "nearly equal"])
def test_all_equal_values_are_found(kind: str, multiplicity: int, dtype: torch.dtype) -> None:
    m = multiplicity
    first = {
        "largest": equal(m),
        "after two": torch.cat([torch.tensor([2.0, 1.5]).double(), equal(m)]),
        "two values": torch.cat([equal(m, 2.0), equal(m)]),
        "nearly equal": 1 + 1e-6 * torch.arange(m, dtype=torch.float64).flip(0),
    }[kind]
    s = torch.cat([first, 0.6 * decaying(60, 0.9)])[:60]
    count = min(len(first), 25) + 1
    found = singular_triplets(of_values(s, dtype), torch.zeros(2, 60, dtype=dtype), count, products=60)
    torch.testing.assert_close(found.s, s[:count].expand(2, -1), rtol=0, atol=1e-5)
    assert float((found.U.mT @ found.U - torch.eye(count)).abs().max()) < 1e-3, "as many directions as values"
    assert float(found.missed.max()) <= matrix_free.MISSED
    assert float(found.residual.max()) <= 1e-3


@pytest.mark.parametrize(
    ("s", "before"),
    [  # products until the residuals of five values were below the tolerance
        (decaying(200, 0.8), 14),
        (decaying(200, 0.95), 26),
        (1 / torch.arange(1, 201, dtype=torch.float64), 16),
        (1 / torch.arange(1, 201, dtype=torch.float64).sqrt(), 22),
        (equal(200), 6),
        (torch.cat([equal(1, 10.0), equal(199)]), 6),
        (torch.cat([equal(3), equal(197, 0.0)]), 6),
    ],
    ids=["0.8^i", "0.95^i", "1/i", "i^-1/2", "flat", "spike", "rank 3"],
)
def test_hardly_more_products_where_there_are_none(s: Tensor, before: int) -> None:
    found = singular_triplets(of_values(s), torch.zeros(2, 200, dtype=torch.float64), 5)
    torch.testing.assert_close(found.s, s[:5].expand(2, -1), rtol=0, atol=1e-5)
    assert found.products <= 5 + 1.3 * before + 4
    assert float(found.missed.max()) <= matrix_free.MISSED


def test_a_jacobian_of_zeros_takes_two_blocks_more() -> None:
    decoder = Decoder(lambda z: z * 0.0, 40, dtype=torch.float64)
    found = singular_triplets(decoder, torch.zeros(1, 40, dtype=torch.float64), 3)
    assert not found.s.any()
    assert found.products <= 3 + 8


def test_too_few_products_to_look_for_others_are_told() -> None:
    s = torch.cat([equal(6), 0.5 * decaying(60, 0.9)])
    decoder, z = of_values(s), torch.zeros(1, 66, dtype=torch.float64)
    assert float(singular_triplets(decoder, z, 3, products=8).missed) == 1
    # values equal to the last one are none that is larger
    enough = singular_triplets(decoder, z, 3)
    assert float(enough.missed) <= matrix_free.MISSED
    torch.testing.assert_close(enough.s, torch.ones_like(enough.s), rtol=0, atol=1e-8)


@pytest.mark.parametrize("block", [1, 2])
def test_the_chance_of_missing_one_is_no_more_than_told(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one more equal value than a block sees, that is looked for until the chance is a third.

    The volume that a block's components along a missed vector are left was no bound: of 150 draws 142 missed one.
    """
    monkeypatch.setattr(matrix_free, "MISSED", 0.3)
    s = torch.cat([equal(block + 1), 0.6 * decaying(39, 0.8)])[:40]
    decoder, z = Decoder(lambda z: z * s.to(z), 40, dtype=torch.float64), torch.zeros(1, 40)
    draws = 25
    found = [singular_triplets(decoder, z.double(), block + 1, block=block, seed=i) for i in range(draws)]
    missed = sum(float(f.s[0, -1]) < 0.99 for f in found) / draws
    assert missed < 0.3 + 3 * (0.3 * 0.7 / draws) ** 0.5
    assert all(float(f.missed) <= 0.3 for f in found)
