"""The terminal page of a result: headline, metrics, checks, pictures, findings; readable without colour."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO, cast

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from vaeprobe.findings import DRAFT_BLUEPRINT
from vaeprobe.render.drawings import draw, grid
from vaeprobe.render.text import clean, inert, interval, measured, number, verdict_words
from vaeprobe.report import (
    Check,
    Finding,
    Metric,
    Page,
)

STATUS_STYLE = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "undefined": "yellow"}
LEVEL_STYLE = {"error": "bold red", "warning": "yellow", "note": "dim"}
# checks are listed in this order
GRAVITY = ("fail", "undefined", "inconclusive", "pass")


class Inert:
    """A stream of text whose lines are no commands to a runner of continuous integration (see `text.inert`)."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(inert(text))

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


def console(stream: IO[str], color: str = "auto") -> Console:
    """Return a console on a stream; `color` is auto, always or never."""
    forced = {"auto": None, "always": True, "never": False}[color]
    width = None if stream.isatty() or "COLUMNS" in os.environ else 100
    return Console(
        file=cast(IO[str], Inert(stream)),
        force_terminal=forced,
        no_color=True if color == "never" else None,
        color_system="truecolor" if color == "always" else "auto",
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def plain(page: Page, quiet: bool = False, width: int = 100, verbose: bool = False) -> str:
    """Return the page as text without colour."""
    stream = io.StringIO()
    out = Console(file=stream, width=width, highlight=False, markup=False, emoji=False, color_system=None)
    out.print(short(page) if quiet else view(page, verbose=verbose))
    return inert(stream.getvalue())


def render(page: Page) -> str:
    """Return the document of one result, as a terminal shows it."""
    return plain(page)


def view(page: Page, verbose: bool = False) -> Group:
    """Return the page: what matters within a screen, and with `verbose` all metrics, tables and pictures.

    A page that rests on no numbers in particular (`inspect`) is shown whole.
    """
    whole = verbose or not page.carried
    parts: list[RenderableType] = [headline(page, digest=whole)]
    if page.carried:
        parts += [Text(), _CarriedView(page.carried)]
    if page.checks:
        parts += [
            Text(),
            *(check_line(c) for c in sorted(page.checks, key=lambda c: GRAVITY.index(c.status))),
        ]
    grave = [f for f in page.findings if whole or f.level != "note"]
    if grave:
        parts += [Text(), *(finding_line(f) for f in grave)]
    if whole:
        scalars = [m for m in page.metrics.values() if not isinstance(m.value, (list, dict))]
        if scalars:
            parts += [Text(), _MetricsView(scalars)]
    for section in page.sections if whole else page.sections[: page.leading]:
        drawn = draw(section)
        if drawn is not None:
            parts += [Text(), drawn]
    if page.carried:
        parts += [Text(), _closing(page, verbose)]
    return Group(*parts)


def short(page: Page) -> Group:
    """Return what `--quiet` leaves: what was probed, the verdict, and limits that do not hold."""
    return Group(headline(page), *(check_line(check) for check in page.checks if check.status != "pass"))


def headline(page: Page, digest: bool = False) -> Group:
    """Return what was probed and the verdict; with the digest of the file where it is asked for."""
    lines: list[RenderableType] = []
    title = Text(f"vaeprobe {page.command}", style="bold")
    artifact = page.artifact
    if artifact is not None:
        title.append(f"  {clean(artifact.path)}", style="bold cyan")
        facts = [artifact.maps, artifact.format, artifact.architecture]
        if artifact.sha256 and digest:
            facts.append(f"sha256 {artifact.sha256[:12]}")
        lines.append(Text(" · ".join(clean(f) for f in facts if f), style="dim"))
    lines.insert(0, title)
    if page.verdict:
        # a number on a guessed architecture is no better than the guess, however short the page
        guess = (
            " (by a draft of the architecture)"
            if any(f.spec is DRAFT_BLUEPRINT for f in page.findings)
            else ""
        )
        guess += clean(verdict_words(page)).removeprefix(clean(page.verdict))
        lines.append(Text.assemble("verdict ", (clean(page.verdict), "bold"), guess))
    if page.summary:
        lines.append(Text(clean(page.summary)))
    return Group(*lines)


class _CarriedView:
    """A line per number that the verdict rests on, with what stands beside it; a reason is told once.

    Numbers stand in columns where the console is wide enough for them, and else in the text of a paragraph each.
    """

    GAP = 2
    BESIDE = 12  # columns that are left to what stands beside, at least

    def __init__(self, rows: Iterable[tuple[Metric, ...]]) -> None:
        self.lines = list(_carried(rows))

    def __rich_console__(self, target: Console, options: object) -> Iterable[RenderableType]:
        least = sum(max(part.cell_len for part in parts) for parts in list(zip(*self.lines, strict=True))[:3])
        if least + 3 * self.GAP + self.BESIDE > target.width:
            for line in self.lines:
                title, *others = [part for part in line if part]
                yield title
                yield Padding.indent(Text("  ").join(others), self.GAP)
            return
        table = RichTable(box=None, pad_edge=False, padding=(0, self.GAP, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for line in self.lines:
            table.add_row(*line)
        yield table


def _carried(rows: Iterable[tuple[Metric, ...]]) -> Iterator[tuple[Text, Text, Text, Text]]:
    """Return title, number, interval and what stands beside it, of each of the numbers that the verdict rests on."""
    told: str | None = None
    for metric, *others in rows:
        title = Text(clean(metric.title))
        if metric.value is None:
            reason = "as above" if metric.reason == told else clean(metric.reason)
            yield title, Text("undefined", "yellow"), Text(), Text(reason, "dim")
            told = metric.reason
            continue
        beside = [f"{m.spec.beside or m.title} {number(m.value)}" for m in others if m.defined]
        beside += [clean(metric.remark)] if metric.remark else []
        spread = " ".join(part for part in (interval(metric.ci), clean(metric.unit)) if part)
        yield (
            title,
            Text(number(measured(metric)), "bold"),
            Text(spread, "dim"),
            Text(clean("; ".join(beside)), "dim"),
        )


def _closing(page: Page, verbose: bool) -> Text:
    """Return the last line: where to read on."""
    notes = sum(f.level == "note" for f in page.findings)
    what = f"tables, pictures, {notes} note{'s' * (notes > 1)}" if notes else "tables, pictures"
    more = "" if verbose else f"-v ({what}), "
    return Text(f"more: {more}`vaeprobe explain {page.command}`", style="dim")


class _MetricsView:
    """Metrics with their intervals; ids where the console is wide.

    An undefined metric shows its reason; several that share one are named together below the table.
    """

    WIDE = 110
    SHARED = 3

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.metrics = list(metrics)

    def __rich_console__(self, target: Console, options: object) -> Iterable[RenderableType]:
        wide = target.width >= self.WIDE
        reasons = Counter(m.reason for m in self.metrics if m.value is None)
        together: dict[str, list[str]] = {r: [] for r, n in reasons.items() if r and n >= self.SHARED}
        table = grid(["metric", "value", "95 % interval", "", *(["id"] if wide else [])], right=[1])
        for metric in self.metrics:
            if metric.value is None and metric.reason in together:
                together[metric.reason].append(metric.title)
                continue
            row = [
                Text(clean(metric.title)),
                Text(number(measured(metric))),
                Text(interval(metric.ci), style="dim"),
            ]
            if metric.value is None:
                row[1] = Text("undefined", style="yellow")
            row.append(
                Text(clean(metric.unit or metric.remark if metric.defined else metric.reason), style="dim")
            )
            if wide:
                row.append(Text(metric.id, style="dim"))
            table.add_row(*row)
        yield table
        for reason, titles in together.items():
            names = clean(", ".join(titles))
            yield Text.assemble(("undefined", "yellow"), (f" ({clean(reason)}): {names}", "dim"))


def check_line(check: Check) -> Text:
    """Return a limit and whether it holds, on one line."""
    bound = "at most" if check.side == "max" else "at least"
    metric = check.metric
    said = number(measured(metric)) if metric.defined else clean(metric.reason)
    spread = f" {interval(metric.ci)}" if metric.ci else ""
    if metric.remark and check.status == "inconclusive":
        spread += f" ({clean(metric.remark)})"
    elif check.left_open:
        spread += " for the part that was measured"
    return Text.assemble(
        (check.status, STATUS_STYLE[check.status]),
        f"  {clean(metric.id)} {said}{spread}, limit: {bound} {number(check.limit)}",
    )


def finding_line(finding: Finding) -> RenderableType:
    """Return a finding, its hint on a line of its own."""
    line = Text.assemble((f"{finding.level}: ", LEVEL_STYLE[finding.level]), clean(finding.message))
    line.append(f"  ({clean(finding.code)})", style="dim")
    if not finding.hint:
        return line
    return Group(line, Padding.indent(Text(f"hint: {clean(finding.hint)}", style="dim"), 2))
