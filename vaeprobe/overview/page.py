"""A survey as one HTML page: no network, no script that runs, light and dark, phone and print."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from vaeprobe._version import __version__
from vaeprobe.gate.outcome import Outcome
from vaeprobe.overview.content import Content
from vaeprobe.pictures import png
from vaeprobe.probes import question_class
from vaeprobe.render.charts import PLOT_STYLE, bars_svg, curves_svg, escape, heatmap_svg, histogram_svg
from vaeprobe.render.text import inert, interval, measured, number, verdict_words
from vaeprobe.report import Bars, Curves, Finding, Heatmap, Histogram, Metric, Section, Svg, Table, Value
from vaeprobe.result import Result
from vaeprobe.traversal.pictures import row_pictures, span_of

if TYPE_CHECKING:
    from vaeprobe.traversal.pictures import Pixels

# how a verdict is coloured; its word always stands beside the colour
GOOD = {"orthogonal", "conformal", "linear", "independent", "axis-parallel", "straight", "consistent"}
FAIR = {"aligned", "rotated", "partly rotated", "dependent", "curved", "nearly straight"}
BAD = {"entangled", "unaligned", "inconsistent", "not aligned", "mismatched", "collapsed"}
LEVELS = {"error": "bad", "warning": "fair", "note": "open"}
STATUS = {
    "fail": "bad",
    "undefined": "fair",
    "inconclusive": "fair",
    "pass": "good",
}  # in the order of a page
# a probe that is missing here says its own first sentence
TITLES = {
    "orthogonality": "Are the columns of the Jacobian orthogonal?",
    "factorise": "Does the density factorise?",
    "trace": "Where do the seams run?",
    "posterior": "Does the posterior match the likelihood's Hessian?",
    "beta": "At which beta was it trained?",
}
SHORT = {"trace": 3}  # pictures of a probe that are shown
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --dim: #59636e; --line: #d1d9e0; --back: #fff; --card: #f6f8fa;
  --good: #116329; --fair: #7d4e00; --bad: #a40e26; --open: #59636e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9aa4af; --line: #3d444d; --back: #0d1117;
  --card: #161b22; --good: #56d364; --fair: #e3b341; --bad: #ff8f87; --open: #9aa4af; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.25rem 1rem 3rem; font: 15px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--back); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .3rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; } p { max-width: 46rem; margin: .3rem 0 .8rem; }
.dim, figcaption, summary, th { color: var(--dim); } figcaption, .dim { font-size: .87rem; }
.good { color: var(--good); } .fair { color: var(--fair); } .bad { color: var(--bad); } .open { color: var(--open); }
.verdict { border-left: .4rem solid currentColor; background: var(--card); padding: .7rem 1rem; margin: 1rem 0; }
.verdict strong { font-size: 1.2rem; } .verdict p { color: var(--ink); margin-bottom: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .7rem; padding: 0; margin: 0; }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; }
.cards dt { color: var(--dim); font-size: .87rem; } .cards dd { margin: 0; font-size: .87rem; }
.cards dd b { font-size: 1.5rem; font-variant-numeric: tabular-nums; display: block; line-height: 1.3; }
.facts { display: grid; grid-template-columns: 8rem 1fr; gap: .15rem .8rem; margin: .5rem 0; }
.facts dt { color: var(--dim); } .facts dd { margin: 0; min-width: 0; }
.scroll { overflow-x: auto; max-width: 100%; } .scroll:focus-visible { outline: 2px solid #0969da; }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; } th { text-align: left; font-weight: 600; }
th, td { padding: .22rem .9rem .22rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; } code { font-size: .9em; }
figure { margin: .6rem 0 1rem; } figure svg { max-width: 100%; height: auto; display: block; }
figure svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
.latents { list-style: none; margin: .6rem 0; padding: 0; }
.latents li { display: grid; grid-template-columns: 10rem minmax(0, max-content) 4rem; gap: .3rem 1rem; align-items: center;
  padding: .45rem 0; border-bottom: 1px solid var(--line); break-inside: avoid; }
.latents b { display: block; font-size: 1.05rem; } .latents img { display: block; max-width: 100%; height: auto; }
.latents .ends { display: flex; justify-content: space-between; font-size: .8rem; color: var(--dim); }
.latents .wide { width: fit-content; max-width: 100%; }
@media (max-width: 600px) { .latents li { grid-template-columns: minmax(0, 1fr) 4rem; }
  .latents .who { grid-column: 1 / -1; } .latents b { display: inline; margin-right: .5rem; }
  .facts { grid-template-columns: 1fr; } .facts dd { margin-bottom: .4rem; }
  figure svg:not(.plot):not(.fits) { max-width: none; } }
@media print { :root { --ink: #000; --back: #fff; --dim: #444; --card: #fff; } body { max-width: none; padding: 0; }
  section, figure { break-inside: avoid-page; } .scroll { overflow: visible; } }
"""


def page(survey: Content) -> str:
    """Return the whole document."""
    name = survey.artifact.path if survey.artifact else "a decoder"
    parts = [_head(survey, name), _rules(survey.outcomes), _facts(survey)]
    if survey.findings:
        parts.append(_findings(survey.findings))
    parts.append(_latents(survey))
    parts += [_probe(probe, result) for probe, result in survey.results.items()]
    if survey.failed:
        items = "".join(f"<li><b>{escape(k)}</b>: {_prose(why)}</li>" for k, why in survey.failed.items())
        parts.append(f"<section><h2>Not measured</h2><ul>{items}</ul></section>")
    body = json.dumps(survey.to_dict(), allow_nan=False, sort_keys=True, separators=(",", ":"))
    safe = body.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    parts.append(
        '<footer class="dim"><p>The numbers behind this page stand in it as JSON '
        "(<code>script#result</code>), without those of single samples.</p></footer>"
        f'<script type="application/json" id="result">{safe}</script>'
    )
    return inert(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>vaeprobe report: {escape(name)}</title>\n<style>{STYLE}{PLOT_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _rules(outcomes: Sequence[Outcome]) -> str:
    """Return the rules that were asked for, those that do not hold first."""
    if not outcomes:
        return ""
    rows = "".join(
        f'<tr><td class="{STATUS[o.status]}"><b>{o.status}</b></td><td>{_prose(o.message)}</td></tr>'
        for o in sorted(outcomes, key=lambda o: list(STATUS).index(o.status))
    )
    held = sum(o.status == "pass" for o in outcomes)
    return (
        f'<section><h2>Rules: {held} of {len(outcomes)} hold</h2><div class="scroll" role="region" tabindex="0" '
        'aria-label="Rules"><table><thead><tr><th scope="col">status</th><th scope="col">rule</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _findings(findings: Iterable[Finding]) -> str:
    items = "".join(
        f'<li><b class="{LEVELS[f.level]}">{f.level}</b> {_prose(f.message)}'
        + (f'<br><span class="dim">{_prose(f.hint)}</span>' if f.hint else "")
        + f' <code class="dim">{escape(f.code)}</code></li>'
        for f in sorted(findings, key=lambda f: list(LEVELS).index(f.level))
    )
    return f"<section><h2>Findings</h2><ul>{items}</ul></section>"


def _prose(text: str) -> str:
    """Return text that is inert in HTML, what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def tone(verdict: str) -> str:
    """Return the class of a verdict: good, fair, bad, or open."""
    for name, words in (("good", GOOD), ("fair", FAIR), ("bad", BAD)):
        if verdict in words:
            return name
    return "open"


def _head(survey: Content, name: str) -> str:
    lines = [f'<p class="dim">vaeprobe report</p><h1>{escape(name)}</h1>']
    for probe in ("orthogonality", "factorise"):
        if probe in survey.results:
            found = survey.results[probe]
            lines.append(
                f'<div class="verdict {tone(found.verdict)}"><strong>{escape(probe)}: {escape(verdict_words(found))}</strong>'
                f"<p>{_prose(found.summary)}</p></div>"
            )
    cards = "".join(_card(metric, beside) for metric, *beside in survey.carried()[:3])
    return f'<header>{"".join(lines)}<dl class="cards">{cards}</dl></header>'


def _card(metric: Metric, beside: Iterable[Metric]) -> str:
    more = [f"{m.spec.beside or m.title} {number(m.value)}" for m in beside if m.defined]
    said = " ".join(part for part in (interval(metric.ci), metric.unit, metric.remark) if part)
    value = number(measured(metric), 3) if metric.defined else "undefined"
    about = "; ".join([part for part in (said, *more) if part] if metric.defined else [metric.reason or ""])
    return f"<div><dt>{escape(metric.title)}</dt><dd><b>{escape(value)}</b>{escape(about)}</dd></div>"


def _facts(survey: Content) -> str:
    a, first = survey.artifact, next(iter(survey.results.values()))
    with_data = next((survey.results[p] for p in ("posterior", "beta") if p in survey.results), None)
    facts = []
    if a is not None:
        facts += [("model", a.path), ("maps", a.maps), ("format", a.format), ("architecture", a.architecture)]
        facts += [("sha256", a.sha256), ("size", f"{a.size} bytes" if a.size else "")]
    if with_data is not None:
        s = with_data.settings
        facts.append(("data", f"{s['rows_of']}, {s['scaling']}; {s['likelihood']} likelihood"))
    s = first.settings
    facts.append(("settings", f"{survey.settings['samples']} samples, seed {survey.settings['seed']}, latents: {s.get('latents')}, {s.get('dtype')}, {s.get('differentiation')} mode"))  # fmt: skip
    facts.append(("versions", f"vaeprobe {__version__}, torch {torch.__version__}"))
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{_prose(v)}</dd>" for k, v in facts if v)
    if survey.repeat:
        rows += f"<dt>again</dt><dd><code>{escape(survey.repeat)}</code></dd>"
    return f'<section><h2>What was measured</h2><dl class="facts">{rows}</dl></section>'


def _latents(survey: Content) -> str:
    walk = survey.traversal
    if walk is None:
        return ""
    own = _by_latent(survey, "factorise", "factorise.own_share")
    kl = _by_latent(survey, "posterior", "kl.per_latent")
    posterior = survey.results.get("posterior")
    rows_of = posterior.details()["latents"] if posterior is not None else []
    precision = {row["latent"]: float(row["precision"]) for row in rows_of}
    orthogonality = survey.results.get("orthogonality")
    columns = orthogonality.details()["latents"] if orthogonality is not None else []
    entropy = {row["name"]: float(row["entropy"]) for row in columns if row.get("entropy") is not None}
    span = span_of(walk.strips, walk.image)
    items: list[str] = []
    rows: list[list[Value]] = []
    for s in walk.strips:
        frames, column = row_pictures(s, walk.image, span)
        low, high = float(s.at[0]), float(s.at[-1])
        ends = f"{escape(number(low, 3))}</span><span>{escape(number(high, 3))}"
        facts = [f"length {number(s.norm, 3)}, share {s.share:.0%}"]
        facts += [f"entropy {number(entropy[s.name], 3)} nats"] if s.name in entropy else []
        facts += [f"own share {number(own[s.name], 2)}"] if s.name in own else []
        facts += [f"KL {number(kl[s.name], 3)} nats"] if s.name in kl else []
        said = escape(s.name)
        items.append(
            f'<li><div class="who"><b>{said}</b><span class="dim">{escape("; ".join(facts))}</span></div>'
            f'<div class="wide">{_img(frames, f"outputs along {s.name} from {low:.3g} to {high:.3g}")}'
            f'<div class="ends"><span>{ends}</span></div></div>'
            f"{_img(column, f'signed Jacobian column of {s.name}')}</li>"
        )
        rows.append([s.name, s.norm, s.share, entropy.get(s.name), own.get(s.name), kl.get(s.name), precision.get(s.name), low, high])  # fmt: skip
    heads = (
        "latent",
        "column length",
        "share",
        "entropy (nats)",
        "own share",
        "KL (nats)",
        "posterior precision",
        "from",
        "to",
    )
    keep = [k for k in range(len(heads)) if any(row[k] is not None for row in rows)]
    table = _table("Latents", [heads[k] for k in keep], [[row[k] for k in keep] for row in rows])
    more = f" {walk.left_out} more have shorter columns." if walk.left_out else ""
    return (
        "<section><h2>What each latent does</h2>"
        f'<p>{escape(walk.summary)} Right: its signed Jacobian column at the centre, red up, blue down.{more}</p>'
        f'<ul class="latents">{"".join(items)}</ul>{table}</section>'
    )  # fmt: skip


def _by_latent(survey: Content, probe: str, id: str) -> dict[str, float]:
    """Return a per-latent metric by the latent's name; empty where it was not measured."""
    result = survey.results.get(probe)
    metric = result.metrics.get(id) if result is not None else None
    if result is None or metric is None or not isinstance(metric.value, list):
        return {}
    names = result.details().get("latents", [])
    named = [n["latent"] if isinstance(n, dict) else n for n in names]
    return dict(zip(named, metric.value, strict=True)) if len(named) == len(metric.value) else {}


def _img(pixels: Pixels, alt: str) -> str:
    height, width = pixels.shape[:2]
    data = base64.b64encode(png(pixels)).decode()
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{escape(alt)}">'


def _probe(name: str, result: Result) -> str:
    carried = [m for row in result.carried() for m in row]
    rows: list[list[Value]] = [
        [m.title, measured(m) if m.defined else f"undefined: {m.reason}", interval(m.ci), m.unit or m.remark]
        for m in carried
    ]
    meanings = "".join(
        f"<dt>{escape(m.title)} <code>{escape(m.id)}</code></dt><dd>{escape(m.spec.meaning)}</dd>"
        for m in carried
        if m.spec.meaning
    )
    pictures = result.sections()[: SHORT.get(name)]
    title = TITLES.get(name) or str(question_class(name).__doc__).partition("\n")[0]
    return (
        f'<section><h2>{escape(title)}</h2><p><strong class="{tone(result.verdict)}">'
        f"{escape(verdict_words(result))}.</strong> {_prose(result.summary)}</p>"
        + _table(f"{name}: numbers", ("", "value", "95 % interval", "unit"), rows)
        + f'<details><summary>What these numbers mean</summary><dl class="dim">{meanings}</dl></details>'
        + "".join(_figure(s) for s in pictures)
        + "</section>"
    )


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    numeric = [
        any(isinstance(row[k], (int, float)) for row in rows)
        and all(row[k] is None or isinstance(row[k], (int, float)) for row in rows)
        for k in range(len(columns))
    ]
    head = "".join(
        f'<th scope="col"{" class=n" if is_number else ""}>{escape(c)}</th>'
        for c, is_number in zip(columns, numeric, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(_cell(v, n) for v, n in zip(row, numeric, strict=True)) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(title)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: Value, is_number: bool) -> str:
    return f"<td{' class=n' if is_number else ''}>{escape(number(value))}</td>"


def _figure(section: Section) -> str:
    """Return a picture with its name, its note and its numbers as a table."""
    title = f"<h3>{escape(section.title)}</h3>"
    match section:
        case Table():
            note = f'<p class="dim">{escape(section.note)}</p>' if section.note else ""
            return title + _table(section.title, section.columns, section.rows) + note
        case Heatmap():
            section = section.shown()
            drawn = heatmap_svg(section)
            rows: list[list[Value]] = [
                [label, *row] for label, row in zip(section.row_labels, section.matrix, strict=True)
            ]
            data = _table(f"{section.title}, numbers", ("", *section.column_labels), rows)
        case Bars():
            drawn = bars_svg(section)
            pairs: list[list[Value]] = [[a, b] for a, b in zip(section.labels, section.values, strict=True)]
            data = _table(f"{section.title}, numbers", ("", "value"), pairs)
        case Curves():
            drawn = curves_svg(section)
            lines: list[list[Value]] = [
                [x, *ys] for x, *ys in zip(section.x, *section.ys.values(), strict=True)
            ]
            data = _table(f"{section.title}, numbers", (section.x_label or "x", *section.ys), lines)
        case Histogram():
            drawn = histogram_svg(section)
            marks: list[list[Value]] = [[name, value] for name, value in section.marks.items()]
            data = _table(f"{section.title}, numbers", ("", section.x_label), [*marks, *section.spread()])
        case Svg():
            drawn, data = section.svg, ""
    named = drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(section.title)}" ', 1)
    note = f"<figcaption>{escape(section.note)}</figcaption>" if section.note else ""
    numbers = f"<details><summary>Numbers</summary>{data}</details>" if data else ""
    scroll = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(section.title)}, picture">{named}</div>'
    return f"<figure>{title}{scroll}{note}{numbers}</figure>"
