"""`factorise` on decoders that see fewer directions of latent space than it has: u -> f(B u) in closed form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vaeprobe import engine
from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram
from vaeprobe.errors import ResourceError
from vaeprobe.geometry import row_space as row_space_module
from vaeprobe.geometry.gram import singular_tolerance
from vaeprobe.geometry.rotations import haar
from vaeprobe.geometry.row_space import depends_on, restricted, row_space, sketched_row_space
from vaeprobe.intervals import stream
from vaeprobe.latents import Prior
from vaeprobe.probes.factorise import Factorise, probe
from vaeprobe.probes.factorise.probe import ASKED_AT, SEEN_AT
from vaeprobe.progress import listening
from vaeprobe.report import Artifact

import maps

K = 20


def onto(r: int, seed: int = 5) -> Tensor:
    """Return r orthonormal rows of K, shape (r, K), float64."""
    return haar(K, 1, seed)[0][:r]


def through(map: maps.ExactMap, B: Tensor) -> Decoder:
    return Decoder(lambda z: map.f(z @ B.to(z.dtype).mT), K, dtype=torch.float64)


def test_seams_in_the_row_space_are_found() -> None:
    """Seams of lengths s_i cosh: along the rows of B, whatever the given axes are."""
    map = maps.b1(3)
    result = Factorise(samples=128, sheets=8, permutations=19).measure(through(map, onto(3)))
    assert result.verdict in ("independent", "rotated"), result.summary
    assert "3 directions alone (J has rank 3)" in result.summary
    assert [f.code for f in result.findings][:1] == ["low-rank"] or any(
        f.code == "low-rank" for f in result.findings
    )
    assert result["latents.dim"].value == K
    assert result["latents.active"].value == 3
    assert result.latents == ["u0", "u1", "u2"]
    plain = Factorise(samples=128, sheets=8, permutations=19).measure(Decoder(map.f, 3, dtype=torch.float64))
    assert plain.verdict == "independent"


def test_where_latents_are_too_many_the_row_space_is_found_without_their_metric(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "MOST_WHOLE", K - 1)
    map, factorise = maps.b1(3), Factorise(part="all", samples=128, sheets=8, permutations=19)
    decoder = replace(through(map, onto(3)), artifact=Artifact(path="decoder.pt"))
    result = factorise.measure(decoder)
    assert result.verdict in ("independent", "rotated"), result.summary
    assert "3 directions alone (J has rank 3)" in result.summary
    assert result.latents == ["u0", "u1", "u2"]
    # what was asked about is told, not what was measured in its stead
    assert result.artifact == decoder.artifact
    assert result["latents.dim"].value == K
    with pytest.raises(ResourceError, match="the most that are measured whole") as refused:
        factorise.measure(Decoder(maps.a(K).f, K, dtype=torch.float64))
    assert "--part some" in str(refused.value.hint)
    monkeypatch.setattr(probe, "MOST_WHOLE", K)
    assert factorise.measure(Decoder(maps.a(K).f, K, dtype=torch.float64)).verdict == "linear"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sketch_finds_the_row_space_that_the_metric_has(dtype: torch.dtype) -> None:
    decoder = Decoder(lambda z: maps.e(3).f(z @ onto(3).to(z.dtype).mT), K, dtype=dtype)
    z = Prior().draw(decoder, SEEN_AT, seed=0)
    tolerance = singular_tolerance(K, dtype)
    B, exact = sketched_row_space(decoder, z, tolerance, 0), row_space(gram(decoder, z), tolerance)
    assert B is not None
    assert exact is not None
    torch.testing.assert_close(B @ B.mT, exact @ exact.mT, atol=1e-6, rtol=0)
    whole = Decoder(maps.e(3).f, 3, dtype=torch.float64)
    assert sketched_row_space(whole, z[:, :3], tolerance, 0) is None


@pytest.mark.parametrize(("make", "verdict"), [(maps.a, "linear"), (maps.e, "entangled")])
def test_what_holds_of_the_map_holds_in_the_row_space(make: object, verdict: str) -> None:
    result = Factorise(samples=128, sheets=0, permutations=19).measure(through(make(3), onto(3)))  # type: ignore[operator]
    assert result.verdict == verdict, result.summary


def test_a_row_space_that_moves_is_none() -> None:
    """J has rank 2 at every latent, of w_0, w_1 and w_0 w_2 + w_1: yet outputs see all three directions."""

    def f(z: Tensor) -> Tensor:
        w = z @ onto(3).to(z.dtype).mT
        u = torch.stack([w[:, 0], w[:, 1] + w[:, 0] * w[:, 2]], dim=1)
        return torch.cat([u, u.sinh(), u.exp()], dim=1)

    result = Factorise(samples=32, permutations=19).measure(Decoder(f, K, dtype=torch.float64))
    assert result.verdict == "undefined"
    assert "3 directions alone (J has rank 2)" in result.summary


def test_a_direction_that_others_wake_is_not_overlooked() -> None:
    """The third direction is dead but where w_0 > 2.5, at 1 of 160 latents: too few for Jacobians at eight of them."""

    def f(z: Tensor) -> Tensor:
        w = z @ onto(3).to(z.dtype).mT
        third = torch.relu(w[:, 0] - 2.5) * torch.sin(w[:, 2])
        return torch.stack([torch.sinh(w[:, 0]), torch.sinh(w[:, 1]), third], dim=1)

    result = Factorise(samples=32, permutations=19).measure(Decoder(f, K, dtype=torch.float64))
    assert result.verdict == "undefined"
    assert "low-rank" not in {f.code for f in result.findings}


@pytest.mark.parametrize(("latents", "seen"), [(16, False), (17, True)])
def test_dependent_columns_of_few_latents_are_named_instead(latents: int, seen: bool) -> None:
    W = torch.from_numpy(stream(1, "narrow").standard_normal((latents, 3)))
    decoder = Decoder(lambda z: torch.sinh(z @ W.to(z.dtype)), latents, dtype=torch.float64)
    result = Factorise(samples=32, max_samples=32, sheets=0, permutations=19).measure(decoder)
    assert (result.verdict != "undefined") is seen
    assert ("low-rank" in {f.code for f in result.findings}) is seen


def test_directions_that_move_the_output_by_turns_are_no_rank() -> None:
    """Six ReLU units: the output depends on six directions, and J has as many dimensions as units are awake."""
    W = torch.from_numpy(stream(1, "units").standard_normal((K, 6)))
    decoder = Decoder(lambda z: torch.relu(z @ W.to(z.dtype)), K, dtype=torch.float64)
    result = Factorise(samples=32, max_samples=32, sheets=0, permutations=19).measure(decoder)
    z = Prior(purpose="row space").draw(decoder, ASKED_AT, seed=0)[:SEEN_AT]
    awake = (z @ W > 0).sum(1)
    assert int(awake.max()) < 6
    said = f"6 directions alone (J has rank {int(awake.min())} to {int(awake.max())})"
    assert result.summary.startswith(
        f"The output depends on {said}, not on all 20 latents; along these directions: undefined"
    )
    assert [f.code for f in result.findings] == ["low-rank", "factorise-undefined"]


def test_no_latent_is_measured_twice_for_what_the_output_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two units of seven are awake at one latent in fifteen: eight latents do not see them all."""
    W = torch.from_numpy(stream(1, "units").standard_normal((K, 7)))
    bias = torch.tensor([0.0] * 5 + [-1.5 * float(W.norm(dim=0).mean())] * 2).double()
    decoder = Decoder(lambda z: torch.relu(z @ W.to(z.dtype) + bias), K, dtype=torch.float64)
    asked: list[int] = []

    def counted(of: Decoder, z: Tensor, **settings: Any) -> Tensor:
        if of is decoder:
            asked.append(len(z))
        return gram(of, z, **settings)

    monkeypatch.setattr(engine, "gram", counted)
    Factorise()._seen(decoder, Prior(), None)
    assert asked == [8, 24]


def test_a_decoder_is_asked_once_what_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = stream(1, "wide")
    V, W = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((K, K), (K, 6)))
    decoder = Decoder(lambda z: torch.tanh(z @ V.to(z.dtype)) @ W.to(z.dtype), K, dtype=torch.float64)
    asked: list[object] = []
    seen = Factorise._seen
    monkeypatch.setattr(Factorise, "_seen", lambda *args: asked.append(args[1]) or seen(*args))
    monkeypatch.setattr(probe, "MANY", 10)
    result = Factorise(samples=32, max_samples=32, sheets=0, permutations=19).measure(decoder)
    assert result.verdict == "undefined"
    assert len(asked) == 1


def test_the_basis_spans_what_metrics_see() -> None:
    B, z = onto(3), torch.from_numpy(stream(0, "rank").standard_normal((6, K)))
    map = maps.b1(3)
    decoder = through(map, B)
    J = torch.func.vmap(torch.func.jacrev(lambda x: decoder.flat(x[None])[0]))(z)
    found = row_space(J.mT @ J, 1e-12)
    assert found is not None
    torch.testing.assert_close(found @ found.mT, B.mT @ B)
    assert depends_on(decoder, found, z)
    assert not depends_on(decoder, found[:, :2], z)
    u = z @ found
    torch.testing.assert_close(restricted(decoder, found).flat(u), decoder.flat(z))
    G = torch.eye(K, dtype=torch.float64).expand(4, K, K)
    assert row_space(G, 1e-12) is None, "all directions"
    assert row_space(torch.diag_embed(G[:, 0]), 1e-12) is None, "one direction"


def test_a_part_of_a_narrow_decoder_is_told_how_to_ask_for_all_it_depends_on() -> None:
    map = maps.b1(3)
    B = haar(80, 1, 5)[0][:3]
    narrow = Decoder(lambda z: map.f(z @ B.mT).repeat(1, 30), 80, dtype=torch.float64)
    asked = Factorise(samples=32, max_samples=32, sheets=0, permutations=19, part="some")
    part = asked.measure(narrow)
    assert part.verdict == "undefined"
    assert "the 64 active latents are linearly dependent" in part.summary
    assert "at 32 of 32 draws" in part.summary, "latents are what z has, draws what is made of them"
    assert "--part all" in [f.hint or "" for f in part.findings][-1]
    assert "3 directions alone" in replace(asked, part="all").measure(narrow).summary


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_latents_through_a_narrow_layer_are_measured_along_what_it_sees(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = (
        nn.Sequential(nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 30))
        .eval()
        .to(dtype)
    )
    result = Factorise(samples=32, max_samples=32, sheets=0, permutations=19).measure(
        Decoder(net, 12, dtype=dtype)
    )
    assert result.verdict != "undefined"
    assert "depends on 4 directions alone (J has rank 4), not on all 12" in result.summary


def test_units_that_are_off_at_a_few_latents_hide_no_direction() -> None:
    """A union of more latents than eight is all that a layer of ReLU sees; no basis of it has independent columns."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(100, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 120)
    ).eval()
    result = Factorise(samples=32, max_samples=32, sheets=0, permutations=19).measure(Decoder(net, 100))
    assert result.verdict == "undefined"
    assert "depends on 32 directions alone" in result.summary
    assert "no basis has independent columns everywhere" in result.summary


def test_directions_that_hardly_move_the_output_are_no_latents() -> None:
    rng = np.random.default_rng(0)
    scales = np.array([3.0, 2.0, 1.0, 1e-3])[:, None]
    W = torch.from_numpy(
        np.linalg.qr(rng.standard_normal((60, 4)))[0] @ (scales * rng.standard_normal((4, 12)))
    )
    decoder = Decoder(lambda z: torch.sinh(z @ W.to(z.dtype).mT / 9), 12, dtype=torch.float64)
    result = Factorise(samples=32, max_samples=32, sheets=0, permutations=19).measure(decoder)
    assert "3 of 4 directions are active" in result.summary
    assert any("left out as inactive: 1 of 4 directions (u3)" in f.message for f in result.findings)


def test_a_linear_decoder_of_few_dimensions_has_seams_that_are_not_said_to_be_the_axes() -> None:
    rng = np.random.default_rng(0)
    W = torch.from_numpy(rng.standard_normal((60, 5)) @ rng.standard_normal((5, 30)))
    decoder = Decoder(lambda z: z @ W.to(z.dtype).mT, 30, dtype=torch.float64)
    result = Factorise(samples=32, max_samples=32, sheets=0, permutations=19).measure(decoder)
    assert result.verdict == "linear"
    assert "these are its seams" in result.summary
    assert "given axes" not in result.summary


def test_a_sketch_is_orthonormal_and_spans_what_its_singular_vectors_span() -> None:
    """Through lengths over six orders, against the decomposition of all its numbers."""
    B = haar(900, 1, 3)[0][:5].mT
    lengths = torch.logspace(0, -3, 5, dtype=torch.float64)
    decoder = Decoder(lambda z: (z @ B.to(z.dtype)) * lengths.to(z.dtype), 900, dtype=torch.float64)
    z = torch.zeros(3, 900, dtype=torch.float64)
    found = sketched_row_space(decoder, z, 1e-12, 0)
    assert found is not None
    assert found.shape == (900, 5)
    torch.testing.assert_close(found.mT @ found, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(found @ found.mT, B @ B.mT, rtol=0, atol=1e-10)
    shorter = sketched_row_space(decoder, z, 1e-4, 0)
    assert shorter is not None
    assert shorter.shape[1] < 5, "a direction within the tolerance is rounding"


def test_what_a_sketch_takes_is_said_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    B = haar(700, 1, 3)[0][:3]
    map = maps.b1(3)
    decoder = Decoder(lambda z: map.f(z @ B.mT.to(z.dtype)), 700, dtype=torch.float64)
    told: list[tuple[str, float, float, float]] = []
    sketch = row_space_module.sketched_row_space

    def sketched(*args: Any) -> Tensor | None:
        assert len(told) == 1, "before"
        return sketch(*args)

    asked = Factorise(samples=16, max_samples=16, sheets=0, permutations=19, part="all")
    monkeypatch.setattr(row_space_module, "sketched_row_space", sketched)
    monkeypatch.setattr(row_space_module, "pace", lambda decoder, points: 2.0)
    monkeypatch.setattr(probe, "MOST_WHOLE", 600)
    with listening(lambda *_: None, lambda *found: told.append(found)):
        asked.measure(decoder)
    what, seconds, size, least = told[0]
    assert what == "the directions that the output depends on, of 700"
    passes = 8 * 65 + 2 * 256 / 1.3
    assert 2 * passes < seconds < 2 * passes + 60
    assert least == seconds, "there is no answer without it"
    assert size >= 8 * 512 * 700
    told.clear()
    monkeypatch.setattr(row_space_module, "sketched_row_space", sketch)
    monkeypatch.setattr(row_space_module, "pace", lambda *_: pytest.fail("nobody asked"))
    asked.measure(decoder)
    assert not told
