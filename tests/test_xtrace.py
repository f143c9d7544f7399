"""XTrace and XDiag: unbiased against exact Gram matrices, with intervals that hold them, and when they are better."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram, matrix_free
from vaeprobe.engine.matrix_free import diagonal, trace, xdiagonal, xtrace
from vaeprobe.errors import UsageError
from vaeprobe.intervals import stream

SEEDS = 40


def decaying(k: int, power: float) -> Decoder:
    """A map whose Jacobians have singular values i^-power, in random directions, and a mild bend."""
    rng = stream(k, "xtrace")
    U, V = (torch.linalg.qr(torch.from_numpy(rng.standard_normal((k, k)))).Q for _ in range(2))
    W = U @ torch.diag(torch.arange(1, k + 1, dtype=torch.float64) ** -power) @ V.T

    def f(z: Tensor) -> Tensor:
        x = z @ W.to(z.dtype).T
        return x + 0.3 * x.sin()

    return Decoder(f, k, dtype=torch.float64)


@pytest.mark.parametrize("k", [100, 300])
def test_estimates_are_unbiased_within_their_standard_errors(k: int) -> None:
    decoder, z = decaying(k, 0.7), torch.from_numpy(stream(1, "z").standard_normal((1, k)))
    exact = gram(decoder, z).diagonal(dim1=1, dim2=2)[0]
    found = [xtrace(decoder, z, probes=8, seed=seed) for seed in range(SEEDS)]
    values = torch.cat([e.value for e in found])
    of_mean = float(values.std()) / SEEDS**0.5
    assert abs(float(values.mean() - exact.sum())) < 4 * of_mean
    diagonals = [xdiagonal(decoder, z, probes=8, seed=seed) for seed in range(SEEDS)]
    each = torch.cat([e.value for e in diagonals])
    t = (each.mean(0) - exact) / (each.std(0) / SEEDS**0.5)
    assert float(t.square().mean().sqrt()) < 1.3, "a mean square of 1 where nothing is biased"


def spectrum(name: str, k: int) -> Tensor:
    """Return singular values of J, shape (k,)."""
    i = torch.arange(k, dtype=torch.float64)
    known = {
        "decaying": 0.9**i,
        "power law": 1 / (1 + i) ** 2,
        "flat": torch.ones_like(i),
        "stepped": torch.where(i < k // 8, 1.0, 0.1),
        "low rank and noise": torch.where(i < 3, 1.0, 0.03),
        "orthogonal columns": torch.exp(torch.from_numpy(stream(k, "columns").standard_normal(k)) / 2),
    }
    return known[name].double()


DRAWS = 200


@pytest.mark.parametrize(
    "name", ["decaying", "power law", "flat", "stepped", "low rank and noise", "orthogonal columns"]
)
@pytest.mark.parametrize(("k", "probes"), [(20, 4), (20, 12), (80, 8), (60, 16)])
def test_intervals_hold_the_truth_and_are_not_much_too_wide(name: str, k: int, probes: int) -> None:
    """Whatever the spectrum: the errors of probes that know one another are told for what they are.

    The same map at every latent, so that each latent is another draw of the probes.
    """
    s = spectrum(name, k)
    V = torch.linalg.qr(torch.from_numpy(stream(k, "V").standard_normal((k, k)))).Q
    V = torch.eye(k, dtype=torch.float64) if name == "orthogonal columns" else V
    decoder = Decoder(lambda z: (z @ V.to(z)) * s.to(z), k, dtype=torch.float64)
    exact = (V * s.square() @ V.T).diagonal()
    draws = 2 * DRAWS if probes < 8 else DRAWS
    z = torch.zeros(draws, k, dtype=torch.float64)
    for found, truth in ((xtrace, exact.sum()), (xdiagonal, exact)):
        estimate = found(decoder, z, probes=probes)
        low, high = estimate.interval()
        rate = ((low <= truth) & (truth <= high)).double().mean(0)
        # 90 % at least, less three standard errors of a rate of 90 % where there is one number
        assert float(rate.mean()) > (0.9 if rate.ndim else 0.9 - 3 * 0.3 / draws**0.5)
        true = (estimate.value - truth).square().mean(0).sqrt()
        wide = ((high - low) / 2).mean(0) / (1.96 * true)
        # Student's quantile is 1.6 times the normal one with four probes less one, 1.2 with eight
        assert float(wide.median()) < (2 if probes < 8 else 1.5)


@pytest.mark.parametrize("probes", [2, 5])
def test_probes_are_left_out_as_by_projections_of_the_gram_matrix(probes: int) -> None:
    """Every estimate, and what two of them share, from a projection that was formed for each set of the other probes."""
    k = 12
    decoder, z = decaying(k, 0.7), torch.from_numpy(stream(1, "z").standard_normal((2, k)))
    signs = matrix_free._signs(decoder, z, probes, 3)
    found = matrix_free._left_out(decoder, z, probes, 3, False)
    for i, G in enumerate(gram(decoder, z)):
        v = signs[:, i]

        def estimate(p: int, without: int, G: Tensor = G, v: Tensor = v) -> Tensor:
            Y = G @ v[[q for q in range(probes) if q not in (p, without)]].T
            P = torch.eye(k, dtype=G.dtype) - Y @ torch.linalg.pinv(Y)
            rest = P @ G @ P
            return (G - rest).diagonal() + v[p] * (rest @ v[p])

        D = torch.stack([estimate(p, p) for p in range(probes)])
        torch.testing.assert_close(found.mean[i], D.mean(0))
        torch.testing.assert_close(found.variance[i], D.var(0))
        moved = [(D[p] - estimate(p, q), D[q] - estimate(q, p)) for p in range(probes) for q in range(p)]
        torch.testing.assert_close(found.shared[i], torch.stack([a * b for a, b in moved]).mean(0))
        sums = torch.stack([a.sum() * b.sum() for a, b in moved])
        torch.testing.assert_close(found.shared_by_sums[i], sums.mean())


class Operations(TorchDispatchMode):
    """How many operations torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return op(*args, **(kwargs or {}))


def test_pairs_of_probes_are_taken_together() -> None:
    """As many operations as probes: those of 2,016 pairs, one by one, cost far more than what they compute."""
    decoder, z = decaying(40, 0.7), torch.zeros(1, 40, dtype=torch.float64)
    xtrace(decoder, z, probes=2)  # the verbs look at a decoder when they first see it
    counts = {}
    for probes in (4, 8, 32):
        with Operations() as taken:
            xtrace(decoder, z, probes=probes)
        counts[probes] = taken.count
    assert (counts[32] - counts[8]) / 24 < 1.2 * (counts[8] - counts[4]) / 4


def test_an_interval_needs_two_probes_and_is_student_s() -> None:
    decoder, z = decaying(20, 0.7), torch.zeros(1, 20, dtype=torch.float64)
    low, high = trace(decoder, z, probes=1).interval()
    assert float(low) == -math.inf
    assert float(high) == math.inf
    estimate = trace(decoder, z, probes=5)
    low, high = estimate.interval(0.95)
    half = 2.7764451 * estimate.standard_error  # of four degrees of freedom
    torch.testing.assert_close(high - estimate.value, half, rtol=1e-6, atol=0)
    torch.testing.assert_close(estimate.value - low, half, rtol=1e-6, atol=0)


def test_two_probes_that_agree_still_tell_an_error() -> None:
    """Of G = I: each of two probes says the same of the rest, |v|^2 less (v.w)^2 / |w|^2."""
    decoder = Decoder(lambda z: z * 1.0, 12, dtype=torch.float64)
    estimate = xtrace(decoder, torch.zeros(200, 12, dtype=torch.float64), probes=2)
    true = (estimate.value - 12).square().mean().sqrt()
    assert 0.7 < float(estimate.standard_error.square().mean().sqrt() / true) < 1.5


def test_the_sum_of_the_diagonal_is_the_trace() -> None:
    decoder, z = decaying(30, 0.7), torch.from_numpy(stream(1, "z").standard_normal((2, 30)))
    torch.testing.assert_close(
        xdiagonal(decoder, z, probes=5).value.sum(-1), xtrace(decoder, z, probes=5).value
    )


def test_a_decaying_spectrum_is_seen_better_and_a_flat_one_worse() -> None:
    """At the same number of products with G: 12 of Hutchinson's against 6 probes and their basis."""
    ratios = {}
    for power in (0.0, 2.0):
        decoder, z = decaying(100, power), torch.zeros(1, 100, dtype=torch.float64)
        exact = gram(decoder, z)[0].diagonal()

        def error(values: list[Tensor], truth: Tensor) -> float:
            return float((torch.cat(values) - truth).square().mean().sqrt())

        ratios[power] = (
            error([xtrace(decoder, z, probes=6, seed=s).value for s in range(20)], exact.sum())
            / max(error([trace(decoder, z, probes=12, seed=s).value for s in range(20)], exact.sum()), 1e-12),
            error([xdiagonal(decoder, z, probes=6, seed=s).value for s in range(20)], exact)
            / max(error([diagonal(decoder, z, probes=12, seed=s).value for s in range(20)], exact), 1e-12),
        )
    assert max(ratios[2.0]) < 0.5
    assert ratios[0.0][1] > 0.5


def test_what_probes_span_is_exact() -> None:
    """A Jacobian of rank 3, of which the others of five probes see all."""
    W = torch.from_numpy(stream(2, "rank").standard_normal((30, 3))) @ torch.from_numpy(
        stream(3, "rank").standard_normal((3, 20))
    )
    decoder = Decoder(lambda z: z @ W.to(z.dtype).T, 20, dtype=torch.float64)
    z = torch.zeros(2, 20, dtype=torch.float64)
    G = gram(decoder, z)
    torch.testing.assert_close(xtrace(decoder, z, probes=5).value, G.diagonal(dim1=1, dim2=2).sum(-1))
    torch.testing.assert_close(xdiagonal(decoder, z, probes=5).value, G.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("probes", [1, 20])
def test_too_few_and_too_many_probes_are_refused(probes: int) -> None:
    decoder = decaying(20, 1.0)
    z = torch.zeros(1, 20, dtype=torch.float64)
    for estimate in (xtrace, xdiagonal):
        with pytest.raises(UsageError, match="at least 2 and fewer than the 20 latents"):
            estimate(decoder, z, probes=probes)
        estimate(decoder, z, probes=2 if probes < 2 else 19)
