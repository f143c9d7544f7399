"""Comparisons on pairs that are made from each other: permuted, flipped, rotated, refitted, unrelated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import vaeprobe
from vaeprobe.cli import run
from vaeprobe.decoder import Decoder, Encoder
from vaeprobe.errors import UsageError
from vaeprobe.geometry.agreement import (
    code_agreement,
    column_agreement,
    correlations,
    match,
    ranks,
    tangent_overlap,
    udr,
)
from vaeprobe.geometry.rotations import haar

BETAS = Path(__file__).parents[1] / "sample_models" / "betas"
D, M, N = 4, 12, 64


def codes(n: int = N, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, D)))


def model(R: Tensor) -> Decoder:
    """The decoder z -> f(R z) of a bent f with orthogonal columns, and its exact encoder."""
    U = torch.linalg.qr(torch.from_numpy(np.random.default_rng(9).standard_normal((M, D)))).Q
    scale = torch.tensor([3.0, 2.0, 1.5, 1.0], dtype=torch.float64)

    def f(z: Tensor) -> Tensor:
        return (torch.sinh(0.5 * z @ R.mT) * scale) @ U.mT

    def g(x: Tensor) -> tuple[Tensor, Tensor]:
        z = 2 * torch.asinh(x @ U / scale) @ R
        return z, torch.full_like(z, -4.0)

    return Decoder(f, D, dtype=torch.float64, encoder=Encoder(g, D, input_shape=(M,), dtype=torch.float64))


def signed_permutation(seed: int) -> tuple[Tensor, list[int]]:
    rng = np.random.default_rng(seed)
    order, signs = rng.permutation(D), rng.choice([-1.0, 1.0], D)
    P = np.zeros((D, D))
    P[np.arange(D), order] = signs
    return torch.from_numpy(P), order.tolist()


# -- maths ------------------------------------------------------------------------------------------


def test_correlations_are_numpys_and_scipys() -> None:
    a, b = codes(seed=1), codes(seed=2)
    both = np.corrcoef(a.numpy().T, b.numpy().T)[:D, D:]
    np.testing.assert_allclose(correlations(a, b).numpy(), np.abs(both), atol=1e-12)
    spearman = stats.spearmanr(a.numpy(), b.numpy()).statistic[:D, D:]
    np.testing.assert_allclose(correlations(ranks(a), ranks(b)).numpy(), np.abs(spearman), atol=1e-12)
    assert correlations(a, torch.ones(N, 1, dtype=a.dtype)).abs().max() == 0


@pytest.mark.parametrize(("d", "e"), [(4, 4), (3, 5), (5, 3), (1, 1)])
def test_the_matching_is_scipys(d: int, e: int) -> None:
    for seed in range(20):
        matrix = torch.from_numpy(np.random.default_rng(seed).random((d, e)))
        rows, columns = linear_sum_assignment(-matrix.numpy())
        assert sorted(match(matrix)) == sorted(zip(rows.tolist(), columns.tolist(), strict=True))


def test_udr_by_hand() -> None:
    assert udr(torch.eye(3, dtype=torch.float64)) == pytest.approx(1.0)
    # rows: .64/1.4, .64/1.4; columns alike
    assert udr(torch.tensor([[0.8, 0.6], [0.6, 0.8]])) == pytest.approx(0.64 / 1.4)
    # columns: .25/.5, 1/1, 0; rows: 1/1, .25/.5; over 2 + 3
    assert udr(torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.0]])) == pytest.approx((0.5 + 1 + 1 + 0.5) / 5)
    assert udr(torch.zeros(0, 3)) == 0.0


def test_principal_angles_are_scipys() -> None:
    from scipy.linalg import subspace_angles

    rng = np.random.default_rng(3)
    J, K = (torch.from_numpy(rng.standard_normal((5, M, d))) for d in (3, 2))
    found = tangent_overlap(J.mT @ K, J.mT @ J, K.mT @ K)
    for value, a, b in zip(found, J, K, strict=True):
        assert float(value) == pytest.approx(np.mean(np.cos(subspace_angles(a.numpy(), b.numpy())) ** 2))


def test_unrelated_axes_have_uniform_p_values() -> None:
    a, J = codes(200), torch.from_numpy(np.random.default_rng(5).standard_normal((6, M, D)))
    p_codes, p_columns = [], []
    for k in range(60):
        R = haar(D, 1, seed=1000 + k)[0]
        p_codes.append(code_agreement(a, a @ R, count=39, seed=k).p_value)
        K = J @ R
        p_columns.append(column_agreement(J.mT @ K, J.mT @ J, K.mT @ K, count=39, seed=k).p_value)
    for found in (p_codes, p_columns):
        assert stats.kstest(found, "uniform").pvalue > 1e-3
        assert np.mean(np.array(found) <= 0.05) < 0.2


# -- models -----------------------------------------------------------------------------------------


def test_permuted_and_flipped_models_are_the_same_50_of_50() -> None:
    from vaeprobe.comparison.numbers import pair, see

    base = model(torch.eye(D, dtype=torch.float64))
    x = base(codes()).detach()
    first = see(base, x)
    for seed in range(50):
        P, order = signed_permutation(seed)
        found = pair([first, see(model(P), x)], 0, 1, count=9, seed=0)
        assert found.codes.value == pytest.approx(1.0, abs=1e-9)
        assert found.columns.value == pytest.approx(1.0, abs=1e-9)
        assert found.tangents == pytest.approx(1.0, abs=1e-9)
        for matching in (found.codes.pairs, found.columns.pairs):
            assert [j for _, j in sorted(matching)] == order


def test_verdicts() -> None:
    base = model(torch.eye(D, dtype=torch.float64))
    x = base(codes()).detach()
    P, _ = signed_permutation(3)
    same = vaeprobe.compare([base, model(P)], data=x, samples=32)
    assert same.verdict == "same latents"
    assert same.mcc_p.value == pytest.approx(1 / 200)
    # an eighth of a turn in every plane: as far from the axes as can be
    c = 0.5**0.5
    H = torch.kron(torch.tensor([[c, -c], [c, c]]), torch.tensor([[c, -c], [c, c]])).double()
    turned = vaeprobe.compare([base, model(H)], data=x, samples=32)
    assert turned.verdict == "not the same axes"
    assert turned.tangents.value == pytest.approx(1.0, abs=1e-9)
    assert "(p = " in turned.summary


def test_the_change_is_paired() -> None:
    base = model(torch.eye(D, dtype=torch.float64))
    found = vaeprobe.compare([base, base], samples=32)
    assert found.verdict == "side by side"
    assert not found.mcc.defined
    value, (low, high) = found.changes["orthogonality.mean_abs_cosine"]
    assert (value, low, high) == (0.0, 0.0, 0.0)


def test_latents_that_say_nothing_are_left_out() -> None:
    base = model(torch.eye(D, dtype=torch.float64))
    assert base.encoder is not None
    inner = base.encoder.function
    dead = Decoder(
        lambda z: base.flat(z * torch.tensor([1.0, 1, 1, 0], dtype=z.dtype)),
        D,
        dtype=torch.float64,
        encoder=Encoder(
            lambda x: (inner(x)[0] * torch.tensor([1.0, 1, 1, 0.01]), inner(x)[1]),
            D,
            input_shape=(M,),
            dtype=torch.float64,
        ),
    )
    found = vaeprobe.compare([base, dead], data=base(codes()).detach(), samples=32)
    assert [s.informative for s in found.seen] == [(0, 1, 2, 3), (0, 1, 2)]
    assert len(found.pairs[0].codes.pairs) == 3
    assert found.mcc.value == pytest.approx(1.0)


def test_mistakes_are_named() -> None:
    base = model(torch.eye(D, dtype=torch.float64))
    with pytest.raises(UsageError, match="at least two models"):
        vaeprobe.compare([base])
    bare = Decoder(lambda z: z, D)
    with pytest.raises(UsageError, match="without an encoder"):
        vaeprobe.compare([bare, bare], data=torch.zeros(20, D), samples=16)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    import jsonschema

    from vaeprobe.render import schema

    models = [str(BETAS / f"bernoulli_beta{b}.safetensors") for b in (1, 2, 4)]
    rows = ["--data", str(BETAS / "bernoulli.npy"), "--samples", "32", "--rotations", "9"]
    assert run(["compare", *models, *rows, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(schema.document()).validate(document)
    assert [p["models"] for p in document["details"]["pairs"]] == [[0, 1], [0, 2], [1, 2]]
    assert run(["compare", *models, *rows, "--format", "text"]) == 0
    text = capsys.readouterr().out
    assert "Ranked without labels" in text
    assert "A: " in text
    assert run(["compare", models[0]]) == 2
