"""Renderers: hostile strings stay inert, numbers stay short, every picture draws at every width."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import ClassVar

import pytest
from rich.console import Console

from vaeprobe.findings import FindingSpec
from vaeprobe.render import html, json_document, markdown, terminal
from vaeprobe.render.text import clean, inert, number
from vaeprobe.report import (
    Artifact,
    Bars,
    Check,
    Curves,
    Finding,
    Heatmap,
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
