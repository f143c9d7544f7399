"""A short run of `tests/calibration.py`: no interval misses far too often, no test of a true hypothesis alarms far too often."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

import pytest
import torch

import vaeprobe
from vaeprobe import train_linear
from vaeprobe.comparison import metrics as comparison
from vaeprobe.comparison.result import Comparison
from vaeprobe.decoder import Decoder
from vaeprobe.intervals import binomial_interval
from vaeprobe.probes import metric_specs
from vaeprobe.probes.beta import Beta
from vaeprobe.probes.factorise.probe import Factorise
from vaeprobe.probes.orthogonality.probe import Orthogonality
from vaeprobe.probes.posterior import Posterior
from vaeprobe.probes.trace.probe import Trace
from vaeprobe.report import Metric
from vaeprobe.result import Result

import calibration
from calibrated import FOLLOWS, PAGE, named, on_page
from calibration import Row
from maps import e

TRIALS = 40
# a test of the short run fails this often, or less, where nothing is wrong
FALSE = 1e-4
# what the page promises of every interval at n = 256, to the error of its draws: an interval of LEVEL, which is binomial
LOWEST, HIGHEST, LEVEL = 0.93, 0.97, 0.999


def at_most(hits: int, n: int, p: float) -> float:
    """Return the probability of so many hits or fewer in n trials."""
    return math.fsum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(hits + 1))


def least(n: int, p: float) -> int:
    """Return the hits that n trials of probability p fall short of once in 10,000 times, or less often."""
    return max(k for k in range(n + 1) if k == 0 or at_most(k - 1, n, p) < FALSE)


def page_rates() -> dict[tuple[str, int], float]:
    """Return how often each number's interval holds the truth by the page, at most 95 %."""
    rates: dict[tuple[str, int], float] = {}
    for name, n, _, rate in on_page("interval"):
        rates[name, n] = min(rate / 100, rates.get((name, n), 0.95))
    return rates


@pytest.mark.parametrize("simulation", calibration.SIMULATIONS, ids=lambda f: f.__name__)
def test_intervals_and_p_values(simulation: Callable[[int], list[Row]]) -> None:
    rows, rates = simulation(TRIALS), page_rates()
    assert rows
    for row in rows:
        hits = round(row.rate * row.trials)
        if row.kind == "p-value":
            assert row.trials - hits >= least(row.trials, 0.95), row
            # a mean of uniform values, multiples of 1/40 from 1/40 on; four standard errors are 6 in 100,000
            assert abs(row.above - 0.5 - 1 / 80) <= 4 * math.sqrt(1 / 12 / row.trials), row
        else:
            assert hits >= least(row.trials, rates[row.what, row.n]), row


@pytest.mark.parametrize(("n", "p"), [(40, 0.95), (40, 0.89), (600, 0.93)])
def test_thresholds_are_binomial(n: int, p: float) -> None:
    binomial = pytest.importorskip("scipy.stats").binom(n, p)
    assert binomial.cdf(least(n, p) - 1) < FALSE <= binomial.cdf(least(n, p))


def test_a_wrong_interval_is_seen() -> None:
    """Intervals a third as wide hold the truth in half of all cases: the count above tells that."""
    rows = calibration.covered({"x": 0.0}, lambda seed: {"x": shrunk(seed)}, TRIALS)
    assert round(rows[0].rate * TRIALS) < least(TRIALS, 0.95)


def shrunk(seed: int) -> tuple[float, float]:
    low, high = calibration.mean_interval(calibration.np.random.default_rng(seed).standard_normal(64))  # type: ignore[misc]
    middle, half = (low + high) / 2, (high - low) / 6
    return middle - half, middle + half


# an identity that holds exactly on the simulated map: there is no error to cover
EXACT = {"beta.mean_identity"}


def promised(hits: int, draws: int) -> bool:
    """Whether so many hits can be of a coverage between .93 and .97."""
    low, high = binomial_interval(hits, draws, level=LEVEL)
    return high >= LOWEST and low <= HIGHEST


def test_the_page_holds_every_number_between_the_bounds_it_promises() -> None:
    rows = [row for row in on_page("interval") if row[1] == calibration.N]
    assert len(rows) > 60
    for name, _, draws, rate in rows:
        assert name in EXACT or promised(round(rate / 100 * draws), draws), (name, rate)
        # so many draws tell a coverage that is six points short
        assert not promised(round(0.87 * draws), draws), name


def test_the_page_holds_the_level_of_every_p_value() -> None:
    for name, _, draws, rate in on_page("p-value"):
        low, high = binomial_interval(round(rate / 100 * draws), draws, level=LEVEL)
        assert low <= 0.05 <= high, name


# numbers in `details` that have an interval, and the row of the page that simulates them
DETAILS = {
    "entropy_ci": "orthogonality.entropy",
    "beta_ci": "beta: of one latent",
    "mean_square_ci": "beta: mean square of one latent's codes",
    "ratio_ci": "posterior: precision ratio of one latent",
    "cross_ci": "factorise.modulation",  # the largest of them, whose bounds hold for all at once
    "own_share_ci": "factorise.own_share",
    "interval": "train_linear: eigenvalue",
    "gap_interval": "train_linear: gap to the next eigenvalue",
    "ci": "compare: change on the same latents",
    "bootstrap_angle": "train_linear: turn of a column",
    # p-values
    "p_equal_to_next": "train_linear: p_equal_to_next",
    "mcc_p": "compare.mcc_p",
    "columns_p": "compare.columns_p",
    "correlation_p": "factorise.seam_dependence_p",
    "distance_correlation_p": "factorise.distance_correlation_p",
}
STATED = re.compile(r"(^|_)(ci|interval|angle|p|p_value)$|^p_")


def keys(body: object) -> set[str]:
    """Return every key of a document that names an interval or a p-value."""
    if isinstance(body, dict):
        return {k for k in body if STATED.search(str(k))}.union(*map(keys, body.values()))
    return set().union(*map(keys, body)) if isinstance(body, list | tuple) else set()


def turned(d: int) -> torch.Tensor:
    """Return a rotation."""
    return calibration.haar(d, 1, 5)[0]


def results() -> Iterator[Result]:
    """Run every probe where it has most to say."""
    bent, x = calibration.bent_vae()
    flat = Decoder(e(3).f, 3, dtype=torch.float64)
    small = torch.nn.Conv2d(2, 3, 3, padding=1).double().requires_grad_(False)
    maps = Decoder(
        lambda z: small(z.unflatten(1, (2, 3, 3))).tanh(), 18, latent_shape=(2, 3, 3), dtype=torch.float64
    )
    yield Orthogonality(samples=32).measure(flat)
    yield Orthogonality(samples=32, part="channels").measure(maps)
    yield Factorise(samples=32).measure(flat)
    yield Trace(samples=2, length=0.3, tolerance=1e-3).measure(flat)
    for probe in (Posterior, Beta):
        yield probe(data=x[:64], sigma2=0.36, pairs=2, beta=1.0).measure(bent)
    yield train_linear(x[:64], latent_dim=2, steps=20)
    other = Decoder(lambda z: e(3).f(z @ turned(3)), 3, dtype=torch.float64)
    yield vaeprobe.compare([flat, other], samples=64, rotations=19)


def test_every_interval_that_a_command_prints_is_on_the_page() -> None:
    intervals, both = named("interval"), named("interval", "p-value")
    for result in results():
        for id, metric in result.metrics.items():
            if metric.ci is not None:
                assert FOLLOWS.get(id, id) in intervals, id
        for key in keys(result.details()):
            assert DETAILS.get(key, key) in both, key
        if isinstance(result, Comparison):
            assert {"orthogonality.ima_contrast", "orthogonality.alignment"} <= result.changes.keys()


def test_an_interval_without_a_row_is_seen_wherever_a_test_makes_one() -> None:
    """`conftest.py` holds every metric that any test measures against the page."""
    spec = metric_specs()["factorise.derivative_cross"]
    Metric(spec, 0.5)
    with pytest.raises(AssertionError, match="derivative_cross has an interval, and no row"):
        Metric(spec, 0.5, ci=(0.4, 0.6))


def test_every_p_value_that_a_command_prints_is_on_the_page() -> None:
    simulated = named("p-value")
    specs = [*metric_specs(), *comparison.SPECS]
    found = {id for id in specs if id.endswith(("_p", "_p_value"))}
    assert len(found) > 5
    assert found <= simulated, found - simulated


def test_every_row_of_the_page_is_simulated_here() -> None:
    """What the page names and no simulation does was simulated once, by something that is gone."""
    names = {name for name, *_ in (*on_page("interval"), *on_page("p-value"))}
    source = (PAGE.parent / "calibration.py").read_text(encoding="utf-8")
    ids = set(metric_specs())
    for name in names:
        assert name.split(", ")[0] in ids or name.split(",")[0] in source, name
