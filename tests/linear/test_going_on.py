"""`train-linear --resume`: an interrupted run ends with the numbers of a whole one, whatever its solver and training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaeprobe import kept
from vaeprobe.cli.output import document
from vaeprobe.data import Data
from vaeprobe.errors import UsageError
from vaeprobe.linear import identifiability, missing, moments, rows, spectrum
from vaeprobe.probes.train_linear import TrainLinear, numbers
from vaeprobe.progress import Descent, listening

Array = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture(autouse=True)
def all_is_worth_keeping_and_blocks_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "RATE", float("inf"))
    monkeypatch.setattr(kept, "PERIOD", 0.0)
    monkeypatch.setattr(moments, "BLOCK", 64)
    monkeypatch.setattr(rows, "BLOCK", 64)
    monkeypatch.setattr(spectrum, "QR_BLOCK", 24 * 64)
    monkeypatch.setattr(missing, "TOLERANCE", 1e-6)


def data(n: int = 700, m: int = 24, noise: float = 0.3) -> Array:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((n, 3)) * [5, 3, 2] @ rng.standard_normal((3, m))
    return 4 + signal + noise * rng.standard_normal((n, m))


def with_gaps(rows: int, share: float) -> Array:
    X = data(rows, 6)
    X[np.random.default_rng(1).random(X.shape) < share] = np.nan
    return X


PROBE = TrainLinear(latent_dim=3, bootstrap=0)
RUNS: dict[str, tuple[Array, TrainLinear]] = {
    "rows left out": (with_gaps(1500, 0.05), replace(PROBE, drop_nonfinite=True)),
    "rows left out, in folds": (
        with_gaps(1500, 0.05),
        replace(PROBE, drop_nonfinite=True, latent_dim="auto"),
    ),
    "singular values": (data(noise=1e-6), PROBE),
    "streamed passes": (data(), replace(PROBE, solver="randomized")),
    "streamed passes, singular values": (data(noise=1e-6), replace(PROBE, solver="randomized")),
    "missing values": (with_gaps(60, 0.02), replace(PROBE, missing="em")),
    "missing values, latents tried again": (
        with_gaps(60, 0.02),
        replace(PROBE, missing="em", latent_dim=5, sigma2=30.0),
    ),
    "L-BFGS": (data(200, 8), replace(PROBE, methods=("elbo",), steps=60)),
    "L-BFGS from two points": (data(200, 8), replace(PROBE, methods=("elbo-full",), restarts=2, steps=30)),
    "Adam": (data(200, 8), replace(PROBE, methods=("det-elbo",), optimiser="adam", steps=80)),
    "minibatches": (
        data(200, 8),
        replace(PROBE, methods=("elbo",), optimiser="adam", steps=80, batch_size=50),
    ),
    "EM": (data(200, 8), replace(PROBE, methods=("em",), steps=60)),
}


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_goes_on_bit_for_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, probe = RUNS[name]
    if name.startswith("streamed"):
        monkeypatch.setattr(rows, "CACHE_BYTES", 0)
    np.save(tmp_path / "x.npy", X)
    steps, until = [0], [10**9]
    mark = kept.Trail.mark

    def counted(self: kept.Trail, *a: Any, **more: Any) -> None:
        mark(self, *a, **more)
        steps[0] += 1
        if steps[0] == until[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(kept.Trail, "mark", counted)

    def run(path: Path | None) -> str:
        steps[0] = 0
        return document(replace(probe, resume=path).measure(tmp_path / "x.npy").page(), "json")

    plain = run(None)
    whole = steps[0]
    for cut in (whole // 3, whole - 1):
        path = tmp_path / f"{cut}.kept"
        until[0] = cut
        with pytest.raises(KeyboardInterrupt):
            run(path)
        until[0] = 10**9
        assert run(path) == plain
        # of the last step before it was stopped, some is done again where steps begin with what is kept
        assert steps[0] <= whole - cut + 1


def test_em_that_falls_gives_what_it_had_before_wherever_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, step, mark = with_gaps(60, 0.02), missing._step, kept.Trail.mark
    whole = missing.fit(X, 3)
    noises: list[float] = []
    least = [0.0]

    def falls(rows: Any, W: Array, mean: Array, noise: float) -> Any:
        noises.append(noise)
        found = step(rows, W, mean, noise)
        return replace(found, log_det=found.log_det + 1e6) if noise < least[0] else found

    monkeypatch.setattr(missing, "_step", falls)
    assert missing.fit(X, 3).sigma2 == whole.sigma2
    assert whole.steps > 6
    assert noises[4] > noises[5]
    least[0] = (noises[4] + noises[5]) / 2
    found = missing.fit(X, 3)
    assert (found.steps, found.sigma2, found.converged) == (5, noises[4], False)

    probe = replace(PROBE, missing="em")
    np.save(tmp_path / "x.npy", X)

    def run(path: Path | None) -> str:
        return document(replace(probe, resume=path).measure(tmp_path / "x.npy").page(), "json")

    plain = run(None)
    for cut in range(1, 6):

        def stopped(self: kept.Trail, at: int, *stand: object, cut: int = cut, **more: Any) -> None:
            mark(self, at, *stand, **more)
            if at == cut:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(kept.Trail, "mark", stopped)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / f"{cut}.kept")
        assert run(tmp_path / f"{cut}.kept") == plain


@pytest.mark.parametrize(
    ("shape", "solver"), [((20, 40), "dual"), ((300, 40), "randomized"), ((300, 40), "exact")]
)
def test_eigenpairs_and_angles_are_kept_whole(
    shape: tuple[int, int], solver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = data(*shape)
    probe = replace(PROBE, solver=solver, bootstrap=30, resume=tmp_path / "run.kept")
    whole = document(probe.measure(X).page(), "json")

    def again(*_: object) -> None:
        raise AssertionError("computed again")

    for room, part in ((spectrum, "_dual"), (spectrum, "randomized"), (identifiability, "_angles")):
        monkeypatch.setattr(room, part, again)
    monkeypatch.setattr(np.linalg, "eigh", again)
    assert document(probe.measure(X).page(), "json") == whole
    X[0, 0] += 1  # other rows, of which nothing is kept
    with pytest.raises(AssertionError, match="computed again"):
        probe.measure(X)


def test_rows_of_minibatches_tell_runs_apart(tmp_path: Path) -> None:
    """Whole numbers in another order have the same moments, bit for bit, but not the same minibatches."""
    X = np.random.default_rng(0).integers(-8, 8, (64, 4)).astype(np.float64)
    X -= X.sum(axis=0) / 64  # exact: multiples of 1/64
    probe = replace(RUNS["minibatches"][1], latent_dim=1, batch_size=8)
    resumed = replace(probe, resume=tmp_path / "run.kept")
    first, second = resumed.measure(X), resumed.measure(X[::-1])
    assert first.sigma2.value == second.sigma2.value
    assert second.elbo_gap.value == probe.measure(X[::-1]).elbo_gap.value != first.elbo_gap.value


def test_a_time_that_leaves_rows_out_of_steps_over_all_is_refused_beside_resume(tmp_path: Path) -> None:
    X = data(2 * 4096 + 1, 20)
    probe = replace(PROBE, solver="randomized", time=600.0, resume=tmp_path / "run.kept")
    with pytest.raises(UsageError, match="cannot go on with the randomized solver where --time") as caught:
        probe.measure(X)
    assert caught.value.hint is not None
    assert "leave --time out" in caught.value.hint
    # with so few rows none is left out; and either of the two alone does
    for run, some in (
        (probe, X[1:]),
        (replace(probe, time=None), X),
        (replace(probe, resume=None), X),
        (replace(probe, solver="exact"), X),
    ):
        assert run.measure(some).sigma2.value == pytest.approx(0.09, rel=0.05)


def read_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every block of 256 rows take a second of a clock that stands still otherwise."""
    now = [100.0]
    monkeypatch.setattr(kept.time, "monotonic", lambda: now[0])
    real = Data.blocks

    def slow(self: Any, *a: Any, **more: Any) -> Any:
        for block in real(self, *a, **more):
            now[0] += 1.0
            yield block

    monkeypatch.setattr(Data, "blocks", slow)
    monkeypatch.setattr(moments, "BLOCK", 256)


def test_rows_that_are_left_out_are_told_from_those_without_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = data(640, 6)
    X[[3, 70, 600], 2] = np.nan
    read_slowly(monkeypatch)
    probe = replace(PROBE, drop_nonfinite=True)
    found = replace(probe, time=3.0).measure(X)
    messages = [f.message for f in found.findings]
    assert "the first 512 of 640 rows were read in the time given" in messages
    assert "2 of 512 rows hold NaN or infinity and were left out" in messages
    assert found.sigma2.n == 510
    messages = [f.message for f in probe.measure(X).findings]
    assert "3 of 640 rows hold NaN or infinity and were left out" in messages
    assert not any("time given" in message for message in messages)


def test_singular_values_are_of_the_rows_that_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    X = data(640, 6, noise=1e-6)
    read_slowly(monkeypatch)
    found = replace(PROBE, time=3.0).measure(X)
    monkeypatch.undo()
    n = found.fit.spectrum.n
    assert found.fit.spectrum.singular
    assert n < 640
    whole = PROBE.measure(X[:n])
    np.testing.assert_allclose(found.fit.spectrum.values, whole.fit.spectrum.values, rtol=1e-9)
    np.testing.assert_allclose(found.fit.spectrum.mean, X[:n].mean(axis=0), rtol=1e-14)


@pytest.mark.parametrize("solver", ["exact", "dual", "randomized"])
def test_long_work_is_foretold_and_only_where_somebody_listens(
    solver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "LARGE_WORK", 1e3)
    monkeypatch.setattr(numbers, "seconds_of", lambda *_: 100.0)
    said: list[tuple[str, float, float]] = []
    X = data(120, 24)
    with listening(lambda *_: None, lambda what, seconds, bytes, _: said.append((what, seconds, bytes))):
        replace(PROBE, solver=solver).measure(X)
        monkeypatch.setattr(numbers, "LARGE_WORK", 1e9)
        replace(PROBE, solver=solver).measure(X)
    ((what, seconds, bytes),) = said
    assert (what, seconds) == ("eigenpairs of 120 rows of 24 columns", 100.0)
    assert 0 < bytes < 1e6
    monkeypatch.setattr(numbers, "LARGE_WORK", 1e3)
    monkeypatch.setattr(numbers, "seconds_of", None)
    replace(PROBE, solver=solver).measure(X)  # nobody listens: not even asked


def test_steps_whose_end_nobody_knows_are_foretold_as_at_most_so_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Descent, "SLOW", 0.0)
    said: list[str] = []
    with listening(lambda *_: None, lambda what, *_: said.append(what)):
        replace(PROBE, methods=("elbo", "em"), steps=30, tolerance=0.0).measure(data(100, 6))
        replace(PROBE, missing="em", steps=25).measure(with_gaps(60, 0.02))
    assert said[0] == said[1] == "training elbo, at most 30 steps, if all are needed"  # as much at the 20th
    assert said[2] == said[3] == "EM, at most 30 steps, if all are needed"
    assert said[4] == "EM on missing values, at most 25 steps, if all are needed"
