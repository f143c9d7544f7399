"""What the loss of a family implies for beta, beside the reading: near, far, and where a known mistake is pointed at."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from vaeprobe.checkpoints.loading import load
from vaeprobe.probes.beta import Beta, words
from vaeprobe.recipe import FAR, Mistake, Recipe
from vaeprobe.report import Finding

from vaes import SAMPLES

BETAS = SAMPLES / "betas"
MANIFEST: list[dict[str, Any]] = json.loads((BETAS / "manifest.json").read_text())["models"]


@pytest.mark.parametrize(("reading", "far"), [(0.51, False), (0.49, True), (1.99, False), (2.01, True)])
def test_far_is_a_factor_of_two_either_way(reading: float, far: bool) -> None:
    assert FAR == 2
    assert Recipe(1.0, "beta = 1").is_far(reading) is far
    assert not Recipe(None, "no KL").is_far(reading)


def test_a_mistake_is_pointed_at_within_its_range() -> None:
    recipe = Recipe(1.0, "beta = 1", mistakes=(Mistake(10, 20, "the sum was taken for a mean"),))
    for reading, found in (
        (9.99, None),
        (10.0, recipe.mistakes[0]),
        (20.0, recipe.mistakes[0]),
        (20.1, None),
    ):
        assert recipe.pointing_at(reading) is found


def implied(recipe: Recipe, likelihood: str = "gaussian", beta: float = 1.0, **settings: Any) -> Finding:
    entry = next(m for m in MANIFEST if m["likelihood"] == likelihood and m["beta"] == beta)
    decoder = replace(load(BETAS / entry["file"]), recipe=recipe)
    found = Beta(data=BETAS / entry["data"], sigma2=entry["sigma2"] or 1.0, **settings).measure(decoder)
    (finding,) = (f for f in found.findings if f.code == "implied-beta")
    return finding


def test_beta_prints_it_beside_its_reading() -> None:
    near = implied(Recipe(2.0, "beta = 2", "the repository's config"), "bernoulli", 2.0)
    assert near.level == "note"
    assert "implies beta = 2 (beta = 2; by the repository's config), and the reading is" in near.message
    far = implied(
        Recipe(20.0, "beta = 20", mistakes=(Mistake(1, 3, "the mean for the sum"),)), "bernoulli", 2.0
    )
    assert far.level == "warning"
    assert "a known mistake leaves such a reading: the mean for the sum" in far.message
    none = implied(Recipe(None, "a codebook has no KL"), "bernoulli", 2.0)
    assert (none.level, "no one beta: a codebook has no KL" in none.message) == ("note", True)


def test_a_gaussian_is_held_to_the_product_with_its_variance() -> None:
    entry = next(m for m in MANIFEST if m["likelihood"] == "gaussian" and m["beta"] == 1.0)
    product = entry["beta"] * entry["sigma2"]
    found = implied(Recipe(product, "as trained"))
    assert found.level == "note"
    assert "implies beta sigma^2 =" in found.message
    assert implied(Recipe(3 * product, "another")).level == "warning"


@pytest.mark.parametrize(("variance", "name"), [(None, "beta"), (0.5, "beta sigma^2")])
def test_it_is_said_where_there_is_no_reading_too(variance: float | None, name: str) -> None:
    collapsed: Any = SimpleNamespace(
        estimate=None, no_curvature=None, likelihood=SimpleNamespace(free_variance=variance)
    )
    (finding,) = words.implied(collapsed, Recipe(2.0, "beta = 2"))
    assert finding.level == "note"
    assert f"implies {name} = 2 (beta = 2), and there is no reading" in finding.message
    assert words.implied(collapsed, None) == []
