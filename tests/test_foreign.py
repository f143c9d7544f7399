"""Code of the user's: what it raises is said to be its own, and what it would compile is run as it is written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vaeprobe
from vaeprobe import cli
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.engine import gram, jacobian, pullback, pushforward
from vaeprobe.errors import ContractError
from vaeprobe.foreign import in_words, uncompiled
from vaeprobe.probes.orthogonality import Orthogonality

# -- what it raises ---------------------------------------------------------------------------------


class Fussy(nn.Module):
    """A network that takes latents within a bound alone."""

    def __init__(self, bound: float = 3.0, raised: type[Exception] = ValueError) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 12))
        self.bound, self.raised = bound, raised

    def forward(self, z: Tensor) -> Any:
        if bool((z.detach().abs() > self.bound).any()):
            raise self.raised("latents out of range")
        return self.layers(z)


class Square(torch.autograd.Function):
    """z to z^2, whose backward pass takes what `Fussy` takes."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z * z

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        (z,) = ctx.saved_tensors
        if bool((z.abs() > 3.0).any()):
            raise ValueError("latents out of range")
        return 2 * z * g[0]


def far(n: int = 4) -> Tensor:
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    z[-1, 0] = 5.0
    return z


def refused(call: Callable[[], object], raised: type[Exception] = ValueError) -> ContractError:
    with pytest.raises(ContractError) as caught:
        call()
    assert caught.value.message == (
        f"the decoder fails at some of the latents that are measured: {raised.__name__}: latents out of range"
    )
    assert type(caught.value.__cause__) is raised
    return caught.value


@pytest.mark.parametrize("raised", [ValueError, AssertionError, RuntimeError, KeyError, ZeroDivisionError])
def test_every_verb_says_what_a_decoder_raises(raised: type[Exception]) -> None:
    decoder, z = Decoder(Fussy(raised=raised), 3), far()
    message = {KeyError: "'latents out of range'"}.get(raised, "latents out of range")
    for verb in (
        lambda: gram(decoder, z),
        lambda: jacobian(decoder, z),
        lambda: pushforward(decoder, z, torch.ones(4, 3)),
        lambda: pullback(decoder, z, torch.ones(4, 12)),
    ):
        with pytest.raises(ContractError, match="fails at some of the latents") as caught:
            verb()
        assert caught.value.message.endswith(f": {raised.__name__}: {message}")
        assert type(caught.value.__cause__) is raised
    assert len(gram(decoder, z[:-1])) == 3


PROBES = [vaeprobe.orthogonality, vaeprobe.factorise, vaeprobe.trace, vaeprobe.traverse, vaeprobe.survey]


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.__name__)
def test_every_probe_says_what_a_decoder_raises(probe: Any) -> None:
    settings = {"latents": far(64)} if probe is not vaeprobe.traverse and probe is not vaeprobe.survey else {}
    bound = 3.0 if settings else 2.5
    refused(lambda: probe(Decoder(Fussy(bound), 3), samples=64, **settings))


def test_a_comparison_says_what_a_decoder_raises() -> None:
    refused(lambda: vaeprobe.compare([Decoder(Fussy(), 3), Decoder(Fussy(), 3)], samples=256))


def test_what_a_posterior_is_measured_with_may_raise_too() -> None:
    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = 5.0 * x[:, :3].tanh()
        return mean, torch.full_like(mean, -2.0)

    decoder = Decoder(Fussy(), 3, likelihood="gaussian", encoder=Encoder(encode, 3))
    refused(lambda: vaeprobe.posterior(decoder, data=torch.randn(32, 12) * 3))


def test_an_encoder_that_fails_is_named() -> None:
    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        raise ZeroDivisionError("no rows")

    decoder = Decoder(Fussy(9.0), 3, likelihood="gaussian", encoder=Encoder(encode, 3))
    with pytest.raises(ContractError, match=r"the encoder fails .*: ZeroDivisionError: no rows"):
        vaeprobe.posterior(decoder, data=torch.randn(32, 12))


def test_a_backward_pass_may_raise_too() -> None:
    decoder = Decoder(Square.apply, 3)
    assert decoder.differentiation == "reverse"
    refused(lambda: pullback(decoder, far(), torch.ones(4, 3)))
    assert len(pullback(decoder, far()[:-1], torch.ones(3, 3))) == 3


def test_the_door_tells_latents_from_their_number() -> None:
    with pytest.raises(ContractError, match="cannot be called on latents of shape") as caught:
        Decoder(Fussy(0.01), 3)
    assert type(caught.value.__cause__) is ValueError
    z = Decoder(Fussy(9.0), 3)._probe_rows(4).abs().amax(1)
    assert float(z[2:].max()) > float(z[:2].max())
    refused(lambda: Decoder(Fussy(float(z[:2].max()) + 1e-6), 3))


def test_a_bug_of_ours_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("ours")

    monkeypatch.setattr(Orthogonality, "_measure", broken)
    with pytest.raises(ValueError, match="ours") as caught:
        vaeprobe.orthogonality(Decoder(Fussy(9.0), 3))
    assert type(caught.value) is ValueError
    assert in_words(caught.value) is None


def test_of_what_is_ours_already_nothing_is_said_anew() -> None:
    def decode(z: Tensor) -> Tensor:
        if bool((z.detach().abs() > 3).any()):
            raise ContractError("said already")
        return z * 2

    decoder = Decoder(decode, 3)
    with pytest.raises(ContractError, match=r"^said already$"):
        gram(decoder, far().double())


NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 12))

    def forward(self, z):
        if bool((z.detach().abs() > 2.5).any()):
            raise ValueError("latents out of range")
        return self.layers(z)
"""


def test_the_command_ends_as_the_door_does_and_its_hint_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    (tmp_path / "fussy.py").write_text(NETWORK, encoding="utf-8")
    torch.save({f"layers.{k}": v for k, v in Fussy().layers.state_dict().items()}, tmp_path / "net.pt")
    np.save(tmp_path / "z.npy", far(128).clamp(-2, 2).numpy())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ["orthogonality", "net.pt", "--arch", "fussy:Network", "-n", "128"]
    assert cli.run(command) == 5
    said = capsys.readouterr().err
    assert "fails at some of the latents that are measured: ValueError: latents out of range" in said
    assert "--latents FILE.npy" in said
    assert "bug" not in said
    assert cli.run([*command, "--latents", "z.npy"]) == 0


# -- what it would compile ----------------------------------------------------------------------------


class Compiled(nn.Module):
    """A network that calls a function which `torch.compile` made."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.function = nn.Linear(5, 16), nn.Linear(16, 20), function

    def forward(self, z: Tensor) -> Any:
        return self.second(self.function(self.first(z)))


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(x.exp())


NO_COMPILER = shutil.which("c++") is None and shutil.which("g++") is None
INDUCTOR = pytest.param("inductor", marks=pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, to torch
@pytest.mark.parametrize("backend", ["eager", INDUCTOR])
def test_what_is_compiled_is_measured_as_it_is_written(backend: str) -> None:
    torch.compiler.reset()
    z, v, w = (torch.randn(7, n, generator=torch.Generator().manual_seed(0)) for n in (5, 5, 20))
    made = torch.compile(softplus, backend=backend)
    decoder, plain = Decoder(Compiled(made), 5), Decoder(Compiled(softplus), 5)
    assert decoder.differentiation == "forward"
    assert torch.equal(gram(decoder, z), gram(plain, z))
    assert torch.equal(pushforward(decoder, z, v)[1], pushforward(plain, z, v)[1])
    assert torch.equal(pullback(decoder, z, w), pullback(plain, z, w))
    found, right = (vaeprobe.orthogonality(d, samples=32) for d in (decoder, plain))
    assert found.verdict == right.verdict
    calls: list[int] = []

    def counting(graph: Any, _: object) -> Any:
        calls.append(1)
        return graph.forward

    again = torch.compile(softplus, backend=counting)
    gram(Decoder(Compiled(again), 5), z)
    assert not calls
    again(z)
    assert calls  # outside, torch compiles as ever


def test_nothing_is_said_of_what_is_compiled(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, vaeprobe\n"
        "c = torch.compile(lambda x: torch.log1p(x.exp()), backend='eager')\n"
        "print(vaeprobe.orthogonality(lambda z: torch.cat([c(z), c(2 * z)], 1), latent_dim=3, samples=32).verdict)\n"
    )
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env={**os.environ}, timeout=240
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_threads_switch_the_compiler_off_and_the_last_one_on_again() -> None:
    torch.compiler.reset()
    calls: list[int] = []

    def counting(graph: Any, _: object) -> Any:
        calls.append(1)
        return graph.forward

    made = torch.compile(softplus, backend=counting)
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        with uncompiled():
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(60)
    with uncompiled():
        pass
    made(torch.ones(3))
    assert not calls
    done.set()
    thread.join(60)
    made(torch.ones(3))
    assert calls
