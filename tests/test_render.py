"""Renderers: hostile strings stay inert, numbers stay short, every picture draws at every width."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any, ClassVar

import pytest
from rich.console import Console

from vaeprobe.findings import FindingSpec
from vaeprobe.render import html, json_document, markdown, terminal
from vaeprobe.render.drawings import draw
from vaeprobe.render.text import clean, inert, number
from vaeprobe.report import (
    Artifact,
    Bars,
    Check,
    Curves,
    Finding,
    Heatmap,
    Histogram,
    Metric,
    MetricSpec,
    Page,
    Section,
    Svg,
    Table,
    metric_map,
)
from vaeprobe.result import Result

NASTY = (
    "a\x1b]0;owned\x07\x1b[31m\x9b31m\u202e[/nope]\n::error::x<script>alert(1)</script>=HYPERLINK(1)\x00|`*"
)


@dataclass(frozen=True, kw_only=True)
class Example(Result):
    command: ClassVar[str] = "orthogonality"

    def sections(self) -> tuple[Section, ...]:
        return (
            Table(title=NASTY, columns=["a", NASTY], rows=[[1, 2.5], [NASTY, None]], note=NASTY),
            Heatmap(
                title="h",
                matrix=[[1.0, 0.25], [None, 0.5]],
                row_labels=[NASTY, "r"],
                column_labels=["c", NASTY],
            ),
            Heatmap(title="big", matrix=[[0.5] * 90] * 3, row_labels=["x"] * 3, column_labels=["y"] * 90),
            Bars(title="b", labels=["one", NASTY], values=[3.0, None], mark=2.0, mark_label=NASTY),
            Curves(
                title="c", x=[0, 1, 2], ys={NASTY: [0.0, None, 1.0], "flat": [1.0, 1.0, 1.0]}, x_label=NASTY
            ),
            Curves(title="empty", x=[], ys={}),
            Histogram(title=NASTY, draws=[1.0, 2.0, 2.5, 4.0], marks={NASTY: 9.0, "b": -1.0}, x_label=NASTY),
            Histogram(title="one value", draws=[2.0, 2.0], marks={"a": 2.0}),
            Svg(title="s", svg="<svg></svg>", alt="a picture"),
        )


@pytest.fixture(scope="module")
def result() -> Example:
    spec = MetricSpec(id="orthogonality.ima_contrast", title="ima contrast", unit="nats")
    known = Metric(spec, 1.25, ci=(1.0, 1.5), level=0.95, n=8)
    unknown = MetricSpec(id="orthogonality.alignment", title="alignment")
    return Example(
        metrics=metric_map([known, Metric.undefined(unknown, NASTY)]),
        verdict=NASTY,
        summary=NASTY,
        findings=(Finding(FindingSpec("x", "warning", "a", "b"), NASTY, hint=NASTY),),
        artifact=Artifact(path=NASTY, sha256="0" * 64, format="state_dict", architecture=NASTY),
        checks=(Check(metric=known, side="max", limit=2.0),),
    )


def controls(text: str) -> set[str]:
    return {
        c for c in text if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c in "\u202e\u2066\u200b"
    }


def test_clean_strips_what_a_terminal_obeys() -> None:
    assert controls(clean(NASTY)) == set()
    assert "\n" not in clean(NASTY)
    assert clean("z̃ naïve 日本 é") == "z̃ naïve 日本 é"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("::error::x", ": error::x"),
        ("  ::set-env name=a::b", "  : set-env name=a::b"),
        ("a\n\t::warning::b\nc", "a\n\t: warning::b\nc"),
        ("\x1b[1m::error::x", "\x1b[1m: error::x"),
        ("says ::error::x", "says ::error::x"),
        ("says ##[error]x and ##vso[task.setvariable]y", "says # [error]x and # vso[task.setvariable]y"),
        ("## heading", "## heading"),
    ],
)
def test_no_line_is_a_command_to_a_runner(text: str, safe: str) -> None:
    assert inert(text) == safe
    assert len(safe) == len(text)


COMMAND = re.compile(r"(?m)^\s*::|##\[|##vso\[")


@pytest.mark.parametrize("words", ["::error::pwn", "a" * 70 + " ::error::pwn", "x ##[error]pwn"])
@pytest.mark.parametrize("width", [20, 40, 80])
def test_no_page_speaks_to_a_runner(words: str, width: int) -> None:
    page = Page(
        command="inspect",
        metrics={},
        verdict=words,
        summary=words,
        findings=(Finding(FindingSpec("x", "warning", "a", "b"), words, hint=words),),
        artifact=Artifact(path=words, format=words, architecture=words),
        sections=(Table(title=words, columns=[words, words], rows=[[words, words]], note=words),),
    )
    assert not COMMAND.search(terminal.plain(page, width=width))
    stream = io.StringIO()
    console = terminal.console(stream, "never")
    console.width = width
    console.print(terminal.view(page))
    assert not COMMAND.search(stream.getvalue())
    assert not COMMAND.search(markdown.render(page))
    assert not COMMAND.search(html.render(page))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_terminal_page_is_inert_at_any_width(result: Example, width: int) -> None:
    text = terminal.plain(result.page(), width=width)
    assert controls(text) == set()
    assert "[/nope]" in text.replace("\n", "")
    # cells may be wider than a console of 40 columns only where a character is
    assert all(len(line) <= max(width, 40) for line in text.splitlines())


def test_colour_only_where_it_is_asked(result: Example) -> None:
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system="truecolor", width=80).print(result)
    assert "\x1b[" in stream.getvalue()


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_html_has_no_script_and_no_link(result: Example) -> None:
    collector = Collector()
    collector.feed(html.render(result.page()))
    assert not collector.seen & {"script", "iframe", "img", "link", "object", "a"}
    assert not {name for name in collector.attributes if name.startswith("on") or name in ("href", "src")}
    assert result._repr_html_().startswith("<style>")


@pytest.mark.parametrize("verbose", [False, True])
def test_the_digest_of_a_file_is_for_those_who_want_all(result: Example, verbose: bool) -> None:
    console = Console(width=200, record=True, file=io.StringIO(), color_system=None)
    page = replace(result.page(), carried=((next(iter(result.metrics.values())),),))
    console.print(terminal.view(page, verbose))
    assert ("sha256 000000000000" in console.export_text()) == verbose


def test_a_reason_that_numbers_share_is_told_once(result: Example) -> None:
    spec = MetricSpec(id="orthogonality.alignment", title="alignment")
    rows = tuple((Metric.undefined(spec, why),) for why in ("one reason", "one reason", "another"))
    console = Console(width=80, record=True, file=io.StringIO(), color_system=None)
    console.print(terminal.view(replace(result.page(), carried=rows), verbose=False))
    ends = [
        line.split("undefined")[-1].strip()
        for line in console.export_text().splitlines()
        if "undefined" in line
    ]
    assert ends == ["one reason", "as above", "another"]


@pytest.mark.parametrize("width", [24, 40, 78, 79])
def test_no_number_is_cut_however_narrow_the_terminal(result: Example, width: int) -> None:
    spec = MetricSpec(id="orthogonality.alignment", title="alignment with the axes of latents", unit="nats")
    metric = Metric(spec, 0.123456, ci=(0.100123, 0.150123), reason="p 0.001")
    console = Console(width=width, record=True, file=io.StringIO(), color_system=None)
    console.print(terminal.view(replace(result.page(), carried=((metric,), (metric,))), verbose=False))
    text = console.export_text()
    assert "…" not in text
    assert " ".join(text.split()).count("0.1235 [0.1001, 0.1501] nats p 0.001") == 2
    row = any({"0.1235", "alignment"} <= set(line.split()) for line in text.splitlines())
    assert row == (width >= 34 + 6 + 21 + 6 + 12)  # as columns, where these and the gaps between them fit


def test_numbers_in_html_have_names_and_reasons_have_room(result: Example) -> None:
    page = html.render(result.page())
    for metric in result.metrics.values():
        assert f'{html.escape(metric.title)} <small class="id">{metric.id}</small>' in page
        if metric.value is None:  # a reason is no number: it stands over the columns that are empty
            assert f'undefined</td><td colspan="2" class="dim">{html.escape(metric.reason)}</td>' in page
    assert (
        "table { border-collapse: collapse; margin: .25rem 0; display: block; max-width: 100%; overflow-x: auto"
        in page
    )


def test_a_count_in_html_says_among_what() -> None:
    spec = MetricSpec(id="latents.active", title="active latents")
    assert "<td>of 32 channels</td>" in html._number(Metric(spec, 30, method="of 32 channels"))
    assert "mean over" not in html._number(Metric(spec, 30, method="mean over latents"))


@pytest.mark.parametrize("place", ["", "[1,0,3]"])
def test_heads_of_a_heat_map_are_never_cut_short(place: str) -> None:
    names = [f"z{i}{place}" for i in (7, 128, 192)]
    section = Heatmap(title="t", matrix=[[0.1, 0.2, 0.3]] * 3, row_labels=names, column_labels=names)
    console = Console(width=80, record=True, file=io.StringIO(), color_system=None)
    console.print(draw(section))
    _title, *lines = console.export_text().splitlines()
    heads = [line[-12:] for line in lines[:-3]]
    read = ["".join(line[k : k + 4].strip() for line in heads) for k in (0, 4, 8)]
    assert read == ["z7", "z128", "z192"]
    assert [line.split()[0] for line in lines[-3:]] == names


def test_markdown_tables_keep_their_columns(result: Example) -> None:
    for line in markdown.render(result.page()).splitlines():
        if line.startswith("| orthogonality"):
            assert line.replace("\\|", "").count("|") == 5
    assert "<script>" not in markdown.render(result.page())


def test_json_is_plain(result: Example) -> None:
    document = json.loads(json_document.render(result.page()))
    assert document["metrics"]["orthogonality.alignment"]["value"] is None
    assert json.loads(json_document.dumps({"x": [float("nan"), float("inf"), 1.0]})) == {
        "x": [None, None, 1.0]
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (3, "3"),
        (True, "yes"),
        (1.0, "1"),
        (0.123456, "0.1235"),
        (123.456, "123.5"),
        (12345.0, "1.23e+04"),
        (1e-9, "1.00e-09"),
        (-2.5, "-2.5"),
        ([1.0, 2.0], "1, 2"),
    ],
)
def test_numbers(value: object, text: str) -> None:
    assert number(value) == text


# -- the first screen --------------------------------------------------------------------------------

GAP = MetricSpec(id="probe.gap", title="gap", unit="nats", better="lower")
NULL = MetricSpec(id="probe.gap_null", title="gap at random axes", beside="random axes")
SMALL = Metric(GAP, 0.25, ci=(0.2, 0.3), n=8)


def screen(**more: Any) -> Page:
    return Page(
        command="probe",
        verdict="curved",
        metrics=metric_map([SMALL, Metric(NULL, 0.5)]),
        carried=((SMALL, Metric(NULL, 0.5)),),
        findings=(
            Finding(FindingSpec("grave", "warning", "a", "b"), "mind this", hint="do that " * 20),
            Finding(FindingSpec("light", "note", "a", "b"), "by the way"),
        ),
        sections=(Table(title="All of it", columns=["a"], rows=[[1]]),),
        **more,
    )


def test_the_first_screen_holds_what_matters() -> None:
    checks = [Check(metric=SMALL, side="max", limit=limit) for limit in (1.0, 0.25, 0.1)]
    lines = terminal.plain(screen(checks=checks), width=80).splitlines()
    text = "\n".join(lines)
    assert "gap  0.25  [0.2, 0.3] nats  random axes 0.5" in text
    # the failed limit first, checks and warnings before anything else
    order = [
        "verdict curved",
        "gap  0.25",
        "fail  probe.gap",
        "inconclusive  probe.gap",
        "pass  probe.gap",
        "warning: mind",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert "limit: at most 0.1" in text
    assert "All of it" not in text
    assert "by the way" not in text
    assert lines[-1].rstrip() == "more: -v (tables, pictures, 1 note), `vaeprobe explain probe`"
    assert all(line.startswith("  ") for line in lines if "do that" in line)


def test_verbose_adds_the_rest() -> None:
    text = terminal.plain(screen(), width=80, verbose=True)
    assert "All of it" in text
    assert "by the way" in text
    assert text.splitlines()[-1].rstrip() == "more: `vaeprobe explain probe`"


def test_quiet_names_the_limits_that_do_not_hold() -> None:
    checks = [Check(metric=SMALL, side="max", limit=limit) for limit in (1.0, 0.1)]
    text = terminal.plain(screen(checks=checks), quiet=True, width=80)
    assert text.splitlines()[-1].rstrip() == "fail  probe.gap 0.25 [0.2, 0.3], limit: at most 0.1"
    assert "pass" not in text
    assert "mind this" not in text


def test_a_page_that_rests_on_no_number_is_shown_whole() -> None:
    page = Page(command="inspect", metrics={}, sections=(Table(title="Tensors", columns=["a"], rows=[[1]]),))
    assert "Tensors" in terminal.plain(page)


@pytest.mark.parametrize("render", [html.render, markdown.render])
def test_documents_say_checks_and_warnings_before_tables(render: Callable[[Page], str]) -> None:
    text = render(screen(checks=[Check(metric=SMALL, side="max", limit=0.1)])).rpartition("</style>")[2]
    places = [text.index(words) for words in ("curved", "fail", "mind this", "All of it")]
    assert places == sorted(places)


def test_a_heat_map_without_a_diagonal_scales_to_what_is_off_it() -> None:
    section = Heatmap(
        title="m",
        matrix=[[1.0, 0.02], [0.04, 1.0]],
        row_labels=["a", "b"],
        column_labels=["a", "b"],
        diagonal=False,
    )
    shown = section.shown()
    assert [list(row) for row in shown.matrix] == [[None, 0.02], [0.04, None]]
    assert (shown.low, shown.high) == (0.0, 0.04)
    assert shown.note == "colours from 0 to 0.04, the largest off the diagonal"
    page = Page(command="x", metrics={}, sections=(section,))
    drawn = terminal.plain(page)
    assert "a    · .02" in drawn
    assert shown.note in drawn
    assert shown.note in html.render(page)
    whole = replace(section, diagonal=True)
    assert whole.shown() is whole
