"""The verbs as people call them: from threads, on functions that change themselves, or are not defined everywhere."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaeprobe import autograd
from vaeprobe.engine import gram, jacobian, pullback, pushforward
from vaeprobe.errors import ContractError


def rows(n: int = 5, d: int = 4) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def truth(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return torch.stack([torch.autograd.functional.jacobian(lambda u: f(u[None])[0], row) for row in z])


def test_threads_take_turns() -> None:
    A, z = rows(4, 6), rows()

    def f(
        q: Tensor,
    ) -> Tensor:  # torch's own forward mode, from two threads at once, loses tangents of these or the process
        return torch.fft.rfft(F.layer_norm(torch.tanh(q @ A), (6,))).abs()

    right, before = truth(f, z), torch.backends.mha.get_fastpath_enabled()
    flash = torch.backends.cuda.flash_sdp_enabled()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: jacobian(lambda q: f(q), z), range(24)))
    for J in found:
        torch.testing.assert_close(J, right)
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert torch.backends.cuda.flash_sdp_enabled() == flash


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_process_takes_turns_of_its_own() -> None:
    held, done = threading.Event(), threading.Event()

    def differentiate() -> None:
        with autograd._turns:
            held.set()
            done.wait()

    other = threading.Thread(target=differentiate)
    other.start()
    held.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python, from 3.12 on, where threads are
        child = os.fork()
    if child == 0:  # where that thread is not
        os._exit(0 if autograd._turns.acquire(timeout=5) else 1)
    done.set()
    other.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_is_found_out_near_some_latents_is_not_believed_at_others() -> None:
    def f(x: Tensor) -> Tensor:
        y = x.log()
        return torch.where(y > 0, y, y + y.mean(0))

    assert gram(f, rows().abs() + 1.5).shape == (5, 4, 4)
    with pytest.raises(ContractError, match="mixes the rows"):
        gram(f, 0.3 + 0.1 * rows().abs())
    with pytest.raises(ContractError, match="are 0 at all"):  # one latent alone tells of rounding
        gram(lambda x: (x.log().sigmoid() * 255).round() / 255, torch.tensor([[0.7, 0.9]]).double())


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6).double()
        self.shift = nn.Buffer(torch.zeros(6).double())
        self.calls = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.mean = nn.Buffer(torch.zeros(6).double())

    def forward(self, z: Tensor) -> Tensor:
        y = self.layer(z).sin() + self.shift
        self.calls += 1
        self.mean.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
        return y


def test_buffers_that_a_call_writes_to_stay_as_they_are() -> None:
    torch.manual_seed(0)
    network, z = Counting(), rows()
    for _ in range(2):  # at the door, and past it
        G = gram(network, z)
    assert (int(network.calls), float(network.mean.abs().max())) == (0, 0.0)
    network.layer.weight.data.mul_(2)  # what a call does not write to is shared
    network.shift.add_(1)
    J = truth(lambda q: (q @ network.layer.weight.T + network.layer.bias).sin(), z)
    torch.testing.assert_close(gram(network, z), (J.mT @ J).detach())
    assert not torch.allclose(G, gram(network, z))


def positive(q: Tensor) -> Tensor:
    assert (q > 0).all()
    return q**3


@pytest.mark.parametrize(
    "f",
    [
        torch.log,
        torch.sqrt,
        positive,
        lambda q: torch.distributions.Beta(q, q + 1).entropy(),
        lambda q: torch.linalg.cholesky(torch.diag_embed(q)).flatten(1),
    ],
)
@pytest.mark.parametrize("n", [1, 5])
def test_functions_that_are_not_defined_everywhere(f: Callable[[Tensor], Tensor], n: int) -> None:
    z = rows(n).abs() + 0.5
    torch.testing.assert_close(jacobian(lambda q: f(q), z), truth(f, z))


def test_one_that_is_defined_nowhere_near_is_refused_as_it_fails_there() -> None:
    z = rows().abs() + 0.5
    with pytest.raises(ContractError, match="mixes the rows"):
        jacobian(lambda q: q.log() - q.log().mean(0), z)
    with pytest.raises(ContractError, match="NaN"):
        jacobian(torch.log, -z)


def hint(f: Callable[[Tensor], Tensor], z: Tensor) -> str:
    with pytest.raises(ContractError) as refused:
        gram(f, z)
    return str(refused.value.hint)


@pytest.mark.parametrize("d", [2, 3, 4, 5])
def test_a_function_of_a_single_latent_is_told_whatever_its_shape(d: int) -> None:
    def f(x: Tensor) -> Tensor:
        return torch.stack([x[0] * x[1], x[0]])

    assert "torch.func.vmap" in hint(f, rows(d, d))
    assert gram(torch.func.vmap(f), rows(d, d)).shape == (d, d, d)


def test_a_function_that_holds_something_for_each_latent() -> None:
    z, c = rows(5, 4), rows(5, 3)
    for f in (lambda q: torch.cat([q, c], 1), lambda q: q * c[: len(q), :1], lambda q: q + torch.zeros(5, 4)):
        assert "columns=range(4)" in hint(f, z)

    def beside(x: Tensor) -> Tensor:  # what the hint says to write
        return torch.cat([x[:, :4] * x[:, 4:5], x[:, 4:]], 1)

    G = gram(beside, torch.cat([z, c], 1), columns=torch.arange(4))
    torch.testing.assert_close(G, torch.diag_embed((c[:, :1] ** 2).expand(5, 4)))


def test_what_a_function_raises_itself_is_not_taken_for_its_latents() -> None:
    z = rows()
    assert "by itself" in hint(lambda q: q / (1 // 0), z)
    assert "two types" in hint(lambda q: q @ torch.ones(4, 2), z)
    assert "latent dimension" in hint(lambda q: q @ torch.ones(3, 2).double(), z)


def test_advice_to_torchs_own_authors_is_not_passed_on() -> None:
    z, v = rows(), torch.ones(2, 5, 4).double()

    def f(q: Tensor) -> Tensor:
        return F.glu(q.sin(), 1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jacobian(f, z)
        pushforward(f, z, v)
        pullback(f, z, torch.ones(5, 2).double())


def test_numbers_of_numpy_are_numbers() -> None:
    z = rows()
    assert torch.equal(gram(torch.sin, z, chunk=np.int64(2)), gram(torch.sin, z))  # type: ignore[arg-type]
