"""Rotations of large latent spaces, by what they turn."""

from __future__ import annotations

import torch

from vaeprobe.geometry.rotations import haar
from vaeprobe.geometry.turns import Turn


def test_a_turn_does_what_its_matrix_does() -> None:
    z = torch.randn(5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(24, dtype=torch.float64)
    for turn in (Turn(haar(4, 1, 3)[0], 24), Turn(haar(5, 1, 1)[0], 24, torch.tensor([0, 3, 7, 20, 23]))):
        R = turn.matrix
        torch.testing.assert_close(R.T @ R, eye)
        torch.testing.assert_close(turn.of(z), z @ R.T)
    assert torch.equal(R[1], eye[1])


def test_channels_turn_alike_at_every_site() -> None:
    turn = Turn(haar(4, 1, 3)[0], 24)
    z = torch.randn(1, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = turn.of(z.flatten(1)).reshape(4, 6)
    for site in range(6):
        torch.testing.assert_close(turned[:, site], turn.R @ z[0, :, site])
