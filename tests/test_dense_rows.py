"""Rows that are a nested, sparse or empty-handed tensor are refused in words wherever rows are taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import vaeprobe
from vaeprobe.decoder import Decoder
from vaeprobe.encoder import Encoder
from vaeprobe.errors import UsageError

ROWS = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))

TENSORS = [
    (lambda t: torch.nested.nested_tensor(list(t)), "a nested tensor", lambda t: torch.stack(t.unbind())),
    (
        lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged),
        "a nested tensor",
        lambda t: torch.stack(t.unbind()),
    ),
    (lambda t: t.to_sparse(), "a sparse tensor", lambda t: t.to_dense()),
    (lambda t: t.to("meta"), "on the meta device", lambda t: ROWS),
]


def decoder() -> Decoder:
    encoder = Encoder(lambda x: (x / 2, torch.full_like(x, -1.0)), 2)
    return Decoder(lambda z: 2 * z, 2, dtype=torch.float32, likelihood="gaussian", encoder=encoder)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize(("make", "said", "dense"), TENSORS)
@pytest.mark.parametrize(
    "ask",
    [
        lambda rows: vaeprobe.orthogonality(decoder(), latents=rows, samples=20, rotations=9),
        lambda rows: vaeprobe.posterior(decoder(), data=rows),
        lambda rows: vaeprobe.train_linear(rows, latent_dim=1),
    ],
    ids=["latents", "data", "rows"],
)
def test_rows_are_dense(
    ask: Callable[[Tensor], object],
    make: Callable[[Tensor], Tensor],
    said: str,
    dense: Callable[[Tensor], Tensor],
) -> None:
    rows = make(ROWS)
    with pytest.raises(UsageError, match=said) as caught:
        ask(rows)
    assert caught.value.hint
    ask(dense(rows))
