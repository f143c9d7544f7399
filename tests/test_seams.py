"""Seams against closed forms: straight lines, circles, spirals, parabolas, crossings, kinks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vaeprobe.decoder import Decoder, Group
from vaeprobe.errors import UsageError
from vaeprobe.likelihoods import Bernoulli, Gaussian
from vaeprobe.seams import Paths, Seam, texture, trace_paths
from vaeprobe.seams.fields import DenseField, Frame, IterativeField, between, follow, nearest_axes
from vaeprobe.seams.summary import by_component, by_start, random_axis_overlap, return_errors
from vaeprobe.seams.tracing import prior_radius

import maps


def starts(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.Generator(np.random.Philox(seed)).standard_normal((n, d)))


def angles(seam: Seam, row: Tensor) -> Tensor:
    """Angle between each tangent and a line, from the sine: exact near 0."""
    along = (seam.v @ row)[:, None] * row
    return (seam.v - along).norm(dim=1)


def spiral(alpha: float, first: float = 1.6, second: float = 0.7) -> Decoder:
    """Seams are logarithmic spirals of angle alpha to the rays, and those at right angles to them.

    In log-polar coordinates (a, theta) of the plane, which are conformal, f is linear with singular vectors
    turned by alpha.
    """
    c, s = math.cos(alpha), math.sin(alpha)

    def f(z: Tensor) -> Tensor:
        a, theta = 0.5 * z.square().sum(1).log(), torch.atan2(z[:, 1], z[:, 0])
        return torch.stack([first * (c * a + s * theta), second * (c * theta - s * a)], dim=1)

    return Decoder(f, 2, dtype=torch.float64)


def spiral_point(alpha: float, t: float) -> Tensor:
    """The spiral through (1, 0) at arc length t."""
    rho = 1 + t * math.cos(alpha)
    theta = math.tan(alpha) * math.log(rho)
    return torch.tensor([rho * math.cos(theta), rho * math.sin(theta)], dtype=torch.float64)


# -- straight seams -----------------------------------------------------------------------------


@pytest.mark.parametrize("base", [maps.b1(2), maps.b2(3), maps.b1(4), maps.a(3)], ids=repr)
def test_seams_of_a_rotated_map_run_along_the_rows_of_the_rotation(base: maps.ExactMap) -> None:
    map = maps.rotated(base)
    assert map.rotation is not None
    paths = trace_paths(maps.decoder(map), starts(2, map.latent_dim), length=2.0)
    for seam in paths:
        row = map.rotation[int((map.rotation @ seam.v[0]).abs().argmax())]
        assert float(angles(seam, row).max()) < 1e-6
        assert seam.straightness == pytest.approx(1, abs=1e-10)
    found = {int((map.rotation @ seam.v[0]).abs().argmax()) for seam in paths if seam.start == 0}
    assert found == set(range(map.latent_dim)), "each row of R is one seam"


def test_seams_of_a_linear_map_run_along_its_singular_vectors() -> None:
    W = torch.from_numpy(np.random.default_rng(3).standard_normal((9, 4)))
    paths = trace_paths(Decoder(lambda z: z @ W.to(z.dtype).T, 4, dtype=torch.float64), starts(2, 4))
    _, s, Vh = torch.linalg.svd(W)
    for seam in paths:
        assert float(angles(seam, Vh[seam.component]).max()) < 1e-9
        assert torch.allclose(seam.s, s[seam.component], rtol=1e-9)
        assert seam.turning < 1e-6
    assert paths.scheme == "kinks", "a constant Jacobian is a piecewise-linear map of one piece"


@pytest.mark.parametrize("map", [maps.b1(3), maps.b3(), maps.c1(), maps.c3(), maps.c4()], ids=repr)
def test_seams_of_orthogonal_columns_run_along_the_axes(map: maps.ExactMap) -> None:
    paths = trace_paths(maps.decoder(map), starts(3, map.latent_dim), length=2.0)
    for seam in paths:
        assert float(seam.axis_overlap.min()) > 1 - 1e-12
        off = [i for i in range(map.latent_dim) if i != seam.axis]
        assert float((seam.z[:, off] - paths.starts[seam.start][off]).abs().max()) < 1e-9
        assert torch.allclose(seam.s, map.norms(seam.z)[:, seam.axis], rtol=1e-9)


# -- curved seams -------------------------------------------------------------------------------


def test_circles_keep_their_radius_and_close() -> None:
    z0 = torch.tensor([[1.0, 0.3], [-0.4, 1.9]], dtype=torch.float64)
    paths = trace_paths(maps.decoder(maps.g()), z0)
    circles = [seam for seam in paths if seam.closed]
    assert {seam.start for seam in circles} == {0, 1}
    for seam in circles:
        radius = float(z0[seam.start].norm())
        assert float((seam.z.norm(dim=1) - radius).abs().max()) < 1e-6
        assert seam.length == pytest.approx(2 * math.pi * radius, abs=1e-6)
        assert seam.turning == pytest.approx(2 * math.pi, rel=2e-2)
        assert seam.chord < 1e-6
        assert seam.stop == (None, "closed")
    rays = [seam for seam in paths if not seam.closed]
    assert [seam.start for seam in rays] == [0, 1]
    for seam in rays:
        assert seam.straightness == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.2])
def test_spirals_follow_their_closed_form(alpha: float) -> None:
    z0, heading = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(alpha), math.sin(alpha)]])
    paths = trace_paths(spiral(alpha), z0, along=heading, way="forward", length=2.5, radius=9.0)
    (seam,) = paths
    want = torch.stack([spiral_point(alpha, float(t)) for t in seam.t])
    assert float((seam.z - want).norm(dim=1).max()) < 1e-6
    assert torch.allclose(seam.s, 1.6 / want.norm(dim=1), rtol=1e-6), "s = 1.6 / |z|"
    assert seam.stop == (None, "length")
    # between the nodes too, to the accuracy of the cubic
    t = torch.linspace(0, 2.5, 40, dtype=torch.float64)
    between = torch.stack([spiral_point(alpha, float(x)) for x in t])
    assert float((seam.at(t) - between).norm(dim=1).max()) < 2e-4


def test_halving_the_tolerance_halves_the_error() -> None:
    alpha = 1.2
    heading = torch.tensor([[math.cos(alpha), math.sin(alpha)]])
    truth = spiral_point(alpha, 2.0)
    errors = []
    tolerances = [1e-6 / 2**i for i in range(0, 16, 5)]
    for tolerance in tolerances:
        (seam,) = trace_paths(
            spiral(alpha),
            torch.tensor([[1.0, 0.0]]),
            along=heading,
            way="forward",
            length=2.0,
            radius=9.0,
            tolerance=tolerance,
            scheme="smooth",
        )
        errors.append(float((seam.z[-1] - truth).norm()))
        assert errors[-1] < 2 * tolerance
    slope = np.polyfit(np.log2(tolerances), np.log2(errors), 1)[0]
    assert slope > 0.99, f"halving the tolerance divides the error by 2 ** {slope:.2f}"


def test_parabolas_keep_their_invariant() -> None:
    map = maps.parabolic()
    z0 = torch.tensor([[0.8, 0.9]], dtype=torch.float64)
    paths = trace_paths(maps.decoder(map), z0, length=1.0)
    for seam in paths:
        rho = seam.z.norm(dim=1)
        u, v = (rho + seam.z[:, 0]).sqrt(), (rho - seam.z[:, 0]).sqrt()
        kept, moving = (v, u) if seam.component == 0 else (u, v)
        assert float((kept - kept[0]).abs().max()) < 1e-7
        assert float(moving.max() - moving.min()) > 0.3


@pytest.mark.parametrize("map", [maps.e(3), maps.rotated(maps.b1(3)), maps.c4()], ids=repr)
def test_tracing_back_returns_to_the_start(map: maps.ExactMap) -> None:
    decoder = maps.decoder(map)
    paths = trace_paths(decoder, starts(1, map.latent_dim), length=1.5)
    misses = return_errors(decoder, paths, most=6)
    assert len(misses) >= map.latent_dim - 1
    assert float(misses.max()) < 1e-6


# -- events -------------------------------------------------------------------------------------


def crossing_map() -> Decoder:
    """s = (1.5, cosh z_2): the two change places at z_2 = +- arcosh 1.5."""
    return Decoder(lambda z: torch.stack([1.5 * z[:, 0], torch.sinh(z[:, 1])], 1), 2, dtype=torch.float64)


def test_crossings_are_followed_and_placed() -> None:
    paths = trace_paths(crossing_map(), torch.tensor([[0.3, 0.1]]), length=2.0)
    along = next(seam for seam in paths if seam.axis == 1)
    assert along.component == 1
    events = [event for event in along.events if event.kind == "crossing"]
    where = math.acosh(1.5)
    assert [event.ranks for event in events] == [(0, 1), (1, 0)]
    assert [float(event.z[1]) for event in events] == pytest.approx([-where, where], abs=1e-6)
    assert [event.t for event in events] == pytest.approx([-where - 0.1, where - 0.1], abs=1e-6)
    assert max(event.value for event in events) < 1e-6, "the two singular values meet"
    assert float(angles(along, torch.tensor([0.0, 1.0], dtype=torch.float64)).max()) < 1e-9
    other = next(seam for seam in paths if seam.axis == 0)
    assert not other.events


def half_tied(z: Tensor) -> Tensor:
    """Slopes (1, 2) above z_2 = 0 and (1, 1) below it."""
    return torch.stack([z[:, 0], z[:, 1] + torch.relu(z[:, 1])], dim=1)


def test_a_tied_stretch_is_crossed_on_the_last_direction() -> None:
    decoder = Decoder(half_tied, 2, dtype=torch.float64)
    seam = trace_paths(decoder, torch.tensor([[0.2, 1.0]]), components=[0], length=2.0)[0]
    assert seam.axis == 1
    assert seam.straightness == pytest.approx(1)
    (tied,) = (event for event in seam.events if event.kind == "tied")
    edges = sorted(float(seam.at(torch.tensor([t]))[0, 1]) for t in (tied.t, tied.until))
    assert edges == pytest.approx([-1, 0], abs=1e-6)


def test_ties_everywhere_are_said_and_follow_the_axes() -> None:
    paths = trace_paths(maps.decoder(maps.c1(k=1.0)), starts(2, 2), length=1.0)
    assert all(bool(seam.tied.all()) for seam in paths)
    assert {seam.axis for seam in paths} == {0, 1}
    assert by_start(list(paths))["tied"] == pytest.approx([1, 1])


# -- piecewise linear, and rough ----------------------------------------------------------------


def relu_net(sizes: tuple[int, ...], seed: int = 0, last: nn.Module | None = None) -> Decoder:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
    net = nn.Sequential(*layers[:-1], *([last] if last else [])).double()
    return Decoder(net, sizes[0])


def test_broken_lines_are_straight_between_kinks_and_match_tiny_steps() -> None:
    decoder = relu_net((2, 12, 6), seed=1)
    z0 = torch.tensor([[0.4, -0.7]], dtype=torch.float64)
    assert texture(decoder, z0).scheme == "kinks"
    paths = trace_paths(decoder, z0, length=0.8, way="forward", scheme="kinks")
    field = DenseField(decoder)
    # independent reference: Euler with steps of 2e-3, both seams at once
    z, v = z0.repeat(2, 1), torch.stack([seam.v[0] for seam in paths])
    for _ in range(400):
        v = follow(field.frame(z), v, 1e-9).v
        z = z + 2e-3 * v
    assert sum(event.kind == "kink" for event in paths.events) >= 2
    for seam, end in zip(paths, z, strict=True):
        kinks = [event for event in seam.events if event.kind == "kink"]
        assert float((end - seam.z[-1]).norm()) < 1e-2
        # between kinks the direction is constant
        for i in range(len(seam.t) - 1):
            middle = (seam.t[i] + seam.t[i + 1]) / 2
            if all(abs(float(middle) - kink.t) > 1e-6 for kink in kinks):
                assert float((seam.v[i + 1] - seam.v[i]).norm()) < 1e-9
        for kink in kinks:
            a = follow(field.frame(seam.at(torch.tensor([kink.t - 1e-5]))), seam.v[:1], 1e-9)
            b = follow(field.frame(seam.at(torch.tensor([kink.t + 1e-5]))), seam.v[:1], 1e-9)
            assert float((a.v - b.v).norm()) == pytest.approx(2 * math.sin(kink.value / 2), abs=1e-6)


def test_a_seam_that_runs_into_a_kink_from_both_sides_ends_there() -> None:
    """The leading direction is (.192, .981) left of z_1 = 0 and (-.192, .981) right of it: no seam leaves the kink."""
    a, b, c = ((1.0, 0.3), (0.0, 2.0), (0.0, -0.6))

    def f(z: Tensor) -> Tensor:
        columns = torch.tensor([a, b, c], dtype=z.dtype)
        return torch.cat([z, z[:, :1].relu()], 1) @ columns

    decoder = Decoder(f, 2, dtype=torch.float64)
    G = torch.tensor([[1.09, 0.6], [0.6, 4.0]], dtype=torch.float64)
    v = torch.linalg.eigh(G).eigenvectors[:, 1].abs()
    z0 = torch.tensor([[-0.1, 0.0]], dtype=torch.float64)
    settings = {"components": [0], "way": "forward", "length": 2.0}
    (seam,) = trace_paths(decoder, z0, **settings)
    assert seam.stop == (None, "sliding")
    assert seam.length == pytest.approx(0.1 / float(v[0]), abs=1e-6), (
        "the kink is where the straight line meets it"
    )
    assert seam.straightness == pytest.approx(1.0), "its turning to and fro is no part of the seam"
    (along,) = trace_paths(decoder, z0, scheme="rough", **settings)
    assert along.stop == (None, "length")
    assert float(along.z[-1, 0].abs()) < 0.02


def test_rough_decoders_are_stepped_across_their_kinks() -> None:
    """Over many ends: that of a single seam is luck, for either of two schemes missed by 0.03 somewhere."""
    scales = torch.tensor([3.0, 1.0, 0.4])
    z0 = starts(6, 3, seed=1)
    misses = []
    for seed in (2, 3, 4):
        net = relu_net((3, 200, 200, 12), seed=seed, last=nn.Sigmoid()).function
        # well apart singular values: of a random network with close ones the seams are chaotic
        decoder = Decoder(lambda z, net=net: net(z * scales.to(z.dtype)), 3, dtype=torch.float64)  # type: ignore[misc]
        assert texture(decoder, z0).scheme == "rough"
        coarse = trace_paths(decoder, z0, components=[0], length=1.0)
        assert coarse.scheme == "rough"
        fine = trace_paths(decoder, z0, components=[0], length=1.0, tolerance=2e-4)
        assert 4 * coarse.evaluations < fine.evaluations
        for a, b in zip(coarse, fine, strict=True):
            misses += [float((a.z[end] - b.z[end]).norm()) for end in (0, -1)]
            assert float(a.t.diff().max()) <= 0.4 + 1e-9
    assert np.median(misses) < 0.005
    assert np.quantile(misses, 0.75) < 0.01, "the error that is allowed in a step"
    assert max(misses) < 0.03


@pytest.mark.parametrize("alpha", [0.5, 1.2])
def test_rough_steps_keep_a_smooth_seam_to_their_tolerance(alpha: float) -> None:
    heading = torch.tensor([[math.cos(alpha), math.sin(alpha)]])
    settings = {"along": heading, "way": "forward", "length": 2.5, "radius": 9.0, "scheme": "rough"}
    (seam,) = trace_paths(spiral(alpha), torch.tensor([[1.0, 0.0]]), **settings)
    want = torch.stack([spiral_point(alpha, float(t)) for t in seam.t])
    assert float((seam.z - want).norm(dim=1).max()) < 0.03, "over a dozen steps of 0.01 each"


def test_a_metric_between_two_is_that_of_both_jacobians_one_above_the_other() -> None:
    rng = np.random.default_rng(0)
    A, B = (torch.from_numpy(rng.standard_normal((5, 7, 4))) for _ in range(2))
    a, b = (Frame(*_leading(J), torch.ones(5, dtype=torch.bool)) for J in (A, B))
    for share in (0.0, 0.25, 1.0):
        mean = between(a, b, share)
        G = (1 - share) * A.mT @ A + share * B.mT @ B
        assert torch.allclose(mean.V * mean.s.square()[:, None] @ mean.V.mT, G, atol=1e-12)
        assert torch.allclose(mean.s.square(), torch.linalg.eigvalsh(G).flip(-1), atol=1e-12)
    few = between(_first(a, 2), _first(b, 2), 0.25)
    assert few.V.shape == (5, 4, 2), "as many as the frames hold"


def _leading(J: Tensor) -> tuple[Tensor, Tensor]:
    _, s, Vh = torch.linalg.svd(J, full_matrices=False)
    return s, Vh.mT


def _first(frame: Frame, b: int) -> Frame:
    return Frame(frame.s[:, :b], frame.V[:, :, :b], frame.finite)


@pytest.mark.parametrize(
    ("map", "scheme"),
    [
        (maps.a(3), "kinks"),
        (maps.c4(), "kinks"),
        (maps.b1(3), "smooth"),
        (maps.e(3), "smooth"),
        (maps.g(), "smooth"),
    ],
    ids=repr,
)
def test_the_scheme_fits_the_decoder(map: maps.ExactMap, scheme: str) -> None:
    decoder = maps.decoder(map)
    assert texture(decoder, starts(8, map.latent_dim)).scheme == scheme
    single = maps.decoder(map, dtype=torch.float32)
    assert texture(single, starts(8, map.latent_dim)).scheme == scheme, "in float32 too"


def test_float32_seams_are_accurate_to_their_rounding() -> None:
    decoder = maps.decoder(maps.g(), dtype=torch.float32)
    z0 = torch.tensor([[1.0, 0.3]], dtype=torch.float64)
    paths = trace_paths(decoder, z0, tolerance=1e-5)
    (circle,) = (seam for seam in paths if seam.closed)
    assert float((circle.z.norm(dim=1) - z0.norm()).abs().max()) < 1e-3


# -- stops --------------------------------------------------------------------------------------


def nothing_is_nan(paths: Paths) -> bool:
    return all(np.isfinite(array).all() for array in paths.arrays().values() if array.dtype.kind == "f")


def test_dead_directions_stop_where_they_start() -> None:
    paths = trace_paths(maps.decoder(maps.f_dead(3)), starts(2, 3), length=1.0)
    dead = [seam for seam in paths if seam.component == 2]
    assert all(seam.length == 0 and seam.stop == ("collapse", "collapse") for seam in dead)
    assert all(seam.straightness == 1 and seam.turning == 0 for seam in dead)
    assert all(seam.length == pytest.approx(2) for seam in paths if seam.component < 2)
    assert nothing_is_nan(paths)


def test_a_decoder_that_collapses_on_the_way_stops_there() -> None:
    def flat_beyond_one(z: Tensor) -> Tensor:
        return torch.stack([z[:, 0].clamp_max(1.0), 0.5 * z[:, 1]], dim=1)

    paths = trace_paths(
        Decoder(flat_beyond_one, 2, dtype=torch.float64), torch.zeros(1, 2), length=3.0, radius=5.0
    )
    seam = paths[0]
    assert set(seam.stop) == {"collapse", "length"}
    assert float(seam.z[:, 0].max()) == pytest.approx(1, abs=1e-3)
    assert nothing_is_nan(paths)


def test_a_decoder_that_overflows_on_the_way_stops_there() -> None:
    decoder = Decoder(lambda z: torch.stack([(4 - z[:, 0]).sqrt(), 3 * z[:, 1]], 1), 2, dtype=torch.float64)
    paths = trace_paths(decoder, torch.tensor([[1.0, 0.0]]), components=[1], radius=9.0, length=5.0)
    seam = paths[0]
    assert "not finite" in seam.stop or "collapse" in seam.stop or seam.z[:, 0].max() < 4
    assert float(seam.z[:, 0].max()) < 4
    assert nothing_is_nan(paths)
    beyond = trace_paths(decoder, torch.tensor([[5.0, 0.0]]), radius=9.0, length=1.0)
    assert beyond.stops == {"not finite": 4}
    assert all(seam.length == 0 for seam in beyond)


def test_seams_end_on_the_radius_exactly() -> None:
    paths = trace_paths(maps.decoder(maps.e(2)), torch.tensor([[0.2, 0.5]]), radius=2.0)
    ends = [end for seam in paths for end in (seam.z[0], seam.z[-1])]
    assert [float(end.norm()) for end in ends] == pytest.approx([2.0] * 4, abs=1e-4)
    assert paths.stops == {"radius": 4}


def test_a_start_outside_the_radius_has_no_seam_and_one_outside_the_prior_has() -> None:
    decoder = maps.decoder(maps.b1(2))
    far = torch.tensor([[6.0, 0.0]], dtype=torch.float64)
    assert trace_paths(decoder, far, radius=2.0).stops == {"outside": 4}
    paths = trace_paths(decoder, far)
    assert min(seam.length for seam in paths) > 0.5
    assert float(torch.cat([seam.z for seam in paths]).norm(dim=1).max()) < 7.01


def test_one_latent_has_one_straight_seam() -> None:
    paths = trace_paths(maps.decoder(maps.b1(1)), torch.tensor([[0.3]]), length=1.0)
    (seam,) = paths
    assert (seam.length, seam.straightness, seam.turning) == pytest.approx((2, 1, 0))
    assert seam.z[[0, -1], 0].tolist() == pytest.approx([-0.7, 1.3])
    assert nothing_is_nan(paths)


def test_the_step_budget_ends_a_seam_and_is_told() -> None:
    paths = trace_paths(maps.decoder(maps.e(2)), starts(1, 2), steps=3, length=5.0)
    assert set(paths.stops) == {"steps"}


# -- codes, likelihoods, iteration --------------------------------------------------------------


def test_codes_are_held_fixed() -> None:
    def f(z: Tensor) -> Tensor:
        return torch.cat([torch.sinh(z[:, 1:2]) * (1 + z[:, :1]), 2 * z[:, 3:4] + z[:, 2:3]], dim=1)

    prior = (Group("onehot", 1), Group("normal", 1), Group("onehot", 1), Group("normal", 1))
    decoder = Decoder(f, 4, dtype=torch.float64, prior=prior)
    z0 = torch.tensor([[1.0, 0.3, 1.0, -0.2]], dtype=torch.float64)
    paths = trace_paths(decoder, z0, length=1.0)
    for seam in paths:
        assert torch.equal(seam.z[:, [0, 2]], torch.ones(len(seam.t), 2, dtype=torch.float64))
        assert seam.v.shape[1] == 2
        assert seam.axis in (1, 3)
        assert torch.equal(seam.at(torch.tensor([0.5]))[:, [0, 2]], torch.ones(1, 2, dtype=torch.float64))


def test_the_metric_of_a_likelihood_is_followed() -> None:
    W = torch.tensor([[1.0, 0.4], [0.2, 1.5], [-0.6, 0.3]], dtype=torch.float64)
    logits = Decoder(lambda z: z @ W.to(z.dtype).T, 2, dtype=torch.float64, parameter="natural")
    means = Decoder(lambda z: torch.sigmoid(z @ W.to(z.dtype).T), 2, dtype=torch.float64)
    z0 = torch.tensor([[0.5, -0.3]], dtype=torch.float64)
    settings = {"length": 1.0, "scheme": "smooth"}
    a = trace_paths(logits, z0, likelihood=Bernoulli(), **settings)
    b = trace_paths(means, z0, likelihood=Bernoulli(), **settings)
    for one, two in zip(a, b, strict=True):
        assert torch.allclose(one.z[-1], two.z[-1], atol=1e-7), "logits and means carry one metric"
    plain = trace_paths(means, z0, **settings)
    assert float((plain[0].z[-1] - a[0].z[-1]).norm()) > 1e-3
    scaled = trace_paths(means, z0, likelihood=Gaussian(4.0), **settings)
    assert torch.allclose(scaled[0].z[-1], plain[0].z[-1], atol=1e-7)
    assert torch.allclose(scaled[0].s, plain[0].s / 2, rtol=1e-6)


def decaying(d: int = 30, m: int = 40) -> Decoder:
    """A smooth map with a decaying spectrum and curved seams."""
    rng = np.random.default_rng(5)
    A = torch.from_numpy(rng.standard_normal((m, d))) * torch.logspace(0, -1.5, d, dtype=torch.float64)
    B = torch.from_numpy(rng.standard_normal((m, d))) / d
    return Decoder(
        lambda z: z @ A.to(z.dtype).T + torch.tanh(z @ B.to(z.dtype).T).square(), d, dtype=torch.float64
    )


def test_iterated_seams_are_those_of_the_whole_metric() -> None:
    decoder, z0 = decaying(), 0.5 * starts(1, 30)
    settings = {"components": [0, 2], "length": 0.6, "scheme": "smooth", "tolerance": 1e-6}
    dense = trace_paths(decoder, z0, method="dense", **settings)
    iterative = trace_paths(decoder, z0, method="iterative", **settings)
    assert iterative.method == "iterative"
    for a, b in zip(dense, iterative, strict=True):
        assert float((a.z[-1] - b.z[-1]).norm()) < 1e-5
        assert torch.allclose(a.s[-1], b.s[-1], rtol=1e-6)
        assert a.component == b.component


def test_the_way_back_is_iterated_on_few_vectors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as hold the seams that come back, not all that there are."""
    decoder, z0 = decaying(), 0.5 * starts(1, 30)
    pushed: list[int] = []
    plain = IterativeField.apply

    def counted(self: IterativeField, z: torch.Tensor, Q: torch.Tensor) -> torch.Tensor:
        pushed.append(len(z) * Q.shape[2])
        return plain(self, z, Q)

    monkeypatch.setattr(IterativeField, "apply", counted)
    paths = trace_paths(
        decoder, z0, components=[0, 2], length=0.6, scheme="smooth", tolerance=1e-6, method="iterative"
    )
    out = sum(pushed)
    pushed.clear()
    misses = return_errors(decoder, paths)
    assert len(misses) == 2
    assert float(misses.max()) < 1e-5
    assert sum(pushed) < out


def test_a_warm_start_needs_few_products() -> None:
    decoder, z = decaying(), 0.5 * starts(2, 30)
    field = IterativeField(decoder, 2)
    cold = field.frame(z)
    spent = field.products
    field.products = 0
    warm = field.frame(z + 1e-4, cold.V)
    assert field.products < spent
    s, V = torch.linalg.svd(
        torch.func.vmap(torch.func.jacrev(lambda x: decoder.function(x[None])[0]))(z + 1e-4)
    )[1:]
    assert torch.allclose(warm.s[:, :2], s[:, :2], rtol=1e-9)
    overlap = (warm.V[:, :, :2].mT @ V.mT[:, :, :2]).diagonal(dim1=1, dim2=2).abs()
    assert float((1 - overlap).max()) < 1e-9


def test_many_latents_are_traced_by_iteration_unless_asked_otherwise() -> None:
    W = torch.logspace(0, -2, 120, dtype=torch.float64)
    decoder = Decoder(lambda z: z * W.to(z.dtype), 120, dtype=torch.float64)
    paths = trace_paths(decoder, starts(1, 120) / 4, components=[0, 1], length=0.5)
    assert paths.method == "iterative"
    assert [seam.axis for seam in paths] == [0, 1]
    assert min(float(seam.axis_overlap.min()) for seam in paths) > 1 - 1e-9


# -- pieces -------------------------------------------------------------------------------------


def test_following_projects_on_a_tied_block() -> None:
    Q = maps.haar(3)
    frame = Frame(torch.tensor([[2.0, 2.0, 1.0]]).double(), Q[None], torch.tensor([True]))
    last = (0.6 * Q[:, 0] + 0.6 * Q[:, 1] + 0.2 * Q[:, 2])[None]
    last = last / last.norm()
    found = follow(frame, last, 1e-9)
    assert bool(found.tied[0])
    assert torch.allclose(found.v[0], (Q[:, 0] + Q[:, 1]) / math.sqrt(2))
    clear = follow(
        Frame(torch.tensor([[3.0, 2.0, 1.0]]).double(), Q[None], frame.finite), -Q[:, 1][None], 1e-9
    )
    assert torch.allclose(clear.v[0], -Q[:, 1])
    assert (int(clear.rank[0]), bool(clear.tied[0])) == (1, False)


def test_tied_vectors_are_turned_to_the_axes() -> None:
    V = torch.eye(4, dtype=torch.float64)
    V[1:3, 1:3] = maps.haar(2)
    frame = Frame(torch.tensor([[3.0, 2.0, 2.0, 1.0]]).double(), V[None], torch.tensor([True]))
    assert torch.allclose(nearest_axes(frame, 1e-9)[0], torch.eye(4, dtype=torch.float64), atol=1e-12)
    apart = Frame(torch.tensor([[3.0, 2.0, 1.9, 1.0]]).double(), V[None], frame.finite)
    assert torch.allclose(nearest_axes(apart, 1e-9)[0].abs(), V.abs())


def test_densities_along_a_seam() -> None:
    map = maps.b1(2)
    seam = trace_paths(maps.decoder(map), torch.tensor([[0.5, 0.2]]), length=1.0)[0]
    standard = torch.distributions.Normal(0.0, 1.0)
    assert torch.allclose(seam.log_prior, standard.log_prob(seam.z).sum(1))
    own = standard.log_prob(seam.z[:, seam.axis]) - map.norms(seam.z)[:, seam.axis].log()
    assert torch.allclose(seam.log_factor, own, atol=1e-12), "p(z_i) / n_i of the axis it runs along"


def test_arrays_hold_every_seam(tmp_path: object) -> None:
    paths = trace_paths(crossing_map(), torch.tensor([[0.3, 0.1], [0.0, 0.5]]), length=1.5)
    file = f"{tmp_path}/paths.npz"
    paths.save(file, extra=np.arange(3))
    with np.load(file, allow_pickle=False) as loaded:
        arrays = dict(loaded)
    assert arrays["extra"].tolist() == [0, 1, 2]
    for i, seam in enumerate(paths):
        low, high = arrays["offset"][i : i + 2]
        assert np.array_equal(arrays["z"][low:high], seam.z.numpy())
        assert np.array_equal(arrays["t"][low:high], seam.t.numpy())
        assert arrays["axis"][i] == seam.axis
        assert tuple(arrays["stop"][i]) == seam.stop
    assert len(arrays["event_t"]) == len(paths.events) > 0
    documented = Paths.arrays.__doc__ or ""
    assert all(name.removeprefix("event_") in documented for name in arrays if name != "extra")


def test_summaries_average_over_starts_and_components() -> None:
    paths = trace_paths(maps.decoder(maps.rotated(maps.a(3))), starts(4, 3), length=1.0)
    summary = by_component(paths)
    assert [c.component for c in summary] == [0, 1, 2]
    assert [c.s for c in summary] == pytest.approx([2.0, 1.0, 0.5])
    assert all(c.straightness == pytest.approx(1) and c.seams == 4 for c in summary)
    means = by_start(list(paths))
    assert means["straightness"] == pytest.approx(np.ones(4))
    rows = maps.rotated(maps.a(3)).rotation
    assert rows is not None
    assert means["axis_overlap"] == pytest.approx(np.full(4, float(rows.abs().max(1).values.mean())))


def test_the_overlap_of_a_random_direction() -> None:
    assert random_axis_overlap(2) == pytest.approx(2 * math.sqrt(2) / math.pi, abs=5e-3)
    assert random_axis_overlap(1) == 1


@pytest.mark.parametrize(("k", "mass"), [(1, 0.99), (2, 0.99), (10, 0.5), (300, 0.99)])
def test_the_radius_holds_its_share_of_the_prior(k: int, mass: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert prior_radius(k, mass) == pytest.approx(math.sqrt(stats.chi2.ppf(mass, k)), rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"components": [3]}, "component 3 does not exist"),
        ({"components": []}, "no component was asked for"),
        ({"components": [0, 0]}, "a component is named twice"),
        ({"components": [0], "along": torch.ones(1, 3)}, "`components` and `along` exclude each other"),
        ({"tolerance": 0.0}, "`tolerance` must be a positive number, not 0.0"),
        ({"radius": math.nan}, "`radius` must be a positive number, not nan"),
        ({"length": -1.0}, "`length` must be a positive number, not -1.0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trace_paths(maps.decoder(maps.a(3)), torch.zeros(1, 3), **settings)  # type: ignore[arg-type]


def test_wrong_starts_are_named() -> None:
    decoder = maps.decoder(maps.a(3))
    with pytest.raises(UsageError, match=r"shape \(1, 2\), the decoder takes \(n, 3\)"):
        trace_paths(decoder, torch.zeros(1, 2))
    with pytest.raises(UsageError, match="NaN or infinity"):
        trace_paths(decoder, torch.full((1, 3), math.inf))


def test_seams_of_each_start_are_joined_again_with_their_events() -> None:
    def crossing(z: torch.Tensor) -> torch.Tensor:
        a, b, c = z.unbind(1)
        return torch.stack([a + 0.3 * a**3, b, 1.2 * c], dim=1)

    decoder = Decoder(crossing, 3, dtype=torch.float64)
    z = torch.tensor([[0.1, 0.2, 0.3], [-0.2, 0.4, 0.1], [0.3, -0.1, 0.2]], dtype=torch.float64)
    whole = trace_paths(decoder, z)
    assert {event.start for event in whole.events} == {0, 1, 2}
    parts = whole.by_start()
    assert all(event.start == 0 for part in parts for event in part.events)
    again = Paths.joined(parts)
    assert again.evaluations == whole.evaluations
    for name, values in whole.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], values, err_msg=name)
