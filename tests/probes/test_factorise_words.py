"""The words of `factorise` on both sides of the thresholds that they rest on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vaeprobe.decoder import Decoder
from vaeprobe.geometry.connection import tied_blocks
from vaeprobe.geometry.decisions import Decision
from vaeprobe.geometry.dependence import correlation_test
from vaeprobe.geometry.factorisation import Evidence
from vaeprobe.geometry.sheets import COUNTS, Sheets
from vaeprobe.geometry.spread import Spread
from vaeprobe.probes.factorise import Factorise
from vaeprobe.probes.factorise.words import findings, summary

import maps


def evidence(*, gap: float = 1.0, null: float = 2.0, own: float = 0.5, cross: float = 0.5) -> Evidence:
    """Evidence of two latents with an oblique, modulated Jacobian, decided throughout."""

    def decided(value: float, limit: float) -> Decision:
        return Decision(value, (value, value), limit, 256)

    spread = Spread(
        cross=(cross, cross),
        cross_ci=((cross, cross),) * 2,
        deviation=(1.0, 1.0),
        own_share=(own, own),
        own_share_ci=((own, own),) * 2,
        mean_own_share=own,
        mean_own_share_ci=(own, own),
        largest=decided(cross, 0.0141),
        lost=0,
    )
    return Evidence(
        continuous=(0, 1),
        active=(0, 1),
        drawn=256,
        usable=256,
        contrast=torch.full((256,), gap, dtype=torch.float64),
        gap=decided(gap, 1e-4),
        null=torch.tensor([null], dtype=torch.float64),
        variation=decided(0.5, 1e-6),
        spread=spread,
        gap_rotated=decided(gap, 1e-4),
    )


@pytest.mark.parametrize(
    ("share", "degree"),
    [
        (0.34, "nearly orthogonal"),
        (0.36, "partly orthogonal"),
        (0.74, "partly orthogonal"),
        (0.76, "oblique"),
    ],
)
def test_degrees_of_orthogonality(share: float, degree: str) -> None:
    assert f"The columns are {degree} (" in summary(evidence(gap=share, null=1.0), None)


@pytest.mark.parametrize(
    ("own", "degree"),
    [
        (0.76, "mostly on their own latent"),
        (0.74, "on other latents as well"),
        (0.36, "on other latents as well"),
        (0.34, "mostly on other latents"),
    ],
)
def test_degrees_of_own_lengths(own: float, degree: str) -> None:
    assert f"lengths depend {degree} (" in summary(evidence(own=own), None)


def test_an_open_test_is_the_whole_verdict() -> None:
    decided = evidence(gap=0.0, cross=0.0)
    assert decided.verdict == "independent"
    for name, value in (("gap", 1e-4), ("variation", 1e-6)):
        straddling = Decision(value, (0.5 * value, 2 * value), value, 256)
        still = replace(decided, **{name: straddling})
        assert still.verdict == "undetermined"
        assert "factorises" not in summary(still, None)
        assert "undecided" in [f.code for f in findings(still)]


def test_near_zero_is_under_a_tenth_of_the_limit() -> None:
    for value, near in ((0.9e-5, True), (1.1e-5, False)):
        assert replace(evidence(), gap=Decision(value, (0.0, 1.0), 1e-4, 9)).near_zero is near


@pytest.mark.parametrize(("added", "level"), [(0.99 * COUNTS, "note"), (1.01 * COUNTS, "warning")])
def test_sheets_count_from_one_per_cent(added: float, level: str) -> None:
    others = torch.tensor([added, 0.0], dtype=torch.float64).log1p()
    z = torch.tensor([0.5, 1.5], dtype=torch.float64)
    found = replace(
        evidence(gap=0.0, cross=0.0),
        sheets=Sheets(others=others, count=torch.tensor([1, 0]), example=(z, -z)),
        gap_true=0.01,
    )
    (finding,) = (f for f in findings(found) if f.code == "not-one-to-one")
    assert finding.level == level
    assert "z0 = 0.5, z1 = 1.5 and z0 = -0.5, z1 = -1.5" in finding.message
    assert ("on each sheet by itself" in summary(found, None)) is (level == "warning")


@pytest.mark.parametrize(("bend", "verdict"), [(0.7e-3, "linear"), (1.5e-3, "independent")])
def test_a_jacobian_that_hardly_varies_is_constant(bend: float, verdict: str) -> None:
    """Columns of relative variance bend^2 against 1e-6."""

    def f(z: Tensor) -> Tensor:
        return (z + bend * z.square() / 2) * torch.tensor([1.0, 0.6], dtype=z.dtype)

    assert Factorise(permutations=19, sheets=0).measure(Decoder(f, 2, dtype=torch.float64)).verdict == verdict


def test_ties_on_both_sides_of_the_tolerance() -> None:
    for apart, tied in ((0.9e-9, True), (1.1e-9, False)):
        same = tied_blocks(torch.tensor([[1.0, 1.0 - apart]], dtype=torch.float64), 1e-9)
        assert bool(same[0, 0, 1]) is tied


def test_a_column_is_constant_to_rounding() -> None:
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)
    for size, dependent in ((1e-14, False), (1e-10, True)):
        X = torch.stack([x, 1 + size * x], dim=1)
        assert (correlation_test(X, permutations=19).largest > 0.9) is dependent


def test_above_64_latents_no_sheets_are_looked_for() -> None:
    result = Factorise(samples=80, max_samples=80, permutations=19).measure(maps.decoder(maps.a(65)))
    assert not result["factorise.sheets"].defined
    assert result.evidence.sheets is None


@pytest.mark.parametrize(
    ("cross", "told"),
    [
        (0.0, ""),
        (0.004, ""),
        (0.006, "the length of z0 by a factor 1.01 (rms), z1 most of all"),
        (0.0351, "the length of z0 by a factor 1.04 (rms), z1 most of all"),
        (1.0, "the length of z0 by a factor 2.7 (rms), z1 most of all"),
    ],
)
def test_a_column_is_said_to_be_changed_by_others_alone_and_by_more_than_a_trifle(
    cross: float, told: str
) -> None:
    pairs = torch.tensor([[0.5, cross], [0.0, 0.5]], dtype=torch.float64)
    seen = evidence(cross=cross)
    assert seen.spread is not None
    spread = replace(seen.spread, largest=Decision(cross, (cross, 2.0), 0.0141, 256))  # not known to be 0
    said = summary(replace(seen, spread=spread, pairs=pairs), None)
    assert ("others change" in said) == bool(told)
    assert told in said
