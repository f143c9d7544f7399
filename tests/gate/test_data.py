"""Rules on what data say by themselves: `train_linear.*`, which no decoder is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vaeprobe.cli import run
from vaeprobe.errors import UsageError
from vaeprobe.gate import policy_file as policies
from vaeprobe.gate import rules
from vaeprobe.probes import probe_class

from linear_rows import LAMBDA, rows_with


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", rows_with(LAMBDA))
    np.save("model.npy", np.random.default_rng(0).standard_normal((6, 3)))
    return tmp_path


def check(*arguments: str) -> int:
    return run(["check", "model.npy", *arguments])


def test_limits_and_verdicts_hold_on_data(here: Path) -> None:
    sigma2 = float(np.mean(LAMBDA[3:]))  # the maximum likelihood of three latents
    (here / "vaeprobe.toml").write_text('[train-linear]\nlatent-dim = 3\nmethods = ["elbo", "em"]\n')
    assert check("--data", "x.npy", "--rule", f"train_linear.sigma2<={sigma2 * 1.001}") == 0
    assert check("--data", "x.npy", "--rule", f"train_linear.sigma2<={sigma2 * 0.999}") == 1
    assert check("--data", "x.npy", "--rule", "train_linear.elbo_gap=1e-6") == 0
    both = "train_linear.verdict=optimum on the axes,optimum, rotated"
    assert check("--data", "x.npy", "--rule", both) == 0
    assert check("--data", "x.npy", "--rule", "train_linear.verdict=optimum on the axes") == 1, (
        "EM is rotated"
    )


def test_settings_shape_the_fit(here: Path) -> None:
    (here / "vaeprobe.toml").write_text(
        '[check]\ndata = "x.npy"\n[check.rules]\n"train_linear.collapsed" = 0\n'
        "[train_linear]\nlatent_dim = 2\nsigma2 = 50.0\n"
    )
    assert check() == 1, "every eigenvalue is below the noise"
    (here / "vaeprobe.toml").write_text(
        '[check]\ndata = "x.npy"\n[check.rules]\n"train_linear.collapsed" = 0\n'
    )
    assert check() == 0


def test_a_rule_on_data_needs_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--rule", "train_linear.collapsed=0") == 2
    assert "a rule on `train_linear` needs data" in capsys.readouterr().out


def test_data_have_no_baseline() -> None:
    with pytest.raises(UsageError, match="is no mean over latents"):
        rules.rule("train_linear.elbo", {"regression": 0.1})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("steps = 0", "`steps`"),
        ('methods = "em"', "`methods` takes a list of texts, not `em`"),
        ('latent-dim = "many"', "takes a whole number or `auto`, not `many`"),
        ('plot = "x.png"', "names a file to write"),
        ('optimiser = "adma"', "takes one of lbfgs, adam"),
    ],
)
def test_wrong_settings_of_the_table_are_told(tmp_path: Path, table: str, words: str) -> None:
    path = tmp_path / "vaeprobe.toml"
    path.write_text(f"[train-linear]\n{table}\n")
    with pytest.raises(UsageError) as caught:
        policies.read(path)
    assert words in caught.value.message


def test_no_decoder_is_asked_for_what_data_say() -> None:
    with pytest.raises(TypeError, match="asked of data"):
        probe_class("train_linear")
