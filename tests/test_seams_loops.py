"""Integrability of seams: closure defects against brackets known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.seams import loop_defects
from vaeprobe.seams.fields import DenseField, follow
from vaeprobe.seams.loops import closure_defects

import maps

POINTS = torch.tensor([[0.3, -0.4, 0.8], [1.1, 0.2, -0.5]], dtype=torch.float64)


def contact(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An orthonormal frame no two fields of which span surfaces: v_1 and v_3 turn about v_2 = e_3.

    [v_1, v_2] = -d_3 v_1 = -v_3, so the bracket of the first pair has length 1, all out of their plane.
    """
    c, s, zero = torch.cos(z[:, 2]), torch.sin(z[:, 2]), torch.zeros_like(z[:, 2])
    return (
        torch.stack([c, s, zero], 1),
        torch.stack([zero, zero, zero + 1], 1),
        torch.stack([-s, c, zero], 1),
    )


def aim(z: Tensor, last: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    fields = torch.stack(contact(z), dim=2)

    def nearest(v: Tensor) -> Tensor:
        overlaps = (fields.mT @ v[:, :, None])[:, :, 0]
        best = overlaps.abs().argmax(1)
        return fields[torch.arange(len(z)), :, best] * overlaps.gather(1, best[:, None]).sign()

    return tuple(nearest(v) for v in last)


@pytest.mark.parametrize("size", [0.1, 0.05])
def test_loops_along_a_contact_frame_do_not_close(size: float) -> None:
    v1, v2, v3 = contact(POINTS)
    bracket = closure_defects(aim, POINTS, v1, v2, size)
    assert torch.allclose(bracket, -v3, atol=2 * size**2)
    assert torch.allclose(closure_defects(aim, POINTS, v2, v1, size), v3, atol=2 * size**2), "antisymmetric"


def test_the_error_of_a_loop_falls_with_its_area() -> None:
    v1, v2, v3 = contact(POINTS)
    errors = [float((closure_defects(aim, POINTS, v1, v2, h) + v3).norm()) for h in (0.2, 0.1)]
    assert errors[1] < errors[0] / 3.5


def spherical(z: Tensor) -> Tensor:
    """rho, 2 theta and 3 phi as data: seams are the coordinate lines of spherical coordinates."""
    rho = z.norm(dim=1)
    return torch.stack([rho, 2 * torch.acos(z[:, 2] / rho), 3 * torch.atan2(z[:, 1], z[:, 0])], dim=1)


@pytest.mark.parametrize(
    "decoder",
    [
        maps.decoder(maps.b1(3)),
        maps.decoder(maps.rotated(maps.b1(3))),
        Decoder(spherical, 3, dtype=torch.float64, name="spherical"),
    ],
    ids=lambda decoder: decoder.name,
)
def test_seams_that_are_coordinates_close(decoder: Decoder) -> None:
    loops = loop_defects(decoder, POINTS, size=0.05)
    assert loops.pairs == ((0, 1), (0, 2), (1, 2))
    assert bool(loops.determined.all())
    assert float(loops.bracket.max()) < 5e-3


def test_loops_agree_with_the_bracket_by_differences() -> None:
    decoder = maps.decoder(maps.e(3, k=1.5))
    field = DenseField(decoder)
    V = field.frame(POINTS).V
    loops = loop_defects(decoder, POINTS, size=0.02)
    h = 1e-4
    for p, (i, j) in enumerate(loops.pairs):
        vi, vj, vl = V[:, :, i], V[:, :, j], V[:, :, 3 - i - j]

        def along(v: Tensor, of: Tensor) -> Tensor:
            """The derivative of the field that continues `of`, along v."""
            ends = [follow(field.frame(POINTS + sign * h * v), of, 1e-9).v for sign in (1, -1)]
            return (ends[0] - ends[1]) / (2 * h)

        bracket = along(vi, vj) - along(vj, vi)
        want = (bracket * vl).sum(1).abs()
        assert loops.bracket[:, p].tolist() == pytest.approx(want.tolist(), rel=2e-2, abs=2e-3)
        assert float(want.max()) > 0.01, "an entangled map's seams span no surfaces"


def test_tied_directions_have_no_bracket() -> None:
    loops = loop_defects(maps.decoder(maps.g(3)), POINTS)
    # the two directions across a ray are tied; each pair holds one of them
    assert not bool(loops.determined.any())
    assert bool((loops.bracket == 0).all())


def test_loops_that_begin_alike_share_their_first_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven places a loop, on both sides of the start: of the pairs (0, 1) and (0, 2) the first two are the same."""
    taken = []
    frame = DenseField.frame
    monkeypatch.setattr(
        DenseField, "frame", lambda self, z, *a, **more: (taken.append(len(z)), frame(self, z, *a, **more))[1]
    )
    W = torch.tensor([[1.0, 0.4, -0.3, 0.2], [0.1, -0.8, 0.5, 0.6], [0.3, 0.2, 0.7, -0.9]])
    decoder = Decoder(lambda z: torch.tanh(z @ W.to(z.dtype)), 3, dtype=torch.float64)
    together = loop_defects(decoder, POINTS)
    assert sum(taken) == 2 + 2 * 2 * (2 * 2 + 5 * 3), "first components 0 and 1 of three pairs"
    for n, pair in enumerate(together.pairs):
        alone = loop_defects(decoder, POINTS, components=pair)
        assert torch.allclose(alone.bracket[:, 0], together.bracket[:, n], atol=1e-9)
