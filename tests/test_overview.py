"""The page of a survey: what is in it, that it is inert, well-formed, small, the same twice, and fits a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaeprobe import Decoder, survey
from vaeprobe.cli import run
from vaeprobe.errors import UsageError
from vaeprobe.findings import TIME_LIMIT
from vaeprobe.latents import Prior
from vaeprobe.overview.card import number_of
from vaeprobe.overview.page import BAD, FAIR, GOOD, tone
from vaeprobe.report import Artifact, Finding, Metric, MetricSpec

MODELS = Path(__file__).parents[1] / "sample_models"
MODEL, DATA = MODELS / "digits_mlp.safetensors", MODELS / "digits.npy"
VOID = {"meta", "img", "br"}


class Strict(HTMLParser):
    """Every tag is closed in order; keeps what was seen."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    assert run(["report", str(MODEL), "--data", str(DATA), "-n", "64", "-q", "-o", str(path)]) == 0
    return path


def test_the_page_is_well_formed_inert_and_small(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    seen = parsed(text).seen
    policies = [a["content"] for tag, a in seen if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")
    assert "script-src" not in policies[0]
    assert [a for tag, a in seen if tag == "script"] == [{"type": "application/json", "id": "result"}]
    for tag, attributes in seen:
        assert tag not in ("a", "link", "iframe", "form", "object", "base")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(
                "data:image/png;base64,"
            ) or name not in attributes


def test_pictures_have_names_and_tables_heads(page: Path) -> None:
    seen = parsed(page.read_text(encoding="utf-8")).seen
    assert all(a.get("alt") for tag, a in seen if tag == "img")
    assert all(a.get("role") == "img" and a.get("aria-label") for tag, a in seen if tag == "svg")
    assert all(a.get("scope") == "col" for tag, a in seen if tag == "th")
    assert sum(tag == "h1" for tag, _ in seen) == 1


def test_the_page_says_what_was_measured_and_carries_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="result">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    body = json.loads(found[1])
    assert set(body["details"]["results"]) == {"orthogonality", "factorise", "trace", "posterior", "beta"}
    assert body["artifact"]["sha256"] in text
    assert "6 latents -&gt; 1 x 8 x 8, bernoulli" in text
    assert "64 of 1797 rows of <code>digits.npy</code>, as stored; bernoulli likelihood" in text
    assert f"vaeprobe report {MODEL} --data {DATA} --samples 64 -o page.html" in text
    for name in ("z0", "z5", "posterior precision", "KL (nats)", "own share"):
        assert name in text


def test_the_same_inputs_make_the_same_bytes(page: Path, tmp_path: Path) -> None:
    again = tmp_path / "page.html"
    assert run(["report", str(MODEL), "--data", str(DATA), "-n", "64", "-q", "-o", str(again)]) == 0
    assert again.read_bytes() == page.read_bytes()


def test_hostile_names_are_inert() -> None:
    evil = '</script><img src=x onerror=alert(1)>"\x1b[31m\u202e'
    decoder = Decoder(
        lambda z: z @ torch.eye(2, 3).to(z), 2, artifact=Artifact(path=evil, architecture=evil, format=evil)
    )
    text = survey(decoder, samples=16, repeat=evil).html()
    seen = parsed(text).seen
    assert not [a for _, a in seen if "onerror" in a]
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert sum(tag == "script" for tag, _ in seen) == 1


def test_a_linear_map_is_good_and_says_what_it_could_not_measure() -> None:
    found = survey(Decoder(lambda z: z @ torch.eye(2, 3).to(z), 2), samples=32)
    assert found.results["factorise"].verdict == "linear"
    assert "good" in [tone(r.verdict) for r in found.results.values()]
    parsed(found.html())


def test_one_latent_has_a_page() -> None:
    parsed(survey(Decoder(lambda z: z @ torch.ones(1, 3).to(z), 1), samples=16).html())


def test_tones_are_apart_and_unknown_words_open() -> None:
    assert not GOOD & FAIR | GOOD & BAD | FAIR & BAD
    assert [tone(w) for w in ("linear", "aligned", "entangled", "undecided")] == [
        "good",
        "fair",
        "bad",
        "open",
    ]


def test_data_without_an_encoder_are_refused() -> None:
    with pytest.raises(UsageError, match="need the encoder"):
        survey(Decoder(lambda z: z @ torch.eye(2, 3).to(z), 2), data=torch.zeros(4, 3))


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def chromium(tmp_path: Path) -> list[str]:
    """Return the command of a browser without a window, with a profile of its own."""
    assert CHROMIUM is not None
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    return [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", profile]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_scrolls_sideways(page: Path, tmp_path: Path, width: int) -> None:
    common = chromium(tmp_path)
    picture = tmp_path / "page.png"
    shot = [*common, f"--screenshot={picture}", f"--window-size={width},2000", page.as_uri()]
    subprocess.run(shot, capture_output=True, check=True, timeout=180)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    measured = in_a_frame(page.read_text(encoding="utf-8"), common, tmp_path, width)
    assert measured["scrolls"] <= measured["width"] <= width
    assert measured["clipped"] == []
    assert measured["plots"] > 5
    assert measured["beyond"] == [], "a plot is cut off"
    assert measured["over"] == [], "two texts of a plot lie over each other"


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("dark", [False, True])
def test_all_text_stands_out_from_what_is_behind_it(page: Path, tmp_path: Path, dark: bool) -> None:
    text = page.read_text(encoding="utf-8").replace("<details>", "<details open>")
    if dark:
        text = text.replace("@media (prefers-color-scheme: dark)", "@media all")
    common = chromium(tmp_path)
    measured = in_a_frame(text, common, tmp_path, 1280)
    assert measured["texts"] > 100
    assert measured["faint"] == [], "WCAG 2.2 AA asks for 4.5 to 1"


# what a page says about itself: does it scroll sideways, is a text cut off, does one hardly stand out
MEASURE = """<script>
const root = document.documentElement, clipped = [], faint = [];
let texts = 0;
const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
const light = c => { const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b; };
const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length && (c.length < 4 || c[3] > 0)) return c; } return [255, 255, 255]; };
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].filter(n => n.nodeType === 3 && n.data.trim()).map(n => n.data.trim()).join(' ');
  if (!own || ['SCRIPT', 'STYLE', 'title'].includes(e.tagName)) continue;
  const box = e.getBoundingClientRect(), style = getComputedStyle(e), svg = e.ownerSVGElement;
  if (!box.width) continue;
  texts++;
  if (svg) {
    const frame = svg.getBoundingClientRect();
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) clipped.push(own);
  } else if (!e.closest('.scroll') && (box.left < -1 || box.right > root.clientWidth + 1)) clipped.push(own);
  let back = behind(svg || e);
  const cell = e.previousElementSibling;
  if (svg && cell && cell.tagName === 'rect' && cell.getAttribute('width') === cell.getAttribute('height') && e.style.fill) back = rgb(getComputedStyle(cell).fill);
  const a = light(rgb(svg ? style.fill : style.color)) + .05, b = light(back) + .05;
  if (Math.max(a, b) / Math.min(a, b) < 4.5) faint.push([own, (Math.max(a, b) / Math.min(a, b)).toFixed(2)]);
}
const plots = [...document.querySelectorAll('svg.plot, svg.fits')].filter(e => e.getBoundingClientRect().width);
const name = e => e.closest('figure').querySelector('h3').textContent;
const beyond = plots.filter(e => e.getBoundingClientRect().right > e.parentElement.getBoundingClientRect().right + 1).map(name);
const over = [];
for (const e of plots) {
  const boxes = [...e.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  boxes.forEach(([s, a], k) => { for (const [t, b] of boxes.slice(k + 1)) if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3) over.push([name(e), s, t]); });
}
parent.document.title = JSON.stringify({scrolls: root.scrollWidth, width: root.clientWidth, clipped, faint, texts,
  plots: plots.length, beyond, over});
</script></body>"""


def in_a_frame(text: str, common: list[str], folder: Path, width: int) -> dict[str, Any]:
    """What a page measures of itself in a frame, which has the width asked for where a window has a least one."""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    frame = free.replace("</body>", MEASURE).replace("&", "&amp;").replace('"', "&quot;")
    outer = folder / "outer.html"
    outer.write_text(
        f'<!doctype html><meta charset="utf-8"><iframe width="{width}" height="900" style="border:0" srcdoc="{frame}"></iframe>',
        encoding="utf-8",
    )
    dump = subprocess.run(
        [*common, "--dump-dom", outer.as_uri()], capture_output=True, check=True, timeout=180, text=True
    )
    found = re.search(r"<title>(.*?)</title>", dump.stdout, re.DOTALL)
    assert found is not None, "the page's measurements did not come back"
    measured: dict[str, Any] = json.loads(html.unescape(found[1]))
    return measured


# -- rules, and other documents -----------------------------------------------------------------------


def test_rules_stand_at_the_top_and_decide_the_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    rules = ["orthogonality.alignment=0.5", "factorise.verdict=independent", "beta.consistency=0.5"]
    given = [word for rule in rules for word in ("--rule", rule)]
    assert run(["report", str(MODEL), "-n", "64", "-q", *given, "-o", str(path)]) == 1
    text = path.read_text(encoding="utf-8")
    assert "Rules: 1 of 3 hold" in text
    assert text.index("Rules: 1") < text.index("What was measured")
    assert "factorise.verdict is entangled, rule: independent" in text
    assert "`beta` is measured with data alone" in text
    found = survey(
        Decoder(lambda z: z @ torch.eye(2, 3).to(z), 2), samples=32, rules=["factorise.verdict=linear"]
    )
    assert found.exit_code == 0
    with pytest.raises(UsageError, match="no metric is called"):
        survey(Decoder(lambda z: z, 2), samples=32, rules=["orthogonality.alingment=0.5"])


def test_rules_that_a_report_cannot_judge_are_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(import_module("vaeprobe.overview.run"), "track", None)
    with pytest.raises(UsageError, match="compares with a baseline, and a report has none"):
        survey(Decoder(lambda z: z, 2), samples=32, rules=["compare.mcc=0.95"])


@pytest.mark.parametrize("name", ["page", "page.htm"])
def test_what_no_suffix_says_is_a_page(tmp_path: Path, name: str) -> None:
    assert run(["report", str(MODELS / "linear.npy"), "-n", "16", "-q", "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_report_is_no_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaeprobe.cli.loading.load", None)
    for suffix in (".txt", ".pdf"):
        assert run(["report", str(MODEL), "-o", str(tmp_path / f"page{suffix}")]) == 2
        assert f"ends in `{suffix}`" in (err := capsys.readouterr().err)
        assert ".html" in err
        assert "name it .txt" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_page_that_cannot_be_written_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    linear = str(MODELS / "linear.npy")
    assert run(["report", linear, "-n", "16", "--format", "html", "-o", "/dev/full"]) == 2
    assert capsys.readouterr().out.startswith("<!doctype html>")
    few = ["-n", "16", "--rotations", "9"]
    assert run(["compare", linear, linear, *few, "--format", "csv", "-o", "/dev/full"]) == 2
    assert capsys.readouterr().out.startswith("model,orthogonality.verdict,")


def test_strips_that_time_left_out_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("vaeprobe.overview.run")
    said = Finding(TIME_LIMIT, "1 of 2 strips fitted into the time given")
    plain = module.traverse
    monkeypatch.setattr(module, "traverse", lambda *a, **k: replace(plain(*a, **k), findings=(said,)))
    found = survey(Decoder(lambda z: z @ torch.eye(2, 3).to(z), 2), samples=16)
    assert said in found.findings


def test_the_model_index_is_what_hugging_face_reads(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    paths = [tmp_path / "index.yaml", tmp_path / "card.md"]
    for path in paths:
        given = ["--data", str(DATA), "-n", "64", "-q", "--name", 'owner/na"me', "-o", str(path)]
        assert run(["report", str(MODEL), *given]) == 0
    card = paths[1].read_text(encoding="utf-8")
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    alone = yaml.safe_load(paths[0].read_text(encoding="utf-8"))
    assert yaml.safe_load(head) == alone
    (entry,) = alone["model-index"]
    assert entry["name"] == 'owner/na"me'
    (result,) = entry["results"]
    values = {m["type"]: m["value"] for m in result["metrics"]}
    assert 0 < values["orthogonality.alignment"] < 1
    assert values["factorise.verdict"] == "entangled"
    assert all(isinstance(v, (int, float)) for k, v in values.items() if not k.endswith(".verdict"))
    assert "64 of 1797 rows of digits.npy" in result["dataset"]["name"]
    assert "vaeprobe report" in body
    assert "| orthogonality | aligned |" in body
    cards = pytest.importorskip("huggingface_hub.repocard_data")
    _, results = cards.model_index_to_eval_results(alone["model-index"])
    assert len(results) == len(values)


@pytest.mark.parametrize(
    ("value", "said"),
    [(1e-7, "1.0e-07"), (1.5e-7, "1.5e-07"), (0.25, "0.25"), (2.0, "2.0"), (3, "3"), (1e20, "1.0e+20")],
)
def test_numbers_are_numbers_in_yaml(value: float, said: str) -> None:
    assert number_of(Metric(MetricSpec(id="a.b", title="t"), value)) == said
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(said) == value


def test_what_was_not_measured_is_in_the_card() -> None:
    evil = '---\n<script>x</script> | `a` "q"'
    decoder = Decoder(lambda z: z @ torch.eye(2, 3).to(z), 2, artifact=Artifact(path=evil))
    text = survey(decoder, samples=16, repeat=evil).markdown()
    assert "<script>" not in text.split("---", 2)[2].replace("`vaeprobe", "").split("### How")[0]
    assert text.count("\n---\n") == 1


def test_the_null_is_drawn_with_the_axes_and_the_best_rotation_marked(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for title, named in {
        "Ima contrast under 999 random rotations of the latent space": (
            "999 draws",
            "these axes",
            "R* (held out)",
        ),
        "Gap under 50 random rotations of the latent space": ("50 draws", "these axes", "R* (held out)"),
        "Contrast of 1 + H / beta under 999 random rotations of the active latents": (
            "999 draws",
            "these axes",
        ),
    }.items():
        drawn = text.partition(f"<h3>{title}</h3>")[2].partition("</svg>")[0]
        assert drawn.count("<line ") == len(named) - 1
        assert all(name in drawn for name in named)


def test_probes_share_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from vaeprobe.engine import verbs

    plain, rows = verbs._gram, list[tuple[bytes, object]]()

    def counting(
        decoder: Decoder, z: torch.Tensor, likelihood: Any, columns: torch.Tensor | None, chunk: Any
    ) -> torch.Tensor:
        taken = [None] * len(z) if columns is None else columns.tolist()  # one number of G is no G
        rows.extend((row.numpy().tobytes(), str(some)) for row, some in zip(z, taken, strict=True))
        return plain(decoder, z, likelihood, columns, chunk)

    monkeypatch.setattr(verbs, "_gram", counting)
    W = torch.linspace(-1, 1, 18, dtype=torch.float64).cos().reshape(6, 3)
    probed = Decoder(lambda z: torch.tanh(z @ W.to(z).T), 3, dtype=torch.float64)
    made = survey(probed, samples=50)
    assert {"orthogonality", "factorise"} <= set(made.results)
    assert len(rows) == len(set(rows))
    drawn = Prior().draw(probed, 50, seed=0)
    assert {(row.numpy().tobytes(), "None") for row in drawn} <= set(rows)


def test_a_matrix_that_lies_on_its_side_is_a_limit_of_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One Gram matrix of 20,000 latents takes gigabytes, and no part stands for them: said before, not after."""
    path = tmp_path / "wide.npy"
    np.save(path, np.random.default_rng(0).normal(size=(2, 20_000)).astype(np.float32))
    for command in (["report", str(path)], ["trace", str(path)]):
        assert run(command) == 6
        error = capsys.readouterr().err
        assert "is a matrix transposed?" in error
        assert "3.2 GB" in error
