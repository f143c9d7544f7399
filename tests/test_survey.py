"""The page of a survey: what is in it, that it is inert, well-formed, small, the same twice, and fits a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from vaeprobe import Decoder, survey
from vaeprobe.cli import run
from vaeprobe.errors import UsageError
from vaeprobe.report import Artifact
from vaeprobe.survey.page import BAD, FAIR, GOOD, tone

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
    assert "64 of 1797 rows of `digits.npy`, as stored; bernoulli likelihood" in text
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


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_scrolls_sideways(page: Path, tmp_path: Path, width: int) -> None:
    assert CHROMIUM is not None
    common = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    picture = tmp_path / "page.png"
    shot = [*common, f"--screenshot={picture}", f"--window-size={width},2000", page.as_uri()]
    subprocess.run(shot, capture_output=True, check=True, timeout=180)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    # a frame has the width asked for, where a window has a least one; the copy measures itself
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    measure = (
        "<script>const e = document.documentElement;"
        "parent.document.title = e.scrollWidth + ' of ' + e.clientWidth;</script></body>"
    )
    frame = text.replace("</body>", measure).replace("&", "&amp;").replace('"', "&quot;")
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<!doctype html><meta charset="utf-8"><iframe width="{width}" height="900" style="border:0" srcdoc="{frame}"></iframe>',
        encoding="utf-8",
    )
    dump = subprocess.run(
        [*common, "--dump-dom", outer.as_uri()], capture_output=True, check=True, timeout=180, text=True
    )
    found = re.search(r"<title>(\d+) of (\d+)</title>", dump.stdout)
    assert found is not None
    assert int(found[1]) <= int(found[2]) <= width
