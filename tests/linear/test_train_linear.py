"""`train-linear` from file to document, on every shape of data, and over several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ports import free_ports

import vaeprobe
from vaeprobe.budget import budget, within
from vaeprobe.data import in_memory
from vaeprobe.errors import InputError, MissingExtraError, UsageError
from vaeprobe.linear import closed_form, spectrum
from vaeprobe.probes.train_linear import METRICS, LinearResult, TrainLinear, numbers
from vaeprobe.render import json_document, terminal

from linear_rows import LAMBDA, rows_with


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, rows_with(LAMBDA, offset=1.0))
    return path


def run(*arguments: object, code: int = 0, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vaeprobe", "train-linear", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 or "--json" in arguments else done.stderr


# -- the result -------------------------------------------------------------------------------------


def test_a_result_tells_all_metrics_and_parses(file: Path) -> None:
    result = TrainLinear(latent_dim=3, methods=("elbo", "em"), theorem3=True).measure(file)
    assert list(result.metrics) == [spec.id for spec in METRICS]
    document = json.loads(json_document.render(result.page()))
    assert document["metrics"]["train_linear.sigma2"]["value"] == pytest.approx(np.mean(LAMBDA[3:]))
    assert document["metrics"]["train_linear.eigenvalues"]["value"] == pytest.approx(list(LAMBDA[:3]))
    assert [r["method"] for r in document["details"]["runs"]] == ["elbo", "em"]
    assert document["details"]["theorem3"]["objective_difference"] == pytest.approx(0, abs=1e-10)
    assert result.verdict == "optimum on the axes; optimum, rotated"
    text = terminal.plain(result.page(), width=80, verbose=True)
    assert max(map(len, text.splitlines())) <= 80
    for title in ("Columns of the decoder", "Training against", "Learning curves", "Theorem 3"):
        assert title in text


def test_every_metric_is_explained_in_full() -> None:
    for spec in METRICS:
        assert all(
            (spec.title, spec.range, spec.formula, spec.source, spec.meaning, spec.misleads, spec.remedy)
        )


def test_nothing_trained_leaves_the_certificate_undefined(file: Path) -> None:
    result = TrainLinear(latent_dim=3).measure(file)
    assert result.verdict == "closed form"
    gap = result["train_linear.elbo_gap"]
    assert not gap.defined
    assert "--method elbo" in str(gap.reason)


def test_theorem_3_shows_that_learning_breaks_it(file: Path) -> None:
    shown = TrainLinear(latent_dim=3, beta=2.0, sigma2=0.4, theorem3=True).measure(file).fit.equivalence
    assert shown is not None
    assert shown.column_difference < 1e-14
    assert shown.kl_difference < 1e-14
    assert shown.learned is not None
    assert abs(shown.learned[1] / shown.learned[2] - 1) > 0.5


def test_the_saved_model_is_a_decoder_with_its_encoder(tmp_path: Path) -> None:
    import torch

    X = rows_with((9.0, 5.0, 3.0, 0.4, 0.3, 0.2), offset=1.0).reshape(400, 2, 3)
    np.save(tmp_path / "x.npy", X)
    result = TrainLinear(latent_dim=3, beta=2.0, sigma2=0.5).measure(tmp_path / "x.npy")
    result.save(tmp_path / "m.safetensors")
    decoder = vaeprobe.load(tmp_path / "m.safetensors")
    assert decoder.latent_dim == 3
    assert tuple(decoder.output_shape) == (2, 3)
    assert decoder.encoder is not None
    z = torch.randn(5, 3, dtype=torch.float64)
    expected = (z.numpy() @ result.fit.solution.W.T + result.fit.solution.mean).reshape(5, 2, 3)
    np.testing.assert_allclose(decoder(z).numpy(), expected, atol=1e-12)
    mean, log_variance = decoder.encoder(torch.from_numpy(X))
    np.testing.assert_allclose(log_variance.exp()[0].numpy(), result.fit.solution.variance, rtol=1e-12)
    model = result.fit.solution.model()
    np.testing.assert_allclose(mean.numpy(), (X.reshape(400, 6) - model.mean) @ model.E.T, atol=1e-12)


@pytest.mark.parametrize(("beta", "sigma2"), [(1.0, 0.4), (4.0, 3.0), (4.0, 0.25), (0.5, 2.0), (1.5, "ml")])
def test_beta_and_posterior_take_the_noise_variance_that_the_file_says(
    tmp_path: Path, beta: float, sigma2: float | str
) -> None:
    X, path = rows_with((90.0, 60.0, 40.0, 0.4, 0.3, 0.2)), tmp_path / "m.safetensors"
    result = TrainLinear(latent_dim=3, beta=beta, sigma2=sigma2).measure(X)  # type: ignore[arg-type]
    result.save(path)
    told = result.fit.solution.sigma2
    assert vaeprobe.load(path).sigma2 == told
    found = vaeprobe.beta(path, data=X, samples=64, pairs=2)
    assert found["beta.estimate"].value == pytest.approx(beta, rel=1e-6)
    assert f"Gaussian (sigma^2 = {told:.4g})" in found.summary
    assert found.settings["sigma2"] == told
    assert f"at beta = {beta:.4g} " in vaeprobe.posterior(path, data=X, samples=64, rotations=19).summary
    other = vaeprobe.beta(path, data=X, samples=64, pairs=2, sigma2=2 * told)
    assert other["beta.estimate"].value == pytest.approx(beta / 2, rel=1e-6)  # what the user says comes first


@pytest.mark.parametrize("shape", [(30, 80), (2, 5), (50, 6), (12, 12)])
def test_shapes_of_data(tmp_path: Path, shape: tuple[int, int]) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=shape))
    result = TrainLinear(latent_dim=3, sigma2=0.2, methods=("elbo",)).measure(tmp_path / "x.npy")
    assert result.fit.certificates[0].converged
    terminal.plain(result.page(), width=80, verbose=True)


def test_every_latent_collapsed(file: Path) -> None:
    result = TrainLinear(latent_dim=2, sigma2=50.0, methods=("elbo", "em")).measure(file)
    assert result.verdict == "collapsed"
    assert result["train_linear.collapsed"].value == 2
    assert not result["train_linear.max_angle"].defined
    assert any(f.code == "collapse" for f in result.findings)
    with pytest.raises(InputError, match="all latents would collapse"):
        TrainLinear(sigma2=50.0).measure(file)


def test_the_randomized_solver_trains_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", rows_with((*LAMBDA, *([0.01] * 13))))
    result = TrainLinear(latent_dim=3, solver="randomized", methods=("elbo",)).measure(tmp_path / "x.npy")
    assert result.fit.certificates[0].converged
    assert result["train_linear.spectrum_error"].value < 1e-2  # type: ignore[operator]
    assert any(f.code == "randomized" for f in result.findings)


def test_missing_values(tmp_path: Path) -> None:
    X = rows_with(LAMBDA)
    X[np.random.default_rng(1).random(X.shape) < 0.05] = np.nan
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(InputError, match="rows hold NaN"):
        TrainLinear(latent_dim=3).measure(tmp_path / "x.npy")
    dropped = TrainLinear(latent_dim=3, drop_nonfinite=True).measure(tmp_path / "x.npy")
    assert any(f.code == "dropped-rows" for f in dropped.findings)
    result = TrainLinear(latent_dim=3, missing="em").measure(tmp_path / "x.npy")
    assert result["train_linear.sigma2"].value == pytest.approx(np.mean(LAMBDA[3:]), rel=0.1)
    assert not result["train_linear.bits_per_dim"].defined
    terminal.plain(result.page(), width=80, verbose=True)
    for wrong in ({"latent_dim": "auto"}, {"methods": ("em",)}, {"drop_nonfinite": True}, {"beta": 2.0}):
        with pytest.raises(UsageError):
            TrainLinear(**{"latent_dim": 3, "missing": "em", **wrong}).measure(tmp_path / "x.npy")


def test_unknown_methods_are_corrected(file: Path) -> None:
    with pytest.raises(UsageError, match="no method is called `elb`") as caught:
        TrainLinear(latent_dim=2, methods=("elb",)).measure(file)
    assert "`elbo`" in str(caught.value.hint)


def test_restarts_keep_the_best(file: Path) -> None:
    result = TrainLinear(latent_dim=3, methods=("elbo",), restarts=3, steps=8).measure(file)
    assert len(result.fit.gaps["elbo"]) == 3
    assert result.fit.certificates[0].run.gap == min(result.fit.gaps["elbo"])


@pytest.mark.parametrize("name", ["/dev/full", "/dev/stdout", "picture"])
def test_what_cannot_be_drawn_is_refused_before_the_work(
    tmp_path: Path, file: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = run(file, "--latent-dim", 2, "--plot", name, code=2)
    assert f"error: the name `{name}` says no picture format\nhint: name a file that ends in .png" in text
    monkeypatch.setattr(numbers, "chosen_methods", None)  # no work is begun
    with pytest.raises(UsageError, match="says no picture format"):
        TrainLinear(plot=Path(name)).measure(file)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match="--plot needs matplotlib"):
        TrainLinear(plot=Path("x.png")).measure(file)


def test_plots(tmp_path: Path, file: Path) -> None:
    result: LinearResult = TrainLinear(latent_dim=3, methods=("em",)).measure(file)
    with pytest.raises(UsageError, match="says no picture format"):
        result.plot(tmp_path / "x.txt")
    pytest.importorskip("matplotlib")
    result.plot(tmp_path / "x.svg")
    assert b"<svg" in (tmp_path / "x.svg").read_bytes()


def test_mnist(models: Path) -> None:
    path = models / "data" / "mnist28_2000.npy"
    X = np.load(path).reshape(2000, -1) / 255
    result = TrainLinear(latent_dim=10, beta=4.0, sigma2=0.1, bootstrap=0).measure(path)
    decomposition = pytest.importorskip("sklearn.decomposition")
    theirs = decomposition.PCA(10, svd_solver="full").fit(X)
    values = np.array(result["train_linear.eigenvalues"].value)
    np.testing.assert_allclose(values * 2000 / 1999, theirs.explained_variance_, rtol=1e-8)
    assert "Columns as images" in [s.title for s in result.sections()]
    assert {"scaled", "flattened"} <= {f.code for f in result.findings}


# -- the command ------------------------------------------------------------------------------------


def test_the_command_writes_a_model_and_holds_limits(file: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    out = run(file, "--latent-dim", 3, "--method", "em", "-o", model, "--json", "--max-elbo-gap", 1e-6)
    document = json.loads(out)
    assert document["checks"][0]["status"] == "pass"
    assert vaeprobe.load(model).latent_dim == 3
    failed = json.loads(
        run(file, "--latent-dim", 3, "--method", "em", "--json", "--max-max-abs-cosine", 1e-4, code=1)
    )
    assert failed["checks"][0]["status"] == "fail"


def test_the_command_refuses_in_one_line(file: Path, tmp_path: Path) -> None:
    assert "`--latent-dim` takes a whole number or `auto`, not `many`" in run(
        file, "--latent-dim", "many", code=2
    )
    assert "`--sigma2` takes a number or `ml`, not `much`" in run(file, "--sigma2", "much", code=2)
    assert ".safetensors" in run(file, "-o", tmp_path / "m.pt", code=2)
    assert "there is no file" in run(tmp_path / "nothing.npy", code=5)


# -- several processes ------------------------------------------------------------------------------


def together(script_or_arguments: list[list[str]], timeout: float = 120) -> list[tuple[int, str, str]]:
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_ports()),
        "OMP_NUM_THREADS": "1",
    }
    running = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, arguments in enumerate(script_or_arguments)
    ]
    try:
        return [(p.wait(timeout), *p.communicate()) for p in running]
    finally:
        for p in running:
            p.kill()


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    X = rows_with(LAMBDA, offset=50.0)
    for k, part in enumerate(np.split(X, [150, 160])):
        np.save(tmp_path / f"part{k}.npy", part)
    command = ["-m", "vaeprobe", "train-linear", str(tmp_path / "part*.npy"), "--latent-dim", "3"]
    command += ["--method", "elbo", "--bootstrap", "0", "--json"]
    (code, out, err), (other, silent, _) = together([command, command])
    assert (code, other) == (0, 0), err
    assert silent == ""
    found = json.loads(out)
    assert found["settings"]["processes"] == 2
    alone = closed_form.solve(spectrum.compute(vaeprobe_data(tmp_path), 3), 3)
    value = {k: m["value"] for k, m in found["metrics"].items()}
    assert value["train_linear.sigma2"] == pytest.approx(alone.sigma2, rel=1e-10)
    assert value["train_linear.loglik"] == pytest.approx(alone.loglik, rel=1e-10)
    assert value["train_linear.eigenvalues"] == pytest.approx(alone.values.tolist(), rel=1e-10)


def vaeprobe_data(folder: Path) -> object:
    from vaeprobe.data import open_data

    return open_data(str(folder / "part*.npy"))


def test_an_error_in_one_process_ends_both_with_its_message(tmp_path: Path) -> None:
    X = rows_with(LAMBDA)
    X[-1, 0] = np.nan
    np.save(tmp_path / "x.npy", X)
    command = ["-m", "vaeprobe", "train-linear", str(tmp_path / "x.npy"), "--latent-dim", "3"]
    (code, _, err), (other, _, own) = together([command, command])
    assert (code, other) == (5, 5)
    assert "process 1 of 2 failed: 1 of 400 rows hold NaN" in err
    assert "counted from 0: 399" in err
    assert own == ""


def test_what_several_processes_refuse_is_not_advised_to_them(tmp_path: Path) -> None:
    """Each takes all rows by a solver that holds them, and meets the row that is not whole by itself."""
    X = rows_with(LAMBDA)
    X[-1, 0] = np.nan
    np.save(tmp_path / "x.npy", X)
    command = ["-m", "vaeprobe", "train-linear", str(tmp_path / "x.npy"), "--latent-dim", "3", "--solver"]
    found = together([[*command, "dual"]] * 2)
    assert [code for code, _, _ in found] == [5, 5]
    hint = "hint: leave them out with --drop-nonfinite, or --missing em --latent-dim N, without torchrun, estimates missing values"
    assert hint in "".join(err for _, _, err in found).splitlines()
    assert [code for code, _, _ in together([[*command, "dual", "--drop-nonfinite"]] * 2)] == [0, 0]
    refused = together([[*command, "auto", "--missing", "em"]] * 2)
    assert "hint: start it without torchrun" in "".join(err for _, _, err in refused)
    assert vaeprobe.train_linear(tmp_path / "x.npy", latent_dim=3, missing="em").exit_code in (0, 3)


def test_a_dead_process_ends_the_run_with_a_clear_error(file: Path) -> None:
    command = ["-m", "vaeprobe", "train-linear", str(file), "--latent-dim", "3", "--timeout", "20"]
    dies = "import os\nfrom vaeprobe.processes import joined\nwith joined(): os._exit(9)"
    (code, out, err), (other, _, _) = together([command, ["-c", dies]])
    assert (code, other) == (6, 9)
    assert out == ""
    assert "process of this run has ended or does not answer: its connection is closed" in err
    assert "Traceback" not in err


# -- in Python -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "said", "factor"),
    [
        (
            "auto",
            "uint8 values were divided by 255 (--scale none, in Python scale='none', keeps them)",
            1 / 255,
        ),
        ("none", None, 1.0),
        (0.1, "values were multiplied by 0.1", 0.1),
    ],
)
def test_pixels_in_memory_are_scaled_as_those_of_files_and_it_is_said(
    tmp_path: Path, scale: str | float, said: str | None, factor: float
) -> None:
    import torch

    import vaeprobe

    X = (rows_with(LAMBDA) * 20 + 100).clip(0, 255).astype(np.uint8)
    np.save(tmp_path / "x.npy", X)
    variance = np.cov(X.astype(float) * factor, rowvar=False, bias=True).trace()
    for data in (X, torch.from_numpy(X), tmp_path / "x.npy"):
        found = vaeprobe.train_linear(data, latent_dim=3, scale=scale)
        assert [f.message for f in found.findings if f.code == "scaled"] == [said] * (said is not None)
        assert found.fit.spectrum.values.sum() == pytest.approx(variance, rel=1e-5)
    as_numbers = vaeprobe.train_linear(X.astype(float), latent_dim=3)
    assert "scaled" not in [f.code for f in as_numbers.findings], "numbers of other types are as they are"
    with pytest.raises(UsageError, match="no scale"):
        vaeprobe.train_linear(X, latent_dim=3, scale="pixels")


def test_arrays_tensors_and_files_are_fitted_alike_and_held_against_limits(tmp_path: Path) -> None:
    import torch

    import vaeprobe

    X = rows_with(LAMBDA)
    np.save(tmp_path / "x.npy", X)
    limits = {"train_linear.elbo_gap": 1e-6}
    settings: dict[str, Any] = {"latent_dim": 3, "methods": ["elbo"], "limits": limits}
    found = [
        vaeprobe.train_linear(data, **settings)
        for data in (X, torch.from_numpy(X), str(tmp_path / "x.npy"), [tmp_path / "x.npy"])
    ]
    for result in found:
        assert result["train_linear.sigma2"].value == pytest.approx(
            found[0]["train_linear.sigma2"].value, rel=1e-12
        )
        assert [c.status for c in result.checks] == ["pass"]
        assert result.exit_code == 0
    failing = vaeprobe.train_linear(X, latent_dim=3, methods=["elbo"], limits={"train_linear.elbo_gap": -1.0})
    assert failing.exit_code == 1


def test_missing_values_in_python() -> None:
    import vaeprobe

    X = rows_with(LAMBDA)
    X[3, 2] = np.nan
    with pytest.raises(InputError, match="hold NaN or infinity"):
        vaeprobe.train_linear(X, latent_dim=2)
    assert vaeprobe.train_linear(X, latent_dim=2, drop_nonfinite=True).fit.spectrum.n == len(X) - 1
    assert vaeprobe.train_linear(X, latent_dim=2, missing="em").fit.spectrum.n == len(X)


def test_rows_that_do_not_fit_into_the_time_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(60_000, 4)) * [3.0, 2.0, 1.0, 0.5]
    monkeypatch.setattr(numbers, "seconds_of", lambda rows, solver: 300.0)
    found = vaeprobe.train_linear(X, latent_dim=2, time=60.0)
    said = [f.message for f in found.findings if f.code == "time-limit"]
    assert len(said) == 1
    assert said[0].startswith(
        "6144 of 60000 rows, evenly spread, fitted into their part of the time given; all would take"
    )
    assert said[0].endswith("about 5 minutes")
    assert found.settings["rows"] == 60_000
    assert found.settings["rows_used"] == found.fit.spectrum.n == 6144
    assert "dropped-rows" not in [f.code for f in found.findings]
    np.testing.assert_allclose(found.fit.solution.values, [9.0, 4.0], rtol=0.1)
    for enough in (None, 3600.0):
        whole = vaeprobe.train_linear(X, latent_dim=2, time=enough)
        assert whole.fit.spectrum.n == 60_000
        assert "time-limit" not in [f.code for f in whole.findings]


def test_the_pace_of_the_first_rows_is_that_of_all() -> None:
    data = in_memory(np.random.default_rng(0).normal(size=(20_000, 3)))
    for solver in ("exact", "randomized"):
        assert 0 < numbers.seconds_of(data, solver) < 60


def test_every_run_of_training_has_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(numbers, "train", lambda *a, **k: given.append(budget().seconds))
    with within(60.0):
        numbers.trained(("elbo", "em"), None, None, None, range(2))  # type: ignore[arg-type]
    np.testing.assert_allclose(given, [15.0, 20.0, 30.0, 60.0], rtol=0.05)


@pytest.mark.parametrize(("rest", "carried"), [(1e-12, "100.0%"), (3.7e-4, "over 99.9%"), (3.8e-4, "99.9%")])
def test_nearly_all_of_the_variance_is_not_called_all_of_it(rest: float, carried: str) -> None:
    X = rows_with((1.0, 0.5, rest, rest), 300)
    assert f"carry {carried} of the variance" in vaeprobe.train_linear(X, latent_dim=2).summary


def test_noise_of_few_rows_determines_no_column(tmp_path: Path) -> None:
    noise, signal = tmp_path / "noise.npy", tmp_path / "signal.npy"
    X = np.random.default_rng(0).normal(size=(2, 12))
    np.save(noise, X)
    settings = ("--latent-dim", 1, "--sigma2", 0.05, "--min-identified", 1)
    text = run(noise, *settings, "--json", code=1)
    assert "z0 cannot be told from the discarded directions" in text
    Y = np.random.default_rng(0).normal(size=(20, 12))
    np.save(signal, Y * [9, *[1] * 11])
    run(signal, *settings)


def test_columns_that_resampled_rows_turn_are_not_counted(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(200, 4)) * (3.0, 1.0, 1.0, 1.0)
    X[0, 3] = 60.0
    counted = TrainLinear(latent_dim=2, bootstrap=200).measure(X)
    assert counted.identified.value == 0
    assert "turn z0, z1 by up to" in counted.findings[-1].message
    assert TrainLinear(latent_dim=2, bootstrap=0).measure(X).identified.value == 2


@pytest.mark.parametrize("method", ["em", "elbo", "elbo-full"])
def test_equal_eigenvalues_pass_no_limit_on_the_axes(tmp_path: Path, method: str) -> None:
    tied, apart = tmp_path / "tied.npy", tmp_path / "apart.npy"
    np.save(tied, rows_with((9.0, 9.0, 9.0, 1.0, 1.0, 1.0)))
    np.save(apart, rows_with((9.0, 6.0, 4.0, 1.0, 1.0, 1.0)))
    settings = ("--latent-dim", 3, "--method", method, "--max-rotation-distance", 0.001, "--json")
    document = json.loads(run(tied, *settings, code=3))
    assert document["verdict"] == "optimum, tied block"
    assert (
        "all active columns are one tied block"
        in document["metrics"]["train_linear.rotation_distance"]["reason"]
    )
    run(apart, *settings, "--tolerance", 1e-13, code=0 if method == "elbo" else 1)


def test_every_method_is_told_and_the_gap_is_somebodys(file: Path) -> None:
    found = TrainLinear(latent_dim=3, methods=("all",)).measure(file)
    assert "`elbo` and `det-elbo` reached the optimum on the axes; " in found.summary
    assert "`elbo-full`, `det-elbo-literal` and `em` reached the optimum, rotated" in found.summary
    gaps = {c.run.method: max(c.run.gap, 0.0) for c in found.fit.certificates}
    last = max(gaps, key=gaps.__getitem__)
    assert f"(the largest gap is that of `{last}`, {gaps[last]:.1e} nats)" in found.summary
    assert found.elbo_gap.value == gaps[last]
    assert found.elbo_gap.method == f"{last}, the worst of 5"
    short = TrainLinear(latent_dim=3, methods=("all",), steps=20).measure(file)
    for c in short.fit.certificates:
        assert (c.sentence in short.summary) != c.converged
    two = TrainLinear(latent_dim=3, methods=("elbo", "em")).measure(file)
    assert all(c.sentence in two.summary for c in two.fit.certificates)
    assert TrainLinear(latent_dim=3, methods=("elbo",)).measure(file).elbo_gap.method is None


@pytest.mark.parametrize(
    ("sigma2", "words"),
    [
        (
            0.1,
            "The latent is active and its direction carries 99.5% of the variance; these 40 rows determine it.",
        ),
        (9.0, "The latent is not active and its direction carries 99.5% of the variance."),
    ],
)
def test_one_latent_is_spoken_of_as_one(sigma2: float, words: str) -> None:
    rows = np.random.default_rng(0).standard_normal((40, 3)) * [1.5, 0.1, 0.1]
    assert vaeprobe.train_linear(rows, latent_dim=1, sigma2=sigma2).summary == words
