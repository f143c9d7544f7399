"""XTrace and XDiag: unbiased within their standard errors against exact Gram matrices, and when they are better."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram
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
    said = torch.cat([e.standard_error for e in found]).square().mean().sqrt()
    assert 0.5 < float(said / values.std()) < 2
    diagonals = [xdiagonal(decoder, z, probes=8, seed=seed) for seed in range(SEEDS)]
    each = torch.cat([e.value for e in diagonals])
    t = (each.mean(0) - exact) / (each.std(0) / SEEDS**0.5)
    assert float(t.square().mean().sqrt()) < 1.3, "a mean square of 1 where nothing is biased"
    errors = torch.cat([e.standard_error for e in diagonals]).square().mean().sqrt()
    assert 0.5 < float(errors / each.std(0).square().mean().sqrt()) < 2


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
