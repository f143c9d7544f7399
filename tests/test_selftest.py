"""The self-test passes on a sound installation, and fails where an answer is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vaeprobe import selftest
from vaeprobe.cli import run
from vaeprobe.selftest import Answer


def test_every_answer_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["selftest", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "sound"
    assert found["metrics"]["selftest.wrong"]["value"] == 0
    assert found["metrics"]["selftest.answers"]["value"] > 40


def test_a_wrong_answer_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import vaeprobe.engine

    right: Callable[..., Tensor] = vaeprobe.engine.jacobian
    monkeypatch.setattr(vaeprobe.engine, "jacobian", lambda f, z: right(f, z) * (1 + 1e-3))
    for other in ("_orthogonality", "_factorise", "_trace", "_beta"):  # the engine alone is asked
        monkeypatch.setattr(selftest, other, lambda *settings: iter(()))
    assert run(["selftest"]) == 1
    assert "answers are wrong, the first: engine: Jacobian" in " ".join(capsys.readouterr().out.split())


def test_an_answer_is_right_within_its_tolerance() -> None:
    assert Answer("x", 1.0, 1.1, 0.1000001).right
    assert not Answer("x", 1.0, 1.1, 0.0999).right
    assert not Answer("x", 1.0, None, 1.0).right
    assert not Answer("x", 1.0, float("nan"), 1.0).right
    assert Answer("x", "linear", "linear").right
    assert not Answer("x", "linear", "rotated").right


def test_the_maps_are_what_their_closed_forms_say() -> None:
    z = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    J = torch.func.vmap(torch.func.jacfwd(lambda z: selftest._spiral(z[None])[0]))(z)
    want = (2 * z[:, 0]).exp()[:, None, None] * torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(J.mT @ J, want)
