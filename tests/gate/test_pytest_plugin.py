"""The pytest plugin in a project of its own."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from vaeprobe.decoder import Decoder
from vaeprobe.errors import UsageError
from vaeprobe.pytest_plugin import VaeprobeFixture

SAMPLES = Path(__file__).parents[2] / "sample_models"
PROJECT = tomllib.loads((SAMPLES.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PLUGIN = PROJECT["entry-points"]["pytest11"]
HEAD = f"""
    import numpy as np
    import torch

    ORTHOGONAL = {str(SAMPLES / "linear.npy")!r}
    ROTATED = {str(SAMPLES / "linear_rotated.npy")!r}
"""


@pytest.fixture(autouse=True, scope="module")
def everything_is_imported() -> None:
    """Use the assertions once before pytester does.

    pytester forgets the modules that were first imported under it, and torch's lazy parts do not survive
    being imported twice: a later test of the same process would fail.
    """
    import torch.distributed.tensor  # `torch.testing` imports it
    import torch.optim  # noqa: F401

    import vaeprobe

    decoder = vaeprobe.Decoder(lambda z: z, latent_dim=2)
    VaeprobeFixture().assert_orthogonal(decoder)
    VaeprobeFixture().assert_factorises(decoder, samples=64)


def results(pytester: pytest.Pytester, body: str) -> pytest.RunResult:
    pytester.makepyfile(HEAD + body)
    if "vaeprobe" not in entry_points(group="pytest11").names:
        # a checkout on the path, or an installation older than the entry point: declare it as an installer would
        info = pytester.mkdir("vaeprobe_plugin-0.dist-info")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vaeprobe-plugin\nVersion: 0\n")
        (info / "entry_points.txt").write_text(f"[pytest11]\nvaeprobe = {PLUGIN['vaeprobe']}\n")
        pytester.syspathinsert()
    return pytester.runpytest_inprocess("-p", "no:cacheprovider")  # in process, torch being imported already


def test_what_holds_passes(pytester: pytest.Pytester) -> None:
    results(
        pytester,
        """
    def test_path(vaeprobe):
        vaeprobe.assert_orthogonal(ORTHOGONAL)
        vaeprobe.assert_factorises(ORTHOGONAL)

    def test_decoder(vaeprobe):
        decoder = vaeprobe.load(ROTATED)
        vaeprobe.assert_orthogonal(decoder, max_mean_abs_cosine=0.9, likelihood="gaussian", seed=3)

    def test_module(vaeprobe):
        torch.manual_seed(0)
        vaeprobe.assert_orthogonal(torch.nn.Linear(2, 50), latent_dim=2, max_mean_abs_cosine=0.9)

    def test_the_package_is_at_hand(vaeprobe):
        assert vaeprobe.Decoder.__name__ == "Decoder"
        assert not hasattr(vaeprobe, "nothing_of_this_name")
    """,
    ).assert_outcomes(passed=4)


def test_what_does_not_hold_says_by_how_much(pytester: pytest.Pytester) -> None:
    done = results(
        pytester,
        """
    def test_cosine(vaeprobe):
        vaeprobe.assert_orthogonal(ROTATED)

    def test_one_latent(vaeprobe):
        vaeprobe.assert_orthogonal(torch.nn.Linear(1, 5), latent_dim=1)

    def test_verdict(vaeprobe):
        vaeprobe.assert_factorises(ROTATED, verdicts=("curved",))
    """,
    )
    done.assert_outcomes(failed=3)
    done.stdout.re_match_lines(
        [
            r"E +AssertionError: fail: orthogonality\.mean_abs_cosine is 0\.2921 \[0\.292, 0\.292\], rule: at most 0\.1",
            r"E +AssertionError: undefined: orthogonality\.mean_abs_cosine is undefined, .*the only latent",
            r"E +AssertionError: linear: ",
        ]
    )
    # the traceback ends in the user's test, not in the plugin
    done.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_a_mistake_in_a_setting_is_an_error_not_a_failure(pytester: pytest.Pytester) -> None:
    done = results(
        pytester,
        """
    def test_it(vaeprobe):
        vaeprobe.assert_orthogonal(ORTHOGONAL, max_mean_abs_cosine=0.1, rotatoins=3)
    """,
    )
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*Error*rotatoins*did you mean `rotations`*"])


def test_a_misspelt_limit_is_told_the_nearest() -> None:
    fixture = VaeprobeFixture()
    decoder = Decoder(lambda z: z, latent_dim=2)
    with pytest.raises(UsageError, match=r"`max_mean_cosine`; did you mean .*`max_mean_abs_cosine`"):
        fixture.assert_orthogonal(decoder, max_mean_cosine=0.1)
    with pytest.raises(UsageError, match=r"`sede`; did you mean .*`seed`"):
        fixture.assert_factorises(decoder, sede=1)


def test_any_limit_of_the_command_is_a_limit_here() -> None:
    fixture = VaeprobeFixture()
    oblique = Decoder(lambda z: z @ torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=z.dtype).T, latent_dim=2)
    fixture.assert_orthogonal(oblique, max_ima_contrast=0.5)
    with pytest.raises(
        AssertionError, match=r"^fail: orthogonality\.ima_contrast is 0\.1116 .*at most 0\.05$"
    ):
        fixture.assert_orthogonal(oblique, max_ima_contrast=0.05, max_mean_abs_cosine=0.9)


def test_rotated_is_not_independent() -> None:
    c = 0.5**0.5
    R = torch.tensor([[c, -c], [c, c]], dtype=torch.float64)
    scale = torch.tensor([1.2, 0.5], dtype=torch.float64)
    turned = Decoder(lambda z: torch.sinh(z.double() @ R.T) * scale, latent_dim=2)
    with pytest.raises(AssertionError, match=r"^rotated: "):
        VaeprobeFixture().assert_factorises(turned, samples=64)
    VaeprobeFixture().assert_factorises(turned, samples=64, verdicts=("rotated",))


def test_the_plugin_imports_nothing_heavy() -> None:
    code = f"import sys, {PLUGIN['vaeprobe']}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SAMPLES.parent, check=False).returncode == 0
