"""Rows that are not finite: what is refused, and a hint that works when it is followed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vaeprobe.budget import within
from vaeprobe.errors import InputError, UsageError
from vaeprobe.probes.train_linear import TrainLinear

Array = np.ndarray[Any, np.dtype[np.float64]]
PROBE = TrainLinear(latent_dim=2, bootstrap=0)
DROPPED, ESTIMATED = replace(PROBE, drop_nonfinite=True), replace(PROBE, missing="em")
EM = "--missing em --latent-dim N estimates missing values"


def rows(at: Any = (), value: float = np.nan, n: int = 40) -> Array:
    X = np.random.default_rng(0).normal(size=(n, 6)) * [3, 2, 1, 1, 1, 1]
    if at != ():
        X[at] = value
    return X


def everywhere(value: float = np.nan, whole: int = 0) -> Array:
    """Rows with a number missing in each but the last."""
    X = rows()
    n = len(X) - whole
    X[np.arange(n), np.arange(n) % 6] = value
    return X


def hint(probe: TrainLinear, X: Array) -> tuple[str, str | None]:
    with pytest.raises((InputError, UsageError)) as caught:
        probe.measure(X)
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize("solver", ["exact", "dual", "randomized"])
def test_what_leaves_two_rows_is_advised_and_what_does_not_is_not(solver: Any) -> None:
    asked, dropped = replace(PROBE, solver=solver), replace(DROPPED, solver=solver, sigma2=0.1)
    leave = "leave them out with --drop-nonfinite"
    assert hint(asked, rows(3))[1] == f"{leave}, or {EM}"
    assert hint(asked, rows((3, 1), np.inf))[1] == leave
    for X in (rows(3), rows((3, 1), np.inf), everywhere(whole=2)):
        dropped.measure(X)
    for whole in (0, 1):
        for probe in (asked, dropped):
            message, told = hint(probe, everywhere(whole=whole))
            assert message.startswith(f"{40 - whole} of 40 rows hold NaN or infinity (counted from 0: 0, 1,")
            assert told == EM
            assert hint(probe, everywhere(np.inf, whole))[1] == f"put NaN where infinity stands: {EM}"
        ESTIMATED.measure(everywhere(whole=whole))


@pytest.mark.parametrize("probe", [PROBE, DROPPED])
def test_where_nothing_helps_the_file_is_asked_for(probe: TrainLinear) -> None:
    assert (
        hint(probe, rows(np.s_[1:]))[1] == "all other rows hold nothing else: is it the right file or array?"
    )
    assert hint(probe, rows(np.s_[:])) == (
        "no number of the data is finite",
        "is it the right file or array?",
    )
    column = ("column 2 (counted from 0) has no finite value", "leave the column out of the data")
    assert hint(probe, rows(np.s_[:, 2])) == column
    columns = "2 columns have no finite value (counted from 0: 2, 4)", "leave these columns out of the data"
    assert hint(probe, rows(np.s_[:, [2, 4]])) == columns
    assert hint(probe, rows(n=1))[1] == "one row per sample: was the array transposed?"


def test_em_says_what_it_cannot_estimate() -> None:
    assert hint(ESTIMATED, rows((3, 1), np.inf))[1] == "put NaN where they stand"
    assert hint(ESTIMATED, rows(np.s_[:, 2]))[1] == "leave it out of the data"
    assert hint(ESTIMATED, rows(np.s_[:]))[1] == "is it the right file or array?"
    assert hint(ESTIMATED, rows(np.s_[1:]))[0].endswith("with a value in them, and there is 1")


def test_one_column_needs_a_noise_variance() -> None:
    X = rows()[:, :1]
    assert hint(replace(PROBE, latent_dim="auto"), X)[1] == "give --latent-dim a number, and --sigma2 another"
    assert hint(replace(PROBE, latent_dim=1), X)[1] == "fix it with --sigma2"
    assert replace(PROBE, latent_dim=1, sigma2=0.1).measure(X).latent_dim.value == 1
    assert (
        hint(replace(PROBE, latent_dim=2), rows()[:, :2])[1]
        == "choose --latent-dim below 2, or fix it with --sigma2"
    )


@pytest.mark.parametrize("solver", ["exact", "dual"])
def test_held_out_likelihood_is_left_out_where_time_is_over_and_another_criterion_chose(solver: Any) -> None:
    auto = replace(PROBE, latent_dim="auto", solver=solver)
    strong, weak = rows(n=200) * [9, 5, 1, 1, 1, 1], rows(n=200) * [1, 1, 1, 1, 1, 1e-3]
    for X, chosen, shown in ((strong, "minka", False), (weak, "held-out", True)):
        for late in (False, True):
            with within(1e-9 if late else None):
                found = auto.measure(X)
            choice = found.fit.choice
            assert choice is not None
            assert choice.by == chosen
            assert (choice.held_out is not None) == (shown or not late)
            said = "no time was left for held-out likelihood" in " ".join(f.message for f in found.findings)
            assert said == (late and not shown)
