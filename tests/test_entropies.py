"""Latents in nats and isometry defects, against closed forms and an independent reference."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, optimize

from vaeprobe.engine.verbs import jacobian
from vaeprobe.geometry.entropies import isometry_defect, pairwise_information, seam_entropies
from vaeprobe.geometry.gram import ima_contrast, singular_frame
from vaeprobe.geometry.nulls import expected_contrast, expected_isometry_defect
from vaeprobe.probes.orthogonality import Orthogonality

from maps import a, b1, c1, decoder, e, f_wide, haar, rotated


def latents(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_entropy_of_a_linear_latent_is_that_of_a_normal_of_its_length() -> None:
    scales = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    of = a(3, scales=scales)
    H = seam_entropies(of.gram(latents(10, 3))).mean(0)
    assert H.tolist() == pytest.approx(
        [0.5 * math.log(2 * math.pi * math.e * s**2) for s in (3, 1, 0.5)], abs=1e-12
    )


def test_the_entropy_of_a_bent_latent_is_the_integral_over_its_density() -> None:
    """x = sinh z has density p(z) / cosh z: its differential entropy by quadrature."""

    def density(z: float) -> float:
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    entropy = integrate.quad(
        lambda z: -density(z) * math.log(density(z) / math.cosh(z)), -12, 12, epsabs=1e-12
    )[0]
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    H = seam_entropies(z.cosh().square()[:, :, None])[:, 0]
    p = (-(z[:, 0] ** 2) / 2).exp() / math.sqrt(2 * math.pi)
    assert float(torch.trapezoid(p * H, z[:, 0])) == pytest.approx(entropy, abs=1e-9)


def test_entropies_less_total_correlation_are_the_entropy_of_all() -> None:
    of = e(3)
    z = latents(50, 3)
    G = of.gram(z)
    joint = 1.5 * math.log(2 * math.pi * math.e) + 0.5 * torch.linalg.slogdet(G).logabsdet
    assert torch.allclose(seam_entropies(G).sum(1) - ima_contrast(G), joint, atol=1e-12)


def test_a_pair_shares_its_contrast_and_nothing_where_orthogonal() -> None:
    G = e(2).gram(latents(50, 2))
    assert torch.allclose(pairwise_information(G)[:, 0], ima_contrast(G), atol=1e-12)
    assert float(pairwise_information(b1(3).gram(latents(50, 3))).abs().max()) < 1e-12


def test_random_columns_share_what_the_closed_form_says() -> None:
    J = torch.randn(20000, 7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shared = pairwise_information(J.mT @ J)
    error = float(shared.std() / len(shared) ** 0.5)
    assert float(shared.mean()) == pytest.approx(expected_contrast(2, 7), abs=4 * error)


def test_an_isometry_has_no_defect_in_any_basis() -> None:
    scale = torch.full((3,), 2.0, dtype=torch.float64)
    for of in (a(3, scales=scale), rotated(a(3, scales=scale), haar(3, 1))):
        s, _ = singular_frame(of.gram(latents(20, 3)))
        assert isometry_defect(s)[0] == pytest.approx(0, abs=1e-12)


def test_the_defect_of_two_lengths_and_of_a_conformal_map() -> None:
    s = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    assert isometry_defect(s)[0] == pytest.approx(1 - 16 / (2 * 10))
    # G = e^{2 z_0} I: conformal and no isometry; E e^z = e^{1/2}, E e^{2z} = e^2
    z = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    weight = (-(z**2) / 2).exp()
    drawn = z[
        torch.multinomial(weight, 400_000, replacement=True, generator=torch.Generator().manual_seed(0))
    ]
    value = isometry_defect(drawn.exp()[:, None].expand(-1, 2))[0]
    assert value == pytest.approx(1 - math.exp(-1), abs=0.01)


def test_the_defect_is_the_minimum_that_it_is_said_to_be() -> None:
    """Against a search over c, with J's polar factors for Q: every other Q, here random ones, is worse."""
    of = c1(k=1.7)
    J = jacobian(of.f, latents(40, 2))
    U, s, Vh = torch.linalg.svd(J, full_matrices=False)

    def loss(c: float, Q: torch.Tensor) -> float:
        return float((J - c * Q).square().sum() / J.square().sum())

    found = optimize.minimize_scalar(lambda c: loss(c, U @ Vh), bounds=(0, 20), method="bounded")
    value, moved = isometry_defect(s)
    assert value == pytest.approx(found.fun, abs=1e-8)
    assert float(moved.mean()) == pytest.approx(value, abs=1e-12)
    for seed in range(5):
        assert loss(found.x, U @ haar(2, seed) @ Vh) > found.fun


@pytest.mark.parametrize(("k", "m"), [(1, 5), (3, 8), (6, 6)])
def test_the_defect_of_random_columns(k: int, m: int) -> None:
    J = torch.randn(4000, m, k, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    s = torch.linalg.svdvals(J)
    assert expected_isometry_defect(k, m) == pytest.approx(
        1 - float(s.sum(1).mean()) ** 2 / (k**2 * m), abs=0.02
    )


def test_wide_gaussian_columns_are_nearly_isometric_and_too_few_rows_are_refused() -> None:
    assert expected_isometry_defect(4, 40_000) < 1e-3
    with pytest.raises(ValueError, match="linearly dependent"):
        expected_isometry_defect(3, 2)


# -- in the probe -------------------------------------------------------------------------------


def test_the_probe_ranks_latents_and_names_pairs() -> None:
    of = a(3, scales=torch.tensor([0.5, 3.0, 1.0], dtype=torch.float64))
    found = Orthogonality(samples=40, rotations=19, restarts=1).measure(decoder(of))
    assert found.entropy.value == pytest.approx(
        [0.5 * math.log(2 * math.pi * math.e * s**2) for s in (0.5, 3, 1)]
    )
    [table] = [t for t in found.tables if t.title.startswith("Importance")]
    assert [row[0] for row in table.rows] == ["z1", "z2", "z0"]
    latent = found.details()["latents"][1]
    low, high = latent["entropy_ci"]
    assert low - 1e-9 <= latent["entropy"] <= high + 1e-9
    assert found.mutual_information.value == pytest.approx(0, abs=1e-12)
    null = found.mutual_information_null
    assert null.ci is not None
    assert 0 < null.ci[0] < null.value < null.ci[1]
    assert found.isometry_defect.value == pytest.approx(1 - 4.5**2 / (3 * 10.25))


def test_the_interval_of_the_defect_covers() -> None:
    """G = e^{2 z_0} I: 1 - E[e^z]^2 / E[e^{2z}] = 1 - 1/e; heavy tails, so that 60 repeats cover 50 times or more."""
    from vaeprobe.intervals import mean_interval

    covered = 0
    for seed in range(60):
        z = 0.3 * torch.randn(256, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        low, high = mean_interval(isometry_defect(z.exp()[:, None].expand(-1, 3))[1].numpy())  # type: ignore[misc]
        covered += low <= 1 - math.exp(-0.09) <= high
    assert covered >= 51


def test_where_j_has_not_full_rank_only_the_defect_can_be_defined() -> None:
    found = Orthogonality(samples=40, rotations=19, restarts=1).measure(decoder(f_wide(4, 2)))
    for name in ("entropy", "mutual_information", "mutual_information_null", "isometry_defect"):
        assert not getattr(found, name).defined
    assert found.details()["mutual_information"] is None
