"""`trace`: verdicts on exact maps, honest undefined values, and the files it writes."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from vaeprobe.decoder import Decoder, Group
from vaeprobe.encoder import Encoder
from vaeprobe.errors import UsageError
from vaeprobe.intervals import mean_interval
from vaeprobe.latents import Given
from vaeprobe.probes.base import judge
from vaeprobe.probes.trace import METRICS, Trace, TraceResult, parse_components
from vaeprobe.probes.trace.words import verdict
from vaeprobe.render.pixels import Pixels
from vaeprobe.report import Metric, Svg
from vaeprobe.seams.summary import by_start, usable

import maps

SPECS = {spec.id: spec for spec in METRICS}


def trace(map: maps.ExactMap, **settings: object) -> TraceResult:
    near = 0.4 * np.random.default_rng(0).standard_normal((3, map.latent_dim))
    small = {"latents": Given(torch.from_numpy(near)), "length": 0.8, "radius": 2.0, "samples": 3}
    return Trace(**{**small, **settings}).measure(maps.decoder(map))  # type: ignore[arg-type]


def value(result: TraceResult, name: str) -> float:
    found = result[f"trace.{name}"].value
    assert isinstance(found, (int, float)), result[f"trace.{name}"].reason
    return float(found)


@pytest.mark.parametrize(
    ("map", "verdict"),
    [
        (maps.a(3), "axis-parallel"),
        (maps.b1(3), "axis-parallel"),
        (maps.c3(), "axis-parallel"),
        (maps.rotated(maps.a(3)), "straight"),
        (maps.rotated(maps.b1(2)), "straight"),
        (maps.c1(k=1.0), "undetermined"),
        (maps.f_dead(2, 3, dead=(0, 1)), "undefined"),
    ],
    ids=repr,
)
def test_verdicts(map: maps.ExactMap, verdict: str) -> None:
    result = trace(map)
    assert result.verdict == verdict
    assert "seam" in result.summary
    json.dumps(result.to_dict(), allow_nan=False)
    assert set(result.metrics) == set(SPECS)


def test_circles_and_rays() -> None:
    z = torch.tensor([[1.0, 0.2], [-0.3, 0.7], [0.4, -1.5]], dtype=torch.float64)
    result = trace(maps.g(), latents=Given(z), length=None, radius=None)
    assert result.verdict == "curved"
    assert value(result, "straightness") == pytest.approx(0.5, abs=1e-6), "rays 1, circles 0"
    assert value(result, "turning") == pytest.approx(float((1 / z.norm(dim=1)).mean() / 2), rel=2e-2)
    assert value(result, "crossings") == pytest.approx(1), "h' = k/rho at |z| = 1: twice on each ray"
    assert value(result, "return_error") < 1e-6
    assert result.net is not None
    assert result["trace.nonintegrability"].reason


def test_a_side_where_nothing_is_determined_is_measured() -> None:
    z = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    result = trace(maps.c4(), latents=Given(z), length=0.4)
    assert result.verdict == "axis-parallel", "all on the side where the columns differ in length"
    assert value(result, "tied") == 0
    assert trace(maps.c4(), latents=Given(-z), length=0.4).verdict == "undetermined"


def test_intervals_come_from_starts_and_limits_hold_against_them() -> None:
    result = trace(maps.e(3))
    metric = result["trace.straightness"]
    assert metric.n == 3
    assert metric.ci is not None
    assert metric.ci[0] <= value(result, "straightness") <= metric.ci[1]
    limited = judge(result, {"trace.straightness": 0.999999, "trace.turning": 1e-3}, SPECS)
    assert [check.status for check in limited.checks] == ["fail", "fail"]
    inside = judge(result, {"trace.straightness": value(result, "straightness")}, SPECS)
    assert [check.status for check in inside.checks] == ["inconclusive"]
    single = trace(maps.a(3), samples=1)
    assert single["trace.straightness"].ci is None


def verdict_of(stops: dict[str, int] | None = None, **given: tuple[float, float, float]) -> tuple[str, str]:
    """The verdict on values that are given with the ends of their intervals."""
    usual = {
        "straightness": (0.9, 0.9, 0.9),
        "axis_overlap": (0.95, 0.94, 0.96),
        "tied": (0.0, 0.0, 0.0),
        "turning": (0.3, 0.2, 0.4),
        "axis_overlap_random": (0.8, 0.8, 0.8),
    }
    numbers = {
        f"trace.{name}": Metric(
            SPECS[f"trace.{name}"], middle, ci=None if name == "axis_overlap_random" else (low, high)
        )
        for name, (middle, low, high) in (usual | given).items()
    }
    paths = SimpleNamespace(starts=range(4), stops=Counter(stops), share=0.25)
    return verdict(numbers, paths, "", more="more rows")  # type: ignore[arg-type]


def test_an_open_verdict_says_what_would_decide_it() -> None:
    open_ = {"straightness": (0.9, 0.4, 1.0)}
    assert verdict_of({"length": 8}, **open_)[1].endswith("; more rows would decide it.")
    assert verdict_of({"length": 5, "time": 3}, **open_)[1].endswith("; more --time would decide it.")


@pytest.mark.parametrize(
    ("high", "word"), [(0.94, "curved"), (0.9499, "curved"), (0.95, "undecided"), (1.0, "undecided")]
)
def test_seams_that_time_cut_short_are_called_curved_or_nothing(high: float, word: str) -> None:
    """A short piece of any curve is straight."""
    given = {"straightness": (0.93, 0.92 if high < 0.96 else 0.995, high)}
    assert verdict_of({"length": 5, "time": 3}, **given)[0] == word
    said = verdict_of({"length": 5, "time": 3}, **given)[1]
    assert "25 % of the way" in said


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"straightness": (0.995, 0.991, 0.999), "axis_overlap": (0.995, 0.991, 1.0)}, "axis-parallel"),
        ({"straightness": (0.995, 0.991, 0.999), "axis_overlap": (0.995, 0.989, 1.0)}, "straight"),
        ({"straightness": (0.995, 0.989, 0.999), "axis_overlap": (0.995, 0.991, 1.0)}, "nearly straight"),
        ({"straightness": (0.96, 0.951, 0.97)}, "nearly straight"),
        ({"straightness": (0.96, 0.949, 0.97)}, "undecided"),
        ({"straightness": (0.94, 0.90, 0.951)}, "undecided"),
        ({"straightness": (0.94, 0.90, 0.949)}, "curved"),
        ({"straightness": (0.9, 0.4, 1.0)}, "undecided"),
        ({"tied": (0.51, 0.1, 0.9)}, "undetermined"),
        ({"tied": (0.49, 0.1, 0.9), "straightness": (0.94, 0.90, 0.949)}, "curved"),
    ],
)
def test_words_follow_the_ends_of_intervals(given: dict[str, tuple[float, float, float]], word: str) -> None:
    assert verdict_of(**given)[0] == word
    assert word in Trace.VERDICTS


def test_oblique_is_said_where_it_is_known() -> None:
    straight = (0.995, 0.991, 0.999)
    assert "oblique" in verdict_of(straightness=straight, axis_overlap=(0.95, 0.9, 0.989))[1]
    unsure = verdict_of(straightness=straight, axis_overlap=(0.95, 0.9, 0.991))[1]
    assert "open whether they run along" in unsure


def arcs(turn: float) -> maps.ExactMap:
    """Seams of component 1 are arcs of radius 1 / turn about a far centre; rays are component 0."""
    base = maps.g()
    return dataclasses.replace(base, f=lambda z: base.f(z + torch.tensor([1 / turn, 0.0]).to(z)))


def test_a_slight_bend_is_not_called_curved() -> None:
    for turn, word in ((0.02, "axis-parallel"), (0.5, "nearly straight"), (0.8, "curved")):
        result = trace(arcs(turn), latents=Given(torch.zeros(3, 2)), length=1.0, radius=1.05, components=(1,))
        # an arc of length 2 and angle 2 turn; its starts agree
        assert value(result, "straightness") == pytest.approx(math.sin(turn) / turn, abs=2e-3)
        assert result.verdict == word


def test_intervals_are_students_over_starts() -> None:
    near = Given(torch.from_numpy(0.4 * np.random.default_rng(0).standard_normal((4, 3))))
    result = trace(maps.e(3), samples=4, latents=near, components=(0,), length=0.4)
    starts = by_start(usable(result.paths))
    for name in ("straightness", "axis_overlap", "speed_spread", "turning"):
        low, high = result[f"trace.{name}"].ci or (0, 0)
        ends = mean_interval(starts[name], low=0.0) or (0, 0)
        assert (low, high) == pytest.approx(
            (ends[0], ends[1] if name in ("speed_spread", "turning") else min(ends[1], 1))
        )


def test_latents_are_named_by_their_column_in_text_and_pictures() -> None:
    flat = Decoder(lambda z: torch.sinh(z[:, 2:] * torch.tensor([2.0, 0.7]).to(z)) + z[:, :1] - z[:, :1], 4,
                   dtype=torch.float64, prior=(Group("onehot", 2), Group("normal", 2)))  # fmt: skip
    result = Trace(samples=2, length=0.5).measure(flat)
    table, heat = result.sections()[:2]
    assert [row[5] for row in table.rows] == ["z2", "z3"]  # type: ignore[union-attr]
    assert heat.column_labels == ["z2", "z3"]  # type: ignore[union-attr]
    assert result.net is not None
    assert re.findall(r">(z\d+)<", result.net.svg()) == ["z2", "z3"]
    assert re.findall(r">(x\d+)<", result.net.svg()) == ["x0", "x1"]


def test_the_axis_overlap_is_read_beside_chance() -> None:
    map = maps.rotated(maps.a(3))
    result = trace(map)
    assert map.rotation is not None
    assert value(result, "axis_overlap") == pytest.approx(float(map.rotation.abs().max(1).values.mean()))
    assert value(result, "axis_overlap_random") == pytest.approx(0.83, abs=0.01)
    assert f"{value(result, 'axis_overlap_random'):.2f}" in result.summary
    assert value(result, "nonintegrability") < 1e-6


def test_dead_components_are_left_out_and_told() -> None:
    result = trace(maps.f_dead(3))
    assert result.paths.components == (0, 1)
    assert any(finding.code == "trace-components" for finding in result.findings)
    asked = trace(maps.f_dead(3), components="0-2")
    assert value(asked, "collapsed") == 6
    assert asked.verdict == "axis-parallel"


def test_of_two_latents_one_that_does_nothing_leaves_the_seams_of_the_other(tmp_path: Path) -> None:
    svg = tmp_path / "net.svg"
    result = trace(maps.f_dead(2, 3), svg=svg)
    assert (result.verdict, result.net) == ("axis-parallel", None)
    (told,) = (finding for finding in result.findings if finding.code == "trace-no-picture")
    assert "net of seams" in told.message
    assert "collapse" in told.message
    assert "svg" not in result.files()
    assert result.unwritten() == {"svg": told.message}
    assert not any(f.code == "trace-no-picture" for f in trace(maps.f_dead(2, 3)).findings)
    both = trace(maps.b1(2), svg=svg)
    assert both.net is not None
    assert "svg" in both.files()
    assert not both.unwritten()


def test_a_dead_decoder_is_undefined_with_its_reason() -> None:
    result = trace(maps.f_dead(2, 3, dead=(0, 1)), images=None)
    metric = result["trace.straightness"]
    assert metric.value is None
    assert "collapsed at every start" in (metric.reason or "")
    assert metric.reason in result.summary
    assert result.sections()


def test_starts_outside_the_radius_are_told() -> None:
    result = trace(maps.b1(2), latents=Given(torch.full((2, 2), 9.0)), radius=3.0)
    assert result.verdict == "undefined"
    assert "outside the radius 3" in (result["trace.straightness"].reason or "")
    assert any(finding.code == "trace-outside" for finding in result.findings)


def test_one_latent() -> None:
    result = trace(maps.b1(1))
    assert result.verdict == "axis-parallel"
    assert "fewer than three latents" in (result["trace.nonintegrability"].reason or "")


def images_of_two() -> Decoder:
    """Two latents to 6 x 6 images, with an encoder."""
    W = torch.from_numpy(np.random.default_rng(4).standard_normal((36, 2))) * torch.tensor([1.5, 0.7])

    def f(z: Tensor) -> Tensor:
        return torch.sigmoid(z @ W.to(z.dtype).T).reshape(-1, 1, 6, 6)

    def encode(data: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.stack([data.flatten(1).mean(1), data.flatten(1).amax(1) - 0.5], dim=1)
        return mean, torch.zeros_like(mean)

    encoder = Encoder(encode, 2, input_shape=(1, 6, 6), dtype=torch.float64)
    return Decoder(f, 2, dtype=torch.float64, encoder=encoder)


def test_files(tmp_path: Path) -> None:
    names = {"save": tmp_path / "p.npz", "images": tmp_path / "s.png", "svg": tmp_path / "n.svg"}
    settings = {"samples": 2, "length": 0.3, "radius": 2.6, "frames": 5}
    result = Trace(**settings, **names).measure(images_of_two())  # type: ignore[arg-type]
    assert set(result.files()) == set(names)
    for name, write in result.files().items():
        write(names[name])
    assert names["images"].read_bytes().startswith(b"\x89PNG")
    ET.parse(names["svg"])
    with np.load(names["save"], allow_pickle=False) as arrays:
        assert arrays["traversal_seam_x"].shape == (2, 5, 36)
        assert arrays["traversal_t"][2] == 0
        middle = arrays["traversal_seam_x"][:, 2]
        assert np.allclose(middle, arrays["traversal_axis_x"][:, 2]), "both pass through the start"
        documented = (TraceResult.save_paths.__doc__ or "") + (type(result.paths).arrays.__doc__ or "")
        assert all(name.removeprefix("event_") in documented for name in arrays.files)
    strip = result.strip()
    assert strip.shape[0] == 2 + 2 * (6 + 2), "two rows of 6 pixels, gaps of 2"
    nothing = Trace(samples=2, length=0.3, radius=2.6).measure(images_of_two())
    assert nothing.files() == {}


def test_the_preview_is_small_and_in_colour() -> None:
    result = Trace(samples=1, length=0.3, radius=2.6, frames=5).measure(images_of_two())
    picture = next(section for section in result.sections() if isinstance(section, Svg) and section.thumbnail)
    small = picture.thumbnail
    assert small is not None
    assert small.width <= 80
    assert len(small.rgb) == 3 * small.width * small.height
    assert "data:image/png;base64," in picture.svg
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system="truecolor", width=100).print(Pixels(small))
    lines = stream.getvalue().splitlines()
    assert len(lines) == (small.height + 1) // 2
    assert all(line.count("▀") == small.width for line in lines)
    r, g, b = small.rgb[:3]
    assert f"38;2;{r};{g};{b}" in lines[0]
    plain = io.StringIO()
    Console(file=plain, color_system=None, width=100).print(Pixels(small))
    assert plain.getvalue().strip() == ""


def test_a_row_of_data_is_a_start() -> None:
    decoder = images_of_two()
    data = torch.rand(4, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = Trace(row=2, data=data, length=0.5, radius=2.0).measure(decoder)
    assert decoder.encoder is not None
    assert torch.allclose(result.paths.starts, decoder.encoder(data[2:3])[0])
    with pytest.raises(UsageError, match="row 4 does not exist: the data have 4 rows"):
        Trace(row=4, data=data).measure(decoder)
    with pytest.raises(UsageError, match="--row needs data"):
        Trace(row=0).measure(decoder)


def test_wrong_options_fail_before_the_work() -> None:
    with pytest.raises(UsageError, match="a net of seams needs two latents, this decoder has 3"):
        trace(maps.b1(3), svg=Path("net.svg"))
    with pytest.raises(UsageError, match="no image"):
        trace(maps.b1(2), images=Path("strip.png"))
    with pytest.raises(UsageError, match="`5x5` does not hold"):
        trace(maps.b1(2), image_shape="5x5")
    with pytest.raises(UsageError, match="component 7 does not exist"):
        trace(maps.b1(2), components="7")


@pytest.mark.parametrize(
    ("given", "want"), [("0", [0]), ("0,2", [0, 2]), ("1-3", [1, 2, 3]), ([4, 1], [4, 1])]
)
def test_components_are_read(given: object, want: list[int]) -> None:
    assert parse_components(given) == want  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["", "a", "1-", "-1", "0,,1", "1-x"])
def test_components_that_are_no_numbers(given: str) -> None:
    with pytest.raises(UsageError, match="names no components"):
        parse_components(given)


def test_every_metric_is_explained() -> None:
    for spec in METRICS:
        for part in ("title", "range", "formula", "source", "meaning", "misleads", "remedy"):
            assert getattr(spec, part), f"{spec.id} has no {part}"


def test_the_page_has_a_section_for_each_view() -> None:
    result = trace(maps.g(), latents=Given(torch.tensor([[1.0, 0.3]])))
    titles = [section.title for section in result.sections()]
    for title in (
        "Seams by component",
        "Stops and events",
        "Crossings",
        "Net of seams, in latent space (left) and in data space",
    ):
        assert title in titles
    for section in result.sections():
        if hasattr(section, "ys"):
            assert all(y is None or math.isfinite(y) for ys in section.ys.values() for y in ys)


# -- real checkpoints ---------------------------------------------------------------------------


def test_a_published_decoder(models: Path) -> None:
    import vaeprobe

    decoder = vaeprobe.load(models / "disvae" / "btcvae_mnist" / "model.pt")
    result = Trace(samples=2, components="0,1", length=0.15).measure(decoder)
    assert result.paths.scheme == "rough", "ReLU layers under a sigmoid"
    assert value(result, "straightness") > 0.3
    assert result.strip().shape[2] == 3
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("given", [3, 1.5, [0.5], ["0"], [torch.tensor(0.5)]])
def test_components_that_are_no_whole_numbers_are_refused(given: object) -> None:
    with pytest.raises(UsageError, match=r"the components are .*, not a list of numbers") as error:
        trace(maps.a(2), components=given)
    assert error.value.exit_code == 2


def test_components_are_any_whole_numbers() -> None:
    assert parse_components(np.array([0, 2])) == [0, 2]
    assert parse_components(torch.tensor([1])) == [1]
    assert parse_components(range(2)) == [0, 1]
