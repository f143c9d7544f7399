"""Comparisons on pairs that are made from each other: permuted, flipped, rotated, refitted, unrelated."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import vaeprobe
from vaeprobe.budget import within
from vaeprobe.cli import run
from vaeprobe.comparison.numbers import SEARCHED, pair, see, why_apart
from vaeprobe.comparison.ranking import Ranking
from vaeprobe.comparison.sweep import Sweep, sweep_of
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.errors import InputError, UsageError
from vaeprobe.geometry.agreement import (
    code_agreement,
    column_agreement,
    correlations,
    match,
    ranks,
    tangent_overlap,
    udr,
)
from vaeprobe.geometry.labels import binned, dci, lasso, mig, mutual_information, scores, trees_dci
from vaeprobe.geometry.nearest import nearest_codes
from vaeprobe.geometry.rotations import haar
from vaeprobe.render import html, markdown

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


def test_a_model_that_lost_latents_has_not_the_same_ones() -> None:
    W = torch.from_numpy(np.linalg.qr(np.random.default_rng(2).standard_normal((M, D)))[0])
    x = codes() @ W.mT
    whole, permuted, fewer = (
        Decoder(lambda z, A=A: z @ A.mT, A.shape[1], dtype=torch.float64)
        for A in (W, W[:, [*range(1, D), 0]], W[:, :2])
    )
    assert vaeprobe.compare([whole, permuted], data=x, samples=32).verdict == "same latents"
    found = vaeprobe.compare([whole, fewer], data=x, samples=32)
    assert found.mcc.value == pytest.approx(1)
    assert found.verdict == "related axes"
    assert f"as far as the smaller goes, for {D} and 2 latents are informative" in found.summary
    three = vaeprobe.compare([whole, permuted, fewer], data=x, samples=32)
    assert three.verdict == "related axes"
    assert f"smallest goes, for 2 to {D} latents" in three.summary


def test_the_change_is_paired() -> None:
    base = model(torch.eye(D, dtype=torch.float64))
    found = vaeprobe.compare([base, base], samples=32)
    assert found.verdict == "same latents"
    assert "at outputs of the models" in found.summary
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
    with pytest.raises(UsageError, match="tells anything"):
        vaeprobe.compare([bare, bare], data=torch.zeros(20, D), samples=16)
    with pytest.raises(UsageError, match="without an encoder, codes are those of the nearest outputs"):
        vaeprobe.compare([bare, bare], data=torch.zeros(20, D + 1), samples=16)
    x = base(codes()).detach()
    with pytest.raises(UsageError, match="factors belong to rows of data"):
        vaeprobe.compare([base, base], factors=torch.zeros(20))
    with pytest.raises(UsageError, match="and the data 64 rows"):
        vaeprobe.compare([base, base], data=x, factors=torch.zeros(20))
    with pytest.raises(UsageError, match="none of the factors varies"):
        vaeprobe.compare([base, base], data=x, factors=torch.zeros(N))
    with pytest.raises(UsageError, match="no column of this comparison is called `alingment`"):
        vaeprobe.compare([base, base], samples=16, sort="alingment")


def test_which_axis_of_logits_was_taken_for_the_classes_is_said() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(D, 30), nn.Unflatten(1, (6, 5)))
    plain = Decoder(network, D, likelihood="categorical", parameter="natural", dtype=torch.float64)
    for decoder, warned in ((plain, True), (replace(plain, class_axis=-1), False)):
        found = vaeprobe.compare([decoder, decoder], samples=16, rotations=9)
        assert [f.code for f in found.findings if f.code == "class-axis"] == ["class-axis"] * warned


def test_what_can_be_no_column_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    base = model(torch.eye(D, dtype=torch.float64))
    with monkeypatch.context() as patch:
        patch.setattr("vaeprobe.comparison.run.probe_class", None)
        with pytest.raises(UsageError, match="no column of this comparison is called `alingment`"):
            vaeprobe.compare([base, base], samples=16, sort="alingment")
    found = vaeprobe.compare([base, base], samples=16, rotations=9, sort="MIG")
    assert found.sort is None
    (said,) = [f for f in found.findings if f.code == "not-sorted"]
    assert "`MIG`" in said.message
    assert "alignment" in (said.hint or "")
    assert vaeprobe.compare([base, base], samples=16, rotations=9, sort="alignment").sort == "alignment"


def test_latents_of_a_map_have_their_places_in_the_comparison() -> None:
    R = haar(D, 1, seed=3)[0]
    places = replace(model(R), latent_shape=(D, 1, 1)), replace(model(R), latent_shape=(1, 1, D))
    x = places[0](codes()).reshape(N, -1)
    first, second = (see(decoder, x) for decoder in places)
    assert first.names == tuple(f"z{i}" for i in first.informative)  # one place is none
    assert second.names == tuple(f"z{i}[0,0,{i}]" for i in second.informative)


def test_why_models_have_no_outputs_in_common_is_told() -> None:
    small = model(haar(D, 1, seed=3)[0])
    wide = Decoder(lambda z: z[:, :M], SEARCHED + 1)
    other = Decoder(lambda z: z[:, :2], D)
    assert "outputs do not fit together" in why_apart([small, other])
    assert f"has {SEARCHED + 1} latents, and codes are not searched for more than {SEARCHED}" in why_apart(
        [small, wide]
    )
    assert why_apart([small, small]) == ""


def first_outputs(outputs: int) -> Decoder:
    """Return a decoder without an encoder."""
    whole = model(haar(D, 1, seed=3)[0])
    return Decoder(lambda z: whole(z).reshape(len(z), -1)[:, :outputs], D, dtype=torch.float64)


def test_data_are_asked_for_where_they_can_be_given() -> None:
    whole, short = model(haar(D, 1, seed=3)[0]), first_outputs(D)
    x = whole(codes()).reshape(N, -1)
    image = replace(
        first_outputs(M), function=lambda z: whole(z).reshape(len(z), 1, M)
    )  # as many numbers, in another form
    seen_by = replace(short, encoder=whole.encoder)
    for first, second in ((first_outputs(M), image), (first_outputs(M), seen_by), (whole, seen_by)):
        assert why_apart([first, second]).endswith("agreement needs data (--data)")
        assert (
            vaeprobe.compare([first, second], data=x, samples=32, rotations=9)["compare.mcc"].value
            is not None
        )


def test_data_that_fit_no_two_models_are_neither_asked_for_nor_taken() -> None:
    whole, short = first_outputs(M), first_outputs(D)
    told = vaeprobe.compare([whole, short], samples=16, rotations=9)
    assert told.verdict == "side by side"
    assert f"no data fit all models, which take rows of {D} and {M} numbers" in told.summary
    with pytest.raises(UsageError, match="without an encoder") as caught:
        vaeprobe.compare([whole, short], data=whole(codes()), samples=16, rotations=9)
    assert caught.value.hint == "give rows of that shape, or leave --data out"


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
    assert "Which to keep, without labels" in text
    assert "A: bernoulli_beta1.safetensors; B: " in text
    assert len(text.splitlines()) <= 40
    assert "UDR" in "\n".join(text.splitlines()[:24])
    assert run(["compare", models[0]]) == 2


# -- without encoders ---------------------------------------------------------------------------------


def bare(decoder: Decoder) -> Decoder:
    return Decoder(decoder.function, decoder.latent_dim, dtype=torch.float64)


def test_nearest_decodings_are_the_codes() -> None:
    base = model(torch.eye(D, dtype=torch.float64))
    z = codes()
    found, distance = nearest_codes(base, base(z).detach())
    torch.testing.assert_close(found, z, atol=1e-6, rtol=0)
    assert distance.max() < 1e-6


def test_nearest_decodings_off_the_sheet_are_scipys() -> None:
    from scipy.optimize import least_squares

    base = model(torch.eye(D, dtype=torch.float64))
    x = base(codes(8)).detach() + 0.3 * torch.from_numpy(np.random.default_rng(1).standard_normal((8, M)))
    found, distance = nearest_codes(base, x)
    for z, far, row in zip(found, distance, x, strict=True):
        # least_squares halves the sum of squares
        best = least_squares(
            lambda w, row=row: (base(torch.from_numpy(w)[None])[0] - row).detach().numpy(), z.numpy()
        )
        assert float(far) == pytest.approx((2 * best.cost) ** 0.5, abs=1e-6)


def test_without_encoders_permuted_and_flipped_models_are_the_same_50_of_50() -> None:
    base = bare(model(torch.eye(D, dtype=torch.float64)))
    x = base(codes(24)).detach()
    first = see(base, x)
    assert first.how == "nearest decodings"
    for seed in range(50):
        P, order = signed_permutation(seed)
        found = pair([first, see(bare(model(P)), x, seed=seed)], 0, 1, count=9, seed=0)
        assert found.codes.value == pytest.approx(1.0, abs=1e-6)
        for matching in (found.codes.pairs, found.columns.pairs if found.columns else ()):
            assert [j for _, j in sorted(matching)] == order


def test_a_turn_by_a_known_angle_is_measured_50_of_50() -> None:
    U = torch.linalg.qr(torch.from_numpy(np.random.default_rng(9).standard_normal((M, D)))).Q
    flat = Decoder(lambda z: z @ U.mT, D, dtype=torch.float64)
    z = codes(256)
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(z.T @ z / len(z) - z.mean(0)[:, None] * z.mean(0)),
        (z - z.mean(0)).T,
        upper=False,
    ).T
    first = see(flat, white @ U.mT)
    for seed in range(50):
        P, order = signed_permutation(seed)
        angle = np.random.default_rng(100 + seed).uniform(0, 0.7)
        R = torch.eye(D, dtype=torch.float64)
        R[:2, :2] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn = R @ P
        found = pair(
            [first, see(Decoder(lambda z, T=turn: z @ T.mT @ U.mT, D, dtype=torch.float64), white @ U.mT)],
            0,
            1,
            count=9,
            seed=0,
        )
        want = (2 * np.cos(angle) + D - 2) / D
        assert found.codes.value == pytest.approx(want, abs=1e-6)
        assert found.columns is not None
        assert found.columns.value == pytest.approx(want, abs=1e-6)
        assert [j for _, j in sorted(found.codes.pairs)] == order


def test_a_refitted_model_has_the_same_latents() -> None:
    from vaeprobe import PPCA

    rng = np.random.default_rng(2)
    W = np.linalg.qr(rng.standard_normal((M, D)))[0] * [4, 3, 2, 1.3]
    x = rng.standard_normal((4000, D)) @ W.T + 0.1 * rng.standard_normal((4000, M))
    halves = [PPCA(n_components=D).fit(part) for part in (x[::2], x[1::2])]
    columns = [torch.from_numpy(np.array(half.components_.T)) for half in halves]
    models = [Decoder(lambda z, A=A: z @ A.mT, D, dtype=torch.float64) for A in columns]
    found = vaeprobe.compare(models, data=x[:200], samples=200)
    assert found.verdict == "same latents"
    assert found.mcc.value > 0.98


def test_without_encoders_unrelated_axes_have_uniform_p_values() -> None:
    base = bare(model(torch.eye(D, dtype=torch.float64)))
    x = base(codes(48)).detach()
    first, p = see(base, x), []
    for k in range(40):
        other = see(bare(model(haar(D, 1, seed=500 + k)[0])), x)
        p.append(pair([first, other], 0, 1, count=39, seed=k).codes.p_value)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_logits_are_compared_as_probabilities() -> None:
    U = torch.from_numpy(np.random.default_rng(4).standard_normal((M, 2)))
    said = Decoder(lambda z: z @ U.mT, 2, dtype=torch.float64, parameter="natural", likelihood="bernoulli")
    mean = Decoder(lambda z: (z @ U.mT).sigmoid(), 2, dtype=torch.float64, likelihood="bernoulli")
    found = vaeprobe.compare([said, mean], samples=32, rotations=9)
    assert found.mcc.value == pytest.approx(1, abs=1e-6)
    assert found.columns.value == pytest.approx(1, abs=1e-6)


def test_outputs_of_different_sizes_are_compared_by_codes_alone() -> None:
    base = model(torch.eye(D, dtype=torch.float64))
    assert base.encoder is not None
    wide = Decoder(lambda z: torch.cat([base.flat(z)] * 2, 1), D, dtype=torch.float64, encoder=base.encoder)
    x = base(codes()).detach()
    found = vaeprobe.compare([base, wide], data=x, samples=32)
    assert found.mcc.value == pytest.approx(1)
    assert not found.columns.defined
    assert found.verdict == "same latents"
    assert vaeprobe.compare([base, wide], samples=32).verdict == "side by side"


def test_models_without_codes_are_still_put_side_by_side() -> None:
    dead = Decoder(lambda z: z @ torch.zeros(2, 3).to(z), 2)
    found = vaeprobe.compare([dead, Decoder(lambda z: z @ torch.eye(2, 3).to(z), 2)], samples=16, rotations=9)
    assert found.verdict == "side by side"
    assert "tells anything" in found.summary
    assert "tells anything" in (found.mcc.reason or "")


# -- UDR, ranking, sweeps -----------------------------------------------------------------------------


def test_ranks_of_equal_values_are_scipys() -> None:
    a = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (40, 3)).astype(float))
    np.testing.assert_allclose(ranks(a).numpy(), stats.rankdata(a.numpy(), axis=0) - 1)


def test_ranking_finds_the_best_and_says_how_sure() -> None:
    draws = torch.tensor([[3.0, 1, 2], [3, 1, 2], [1, 3, 2], [2, 0, 2]])
    ranking = Ranking("udr", (2.5, 1.0, 2.0), draws)
    assert ranking.order == (0, 2, 1)
    assert ranking.first() == pytest.approx([2.5 / 4, 1 / 4, 0.5 / 4])
    assert ranking.places()[0] == (1, 3)


def test_models_that_agree_are_ranked_above_one_that_does_not() -> None:
    base = model(torch.eye(D, dtype=torch.float64))
    x = base(codes(200)).detach()
    turned = model(haar(D, 1, seed=3)[0])
    models = [turned, base, model(signed_permutation(1)[0]), model(signed_permutation(2)[0])]
    found = vaeprobe.compare(models, data=x, samples=200, rotations=19)
    by = {r.criterion: r for r in found.rankings}
    assert set(by) == {"udr", "agreement", "alignment"}
    for name in ("udr", "agreement", "alignment"):
        assert by[name].order[-1] == 0
        assert by[name].places()[0] == (4, 4)
    assert [p.codes.value > 0.999 for p in found.pairs] == [False] * 3 + [True] * 3
    table = found.by_column()
    udrs = {(p.first, p.second): p.udr for p in found.pairs}
    assert table["udr"][1] == pytest.approx(np.median([udrs[0, 1], udrs[1, 2], udrs[1, 3]]))


def test_a_sweep_is_told_by_names() -> None:
    assert sweep_of(["a/b1.pt", "a/b4.pt"]) == Sweep("b", (1.0, 4.0))
    assert sweep_of(["seed1.pt", "seed02.pt"]) == Sweep("seed", (1.0, 2.0))
    assert sweep_of(["b1_s1.pt", "b2_s2.pt"]) is None
    assert sweep_of(["a.pt", "b.pt"]) is None
    assert sweep_of(["run1/m.pt2", "run2/m.pt2"]) == Sweep("run", (1.0, 2.0))
    assert Sweep("beta", (0.5, 8.0)).log
    assert not Sweep("seed", (0.0, 8.0)).log


def test_a_sweep_sorted_as_csv(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    models = [str(BETAS / f"bernoulli_beta{b}.safetensors") for b in (4, 1, 8)]
    rows = ["--data", str(BETAS / "bernoulli.npy"), "--samples", "32", "--rotations", "9", "-q"]
    path = tmp_path / "t.csv"
    assert run(["compare", *models, *rows, "--sort", "elbo", "-o", str(path)]) == 0
    table = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    elbos = [float(row["elbo.value"]) for row in table]
    assert elbos == sorted(elbos, reverse=True)
    assert {row["beta"] for row in table} == {"4.0", "1.0", "8.0"}
    first = table[0]
    assert float(first["orthogonality.alignment.low"]) <= float(first["orthogonality.alignment"])
    assert first["orthogonality.verdict"]
    assert "'" not in path.read_text(encoding="utf-8"), "an empty cell is empty"
    capsys.readouterr()
    assert run(["compare", *models, *rows, "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert "Metrics over beta" in page
    assert "beta (log scale)" in page
    assert page.index(">B<") < page.index(">A<") < page.index(">C<")  # by beta


# -- labels -------------------------------------------------------------------------------------------


def test_mutual_information_and_mig_are_sklearns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    v = rng.integers(0, 5, (500, 2))
    z = np.stack(
        [v[:, 0] + 0.2 * rng.standard_normal(500), v[:, 1] * 2.0, v.sum(1) + rng.standard_normal(500)], 1
    )
    bins = np.stack([np.digitize(c, np.histogram(c, 20)[1][:-1]) if len(set(c)) > 20 else c for c in z.T], 1)
    table = np.array([[metrics.mutual_info_score(bins[:, i], v[:, j]) for j in range(2)] for i in range(3)])
    ours = mutual_information(binned(torch.from_numpy(z)), binned(torch.from_numpy(v).double()))
    np.testing.assert_allclose(ours.numpy(), table, atol=1e-9)
    entropy = [stats.entropy(np.bincount(c)) for c in v.T]
    ordered = np.sort(table, 0)
    assert mig(torch.from_numpy(z), torch.from_numpy(v).double()) == pytest.approx(
        np.mean((ordered[-1] - ordered[-2]) / entropy)
    )


def test_the_lasso_is_sklearns() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    X = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 6))
    Y = X[:, :3] + 0.5 * rng.standard_normal((200, 3))
    X, Y = X - X.mean(0), Y - Y.mean(0)
    want = linear.Lasso(alpha=0.05, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(X, Y).coef_.T
    np.testing.assert_allclose(lasso(torch.from_numpy(X), torch.from_numpy(Y), 0.05).numpy(), want, atol=1e-6)


def test_dci_by_hand_and_as_sklearn_computes_it() -> None:
    eye = torch.eye(3, dtype=torch.float64)
    assert scores(eye) == (1.0, 1.0)
    assert scores(torch.ones(3, 3, dtype=torch.float64)) == pytest.approx((0.0, 0.0), abs=1e-12)
    # rows (1, 1) and (0, 2): weights 1/2 each, 1 - H = 0 and 1; columns (1, 0) and (1, 2) / 3
    H = -(1 / 3 * np.log2(1 / 3) + 2 / 3 * np.log2(2 / 3))
    found = scores(torch.tensor([[1.0, 1.0], [0.0, 2.0]], dtype=torch.float64))
    assert found == pytest.approx((0.5, (1 + 1 - H) / 2))
    linear = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    rng = np.random.default_rng(3)
    v = rng.standard_normal((400, 3))
    z = np.stack([2 * v[:, 1] + 0.1 * v[:, 0], v[:, 0], v[:, 2] + v[:, 1], rng.standard_normal(400)], 1)
    xs, ys = (preprocessing.StandardScaler().fit(a[::2]) for a in (z, v))
    fitted = linear.Lasso(alpha=0.02, tol=1e-12, max_iter=100_000).fit(
        xs.transform(z[::2]), ys.transform(v[::2])
    )
    P = np.abs(fitted.coef_.T)
    rows = 1 - np.array([stats.entropy(p / p.sum(), base=3) if p.sum() else 1 for p in P])
    columns = 1 - np.array([stats.entropy(p / p.sum(), base=4) for p in P.T])
    ours = dci(torch.from_numpy(z), torch.from_numpy(v))
    assert ours.disentanglement == pytest.approx(rows @ P.sum(1) / P.sum(), abs=1e-6)
    assert ours.completeness == pytest.approx(columns.mean(), abs=1e-6)
    # 1 - MSE over the mean square about the fitted rows' mean
    held = ys.transform(v[1::2])
    rest = np.square(held - fitted.predict(xs.transform(z[1::2]))).mean(0) / np.square(held).mean(0)
    assert ours.informativeness == pytest.approx(1 - rest.mean(), abs=1e-6)


def test_dci_by_trees_is_that_of_the_benchmark() -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(4)
    v = np.stack([rng.integers(0, 3, 300), rng.integers(0, 4, 300), rng.standard_normal(300)], 1)
    z = np.stack([v[:, 0] ** 2 + 0.1 * v[:, 1], v[:, 2] ** 3, rng.standard_normal(300), v[:, 1] - v[:, 2]], 1)
    # as disentanglement_lib's metrics/dci.py computes it, on the same split
    P, right = np.zeros((4, 3)), []
    for j in range(3):
        kind = ensemble.GradientBoostingRegressor if j == 2 else ensemble.GradientBoostingClassifier
        fitted = kind(random_state=0).fit(z[::2], v[::2, j])
        P[:, j] = np.abs(fitted.feature_importances_)
        right.append(fitted.score(z[1::2], v[1::2, j]))
    of_codes = 1 - stats.entropy(P.T + 1e-11, base=3)
    of_factors = 1 - stats.entropy(P + 1e-11, base=4)
    found = trees_dci(torch.from_numpy(z), torch.from_numpy(v))
    assert found is not None
    assert found.disentanglement == pytest.approx((P.sum(1) / P.sum() * of_codes).sum(), abs=1e-6)
    assert found.completeness == pytest.approx((P.sum(0) / P.sum() * of_factors).sum(), abs=1e-6)
    assert found.informativeness == pytest.approx(np.mean(right), abs=1e-9)
    assert found.disentanglement > 0.6
    # a bent code, which the lasso does not see
    bent = torch.from_numpy(np.stack([v[:, 2] ** 2, rng.standard_normal(300)], 1))
    told = trees_dci(bent, torch.from_numpy(np.abs(v[:, 2:]).round(1)))
    assert told is not None
    assert told.informativeness > 0.9


def test_a_factor_of_one_value_among_the_rows_to_fit_tells_nothing() -> None:
    pytest.importorskip("sklearn.ensemble")
    v = torch.zeros(20, 1, dtype=torch.float64)
    v[1] = 1.0
    found = trees_dci(torch.randn(20, 2, dtype=torch.float64), v)
    assert found == (0.0, 0.0, 0.9)


def test_without_scikit_learn_there_are_no_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    assert trees_dci(torch.randn(20, 2, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)) is None


def test_factors_stand_beside_the_rest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base = model(torch.eye(D, dtype=torch.float64))
    z = codes(128)
    x = base(z).detach()
    c = 0.5**0.5
    turned = model(torch.kron(torch.tensor([[c, -c], [c, c]]), torch.tensor([[c, -c], [c, c]])).double())
    found = vaeprobe.compare([base, turned], data=x, factors=z, rotations=19, sort="MIG")
    assert found.labelled[0]["labels.mcc"] == pytest.approx(1)
    assert found.labelled[0]["labels.mcc_p"] == pytest.approx(1 / 20)
    assert found.labelled[0]["labels.dci_disentanglement"] > 0.95
    assert found.labelled[1]["labels.dci_disentanglement"] < 0.3
    assert found.labelled[1]["labels.dci_informativeness"] > 0.99
    assert found.order() == (0, 1)
    assert found.mig.value == [found.labelled[0]["labels.mig"], found.labelled[1]["labels.mig"]]
    # classes of the sample digits are no order, but a table of factors all the same
    rows = np.load(BETAS / "bernoulli.npy")
    np.save(tmp_path / "f.npy", rows.reshape(len(rows), -1).mean(1))
    models = [str(BETAS / f"bernoulli_beta{b}.safetensors") for b in (1, 4)]
    given = [
        "--data",
        str(BETAS / "bernoulli.npy"),
        "--factors",
        str(tmp_path / "f.npy"),
        "-n",
        "64",
        "--rotations",
        "9",
    ]
    assert run(["compare", *models, *given]) == 0
    page = capsys.readouterr().out
    for said in (
        "mutual information gap (MIG)",
        "DCI disentanglement",
        "p-value of the match with",
    ):
        assert said in page


# -- published models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["betaH_mnist", "btcvae_mnist"])
def test_published_models_share_their_axes_in_part(models: Path, other: str) -> None:
    files = [models / "disvae" / name / "model.pt" for name in ("VAE_mnist", other)]
    if not all(file.is_file() for file in files):
        pytest.skip("not among the checkpoints here")
    x = torch.from_numpy(np.load(models / "data" / "mnist32_1000.npy")[:128] / 255.0).float()
    found = pair([see(vaeprobe.load(str(file)), x) for file in files], 0, 1, count=99, seed=0)
    assert found.columns is not None
    assert found.tangents is not None
    assert found.codes.p_value == found.columns.p_value == 0.01
    assert 0.5 < found.codes.value < 0.9
    assert found.columns.value < 0.75
    assert 0.4 < found.tangents < 0.8
    # latent space and data space match the same latents
    same = set(found.codes.pairs) & set(found.columns.pairs)
    assert len(same) >= 0.7 * len(found.codes.pairs)


# -- parts of the latents -----------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three latents at random are measured of more than four."""
    from vaeprobe.probes import parts

    monkeypatch.setattr(parts, "SOME", 3)
    monkeypatch.setattr(parts, "WHOLE", 4)
    monkeypatch.setattr("vaeprobe.probes.factorise.probe.WHOLE", 4)


def wide(latents: int, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(latents, 16), nn.Tanh(), nn.Linear(16, 12)).double()
    return Decoder(network.eval(), latents, dtype=torch.float64)


def codes_of(found: vaeprobe.Comparison) -> dict[str, str]:
    return {f.code: f.level for f in found.findings}


@pytest.mark.usefixtures("small_parts")
def test_numbers_of_different_parts_are_not_set_against_each_other() -> None:
    found = vaeprobe.compare([wide(6), wide(4)], samples=16, rotations=9, sort="alignment")
    assert (found.rankings, found.changes) == ((), {})
    assert codes_of(found) == {"different-parts": "warning", "not-sorted": "warning"}
    apart, unsorted = found.findings
    assert "orthogonality of 3 random latents, of 6 (A) and all latents (B); factorise of 3" in apart.message
    assert apart.hint is not None
    assert apart.hint.startswith("`vaeprobe orthogonality MODEL --part all`")
    assert "those of different parts of the latents" in unsorted.message
    assert "alignment" not in (unsorted.hint or "alignment")
    marked = "(of the part that was measured)"
    first, second = (results["orthogonality"] for results in found.results)
    table = found._side_by_side()
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["orthogonality: verdict"][:2] == [f"{first.verdict} {marked}", second.verdict]
    assert rows["orthogonality: measured"][:2] == ["3 random latents, of 6", "all latents"]
    assert rows["active latents"][:2] == ["≥ 3", 4]
    published = found._published()
    assert [row[0] for row in published.rows if str(row[0]).startswith(">")] == ["> B"]
    assert published.note.endswith("A measured in part, with no place among them")
    for shown in (str(found), markdown.render(found.page()), html.render(found.page())):
        text = " ".join(shown.split())
        assert "≥ 3" in text
        assert "3 random latents, of 6" in text
        assert "Which to keep" not in text
    assert marked in markdown.render(found.page())
    told = found.to_dict()["details"]["results"]
    assert told[0]["orthogonality"]["part"] == "3 random latents, of 6"
    assert len(told[0]["factorise"]["verdict_of_all"]) > 1
    assert "part" not in told[1]["orthogonality"]
    line, other = csv.DictReader(found.csv().splitlines())
    assert (line["orthogonality.part"], other["orthogonality.part"]) == ("3 random latents, of 6", "")
    assert (line["latents.active.of_all"], other["latents.active.of_all"]) == ("at least", "known")
    assert (line["latents.active"], other["latents.active"]) == ("3", "4")
    assert float(line["orthogonality.alignment"]) == first["orthogonality.alignment"].value


@pytest.mark.usefixtures("small_parts")
def test_models_of_the_same_part_are_ranked_by_it_and_that_is_said() -> None:
    found = vaeprobe.compare([wide(6), wide(6, 1)], samples=16, rotations=9, sort="alignment")
    assert [(r.criterion, r.part) for r in found.rankings] == [("alignment", "3 random latents, of 6")]
    assert found._ranking().rows[0][0] == "alignment with the axes (of the part that was measured)"
    assert found.to_dict()["details"]["rankings"][0]["part"] == "3 random latents, of 6"
    assert "orthogonality.alignment" in found.changes
    assert codes_of(found) == {"part-of-jacobian": "note", "part-of-latents": "note"}
    assert not [row for row in found._published().rows if str(row[0]).startswith(">")]
    whole = vaeprobe.compare([wide(4), wide(4, 1)], samples=16, rotations=9)
    assert [(r.criterion, r.part) for r in whole.rankings] == [("alignment", "")]
    assert codes_of(whole) == {}
    assert "≥" not in str(whole)
    assert ".part," not in whole.csv()
    three = vaeprobe.compare([wide(4), wide(4, 1), wide(6)], samples=16, rotations=9)
    assert [r.criterion for r in three.rankings] == ["udr", "agreement"]
    assert ["≥ 3" in row for row in three._models().rows] == [False, False, True]


@pytest.mark.parametrize("lasts", [(True, False), (False, True), (True, True)])
def test_limited_time_takes_the_same_part_of_the_same_latents(
    lasts: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock says another thing of each of two equal files."""
    from vaeprobe.probes import parts
    from vaeprobe.probes.orthogonality import Orthogonality

    monkeypatch.setattr(parts, "SOME", 3)
    probe = Orthogonality(samples=16)
    with within(1e-9):
        assert not probe.affords_all(wide(6))
        assert probe.affords_all(wide(3)), "there is no part of so few"
    with within(3600):
        assert probe.affords_all(wide(6))
    answers = iter(lasts)
    monkeypatch.setattr(Orthogonality, "affords_all", lambda *_: next(answers))
    found = vaeprobe.compare([wide(6), wide(6)], samples=16, rotations=9, time=60)
    part = "" if all(lasts) else "3 random latents, of 6"
    assert [results["orthogonality"].part for results in found.results] == [part, part]
    assert found.changes["orthogonality.ima_contrast"] == (0.0, (0.0, 0.0))
    assert ("time-limit" in codes_of(found)) == (not all(lasts))


def test_factors_that_are_no_numbers_are_refused() -> None:
    base = model(torch.eye(D, dtype=torch.float64))
    z = codes()
    x = base(z).detach()
    assert vaeprobe.compare([base, base], data=x, factors=z, samples=32).metrics["labels.mcc"].defined
    for wrong in (float("nan"), float("inf")):
        z = codes()
        z[3, 1] = z[5, 0] = wrong
        with pytest.raises(InputError, match=r"2 of \d+ rows of the factors hold NaN"):
            vaeprobe.compare([base, base], data=x, factors=z, samples=32)
