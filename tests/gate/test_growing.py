"""Samples that grow reuse earlier draws: no Gram matrix is computed twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram, verbs
from vaeprobe.engine.remembered import remembered
from vaeprobe.gate.policy import Policy, Rule
from vaeprobe.gate.run import Gate

W = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3)))


def curved(z: Tensor) -> Tensor:
    return torch.tanh(z @ W.to(z).T)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many Gram matrices were computed, call by call."""
    counts: list[int] = []
    plain = verbs._gram

    def counting(decoder: Decoder, z: Tensor, *rest: object) -> Tensor:
        counts.append(len(z))
        return plain(decoder, z, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(verbs, "_gram", counting)
    return counts


def test_only_new_latents_are_computed(computed: list[int]) -> None:
    probed = Decoder(curved, 3, dtype=torch.float64)
    z = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = gram(probed, z)
    some = torch.tensor([[0, 2]]).expand(20, -1)
    part = gram(probed, z, columns=some)
    computed.clear()
    with remembered():
        gram(probed, z[:8])
        torch.testing.assert_close(gram(probed, z), truth)
        torch.testing.assert_close(gram(probed, z.flip(0)), truth.flip(0))
        assert computed == [8, 12]
        torch.testing.assert_close(gram(probed, z, columns=some), part)
        assert computed == [8, 12, 20], "other columns are another matter"
        gram(Decoder(curved, 3, dtype=torch.float64), z[:2])
        assert computed == [8, 12, 20, 2], "another decoder too"
        assert gram(probed, z[:0]).shape == (0, 3, 3)
    gram(probed, z)
    assert computed[-1] == 20, "all is forgotten at the end"


def test_what_is_kept_is_bounded(computed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaeprobe.engine.remembered.MOST", 5 * 9 * 8)
    probed = Decoder(curved, 3, dtype=torch.float64)
    z = torch.randn(20, 3, dtype=torch.float64)
    with remembered():
        first = gram(probed, z)
        torch.testing.assert_close(gram(probed, z), first)
    assert computed == [20, 15]


def test_the_gate_measures_each_latent_once(computed: list[int]) -> None:
    probed = Decoder(curved, 3, dtype=torch.float64)
    truth = float(gram(probed, torch.randn(4096, 3, dtype=torch.float64)).diagonal(dim1=1, dim2=2).sum())
    assert truth > 0
    # a limit at the very value: every look is needed
    from vaeprobe.probes.orthogonality import Orthogonality

    value = (
        Orthogonality(samples=512, restarts=0, rotations=1)
        .measure(probed)["orthogonality.ima_contrast"]
        .value
    )
    assert isinstance(value, float)
    computed.clear()
    rule = Rule(metric="orthogonality.ima_contrast", side="max", limit=value)
    policy = Policy(rules={rule.metric: rule}, samples=64, max_samples=512)
    report = Gate(policy=policy).check("model", lambda _: probed)
    assert report.failure is None
    assert computed == [64, 64, 128, 256]
