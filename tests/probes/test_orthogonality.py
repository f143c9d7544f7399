"""The orthogonality probe against exact maps, laws, and real checkpoints."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import vaeprobe
from vaeprobe.budget import within
from vaeprobe.decoder import Decoder, Group
from vaeprobe.encoder import Encoder
from vaeprobe.engine.verbs import gram
from vaeprobe.errors import UsageError
from vaeprobe.latents import Given, Posterior, Prior
from vaeprobe.probes import parts
from vaeprobe.probes.base import judge
from vaeprobe.probes.orthogonality import METRICS, Orthogonality, OrthogonalityResult
from vaeprobe.probes.orthogonality.reading import Reading
from vaeprobe.probes.orthogonality.repair import Repair, repair_of
from vaeprobe.probes.orthogonality.words import verdict
from vaeprobe.published import place
from vaeprobe.report import Metric, metric_map

from maps import (
    ExactMap,
    a,
    all_maps,
    b1,
    decoder,
    e,
    f_dead,
    f_duplicated,
    f_wide,
    frame,
    oblique_maps,
    orthogonal_maps,
    rotated,
    singular_maps,
    tied_maps,
)

SPECS = {spec.id: spec for spec in METRICS}


def measure(of: ExactMap | Decoder, **changes: Any) -> OrthogonalityResult:
    settings: dict[str, Any] = {"samples": 40, "rotations": 99, "restarts": 1} | changes
    return Orthogonality(**settings).measure(of if isinstance(of, Decoder) else decoder(of))


def number(result: OrthogonalityResult, name: str) -> float:
    value = result[name if "." in name else f"orthogonality.{name}"].value
    assert isinstance(value, (int, float)), result[f"orthogonality.{name}"].reason
    return float(value)


def findings(result: OrthogonalityResult) -> set[str]:
    return {f.code for f in result.findings}


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for v in value.values() for x in numbers_in(v)]
    if isinstance(value, (list, tuple)):
        return [x for v in value for x in numbers_in(v)]
    return [value] if isinstance(value, float) else []


# -- exact maps ---------------------------------------------------------------------------------

REGULAR = [m for m in all_maps() if m.contrast and m.latent_dim > 1]


@pytest.mark.parametrize("map", REGULAR, ids=repr)
def test_every_number_of_a_regular_map_follows_from_its_stated_metric(map: ExactMap) -> None:
    d = map.latent_dim
    result = measure(map, beta_sigma2=0.3)
    z = Prior().draw(decoder(map), 40, seed=0)
    G = map.gram(z)
    n = G.diagonal(dim1=-2, dim2=-1).sqrt()
    i, j = np.triu_indices(d, 1)
    cosines = (G / (n[:, :, None] * n[:, None, :]))[:, i, j].abs()
    Lambda = torch.eye(d, dtype=torch.float64) + G / 0.3
    gap = 0.5 * (Lambda.diagonal(dim1=-2, dim2=-1).log().sum(1) - torch.linalg.slogdet(Lambda)[1])
    s = torch.linalg.eigvalsh(G).flip(1).sqrt()
    p = s / s.sum(1, keepdim=True)
    assert map.contrast is not None
    expected = {
        "latents.dim": d,
        "latents.active": d,
        "orthogonality.mean_abs_cosine": cosines.mean(),
        "orthogonality.max_abs_cosine": cosines.amax(1).mean(),
        "orthogonality.ima_contrast": map.contrast(z).mean(),
        "orthogonality.ima_contrast_held_out": map.contrast(z)[1::2].mean(),
        "orthogonality.mean_field_gap": gap.mean(),
        "orthogonality.conformality": n.log().std(1, correction=0).mean(),
        "orthogonality.condition_number": np.median(s[:, 0] / s[:, -1]),
        "orthogonality.effective_rank": (-p * p.log()).sum(1).exp().mean(),
        "orthogonality.smallest_gap": np.median((1 - s[:, 1:] / s[:, :-1]).amin(1)),
    }
    for id, value in expected.items():
        assert result[id].value == pytest.approx(float(value), abs=1e-9), id


@pytest.mark.parametrize("map", [m for m in orthogonal_maps() if m.latent_dim > 1], ids=repr)
def test_orthogonal_maps_pass(map: ExactMap) -> None:
    result = measure(map)
    assert result.verdict == "orthogonal"
    for name in ("mean_abs_cosine", "ima_contrast", "mean_field_gap", "ima_contrast_rotated", "fixable"):
        assert number(result, name) == pytest.approx(0, abs=1e-9)
    assert number(result, "distance_to_axes") < 1e-8
    assert number(result, "alignment") == pytest.approx(1, abs=1e-9)
    assert number(result, "alignment_p") == 0.01


@pytest.mark.parametrize("map", [m for m in oblique_maps() if m.rotation is not None], ids=repr)
def test_rotated_maps_fail_and_are_repaired_on_held_out_latents(map: ExactMap) -> None:
    result = measure(map)
    assert result.verdict == "rotated"
    assert number(result, "ima_contrast_rotated") == pytest.approx(0, abs=1e-9)
    assert number(result, "fixable") == pytest.approx(number(result, "ima_contrast_held_out"), abs=1e-9)
    mended = measure(result.rotated(decoder(map)))
    assert mended.verdict == "orthogonal"


@pytest.mark.parametrize("map", tied_maps(), ids=repr)
def test_conformal_maps_are_orthogonal_in_every_basis(map: ExactMap) -> None:
    for version in (map, rotated(map)):
        result = measure(version)
        assert result.verdict == "conformal"
        assert not result["orthogonality.alignment"].defined
        assert "every basis" in str(result["orthogonality.alignment"].reason)
        assert number(result, "distance_to_axes") < 1e-8
        assert "tied-singular-values" in findings(result)


def test_an_entangled_map_is_not_repaired() -> None:
    result = measure(e(3), samples=200)
    assert result.verdict == "entangled"
    assert number(result, "ima_contrast_rotated") > 0.2
    assert result["orthogonality.ima_contrast_rotated"].ci is not None


# -- thresholds of the verdict, from both sides -------------------------------------------------


def linear(W: Tensor) -> Decoder:
    return Decoder(lambda z: z @ W.to(z.dtype).T, W.shape[1], dtype=torch.float64)


def with_cosines(lengths: list[float], cosine: float, m: int = 40) -> Tensor:
    """Columns of these lengths that all meet at the same cosine."""
    d = len(lengths)
    C = torch.full((d, d), cosine, dtype=torch.float64).fill_diagonal_(1.0)
    return frame(m, d) @ torch.linalg.cholesky(C).T * torch.tensor(lengths, dtype=torch.float64)


@pytest.mark.parametrize(("cosine", "orthogonal"), [(0.047, True), (0.053, False)])
def test_orthogonal_columns_meet_at_a_cosine_under_a_twentieth(cosine: float, orthogonal: bool) -> None:
    result = measure(linear(with_cosines([1.0, 3.0, 9.0, 27.0], cosine)), rotations=199, restarts=0)
    assert (result.verdict == "orthogonal") == orthogonal


@pytest.mark.parametrize("share", [0.7, 1.5])
def test_orthogonal_columns_are_far_under_random_axes(share: float) -> None:
    # c is about cosine^2 / 2; random axes have log((1 + l)^2 / 4 l), which is (l - 1)^2 / 4 to second order
    cosine = 0.04
    length = 1 + math.sqrt(4 * cosine**2 / 2 / (0.2 * share))
    result = measure(linear(with_cosines([1.0, length], cosine)), rotations=4999, restarts=0)
    assert number(result, "alignment") == pytest.approx(1 - 0.2 * share, abs=0.06)
    assert (result.verdict == "orthogonal") == (share < 1)


@pytest.mark.parametrize(("m", "k"), [(512, 128), (512, 64), (2048, 32), (300, 10)])
def test_columns_that_meet_as_random_ones_do_are_not_orthogonal(m: int, k: int) -> None:
    W = torch.from_numpy(np.random.default_rng(0).standard_normal((m, k)) * np.linspace(0.3, 1.7, k))
    result = measure(linear(W), samples=4, rotations=39, restarts=0)
    assert result.verdict not in ("orthogonal", "conformal")
    if m > 300:  # else they meet at cosines that are not small
        assert "meet as random directions of the output space do" in result.summary


@pytest.mark.parametrize(("cosine", "orthogonal"), [(0.020, True), (0.049, False)])
def test_columns_far_more_orthogonal_than_random_ones_are_orthogonal(cosine: float, orthogonal: bool) -> None:
    W = with_cosines(np.geomspace(0.1, 9, 40).tolist(), cosine, 400)
    result = measure(linear(W), samples=4, rotations=39, restarts=0)
    share = number(result, "ima_contrast") / number(result, "ima_contrast_gaussian")
    assert (share < 0.5) == orthogonal
    assert (result.verdict == "orthogonal") == orthogonal


@pytest.mark.parametrize(("cosine", "orthogonal"), [(0.043, True), (0.046, False)])
def test_a_thousandth_of_a_nat_is_orthogonal_whatever_random_columns_have(
    cosine: float, orthogonal: bool
) -> None:
    # in 20,000 dimensions random columns have a contrast of 2.5e-5
    result = measure(linear(with_cosines([1.0, 9.0], cosine, 20_000)), rotations=4999, restarts=0)
    assert number(result, "ima_contrast_gaussian") < 3e-5
    assert (number(result, "ima_contrast") < 1e-3) == orthogonal
    assert (result.verdict == "orthogonal") == orthogonal


def verdict_of(*, c: float = 1.0, A: tuple[float, float, float] = (0.5, 0.4, 0.6), p: float = 0.01, rotations: int = 99,
               repair: Repair | None = None, a: int = 6, n: int = 256) -> tuple[str, str]:  # fmt: skip
    """The verdict on numbers that are given: `A` with the ends of its interval."""
    value, low, high = A
    null = c / (1 - value)
    metrics = [
        Metric(SPECS["orthogonality.ima_contrast"], c, ci=(0.99 * c, 1.01 * c), n=n),
        Metric(SPECS["orthogonality.ima_contrast_null"], null, ci=(0.99 * null, 1.01 * null)),
        Metric(SPECS["orthogonality.ima_contrast_gaussian"], 1e3),
        Metric(SPECS["orthogonality.alignment"], value, ci=(low, high)),
        Metric(SPECS["orthogonality.alignment_p"], p),
    ]
    reading = SimpleNamespace(
        left_out=None, isotropic=True, more="more --samples",
        active=range(a), names=["z"] * a, singular=None, rotations=rotations, repair=repair,
        search="too many" if repair is None else None, likelihood=None, kind="latents", block=None,
        low_rank=False,
    )  # fmt: skip
    return verdict(metric_map(metrics), reading)  # type: ignore[arg-type]


NO_REPAIR = Repair(1.0, 1.0, (0.9, 1.1), False, (-0.1, 0.1))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"A": (0.3, 0.21, 0.4)}, "aligned"),
        ({"A": (0.3, 0.19, 0.4)}, "undecided"),
        ({"A": (0.03, 0.02, 0.04)}, "entangled"),
        ({"A": (0.15, 0.1, 0.19)}, "entangled"),
        ({"p": 0.05, "A": (0.3, 0.25, 0.4)}, "aligned"),
        ({"p": 0.06, "A": (0.3, 0.25, 0.4)}, "entangled"),
        ({"p": 0.1, "rotations": 9, "A": (0.3, 0.25, 0.4)}, "undecided"),
        ({"p": 0.2, "rotations": 9, "A": (0.3, 0.25, 0.4)}, "entangled"),
        ({"repair": None, "A": (0.1, 0.05, 0.15)}, "unaligned"),
        ({"repair": Repair(1.0, 0.01, (0.01, 0.018), True, (0.91, 0.95))}, "rotated"),
        ({"repair": Repair(1.0, 0.01, (0.01, 0.018), True, (0.89, 0.95))}, "aligned"),
        ({"repair": Repair(1.0, 0.01, (0.01, 0.019), True, (0.91, 0.95))}, "aligned"),
        (
            {"repair": Repair(1.0, 0.3, (0.3, 0.4), True, (0.51, 0.95)), "A": (0.1, 0.05, 0.15)},
            "partly rotated",
        ),
        ({"repair": Repair(1.0, 0.3, (0.3, 0.4), True, (0.49, 0.95)), "A": (0.1, 0.05, 0.15)}, "entangled"),
        ({"c": 0.018, "A": (0.9, 0.81, 0.95)}, "orthogonal"),
        ({"c": 0.018, "A": (0.9, 0.79, 0.95)}, "aligned"),
        # few draws may miss a tenth of all latents, which matters the more the less a contrast may be
        ({"c": 0.001, "A": (0.9, 0.81, 0.95), "a": 2, "n": 28}, "undecided"),
        ({"c": 0.001, "A": (0.9, 0.81, 0.95), "a": 2, "n": 29}, "orthogonal"),
        ({"c": 0.004, "A": (0.9, 0.81, 0.95), "n": 9}, "undecided"),
        ({"c": 0.004, "A": (0.9, 0.81, 0.95), "n": 10}, "orthogonal"),
        # where a rotation may repair all
        ({"p": 0.2, "repair": Repair(1.0, 0.1, (0.0, 0.4), False, (-0.5, 0.9))}, "undecided"),
        ({"p": 0.2, "repair": Repair(1.0, 0.1, (0.0, 0.4), False, (-0.5, 0.89))}, "entangled"),
        ({"p": 0.2, "repair": Repair(1.0, 0.1, (0.0187, 0.4), False, (-0.5, 0.95))}, "undecided"),
        ({"p": 0.2, "repair": Repair(1.0, 0.1, (0.0188, 0.4), False, (-0.5, 0.95))}, "entangled"),
        # by the end of the interval, 1 % above c: 15 pairs at a cosine of .05 have .01875 nats
        ({"c": 0.0186, "A": (0.9, 0.81, 0.95)}, "aligned"),
    ],
)
def test_words_follow_the_ends_of_intervals(changes: dict[str, Any], word: str) -> None:
    said, summary = verdict_of(**{"repair": NO_REPAIR} | changes)
    assert said == word
    assert said in Orthogonality.VERDICTS
    assert ("was not searched: too many" in summary) == (changes.get("repair", NO_REPAIR) is None)
    assert ("hardly more" in summary) == (
        word in ("entangled", "unaligned") and changes.get("p", 0.01) <= 0.05
    ) or word == "partly rotated"


def test_a_repair_is_judged_by_its_interval() -> None:
    rng = np.random.default_rng(0)
    given = rng.uniform(0.9, 1.1, 40)
    for left in (0.05, 0.5):
        found = repair_of(given, left * given * rng.uniform(0.9, 1.1, 40))
        assert found.share[0] < 1 - left < found.share[1]
        assert found.fell
    worse = repair_of(given, given * rng.uniform(0.9, 1.12, 40))
    assert worse.share[0] <= 0
    assert not worse.fell
    assert repair_of(0 * given, 0 * given).share == (0, 0)


def test_above_a_hundred_latents_no_rotation_is_searched_and_that_is_said() -> None:
    for d in (128, 129):
        C = torch.eye(d, dtype=torch.float64) + 0.3 * torch.diag(torch.ones(d - 1, dtype=torch.float64), 1)
        result = measure(linear(frame(d + 8, d) @ C), samples=4, rotations=9, restarts=0)
        searched = result["orthogonality.ima_contrast_rotated"].defined
        assert searched == (d == 128)
        assert ("was not searched" in result.summary) == (d > 128)
        assert (result.verdict == "rotated") == (d == 128)


# -- the interval of the alignment ----------------------------------------------------------------


def bent(n: int = 3, m: int = 7) -> Decoder:
    A, b, B = frame(8, n, 3).T * math.sqrt(8 / n), frame(8, 1, 4)[:, 0], frame(8, m, 5)
    return Decoder(lambda z: torch.exp(1.2 * torch.tanh(z @ A + b) @ B), n, dtype=torch.float64)


@pytest.mark.parametrize(("samples", "rotations"), [(512, 29), (8, 199)])
def test_intervals_of_alignment_and_null_hold_the_error_of_the_rotations(
    samples: int, rotations: int
) -> None:
    probed = bent()
    names = ("alignment", "ima_contrast_null")
    exact = measure(probed, samples=8000, seed=987, rotations=2000, restarts=0)
    truths = [number(exact, name) for name in names]
    inside = np.zeros(2)
    for seed in range(60):
        result = measure(probed, samples=samples, seed=seed, rotations=rotations, restarts=0)
        for i, (name, truth) in enumerate(zip(names, truths, strict=True)):
            low, high = result[f"orthogonality.{name}"].ci or (0, 0)
            inside[i] += low <= truth <= high
    # 57 of 60 expected; fewer than 52 in one of 100 trials
    assert inside.min() >= 52, inside


def test_few_latents_have_wide_intervals_that_cover() -> None:
    truth = number(measure(bent(), samples=8000, seed=987, rotations=9, restarts=0), "mean_abs_cosine")
    inside = 0
    for seed in range(100):
        low, high = measure(bent(), samples=4, seed=seed, rotations=9, restarts=0)[
            "orthogonality.mean_abs_cosine"
        ].ci or (0, 0)
        inside += low <= truth <= high
    assert inside >= 88


def test_medians_of_few_latents_have_no_interval() -> None:
    few, enough = (measure(bent(), samples=n, restarts=0)["orthogonality.condition_number"] for n in (5, 6))
    assert few.defined
    assert few.ci is None
    assert enough.ci is not None


# -- undefined ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "map", [f_duplicated(2), f_duplicated(5), f_wide(), f_dead(2, 3, dead=(0, 1))], ids=repr
)
def test_singular_maps_are_undefined_with_a_reason_and_a_finite_gap(map: ExactMap) -> None:
    result = measure(map)
    assert result.verdict == "undefined"
    for name in ("ima_contrast", "alignment", "alignment_p", "ima_contrast_rotated", "distance_to_axes"):
        metric = result[f"orthogonality.{name}"]
        assert not metric.defined
        assert metric.reason
    assert math.isfinite(number(result, "mean_field_gap"))
    assert judge(result, {"orthogonality.ima_contrast": 1.0}, SPECS).exit_code == 3


def bottleneck(turned: bool, dtype: torch.dtype = torch.float64) -> Decoder:
    """Five latents through three numbers: the first three of them, or all of them rotated."""
    lengths = torch.tensor([1.0, 3.0, 9.0], dtype=torch.float64)
    W = torch.cat([torch.diag(lengths), torch.zeros(3, 2, dtype=torch.float64)], 1)
    W = W @ frame(5, 5, 7) if turned else W
    # not quite on the axes: every column has a length
    W = W + 0.3 * torch.tensor([[0.0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.float64)
    E = frame(20, 3)
    return Decoder(lambda z: torch.sinh(0.3 * z @ W.to(z).T) @ E.to(z).T, 5, dtype=dtype)


def test_a_narrow_bottleneck_gets_its_rank_and_a_rotation_test() -> None:
    straight, turned = (measure(bottleneck(t), active_threshold=0.0, beta_sigma2=0.01) for t in (False, True))
    # two pairs of latents move the output alike, and no verdict is given
    assert straight.verdict == "undefined"
    assert "J has rank 3 of 5 (singular values over 3e-07 of the largest)." in straight.summary
    assert "--dtype float64" not in straight.summary
    share = float(re.search(r"of the gap (-?[\d.]+)", straight.summary).group(1))  # type: ignore[union-attr]
    assert share > 0.5 > number(turned, "alignment")
    assert "p = 0.01" in straight.summary
    single = measure(bottleneck(False, torch.float32), active_threshold=0.0, beta_sigma2=0.01)
    assert "--dtype float64 tells singular values down to 3e-07 of the largest." in single.summary
    assert "J has rank 3 of 5 (singular values over 4e-06 of the largest)." in single.summary
    # no two are alike, and the three dimensions are nearly orthogonal in a basis of their own
    assert turned.verdict == "unaligned"
    assert "J has rank 3 of 5 (" in turned.summary
    assert (
        "the columns of 5 active latents cannot all be orthogonal, and their contrast is 15 nats at least"
        in turned.summary
    )
    assert (
        "All that J sees is one space of 3 dimensions, whose best basis has a contrast of 0.0"
        in turned.summary
    )
    assert turned["orthogonality.ima_contrast"].value is None
    assert "of the mean-field gap" in (turned["orthogonality.alignment"].method or "")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_bottleneck_with_orthogonal_rows_is_rotated(dtype: torch.dtype) -> None:
    W = torch.diag(torch.tensor([1.0, 3.0, 9.0]).double()) @ frame(6, 3, 7).T
    E = frame(20, 3)
    probed = Decoder(lambda z: torch.sinh(0.3 * z @ W.to(z).T) @ E.to(z).T, 6, dtype=dtype)
    result = measure(probed, active_threshold=0.0)
    assert result.verdict == "rotated"
    assert "a basis of the space that it sees makes them so" in result.summary
    assert "contrast of 0 nats" in result.summary or dtype == torch.float32
    assert ("--dtype float64 tells" in result.summary) == (dtype == torch.float32)


@pytest.mark.parametrize("turned", [False, True])
def test_a_generator_through_a_bottleneck_gets_a_verdict(turned: bool) -> None:
    """Twelve latents through four: the axes come near to those of the four, or do not, and no basis mends it."""
    rng = np.random.default_rng(3)
    W = torch.from_numpy(rng.standard_normal((4, 12)) * 0.05)
    W[torch.arange(4), torch.arange(4)] += 1.5
    W = W @ frame(12, 12, 5).T if turned else W
    B = torch.eye(4, dtype=torch.float64) + 0.25 * torch.from_numpy(rng.standard_normal((4, 4)))
    E = frame(20, 4)

    def f(z: Tensor) -> Tensor:
        u = z @ W.to(z).T
        return (torch.tanh(u) + 0.4 * torch.sin(u @ B.to(z))) @ E.to(z).T

    result = measure(
        Decoder(f, 12, dtype=torch.float64), active_threshold=0.0, beta_sigma2=0.01, samples=60, rotations=199
    )
    assert result.verdict == ("unaligned" if turned else "aligned")
    assert "J has rank 4 of 12 (" in result.summary
    assert 1 < number(result, "effective_rank") <= 4
    assert number(result, "mean_field_gap") > 0
    A, p = number(result, "alignment"), number(result, "alignment_p")
    assert (A > 0.2 and p <= 0.01) if not turned else (A < 0.2)
    assert "rotations" in (result["orthogonality.alignment_p"].method or "")
    if turned:
        how = "no" if p >= 0.5 else "not significantly"
        assert f"come {how} nearer than random ones" in result.summary


def test_two_latents_that_are_one_and_too_few_outputs_stay_undefined() -> None:
    for map in (f_duplicated(3), f_wide()):
        result = measure(map)
        assert result.verdict == "undefined"


def test_the_reasons_say_what_is_the_matter() -> None:
    reason = "orthogonality.ima_contrast"
    assert "2 outputs cannot hold 4 independent columns" in str(measure(f_wide())[reason].reason)
    assert "columns linearly dependent to 2e-07 at 40" in str(measure(f_duplicated(3))[reason].reason)
    assert "no latent moves the output" in str(measure(f_dead(2, 3, dead=(0, 1)))[reason].reason)
    assert "z1 alone is active" in str(measure(f_dead(3, dead=(0, 2)))[reason].reason)
    assert "the only latent makes no pair" in str(measure(b1(1))[reason].reason)


def test_a_threshold_above_every_column_and_codes_alone_are_said_so() -> None:
    result = measure(b1(3), active_threshold=1.0)
    assert "no column of the Jacobian is longer than 1 of the longest" in str(
        result["orthogonality.alignment"].reason
    )
    codes = Decoder(lambda z: z @ frame(6, 4).T, 4, dtype=torch.float64, prior=(Group("onehot", 4),))
    with pytest.raises(UsageError, match="one-hot codes, which have no derivative"):
        measure(codes)


def test_duplicated_columns_have_cosine_one() -> None:
    assert number(measure(f_duplicated(2)), "mean_abs_cosine") == pytest.approx(1)


@pytest.mark.parametrize("dead", [(0,), (1, 3)])
def test_dead_latents_are_masked_and_named(dead: tuple[int, ...]) -> None:
    result = measure(f_dead(4, dead=dead))
    assert result.verdict == "orthogonal"
    assert number(result, "latents.active") == 4 - len(dead)
    (note,) = [f for f in result.findings if f.code == "inactive-latents"]
    assert all(f"z{i}" in note.message for i in dead)
    assert result.rotation is not None
    for i in dead:
        assert result.rotation[i, i] == 1


def half_dead(z: Tensor) -> Tensor:
    """A column that is zero at the fourth of latents with z_0 < -0.67."""
    bend = torch.relu(z[:, :1] + 0.6745)
    return torch.cat([bend, z[:, 1:], 0.3 * z[:, 1:2] * z[:, 2:3] + 0.2 * bend], dim=1)


def test_single_singular_latents_are_left_out_and_counted() -> None:
    result = measure(Decoder(half_dead, 3, dtype=torch.float64), samples=200)
    z = Prior().draw(Decoder(half_dead, 3), 200)
    lost = int((z[:, 0] < -0.6745).sum())
    assert result["orthogonality.ima_contrast"].n == 200 - lost
    (finding,) = [f for f in result.findings if f.code == "rank-deficient"]
    assert f"at {lost} of 200 latents" in finding.message
    assert f"length zero at {lost}" in finding.message
    assert "averaged over the others" in finding.message
    assert result["orthogonality.mean_field_gap"].n == 200
    assert result["orthogonality.mean_abs_cosine"].n == 200
    # a column of length zero is the limit of short ones at any angle
    bounds = {
        name: result[f"orthogonality.{name}"].of_all
        for name in ("ima_contrast", "fixable", "condition_number")
    }
    assert bounds == {"ima_contrast": "open", "fixable": "open", "condition_number": "at least"}


def nearly_alike(z: Tensor) -> Tensor:
    """Two columns at an angle s = 6e-6 exp(z_2 / 2): c = -log s, of which float32 cannot tell what is over 12.5 nats."""
    s = 6e-6 * (z[:, 2] / 2).exp()
    return torch.stack([z[:, 0] + z[:, 1], s * z[:, 1], z[:, 2]], dim=1)


def test_a_contrast_that_leaves_out_larger_ones_has_an_open_upper_end() -> None:
    from vaeprobe.gate.policy import Policy, Rule
    from vaeprobe.gate.run import Gate

    narrow, wide = (Decoder(nearly_alike, 3, dtype=t) for t in (torch.float32, torch.float64))
    truth = -math.log(6e-6) - Prior().draw(wide, 256)[:, 2] / 2
    c, whole = (measure(d, samples=256)["orthogonality.ima_contrast"] for d in (narrow, wide))
    assert (whole.value, whole.of_all) == (pytest.approx(float(truth.mean()), rel=1e-6), "known")
    assert isinstance(c.value, float)
    assert c.value == pytest.approx(float(truth.clamp_max(-math.log(30 * 2**-23)).mean()), abs=0.01)
    assert c.value < float(truth.mean()) - 0.02, "those that count as less are the larger ones"
    assert c.to_dict()["of_all"] == "at least"
    lost = int((truth > -math.log(30 * 2**-23)).sum())
    assert 20 < lost < 60
    assert (c.n, c.reason) == (256, f"J is rank-deficient at {lost} of 256 latents")

    def outcome(decoder: Decoder, limit: float) -> str:
        rule = Rule(metric=c.id, side="max", limit=limit)
        policy = Policy(rules={c.id: rule}, samples=256, max_samples=256)
        (found,) = Gate(policy=policy).check_decoder("", decoder).outcomes
        return found.status

    assert [outcome(narrow, limit) for limit in (11.0, 13.0)] == ["fail", "inconclusive"]
    assert [outcome(wide, limit) for limit in (11.0, 13.0)] == ["fail", "pass"]
    result = measure(narrow, samples=256)
    assert result.alignment.of_all == ("at most" if number(result, "alignment") > 0 else "at least")
    assert {result[f"orthogonality.{n}"].of_all for n in ("mean_field_gap", "alignment_p")} == {"known"}
    # what a rotation gains there, and what pairs share, may be less or more
    assert {result[f"orthogonality.{n}"].of_all for n in ("fixable", "mutual_information")} == {"open"}
    assert result["orthogonality.isometry_defect"].n == 256
    line = next(row for row in str(result).splitlines() if row.startswith("ima contrast"))
    assert f"\u2265 {c.value:.4g}" in line


@pytest.mark.parametrize(("share", "word"), [(0.0, "orthogonal"), (0.4, "entangled")])
def test_columns_that_are_alike_at_some_latents_are_not_orthogonal(share: float, word: str) -> None:
    """Orthogonal columns of lengths 1, 2, 3; at a share of latents the first two are one."""
    at = float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(share))) if share else -9.0

    def f(z: Tensor) -> Tensor:
        alike = (z[:, 3:] < at).to(z.dtype)
        return torch.cat(
            [z[:, :1] + alike * z[:, 1:2], 2 * (1 - alike) * z[:, 1:2], 3 * z[:, 2:3], 4 * z[:, 3:]], dim=1
        )

    result = measure(Decoder(f, 4, dtype=torch.float64), samples=200)
    assert result.verdict == word, result.summary
    assert ("or more (J is rank-deficient at " in result.summary) is (share > 0)


def test_mostly_singular_is_undefined() -> None:
    def f(z: Tensor) -> Tensor:
        return torch.cat([torch.relu(z[:, :1] - 0.7), z[:, 1:]], dim=1)

    result = measure(Decoder(f, 2, dtype=torch.float64), samples=100)
    assert result.verdict == "undefined"
    assert "rank-deficient at" in str(result["orthogonality.ima_contrast"].reason)
    (finding,) = [f for f in result.findings if f.code == "rank-deficient"]
    assert finding.message.endswith("the contrast is infinite there, and undefined")


@pytest.mark.parametrize("map", singular_maps() + tied_maps() + [b1(1), a(2)], ids=repr)
def test_no_report_holds_nan_or_infinity(map: ExactMap) -> None:
    for samples in (2, 5):
        document = measure(map, samples=samples).to_dict()
        assert all(math.isfinite(x) for x in numbers_in(document))
        json.dumps(document, allow_nan=False)


def test_a_jacobian_that_overflows_is_left_out() -> None:
    def f(z: Tensor) -> Tensor:
        return torch.cat([z, torch.exp(torch.exp(2.6 * z[:, :1] + 1.5))], dim=1)

    result = measure(Decoder(f, 2, dtype=torch.float64), samples=300)
    (finding,) = [f for f in result.findings if f.code == "not-finite"]
    assert "of 300" in finding.message
    assert all(math.isfinite(x) for x in numbers_in(result.to_dict()))


# -- laws ---------------------------------------------------------------------------------------

LAWFUL = [
    "mean_abs_cosine",
    "ima_contrast",
    "mean_field_gap",
    "max_abs_cosine",
    "conformality",
    "distance_to_axes",
]


def moved(map: ExactMap, change: Any, back: Any) -> tuple[OrthogonalityResult, OrthogonalityResult]:
    """Return results of f and of f after a change of latents, at corresponding latents."""
    z = Prior().draw(decoder(map), 24)
    turned = dataclasses.replace(map, f=lambda w: map.f(change(w)))
    return measure(map, latents=Given(z), samples=24), measure(turned, latents=Given(back(z)), samples=24)


@settings(max_examples=8)
@given(st.permutations(range(4)), st.lists(st.sampled_from([-1.0, 1.0]), min_size=4, max_size=4))
def test_order_and_sign_of_latents_do_not_matter(order: list[int], signs: list[float]) -> None:
    sign = torch.tensor(signs, dtype=torch.float64)
    inverse = torch.tensor(order).argsort()
    first, second = moved(e(4), lambda w: (w * sign)[:, inverse], lambda z: z[:, order] * sign)
    for name in LAWFUL:
        assert number(first, name) == pytest.approx(number(second, name), abs=1e-9), name


@settings(max_examples=6)
@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_rotation_and_scale_of_the_data_do_not_matter(seed: int, scale: float) -> None:
    map = e(3)
    Q = frame(map.data_dim, map.data_dim, seed)
    turned = dataclasses.replace(map, f=lambda z: scale * map.f(z) @ Q.to(z.dtype).T)
    first, second = measure(map, beta_sigma2=0.5), measure(turned, beta_sigma2=0.5 * scale**2)
    for name in [*LAWFUL, "alignment", "alignment_p"]:
        assert number(first, name) == pytest.approx(number(second, name), abs=1e-8), name


@settings(max_examples=6)
@given(st.integers(0, 1000))
def test_a_rotation_of_the_latents_leaves_the_null_and_the_best_contrast(seed: int) -> None:
    R = frame(3, 3, seed)
    map = e(3)
    first, second = moved(map, lambda w: w @ R.T, lambda z: z @ R)
    null, other = number(first, "ima_contrast_null"), number(second, "ima_contrast_null")
    assert null == pytest.approx(other, rel=0.15)  # 99 rotations each
    assert number(first, "effective_rank") == pytest.approx(number(second, "effective_rank"), abs=1e-9)
    assert number(first, "condition_number") == pytest.approx(number(second, "condition_number"), rel=1e-7)


@settings(max_examples=5)
@given(st.integers(0, 100))
def test_the_seed_decides_everything(seed: int) -> None:
    assert measure(e(3), seed=seed).to_dict() == measure(e(3), seed=seed).to_dict()
    assert number(measure(e(3), seed=seed), "ima_contrast") != number(
        measure(e(3), seed=seed + 1), "ima_contrast"
    )


def test_chunks_do_not_matter() -> None:
    first, second = measure(e(4), chunk=3), measure(e(4))
    assert number(first, "ima_contrast") == pytest.approx(number(second, "ima_contrast"), abs=1e-12)


def test_intervals_cover_the_mean_of_many_latents() -> None:
    probed, inside = decoder(e(3)), 0
    truth = float(e(3).contrast(Prior().draw(probed, 100_000, seed=99)).mean())  # type: ignore[misc]
    for seed in range(20):
        result = measure(probed, samples=60, seed=seed, restarts=0, rotations=19)
        low, high = result["orthogonality.ima_contrast"].ci or (0, 0)
        inside += low <= truth <= high
    assert inside >= 15


# -- decoders of all kinds ----------------------------------------------------------------------


def network(dtype: torch.dtype = torch.float64, sizes: tuple[int, ...] = (5, 32, 40)) -> nn.Sequential:
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    for p, q in itertools.pairwise(sizes):
        layers += [nn.Linear(p, q), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def test_float32_agrees_with_float64() -> None:
    net = network()
    exact = measure(Decoder(net, 5))
    single = measure(Decoder(network(torch.float32), 5))
    for name in (*LAWFUL, "alignment", "ima_contrast_rotated"):
        assert number(single, name) == pytest.approx(number(exact, name), rel=1e-3, abs=1e-5), name


def test_collinear_columns_in_float32_are_called_dependent() -> None:
    W = frame(30, 3).float()
    W[:, 2] = W[:, 0] * 1.1
    result = measure(Decoder(lambda z: torch.tanh(0.3 * z @ W.T), 3, dtype=torch.float32))
    assert result.verdict == "undefined"
    assert "linearly dependent" in result.summary


def test_nearly_collinear_columns_in_float32_ask_for_float64() -> None:
    W = frame(30, 3).float()
    W[:, 2] = W[:, 0] + 5e-4 * W[:, 2]
    result = measure(Decoder(lambda z: torch.tanh(0.3 * z @ W.T), 3, dtype=torch.float32))
    (finding,) = [f for f in result.findings if f.code == "ill-conditioned"]
    assert finding.hint == "--dtype float64"


def test_one_hot_codes_are_held_fixed() -> None:
    base = b1(2, 8)
    codes = frame(8, 3, 5)
    joint = Decoder(
        lambda z: base.f(z[:, 1:3]) + z[:, 3:] @ codes.T + 0 * z[:, :1],
        6,
        dtype=torch.float64,
        prior=(Group("normal", 3), Group("onehot", 3)),
    )
    result = measure(joint)
    assert number(result, "latents.dim") == 6
    assert result.latent_names == ("z0", "z1", "z2")
    assert result.active == (1, 2)
    assert result.rotation is not None
    assert result.rotation.shape == (6, 6)
    assert torch.equal(result.rotation[3:, 3:], torch.eye(3, dtype=torch.float64))
    assert number(result, "mean_abs_cosine") == pytest.approx(0, abs=1e-12)


def test_sixty_four_latents_work_and_stay_readable() -> None:
    result = measure(Decoder(network(sizes=(64, 80, 100)), 64), samples=20, restarts=0)
    assert result["orthogonality.ima_contrast"].defined
    heat, *_ = result.sections()
    assert len(heat.matrix) == 24  # type: ignore[union-attr]
    assert "24 strongest of 64" in heat.note  # type: ignore[union-attr]
    assert len(result.details()["mean_abs_cosines"]) == 64


# -- likelihoods --------------------------------------------------------------------------------


def bernoulli_decoder(**changes: Any) -> Decoder:
    net = network()
    return Decoder(lambda z: torch.sigmoid(3 * net(z)), 5, dtype=torch.float64, **changes)


def test_the_bernoulli_metric_is_the_same_from_means_logits_and_by_hand() -> None:
    net = network()
    by_mean = measure(bernoulli_decoder(), likelihood="bernoulli")
    by_natural = measure(bernoulli_decoder(natural=lambda z: 3 * net(z)), likelihood="bernoulli")
    logits = Decoder(lambda z: 3 * net(z), 5, dtype=torch.float64, parameter="natural")
    for other in (by_natural, measure(logits, likelihood="bernoulli")):
        for name in (*LAWFUL, "alignment"):
            assert number(by_mean, name) == pytest.approx(number(other, name), abs=1e-8), name
    # the variance-stabilised map has the likelihood's metric as its Euclidean one
    stable = Decoder(lambda z: 2 * torch.asin(torch.sigmoid(3 * net(z)).sqrt()), 5, dtype=torch.float64)
    for name in (*LAWFUL, "alignment"):
        assert number(by_mean, name) == pytest.approx(number(measure(stable), name), abs=1e-8), name
    assert number(by_mean, "ima_contrast") != number(measure(bernoulli_decoder()), "ima_contrast")
    assert "Bernoulli metric" in by_mean.summary
    assert "beta = 1" in str(by_mean["orthogonality.mean_field_gap"].method)


def test_the_gaussian_metric_divides_by_the_variance() -> None:
    plain = measure(e(3), beta_sigma2=0.25)
    weighted = measure(e(3), likelihood="gaussian", sigma2=0.25)
    assert number(plain, "mean_field_gap") == pytest.approx(number(weighted, "mean_field_gap"), abs=1e-12)


def test_outputs_that_are_no_means_are_refused() -> None:
    with pytest.raises(UsageError, match=r"the means of a Bernoulli likelihood lie in \[0, 1\]"):
        measure(e(3), likelihood="bernoulli")
    with pytest.raises(UsageError, match=r"Poisson likelihood lie in \[0, inf\)"):
        measure(e(3), likelihood="poisson")


def test_saturated_outputs_are_counted() -> None:
    net = network()

    def f(z: Tensor) -> Tensor:
        y = torch.sigmoid(net(z))
        return torch.cat([y, torch.ones_like(y)], dim=1)

    result = measure(Decoder(f, 5, dtype=torch.float64), likelihood="bernoulli")
    (finding,) = [f for f in result.findings if f.code == "saturated"]
    assert finding.message.startswith("50% of the outputs are saturated")
    assert result["orthogonality.ima_contrast"].defined


# -- sources of latents -------------------------------------------------------------------------


def test_posterior_latents_average_the_metric_over_each_posterior() -> None:
    map = e(3)
    encoder = Encoder(lambda x: (x[:, :3], x[:, 3:6] - 1), 3, dtype=torch.float64)
    probed = decoder(map, encoder=encoder)
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((10, 6)))
    source = Posterior(rows)
    result = measure(probed, latents=source, posterior_draws=4, samples=50)
    G = gram(probed, source.draw(probed, 40)).reshape(4, 10, 3, 3).mean(0)
    n = G.diagonal(dim1=-2, dim2=-1).sqrt()
    cosine = (G / (n[:, :, None] * n[:, None, :]))[:, [0, 0, 1], [1, 2, 2]].abs().mean()
    assert number(result, "mean_abs_cosine") == pytest.approx(float(cosine), abs=1e-12)
    assert result["orthogonality.mean_abs_cosine"].n == 10
    assert "approximate-p-value" in findings(result)


def test_latents_from_a_file_and_a_grid(tmp_path: Path) -> None:
    path = tmp_path / "z.npy"
    np.save(path, np.random.default_rng(0).standard_normal((12, 3)))
    assert measure(e(3), latents=str(path))["orthogonality.ima_contrast"].n == 12
    assert measure(e(3), latents="grid", samples=27)["orthogonality.ima_contrast"].n == 27


# -- the rotation as a file and as a decoder ----------------------------------------------------


def test_the_saved_rotation_repairs_the_decoder(tmp_path: Path) -> None:
    map = rotated(b1(3), seed=2)
    result = measure(map, save_rotation=tmp_path / "R.npy")
    result.files()["save_rotation"](tmp_path / "R.npy")
    R = torch.from_numpy(np.load(tmp_path / "R.npy", allow_pickle=False))
    torch.testing.assert_close(R.T @ R, torch.eye(3, dtype=torch.float64))
    mended = Decoder(lambda z: map.f(z @ R.T), 3, dtype=torch.float64)
    assert number(measure(mended), "ima_contrast") == pytest.approx(0, abs=1e-9)
    assert not measure(map).files()


def test_there_is_no_rotation_to_save_or_apply_where_it_is_undefined(tmp_path: Path) -> None:
    result = measure(f_wide(), save_rotation=tmp_path / "R.npy")
    assert result.rotation is None
    with pytest.raises(UsageError, match="there is no best rotation: J is rank-deficient"):
        result.save(tmp_path / "R.npy")
    with pytest.raises(UsageError, match="there is no best rotation"):
        result.rotated(decoder(f_wide()))


# -- words and pictures -------------------------------------------------------------------------


def test_every_metric_has_a_full_text_and_every_text_a_metric() -> None:
    result = measure(e(3))
    assert set(result.metrics) == set(SPECS)
    for spec in METRICS:
        for part in ("title", "range", "formula", "source", "meaning", "misleads", "remedy"):
            assert getattr(spec, part), f"{spec.id} has no {part}"


def test_limits_become_checks() -> None:
    good = judge(measure(b1(3)), {"orthogonality.max_abs_cosine": 0.1, "orthogonality.alignment": 0.9}, SPECS)
    assert good.exit_code == 0
    assert [c.status for c in good.checks] == ["pass", "pass"]
    assert judge(measure(rotated(b1(3))), {"orthogonality.ima_contrast": 0.01}, SPECS).exit_code == 1


@pytest.mark.parametrize(
    "map", [e(6), f_dead(), f_wide(), b1(1), f_dead(2, 3, dead=(0, 1)), tied_maps()[0]], ids=repr
)
def test_pages_of_every_kind_are_drawn(map: ExactMap) -> None:
    terminal = pytest.importorskip("vaeprobe.render.terminal")
    result = measure(map)
    page = terminal.plain(result.page(), width=80, verbose=True)
    assert result.summary.split()[0] in page
    assert "nan" not in page.lower().split()
    assert max(map_len(line) for line in page.splitlines()) <= 80


def map_len(line: str) -> int:
    return len(line.rstrip())


def test_summaries_read_like_a_researcher_wrote_them() -> None:
    aligned = measure(
        Decoder(lambda z: torch.cat([z[:, :1] + 0.15 * z[:, 1:2], 3 * z[:, 1:]], 1), 2, dtype=torch.float64)
    )
    assert "against" in aligned.summary
    assert "under random rotations of the latent space (alignment" in aligned.summary
    assert measure(f_wide()).summary.startswith("Orthogonality is undefined: J is rank-deficient: 2 outputs")
    turned = measure(rotated(b1(3)))
    assert turned.alignment.value is not None
    assert turned.summary.endswith(f"to 0 nats on held-out latents. {place(turned.alignment.value)}")


# -- real checkpoints ---------------------------------------------------------------------------

# folder: contrast and null as published beside the files, Euclidean then Bernoulli, and active latents
PUBLISHED = {
    "VAE_mnist": (1.87, 3.81, 1.77, 10),
    "betaH_mnist": (2.47, 8.35, 2.25, 10),
    "btcvae_mnist": (1.40, 5.80, 1.29, 8),
    "VAE_dsprites": (8.0, 15.4, 7.16, 10),
    "betaH_dsprites": (3.90, 9.8, 3.68, 8),
    "btcvae_dsprites": (0.85, 3.8, 0.81, 5),
}
QUICK = ("VAE_mnist", "btcvae_mnist")


def within_sampling_error(result: OrthogonalityResult, name: str, published: float) -> bool:
    """Whether two samples of this size, of equal spread, agree to four standard errors."""
    low, high = result[f"orthogonality.{name}"].ci or (0, 0)
    error = (high - low) / (2 * 1.96)
    return abs(number(result, name) - published) < 4 * math.sqrt(2) * error + 0.02 * published


def load(models: Path, name: str) -> Decoder:
    from vaeprobe.checkpoints.loading import load

    return load(models / "disvae" / name / "model.pt")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in PUBLISHED]
)
def test_published_numbers_of_real_decoders_are_reproduced(models: Path, name: str) -> None:
    contrast, null, bernoulli, active = PUBLISHED[name]
    probed = load(models, name)
    size: dict[str, Any] = {"samples": 128 if name in QUICK else 256, "rotations": 199, "restarts": 0}
    if name == "VAE_dsprites":
        # its tenth latent lies on the line: 0.049 to 0.053 of the largest, by the draw
        assert "borderline-latents" in findings(measure(probed, **size))
        size["active_threshold"] = 0.04
    result = measure(probed, **size)
    assert number(result, "latents.active") == active
    assert within_sampling_error(result, "ima_contrast", contrast)
    assert within_sampling_error(result, "ima_contrast_null", null)
    assert number(result, "alignment_p") == 1 / 200
    weighted = measure(probed, likelihood="bernoulli", **size)
    assert within_sampling_error(weighted, "ima_contrast", bernoulli)
    # the likelihood's own metric is the more orthogonal one
    assert number(weighted, "ima_contrast") < number(result, "ima_contrast")


@pytest.mark.parametrize(
    ("name", "kept"), [("VAE_mnist", 8), pytest.param("betaH_mnist", 10, marks=pytest.mark.slow)]
)
def test_the_standard_basis_is_the_best_of_all_rotations_of_a_vae(models: Path, name: str, kept: int) -> None:
    result = measure(load(models, name), samples=192)
    given, turned = number(result, "ima_contrast_held_out"), number(result, "ima_contrast_rotated")
    assert turned == pytest.approx(given, rel=0.05)
    assert result.rotation is not None
    assert int((result.rotation.diagonal() > 0.97).sum()) >= kept - 1


@pytest.mark.parametrize(
    ("settings", "words", "hint"),
    [
        ({"samples": 0}, "`samples` must be at least 2, not 0", ""),
        ({"samples": 2.5}, "`samples` takes a whole number, not `2.5`", ""),
        ({"samples": True}, "`samples` takes a whole number", ""),
        ({"seed": -1}, "`seed` must be at least 0", ""),
        ({"sigma2": float("nan")}, "`sigma2` takes a number, not `nan`", ""),
        ({"likelihood": "bernouli"}, "takes one of bernoulli, categorical, gaussian", "bernoulli"),
        ({"chunk": 0}, "`chunk` must be at least 1", ""),
    ],
)
def test_settings_are_checked_in_python_too(settings: dict[str, object], words: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        Orthogonality(**settings)  # type: ignore[arg-type]
    assert words in error.value.message
    assert hint in (error.value.hint or "")
    assert Orthogonality(samples=np.int64(8), sigma2=np.float32(1)).samples == 8  # type: ignore[arg-type]


# -- thresholds, on both sides --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "said"), [(1.3, False), (1.2, True), (1.0, True), (1 / 1.2, True), (1 / 1.3, False)]
)
def test_latents_near_the_line_are_pointed_out_on_either_side_of_it(share: float, said: bool) -> None:
    scales = torch.tensor([1.0, 0.8, 0.05 * share * (1 + 1e-9)], dtype=torch.float64)
    assert ("borderline-latents" in findings(measure(a(3, scales=scales)))) is said


def reading_of(G: Tensor) -> Reading:
    return Reading(
        G,
        decoder(b1(G.shape[-1])),
        isotropic=True,
        seed=0,
        active_threshold=0.05,
        rotations=19,
        restarts=0,
        beta_sigma2=1.0,
        likelihood=None,
    )


@pytest.mark.parametrize(("lost", "defined"), [(0, True), (2, True), (3, True), (4, False), (5, False)])
def test_the_contrast_is_defined_where_half_of_the_latents_have_one(lost: int, defined: bool) -> None:
    G = torch.eye(3, dtype=torch.float64).repeat(6, 1, 1)
    G[:lost] = 1.0
    assert (reading_of(G).singular is None) is defined


@pytest.mark.parametrize("line", [-0.2, -9.0])
def test_a_rank_that_is_lost_at_some_latents_is_not_said_of_all(line: float) -> None:
    """Columns that are orthonormal up to a line, and beyond it dependent: contrast 0 here, infinite there."""
    w = torch.tensor([1.0, 0.5, 0.3, 0.2], dtype=torch.float64)
    w = w / w.norm()

    def f(z: Tensor) -> Tensor:
        dependent = (z[:, :1] > line).to(z)
        along = (z @ w.to(z))[:, None] * w.to(z)
        return torch.cat([z - dependent * along, 0 * z], dim=1)

    result = measure(Decoder(f, 4, dtype=torch.float64), samples=64)
    lost = int((Prior().draw(Decoder(f, 4), 64, seed=0)[:, 0] > line).sum())
    at, there = ("", "") if lost == 64 else (f" at {lost} of 64 samples", " there")
    assert 32 < lost <= 64
    assert f", so that{at} the columns of 4 active latents cannot all be orthogonal" in result.summary
    assert f" nats at least{there}; " in result.summary


def test_what_would_decide_an_open_verdict_is_what_brings_more_latents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = Path(__file__).parents[2] / "sample_models"
    decoder, digits = vaeprobe.load(samples / "digits_conv.safetensors"), np.load(samples / "digits.npy")
    z = Prior().draw(decoder, 2)

    def said(samples: int, **more: Any) -> str:
        result = measure(decoder, samples=samples, **more)
        assert result.verdict == "undecided", result.summary
        return result.summary

    assert "; more --samples would decide it." in said(2)
    assert "; more --samples would decide it." in said(2, latents=z)
    assert "; more rows of latents would decide it." in said(3, latents=z)
    assert "; more rows of --data would decide it." in said(3, data=digits[4:6], latents="posterior-means")
    with within(0.0):
        assert "; more --time would decide it." in said(3)
        assert "; more --samples would decide it." in said(2)
    monkeypatch.setattr(parts, "affordable", lambda *args, **more: 2)
    monkeypatch.setattr(parts, "SOME", 5)
    assert "; --part all would decide it." in said(3)
    assert "; more --samples would decide it." in said(2)


def test_conformal_needs_the_whole_interval_of_the_null_to_be_small() -> None:
    """Random rotations of which the mean is small may be larger than that."""
    a_ = 12  # whose limit is that of the null, .05 nats

    def verdict_with(null: float, ci: tuple[float, float]) -> str:
        metric = SimpleNamespace
        metrics = {
            f"orthogonality.{name}": metric(value=value, ci=ci)
            for name, value, ci in [
                ("ima_contrast", 0.03, (0.029, 0.031)),
                ("ima_contrast_null", null, ci),
                ("ima_contrast_gaussian", 0.5, None),
                ("alignment", 0.3, (0.25, 0.35)),
                ("alignment_p", 0.01, None),
            ]
        }
        reading = SimpleNamespace(
            active=range(a_),
            names=tuple(f"z{i}" for i in range(a_)),
            singular=None,
            kind="latents",
            block=None,
            likelihood=None,
            repair=None,
            search="not searched",
            rotations=99,
            left_out=None,
        )
        return verdict(metrics, reading)[0]  # type: ignore[arg-type]

    assert verdict_with(0.045, (0.041, 0.0499)) == "conformal"
    assert verdict_with(0.045, (0.039, 0.0501)) == "aligned"
    assert verdict_with(0.051, (0.0505, 0.0515)) == "aligned"


def test_the_interval_of_the_null_knows_the_rotations() -> None:
    """A linear map has one contrast at every latent: all that the null's mean does not know is the rotations'."""
    from vaeprobe.intervals import student_quantile

    result = measure(rotated(a(3)), rotations=99)
    low, high = result["orthogonality.ima_contrast_null"].ci or (0.0, 0.0)
    draws = reading_of(rotated(a(3)).gram(torch.zeros(40, 3, dtype=torch.float64)))
    draws.rotations = 99
    assert draws.alignment is not None
    error = float(draws.alignment.draws.std()) / 99**0.5
    assert high - low == pytest.approx(2 * student_quantile(0.975, 98) * error, rel=0.1)


@pytest.mark.parametrize(("smallest", "rank"), [(1e-5, 4), (1e-8, 3)])
def test_a_rank_is_said_as_far_as_gram_matrices_know_it(smallest: float, rank: int) -> None:
    """Singular values 1, 1, 1 and a small one, in a basis in which no column is short: c is -log of it and 1.1 nats more."""
    R = torch.full((4, 4), 0.5, dtype=torch.float64) - torch.eye(4, dtype=torch.float64)
    J = frame(6, 4) @ torch.diag(torch.tensor([1, 1, 1, smallest], dtype=torch.float64)) @ R
    c = float(torch.linalg.qr(J / J.norm(dim=0)).R.diagonal().abs().log().sum().neg())
    result = measure(Decoder(lambda z: z @ J.to(z).T, 4, dtype=torch.float64))
    if rank == 4:
        assert number(result, "ima_contrast") == pytest.approx(c, rel=1e-3)
        assert "rank-deficient" not in findings(result)
        return
    assert "J has rank 3 of 4 (singular values over 2e-07 of the largest)" in result.summary
    least = float(result.summary.split("their contrast is ")[1].split()[0])
    assert 15 <= least < c
    (finding,) = [f for f in result.findings if f.code == "rank-deficient"]
    assert "the contrast is over 15 nats or infinite there" in finding.message


def test_axes_whose_alignment_is_of_lengths_alone_are_said_to_meet_as_random_directions() -> None:
    """Columns of very different length do better than rotations that mix them, however they meet."""
    W = np.random.default_rng(0).standard_normal((180, 130)) * np.geomspace(1, 10, 130)
    result = measure(linear(torch.from_numpy(W)), samples=8, rotations=19)
    assert (result.verdict, number(result, "alignment") > 0.2) == ("aligned", True)
    assert "meet as random directions of the output space do" in result.summary


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_computes_in_part_in_bfloat16_gets_a_verdict(seed: int) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.a, self.b = nn.Linear(6, 16).bfloat16(), nn.Linear(16, 10)

        def forward(self, z: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(z.to(torch.bfloat16)).float())
            return out

    result = measure(Decoder(Mixed().eval(), 6), samples=16)
    assert result.verdict in Orthogonality.VERDICTS
    if result.verdict == "undecided":
        assert "computes in bfloat16" in result.summary
