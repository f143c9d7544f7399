"""Baselines: paired intervals keep their level, files are read with suspicion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from vaeprobe.errors import InputError, UsageError
from vaeprobe.gate import baseline as baselines
from vaeprobe.gate.policy import Rule, spec_of
from vaeprobe.gate.run import looks_of

from gate_rates import limits, regressions

CONTRAST = "orthogonality.ima_contrast"
SPEC = spec_of(CONTRAST)


def test_false_alarms_and_detection() -> None:
    assert regressions(0.0, 400, margin=0.0, seed=0)["fail"] <= 0.05
    assert regressions(0.03, 400, margin=0.01, seed=1)["fail"] >= 0.95
    assert regressions(0.0, 400, margin=0.01, seed=2)["pass"] >= 0.95


def test_growing_samples_keep_the_level() -> None:
    at_the_limit = limits(0.0, 200, seed=0)
    assert max(at_the_limit["pass"], at_the_limit["fail"]) <= 0.05
    assert limits(0.03, 200, seed=1)["fail"] >= 0.75
    assert limits(0.2, 50, seed=2)["fail"] == 1.0


def test_looks() -> None:
    assert [looks_of(64, n) for n in (64, 65, 128, 129, 512)] == [1, 2, 2, 3, 4]


def test_the_better_direction_decides_what_is_worse() -> None:
    old, new = np.linspace(0, 1, 50), np.linspace(0, 1, 50) + 0.1
    lower = Rule(metric=CONTRAST, side="max", regression=0.01)
    higher = Rule(metric=CONTRAST, side="min", regression=0.01)
    assert baselines.compare(SPEC, lower, old, new, confidence=0.95)[1] == "fail"
    assert baselines.compare(SPEC, higher, old, new, confidence=0.95)[1] == "pass"


def test_no_relative_margin_near_zero() -> None:
    old = 1e-9 * np.random.default_rng(0).standard_normal(64)
    rule = Rule(metric=CONTRAST, side="max", regression=0.03, relative=True)
    with pytest.raises(UsageError, match="too near 0"):
        baselines.compare(SPEC, rule, old, old, confidence=0.95)


@pytest.mark.parametrize(("errors", "refused"), [(3.9, True), (4.1, False)])
def test_a_baseline_within_four_errors_of_zero_takes_no_relative_margin(errors: float, refused: bool) -> None:
    old = np.random.default_rng(0).standard_normal(64)
    error = old.std(ddof=1) / np.sqrt(len(old))
    old += errors * error - old.mean()
    rule = Rule(metric=CONTRAST, side="max", regression=0.03, relative=True)
    if refused:
        with pytest.raises(UsageError, match="too near 0"):
            baselines.compare(SPEC, rule, old, old, confidence=0.95)
    else:
        _, status, margin = baselines.compare(SPEC, rule, old, old, confidence=0.95)
        assert (status, margin) == ("pass", pytest.approx(0.03 * errors * error))


@pytest.mark.parametrize(
    ("margin", "status"), [(-1.02, "fail"), (-0.98, "inconclusive"), (0.98, "inconclusive"), (1.02, "pass")]
)
def test_the_whole_interval_of_the_change_decides(margin: float, status: str) -> None:
    worse = np.random.default_rng(1).standard_normal(40)
    half = stats.t.ppf(0.975, 39) * worse.std(ddof=1) / np.sqrt(40)
    worse += half * (2 - margin) - worse.mean()  # its mean lies `margin` half widths below twice one
    rule = Rule(metric=CONTRAST, side="max", regression=2 * half)
    assert baselines.compare(SPEC, rule, np.zeros(40), worse, confidence=0.95)[1] == status


def record() -> baselines.Record:
    return baselines.Record(
        sha256="0" * 64,
        latent_dim=3,
        methods={"orthogonality": {"seed": 0}},
        values={CONTRAST: np.arange(5.0)},
        loading={"condition": "label=3"},
    )


def test_a_baseline_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(baselines.text({"m.pt": record()}))
    back = baselines.read(path)["m.pt"]
    assert back.methods == record().methods
    assert back.loading == record().loading
    np.testing.assert_array_equal(back.values[CONTRAST], record().values[CONTRAST])


def test_a_baseline_that_does_not_say_how_models_were_loaded_is_read(tmp_path: Path) -> None:
    document = json.loads(baselines.text({"m.pt": record()}))
    del document["models"]["m.pt"]["loading"]
    (tmp_path / "b.json").write_text(json.dumps(document))
    assert baselines.read(tmp_path / "b.json")["m.pt"].loading == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(kind="x"),
        lambda d: d.update(schema_version=99),
        lambda d: d.update(models=[]),
        lambda d: d["models"]["m.pt"].pop("sha256"),
        lambda d: d["models"]["m.pt"]["values"].update({CONTRAST: "not base64!"}),
        lambda d: d["models"]["m.pt"]["values"].update({CONTRAST: "AAAAAAAA+H8="}),  # a NaN
        lambda d: d["models"]["m.pt"].update(methods=3),
    ],
)
def test_a_broken_baseline_is_an_input_error(tmp_path: Path, change: object) -> None:
    document = json.loads(baselines.text({"m.pt": record()}))
    change(document)  # type: ignore[operator]
    path = tmp_path / "b.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="baseline"):
        baselines.read(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", "\x00"])
def test_a_hostile_baseline_is_an_input_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(InputError):
        baselines.read(path)
