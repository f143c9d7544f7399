"""Axes, histograms and the colours of pictures."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest

from vaeprobe.render.axes import Axis, tick
from vaeprobe.render.charts import curves_svg, heatmap_svg, histogram_svg, ink, luminance, ramp, two_digits
from vaeprobe.render.terminal import plain
from vaeprobe.report import Curves, Heatmap, Histogram, Page


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0.0, 1.0, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3.1, 2.9, False, [-3, -2, -1, 0, 1, 2]),
        (0.73, 0.91, False, [0.75, 0.8, 0.85, 0.9]),
        (0.25, 4.0, True, [0.5, 1, 2]),
        (1e-4, 1e2, True, [1e-4, 1e-2, 1, 1e2]),
        (1.2, 1.4, True, [1.2, 1.25, 1.3, 1.35, 1.4]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, log: bool, ticks: list[float]) -> None:
    assert Axis(low, high, log).ticks() == pytest.approx(ticks)


def test_an_axis_goes_both_ways() -> None:
    for axis in (Axis(-2, 7), Axis(0.1, 30, log=True)):
        for share in (0.0, 0.3, 1.0):
            assert axis.share(axis.at(share)) == pytest.approx(share, abs=1e-12)
    assert Axis(1, 100, log=True).at(0.5) == pytest.approx(10)
    assert not Axis.over([0.0, 1.0], log=True).log
    assert Axis.over([3.0, 3.0]).low < 3 < Axis.over([3.0, 3.0]).high


def test_equal_ratios_are_equally_long() -> None:
    x = [0.1, 1.0, 10.0]
    drawn = curves_svg(Curves(title="t", x=x, ys={"y": [0.0, 1.0, 2.0]}, log_x=True, x_label="beta"))
    points = re.search(r'polyline points="([^"]*)"', drawn)
    assert points is not None
    places = [float(p.split(",")[0]) for p in points[1].split()]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.11)
    assert "beta (log scale)" in drawn


def test_a_histogram_holds_every_draw() -> None:
    draws = np.random.default_rng(0).standard_normal(999).tolist()
    section = Histogram(title="t", draws=draws, marks={"here": 4.0, "there": -5.0}, x_label="nats")
    bins = section.bins(60)
    assert sum(count for *_, count in bins) == 999
    for low, high, count in bins:
        inside = sum(low <= d < high for d in draws)
        assert abs(inside - count) <= 1  # a draw on an edge
    assert bins[0][0] < -5 < 4 < bins[-1][1]
    # Freedman and Diaconis: 2 IQR / n^(1/3) = .27 for a standard normal
    assert bins[0][1] - bins[0][0] == pytest.approx(2 * 1.349 / 999 ** (1 / 3), rel=0.1)
    drawn = histogram_svg(section)
    root = ET.fromstring(drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" '))
    texts = {t.text for t in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"here 4", "there -5", "999 draws", "nats"} <= texts


def test_the_terminal_marks_places_on_a_histogram() -> None:
    section = Histogram(title="t", draws=[0.0, 1.0, 2.0, 3.0, 4.0], marks={"left": 0.0, "right": 4.0})
    text = plain(Page(command="x", metrics={}, sections=[section]), width=44)
    axis = next(line for line in text.splitlines() if "─" in line)
    assert axis.index("A") < 6
    assert axis.index("B") > 36
    assert "A left 0; B right 4; blocks: 5 draws" in text


def test_lines_are_told_apart_without_colour() -> None:
    section = Curves(
        title="t", x=[1.0, 2.0, 4.0], ys={"up": [0.0, 1.0, 2.0], "down": [2.0, 1.5, None]}, log_x=True
    )
    lines = plain(Page(command="x", metrics={}, sections=[section]), width=44).splitlines()
    assert any("● up  ■ down" in line for line in lines)
    drawn = [line for line in lines if "┤" in line or "│" in line]
    assert sum(line.count("●") for line in drawn) == 3
    assert sum(line.count("■") for line in drawn) == 2
    places = sorted(line.index("●") for line in drawn if "●" in line)
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=1)  # equal ratios
    many = Curves(title="t", x=list(range(50)), ys={"up": list(range(50)), "down": list(range(50, 0, -1))})
    assert "━ up  ━ down" in plain(Page(command="x", metrics={}, sections=[many]), width=44)


def test_digits_can_be_read_on_every_shade() -> None:
    for k in range(101):
        color = ramp(k / 100)
        light = luminance(color) + 0.05
        letters = 0.05 if ink(color) == "#000" else 1.05
        assert max(light, letters) / min(light, letters) >= 4.5
    assert luminance((255, 255, 255)) == pytest.approx(1)
    assert luminance((0, 0, 0)) == 0
    assert luminance((119, 119, 119)) == pytest.approx(0.1845, abs=1e-4)  # #777 on white is 4.48 to 1


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0071, "0.01"), (0.0049, "0.00"), (0.5, "0.50"), (12.6, "13"), (-0.25, "-0.25"), (0, "0.00")],
)
def test_cells_have_two_digits(value: float, said: str) -> None:
    assert two_digits(value) == said


def test_labels_of_a_large_heat_map_do_not_run_together() -> None:
    n = 60
    names = [f"z{i}" for i in range(n)]
    drawn = heatmap_svg(Heatmap(title="t", matrix=[[0.5] * n] * n, row_labels=names, column_labels=names))
    root = ET.fromstring(drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" '))
    heads = [t for t in root.iter("{http://www.w3.org/2000/svg}text") if t.get("y") == "12"]
    places = [float(t.get("x", "0")) for t in heads]
    assert len(places) > 10
    assert min(b - a for a, b in pairwise(places)) >= 18
    assert math.isfinite(sum(places))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (-0.0, "0"),
        (0.25, "0.25"),
        (1e3, "1000"),
        (-2e4, "-20000"),
        (1e5, "1e5"),
        (2e6, "2e6"),
        (1.5e-7, "1.5e-7"),
    ],
)
def test_ticks_are_short(value: float, words: str) -> None:
    assert tick(value) == words


def test_the_longest_tick_leaves_the_name_of_its_axis_alone() -> None:
    """A digit of 11 pixels is 0.6 of that wide; the name stands on its side, left of 24."""
    for high in (1e4, 9e4, 1e7, 1e-7, 1e300):
        picture = curves_svg(Curves(title="", x=[1, 2], ys={"a": [-high, high]}, x_label="x", y_label="y"))
        ends = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="end">([^<]*)</text>', picture)
        assert ends
        assert all(float(x) - 0.6 * 11 * len(words) > 24 for x, words in ends)
