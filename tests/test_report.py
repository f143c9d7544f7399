"""Metrics, checks and results: undefined is a state, whole intervals decide."""

from __future__ import annotations

import math

import pytest

from vaeprobe.report import Check, Metric, MetricSpec, OfAll, metric_map, worst_status
from vaeprobe.result import Measured, Result

SPEC = MetricSpec(id="orthogonality.ima_contrast", title="ima contrast")


def metric(value: float, low: float, high: float) -> Metric:
    return Metric(SPEC, value, ci=(low, high), level=0.95, n=10)


def test_a_metric_is_a_number_or_a_reason() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="needs a reason"):
            Metric(SPEC, value)
    with pytest.raises(ValueError, match="neither a value nor a reason"):
        Metric(SPEC, None)
    assert Metric.undefined(SPEC, "one latent").to_dict() == {
        "value": None,
        "ci": None,
        "n": None,
        "unit": "",
        "reason": "one latent",
    }


@pytest.mark.parametrize(
    ("side", "limit", "status"),
    [
        ("max", 3.0, "pass"),
        ("max", 2.0, "inconclusive"),
        ("max", 0.5, "fail"),
        ("min", 0.5, "pass"),
        ("min", 2.0, "inconclusive"),
        ("min", 3.0, "fail"),
        ("max", 2.5, "pass"),
        ("min", 1.0, "pass"),
    ],
)
def test_the_whole_interval_decides(side: str, limit: float, status: str) -> None:
    assert Check(metric=metric(2, 1, 2.5), side=side, limit=limit).status == status  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("of_all", "under", "over"),
    [
        ("known", "pass", "fail"),
        ("estimated", "pass", "fail"),
        ("at least", "inconclusive", "fail"),
        ("at most", "pass", "inconclusive"),
        ("open", "inconclusive", "inconclusive"),
    ],
)
def test_what_a_part_leaves_open_about_all_is_in_the_interval(of_all: OfAll, under: str, over: str) -> None:
    part = Metric(SPEC, 2.0, ci=(1.0, 2.5), of_all=of_all)
    assert Check(metric=part, side="max", limit=3).status == under
    assert Check(metric=part, side="max", limit=0.5).status == over
    assert Check(metric=part, side="min", limit=0.5).status == over.replace("fail", "pass")
    assert Check(metric=part, side="min", limit=3).status == under.replace("pass", "fail")
    assert part.to_dict().get("of_all", "known") == of_all


@pytest.mark.parametrize(
    ("of_all", "limit", "left_open"),
    [
        ("at least", 3.0, True),
        ("at least", 2.5, True),
        ("at least", 2.4, False),  # more samples may tell that it is over this
        ("at least", 0.5, False),
        ("at most", 0.5, True),
        ("open", 2.0, True),
        ("known", 2.0, False),
    ],
)
def test_what_more_samples_cannot_tell_is_left_open(of_all: OfAll, limit: float, left_open: bool) -> None:
    part = Metric(SPEC, 2.0, ci=(1.0, 2.5), of_all=of_all)
    assert Check(metric=part, side="max", limit=limit).left_open is left_open


def test_undefined_never_passes() -> None:
    check = Check(metric=Metric.undefined(SPEC, "x"), side="max", limit=1e9)
    assert check.status == "undefined"
    assert Result(metrics={}, checks=(check,)).exit_code == 3


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([], 0),
        (["pass"], 0),
        (["pass", "inconclusive"], 3),
        (["undefined"], 3),
        (["inconclusive", "fail"], 1),
    ],
)
def test_the_worst_status_is_the_exit_code(statuses: list[str], code: int) -> None:
    assert worst_status(statuses) == code  # type: ignore[arg-type]


def test_options_carry_the_direction() -> None:
    assert MetricSpec(id="a.mean_abs_cosine", title="x", better="lower").option == "--max-mean-abs-cosine"
    assert MetricSpec(id="a.alignment", title="x", better="higher").option == "--min-alignment"
    assert MetricSpec(id="a.b", title="x").option is None


def test_a_metric_twice_is_a_bug() -> None:
    with pytest.raises(ValueError, match="twice"):
        metric_map([metric(1, 0, 2), metric(1, 0, 2)])


def test_a_metric_is_an_attribute_too() -> None:
    class Example(Result):
        ima_contrast = Measured(SPEC.id)

    result = Example(metrics=metric_map([metric(1, 0, 2)]))
    assert result.ima_contrast is result[SPEC.id]
    assert result.ima_contrast.ci == (0, 2)


def test_a_wrong_id_is_told_the_nearest() -> None:
    result = Result(metrics=metric_map([metric(1, 0, 2)]))
    with pytest.raises(KeyError) as caught:
        result["orthogonality.ima_contras"]
    assert "`orthogonality.ima_contras`; did you mean `orthogonality.ima_contrast`?" in str(caught.value)
